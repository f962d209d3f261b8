"""The WSGI call that `shop.gateway` has granian make, with granian's part played here."""

import os
import unittest
from unittest import mock

from granian.server import mp

from shop import gateway
from shop.api.middleware import WAITED
from shop.api.slow_bodies import BREAK_OFF
from shop.backlog import Backlog

LIMIT = 10.0
GET = {"REQUEST_METHOD": "GET", "PATH_INFO": "/livez"}


class Protocol:
    """Granian's object that takes the answer."""

    def response_bytes(self, status, headers, body):
        self.answer = status, headers, body

    def response_iter(self, status, headers, pieces):
        self.answer = status, headers, pieces


class GatewayTest(unittest.TestCase):
    """One request."""

    def setUp(self):
        # `install` puts its own in place of it.
        self.enterContext(mock.patch.object(mp, "_wsgi_call_wrap"))
        self.draining = False
        self.now = 0.0
        self.backlog = Backlog(LIMIT, 1, lambda: 1, lambda: self.now)

    def call(self, environ, body):
        """Have a request answered with `body`, or what it returns.

        Returns:
            The answer, and the environment that the application saw.
        """
        seen = {}

        def application(given, start_response):
            seen.update(given)
            start_response("201 Created", [("X-One", "1")])
            return body() if callable(body) else body

        gateway.install(lambda: self.draining, self.backlog)
        protocol = Protocol()
        mp._wsgi_call_wrap(application, {}, None)(protocol, dict(environ))
        return protocol.answer, seen

    def test_the_answer_of_the_application_is_handed_on(self):
        for body, whole in (([b"tea"], b"tea"), ([b"t", b"ea"], b"tea"), ([], b"")):
            with self.subTest(body):
                self.assertEqual((201, [("X-One", "1")], whole), self.call(GET, body)[0])

    def test_an_answer_in_pieces_is_handed_on_as_it_comes(self):
        (_, _, pieces), _ = self.call(GET, (piece for piece in (b"t", b"ea")))
        self.assertEqual([b"t", b"ea"], [pieces.__next__(), pieces.__next__()])
        self.assertRaises(StopIteration, pieces.__next__)

    def test_while_draining_each_answer_closes_its_connection(self):
        self.draining = True
        self.assertIn(("Connection", "close"), self.call(GET, [b""])[0][1])

    def test_no_variable_of_the_process_reaches_a_request(self):
        with mock.patch.dict(os.environ, {"SHOP_SECRET_KEY": "a key that nobody is to see"}):
            _, environ = self.call(GET, [b""])
        self.assertEqual(set(), set(os.environ) & set(environ))
        self.assertNotIn("SHOP_SECRET_KEY", environ)

    def test_only_a_request_with_a_body_can_be_broken_off(self):
        self.assertNotIn(BREAK_OFF, self.call(GET, [b""])[1])
        for announced in ({"CONTENT_LENGTH": "3"}, {"HTTP_TRANSFER_ENCODING": "chunked"}):
            with self.subTest(announced):
                self.assertIn(BREAK_OFF, self.call(GET | announced, [b""])[1])

    def test_a_request_that_has_waited_too_long_is_marked(self):
        def slow():
            self.now += LIMIT + 1
            return [b""]

        self.assertNotIn(WAITED, self.call(GET, slow)[1])
        self.assertIn(WAITED, self.call(GET, lambda: [b""])[1], "it came while the only thread was busy")
        self.now += 1
        self.assertNotIn(WAITED, self.call(GET, lambda: [b""])[1], "the thread was idle before")

    def test_a_thread_is_free_again_after_an_application_that_fails(self):
        def fails():
            self.now += LIMIT + 1
            raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            self.call(GET, fails)
        self.now += 1
        self.assertNotIn(WAITED, self.call(GET, lambda: [b""])[1])

    def test_a_release_of_granian_that_calls_applications_otherwise_is_refused(self):
        del mp._wsgi_call_wrap
        with self.assertRaisesRegex(RuntimeError, "granian"):
            gateway.install(lambda: False, self.backlog)
