"""Code that uses psycopg2 itself behaves in the sandbox as with real commits."""

import io

import psycopg2
from psycopg2 import extensions, extras, sql

from tests.harness.postgres import setUpModule, tearDownModule
from tests.selftest.verdicts import VerdictTestCase, names, verdict


def said(do):
    """Return what `do` returns, or its error in words."""
    try:
        return do()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


class RawCursorTest(VerdictTestCase):
    """Cursors from Peewee and from its connection."""

    @verdict
    def test_failing_raw_cursors_and_a_valid_statement_after(self, db, model):
        with self.request(db):
            errors = [said(lambda: db.cursor().execute("SELECT 1 / 0"))]
            errors.append(said(lambda: db.connection().cursor().execute("SELECT nothing FROM nowhere")))
            model.create(name="a")
            cursor = db.cursor()
            cursor.execute("SELECT name FROM item WHERE name = %s", ("a",))
            return errors, cursor.fetchall(), cursor.rowcount, cursor.statusmessage, cursor.description[0].name

    @verdict
    def test_wrong_parameters(self, db, model):
        with self.request(db):
            cursor = db.cursor()
            failed = (
                said(lambda: cursor.execute("SELECT %s, %s", (1,))),
                said(lambda: cursor.execute("SELECT %s", (io,))),
            )
            cursor.execute("SELECT %(x)s, 1 %% 2", {"x": "é"})
            return failed, cursor.fetchall()

    @verdict
    def test_status_and_rowcount_of_transaction_statements(self, db, model):
        with self.request(db):
            cursor = db.cursor()
            seen = []
            for statement in (
                "SELECT 1",
                "BEGIN",
                "INSERT INTO item (name) VALUES ('a')",
                "SELECT 1",
                "COMMIT",
                "START TRANSACTION",
                "ROLLBACK",
                "PREPARE p AS SELECT 1",
                "DEALLOCATE p",
                "ROLLBACK",
            ):
                cursor.execute(statement)
                seen.append((cursor.statusmessage, cursor.rowcount, cursor.description is None))
            return seen

    @verdict
    def test_bytes_and_composed_statements(self, db, model):
        with self.request(db):
            connection = db.connection()
            cursor = connection.cursor()
            cursor.execute(b"INSERT INTO item (name) VALUES ('a')")
            query = sql.SQL("SELECT {} FROM {} WHERE name = {}")
            query = query.format(sql.Identifier("name"), sql.Identifier("item"), sql.Literal("a"))
            cursor.execute(query)
            return cursor.fetchall(), query.as_string(connection), query.as_string(cursor)

    @verdict
    def test_executemany_that_fails_midway_in_autocommit(self, db, model):
        with self.request(db):
            cursor = db.cursor()
            failed = said(
                lambda: cursor.executemany("INSERT INTO item (name) VALUES (%s)", [("a",), ("b",), ("a",), ("c",)])
            )
            cursor.executemany("UPDATE item SET number = number + %s", [(1,), (2,)])
            return failed, cursor.rowcount

    @verdict
    def test_execute_values_and_execute_batch(self, db, model):
        with self.request(db):
            cursor = db.cursor()
            rows = [(name,) for name in "abcd"]
            ids = extras.execute_values(
                cursor, "INSERT INTO item (name) VALUES %s RETURNING id", rows, page_size=3, fetch=True
            )
            extras.execute_batch(cursor, "UPDATE item SET number = 1 WHERE name = %s", rows)
            failed = said(lambda: extras.execute_values(cursor, "INSERT INTO item (name) VALUES %s", [("e",), ("a",)]))
            return ids, failed

    @verdict
    def test_copy(self, db, model):
        with self.request(db):
            cursor = db.cursor()
            cursor.copy_from(io.StringIO("a\t1\nb\t2\n"), "item", columns=("name", "number"))
            counted = cursor.rowcount
            failed = said(lambda: cursor.copy_from(io.StringIO("c\t1\na\t2\n"), "item", columns=("name", "number")))
            cursor.copy_expert("COPY item (name) FROM STDIN", io.StringIO("d\n"))
            broken = said(lambda: cursor.copy_expert("COPY item (number) FROM STDIN", io.StringIO("x\n")))
            out, other = io.StringIO(), io.StringIO()
            cursor.copy_to(out, "item", columns=("name",))
            cursor.copy_expert("COPY (SELECT name FROM item) TO STDOUT", other)
            return counted, failed, broken, out.getvalue(), other.getvalue()

    @verdict
    def test_callproc(self, db, model):
        with self.request(db):
            cursor = db.cursor()
            cursor.callproc("lower", ["ABC"])
            return cursor.fetchall(), said(lambda: cursor.callproc("nowhere")), cursor.execute("SELECT 1")

    @verdict
    def test_dictionary_cursors(self, db, model):
        with self.request(db):
            model.create(name="a")
            seen = []
            for factory in (extras.DictCursor, extras.RealDictCursor, extras.NamedTupleCursor):
                cursor = db.connection().cursor(cursor_factory=factory)
                cursor.execute("SELECT name, number FROM item")
                row = cursor.fetchone()
                seen.append((isinstance(cursor, factory), row._asdict() if hasattr(row, "_asdict") else dict(row)))
                seen.append(said(lambda cursor=cursor: cursor.execute("SELECT 1 / 0")))
                cursor.execute("SELECT name FROM item")
                seen.append(len(list(cursor)))
            return seen

    @verdict
    def test_types_registered_on_the_connection(self, db, model):
        with self.request(db):
            connection = db.connection()
            extras.register_default_jsonb(connection, loads=lambda text: f"read {text}")
            cursor = connection.cursor()
            cursor.execute("""SELECT '{"a": 1}'::jsonb, 1""")
            here = cursor.fetchone()
            extensions.register_type(extensions.new_type((23,), "x", lambda value, _: f"number {value}"), cursor)
            cursor.execute("SELECT 1")
            return here, cursor.fetchone(), isinstance(connection, extensions.connection)


class ServerSideCursorTest(VerdictTestCase):
    """Cursors that live in the server."""

    @verdict
    def test_iterator(self, db, model):
        with self.request(db):
            model.insert_many([{"name": name} for name in "abc"]).execute()
            return [item.name for item in model.select().order_by(model.name).iterator()]

    @verdict
    def test_failing_statement_between_fetches(self, db, model):
        with self.request(db):
            model.insert_many([{"name": name} for name in "abcd"]).execute()
            cursor = db.connection().cursor(name="mine", withhold=True)
            cursor.itersize = 2
            cursor.execute("SELECT name FROM item ORDER BY name")
            rows = [cursor.fetchone()]
            failed = said(lambda: db.execute_sql("SELECT 1 / 0"))
            rows += cursor.fetchmany(2)
            model.create(name="e")
            rows += cursor.fetchall()
            cursor.close()
            return rows, failed, said(cursor.fetchone)

    @verdict
    def test_server_side_cursor_of_peewee(self, db, model):
        from playhouse.postgres_ext import ServerSide  # noqa: PLC0415

        if not hasattr(db, "_register_hstore"):
            return None
        with self.request(db):
            model.insert_many([{"name": name} for name in "abc"]).execute()
            with db.atomic():
                inside = [item.name for item in ServerSide(model.select().order_by(model.name))]
            return inside, [item.name for item in ServerSide(model.select().order_by(model.name))]

    @verdict
    def test_named_cursor_without_hold_needs_a_transaction(self, db, model):
        with self.request(db):
            connection = db.connection()
            first = said(lambda: connection.cursor("mine").execute("SELECT 1"))
            connection.autocommit = False
            cursor = connection.cursor("mine")
            cursor.execute("SELECT generate_series(1, 5)")
            rows = [cursor.fetchone(), next(cursor), cursor.scroll(1), cursor.fetchone()]
            connection.commit()
            after = said(cursor.fetchone), said(cursor.close)
            connection.autocommit = True
            return first, rows, after


class DriverConnectionTest(VerdictTestCase):
    """Transactions of the driver."""

    def connect(self, **options):
        """Return a connection of the driver, closed when the scenario has run."""
        connection = psycopg2.connect(self.url, **options)
        self.opened.append(connection)
        return connection

    def outcome(self, db, scenario):
        """Close what the scenario has opened."""
        self.opened = []

        def closing(self, db, model):
            try:
                return scenario(self, db, model)
            finally:
                for connection in self.opened:
                    connection.close()

        return super().outcome(db, closing)

    @verdict
    def test_commit_and_rollback_of_the_connection(self, db, model):
        with self.request(db):
            connection = db.connection()
            connection.autocommit = False
            for end in (connection.commit, connection.rollback, connection.commit):
                model.create(name=end.__name__ + str(model.select().count()))
                end()
            seen = connection.get_transaction_status(), connection.status
            model.create(name="lost")
            seen += connection.get_transaction_status(), connection.status
            refused = said(lambda: setattr(connection, "autocommit", True))
            connection.rollback()
            connection.autocommit = True
            return seen, refused

    @verdict
    def test_commit_of_the_connection_ends_no_transaction_begun_as_sql(self, db, model):
        with self.request(db):
            for end in ("commit", "rollback"):
                db.begin()
                model.create(name=end)
                getattr(db.connection(), end)()
                db.rollback()
            db.begin()
            model.create(name="kept")
            db.connection().rollback()
            db.commit()

    @verdict
    def test_deferred_constraint_fails_in_commit_of_the_connection(self, db, model):
        connection = self.connect()
        cursor = connection.cursor()
        cursor.execute("INSERT INTO child VALUES (1, 1)")
        failed = said(connection.commit)
        cursor.execute("INSERT INTO item (name) VALUES ('a')")
        connection.commit()
        return failed, connection.status

    @verdict
    def test_with_connection(self, db, model):
        with self.request(db):
            connection = db.connection()
            with connection:
                model.create(name="a")
                again = said(connection.__enter__)
            failed = said(lambda: self.in_block(connection, model))
            model.create(name="c")
            return again, failed, connection.get_transaction_status()

    def in_block(self, connection, model):
        """Write in a block that fails."""
        with connection:
            model.create(name="b")
            raise RuntimeError("b")

    @verdict
    def test_connection_of_its_own(self, db, model):
        with self.request(db):
            connection = self.connect()
            cursor = connection.cursor()
            cursor.execute("INSERT INTO item (name) VALUES ('kept')")
            connection.commit()
            cursor.execute("INSERT INTO item (name) VALUES ('lost')")
            failed = said(lambda: cursor.execute("SELECT 1 / 0"))
            poisoned = said(lambda: cursor.execute("SELECT 1"))
            connection.close()
            return failed, poisoned, names(model), connection.closed, said(lambda: cursor.execute("SELECT 1"))

    @verdict
    def test_default_transaction_is_undone_by_close(self, db, model):
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO item (name) VALUES ('kept')")
        other = self.connect()
        other.cursor().execute("INSERT INTO item (name) VALUES ('lost')")
        other.close()
        with self.request(db):
            return names(model)

    @verdict
    def test_connection_that_is_closed_during_the_transaction_of_another_one(self, db, model):
        with self.request(db):
            for end in (db.rollback, db.commit):
                other = self.connect()
                other.autocommit = True
                other.cursor().execute("SET work_mem = '5MB'")
                other.cursor().execute("CREATE TEMP TABLE parent AS SELECT 1 AS id")
                db.begin()
                model.create(name=f"before {end.__name__}")
                other.close()
                model.create(name=f"after {end.__name__}")
                end()
            return db.execute_sql("SHOW work_mem").fetchone(), db.execute_sql("SELECT id FROM later").fetchall()

    @verdict
    def test_factories(self, db, model):
        connection = self.connect(connection_factory=extras.DictConnection)
        with connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO item (name) VALUES ('a') RETURNING name")
            first = dict(cursor.fetchone())
        other = self.connect(cursor_factory=extras.RealDictCursor)
        with other, other.cursor() as cursor:
            cursor.execute("SELECT name FROM item")
            second = cursor.fetchall()
        return first, [dict(row) for row in second], isinstance(connection, extras.DictConnection)

    @verdict
    def test_plain_sql_commit_without_autocommit(self, db, model):
        connection = self.connect()
        cursor = connection.cursor()
        cursor.execute("INSERT INTO item (name) VALUES ('a')")
        cursor.execute("COMMIT")
        cursor.execute("INSERT INTO item (name) VALUES ('b')")
        connection.rollback()
        cursor.execute("ROLLBACK")
        cursor.execute("INSERT INTO item (name) VALUES ('c')")
        connection.close()

    @verdict
    def test_isolation_level_autocommit(self, db, model):
        connection = self.connect()
        connection.cursor().execute("INSERT INTO item (name) VALUES ('lost')")
        connection.set_isolation_level(extensions.ISOLATION_LEVEL_AUTOCOMMIT)
        connection.cursor().execute("INSERT INTO item (name) VALUES ('a')")
        connection.set_session(autocommit=False)
        connection.cursor().execute("INSERT INTO item (name) VALUES ('lost, too')")
        connection.reset()
        return connection.autocommit, connection.isolation_level, connection.readonly, connection.deferrable

    @verdict
    def test_facts_of_a_connection(self, db, model):
        connection = self.connect()
        facts = [connection.encoding, connection.server_version, connection.info.dbname, connection.closed]
        facts += [connection.info.transaction_status, connection.get_parameter_status("TimeZone")]
        connection.set_client_encoding("UTF8")
        connection.cancel()
        return facts
