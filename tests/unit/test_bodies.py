"""`shop.bodies`: a read of a body either brings it, or is cut off and the client told; never both."""

import threading
import unittest

from shop.bodies import Body
from shop.errors import RequestTimeout
from tests.harness.live import LIMIT


class Body408Test(unittest.TestCase):
    """What comes in time, and what does not; the watchdog's part is played here."""

    def setUp(self):
        self.told = threading.Event()
        self.reading = set()

    def body(self, read):
        """Return a body whose stream is read by `read`."""
        return Body(type("Stream", (), {"read": staticmethod(read)}), self.told.set, self.reading)

    def test_a_body_that_has_come_is_not_cut_off_by_a_watchdog_that_has_just_seen_it_wait(self):
        body = self.body(lambda size: b"x" * size)
        self.assertEqual(b"xxx", body.read(3))
        body.cut()
        self.assertFalse(self.told.wait(0.05), "it has been read, and is served")
        self.assertEqual(b"xx", body.read(2))

    def test_a_body_that_comes_while_its_client_is_told_is_not_served(self):
        def read(_size):
            body.cut()
            return b"the rest, at the last moment"

        body = self.body(read)
        with self.assertRaises(RequestTimeout):
            body.read(100)
        self.assertTrue(self.told.wait(LIMIT))
        with self.assertRaises(RequestTimeout):
            body.read(100)
        self.assertEqual(set(), self.reading)

    def test_a_read_that_fails_is_watched_no_more(self):
        def read(_size):
            raise ConnectionResetError

        with self.assertRaises(ConnectionResetError):
            self.body(read).read(1)
        self.assertEqual(set(), self.reading)
