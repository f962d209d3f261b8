"""The tables as Peewee models.

`shop.storage.migrations` makes the schema, indexes and checks included; a test holds these models against it.
"""

from peewee import (
    BlobField,
    CompositeKey,
    DecimalField,
    ForeignKeyField,
    IntegerField,
    JSONField,
    Model,
    SmallIntegerField,
    TextField,
    UUIDField,
)
from playhouse.postgres_ext import DateTimeTZField

from shop import exactjson
from shop.storage.database import database


def _json_text(value: object) -> str:
    return exactjson.dumps(value).decode()


class User(Model):
    """An account. Its e-mail address is unique without regard to case, which `email_key` makes so."""

    id = UUIDField(primary_key=True)
    name = TextField()
    email = TextField()
    password_hash = TextField()
    role = TextField(default="customer")
    created_at = DateTimeTZField()
    email_key = TextField()

    class Meta:
        database = database
        table_name = "users"


class Order(Model):
    """An order. Its key begins with its owner, so that ownership is part of every customer's WHERE clause."""

    user = ForeignKeyField(User, backref="orders")
    id = UUIDField()
    items = JSONField(dumps=_json_text)
    total = DecimalField(max_digits=10, decimal_places=2)
    status = TextField()
    shipping_address = JSONField(dumps=_json_text)
    idempotency_key = TextField(null=True)
    request_digest = BlobField(null=True)
    created_at = DateTimeTZField()
    # The outbox, see `shop.domain.events`.
    events = JSONField(dumps=_json_text, default=list)
    events_taken = SmallIntegerField(default=0)
    untaken_since = DateTimeTZField(null=True)

    class Meta:
        database = database
        table_name = "orders"
        primary_key = CompositeKey("user", "id")


class LoginFailures(Model):
    """How often logging in failed for one account name, and since when; see `shop.domain.throttle`."""

    account = BlobField(primary_key=True)
    failures = IntegerField()
    since = DateTimeTZField()

    class Meta:
        database = database
        table_name = "login_failures"
