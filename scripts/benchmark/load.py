"""Load from wrk: a Lua script with the requests, and the result."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmark.operations import Request

CONNECTIONS = 32
THREADS = 2
MISSING = "wrk is not installed; on Debian and Ubuntu: apt install wrk"

# Requests are formatted once. Each thread of wrk sends all of them, from its own starting point.
_SCRIPT = """\
local sent = {{}}
local texts = {{ {texts} }}
local started = 0
function setup(thread) thread:set("place", started * 997); started = started + 1 end
function request()
  place = place + 1
  return texts[place % #texts + 1]
end
{patience}function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    '\\n{{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "refused": %d, "broken": %d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), e.status,
    e.connect + e.read + e.write + e.timeout))
end
"""

# After a 503, a patient client waits for the second that Retry-After names.
_PATIENCE = """\
local refused = false
function response(status, _, _) refused = status == 503 end
function delay() return refused and 1000 or 0 end
"""


class Measured(NamedTuple):
    """The result of a load.

    Attributes:
        requests: The number of responses.
        seconds: The length of the load.
        p50, p99: Percentiles of the latency, in milliseconds.
        refused: Responses with a status of 400 or more.
        broken: Connections that failed, and requests without a response within two seconds.
    """

    requests: int
    seconds: float
    p50: float
    p99: float
    refused: int
    broken: int

    @property
    def rate(self) -> float:
        """Responses per second."""
        return self.requests / self.seconds

    @property
    def errors(self) -> int:
        """Refused and broken requests."""
        return self.refused + self.broken


class Load:
    """Requests of one kind, sent by wrk over kept-alive connections.

    Args:
        url: The server's address.
        requests: The requests, sent one after the other in a loop.
        place: The folder for the script.
        name: The name of the script, without its extension.
        patient: Whether clients obey Retry-After.
    """

    def __init__(self, url: str, requests: Sequence[Request], place: Path, name: str, *, patient: bool = False) -> None:
        self._url = url
        self._script = place / f"{name}.lua"
        host = url.removeprefix("http://")
        texts = ", ".join(_quoted(request, host) for request in requests)
        self._script.write_text(_SCRIPT.format(texts=texts, patience=_PATIENCE if patient else ""))

    def start(self, seconds: float, connections: int = CONNECTIONS) -> "subprocess.Popen[str]":
        """Start to send, and return the process for `finish`."""
        threads = min(THREADS, connections)
        command = [
            "wrk",
            f"-t{threads}",
            f"-c{connections}",
            f"-d{max(1, round(seconds))}s",
            "-s",
            self._script,
            self._url,
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    @staticmethod
    def finish(process: "subprocess.Popen[str]") -> Measured:
        """Wait for the end of a load and return its result."""
        try:
            output, _ = process.communicate()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.returncode:
            raise RuntimeError(f"wrk ended with status {process.returncode}:\n{output}")
        found = json.loads(output.strip().splitlines()[-1])
        return Measured(
            found["requests"],
            found["microseconds"] / 1e6,
            found["p50"] / 1000,
            found["p99"] / 1000,
            found["refused"],
            found["broken"],
        )

    def run(self, seconds: float, connections: int = CONNECTIONS) -> Measured:
        """Send for some seconds, and return the result."""
        return self.finish(self.start(seconds, connections))


def is_installed() -> bool:
    """Tell whether wrk is installed."""
    return shutil.which("wrk") is not None


def _quoted(request: Request, host: str) -> str:
    """Return the text of a request as a Lua string."""
    headers = {"Host": host} | request.headers
    if request.body is not None:
        headers["Content-Length"] = str(len(request.body.encode()))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    # An ASCII string in JSON is also a string in Lua, if it has no \u.
    return json.dumps(f"{request.method} {request.path} HTTP/1.1\r\n{head}\r\n{request.body or ''}")
