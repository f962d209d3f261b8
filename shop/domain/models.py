"""The tables as Peewee models.

`shop.storage.migrations` makes the schema with its indexes and checks. A test compares the models with it.
"""

from peewee import (
    BlobField,
    CompositeKey,
    DecimalField,
    Field,
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
from shop.storage.statements import Slot


def _json_text(value: object) -> str:
    return exactjson.dumps(value).decode()


def slots(model: type[Model], *columns: str) -> dict[Field, Slot]:
    """Return a slot for each of the columns, with the column's name, for `Model.insert`."""
    return {getattr(model, column): Slot(column) for column in columns}


class User(Model):
    """An account. `email_key` makes its e-mail address unique regardless of case."""

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
    """An order. The owner is the first part of its key: every query of a customer is restricted to the owner."""

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
    """The failed logins of an account in the current window; see `shop.domain.rate_limit`."""

    account = BlobField(primary_key=True)
    failures = IntegerField()
    since = DateTimeTZField()

    class Meta:
        database = database
        table_name = "login_failures"


class WebhookEndpoint(Model):
    """An address that gets order events. A list of no types means all types."""

    id = UUIDField(primary_key=True)
    url = TextField()
    types = JSONField(dumps=_json_text)
    secret = TextField()
    previous_secret = TextField(null=True)
    rotated_at = DateTimeTZField(null=True)
    created_at = DateTimeTZField()
    disabled_at = DateTimeTZField(null=True)

    class Meta:
        database = database
        table_name = "webhook_endpoints"


class WebhookDelivery(Model):
    """An event that an endpoint has not acknowledged; see `shop.domain.deliveries`."""

    user_id = UUIDField()
    order_id = UUIDField()
    endpoint = ForeignKeyField(WebhookEndpoint, on_delete="CASCADE")
    position = SmallIntegerField()
    event_id = UUIDField()
    event = JSONField(dumps=_json_text)
    occurred_at = DateTimeTZField()
    status = TextField()
    attempts = SmallIntegerField()
    due_at = DateTimeTZField()

    class Meta:
        database = database
        table_name = "webhook_deliveries"
        primary_key = CompositeKey("user_id", "order_id", "endpoint", "position")
