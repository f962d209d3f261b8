"""``Idempotency-Key`` on ``POST /orders``: a request may be sent again safely, and the key stands for that request."""

from decimal import Decimal
from unittest import mock

from peewee import OperationalError

from shop import exactjson
from shop.demo.factories import OrderFactory, UserFactory
from shop.domain.models import Order
from shop.storage.database import Database
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import ApiTestCase, CommittedApiTestCase

REPLAYED = "Idempotent-Replayed"


class IdempotencyTest(ApiTestCase):
    """One request after the other."""

    def setUp(self):
        super().setUp()
        self.user = UserFactory.create()
        self.body = OrderFactory.body(self.user)

    def place(self, body=None, key="key-1", user=None, status=201):
        """Send an order with a key."""
        sender = user or self.user
        return self.client.post("/orders", body or self.body, user=sender, status=status, Idempotency_Key=key)

    def test_same_request_with_same_key_returns_the_same_order(self):
        first, second = self.place(), self.place()
        self.assertEqual(first.body, second.body)
        self.assertEqual(first.headers["Location"], second.headers["Location"])
        self.assertNotIn(REPLAYED, first.headers)
        self.assertEqual("true", second.headers[REPLAYED])
        self.assertEqual(1, Order.select().count())

    def test_equal_body_in_another_notation_is_the_same_request(self):
        item = OrderFactory.item(price=Decimal("2.50"), quantity=2)
        self.place(self.body | {"items": [item], "shippingAddress": {"street": "1 Main St"}})
        spelled = exactjson.dumps(
            {
                "shippingAddress": {"city": None, "street": " 1 Main St "},
                "items": [dict(reversed((item | {"price": Decimal("2.5"), "quantity": Decimal("2.0")}).items()))],
                "userId": str(self.user.id).upper(),
            }
        )
        response = self.client.request("POST", "/orders", spelled, user=self.user, status=201, Idempotency_Key="key-1")
        self.assertEqual("true", response.headers[REPLAYED])

    def test_negative_zero_equals_zero(self):
        item = OrderFactory.item()
        for price in ("0", "-0.0"):
            self.place(self.body | {"items": [item | {"price": Decimal(price)}]})
        self.assertEqual(1, Order.select().count())

    def test_another_request_with_the_same_key_is_422(self):
        self.place()
        for change in (
            {"items": OrderFactory.items(1)},
            {"items": self.body["items"] + OrderFactory.items(1)},
            {"shippingAddress": self.body["shippingAddress"] | {"city": "Elsewhere"}},
        ):
            with self.subTest(change):
                response = self.place(self.body | change, status=422)
                sentence = "This Idempotency-Key was used for another request"
                self.assertProblem(response, 422, "IDEMPOTENCY_KEY_REUSED", sentence)
        self.assertEqual(1, Order.select().count())

    def test_other_keys_and_no_key_place_new_orders(self):
        ids = {self.place(key=key).json["id"] for key in ("key-1", "key-2", "KEY-1")}
        ids |= {self.client.post("/orders", self.body, user=self.user).json["id"] for _ in range(2)}
        self.assertEqual(5, len(ids))

    def test_two_users_may_use_the_same_key(self):
        other = UserFactory.create()
        first = self.place()
        second = self.place(OrderFactory.body(other), user=other)
        self.assertNotIn(REPLAYED, second.headers)
        self.assertNotEqual(first.json["id"], second.json["id"])

    def test_replay_returns_only_the_order_of_this_user_with_this_key(self):
        other = UserFactory.create()
        # Orders that share the user or the key, before and after the order that is replayed.
        for key, user in (("key-0", None), ("key-1", other)):
            self.place(OrderFactory.body(user or self.user), key, user)
        placed = self.place().json
        self.place(OrderFactory.body(self.user), key="key-2")
        self.assertEqual(placed, self.place().json)

    def test_refused_request_leaves_its_key_free(self):
        self.place(self.body | {"items": []}, status=400)
        self.place(self.body | {"userId": str(UserFactory.create().id)}, status=404)
        self.client.post("/orders", self.body, status=401, Idempotency_Key="key-1")
        self.assertNotIn(REPLAYED, self.place().headers)

    def test_failed_request_leaves_its_key_free(self):
        with (
            mock.patch.object(Database, "rows", side_effect=OperationalError("connection lost")),
            self.assertLogs("shop", "WARNING"),
        ):
            self.place(status=503)
        self.assertNotIn(REPLAYED, self.place().headers)

    def test_replay_returns_the_order_as_it_is_now(self):
        placed = self.place().json
        self.client.request("PATCH", f"/orders/{placed['id']}", b'{"status": "cancelled"}', user=self.user, status=200)
        self.assertEqual(placed | {"status": "cancelled"}, self.place().json)

    def test_key_of_visible_ascii_up_to_the_limit_is_accepted(self):
        for key in ("x", "x" * 255, "!\"#$%&'()*+-./:;<=>?@[\\]^_`{|}~", "8e03978e-40d5-43dd-bc93-6894a57f9324"):
            with self.subTest(key):
                self.place(key=key)

    def test_any_other_key_is_invalid(self):
        fault = "must be sent once and have 1 to 255 visible ASCII characters other than the comma"
        # A header that is sent twice arrives joined by a comma.
        for key in ("", " ", "x" * 256, "a b", "a\tb", "caf\u00e9", "one,two", "one, two", "a\x7fb", "a\x01b"):
            with self.subTest(key):
                response = self.place(key=key, status=400)
                self.assertProblem(response, 400, "VALIDATION_ERROR", f"Idempotency-Key {fault}")
                self.assertFields({"Idempotency-Key": fault}, response)
        self.assertEqual(0, Order.select().count())

    def test_faults_of_key_and_body_are_reported_together(self):
        response = self.place(self.body | {"items": [], "gift": True}, key="a b", status=400)
        self.assertEqual({"items", "gift", "Idempotency-Key"}, {fault["field"] for fault in response.json["errors"]})

    def test_replay_after_the_user_was_deleted_is_404(self):
        self.place()
        Order.delete().execute()
        self.user.delete_instance()
        self.assertProblem(self.place(status=404), 404, "USER_NOT_FOUND", "User not found")


class IdempotencyRaceTest(CommittedApiTestCase):
    """Requests at the same moment."""

    def test_twenty_concurrent_requests_with_one_key_place_one_order(self):
        user = UserFactory.create()
        body = OrderFactory.body(user)
        responses = self.at_once(
            *[lambda: self.client.post("/orders", body, user=user, Idempotency_Key="retry") for _ in range(20)]
        )
        self.assertEqual(1, len({response.body for response in responses}), "twenty times the same body")
        self.assertEqual(19, [response.headers.get(REPLAYED) for response in responses].count("true"))
        self.assertEqual(1, Order.select().count())

    def test_one_of_several_racing_requests_with_one_key_is_placed(self):
        user = UserFactory.create()
        bodies = [exactjson.dumps(OrderFactory.body(user)) for _ in range(10)]
        responses = self.at_once(
            *[
                lambda body=body: self.client.request(
                    "POST", "/orders", body, user=user, status="*", Idempotency_Key="retry"
                )
                for body in bodies
            ]
        )
        self.assertEqual([201] + [422] * 9, sorted(response.status_int for response in responses))
        self.assertEqual(1, Order.select().count())
