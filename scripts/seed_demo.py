#!/usr/bin/env python3
"""Fills a database with believable users and orders, to try and to show the shop with.

All rows are added in one transaction: Ctrl-C, or any other early end, leaves the rows that were there. With the same
numbers, seed and day an empty database gets the same rows; a database with rows gets further ones. The script migrates
the database first. If its packages are not installed, it makes the project's virtual environment and continues in it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import date, datetime, timezone
from datetime import time as time_of_day
from pathlib import Path
from types import FrameType
from typing import NoReturn

missing: ImportError | None = None
try:
    # Everything above is there on older versions of Python, too: the options are checked before anything is installed.
    from datetime import UTC

    import peewee
    import psycopg2
    from argon2 import PasswordHasher
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from shop.demo.dataset import ORDER_COLUMNS, USER_COLUMNS, Batch, Dataset
    from shop.demo.factories import PASSWORD
    from shop.embedded.server import EmbeddedError
    from shop.serving.server import EmbeddedDatabaseStopped, with_database
    from shop.settings import Settings, SettingsError
    from shop.storage import migrations
except ImportError as error:
    missing = error

IN_VENV = Path(__file__).resolve().with_name("in-venv")
USAGE_ERROR = 2
MAX_USERS = 10_000_000
MAX_ORDERS = 100_000_000
EARLIEST = date(2000, 1, 1)
TABLES = ("users", "orders", "login_failures", "webhook_deliveries")
# Any number that nothing else in the database uses as an advisory lock; this one spells "demo".
LOCK_KEY = 0x64656D6F
# Bytes that are handed to the driver at a time.
PIECE = 1024 * 1024
# A comment on the database that begins with this word marks it.
PRODUCTION = "production"
# How often the plain progress has a line: each time that another tenth of the orders is there.
STEPS = 10
# Orders that a machine with two cores adds in a second, for the estimate before the first ones are there.
USUAL_RATE = 25_000


class Refused(Exception):
    """It cannot be done, or is not to be; the text is a sentence for a person."""


def main() -> int:
    """Run, and return the exit status: 0, 1 when the question was not answered with yes, 2 when it cannot be done."""
    options = _options()
    if refusal := _early_refusal():
        return _refuse(refusal)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with with_database(Settings.load(data_dir=options.data_dir), join=True) as complete:
            seed_demo(complete, options)
    except (EmbeddedError, EmbeddedDatabaseStopped, Refused, SettingsError, migrations.CannotMigrate) as error:
        return _refuse(str(error))
    except (peewee.PeeweeException, psycopg2.Error) as error:
        return _refuse(f"the database refused, and no row was changed: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        _say("interrupted; no row was changed")
        return 128 + signal.SIGINT
    return 0


def _early_refusal() -> str:
    """Return why this cannot be done as far as that is known without the packages, or an empty text.

    If only packages are missing, this process continues in the project's virtual environment, which is made first.
    """
    # As the service's settings read it: the case of a variable's name does not matter.
    environment = next((value for name, value in os.environ.items() if name.upper() == "SHOP_ENVIRONMENT"), "")
    if environment.strip().lower() == PRODUCTION:
        return "SHOP_ENVIRONMENT says that this is production, where no demo data is made"
    if missing is None:
        return ""
    if IN_VENV.exists() and Path(sys.prefix) != IN_VENV.parents[1] / ".venv":
        # It also finds a Python that is new enough, or reports that none exists.
        os.execv(IN_VENV, [str(IN_VENV), "demo", __file__, *sys.argv[1:]])
    return f"{missing}; pip install 'shop[demo]' brings what is needed"


def seed_demo(settings: Settings, options: argparse.Namespace) -> None:
    """Migrate the database, add the rows that `options` ask for, and print who can log in.

    Raises:
        Refused: The database is marked as production, or another run is at work on it.
        SystemExit: Rows would be removed, and the person who was asked did not want that.
        psycopg2.Error: PostgreSQL refused, or is gone.
    """
    url = settings.database_url.get_secret_value()
    # Not the service's database object, whose time limit for a statement is made for requests.
    limits = f"-c lock_timeout={settings.lock_timeout}s -c timezone=UTC"
    connecting = {"connect_timeout": settings.connect_timeout, "application_name": "shop seed_demo", "options": limits}
    with closing(psycopg2.connect(url, client_encoding="UTF8", **connecting)) as connection:
        with connection.cursor() as cursor:
            _check(cursor)
            connection.rollback()
            if applied := migrations.migrate(url):
                _say(f"applied {', '.join(applied)}")
            if options.reset:
                _confirm_removal(cursor, options, settings.lock_timeout)
                connection.rollback()
            cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (LOCK_KEY,))
            if not cursor.fetchone()[0]:
                raise Refused("another run is adding demo data to this database; try again when it is done")
            if options.reset:
                cursor.execute(f"TRUNCATE {', '.join(TABLES)}")
            dataset = _dataset(cursor, settings, options)
            started = time.monotonic()
            with _progress(options.orders) as advance:
                for batch in _made_ahead(dataset.batches()):
                    _copy(cursor, batch)
                    advance(batch.order_count)
        # From here on it is done, and what is said must be true.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        connection.commit()
        _analyze(connection)
    _report(dataset, options, time.monotonic() - started)


def _analyze(connection: psycopg2.extensions.connection) -> None:
    """Let the planner know the new rows at once; after the commit, because Citus refuses it in a transaction."""
    connection.autocommit = True
    with connection.cursor() as cursor:
        try:
            cursor.execute("ANALYZE users, orders")
        except psycopg2.Error as error:
            _say(f"the rows are there, but ANALYZE failed: {' '.join(str(error).split())}")


def _check(cursor: psycopg2.extensions.cursor) -> None:
    """Refuse a database that is marked as production."""
    cursor.execute("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()")
    (comment,) = cursor.fetchone()
    if re.match(rf"\s*{PRODUCTION}\b", comment or "", re.IGNORECASE):
        raise Refused("this database is marked as production by its comment, and no demo data is made there")


def _confirm_removal(cursor: psycopg2.extensions.cursor, options: argparse.Namespace, lock_timeout: int) -> None:
    """Ask whether to remove the rows that are there, and end if not; do not ask without rows or with `--yes`."""
    cursor.execute("SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM orders), current_database()")
    users, orders, name = cursor.fetchone()
    what = f"{_counted(users, orders)} in the database {name}"
    asks = users > 0 and not options.yes
    if asks and not sys.stdin.isatty():
        raise Refused(f"--reset would remove {what}; without a terminal to ask on, say --yes as well")
    seconds = max(1, round((options.users + options.orders) / USUAL_RATE))
    _say(
        f"until all rows are in, about {seconds} s, reads and writes of the service wait;"
        f" after {lock_timeout} s (SHOP_LOCK_TIMEOUT) they get a 503"
    )
    if not asks:
        return
    try:
        answer = input(f"Remove {what}? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        _say("no row was changed")
        sys.exit(1)


def _dataset(cursor: psycopg2.extensions.cursor, settings: Settings, options: argparse.Namespace) -> Dataset:
    """Return what is to be added, made so that it meets nothing that is there."""
    cursor.execute(r"SELECT max(substring(email_key FROM '\.(\d+)@example\.com$')::numeric) FROM users")
    (used,) = cursor.fetchone()
    hasher = PasswordHasher(
        time_cost=settings.argon2_time_cost,
        memory_cost=settings.argon2_memory_cost,
        parallelism=settings.argon2_parallelism,
    )
    # One hash for all, because a real one each takes longer than everything else. Its salt follows from the seed:
    # a password that is printed has nothing to hide.
    salt = hashlib.sha256(options.seed.encode()).digest()[:16]
    return Dataset(
        users=options.users,
        orders=options.orders,
        seed=options.seed,
        until=datetime.combine(options.until, time_of_day(), UTC),
        used=int(used or 0),
        password_hash=hasher.hash(PASSWORD, salt=salt),
    )


def _copy(cursor: psycopg2.extensions.cursor, batch: Batch) -> None:
    for table, columns, rows in (("users", USER_COLUMNS, batch.users), ("orders", ORDER_COLUMNS, batch.orders)):
        if rows:
            # In large pieces: for each the driver waits until the thread that makes the next batch lets it run.
            cursor.copy_expert(f"COPY {table} ({', '.join(columns)}) FROM STDIN", io.BytesIO(rows), size=PIECE)


def _made_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the batches, each made while PostgreSQL takes in the one before: the driver lets other threads run then."""
    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = maker.submit(next, batches, None)
            yield batch


@contextmanager
def _progress(total: int) -> Iterator:
    """Show how far it is on stderr, as a bar on a terminal and in lines elsewhere; yield what reports new orders."""
    console = Console(stderr=True)
    started = time.monotonic()
    if not console.is_terminal:
        yield _plain_progress(total, started)
        return
    rate = TextColumn("{task.fields[rate]}")
    with Progress("orders", BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("", total=total, rate="")
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bar.update(task, advance=count, rate=_rate(done, started))

        yield advance


def _plain_progress(total: int, started: float):
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        # A line at the beginning, so that one sees that it works, and then for each step.
        if not before or before * STEPS // total != done * STEPS // total:
            left = (time.monotonic() - started) * (total - done) / done if done else 0
            _say(f"{done:,} of {total:,} orders, {_rate(done, started)}, {left:.0f} s left")

    return advance


def _rate(done: int, started: float) -> str:
    return f"{done / (time.monotonic() - started):,.0f}/s"


def _report(dataset: Dataset, options: argparse.Namespace, seconds: float) -> None:
    print(f"Added {_counted(options.users, options.orders)} in {seconds:.1f} s.")
    print(f"Each of the users logs in with the password: {PASSWORD}")
    for account in dataset.accounts:
        print(f"  {account.email}  ({account.role}, orders: {account.orders:,})")


def _counted(users: int, orders: int) -> str:
    return " and ".join(f"{n:,} {what}{'' if n == 1 else 's'}" for n, what in ((users, "user"), (orders, "order")))


def _options() -> argparse.Namespace:
    parser = _Parser(
        prog="seed_demo",
        description="Fills a database with believable users and orders, in one transaction: all of them or none.",
        epilog="The database is that of SHOP_DATABASE_URL, or else the embedded one, as for shop migrate. "
        "Everybody's password is printed: nothing for a service that strangers can reach.",
    )
    parser.add_argument("--users", type=_count(1, MAX_USERS), default=1000, metavar="N", help="default: 1000")
    parser.add_argument("--orders", type=_count(0, MAX_ORDERS), default=10_000, metavar="M", help="default: 10000")
    parser.add_argument("--seed", type=_text, default="demo", metavar="S", help="what the values follow from")
    parser.add_argument(
        "--until", type=_day, default=_today(), metavar="DATE",
        help="everything happened in the year before this day, YYYY-MM-DD (default: today, UTC)",
    )  # fmt: skip
    parser.add_argument("--reset", action="store_true", help="remove all users and orders first, after asking")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where the embedded PostgreSQL keeps its data (SHOP_DATA_DIR)"
    )
    return parser.parse_args()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.exit(_refuse(message))


def _count(least: int, most: int):
    def count(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}")
        return int(text)

    return count


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("must be text") from None
    return text


def _day(text: str) -> date:
    today = _today()
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or not EARLIEST <= day <= today:
        raise argparse.ArgumentTypeError(f"must be a day from {EARLIEST} to {today}")
    return day


def _today() -> date:
    return datetime.now(timezone.utc).date()  # noqa: UP017 - an older Python has no UTC


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _say(sentence: str) -> None:
    print(f"seed_demo: {sentence}", file=sys.stderr, flush=True)


def _refuse(sentence: str) -> int:
    _say(sentence)
    return USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())
