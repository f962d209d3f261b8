"""`shop.storage.timeouts`: the circuit breaker for a silent server, and the statement timeout."""

import socket
import time
import unittest

from psycopg2 import OperationalError

from shop.storage.timeouts import ConnectBreaker, StatementTimeout

# Longer than anything here takes, in seconds.
LIMIT = 30


class Waiting:
    """A session on which a statement has run for an hour."""

    was_cut = False

    def __init__(self, line):
        self.waiting_since = time.perf_counter() - 3600
        self._line = line

    def fileno(self):
        """Return the number of its socket, or fail as the driver does when it is closed."""
        if self._line is None:
            raise OperationalError("the connection is closed")
        return self._line.fileno()


class ConnectBreakerTest(unittest.TestCase):
    def test_after_a_failed_attempt_the_next_thread_may_connect(self):
        breaker = ConnectBreaker()
        breaker.is_silent = True
        for _ in range(2):
            with self.assertRaisesRegex(OperationalError, "^no answer$"), breaker.attempt():
                raise OperationalError("no answer")
        with breaker.attempt():
            pass
        with breaker.attempt(), breaker.attempt():
            self.assertFalse(breaker.is_silent, "it has answered, so everybody may connect")


class StatementTimeoutTest(unittest.TestCase):
    def setUp(self):
        self.breaker = ConnectBreaker()
        self.timeout = StatementTimeout(1, self.breaker)
        self.ours, self.servers = (self.enterContext(line) for line in socket.socketpair())

    def test_timeout_ends_the_connection_and_opens_the_breaker(self):
        waiting = Waiting(self.ours)
        self.timeout._sessions.add(waiting)
        self.timeout.check()
        self.ours.settimeout(LIMIT)
        self.assertEqual(b"", self.ours.recv(1))
        self.assertTrue(waiting.was_cut)
        self.assertTrue(self.breaker.is_silent)

    def test_closed_connections_do_not_stop_the_check(self):
        waiting = [Waiting(self.ours), Waiting(self.enterContext(socket.socket())), Waiting(None)]
        for session in waiting:
            self.timeout._sessions.add(session)
        self.timeout.check()
        self.assertEqual([True] * 3, [session.was_cut for session in waiting])
