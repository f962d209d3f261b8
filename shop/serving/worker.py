"""A worker process of the server: the application, and how the process ends."""

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

# Variables with these names and prefixes describe a request (PEP 3333), so one of the process would look like a header.
_OF_REQUESTS = (PREFIX, "HTTP_", "CONTENT_", "REQUEST_", "RAW_URI", "wsgi.")


def make_app(settings: Settings, draining: Any) -> Callable[..., Any]:
    """Return the application that this worker process serves.

    Args:
        settings: Complete: with database URL and secret key.
        draining: Shared by all processes of the server; its value says whether clients are sent away.
    """
    _clean_environment()
    writer = logs.configure(settings)
    # The handler inherited from the server would swallow the signal; see `_stop_on_signal`.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_stop_on_signal, daemon=True).start()
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    metrics = _start_metrics() if settings.metrics_port is not None else None
    observer = RequestObserver(writer, metrics, Proxies(settings.trusted_proxies), settings.slow_query_ms)

    def is_draining() -> bool:
        return bool(draining.value)

    return create_app(settings, is_draining=is_draining, observer=observer)


def _clean_environment() -> None:
    """Remove from this process's environment the secrets, and what would change requests.

    Granian copies the whole environment into the WSGI environment of every request, once this worker has its
    application. The settings have been read by then.
    """
    for name in [name for name in os.environ if name.startswith(_OF_REQUESTS)]:
        del os.environ[name]


def _start_metrics() -> "Metrics":
    from shop.serving.metrics import Metrics  # noqa: PLC0415 - Services without metrics do not need the library.

    metrics = Metrics()
    metrics.start_refreshing()
    return metrics


def _stop_on_signal() -> None:
    """End this worker in order at SIGTERM, by which the server stops it.

    The signals that stop the service stay blocked in all threads, as the server had them when it made this process. A
    terminal's Ctrl-C goes to all processes, and is for the server alone. Of SIGTERM granian would learn in a handler:
    the system may deliver it to any thread that does not block it, one that is just being made for instance, but Python
    runs handlers in the main thread, which goes on waiting when it is another that was interrupted.
    """
    signal.sigwait({signal.SIGTERM})
    stop = signal.getsignal(signal.SIGTERM)
    if callable(stop):
        stop(signal.SIGTERM, None)
    else:
        # Granian has not set its handler yet, so there is nothing in flight.
        os._exit(0)


def _stop_with_parent() -> None:
    """End this worker when the server process has gone without a word: it would keep the port."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
