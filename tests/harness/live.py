"""The project's server in a process of its own, and a client that talks to it over TCP.

`LiveServer` runs the command as an operator does; `Connection` sends JSON over one kept-alive connection. Nothing here
sleeps: a condition that no event announces is polled by `until`, whose timeout names the condition.
"""

import json
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import urlsplit

import psutil

from tests import binding
from tests.harness.findings import spending

ROOT = Path(__file__).resolve().parents[2]
# Nothing here takes more than a few seconds, so only a broken promise lasts this long.
LIMIT = 30.0
POLL = 0.005


class NotReady(AssertionError):
    """The command ended, or took too long, before it served; the text has its output."""


def until(true: Callable[[], object], what: str) -> None:
    """Wait for a condition that no event announces; fail after `LIMIT` seconds with `what`, the condition in words."""
    deadline = time.monotonic() + LIMIT
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {LIMIT:.0f} seconds it still does not hold that {what}")
        time.sleep(POLL)


def still_running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return those of `processes` that have not ended; one that nobody has waited for yet has."""
    left = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
    return left


def temporary_directory(prefix: str = f"{binding.NAME}-live-") -> Path:
    """Make a directory for data homes, which the caller removes."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    # Root's database runs as another account, which has to pass through it.
    directory.chmod(0o711)
    return directory


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class LiveServer:
    """The project's server on a port of the loopback address, started by `start` or a `with` block.

    It leads a process group of its own, as a command does that a shell has put in the foreground.

    Args:
        command: The program and its arguments.
        environment: All its environment variables.
        ready: What it prints when it serves; the first group, where there is one, is its address.
        port: The port that the command was given.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], ready: str | re.Pattern[str], port: int
    ) -> None:
        self.port = port
        self.url = ""  # until it serves
        # Lines of its output so far, its children's included.
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._command, self._environment = command, environment
        self._ready = re.compile(ready)
        self._decided = threading.Event()  # it serves, or never will
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []
        self._family: list[psutil.Process] = []  # as last seen; what is left of it ends in `close`

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def process(self) -> subprocess.Popen[str]:
        """The server process."""
        assert self._process is not None, "it has not been started"
        return self._process

    @spending("server processes")
    def start(self) -> Self:
        """Start it, and return when it says that it serves."""
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for stream, lines in ((self._process.stdout, self.stdout), (self._process.stderr, self.stderr)):
            reader = threading.Thread(target=self._collect, args=(stream, lines), daemon=True)
            reader.start()
            self._readers.append(reader)
        in_time = self._decided.wait(LIMIT)
        if not self.url:
            self.close()
            how = (
                f"ended with status {self._process.returncode}" if in_time else f"was not ready in {LIMIT:.0f} seconds"
            )
            raise NotReady(f"the server {how} and said:\n" + "\n".join(self.stdout + self.stderr))
        self._family = self.family()
        return self

    def _collect(self, stream: IO[str], lines: list[str]) -> None:
        with stream:
            for line in stream:
                lines.append(line.rstrip("\n"))
                if ready := self._ready.search(line):
                    self.url = ready[1] if ready.groups() else f"http://127.0.0.1:{self.port}"
                    self._decided.set()
        self._decided.set()

    def family(self) -> list[psutil.Process]:
        """Return all its processes, the server first."""
        server = psutil.Process(self.process.pid)
        return [server, *server.children(recursive=True)]

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send the server process a signal."""
        self.process.send_signal(number)

    @spending("server processes")
    def wait(self, seconds: float = LIMIT) -> int:
        """Wait until the server process has ended and its output is complete; return its exit status."""
        status = self.process.wait(seconds)
        for reader in self._readers:
            # Workers have the same output; it ends with the last of them.
            reader.join(LIMIT)
        return status

    @spending("server processes")
    def close(self) -> None:
        """Stop it if it still runs, and kill what does not stop."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._family = self.family()
            self.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(LIMIT)
        # A worker or database that outlived its server would hold our pipes, and its port or data home.
        kill(self._family)
        self.wait()


def kill(processes: Sequence[psutil.Process]) -> None:
    """Kill processes, and return when they are gone."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    until(lambda: not still_running(processes), "the killed processes are gone")


@dataclass(frozen=True)
class Answer:
    """What the server answered."""

    status: int
    headers: HTTPMessage
    content: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.content)


class Connection:
    """A client's connection, kept open from one request to the next; one thread uses it at a time."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.token = token  # sent with each request where there is one
        self._http = HTTPConnection(urlsplit(url).netloc, timeout=LIMIT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def local_address(self) -> Any:
        """Our end of the connection, or None when the server has closed it: another end is another connection."""
        return None if self._http.sock is None else self._http.sock.getsockname()

    def get(self, path: str) -> Answer:
        """Send GET."""
        return self.request("GET", path)

    def post(self, path: str, body: object, **headers: str) -> Answer:
        """Send POST with `body` as JSON."""
        return self.request("POST", path, json.dumps(body).encode(), **headers)

    def request(self, method: str, path: str, body: bytes | Iterable[bytes] | None = None, **headers: str) -> Answer:
        """Send any request and read the answer. After an error, the next request opens a new connection.

        Args:
            method: The method.
            path: Path and query.
            body: Sent with a Content-Length; an iterable is sent in chunks.
            headers: Further headers, underscores standing for hyphens.
        """
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        if self.token is not None:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        chunked = body is not None and not isinstance(body, bytes)
        if chunked:
            sent["Transfer-Encoding"] = "chunked"
        try:
            with spending("requests over TCP"):
                self._http.request(method, path, body, sent, encode_chunked=chunked)
                with self._http.getresponse() as response:
                    return Answer(response.status, response.headers, response.read())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close it; a later request opens it again."""
        self._http.close()
