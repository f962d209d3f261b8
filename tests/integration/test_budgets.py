"""How many statements each operation may run: an endpoint that starts to need more fails here, not in production."""

import json

from shop.demo.factories import OrderFactory, UserFactory
from tests.harness.postgres import setUpModule, tearDownModule  # noqa: F401
from tests.support.cases import ApiTestCase
from tests.support.operations import example, operations

# One round trip each: the statement that does it finds out as well whether it may.
BUDGETS = {
    "POST /users": 1,
    # Failures on record, the credentials.
    "POST /users/login": 2,
    "GET /users/{user_id}": 1,
    "GET /users/{user_id}/orders": 1,
    "POST /orders": 1,
    "GET /orders/{order_id}": 1,
    "PATCH /orders/{order_id}": 1,
    "GET /orders/{order_id}/events": 1,
    "GET /livez": 0,
    "GET /readyz": 1,
    "GET /openapi.json": 0,
    "GET /docs": 0,
    "GET /docs/{asset}": 0,
}


class BudgetTest(ApiTestCase):
    """Each operation, done successfully."""

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
                self.assertIn(str(operation), BUDGETS, "a new operation needs its row in BUDGETS")
                path = operation.path(user_id=self.user.id, order_id=self.order.id)
                with self.assertQueries(BUDGETS[str(operation)]):
                    response = self.client.request(
                        operation.method, path, self.body(operation), user=self.user, status="*"
                    )
                self.assertLess(response.status_int, 300)

    def test_a_refused_read_asks_the_database_nothing(self):
        stranger = UserFactory.create()
        for path in (f"/users/{stranger.id}", f"/users/{stranger.id}/orders", "/orders/not-an-id"):
            with self.subTest(path), self.assertQueries(0):
                self.client.get(path, user=self.user, status=404)

    def test_a_replayed_order_takes_one_statement_more(self):
        body = OrderFactory.body(self.user)
        self.client.post("/orders", body, user=self.user, Idempotency_Key="again")
        with self.assertQueries(2):
            self.client.post("/orders", body, user=self.user, Idempotency_Key="again")

    def test_a_count_that_is_wrong_lists_the_statements(self):
        with (
            self.assertRaisesRegex(AssertionError, r"0 statements were expected; there were\nSELECT"),
            self.assertQueries(0),
        ):
            self.client.get(f"/users/{self.user.id}", user=self.user)
