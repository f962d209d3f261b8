"""The kit's base classes with assertions in the words of the shop's API, its tokens and its server."""

import itertools
from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar

import falcon
from webtest import TestResponse

from shop.app import utc_now
from shop.demo.factories import UserFactory
from shop.domain.models import Order, User
from shop.security.passwords import Passwords
from shop.settings import Settings
from tests import binding
from tests.harness import cases
from tests.harness.client import ApiClient
from tests.harness.findings import spending
from tests.harness.postgres import current_url
from tests.support import settings
from tests.support.live import LiveShop
from tests.support.settings import SECRET_KEY

__all__ = [
    "SECRET_KEY",
    "ApiTestCase",
    "CommittedApiTestCase",
    "DomainTestCase",
    "LiveServerTestCase",
    "ShopClient",
    "make_client",
    "make_settings",
    "rfc3339",
]

_numbers = itertools.count(1)
# To unittest the frames of this module are its own: a traceback ends in the test, not in an assertion's insides.
__unittest = True
Passwords.hash = spending("hashing")(Passwords.hash)
Passwords.verify = spending("hashing")(Passwords.verify)


def make_settings(**overrides: object) -> Settings:
    """Return settings for an application under test, on the database that the tests use now."""
    return settings.make_settings(overrides.pop("database_url", None) or current_url(), **overrides)


class ShopClient(ApiClient):
    """The kit's client, which also says what token it sends."""

    def token(self, user: User) -> str:
        """Return a token of `user`, as the client sends it."""
        return self._credentials(user)["Authorization"].removeprefix("Bearer ")


def make_client(*, clock: Callable[[], datetime] = utc_now, **overrides: object) -> ShopClient:
    """Return a client of an application of its own, with other settings or another clock."""
    credentials = settings.credentials_for(make_settings(**overrides), clock)
    url = overrides.pop("database_url", None) or current_url()
    return ShopClient(binding.make_app(url, clock=clock, **overrides), credentials)


class DomainTestCase(cases.KitTestCase):
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


class ApiTestCase(DomainTestCase, cases.ApiTestCase):
    """A test of the shop's API in a sandbox; see the kit's `ApiTestCase`."""

    client: ShopClient
    make_client = staticmethod(make_client)


class CommittedApiTestCase(DomainTestCase, cases.CommittedApiTestCase):
    """A test of the shop's API with real commits; see the kit's `CommittedApiTestCase`."""

    client: ShopClient
    make_client = staticmethod(make_client)


class LiveServerTestCase(cases.LiveServerTestCase):
    """A test of `shop serve` over TCP; see the kit's `LiveServerTestCase`.

    Attributes:
        shop: The server, with a database of its own.
    """

    shop: ClassVar[LiveShop]

    @classmethod
    def make_server(cls, url: str) -> LiveShop:
        """Return the server of the class, not yet started, on the database at `url`."""
        cls.shop = LiveShop(environment=settings.live_settings(url) | cls.environment)
        return cls.shop

    def log_in_anew(self) -> str:
        """Register a user and log in over the connection, which sends the token from then on; return the user's id."""
        body = UserFactory.body(email=f"{next(_numbers)}@example.com")
        user_id: str = self.connection.post("/users", body).json["id"]
        login = self.connection.post("/users/login", {"email": body["email"], "password": body["password"]})
        self.connection.token = login.json["token"]
        return user_id


def rfc3339(moment: datetime) -> str:
    """Return a UTC moment as the API writes it."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _as_json(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item | {"price": float(item["price"])} for item in items]
