"""The login rate limit: guessing is stopped before any hashing, for known and unknown addresses alike."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from unittest import mock

import psycopg2
from argon2 import PasswordHasher

from shop.demo.factories import UserFactory
from shop.domain.models import LoginFailures
from shop.storage.database import database
from tests.harness import statements
from tests.harness.postgres import run_database_url, setUpModule, tearDownModule
from tests.harness.tables import ask
from tests.support.cases import ApiTestCase, CommittedApiTestCase, make_client

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class RateLimitTest(ApiTestCase):
    """Ten failures in fifteen minutes, on a clock of our own."""

    def setUp(self):
        super().setUp()
        self.user = UserFactory.create(email="ada@example.com")
        self.now = START
        self.client = make_client(clock=lambda: self.now)

    def log_in(self, email="ada@example.com", password="wrong password", status=401, client=None):
        """Try to log in."""
        body = {"email": email, "password": password}
        return (client or self.client).post("/users/login", body, status=status)

    def test_right_password_is_429_after_ten_failures(self):
        for _ in range(10):
            self.log_in()
        with mock.patch.object(PasswordHasher, "verify", autospec=True) as verify:
            response = self.log_in(password=self.user.password, status=429)
        self.assertProblem(response, 429, "TOO_MANY_ATTEMPTS", "Too many failed attempts; try again later")
        self.assertEqual("900", response.headers["Retry-After"])
        verify.assert_not_called()

    def test_unknown_address_is_rate_limited_in_the_same_way(self):
        answers = []
        for email in ("ada@example.com", "nobody@example.com", "no address at all"):
            for _ in range(10):
                self.log_in(email)
            response = self.log_in(email, status=429)
            answers.append((response.headers["Retry-After"], {**response.json, "requestId": ""}))
        self.assertEqual([answers[0]] * 3, answers)

    def test_retry_after_tells_when_logins_work_again(self):
        for _ in range(10):
            self.log_in()
        self.now = START + timedelta(minutes=14, seconds=30, milliseconds=1)
        self.assertEqual("30", self.log_in(status=429).headers["Retry-After"])
        self.now = START + timedelta(minutes=15)
        self.log_in(password=self.user.password, status=200)

    def test_refused_attempts_do_not_extend_the_wait(self):
        for _ in range(10):
            self.log_in()
        self.now = START + timedelta(minutes=14)
        for _ in range(20):
            self.log_in(status=429)
        self.now = START + timedelta(minutes=15)
        self.log_in()

    def test_new_window_counts_from_one(self):
        for _ in range(9):
            self.log_in()
        self.now = START + timedelta(minutes=15)
        for _ in range(10):
            self.log_in()
        self.assertEqual("900", self.log_in(status=429).headers["Retry-After"])

    def test_window_begins_with_its_first_failure(self):
        self.log_in()
        self.now = START + timedelta(minutes=10)
        for _ in range(9):
            self.log_in()
        self.assertEqual("300", self.log_in(status=429).headers["Retry-After"])

    def test_successful_login_resets_the_failures(self):
        for _ in range(3):
            for _ in range(9):
                self.log_in()
            self.log_in(password=self.user.password, status=200)
        self.assertEqual(0, LoginFailures.select().count())

    def test_all_spellings_of_an_address_share_one_count(self):
        for email in ("ada@example.com", "ADA@example.com", "Ada@Example.com", " ada@EXAMPLE.com ", "ada@example.COM"):
            self.log_in(email)
            self.log_in(email)
        self.log_in("aDa@example.com", status=429)
        self.assertEqual(1, LoginFailures.select().count())

    def test_other_addresses_are_not_limited(self):
        other = UserFactory.create()
        for _ in range(10):
            self.log_in()
        self.log_in(other.email, other.password, status=200)

    def test_expired_failures_do_not_count(self):
        other = UserFactory.create()
        for email in (self.user.email, other.email):
            for _ in range(10):
                self.log_in(email)
        self.now = START + timedelta(minutes=16)
        for user in (self.user, other, UserFactory.create()):
            self.log_in(user.email, user.password, status=200)

    def test_limit_holds_if_concurrent_failures_have_exceeded_it(self):
        for _ in range(10):
            self.log_in()
        LoginFailures.update(failures=LoginFailures.failures + 1).execute()
        self.log_in(status=429)

    def test_successful_login_keeps_the_failures_of_other_addresses(self):
        # Accounts are stored as hashes: among many, some sort before that of the user and some after it.
        others = [f"guess-{number}@example.com" for number in range(10)]
        for email in (self.user.email, *others):
            self.log_in(email)
        self.log_in(password=self.user.password, status=200)
        self.assertEqual(10, LoginFailures.select().count())

    def test_limit_is_shared_by_workers_and_survives_a_restart(self):
        for _ in range(10):
            self.log_in()
        self.log_in(status=429, client=make_client(clock=lambda: self.now))

    def test_either_setting_turns_the_limit_off(self):
        strict = make_client(clock=lambda: self.now, login_max_failures=1, login_window=60)
        self.log_in(client=strict)
        self.assertEqual("60", self.log_in(client=strict, status=429).headers["Retry-After"])
        for off in ({"login_max_failures": 0}, {"login_window": 0}):
            with self.subTest(off), self.assertQueries(15):
                lenient = make_client(clock=lambda: self.now, **off)
                for _ in range(15):
                    self.log_in(client=lenient)

    def test_a_login_without_failures_deletes_none(self):
        for failures, count in ((0, 1), (10, 2)):
            client = make_client(clock=lambda: self.now, login_max_failures=failures)
            with self.subTest(failures), self.assertQueries(count):
                self.log_in(password=self.user.password, status=200, client=client)

    def test_window_may_be_as_short_as_a_second(self):
        strict = make_client(clock=lambda: self.now, login_max_failures=1, login_window=1)
        self.log_in(client=strict)
        self.assertEqual("1", self.log_in(client=strict, status=429).headers["Retry-After"])

    def test_invalid_login_request_does_not_count_as_failure(self):
        for _ in range(12):
            self.client.post("/users/login", {"email": "ada@example.com"}, status=400)
        self.assertEqual(0, LoginFailures.select().count())

    def test_neither_address_nor_password_is_stored(self):
        self.log_in(password="do not keep me")
        (row,) = database.execute_sql("SELECT login_failures::text FROM login_failures").fetchone()
        self.assertNotIn("ada", row)
        self.assertNotIn(b"ada@example.com".hex(), row)
        self.assertNotIn("do not keep me", row)

    def test_expired_failures_are_deleted_by_later_ones(self):
        for number in range(25):
            self.log_in(f"guess-{number}@example.com")
        self.now = START + timedelta(hours=1)
        for number in range(3):
            self.log_in(f"later-{number}@example.com")
        self.assertEqual(3, LoginFailures.select().count())

    def test_each_failure_deletes_the_ten_oldest_expired_ones(self):
        for minutes in range(12, 0, -1):
            since = START - timedelta(days=1, minutes=-minutes)
            LoginFailures.create(account=b"%d" % minutes, failures=1, since=since)
        self.log_in()
        accounts = {bytes(row.account) for row in LoginFailures.select().where(LoginFailures.since < START)}
        self.assertEqual({b"11", b"12"}, accounts)


class WorkTest(ApiTestCase):
    """How much work an answer takes, counted instead of timed."""

    def test_known_and_unknown_address_cost_the_same_work(self):
        user = UserFactory.create()
        work = []
        for email in (user.email, "nobody@example.com"):
            verifying = mock.patch.object(PasswordHasher, "verify", autospec=True, side_effect=PasswordHasher.verify)
            with statements.noted() as events, verifying as verify:
                self.client.post("/users/login", {"email": email, "password": "wrong"}, status=401)
            parameters = [call.args[1].split("$")[:4] for call in verify.call_args_list]
            work.append((parameters, [event.sql for event in events]))
        self.assertEqual(1, len(work[0][0]))
        self.assertEqual(work[0], work[1])


class CommittedRateLimitTest(CommittedApiTestCase):
    """What is kept although the request fails."""

    def test_failure_is_committed(self):
        self.client.post("/users/login", {"email": "ada@example.com", "password": "wrong"}, status=401)
        self.assertEqual([(1,)], ask("SELECT count(*) FROM login_failures"), "rows that another connection sees")

    def test_failure_does_not_wait_for_a_concurrent_cleanup(self):
        long_ago = make_client(clock=lambda: START)
        long_ago.post("/users/login", {"email": "ada@example.com", "password": "wrong"}, status=401)
        with closing(psycopg2.connect(run_database_url())) as other:
            other.cursor().execute("SELECT FROM login_failures FOR UPDATE")
            self.client.post("/users/login", {"email": "bob@example.com", "password": "wrong"}, status=401)
            self.assertEqual(2, LoginFailures.select().count(), "the other clears its row away")

    def test_concurrent_failures_are_all_counted(self):
        def guess():
            return self.client.post("/users/login", {"email": "ada@example.com", "password": "wrong"}, status=401)

        self.at_once(*[guess] * 9)
        self.assertEqual(9, LoginFailures.get().failures)
        guess()
        self.client.post("/users/login", {"email": "ada@example.com", "password": "wrong"}, status=429)
