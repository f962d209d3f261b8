"""`shop.storage.migrations`: the schema agrees with the models, runs at once are safe, and failures undo themselves."""

import re
import tempfile
import threading
from contextlib import closing, nullcontext
from pathlib import Path
from unittest import TestCase, mock

import psycopg2
from peewee import ForeignKeyField, PostgresqlDatabase, ProgrammingError

from shop.domain.models import LoginFailures, Order, User
from shop.storage import migrations
from shop.storage.database import database
from tests.harness.databases import DatabaseUrl
from tests.harness.postgres import empty, setUpModule, tearDownModule  # noqa: F401
from tests.support.cases import ApiTestCase

ALL = ["0001_users_and_orders", "0002_login_failures"]


class SchemaTest(ApiTestCase):
    """The migrated schema against the models."""

    def test_columns_are_those_of_the_models(self):
        for model in (User, Order, LoginFailures):
            meta = model._meta
            expected = {
                field.column_name: (
                    self.type_of(field),
                    field.null,
                    any(field is key for key in meta.get_primary_keys()),
                )
                for field in meta.sorted_fields
            }
            found = {
                column.name: (column.data_type, column.null, column.primary_key)
                for column in database.get_columns(meta.table_name)
            }
            with self.subTest(meta.table_name):
                self.assertEqual(expected, found)

    @staticmethod
    def type_of(field):
        """Return the SQL name of a field's type."""
        if isinstance(field, ForeignKeyField):
            field = field.rel_field
        names = {
            "TIMESTAMPTZ": "timestamp with time zone",
            "DECIMAL": "numeric",
            "JSON": "jsonb",
            "BLOB": "bytea",
            "INT": "integer",
        }
        return names.get(field.field_type, field.field_type.lower())

    def test_money_has_two_decimals_and_ten_digits(self):
        (total,) = [column for column in database.get_columns("orders") if column.name == "total"]
        self.assertEqual(f"numeric({Order.total.max_digits},{Order.total.decimal_places})", total.full_type)

    def test_orders_refer_to_users(self):
        (key,) = database.get_foreign_keys("orders")
        self.assertEqual(("user_id", "users", "id"), (key.column, key.dest_table, key.dest_column))

    def test_every_unique_key_of_orders_begins_with_its_owner(self):
        unique = [index for index in database.get_indexes("orders") if index.unique]
        self.assertEqual({"orders_pkey", "orders_idempotency_key"}, {index.name for index in unique})
        for index in unique:
            self.assertEqual("user_id", index.columns[0])


def impatient(url: DatabaseUrl, limit: str = "lock_timeout=1s") -> str:
    """Return a URL with a time limit, by default for waiting for a lock."""
    return url.of(url.parameters | {"options": f"-c {limit}"})


class MigratingTest(TestCase):
    """Applying migrations."""

    def test_a_new_database_is_brought_up_to_date_once(self):
        url = empty("new").url
        self.assertEqual([(name, None) for name in ALL], migrations.status(url))
        self.assertEqual(ALL, migrations.migrate(url))
        self.assertEqual([], migrations.migrate(url))
        self.assertEqual(ALL, [name for name, applied in migrations.status(url) if applied])

    def test_of_two_runs_at_once_one_applies_and_the_other_waits(self):
        url = empty("two").url
        results = []
        runs = [threading.Thread(target=lambda: results.append(migrations.migrate(url))) for _ in range(4)]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        self.assertEqual([[], [], [], ALL], sorted(results))

    def test_a_start_on_a_database_that_is_up_to_date_waits_for_no_lock(self):
        url = empty("locked").url
        migrations.migrate(url)
        with closing(psycopg2.connect(url)) as holder, holder.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (migrations.LOCK_KEY,))
            self.assertEqual([], migrations.migrate(impatient(url)))

    def test_an_index_made_concurrently_does_not_wait_for_the_run_that_makes_it(self):
        # It waits for every transaction that looks at an earlier state of the database, whoever's it is.
        url = empty("concurrently").url
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "0001_table.py").write_text(
                "def up(m, db):\n    db.execute_sql('CREATE TABLE t (id int)')\n"
            )
            Path(directory, "0002_index.py").write_text(
                "atomic = False\n\ndef up(migrator, db):\n    db.execute_sql('CREATE INDEX CONCURRENTLY i ON t (id)')\n"
            )
            with mock.patch.object(migrations, "DIRECTORY", Path(directory)):
                self.assertEqual(["0001_table", "0002_index"], migrations.migrate(impatient(url)))

    def test_a_run_that_takes_longer_than_the_server_leaves_transactions_idle_is_not_ended(self):
        url = impatient(empty("long").url, "idle_in_transaction_session_timeout=50ms")
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "0001_long.py").write_text("def up(m, db):\n    db.execute_sql('SELECT pg_sleep(0.5)')\n")
            with mock.patch.object(migrations, "DIRECTORY", Path(directory)):
                self.assertEqual(["0001_long"], migrations.migrate(url))

    def test_no_lock_stays_on_a_connection_as_a_pooler_would_keep_it(self):
        url = empty("pooled").url
        with closing(PostgresqlDatabase(url)) as pooled:
            with mock.patch.object(migrations, "_connected", lambda _: nullcontext(pooled)):
                self.assertEqual(ALL, migrations.migrate(url))
            held = pooled.execute_sql(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
            ).fetchone()
        self.assertEqual((0,), held)

    def test_a_migration_that_fails_is_undone_and_those_before_it_stay(self):
        url = empty("failing").url
        with tempfile.TemporaryDirectory() as directory:
            up = "def up(migrator, db):\n    db.execute_sql('CREATE TABLE {} (id int)')\n"
            Path(directory, "0001_good.py").write_text(up.format("good"))
            Path(directory, "0002_bad.py").write_text(up.format("bad") + "    db.execute_sql('nonsense')\n")
            with mock.patch.object(migrations, "DIRECTORY", Path(directory)):
                with self.assertRaises(ProgrammingError):
                    migrations.migrate(url)
                self.assertEqual([True, False], [bool(applied) for _, applied in migrations.status(url)])
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('good')::text, to_regclass('bad')::text")
            self.assertEqual(("good", None), cursor.fetchone())

    def test_the_files_are_numbered_without_gaps(self):
        names = sorted(path.stem for path in migrations.DIRECTORY.glob("[0-9]*.py"))
        self.assertEqual(list(range(1, len(names) + 1)), [int(re.match(r"\d{4}", name)[0]) for name in names])

    def test_another_migration_is_another_fingerprint(self):
        before = migrations.fingerprint()
        with tempfile.TemporaryDirectory() as directory:
            for path in migrations.DIRECTORY.glob("[0-9]*.py"):
                Path(directory, path.name).write_bytes(path.read_bytes() + b"# changed\n")
            with mock.patch.object(migrations, "DIRECTORY", Path(directory)):
                self.assertNotEqual(before, migrations.fingerprint())
