"""`shop.exactjson`: accepted and refused text, error messages, and exact numbers."""

import unittest
from decimal import Decimal

from shop import exactjson


class ReadingTest(unittest.TestCase):
    """`loads` is strict."""

    def test_fractions_are_decimals_with_their_own_digits(self):
        self.assertEqual(
            [Decimal("29.99"), Decimal("0.1000000000000000055511151231257827")],
            exactjson.loads(b"[29.99, 0.1000000000000000055511151231257827]"),
        )

    def test_anything_but_one_json_document_is_refused_with_a_reason(self):
        for text, reason in {
            b'{"a": NaN}': "expected value",
            b'{"a": Infinity}': "expected value",
            b'{"a": -Infinity}': "invalid number",
            b'{"a": 1, "a": 2}': 'duplicate key "a"',
            b'{"a": {"b": 1, "b": 1}}': 'duplicate key "b"',
            b"{} {}": "trailing characters",
            b"": "EOF",
            b'{"a": 1': "EOF",
            b"{'a': 1}": "key must be a string",
            b'{"a": 01}': "invalid number",
            b'{"a": 1,}': "trailing comma",
            b'\xef\xbb\xbf{"a": 1}': "byte-order mark",
            b'{"a": "\xff"}': "not UTF-8 at byte 7",
            '{"a": 1}'.encode("utf-16"): "not UTF-8 at byte 0",
            rb'{"a": "\ud800"}': "hex escape",
            b'{"a": "\xed\xa0\x80"}': "not UTF-8",
            b'{"a": "\n"}': "control character",
            b'{"a": 1e99999999999999999999}': "a number in it is out of range",
            b"[" * 33 + b"]" * 33: "more than 32 levels",
            b'{"a":' * 33 + b"1" + b"}" * 33: "more than 32 levels",
            b"[" * 100_000: "recursion limit",
        }.items():
            with self.subTest(text[:40]):
                with self.assertRaises(ValueError) as caught:
                    exactjson.loads(text)
                self.assertIn(reason, str(caught.exception))

    def test_nesting_up_to_the_limit_is_read(self):
        self.assertEqual(b"[" * 32 + b"]" * 32, exactjson.dumps(exactjson.loads(b"[" * 32 + b"]" * 32)))
        exactjson.loads(b"[" + b",".join([b"[]"] * 100) + b"]")

    def test_depth_counts_the_levels_and_not_the_containers(self):
        deep = b"[" * 31 + b"]" * 31
        exactjson.loads(b"[" + deep + b"," + deep + b"]")
        with self.assertRaisesRegex(ValueError, "more than 32 levels"):
            exactjson.loads(b"[" + deep + b",[" + deep + b"]]")

    def test_document_with_too_many_values_is_refused(self):
        most = exactjson.MAX_VALUES
        for text in (
            b"[" + b",".join([b"1"] * most) + b"]",
            exactjson.dumps({str(number): 1 for number in range(most)}),
            b"[[" + b",".join([b"1"] * (most - 2)) + b"],2]",
        ):
            with self.subTest(text[:20]):
                exactjson.loads(text)
                with self.assertRaisesRegex(ValueError, f"more than {most} values"):
                    exactjson.loads(text[:-1] + (b',"one more":1}' if text.startswith(b"{") else b",1]"))


class WritingTest(unittest.TestCase):
    """`dumps` is exact."""

    def test_decimals_become_numbers_with_their_own_digits(self):
        self.assertEqual(
            b'{"total":109.97,"price":10.00,"big":100}',
            exactjson.dumps({"total": Decimal("109.97"), "price": Decimal("10.00"), "big": Decimal("1E+2")}),
        )

    def test_value_without_a_json_form_is_refused(self):
        for value in (Decimal("NaN"), Decimal("Infinity"), object()):
            with self.subTest(value), self.assertRaises(TypeError):
                exactjson.dumps(value)
