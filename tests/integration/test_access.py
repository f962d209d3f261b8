"""Access: every kind of caller tries every operation, and the response is compared with the access matrix.

The operations come from the route table. For data of another user and for an unknown id, the responses are equal to
the byte.
"""

import json
from datetime import UTC, datetime, timedelta

import falcon
import jwt
from webtest import TestApp

from shop.api import problems
from shop.api.context import Request
from shop.api.middleware import Authentication
from shop.api.responses import Response
from shop.app import utc_now
from shop.demo.factories import OrderFactory, UserFactory
from shop.domain.models import Order, User
from shop.security.tokens import Tokens
from tests.harness.findings import findings
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.access import EXCEPTIONS, KNOWN, PUBLIC, STRANGERS, policy, shown
from tests.support.cases import SECRET_KEY, ApiTestCase, make_client
from tests.support.operations import Operation, example, operations

UNKNOWN = "0199e0c1-0000-7000-8000-000000000001"


class AccessTest(ApiTestCase):
    """The matrix."""

    @classmethod
    def setUpTestData(cls):
        cls.owner = UserFactory.create(email="ada@example.com", password="analytical engine")
        cls.order = OrderFactory.create(user=cls.owner)
        cls.other = UserFactory.create()
        cls.staff = UserFactory.create("staff")
        cls.deleted = UserFactory.create()
        cls.deleted.delete_instance()

    def token_of(self, caller: str) -> str | None:
        """Return what the caller sends as a token."""
        claims = {
            "sub": str(self.owner.id),
            "role": "staff",
            "iat": datetime.now(UTC),
            "exp": datetime.now(UTC) + timedelta(1),
        }
        tokens = {
            "no token": lambda: None,
            "malformed": lambda: "a.b.c",
            "expired": lambda: make_client(clock=lambda: datetime.now(UTC) - timedelta(days=1)).token(self.owner),
            "wrong signature": lambda: jwt.encode(claims, SECRET_KEY[::-1], "HS256"),
            "alg none": lambda: jwt.encode(claims, None, "none"),
            "deleted user": lambda: self.client.token(self.deleted),
            "another user": lambda: self.client.token(self.other),
            "owner": lambda: self.client.token(self.owner),
            "staff": lambda: self.client.token(self.staff),
        }
        return tokens[caller]()

    def stored(self) -> object:
        """Return how many users there are, and each order with its status."""
        return User.select().count(), list(Order.select(Order.id, Order.status).order_by(Order.id).tuples())

    def send(self, operation: Operation, caller: str, **ids: str):
        """Send a request as `request` does, and roll back what it has written."""
        with self.isolation.undone():
            return self.request(operation, caller, **ids)

    def request(self, operation: Operation, caller: str, **ids: str):
        """Send a valid request of `operation` for the owner's data, and return the response."""
        body = b""
        if operation.declared.body:
            document = example(operation.declared.body)
            if "userId" in document:
                document["userId"] = ids.get("user_id", str(self.owner.id))
            if str(operation) == "POST /users":
                document["email"] = "new@example.com"
            body = json.dumps(document).encode()
        token = self.token_of(caller)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        path = operation.path(**{"user_id": str(self.owner.id), "order_id": str(self.order.id)} | ids)
        return self.client.request(operation.method, path, body, status="*", X_Request_ID="same", **headers)

    def test_every_operation_answers_every_caller_as_in_the_matrix(self):
        expected = policy()
        for operation in operations():
            for caller in (*STRANGERS, *KNOWN):
                with self.subTest(operation=str(operation), caller=caller):
                    response = self.send(operation, caller)
                    status = response.status_int
                    found = shown((status, response.json["code"]) if status >= 400 else status)
                    findings.access[str(operation), caller] = found
                    self.assertEqual(expected[str(operation)][caller], found)

    def test_public_operations_are_listed_in_the_matrix_and_no_others(self):
        public = {str(operation) for operation in operations() if operation.declared.is_public}
        self.assertEqual(PUBLIC, public, "PUBLIC is in tests/support/access.py")

    def test_exceptions_of_the_matrix_are_operations(self):
        self.assertLessEqual(set(EXCEPTIONS), {str(operation) for operation in operations()})

    def test_undeclared_responder_needs_a_token(self):
        class Undeclared:
            def on_get(self, _request, response):
                response.text = "secret"

        tokens = Tokens(SECRET_KEY, (), lifetime=60, clock=utc_now)
        app = falcon.App(middleware=[Authentication(tokens)], request_type=Request, response_type=Response)
        app.add_route("/undeclared", Undeclared())
        problems.install(app)
        self.assertEqual(401, TestApp(app).get("/undeclared", status="*").status_int)

    def test_data_of_another_user_gets_the_same_404_as_an_unknown_id(self):
        for operation in operations():
            if operation.declared.is_public:
                continue
            with self.subTest(str(operation)):
                foreign = self.send(operation, "another user")
                unknown = self.send(operation, "another user", user_id=UNKNOWN, order_id=UNKNOWN)
                self.assertEqual(
                    (unknown.status, unknown.body, sorted(unknown.headers.items())),
                    (foreign.status, foreign.body, sorted(foreign.headers.items())),
                )

    def test_refused_callers_write_nothing(self):
        before = self.stored()
        for operation in operations():
            for caller in (*STRANGERS, "deleted user", "another user"):
                if not operation.declared.is_public:
                    with self.subTest(operation=str(operation), caller=caller), self.isolation.undone():
                        self.request(operation, caller)
                        self.assertEqual(before, self.stored())
