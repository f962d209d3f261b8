"""Running the service: the database it starts when it is given none, and the worker processes."""

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

# Requests in flight get this long to end when a worker is told to stop, in seconds.
GRACE = 15
# Connections that a worker accepts, idle ones included: well below the 1024 files that a process may usually open. If
# all of them send at once, the last waits for 511 answers, half a second of work.
CONNECTIONS = 512
# Connections that wait to be accepted, for all workers.
BACKLOG = 1024
# A thread without work ends after so many seconds, granian's most: its database connection ends with it, and the next
# would have to connect and prepare again.
THREAD_IDLE = 600
# What PostgreSQL says when it is shut down: nothing, or admin_shutdown.
CONNECTION_LOST = (None, "57P01")
# How often the server is told again to stop, in seconds; see `_stop_on_signal`.
REMINDER = 0.2
# How often somebody who drains looks whether to go on at once, in seconds.
IMPATIENCE = 0.05
# Granian's own records go where all others go: to the handler of the root.
GRANIAN_LOG = {
    "formatters": {},
    "handlers": {},
    "filters": {"true": {"()": "shop.serving.server.OnlyTrue"}},
    "loggers": {"_granian": {"handlers": [], "filters": ["true"], "propagate": True}},
}


class OnlyTrue(logging.Filter):
    """Keeps records of granian's that would alarm somebody for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._stopping = float("inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether `record` is to be logged."""
        message = record.getMessage()
        if message.startswith("Shutting down"):
            self._stopping = time.monotonic()
        if "refused to gracefully stop" in message:
            # It looks whether a worker lives while another of its threads waits for it, and may not see that it ended.
            return time.monotonic() >= self._stopping + GRACE
        # It advises fewer threads than are chosen here, at each start: they wait for the database most of the time.
        return "Python threads, which seems" not in message


class PortInUse(Exception):
    """Somebody listens at the address already; the text is a sentence for a person."""


class OwnerLeft(Exception):
    """The embedded database was stopped under a command by the process that ran it; the command can be run again."""

    def __init__(self) -> None:
        super().__init__("the embedded database was stopped by the process that ran it; please try again")


class WorkersDied(Exception):
    """Worker processes died again and again, and the service has stopped; whoever runs it may start it again."""

    def __init__(self) -> None:
        super().__init__("worker processes died again and again, so the service has stopped")


@contextmanager
def with_database(settings: Settings, *, join: bool) -> Iterator[Settings]:
    """Yield `settings` with a database: the one they name, or the embedded one, which runs until the block ends.

    With the embedded database they also have its data directory and a secret key. A missing key is made once and kept
    in the data directory.

    Args:
        settings: As the operator gave them.
        join: Whether to use an embedded database that another process runs, instead of refusing.

    Raises:
        shop.embedded.server.EmbeddedError: The embedded database cannot run, or runs for another process.
        OwnerLeft: That process has ended, and the database with it, while it was in use here.
        SettingsError: The kept key cannot be read or is too short.
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
                "secret_key": settings.secret_key or SecretStr(_kept_key(embedded.home / "secret-key")),
            }
        )
    except database.Error as error:
        if embedded.joined and database.sqlstate(error) in CONNECTION_LOST:
            raise OwnerLeft from error
        raise
    finally:
        embedded.stop()


def check_before_serving(settings: Settings) -> None:
    """Refuse what would fail later, in worker processes or unseen.

    Raises:
        SettingsError: A database is named, but no secret key.
        PortInUse: The port is taken.
    """
    if settings.database_url is not None and settings.secret_key is None:
        raise SettingsError("SHOP_SECRET_KEY is required beside SHOP_DATABASE_URL")
    # The server's own sockets share a port silently (SO_REUSEPORT); this one would not.
    with _listening(settings.given_as("host"), settings.host, settings.port, "--port"):
        if settings.metrics_port is not None:
            with _listening("SHOP_METRICS_HOST", settings.metrics_host, settings.metrics_port, "SHOP_METRICS_PORT"):
                pass


@contextmanager
def _listening(variable: str, host: str, port: int, option: str) -> Iterator[None]:
    """Have an address taken meanwhile.

    Raises:
        SettingsError: The host, which comes from `variable`, is no address of this machine.
        PortInUse: The port, which comes from `option`, is taken.
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
    """Return the HTTP server as the service runs it; what it serves is for the caller to load.

    Requests that find no free thread wait in a queue that granian does not bound. Granian bounds connections, each with
    one request at a time: a worker accepts `CONNECTIONS`, `BACKLOG` more wait in the kernel, and others are not let in.
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
    """Serve until SIGINT, SIGTERM or SIGHUP, then let requests in flight end. The three stay blocked afterwards.

    Between the signal and the end it drains for `settings.drain_seconds`: it serves as before, but ``/readyz`` answers
    503, and each answer closes its connection, so that clients go elsewhere before there is nobody here to connect to.
    A second signal ends that.

    Args:
        settings: Complete: with database URL and secret key.
        on_ready: Called with the address as a URL once it is answered.

    Raises:
        WorkersDied: Worker processes died faster than it is any use to replace them.
    """
    server = make_server(settings)
    # A thread waits for the signals. In a handler, granian would take the lock of the very event that its main thread
    # is about to wait for, and hang. The workers inherit the blocked signals, see `shop.serving.worker`.
    stopping = _stop_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    draining = RawValue(ctypes.c_bool, False)  # shared with the workers
    drain = partial(_drain, draining, settings.drain_seconds, stopping)
    threading.Thread(target=_stop_on_signal, args=(server, stopping, drain), daemon=True).start()
    threading.Thread(target=_announce, args=(settings, on_ready), daemon=True).start()
    try:
        # Only now: the signals are to be blocked in the threads that serve the metrics too.
        with exported(settings):
            server.serve(target_loader=partial(_worker_app, settings, draining), wrap_loader=False)
    except SystemExit as ended:
        # Some process managers signal the workers too. A worker that is quicker than the server is no failure then.
        # Otherwise one has died within seconds of replacing one that had died: granian gives up.
        if not (server.interrupt_signal or draining.value):
            raise WorkersDied from ended


def _stop_signals() -> set[signal.Signals]:
    """Return the signals that stop the service; SIGHUP, of a terminal that closes, only without `nohup`."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return {signal.SIGINT, signal.SIGTERM} | (set() if ignored else {signal.SIGHUP})


def _stop_on_signal(server: Any, stopping: set[signal.Signals], drain: Callable[[], None]) -> None:
    """Wait for one of the signals `stopping`, drain, then tell the server until it is gone."""
    signal.sigwait(stopping)
    drain()
    pause = threading.Event()
    while True:
        # When a worker ends at that moment, granian clears the event without another look at what it stood for.
        server.signal_handler_interrupt()
        pause.wait(REMINDER)


def _drain(draining: Any, seconds: int, stopping: set[signal.Signals]) -> None:
    """Have the workers send clients away for `seconds`, or until there is another signal of `stopping`."""
    draining.value = True
    end, pause = time.monotonic() + seconds, threading.Event()
    while time.monotonic() < end and not signal.sigpending() & stopping:
        pause.wait(IMPATIENCE)


def _worker_app(settings: Settings, draining: Any) -> Callable[..., Any]:
    """Make what a worker process serves, in that process."""
    # The server process serves nothing itself: it would take twice as long to start.
    from shop.serving.worker import make_app  # noqa: PLC0415

    return make_app(settings, draining)


def _announce(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Wait until the address accepts connections; the workers bind it one by one."""
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


def _kept_key(path: Path) -> str:
    """Return the secret key kept at `path`, made when there is none.

    Raises:
        SettingsError: The key cannot be read, or it is too short.
    """
    try:
        key = _read_or_make(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the secret key {path} cannot be read: {error}") from error
    if len(key.encode()) < MIN_KEY_BYTES:
        raise SettingsError(f"{path} has to hold a key of {MIN_KEY_BYTES} bytes or more; without it one is made")
    return key


def _read_or_make(path: Path) -> str:
    if not path.exists():
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(48))
            file.flush()
            os.fsync(file.fileno())
        try:
            # Unlike a rename, a link never replaces the key that another process has just made.
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()
