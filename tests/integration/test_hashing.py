"""A flood of log-ins: what does not fit is refused at once, everything else goes on, and no transaction waits."""

import threading
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

from argon2 import PasswordHasher

from shop import exactjson
from shop.demo.factories import UserFactory
from shop.storage.database import database
from tests.harness.postgres import setUpModule, tearDownModule  # noqa: F401
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

    def test_one_more_is_refused_before_it_costs_anything_and_the_first_succeeds(self):
        with self.assertQueries(0):
            refused = self.log_in()
        self.assertProblem(refused, 503, "SERVICE_UNAVAILABLE", "Too many log-ins and registrations at the moment")
        self.assertEqual("1", refused.headers["Retry-After"])
        with self.assertQueries(0):
            self.client.post("/users", UserFactory.body(), status=503)
        self.go_on.set()
        self.assertEqual(200, self.login.result(LIMIT).status_int)
        self.assertEqual(200, self.log_in().status_int)

    def test_everything_else_is_answered_meanwhile(self):
        self.client.get(f"/users/{self.user.id}", user=self.user)
        self.client.get("/readyz")

    def test_no_transaction_is_open_while_a_password_is_hashed(self):
        others = """
            SELECT state FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'shop' AND pid <> pg_backend_pid()
        """
        states = {state for (state,) in database.execute_sql(others).fetchall()}
        self.assertEqual({"idle"}, states)
