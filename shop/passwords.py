"""Password hashes: Argon2id with the parameters that OWASP recommends, one hash at a time, and few that wait."""

import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from shop.errors import ServiceUnavailable

# The longest password that can be registered, in characters.
MAX_LENGTH = 255


class Passwords:
    """Hashes and verifies passwords.

    One Argon2 runs at a time in a process: it fills a core and its memory by design, and without a limit a storm of
    log-ins would leave nothing for other requests. For the same reason few requests may wait for it: each has a thread
    of the server, and the threads that are left answer everything else.

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
        self._one_at_a_time = threading.Lock()
        self._places = threading.BoundedSemaphore(places)
        self._note = note
        # Verified in place of the hash that an unknown account does not have.
        self._nobodys_hash = self.hash("nobody's password")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for a request that is going to hash or verify, from before its first statement on.

        Raises:
            ServiceUnavailable: There is none. That is said at once, before the request has cost anything.
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
        with self._one_at_a_time:
            return self._argon2.hash(_normalized(password))

    def verify(self, password_hash: str | None, password: str) -> bool:
        """Tell whether `password` is the one behind `password_hash`.

        With None, an account that does not exist, the answer is False after the same work.
        """
        with self._one_at_a_time:
            try:
                matches = self._argon2.verify(password_hash or self._nobodys_hash, _normalized(password))
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
