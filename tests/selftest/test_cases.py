"""The base classes: data for a whole class, and failures that show the last request and how to repeat the test."""

import threading
import unittest
from typing import Any
from unittest import mock

from shop.demo.factories import UserFactory
from shop.domain.models import User
from tests.harness import cases
from tests.harness.postgres import setUpModule, tearDownModule
from tests.harness.results import SEED
from tests.harness.tables import tables_with_rows
from tests.support.cases import ApiTestCase, CommittedApiTestCase


def said_by(kind: type[unittest.TestCase]) -> dict[str, str]:
    """Run the tests of a class and return the text of each failure, by the name of the test or fixture."""
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(kind).run(result)
    return {test.id().rpartition(".")[2]: text for test, text in (*result.failures, *result.errors)}


class TestDataTest(unittest.TestCase):
    """`setUpTestData`; `tests.system.test_tcp` has that of a live server."""

    def test_each_test_finds_the_rows_and_a_copy_of_the_values(self):
        for base in (ApiTestCase, CommittedApiTestCase):

            class Inner(base):
                @classmethod
                def setUpTestData(cls):
                    cls.ada = UserFactory.create(name="Ada Lovelace")

                def look(self):
                    self.assertEqual(["Ada Lovelace"], [user.name for user in User.select()])
                    self.assertEqual("Ada Lovelace", self.ada.name)
                    self.ada.name = "changed by one test"

                def test_1(self):
                    self.look()

                def test_2(self):
                    self.look()

            with self.subTest(base.__name__):
                self.assertEqual({}, said_by(Inner))
                self.assertEqual([], tables_with_rows())

    def test_a_value_that_cannot_be_copied_is_named(self):
        for base in (ApiTestCase, CommittedApiTestCase):

            class Inner(base):
                @classmethod
                def setUpTestData(cls):
                    cls.lock = threading.Lock()

                def test_it(self):
                    self.lock.acquire()

            with self.subTest(base.__name__):
                text = said_by(Inner)["test_it"]
                self.assertRegex(text, r"Inner\.lock, which setUpTestData made, cannot be copied .*; make it in setUp")


class StoryTest(unittest.TestCase):
    """What a failure says beside its own text."""

    def told(self, **methods: Any) -> str:
        """Return the failure of a test whose methods may send requests."""
        inner = type("Inner", (ApiTestCase,), {"test_it": lambda _: None} | methods)
        (text,) = said_by(inner).values()
        return text

    def test_a_failure_names_the_last_request_and_the_rerun(self):
        def fail(test):
            test.client.get("/livez")
            test.fail("no")

        def set_up(test):
            ApiTestCase.setUp(test)
            fail(test)

        def clean_up(test):
            test.addCleanup(fail, test)

        for place, method in {"test_it": fail, "setUp": set_up, "tearDown": fail}.items():
            with self.subTest(place):
                self.assertToldOnce(self.told(**{place: method}), r"\S+\.Inner\.test_it")
        with self.subTest("cleanup"):
            self.assertToldOnce(self.told(test_it=clean_up), r"\S+\.Inner\.test_it")

    def test_a_failure_in_set_up_test_data_names_the_class(self):
        def fail(cls):
            cases._shared(cls.make_client).get("/livez")
            raise AssertionError("no")

        self.assertToldOnce(self.told(setUpTestData=classmethod(fail)), r"\S+\.Inner")

    def test_what_the_guard_says_of_a_class_names_the_class(self):
        def leave_a_thread(_):
            ended = threading.Event()
            thread = threading.Thread(target=ended.wait)
            thread.start()
            self.addCleanup(thread.join)
            self.addCleanup(ended.set)

        text = self.told(setUpTestData=classmethod(leave_a_thread))
        self.assertIn("was left running", text)
        self.assertRegex(text, rf"\nrerun: {SEED}=.* \S+\.Inner\n")

    def assertToldOnce(self, text: str, name: str) -> None:
        self.assertIn("last request: GET /livez\n  answered with 200 OK\n", text)
        self.assertRegex(text, rf"\nrerun: {SEED}=.* {name}\n")
        self.assertEqual(1, text.count("rerun: "), text)

    def test_a_subtest_does_not_show_the_request_of_the_one_before_it(self):
        def method(test):
            with test.subTest(1):
                test.client.get("/livez")
            with test.subTest(2):
                test.fail("no")

        self.assertIn("no request was sent", self.told(test_it=method))

    def test_a_500_shows_the_traceback_that_the_service_logged(self):
        def method(test):
            with mock.patch("shop.storage.database.Database.ping", side_effect=ZeroDivisionError("deep inside")):
                test.client.get("/readyz")

        self.assertRegex(self.told(test_it=method), r"answered with 500 (.*\n)*.*Traceback (.*\n)*.*deep inside")


class ClientTest(ApiTestCase):
    """The in-process client."""

    def test_a_path_that_is_not_ascii_is_sent_as_browsers_send_it(self):
        self.client.get("/users/café", status=401)
        self.assertIn("GET /users/caf%C3%A9\n", cases.last_exchange())
