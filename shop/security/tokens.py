"""Bearer tokens: JWTs, signed with HS256, that carry the id and role of a user."""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import jwt
from jwt.types import Options

from shop.errors import InvalidToken
from shop.ids import parse_id

ALGORITHM = "HS256"
ROLES = ("customer", "staff")
# `Tokens._read` checks the times itself: for a list, infinity or a huge number the library raises other exceptions.
CHECKS: Options = {
    "require": ["sub", "role", "iat", "exp"],
    "verify_iat": False,
    "verify_exp": False,
    "verify_nbf": False,
}
# Maximum number of cached tokens, about 10 MB in each worker process.
CACHE_SIZE = 10_000


class Actor(NamedTuple):
    """The acting user: the one to whom the token was issued.

    Attributes:
        user_id: The user's id.
        role: ``customer`` or ``staff``, at the time when the token was issued.
    """

    user_id: str
    role: str

    @property
    def is_staff(self) -> bool:
        """Whether the actor may see data of other users."""
        return self.role == "staff"


class Tokens:
    """Issues and verifies tokens.

    Verified tokens are cached until they expire, because verifying costs more than the query that follows: the cache
    saves a fifth of the CPU of a read (docs/performance.md). Its key is the whole token. Rejected tokens are not
    cached.

    Args:
        key: The current key: it signs and verifies.
        fallbacks: Former keys, which only verify.
        lifetime: How long a token is valid, in seconds.
        clock: Returns the current time, with its time zone.
    """

    def __init__(self, key: str, fallbacks: Sequence[str], *, lifetime: int, clock: Callable[[], datetime]) -> None:
        self._keys = (key, *fallbacks)
        self.lifetime = lifetime
        self._clock = clock
        self._cache: dict[str, tuple[Actor, datetime]] = {}
        self._cache_lock = threading.Lock()

    def issue(self, actor: Actor) -> str:
        """Return a token for `actor`."""
        now = self._clock()
        claims = {
            "sub": actor.user_id,
            "role": actor.role,
            "iat": now,
            "exp": now + timedelta(seconds=self.lifetime),
        }
        return jwt.encode(claims, self._keys[0], ALGORITHM)

    def verify(self, token: str) -> Actor:
        """Return the acting user of `token`.

        Raises:
            InvalidToken: Not signed with our keys, changed, or expired.
        """
        actor = self.recall(token)
        if actor is None:
            actor, expires = self._checked(token)
            if self._clock() >= expires:
                raise InvalidToken
            self._remember(token, actor, expires)
        return actor

    def recall(self, token: str) -> Actor | None:
        """Return the acting user if `token` is cached and still valid, else None."""
        known = self._cache.get(token)
        if known is None:
            return None
        actor, expires = known
        if self._clock() < expires:
            return actor
        self._cache.pop(token, None)
        return None

    def _checked(self, token: str) -> tuple[Actor, datetime]:
        """Verify the signature; return the acting user and the time of expiry."""
        for key in self._keys:
            try:
                # We choose the algorithm, not the token (RFC 8725, section 3.1).
                claims = jwt.decode(token, key, [ALGORITHM], options=CHECKS)
            except jwt.InvalidSignatureError:
                continue
            except (jwt.InvalidTokenError, RecursionError) as error:
                # The library reads JSON with the standard library, which raises RecursionError for deep nesting.
                raise InvalidToken from error
            return self._read(claims)
        raise InvalidToken

    def _read(self, claims: dict[str, object]) -> tuple[Actor, datetime]:
        """Return the acting user and the time of expiry. Other holders of the key may sign claims of any type."""
        subject = parse_id(str(claims["sub"]))
        role = next((role for role in ROLES if role == claims["role"]), None)
        if subject is None or role is None:
            raise InvalidToken
        # Only checked for its type: the clock of the instance that issued the token may be ahead.
        _moment(claims["iat"])
        if "nbf" in claims and self._clock() < _moment(claims["nbf"]):
            raise InvalidToken
        return Actor(subject, role), _moment(claims["exp"])

    def _remember(self, token: str, actor: Actor, expires: datetime) -> None:
        with self._cache_lock:
            if len(self._cache) >= CACHE_SIZE:
                # The oldest entry. Finding the least recently used one would cost more than it saves.
                self._cache.pop(next(iter(self._cache)), None)
            self._cache[token] = actor, expires


def _moment(claim: object) -> datetime:
    """Convert a NumericDate (RFC 7519, section 2).

    Raises:
        InvalidToken: The claim is not a number, or outside of the calendar.
    """
    if not isinstance(claim, int | float) or isinstance(claim, bool):
        raise InvalidToken
    try:
        return datetime.fromtimestamp(claim, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise InvalidToken from error
