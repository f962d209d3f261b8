"""`shop.security.cursors`: every position comes back, and nothing else is one."""

import unittest
from base64 import urlsafe_b64encode
from datetime import UTC, datetime

from shop.security.cursors import Cursors, Position, _signature

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

    def test_a_signed_text_that_is_no_position_is_a_value_error(self):
        for payload in (b"", b"short", bytes(8), b"\x7f" + bytes(23), b"\x80" + bytes(23), bytes(25)):
            with self.subTest(payload), self.assertRaises(ValueError):
                signed = payload + _signature(self.cursors._keys[0], payload, "list")
                self.cursors.read(urlsafe_b64encode(signed).decode(), "list")
