"""The server process: it starts the embedded database if no other is configured, and the workers."""

import ctypes
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from pydantic import SecretStr

from shop.embedded.server import EmbeddedPostgres, default_home
from shop.serving.exporter import exported
from shop.settings import MIN_KEY_BYTES, Settings, SettingsError
from shop.storage import database

# Timeout of requests in progress when a worker stops, in seconds.
GRACE = 15
# Connections that a worker accepts, idle ones included: well below 1024, the usual limit of open files. If all of them
# send a request at once, the last one waits for half a second.
CONNECTIONS = 512
# Connections of all workers that wait in the kernel to be accepted.
BACKLOG = 1024
# An idle thread ends after this many seconds. This is granian's maximum: a new thread costs more than an idle one.
THREAD_IDLE = 600
# SQLSTATEs of a statement whose server was shut down: none, or admin_shutdown.
CONNECTION_LOST = (None, "57P01")
# How often the request to stop is repeated; see `_stop_on_signal`.
STOP_RETRY_SECONDS = 0.2
# How often a draining server looks for a second signal.
DRAIN_POLL_SECONDS = 0.05
# Granian's records go to the handler of the root logger, like all others.
GRANIAN_LOG = {
    "formatters": {},
    "handlers": {},
    "filters": {"misleading": {"()": "shop.serving.server.MisleadingRecords"}},
    "loggers": {"_granian": {"handlers": [], "filters": ["misleading"], "propagate": True}},
}


class MisleadingRecords(logging.Filter):
    """Drops granian's records of problems that do not exist."""

    def __init__(self) -> None:
        super().__init__()
        self._stopping = float("inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to log `record`."""
        message = record.getMessage()
        if message.startswith("Shutting down"):
            self._stopping = time.monotonic()
        if "refused to gracefully stop" in message:
            # Two threads of granian wait for a worker. One of them may not notice that it has ended, and complain.
            return time.monotonic() >= self._stopping + GRACE
        # Granian recommends fewer threads. Ours wait for the database and for password hashes most of the time.
        return "Python threads, which seems" not in message


class ServingError(Exception):
    """The service cannot start or go on; the message is one sentence for the operator."""


class PortInUse(ServingError):
    """Another process listens at the address."""


class EmbeddedDatabaseStopped(ServingError):
    """The process that ran the embedded database has stopped it. The command can be repeated."""

    def __init__(self) -> None:
        super().__init__("the embedded database was stopped by the process that ran it; please try again")


class WorkersDied(ServingError):
    """Worker processes died repeatedly, so the service has stopped. It can be restarted."""

    def __init__(self) -> None:
        super().__init__("worker processes died repeatedly, so the service has stopped")


@contextmanager
def with_database(settings: Settings, *, join: bool) -> Iterator[Settings]:
    """Yield `settings` completed with a database. Without a URL, run the embedded database during the block.

    The embedded database also sets the data directory and the secret key. A missing key is generated once and saved in
    the data directory.

    Args:
        settings: As the operator gave them.
        join: Whether to use an embedded database that another process runs. Otherwise that is an error.

    Raises:
        shop.embedded.server.EmbeddedError: The embedded database cannot run, or another process runs it.
        EmbeddedDatabaseStopped: The process that ran the embedded database stopped it during the block.
        SettingsError: The saved key cannot be read or is too short.
    """
    if settings.database_url is not None:
        yield settings
        return
    embedded = EmbeddedPostgres(settings.data_dir or default_home())
    embedded.start(join=join)
    try:
        yield settings.model_copy(
            update={
                "data_dir": embedded.home,
                "database_url": SecretStr(embedded.url),
                "secret_key": settings.secret_key or SecretStr(_saved_key(embedded.home / "secret-key")),
            }
        )
    except database.Error as error:
        if embedded.joined and database.sqlstate(error) in CONNECTION_LOST:
            raise EmbeddedDatabaseStopped from error
        raise
    finally:
        embedded.stop()


def check_before_serving(settings: Settings) -> None:
    """Raise errors now that would otherwise appear in worker processes, or not at all.

    Raises:
        SettingsError: There is a database URL, but no secret key.
        PortInUse: The port is taken.
    """
    if settings.database_url is not None and settings.secret_key is None:
        raise SettingsError("SHOP_SECRET_KEY is required with SHOP_DATABASE_URL")
    # Granian sets SO_REUSEPORT, so its workers would share the port with another process without an error.
    with _listening(settings.given_as("host"), settings.host, settings.port, "--port"):
        if settings.metrics_port is not None:
            with _listening("SHOP_METRICS_HOST", settings.metrics_host, settings.metrics_port, "SHOP_METRICS_PORT"):
                pass


@contextmanager
def _listening(variable: str, host: str, port: int, option: str) -> Iterator[None]:
    """Bind the address for the duration of the block.

    Raises:
        SettingsError: The host, which `variable` has set, is not an address of this machine.
        PortInUse: Another process listens at the port, which `option` can change.
    """
    family, kind, protocol, _, address = _resolve(host, port, variable)
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen()
        except OSError as error:
            where = f"{host}:{port}"
            raise PortInUse(f"cannot listen on {where}: {error.strerror}; choose another with {option}") from error
        yield


def make_server(settings: Settings) -> Any:
    """Return the HTTP server, configured; the caller loads the application.

    While all threads are busy, requests wait in granian's queue. The number of connections limits its length, because
    each has one request at a time: a worker accepts `CONNECTIONS`, and `BACKLOG` more wait in the kernel.
    """
    return Granian(
        "shop.app:create_app",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        websockets=False,
        workers=settings.workers,
        blocking_threads=settings.threads,
        blocking_threads_idle_timeout=THREAD_IDLE,
        backpressure=CONNECTIONS,
        backlog=BACKLOG,
        respawn_failed_workers=True,
        workers_kill_timeout=GRACE,
        log_level=LogLevels(settings.log_level),
        log_dictconfig=GRANIAN_LOG,
    )


def serve(settings: Settings, *, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, then finish the requests in progress. The signals stay blocked.

    After the signal the service drains for `settings.drain_seconds`: it still serves, but ``/readyz`` answers 503 and
    each response closes its connection. So load balancers choose another instance in time. A second signal ends this.

    Args:
        settings: Complete: with database URL and secret key.
        on_ready: Called with the URL of the service as soon as it accepts connections.

    Raises:
        WorkersDied: A worker died within seconds of replacing another that had died.
    """
    server = make_server(settings)
    # A thread waits for the signals, because granian's own signal handler can deadlock: it takes the lock of the event
    # that its main thread waits for. The workers inherit the blocked signals, see `shop.serving.worker`.
    stopping = _stop_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    draining = RawValue(ctypes.c_bool, False)  # shared with the workers
    drain = partial(_drain, draining, settings.drain_seconds, stopping)
    threading.Thread(target=_stop_on_signal, args=(server, stopping, drain), daemon=True).start()
    threading.Thread(target=_announce, args=(settings, on_ready), daemon=True).start()
    try:
        # After the signals are blocked: the threads that serve the metrics inherit that.
        with exported(settings):
            server.serve(target_loader=partial(_worker_app, settings, draining), wrap_loader=False)
    except SystemExit as ended:
        # Some process managers signal the workers too, and a worker may stop before the server does. Without a signal,
        # granian has given up because a worker died soon after it had replaced another.
        if not (server.interrupt_signal or draining.value):
            raise WorkersDied from ended


def _stop_signals() -> set[signal.Signals]:
    """Return the signals that stop the service. SIGHUP, sent when a terminal closes, is not one under `nohup`."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return {signal.SIGINT, signal.SIGTERM} | (set() if ignored else {signal.SIGHUP})


def _stop_on_signal(server: Any, stopping: set[signal.Signals], drain: Callable[[], None]) -> None:
    """Wait for one of the signals `stopping`, drain, then ask the server to stop until this process ends."""
    signal.sigwait(stopping)
    drain()
    pause = threading.Event()
    while True:
        # Repeated, because granian loses the request if a worker ends at the same moment.
        server.signal_handler_interrupt()
        pause.wait(STOP_RETRY_SECONDS)


def _drain(draining: Any, seconds: int, stopping: set[signal.Signals]) -> None:
    """Drain for `seconds`, or until another signal of `stopping` arrives."""
    draining.value = True
    end, pause = time.monotonic() + seconds, threading.Event()
    while time.monotonic() < end and not signal.sigpending() & stopping:
        pause.wait(DRAIN_POLL_SECONDS)


def _worker_app(settings: Settings, draining: Any) -> Callable[..., Any]:
    """Make the application, in a worker process."""
    # The server process does not need the application, and starts twice as fast without it.
    from shop.serving.worker import make_app  # noqa: PLC0415

    return make_app(settings, draining)


def _announce(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Call `on_ready` as soon as a worker accepts connections."""
    *_, address = _resolve(settings.host, settings.port)
    pause = threading.Event()
    while True:
        try:
            socket.create_connection(address[:2], timeout=1).close()
            break
        except OSError:
            pause.wait(0.02)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    on_ready(f"http://{host}:{settings.port}")


def _resolve(host: str, port: int, variable: str = "SHOP_HOST") -> Any:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise SettingsError(f"{variable} {host!r} is not an address of this machine") from error


def _saved_key(path: Path) -> str:
    """Return the secret key saved at `path`; generate it if it does not exist.

    Raises:
        SettingsError: The key cannot be read, or it is too short.
    """
    try:
        key = _read_or_generate(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the secret key {path} cannot be read: {error}") from error
    if len(key.encode()) < MIN_KEY_BYTES:
        raise SettingsError(
            f"the secret key in {path} must have at least {MIN_KEY_BYTES} bytes; remove the file to get a new one"
        )
    return key


def _read_or_generate(path: Path) -> str:
    if not path.exists():
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(48))
            file.flush()
            os.fsync(file.fileno())
        try:
            # Unlike a rename, a link does not replace a key that another process has just saved.
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()
