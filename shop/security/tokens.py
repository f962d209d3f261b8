"""Bearer tokens: JWTs signed with HS256 that say who acts, and in which role, for a limited time."""

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
# `Tokens._read` checks the times: for times that are lists, infinite or huge the library raises TypeError and others.
CHECKS: Options = {
    "require": ["sub", "role", "iat", "exp"],
    "verify_iat": False,
    "verify_exp": False,
    "verify_nbf": False,
}
# How many verified tokens are remembered: some 10 MB in each worker process, and one is back in place after one check.
CACHE_SIZE = 10_000


class Actor(NamedTuple):
    """Who acts: the user a token was issued to.

    Attributes:
        user_id: The user's id.
        role: ``customer`` or ``staff``, as it was when the token was issued.
    """

    user_id: str
    role: str

    @property
    def is_staff(self) -> bool:
        """Whether the actor sees what belongs to others."""
        return self.role == "staff"


class Tokens:
    """Issues and verifies tokens.

    The checks of a token cost more than the query behind it, so a token that has passed them is remembered until it
    expires: that saves a fifth of the CPU of a read (docs/performance.md). It is the whole token that is remembered;
    one that was refused never is. Other keys need another object.

    Args:
        key: The key that signs, and verifies first.
        fallbacks: Former keys, which still verify.
        lifetime: How long a token is valid, in seconds.
        clock: Returns the current time, aware.
    """

    def __init__(self, key: str, fallbacks: Sequence[str], *, lifetime: int, clock: Callable[[], datetime]) -> None:
        self._keys = (key, *fallbacks)
        self.lifetime = lifetime
        self._clock = clock
        self._verified: dict[str, tuple[Actor, datetime]] = {}
        self._remembering = threading.Lock()

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
        """Return who acts with `token`.

        Raises:
            InvalidToken: It is not a token of ours, was changed, or has expired.
        """
        actor = self.recall(token)
        if actor is None:
            actor, expires = self._checked(token)
            if self._clock() >= expires:
                raise InvalidToken
            self._remember(token, actor, expires)
        return actor

    def recall(self, token: str) -> Actor | None:
        """Return who acts with `token` if it has been verified before and is still valid; None tells nothing of it."""
        known = self._verified.get(token)
        if known is None:
            return None
        actor, expires = known
        if self._clock() < expires:
            return actor
        self._verified.pop(token, None)
        return None

    def _checked(self, token: str) -> tuple[Actor, datetime]:
        """Return what `token` says: who acts, and until when."""
        for key in self._keys:
            try:
                # The algorithm is ours to choose, never the token's (RFC 8725, section 3.1).
                claims = jwt.decode(token, key, [ALGORITHM], options=CHECKS)
            except jwt.InvalidSignatureError:
                continue
            except (jwt.InvalidTokenError, RecursionError) as error:
                # The library reads JSON with the standard library, which raises RecursionError for deep nesting.
                raise InvalidToken from error
            return self._read(claims)
        raise InvalidToken

    def _read(self, claims: dict[str, object]) -> tuple[Actor, datetime]:
        """Return who acts and until when; whoever shares the key may sign claims of any type."""
        subject = parse_id(str(claims["sub"]))
        role = next((role for role in ROLES if role == claims["role"]), None)
        if subject is None or role is None:
            raise InvalidToken
        # The time of issue must be a time, and is not compared: the clock of the instance that issued it may be ahead.
        _moment(claims["iat"])
        if "nbf" in claims and self._clock() < _moment(claims["nbf"]):
            raise InvalidToken
        return Actor(subject, role), _moment(claims["exp"])

    def _remember(self, token: str, actor: Actor, expires: datetime) -> None:
        with self._remembering:
            if len(self._verified) >= CACHE_SIZE:
                # The one that came first; looking for the one that was used last would cost more than it saves.
                self._verified.pop(next(iter(self._verified)), None)
            self._verified[token] = actor, expires


def _moment(claim: object) -> datetime:
    """Return the moment of a NumericDate (RFC 7519, section 2).

    Raises:
        InvalidToken: The claim is no number, or a number that is no moment of the calendar.
    """
    if not isinstance(claim, int | float) or isinstance(claim, bool):
        raise InvalidToken
    try:
        return datetime.fromtimestamp(claim, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise InvalidToken from error
