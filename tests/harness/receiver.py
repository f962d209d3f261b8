"""A receiver of webhooks: a real HTTP server on loopback that records requests and answers as a test has scripted.

receiver = self.enterContext(Receiver())
receiver.script(500, "hang up", 200)        # for the next three requests; afterwards each gets a 200
...                                         # the code under test sends to receiver.url
self.assertEqual(3, len(receiver.wait_for(3)))
"""

import json
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.harness.findings import findings
from tests.harness.live import LIMIT, until

# How often the server looks whether it is to stop, in seconds.
POLL = 0.01


@dataclass(frozen=True)
class Received:
    """A request that arrived; `path` has the query, and the names of `headers` are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


# A status; "hang up", which closes the connection without a response; "slow", which waits until the receiver is
# released or closed; "redirect", which names another path of the receiver; or a function of the request that returns
# one of these.
Response = int | str | Callable[[Received], "int | str"]


class Receiver(ThreadingHTTPServer):
    """An HTTP or HTTPS server for the duration of a `with` block."""

    daemon_threads = False

    def __init__(self, usual: Response = 200, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.usual = usual  # the response to requests that no script covers
        self.requests: list[Received] = []  # that have arrived, in order
        self.released = threading.Event()
        self._script: deque[Response] = deque()
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_port}/hook"
        self._thread = threading.Thread(target=self.serve_forever, args=(POLL,), name="receiver")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self.shutdown()
        self._thread.join(LIMIT)
        # Waits for the threads of requests too.
        self.server_close()

    def script(self, *responses: Response) -> None:
        """Answer the next requests like this, one after the other."""
        self._script.extend(responses)

    def release(self) -> None:
        """Let slow responses go on, those that come later too."""
        self.released.set()

    def wait_for(self, count: int) -> list[Received]:
        """Return the requests as soon as `count` have arrived."""
        until(lambda: len(self.requests) >= count, f"{count} requests have arrived")
        return list(self.requests)

    def respond(self, received: Received) -> int | str:
        """Record a request and return the response to it."""
        self.requests.append(received)
        try:
            response = self._script.popleft()
        except IndexError:
            response = self.usual
        response = response(received) if callable(response) else response
        findings.received[str(response)] += 1
        return response


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    protocol_version = "HTTP/1.1"
    # A connection that a client leaves open ends with the receiver.
    timeout = LIMIT

    def do_POST(self) -> None:
        self.close_connection = True
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            return  # The client was killed while it sent, so no request has arrived.
        headers = {name.lower(): value for name, value in self.headers.items()}
        response = self.server.respond(Received(self.command, self.path, headers, body))
        if response == "hang up":
            return
        if response == "slow":
            self.server.released.wait(LIMIT)
            response = 200
        self.send_response(302 if response == "redirect" else int(response))
        if response == "redirect":
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""
