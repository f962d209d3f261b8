"""Statements prepared on the server: once a connection, again when they are lost, with plans that stay good."""

from typing import ClassVar

from peewee import SQL, Select, Table, fn

from shop.demo.factories import OrderFactory, UserFactory
from shop.domain.models import Order
from shop.storage.database import Error, database
from shop.storage.sessions import Session
from shop.storage.statements import Slot, Statement, is_prepare, statement_text
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import ApiTestCase, CommittedApiTestCase, make_settings
from tests.support.statements import plan, statements

EVERYTHING = Statement(Select([Table("changing")], [SQL("*")]))
ECHO = Statement(Select(columns=[Slot("text", "text")]))


def prepared() -> dict[str, int]:
    """Return what is prepared on this connection: the text of each statement, and how often it has run."""
    rows = database.execute_sql("SELECT statement, generic_plans + custom_plans FROM pg_prepared_statements")
    # The server keeps the whole PREPARE.
    return {text.partition(" AS ")[2]: runs for text, runs in rows.fetchall()}


def session() -> Session:
    """Return the session of this thread."""
    return database.connection()


class PreparedTest(ApiTestCase):
    """What the sandbox shows, too."""

    def setUp(self):
        super().setUp()
        database.execute_sql("DEALLOCATE ALL")
        session().forget_prepared()

    def test_a_statement_is_prepared_once_and_then_executed(self):
        with self.assertQueries(3):
            for _ in range(3):
                self.assertEqual(("tea",), database.row(ECHO, text="tea"))
        self.assertEqual({ECHO.numbered: 3}, prepared())

    def test_statements_of_one_text_are_one(self):
        for echo in (ECHO, Statement(Select(columns=[Slot("text", "text")]))):
            self.assertEqual(("tea",), database.row(echo, text="tea"))
        self.assertEqual({ECHO.numbered: 2}, prepared())

    def test_hooks_see_prepare_and_execute_which_stand_for_the_text(self):
        seen = []
        database.query_hooks.append(seen.append)
        self.addCleanup(database.query_hooks.remove, seen.append)
        database.row(ECHO, text="tea")
        self.assertTrue(is_prepare(seen.pop(0).sql))
        self.assertEqual([(ECHO.sql, ["tea"])], [(statement_text(event.sql), event.params) for event in seen])
        self.assertEqual("SELECT 1", statement_text("SELECT 1"))

    def test_values_are_values_whatever_they_hold(self):
        for text in ("'); DROP TABLE users; --", "%s %(text)s %%", "\\", "$1", "é\u2028", ""):
            with self.subTest(text):
                self.assertEqual((text,), database.row(ECHO, text=text))

    def test_what_was_prepared_in_a_transaction_that_is_rolled_back_stays(self):
        with database.atomic() as transaction:
            database.row(ECHO, text="tea")
            transaction.rollback()
        self.assertEqual(("pot",), database.row(ECHO, text="pot"))
        self.assertEqual({ECHO.numbered: 2}, prepared())

    def test_a_table_that_has_changed_is_read_as_it_is_now(self):
        database.execute_sql("CREATE TEMPORARY TABLE changing AS SELECT 1 AS one")
        self.assertEqual([(1,)], database.rows(EVERYTHING))
        database.execute_sql("ALTER TABLE changing ADD COLUMN two integer")
        self.assertEqual([(1, None)], database.rows(EVERYTHING))

    def test_a_statement_that_cannot_be_prepared_fails_as_it_would_without(self):
        with self.assertRaisesRegex(Error, 'relation "changing" does not exist'):
            database.rows(EVERYTHING)
        self.assertIsNone(session().waiting_since, "nobody takes it for one that waits")
        self.assertEqual(("tea",), database.row(ECHO, text="tea"))

    def test_switched_off_nothing_is_prepared(self):
        self.addCleanup(setattr, database, "prepares", database.prepares)
        database.prepares = False
        self.assertEqual(("tea",), database.row(ECHO, text="tea"))
        self.assertEqual({}, prepared())

    def test_switched_off_an_unsupported_statement_is_sent_once(self):
        self.addCleanup(setattr, database, "prepares", database.prepares)
        database.prepares = False
        # PostgreSQL answers with SQLSTATE 0A000, which means an outdated plan only if the statement was prepared.
        with self.assertQueries(1), self.assertRaisesRegex(Error, "FOR UPDATE is not allowed"):
            database.rows(Statement(Order.select(fn.COUNT(Order.id)).for_update()))

    def test_the_setting_decides(self):
        self.assertTrue(make_settings().prepared_statements)
        self.assertFalse(make_settings(prepared_statements="0").prepared_statements)


class LostTest(CommittedApiTestCase):
    """What a connection forgets on the way, as a pooler's reset does it."""

    def setUp(self):
        super().setUp()
        # What it has forgotten would be prepared again, a statement more, in the middle of a later test.
        self.addCleanup(database.close_all)

    def test_reads_and_writes_go_on_after_a_reset_and_a_write_is_done_once(self):
        user = UserFactory.create()
        body = OrderFactory.body(user)
        for _ in range(2):
            self.client.post("/orders", body, user=user)
            self.client.get(f"/users/{user.id}", user=user)
            database.execute_sql("DISCARD ALL")
        self.assertEqual(2, Order.select().count())

    def test_in_a_transaction_only_the_outdated_statement_fails(self):
        database.row(ECHO, text="tea")
        with self.assertRaisesRegex(Error, "does not exist"), database.atomic():
            database.execute_sql("DEALLOCATE ALL")
            database.row(ECHO, text="tea")
        with database.atomic():
            self.assertEqual(("pot",), database.row(ECHO, text="pot"))

    def test_another_connection_prepares_for_itself(self):
        database.row(ECHO, text="tea")
        database.close_all()
        self.assertEqual(("pot",), database.row(ECHO, text="pot"))
        self.assertEqual({ECHO.numbered: 1}, prepared())


class PlanTest(ApiTestCase):
    """A plan is made without a look at the values, and kept while the tables grow; `test_plans` has them with rows."""

    # The rate limit deletes the ten oldest rows. `shop staff list` reads all users.
    READ_TABLES: ClassVar = {"shop.domain.rate_limit._DELETE_EXPIRED", "shop.domain.accounts._LIST_STAFF"}

    def test_every_statement_goes_by_an_index_when_the_tables_are_empty(self):
        database.execute_sql("ANALYZE users, orders, login_failures")
        for name, statement in statements().items():
            if name not in self.READ_TABLES:
                with self.subTest(name):
                    self.assertNotIn("Seq Scan", self.plan(statement))

    @staticmethod
    def plan(statement: Statement) -> str:
        """Return the tables that the generic plan of a statement reads, each with the way it is read."""
        nodes = plan(database.connection(), statement, "force_generic_plan")
        return "\n".join(f"{node.kind} {node.table}" for node in nodes)
