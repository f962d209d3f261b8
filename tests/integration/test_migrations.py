"""`shop.storage.migrations`: the schema agrees with the models, runs at once are safe, and failures undo themselves."""

import re
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from unittest import TestCase, mock

import psycopg2
from peewee import ForeignKeyField, PostgresqlDatabase, ProgrammingError

from shop.domain.models import LoginFailures, Order, User, WebhookDelivery, WebhookEndpoint
from shop.ids import email_key
from shop.storage import migrations
from shop.storage.database import database
from tests import binding
from tests.harness.databases import DatabaseUrl
from tests.harness.postgres import empty, setUpModule, tearDownModule
from tests.support.cases import ApiTestCase
from tests.support.commands import call_shop

ALL = ["0001_users_and_orders", "0002_login_failures", "0003_email_key", "0004_order_events", "0005_webhooks"]


class SchemaTest(ApiTestCase):
    """The migrated schema against the models."""

    def test_columns_are_those_of_the_models(self):
        for model in (User, Order, LoginFailures, WebhookEndpoint, WebhookDelivery):
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
            "SMALLINT": "smallint",
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


def impatient(url: DatabaseUrl, limit: str = "lock_timeout=5s") -> str:
    """Return a URL with a time limit, by default for waiting for a lock."""
    return url.of(url.parameters | {"options": f"-c {limit}"})


@contextmanager
def only(names):
    """Let there be these migrations only, for the duration of the block; yield their directory."""
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            shutil.copy(migrations.DIRECTORY / f"{name}.py", directory)
        with mock.patch.object(migrations, "DIRECTORY", Path(directory)):
            yield Path(directory)


def migrate_with(url, text, replacement):
    """Apply the migrations up to 0003 with a text in that one replaced."""
    with only(ALL[:3]) as directory:
        last = directory / "0003_email_key.py"
        original = last.read_text("utf-8")
        assert text in original
        last.write_text(original.replace(text, replacement), "utf-8")
        return migrations.migrate(url)


class EmailKeyTest(TestCase):
    """``0003_email_key`` on a database that has users."""

    def setUp(self):
        self.url = empty("email_key").url
        with only(ALL[:2]):
            migrations.migrate(self.url)
        self.connection = self.enterContext(closing(psycopg2.connect(self.url)))
        self.connection.autocommit = True

    def execute(self, statement, *parameters):
        """Run a statement."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def register(self, *emails):
        """Add users as the version before did."""
        for email in emails:
            self.execute(
                "INSERT INTO users (id, name, email, password_hash, role, created_at) "
                "VALUES (gen_random_uuid(), 'Name', %s, '', 'customer', now())",
                email,
            )

    def snapshot(self):
        """Return the columns, the indexes and the rows."""
        return [
            self.execute("SELECT column_name::text FROM information_schema.columns WHERE table_name = 'users'"),
            self.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'users' ORDER BY indexname"),
            self.execute("SELECT users::text FROM users ORDER BY id"),
        ]

    def migrate_in_batches_of_two(self):
        """Migrate as with a table that is many times as long."""
        return migrate_with(self.url, "BATCH = 5000", "BATCH = 2")

    def test_existing_users_get_their_keys(self):
        emails = [
            "Ada@example.com",
            "\u00c9va@example.com",
            "Stra\u00dfe@example.com",
            "a@example.com",
            "b@example.com",
        ]
        self.register(*emails)
        self.assertEqual(["0003_email_key"], self.migrate_in_batches_of_two())
        keys = dict(self.execute("SELECT email, email_key FROM users"))
        self.assertEqual({email: email_key(email) for email in emails}, keys)
        self.assertEqual("\u00e9va@example.com", keys["\u00c9va@example.com"])
        with self.assertRaises(psycopg2.errors.UniqueViolation):
            self.execute("UPDATE users SET email_key = 'a@example.com'")

    def test_addresses_that_share_a_key_are_named_and_nothing_changes(self):
        # No index of the version before kept these apart, whatever the locale.
        self.register("stra\u00dfe@example.com", "strasse@example.com", "ada@example.com")
        before = self.snapshot()
        named = "strasse@example.com, stra\u00dfe@example.com"
        with self.assertRaisesRegex(migrations.CannotMigrate, f"^these e-mail .*: {named}; nothing was changed"):
            self.migrate_in_batches_of_two()
        self.assertEqual(before, self.snapshot())
        self.assertEqual(
            [True, True, *[False] * len(ALL[2:])], [bool(applied) for _, applied in migrations.status(self.url)]
        )
        self.execute("DELETE FROM users WHERE email = 'strasse@example.com'")
        self.assertEqual(ALL[2:], migrations.migrate(self.url))

    def test_the_command_reports_a_collision_in_one_sentence(self):
        self.register("stra\u00dfe@example.com", "strasse@example.com")
        status, _, err = call_shop("migrate", SHOP_DATABASE_URL=self.url)
        self.assertEqual(2, status)
        self.assertRegex(err, r"^shop: these e-mail addresses differ .*, then migrate again\n$")

    def test_it_goes_on_after_an_interruption(self):
        self.register("ada@example.com")
        with self.assertRaises(ProgrammingError):
            migrate_with(self.url, 'db.execute_sql("CREATE UNIQUE', 'db.execute_sql("nonsense')
        self.register("bob@example.com")
        self.assertEqual(ALL[2:], migrations.migrate(self.url))
        self.assertEqual({("ada@example.com",), ("bob@example.com",)}, set(self.execute("SELECT email_key FROM users")))


class OrderEventsTest(TestCase):
    """``0004_order_events`` on a database that has orders."""

    def setUp(self):
        self.url = empty("order_events").url
        with only(ALL[:3]):
            migrations.migrate(self.url)
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO users SELECT gen_random_uuid(), 'Ada', 'a', '', 'customer', now(), 'a'")
            cursor.execute(self.PLACE)

    PLACE = """
        INSERT INTO orders (user_id, id, items, total, status, shipping_address, created_at)
        SELECT id, gen_random_uuid(), '[]', 1, 'confirmed', '{}', now() FROM users
    """

    def outbox(self):
        """Return the columns of the outbox of each order."""
        with closing(psycopg2.connect(self.url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT events, events_taken, untaken_since FROM orders")
            return cursor.fetchall()

    def test_existing_orders_have_no_events_and_nothing_waits(self):
        self.assertEqual(["0004_order_events"], migrations.migrate(self.url)[:1])
        self.assertEqual([([], 0, None)], self.outbox())

    def test_the_version_before_can_still_place_orders(self):
        migrations.migrate(self.url)
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(self.PLACE)
        self.assertEqual([([], 0, None)] * 2, self.outbox())

    def test_it_goes_on_after_an_interruption(self):
        with only(ALL[:4]) as directory:
            script = directory / "0004_order_events.py"
            text = script.read_text("utf-8")
            script.write_text(text.replace('"CREATE INDEX', '"nonsense'), "utf-8")
            with self.assertRaises(ProgrammingError):
                migrations.migrate(self.url)
            script.write_text(text, "utf-8")
            self.assertEqual(["0004_order_events"], migrations.migrate(self.url))


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

    def test_an_index_made_concurrently_does_not_wait_for_a_run_that_waits(self):
        url = empty("waiting").url
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "0001_table.py").write_text(
                "import time\n\ndef up(m, db):\n    db.execute_sql('CREATE TABLE t (id int)')\n    time.sleep(0.2)\n"
            )
            Path(directory, "0002_index.py").write_text(
                "atomic = False\n\ndef up(migrator, db):\n    db.execute_sql('CREATE INDEX CONCURRENTLY i ON t (id)')\n"
            )
            with mock.patch.object(migrations, "DIRECTORY", Path(directory)), ThreadPoolExecutor(3) as threads:
                applied = list(threads.map(migrations.migrate, [impatient(url)] * 3))
        self.assertEqual([[], [], ["0001_table", "0002_index"]], sorted(applied))

    def test_a_start_on_a_database_that_is_up_to_date_waits_for_no_lock(self):
        url = empty("locked").url
        migrations.migrate(url)
        with closing(psycopg2.connect(url)) as holder, holder.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (migrations.LOCK_KEY,))
            self.assertEqual([], migrations.migrate(impatient(url)))

    def test_concurrent_index_does_not_wait_for_its_own_migration(self):
        # It waits for every transaction that looks at an earlier state of the database, also in other sessions.
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

    def test_long_migration_survives_the_idle_transaction_timeout(self):
        url = impatient(empty("long").url, "idle_in_transaction_session_timeout=50ms")
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "0001_long.py").write_text("def up(m, db):\n    db.execute_sql('SELECT pg_sleep(0.2)')\n")
            with mock.patch.object(migrations, "DIRECTORY", Path(directory)):
                self.assertEqual(["0001_long"], migrations.migrate(url))

    def test_no_lock_stays_on_a_connection_as_a_pooler_would_keep_it(self):
        url = empty("pooled").url
        # Those that run in a transaction: an index cannot be made CONCURRENTLY where both runs are on one connection.
        with closing(PostgresqlDatabase(url)) as pooled, only(ALL[:2]):
            with mock.patch.object(migrations, "_connected", lambda _: nullcontext(pooled)):
                self.assertEqual(ALL[:2], migrations.migrate(url))
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
        before = binding.fingerprint()
        with tempfile.TemporaryDirectory() as directory:
            for path in migrations.DIRECTORY.glob("[0-9]*.py"):
                Path(directory, path.name).write_bytes(path.read_bytes() + b"# changed\n")
            with mock.patch.object(migrations, "DIRECTORY", Path(directory)):
                self.assertNotEqual(before, binding.fingerprint())
