"""A database that fails: stopped, killed, frozen, full, read-only, or with its connections ended one by one.

Whatever is done to it, a client gets an answer within the time limits that are set: what it asked for, or a 503 that
says when to try again. As soon as the database is back, so is the service. An order is placed whole or not at all, and
once, however often it had to be sent.
"""

import logging
import time
import unittest
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, ClassVar
from unittest import mock

import psycopg2
from peewee import SQL, Select, fn

from shop import exactjson
from shop.demo.factories import OrderFactory, UserFactory
from shop.domain import accounts
from shop.storage import timeouts
from shop.storage.database import Database, Error, database, is_outage, sqlstate
from shop.storage.statements import Slot, Statement, is_prepare
from tests.harness.live import Connection, until
from tests.harness.postgres import run_database_url, setUpModule, tearDownModule
from tests.support.cases import SECRET_KEY, CommittedApiTestCase, make_client
from tests.support.faults import PASSWORD, FaultyDatabase, Load, Outcome, an_order, orders_by_key, register
from tests.support.live import LiveShop
from tests.support.operations import operations

CHEAP = {"SHOP_ARGON2_TIME_COST": "1", "SHOP_ARGON2_MEMORY_COST": "8"}
# Seconds. The shortest limits that can be set: a connection has two seconds, by libpq's rule.
STATEMENT, CONNECT, LOCK = 1, 2, 1
# A request may wait for a statement, and for the connection that is to follow it; the rest is a busy machine's.
LONGEST = STATEMENT + timeouts.MARGIN + CONNECT + 5
# In how many seconds after its database the service is back as a whole.
BACK = 3.0
WORKERS, CONNECTIONS = 2, 4


class FaultTestCase(unittest.TestCase):
    """The real service, on a database that is there to be harmed."""

    options: ClassVar[dict[str, str]] = {"max_connections": "40"}
    environment: ClassVar[dict[str, str]] = {}
    database: ClassVar[FaultyDatabase]
    shop: ClassVar[LiveShop]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.database = cls.enterClassContext(FaultyDatabase(**cls.options))
        environment = CHEAP | {
            "SHOP_DATABASE_URL": cls.database.url,
            "SHOP_SECRET_KEY": SECRET_KEY,
            "SHOP_STATEMENT_TIMEOUT": str(STATEMENT),
            "SHOP_CONNECT_TIMEOUT": str(CONNECT),
            "SHOP_LOCK_TIMEOUT": str(LOCK),
            "SHOP_WORKERS": str(WORKERS),
            "SHOP_DATABASE_CONNECTIONS": str(CONNECTIONS),
        }
        cls.shop = cls.enterClassContext(LiveShop(environment=environment | cls.environment, measured=False))

    def load(self) -> Load:
        """Return clients of the service."""
        return Load(lambda: self.shop.url)

    def outlast(self, harm: Callable[[], object], mend: Callable[[], object], *, refused: int = 16) -> Load:
        """Do harm under load, mend it when some requests have been refused, and fail unless all comes right.

        Returns:
            The load, for a further look.
        """
        with self.load() as load:
            harm()
            if refused:
                load.until_refused(refused)
            mend()
            mended = time.monotonic()
            load.until_served(1)
            load.until_served(50)
        self.assertEqual([], [o for o in load.since(mended + BACK) if not o.is_served], "it is back as a whole")
        back = min(o.began + o.seconds for o in load.since(mended) if o.is_served)
        self.assertLess(back - mended, BACK, "seconds until the first request was served")
        self.assertAllTold(load.outcomes)
        self.assertPlacedOnce(load)
        self.assertLessEqual(self.database.service_connections(), WORKERS * CONNECTIONS, "no connection is leaked")
        return load

    def assertAllTold(self, outcomes: list[Outcome]) -> None:
        """Fail unless each request was answered in time, with what it asked for or with the one kind of refusal."""
        for outcome in outcomes:
            if not outcome.is_served:
                self.assertIsNotNone(outcome.answer, f"{outcome.request} got no answer: {outcome.failure}")
                self.assertRefusal(outcome.answer)
            self.assertLess(outcome.seconds, LONGEST, f"seconds that {outcome.request} took")

    def assertRefusal(self, answer: Any) -> None:
        """Fail unless `answer` is a 503 of the one shape that says when to try again."""
        shown = (answer.status, answer.headers["Retry-After"], answer.headers["Content-Type"])
        self.assertEqual((503, "1", "application/problem+json"), shown, answer.content)
        self.assertEqual("SERVICE_UNAVAILABLE", answer.json["code"])
        self.assertEqual(answer.headers["X-Request-ID"], answer.json["requestId"])

    def assertPlacedOnce(self, load: Load) -> None:
        """Fail unless each key of the load has one order, and each acknowledged order is there."""
        stored = orders_by_key(self.database.superuser_url)
        self.assertEqual({}, {key: number for key, number in stored.items() if number != 1}, "placed more than once")
        self.assertLessEqual(load.acknowledged.keys(), stored.keys(), "acknowledged and lost")


class OutageTest(FaultTestCase):
    """Faults of the whole server, under load."""

    def test_stopped_and_started_again(self):
        self.outlast(self.database.stop, self.database.start)

    def test_killed(self):
        self.outlast(self.database.kill, self.database.start)

    def test_frozen_in_the_middle_of_requests(self):
        load = self.outlast(self.database.freeze, self.database.thaw, refused=3 * WORKERS * CONNECTIONS)
        refused = sorted(o.seconds for o in load.outcomes if not o.is_served)
        # Once it is known to be silent, one thread of a worker tries it at a time, and the others are told at once.
        self.assertLess(refused[len(refused) // 4], STATEMENT, f"seconds until a refusal: {refused}")

    def make_read_only(self, state: str) -> None:
        self.database.execute(f"ALTER DATABASE shop SET default_transaction_read_only = {state}")
        self.database.end_connections()

    def test_read_only(self):
        load = self.outlast(lambda: self.make_read_only("on"), lambda: self.make_read_only("off"))
        self.assertEqual({"POST"}, {o.request for o in load.outcomes if o.answer and o.answer.status == 503})

    def test_log_ins_go_on_when_it_is_read_only_also_after_one_that_failed(self):
        account = {"email": "ada@example.com", "password": PASSWORD}
        with Connection(self.shop.url) as connection:
            self.assertEqual(201, connection.post("/users", account | {"name": "Ada"}).status)
            self.assertEqual(401, connection.post("/users/login", account | {"password": "not it"}).status)
            self.make_read_only("on")
            try:
                self.assertEqual(200, connection.post("/users/login", account).status)
                self.assertEqual(503, connection.post("/users/login", account | {"password": "not it"}).status)
            finally:
                self.make_read_only("off")

    def test_locked_for_longer_than_the_limit(self):
        with closing(psycopg2.connect(self.database.url)) as other, other.cursor() as cursor:
            self.outlast(lambda: cursor.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"), other.rollback)

    def test_its_connections_ended_again_and_again(self):
        with self.load() as load:
            for _ in range(5):
                self.database.end_connections()
                # A read is sent three times at most.
                load.until_served(50)
        self.assertAllTold(load.outcomes)
        self.assertPlacedOnce(load)
        self.assertEqual({"POST"} | {o.request for o in load.outcomes if not o.is_served}, {"POST"}, "reads go on")

    def test_restarted_while_nobody_asks(self):
        token, user_id = register(self.shop.url)
        with self.load():
            pass  # every thread has a connection by now
        self.database.stop()
        self.database.start()
        with Connection(self.shop.url, token) as connection:
            placed = [connection.post("/orders", an_order(user_id)).status for _ in range(3 * WORKERS * CONNECTIONS)]
        self.assertEqual({201}, set(placed), "no write is sent on a connection that has ended")

    def test_a_worker_killed_under_load(self):
        with self.load() as load:
            killed = self.shop.workers()[0]
            killed.kill()
            until(lambda: killed not in self.shop.workers() and len(self.shop.workers()) == WORKERS, "it is replaced")
            load.until_served(100)
        # The kernel ends the connections of the one that was killed; the other answers as ever.
        self.assertEqual(set(), {o.answer.status for o in load.outcomes if o.answer} - {200, 201})
        self.assertPlacedOnce(load)
        until(
            lambda: self.database.service_connections() <= WORKERS * CONNECTIONS,
            "the killed worker's connections are gone",
        )


class FullTest(FaultTestCase):
    """More threads than the server has connections to give."""

    # Three of them are kept for superusers.
    options: ClassVar[dict[str, str]] = {"max_connections": "9"}

    def test_with_fewer_connections_than_threads_the_rest_gets_503(self):
        with self.load() as load:
            load.until_served(100)
        self.assertAllTold(load.outcomes)
        self.assertPlacedOnce(load)

    def test_full_of_others(self):
        others: list[Any] = []

        def fill() -> None:
            self.database.end_connections()
            while True:
                try:
                    others.append(psycopg2.connect(self.database.url))
                except psycopg2.OperationalError:
                    return

        def leave() -> None:
            for other in others:
                other.close()

        with self.load() as load:
            began = time.monotonic()

            def is_refused() -> bool:
                # The service may be quicker than we are to take a connection that it has just lost.
                fill()
                return sum(not outcome.is_served for outcome in load.since(began)) >= 16

            until(is_refused, "what the service asks for is refused")
            leave()
            load.until_served(50)
        self.assertAllTold(load.outcomes)
        self.assertPlacedOnce(load)


class EachStatementTest(CommittedApiTestCase):
    """The connection is ended before each statement of each operation in turn."""

    def setUp(self):
        super().setUp()
        self.user = UserFactory.create(email="ada@example.com", password="analytical engine")
        self.order = OrderFactory.create(user=self.user)
        self.keeper = self.enterContext(closing(psycopg2.connect(run_database_url())))
        self.keeper.autocommit = True

    def requests(self):
        """Yield each operation by name, with a function that sends it as one that is to succeed."""
        yield "failed log-in", lambda: self.send("POST", "/users/login", self.credentials("wrong password"), (401, 429))
        for operation in operations():
            path = operation.path(user_id=str(self.user.id), order_id=str(self.order.id))
            bodies = {
                "POST /users": UserFactory.body(email="another@example.com"),
                "POST /users/login": self.credentials("analytical engine"),
                "POST /orders": OrderFactory.body(self.user),
                "PATCH /orders/{order_id}": {"status": "cancelled"},
            }
            body = bodies.get(str(operation), b"")
            # A repeated request shows what was done before the answer was lost.
            done = {"POST /users": (201, 409), "PATCH /orders/{order_id}": (200, 409)}.get(str(operation), (200, 201))
            yield str(operation), lambda m=operation.method, p=path, b=body, d=done: self.send(m, p, b, d)

    @staticmethod
    def credentials(password):
        return {"email": "ada@example.com", "password": password}

    def send(self, method, path, body, done):
        text = exactjson.dumps(body) if body else b""
        headers = {"Idempotency_Key": "once"} if path == "/orders" else {}
        response = self.client.request(method, path, text, user=self.user, status="*", **headers)
        self.assertIn(response.status_int, (*done, 503))
        return response

    def end_connection(self):
        pid = database.connection().info.backend_pid
        with self.keeper.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))

    def ending(self, *, at, when):
        """Return a patch that ends the connection at a statement, before the method `when` of the database."""
        counted = iter(range(1000))
        original = getattr(Database, when)

        def harmed(*args, **options):
            if next(counted) == at:
                self.end_connection()
            return original(*args, **options)

        return mock.patch.object(Database, when, harmed)

    @staticmethod
    def quiet():
        """Return a patch that keeps the warnings of refused requests out of the tests' output."""
        return mock.patch.object(logging.getLogger("shop.api.problems"), "warning")

    def statements_of(self, send):
        with mock.patch.object(Database, "_send", autospec=True, side_effect=Database._send) as run:
            send()
        return run.call_count

    def test_while_it_is_idle_nobody_notices(self):
        for name, send in self.requests():
            for number in range(self.statements_of(send)):
                with self.subTest(name, statement=number), self.ending(at=number, when="_own_session"):
                    self.assertNotEqual(503, send().status_int)

    def test_connection_lost_in_a_statement_retries_reads_only(self):
        refused = set()
        for name, send in self.requests():
            for number in range(self.statements_of(send)):
                with self.subTest(name, statement=number):
                    with self.ending(at=number, when="_send"), self.quiet():
                        response = send()
                    if response.status_int == 503:
                        refused.add(name)
                        self.assertProblem(response, 503, "SERVICE_UNAVAILABLE")
                        self.assertEqual("1", response.headers["Retry-After"])
                    self.assertNotEqual(503, send().status_int, "the next request is served")
        self.assertEqual({"failed log-in", "POST /users", "POST /orders", "PATCH /orders/{order_id}"}, refused)
        with self.keeper.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM orders WHERE idempotency_key = 'once'")
            self.assertEqual((1,), cursor.fetchone())

    def test_before_and_in_a_commit_nothing_of_the_transaction_is_left(self):
        for when in ("before it", "before a statement", "before COMMIT"):
            with self.subTest(when):
                with self.assertRaises(Error) as raised, database.atomic():
                    OrderFactory.create(user=self.user)
                    self.end_connection()
                    if when == "before it":
                        OrderFactory.create(user=self.user)
                    elif when == "before a statement":
                        accounts.set_role(self.user.email, "customer")
                self.assertTrue(is_outage(raised.exception))
                with self.keeper.cursor() as cursor:
                    cursor.execute("SELECT count(*) FROM orders")
                    self.assertEqual((1,), cursor.fetchone())


class SilentTest(CommittedApiTestCase):
    """A server that says nothing about a statement any more, though its time is over."""

    def test_a_read_that_has_had_its_time_is_not_sent_again(self):
        self.addCleanup(make_client)
        self.addCleanup(database.close)
        database.close()
        make_client(statement_timeout=STATEMENT)
        # The server's own limit would come first.
        database.execute_sql("SET statement_timeout = 0")
        backend = database.connection().info.backend_pid
        sleep = Statement(Select(columns=[fn.pg_sleep(Slot("seconds", "float8"))]))
        with self.assertQueries(1), self.assertRaises(Error) as raised:
            database.row(sleep, seconds=60)
        self.assertTrue(is_outage(raised.exception))
        # It has not noticed that nobody waits for it.
        database.execute_sql("SELECT pg_terminate_backend(%s, 5000)", (backend,))


def sent(events: list[Any]) -> list[str | None]:
    """Return how each statement ended that was sent: its SQLSTATE, None if it succeeded."""
    return [event.exception and sqlstate(event.exception) for event in events if not is_prepare(event.sql)]


class InTheWayTest(unittest.TestCase):
    """What PostgreSQL rolls back because it was in the way of another transaction."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # PostgreSQL checks once per wait for a deadlock, so it must not check before the other transaction waits, too.
        cls.database = cls.enterClassContext(FaultyDatabase(deadlock_timeout="500ms"))
        make_client(database_url=cls.database.url)
        # Afterwards everybody is back on the run's database.
        cls.addClassCleanup(make_client)
        cls.other = cls.enterClassContext(closing(psycopg2.connect(cls.database.superuser_url)))

    def tearDown(self):
        self.other.rollback()
        database.close()

    def test_a_statement_that_lost_a_deadlock_is_sent_again(self):
        # It takes the first lock, and waits for the second. Whoever holds that comes for the first.
        takes_both = Statement(Select(columns=[SQL("pg_advisory_xact_lock(1)"), SQL("pg_advisory_xact_lock(2)")]))
        failures = []
        with self.other.cursor() as cursor, mock.patch.object(database, "query_hooks", [failures.append]):
            cursor.execute("SET LOCAL deadlock_timeout TO '1min'; SELECT pg_advisory_xact_lock(2)")
            with ThreadPoolExecutor(1) as thread:
                done = thread.submit(self.in_thread, takes_both)
                until(lambda: self.waiting() == 1, "the service waits for the second lock")
                cursor.execute("SELECT pg_advisory_xact_lock(1)")
                self.other.rollback()
                self.assertEqual(1, len(done.result()))
        self.assertEqual(["40P01", None], sent(failures))

    def test_serialization_failure_is_retried_a_limited_number_of_times(self):
        self.database.execute("CREATE SEQUENCE IF NOT EXISTS tried; ALTER SEQUENCE tried RESTART")
        self.database.execute("GRANT ALL ON SEQUENCE tried TO shop")
        failing = """
            CREATE OR REPLACE FUNCTION fail_times(times int) RETURNS int LANGUAGE plpgsql AS $$
            BEGIN
                IF nextval('tried') <= times THEN
                    RAISE EXCEPTION 'could not serialize access' USING ERRCODE = 'serialization_failure';
                END IF;
                RETURN times;
            END $$
        """
        self.database.execute(failing)
        statement = Statement(Select(columns=[fn.fail_times(Slot("times", "int"))]))
        self.assertEqual((2,), database.row(statement, times=2))
        self.database.execute("ALTER SEQUENCE tried RESTART")
        with self.assertRaises(Error) as raised:
            database.row(statement, times=3)
        self.assertEqual("40001", sqlstate(raised.exception))
        self.assertTrue(is_outage(raised.exception), "so the client gets a 503 and tries again")

    def test_in_a_transaction_it_is_not_and_the_error_is_the_first_one(self):
        self.database.execute(
            "CREATE OR REPLACE FUNCTION fail() RETURNS int LANGUAGE plpgsql AS $$"
            " BEGIN RAISE EXCEPTION 'could not serialize access' USING ERRCODE = 'serialization_failure'; END $$"
        )
        with self.assertRaises(Error) as raised, database.atomic():
            database.row(Statement(Select(columns=[fn.fail()])))
        self.assertEqual("40001", sqlstate(raised.exception))

    @staticmethod
    def in_thread(statement):
        try:
            return database.rows(statement)
        finally:
            database.close()

    def waiting(self):
        return self.database.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")[0][0]
