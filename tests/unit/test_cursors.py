"""`shop.security.cursors`: every position comes back, and nothing else is one."""

import unittest
from datetime import UTC, datetime

from shop.security.cursors import Cursors, Position

KEY = "k" * 32
ID = "0199e0c1-0000-7000-8000-000000000001"


class CursorsTest(unittest.TestCase):
    """Writing and reading."""

    def setUp(self):
        self.cursors = Cursors(KEY, ())

    def test_a_position_of_any_year_comes_back(self):
        for moment in (
            datetime.min.replace(tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
            datetime(2026, 3, 1, 12, 0, 0, 1, UTC),
            datetime.max.replace(tzinfo=UTC),
        ):
            with self.subTest(moment):
                position = Position(moment, ID)
                self.assertEqual(position, self.cursors.read(self.cursors.write(position, "list"), "list"))

    def test_a_text_that_no_cursor_has_is_a_value_error(self):
        cursor = self.cursors.write(Position(datetime(2026, 3, 1, tzinfo=UTC), ID), "list")
        for text in ("", "a", "\u00e9", "AAAA", cursor[:-4], f"{cursor}AAAA", cursor.swapcase()):
            with self.subTest(text), self.assertRaises(ValueError):
                self.cursors.read(text, "list")
