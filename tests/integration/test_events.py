"""``GET /orders/{id}/events``: each change of an order has one event, stored by the statement that makes the change."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from unittest import mock

from shop.demo.factories import OrderFactory, UserFactory
from shop.domain.models import Order
from shop.ids import parse_id
from shop.storage.database import database
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import ApiTestCase, CommittedApiTestCase, make_client, rfc3339

NEVER = "0199e0c1-0000-7000-8000-000000000001"
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class Events:
    """What the test cases here have in common."""

    def events(self, order_id, user, client=None):
        """Return the events of an order, as `user` sees them."""
        return (client or self.client).get(f"/orders/{order_id}/events", user=user).json["events"]

    def change(self, order_id, status, user, expected=200, client=None):
        """Change an order's status."""
        body = f'{{"status": "{status}"}}'.encode()
        return (client or self.client).request("PATCH", f"/orders/{order_id}", body, user=user, status=expected)


class EventsTest(Events, ApiTestCase):
    """What is recorded, and who sees it."""

    @classmethod
    def setUpTestData(cls):
        cls.ada = UserFactory.create()
        cls.staff = UserFactory.create("staff")

    def place(self, client=None, **headers):
        """Place an order of one item for 29.90."""
        body = OrderFactory.body(self.ada, items=[OrderFactory.item(price=Decimal("29.90"), quantity=1)])
        return (client or self.client).post("/orders", body, user=self.ada, **headers)

    def test_each_change_has_an_event_and_the_oldest_comes_first(self):
        clock = mock.Mock(side_effect=lambda: NOON)
        client = make_client(clock=clock)
        order_id = self.place(client).json["id"]
        clock.side_effect = lambda: NOON + timedelta(minutes=1)
        self.change(order_id, "shipped", self.staff, client=client)
        events = self.events(order_id, self.ada, client)
        ids = [event.pop("id") for event in events]
        whose = {"orderId": order_id, "userId": str(self.ada.id)}
        self.assertEqual(
            [
                {
                    "type": "order.placed",
                    "time": rfc3339(NOON),
                    "data": whose | {"status": "confirmed", "total": 29.9},
                },
                {
                    "type": "order.status_changed",
                    "time": rfc3339(NOON + timedelta(minutes=1)),
                    "data": whose | {"status": "shipped", "previousStatus": "confirmed"},
                },
            ],
            events,
        )
        self.assertEqual(2, len(set(ids)))
        for event_id in ids:
            self.assertEqual((event_id, "7"), (parse_id(event_id), event_id[14]))

    def test_the_total_keeps_its_digits(self):
        text = self.client.get(f"/orders/{self.place().json['id']}/events", user=self.ada).text
        self.assertIn('"total":29.90', text)

    def test_events_of_another_user_are_404_as_for_an_unknown_order(self):
        foreign = OrderFactory.create()
        answers = set()
        for order_id in (foreign.id, NEVER, "not-an-id"):
            response = self.client.get(f"/orders/{order_id}/events", user=self.ada, status=404, X_Request_ID="same")
            self.assertProblem(response, 404, "ORDER_NOT_FOUND", "Order not found")
            answers.add(response.body)
        self.assertEqual(1, len(answers))

    def test_staff_sees_the_events_of_any_order(self):
        order_id = self.place().json["id"]
        self.assertEqual(self.events(order_id, self.ada), self.events(order_id, self.staff))
        self.assertProblem(
            self.client.get(f"/orders/{NEVER}/events", user=self.staff, status=404), 404, "ORDER_NOT_FOUND"
        )

    def test_an_order_from_before_the_migration_has_no_events(self):
        self.assertEqual([], self.events(OrderFactory.create(user=self.ada).id, self.ada))

    def test_a_replayed_key_has_no_event(self):
        first = self.place(Idempotency_Key="once").json["id"]
        body = self.client.get(f"/orders/{first}", user=self.ada).json
        again = {"userId": body["userId"], "items": body["items"], "shippingAddress": body["shippingAddress"]}
        before = self.events(first, self.ada)
        replayed = self.client.post("/orders", again, user=self.ada, Idempotency_Key="once")
        self.assertEqual(("true", first), (replayed.headers["Idempotent-Replayed"], replayed.json["id"]))
        self.assertEqual(before, self.events(first, self.ada))

    def test_a_refused_change_has_no_event(self):
        order_id = self.place().json["id"]
        self.change(order_id, "shipped", self.ada, 403)
        self.change(order_id, "delivered", self.staff, 409)
        self.assertEqual(["order.placed"], [event["type"] for event in self.events(order_id, self.ada)])

    def test_a_rolled_back_change_has_no_event(self):
        order_id = self.place().json["id"]
        with database.atomic() as transaction:
            self.change(order_id, "cancelled", self.ada)
            transaction.rollback()
        self.assertEqual(["order.placed"], [event["type"] for event in self.events(order_id, self.ada)])

    def test_the_row_says_since_when_events_wait(self):
        client = make_client(clock=lambda: NOON)
        order_id = self.place(client).json["id"]
        later = make_client(clock=lambda: NOON + timedelta(minutes=1))
        self.change(order_id, "cancelled", self.ada, client=later)
        order = Order.get(Order.id == order_id)
        self.assertEqual((0, NOON), (order.events_taken, order.untaken_since))


class EventRaceTest(Events, CommittedApiTestCase):
    """Changes at the same moment."""

    def test_a_change_that_lost_its_race_has_no_event(self):
        ada, staff = UserFactory.create(), UserFactory.create("staff")
        for _ in range(5):
            order_id = OrderFactory.create(user=ada).id
            self.at_once(
                lambda order_id=order_id: self.change(order_id, "cancelled", ada, "*"),
                lambda order_id=order_id: self.change(order_id, "shipped", staff, "*"),
            )
            (event,) = self.events(order_id, ada)
            status = self.client.get(f"/orders/{order_id}", user=ada).json["status"]
            self.assertEqual(("confirmed", status), (event["data"]["previousStatus"], event["data"]["status"]))

    def test_of_ten_requests_with_one_key_one_has_an_event(self):
        ada = UserFactory.create()
        body = OrderFactory.body(ada)
        ids = {
            response.json["id"]
            for response in self.at_once(
                *[lambda: self.client.post("/orders", body, user=ada, Idempotency_Key="key") for _ in range(10)]
            )
        }
        (order_id,) = ids
        self.assertEqual(1, len(self.events(order_id, ada)))
