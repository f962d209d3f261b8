"""Data homes of the embedded PostgreSQL, and services that run on them, for the tests of what both promise.

A test module takes `setUpModule` from here. One data directory is made once and lent to most tests in turn, because
making it takes ten times as long as starting a server on it.
"""

import atexit
import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import psycopg2

from shop.embedded.server import EmbeddedError, EmbeddedPostgres
from tests.harness.live import LIMIT, still_running, temporary_directory, until
from tests.support.live import WATCHER, database_of, inherited

ROOT = os.name == "posix" and os.geteuid() == 0
CHECKOUT = Path(__file__).resolve().parents[2]
LINUX = sys.platform == "linux"

# A service that starts a server, prints a line, and waits for the end of its standard input.
SERVICE = """
import json, os, signal, sys
from functools import cache
from pathlib import Path
from shop.embedded.server import EmbeddedError, EmbeddedPostgres

home, *words = sys.argv[1:]
if home == "throwaway":
    server = EmbeddedPostgres.throwaway()
else:
    server = EmbeddedPostgres(Path(home), durable="durable" in words)
if "deaf" in words:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
try:
    server.start(join="join" in words)
except EmbeddedError as error:
    print(json.dumps({"error": type(error).__name__, "text": str(error)}), flush=True)
    sys.exit(2)
workers = []
for way in words:
    if way in ("idle", "stopping"):
        workers.append(os.fork())
        if workers[-1] == 0:
            if way == "stopping":
                server.stop()
            signal.pause()
facts = {"url": server.url, "home": str(server.home), "joined": server.joined, "workers": workers}
print(json.dumps(facts), flush=True)
sys.stdin.read()
server.stop()
"""

base: Path  # where the data homes of this module are
made: Path  # the data home whose data directory is lent


def setUpModule() -> None:
    """Make the data home that is lent, for all modules of a process together."""
    _make_home()


@cache
def _make_home() -> None:
    global base, made  # noqa: PLW0603 - unittest's module fixture has no other place
    base = temporary_directory("shop-test-")
    atexit.register(shutil.rmtree, base)
    made = base / "new/home"
    with EmbeddedPostgres(made, durable=False):
        pass


def run_sql(url: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Run one statement on a connection of its own, in autocommit mode, and return its rows."""
    with contextlib.closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []


def family(pid: int) -> tuple[psutil.Process, psutil.Process, list[psutil.Process]]:
    """Return the watcher that process `pid` started last, its server, and all processes of both.

    The last, because the process of the tests may have one for other modules as well.
    """
    watchers = [child for child in psutil.Process(pid).children() if WATCHER in " ".join(child.cmdline())]
    watcher = max(watchers, key=psutil.Process.create_time)
    server = database_of(watcher)
    everyone = [watcher, *watcher.children(recursive=True)]
    if server is None:
        return watcher, watcher, everyone
    return watcher, server, [*everyone, server, *server.children()]


def kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def answers(url: str) -> bool:
    try:
        return run_sql(url, "SELECT 1") == [(1,)]
    except psycopg2.OperationalError:
        return False


class Service:
    """A service process with an embedded server, as a user would run it."""

    def __init__(self, home: Path | str, *words: str, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SERVICE, os.fspath(home), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**inherited(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(env or {})},
            start_new_session=True,
        )

    def answer(self) -> dict[str, Any]:
        """Return what the service says once its server is ready, or has failed."""
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def family(self) -> tuple[psutil.Process, psutil.Process, list[psutil.Process]]:
        return family(self.process.pid)

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(LIMIT)

    def interrupt(self) -> None:
        """Do what Ctrl-C in a terminal does: SIGINT to each process of the foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(LIMIT)

    def close(self) -> str:
        """Close its standard input, at which it stops; return what it and its watcher said on stderr."""
        _, stderr = self.process.communicate(timeout=LIMIT)
        return stderr.decode()


class EmbeddedTestCase(unittest.TestCase):
    def home(self, name: str = "home") -> Path:
        """Return a path for a new data home, in a folder of this test's own."""
        folder = Path(tempfile.mkdtemp(dir=base))
        folder.chmod(0o711)
        return folder / name

    def filled_home(self, name: str = "home") -> Path:
        """Return a data home that has been served before, and whose server is not running."""
        home = self.home(name)
        home.mkdir()
        home.chmod(stat.S_IMODE(made.stat().st_mode))
        (made / "data").rename(home / "data")
        # Cleanups run last in, first out: whatever serves this home is stopped by then.
        self.addCleanup((home / "data").rename, made / "data")
        return home

    def give_to_server(self, path: Path) -> None:
        """Make `path` belong to the account that runs the server."""
        owner = (made if (made / "data").exists() else path.parent) / "data"
        shutil.chown(path, owner.stat().st_uid, owner.stat().st_gid)

    def make_sockets(self, home: Path, mode: int = 0o700) -> Path:
        sockets = home / "socket"
        sockets.mkdir()
        sockets.chmod(mode)
        self.give_to_server(sockets)
        return sockets

    def server(self, home: Path, **settings: Any) -> EmbeddedPostgres:
        server = EmbeddedPostgres(home, durable=False, **settings)
        self.addCleanup(server.stop)
        return server

    def service(self, home: Path | str, *words: str, env: dict[str, str] | None = None) -> Service:
        service = Service(home, *words, env=env)
        self.addCleanup(service.close)
        return service

    def assertGone(self, *processes: psutil.Process) -> None:
        until(lambda: not still_running(processes), f"{processes} have ended")

    @contextlib.contextmanager
    def assertRefused(self, *words: str) -> Iterator[None]:
        """Assert that the block raises an EmbeddedError whose sentence has all `words`."""
        with self.assertRaises(EmbeddedError) as caught:
            yield
        for word in words:
            self.assertIn(word, str(caught.exception))
