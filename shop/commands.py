"""The commands of ``shop``: serve, migrate, export, openapi, staff, webhooks, deliver."""

import argparse
import contextlib
import json
import logging
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn, TextIO

from shop.domain import accounts
from shop.domain.orders import STATUSES
from shop.embedded.server import EmbeddedError
from shop.errors import UserNotFound
from shop.serving import logs
from shop.serving.server import (
    EmbeddedDatabaseStopped,
    ServingError,
    WorkersDied,
    check_before_serving,
    serve,
    with_database,
)
from shop.settings import MIN_KEY_BYTES, Settings, SettingsError, unused_variables
from shop.storage import database, migrations

log = logging.getLogger(__name__)

USAGE_ERROR = 2
FAILURE = 1
# A retry for each other command that may run the embedded database and stop it.
ATTEMPTS = 10


class CommandRefused(Exception):
    """The command failed.

    Args:
        sentence: The reason, for a person.
        status: The exit status.
    """

    def __init__(self, sentence: str, status: int = USAGE_ERROR) -> None:
        super().__init__(sentence)
        self.status = status


def run(options: argparse.Namespace) -> int:
    """Run a command and return its exit status. Errors print one sentence on stderr.

    The status is 0 for success, 1 if a restart or retry may succeed, and 2 if something has to be changed first.

    Args:
        options: The parsed arguments of `shop.cli`; `run` is the name of the command.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM ended the command.
    """
    try:
        _run(options)
    except (EmbeddedError, ServingError, SettingsError, migrations.CannotMigrate) as error:
        return _refuse(str(error), FAILURE if isinstance(error, WorkersDied) else USAGE_ERROR)
    except CommandRefused as error:
        return _refuse(str(error), error.status)
    except UserNotFound:
        return _refuse(f"no account has the e-mail address {options.email}")
    except database.Error as error:
        return _refuse(_database_sentence(error))
    return 0


def _database_sentence(error: database.Error) -> str:
    if database.sqlstate(error) == database.UNDEFINED_TABLE:
        return "the database has no tables yet; shop migrate creates them"
    return f"the database refused: {' '.join(str(error).split())}"


def _run(options: argparse.Namespace) -> None:
    """Run the command. Retry if another command stops the embedded database: every command is safe to retry."""
    command = _COMMANDS[options.run]
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(EmbeddedDatabaseStopped):
            command(options)
            return
    command(options)


def _serve(options: argparse.Namespace) -> None:
    settings = Settings.load(
        host=options.host,
        port=options.port,
        workers=options.workers,
        threads=options.threads,
        data_dir=options.data_dir,
    )
    logs.configure(settings)
    for sentence in unused_variables():
        log.warning(sentence)
    check_before_serving(settings)
    # Until the server handles signals itself, SIGTERM ends the command in the same way as Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    with with_database(settings, join=False) as complete:
        _migrate_and_report(complete)
        with _delivering(complete) if options.deliver else contextlib.nullcontext():
            serve(complete, on_ready=lambda url: _announce(complete, url))
    _say("stopped")


@contextlib.contextmanager
def _delivering(settings: Settings) -> Iterator[None]:
    """Run a deliverer for the duration of the block."""
    from shop.webhooks.process import start_beside, stop_beside  # noqa: PLC0415 - Others need no HTTP client.

    process = start_beside(settings)
    try:
        yield
    finally:
        stop_beside(process)


def _announce(settings: Settings, url: str) -> None:
    where = f"data in {settings.data_dir}" if settings.data_dir else "data in the database of SHOP_DATABASE_URL"
    _say(f"serving on {url} (Ctrl-C stops it)\nshop: documentation on {url}/docs\nshop: {where}")


def _migrate(options: argparse.Namespace) -> None:
    settings = Settings.load(data_dir=options.data_dir)
    with with_database(settings, join=True) as complete:
        if not options.status:
            _migrate_and_report(complete)
            return
        for migration in migrations.status(_url(complete)):
            when = f"applied {migration.applied:%Y-%m-%d %H:%M:%S}" if migration.applied else "pending"
            print(f"{migration.name}  {when}")


def _staff(options: argparse.Namespace) -> None:
    settings = Settings.load(data_dir=options.data_dir)
    with with_database(settings, join=True) as complete:
        database.database.configure(complete)
        try:
            _STAFF[options.act](options)
        finally:
            database.database.close()


def _staff_add(options: argparse.Namespace) -> None:
    account = accounts.set_role(options.email, "staff")
    _say(f"{account.email} is staff from the next login on")


def _staff_remove(options: argparse.Namespace) -> None:
    account = accounts.set_role(options.email, "customer")
    _say(f"{account.email} is a customer from the next login on")


def _staff_list(_options: argparse.Namespace) -> None:
    for account in accounts.list_staff():
        print(f"{account.email}  {account.name}")


def _deliver(options: argparse.Namespace) -> None:
    from shop.webhooks.process import deliver  # noqa: PLC0415

    settings = Settings.load(data_dir=options.data_dir)
    logs.configure(settings)
    for sentence in unused_variables():
        log.warning(sentence)
    signal.signal(signal.SIGTERM, _interrupt)
    with with_database(settings, join=True) as complete:
        deliver(complete)


def _webhooks(options: argparse.Namespace) -> None:
    from shop.domain.webhooks import WebhookRefused  # noqa: PLC0415
    from shop.webhooks.management import manage  # noqa: PLC0415

    settings = Settings.load(data_dir=options.data_dir)
    with with_database(settings, join=True) as complete:
        database.database.configure(complete)
        try:
            manage(complete, options)
        except WebhookRefused as error:
            raise CommandRefused(str(error)) from error
        finally:
            database.database.close()


def _export(options: argparse.Namespace) -> None:
    from shop.domain.exports import Selection  # noqa: PLC0415 - No other command needs these, and they take time.
    from shop.exports.files import STDOUT, CannotWrite  # noqa: PLC0415
    from shop.exports.run import export_orders  # noqa: PLC0415

    if options.status not in (None, *STATUSES):
        raise CommandRefused(f"--status must be one of {', '.join(STATUSES)}")
    settings = Settings.load(data_dir=options.data_dir)
    signal.signal(signal.SIGTERM, _interrupt)
    with with_database(settings, join=True) as complete:
        database.database.configure(complete)
        selection = Selection(options.since, options.until, options.status)
        try:
            done = export_orders(selection, format_=options.format, target=options.output)
        except CannotWrite as error:
            raise CommandRefused(str(error), FAILURE) from error
        except database.Error as error:
            # No retry: a part may have been written to stdout.
            raise CommandRefused(_database_sentence(error), FAILURE) from error
        finally:
            database.database.close()
    if options.output != STDOUT:
        _say(f"wrote {done:,} orders to {options.output}")


def _openapi(options: argparse.Namespace) -> None:
    from shop.api.openapi.document import build_openapi  # noqa: PLC0415 - No other command needs the application here.
    from shop.api.openapi.markdown import render  # noqa: PLC0415
    from shop.app import make_routes, make_services  # noqa: PLC0415

    # The document needs no database, and any key.
    services = make_services(Settings.load(secret_key=secrets.token_urlsafe(MIN_KEY_BYTES)))
    document = build_openapi(make_routes(services))
    text = render(document) if options.markdown else json.dumps(document, indent=2) + "\n"
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.write_text(text, "utf-8")


def _migrate_and_report(settings: Settings) -> None:
    applied = migrations.migrate(_url(settings))
    _say(f"applied {', '.join(applied)}" if applied else "the database is up to date")


def _url(settings: Settings) -> str:
    assert settings.database_url is not None  # noqa: S101 - `with_database` has put one in.
    return settings.database_url.get_secret_value()


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _say(sentence: str, stream: TextIO | None = None) -> None:
    # One write per line, because other processes write here, too. `print` would write the newline separately.
    stream = stream or sys.stdout
    stream.write(f"shop: {sentence}\n")
    stream.flush()


def _refuse(sentence: str, status: int = USAGE_ERROR) -> int:
    _say(sentence, sys.stderr)
    return status


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "serve": _serve,
    "migrate": _migrate,
    "deliver": _deliver,
    "export": _export,
    "openapi": _openapi,
    "staff": _staff,
    "webhooks": _webhooks,
}
_STAFF = {"add": _staff_add, "remove": _staff_remove, "list": _staff_list}
