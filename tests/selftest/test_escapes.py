"""What counts as an escape from a test, however it is sent, and what an escape leaves alone."""

import io
import unittest
from unittest import mock

import psycopg2
from psycopg2 import sql

from tests import binding
from tests.harness import sandbox
from tests.harness.cases import ApiTestCase, CommittedApiTestCase
from tests.harness.findings import Findings
from tests.harness.postgres import current_url, setUpModule, tearDownModule  # noqa: F401
from tests.selftest.test_guard import GuardTestCase, insert

COUNT = "SELECT count(*) FROM login_failures"


class ComposedTest(GuardTestCase):
    """SQL that is composed with `psycopg2.sql`, by each method of a cursor that takes it."""

    def assertEscapes(self, send):
        """Fail unless a test that sends SQL with a cursor is said to leave a setting, in the sandbox and without it."""

        def guilty():
            binding.database().connect(reuse_if_open=True)
            send(binding.database().cursor())

        for base in (ApiTestCase, CommittedApiTestCase):
            with self.subTest(base.__name__):
                self.assertIn("the session's setting app.tenant was left changed", self.said(base, guilty))

    def test_execute(self):
        self.assertEscapes(lambda cursor: cursor.execute(sql.SQL("SET app.tenant = {}").format(sql.Literal("9"))))

    def test_executemany(self):
        self.assertEscapes(lambda cursor: cursor.executemany(sql.SQL("SET app.tenant = %s"), [("8",), ("9",)]))

    def test_copy_expert(self):
        copy = sql.SQL("COPY (SELECT set_config('app.tenant', '9', false)) TO STDOUT")
        self.assertEscapes(lambda cursor: cursor.copy_expert(copy, io.StringIO()))


class DataOfTheClassTest(GuardTestCase):
    """The rows of `setUpTestData` are those of the class, whatever one test does."""

    def test_an_escape_in_one_test_leaves_the_rows_of_the_class(self):
        class Inner(ApiTestCase):
            @classmethod
            def setUpTestData(cls):
                insert()

            def look(self):
                self.assertEqual([(1,)], binding.database().execute_sql(COUNT).fetchall())

            def test_1_before(self):
                self.look()
                binding.database().execute_sql("DELETE FROM login_failures")

            def test_2_refused(self):
                binding.database().execute_sql("LISTEN a")

            def test_3_setting(self):
                binding.database().execute_sql("SET app.tenant = '9'")

            def test_4_transaction(self):
                binding.database().begin()
                binding.database().execute_sql("DELETE FROM login_failures")

            def test_5_connection(self):
                type(self).kept = psycopg2.connect(current_url())

            def test_6_after(self):
                self.look()

        failed = self.run_class(Inner)
        self.assertEqual({"test_2_refused", "test_3_setting", "test_4_transaction", "test_5_connection"}, failed.keys())


class ClosedTest(GuardTestCase):
    """Connections that a test has closed."""

    def test_a_closed_connection_that_is_still_referenced_is_innocent(self):
        for base in (ApiTestCase, CommittedApiTestCase):
            kept = []

            class Inner(base):
                def test_it(self, kept=kept):
                    kept.append(psycopg2.connect(current_url()))
                    kept[0].cursor().execute(COUNT)
                    kept[0].close()

            with self.subTest(base.__name__):
                self.assertEqual({}, self.run_class(Inner))
                self.assertTrue(kept[0].closed)


class CountTest(unittest.TestCase):
    """How often the sandbox was entered, as the run and the report say."""

    def test_each_test_and_the_data_of_a_class_enter_the_sandbox_once(self):
        class Inner(ApiTestCase):
            @classmethod
            def setUpTestData(cls):
                insert()

            def test_1(self):
                with self.isolation.undone():
                    insert()

            def test_2(self):
                pass

        findings = Findings()
        with mock.patch.object(sandbox, "findings", findings):
            unittest.defaultTestLoader.loadTestsFromTestCase(Inner).run(unittest.TestResult())
        self.assertEqual(3, findings.sandboxes)
