"""The kit's receiver of webhooks."""

import unittest
import urllib.error
import urllib.request
from http.client import RemoteDisconnected

from tests.harness.receiver import Receiver


class ReceiverTest(unittest.TestCase):
    """What it records, and what it answers."""

    def setUp(self):
        self.receiver = self.enterContext(Receiver())

    def send(self, body=b"{}", path="", timeout=10):
        """Send a request and return the status."""
        request = urllib.request.Request(self.receiver.url + path, body, {"X-Name": "value"})
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout) as response:
            return response.status

    def test_a_request_is_recorded(self):
        self.assertEqual(200, self.send(b'{"a": 1}', "?x=1"))
        (received,) = self.receiver.wait_for(1)
        self.assertEqual(
            ("POST", "/hook?x=1", b'{"a": 1}', "value"),
            (received.method, received.path, received.body, received.headers["x-name"]),
        )

    def test_scripted_responses_come_first_and_then_the_usual_one(self):
        self.receiver.usual = 204
        self.receiver.script(201, lambda received: 202 if received.body == b"x" else 500)
        self.assertEqual([201, 202, 204, 204], [self.send(b"x") for _ in range(4)])

    def test_errors_redirects_and_hang_ups(self):
        self.receiver.script(500, 410, "redirect", "hang up")
        for status in (500, 410, 302):
            with self.assertRaises(urllib.error.HTTPError) as caught:
                self.send()
            caught.exception.close()
            self.assertEqual(status, caught.exception.code)
        with self.assertRaises(RemoteDisconnected):
            self.send()

    def test_a_slow_response_waits_for_its_release(self):
        self.receiver.script("slow", "slow")
        with self.assertRaises(TimeoutError):
            self.send(timeout=0.1)
        self.receiver.release()
        self.assertEqual(200, self.send())


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args):
        return None
