"""Bearer tokens: JWTs signed with HS256 that say who acts, and in which role, for a limited time."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import jwt

from shop.errors import InvalidToken

ALGORITHM = "HS256"


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
        for key in self._keys:
            try:
                # The algorithm is ours to choose, never the token's (RFC 8725, section 3.1).
                claims = jwt.decode(token, key, [ALGORITHM], options={"require": ["sub", "role", "iat", "exp"]})
            except jwt.InvalidSignatureError:
                continue
            except jwt.InvalidTokenError as error:
                raise InvalidToken from error
            return Actor(claims["sub"], claims["role"])
        raise InvalidToken
