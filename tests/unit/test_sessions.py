"""`shop.storage.sessions`: which session the pool hands out, and which it closes; and which errors are outages."""

import socket
import unittest
from unittest import mock

import peewee
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS, connection

from shop.storage.database import is_outage
from shop.storage.sessions import Session, SessionPool


class FakeConnection(connection):
    """What a session asks of the driver's connection; the test holds the server's end of the socket."""

    closed = 0  # In the driver it cannot be set.
    status = TRANSACTION_STATUS_IDLE

    def __init__(self):
        self.ours, self.servers = socket.socketpair()

    def fileno(self):
        """Return the number of the socket."""
        return self.ours.fileno()

    def get_transaction_status(self):
        """Return the transaction status of libpq."""
        return self.status

    def close(self):
        """Close the connection."""
        self.closed = 1
        self.ours.close()


class FakeSession(Session, FakeConnection):
    """A session on a fake connection."""


class SessionPoolTest(unittest.TestCase):
    def setUp(self):
        self.pool = SessionPool(self.open_session, 2)
        self.opened = []
        self.addCleanup(lambda: [line.close() for s in self.opened for line in (s.ours, s.servers)])

    def open_session(self):
        self.opened.append(FakeSession())
        return self.opened[-1]

    def take(self, number):
        return [self.pool.take() for _ in range(number)]

    def give(self, *sessions):
        for session in sessions:
            self.pool.give(session)

    def test_the_session_used_last_is_handed_out_first(self):
        first, second = self.take(2)
        self.give(second, first)
        self.assertEqual([first, second], self.take(2))
        self.assertEqual(2, len(self.opened))

    def test_more_idle_sessions_than_its_size_are_closed(self):
        sessions = self.take(3)
        self.give(*sessions)
        self.assertEqual([0, 0, 1], [session.closed for session in sessions])

    def test_a_session_in_the_middle_of_a_transaction_is_closed(self):
        (session,) = self.take(1)
        session.status = TRANSACTION_STATUS_INTRANS
        self.give(session)
        self.assertTrue(session.closed)
        self.assertIsNot(session, self.pool.take())

    def test_lost_session_drops_all_that_the_server_has_closed(self):
        lost, ended, sound = self.take(3)
        self.give(sound, ended)
        ended.servers.close()
        lost.closed = 2
        self.give(lost)
        self.assertTrue(ended.closed)
        self.assertIs(sound, self.pool.take())

    def test_a_session_is_polled_only_by_the_thread_that_took_it(self):
        lost, *sound = self.take(3)
        self.give(*sound)
        polled = []

        def poll(session):
            polled.append((session, session in self.pool._idle))
            return False

        lost.closed = 2
        with mock.patch.object(Session, "has_ended", property(poll)):
            self.give(lost)
        self.assertEqual([(session, False) for session in sound], polled)
        self.assertEqual(sound[::-1], self.take(2))

    def test_write_skips_a_session_that_the_server_has_closed(self):
        for check_alive, expected in ((False, True), (True, False)):
            with self.subTest(check_alive=check_alive):
                (session,) = self.take(1)
                self.give(session)
                session.servers.close()
                self.assertEqual(expected, self.pool.take(check_alive=check_alive) is session)

    def test_a_fresh_session_is_a_new_one(self):
        (session,) = self.take(1)
        self.give(session)
        self.assertIsNot(session, self.pool.take(fresh=True))

    def test_closed_pool_closes_sessions_that_are_given_back(self):
        idle, used = self.take(2)
        self.give(idle)
        self.pool.close()
        self.give(used)
        self.assertEqual([1, 1], [idle.closed, used.closed])

    def test_forgotten_statements_get_new_names(self):
        (session,) = self.take(1)
        session.prepared["shop_a"] = "EXECUTE shop_a_1"
        before = session.name_of("shop_a")
        session.forget_prepared()
        self.assertEqual({}, session.prepared)
        self.assertNotEqual(before, session.name_of("shop_a"))


class OutageTest(unittest.TestCase):
    """Peewee's classes, with the codes that PostgreSQL gives them."""

    @staticmethod
    def error(kind, code):
        error = kind("text")
        error.orig = type("DriverError", (Exception,), {"pgcode": code})()
        return error

    def test_what_ends_by_itself_is_an_outage(self):
        for kind, code in (
            (peewee.OperationalError, None),
            (peewee.OperationalError, "57P01"),  # admin_shutdown
            (peewee.OperationalError, "57P03"),  # cannot_connect_now
            (peewee.OperationalError, "40P01"),  # deadlock_detected
            (peewee.OperationalError, "53300"),  # too_many_connections
            (peewee.InterfaceError, None),  # the connection is closed
            (peewee.DatabaseError, None),  # an answer that breaks off
            (peewee.InternalError, "25006"),  # read_only_sql_transaction
            (peewee.InternalError, "XX000"),  # Citus: failure on connection marked as essential
        ):
            with self.subTest(kind=kind.__name__, code=code):
                self.assertTrue(is_outage(self.error(kind, code)))

    def test_a_mistake_or_a_refused_value_is_no_outage(self):
        for kind, code in (
            (peewee.IntegrityError, "23505"),
            (peewee.ProgrammingError, "42P01"),
            (peewee.ProgrammingError, None),
            (peewee.DataError, "22003"),
            (peewee.InternalError, "25P02"),
            (peewee.NotSupportedError, "0A000"),
        ):
            with self.subTest(kind=kind.__name__, code=code):
                self.assertFalse(is_outage(self.error(kind, code)))
