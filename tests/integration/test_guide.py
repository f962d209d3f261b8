"""The examples of docs/testing.md, run: each is a module of tests of its own."""

import re
import unittest
from pathlib import Path

from tests.harness.postgres import setUpModule, tearDownModule  # noqa: F401

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "testing.md"


def examples() -> list[tuple[int, str]]:
    """Return the Python examples of the guide, each with the line that it begins on."""
    text = GUIDE.read_text("utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, example.start(1)) + 1, example[1]) for example in found]


def run_examples() -> None:
    """Define the test classes of every example in this module, where any runner finds them by name."""
    for line, source in examples():
        # Blank lines before it, so that a traceback names the line of the guide.
        defined: dict[str, object] = {"__name__": __name__}
        exec(compile("\n" * (line - 1) + source, str(GUIDE), "exec"), defined)
        for name, item in defined.items():
            if isinstance(item, type) and item.__module__ == __name__:
                item.__qualname__ = f"{name}OfLine{line}"
                globals()[item.__qualname__] = item


run_examples()


class GuideTest(unittest.TestCase):
    """The guide itself."""

    def test_the_guide_has_examples(self):
        self.assertLessEqual(4, len(examples()))
