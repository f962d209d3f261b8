"""`shop.settings`: what is refused, in which words, and that secrets do not show."""

import os
import re
import traceback
import unittest
from pathlib import Path
from unittest import mock

from shop.settings import Settings, SettingsError
from shop.storage.database import Database

KEY = "k" * 32


def load(**environment):
    """Return the settings that `environment` gives, and nothing else of the real one."""
    with mock.patch.dict(os.environ, environment, clear=True):
        return Settings.load()


class SettingsTest(unittest.TestCase):
    """Reading the environment."""

    def test_all_wrong_variables_are_named_at_once(self):
        with self.assertRaises(SettingsError) as caught:
            load(SHOP_PORT="http", SHOP_THREADS="0", SHOP_SECRET_KEY="short")
        for name in ("SHOP_PORT", "SHOP_THREADS", "SHOP_SECRET_KEY"):
            self.assertIn(name, str(caught.exception))

    def test_an_error_never_repeats_a_secret(self):
        for variable, value in {
            "SHOP_SECRET_KEY": "hunter2",
            "SHOP_SECRET_KEY_FALLBACKS": f"{KEY},hunter2",
            "SHOP_DATABASE_URL": "mysql://shop:hunter2@localhost/shop",
        }.items():
            with self.subTest(variable):
                with self.assertRaises(SettingsError) as caught:
                    load(**{variable: value})
                self.assertIn(variable, str(caught.exception))
                # Where nobody catches it, as under a WSGI server, all of it is shown.
                self.assertNotIn("hunter2", "".join(traceback.format_exception(caught.exception)))

    def test_a_database_url_that_libpq_cannot_read_is_refused(self):
        with self.assertRaisesRegex(SettingsError, "SHOP_DATABASE_URL is not a URL that"):
            load(SHOP_DATABASE_URL="postgresql://shop:hunter2@localhost/shop?no_such_option=1")

    def test_secrets_do_not_show_in_a_repr(self):
        settings = load(
            SHOP_DATABASE_URL="postgresql://shop:hunter2@localhost/shop",
            SHOP_SECRET_KEY=KEY,
            SHOP_SECRET_KEY_FALLBACKS=f"{KEY}1,{KEY}2",
        )
        self.assertNotIn("hunter2", repr(settings))
        self.assertNotIn(KEY, repr(settings))

    def test_a_key_has_at_least_32_bytes_in_however_many_characters(self):
        for key in ("k" * 32, "\u00e9" * 16):
            self.assertEqual(key, load(SHOP_SECRET_KEY=key).secret_key.get_secret_value())
        with self.assertRaisesRegex(SettingsError, "SHOP_SECRET_KEY must have at least 32 bytes"):
            load(SHOP_SECRET_KEY="k" * 31)

    def test_fallback_keys_are_separated_by_commas(self):
        keys = load(SHOP_SECRET_KEY_FALLBACKS=f"{KEY}1, {KEY}2,").secret_key_fallbacks
        self.assertEqual([f"{KEY}1", f"{KEY}2"], [key.get_secret_value() for key in keys])

    def test_the_short_scheme_of_a_url_is_taken_too(self):
        url = load(SHOP_DATABASE_URL="postgres://localhost/shop").database_url
        self.assertEqual("postgresql://localhost/shop", url.get_secret_value())

    def test_an_empty_variable_is_an_unset_one(self):
        self.assertIsNone(load(SHOP_SECRET_KEY="").secret_key)


class PoolerTest(unittest.TestCase):
    """deploy/pgbouncer.ini, which makes the settings that the service would make and PgBouncer drops."""

    def test_it_makes_the_settings_of_a_direct_connection(self):
        direct = Database(None)
        direct.configure(load(SHOP_DATABASE_URL="postgresql://shop@localhost/shop"))
        wanted = dict(re.findall(r"-c (\w+)=(\S+)", direct.connect_params["options"]))
        pooled = (Path(__file__).parents[2] / "deploy/pgbouncer.ini").read_text("utf-8")
        made = dict(re.findall(r"SET (\w+) = '*([^';]+)", pooled)) | dict(re.findall(r" (timezone)=(\S+)", pooled))
        self.assertEqual(wanted, made)
