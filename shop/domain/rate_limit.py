"""The login rate limit: after too many failures for one address, logins are rejected without checking the password.

The database counts the failures, so the limit holds across workers and restarts. Addresses without an account are
counted, too. Each failure is committed by its own statement, even if the request fails later. Concurrent logins may all
pass the check, so the limit can be exceeded by the number of threads of the service at most.
"""

import hashlib
from datetime import datetime, timedelta

from peewee import SQL, Case, fn

from shop.domain.models import LoginFailures
from shop.errors import TooManyAttempts
from shop.storage.database import database
from shop.storage.statements import Slot, Statement

# Expired rows that each failure deletes: more than it adds, so the table cannot grow without a limit.
MAX_DELETED = 10


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
# The oldest first, by an index. With a join, or with a parameter as the limit, the planner would choose to read the
# whole table at each failure.
_OLDEST_EXPIRED = (
    LoginFailures.select(LoginFailures.account)
    .where(_EXPIRED)
    .order_by(LoginFailures.since)
    .limit(SQL(str(MAX_DELETED)))
    # Concurrent failures delete different rows instead of waiting for each other.
    .for_update(skip_locked=True)
)
_DELETE_EXPIRED = Statement(LoginFailures.delete().where(LoginFailures.account == fn.ANY(fn.ARRAY(_OLDEST_EXPIRED))))


class LoginRateLimit:
    """Counts the failed logins of each account in a time window, which begins with the first failure.

    Args:
        max_failures: The maximum number of failures in a window; 0 disables the rate limit.
        window: The length of the window in seconds; 0 disables the rate limit.
    """

    def __init__(self, *, max_failures: int, window: int) -> None:
        self._max_failures = max_failures
        self._window = timedelta(seconds=window)
        self._is_enabled = max_failures > 0 and window > 0

    def check(self, email_key: str, *, now: datetime) -> bool:
        """Return whether the account with this `email_key` has failures in the current window.

        Raises:
            TooManyAttempts: The account has reached the maximum; the error says when the window ends.
        """
        if not self._is_enabled:
            return False
        row = database.row(_FIND, account=_account(email_key), expiry=now - self._window)
        if row is None:
            return False
        failures, since = row
        if failures >= self._max_failures:
            raise TooManyAttempts(since + self._window - now)
        return True

    def record(self, email_key: str, *, now: datetime) -> None:
        """Count a failure for an account, and delete some expired rows."""
        if self._is_enabled:
            expiry = now - self._window
            database.rows(_RECORD, account=_account(email_key), now=now, expiry=expiry)
            database.rows(_DELETE_EXPIRED, expiry=expiry)

    def forget(self, email_key: str) -> None:
        """Delete the failures of an account, after a successful login."""
        database.rows(_FORGET, account=_account(email_key))


def _account(email_key: str) -> bytes:
    # A hash limits the length of the key, and keeps addresses out of the table.
    return hashlib.sha256(email_key.encode()).digest()
