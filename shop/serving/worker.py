"""A worker process: it makes the application, and stops on a signal or when the server process has ended."""

import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import connection, parent_process
from typing import TYPE_CHECKING, Any

from shop.app import create_app
from shop.serving import logs
from shop.serving.observer import RequestObserver
from shop.serving.proxies import Proxies
from shop.settings import PREFIX, Settings

if TYPE_CHECKING:
    from shop.serving.metrics import Metrics

# Granian copies environment variables into each WSGI environment. With these prefixes they would look like headers and
# other facts of a request (PEP 3333); ours hold secrets.
_OF_REQUESTS = (PREFIX, "HTTP_", "CONTENT_", "REQUEST_", "RAW_URI", "wsgi.")


def make_app(settings: Settings, draining: Any) -> Callable[..., Any]:
    """Return the application of this worker process.

    Args:
        settings: Complete: with database URL and secret key.
        draining: Shared by all processes; its value tells whether the service is draining.
    """
    _clean_environment()
    writer = logs.configure(settings)
    # The handler that is inherited from the server would ignore the signal; see `_stop_on_signal`.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_stop_on_signal, daemon=True).start()
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    metrics = _start_metrics() if settings.metrics_port is not None else None
    observer = RequestObserver(writer, metrics, Proxies(settings.trusted_proxies), settings.slow_query_ms)

    def is_draining() -> bool:
        return bool(draining.value)

    return create_app(settings, is_draining=is_draining, observer=observer)


def _clean_environment() -> None:
    """Remove the secrets, and what would look like a part of a request, from the environment.

    The settings have been read by now. Granian copies the environment after this.
    """
    for name in [name for name in os.environ if name.startswith(_OF_REQUESTS)]:
        del os.environ[name]


def _start_metrics() -> "Metrics":
    from shop.serving.metrics import Metrics  # noqa: PLC0415 - Services without metrics do not need the library.

    metrics = Metrics()
    metrics.start_refreshing()
    return metrics


def _stop_on_signal() -> None:
    """Stop this worker after its requests when the server sends SIGTERM.

    All threads inherit the blocked signals of the server process. So a terminal's Ctrl-C, which goes to all processes,
    stops only the server. A thread waits for SIGTERM instead of a handler: the kernel may deliver the signal to any
    thread, but Python runs handlers in the main thread only, which may go on waiting.
    """
    signal.sigwait({signal.SIGTERM})
    stop = signal.getsignal(signal.SIGTERM)
    if callable(stop):
        stop(signal.SIGTERM, None)
    else:
        # Granian has not set its handler yet, so no request is in progress.
        os._exit(0)


def _stop_with_parent() -> None:
    """Stop this worker when the server process was killed: an orphan would keep the port."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
