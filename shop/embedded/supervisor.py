"""The process that stands between the service and its PostgreSQL, and lives exactly as long as the service does.

`shop.embedded.server` runs this file with `python -I -S`, so it uses the standard library only and is up in about
20 ms. It is the parent of initdb and of postgres: it signals only its own children, whose numbers cannot be reused
before it has waited for them. Its standard input is a socket whose other end the service alone holds: end of file there
means that the service has stopped or died, in whatever way, and everything here is wound up. Through the same socket
it gets its plan, and tells the service `ready`, or `failed` and a sentence. It holds the lock of the data home until
the server is gone.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

SERVICE = 0  # The socket to the service is our standard input.
POLL = 0.003  # seconds between two looks at what announces itself by no event
FAST_SHUTDOWN = 60.0  # seconds for a server to end its sessions and make a checkpoint
PATIENCE = ((signal.SIGINT, FAST_SHUTDOWN), (signal.SIGQUIT, 10.0), (signal.SIGKILL, None))  # each harder than the last
STEADY = 60.0  # seconds after which a server counts as healthy again
SETUP_SQL = b"CREATE ROLE shop LOGIN CREATEDB;\nCREATE DATABASE shop OWNER shop;\n"
PR_SET_PDEATHSIG = 1


class ServiceGone(Exception):
    """The service closed its end of the socket: by stopping us, or by dying."""


class Failed(Exception):
    """The server cannot be brought up; the text is a sentence for a person."""


def read_status(data: str) -> list[str]:
    """Return the lines of the server's own pid file in directory `data`; an empty list when there is none."""
    try:
        with open(os.path.join(data, "postmaster.pid"), encoding="utf-8", errors="surrogateescape") as file:
            return file.read().split("\n")
    except FileNotFoundError:
        return []


def says_ready(status: list[str]) -> bool:
    """Tell whether the lines of a pid file describe a server that accepts connections (its line 8)."""
    return len(status) > 7 and status[7].strip() == "ready"


class Supervisor:
    """Creates the data directory when there is none, keeps one server on it, and takes it down with the service.

    Args:
        plan: what `shop.embedded.server` decided, see `EmbeddedPostgres._plan`.
    """

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._child: subprocess.Popen[bytes] | None = None
        self._announced = False
        self._log = os.open(plan["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._pid = os.getpid()
        # A child's end, and any other signal, makes select() return; so nothing here has to poll for it.
        self._wake, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        # A process manager signals everything in its group at once. The service stops its workers first and us last,
        # so only the socket ends this process. Handlers, unlike SIG_IGN, are not inherited by what we start.
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)

    def run(self) -> None:
        """Serve until the service is gone or the server cannot be kept up, then clean up."""
        try:
            if not os.path.exists(os.path.join(self._plan["data"], "PG_VERSION")):
                self._create()
            self._serve()
        except ServiceGone:
            # Whoever starts now may wait for the lock: nobody serves this data home any more.
            os.ftruncate(self._plan["lock"], 0)
        except (Failed, OSError) as failure:
            self._say(str(failure))
            if not self._announced:
                self._tell(f"failed {failure}")
        finally:
            self._end_child()
            self._remove(self._plan["remove"])

    def _create(self) -> None:
        """Make the data directory under another name first, so that it is there whole or not at all."""
        staging = self._plan["staging"]
        self._stop_leftovers(staging)
        self._remove([staging])
        os.mkdir(staging, 0o700)
        if self._plan["account"]:
            os.chown(staging, *self._plan["account"])
        self._run_tool(self._plan["initdb"], b"")
        self._run_tool(self._plan["setup"], SETUP_SQL)
        os.rename(staging, self._plan["data"])
        if self._plan["durable"]:
            home = os.open(os.path.dirname(self._plan["data"]), os.O_RDONLY)
            os.fsync(home)
            os.close(home)

    def _serve(self) -> None:
        """Run the server, and run it again when it dies: at once at first, then slower, in the end not at all."""
        deaths, pauses = 0, self._plan["pauses"]
        while True:
            self._stop_leftovers(self._plan["data"])
            began = time.monotonic()
            status = self._run_server()
            if not self._announced:
                raise Failed(f"PostgreSQL ended with status {status} before it was ready.")
            deaths = 1 if time.monotonic() - began > STEADY else deaths + 1
            if deaths > len(pauses):
                raise Failed(
                    f"PostgreSQL ended with status {status}, {deaths} times in a row; it is not started again."
                )
            self._say(f"PostgreSQL ended with status {status}; it is started again.")
            if select.select([SERVICE], [], [], pauses[deaths - 1])[0]:
                raise ServiceGone

    def _run_server(self) -> int:
        """Run one server to its end and return its exit status; announce the first that gets ready."""
        child = self._start(self._plan["postgres"], subprocess.DEVNULL, signal.SIGINT)
        while not self._announced:
            if self._ended(child, POLL):
                return child.returncode
            status = read_status(self._plan["data"])
            if says_ready(status) and status[0] == str(child.pid):
                self._announced = True
                self._tell("ready")
        self._ended(child)
        return child.returncode

    def _run_tool(self, command: list[str], text: bytes) -> None:
        # The text is far smaller than a pipe holds, so it can be written before anybody reads.
        stdin, write = os.pipe()
        os.write(write, text)
        os.close(write)
        # Without us it must not go on for a moment: the next start makes a directory of the same name.
        child = self._start(command, stdin, signal.SIGKILL)
        os.close(stdin)
        try:
            self._ended(child)
        except ServiceGone:
            # While initdb tries settings out it heeds no SIGINT, the signal that ends a server.
            child.terminate()
            raise
        if child.returncode:
            raise Failed(f"{os.path.basename(command[0])} ended with status {child.returncode}.")

    def _start(self, command: list[str], stdin: int, without_us: int) -> subprocess.Popen[bytes]:
        """Start a child that gets the signal `without_us` should this process be killed."""
        account = self._plan["account"]
        drop = {"user": account[0], "group": account[1], "extra_groups": []} if account else {}
        try:
            self._child = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=self._log,
                stderr=self._log,
                env=self._plan["env"],
                umask=0o077,
                # Ruff warns of threads, of which there are none here.
                preexec_fn=lambda: self._die_with_us(without_us),  # noqa: PLW1509
                **drop,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise Failed(f"{command[0]} cannot be run: {error}.") from error
        return self._child

    def _die_with_us(self, number: int) -> None:
        """In a new child: have Linux signal it when this process dies. Elsewhere the next start stops what is left."""
        if self._libc is not None:
            self._libc.prctl(PR_SET_PDEATHSIG, number)
            if os.getppid() != self._pid:
                os._exit(1)

    def _ended(self, child: subprocess.Popen[bytes], timeout: float | None = None, *, heed: bool = True) -> bool:
        """Wait for the end of `child`; False when `timeout` seconds pass first.

        Raises:
            ServiceGone: the service went first, and `heed` is true.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while child.poll() is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            readable = select.select([self._wake, SERVICE] if heed else [self._wake], [], [], left)[0]
            if SERVICE in readable:
                raise ServiceGone
            if self._wake in readable:
                os.read(self._wake, 4096)
        return True

    def _end_child(self) -> None:
        """Shut down what runs: fast (sessions are ended, a checkpoint is made), and harder when that takes too long."""
        for number, seconds in PATIENCE:
            if self._child is None or self._child.poll() is not None:
                return
            self._child.send_signal(number)
            self._ended(self._child, seconds, heed=False)

    def _stop_leftovers(self, data: str) -> None:
        """Make way in `data`, which nobody else can be using since the lock is ours.

        A server that lost its supervisor is stopped. The files that name a server's pid are then removed, whatever
        process has that number by now: that process is not ours to touch.
        """
        # A server that ended well has removed these, and then there is nothing to look for.
        files = [os.path.join(self._plan["sockets"], name) for name in (".s.PGSQL.5432", ".s.PGSQL.5432.lock")]
        files.append(os.path.join(data, "postmaster.pid"))
        if not any(map(os.path.lexists, files)):
            return
        sys.path.append(self._plan["psutil"])
        # Here, not above: it takes as long to load as the rest of this process takes to start.
        import psutil  # noqa: PLC0415

        while leftovers := [process for process in psutil.process_iter(["name", "cmdline"]) if _serves(process, data)]:
            # The children of a server carry a title. Without their server they can only be killed, as it would do.
            servers = [each for each in leftovers if not "".join(each.info["cmdline"] or []).startswith("postgres:")]
            for process in servers or leftovers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGINT if servers else signal.SIGKILL)
            deadline = time.monotonic() + FAST_SHUTDOWN
            # Not our children, so no event tells of their end; nor need anybody have reaped them.
            while left := [process for process in leftovers if _serves(process, data)]:
                time.sleep(POLL)
                if time.monotonic() > deadline:
                    for process in left:
                        with contextlib.suppress(psutil.NoSuchProcess):
                            process.kill()
        for path in files:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _remove(self, folders: list[str]) -> None:
        for folder in folders:
            if os.path.lexists(folder):
                # Here, not above: most runs have nothing to remove, and it takes 10 ms to load.
                import shutil  # noqa: PLC0415

                shutil.rmtree(folder)

    def _tell(self, word: str) -> None:
        # A service that is gone by now needs no answer, and that it is gone shows wherever we wait.
        with contextlib.suppress(BrokenPipeError):
            os.write(SERVICE, word.encode(errors="replace"))

    def _say(self, sentence: str) -> None:
        """Put a sentence into the server's log, and where the service's own errors go once it relies on the server."""
        # The disk may be full, and the terminal gone. Neither may keep us from what else there is to do.
        with contextlib.suppress(OSError):
            os.write(self._log, f"supervisor: {sentence}\n".encode(errors="replace"))
        if self._announced:
            with contextlib.suppress(OSError):
                os.write(2, f"shop: {sentence}\n".encode(errors="replace"))


def _serves(process: Any, data: str) -> bool:
    """Tell whether `process` (of psutil) is a PostgreSQL process that works in the directory `data`."""
    import psutil  # noqa: PLC0415 - as above

    try:
        return process.info["name"] == "postgres" and os.path.samefile(process.cwd(), data)
    except (psutil.Error, OSError):
        # It ended meanwhile, or belongs to somebody else.
        return False


if __name__ == "__main__":
    os.umask(0o077)
    # The plan comes through the socket, not as an argument: the list of processes is for people to read.
    with os.fdopen(os.dup(SERVICE), encoding="utf-8") as service:
        plan = service.readline()
    # A service that died at once has sent none.
    if plan.endswith("\n"):
        Supervisor(json.loads(plan)).run()
