"""Members, books, and who has borrowed what."""

from peewee import CharField, DateTimeField, ForeignKeyField, Model
from playhouse.pool import PooledPostgresqlDatabase

database = PooledPostgresqlDatabase(None)


def connect_to(url: str) -> None:
    """Use the database at `url` from now on."""
    database.init(url, max_connections=8, stale_timeout=300, timeout=5, connect_timeout=5)


class Base(Model):
    """A model of this service."""

    class Meta:
        database = database


class Member(Base):
    """Somebody who may borrow; `key` is the member's API key."""

    name = CharField(100)
    key = CharField(unique=True)


class Book(Base):
    """One copy of a book."""

    title = CharField(200)


class Loan(Base):
    """A book that a member has, or had."""

    book = ForeignKeyField(Book, backref="loans")
    member = ForeignKeyField(Member, backref="loans")
    lent_at = DateTimeField()
    returned_at = DateTimeField(null=True)


# A book is with one member at a time.
Loan.add_index(Loan.book, unique=True, where=Loan.returned_at.is_null(), name="loan_open")
MODELS = [Member, Book, Loan]
