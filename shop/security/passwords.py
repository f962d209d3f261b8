"""Password hashes: Argon2id with the parameters that OWASP recommends, one at a time, behind everything else.

A hash fills a core and some memory by design, and a storm of log-ins would leave nothing for other requests. So each
process has one thread that hashes: it yields to the threads that answer, and all hashes use the same memory. Few
requests may wait for it, because each holds a thread of the server meanwhile.
"""

import os
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from shop.errors import ServiceUnavailable

T = TypeVar("T")
# The longest password that can be registered, in characters.
MAX_LENGTH = 255
# How much the hashing thread yields, as `nice` counts; docs/performance.md has what it buys. Much more did harm: the
# thread was kept waiting while it held the interpreter's lock.
NICENESS = 3


class _HashingThread:
    """The thread of this process that hashes; a process that is forked from it gets one of its own."""

    def __init__(self) -> None:
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._executor = ThreadPoolExecutor(1, "hashing", initializer=_yield_to_others)

    def run(self, hashing: Callable[..., T], *arguments: str) -> T:
        """Return the result of `hashing`, or raise its exception."""
        return self._executor.submit(hashing, *arguments).result()


def _yield_to_others() -> None:
    # A thread has a priority of its own on Linux only; elsewhere this would be the whole process's.
    if sys.platform == "linux":
        # Where that is forbidden, hashes are merely as important as answers.
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)


_hashing_thread = _HashingThread()


class Passwords:
    """Hashes and verifies passwords.

    Args:
        time_cost: Passes over the memory.
        memory_cost: Memory of one hash, in KiB.
        parallelism: Lanes.
        places: How many requests may be at hashing at a time, the one that hashes and those that wait.
        note: Called with 1 when a request takes its place, and with -1 when it gives it back.
    """

    def __init__(
        self,
        *,
        time_cost: int,
        memory_cost: int,
        parallelism: int,
        places: int,
        note: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._argon2 = PasswordHasher(
            time_cost=time_cost, memory_cost=memory_cost, parallelism=parallelism, type=Type.ID
        )
        self._places = threading.BoundedSemaphore(places)
        self._note = note
        # Verified in place of the hash that an unknown account does not have.
        self._nobodys_hash = self.hash("nobody's password")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for a request that is going to hash or verify.

        Raises:
            ServiceUnavailable: There is none. That is said at once.
        """
        if not self._places.acquire(blocking=False):
            raise ServiceUnavailable("Too many log-ins and registrations at the moment")
        self._note(1)
        try:
            yield
        finally:
            self._note(-1)
            self._places.release()

    def hash(self, password: str) -> str:
        """Return the encoded hash of `password`, with a new salt and the current parameters."""
        return _hashing_thread.run(self._argon2.hash, _normalized(password))

    def verify(self, password_hash: str | None, password: str) -> bool:
        """Tell whether `password` is the one behind `password_hash`.

        With None, an account that does not exist, the answer is False after the same work.
        """
        try:
            matches = _hashing_thread.run(
                self._argon2.verify, password_hash or self._nobodys_hash, _normalized(password)
            )
        except (VerificationError, InvalidHashError):
            return False
        return matches and password_hash is not None

    def needs_rehash(self, password_hash: str) -> bool:
        """Tell whether `password_hash` was made with other parameters than the current ones."""
        return self._argon2.check_needs_rehash(password_hash)


def _normalized(password: str) -> str:
    # RFC 8265, section 4.2: one password, however a keyboard composes its accents.
    # A longer one is nobody's, and putting a mebibyte of accents in order takes minutes.
    return unicodedata.normalize("NFC", password) if len(password) <= MAX_LENGTH else password
