"""The command ``shop``: serve, migrate, openapi, staff."""

import argparse
import contextlib
import json
import secrets
import signal
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from shop import __version__, accounts, database, logs, migrations
from shop.api.description import describe
from shop.api.markdown import render
from shop.app import make_parts, make_routes
from shop.embedded import EmbeddedError
from shop.errors import UserNotFound
from shop.server import OwnerLeft, PortInUse, WorkersDied, check_before_serving, serve, with_database
from shop.settings import MIN_KEY_BYTES, Settings, SettingsError

USAGE_ERROR = 2
FAILURE = 1
# Of several commands at once each may lose the database with the one that ran it, and then run it itself.
ATTEMPTS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 with one sentence on stderr when it cannot be done.

    When the service cannot go on although it was started rightly it is 1, also with a sentence: what restarts services
    may try again.

    Args:
        arguments: The words after ``shop``; those of the process when left out.
    """
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except (EmbeddedError, OwnerLeft, PortInUse, SettingsError, WorkersDied) as error:
        return _refuse(str(error), FAILURE if isinstance(error, WorkersDied) else USAGE_ERROR)
    except UserNotFound:
        return _refuse(f"no account has the e-mail address {options.email}")
    except database.Error as error:
        if database.sqlstate(error) == database.UNDEFINED_TABLE:
            return _refuse("the database has no tables yet; shop migrate makes them")
        return _refuse(f"the database refused: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _run(options: argparse.Namespace) -> None:
    """Run the command, and again when the database that it had joined was stopped by its owner: all bear that."""
    run: Callable[[argparse.Namespace], None] = options.run
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(OwnerLeft):
            run(options)
            return
    run(options)


def _serve(options: argparse.Namespace) -> None:
    settings = Settings.load(
        host=options.host,
        port=options.port,
        workers=options.workers,
        threads=options.threads,
        data_dir=options.data_dir,
    )
    logs.configure(settings)
    check_before_serving(settings)
    # Until the server takes over the signals, SIGTERM ends the command as Ctrl-C does: in order.
    signal.signal(signal.SIGTERM, _interrupt)
    with with_database(settings, join=False) as complete:
        _migrate_and_tell(complete)
        serve(complete, on_ready=lambda url: _say(f"serving on {url} (Ctrl-C stops it)"))
    _say("stopped")


def _migrate(options: argparse.Namespace) -> None:
    settings = Settings.load(data_dir=options.data_dir)
    with with_database(settings, join=True) as complete:
        if not options.status:
            _migrate_and_tell(complete)
            return
        for migration in migrations.status(_url(complete)):
            when = f"applied {migration.applied:%Y-%m-%d %H:%M:%S}" if migration.applied else "pending"
            print(f"{migration.name}  {when}")


def _staff(options: argparse.Namespace) -> None:
    settings = Settings.load(data_dir=options.data_dir)
    with with_database(settings, join=True) as complete:
        database.database.configure(complete)
        try:
            options.act(options)
        finally:
            database.database.close()


def _staff_add(options: argparse.Namespace) -> None:
    account = accounts.set_role(options.email, "staff")
    _say(f"{account.email} is staff, from the next log-in on")


def _staff_remove(options: argparse.Namespace) -> None:
    account = accounts.set_role(options.email, "customer")
    _say(f"{account.email} is a customer, from the next log-in on")


def _staff_list(_options: argparse.Namespace) -> None:
    for account in accounts.list_staff():
        print(f"{account.email}  {account.name}")


def _openapi(options: argparse.Namespace) -> None:
    # No request is served, so no key and no database are needed.
    parts = make_parts(Settings.load(secret_key=secrets.token_urlsafe(MIN_KEY_BYTES)))
    description = describe(make_routes(parts))
    sys.stdout.write(render(description) if options.markdown else json.dumps(description, indent=2) + "\n")


def _migrate_and_tell(settings: Settings) -> None:
    applied = migrations.migrate(_url(settings))
    _say(f"applied {', '.join(applied)}" if applied else "the database is up to date")


def _url(settings: Settings) -> str:
    assert settings.database_url is not None  # noqa: S101 - `with_database` has put one in.
    return settings.database_url.get_secret_value()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shop",
        description="An orders API: register, log in, place an order, follow it.",
        epilog="Settings come from SHOP_* environment variables; the README has the table. "
        "Without SHOP_DATABASE_URL, a PostgreSQL that came with the package is started.",
    )
    parser.add_argument("--version", action="version", version=f"shop {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")

    data_dir = argparse.ArgumentParser(add_help=False)
    data_dir.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where the embedded PostgreSQL keeps its data (SHOP_DATA_DIR)"
    )

    serve_command = commands.add_parser(
        "serve",
        parents=[data_dir],
        help="migrate the database and serve the API until Ctrl-C or SIGTERM",
        description="Migrates the database and serves the API until Ctrl-C or SIGTERM.",
    )
    serve_command.add_argument("--host", help="address to listen on (SHOP_HOST, else 127.0.0.1)")
    serve_command.add_argument("--port", type=int, help="port to listen on (SHOP_PORT, else 8000)")
    serve_command.add_argument("--workers", type=int, metavar="N", help="worker processes (SHOP_WORKERS, else 2)")
    serve_command.add_argument("--threads", type=int, metavar="N", help="threads of each (SHOP_THREADS, else 8)")
    serve_command.set_defaults(run=_serve)

    migrate_command = commands.add_parser(
        "migrate",
        parents=[data_dir],
        help="bring the database's schema up to date",
        description="Brings the database's schema up to date. Two at once are safe: the second waits for the first.",
    )
    migrate_command.add_argument("--status", action="store_true", help="only list the migrations, changing nothing")
    migrate_command.set_defaults(run=_migrate)

    openapi_command = commands.add_parser(
        "openapi",
        help="print the API description (OpenAPI 3.1)",
        description="Prints the API description (OpenAPI 3.1).",
    )
    openapi_command.add_argument("--markdown", action="store_true", help="as a page for client programmers instead")
    openapi_command.set_defaults(run=_openapi)

    staff_command = commands.add_parser(
        "staff",
        help="say who is staff, and so sees all orders and moves them along",
        description="Says who is staff. A token keeps its role: changes count from the next log-in on.",
    )
    acts = staff_command.add_subparsers(required=True, metavar="ACTION", title="actions")
    for name, act, text in (
        ("add", _staff_add, "make a registered user staff"),
        ("remove", _staff_remove, "make a member of staff a customer again"),
    ):
        changing = acts.add_parser(name, parents=[data_dir], help=text, description=f"{text.capitalize()}.")
        changing.add_argument("email", metavar="EMAIL", type=_composed, help="the address of the user's account")
        changing.set_defaults(run=_staff, act=act)
    listing = acts.add_parser("list", parents=[data_dir], help="list staff", description="Lists staff.")
    listing.set_defaults(run=_staff, act=_staff_list)
    return parser


def _composed(address: str) -> str:
    # As the API stores it: trimmed, and in Unicode normal form C.
    return unicodedata.normalize("NFC", address.strip())


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _say(sentence: str) -> None:
    print(f"shop: {sentence}", flush=True)


def _refuse(sentence: str, status: int = USAGE_ERROR) -> int:
    print(f"shop: {sentence}", file=sys.stderr)
    return status
