"""Whatever a test leaves behind fails it by name, and the next test finds a clean database."""

import threading
import unittest

import psycopg2
from psycopg2 import extensions

from tests import binding
from tests.harness import cases
from tests.harness.cases import ApiTestCase, CommittedApiTestCase
from tests.harness.postgres import current_url, setUpModule, tearDownModule
from tests.harness.tables import ask, tables_with_rows

THERE = "SELECT count(*) FROM pg_class WHERE relname = 'left_there'"


def insert(execute=None):
    """Write a row into a table of the project, whichever it is, without knowing its columns."""
    execute = execute or binding.database().execute_sql
    execute("INSERT INTO login_failures VALUES ('x', 1, now())")


class GuardTestCase(unittest.TestCase):
    """Runs guilty tests between innocent ones."""

    maxDiff = None

    def run_class(self, inner):
        """Run a class of tests, and return what failed by its name."""
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(inner).run(result)
        self.assertEqual([], tables_with_rows())
        return {getattr(test, "_testMethodName", str(test)): text for test, text in result.failures + result.errors}

    def said(self, base, guilty):
        """Run `guilty` as a test of `base` between two innocent ones, and return what the run says of it."""

        class Inner(base):
            def innocent(self):
                self.assertEqual([(0,)], binding.database().execute_sql("SELECT count(*) FROM users").fetchall())
                insert()

            def test_1_before(self):
                self.innocent()

            def test_2_guilty(self):
                guilty()

            def test_3_after(self):
                self.innocent()

        failed = self.run_class(Inner)
        self.assertEqual({"test_2_guilty"}, failed.keys(), failed)
        return failed["test_2_guilty"]

    def assertNamed(self, base, guilty, *expected):
        """Fail unless `guilty` fails its test with these words and with the line that did it."""
        said = self.said(base, guilty)
        for words in (*expected, "tests/selftest/test_guard.py:"):
            self.assertIn(words, said)


class CommittedTest(GuardTestCase):
    """Tests with real commits."""

    def run_sql(self, *statements):
        """Return code that runs statements."""

        def guilty():
            for statement in statements:
                binding.database().execute_sql(statement)

        return guilty

    def assertNamedSql(self, statements, *expected):
        """Fail unless a test that runs the statements is named, on the thread's own connection."""

        def guilty():
            binding.database().connect(reuse_if_open=True)
            self.run_sql(*statements)()

        self.assertNamed(CommittedApiTestCase, guilty, *expected, "binding.database().execute_sql(statement)")

    def test_setting(self):
        for statement in ("SET statement_timeout = '60ms'", "SET app.tenant = '9'", "SET search_path TO nowhere"):
            with self.subTest(statement):
                self.assertNamedSql([statement], "was left changed; use SET LOCAL inside a transaction")

    def test_setting_of_a_connection_that_goes_back_to_the_pool(self):
        guilty = self.run_sql("SET statement_timeout = '60ms'")

        def one_connection():
            binding.database().connect(reuse_if_open=True)
            guilty()
            binding.database().close()

        self.assertNamed(CommittedApiTestCase, one_connection, "the session's setting statement_timeout")

    def test_advisory_lock(self):
        self.assertNamedSql(["SELECT pg_advisory_lock(1)"], "a session's advisory lock was left held")

    def test_advisory_lock_is_named_with_the_line_that_left_it(self):
        class Inner(CommittedApiTestCase):
            def setUp(self):
                super().setUp()
                binding.database().connect(reuse_if_open=True)

            def test_1_innocent(self):
                for statement in ("SELECT pg_advisory_lock(1)", "SELECT pg_advisory_unlock(1)"):
                    binding.database().execute_sql(statement)

            def test_2_guilty(self):
                binding.database().execute_sql("SELECT pg_advisory_lock(2)")

        failed = self.run_class(Inner)
        self.assertEqual({"test_2_guilty"}, failed.keys())
        self.assertIn("in test_2_guilty", failed["test_2_guilty"])

    def test_temporary_table(self):
        self.assertNamedSql(["CREATE TEMP TABLE users AS SELECT 1 AS id"], "the temporary table users was left")

    def test_open_transaction(self):
        self.assertNamedSql(["BEGIN", "LOCK TABLE users"], "a transaction was left open; commit it or roll it back")

    def test_open_transaction_of_a_connection_of_its_own(self):
        kept = []

        def guilty():
            kept.append(psycopg2.connect(current_url()))
            insert(kept[0].cursor().execute)

        self.assertNamed(CommittedApiTestCase, guilty, "a transaction was left open")
        self.assertTrue(kept[0].closed)

    def test_table_view_and_column(self):
        for statement, what in (
            ("CREATE TABLE left_there (id serial PRIMARY KEY)", "the table left_there was left"),
            ("SELECT 1 AS x INTO left_there", "the table left_there was left"),
            ("CREATE VIEW left_there AS SELECT 1 AS x", "the view left_there was left"),
            ("CREATE SEQUENCE left_there", "the sequence left_there was left"),
            ("CREATE INDEX left_there ON users (name)", "the index left_there was left"),
        ):
            with self.subTest(statement):
                self.assertNamedSql([statement], f"{what}; drop it")
                self.assertEqual([(0,)], ask(THERE))

    def test_function_trigger_and_type(self):
        function = "CREATE FUNCTION left_there() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
        trigger = "CREATE TRIGGER noticed BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION left_there()"
        self.assertNamedSql(
            [function, trigger], "the function left_there() was left", "the trigger noticed on users was left"
        )
        self.assertNamedSql(["CREATE TYPE left_there AS ENUM ('a')"], "the type left_there was left")
        self.assertEqual([(0, 0)], ask("SELECT count(*), count(*) FROM pg_proc WHERE proname = 'left_there'"))
        self.assertEqual([(0,)], ask("SELECT count(*) FROM pg_type WHERE typname = 'left_there'"))

    def test_column(self):
        try:
            self.assertNamedSql(["ALTER TABLE login_failures ADD COLUMN more int"], "tables were left changed")
        finally:
            ask("ALTER TABLE login_failures DROP COLUMN IF EXISTS more")

    def test_thread(self):
        release = threading.Event()
        self.addCleanup(release.set)
        self.assertNamed(
            CommittedApiTestCase,
            lambda: threading.Thread(target=lambda: release.wait(30), name="straggler").start(),
            "the thread 'straggler' was left running",
            "release.wait(30)",
        )

    def test_rows_and_what_is_taken_back_are_innocent(self):
        class Inner(CommittedApiTestCase):
            def test_it(self):
                database = binding.database()
                with database.connection_context():
                    insert()
                    for statement in (
                        "SET work_mem = '5MB'",
                        "RESET work_mem",
                        "CREATE TEMP TABLE t (x int)",
                        "DROP TABLE t",
                        "CREATE TABLE left_there (x int)",
                        "DROP TABLE left_there",
                        "SELECT pg_advisory_lock(1)",
                        "SELECT pg_advisory_unlock(1)",
                    ):
                        database.execute_sql(statement)
                    with database.atomic():
                        database.execute_sql("SET LOCAL work_mem = '5MB'")

        self.assertEqual({}, self.run_class(Inner))

    def test_connection_of_the_driver_used_by_several_tests_is_innocent(self):
        class Preparing(extensions.connection):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                self.cursor().execute("SELECT 1")
                self.rollback()

        kept = psycopg2.connect(current_url(), connection_factory=Preparing)
        self.addCleanup(kept.close)

        class Inner(CommittedApiTestCase):
            def test_1(self):
                with kept, kept.cursor() as cursor:
                    cursor.execute("SET work_mem = '5MB'")
                    cursor.execute("RESET work_mem")

            test_2 = test_1

        self.assertEqual({}, self.run_class(Inner))
        self.assertEqual(extensions.TRANSACTION_STATUS_IDLE, kept.get_transaction_status())


class OutsideTest(GuardTestCase):
    """Rows that are made outside a test."""

    def test_rows_of_set_up_class_are_in_the_sandbox_of_the_class(self):
        class Inner(ApiTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                insert()

            def test_it(self):
                count = "SELECT count(*) FROM login_failures"
                self.assertEqual([(1,)], binding.database().execute_sql(count).fetchall())
                self.assertEqual([(0,)], ask(count))

            test_again = test_it

        self.assertEqual({}, self.run_class(Inner))

    def test_rows_made_before_the_kit_s_set_up_class_fail_the_class(self):
        for base in (ApiTestCase, CommittedApiTestCase):

            class Inner(base):
                @classmethod
                def setUpClass(cls):
                    insert()
                    super().setUpClass()

                def test_it(self):
                    self.fail("it does not run")

            ((name, said),) = self.run_class(Inner).items()
            self.assertIn("setUpClass", name)
            self.assertIn("rows were left in login_failures outside a test; make them in setUpTestData", said)
            self.assertIn("tests/selftest/test_guard.py:", said)

    def test_rows_of_set_up_class_of_a_committed_test_fail_it(self):
        class Inner(CommittedApiTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                insert()

            def test_1(self):
                self.fail("it does not run")

            def test_2(self):
                self.assertEqual([], tables_with_rows())

        failed = self.run_class(Inner)
        self.assertEqual({"test_1"}, failed.keys())
        self.assertIn("rows were left in login_failures outside a test", failed["test_1"])

    def test_rows_made_after_the_last_test_fail_the_class(self):
        class Inner(ApiTestCase):
            @classmethod
            def tearDownClass(cls):
                insert()

            def test_it(self):
                pass

        ((name, said),) = self.run_class(Inner).items()
        self.assertIn("tearDownClass", name)
        self.assertIn("rows were left in login_failures outside a test", said)


class SandboxedTest(GuardTestCase):
    """Tests in the sandbox; `test_sandbox_refusals` has the details."""

    def test_what_escapes_fails_its_test_alone(self):
        for guilty, expected in (
            (lambda: binding.database().execute_sql("LISTEN a"), "LISTEN or NOTIFY"),
            (lambda: binding.database().execute_sql("SET app.tenant = '9'"), "app.tenant was left changed"),
            (lambda: binding.database().begin(), "a transaction was left open"),
        ):
            self.assertIn(expected, self.said(ApiTestCase, guilty))

    def test_interrupt_ends_the_run_and_leaves_the_next_test_a_clean_database(self):
        def guilty():
            insert()
            raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            self.said(ApiTestCase, guilty)
        self.assertIn("LISTEN", self.said(ApiTestCase, lambda: binding.database().execute_sql("LISTEN a")))


class DeletionTest(GuardTestCase):
    """The third isolation: real commits, and the rows are deleted."""

    def setUp(self):
        cases.use_isolation("delete")
        self.addCleanup(cases.use_isolation, "sandbox")

    def test_rows_are_deleted_and_those_of_the_class_are_put_back(self):
        count = "SELECT count(*) FROM login_failures"

        class Inner(ApiTestCase):
            @classmethod
            def setUpTestData(cls):
                insert()

            def test_1(self):
                self.assertEqual([(1,)], ask(count))
                with self.isolation.undone():
                    binding.database().execute_sql("DELETE FROM login_failures")
                self.assertEqual([(1,)], ask(count))
                binding.database().execute_sql("UPDATE login_failures SET failures = 7")

            def test_2(self):
                self.assertEqual([(1,)], ask("SELECT failures FROM login_failures"))

        self.assertEqual({}, self.run_class(Inner))

    def test_what_a_test_creates_is_removed_as_in_a_sandbox(self):
        class Inner(ApiTestCase):
            def test_1(self):
                binding.database().connect(reuse_if_open=True)
                for statement in ("CREATE TABLE left_there (x int)", "CREATE TEMP TABLE users (x int)"):
                    binding.database().execute_sql(statement)

            def test_2(self):
                self.assertEqual([(0,)], ask(THERE))
                self.assertEqual([], binding.database().execute_sql("SELECT name FROM users").fetchall())

        self.assertEqual({}, self.run_class(Inner))

    def test_what_is_left_behind_is_named(self):
        self.assertIn("app.tenant", self.said(ApiTestCase, self.guilty))

    def guilty(self):
        """Leave a setting changed."""
        binding.database().connect(reuse_if_open=True)
        binding.database().execute_sql("SET app.tenant = '9'")
