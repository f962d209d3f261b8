"""How long a request may have waited for a thread, with the hours and the threads played here."""

import itertools
import unittest
from concurrent.futures import ThreadPoolExecutor
from socket import socketpair

from shop.backlog import IDLE, REMEMBERED, Backlog

LIMIT = 10.0


class BacklogTest(unittest.TestCase):
    def setUp(self):
        self.now = 1000.0
        self.connections = 1
        self.backlog = Backlog(LIMIT, 1, lambda: self.connections, lambda: self.now)

    def serve(self, seconds, after=0.0):
        """Serve a request that takes so many seconds, so long after the one before; tell whether it waited too long."""
        self.now += after
        waited = self.backlog.begin()
        self.now += seconds
        self.backlog.end()
        return waited

    def test_nobody_has_waited_for_a_thread_that_was_idle(self):
        self.assertEqual([False] * 5, [self.serve(2 * LIMIT, after=2 * IDLE) for _ in range(5)])

    def test_who_came_while_the_thread_was_busy_has_waited_for_as_long(self):
        self.connections = 3
        waited = [self.serve(LIMIT - 1), self.serve(2), self.serve(0), self.serve(0)]
        self.assertEqual([False, False, True, True], waited)
        self.assertFalse(self.serve(0, after=2 * IDLE), "the queue was empty again")

    def test_a_queue_that_moves_is_no_long_wait_however_long_it_lasts(self):
        self.connections = 9
        waited = [self.serve(1) for _ in range(20 * REMEMBERED)]
        self.assertNotIn(True, waited, "each has waited for nine seconds at most")

    def test_a_queue_is_as_slow_as_it_is_long(self):
        self.connections = 12
        waited = [self.serve(1) for _ in range(50)]
        self.assertEqual(([False] * 11, [True] * 39), (waited[:11], waited[11:]))

    def test_more_connections_than_are_remembered_count_as_so_many(self):
        self.connections = 10 * REMEMBERED
        waited = [self.serve(LIMIT / REMEMBERED / 2) for _ in range(5 * REMEMBERED)]
        self.assertNotIn(True, waited)

    def test_where_requests_are_many_no_connections_are_counted(self):
        self.backlog = Backlog(LIMIT, 1, lambda: self.fail("they were counted"), lambda: self.now)
        waited = [self.serve(LIMIT / REMEMBERED / 2) for _ in range(5 * REMEMBERED)]
        self.assertNotIn(True, waited)

    def test_a_thread_that_is_idle_tells_that_nobody_waits_for_another(self):
        with ThreadPoolExecutor(1) as other:
            other.submit(self.backlog.begin).result()  # and is at it from now on
            for _ in range(5):
                self.assertFalse(self.serve(1, after=LIMIT))
            other.submit(self.backlog.end).result()
            self.assertFalse(other.submit(self.backlog.begin).result())

    def test_threads_that_are_not_there_yet_are_idle(self):
        self.backlog = Backlog(LIMIT, 2, lambda: 2, lambda: self.now)
        self.assertEqual([False] * 9, [self.serve(2 * LIMIT) for _ in range(9)])

    def test_a_thread_that_has_nothing_to_do_shows_that_nobody_waits_though_it_says_nothing(self):
        self.backlog = Backlog(LIMIT, 2, lambda: 2, lambda: self.now)
        with ThreadPoolExecutor(1) as other:
            other.submit(self.serve, 0).result()
            self.assertEqual([False] * 9, [self.serve(2 * LIMIT) for _ in range(9)])
            other.submit(self.backlog.begin).result()
            self.assertEqual([False, True], [self.serve(2 * LIMIT), self.serve(0)], "both are busy")

    def test_where_nobody_says_how_many_connections_there_are_all_files_of_the_process_are_counted(self):
        for socket in itertools.chain.from_iterable(socketpair() for _ in range(15)):
            self.addCleanup(socket.close)
        backlog = Backlog(LIMIT, 1, clock=lambda: self.now)
        for _ in range(100):
            waited = backlog.begin()
            self.now += LIMIT / 30
            backlog.end()
        self.assertTrue(waited, "thirty connections, each answered in a thirtieth of the limit")
