"""What a failure tells: the last exchange, its statements, the seed, and how to run just this test again."""

import unittest

from tests.harness import client
from tests.support.cases import DomainTestCase


class StoryTest(unittest.TestCase):
    """Failures of an inner test, as a run would print them."""

    def told(self, method):
        """Return what a run says of a test that does `method`."""
        inner = type("Inner", (DomainTestCase,), {"test_it": method})("test_it")
        result = unittest.TestResult()
        inner.run(result)
        ((_, text),) = [*result.failures, *result.errors]
        return text

    def test_a_failure_says_how_to_repeat_it(self):
        text = self.told(lambda test: test.fail("no"))
        self.assertRegex(
            text, r"no request was sent\nrerun: SHOP_TEST_SEED=\d+ scripts/test (--shuffle=\S+ )?\S*Inner\.test_it"
        )

    def test_a_failure_shows_the_last_exchange_with_its_statements(self):
        def method(test):
            with client._recorded("GET", "/orders/1") as exchange:
                exchange.statements.append(client.QueryEvent("SELECT 1", (), 0.0125, None))
            test.fail("no")

        self.assertIn("last request: GET /orders/1\n   12.50 ms  SELECT 1\n", self.told(method))

    def test_a_traceback_ends_in_the_line_of_the_test(self):
        def method(test):
            test.assertEqual(1, 2)  # the guilty line

        *_, innermost = self.told(method).split("  File ")
        self.assertIn("# the guilty line", innermost)

    def test_a_subtest_tells_its_own_story(self):
        def method(test):
            with test.subTest(number=1):
                test.fail("no")

        self.assertEqual(1, self.told(method).count("rerun:"))

    def test_what_passes_or_is_skipped_tells_nothing(self):
        for method in (lambda test: None, lambda test: test.skipTest("reason")):
            inner = type("Inner", (DomainTestCase,), {"test_it": method})("test_it")
            result = unittest.TestResult()
            inner.run(result)
            self.assertTrue(result.wasSuccessful())
