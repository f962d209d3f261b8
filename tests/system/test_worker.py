"""A worker process: what requests see of the environment that it was started with."""

import json
import os
import subprocess
import sys
import unittest

from tests.harness.live import LIMIT, ROOT, Connection, free_port, until

# The service as it is, but the worker's application is replaced by one that shows the environment of its request.
SERVICE = """
import json
from shop.serving import server, worker
from shop.settings import Settings

def show(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({name: value for name, value in environ.items() if isinstance(value, str)}).encode()]

make_app = worker.make_app
worker.make_app = lambda *arguments: make_app(*arguments) and show
server.serve(Settings.load(), on_ready=lambda url: None)
"""
SECRETS = {
    "SHOP_DATABASE_URL": "postgresql://shop:password-of-the-database@127.0.0.1:1/shop",
    "SHOP_SECRET_KEY": "the-key-that-signs with 32 bytes and more",
    "SHOP_SECRET_KEY_FALLBACKS": "a-former-key-that-verifies with 32 bytes and more",
}
# As headers they would be in every request.
LIKE_HEADERS = {
    "HTTP_AUTHORIZATION": "Bearer of-the-process",
    "HTTP_X_REQUEST_START": "t=1",
    "HTTP_TRANSFER_ENCODING": "of-the-process",
    "CONTENT_LENGTH": "1000",
    "REQUEST_URI": "/of-the-process",
    "RAW_URI": "/of-the-process",
}


class EnvironmentTest(unittest.TestCase):
    """The WSGI environment of a request, for which granian takes the whole environment of the process."""

    def setUp(self) -> None:
        port = free_port()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SHOP_")}
        settings = {"SHOP_PORT": str(port), "SHOP_WORKERS": "1", "SHOP_LOG_LEVEL": "error", "OTHER": "of-the-process"}
        process = subprocess.Popen(
            [sys.executable, "-c", SERVICE], cwd=ROOT, env=inherited | settings | SECRETS | LIKE_HEADERS
        )
        self.addCleanup(process.wait, LIMIT)
        self.addCleanup(process.terminate)
        self.connection = self.enterContext(Connection(f"http://127.0.0.1:{port}"))
        until(self.answers, "the service answers")

    def answers(self) -> bool:
        try:
            self.environ = self.connection.get("/").json
        except OSError:
            return False
        return True

    def test_no_request_sees_a_secret_of_the_process(self) -> None:
        shown = json.dumps(self.environ)
        for secret in ("password-of-the-database", "that-signs", "that-verifies"):
            self.assertNotIn(secret, shown)

    def test_no_variable_of_the_process_is_taken_for_a_part_of_a_request(self) -> None:
        self.assertEqual("of-the-process", self.environ["OTHER"], "granian copies the environment")
        for name in LIKE_HEADERS:
            with self.subTest(name):
                self.assertNotIn(name, self.environ)
