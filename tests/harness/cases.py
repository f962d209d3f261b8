"""Base classes of the tests, and assertions in the words of the API.

`ApiTestCase` is the one to take: each test runs in a transaction that is rolled back. `CommittedApiTestCase` is for
what needs real commits, such as races between threads; its rows are deleted afterwards.
"""

import os
import random
import sys
import unittest
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from functools import cache
from typing import Any, TypeVar
from unittest import mock

import falcon
import psycopg2
from pydantic import SecretStr
from webtest import TestResponse

from shop.app import create_app, utc_now
from shop.database import database
from shop.factories import source
from shop.models import LoginFailures, Order, User
from shop.settings import Settings
from shop.tokens import Tokens
from tests.harness.client import ApiClient
from tests.harness.postgres import run_database_url
from tests.harness.sandbox import Sandbox

SECRET_KEY = "a key that only the tests know, 32 bytes and more"
T = TypeVar("T")


@cache
def run_seed() -> str:
    """Return the seed of the factories in this run: `SHOP_TEST_SEED`, else a new one, printed."""
    seed = os.environ.get("SHOP_TEST_SEED") or str(random.SystemRandom().randrange(10**6))
    print(f"factory seed {seed} (repeat with SHOP_TEST_SEED={seed})", file=sys.stderr)
    return seed


def make_settings(**overrides: object) -> Settings:
    """Return settings for an application under test: the run's database, cheap hashing, nothing of the environment."""
    defaults = {
        "database_url": SecretStr(run_database_url()),
        "secret_key": SecretStr(SECRET_KEY),
        "argon2_time_cost": 1,
        "argon2_memory_cost": 8,
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


@cache
def _shared_client() -> ApiClient:
    return make_client()


class DomainTestCase(unittest.TestCase):
    """Assertions in the words of the API."""

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

    Attributes:
        client: Sends requests to the application.
        sandbox: The transaction around the test.
    """

    client: ApiClient
    sandbox: Sandbox

    def setUp(self) -> None:
        super().setUp()
        # Each test has a seed of its own, so that it gets the same values alone and in the whole run.
        source.reseed(f"{run_seed()} {self.id()}")
        self.client = _shared_client()
        self.sandbox = Sandbox(database)
        self.sandbox.enter()
        self.addCleanup(self.sandbox.leave)


class CommittedApiTestCase(DomainTestCase):
    """A test of the API with real commits and as many connections as it has threads; slower than a sandbox.

    Attributes:
        client: Sends requests to the application, from any thread.
    """

    client: ApiClient

    def setUp(self) -> None:
        super().setUp()
        source.reseed(f"{run_seed()} {self.id()}")
        self.client = _shared_client()
        self.addCleanup(self._delete_rows)

    def at_once(self, *calls: Callable[[], T]) -> list[T]:
        """Make all calls at the same time, each in a thread of its own, and return their results in order."""

        def call(made: Callable[[], T]) -> T:
            try:
                return made()
            finally:
                database.close()

        with ThreadPoolExecutor(len(calls)) as threads:
            return list(threads.map(call, calls))

    @staticmethod
    def _delete_rows() -> None:
        # On tables this small DELETE is several times cheaper than TRUNCATE.
        for model in (Order, User, LoginFailures):
            model.delete().execute()


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
