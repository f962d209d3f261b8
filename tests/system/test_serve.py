"""The command `shop` as an operator meets it: real processes, real signals, real sockets, a real crash.

What the API answers is tested elsewhere, in the tests' own process. Here is what only the running command shows: that
it starts, refuses with one sentence, stops without a trace, and loses no order whatever is done to it.
"""

import os
import re
import shutil
import signal
import socket
import stat
import threading
import unittest
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPException
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import psycopg2

from shop import __version__
from shop.embedded.server import EmbeddedPostgres
from shop.serving.server import GRACE
from shop.storage import migrations
from tests.harness import postgres
from tests.harness.live import LIMIT, Answer, Connection, free_port, still_running, temporary_directory, until
from tests.support.commands import call_shop
from tests.support.live import Command, LiveShop, copy_of_home, run_at_once, run_shop

SECRET = "the secret key of these tests, 32 bytes and more"
# Hashing that costs nothing, because no test here is about passwords; and a log of nothing but what is wrong.
CHEAP = {"SHOP_ARGON2_TIME_COST": "1", "SHOP_ARGON2_MEMORY_COST": "8", "SHOP_LOG_LEVEL": "warning"}
PASSWORD = "correct horse"
# Seconds in which a server stops whose requests are short. A worker that does not heed is killed only later.
PROMPT = GRACE - 1
# As many clients at once as make the workers overlap, and as many orders as make a stream of them.
CLIENTS = 6
ORDERS = 60

base: Path  # where the data homes of this module are
template: Path  # a data home with the schema and no rows, not running


def setUpModule() -> None:
    global base, template  # noqa: PLW0603 - unittest's module fixture has no other place
    postgres.setUpModule()
    base = temporary_directory()
    unittest.addModuleCleanup(shutil.rmtree, base)
    template = base / "template"
    made = run_shop("migrate", "--data-dir", template)
    if made.returncode:
        raise AssertionError(f"no data home can be made: {made.stderr}")


def an_order(user_id: str, street: str = "1 Main Street") -> dict[str, Any]:
    """Return the body of an order that costs 109.97."""
    items = [
        {"productId": "tea", "name": "Tea", "price": 29.99, "quantity": 2},
        {"productId": "pot", "name": "Pot", "price": 49.99, "quantity": 1},
    ]
    return {"userId": user_id, "items": items, "shippingAddress": {"street": street}}


def register(connection: Connection) -> str:
    """Register a user and log in; the connection keeps the token. Return the user's id."""
    account = {"name": "Ada", "email": f"{uuid4()}@example.com", "password": PASSWORD}
    user = connection.post("/users", account)
    login = connection.post("/users/login", {"email": account["email"], "password": PASSWORD})
    if (user.status, login.status) != (201, 200):
        raise AssertionError(f"no user to test with: {user}, {login}")
    connection.token = login.json["token"]
    return user.json["id"]


class Stream:
    """Clients that place orders as fast as they can, until the server is gone.

    Attributes:
        acknowledged: The id of each order that was answered with 201, by its street, which no other order has.
        strange: Whatever else was answered.
    """

    def __init__(self, shop: LiveShop) -> None:
        self.acknowledged: dict[str, str] = {}
        self.strange: list[Answer] = []
        self.connection = Connection(shop.url)
        self._user_id = register(self.connection)
        self._url = shop.url
        self._threads = [threading.Thread(target=self._place, args=(client,)) for client in range(CLIENTS)]

    def __enter__(self) -> "Stream":
        """Start, and return in the middle of the stream."""
        for thread in self._threads:
            thread.start()
        until(lambda: len(self.acknowledged) >= ORDERS or self.strange, f"{ORDERS} orders are acknowledged")
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(LIMIT)
        self.connection.close()

    def _place(self, client: int) -> None:
        with Connection(self._url, self.connection.token) as connection:
            for number in count():
                street = f"{number} Client {client} Street"
                try:
                    answer = connection.post("/orders", an_order(self._user_id, street))
                except (OSError, HTTPException):
                    return
                if answer.status != 201:
                    self.strange.append(answer)
                    return
                self.acknowledged[street] = answer.json["id"]


def letting_in(process: psutil.Process, number: signal.Signals) -> int:
    """Return how many threads of a process do not block a signal; one that waits for it counts."""
    statuses = "".join((thread / "status").read_text() for thread in Path(f"/proc/{process.pid}/task").iterdir())
    masks = [int(mask, 16) for mask in re.findall(r"^SigBlk:\s+(\w+)$", statuses, re.MULTILINE)]
    return sum(not mask >> (number - 1) & 1 for mask in masks)


class ServeTestCase(unittest.TestCase):
    def home(self) -> Path:
        """Return a data home of this test's own, with the schema and no rows."""
        return copy_of_home(template, base / str(uuid4()))

    def shop(self, home: Path, **settings: Any) -> LiveShop:
        """Return a server on `home` that stops at the end of the test at the latest."""
        shop = LiveShop(home, environment=CHEAP, measured=False, **settings)
        self.addCleanup(shop.close)
        return shop

    def connect(self, shop: LiveShop, token: str | None = None) -> Connection:
        connection = Connection(shop.url, token)
        self.addCleanup(connection.close)
        return connection

    def assertGone(self, processes: list[psutil.Process]) -> None:
        """Fail unless all of `processes` have ended by now."""
        self.assertEqual([], still_running(processes), "processes were left behind")

    def assertStoppedCleanly(self, home: Path) -> None:
        """Fail unless the database of `home` wrote all it had before it ended, so that nothing is to be recovered."""
        log = (home / "postgres.log").read_text()
        self.assertTrue(log.rstrip().endswith("LOG:  database system is shut down"), log)

    def assertKept(self, acknowledged: dict[str, str], shop: LiveShop, token: str | None) -> None:
        """Fail unless each order of a stream is served by `shop`, and stored exactly once."""
        connection = self.connect(shop, token)
        for street, order_id in acknowledged.items():
            answer = connection.get(f"/orders/{order_id}")
            self.assertEqual((200, street), (answer.status, answer.json.get("shippingAddress", {}).get("street")))

    def assertRefused(self, finished: Any, *words: str) -> None:
        """Fail unless the command ended with status 2 and one sentence, which has all `words`."""
        self.assertEqual(2, finished.returncode, finished)
        self.assertRegex(finished.stderr, r"\Ashop: [^\n]+\n\Z", "a refusal is one line on stderr")
        self.assertNotIn("Traceback", finished.stdout + finished.stderr)
        for word in words:
            self.assertIn(word, finished.stderr)


class LifeOfADataHomeTest(ServeTestCase):
    def test_the_first_start_makes_everything_and_the_second_finds_it_again(self) -> None:
        home = base / str(uuid4()) / "missing" / "home"
        with self.shop(home) as first:
            self.assertRegex(first.stdout[0], "^shop: applied 0001_users_and_orders")
            self.assertEqual(f"http://127.0.0.1:{first.port}", first.url)
            connection = self.connect(first)
            user_id = register(connection)
            placed = connection.post("/orders", an_order(user_id))
            self.assertEqual((201, 109.97), (placed.status, placed.json["total"]))
            read = connection.get(placed.headers["Location"])
            self.assertEqual((200, placed.json["id"]), (read.status, read.json["id"]))
        announced = ["serving on {} (Ctrl-C stops it)", "documentation on {}/docs", f"data in {home}"]
        self.assertEqual([f"shop: {line.format(first.url)}" for line in announced], first.stdout[1:4])
        key = home / "secret-key"
        self.assertEqual(0o600, stat.S_IMODE(key.stat().st_mode))
        self.assertNotIn(key.read_text(), "\n".join(first.stdout + first.stderr))
        with self.shop(home) as second:
            self.assertEqual("shop: the database is up to date", second.stdout[0])
            again = self.connect(second, connection.token).get(placed.headers["Location"])
            self.assertEqual((200, read.json), (again.status, again.json), "the token and the order outlive a restart")

    def test_a_home_is_found_by_its_short_name(self) -> None:
        home = self.home()
        migrated = run_shop("migrate", "--data-dir", f"~/{home.name}", HOME=str(home.parent))
        self.assertEqual((0, "shop: the database is up to date\n", ""), outcome(migrated))

    def test_a_key_that_is_no_longer_whole_is_refused(self) -> None:
        home = self.home()
        (home / "secret-key").write_text("half a key\n")
        self.assertRefused(run_shop("migrate", "--data-dir", home), str(home / "secret-key"), "32 bytes")

    def test_each_signal_that_stops_it_leaves_no_process_and_status_0(self) -> None:
        home = self.home()
        # Under `nohup` the service inherits that SIGHUP is ignored, and heeds that.
        ignores_hangups = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        for number in (signal.SIGTERM, signal.SIGINT, *(() if ignores_hangups else (signal.SIGHUP,))):
            with self.subTest(number.name):
                # At once, because the workers are not all up yet when the first of them answers.
                shop = self.shop(home).start()
                family = shop.family()
                shop.terminate(number)
                self.assertEqual(0, shop.wait(PROMPT))
                self.assertEqual((["shop: stopped"], []), (shop.stdout[4:], shop.stderr))
                self.assertGone(family)
                self.assertStoppedCleanly(home)

    def test_ctrl_c_in_the_middle_of_orders_stops_it_in_order(self) -> None:
        home = self.home()
        shop = self.shop(home).start()
        family = shop.family()
        with Stream(shop) as stream:
            shop.interrupt_group()
            self.assertEqual(0, shop.wait(PROMPT))
        self.assertEqual([], stream.strange)
        self.assertEqual((["shop: stopped"], []), (shop.stdout[4:], shop.stderr))
        self.assertGone(family)
        self.assertStoppedCleanly(home)


class CrashTest(ServeTestCase):
    def test_after_kill_9_each_acknowledged_order_exists_exactly_once(self) -> None:
        home = self.home()
        shop = self.shop(home).start()
        with Stream(shop) as stream:
            shop.kill_everything()
        self.assertEqual([], stream.strange)
        self.assertTrue((home / "data/postmaster.pid").exists(), "the database was killed, and had no time to stop")
        with self.shop(home, port=shop.port) as next_shop:
            self.assertKept(stream.acknowledged, next_shop, stream.connection.token)
            stored = self.stored_streets(home)
        self.assertEqual([], [street for street, times in stored.items() if times > 1])
        self.assertEqual(set(), set(stream.acknowledged) - set(stored))

    def test_after_kill_9_of_the_server_workers_end_and_a_restart_works(self) -> None:
        home = self.home()
        shop = self.shop(home).start()
        with Stream(shop) as stream:
            family = shop.family()
            shop.terminate(signal.SIGKILL)
            self.assertEqual(-signal.SIGKILL, shop.wait())
        until(lambda: not still_running(family), "workers and database have ended without their server")
        # Nobody tells the workers to go first, so some requests may find them without their database.
        self.assertLessEqual({answer.status for answer in stream.strange}, {503})
        self.assertStoppedCleanly(home)
        with self.shop(home, port=shop.port) as next_shop:
            self.assertKept(stream.acknowledged, next_shop, stream.connection.token)

    @staticmethod
    def stored_streets(home: Path) -> Counter[str]:
        """Return how many orders each street has in the database of `home`, which is being served."""
        embedded = EmbeddedPostgres(home)
        embedded.start(join=True)
        with closing(psycopg2.connect(embedded.url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT shipping_address ->> 'street' FROM orders")
            return Counter(street for (street,) in cursor)


class WhileItServesTest(ServeTestCase):
    """What is done beside a running server, or to a part of it, while it goes on serving."""

    served: LiveShop
    served_home: Path

    @classmethod
    def setUpClass(cls) -> None:
        cls.served_home = copy_of_home(template, base / "served")
        cls.served = cls.enterClassContext(LiveShop(cls.served_home, environment=CHEAP | {"SHOP_WORKERS": "2"}))

    def tearDown(self) -> None:
        self.assertEqual(200, self.connect(self.served).get("/readyz").status, "it still serves")

    def answers(self) -> bool:
        """Tell whether the server takes a connection and is ready."""
        try:
            return self.connect(self.served).get("/readyz").status == 200
        except OSError:
            return False

    def test_a_second_server_on_the_same_data_directory_says_so(self) -> None:
        refused = run_shop("serve", "--data-dir", self.served_home, "--port", str(free_port()))
        self.assertRefused(refused, str(self.served_home), f"in use by process {self.served.process.pid}")

    def test_a_second_server_on_the_same_port_says_so(self) -> None:
        home = base / str(uuid4())
        refused = run_shop("serve", "--data-dir", home, "--port", str(self.served.port))
        self.assertRefused(refused, f"127.0.0.1:{self.served.port}", "--port")
        self.assertFalse(home.exists(), "it refuses before it makes a database")

    def test_migrate_joins_the_database_that_is_being_served(self) -> None:
        joined = run_shop("migrate", "--data-dir", self.served_home)
        self.assertEqual((0, "shop: the database is up to date\n", ""), outcome(joined))

    def test_a_killed_worker_is_replaced(self) -> None:
        killed, other = self.served.workers()
        killed.kill()
        until(lambda: killed not in self.served.workers(), "the killed worker is gone")
        until(lambda: len(self.served.workers()) == 2, "there are two workers again")
        self.assertIn(other, self.served.workers(), "the other one went on")
        # A worker is there before it listens, and the other may not have listened yet when the first was killed.
        until(self.answers, "it serves")
        with ThreadPoolExecutor(CLIENTS) as clients:
            statuses = list(clients.map(lambda _: self.connect(self.served).get("/readyz").status, range(CLIENTS)))
        self.assertEqual([200] * CLIENTS, statuses)

    @unittest.skipUnless(Path("/proc/self/task").exists(), "this system does not show what threads block")
    def test_a_signal_for_a_worker_goes_to_the_thread_that_waits_for_it(self) -> None:
        # The system gives it to any thread that lets it in. Where that was another, the worker went on serving.
        for worker in self.served.workers():
            until(lambda of=worker: letting_in(of, signal.SIGTERM) == 1, "one thread waits for SIGTERM")
            self.assertEqual(0, letting_in(worker, signal.SIGINT))


class RefusalTest(ServeTestCase):
    def test_each_mistake_gets_one_sentence_status_2_and_no_secret_in_it(self) -> None:
        other = self.enterContext(socket.create_server(("127.0.0.1", 0)))
        taken, free, nobody = other.getsockname()[1], str(free_port()), free_port()
        no_directory = base / str(uuid4())
        no_directory.touch()
        given = {"SHOP_SECRET_KEY": SECRET, "SHOP_DATABASE_URL": "postgresql://shop:hunter2@127.0.0.1/shop"}
        mistakes = {
            "a port that another program has": (
                Command("serve", SHOP_PORT=str(taken)),
                [f"cannot listen on 127.0.0.1:{taken}", "--port"],
            ),
            "a port for the metrics that another program has": (
                Command("serve", "--port", free, SHOP_METRICS_PORT=str(taken)),
                [f"cannot listen on 127.0.0.1:{taken}", "SHOP_METRICS_PORT"],
            ),
            # RFC 5737: the network is nobody's.
            "an address of another machine": (Command("serve", "--host", "192.0.2.1"), ["cannot listen on 192.0.2.1"]),
            "a database that nobody runs": (
                Command(
                    *("serve", "--port", free),
                    **given | {"SHOP_DATABASE_URL": f"postgresql://shop:hunter2@127.0.0.1:{nobody}/shop"},
                ),
                ["the database refused", str(nobody)],
            ),
            "no secret key beside a database URL": (
                Command("serve", SHOP_DATABASE_URL=given["SHOP_DATABASE_URL"]),
                ["SHOP_SECRET_KEY is required with SHOP_DATABASE_URL"],
            ),
            "a data directory of another major version": (
                Command("serve", "--port", free, "--data-dir", self.home_of_version(15)),
                ["PostgreSQL 15", "pg_dump", "pg_restore"],
            ),
            "a data directory that cannot be made": (
                Command("serve", "--port", free, "--data-dir", no_directory / "home"),
                [str(no_directory), "SHOP_DATA_DIR"],
            ),
        }
        with ThreadPoolExecutor(2) as threads:
            refusals = list(threads.map(Command.run, (command for command, _ in mistakes.values())))
        for (mistake, (_, words)), refused in zip(mistakes.items(), refusals, strict=True):
            with self.subTest(mistake):
                self.assertRefused(refused, *words)
                for secret in ("hunter2", SECRET):
                    self.assertNotIn(secret, refused.stdout + refused.stderr)

    @staticmethod
    def home_of_version(major: int) -> Path:
        """Make what looks like a data home of another PostgreSQL."""
        home = base / str(uuid4())
        data = home / "data"
        data.mkdir(parents=True)
        (data / "PG_VERSION").write_text(f"{major}\n")
        # Root's database runs as another account, to which its data belong.
        owner = (template / "data").stat()
        os.chown(data, owner.st_uid, owner.st_gid)
        return home


class MigrateTest(ServeTestCase):
    def test_status_lists_what_is_pending_and_then_when_it_was_applied(self) -> None:
        url = self.empty_database()
        names = [migration.name for migration in migrations.status(url)]
        pending = call_shop("migrate", "--status", SHOP_DATABASE_URL=url)
        self.assertEqual((0, "".join(f"{name}  pending\n" for name in names), ""), pending)
        applied = call_shop("migrate", SHOP_DATABASE_URL=url)
        self.assertEqual((0, f"shop: applied {', '.join(names)}\n", ""), applied)
        status, out, err = call_shop("migrate", "--status", SHOP_DATABASE_URL=url)
        self.assertEqual((0, ""), (status, err))
        for name, line in zip(names, out.splitlines(), strict=True):
            self.assertRegex(line, rf"^{re.escape(name)}  applied \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d$")

    def test_of_two_at_once_one_applies_and_the_other_finds_it_done(self) -> None:
        command = Command("migrate", SHOP_DATABASE_URL=self.empty_database())
        finished = run_at_once(command, command)
        self.assertEqual([(0, ""), (0, "")], [(each.returncode, each.stderr) for each in finished])
        said = sorted(each.stdout for each in finished)
        self.assertRegex(said[0], r"\Ashop: applied \S+(, \S+)*\n\Z")
        self.assertEqual("shop: the database is up to date\n", said[1])

    def test_it_takes_over_a_database_that_is_stopped_under_it(self) -> None:
        home = self.home()
        embedded = EmbeddedPostgres(home)
        self.addCleanup(embedded.stop)
        embedded.start()
        with closing(psycopg2.connect(embedded.url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute("BEGIN; LOCK TABLE schema_migration")
            with ThreadPoolExecutor(1) as thread:
                joined = thread.submit(run_shop, "migrate", "--data-dir", home)
                try:
                    until(lambda: self.waits_for_the_lock(cursor), "the command waits to look what is pending")
                finally:
                    # In any case: the command waits for us, and the end of this block waits for the command.
                    embedded.stop()
        self.assertEqual((0, "shop: the database is up to date\n", ""), outcome(joined.result()))

    @staticmethod
    def waits_for_the_lock(cursor: Any) -> bool:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return cursor.fetchone() == (1,)

    def empty_database(self) -> str:
        """Create a database without any table on the run's server, dropped after the test; return its URL."""
        database = postgres.empty("serve")
        self.addCleanup(postgres.drop, database)
        return database.url


class HelpTest(unittest.TestCase):
    def test_help_and_version_tell_a_person_what_there_is(self) -> None:
        expected = {
            Command("--version"): [f"shop {__version__}\n"],
            Command("--help"): ["serve", "migrate", "--version", "SHOP_DATABASE_URL"],
            Command("serve", "--help"): ["--host", "--port", "--workers", "--threads", "--data-dir", "SHOP_DATA_DIR"],
            Command("migrate", "--help"): ["--status", "--data-dir", "SHOP_DATA_DIR"],
        }
        for (command, words), told in zip(expected.items(), run_at_once(*expected), strict=True):
            with self.subTest(command.arguments):
                self.assertEqual((0, ""), (told.returncode, told.stderr))
                for word in words:
                    self.assertIn(word, told.stdout)


def outcome(finished: Any) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr of a command."""
    return finished.returncode, finished.stdout, finished.stderr
