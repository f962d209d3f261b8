"""Bursts and floods of logins: a burst is answered, a flood is refused at once, and everything else goes on."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

from argon2 import PasswordHasher

from shop import exactjson
from shop.demo.factories import UserFactory
from shop.settings import Settings
from shop.storage.database import database
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import CommittedApiTestCase, make_client

PASSWORD = "analytical engine"
# Longer than anything here takes, in seconds: only a broken promise lasts this long.
LIMIT = 30


class HashingTest(CommittedApiTestCase):
    """A service with two threads, of which one may be at hashing; and it is, until the test lets it go on."""

    def setUp(self):
        super().setUp()
        self.client = make_client(threads=2)
        self.user = UserFactory.create(password=PASSWORD)
        hashes, self.go_on = threading.Event(), threading.Event()
        verify = PasswordHasher.verify

        def verify_slowly(*arguments):
            hashes.set()
            self.assertTrue(self.go_on.wait(LIMIT))
            return verify(*arguments)

        self.enterContext(mock.patch.object(PasswordHasher, "verify", verify_slowly))
        thread = self.enterContext(ThreadPoolExecutor(1))
        self.addCleanup(self.go_on.set)
        self.login = thread.submit(self.log_in_and_close)
        self.assertTrue(hashes.wait(LIMIT))

    def log_in(self):
        body = exactjson.dumps({"email": self.user.email, "password": PASSWORD})
        return self.client.request("POST", "/users/login", body, status="*")

    def log_in_and_close(self):
        try:
            return self.log_in()
        finally:
            database.close()

    def test_login_beyond_the_limit_is_a_503_without_any_statement(self):
        with self.assertQueries(0):
            refused = self.log_in()
        self.assertProblem(refused, 503, "SERVICE_UNAVAILABLE", "Too many logins and registrations at the moment")
        self.assertEqual("1", refused.headers["Retry-After"])
        with self.assertQueries(0):
            self.client.post("/users", UserFactory.body(), status=503)
        self.go_on.set()
        self.assertEqual(200, self.login.result(LIMIT).status_int)
        self.assertEqual(200, self.log_in().status_int)

    def test_everything_else_is_answered_during_hashing(self):
        self.client.get(f"/users/{self.user.id}", user=self.user)
        self.client.get("/readyz")

    def test_no_transaction_is_open_while_a_password_is_hashed(self):
        others = """
            SELECT state FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'shop' AND pid <> pg_backend_pid()
        """
        states = {state for (state,) in database.execute_sql(others).fetchall()}
        self.assertEqual({"idle"}, states)


class BurstTest(CommittedApiTestCase):
    """The default settings: many threads, few database connections."""

    THREADS = Settings.model_fields["threads"].default
    CONNECTIONS = Settings.model_fields["database_connections"].default

    def setUp(self):
        super().setUp()
        self.client = make_client(threads=self.THREADS, database_connections=self.CONNECTIONS)
        self.addCleanup(make_client)
        self.users = UserFactory.create_batch(8, password=PASSWORD)
        database.close_all()

    def log_in(self, user):
        return self.client.post("/users/login", {"email": user.email, "password": PASSWORD}, status="*").status_int

    def register(self):
        return self.client.post("/users", UserFactory.body(), status="*").status_int

    def test_64_logins_and_registrations_at_once_are_all_answered(self):
        logins = [lambda user=user: self.log_in(user) for user in self.users] * 4
        answers = self.at_once(*logins, *[self.register] * 32)
        self.assertEqual(Counter({200: 32, 201: 32}), Counter(answers))

    def test_requests_that_wait_for_a_hash_hold_no_connection(self):
        hashing, go_on = threading.Semaphore(0), threading.Event()
        verify = PasswordHasher.verify

        def verify_slowly(*arguments):
            hashing.release()
            self.assertTrue(go_on.wait(LIMIT))
            return verify(*arguments)

        with (
            mock.patch.object(PasswordHasher, "verify", verify_slowly),
            ThreadPoolExecutor(2 * self.CONNECTIONS) as threads,
        ):
            try:
                logins = [threads.submit(self.log_in, user) for user in self.users * 2]
                self.assertTrue(hashing.acquire(timeout=LIMIT))
                # More logins wait than there are connections, and reads go on.
                self.client.get(f"/users/{self.users[0].id}", user=self.users[0])
            finally:
                go_on.set()
            self.assertEqual({200}, {login.result(LIMIT) for login in logins})
        opened = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'shop'"
        )
        self.assertLessEqual(database.execute_sql(opened).fetchone()[0], self.CONNECTIONS)


class PoolTest(CommittedApiTestCase):
    """All connections are in use."""

    def test_a_statement_that_gets_no_connection_in_time_is_a_503(self):
        client = make_client(database_connections=1, connect_timeout=2)
        self.addCleanup(make_client)
        user = UserFactory.create()
        database.close_all()
        database._permits.get()
        try:
            with self.assertLogs("shop.api.problems", "WARNING"):
                # A thread that has never had a connection, as the server makes them.
                (refused,) = self.at_once(lambda: client.get(f"/users/{user.id}", user=user, status=503))
        finally:
            database._permits.put(None)
        self.assertEqual("1", refused.headers["Retry-After"])
        client.get(f"/users/{user.id}", user=user)
