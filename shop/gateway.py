"""Between granian and the application: the WSGI call that answers a request (PEP 3333).

Granian's own does the same with more work, and puts the process's whole environment into each request's, the secret
key included. Here a request gets what WSGI asks for, and one with a body a way to be broken off; see
`shop.api.slow_bodies`.
"""

import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from granian.server import mp
from granian.wsgi import ResponseIterWrap

from shop.api.middleware import WAITED
from shop.api.slow_bodies import BREAK_OFF
from shop.backlog import Backlog

Application = Callable[..., Any]
# How long an answer gets to leave before its connection is broken off, in seconds.
FLUSH = 0.02


def install(is_draining: Callable[[], bool], backlog: Backlog) -> None:
    """Have granian call applications in this process, from the next one on, as `_Call` does.

    Args:
        is_draining: Tells whether each answer is to close its connection.
        backlog: Tells which requests have waited for too long; they are marked for `shop.api.middleware.WaitLimit`.
    """

    def wrap(application: Application, _options: object, _access_log: object = None) -> _Call:
        return _Call(application, is_draining, backlog)

    # Imported there, and called by that name. Else there would be no limits for bodies and waits, and no word of it.
    if not hasattr(mp, "_wsgi_call_wrap"):
        raise RuntimeError("this release of granian calls applications in a way that is not known here")
    mp._wsgi_call_wrap = wrap


class _Call:
    """What granian calls with each request.

    Args:
        application: The WSGI application.
        is_draining, backlog: As for `install`.
    """

    def __init__(self, application: Application, is_draining: Callable[[], bool], backlog: Backlog) -> None:
        self._application = application
        self._is_draining = is_draining
        self._backlog = backlog
        # What is the same in all requests.
        self._base = {
            "SCRIPT_NAME": "",
            "wsgi.version": (1, 0),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            # Granian marks the end of a body, however it was announced.
            "wsgi.input_terminated": True,
        }

    def __call__(self, protocol: Any, environ: dict[str, Any]) -> None:
        """Answer one request.

        Args:
            protocol: Granian's object beside the environment: it takes the answer, from any thread. The first one
                counts, later ones are dropped.
            environ: What granian knows of the request.
        """
        environ.update(self._base)
        if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
            environ[BREAK_OFF] = partial(_break_off, protocol)
        if self._backlog.begin():
            environ[WAITED] = True
        start = _Start()
        try:
            body = self._application(environ, start)
        finally:
            self._backlog.end()
        headers = [*start.headers, ("Connection", "close")] if self._is_draining() else start.headers
        if type(body) is list:
            protocol.response_bytes(start.status, headers, body[0] if len(body) == 1 else b"".join(body))
        else:
            protocol.response_iter(start.status, headers, ResponseIterWrap(body))  # type: ignore[no-untyped-call]


class _Start:
    """PEP 3333's ``start_response``; nothing of ours uses the writer that it would return."""

    __slots__ = ("headers", "status")
    status: int
    headers: list[tuple[str, str]]

    def __call__(self, status: str, headers: list[tuple[str, str]], _error: object = None) -> None:
        self.status = int(status[:3])
        self.headers = headers


def _break_off(protocol: Any, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    """Answer a request and close its connection, though its body is still being read, and will not end otherwise.

    After a whole answer hyper, below granian, would wait for the rest of the body for as long as somebody reads it. An
    answer that ends before its Content-Length it takes for a fault, and hangs up. So a line break is promised after the
    body, and never sent.
    """
    protocol.response_iter(status, [*headers, ("Content-Length", str(len(body) + 1))], _Unfinished(body))


class _Unfinished:
    """An iterator over one piece of an answer that ends after a moment, in which the piece leaves for the client."""

    def __init__(self, piece: bytes) -> None:
        self._pieces = [piece]

    def __next__(self) -> bytes:
        if self._pieces:
            return self._pieces.pop()
        threading.Event().wait(FLUSH)
        raise StopIteration

    def close(self) -> None:
        """Do nothing; granian calls it."""
