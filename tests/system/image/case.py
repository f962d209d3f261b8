"""What the tests of the image share: the images' names, the secrets of this run, and assertions."""

import os
import secrets
import unittest
from functools import cache

from shop import __version__
from tests.harness.live import Answer, Connection
from tests.system.image.engine import PATIENCE, build, remove_all
from tests.system.test_serve import an_order, register

SERVICE, DEMO = "shop-test-image:service", "shop-test-image:demo"
POSTGRES = os.environ.get("SHOP_TEST_IMAGE", "postgres:18-alpine")
BUILD_ARGUMENTS = {"PYTHON_IMAGE": os.environ.get("SHOP_BASE_IMAGE"), "VERSION": __version__}
# What none of the image's layers, processes and logs may show. Not made of letters only, as real ones are not.
SECRET_KEY = f"key-{secrets.token_urlsafe(32)}"
DATABASE_PASSWORD = f"pa/ss@w:rd-{secrets.token_hex(8)}"
# As docs/operations.md tells operators to run it. Hashing costs nothing, since no test here is about passwords.
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
SHOP_ENVIRONMENT = {
    "SHOP_DATABASE_URL": "postgresql://shop@db/shop",
    "PGPASSWORD": DATABASE_PASSWORD,
    "SHOP_SECRET_KEY": SECRET_KEY,
    "SHOP_ARGON2_TIME_COST": "1",
    "SHOP_ARGON2_MEMORY_COST": "8",
}


def setUpModule() -> None:
    """Build the images. What the module makes on the engine is removed at its end."""
    unittest.addModuleCleanup(remove_all)
    _build()


@cache
def _build() -> None:
    build(SERVICE, "service", **BUILD_ARGUMENTS)
    build(DEMO, "demo", **BUILD_ARGUMENTS)


class ImageTestCase(unittest.TestCase):
    """Assertions that the tests of the image share."""

    time_limit = PATIENCE

    def assertProblem(self, answer: Answer, status: int, code: str):
        self.assertEqual((status, "application/problem+json"), (answer.status, answer.headers["Content-Type"]))
        self.assertEqual((status, code), (answer.json["status"], answer.json["code"]))
        self.assertEqual(answer.headers["X-Request-ID"], answer.json["requestId"])

    def assertFlow(self, url: str):
        """Register, log in, order, order again with the same key, follow, be refused."""
        with Connection(url) as ada, Connection(url) as stranger:
            user_id = register(ada)
            order = an_order(user_id)
            placed = ada.post("/orders", order, Idempotency_Key="once")
            replayed = ada.post("/orders", order, Idempotency_Key="once")
            self.assertEqual((201, 109.97), (placed.status, placed.json["total"]))
            self.assertEqual((201, "true"), (replayed.status, replayed.headers["Idempotent-Replayed"]))
            self.assertEqual(placed.json, replayed.json)
            self.assertEqual(
                {placed.json["id"]}, {row["id"] for row in ada.get(f"/users/{user_id}/orders").json["orders"]}
            )
            self.assertEqual(user_id, ada.get(placed.headers["Location"]).json["user"]["id"])
            register(stranger)
            self.assertProblem(stranger.get(f"/orders/{placed.json['id']}"), 404, "ORDER_NOT_FOUND")
            self.assertProblem(stranger.post("/users", {}), 400, "MISSING_FIELDS")
            self.assertProblem(stranger.request("POST", "/users", b" " * 1_100_000), 413, "PAYLOAD_TOO_LARGE")
            kept = stranger.request("GET", "/nothing", X_Request_ID="from-the-client")
            self.assertProblem(kept, 404, "NOT_FOUND")
            self.assertEqual("from-the-client", kept.json["requestId"])

    def assertCleanLog(self, log: str):
        self.assertNotRegex(log, r"Traceback|ERROR|WARN|\[error\]|\[warn\]|\[emerg\]")
        self.assertSecretFree(log)

    def assertSecretFree(self, text: str):
        for secret in (SECRET_KEY, DATABASE_PASSWORD, "Bearer ", "argon2id$"):
            self.assertNotIn(secret, text)
