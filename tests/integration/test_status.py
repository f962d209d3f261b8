"""``PATCH /orders/{id}``: who may move an order where, and one winner when changes race."""

from unittest import mock

from shop import exactjson
from shop.demo.factories import OrderFactory, UserFactory
from shop.domain import orders
from shop.domain.models import Order
from shop.domain.orders import STATUSES
from shop.storage.database import database
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import ApiTestCase, CommittedApiTestCase

NEVER = "0199e0c1-0000-7000-8000-000000000001"
# As the contract has it, written out here once more on purpose.
LEGAL = {
    ("pending", "confirmed"),
    ("confirmed", "shipped"),
    ("shipped", "delivered"),
    ("pending", "cancelled"),
    ("confirmed", "cancelled"),
}


class Changes:
    """What both kinds of test send."""

    def change(self, order_id, body, user, status=200, **headers):
        """Send a change of status."""
        document = exactjson.dumps(body if isinstance(body, dict) else {"status": body})
        return self.client.request("PATCH", f"/orders/{order_id}", document, user=user, status=status, **headers)

    def stored(self, order):
        """Return the status that is in the database."""
        return Order.get(Order.id == order.id).status


class StatusTest(Changes, ApiTestCase):
    """One change after the other."""

    def test_staff_can_make_every_legal_status_change_and_no_other(self):
        staff = UserFactory.create("staff")
        for before in STATUSES:
            for after in STATUSES:
                with self.subTest(before=before, after=after):
                    order = OrderFactory.create(status=before)
                    if (before, after) in LEGAL:
                        shown = self.change(order.id, after, staff).json
                        self.assertEqual(after, shown["status"])
                        self.assertOrderStored(shown)
                    else:
                        response = self.change(order.id, after, staff, status=409)
                        self.assertProblem(response, 409, "INVALID_TRANSITION")
                        self.assertEqual(before, self.stored(order))

    def test_refused_change_names_the_present_and_the_next_statuses(self):
        staff = UserFactory.create("staff")
        for before, fact in (
            ("pending", "is pending and can only become confirmed or cancelled"),
            ("confirmed", "is confirmed and can only become shipped or cancelled"),
            ("shipped", "is shipped and can only become delivered"),
            ("delivered", "is delivered, which is final"),
            ("cancelled", "is cancelled, which is final"),
        ):
            with self.subTest(before):
                response = self.change(OrderFactory.create(status=before).id, "pending", staff, status=409)
                self.assertProblem(response, 409, "INVALID_TRANSITION", f"The order {fact}")
                self.assertFields({"status": fact}, response)

    def test_change_that_just_became_legal_is_made(self):
        staff, order = UserFactory.create("staff"), OrderFactory.create(status="confirmed")
        find = orders.find

        def ship_and_find(*arguments):
            Order.update(status="shipped").where(Order.id == order.id).execute()
            return find(*arguments)

        with mock.patch.object(orders, "find", ship_and_find):
            self.assertEqual("delivered", self.change(order.id, "delivered", staff).json["status"])

    def test_change_that_always_loses_the_race_is_503(self):
        # As row security, or a rule of an operator's own, might have it.
        database.execute_sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
            "CREATE TRIGGER refuse BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        order = OrderFactory.create()
        sent = []

        def limit(statement):
            sent.append(statement)
            if len(sent) > 20:
                raise AssertionError("there is no end to it")

        database.query_hooks.append(limit)
        self.addCleanup(database.query_hooks.remove, limit)
        response = self.change(order.id, "cancelled", order.user, status=503)
        self.assertProblem(response, 503, "SERVICE_UNAVAILABLE", "The order could not be changed; try again")
        self.assertEqual("1", response.headers["Retry-After"])

    def test_owner_can_cancel_before_shipping(self):
        for before in ("pending", "confirmed"):
            order = OrderFactory.create(status=before)
            self.assertEqual("cancelled", self.change(order.id, "cancelled", order.user).json["status"])
            self.assertEqual("cancelled", self.stored(order))
        for before in ("shipped", "delivered", "cancelled"):
            order = OrderFactory.create(status=before)
            self.assertProblem(self.change(order.id, "cancelled", order.user, 409), 409, "INVALID_TRANSITION")
            self.assertEqual(before, self.stored(order))

    def test_other_status_changes_by_the_owner_are_403(self):
        order = OrderFactory.create()
        for status in ("pending", "confirmed", "shipped", "delivered"):
            with self.subTest(status):
                response = self.change(order.id, status, order.user, status=403)
                self.assertProblem(response, 403, "FORBIDDEN")
        self.assertEqual("confirmed", self.stored(order))

    def test_any_status_change_of_another_users_order_is_404(self):
        order, stranger = OrderFactory.create(), UserFactory.create()
        answers = set()
        for order_id in (order.id, NEVER, "not-an-id"):
            for status in STATUSES:
                with self.subTest(order_id=order_id, status=status):
                    response = self.change(order_id, status, stranger, status=404, X_Request_ID="same")
                    self.assertProblem(response, 404, "ORDER_NOT_FOUND", "Order not found")
                    answers.add((response.body, str(sorted(response.headers.items()))))
        self.assertEqual(1, len(answers), "the same 404, to the byte")
        self.assertEqual("confirmed", self.stored(order))

    def test_unknown_order_is_404_for_staff(self):
        for order_id in (NEVER, "not-an-id"):
            response = self.change(order_id, "shipped", UserFactory.create("staff"), status=404)
            self.assertProblem(response, 404, "ORDER_NOT_FOUND")

    def test_only_the_status_changes(self):
        order = OrderFactory.create()
        shown = self.client.get(f"/orders/{order.id}", user=order.user).json
        del shown["user"]
        changed = self.change(order.id, "shipped", UserFactory.create("staff")).json
        self.assertEqual(shown | {"status": "shipped"}, changed)

    def test_change_of_other_fields_or_without_status_is_refused(self):
        order = OrderFactory.create()
        allowed = "must be one of pending, confirmed, shipped, delivered, cancelled"
        for body, code, sentence in (
            ({}, "MISSING_FIELDS", "status is required"),
            ({"status": ""}, "MISSING_FIELDS", "status is required"),
            ({"status": "lost"}, "VALIDATION_ERROR", f"status {allowed}"),
            ({"status": "Shipped"}, "VALIDATION_ERROR", f"status {allowed}"),
            ({"status": 5}, "VALIDATION_ERROR", "status must be a string"),
            ({"status": "cancelled", "total": 0}, "VALIDATION_ERROR", "total is not a known field"),
        ):
            with self.subTest(body):
                self.assertProblem(self.change(order.id, body, order.user, status=400), 400, code, sentence)
        self.assertEqual("confirmed", self.stored(order))

    def test_status_change_is_401_without_a_token(self):
        order = OrderFactory.create()
        self.assertProblem(self.change(order.id, "cancelled", None, status=401), 401, "UNAUTHORIZED")
        self.assertEqual("confirmed", self.stored(order))


class StatusRaceTest(Changes, CommittedApiTestCase):
    """Changes at the same moment."""

    def test_one_of_two_racing_changes_wins_and_the_other_gets_409(self):
        staff = UserFactory.create("staff")
        for _ in range(10):
            order = OrderFactory.create()
            responses = self.at_once(
                lambda order=order: self.change(order.id, "cancelled", order.user, status="*"),
                lambda order=order: self.change(order.id, "shipped", staff, status="*"),
            )
            self.assertEqual([200, 409], sorted(response.status_int for response in responses))
            won, lost = sorted(responses, key=lambda response: response.status_int)
            self.assertEqual(won.json["status"], self.stored(order))
            self.assertProblem(lost, 409, "INVALID_TRANSITION")
            self.assertIn(f"The order is {won.json['status']}", lost.json["error"])

    def test_one_of_twenty_concurrent_cancellations_wins(self):
        order = OrderFactory.create()
        responses = self.at_once(
            *[lambda: self.change(order.id, "cancelled", order.user, status="*") for _ in range(20)]
        )
        self.assertEqual([200] + [409] * 19, sorted(response.status_int for response in responses))
