"""Rows for the tests."""

import random
from typing import Any

from loans.models import Book, Member


class Source:
    """Where generated values come from."""

    def __init__(self) -> None:
        self.reseed("0")

    def reseed(self, seed: str, used: int = 0) -> None:
        """Begin again: equal seeds give equal values."""
        self.random = random.Random(seed)
        self._used = used

    def number(self) -> int:
        """Return a number that was not returned since `reseed`."""
        self._used += 1
        return self._used


source = Source()


def member(**values: Any) -> Member:
    """Create a member."""
    number = source.number()
    defaults = {"name": f"Member {number}", "key": f"{source.random.getrandbits(64):x}-{number}"}
    return Member.create(**defaults | values)


def book(**values: Any) -> Book:
    """Create a book."""
    return Book.create(**{"title": f"Book {source.number()}"} | values)
