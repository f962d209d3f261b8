"""The log-in throttle: after too many failures for one account, no password is looked at for a while.

Counted in the database, so that it holds across workers and restarts, and for any address, whether it has an account or
not. Each failure is committed by its own statement, whatever becomes of the request. Checks that are under way
at the same moment may all pass: the count can be exceeded by the number of the service's threads, no further.
"""

import hashlib
from datetime import datetime, timedelta

from peewee import SQL, Case, fn

from shop.domain.models import LoginFailures
from shop.errors import TooManyAttempts
from shop.storage.database import database
from shop.storage.statements import Slot, Statement

# How many expired rows each failure clears away: more than it adds, so that the table cannot grow without end.
CLEARED_AT_ONCE = 10


_EXPIRED = LoginFailures.since <= Slot("expiry")

_FIND = Statement(
    LoginFailures.select(LoginFailures.failures, LoginFailures.since).where(
        (LoginFailures.account == Slot("account")) & (LoginFailures.since > Slot("expiry"))
    )
)
_RECORD = Statement(
    LoginFailures.insert(
        {LoginFailures.account: Slot("account"), LoginFailures.failures: 1, LoginFailures.since: Slot("now")}
    ).on_conflict(
        conflict_target=[LoginFailures.account],
        update={
            LoginFailures.failures: Case(None, [(_EXPIRED, 1)], LoginFailures.failures + 1),
            LoginFailures.since: Case(None, [(_EXPIRED, Slot("now", "timestamptz"))], LoginFailures.since),
        },
    )
)
_FORGET = Statement(LoginFailures.delete().where(LoginFailures.account == Slot("account")))
# The oldest first, found by an index; as an array and a number in the text, because a join, and a limit that comes with
# each run, would have the planner read the whole table at every failure.
_CLEARED = (
    LoginFailures.select(LoginFailures.account)
    .where(_EXPIRED)
    .order_by(LoginFailures.since)
    .limit(SQL(str(CLEARED_AT_ONCE)))
    # Two failures at once clear different rows, instead of waiting for each other.
    .for_update(skip_locked=True)
)
_CLEAR = Statement(LoginFailures.delete().where(LoginFailures.account == fn.ANY(fn.ARRAY(_CLEARED))))


class Throttle:
    """Counts the failed log-ins of each account within a window of time that begins with the first.

    Args:
        max_failures: How many are allowed in a window; 0 turns the throttle off.
        window: Length of the window in seconds; 0 turns the throttle off.
    """

    def __init__(self, *, max_failures: int, window: int) -> None:
        self._max_failures = max_failures
        self._window = timedelta(seconds=window)
        self._is_on = max_failures > 0 and window > 0

    def check(self, email_key: str, *, now: datetime) -> bool:
        """Return whether the account with this `email_key` has failures on record.

        Raises:
            TooManyAttempts: They are too many, until the window ends.
        """
        if not self._is_on:
            return False
        row = database.row(_FIND, account=_account(email_key), expiry=now - self._window)
        if row is None:
            return False
        failures, since = row
        if failures >= self._max_failures:
            raise TooManyAttempts(since + self._window - now)
        return True

    def record(self, email_key: str, *, now: datetime) -> None:
        """Count a failure for an account, and clear away some that have expired."""
        if self._is_on:
            expiry = now - self._window
            database.rows(_RECORD, account=_account(email_key), now=now, expiry=expiry)
            database.rows(_CLEAR, expiry=expiry)

    def forget(self, email_key: str) -> None:
        """Forget the failures of an account: its owner has logged in."""
        database.rows(_FORGET, account=_account(email_key))


def _account(email_key: str) -> bytes:
    # Of one length however long an address is sent, and the table tells nobody's address.
    return hashlib.sha256(email_key.encode()).digest()
