"""`scripts/seed_demo.py`: what it adds is whole, legal, repeatable, and never gets into production."""

import contextlib
import importlib.util
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO
from unittest import mock

import psycopg2

from shop.demo.factories import PASSWORD, UserFactory
from shop.domain.models import Order, User
from shop.storage.database import database
from tests.harness.live import LIMIT, ROOT, until
from tests.harness.postgres import drop, empty, run_database_url, server, setUpModule, tearDownModule
from tests.harness.tables import deletion
from tests.support.cases import CommittedApiTestCase

SCRIPT = ROOT / "scripts" / "seed_demo.py"
ACCOUNT = re.compile(r"^  (\S+)  \((\w+), orders: ([\d,]+)\)$", re.M)
CHEAP = {"SHOP_ARGON2_TIME_COST": "1", "SHOP_ARGON2_MEMORY_COST": "8"}


def start(*arguments: str, python: tuple[str, ...] = (sys.executable,), **options) -> subprocess.Popen[str]:
    """Start the script as a process, from another directory than the checkout."""
    return subprocess.Popen(
        [*python, SCRIPT, *arguments], env=_environment(os.environ), cwd="/", text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a process and return what it said."""
    with process:
        try:
            stdout, stderr = process.communicate(timeout=LIMIT)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def run(*arguments: str, stdin: IO[str] | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the script's main function in this process, which is ten times as quick, and return what it said."""
    streams = {"stdin": stdin or io.StringIO(), "stdout": io.StringIO(), "stderr": io.StringIO()}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    environment = _environment(os.environ) | settings
    with (
        mock.patch.multiple(sys, argv=["seed_demo", *arguments], **streams),
        mock.patch.dict(os.environ, environment, clear=True),
    ):
        try:
            status = _script().main()
        except SystemExit as exit_:
            status = exit_.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(arguments, status, *(streams[name].getvalue() for name in ("stdout", "stderr")))


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    others = {name: value for name, value in inherited.items() if not name.startswith("SHOP_")}
    return others | CHEAP | {"SHOP_DATABASE_URL": run_database_url()}


@cache
def _script() -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("seed_demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def everything() -> list[list[tuple[object, ...]]]:
    """Return all rows of both tables."""
    tables = (("users", "id"), ("orders", "user_id, id"))
    return [database.execute_sql(f"SELECT * FROM {name} ORDER BY {key}").fetchall() for name, key in tables]


class SeedTestCase(CommittedApiTestCase):
    """Runs that succeed and runs that are refused."""

    def seed(self, *arguments: str) -> str:
        """Run the script, which has to succeed, and return what it printed."""
        ended = run(*arguments)
        self.assertEqual(0, ended.returncode, ended.stderr)
        return ended.stdout

    def assertRefused(self, sentence: str, ended: subprocess.CompletedProcess[str]) -> None:
        """Fail unless the run ended with status 2 and nothing but this sentence, a pattern."""
        self.assertRegex(ended.stderr, rf"\Aseed_demo: {sentence}\n\Z")
        self.assertEqual((2, ""), (ended.returncode, ended.stdout))


class RowsTest(SeedTestCase):
    """What is added."""

    def test_the_api_shows_every_row_and_finds_nothing_wrong(self):
        printed = self.seed("--users", "30", "--orders", "400")
        self.assertEqual((30, 400), (User.select().count(), Order.select().count()))
        self.assertIn("Added 30 users and 400 orders", printed)
        self.assertIn(PASSWORD, printed)
        accounts = ACCOUNT.findall(printed)
        self.assertEqual(["customer", "staff", "customer"], [role for _, role, _ in accounts])
        for email, role, orders in accounts:
            body = {"email": email, "password": PASSWORD}
            login = self.client.post("/users/login", body, status=200).json
            user = User.get(User.id == login["id"])
            self.assertEqual((role, int(orders)), (user.role, user.orders.count()))
        # The client holds each answer against the description; what that cannot say is here.
        for user in User.select():
            self.client.get(f"/users/{user.id}", user=user)
            for order in self.history(user):
                total = sum(round(item["price"] * 100) * item["quantity"] for item in order["items"])
                self.assertEqual(total, round(order["total"] * 100))
                self.assertLess(user.created_at, datetime.fromisoformat(order["createdAt"]))

    def history(self, user):
        """Yield all orders of a user, page by page."""
        query = ""
        while query is not None:
            page = self.client.get(f"/users/{user.id}/orders?limit=100{query}", user=user).json
            yield from page["orders"]
            query = page["nextCursor"] and f"&cursor={page['nextCursor']}"

    def test_every_row_is_one_that_the_api_would_have_taken(self):
        self.seed("--users", "5", "--orders", "60")
        for user in User.select():
            again = {"name": user.name, "email": f"again.{user.email}", "password": PASSWORD}
            self.assertEqual(user.name, self.client.post("/users", again).json["name"])
            for order in user.orders:
                body = {"userId": str(user.id), "items": order.items, "shippingAddress": order.shipping_address}
                placed = self.assertOrderStored(self.client.post("/orders", body, user=user).json)
                self.assertEqual(
                    (order.items, order.total, order.shipping_address),
                    (placed.items, placed.total, placed.shipping_address),
                )

    def test_old_orders_are_done_with_and_young_ones_are_not(self):
        self.seed("--users", "20", "--orders", "6000", "--until", "2025-06-01")
        end = datetime(2025, 6, 1, tzinfo=UTC)
        moments = [order.created_at for order in Order.select(Order.created_at)]
        self.assertLess(max(moments), end)
        self.assertGreater(min(moments), end - timedelta(days=365))
        orders = list(Order.select(Order.status, Order.created_at))
        old = {order.status for order in orders if order.created_at < end - timedelta(days=9)}
        young = [order.status for order in orders if order.created_at > end - timedelta(days=1)]
        self.assertEqual({"delivered", "cancelled"}, old)
        self.assertNotIn("delivered", young)
        self.assertGreater(young.count("confirmed"), len(young) / 2)

    def test_a_second_run_adds_and_a_reset_makes_the_same_again(self):
        options = ("--users", "8", "--orders", "90", "--seed", "x")
        # In a process of its own: nothing of it may depend on how this one hashes or what it has drawn.
        self.assertEqual(0, finished(start(*options)).returncode)
        first = everything()
        database.execute_sql(deletion())
        self.seed(*options)
        self.assertEqual(first, everything())
        self.seed(*options)
        both = everything()
        self.assertEqual([16, 180], [len(rows) for rows in both])
        for before, after in zip(first, both, strict=True):
            self.assertEqual([], [row for row in before if row not in after])
        self.seed(*options, "--reset", "--yes")
        self.assertEqual(first, everything())
        self.seed(*options[:-1], "another", "--reset", "--yes")
        self.assertNotEqual(first[0][0], everything()[0][0])

    def test_order_and_addresses_of_existing_rows_do_not_matter(self):
        # The highest number is what counts, however the address is spelled and however many accounts there are.
        UserFactory.create(email="Someone.41@Example.com")
        printed = self.seed("--users", "1", "--orders", "0")
        ((email, role, _),) = ACCOUNT.findall(printed)
        self.assertRegex(email, r"\.42@example\.com$")
        self.assertEqual("customer", role)


class RefusalTest(SeedTestCase):
    """When it does not do it, or not to the end."""

    def test_ctrl_c_leaves_everything_as_it_was(self):
        user = UserFactory.create()
        with start("--users", "5000", "--orders", "3000000", "--reset", "--yes") as process:
            self.assertIn("reads and writes of the service wait", process.stderr.readline())
            # By then rows have been removed and others written, in the transaction.
            self.assertRegex(process.stderr.readline(), r"of 3,000,000 orders, [\d,]+/s, \d+ s left$")
            process.send_signal(signal.SIGINT)
            ended = finished(process)
        self.assertEqual((130, ""), (ended.returncode, ended.stdout))
        self.assertRegex(ended.stderr, r"(?m)^seed_demo: interrupted; no row was changed$")
        self.assertEqual([user], list(User.select()))
        self.assertEqual(0, Order.select().count())

    def test_a_run_that_is_killed_leaves_nothing(self):
        with start("--orders", "3000000") as process:
            process.stderr.readline()
            process.kill()
        self.assertEqual(0, User.select().count())
        # The server takes a moment to notice; until then it keeps others out.
        until(lambda: run("--users", "1", "--orders", "1").returncode == 0, "the killed run is undone")

    def test_a_database_that_is_marked_as_production_is_refused(self):
        ((name,),) = database.execute_sql("SELECT quote_ident(current_database())").fetchall()
        self.addCleanup(database.execute_sql, f"COMMENT ON DATABASE {name} IS NULL")
        for comment in ("production", "Production, team orders"):
            database.execute_sql(f"COMMENT ON DATABASE {name} IS '{comment}'")
            for options in ((), ("--reset", "--yes")):
                self.assertRefused("this database is marked as production by its comment, .*", run(*options))
        database.execute_sql(f"COMMENT ON DATABASE {name} IS 'not production'")
        self.seed("--users", "1", "--orders", "0")
        self.assertRefused("SHOP_ENVIRONMENT says .* production, .*", run(SHOP_ENVIRONMENT="Production"))
        self.assertEqual(1, User.select().count())

    def test_a_database_without_the_schema_is_migrated_first(self):
        unseeded = empty("unseeded")
        self.addCleanup(drop, unseeded)
        ended = run("--users", "1", "--orders", "2", SHOP_DATABASE_URL=unseeded.url)
        self.assertEqual(0, ended.returncode, ended.stderr)
        self.assertRegex(ended.stderr, r"\Aseed_demo: applied 0001_users_and_orders, ")
        self.assertIn("Added 1 user and 2 orders", ended.stdout)

    def test_a_failed_analyze_does_not_hide_that_the_rows_are_there(self):
        database.execute_sql("BEGIN; LOCK TABLE users IN SHARE UPDATE EXCLUSIVE MODE")
        self.addCleanup(database.execute_sql, "ROLLBACK")
        ended = run("--users", "1", "--orders", "0", SHOP_LOCK_TIMEOUT="1")
        self.assertEqual((0, 1), (ended.returncode, User.select().count()))
        self.assertIn("the rows are there, but ANALYZE failed: canceling statement due to lock timeout", ended.stderr)
        self.assertIn("Added 1 user", ended.stdout)

    def test_a_database_that_is_not_there_is_told_in_a_sentence(self):
        self.assertRefused(
            "the database refused, and no row was changed: .*",
            run(SHOP_DATABASE_URL=server().url.with_database("no_such_database")),
        )

    def test_a_reset_wants_a_yes(self):
        UserFactory.create()
        said = run("--reset")
        self.assertRefused("--reset would remove 1 user and 0 orders in the database .*, say --yes as well", said)
        for answer, status, users in (("n", 1, 1), ("", 1, 1), ("y", 0, 3)):
            terminal = io.StringIO(f"{answer}\n" if answer else "")
            terminal.isatty = lambda: True
            with self.subTest(answer):
                ended = run("--users", "3", "--orders", "0", "--reset", stdin=terminal)
                self.assertEqual((status, users), (ended.returncode, User.select().count()), ended.stderr)
                self.assertIn("Remove 1 user and 0 orders in the database", ended.stdout)
                self.assertRegex(
                    ended.stderr, r"about 1 s, reads and writes .* after 5 s \(SHOP_LOCK_TIMEOUT\) they get"
                )

    def test_of_two_runs_at_once_the_second_is_refused(self):
        with contextlib.closing(psycopg2.connect(run_database_url())) as other, other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_script().LOCK_KEY,))
            self.assertRefused("another run is adding demo data to this database; .*", run())


class CommandTest(SeedTestCase):
    """The command line."""

    def test_nonsense_is_one_sentence_and_status_2(self):
        for arguments, sentence in (
            (["--users", "0"], "argument --users: must be a whole number from 1 to 10000000"),
            (["--users", "1e3"], "argument --users: must be a whole number from 1 to 10000000"),
            (["--orders", "-1"], "argument --orders: must be a whole number from 0 to 100000000"),
            (["--orders", "٣"], "argument --orders: must be a whole number from 0 to 100000000"),
            (["--orders"], "argument --orders: expected one argument"),
            (["--seed", "\udc80"], "argument --seed: must be text"),
            (["--until", "yesterday"], "argument --until: must be a day from 2000-01-01 to .*"),
            (["--until", "9999-12-31"], "argument --until: must be a day from 2000-01-01 to .*"),
            (["--user", "5", "x"], "unrecognized arguments: x"),
        ):
            with self.subTest(arguments):
                self.assertRefused(sentence, run(*arguments))

    def test_invalid_options_are_rejected_before_packages_are_installed(self):
        # Without its site-packages this Python has none of the packages, and there is no virtual environment to make.
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        script = shutil.copy(SCRIPT, folder)
        (folder / "in-venv").write_text("#!/bin/sh\necho installing >&2\n")
        (folder / "in-venv").chmod(0o755)
        for arguments, environment, sentence in (
            (["--orders", "many"], {}, "argument --orders: must be a whole number from 0 to 100000000"),
            ([], {"SHOP_ENVIRONMENT": "production"}, "SHOP_ENVIRONMENT says that this is production, .*"),
            ([], {}, "installing"),
        ):
            with self.subTest(arguments=arguments, environment=environment):
                ended = subprocess.run(
                    [sys._base_executable, "-S", script, *arguments],
                    env={"PATH": os.environ["PATH"]} | environment, capture_output=True, text=True,
                )  # fmt: skip
                self.assertRegex(ended.stderr, rf"\A(seed_demo: )?{sentence}\n\Z")

    @unittest.skipUnless(Path(sys.prefix) == ROOT / ".venv", "elsewhere it would make the project's environment first")
    def test_python_without_the_packages_uses_the_virtual_environment(self):
        ended = finished(start("--help", python=(sys._base_executable, "-S")))
        self.assertEqual((0, ""), (ended.returncode, ended.stderr))
        self.assertIn("--orders M", ended.stdout)
