"""Request bodies that do not come: a time limit for them, and free threads for everybody else meanwhile.

A server hands a request over when its head is there, and reading the body blocks a thread until the client has sent it.
A client that announces a body and keeps it back would have that thread for good, and a few such clients all of them.
So the reads that wait are watched, and those are cut off that wait too long, or with too many others: at most half of
the threads wait for bodies for longer than a moment.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from shop.errors import RequestTimeout
from shop.storage.watchdog import Watchdog

# How often the waiting reads are looked at, in seconds, and at which look a body counts as slow. Looks are counted, not
# seconds: on a busy machine the watchdog is as late as those that it watches.
EVERY = 0.03
LOOKS = 3


class Stream(Protocol):
    """What a WSGI server gives as ``wsgi.input``, as far as it is used here."""

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, or what there is before the end."""


class Bodies:
    """Watches the bodies that are being read in this process.

    Args:
        limit: How long one request's body may take, in seconds.
        places: How many reads may be slow at a time; of more, the longest waiting are cut off.
    """

    def __init__(self, *, limit: float, places: int) -> None:
        self._limit = limit
        self._places = places
        self._reading: set[Body] = set()
        self._watchdog = Watchdog(self._look, every=EVERY)

    def watched(self, stream: Stream, cut_off: Callable[[], None]) -> "Body":
        """Return `stream` as one whose reads are watched, as one body with one time limit.

        Args:
            stream: Where the body comes from.
            cut_off: Answers the request and closes its connection, so that a read that waits on `stream` ends. It is
                called in a thread of its own.
        """
        self._watchdog.watch()
        return Body(stream, cut_off, self._reading)

    def _look(self) -> None:
        latest = time.monotonic() - self._limit
        slow = []
        # A copy, made in one step: the others go on reading.
        for body in self._reading.copy():
            body.looks += 1
            if body.began < latest:
                body.cut()
            elif body.looks >= LOOKS:
                slow.append(body)
        slow.sort(key=lambda body: body.began)
        for body in slow[: max(0, len(slow) - self._places)]:
            body.cut()


class Body:
    """A body that is read under watch; see `Bodies.watched`.

    Attributes:
        began: When the request got its thread, by `time.monotonic`.
        looks: How often it was found waiting.
    """

    def __init__(self, stream: Stream, cut_off: Callable[[], None], reading: "set[Body]") -> None:
        self.began = time.monotonic()
        self.looks = 0
        self._stream = stream
        self._cut_off = cut_off
        self._reading = reading
        self._is_cut = False

    def read(self, size: int) -> bytes:
        """Read as the stream does.

        Raises:
            RequestTimeout: The rest did not come in time; the client has been told.
        """
        if self._is_cut:
            raise RequestTimeout
        self._reading.add(self)
        try:
            piece = self._stream.read(size)
        finally:
            has_come = self._end_wait()
        # Otherwise the client is being told so, also when it has sent the rest at the last moment.
        if not has_come:
            raise RequestTimeout
        return piece

    def __getattr__(self, name: str) -> Any:
        """Leave everything else to the stream: the rest of WSGI's interface, which the service does not use."""
        return getattr(self._stream, name)

    def cut(self) -> None:
        """End a read that waits; called by the watchdog."""
        if self._end_wait():
            self._is_cut = True
            # Giving the answer a moment to leave must not keep the watchdog from the others.
            threading.Thread(target=self._cut_off, daemon=True).start()

    def _end_wait(self) -> bool:
        """Take this from what is being read; whoever comes second, who reads or who cuts off, is told False."""
        try:
            self._reading.remove(self)
        except KeyError:
            return False
        return True
