"""Tries what docs/operations.md says about growing and recovering: a pooler, a failover, a restore, a change of keys.

All of it is real: PgBouncer from the system's packages, PostgreSQL's programs from pip, and `shop serve`, on sockets of
this machine only. Every order is sent with an Idempotency-Key, and again until it is acknowledged, as a careful client
does; afterwards each acknowledged order must be in the database exactly once. The figures are printed at the end.
"""

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import ClassVar
from unittest import mock

import psycopg2
from peewee import OperationalError
from rich.console import Console
from rich.table import Table

from shop.embedded.server import EmbeddedPostgres
from shop.settings import Settings
from shop.storage import migrations
from shop.storage.database import Database
from tests.harness.live import ROOT, Connection, free_port, temporary_directory, until
from tests.support.faults import Load
from tests.support.live import LiveShop, run_shop
from tests.system.scale.servers import Program, answers, ask, make_place, postgres, run, url_of
from tests.system.test_serve import register

# Debian keeps it where the PATH of ordinary users does not look.
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PGBOUNCER_INI = ROOT / "deploy/pgbouncer.ini"
PASSWORD = secrets.token_hex(8)
KEY, NEXT_KEY = secrets.token_hex(32), secrets.token_hex(32)
SHOP_ENVIRONMENT = {
    "SHOP_SECRET_KEY": KEY,
    # Hashing is not what is looked at here.
    "SHOP_ARGON2_TIME_COST": "1",
    "SHOP_ARGON2_MEMORY_COST": "8",
}
# The pooler is much smaller than what the service would open without it: workers times threads.
WORKERS, THREADS, POOL = 2, 16, 4
CLIENTS = 24
# How long orders are placed, in seconds.
DURATION = 5.0
# The longest that writes may stall in a failover, from the kill to the next acknowledged order, in seconds.
LONGEST_STALL = 15.0
# The same in two databases whose rows are the same, whatever their order.
CHECKSUM = "SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {} AS t"
COUNT_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shop'"
# Migrations as a later version may bring them: the schema only gains.
EXPAND = "def up(migrator, db):\n    db.execute_sql('ALTER TABLE orders ADD COLUMN note text')\n"
INDEX = """
atomic = False

def up(migrator, db):
    db.execute_sql("DROP INDEX CONCURRENTLY IF EXISTS orders_note_idx")
    db.execute_sql("CREATE INDEX CONCURRENTLY orders_note_idx ON orders (user_id, note)")
"""
# Columns of the table at the end.
WIDTH = 120

home: Path


def setUpModule() -> None:
    """Make the home of the servers; print the figures at the end."""
    global home  # noqa: PLW0603 - unittest's module fixture has no other place
    if PGBOUNCER is None:
        raise FileNotFoundError("there is no PgBouncer; on Debian and Ubuntu: apt install pgbouncer")
    home = temporary_directory("shop-scale-")
    unittest.addModuleCleanup(shutil.rmtree, home)
    unittest.addModuleCleanup(print_figures)


def print_figures() -> None:
    """Print what was noted, a line each."""
    table = Table("test", "what", "figure")
    for row in figures:
        table.add_row(*row)
    Console(width=WIDTH).print(table)


figures: list[tuple[str, str, str]] = []


class ScaleTestCase(unittest.TestCase):
    """A database home of this class, and what is asserted of orders."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.place = home / cls.__name__
        with EmbeddedPostgres(cls.place, durable=False):
            pass  # for the data directory, with the role and the database
        cls.data, cls.sockets = cls.place / "data", cls.place / "socket"

    def assertExactlyOnce(self, load: Load, url: str) -> None:
        """Fail unless each acknowledged order is stored once, with the id that was acknowledged."""
        stored = ask(url, "SELECT idempotency_key, id::text FROM orders WHERE idempotency_key IS NOT NULL")
        self.assertGreater(len(load.acknowledged), CLIENTS)
        self.assertEqual({}, dict(load.acknowledged.items() - set(stored)), "acknowledged and lost")
        self.assertEqual(len(stored), len(dict(stored)), "stored twice")


def placed(load: Load) -> list[float]:
    """Return when each order of a load was acknowledged, on the monotonic clock."""
    return sorted(o.began + o.seconds for o in load.outcomes if o.request == "POST" and o.is_served)


def rate(load: Load) -> str:
    """Return how many orders a second were acknowledged."""
    moments = placed(load)
    return f"{len(moments) / (moments[-1] - moments[0]):.0f}/s"


def longest_gap(load: Load) -> float:
    """Return the longest time without an acknowledged order, in seconds."""
    return max(after - before for before, after in pairwise(placed(load)))


def note(test: str, what: str, figure: object) -> None:
    """Keep a figure for the table at the end."""
    figures.append((test, what, str(figure)))


@contextmanager
def serving(url: str, **environment: str) -> Iterator[LiveShop]:
    """Run the service on a database."""
    settings = SHOP_ENVIRONMENT | {"SHOP_WORKERS": str(WORKERS), "SHOP_THREADS": str(THREADS)} | environment
    with LiveShop(environment=settings | {"SHOP_DATABASE_URL": url}) as shop:
        yield shop


def ordering(shop: LiveShop) -> Load:
    """Return clients that place orders while the block runs."""
    return Load(lambda: shop.url, clients=CLIENTS)


def migrate(url: str) -> None:
    """Run `shop migrate`."""
    finished = run_shop("migrate", SHOP_DATABASE_URL=url)
    if finished.returncode:
        raise AssertionError(f"shop migrate ended with {finished.returncode} and said: {finished.stderr}")


# -- the tests ---------------------------------------------------------------------------------------------------------


class PoolerTest(ScaleTestCase):
    """PostgreSQL, PgBouncer in transaction mode with few connections, and a service that would use many."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.enterClassContext(postgres(cls.data, cls.sockets, max_connections="20"))
        cls.direct = url_of(cls.sockets)
        until(lambda: answers(cls.direct), "PostgreSQL answers")
        migrate(cls.direct)
        port = free_port()
        cls.enterClassContext(Program([PGBOUNCER, cls.configuration(port)], cls.data))
        cls.pooled = f"postgresql://shop:{PASSWORD}@127.0.0.1:{port}/shop"
        until(lambda: answers(cls.pooled), "PgBouncer answers")

    @classmethod
    def configuration(cls, port: int) -> Path:
        """Write deploy/pgbouncer.ini with this run's addresses and a small pool."""
        place = make_place("pgbouncer", cls.data)
        (place / "userlist.txt").write_text(f'"shop" "{PASSWORD}"\n')
        text = PGBOUNCER_INI.read_text()
        for pattern, value in (
            ("host=127.0.0.1 ", f"host={cls.sockets} "),
            ("listen_port = 6432", f"listen_port = {port}\nunix_socket_dir ="),
            ("/etc/pgbouncer/userlist.txt", str(place / "userlist.txt")),
            ("default_pool_size = 20", f"default_pool_size = {POOL}"),
        ):
            if pattern not in text:
                raise AssertionError(f"{PGBOUNCER_INI} has no {pattern!r} any more")
            text = text.replace(pattern, value)
        path = place / "pgbouncer.ini"
        path.write_text(text)
        return path

    def test_the_service_works_through_a_small_pool(self) -> None:
        with (
            serving(self.pooled, SHOP_PREPARED_STATEMENTS="0") as shop,
            ordering(shop) as load,
        ):
            time.sleep(DURATION)
            ((connections,),) = ask(self.direct, COUNT_CONNECTIONS)
        self.assertEqual({}, load.refusals())
        self.assertExactlyOnce(load, self.direct)
        self.assertLessEqual(connections, POOL)
        note("pooler", f"{WORKERS * THREADS} threads, connections to PostgreSQL", connections)
        note("pooler", "orders acknowledged", f"{len(load.acknowledged)}, {rate(load)}")
        note("pooler", "lost, refused", "0, 0")

    def test_with_prepared_statements_left_on_requests_fail_but_none_does_harm(self) -> None:
        with serving(self.pooled) as shop, ordering(shop) as load:
            time.sleep(DURATION / 2)
        self.assertExactlyOnce(load, self.direct)
        failed = load.refusals().pop("500 INTERNAL_ERROR")
        self.assertGreater(failed, 0)
        self.assertIn("prepared statement", "\n".join(shop.stderr))
        note("pooler, statements left prepared", "answers 201 and 500", f"{len(load.acknowledged)} and {failed}")

    def test_the_pooler_makes_the_settings_that_it_drops(self) -> None:
        database = Database(None)
        database.configure(Settings(database_url=self.direct, secret_key=KEY))
        names = dict(re.findall(r"-c (\w+)=(\S+)", database.connect_params["options"]))
        with closing(database):
            for name in names:
                with self.subTest(name):
                    wanted = database.execute_sql(f"SHOW {name}").fetchall()
                    self.assertEqual(wanted, ask(self.pooled, f"SHOW {name}"))


class FailoverTest(ScaleTestCase):
    """A primary that is killed, and a synchronous standby that takes over."""

    def test_nothing_acknowledged_is_lost_and_the_service_goes_on_by_itself(self) -> None:
        standby = make_place("standby", self.data)
        superuser = {"user": "postgres"}
        with ExitStack() as stack:
            primary = stack.enter_context(postgres(self.data, self.sockets))
            first = url_of(self.sockets)
            until(lambda: answers(first), "the primary answers")
            migrate(first)
            origin = f"host={self.sockets} user=postgres application_name=standby"
            run("pg_basebackup", "-d", origin, "-D", standby / "data", "-R", "--checkpoint=fast", owner=self.data)
            stack.enter_context(postgres(standby / "data", standby / "socket"))
            # Only now: until there is a standby, every write would wait for it.
            ask(url_of(self.sockets, **superuser), "ALTER SYSTEM SET synchronous_standby_names = '*'")
            ask(url_of(self.sockets, **superuser), "SELECT pg_reload_conf()")
            state = "SELECT sync_state FROM pg_stat_replication"
            until(lambda: ask(url_of(self.sockets, **superuser), state) == [("sync",)], "the standby is synchronous")

            both = url_of(self.sockets, standby / "socket", target_session_attrs="read-write")
            shop = stack.enter_context(serving(both))
            with ordering(shop) as load:
                time.sleep(DURATION)
                before = len(load.acknowledged)
                primary.kill()
                promoting = time.monotonic()
                run("pg_ctl", "promote", "-D", standby / "data", owner=self.data)
                promoted = time.monotonic() - promoting
                until(lambda: len(load.acknowledged) > before + CLIENTS, "orders are acknowledged again")
                time.sleep(DURATION)
            self.assertEqual({"503 SERVICE_UNAVAILABLE"}, set(load.refusals()))
            self.assertExactlyOnce(load, url_of(standby / "socket"))
            self.assertLess(longest_gap(load), LONGEST_STALL)
            with Connection(shop.url) as connection:
                self.assertEqual(200, connection.get("/readyz").status)
        after = len(load.acknowledged) - before
        note("failover", "orders acknowledged before and after", f"{before} and {after}, {rate(load)}")
        note("failover", "lost, stored twice", "0, 0")
        note("failover", "writes stalled", f"{longest_gap(load):.2f} s; pg_ctl promote took {promoted:.2f} s")
        note(
            "failover", "answers during it", ", ".join(f"{times} of {what}" for what, times in load.refusals().items())
        )


class MigrationTest(ScaleTestCase):
    """Migrations of a database that is in use."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.enterClassContext(postgres(cls.data, cls.sockets))
        cls.url = url_of(cls.sockets)
        until(lambda: answers(cls.url), "PostgreSQL answers")
        migrate(cls.url)

    def more_migrations(self, **texts: str) -> None:
        """Have more migrations than the package has, until the end of the test."""
        directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for path in migrations.DIRECTORY.glob("[0-9]*.py"):
            shutil.copy(path, directory)
        for name, text in texts.items():
            (directory / f"{name.removeprefix('m')}.py").write_text(text)
        self.enterContext(mock.patch.object(migrations, "DIRECTORY", directory))

    def test_what_only_adds_is_applied_under_load_and_no_request_notices(self) -> None:
        self.more_migrations(m0101_expand=EXPAND, m0102_index=INDEX)
        with serving(self.url) as shop, ordering(shop) as load:
            time.sleep(DURATION / 2)
            started = time.monotonic()
            self.assertEqual(["0101_expand", "0102_index"], migrations.migrate(self.url))
            took = time.monotonic() - started
            time.sleep(DURATION / 2)
        self.assertEqual({}, load.refusals())
        self.assertExactlyOnce(load, self.url)
        note("migration", "a column and an index, under load", f"{took:.2f} s, 0 requests refused")

    def test_with_a_lock_timeout_it_fails_before_the_queued_requests(self) -> None:
        self.more_migrations(m0103_blocked="def up(migrator, db):\n    db.execute_sql('LOCK TABLE orders')\n")
        with closing(psycopg2.connect(self.url)) as reader, reader.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM orders")  # and the transaction goes on
            with serving(self.url) as shop, ordering(shop) as load:
                with mock.patch.dict(os.environ, PGOPTIONS="-c lock_timeout=1s"), self.assertRaises(OperationalError):
                    migrations.migrate(self.url)
                time.sleep(DURATION / 5)
        self.assertEqual({}, load.refusals())
        note("migration", "gives up on a lock after 1 s, requests waited", f"{longest_gap(load):.2f} s, 0 refused")


class BackupTest(unittest.TestCase):
    """pg_dump of a database that is in use, and pg_restore into an empty one; both embedded."""

    def test_a_restored_database_has_the_same_rows_and_is_served(self) -> None:
        saved, restored = home / "saved", home / "restored"
        account = {"email": "ada@example.com", "password": "correct horse"}
        seeding = ("scripts/seed_demo.py", "--users", "200", "--orders", "5000", "--data-dir", str(saved))
        dump = home / "shop.dump"
        with LiveShop(saved, environment=SHOP_ENVIRONMENT) as shop:
            subprocess.run([sys.executable, *seeding], cwd=ROOT, check=True, capture_output=True)
            with Connection(shop.url) as connection:
                self.assertEqual(201, connection.post("/users", {"name": "Ada", **account}).status)
            before = self.rows(saved)
            started = time.monotonic()
            run("pg_dump", "--format=custom", f"--file={dump}", f"--host={saved / 'socket'}", "--username=shop", "shop")
            dumped = time.monotonic() - started
        with EmbeddedPostgres(restored):
            started = time.monotonic()
            how = ("--exit-on-error", "--single-transaction", "--no-owner", "--username=shop", "--dbname=shop")
            run("pg_restore", *how, f"--host={restored / 'socket'}", dump)
            took = time.monotonic() - started
            self.assertEqual(before, self.rows(restored))
        with LiveShop(restored, environment=SHOP_ENVIRONMENT) as shop, Connection(shop.url) as connection:
            self.assertIn("shop: the database is up to date", shop.stdout)
            self.assertEqual(200, connection.post("/users/login", account).status)
        size = f"{dump.stat().st_size / 1e3:.0f} kB"
        note("backup", f"{before['orders'][0]} orders saved, restored", f"{dumped:.2f} s, {took:.2f} s, {size}")
        note("backup", "tables whose rows and checksums are equal", len(before))

    @staticmethod
    def rows(place: Path) -> dict[str, tuple]:
        """Return the number of rows of each table, and a checksum of them."""
        url = url_of(place / "socket")
        tables = [name for (name,) in ask(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        return {name: ask(url, CHECKSUM.format(name))[0] for name in tables}


class KeyRotationTest(ScaleTestCase):
    """The steps of a change of SHOP_SECRET_KEY, as services that run at the same time."""

    STEPS: ClassVar = [(KEY, ""), (KEY, NEXT_KEY), (NEXT_KEY, KEY), (NEXT_KEY, "")]

    def test_each_step_knows_the_tokens_of_the_one_before_and_after_it(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(postgres(self.data, self.sockets))
            url = url_of(self.sockets)
            until(lambda: answers(url), "PostgreSQL answers")
            shops = [
                stack.enter_context(
                    serving(url, SHOP_SECRET_KEY=key, SHOP_SECRET_KEY_FALLBACKS=fallbacks, SHOP_WORKERS="1")
                )
                for key, fallbacks in self.STEPS
            ]
            accepted = [[self.accepts(shop, self.login(issuer)) for shop in shops] for issuer in shops]
        # A line for each that issues, a column for each that verifies. Without the second step, a service that has the
        # new key and one that has not yet heard of it would refuse each other's tokens.
        self.assertEqual(
            [
                [True, True, True, False],
                [True, True, True, False],
                [False, True, True, True],
                [False, True, True, True],
            ],
            accepted,
        )
        note("keys", "tokens refused between one step and the next", 0)

    @staticmethod
    def login(shop: LiveShop) -> tuple[str, str]:
        with Connection(shop.url) as connection:
            return register(connection), str(connection.token)

    @staticmethod
    def accepts(shop: LiveShop, login: tuple[str, str]) -> bool:
        user_id, token = login
        with Connection(shop.url, token) as connection:
            return connection.get(f"/users/{user_id}").status == 200
