"""Guarantees that hold when requests race: real threads, real connections, real commits."""

import threading

from shop import exactjson
from shop.demo.factories import OrderFactory, UserFactory
from shop.domain.models import Order, User
from shop.storage.database import database
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import CommittedApiTestCase


class RaceTest(CommittedApiTestCase):
    """Many requests at one moment."""

    def test_of_registrations_racing_with_one_address_one_wins(self):
        bodies = [UserFactory.body(email=email) for email in ("ada@example.com", "ADA@example.com", "Ada@Example.com")]

        def register(body):
            return lambda: self.client.request("POST", "/users", exactjson.dumps(body), status="*")

        responses = self.at_once(*[register(body) for body in bodies * 4])
        self.assertEqual([201] + [409] * 11, sorted(response.status_int for response in responses))
        for response in responses:
            if response.status_int == 409:
                self.assertProblem(response, 409, "EMAIL_EXISTS", "Email already registered")
        self.assertEqual(1, User.select().count())

    def test_five_orders_placed_at_once_by_one_user_are_five_orders(self):
        user = UserFactory.create()
        bodies = [OrderFactory.body(user) for _ in range(5)]
        placed = self.at_once(*[lambda body=body: self.client.post("/orders", body, user=user).json for body in bodies])
        self.assertEqual(5, len({order["id"] for order in placed}))
        self.assertEqual(5, Order.select().count())
        for order, body in zip(placed, bodies, strict=True):
            self.assertOrderStored(order)
            self.assertEqual([item["name"] for item in body["items"]], [item["name"] for item in order["items"]])

    def test_an_order_racing_with_the_deletion_of_its_user_finds_no_user(self):
        user = UserFactory.create()
        waiting = threading.Event()

        def delete_while_the_order_waits():
            with database.atomic():
                user.delete_instance()
                # The order's statement has seen the user already, and waits for this transaction at the foreign key.
                waiting.set()
                self.wait_for_a_lock()

        def place():
            self.assertTrue(waiting.wait(30))
            return self.client.post("/orders", OrderFactory.body(user), user=user, status=404)

        _, response = self.at_once(delete_while_the_order_waits, place)
        self.assertProblem(response, 404, "USER_NOT_FOUND", "User not found")
        self.assertEqual(0, Order.select().count())

    def wait_for_a_lock(self):
        """Return once another connection to this database waits for a lock."""
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        for _ in range(6000):
            if database.execute_sql(waiting).fetchone()[0]:
                return
            # The server's own pause, so that nothing spins; statistics are read again each time.
            database.execute_sql("SELECT pg_sleep(0.005), pg_stat_clear_snapshot()")
        self.fail("nobody waited for a lock within thirty seconds")


class ConnectionTest(CommittedApiTestCase):
    """Connections that are lost between requests; what is lost in the middle of one is in `test_faults`."""

    def test_a_read_and_a_write_survive_a_connection_that_was_lost_in_between(self):
        user = UserFactory.create()
        for send in (
            lambda: self.client.get(f"/users/{user.id}", user=user),
            lambda: self.client.get("/readyz"),
            lambda: self.client.post("/orders", OrderFactory.body(user), user=user),
        ):
            database.ping()
            self.terminate_own_backend()
            send()
        self.assertEqual(1, Order.select().count())

    def terminate_own_backend(self):
        """End this thread's connection from the server's side; the client has not been told."""
        (backend,) = database.execute_sql("SELECT pg_backend_pid()").fetchone()
        self.at_once(lambda: database.execute_sql("SELECT pg_terminate_backend(%s, 5000)", (backend,)))
