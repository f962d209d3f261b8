"""The commands of ``shop``: serve, migrate, deliver, export, openapi, staff, webhooks."""

import argparse
import json
import logging
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from types import FrameType
from typing import NoReturn, TextIO

from shop.domain import accounts, webhooks
from shop.domain.exports import Selection
from shop.domain.orders import STATUSES
from shop.embedded.server import EmbeddedError
from shop.errors import UserNotFound
from shop.exports.files import STDOUT, CannotWrite
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
Options = argparse.Namespace


class ExportFailed(Exception):
    """The database failed during an export. No retry: a part may have been written to stdout."""


def run(options: Options) -> int:
    """Run a command and return its exit status. Errors print one sentence on stderr.

    The status is 0 for success, 1 if a restart or retry may succeed, and 2 if something has to be changed first.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM ended the command.
    """
    try:
        _run(options)
    except (WorkersDied, CannotWrite, ExportFailed) as error:
        return _refuse(str(error), FAILURE)
    except (EmbeddedError, ServingError, SettingsError, migrations.CannotMigrate, webhooks.WebhookRefused) as error:
        return _refuse(str(error))
    except UserNotFound:
        return _refuse(f"no account has the e-mail address {options.email}")
    except database.Error as error:
        return _refuse(_database_sentence(error))
    return 0


def _database_sentence(error: database.Error) -> str:
    if database.sqlstate(error) == database.UNDEFINED_TABLE:
        return "the database has no tables yet; shop migrate creates them"
    return f"the database refused: {' '.join(str(error).split())}"


def _run(options: Options) -> None:
    """Run the command. Retry if another command stops the embedded database: every command is safe to retry."""
    command = _COMMANDS[options.run]
    for _ in range(ATTEMPTS - 1):
        with suppress(EmbeddedDatabaseStopped):
            command(options)
            return
    command(options)


def _serve(options: Options) -> None:
    settings = Settings.load(
        host=options.host,
        port=options.port,
        workers=options.workers,
        threads=options.threads,
        data_dir=options.data_dir,
    )
    _start_log(settings)
    check_before_serving(settings)
    # Until the server handles signals itself, SIGTERM ends the command in the same way as Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    with with_database(settings, join=False) as complete, ExitStack() as stack:
        _migrate_and_report(complete)
        if options.deliver:
            from shop.webhooks.process import delivering_beside  # noqa: PLC0415 - Others need no HTTP client.

            stack.enter_context(delivering_beside(complete))
        serve(complete, on_ready=lambda url: _announce(complete, url))
    _say("stopped")


def _announce(settings: Settings, url: str) -> None:
    where = f"data in {settings.data_dir}" if settings.data_dir else "data in the database of SHOP_DATABASE_URL"
    _say(f"serving on {url} (Ctrl-C stops it)\nshop: documentation on {url}/docs\nshop: {where}")


def _migrate(options: Options) -> None:
    with with_database(Settings.load(data_dir=options.data_dir), join=True) as settings:
        if not options.status:
            _migrate_and_report(settings)
            return
        for migration in migrations.status(_url(settings)):
            when = f"applied {migration.applied:%Y-%m-%d %H:%M:%S}" if migration.applied else "pending"
            print(f"{migration.name}  {when}")


def _deliver(options: Options) -> None:
    from shop.webhooks.process import deliver  # noqa: PLC0415

    settings = Settings.load(data_dir=options.data_dir)
    _start_log(settings)
    signal.signal(signal.SIGTERM, _interrupt)
    with with_database(settings, join=True) as complete:
        deliver(complete)


def _export_orders(options: Options) -> None:
    from shop.exports.run import export_orders  # noqa: PLC0415 - No other command needs it, and it takes time.

    if options.status not in (None, *STATUSES):
        raise SettingsError(f"--status must be one of {', '.join(STATUSES)}")
    signal.signal(signal.SIGTERM, _interrupt)
    selection = Selection(options.since, options.until, options.status)
    with _connected(options):
        try:
            done = export_orders(selection, format_=options.format, target=options.output)
        except database.Error as error:
            raise ExportFailed(_database_sentence(error)) from error
    if options.output != STDOUT:
        _say(f"wrote {done:,} orders to {options.output}")


def _openapi(options: Options) -> None:
    from shop.api.openapi.document import build_openapi  # noqa: PLC0415 - No other command needs the application here.
    from shop.api.openapi.markdown import render  # noqa: PLC0415
    from shop.app import Services, make_routes  # noqa: PLC0415

    # The document needs no database, and any key.
    services = Services(Settings.load(secret_key=secrets.token_urlsafe(MIN_KEY_BYTES)))
    document = build_openapi(make_routes(services))
    text = render(document) if options.markdown else json.dumps(document, indent=2) + "\n"
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.write_text(text, "utf-8")


def _staff_add(options: Options) -> None:
    with _connected(options):
        account = accounts.set_role(options.email, "staff")
    _say(f"{account.email} is staff from the next login on")


def _staff_remove(options: Options) -> None:
    with _connected(options):
        account = accounts.set_role(options.email, "customer")
    _say(f"{account.email} is a customer from the next login on")


def _staff_list(options: Options) -> None:
    with _connected(options):
        for account in accounts.list_staff():
            print(f"{account.email}  {account.name}")


def _webhooks_add(options: Options) -> None:
    with _connected(options) as settings:
        allow_http = settings.webhook_allow_http
        endpoint, secret = webhooks.add(options.url, options.type, allow_http=allow_http, now=_now())
    print(f"endpoint {endpoint.id}\nsecret   {secret}\nThe secret is not shown again.")


def _webhooks_list(options: Options) -> None:
    with _connected(options):
        for endpoint in webhooks.list_all():
            disabled = f"  disabled {endpoint.disabled_at:%Y-%m-%d %H:%M:%S}" if endpoint.disabled_at else ""
            print(f"{endpoint.id}  {endpoint.url}  {', '.join(endpoint.types) or 'all events'}{disabled}")


def _webhooks_remove(options: Options) -> None:
    with _connected(options):
        webhooks.remove(options.endpoint)
    print(f"removed {options.endpoint}")


def _webhooks_rotate(options: Options) -> None:
    with _connected(options):
        secret = webhooks.rotate(options.endpoint, now=_now())
    hours = webhooks.ROTATION.total_seconds() / 3600
    print(f"secret   {secret}\nThe secret is not shown again. The old one signs too for {hours:.0f} hours.")


def _webhooks_failed(options: Options) -> None:
    with _connected(options):
        for one in webhooks.failed():
            print(
                f"{one.event_id}  {one.occurred_at:%Y-%m-%d %H:%M:%S}  order {one.order_id}  "
                f"endpoint {one.endpoint_id}  {one.attempts} attempts"
            )


def _webhooks_replay(options: Options) -> None:
    with _connected(options):
        count = webhooks.replay(options.event, now=_now())
    print(f"the event is sent again to {count} endpoint{'' if count == 1 else 's'}")


@contextmanager
def _connected(options: Options) -> Iterator[Settings]:
    """Connect to the service's database during the block, and yield the settings."""
    with with_database(Settings.load(data_dir=options.data_dir), join=True) as settings:
        database.database.configure(settings)
        try:
            yield settings
        finally:
            database.database.close()


def _start_log(settings: Settings) -> None:
    logs.configure(settings)
    for sentence in unused_variables():
        log.warning(sentence)


def _migrate_and_report(settings: Settings) -> None:
    applied = migrations.migrate(_url(settings))
    _say(f"applied {', '.join(applied)}" if applied else "the database is up to date")


def _url(settings: Settings) -> str:
    assert settings.database_url is not None  # noqa: S101 - `with_database` has put one in.
    return settings.database_url.get_secret_value()


def _now() -> datetime:
    return datetime.now(UTC)


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


_COMMANDS: dict[str, Callable[[Options], None]] = {
    "serve": _serve,
    "migrate": _migrate,
    "deliver": _deliver,
    "export orders": _export_orders,
    "openapi": _openapi,
    "staff add": _staff_add,
    "staff remove": _staff_remove,
    "staff list": _staff_list,
    "webhooks add": _webhooks_add,
    "webhooks list": _webhooks_list,
    "webhooks remove": _webhooks_remove,
    "webhooks rotate": _webhooks_rotate,
    "webhooks failed": _webhooks_failed,
    "webhooks replay": _webhooks_replay,
}
