"""What the sandbox cannot stand in for fails the test by name, with the line of the code and with advice."""

import threading
from types import SimpleNamespace

import psycopg2
from peewee import PostgresqlDatabase
from psycopg2 import extensions, extras, sql

from tests.harness.escapes import SandboxError
from tests.harness.postgres import setUpModule, tearDownModule
from tests.harness.sandbox import Sandbox, shut
from tests.selftest.verdicts import KINDS, VerdictTestCase

LOCKS = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON oid = database
    WHERE locktype = 'advisory' AND datname = current_database()
"""
COMMITTED = "test it in a CommittedApiTestCase"


class RefusalTestCase(VerdictTestCase):
    """Runs guilty code in a sandbox, and innocent code after it."""

    def said(self, guilty, db=None):
        """Return what the sandbox says of `guilty`, whose own exceptions are swallowed, as a service might."""
        db = db or PostgresqlDatabase(self.url)
        sandbox = Sandbox(db)
        sandbox.enter()
        try:
            guilty(db)
        except Exception as error:
            self.swallowed = error
        with self.assertRaises(SandboxError) as caught:
            sandbox.leave()
        self.assertInnocent(db)
        return str(caught.exception)

    def assertInnocent(self, db):
        """Fail unless another sandbox works on `db`, and none has left anything."""
        sandbox = Sandbox(db)
        sandbox.enter()
        try:
            db.execute_sql("INSERT INTO item (name) VALUES ('innocent')")
            self.assertEqual([("innocent",)], db.execute_sql("SELECT name FROM item").fetchall())
        finally:
            sandbox.leave()
        self.assertEqual([(0,)], self.ask("SELECT count(*) FROM item"))
        self.assertEqual([(0,)], self.ask(LOCKS))
        shut(db)

    def assertRefused(self, guilty, *expected, line="test_sandbox_refusals.py:"):
        """Fail unless the sandbox names what `guilty` did, with the line and with advice."""
        said = self.said(guilty)
        for words in (*expected, line):
            self.assertIn(words, said)

    def assertRefusedSql(self, statements, *expected):
        """Fail unless each statement is refused, sent as text, as bytes and composed."""
        for statement in statements:
            for form in (statement, statement.encode(), sql.SQL(statement)):
                with self.subTest(form):
                    self.assertRefused(
                        lambda db, form=form: db.cursor().execute(form), *expected, "db.cursor().execute(form)"
                    )


class StatementTest(RefusalTestCase):
    """Statements."""

    def test_listen_and_notify(self):
        statements = "LISTEN orders", "/* x */ notify orders, 'x'", "SELECT pg_notify('orders', 'x')"
        self.assertRefusedSql(statements, "LISTEN or NOTIFY, which take effect at COMMIT, were used", COMMITTED)

    def test_statements_that_cannot_run_in_a_transaction(self):
        statements = (
            "VACUUM item",
            "CREATE INDEX CONCURRENTLY i ON item (number)",
            "CREATE DATABASE other",
            "ALTER SYSTEM SET work_mem = '5MB'",
            "DISCARD ALL",
            "CALL committing()",
            "DO $$ BEGIN COMMIT; END $$",
        )
        for statement in statements:
            with self.subTest(statement):
                self.assertRefused(
                    lambda db, statement=statement: db.execute_sql(statement),
                    "a statement cannot run in the sandbox's transaction (",
                    COMMITTED,
                )

    def test_value_of_an_enum_that_was_just_added(self):
        def guilty(db):
            db.execute_sql("ALTER TYPE mood ADD VALUE 'bad'")
            db.execute_sql("SELECT 'bad'::mood")

        self.assertRefused(guilty, "a statement cannot run in the sandbox's transaction (unsafe use", COMMITTED)

    def test_two_phase_commit(self):
        self.assertRefusedSql(["PREPARE TRANSACTION 'x'", "COMMIT PREPARED 'x'"], "commits in two phases", COMMITTED)
        self.assertRefused(lambda db: db.connection().tpc_begin("x"), "connection.tpc_begin() was used", COMMITTED)

    def test_transaction_ended_among_other_statements(self):
        statements = "SELECT 1; COMMIT; BEGIN", "BEGIN; SELECT 1; COMMIT"
        self.assertRefusedSql(statements, "among other statements; send each one by itself")

    def test_text_that_is_not_sql(self):
        self.assertRefused(lambda db: db.execute_sql("SELECT 'x; COMMIT"), "could not be read", COMMITTED)

    def test_setting_whose_name_is_computed(self):
        statement = "SELECT set_config('app.' || 'tenant', '1', true)"
        self.assertRefused(lambda db: db.execute_sql(statement), "changes a setting whose name only the server knows")

    def test_set_after_set_local_in_one_transaction(self):
        def guilty(db):
            with db.atomic():
                db.execute_sql("SET LOCAL work_mem = '5MB'")
                db.execute_sql("SET work_mem = '6MB'")

        self.assertRefused(guilty, "work_mem was set for the transaction and then for the session")

    def test_refused_statement_that_the_code_swallows(self):
        def guilty(db):
            with db.atomic():
                try:
                    db.execute_sql("LISTEN orders")
                except AssertionError:
                    db.execute_sql("INSERT INTO item (name) VALUES ('a')")

        self.assertRefused(guilty, "LISTEN or NOTIFY")


class IsolationLevelTest(RefusalTestCase):
    """Isolation levels, however they are requested."""

    def test_in_sql(self):
        statements = (
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            "START TRANSACTION READ ONLY, ISOLATION LEVEL REPEATABLE READ",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        )
        self.assertRefusedSql(statements, "asks for another isolation level", COMMITTED)

    def test_as_a_setting(self):
        statements = (
            "SET default_transaction_isolation = 'serializable'",
            "SET transaction_isolation = 'serializable'",
            "SELECT set_config('default_transaction_isolation', 'serializable', false)",
            "SET default_transaction_read_only = on",
        )
        self.assertRefusedSql(statements, "was changed, which holds from the next transaction on", COMMITTED)
        self.assertRefusedSql(
            ["SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"], "holds from the next transaction"
        )

    def test_by_peewee(self):
        def guilty(db):
            with db.atomic("SERIALIZABLE"):
                db.execute_sql("SELECT 1")

        self.assertRefused(guilty, "asks for another isolation level", COMMITTED)
        db = PostgresqlDatabase(self.url, isolation_level="SERIALIZABLE")
        sandbox = Sandbox(db)
        sandbox.enter()
        with self.assertRaisesRegex(SandboxError, "a connection asked for the isolation level 3"):
            db.connect()
        with self.assertRaisesRegex(SandboxError, COMMITTED):
            sandbox.leave()

    def test_by_the_driver(self):
        for ask in (
            lambda conn: conn.set_session(isolation_level="SERIALIZABLE"),
            lambda conn: conn.set_session(readonly=True),
            lambda conn: setattr(conn, "isolation_level", extensions.ISOLATION_LEVEL_SERIALIZABLE),
            lambda conn: setattr(conn, "readonly", True),
            lambda conn: setattr(conn, "deferrable", True),
        ):
            self.assertRefused(lambda db, ask=ask: ask(db.connection()), "a connection asked for", COMMITTED)

    def test_of_the_whole_database(self):
        ((name,),) = self.ask("SELECT current_database()")
        self.ask(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'serializable'")
        try:
            db = PostgresqlDatabase(self.url)
            Sandbox._drop()
            sandbox = Sandbox(db)
            sandbox.enter()
            try:
                with self.assertRaises(SandboxError):
                    db.execute_sql("SELECT 1")
            finally:
                with self.assertRaisesRegex(SandboxError, f"default isolation level is serializable; {COMMITTED}"):
                    sandbox.leave()
        finally:
            self.ask(f'ALTER DATABASE "{name}" RESET default_transaction_isolation')
        self.assertInnocent(db)

    def test_as_an_option_of_the_connection(self):
        db = PostgresqlDatabase(self.url, options="-c default_transaction_isolation=serializable")
        sandbox = Sandbox(db)
        sandbox.enter()
        try:
            with self.assertRaises(SandboxError):
                db.execute_sql("SELECT 1")
        finally:
            with self.assertRaisesRegex(SandboxError, f"default isolation level is serializable; {COMMITTED}"):
                sandbox.leave()
        shut(db)

    def test_for_connections_to_come(self):
        statements = (
            "ALTER ROLE CURRENT_USER SET default_transaction_isolation = 'serializable'",
            "ALTER DATABASE postgres SET work_mem = '5MB'",
        )
        self.assertRefusedSql(statements, "changes what later connections begin with", COMMITTED)


class LeftBehindTest(RefusalTestCase):
    """What a later test would find."""

    def test_setting(self):
        for statement in (
            "SET search_path TO nowhere",
            "SELECT set_config('search_path', 'nowhere', false)",
            "SET app.tenant = '9'",
            "SET TIME ZONE 'Asia/Tokyo'",
            "SELECT set_config('role', current_user, false)",
        ):
            with self.subTest(statement):
                self.assertRefused(
                    lambda db, statement=statement: db.execute_sql(statement),
                    "was left changed; use SET LOCAL inside a transaction",
                    "db.execute_sql(statement)",
                )

    def test_setting_followed_by_a_failing_raw_cursor(self):
        def guilty(db):
            db.execute_sql("SET work_mem = '5MB'")
            db.cursor().execute("SELECT 1 / 0")

        self.assertRefused(guilty, "the session's setting work_mem was left changed")

    def test_setting_in_every_kind_of_database(self):
        for make in KINDS.values():
            said = self.said(lambda db: db.execute_sql("SET work_mem = '5MB'"), make(self.url))
            self.assertIn("the session's setting work_mem was left changed", said)

    def test_setting_of_a_connection_s_beginning_is_none(self):
        class Prepared(PostgresqlDatabase):
            def _connect(self):
                conn = super()._connect()
                conn.cursor().execute("SET work_mem = '5MB'")
                return conn

        db = Prepared(self.url)
        sandbox = Sandbox(db)
        sandbox.enter()
        self.assertEqual(("5MB",), db.execute_sql("SHOW work_mem").fetchone())
        sandbox.leave()
        shut(db)

    def test_session_advisory_lock(self):
        self.assertRefused(
            lambda db: db.execute_sql("SELECT pg_advisory_lock(1)"),
            "a session's advisory lock was left held; use pg_advisory_xact_lock",
            "pg_advisory_lock(1)",
        )

    def test_session_advisory_lock_that_a_function_takes(self):
        self.assertRefused(lambda db: db.execute_sql("SELECT take_lock()"), "a session's advisory lock was left held")

    def test_connection(self):
        kept = []
        self.assertRefused(
            lambda _: kept.append(psycopg2.connect(self.url)),
            "a connection was left open; close it",
            "psycopg2.connect(self.url)",
        )
        self.assertTrue(kept[0].closed)

    def test_transaction(self):
        self.assertRefused(lambda db: db.begin(), "a transaction was left open", line="")

    def test_thread(self):
        release = threading.Event()
        self.addCleanup(release.set)
        self.assertRefused(
            lambda _: threading.Thread(target=lambda: release.wait(30), name="straggler").start(),
            "the thread 'straggler' was left running; join it",
            "release.wait(30)",
        )

    def test_connection_that_is_lost(self):
        def guilty(db):
            (backend,) = db.execute_sql("SELECT pg_backend_pid()").fetchone()
            self.ask(f"SELECT pg_terminate_backend({backend}, 5000)")

        self.assertIn("its connection was lost", self.said(guilty))

    def test_new_connection_after_one_that_is_lost(self):
        def guilty(db):
            (backend,) = db.execute_sql("SELECT pg_backend_pid()").fetchone()
            self.ask(f"SELECT pg_terminate_backend({backend}, 5000)")
            with self.assertRaises(psycopg2.OperationalError):
                db.connection().cursor().execute("SELECT 1")
            psycopg2.connect(self.url)

        self.assertIn("connection was lost, and with it all that the test had written", self.said(guilty))


class OtherConnectionTest(RefusalTestCase):
    """What one connection would see of another one, or wait for."""

    def test_thread_that_waits_for_the_transaction_of_another(self):
        def guilty(db):
            with db.atomic():
                thread = threading.Thread(target=look, args=[db])
                thread.start()
                thread.join()

        def look(db):
            try:
                db.execute_sql("SELECT 1")
            except AssertionError:
                pass
            finally:
                db.close()

        self.assertRefused(guilty, "a connection had to wait for the transaction of another one", COMMITTED)

    def test_second_connection_of_the_same_thread(self):
        def guilty(db):
            other = psycopg2.connect(self.url)
            with db.atomic():
                db.execute_sql("SELECT 1")
                try:
                    other.cursor().execute("SELECT 1")
                finally:
                    other.close()

        self.assertRefused(
            guilty, "a connection had to wait for the transaction of another one, begun at tests/selftest"
        )

    def two(self, first, second):
        """Return code that sends `first` on one connection, and `second` on another one."""

        def guilty(db):
            db.execute_sql(first)
            other = psycopg2.connect(self.url)
            try:
                other.cursor().execute(second)
            finally:
                other.close()
                db.close()

        return guilty

    def test_advisory_locks_of_two_connections(self):
        guilty = self.two("SELECT pg_advisory_lock(1)", "SELECT pg_try_advisory_lock(1)")
        self.assertRefused(guilty, "an advisory lock was asked for while another connection may hold one", "taken at")

    def test_advisory_lock_of_a_transaction_that_is_still_seen(self):
        def guilty(db):
            with db.atomic():
                db.execute_sql("SELECT pg_advisory_xact_lock(1)")
                db.execute_sql("SELECT count(*) FROM pg_locks")
            db.execute_sql("SELECT pg_try_advisory_xact_lock(1)")
            db.execute_sql("SELECT count(*) FROM pg_locks")

        self.assertRefused(
            guilty, "pg_locks still shows an advisory lock whose transaction has ended", "taken at tests"
        )

    def test_temporary_table_of_another_connection(self):
        guilty = self.two("CREATE TEMP TABLE t (x int)", "SELECT x FROM t")
        self.assertRefused(guilty, "the name t is that of another connection's temporary table")

    def test_custom_setting_that_another_connection_has_made_known(self):
        def guilty(db):
            with db.atomic():
                db.execute_sql("SET LOCAL app.tenant = '1'")
            db.close()
            db.execute_sql("SELECT current_setting('app.tenant', true)")

        self.assertRefused(guilty, "app.tenant reads as empty here and as unknown in production")

    def test_options_that_differ(self):
        def guilty(db):
            db.execute_sql("SELECT 1")
            psycopg2.connect(self.url, options="-c work_mem=5MB")

        self.assertRefused(guilty, "two connections differ in their options (options)", COMMITTED)

    def test_kinds_of_connections(self):
        factory = lambda dsn, *_: extras.DictConnection(dsn)  # noqa: E731
        for options in ({"async_": True}, {"connection_factory": factory}):
            self.assertRefused(
                lambda _, options=options: psycopg2.connect(self.url, **options),
                "that is not an ordinary one of psycopg2",
            )

    def test_large_object(self):
        self.assertRefused(lambda db: db.connection().lobject(), "connection.lobject() was used", COMMITTED)

    def test_client_encoding(self):
        guilty = lambda db: db.connection().set_client_encoding("LATIN1")  # noqa: E731
        self.assertRefused(guilty, "a connection asked for the client encoding LATIN1", COMMITTED)

    def test_other_databases_are_left_alone(self):
        db = PostgresqlDatabase(self.url)
        sandbox = Sandbox(db)
        sandbox.enter()
        connection = psycopg2.connect(self.url, dbname="postgres")
        self.addCleanup(connection.close)
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_database()")
            self.assertEqual(("postgres",), cursor.fetchone())
        sandbox.leave()


class InnocentTest(RefusalTestCase):
    """What looks like an escape and is not one."""

    def test_words_in_text_and_what_is_taken_back(self):
        db = PostgresqlDatabase(self.url)
        sandbox = Sandbox(db)
        sandbox.enter()
        for statement in (
            "DO $$ BEGIN PERFORM 1; END $$",
            'SELECT 1 AS "a; commit", $x$; LISTEN a; $x$ -- ; COMMIT',
            "/* LISTEN a */ SELECT '; NOTIFY a'",
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END",
            "SELECT pg_advisory_xact_lock(1)",
            "SELECT pg_advisory_lock(2)",
            "SELECT pg_advisory_unlock(2)",
            "SET search_path TO nowhere",
            "RESET search_path",
            "SET app.tenant = '9'",
            "SELECT set_config('app.tenant', '', false)",
            "BEGIN ISOLATION LEVEL READ COMMITTED",
            "COMMIT",
        ):
            db.execute_sql(statement)
        thread = threading.Thread(target=lambda: (db.execute_sql("SELECT 1"), db.close()))
        thread.start()
        thread.join()
        psycopg2.connect(self.url).close()
        sandbox.leave()
        self.assertInnocent(db)


class ExitTest(RefusalTestCase):
    """The sandbox always exits."""

    def interrupted(self, moment, do):
        """Run `do` in a sandbox that is interrupted at the named method of its gate, and return what it raised."""
        db = PostgresqlDatabase(self.url)
        sandbox = Sandbox(db)
        sandbox.enter()
        db.execute_sql("INSERT INTO item (name) VALUES ('a')")
        gate = sandbox._gate
        original = getattr(gate.backend, moment)

        def interrupt(*arguments):
            setattr(gate.backend, moment, original)
            original(*arguments)
            raise KeyboardInterrupt

        setattr(gate.backend, moment, interrupt)
        try:
            do(db)
        except BaseException as error:
            raised = error
        sandbox.leave()
        self.assertInnocent(db)
        return raised

    def test_interrupt_in_the_sandbox_s_own_commit_stays_one(self):
        def write(db):
            with db.atomic():
                db.execute_sql("INSERT INTO item (name) VALUES ('b')")

        def service(db):
            # What a framework does: all exceptions become responses, and something is written before.
            try:
                try:
                    write(db)
                finally:
                    db.execute_sql("INSERT INTO item (name) VALUES ('log')")
            except Exception as error:
                return f"500 {error}"

        self.assertIsInstance(self.interrupted("sql", service), KeyboardInterrupt)

    def test_interrupt_in_a_query_of_the_sandbox(self):
        def change(db):
            with db.atomic():
                db.execute_sql("SET LOCAL work_mem = '5MB'")

        self.assertIsInstance(self.interrupted("rows", change), KeyboardInterrupt)

    def test_interrupt_in_code_between_statements(self):
        db = PostgresqlDatabase(self.url)
        sandbox = Sandbox(db)
        sandbox.enter()
        with self.assertRaises(KeyboardInterrupt), db.atomic():
            db.execute_sql("INSERT INTO item (name) VALUES ('a')")
            raise KeyboardInterrupt
        sandbox.leave()
        self.assertInnocent(db)

    def test_interrupt_while_the_sandbox_ends(self):
        db = PostgresqlDatabase(self.url)
        sandbox = Sandbox(db)
        sandbox.enter()
        db.execute_sql("INSERT INTO item (name) VALUES ('a')")

        def interrupt(*_):
            raise KeyboardInterrupt

        gate = sandbox._gate
        for moment in ("left_open", "pop"):
            with self.subTest(moment):
                setattr(gate, moment, interrupt)
                with self.assertRaises(KeyboardInterrupt):
                    sandbox.leave()
                delattr(gate, moment)
                self.assertInnocent(db)
                sandbox = Sandbox(db)
                sandbox.enter()
                db.execute_sql("SELECT 1")
                gate = sandbox._gate
        sandbox.leave()

    def test_interrupt_just_before_the_sandbox_rolls_back(self):
        db = PostgresqlDatabase(self.url)
        sandbox = Sandbox(db)
        sandbox.enter()
        db.execute_sql("INSERT INTO item (name) VALUES ('a')")

        def interrupt():
            raise KeyboardInterrupt

        sandbox._undo = interrupt
        with self.assertRaises(KeyboardInterrupt):
            sandbox.leave()
        self.assertInnocent(db)

    def test_a_part_can_be_undone(self):
        db = PostgresqlDatabase(self.url)
        outer, inner = Sandbox(db), Sandbox(db)
        outer.enter()
        db.execute_sql("INSERT INTO item (name) VALUES ('class')")
        inner.enter()
        insert, select = "INSERT INTO item (name) VALUES (%s)", "SELECT name FROM item ORDER BY name"
        db.close()
        with inner.undone() as undo:
            self.assertTrue(db.is_closed())
            for name in "ab":
                db.execute_sql(insert, (name,))
                self.assertEqual([(name,), ("class",)], db.execute_sql(select).fetchall())
                undo()
                self.assertEqual([("class",)], db.execute_sql(select).fetchall())
            db.execute_sql(insert, ("c",))
        self.assertEqual([("class",)], db.execute_sql(select).fetchall())
        db.execute_sql(insert, ("d",))
        inner.leave()
        self.assertEqual([("class",)], db.execute_sql(select).fetchall())
        outer.leave()
        self.assertInnocent(db)

    def test_a_part_that_begins_inside_a_transaction_is_refused(self):
        def guilty(db):
            with db.atomic(), Sandbox._entered[-1].undone():
                self.fail("the part has begun")

        self.assertRefused(guilty, "a part of the test was to be undone, and it began inside a transaction", COMMITTED)

    def test_another_driver_is_refused(self):
        class OtherDriver(PostgresqlDatabase):
            def _connect(self):
                return SimpleNamespace(close=lambda: None, server_version=180000)

        db = OtherDriver("dbname=nowhere")
        with self.assertRaisesRegex(
            TypeError, "the test kit needs psycopg2, and the database object connects with types"
        ):
            Sandbox(db).enter()
        self.assertInnocent(PostgresqlDatabase(self.url))

    def test_the_driver_is_as_it_was(self):
        before = psycopg2.connect
        db = PostgresqlDatabase(self.url)
        sandbox = Sandbox(db)
        sandbox.enter()
        sandbox.leave()
        self.assertIs(before, psycopg2.connect)
