"""What counts as an escape from a test, however it is sent, and what an escape leaves alone."""

import gc
import io
import threading
import unittest
from unittest import mock

import psycopg2
from peewee import PostgresqlDatabase
from psycopg2 import extras, sql

from tests import binding
from tests.harness import guard, sandbox
from tests.harness.cases import ApiTestCase, CommittedApiTestCase
from tests.harness.escapes import Escapes
from tests.harness.findings import Findings
from tests.harness.postgres import current_url, setUpModule, tearDownModule
from tests.harness.tables import ask
from tests.selftest.test_guard import GuardTestCase, insert

COUNT = "SELECT count(*) FROM login_failures"


class ComposedTest(GuardTestCase):
    """SQL that is composed with `psycopg2.sql`, by each method of a cursor that takes it."""

    def assertEscapes(self, send):
        """Fail unless a test that sends SQL with a cursor is said to leave a setting, in the sandbox and without it."""

        def guilty():
            binding.database().connect(reuse_if_open=True)
            send(binding.database().cursor())

        for base in (ApiTestCase, CommittedApiTestCase):
            with self.subTest(base.__name__):
                self.assertIn("the session's setting app.tenant was left changed", self.said(base, guilty))

    def test_execute(self):
        self.assertEscapes(lambda cursor: cursor.execute(sql.SQL("SET app.tenant = {}").format(sql.Literal("9"))))

    def test_executemany(self):
        self.assertEscapes(lambda cursor: cursor.executemany(sql.SQL("SET app.tenant = %s"), [("8",), ("9",)]))

    def test_copy_expert(self):
        copy = sql.SQL("COPY (SELECT set_config('app.tenant', '9', false)) TO STDOUT")
        self.assertEscapes(lambda cursor: cursor.copy_expert(copy, io.StringIO()))

    def test_name_of_a_setting_that_is_a_parameter(self):
        self.assertEscapes(lambda cursor: cursor.execute("SELECT set_config(%s, '9', false)", ("app.tenant",)))


class DataOfTheClassTest(GuardTestCase):
    """The rows of `setUpTestData` are those of the class, whatever one test does."""

    def test_an_escape_in_one_test_leaves_the_rows_of_the_class(self):
        class Inner(ApiTestCase):
            @classmethod
            def setUpTestData(cls):
                insert()

            def look(self):
                self.assertEqual([(1,)], binding.database().execute_sql(COUNT).fetchall())

            def test_1_before(self):
                self.look()
                binding.database().execute_sql("DELETE FROM login_failures")

            def test_2_refused(self):
                binding.database().execute_sql("LISTEN a")

            def test_3_setting(self):
                binding.database().execute_sql("SET app.tenant = '9'")

            def test_4_transaction(self):
                binding.database().begin()
                binding.database().execute_sql("DELETE FROM login_failures")

            def test_5_connection(self):
                type(self).kept = psycopg2.connect(current_url())

            def test_6_after(self):
                self.look()

        failed = self.run_class(Inner)
        self.assertEqual({"test_2_refused", "test_3_setting", "test_4_transaction", "test_5_connection"}, failed.keys())


class ClosedTest(GuardTestCase):
    """Connections that a test has closed."""

    def test_a_closed_connection_that_is_still_referenced_is_innocent(self):
        for base in (ApiTestCase, CommittedApiTestCase):
            kept = []

            class Inner(base):
                def test_it(self, kept=kept):
                    kept.append(psycopg2.connect(current_url()))
                    kept[0].cursor().execute(COUNT)
                    kept[0].close()

            with self.subTest(base.__name__):
                self.assertEqual({}, self.run_class(Inner))
                self.assertTrue(kept[0].closed)


class WatchTest(GuardTestCase):
    """What the guard notes of connections with real commits."""

    def said_of(self, outside):
        """Return what the run says of a class that does something before its first test."""

        class Inner(CommittedApiTestCase):
            @classmethod
            def setUpClass(cls):
                outside()
                super().setUpClass()

            def test_it(self):
                pass

        return "".join(self.run_class(Inner).values())

    def test_rows_of_a_statement_that_was_prepared_before_are_found(self):
        kept = psycopg2.connect(current_url())
        self.addCleanup(kept.close)
        kept.autocommit = True
        kept.cursor().execute("PREPARE one AS INSERT INTO login_failures VALUES ('x', 1, now())")
        guard.forget_outside(binding.database())
        said = self.said_of(lambda: kept.cursor().execute("EXECUTE one"))
        self.assertIn("rows were left in login_failures outside a test", said)

    def test_the_first_line_that_wrote_is_named(self):
        def outside():
            binding.database().execute_sql("SELECT 'a query'")
            binding.database().execute_sql("INSERT INTO login_failures VALUES ('first', 1, now())")
            binding.database().execute_sql("INSERT INTO login_failures VALUES ('second', 1, now())")
            binding.database().execute_sql("SELECT 'another query'")

        said = self.said_of(outside)
        self.assertIn("('first', 1, now())", said.split("\n  at ")[1].splitlines()[0])

    def test_a_query_is_not_taken_for_a_write(self):
        guard.forget_outside(binding.database())
        binding.database().execute_sql("SELECT 1")
        self.assertNotIn(sandbox.database_name(binding.database()), guard.watch.wrote)

    def test_connections_that_are_not_watched_work(self):
        factory = lambda dsn, *_: extras.DictConnection(dsn)  # noqa: E731
        for options in ({"async_": True}, {"connection_factory": factory}):
            with self.subTest(options):
                conn = psycopg2.connect(current_url(), **options)
                extras.wait_select(conn)
                self.assertNotIsInstance(conn, guard.WatchedConnection)
                conn.close()

    def test_columns_may_change_in_either_direction(self):
        rename = "ALTER TABLE login_failures RENAME COLUMN {} TO {}"
        for new in ("a", "z"):

            def guilty(new=new):
                binding.database().execute_sql(rename.format("failures", new))

            with self.subTest(new):
                try:
                    said = self.said(CommittedApiTestCase, guilty)
                finally:
                    ask(rename.format(new, "failures"))
                self.assertIn("tables were left changed", said)


class BeginTest(GuardTestCase):
    """What the sandbox does to a database object when it begins."""

    def test_only_an_open_connection_without_autoconnect_is_opened_again(self):
        for was_open, connects, is_open in ((True, False, True), (True, True, False), (False, False, False)):
            database = PostgresqlDatabase(current_url(), autoconnect=connects)
            if was_open:
                database.connect()
            entered = sandbox.Sandbox(database)
            with self.subTest(was_open=was_open, autoconnect=connects):
                entered.enter()
                try:
                    self.assertEqual(is_open, not database.is_closed())
                finally:
                    entered.leave()

    def test_open_database_object_that_no_sandbox_has_seen_can_be_entered(self):
        database = PostgresqlDatabase(current_url())
        database.connect()
        sandbox._introduced.discard(sandbox.database_name(database))
        entered = sandbox.Sandbox(database)
        entered.enter()
        entered.leave()

    def test_other_databases_are_left_alone_whatever_their_names(self):
        entered = sandbox.Sandbox(binding.database())
        entered.enter()
        self.addCleanup(entered.leave)
        binding.database().execute_sql("SELECT 1")
        for name in ("0_nowhere", "zzz_nowhere"):
            with self.subTest(name), self.assertRaisesRegex(psycopg2.OperationalError, "does not exist"):
                psycopg2.connect(current_url(), dbname=name)

    def test_the_real_connection_rests_only_between_sandboxes(self):
        entered = sandbox.Sandbox(binding.database())
        entered.enter()
        binding.database().execute_sql("SELECT 1")
        real = sandbox.Sandbox._gate.real
        sandbox.Sandbox.rest()
        self.assertFalse(real.closed)
        entered.leave()
        sandbox.Sandbox.rest()
        self.assertTrue(real.closed)

    def test_the_real_connection_is_kept_for_the_next_sandbox(self):
        used = []
        for _ in range(2):
            entered = sandbox.Sandbox(binding.database())
            entered.enter()
            binding.database().execute_sql("SELECT 1")
            used.append(sandbox.Sandbox._gate.real)
            entered.leave()
        self.assertIs(*used)

    def test_a_part_can_be_undone_before_anything_has_connected(self):
        sandbox.Sandbox.rest()
        entered = sandbox.Sandbox(binding.database())
        with mock.patch.object(sandbox.Sandbox, "_parameters", {}):
            entered.enter()
            try:
                with entered.undone():
                    self.assertTrue(binding.database().is_closed())
            finally:
                entered.leave()
                sandbox.Sandbox.rest()

    def test_database_object_without_a_database_is_left_alone(self):
        entered = sandbox.Sandbox(PostgresqlDatabase(None))
        entered.enter()
        entered.leave()

    def test_connection_that_waits_for_the_garbage_collector_is_innocent(self):
        class Inner(ApiTestCase):
            def test_it(self):
                cycle = [psycopg2.connect(current_url())]
                cycle.append(cycle)

        gc.disable()
        self.addCleanup(gc.enable)
        self.assertEqual({}, self.run_class(Inner))

    def test_guard_looks_only_at_connections_of_its_database(self):
        class Other:
            closed = 0
            look_at = mock.Mock()

        others = [Other(), Other()]
        for other, name in zip(others, ("", "zzz"), strict=True):
            other.database_name = name
            guard.watch.connections.add(other)
        guarded = guard.Guard(binding.database())
        guarded.enter()
        guarded.leave()
        Other.look_at.assert_not_called()


class ThreadsTest(unittest.TestCase):
    """Threads that are left running."""

    def test_only_a_daemon_that_replaces_another_one_is_innocent(self):
        ended = threading.Event()
        before = {*threading.enumerate(), threading.Thread(name="watchdog")}
        for name, is_daemon, is_innocent in (
            ("watchdog", True, True),
            ("watchdog", False, False),
            ("another", True, False),
            ("another", False, False),
        ):
            with self.subTest(name, is_daemon=is_daemon):
                thread = threading.Thread(target=ended.wait, name=name, daemon=is_daemon)
                thread.start()
                escapes = Escapes()
                sandbox.note_threads_left(before, escapes)
                ended.set()
                thread.join()
                ended.clear()
                self.assertEqual(is_innocent, not escapes)


class NameTest(unittest.TestCase):
    """The name of the database that a database object is for."""

    def test_name_is_found_in_each_way_to_write_it(self):
        for written in ("shop", "dbname=shop host=localhost", "postgresql:///shop", "postgres://localhost/shop"):
            with self.subTest(written):
                self.assertEqual("shop", sandbox.database_name(PostgresqlDatabase(written)))
        self.assertIsNone(sandbox.database_name(PostgresqlDatabase(None)))


class CountTest(unittest.TestCase):
    """How often the sandbox was entered, as the run and the report say."""

    def test_each_test_and_the_data_of_a_class_enter_the_sandbox_once(self):
        class Inner(ApiTestCase):
            @classmethod
            def setUpTestData(cls):
                insert()

            def test_1(self):
                with self.isolation.undone():
                    insert()

            def test_2(self):
                pass

        findings = Findings()
        with mock.patch.object(sandbox, "findings", findings):
            unittest.defaultTestLoader.loadTestsFromTestCase(Inner).run(unittest.TestResult())
        self.assertEqual(3, findings.sandboxes)
