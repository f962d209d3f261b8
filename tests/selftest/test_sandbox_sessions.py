"""Connections, and what belongs to a session or to a transaction, behave in the sandbox as with real commits."""

import threading

from peewee import PeeweeException

from tests.harness.postgres import setUpModule, tearDownModule
from tests.selftest.test_sandbox_transactions import fails
from tests.selftest.verdicts import VerdictTestCase, names, verdict

TENANT = "SELECT current_setting('app.tenant', true)"


class ConnectionTest(VerdictTestCase):
    """Opening and closing."""

    @verdict
    def test_with_database_block(self, db, model):
        db.close()
        with db:
            model.create(name="a")
        return db.is_closed()

    @verdict
    def test_with_database_block_that_fails(self, db, model):
        db.close()
        with db:
            model.create(name="a")
            raise RuntimeError

    @verdict
    def test_connect_twice(self, db, model):
        db.connect(reuse_if_open=True)
        db.connect()

    @verdict
    def test_close_inside_a_transaction(self, db, model):
        with db.atomic():
            model.create(name="a")
            db.close()

    @verdict
    def test_begin_and_close_without_commit(self, db, model):
        with self.request(db):
            db.begin()
            model.create(name="a")
            db.close()
        with self.request(db):
            return names(model)

    @verdict
    def test_transaction_left_open_by_a_request_and_found_by_the_next(self, db, model):
        with self.request(db):
            db.begin()
            model.create(name="a")
        with self.request(db):
            db.rollback()
            model.create(name="b")

    @verdict
    def test_failed_transaction_left_open_and_found_by_the_next_request(self, db, model):
        with self.request(db):
            db.begin()
            fails(db)
        with self.request(db):
            return fails(db, "SELECT 1"), db.is_connection_usable()

    @verdict
    def test_connection_context(self, db, model):
        db.close()
        with db.connection_context():
            model.create(name="a")
            inside = db.is_closed()
        return inside, db.is_closed()

    @verdict
    def test_is_connection_usable(self, db, model):
        with self.request(db):
            db.connect(reuse_if_open=True)
            before = db.is_connection_usable()
            db.begin()
            during = db.is_connection_usable()
            fails(db)
            broken = db.is_connection_usable()
            db.rollback()
            after = db.is_connection_usable()
            db.close()
            return before, during, broken, after, db.is_connection_usable()

    @verdict
    def test_dispose_and_reconnect(self, db, model):
        with self.request(db):
            model.create(name="a")
            db.dispose()
        with self.request(db):
            model.create(name="b")

    @verdict
    def test_dispose_inside_a_transaction(self, db, model):
        with self.request(db):
            db.begin()
            model.create(name="a")
            db.dispose()
        with self.request(db):
            model.create(name="b")

    @verdict
    def test_pool_methods(self, db, model):
        if not hasattr(db, "manual_close"):
            return None
        with self.request(db):
            db.begin()
            model.create(name="a")
            first = db.connection()
            db.manual_close()
        with self.request(db):
            model.create(name="b")
            second = db.connection()
        db.close()
        db.close_idle()
        with self.request(db):
            model.create(name="c")
            third = db.connection()
            db.close_all()
        return [conn.closed for conn in (first, second, third)]

    @verdict
    def test_closed_connection_of_the_driver(self, db, model):
        with self.request(db):
            connection = db.connection()
            cursor = connection.cursor()
            cursor.execute("SELECT 1")
            connection.close()
            said = []
            for use in (cursor.fetchone, connection.cursor, connection.commit, lambda: cursor.execute("SELECT 1")):
                try:
                    said.append(use())
                except Exception as error:
                    said.append(f"{type(error).__name__}: {error}")
            said += [connection.closed, cursor.closed, connection.get_transaction_status(), connection.close()]
            db.dispose()
        return said


class TransactionStateTest(VerdictTestCase):
    """What ends with the code's own transaction."""

    def tenant(self, db):
        """Return what row-level security would compare with, where unset and empty mean the same."""
        return db.execute_sql(f"SELECT nullif(({TENANT}), '')").fetchone()

    @verdict
    def test_set_local_ends_with_its_transaction(self, db, model):
        with self.request(db):
            with db.atomic():
                db.execute_sql("SET LOCAL app.tenant = '42'")
                inside = db.execute_sql(TENANT).fetchone()
            with db.atomic():
                return inside, db.execute_sql(TENANT).fetchone()

    @verdict
    def test_set_config_for_the_transaction_ends_with_it(self, db, model):
        with self.request(db):
            with db.atomic():
                db.execute_sql("SELECT set_config(%s, %s, true)", ("app.tenant", "42"))
                inside = db.execute_sql(TENANT).fetchone()
            with db.atomic():
                return inside, db.execute_sql(TENANT).fetchone()

    @verdict
    def test_setting_that_a_function_makes_ends_with_the_transaction(self, db, model):
        with self.request(db):
            with db.atomic():
                inside = db.execute_sql("SELECT be_tenant('42')").fetchone()
            after = db.execute_sql(TENANT).fetchone()
            with db.atomic():
                db.execute_sql("DO $$ BEGIN SET LOCAL app.tenant = '7'; END $$")
                inside += db.execute_sql(TENANT).fetchone()
            return inside, after, db.execute_sql(TENANT).fetchone()

    @verdict
    def test_set_local_of_a_known_setting(self, db, model):
        with self.request(db):
            db.execute_sql("SET work_mem = '5MB'")
            with db.atomic():
                db.execute_sql("SET LOCAL work_mem = '7MB'")
                with db.atomic():
                    db.execute_sql("SET LOCAL work_mem TO '9MB'")
                inside = db.execute_sql("SHOW work_mem").fetchone()
            after = db.execute_sql("SHOW work_mem").fetchone()
            db.execute_sql("RESET work_mem")
            return inside, after, db.execute_sql("SHOW work_mem").fetchone()

    @verdict
    def test_set_local_ends_with_a_rollback(self, db, model):
        with self.request(db):
            try:
                with db.atomic():
                    db.execute_sql("SET LOCAL app.tenant = '42'")
                    raise RuntimeError
            except RuntimeError:
                pass
            return db.execute_sql(TENANT).fetchone()

    @verdict
    def test_set_local_outside_a_transaction_does_nothing(self, db, model):
        with self.request(db):
            db.execute_sql("SET LOCAL work_mem = '7MB'")
            row = db.execute_sql("SELECT set_config('work_mem', '8MB', true)").fetchone()
            return row, db.execute_sql("SHOW work_mem").fetchone()

    @verdict
    def test_row_level_security(self, db, model):
        with self.request(db):
            db.execute_sql("CREATE VIEW mine AS SELECT name FROM item WHERE number::text = current_setting('app.n')")
            model.create(name="a", number=1)
            model.create(name="b", number=2)
            seen = []
            for number in "12":
                with db.atomic():
                    db.execute_sql("SELECT set_config('app.n', %s, true)", (number,))
                    seen += db.execute_sql("SELECT name FROM mine").fetchall()
            seen += db.execute_sql("SELECT name FROM mine").fetchall()
            db.execute_sql("DROP VIEW mine")
            return seen

    @verdict
    def test_temporary_table_on_commit_drop(self, db, model):
        with self.request(db):
            with db.atomic():
                db.execute_sql("CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 1 AS x")
                inside = db.execute_sql("SELECT x FROM t").fetchall()
            gone = fails(db, "SELECT x FROM t")
            db.execute_sql("CREATE TEMP TABLE t (x int) ON COMMIT DROP")
            return inside, gone, fails(db, "SELECT x FROM t")

    @verdict
    def test_temporary_table_on_commit_delete_rows(self, db, model):
        with self.request(db):
            db.execute_sql("CREATE TEMP TABLE t (x int) ON COMMIT DELETE ROWS")
            with db.atomic():
                db.execute_sql("INSERT INTO t VALUES (1)")
                inside = db.execute_sql("SELECT x FROM t").fetchall()
            after = db.execute_sql("SELECT x FROM t").fetchall()
            db.execute_sql("DROP TABLE t")
            return inside, after


class SessionStateTest(VerdictTestCase):
    """What ends with a connection that is closed, and what does not."""

    def reconnected(self, db):
        """End the connection, also that of a pool."""
        if hasattr(db, "manual_close"):
            db.manual_close()
        else:
            db.close()
        db.connect(reuse_if_open=True)

    @verdict
    def test_temporary_table_is_gone(self, db, model):
        with self.request(db):
            db.execute_sql("CREATE TEMP TABLE t AS SELECT 1 AS x")
            before = db.execute_sql("SELECT x FROM t").fetchall()
            self.reconnected(db)
            return before, fails(db, "SELECT x FROM t")

    @verdict
    def test_temporary_table_that_hides_another_one_is_gone(self, db, model):
        with self.request(db):
            model.create(name="a")
            db.execute_sql("SELECT 'hidden' AS name, 0 AS number, 1 AS id INTO TEMP item")
            before = names(model)
            self.reconnected(db)
            return before, names(model)

    @verdict
    def test_setting_is_gone(self, db, model):
        with self.request(db):
            db.execute_sql("SET work_mem = '5MB'")
            db.execute_sql("SELECT set_config('search_path', 'pg_catalog', false)")
            before = db.execute_sql("SHOW work_mem").fetchone(), db.execute_sql("SHOW search_path").fetchone()
            fails(db)
            self.reconnected(db)
            return before, db.execute_sql("SHOW work_mem").fetchone(), db.execute_sql("SHOW search_path").fetchone()

    @verdict
    def test_setting_of_a_rolled_back_transaction_is_gone(self, db, model):
        with self.request(db):
            db.begin()
            db.execute_sql("SET work_mem = '5MB'")
            db.rollback()
            return db.execute_sql("SHOW work_mem").fetchone()

    @verdict
    def test_prepared_statement_is_gone(self, db, model):
        with self.request(db):
            db.execute_sql("PREPARE p AS SELECT 1")
            before = db.execute_sql("EXECUTE p").fetchall(), fails(db, "PREPARE p AS SELECT 1")
            self.reconnected(db)
            gone = fails(db, "EXECUTE p")
            db.execute_sql("PREPARE p AS SELECT 1")
            self.reconnected(db)
            db.execute_sql("PREPARE p AS SELECT 2")
            after = db.execute_sql("EXECUTE p").fetchall()
            db.execute_sql("DEALLOCATE p")
            return before, gone, after, fails(db, "DEALLOCATE p"), fails(db, "EXECUTE p")

    @verdict
    def test_prepared_statement_survives_a_rollback(self, db, model):
        with self.request(db):
            db.begin()
            db.execute_sql("PREPARE p AS SELECT 1")
            db.rollback()
            row = db.execute_sql("EXECUTE p").fetchall()
            db.execute_sql("DEALLOCATE ALL")
            return row, fails(db, "EXECUTE p")

    @verdict
    def test_session_advisory_lock_is_gone(self, db, model):
        # Other runs and workers hold locks in other databases of the server.
        held = """
            SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
            WHERE locktype = 'advisory' AND datname = current_database()
        """
        with self.request(db):
            db.execute_sql("SELECT pg_advisory_lock(7)")
            before = db.execute_sql(held).fetchone()
            self.reconnected(db)
            return before, db.execute_sql(held).fetchone()

    @verdict
    def test_what_a_block_of_code_has_set_is_gone(self, db, model):
        with self.request(db):
            db.execute_sql("DO $$ BEGIN SET work_mem = '5MB'; CREATE TEMP TABLE t (x int); END $$")
            before = db.execute_sql("SHOW work_mem").fetchone(), fails(db, "SELECT x FROM t")
            self.reconnected(db)
            return before, db.execute_sql("SHOW work_mem").fetchone(), fails(db, "SELECT x FROM t")

    @verdict
    def test_cursor_with_hold_is_gone(self, db, model):
        with self.request(db):
            db.execute_sql("DECLARE h CURSOR WITH HOLD FOR SELECT 1")
            self.reconnected(db)
            return fails(db, "FETCH 1 FROM h")


class ThreadTest(VerdictTestCase):
    """Another thread, with a connection of its own."""

    def in_thread(self, db, do):
        """Run `do` in a thread that closes its connection, and return what it returns or the name of its error."""
        done = []

        def run():
            try:
                done.append(do())
            except (PeeweeException, RuntimeError) as error:
                done.append(type(error).__name__)
            finally:
                if not db.is_closed():
                    db.close()

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return done

    @verdict
    def test_second_thread_reads_and_writes(self, db, model):
        with self.request(db):
            model.create(name="a")
            return self.in_thread(db, lambda: (names(model), model.create(name="b").id)), names(model)

    @verdict
    def test_second_thread_rolls_back(self, db, model):
        def undone():
            with db.atomic():
                model.create(name="b")
                raise RuntimeError

        with self.request(db):
            model.create(name="a")
            return self.in_thread(db, undone), names(model)

    @verdict
    def test_thread_that_leaves_a_transaction_open(self, db, model):
        def left_open():
            db.begin()
            model.create(name="b")

        with self.request(db):
            return self.in_thread(db, left_open), names(model)

    @verdict
    def test_settings_and_prepared_statements_of_threads_are_apart(self, db, model):
        def other():
            db.execute_sql("SET work_mem = '6MB'")
            db.execute_sql("PREPARE p AS SELECT 'other'")
            shown = db.execute_sql("SHOW work_mem").fetchone(), db.execute_sql("EXECUTE p").fetchone()
            db.execute_sql("RESET work_mem")
            db.execute_sql("DEALLOCATE p")
            return shown

        with self.request(db):
            db.execute_sql("SET work_mem = '5MB'")
            db.execute_sql("PREPARE p AS SELECT 'first'")
            seen = self.in_thread(db, other)
            shown = db.execute_sql("SHOW work_mem").fetchone(), db.execute_sql("EXECUTE p").fetchone()
            db.execute_sql("RESET work_mem")
            db.execute_sql("DEALLOCATE p")
            return seen, shown
