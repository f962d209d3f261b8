"""What ``shop webhooks`` does."""

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from shop.domain import webhooks
from shop.settings import Settings


def manage(settings: Settings, options: argparse.Namespace) -> None:
    """Run an action of ``shop webhooks`` on a database that is configured.

    Raises:
        shop.domain.webhooks.WebhookRefused: It cannot be done.
    """
    for line in _ACTIONS[options.act](settings, options):
        sys.stdout.write(f"{line}\n")


def _now() -> datetime:
    return datetime.now(UTC)


def _add(settings: Settings, options: argparse.Namespace) -> list[str]:
    endpoint, secret = webhooks.add(options.url, options.type, allow_http=settings.webhook_allow_http, now=_now())
    return [f"endpoint {endpoint.id}", f"secret   {secret}", "The secret is not shown again."]


def _list(_settings: Settings, _options: argparse.Namespace) -> list[str]:
    return [
        f"{endpoint.id}  {endpoint.url}  {', '.join(endpoint.types) or 'all events'}"
        + (f"  disabled {endpoint.disabled_at:%Y-%m-%d %H:%M:%S}" if endpoint.disabled_at else "")
        for endpoint in webhooks.list_all()
    ]


def _remove(_settings: Settings, options: argparse.Namespace) -> list[str]:
    webhooks.remove(options.endpoint)
    return [f"removed {options.endpoint}"]


def _rotate(_settings: Settings, options: argparse.Namespace) -> list[str]:
    secret = webhooks.rotate(options.endpoint, now=_now())
    hours = webhooks.ROTATION.total_seconds() / 3600
    return [f"secret   {secret}", f"The secret is not shown again. The old one signs too for {hours:.0f} hours."]


def _failed(_settings: Settings, _options: argparse.Namespace) -> list[str]:
    return [
        f"{one.event_id}  {one.occurred_at:%Y-%m-%d %H:%M:%S}  order {one.order_id}  endpoint {one.endpoint_id}  "
        f"{one.attempts} attempts"
        for one in webhooks.failed()
    ]


def _replay(_settings: Settings, options: argparse.Namespace) -> list[str]:
    count = webhooks.replay(options.event, now=_now())
    return [f"the event is sent again to {count} endpoint{'' if count == 1 else 's'}"]


_ACTIONS: dict[str, Callable[[Settings, argparse.Namespace], list[str]]] = {
    "add": _add,
    "list": _list,
    "remove": _remove,
    "rotate": _rotate,
    "failed": _failed,
    "replay": _replay,
}
