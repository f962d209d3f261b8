"""The examples of docs/testing.md that need no server process, each a module of tests of its own."""

import unittest

from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import LiveServerTestCase
from tests.support.guide import define_examples, examples

define_examples(globals(), lambda kind: not issubclass(kind, LiveServerTestCase))


class GuideTest(unittest.TestCase):
    """The guide itself."""

    def test_the_guide_has_examples(self):
        self.assertLessEqual(4, len(examples()))
