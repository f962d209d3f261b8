"""`shop.security.cursors`: every position comes back, and nothing else is one."""

import unittest
from base64 import urlsafe_b64decode
from datetime import UTC, datetime
from uuid import UUID

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

    def test_cursor_has_a_signature_of_128_bits_after_time_and_id(self):
        raw = urlsafe_b64decode(self.cursors.write(Position(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), ID), "list"))
        self.assertEqual((1_000_000).to_bytes(8, "big") + UUID(ID).bytes, raw[:24])
        self.assertEqual(16, len(raw[24:]))

    def test_current_key_signs_and_former_keys_only_verify(self):
        former, rotated = Cursors("f" * 32, ()), Cursors(KEY, ("f" * 32, "g" * 32))
        position = Position(datetime(2026, 3, 1, tzinfo=UTC), ID)
        self.assertEqual(position, rotated.read(former.write(position, "list"), "list"))
        self.assertEqual(position, self.cursors.read(rotated.write(position, "list"), "list"))

    def test_cursor_with_a_foreign_character_is_refused(self):
        cursor = self.cursors.write(Position(datetime(2026, 3, 1, tzinfo=UTC), ID), "list")
        for text in (f"{cursor}\n", f"!{cursor}", f"{cursor[:8]} {cursor[8:]}", f"{cursor}\u00e9"):
            with self.subTest(text), self.assertRaises(ValueError):
                self.cursors.read(text, "list")
