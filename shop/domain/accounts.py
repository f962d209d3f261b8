"""Accounts: register, authenticate, find, and grant the role of staff."""

from datetime import datetime
from typing import NamedTuple

from shop.domain.models import User, slots
from shop.domain.rate_limit import LoginRateLimit
from shop.errors import EmailExists, InvalidCredentials, UserNotFound
from shop.ids import email_key, new_id, parse_id
from shop.security.passwords import Passwords
from shop.security.tokens import Actor
from shop.storage.database import READ_ONLY_TRANSACTION, Error, database, sqlstate
from shop.storage.statements import Slot, Statement


class Account(NamedTuple):
    """A user, without the password hash."""

    id: str
    name: str
    email: str
    created_at: datetime


_ACCOUNT = (User.id, User.name, User.email, User.created_at)

_INSERT = Statement(
    User.insert(
        slots(User, "id", "name", "email", "email_key", "password_hash", "created_at") | {User.role: "customer"}
    )
    .on_conflict_ignore()
    .returning(*_ACCOUNT)
)
_FIND = Statement(User.select(*_ACCOUNT).where(User.id == Slot("id")))
_FIND_CREDENTIALS = Statement(
    User.select(User.password_hash, User.role, *_ACCOUNT).where(User.email_key == Slot("email_key"))
)
_REPLACE_HASH = Statement(
    User.update({User.password_hash: Slot("new_hash")}).where(
        (User.id == Slot("id")) & (User.password_hash == Slot("old_hash"))
    )
)
_SET_ROLE = Statement(
    User.update({User.role: Slot("role")}).where(User.email_key == Slot("email_key")).returning(*_ACCOUNT)
)
_LIST_STAFF = Statement(User.select(*_ACCOUNT).where(User.role == "staff").order_by(User.email))


def register(passwords: Passwords, *, name: str, email: str, password: str, now: datetime) -> Account:
    """Create an account for a customer.

    Raises:
        EmailExists: The address already has an account. If registrations race, one succeeds.
    """
    row = database.row(
        _INSERT,
        id=new_id(),
        name=name,
        email=email,
        email_key=email_key(email),
        password_hash=passwords.hash(password),
        created_at=now,
    )
    if row is None:
        raise EmailExists
    return Account._make(row)


def authenticate(
    passwords: Passwords, rate_limit: LoginRateLimit, *, email: str, password: str, now: datetime
) -> tuple[Account, Actor]:
    """Check a password; return the account with this address, and its owner as the acting user.

    A hash with outdated parameters is replaced. No transaction is open while a password is hashed.

    Raises:
        TooManyAttempts: The rate limit is reached for this address; the password was not checked.
        InvalidCredentials: No account has this address, or the password is wrong. Both take the same time.
    """
    key = email_key(email)
    failed_before = rate_limit.check(key, now=now)
    row = database.row(_FIND_CREDENTIALS, email_key=key)
    password_hash, role, *fields = row or (None, None)
    # Verified even without an account, so that the response time does not reveal whether there is one.
    if not passwords.verify(password_hash, password):
        rate_limit.record(key, now=now)
        raise InvalidCredentials
    account = Account._make(fields)
    try:
        if failed_before:
            rate_limit.forget(key)
        if passwords.needs_rehash(password_hash):
            database.rows(_REPLACE_HASH, id=account.id, old_hash=password_hash, new_hash=passwords.hash(password))
    except Error as error:
        # The database is a read-only standby; the next login retries this.
        if sqlstate(error) != READ_ONLY_TRANSACTION:
            raise
    return account, Actor(account.id, role)


def find(actor: Actor, user_id: str) -> Account:
    """Return the account `user_id`; customers find only their own.

    Raises:
        UserNotFound: No such account, another user's account, or a malformed id.
    """
    parsed = parse_id(user_id)
    if parsed is None or not (actor.is_staff or parsed == actor.user_id):
        raise UserNotFound
    row = database.row(_FIND, id=parsed)
    if row is None:
        raise UserNotFound
    return Account._make(row)


def set_role(email: str, role: str) -> Account:
    """Set the role of an account, ``customer`` or ``staff``, and return it. Tokens keep their role until they expire.

    Raises:
        UserNotFound: No account has this address.
    """
    row = database.row(_SET_ROLE, email_key=email_key(email), role=role)
    if row is None:
        raise UserNotFound
    return Account._make(row)


def list_staff() -> list[Account]:
    """Return the accounts of staff, sorted by address."""
    return [Account._make(row) for row in database.rows(_LIST_STAFF)]
