"""`shop.bodies`: a read of a body either brings it, or is cut off and the client told; never both."""

import threading
import unittest
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

from shop.bodies import Bodies, Body
from shop.errors import RequestTimeout
from shop.storage.watchdog import Watchdog
from tests.harness.live import LIMIT


class BodyTest(unittest.TestCase):
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


class Client:
    """A client that keeps its body back until it is told to send it, or is cut off."""

    def __init__(self):
        self.awaited, self.go_on = threading.Event(), threading.Event()

    def read(self, size):
        """Wait, as a server does."""
        self.awaited.set()
        if not self.go_on.wait(LIMIT):
            raise AssertionError("nobody ended the read")
        return b" " * size


class BodiesTest(unittest.TestCase):
    """Which of the reads that wait are cut off; the looks are taken here."""

    def setUp(self):
        self.enterContext(mock.patch.object(Watchdog, "watch"))
        self.time = self.enterContext(mock.patch("shop.bodies.time"))
        self.time.monotonic.return_value = 0.0
        self.threads = self.enterContext(ThreadPoolExecutor(3))

    def reads(self, bodies, count):
        """Return so many bodies, each longer on its way than the next, with what reading them comes to."""
        begun = []
        for _ in range(count):
            self.time.monotonic.return_value += 1
            client = Client()
            self.addCleanup(client.go_on.set)
            body = bodies.watched(client, client.go_on.set)
            begun.append((body, self.threads.submit(body.read, 2)))
            self.assertTrue(client.awaited.wait(LIMIT))
        return begun

    def test_of_more_slow_bodies_than_there_are_places_those_that_wait_longest_are_cut_off(self):
        bodies = Bodies(limit=60, places=2)
        reads = self.reads(bodies, 3)
        for _ in range(2):
            bodies._look()
            self.assertEqual([False] * 3, [body._is_cut for body, _ in reads], "no body is slow yet")
        for _ in range(3):
            bodies._look()
            self.assertEqual([True, False, False], [body._is_cut for body, _ in reads])
        self.assertRaises(RequestTimeout, reads[0][1].result, LIMIT)

    def test_a_body_in_pieces_has_the_limit_of_one(self):
        bodies = Bodies(limit=10, places=9)
        client = Client()
        body = bodies.watched(client, client.go_on.set)
        client.go_on.set()
        self.assertEqual(b" ", body.read(1))
        client.go_on.clear()
        self.time.monotonic.return_value = 11.0
        client.awaited.clear()
        second = self.threads.submit(body.read, 1)
        self.assertTrue(client.awaited.wait(LIMIT))
        bodies._look()
        self.addCleanup(client.go_on.set)
        self.assertTrue(body._is_cut)
        self.assertRaises(RequestTimeout, second.result, LIMIT)
