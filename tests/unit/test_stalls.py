"""`shop.storage.stalls`: who may try a server that is silent, and how a wait for it is ended."""

import socket
import time
import unittest

from psycopg2 import OperationalError

from shop.storage.stalls import ConnectGate, StatementWatch

# Longer than anything here takes, in seconds.
LIMIT = 30


class Waiting:
    """A session on which a statement has run for an hour; it is its own connection."""

    was_cut = False

    def __init__(self, line):
        self.waiting_since = time.perf_counter() - 3600
        self.connection = self
        self._line = line

    def fileno(self):
        """Return the number of its socket, or fail as the driver does when it is closed."""
        if self._line is None:
            raise OperationalError("the connection is closed")
        return self._line.fileno()


class ConnectGateTest(unittest.TestCase):
    def test_when_the_one_that_tried_a_silent_server_has_failed_the_next_may_try(self):
        gate = ConnectGate()
        gate.is_silent = True
        for _ in range(2):
            with self.assertRaisesRegex(OperationalError, "^no answer$"), gate.attempt():
                raise OperationalError("no answer")
        with gate.attempt():
            pass
        with gate.attempt(), gate.attempt():
            self.assertFalse(gate.is_silent, "it has answered, so everybody may connect")


class WatchTest(unittest.TestCase):
    def setUp(self):
        self.gate = ConnectGate()
        self.watch = StatementWatch(1, self.gate)
        self.ours, self.servers = (self.enterContext(line) for line in socket.socketpair())

    def test_who_waits_sees_the_end_of_the_connection_and_others_are_warned(self):
        waiting = Waiting(self.ours)
        self.watch._sessions.add(waiting)
        self.watch.check()
        self.ours.settimeout(LIMIT)
        self.assertEqual(b"", self.ours.recv(1))
        self.assertTrue(waiting.was_cut)
        self.assertTrue(self.gate.is_silent)

    def test_connections_that_have_ended_meanwhile_do_not_end_the_watch(self):
        waiting = [Waiting(self.ours), Waiting(self.enterContext(socket.socket())), Waiting(None)]
        for session in waiting:
            self.watch._sessions.add(session)
        self.watch.check()
        self.assertEqual([True] * 3, [session.was_cut for session in waiting])
