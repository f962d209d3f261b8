"""The PostgreSQL that comes with pip: started on a data home, reachable over a Unix socket, stopped with this process.

`watch.sh` runs `initdb`, `pg_ctl start` and, when this process has ended in whatever way, `pg_ctl stop`. A server that
dies is not restarted: the script reports it on stderr, and the next start recovers.
"""

import errno
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote

import psutil

from shop.embedded import home as homes
from shop.embedded.home import default_home
from shop.embedded.programs import Account, EmbeddedError, account_for, usable_programs

__all__ = ["AlreadyRunning", "EmbeddedError", "EmbeddedPostgres", "default_home"]

if sys.platform != "win32":
    import fcntl

WATCHER = os.fspath(Path(__file__).with_name("watch.sh"))
LOG_TAIL = 15  # lines of the log that are shown if the server does not start
HOLDER_GRACE = 1.0  # seconds that the watcher of a killed service gets to notice the end


class AlreadyRunning(EmbeddedError):
    """Another process serves this data home."""


class EmbeddedPostgres(AbstractContextManager["EmbeddedPostgres"]):
    """One PostgreSQL server on one data home.

    Args:
        home: The data home; it is made if it is missing.
        durable: False for tests: nothing is synced to disk, and a crash of the machine may lose the data.
        options: Server settings (names and values of `postgresql.conf`) that replace the defaults.
        stderr: Descriptor to which an unexpected end of the server is reported; this process's stderr if left out.

    Attributes:
        joined: Whether the server belongs to another process, so that `stop` does not stop it.
    """

    def __init__(
        self, home: Path, *, durable: bool = True, options: Mapping[str, str] | None = None, stderr: int | None = None
    ) -> None:
        self.home = Path(os.path.expanduser(home)).absolute()
        self._durable = durable
        self._options = dict(options or {})
        self._stderr = stderr
        self._throwaway = False
        self.joined = False
        self._sockets: Path | None = None
        self._lifeline: socket.socket | None = None  # the watcher stops the server when this is closed
        self._watcher: subprocess.Popen[bytes] | None = None
        self._pid = os.getpid()

    @classmethod
    def throwaway(cls) -> "EmbeddedPostgres":
        """Return a server for tests. Its home is made by the start, and removed at the end however that comes."""
        server = cls(Path(tempfile.gettempdir()) / f"shop-{secrets.token_hex(8)}", durable=False)
        server._throwaway = True
        return server

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __enter__(self) -> "EmbeddedPostgres":
        self.start()
        return self

    @property
    def url(self) -> str:
        """The `postgresql://` URL of the service's own database, as the service's own role."""
        if self._sockets is None:
            raise EmbeddedError("The embedded PostgreSQL has not been started.")
        # Without the port PGPORT in the environment would count.
        return f"postgresql://shop@/shop?host={quote(os.fsencode(self._sockets), safe='')}&port=5432"

    def start(self, *, join: bool = False) -> None:
        """Start the server, and return when it accepts connections; do nothing if it runs already.

        Args:
            join: If another process serves the data home, use that server once it is ready.

        Raises:
            AlreadyRunning: Another process serves the data home, and `join` is false.
            EmbeddedError: The server cannot be started; the text says why.
        """
        if os.name != "posix":
            raise EmbeddedError(
                "The embedded PostgreSQL needs Linux or macOS. Here, set SHOP_DATABASE_URL to a PostgreSQL of your own."
            )
        if "\n" in str(self.home):
            raise EmbeddedError(f"The data directory {str(self.home)!r} has a line break in its name.")
        if self.joined or (self._watcher is not None and self._watcher.poll() is None):
            return
        self.stop()
        self._pid = os.getpid()
        try:
            account = account_for(self.home / "data")
            homes.make_home(self.home, account)
            lock = os.open(self.home / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                if self._take_lock(lock, join):
                    self._launch(lock, account)
            finally:
                os.close(lock)  # The watcher has it too, until the server is gone.
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise EmbeddedError(
                    f"The data directory {self.home} cannot be used: {error.filename or 'error'}: {error.strerror}."
                    " Set SHOP_DATA_DIR to another directory."
                ) from error
            raise

    def stop(self) -> None:
        """Shut the server down, and return when it is gone. A server that was joined goes on."""
        if self._pid != os.getpid():
            return  # The server belongs to the process that forked this one.
        if self._lifeline is not None:
            self._lifeline.close()
        if self._watcher is not None:
            self._watcher.wait()
        if self._throwaway:
            # The watcher has removed it, if there was one.
            shutil.rmtree(self.home, ignore_errors=True)
        self._lifeline = self._watcher = self._sockets = None
        self.joined = False

    def _take_lock(self, lock: int, join: bool) -> bool:
        """Lock the open file `lock` and write our pid into it; return False if another process's server was joined."""
        grace = time.monotonic() + HOLDER_GRACE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder, *sockets = os.pread(lock, 4096, 0).decode(errors="surrogateescape").splitlines() or [""]
            else:
                _write(lock, f"{os.getpid()}\n")
                return True
            # The file is empty while a server is being stopped: the lock will be free. The watcher of a killed service
            # empties it within milliseconds. A holder that is not seen, but stays, is in another container.
            if holder and (psutil.pid_exists(int(holder)) or time.monotonic() > grace):
                if not join:
                    raise AlreadyRunning(f"The data directory {self.home} is in use by process {holder}.")
                if sockets:
                    self._sockets, self.joined = Path(sockets[0]), True
                    return False
            time.sleep(homes.POLL)

    def _launch(self, lock: int, account: Account | None) -> None:
        """Start the watcher, which starts the server, and wait until the server accepts connections."""
        programs = usable_programs(self.home, account)
        sockets = homes.make_sockets(self.home, account)
        homes.clear_leftovers(self.home, sockets)
        log = self.home / "postgres.log"
        if log.exists():
            log.replace(self.home / "postgres.log.1")
        log.touch(0o600)
        homes.give_to(account, log, 0o600)
        options = self._options | {"unix_socket_directories": '"{}"'.format(str(sockets).replace('"', '""'))}
        # Nothing of the service's environment: it has secrets, and PG* variables that PostgreSQL would use.
        environment = {
            **{name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},
            "LC_ALL": "C",
            "TZ": "UTC",
            "BIN": os.fspath(programs / "bin"),
            # The shell of `pg_ctl` reads them. The quotes are for commas and spaces in the path.
            "OPTIONS": " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in options.items()),
            "FAST": "" if self._durable else "yes",
            "OWNER": "{}:{}".format(*account or (os.geteuid(), os.getegid())),
            "SOCKETS": "" if sockets.is_relative_to(self.home) else os.fspath(sockets),
            "THROWAWAY": "yes" if self._throwaway else "",
        }
        self._lifeline, theirs = socket.socketpair()
        # A worker made by fork inherits it, and would keep the server alive after the service.
        os.register_at_fork(after_in_child=self._lifeline.close)
        with theirs:
            self._watcher = subprocess.Popen(
                ["/bin/sh", WATCHER, os.fspath(self.home), *(account.words if account else ())],
                stdin=theirs.fileno(),
                stdout=lock,
                stderr=self._stderr,
                env=environment,
                cwd="/",
                # Ctrl-C in a terminal is for the service, which stops its workers before its database.
                start_new_session=True,
            )
        self._await_ready(self._lifeline, log)
        if self._durable:
            folder = os.open(self.home, os.O_RDONLY)
            os.fsync(folder)  # Otherwise a power cut could undo the rename of a new data directory.
            os.close(folder)
        self._sockets = sockets
        _write(lock, f"{os.getpid()}\n{sockets}\n")

    def _await_ready(self, lifeline: socket.socket, log: Path) -> None:
        """Read the watcher's lines until one says that the server is ready."""
        said = []
        with lifeline.makefile(errors="replace") as lines:
            for line in lines:
                if line == "ready\n":
                    return
                said.append(line.strip())
        if os.statvfs(self.home).f_bavail == 0:
            said.insert(0, os.strerror(errno.ENOSPC))
        if tail := log.read_text(errors="replace").splitlines()[-LOG_TAIL:]:
            said += [f"the end of {log}:", *map(str.strip, tail)]
        raise EmbeddedError(f"PostgreSQL does not start in {self.home}: {' / '.join(said)}")


def _write(lock: int, text: str) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, text.encode(errors="surrogateescape"), 0)
