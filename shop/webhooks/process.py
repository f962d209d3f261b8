"""What ``shop deliver`` does, and `shop serve --deliver` in a child process."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from multiprocessing import connection, get_context, parent_process

from shop.serving import logs
from shop.settings import Settings
from shop.storage.database import database
from shop.webhooks.deliverer import Deliverer
from shop.webhooks.metrics import exported
from shop.webhooks.sender import Sender

log = logging.getLogger(__name__)
# How long a deliverer that belongs to `shop serve` has to end, in seconds: longer than a request.
GRACE = 15.0


def deliver(settings: Settings) -> None:
    """Deliver events until SIGINT or SIGTERM, then let requests in flight end."""
    sender = Sender(allow_http=settings.webhook_allow_http, allow_private=settings.webhook_allow_private)
    database.configure(settings)
    try:
        with exported(settings) as metrics:
            deliverer = Deliverer(sender, clock=partial(datetime.now, UTC), metrics=metrics)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: deliverer.stop())
            if (parent := parent_process()) is not None:
                threading.Thread(target=_stop_with, args=(parent.sentinel, deliverer), daemon=True).start()
            log.info("delivering")
            deliverer.run()
            log.info("stopped delivering")
    finally:
        database.close_all()


@contextmanager
def delivering_beside(settings: Settings) -> Iterator[None]:
    """Run a deliverer as a child process during the block. It also ends when its parent is killed."""
    # Two processes cannot serve metrics on one port.
    own = settings.model_copy(update={"metrics_port": None})
    process = get_context("spawn").Process(target=_run_beside, args=(own,), name="shop deliver")
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join(GRACE)
        if process.is_alive():
            process.kill()
            process.join()


def _run_beside(settings: Settings) -> None:
    logs.configure(settings)
    deliver(settings)


def _stop_with(sentinel: int, deliverer: Deliverer) -> None:
    connection.wait([sentinel])
    deliverer.stop()
