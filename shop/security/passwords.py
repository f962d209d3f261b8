"""Password hashes: Argon2id with the parameters that OWASP recommends, one at a time on a low-priority thread.

By design a hash needs a core and much memory, so many logins at once would starve other requests. So each process has
one hashing thread: it yields to the threads that serve requests, and all hashes use the same memory. Its queue is
limited, because each waiting request holds a thread of the server.
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
# The maximum length of a password, in characters.
MAX_LENGTH = 255
# Added to the nice value of the hashing thread; docs/performance.md has measurements. Much more did harm: the thread
# was preempted while it held the interpreter's lock.
NICENESS = 3


class _HashingThread:
    """The hashing thread of this process. A forked process gets its own."""

    def __init__(self) -> None:
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._executor = ThreadPoolExecutor(1, "hashing", initializer=_yield_to_others)

    def run(self, hashing: Callable[..., T], *arguments: str) -> T:
        """Run `hashing` on the thread, and return its result or raise its exception."""
        return self._executor.submit(hashing, *arguments).result()


def _yield_to_others() -> None:
    # Only Linux has a nice value per thread; elsewhere this would change the whole process.
    if sys.platform == "linux":
        # If that is forbidden, hashing keeps the normal priority.
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)


_hashing_thread = _HashingThread()


class Passwords:
    """Hashes and verifies passwords.

    Args:
        time_cost: Passes over the memory.
        memory_cost: Memory of one hash, in KiB.
        parallelism: Lanes.
        slots: The maximum number of requests that hash or wait for it.
        on_change: Called with 1 when a request takes a slot, and with -1 when it returns it.
    """

    def __init__(
        self,
        *,
        time_cost: int,
        memory_cost: int,
        parallelism: int,
        slots: int,
        on_change: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._argon2 = PasswordHasher(
            time_cost=time_cost, memory_cost=memory_cost, parallelism=parallelism, type=Type.ID
        )
        self._slots = threading.BoundedSemaphore(slots)
        self._on_change = on_change
        # Verified if there is no account, so that the response takes the same time.
        self._dummy_hash = self.hash("nobody's password")

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot for a request that hashes or verifies a password.

        Raises:
            ServiceUnavailable: All slots are taken; too many logins are queued for hashing. This does not wait.
        """
        if not self._slots.acquire(blocking=False):
            raise ServiceUnavailable("Too many logins and registrations at the moment")
        self._on_change(1)
        try:
            yield
        finally:
            self._on_change(-1)
            self._slots.release()

    def hash(self, password: str) -> str:
        """Return the encoded hash of `password`, with a new salt and the current parameters."""
        return _hashing_thread.run(self._argon2.hash, _normalized(password))

    def verify(self, password_hash: str | None, password: str) -> bool:
        """Tell whether `password` matches `password_hash`.

        None, for an account that does not exist, takes the same time and returns False.
        """
        try:
            matches = _hashing_thread.run(self._argon2.verify, password_hash or self._dummy_hash, _normalized(password))
        except (VerificationError, InvalidHashError):
            return False
        return matches and password_hash is not None

    def needs_rehash(self, password_hash: str) -> bool:
        """Tell whether `password_hash` has other parameters than the current ones."""
        return self._argon2.check_needs_rehash(password_hash)


def _normalized(password: str) -> str:
    # RFC 8265, section 4.2: keyboards compose accents differently. Passwords over the limit match no account, and
    # normalizing a mebibyte of accents takes minutes.
    return unicodedata.normalize("NFC", password) if len(password) <= MAX_LENGTH else password
