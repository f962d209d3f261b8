"""`shop serve` with invalid settings; `tests.system.test_serve` has the mistakes that only a start shows."""

import unittest

from tests.support.commands import call_shop

SECRET = "the secret key of these tests, 32 bytes and more"
URL = "postgresql://shop:hunter2@127.0.0.1/shop"


class RefusalTest(unittest.TestCase):
    """Mistakes that the settings show."""

    def test_each_mistake_gets_one_sentence_status_2_and_no_secret_in_it(self):
        given = {"SHOP_SECRET_KEY": SECRET, "SHOP_DATABASE_URL": URL}
        for mistake, arguments, variables, words in (
            ("an invalid port", [], {"SHOP_PORT": "eighty"}, ["SHOP_PORT"]),
            ("an option beyond its limit", ["--port", "99999"], {}, ["--port should be less than"]),
            (
                "a malformed URL",
                [],
                given | {"SHOP_DATABASE_URL": "postgresql://shop:hunter2@[::1"},
                ["SHOP_DATABASE_URL"],
            ),
            (
                "a database of another kind",
                [],
                given | {"SHOP_DATABASE_URL": URL.replace("postgresql", "mysql")},
                ["SHOP_DATABASE_URL", "postgresql://"],
            ),
            ("a key that is too short", [], {"SHOP_SECRET_KEY": "hunter2"}, ["SHOP_SECRET_KEY", "32 bytes"]),
        ):
            with self.subTest(mistake):
                status, out, err = call_shop("serve", *arguments, **variables)
                self.assertEqual((2, ""), (status, out))
                self.assertRegex(err, r"\Ashop: [^\n]+\n\Z", "a refusal is one line on stderr")
                for word in words:
                    self.assertIn(word, err)
                for secret in ("hunter2", SECRET):
                    self.assertNotIn(secret, err)
