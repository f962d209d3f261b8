"""Running the service: the database it starts when it is given none, and the worker processes."""

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from pydantic import SecretStr

from shop import database
from shop.app import create_app
from shop.embedded import EmbeddedPostgres, default_home
from shop.settings import Settings, SettingsError

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


class PortInUse(Exception):
    """Somebody listens at the address already; the text is a sentence for a person."""


class OwnerLeft(Exception):
    """The embedded database was stopped under a command by the process that ran it; the command can be run again."""

    def __init__(self) -> None:
        super().__init__("the embedded database was stopped by the process that ran it; please try again")


@contextmanager
def with_database(settings: Settings, *, join: bool) -> Iterator[Settings]:
    """Yield `settings` with a database in them: the one they name, else the embedded one, running meanwhile.

    Beside the embedded database a missing secret key is made once and kept in the data directory.

    Args:
        settings: As the operator gave them.
        join: Whether to use an embedded database that another process runs, instead of refusing.

    Raises:
        shop.embedded.EmbeddedError: The embedded database cannot run, or runs for another process.
        OwnerLeft: That process has ended, and the database with it, while it was in use here.
    """
    if settings.database_url is not None:
        yield settings
        return
    home = settings.data_dir or default_home()
    embedded = EmbeddedPostgres(home)
    embedded.start(join=join)
    try:
        yield settings.model_copy(
            update={
                "database_url": SecretStr(embedded.url),
                "secret_key": settings.secret_key or SecretStr(_kept_key(home / "secret-key")),
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
    family, kind, protocol, _, address = _resolve(settings.host, settings.port)
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise PortInUse(f"cannot listen on {where}: {error.strerror}; choose another with --port") from error


def make_server(settings: Settings) -> Any:
    """Return the HTTP server as the service runs it; what it serves is for the caller to load.

    Requests that find no free thread wait in a queue which granian does not bound, and it answers none by itself. What
    it bounds is connections, each with one request at a time: so many are accepted by a worker, so many more wait in
    the kernel, and any others are not let in (granian's src/workers.rs and src/blocking.rs).
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
        log_level=LogLevels.error,
    )


def serve(settings: Settings, *, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, then let requests in flight end. The three stay blocked afterwards.

    Args:
        settings: Complete: with database URL and secret key.
        on_ready: Called with the address as a URL once it is answered.
    """
    server = make_server(settings)
    # A thread waits for the signals. In a handler, granian would take the lock of the very event that its main thread
    # is about to wait for, and hang. The workers inherit the blocked signals, see `_worker_app`.
    stopping = _stop_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    threading.Thread(target=_stop_on_signal, args=(server, stopping), daemon=True).start()
    threading.Thread(target=_announce, args=(settings, on_ready), daemon=True).start()
    try:
        server.serve(target_loader=partial(_worker_app, settings), wrap_loader=False)
    except SystemExit:
        # Some process managers signal the workers too. A worker that is quicker than the server is no failure then.
        if not server.interrupt_signal:
            raise


def _stop_signals() -> set[signal.Signals]:
    """Return the signals that stop the service; SIGHUP, of a terminal that closes, only without `nohup`."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return {signal.SIGINT, signal.SIGTERM} | (set() if ignored else {signal.SIGHUP})


def _stop_on_signal(server: Any, stopping: set[signal.Signals]) -> None:
    """Wait for one of the signals `stopping`, then tell the server until it is gone."""
    signal.sigwait(stopping)
    pause = threading.Event()
    while True:
        # When a worker ends at that moment, granian clears the event without another look at what it stood for.
        server.signal_handler_interrupt()
        pause.wait(REMINDER)


def _worker_app(settings: Settings) -> Callable[..., Any]:
    """Build the application inside a worker process."""
    # Of the signals that stop the service a worker heeds SIGTERM alone, by which the server stops it: a terminal's
    # Ctrl-C goes to all processes, and a worker that gets two signals may ignore both. Until granian has set its
    # handler there is nothing in flight, and the one inherited from the server would swallow the signal.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    return create_app(settings)


def _stop_with_parent() -> None:
    """End this worker when the server process has gone without a word: it would keep the port."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


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


def _resolve(host: str, port: int) -> Any:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise SettingsError(f"SHOP_HOST {host!r} is not an address of this machine") from error


def _kept_key(path: Path) -> str:
    """Return the secret key kept at `path`, made when there is none."""
    if not path.exists():
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(48))
        try:
            # Unlike a rename, a link never replaces the key that another process has just made.
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text()
