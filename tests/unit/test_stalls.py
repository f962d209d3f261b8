"""`shop.storage.stalls`: who may try a server that is silent, and how a wait for it is ended."""

import socket
import time
import unittest

from psycopg import OperationalError

from shop.storage.database import _Connection
from shop.storage.stalls import Entrance, StatementWatch

# Longer than anything here takes, in seconds.
LIMIT = 30


class Waiting:
    """A connection on which a statement has run for an hour."""

    was_cut = False

    def __init__(self, line):
        self.waiting_since = time.perf_counter() - 3600
        self._line = line

    def fileno(self):
        """Return the number of its socket, or fail as the driver does when it is closed."""
        if self._line is None:
            raise OperationalError("the connection is closed")
        return self._line.fileno()


class EntranceTest(unittest.TestCase):
    def test_when_the_one_that_tried_a_silent_server_has_failed_the_next_may_try(self):
        entrance = Entrance()
        entrance.is_silent = True
        for _ in range(2):
            with self.assertRaisesRegex(OperationalError, "^no answer$"), entrance.attempt():
                raise OperationalError("no answer")
        with entrance.attempt():
            pass
        with entrance.attempt(), entrance.attempt():
            self.assertFalse(entrance.is_silent, "it has answered, so everybody may connect")


class WatchTest(unittest.TestCase):
    def setUp(self):
        self.entrance = Entrance()
        self.watch = StatementWatch(1, self.entrance)
        self.ours, self.servers = (self.enterContext(line) for line in socket.socketpair())

    def test_who_waits_sees_the_end_of_the_connection_and_others_are_warned(self):
        waiting = Waiting(self.ours)
        self.watch._connections.add(waiting)
        self.watch._look()
        self.ours.settimeout(LIMIT)
        self.assertEqual(b"", self.ours.recv(1))
        self.assertTrue(waiting.was_cut)
        self.assertTrue(self.entrance.is_silent)

    def test_connections_that_have_ended_meanwhile_do_not_end_the_watch(self):
        waiting = [Waiting(self.ours), Waiting(self.enterContext(socket.socket())), Waiting(None)]
        for connection in waiting:
            self.watch._connections.add(connection)
        self.watch._look()
        self.assertEqual([True] * 3, [connection.was_cut for connection in waiting])


class AttemptTest(unittest.TestCase):
    def test_an_attempt_that_met_silence_leaves_no_connection_behind_whoever_keeps_its_error(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"postgresql://shop@127.0.0.1:{silent.getsockname()[1]}/shop"
            try:
                _Connection.open(url, connect_timeout=2)
            except OperationalError as error:
                # `assertRaises` would let go of what it holds.
                kept = error
            accepted = self.enterContext(silent.accept()[0])
        accepted.settimeout(LIMIT / 10)
        # What it has sent, and then the end: the server would complete the connection when it answers again.
        while accepted.recv(1024):
            pass
        self.assertIn("timeout", str(kept))
