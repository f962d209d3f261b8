"""The sandbox: what a test writes is gone afterwards, and what the code under test does means what it means outside."""

import threading

from peewee import IntegrityError, OperationalError

from shop.database import database
from shop.factories import UserFactory
from shop.models import User
from tests.harness.cases import ApiTestCase, CommittedApiTestCase, rows_seen_by_another_connection
from tests.harness.postgres import setUpModule, tearDownModule  # noqa: F401
from tests.harness.sandbox import Sandbox, SandboxError


class RollbackProofTest(ApiTestCase):
    """What one test wrote, no later test and no other connection sees; the order of these two does not matter."""

    def test_what_is_written_here_is_seen_here_only(self):
        self.assertEqual(0, User.select().count(), "another test's rows")
        self.client.post("/users", UserFactory.body(email="proof@example.com"))
        self.assertEqual(1, User.select().count())
        self.assertEqual(0, rows_seen_by_another_connection("users"))

    def test_and_what_is_written_here_likewise(self):
        self.assertEqual(0, User.select().count(), "another test's rows")
        self.client.post("/users", UserFactory.body(email="proof@example.com"))
        self.assertEqual(1, User.select().count())
        self.assertEqual(0, rows_seen_by_another_connection("users"))


class Verdicts:
    """What code may do to the database, each with its outcome. Run twice: in the sandbox, and with real commits."""

    def assertUsers(self, *names):
        """Fail unless exactly the users of these names are there."""
        self.assertEqual(sorted(names), sorted(user.name for user in User.select()))

    def test_a_statement_that_fails_undoes_itself_alone(self):
        ada = UserFactory.create(name="Ada")
        with self.assertRaises(IntegrityError):
            UserFactory.create(email=ada.email)
        UserFactory.create(name="Bob")
        self.assertUsers("Ada", "Bob")

    def test_an_exception_undoes_its_transaction_and_nothing_before(self):
        UserFactory.create(name="Ada")
        with self.assertRaises(RuntimeError), database.transaction():
            UserFactory.create(name="Bob")
            raise RuntimeError
        self.assertUsers("Ada")

    def test_a_transaction_that_ends_well_stays(self):
        with database.atomic():
            UserFactory.create(name="Ada")
        self.assertUsers("Ada")

    def test_a_nested_block_that_fails_undoes_itself_alone(self):
        with database.atomic():
            UserFactory.create(name="Ada")
            with self.assertRaises(RuntimeError), database.atomic():
                UserFactory.create(name="Bob")
                raise RuntimeError
        self.assertUsers("Ada")

    def test_what_was_committed_midway_survives_a_failure_after_it(self):
        with self.assertRaises(RuntimeError), database.transaction() as transaction:
            UserFactory.create(name="Ada")
            transaction.commit()
            UserFactory.create(name="Bob")
            raise RuntimeError
        self.assertUsers("Ada")

    def test_what_was_rolled_back_midway_is_gone_and_the_rest_stays(self):
        UserFactory.create(name="Ada")
        with database.transaction() as transaction:
            UserFactory.create(name="Bob")
            transaction.rollback()
            UserFactory.create(name="Eve")
        self.assertUsers("Ada", "Eve")

    def test_a_failed_statement_fails_its_whole_transaction(self):
        with self.assertRaises(IntegrityError), database.atomic():
            ada = UserFactory.create(name="Ada")
            UserFactory.create(email=ada.email)
        self.assertUsers()

    def test_the_connection_may_be_opened_and_closed(self):
        database.close()
        with database:
            UserFactory.create(name="Ada")
        self.assertTrue(database.is_closed())
        database.connect()
        self.assertUsers("Ada")
        with self.assertRaisesRegex(OperationalError, "already opened"):
            database.connect()

    def test_hooks_run_after_the_commit_and_not_after_a_rollback(self):
        ran = []
        with database.atomic():
            database.after_commit(lambda: ran.append("committed"))
            self.assertEqual([], ran)
        with self.assertRaises(RuntimeError), database.atomic():
            database.after_commit(lambda: ran.append("rolled back"))
            raise RuntimeError
        self.assertEqual(["committed"], ran)

    def test_another_thread_sees_what_is_committed(self):
        UserFactory.create(name="Ada")
        seen = []
        thread = threading.Thread(target=lambda: (seen.append(User.select().count()), database.close()))
        thread.start()
        thread.join()
        self.assertEqual([1], seen)


class SandboxedVerdictsTest(Verdicts, ApiTestCase):
    """The verdicts of the sandbox."""

    def test_an_isolation_level_is_refused_instead_of_ignored(self):
        with self.assertRaisesRegex(SandboxError, "SERIALIZABLE needs a CommittedApiTestCase"):
            database.atomic("SERIALIZABLE").__enter__()


class CommittedVerdictsTest(Verdicts, CommittedApiTestCase):
    """The verdicts of production."""


class EscapeTest(CommittedApiTestCase):
    """What gets past the sandbox is not silent."""

    def test_a_plain_commit_fails_the_test_that_sent_it(self):
        sandbox = Sandbox(database)
        sandbox.enter()
        database.connection().cursor().execute("COMMIT")
        with self.assertRaisesRegex(SandboxError, "COMMIT or ROLLBACK as plain SQL"):
            sandbox.leave()
        database.ping()
