"""A thread that looks after the threads that are blocked: they cannot look at a clock themselves."""

import threading
from collections.abc import Callable


class Watchdog:
    """Calls a function every so often, in a thread of its own that keeps no process alive.

    Args:
        look: What is called; it must not raise.
        every: The time between two calls, in seconds.
    """

    def __init__(self, look: Callable[[], None], *, every: float) -> None:
        self._look = look
        self._every = every
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self) -> None:
        """Make sure that it looks, in this process: a fork takes no threads along."""
        if self._thread is not None and self._thread.is_alive():
            return
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._every):
            self._look()
