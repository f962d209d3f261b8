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
from types import TracebackType
from typing import Any, Self

from tests.harness.findings import findings
from tests.harness.live import LIMIT, until

# How often the server looks whether it is to stop, in seconds.
POLL = 0.01


@dataclass(frozen=True)
class Received:
    """A request that arrived.

    Attributes:
        method: Its method.
        path: Its path, with the query.
        headers: Its headers, by names in lower case.
        body: Its body.
    """

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


class Receiver:
    """An HTTP server for the duration of a `with` block.

    Args:
        usual: See below.
        tls: Makes it an HTTPS server.

    Attributes:
        url: Where it listens.
        usual: The response to requests that no script covers.
        requests: What has arrived, in order.
    """

    def __init__(self, usual: Response = 200, tls: ssl.SSLContext | None = None) -> None:
        self.usual = usual
        self.requests: list[Received] = []
        self._script: deque[Response] = deque()
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_address[1]}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL,), name="receiver")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self._server.shutdown()
        self._thread.join(LIMIT)
        # Waits for the threads of requests too.
        self._server.server_close()

    def script(self, *responses: Response) -> None:
        """Answer the next requests like this, one after the other."""
        self._script.extend(responses)

    def release(self) -> None:
        """Let slow responses go on, those that come later too."""
        self._released.set()

    def wait_for(self, count: int) -> list[Received]:
        """Return the requests as soon as `count` have arrived.

        Raises:
            AssertionError: They do not arrive in time.
        """
        until(lambda: len(self.requests) >= count, f"{count} requests have arrived")
        return list(self.requests)

    def _respond(self, received: Received) -> int | str:
        self.requests.append(received)
        try:
            response = self._script.popleft()
        except IndexError:
            response = self.usual
        response = response(received) if callable(response) else response
        findings.received[str(response)] += 1
        return response

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # A connection that a client leaves open ends with the receiver.
            timeout = LIMIT

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                if len(body) < length:
                    # The client was killed while it sent, so no request has arrived.
                    self.close_connection = True
                    return
                headers = {name.lower(): value for name, value in self.headers.items()}
                response = receiver._respond(Received(self.command, self.path, headers, body))
                self.close_connection = True
                if response == "hang up":
                    return
                if response == "slow":
                    receiver._released.wait(LIMIT)
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

        return Handler
