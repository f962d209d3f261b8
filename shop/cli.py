"""The command line of ``shop``: its arguments. `shop.commands` runs the commands."""

import argparse
import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shop import __version__

Commands = Any  # argparse has no public name for the result of `add_subparsers`.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with the arguments after ``shop``, and return its exit status, which is 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        # Imported here, because it is slow, and --help and usage errors do not need it.
        from shop import commands  # noqa: PLC0415

        return commands.run(options)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shop",
        description="An orders API: register, log in, place an order, follow it.",
        epilog="Settings come from SHOP_* environment variables; docs/settings.md has the table. "
        "Without SHOP_DATABASE_URL, the command starts the PostgreSQL that is installed with the package.",
    )
    parser.add_argument("--version", action="version", version=f"shop {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")

    serve = _command(commands, "serve", "migrate the database and serve the API until Ctrl-C or SIGTERM")
    serve.add_argument("--host", help="address to listen on (SHOP_HOST, else 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (SHOP_PORT, else 8000)")
    serve.add_argument("--workers", type=int, metavar="N", help="worker processes (SHOP_WORKERS, else 2)")
    serve.add_argument("--threads", type=int, metavar="N", help="threads of each (SHOP_THREADS, else 72)")
    serve.add_argument("--deliver", action="store_true", help="also run `shop deliver`, as a child process")

    migrate = _command(commands, "migrate", "bring the database's schema up to date; a second run waits for the first")
    migrate.add_argument("--status", action="store_true", help="only list the migrations, applied and pending")

    _command(
        commands, "deliver", "send order events to webhook endpoints until Ctrl-C or SIGTERM; several may run at once"
    )

    exports = _group(commands, "export", "write data to a file, which is complete or absent")
    orders = _command(exports, "export orders", "write orders as CSV or JSON Lines")
    orders.add_argument("--since", type=_moment, metavar="TIME", help="only orders placed at TIME or later (ISO 8601)")
    orders.add_argument("--until", type=_moment, metavar="TIME", help="only orders placed before TIME (ISO 8601)")
    orders.add_argument("--status", help="only orders with this status")
    orders.add_argument("--format", choices=("csv", "jsonl"), default="csv", help="default: csv")
    orders.add_argument("--output", default="-", metavar="FILE", help="where to write; default: -, which is stdout")

    openapi = _command(commands, "openapi", "print the API description (OpenAPI 3.1)", has_data=False)
    openapi.add_argument("--markdown", action="store_true", help="print a Markdown page instead")
    openapi.add_argument("--output", type=Path, metavar="FILE", help="write to FILE, which a failure does not change")

    staff = _group(commands, "staff", "grant, revoke or list the role of staff, who see and change all orders")
    _command(staff, "staff list", "list staff")
    for path, text in (
        ("staff add", "grant a registered user the role of staff, from the next login on"),
        ("staff remove", "make a member of staff a customer, from the next login on"),
    ):
        changing = _command(staff, path, text)
        changing.add_argument("email", metavar="EMAIL", type=str.strip, help="the address of the user's account")

    webhooks = _group(commands, "webhooks", "manage the endpoints that get order events")
    add = _command(webhooks, "webhooks add", "register a URL, and print its secret once")
    add.add_argument("url", metavar="URL")
    add.add_argument("--type", action="append", default=[], help="send only events of this type; may be repeated")
    _command(webhooks, "webhooks list", "list the endpoints")
    _command(webhooks, "webhooks failed", "list the events that were not delivered after all attempts")
    for path, argument, text in (
        ("webhooks remove", "endpoint", "remove an endpoint with its deliveries"),
        ("webhooks rotate", "endpoint", "make a new secret, and enable a disabled endpoint again"),
        ("webhooks replay", "event", "send a failed event again"),
    ):
        _command(webhooks, path, text).add_argument(argument, metavar=argument.upper())
    return parser


def _group(commands: Commands, name: str, text: str) -> Commands:
    group = commands.add_parser(name, help=text, description=_sentence(text))
    return group.add_subparsers(required=True, metavar="ACTION", title="actions")


def _command(commands: Commands, path: str, text: str, *, has_data: bool = True) -> argparse.ArgumentParser:
    """Add a command: `path` is its name, after that of its group."""
    command: argparse.ArgumentParser = commands.add_parser(
        path.rpartition(" ")[2], help=text, description=_sentence(text)
    )
    if has_data:
        command.add_argument(
            "--data-dir", type=Path, metavar="DIR", help="where the embedded PostgreSQL keeps its data (SHOP_DATA_DIR)"
        )
    command.set_defaults(run=path)
    return command


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _moment(text: str) -> datetime:
    """Parse a date, or a date with a time; without an offset it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a date or time like 2026-01-31 or 2026-01-31T12:00Z"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
