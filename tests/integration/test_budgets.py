"""Statement budgets: each operation may run a limited number of SQL statements."""

import json

from shop.demo.factories import OrderFactory, UserFactory
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import ApiTestCase
from tests.support.operations import example, operations

# One round trip: the statement that does the work also checks the access.
DEFAULT = 1
EXCEPTIONS = {
    # The failed attempts, and the password hash.
    "POST /users/login": 2,
    "GET /livez": 0,
    "GET /openapi.json": 0,
    "GET /docs": 0,
    "GET /docs/{asset}": 0,
}


class BudgetTest(ApiTestCase):
    """A successful request of each operation."""

    @classmethod
    def setUpTestData(cls):
        cls.user = UserFactory.create(email="ada@example.com", password="analytical engine")
        cls.order = OrderFactory.create("large", user=cls.user)

    def body(self, operation):
        """Return a body with which `operation` succeeds."""
        if operation.declared.body is None:
            return b""
        document = example(operation.declared.body)
        if "userId" in document:
            document["userId"] = str(self.user.id)
        if str(operation) == "POST /users":
            document["email"] = "another@example.com"
        return json.dumps(document).encode()

    def test_every_operation_stays_within_its_budget(self):
        for operation in operations():
            with self.subTest(str(operation)):
                path = operation.path(user_id=self.user.id, order_id=self.order.id)
                with self.assertQueries(EXCEPTIONS.get(str(operation), DEFAULT)):
                    response = self.client.request(
                        operation.method, path, self.body(operation), user=self.user, status="*"
                    )
                self.assertLess(response.status_int, 300)

    def test_exceptions_are_operations(self):
        self.assertLessEqual(set(EXCEPTIONS), {str(operation) for operation in operations()})

    def test_refused_read_runs_no_statement(self):
        stranger = UserFactory.create()
        for path in (f"/users/{stranger.id}", f"/users/{stranger.id}/orders", "/orders/not-an-id"):
            with self.subTest(path), self.assertQueries(0):
                self.client.get(path, user=self.user, status=404)

    def test_replayed_order_runs_one_more_statement(self):
        body = OrderFactory.body(self.user)
        self.client.post("/orders", body, user=self.user, Idempotency_Key="again")
        with self.assertQueries(2):
            self.client.post("/orders", body, user=self.user, Idempotency_Key="again")

    def test_exceeded_budget_lists_the_statements(self):
        with (
            self.assertRaisesRegex(AssertionError, r"0 statements were expected; there were\nSELECT"),
            self.assertQueries(0),
        ):
            self.client.get(f"/users/{self.user.id}", user=self.user)
