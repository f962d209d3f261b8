"""Base classes of the tests, and assertions in the words of the API.

`ApiTestCase` is the one to take: each test runs in a transaction that is rolled back. `CommittedApiTestCase` is for
what needs real commits, such as races between threads; its rows are deleted afterwards. `LiveServerTestCase` is for
what only a connection to the real server shows.
"""

import copy
import itertools
import os
import random
import sys
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime
from functools import cache
from typing import Any, ClassVar, TypeVar
from unittest import mock

import falcon
import psycopg2
from peewee import QueryEvent
from pydantic import SecretStr
from webtest import TestResponse

from shop.app import create_app, utc_now
from shop.demo.factories import UserFactory, source
from shop.domain.models import Order, User
from shop.security.passwords import Passwords
from shop.security.tokens import Tokens
from shop.settings import Settings
from shop.storage.database import database
from shop.storage.statements import is_prepare, statement_text
from tests.harness.client import ApiClient, forget_exchange, last_exchange
from tests.harness.findings import findings, spend, timed
from tests.harness.live import Connection, LiveShop
from tests.harness.parity import ClonedDatabase
from tests.harness.postgres import clone, drop, run_database_url
from tests.harness.runner import order_options
from tests.harness.sandbox import Sandbox
from tests.harness.tables import deletion

SECRET_KEY = "a key that only the tests know, 32 bytes and more"
T = TypeVar("T")
_numbers = itertools.count(1)
# To unittest the frames of this module are its own: a traceback ends in the test, not in an assertion's insides.
__unittest = True
Passwords.hash = timed("hashing", Passwords.hash)
Passwords.verify = timed("hashing", Passwords.verify)


def _note_statement(event: QueryEvent) -> None:
    findings.statements += not is_prepare(event.sql)
    spend("database", event.duration)


database.query_hooks.append(_note_statement)


@cache
def run_seed() -> str:
    """Return the seed of the factories in this run: `SHOP_TEST_SEED`, else a new one, printed."""
    seed = os.environ.get("SHOP_TEST_SEED") or str(random.SystemRandom().randrange(10**6))
    print(f"factory seed {seed} (repeat with SHOP_TEST_SEED={seed})", file=sys.stderr)
    return seed


def make_settings(**overrides: object) -> Settings:
    """Return settings for an application under test: the run's database, cheap hashing, nothing of the environment."""
    defaults = {
        "database_url": SecretStr(_database_url()),
        "secret_key": SecretStr(SECRET_KEY),
        "argon2_time_cost": 1,
        "argon2_memory_cost": 8,
        # As many as a test has at once: half of them may hash.
        "threads": 100,
    }
    with mock.patch.dict(os.environ):
        for name in [name for name in os.environ if name.startswith("SHOP_")]:
            del os.environ[name]
        return Settings.load(**(defaults | overrides))


def make_client(*, clock: Callable[[], datetime] = utc_now, **overrides: object) -> ApiClient:
    """Return a client of an application of its own, with other settings or another clock."""
    settings = make_settings(**overrides)
    assert settings.secret_key is not None
    tokens = Tokens(settings.secret_key.get_secret_value(), (), lifetime=settings.token_ttl, clock=clock)
    return ApiClient(create_app(settings, clock=clock), tokens)


def _database_url() -> str:
    """Return the URL of the database that the running test is to use."""
    in_clone = _mode == "commit" and database.database
    return database.database if in_clone else run_database_url()


@cache
def _shared_client() -> ApiClient:
    return make_client()


class DomainTestCase(unittest.TestCase):
    """Assertions in the words of the API, and failures that tell their story."""

    def setUp(self) -> None:
        super().setUp()
        # Each test has a seed of its own, so that it gets the same values alone and in the whole run.
        source.reseed(f"{run_seed()} {self.id()}")
        forget_exchange()

    def _callTestMethod(self, method: Callable[[], None]) -> None:
        with self._told():
            super()._callTestMethod(method)

    @contextmanager
    def subTest(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        with super().subTest(*args, **kwargs), self._told():
            yield

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Add to a failure what was sent last, what it did to the database, and how to see it again."""
        try:
            yield
        except unittest.SkipTest:
            raise
        except Exception as error:
            if not hasattr(error, "__notes__"):
                error.add_note(f"{last_exchange()}\nrerun: {self._rerun()}")
            raise

    def _rerun(self) -> str:
        return " ".join(filter(None, [f"SHOP_TEST_SEED={run_seed()}", "scripts/test", order_options(), self.id()]))

    @contextmanager
    def assertQueries(self, count: int) -> Iterator[None]:
        """Fail unless the block runs exactly `count` statements; the failure lists them."""
        statements: list[str] = []

        def note(event: Any) -> None:
            if not is_prepare(event.sql):
                statements.append(statement_text(event.sql))

        database.query_hooks.append(note)
        try:
            yield
        finally:
            database.query_hooks.remove(note)
        listed = "\n".join(["", *statements]) if statements else " none"
        self.assertEqual(count, len(statements), f"{count} statements were expected; there were{listed}")

    def assertProblem(self, response: TestResponse, status: int, code: str, sentence: str | None = None) -> None:
        """Fail unless `response` is an error of the one shape, with this status and code (and sentence)."""
        self.assertEqual("application/problem+json", response.content_type)
        problem = response.json
        expected = {
            "title": falcon.code_to_http_status(status).split(" ", 1)[1],
            "status": status,
            "code": code,
            "error": problem.get("error") if sentence is None else sentence,
            "requestId": response.headers["X-Request-ID"],
        }
        self.assertEqual(status, response.status_int)
        self.assertEqual(expected, {name: value for name, value in problem.items() if name != "errors"})
        self.assertRegex(problem["error"], r"^\S.*\w$", "`error` is a sentence for a person")

    def assertFields(self, expected: dict[str, str], response: TestResponse) -> None:
        """Fail unless the problem in `response` names exactly these fields, with these faults."""
        self.assertEqual(expected, {fault["field"]: fault["error"] for fault in response.json["errors"]})

    def assertUserShown(self, user: User, document: dict[str, Any]) -> None:
        """Fail unless `document` shows `user` as the API does, and nothing more."""
        self.assertEqual(
            {"id": str(user.id), "name": user.name, "email": user.email, "createdAt": rfc3339(user.created_at)},
            document,
        )

    def assertOrderStored(self, document: dict[str, Any]) -> Order:
        """Fail unless the order that `document` shows is in the database as it is shown; return it."""
        order = Order.get((Order.user == document["userId"]) & (Order.id == document["id"]))
        shown = (document["items"], document["total"], document["status"], document["shippingAddress"])
        self.assertEqual(shown, (_as_json(order.items), float(order.total), order.status, order.shipping_address))
        return order


class ApiTestCase(DomainTestCase):
    """A test of the API in a sandbox: whatever it writes is rolled back, and no other connection ever sees it.

    Override `setUpTestData` to make rows once for all tests of a class. Each test sees them in a savepoint of its own,
    and gets its own copy of whatever was put on the class.

    Attributes:
        client: Sends requests to the application.
        isolation: Keeps the test from others; `with self.isolation.undone():` undoes a part of a test.
        not_in_parity_because: The reason why the class means nothing outside a sandbox, empty when it does.
    """

    client: ApiClient
    isolation: Sandbox | ClonedDatabase
    not_in_parity_because = ""
    _class_isolation: ClassVar[Sandbox | ClonedDatabase | None] = None

    @classmethod
    def setUpTestData(cls) -> None:
        """Make what all tests of the class share, and put it on the class."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls._class_isolation = None
        if cls.setUpTestData.__func__ is ApiTestCase.setUpTestData.__func__:
            return
        source.reseed(f"{run_seed()} {cls.__qualname__}")
        _shared_client()
        isolation = _isolation()
        isolation.enter()
        cls.addClassCleanup(isolation.leave)
        before = dict(vars(cls))
        cls.setUpTestData()
        for name, value in list(vars(cls).items()):
            if before.get(name) is not value:
                setattr(cls, name, _ClassData(name, value))
        cls._class_isolation = isolation

    def setUp(self) -> None:
        super().setUp()
        self.client = _shared_client()
        self.isolation = _isolation(self._class_isolation)
        self.isolation.enter()
        self.addCleanup(self.isolation.leave)


class _ClassData:
    """What `setUpTestData` put on a class: each test gets a copy, made at its first look, with references kept."""

    def __init__(self, name: str, value: object) -> None:
        self._name, self._value = name, value

    def __get__(self, test: "ApiTestCase | None", owner: type) -> object:
        if test is None:
            return self._value
        # One memo for the test: two attributes that refer to one object go on referring to one copy.
        memo = test.__dict__.setdefault("_copies", {})
        copied = test.__dict__[self._name] = copy.deepcopy(self._value, memo)
        return copied


_mode = "sandbox"


def use_isolation(mode: str) -> None:
    """Choose how the tests that begin from now on are kept apart: ``sandbox``, or ``commit`` on clones of their own."""
    global _mode  # noqa: PLW0603 - the runner's switch for a whole pass.
    if mode not in ("sandbox", "commit"):
        raise ValueError(f"there is no isolation {mode!r}")
    _mode = mode


def _isolation(of_class: Sandbox | ClonedDatabase | None = None) -> Sandbox | ClonedDatabase:
    if _mode == "sandbox":
        return Sandbox(database)
    return ClonedDatabase(database, template=of_class.name if isinstance(of_class, ClonedDatabase) else None)


class CommittedApiTestCase(DomainTestCase):
    """A test of the API with real commits and as many connections as it has threads; its rows are deleted afterwards.

    Attributes:
        client: Sends requests to the application, from any thread.
    """

    client: ApiClient

    def setUp(self) -> None:
        super().setUp()
        self.client = _shared_client()
        self.addCleanup(timed("deletion of committed rows", database.execute_sql), deletion())

    def at_once(self, *calls: Callable[[], T]) -> list[T]:
        """Make all calls at the same time, each in a thread of its own, and return their results in order."""

        def call(made: Callable[[], T]) -> T:
            try:
                return made()
            finally:
                database.close()

        with ThreadPoolExecutor(len(calls)) as threads:
            return list(threads.map(call, calls))


class LiveServerTestCase(unittest.TestCase):
    """A test of the real command, `shop serve`, over TCP: for what only a connection shows. One server for the class.

    Attributes:
        environment: Further settings of the server, as environment variables.
        shop: The server, with a database of its own.
        connection: A kept-alive connection to it; `connect` opens more.
    """

    environment: ClassVar[dict[str, str]] = {}
    shop: ClassVar[LiveShop]
    connection: Connection

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.database_url = clone(f"shop_live_{os.getpid()}_{next(_numbers)}")
        cls.addClassCleanup(drop, cls.database_url.rpartition("/")[2].partition("?")[0])
        needed = {
            "SHOP_DATABASE_URL": cls.database_url,
            "SHOP_SECRET_KEY": SECRET_KEY,
            "SHOP_ARGON2_TIME_COST": "1",
            "SHOP_ARGON2_MEMORY_COST": "8",
        }
        cls.shop = cls.enterClassContext(LiveShop(environment=needed | cls.environment))

    def setUp(self) -> None:
        super().setUp()
        self.connection = self.connect()

    def connect(self) -> Connection:
        """Return another connection to the server, closed when the test ends."""
        return self.enterContext(Connection(self.shop.url))

    def log_in_anew(self) -> str:
        """Register a user and log in over the connection, which sends the token from then on; return the user's id."""
        body = UserFactory.body(email=f"{next(_numbers)}@example.com")
        user_id: str = self.connection.post("/users", body).json["id"]
        login = self.connection.post("/users/login", {"email": body["email"], "password": body["password"]})
        self.connection.token = login.json["token"]
        return user_id


def rows_seen_by_another_connection(table: str) -> int:
    """Return how many rows of `table` are committed, as anybody else sees them."""
    with closing(psycopg2.connect(run_database_url())) as connection, connection.cursor() as cursor:
        cursor.execute(f'SELECT count(*) FROM "{table}"')
        (count,) = cursor.fetchone()
        return count


def rfc3339(moment: datetime) -> str:
    """Return a UTC moment as the API writes it."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _as_json(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item | {"price": float(item["price"])} for item in items]
