"""Whatever gets out of the sandbox fails the test that did it, by name, and leaves a clean database to the next."""

import threading
import unittest

import psycopg2

from shop.demo.factories import UserFactory
from shop.domain.models import User
from shop.storage.database import database
from tests.harness.postgres import run_database_url, setUpModule, tearDownModule  # noqa: F401
from tests.harness.tables import tables_with_rows
from tests.support.cases import ApiTestCase


class GuardTest(unittest.TestCase):
    """Runs a guilty test between two innocent ones."""

    def verdicts(self, guilty):
        """Run `guilty` as a test, and return what the run said of it, having seen the others pass."""

        class Inner(ApiTestCase):
            def innocent(self):
                self.assertEqual(0, User.select().count())
                self.client.post("/users", UserFactory.body())

            def test_1_before(self):
                self.innocent()

            def test_2_guilty(self):
                guilty()

            def test_3_after(self):
                self.innocent()

        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(Inner).run(result)
        found = [*result.failures, *result.errors]
        self.assertEqual({"test_2_guilty"}, {test._testMethodName for test, _ in found}, found)
        self.assertEqual([], tables_with_rows())
        return "\n".join(text for _, text in found)

    def assertEscapes(self, guilty, *expected):
        """Fail unless `guilty` fails its test, with these words and with the line that did it."""
        said = self.verdicts(guilty)
        for words in (*expected, "tests/selftest/test_guard.py:"):
            self.assertIn(words, said)

    def test_a_transaction_ended_or_begun_in_plain_sql(self):
        for statement in (
            "COMMIT",
            " commit work",
            "END",
            "ROLLBACK",
            "ABORT",
            "BEGIN",
            "START TRANSACTION",
            "SELECT 1; COMMIT; BEGIN",
            "/* really */ COMMIT",
            "PREPARE TRANSACTION 'x'",
        ):
            with self.subTest(statement):
                self.assertEscapes(
                    lambda statement=statement: database.execute_sql(statement),
                    "was sent as plain SQL; use database.atomic()",
                    "database.execute_sql(statement)",
                )

    def test_an_escape_that_the_code_under_test_swallows(self):
        def guilty():
            try:
                database.connection().cursor().execute("COMMIT")
            except AssertionError:
                UserFactory.create()

        self.assertEscapes(guilty, "'COMMIT' was sent as plain SQL")

    def test_a_connection_left_open(self):
        kept = []

        def guilty():
            kept.append(psycopg2.connect(run_database_url()))

        self.assertEscapes(guilty, "a connection was left open; close it", "psycopg2.connect(run_database_url())")

    def test_rows_committed_through_another_connection(self):
        def guilty():
            UserFactory.build()
            connection = psycopg2.connect(run_database_url())
            with connection, connection.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO users VALUES ('0199e0c1-0000-7000-8000-000000000001', '', '', '', 'staff', now(), '')"
                )
            connection.close()

        self.assertEscapes(guilty, "rows were left in users for every connection to see; test it in a Committed")

    def test_a_thread_left_running(self):
        release = threading.Event()
        self.addCleanup(release.set)

        def guilty():
            threading.Thread(target=lambda: release.wait(30), name="straggler").start()

        self.assertEscapes(guilty, "the thread 'straggler' was left running", "release.wait(30)")

    def test_a_session_s_advisory_lock_left_held(self):
        self.assertEscapes(
            lambda: database.execute_sql("SELECT pg_advisory_lock(1)"),
            "a session's advisory lock was left held; use pg_advisory_xact_lock",
            "pg_advisory_lock(1)",
        )
        locks = database.execute_sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = 0")
        self.assertEqual((0,), locks.fetchone())

    def test_a_setting_left_changed(self):
        for statement in ("SET search_path TO nowhere", "SELECT set_config('search_path', 'nowhere', false)"):
            with self.subTest(statement):
                self.assertEscapes(
                    lambda statement=statement: database.execute_sql(statement),
                    "the session's setting search_path was left changed; use SET LOCAL",
                )

    def test_listening_and_notifying(self):
        for statement in ("LISTEN orders", "NOTIFY orders", "SELECT pg_notify('orders', 'x')"):
            with self.subTest(statement):
                self.assertEscapes(
                    lambda statement=statement: database.execute_sql(statement), "LISTEN or NOTIFY", "were used"
                )

    def test_a_connection_lost(self):
        def guilty():
            backend = database.execute_sql("SELECT pg_backend_pid()").fetchone()
            other = psycopg2.connect(run_database_url())
            with other.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(%s, 5000)", backend)
            other.close()

        self.assertIn("its connection was lost", self.verdicts(guilty))


class InnocentTest(ApiTestCase):
    """What looks like an escape and is none."""

    def test_words_inside_text_savepoints_and_locks_that_are_let_go(self):
        database.execute_sql("SELECT 'x; COMMIT', '''; ROLLBACK'")
        with database.atomic(), database.atomic() as savepoint:
            UserFactory.create()
            savepoint.rollback()
        database.execute_sql("SELECT pg_advisory_xact_lock(1)")
        database.execute_sql("SELECT pg_advisory_lock(2)")
        database.execute_sql("SELECT pg_advisory_unlock(2)")
        with database.atomic():
            database.execute_sql("SET LOCAL search_path TO nowhere")
        database.execute_sql("SET search_path TO nowhere")
        database.execute_sql("RESET search_path")
        thread = threading.Thread(target=lambda: (User.select().count(), database.close()))
        thread.start()
        thread.join()
        psycopg2.connect(run_database_url()).close()
