"""Defines the test classes of the examples in docs/testing.md."""

import re
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "testing.md"


def examples() -> list[tuple[int, str]]:
    """Return the Python examples of the guide, each with its first line."""
    text = GUIDE.read_text("utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, example.start(1)) + 1, example[1]) for example in found]


def define_examples(module: dict[str, Any], wanted: Callable[[type[unittest.TestCase]], bool]) -> None:
    """Define the `wanted` test classes of the examples in a module, so that unittest finds them there by name."""
    for line, source in examples():
        defined: dict[str, Any] = {"__name__": module["__name__"]}
        # Blank lines before it, so that a traceback names the line of the guide.
        exec(compile("\n" * (line - 1) + source, str(GUIDE), "exec"), defined)
        for name, item in defined.items():
            if isinstance(item, type) and item.__module__ == module["__name__"] and wanted(item):
                item.__qualname__ = f"{name}OfLine{line}"
                module[item.__qualname__] = item
