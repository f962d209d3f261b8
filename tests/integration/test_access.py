"""Who may do what: every operation, tried by every kind of caller, against one table.

The operations come from the route table: one without a row here fails. What another user gets is compared, byte for
byte, with what they get for an id that never was.
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
from tests.harness.postgres import setUpModule, tearDownModule  # noqa: F401
from tests.support.access import KNOWN, POLICY, STRANGERS, policy, shown
from tests.support.cases import SECRET_KEY, ApiTestCase, make_client
from tests.support.operations import Operation, example, operations

NEVER = "0199e0c1-0000-7000-8000-000000000001"


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
        """Send a request as `request` does, and undo what it has written."""
        with self.isolation.undone():
            return self.request(operation, caller, **ids)

    def request(self, operation: Operation, caller: str, **ids: str):
        """Send a valid request of `operation`, about the owner's things, and return the answer."""
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

    def test_every_operation_answers_every_caller_as_the_table_has_it(self):
        expected = policy()
        # The next test names an operation without a row.
        for operation in (each for each in operations() if str(each) in expected):
            for caller in (*STRANGERS, *KNOWN):
                with self.subTest(operation=str(operation), caller=caller):
                    response = self.send(operation, caller)
                    status = response.status_int
                    found = shown((status, response.json["code"]) if status >= 400 else status)
                    findings.access[str(operation), caller] = found
                    self.assertEqual(expected[str(operation)][caller], found)

    def test_every_operation_has_a_row_in_the_table_and_no_other_has(self):
        self.assertEqual({str(each) for each in operations()}, set(POLICY), "POLICY is in tests/support/access.py")

    def test_what_the_table_lets_pass_without_a_token_is_declared_public(self):
        for operation in (each for each in operations() if str(each) in POLICY):
            self.assertEqual(POLICY[str(operation)] is None, operation.declared.is_public, str(operation))

    def test_a_responder_that_nobody_has_declared_needs_a_token(self):
        class Undeclared:
            def on_get(self, _request, response):
                response.text = "secret"

        tokens = Tokens(SECRET_KEY, (), lifetime=60, clock=utc_now)
        app = falcon.App(middleware=[Authentication(tokens)], request_type=Request, response_type=Response)
        app.add_route("/undeclared", Undeclared())
        problems.install(app)
        self.assertEqual(401, TestApp(app).get("/undeclared", status="*").status_int)

    def test_another_user_gets_what_everybody_gets_for_an_id_that_never_was(self):
        for operation in operations():
            if operation.declared.is_public:
                continue
            with self.subTest(str(operation)):
                foreign = self.send(operation, "another user")
                never = self.send(operation, "another user", user_id=NEVER, order_id=NEVER)
                self.assertEqual(
                    (never.status, never.body, sorted(never.headers.items())),
                    (foreign.status, foreign.body, sorted(foreign.headers.items())),
                )

    def test_nothing_is_written_by_those_who_may_not(self):
        before = self.stored()
        for operation in operations():
            for caller in (*STRANGERS, "deleted user", "another user"):
                if not operation.declared.is_public:
                    with self.subTest(operation=str(operation), caller=caller), self.isolation.undone():
                        self.request(operation, caller)
                        self.assertEqual(before, self.stored())
