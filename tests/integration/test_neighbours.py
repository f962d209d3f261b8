"""A statement or request for one user or order leaves its neighbours alone: those before and after it in each index."""

from datetime import timedelta
from unittest import mock

from peewee import IntegrityError, InternalError, OperationalError

from shop.demo.factories import LATEST, OrderFactory, UserFactory
from shop.domain import accounts, orders
from shop.domain.models import Order, User
from shop.domain.rate_limit import LoginRateLimit
from shop.storage.database import database
from tests.harness import statements
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import ApiTestCase, make_client

ID = "0199e0c1-0000-7000-8000-00000000000{}"
# The second order of the second user.
ORDER = ID.format(5)
# Ids that sort before and after all others.
UNKNOWN = "00000000-0000-7000-8000-000000000000", "ffffffff-ffff-7fff-bfff-ffffffffffff"


class NeighboursTest(ApiTestCase):
    """Three users with three orders each. The second user and the second order are meant, and no other."""

    @classmethod
    def setUpTestData(cls):
        cls.users = [UserFactory.create(id=ID.format(n), email=f"{n}@example.com") for n in (1, 2, 3)]
        cls.user = cls.users[1]
        # Each of the three times has an order of each user.
        for n, key in enumerate(("key-1", "key-2", "key-3")):
            for m, user in enumerate(cls.users):
                created_at = LATEST - timedelta(days=n)
                OrderFactory.create(
                    user=user,
                    id=ID.format(3 * m + n + 1),
                    created_at=created_at,
                    idempotency_key=key,
                    request_digest=b"",
                )

    def roles(self):
        """Return the role of each user, by address."""
        return [user.role for user in User.select().order_by(User.email)]

    def hashes(self):
        """Return the stored hash of each user, by address."""
        return [user.password_hash for user in User.select().order_by(User.email)]

    def statuses(self):
        """Return the status of each order, by id."""
        return [order.status for order in Order.select().order_by(Order.id)]

    def assertOneRow(self, expected, statement, **values):
        """Fail unless a statement has one row, with this id."""
        (row,) = database.rows(statement, **values)
        self.assertIn(expected, row)

    def test_statement_on_one_user_has_one_row(self):
        self.assertOneRow(str(self.user.id), accounts._FIND, id=str(self.user.id))
        for statement in (accounts._FIND_CREDENTIALS, accounts._SET_ROLE):
            self.assertOneRow(str(self.user.id), statement, email_key="2@example.com", role="staff")
        self.assertEqual(["customer", "staff", "customer"], self.roles())

    def test_statement_on_one_order_has_one_row(self):
        values = {"id": ORDER, "user_id": str(self.user.id), "idempotency_key": "key-2"}
        for statement in (
            orders._FIND_BY_KEY,
            orders._FIND_OWN,
            orders._FIND_ANY,
            orders._EVENTS_OWN,
            orders._EVENTS_ANY,
        ):
            self.assertOneRow(ORDER, statement, **values)

    def test_history_of_a_user_without_orders_is_one_row_and_of_nobody_none(self):
        Order.delete().where(Order.user == self.user).execute()
        values = {"status": "confirmed", "created_at": "infinity", "limit": 9}
        for statement in (orders._LIST_ALL, orders._LIST_BY_STATUS):
            self.assertEqual(1, len(database.rows(statement, user_id=str(self.user.id), id=UNKNOWN[1], **values)))
            for user_id in UNKNOWN:
                self.assertEqual([], database.rows(statement, user_id=user_id, id=UNKNOWN[1], **values))

    def test_history_has_the_orders_of_one_user_and_one_status(self):
        Order.update(status="shipped").where(Order.id == ORDER).execute()
        Order.update(status="cancelled").where(Order.id == ID.format(4)).execute()
        for query, ids in (
            ("limit=3", [4, 5, 6]),
            ("limit=2", [4, 5]),
            ("limit=1&status=shipped", [5]),
            ("limit=3&status=confirmed", [6]),
        ):
            with self.subTest(query):
                page = self.client.get(f"/users/{self.user.id}/orders?{query}", user=self.user).json
                self.assertEqual([ID.format(n) for n in ids], [order["id"] for order in page["orders"]])

    def test_history_reads_one_row_more_than_it_shows(self):
        with statements.noted() as events:
            self.client.get(f"/users/{self.user.id}/orders?limit=2", user=self.user)
        self.assertIn(3, events[-1].params)

    def test_change_of_one_order_changes_no_other(self):
        staff = UserFactory.create("staff")
        for user, status in ((staff, "shipped"), (self.user, "cancelled")):
            Order.update(status="confirmed").where(Order.id == ORDER).execute()
            body = b'{"status": "%s"}' % status.encode()
            self.client.request("PATCH", f"/orders/{ORDER}", body, user=user, status=200)
            self.assertEqual(["confirmed"] * 4 + [status] + ["confirmed"] * 4, self.statuses())

    def test_other_users_and_unknown_ids_are_404_in_both_directions(self):
        for other in (self.users[0].id, self.users[2].id, *UNKNOWN):
            with self.subTest(other):
                self.client.get(f"/users/{other}", user=self.user, status=404)
                self.client.get(f"/users/{other}/orders", user=self.user, status=404)
                self.client.post("/orders", OrderFactory.body(self.user, userId=str(other)), user=self.user, status=404)
        for order_id in (*(ID.format(n) for n in (3, 7)), *UNKNOWN):
            with self.subTest(order_id):
                self.client.get(f"/orders/{order_id}", user=self.user, status=404)
                self.client.get(f"/orders/{order_id}/events", user=self.user, status=404)
                body = b'{"status": "cancelled"}'
                self.client.request("PATCH", f"/orders/{order_id}", body, user=self.user, status=404)
        self.assertEqual(["confirmed"] * 9, self.statuses())

    def test_unknown_ids_are_404_for_staff_in_both_directions(self):
        staff = UserFactory.create("staff")
        for unknown in UNKNOWN:
            for path in (f"/users/{unknown}", f"/users/{unknown}/orders", f"/orders/{unknown}"):
                with self.subTest(path):
                    self.client.get(path, user=staff, status=404)

    def test_rehash_changes_one_account_whatever_the_others_have(self):
        before = self.user.password_hash
        credentials = {"email": self.user.email, "password": self.user.password}
        for others in (before, "another hash"):
            with self.subTest(others):
                User.update(password_hash=others).where(User.id != self.user.id).execute()
                User.update(password_hash=before).where(User.id == self.user.id).execute()
                make_client(argon2_time_cost=2).post("/users/login", credentials, status=200)
                first, middle, last = self.hashes()
                self.assertEqual((others, others), (first, last))
                self.assertNotEqual(before, middle)

    def test_rehash_replaces_only_the_hash_that_was_verified(self):
        before = self.user.password_hash
        for stored in (before[:-1], before + "x"):
            with self.subTest(stored):
                User.update(password_hash=stored).where(User.id == self.user.id).execute()
                values = {"id": str(self.user.id), "old_hash": before, "new_hash": "new"}
                database.rows(accounts._REPLACE_HASH, **values)
                self.assertEqual(stored, User.get_by_id(self.user.id).password_hash)


class ErrorTest(ApiTestCase):
    """An error of the database is handled by its own SQLSTATE, and not by one before or after it."""

    def test_login_ignores_only_a_read_only_transaction(self):
        user = UserFactory.create()
        for kind, code, status in (
            (InternalError, "25006", 200),
            (InternalError, "25P02", 500),
            (IntegrityError, "23505", 500),
            (OperationalError, "40P01", 503),
            (OperationalError, None, 503),
        ):
            error = kind("the database says no")
            # The driver makes a new string for each error.
            error.orig = mock.Mock(pgcode=code and "".join(code))
            with self.subTest(code):
                self.client.post("/users/login", {"email": user.email, "password": "wrong"}, status=401)
                with mock.patch.object(LoginRateLimit, "forget", side_effect=error):
                    logs = self.assertNoLogs("shop") if status == 200 else self.assertLogs("shop")
                    with logs:
                        self.client.post(
                            "/users/login", {"email": user.email, "password": user.password}, status=status
                        )

    def test_order_is_404_only_if_its_user_is_gone(self):
        user = UserFactory.create()
        # The first violates NOT NULL (23502), the second the primary key (23505).
        for order_id in (None, str(OrderFactory.create(user=user).id)):
            with (
                self.subTest(order_id),
                mock.patch.object(orders, "new_id", return_value=order_id),
                self.assertLogs("shop", "ERROR"),
            ):
                self.client.post("/orders", OrderFactory.body(user), user=user, status=500)


class DigestTest(ApiTestCase):
    """Requests are the same only if their digests are equal."""

    def test_no_other_request_passes_for_the_first_one(self):
        user = UserFactory.create()
        body = OrderFactory.body(user)
        self.client.post("/orders", body, user=user, Idempotency_Key="key-1")
        # Half of the digests sort before that of the first request, and half of them after it.
        for number in range(20):
            other = body | {"shippingAddress": {"street": f"{number} Main St"}}
            self.client.post("/orders", other, user=user, status=422, Idempotency_Key="key-1")
