"""``POST /orders`` and ``GET /orders/{id}``: every row and every error of the contract, and money to the cent."""

import re
from datetime import UTC, datetime
from decimal import Decimal

from shop.demo.factories import OrderFactory, UserFactory
from shop.domain.models import Order
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import ApiTestCase, rfc3339

NEVER = "0199e0c1-0000-7000-8000-000000000001"
item = OrderFactory.item


class PlacingTest(ApiTestCase):
    """``POST /orders``."""

    def setUp(self):
        super().setUp()
        self.user = UserFactory.create()

    def place(self, expected_status=201, **overrides):
        """Send an order of the user, with some fields replaced."""
        return self.client.post(
            "/orders", OrderFactory.body(self.user, **overrides), user=self.user, status=expected_status
        )

    def test_placed_order_is_returned_and_stored_with_location(self):
        before = datetime.now(UTC)
        items = [item(productId="tea-1", name="Tea", price=Decimal("4.50"), quantity=3)]
        address = {"street": "1 Main St", "city": "Springfield", "state": "IL", "zipCode": "62701", "country": "US"}
        response = self.place(items=items, shippingAddress=address)
        order = self.assertOrderStored(response.json)
        self.assertEqual(
            {
                "id": str(order.id),
                "userId": str(self.user.id),
                "items": [{"productId": "tea-1", "name": "Tea", "price": 4.5, "quantity": 3}],
                "total": 13.5,
                "status": "confirmed",
                "shippingAddress": address,
                "createdAt": rfc3339(order.created_at),
            },
            response.json,
        )
        self.assertEqual(f"/orders/{order.id}", response.headers["Location"])
        self.assertTrue(before <= order.created_at <= datetime.now(UTC))
        self.assertEqual(7, order.id.version)

    def test_totals_are_exact(self):
        for positions, total in (
            ([("29.99", 2), ("49.99", 1)], "109.97"),
            ([("0.10", 1)] * 10, "1.00"),
            ([("0.10", 3), ("0.20", 3)], "0.90"),
            ([("1.15", 3), ("0.01", 1)], "3.46"),
            ([("0", 1)], "0.00"),
            ([("99999.99", 1000)], "99999990.00"),
            ([("99999.99", 1000), ("9.99", 1)], "99999999.99"),
        ):
            with self.subTest(total):
                response = self.place(items=[item(price=Decimal(price), quantity=count) for price, count in positions])
                # The digits themselves, not what a float makes of them.
                self.assertIn(f'"total":{total},', response.text)
                stored = self.assertOrderStored(response.json)
                self.assertEqual(Decimal(total), stored.total)
                self.assertEqual([Decimal(price) for price, _ in positions], [it["price"] for it in stored.items])

    def test_total_over_the_maximum_is_refused(self):
        items = [item(price=Decimal("99999.99"), quantity=1000), item(price=Decimal("10.00"), quantity=1)]
        response = self.place(400, items=items)
        self.assertProblem(response, 400, "VALIDATION_ERROR")
        self.assertFields({"items": "must not come to a total of more than 99999999.99"}, response)
        self.assertEqual(0, Order.select().count())

    def test_numbers_may_have_any_json_notation(self):
        for price, quantity, total in (("1e1", "2.0", "20.00"), ("0.5", "1e3", "500.00"), ("2", "2", "4.00")):
            with self.subTest(price=price, quantity=quantity):
                items = f'[{{"productId": "p", "name": "n", "price": {price}, "quantity": {quantity}}}]'
                body = f'{{"userId": "{self.user.id}", "items": {items}, "shippingAddress": {{"street": "s"}}}}'
                response = self.client.request("POST", "/orders", body.encode(), user=self.user, status=201)
                self.assertIn(f'"total":{total},', response.text)

    def test_missing_fields_in_items_and_address_are_all_listed(self):
        response = self.client.post("/orders", {"items": [{}], "shippingAddress": {}}, user=self.user, status=400)
        missing = [
            "userId",
            "items[0].productId",
            "items[0].name",
            "items[0].price",
            "items[0].quantity",
            "shippingAddress.street",
        ]
        sentence = f"{', '.join(missing[:-1])} and {missing[-1]} are required"
        self.assertProblem(response, 400, "MISSING_FIELDS", sentence)
        self.assertFields(dict.fromkeys(missing, "is required"), response)

    def test_empty_list_of_items_is_invalid_not_missing(self):
        response = self.place(400, items=[])
        self.assertProblem(response, 400, "VALIDATION_ERROR", "items must have at least one item")
        self.assertFields({"items": "must have at least one item"}, response)

    def test_value_one_step_over_each_limit_is_refused(self):
        for field, overrides, fault in (
            ("items", {"items": OrderFactory.items(101)}, "must have at most 100 items"),
            ("items", {"items": "tea"}, "must be an array"),
            ("items[0]", {"items": ["tea"]}, "must be an object"),
            ("items[0].productId", {"items": [item(productId="x" * 101)]}, "must have at most 100 characters"),
            ("items[0].productId", {"items": [item(productId=7)]}, "must be a string"),
            ("items[0].name", {"items": [item(name="x" * 201)]}, "must have at most 200 characters"),
            ("items[0].name", {"items": [item(name="a\0b")]}, "must not contain the character NUL"),
            ("items[0].price", {"items": [item(price=Decimal("-0.01"))]}, "must be at least 0"),
            ("items[0].price", {"items": [item(price=Decimal("100000"))]}, "must be at most 99999.99"),
            ("items[0].price", {"items": [item(price=Decimal("1e400"))]}, "must be at most 99999.99"),
            ("items[0].price", {"items": [item(price=Decimal("0.001"))]}, "must have at most two decimals"),
            ("items[0].price", {"items": [item(price="5")]}, "must be a number"),
            ("items[0].price", {"items": [item(price=True)]}, "must be a number"),
            ("items[0].quantity", {"items": [item(quantity=0)]}, "must be at least 1"),
            ("items[0].quantity", {"items": [item(quantity=10_001)]}, "must be at most 10000"),
            ("items[0].quantity", {"items": [item(quantity=Decimal("1e400"))]}, "must be at most 10000"),
            ("items[0].quantity", {"items": [item(quantity=Decimal("1.9"))]}, "must be a whole number"),
            ("items[0].quantity", {"items": [item(quantity=True)]}, "must be a whole number"),
            ("items[0].quantity", {"items": [item(quantity="5")]}, "must be a whole number"),
            ("items[0].colour", {"items": [item(colour="red")]}, "is not a known field"),
            ("items[1].quantity", {"items": [item(), item(quantity=0)]}, "must be at least 1"),
            ("shippingAddress", {"shippingAddress": "home"}, "must be an object"),
            ("shippingAddress.street", {"shippingAddress": {"street": "x" * 201}}, "must have at most 200 characters"),
            ("shippingAddress.city", {"shippingAddress": {"street": "s", "city": 5}}, "must be a string"),
            ("shippingAddress.planet", {"shippingAddress": {"street": "s", "planet": "x"}}, "is not a known field"),
            ("userId", {"userId": 5}, "must be a string"),
            ("status", {"status": "shipped"}, "is not a known field"),
            ("total", {"total": 1}, "is not a known field"),
        ):
            with self.subTest(field=field, fault=fault):
                response = self.place(400, **overrides)
                self.assertProblem(response, 400, "VALIDATION_ERROR", f"{field} {fault}")
                self.assertFields({field: fault}, response)
        self.assertEqual(0, Order.select().count(), "nothing was written")

    def test_maximum_length_is_checked_before_trimming(self):
        for field, overrides in (
            ("items[0].name", {"items": [item(name="x" * 200 + " ")]}),
            ("shippingAddress.street", {"shippingAddress": {"street": "x" * 200 + " "}}),
        ):
            with self.subTest(field):
                self.assertFields({field: "must have at most 200 characters"}, self.place(400, **overrides))

    def test_sentence_names_three_faults_and_counts_the_others(self):
        three = "a is not a known field; b is not a known field; c is not a known field"
        for names, sentence in (("abc", three), ("abcd", f"{three}; and 1 more"), ("abcde", f"{three}; and 2 more")):
            with self.subTest(names):
                response = self.place(400, **dict.fromkeys(names, 1))
                self.assertProblem(response, 400, "VALIDATION_ERROR", sentence)
                self.assertFields(dict.fromkeys(names, "is not a known field"), response)

    def test_value_at_each_limit_is_accepted(self):
        for overrides in (
            {"items": OrderFactory.items(100)},
            {"items": [item(productId="x" * 100, name="y" * 200, quantity=10_000, price=Decimal("0.01"))]},
            {"items": [item(price=Decimal("99999.99"), quantity=1)]},
            {"shippingAddress": {"street": "x" * 200, "city": "y" * 200, "state": "", "zipCode": None}},
        ):
            with self.subTest(overrides):
                self.assertOrderStored(self.place(**overrides).json)

    def test_optional_address_fields_that_were_not_sent_are_absent(self):
        shown = self.place(shippingAddress={"street": "1 Main St", "city": None, "country": ""}).json
        self.assertEqual({"street": "1 Main St", "country": ""}, shown["shippingAddress"])

    def test_text_is_returned_as_it_was_sent(self):
        name = 'Caf\u00e9 "\u2615\ufe0f" \\ \U0001f600 \u202e <script> \t\n'.strip()
        self.assertEqual(name, self.place(items=[item(name=name)]).json["items"][0]["name"])

    def test_order_for_foreign_unknown_or_malformed_user_id_is_404(self):
        for user_id in (str(UserFactory.create().id), NEVER, "not-an-id", "\U0001f600"):
            with self.subTest(user_id):
                response = self.place(404, userId=user_id)
                self.assertProblem(response, 404, "USER_NOT_FOUND", "User not found")
        self.assertEqual(0, Order.select().count())

    def test_staff_cannot_place_orders_for_other_users(self):
        body = OrderFactory.body(self.user)
        response = self.client.post("/orders", body, user=UserFactory.create("staff"), status=404)
        self.assertProblem(response, 404, "USER_NOT_FOUND")

    def test_order_without_a_token_runs_no_statement(self):
        response = self.client.post("/orders", {"not": "valid"}, status=401)
        self.assertProblem(response, 401, "UNAUTHORIZED")


class ReadingTest(ApiTestCase):
    """``GET /orders/{id}``."""

    def test_order_with_its_owner_is_shown_to_owner_and_staff(self):
        order = OrderFactory.create("shipped")
        for reader in (order.user, UserFactory.create("staff")):
            shown = self.client.get(f"/orders/{order.id}", user=reader).json
            owner = shown.pop("user")
            self.assertEqual({"id": str(order.user.id), "name": order.user.name, "email": order.user.email}, owner)
            self.assertOrderStored(shown)
            self.assertEqual(("shipped", str(order.user.id)), (shown["status"], shown["userId"]))

    def test_foreign_unknown_and_malformed_id_get_the_same_404(self):
        reader, foreign = UserFactory.create(), OrderFactory.create()
        answers = set()
        for order_id in (foreign.id, NEVER, "not-an-id", "0"):
            with self.subTest(order_id):
                response = self.client.get(f"/orders/{order_id}", user=reader, status=404, X_Request_ID="same")
                self.assertProblem(response, 404, "ORDER_NOT_FOUND", "Order not found")
                answers.add((response.body, str(sorted(response.headers.items()))))
        self.assertEqual(1, len(answers), "the same 404, to the byte")

    def test_path_segment_that_begins_with_a_dot_is_an_unknown_id(self):
        for order_id in (".hidden", "..hidden", "..."):
            with self.subTest(order_id):
                response = self.client.get(f"/orders/{order_id}", user=UserFactory.create(), status=404)
                self.assertProblem(response, 404, "ORDER_NOT_FOUND", "Order not found")

    def test_unknown_order_is_404_for_staff(self):
        response = self.client.get(f"/orders/{NEVER}", user=UserFactory.create("staff"), status=404)
        self.assertProblem(response, 404, "ORDER_NOT_FOUND", "Order not found")

    def test_order_is_401_without_a_token(self):
        response = self.client.get(f"/orders/{OrderFactory.create().id}", status=401)
        self.assertProblem(response, 401, "UNAUTHORIZED")


class FormTest(ApiTestCase):
    """The text of an answer, which is one form wherever an order is shown."""

    ITEMS = '"items":[{"name":"Tea \\"\u00e9\\"\\\\","price":29.90,"quantity":2,"productId":"tea-1"}]'
    ADDRESS = '"shippingAddress":{"city":"London","state":"","street":"1 Main St","country":"GB","zipCode":"N1"}'

    def test_items_and_address_are_compact_json_in_one_order(self):
        user = UserFactory.create()
        # Sent in another order, and spelled otherwise, than it is shown.
        sent = OrderFactory.body(
            user,
            items=[{"quantity": 2, "price": Decimal("29.9"), "name": 'Tea "\u00e9"\\', "productId": "tea-1"}],
            shippingAddress={"country": "GB", "zipCode": "N1", "state": "", "city": "London", "street": "1 Main St"},
        )
        placed = self.client.post("/orders", sent, user=user, Idempotency_Key="form")
        path = f"/orders/{placed.json['id']}"
        for name, response in {
            "placed": placed,
            "placed again": self.client.post("/orders", sent, user=user, Idempotency_Key="form"),
            "read": self.client.get(path, user=user),
            "listed": self.client.get(f"/users/{user.id}/orders", user=user),
            "listed by status": self.client.get(f"/users/{user.id}/orders?status=confirmed", user=user),
            "changed": self.client.request("PATCH", path, b'{"status": "cancelled"}', user=user, status=200),
        }.items():
            with self.subTest(name):
                self.assertIn(self.ITEMS, response.text)
                self.assertIn(self.ADDRESS, response.text)

    def test_prices_keep_their_stored_digits(self):
        user = UserFactory.create()
        prices = ["0.00", "0.01", "0.10", "7.00", "99999.99"]
        sent = OrderFactory.body(user, items=[item(price=Decimal(price)) for price in prices])
        text = self.client.post("/orders", sent, user=user).text
        self.assertEqual(prices, re.findall(r'"price":([^,]+),', text))
