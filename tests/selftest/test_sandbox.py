"""The sandbox gives the verdict that production would give.

Each scenario is something that code may do to the database. It is run with real commits and then in a sandbox, and
both have to come to the outcome that is written here.
"""

import threading
from collections.abc import Callable

from peewee import IntegrityError

from shop.demo.factories import OrderFactory, UserFactory
from shop.domain.models import Order, User
from shop.storage.database import database
from tests.harness.guard import SandboxError
from tests.harness.postgres import setUpModule, tearDownModule  # noqa: F401
from tests.harness.sandbox import Sandbox
from tests.harness.tables import deletion
from tests.support.cases import ApiTestCase, CommittedApiTestCase, rows_seen_by_another_connection


def names() -> list[str]:
    """Return the names of all users."""
    return sorted(user.name for user in User.select())


def make(name: str) -> None:
    """Make a user of this name."""
    UserFactory.create(name=name)


def make_with_the_same_address() -> None:
    """Break the unique index on users."""
    UserFactory.create(email=User.get().email)


class VerdictTestCase(CommittedApiTestCase):
    """Runs scenarios both ways."""

    def assertVerdict(self, expected: object, scenario: Callable[[], object]) -> None:
        """Fail unless `scenario` comes to `expected` with real commits, and in a sandbox likewise."""
        self.assertEqual(expected, outcome(scenario), "with real commits")
        database.execute_sql(deletion())
        sandbox = Sandbox(database)
        sandbox.enter()
        try:
            in_sandbox = outcome(scenario)
        finally:
            sandbox.leave()
        self.assertEqual(expected, in_sandbox, "in a sandbox")
        self.assertEqual([], names(), "and nothing is left")


def outcome(scenario: Callable[[], object]) -> object:
    """Return what `scenario` returns, or the name of what it raises, and who is there afterwards."""
    try:
        result = scenario()
    except Exception as error:
        result = type(error).__name__
    return result, names()


class TransactionTest(VerdictTestCase):
    """Statements, transactions and their ends."""

    def test_a_statement_that_fails_undoes_itself_alone(self):
        def scenario():
            make("Ada")
            with self.assertRaises(IntegrityError):
                make_with_the_same_address()
            make("Bob")

        self.assertVerdict((None, ["Ada", "Bob"]), scenario)

    def test_an_exception_undoes_its_transaction_and_nothing_before(self):
        for begin in (database.transaction, database.atomic):

            def scenario(begin=begin):
                make("Ada")
                with begin():
                    make("Bob")
                    raise RuntimeError

            self.assertVerdict(("RuntimeError", ["Ada"]), scenario)

    def test_a_transaction_that_ends_well_stays(self):
        def scenario():
            with database.atomic():
                make("Ada")

        self.assertVerdict((None, ["Ada"]), scenario)

    def test_a_nested_block_that_fails_undoes_itself_alone(self):
        def scenario():
            with database.atomic():
                make("Ada")
                with self.assertRaises(RuntimeError), database.atomic():
                    make("Bob")
                    raise RuntimeError
                make("Eve")

        self.assertVerdict((None, ["Ada", "Eve"]), scenario)

    def test_a_failed_statement_fails_its_whole_transaction(self):
        def scenario():
            with database.atomic():
                make("Ada")
                with self.assertRaises(IntegrityError):
                    make_with_the_same_address()
                make("Bob")

        self.assertVerdict(("InternalError", []), scenario)

    def test_a_transaction_that_swallows_a_failure_is_rolled_back_by_its_commit(self):
        def scenario():
            with database.atomic():
                make("Ada")
                with self.assertRaises(IntegrityError):
                    make_with_the_same_address()

        self.assertVerdict((None, []), scenario)

    def test_what_was_committed_midway_survives_a_failure_after_it(self):
        def by_transaction():
            with database.transaction() as transaction:
                make("Ada")
                transaction.commit()
                make("Bob")
                raise RuntimeError

        def by_hand():
            with database.manual_commit():
                database.begin()
                make("Ada")
                database.commit()
                database.begin()
                make("Bob")
                database.rollback()
                make("Eve")

        self.assertVerdict(("RuntimeError", ["Ada"]), by_transaction)
        self.assertVerdict((None, ["Ada", "Eve"]), by_hand)

    def test_what_was_rolled_back_midway_is_gone_and_the_rest_stays(self):
        def scenario():
            make("Ada")
            with database.transaction() as transaction:
                make("Bob")
                transaction.rollback()
                make("Eve")

        self.assertVerdict((None, ["Ada", "Eve"]), scenario)

    def test_commit_rollback_and_begin_where_they_do_nothing_do_nothing(self):
        def scenario():
            with database.manual_commit():
                make("Ada")
                database.commit()
                database.rollback()
                database.begin()
                database.begin()
                make("Bob")
                database.commit()
                database.rollback()

        self.assertVerdict((None, ["Ada", "Bob"]), scenario)

    def test_an_isolation_level_is_refused_instead_of_ignored(self):
        def scenario():
            with database.atomic("SERIALIZABLE"):
                return database.execute_sql("SHOW transaction_isolation").fetchone()[0]

        self.assertEqual("serializable", scenario())
        sandbox = Sandbox(database)
        sandbox.enter()
        self.assertEqual(("SandboxError", []), outcome(scenario))
        with self.assertRaisesRegex(SandboxError, "isolation level SERIALIZABLE; test it in a CommittedApiTestCase"):
            sandbox.leave()


class ConnectionTest(VerdictTestCase):
    """Opening and closing."""

    def test_the_connection_may_be_closed_and_opened(self):
        def scenario():
            database.close()
            with database:
                make("Ada")
            self.assertTrue(database.is_closed())
            database.connect()
            self.assertFalse(database.is_closed())
            with database.connection_context():
                make("Bob")

        self.assertVerdict((None, ["Ada", "Bob"]), scenario)

    def test_what_may_not_be_opened_or_closed_now_may_not_in_a_sandbox(self):
        def open_twice():
            database.connect(reuse_if_open=True)
            database.connect()

        def close_inside_a_transaction():
            with database.atomic():
                make("Ada")
                database.close()

        self.assertVerdict(("OperationalError", []), open_twice)
        self.assertVerdict(("OperationalError", []), close_inside_a_transaction)


class HookTest(VerdictTestCase):
    """What runs after a commit."""

    def test_hooks_run_after_the_commit_and_not_after_a_rollback(self):
        def scenario():
            ran = []
            with database.atomic():
                database.after_commit(lambda: ran.append("committed"))
                ran.append("inside")
            with self.assertRaises(RuntimeError), database.atomic():
                database.after_commit(lambda: ran.append("rolled back"))
                raise RuntimeError
            database.after_commit(lambda: ran.append("at once"))
            return ran

        self.assertVerdict((["inside", "committed", "at once"], []), scenario)

    def test_a_hook_sees_what_was_committed_and_may_write(self):
        def scenario():
            seen = []
            with database.atomic():
                make("Ada")
                database.after_commit(lambda: (seen.append(names()), make("Bob")))
            return seen

        self.assertVerdict(([["Ada"]], ["Ada", "Bob"]), scenario)


class DeferredConstraintTest(VerdictTestCase):
    """Constraints that are checked at COMMIT."""

    def setUp(self):
        super().setUp()
        database.execute_sql("CREATE TABLE parent (id int PRIMARY KEY)")
        database.execute_sql("CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
        self.addCleanup(database.execute_sql, "DROP TABLE child, parent")

    def count(self):
        """Return how many children there are."""
        return database.execute_sql("SELECT count(*) FROM child").fetchone()[0]

    def test_a_deferred_constraint_is_checked_at_the_commit(self):
        def scenario():
            with self.assertRaises(IntegrityError), database.atomic():
                make("Ada")
                database.execute_sql("INSERT INTO child VALUES (1)")
            return self.count()

        self.assertVerdict((0, []), scenario)

    def test_a_deferred_constraint_is_checked_at_the_end_of_a_single_statement(self):
        def scenario():
            with self.assertRaises(IntegrityError):
                database.execute_sql("INSERT INTO child VALUES (1)")
            return self.count()

        self.assertVerdict((0, []), scenario)

    def test_a_deferred_constraint_that_holds_by_the_commit_holds(self):
        def scenario():
            with database.atomic():
                database.execute_sql("INSERT INTO child VALUES (1)")
                database.execute_sql("INSERT INTO parent VALUES (1)")
            with database.atomic():
                # Still deferred: the check at the first commit has changed nothing.
                database.execute_sql("INSERT INTO child VALUES (2)")
                database.execute_sql("INSERT INTO parent VALUES (2)")
            seen = self.count()
            database.execute_sql("DELETE FROM child")
            database.execute_sql("DELETE FROM parent")
            return seen

        self.assertVerdict((2, []), scenario)


class ThreadTest(VerdictTestCase):
    """More than one thread."""

    def test_another_thread_sees_what_is_committed(self):
        def scenario():
            make("Ada")
            seen = []
            thread = threading.Thread(target=lambda: (seen.append(names()), make("Bob"), database.close()))
            thread.start()
            thread.join()
            return seen

        self.assertVerdict(([["Ada"]], ["Ada", "Bob"]), scenario)

    def test_another_thread_does_not_see_what_is_rolled_back(self):
        def scenario():
            seen, written, looked = [], threading.Event(), threading.Event()

            def look():
                written.wait(10)
                seen.append(names())
                looked.set()
                database.close()

            thread = threading.Thread(target=look)
            thread.start()
            with self.assertRaises(RuntimeError), database.atomic():
                make("Ada")
                written.set()
                # With real commits it looks now, at nothing. In a sandbox it waits for its turn, which comes after the
                # end of this transaction; that it does not look before is what the time is for.
                looked.wait(0.2)
                raise RuntimeError
            thread.join()
            return seen

        self.assertVerdict(([[]], []), scenario)

    def test_threads_that_write_at_once_all_write(self):
        def scenario():
            def write(name):
                with database.atomic():
                    make(name)
                database.close()

            threads = [threading.Thread(target=write, args=[name]) for name in ("Ada", "Bob", "Eve")]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        self.assertVerdict((None, ["Ada", "Bob", "Eve"]), scenario)


class RollbackProofTest(ApiTestCase):
    """What one test wrote, no later test and no other connection sees; the order of these two does not matter."""

    not_in_parity_because = "it proves the sandbox itself: with real commits another connection does see"

    def test_what_is_written_here_is_seen_here_only(self):
        self.assertEqual([], names(), "another test's rows")
        self.client.post("/users", UserFactory.body(email="proof@example.com"))
        self.assertEqual(1, User.select().count())
        self.assertEqual(0, rows_seen_by_another_connection("users"))

    def test_and_what_is_written_here_likewise(self):
        self.assertEqual([], names(), "another test's rows")
        self.client.post("/users", UserFactory.body(email="proof@example.com"))
        self.assertEqual(1, User.select().count())
        self.assertEqual(0, rows_seen_by_another_connection("users"))

    def test_a_part_of_a_test_can_be_undone(self):
        make("Ada")
        with self.isolation.undone() as undo:
            for name in ("Bob", "Cid"):
                make(name)
                self.assertEqual(["Ada", name], names())
                undo()
                self.assertEqual(["Ada"], names())
            make("Dan")
        self.assertEqual(["Ada"], names())


class ClassDataTest(ApiTestCase):
    """Rows made once for a class."""

    @classmethod
    def setUpTestData(cls):
        cls.user = UserFactory.create(name="Ada")
        cls.orders = OrderFactory.create_batch(2, user=cls.user)

    def test_one_test_changes_its_own_copy_and_rows(self):
        self.assertEqual(("Ada", 2), (self.user.name, len(self.orders)))
        self.user.name = "Changed"
        self.user.save()
        self.orders.pop()
        Order.delete().execute()
        self.assertEqual(["Changed"], names())

    def test_another_test_sees_what_the_class_made(self):
        self.assertEqual(("Ada", 2), (self.user.name, len(self.orders)))
        self.assertEqual((["Ada"], 2), (names(), Order.select().count()))
        self.user.name = "Changed as well"
        self.user.save()

    def test_copies_refer_to_each_other_as_the_originals_do(self):
        self.assertIs(self.user, self.user)
        self.assertIs(self.orders[0].user, self.user)
        self.assertIsNot(type(self).user, self.user)

    def test_the_api_sees_them(self):
        page = self.client.get(f"/users/{self.user.id}/orders", user=self.user)
        self.assertEqual(2, len(page.json["orders"]))
