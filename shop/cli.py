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
    """Run the command and return its exit status, which is 130 after Ctrl-C.

    Args:
        arguments: The arguments after ``shop``; None for those of the process.
    """
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
    serve_command.add_argument("--threads", type=int, metavar="N", help="threads of each (SHOP_THREADS, else 72)")
    serve_command.add_argument("--deliver", action="store_true", help="also run `shop deliver`, as a child process")
    serve_command.set_defaults(run="serve")

    migrate_command = commands.add_parser(
        "migrate",
        parents=[data_dir],
        help="bring the database's schema up to date",
        description="Brings the database's schema up to date. If two run at once, the second waits for the first.",
    )
    migrate_command.add_argument("--status", action="store_true", help="only list the migrations, applied and pending")
    migrate_command.set_defaults(run="migrate")

    openapi_command = commands.add_parser(
        "openapi",
        help="print the API description (OpenAPI 3.1)",
        description="Prints the API description (OpenAPI 3.1).",
    )
    openapi_command.add_argument("--markdown", action="store_true", help="print a Markdown page instead")
    openapi_command.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write to FILE, which does not change if the command fails",
    )
    openapi_command.set_defaults(run="openapi")

    staff_command = commands.add_parser(
        "staff",
        help="grant, revoke or list the role of staff, who see and change all orders",
        description="Grants, revokes or lists the role of staff. Tokens keep their role until the next login.",
    )
    acts = staff_command.add_subparsers(required=True, metavar="ACTION", title="actions")
    for name, text in (
        ("add", "grant a registered user the role of staff"),
        ("remove", "make a member of staff a customer"),
    ):
        changing = acts.add_parser(name, parents=[data_dir], help=text, description=f"{text.capitalize()}.")
        changing.add_argument("email", metavar="EMAIL", type=str.strip, help="the address of the user's account")
        changing.set_defaults(run="staff", act=name)
    listing = acts.add_parser("list", parents=[data_dir], help="list staff", description="Lists staff.")
    listing.set_defaults(run="staff", act="list")

    _add_export(commands, data_dir)
    _add_webhooks(commands, data_dir)
    return parser


def _add_export(commands: Commands, data_dir: argparse.ArgumentParser) -> None:
    export_command = commands.add_parser(
        "export", help="write orders to a file", description="Writes orders to a file, which is complete or absent."
    )
    kinds = export_command.add_subparsers(required=True, metavar="WHAT", title="what is exported")
    orders = kinds.add_parser(
        "orders", parents=[data_dir], help="orders, as CSV or JSON Lines", description="Writes orders to a file."
    )
    orders.add_argument("--since", type=_moment, metavar="TIME", help="only orders placed at TIME or later (ISO 8601)")
    orders.add_argument("--until", type=_moment, metavar="TIME", help="only orders placed before TIME (ISO 8601)")
    orders.add_argument("--status", help="only orders with this status")
    orders.add_argument("--format", choices=("csv", "jsonl"), default="csv", help="default: csv")
    orders.add_argument("--output", default="-", metavar="FILE", help="where to write; default: -, which is stdout")
    orders.set_defaults(run="export")


def _add_webhooks(commands: Commands, data_dir: argparse.ArgumentParser) -> None:
    deliver_command = commands.add_parser(
        "deliver",
        parents=[data_dir],
        help="send order events to webhook endpoints until Ctrl-C or SIGTERM",
        description="Sends order events to webhook endpoints until Ctrl-C or SIGTERM. Several may run at once.",
    )
    deliver_command.set_defaults(run="deliver")
    webhooks_command = commands.add_parser(
        "webhooks", help="manage webhook endpoints", description="Manages the endpoints that get order events."
    )
    acts = webhooks_command.add_subparsers(required=True, metavar="ACTION", title="actions")
    for name, argument, text in (
        ("add", "url", "register a URL, and print its secret once"),
        ("list", None, "list the endpoints"),
        ("remove", "endpoint", "remove an endpoint with its deliveries"),
        ("rotate", "endpoint", "make a new secret, and enable a disabled endpoint again"),
        ("failed", None, "list the events that were not delivered after all attempts"),
        ("replay", "event", "send a failed event again"),
    ):
        act = acts.add_parser(name, parents=[data_dir], help=text, description=f"{text.capitalize()}.")
        if argument:
            act.add_argument(argument, metavar=argument.upper())
        if name == "add":
            act.add_argument(
                "--type", action="append", default=[], help="send only events of this type; may be repeated"
            )
        act.set_defaults(run="webhooks", act=name)


def _moment(text: str) -> datetime:
    """Parse a date, or a date with a time; without an offset it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a date or time like 2026-01-31 or 2026-01-31T12:00Z"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
