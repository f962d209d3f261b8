"""`shop.settings`: what is refused, in which words, and that secrets do not show."""

import os
import re
import traceback
import unittest
from pathlib import Path
from typing import ClassVar
from unittest import mock

from shop.settings import Settings, SettingsError, unused_variables
from shop.storage.database import Database

KEY = "k" * 32
ROOT = Path(__file__).parents[2]


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

    def test_an_option_is_named_as_the_user_gave_it(self):
        environment = mock.patch.dict(os.environ, {"SHOP_WORKERS": "0"}, clear=True)
        with environment, self.assertRaises(SettingsError) as caught:
            Settings.load(port=99999, threads=0, data_dir=7, host=None)
        said = str(caught.exception)
        for name in ("--port should be", "--threads should be", "--data-dir ", "SHOP_WORKERS should be"):
            self.assertIn(name, said)
        self.assertNotIn("SHOP_PORT", said)

    def test_a_setting_is_named_as_it_was_given(self):
        with mock.patch.dict(os.environ, {"SHOP_PORT": "9000"}, clear=True):
            settings = Settings.load(host="localhost", port=None)
        self.assertEqual(("--host", "SHOP_PORT"), (settings.given_as("host"), settings.given_as("port")))

    def test_origins_are_as_browsers_send_them(self):
        origins = load(
            SHOP_CORS_ORIGINS="https://Shop.example.com, http://localhost:5173,https://a.example:443,"
        ).cors_origins
        self.assertEqual(("https://shop.example.com", "http://localhost:5173", "https://a.example"), origins)
        self.assertEqual(("http://[::1]:8000",), load(SHOP_CORS_ORIGINS="http://[::1]:8000").cors_origins)
        self.assertEqual(("http://a.example",), load(SHOP_CORS_ORIGINS="http://a.example:80").cors_origins)
        self.assertEqual(("http://a.example:443",), load(SHOP_CORS_ORIGINS="http://a.example:443").cors_origins)
        self.assertEqual((), load().cors_origins)

    def test_what_is_no_origin_is_refused(self):
        for value in (
            "*",
            "null",
            "https://*.example.com",
            "https://shop.example.com/",
            "https://shop.example.com/app",
            "https://ada@shop.example.com",
            "https://shop.example.com?a",
            "shop.example.com",
            "https://",
            "https://shop.example.com:port",
            "https://a.example https://b.example",
            "https://a.example,*",
        ):
            with self.subTest(value), self.assertRaisesRegex(SettingsError, "SHOP_CORS_ORIGINS must be origins"):
                load(SHOP_CORS_ORIGINS=value)

    def test_an_empty_variable_is_an_unset_one(self):
        self.assertIsNone(load(SHOP_SECRET_KEY="").secret_key)


class UnusedTest(unittest.TestCase):
    """Variables that begin with our prefix and are no settings."""

    # As `kubectl exec` shows them beside a Service `shop` and a Service `shop-metrics`.
    LINKS: ClassVar = {
        "SHOP_SERVICE_HOST": "10.0.0.1",
        "SHOP_SERVICE_PORT": "8000",
        "SHOP_SERVICE_PORT_HTTP": "8000",
        "SHOP_PORT": "tcp://10.0.0.1:8000",
        "SHOP_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "SHOP_PORT_8000_TCP_PROTO": "tcp",
        "SHOP_PORT_8000_TCP_PORT": "8000",
        "SHOP_PORT_8000_TCP_ADDR": "10.0.0.1",
        "SHOP_METRICS_SERVICE_HOST": "fd00::1",
        "SHOP_METRICS_SERVICE_PORT": "9090",
        "SHOP_METRICS_PORT": "udp://[fd00::1]:9090",
        "SHOP_METRICS_PORT_9090_UDP": "udp://[fd00::1]:9090",
        "SHOP_METRICS_PORT_9090_UDP_ADDR": "fd00::1",
    }

    def unused(self, **environment):
        """Return what is said of an environment."""
        with mock.patch.dict(os.environ, environment, clear=True):
            return unused_variables()

    def test_links_of_kubernetes_leave_the_defaults(self):
        settings = load(**self.LINKS)
        self.assertEqual((8000, None), (settings.port, settings.metrics_port))

    def test_a_link_in_the_place_of_a_setting_is_reported_in_one_line(self):
        self.assertEqual(
            [
                f"{name} is ignored: {self.LINKS[name]} is the address of a Kubernetes Service, and not a port"
                for name in ("SHOP_METRICS_PORT", "SHOP_PORT")
            ],
            self.unused(**self.LINKS),
        )

    def test_a_link_in_another_setting_is_still_refused(self):
        with self.assertRaisesRegex(SettingsError, "SHOP_WORKERS"):
            load(SHOP_WORKERS="tcp://10.0.0.1:8000")

    def test_a_misspelt_variable_is_reported_with_the_closest_setting(self):
        for name, closest in (
            ("SHOP_WORKER", "SHOP_WORKERS"),
            ("shop_worker", "SHOP_WORKERS"),
            ("SHOP_SECRETKEY", "SHOP_SECRET_KEY"),
            ("SHOP_DATABASE_UR", "SHOP_DATABASE_URL"),
        ):
            with self.subTest(name):
                sentence = f"{name.upper()} is not a setting and is ignored; did you mean {closest}?"
                self.assertEqual([sentence], self.unused(**{name: "hunter2"}))
        self.assertEqual(["SHOP_XQJ is not a setting and is ignored"], self.unused(SHOP_XQJ="1"))

    def test_settings_and_variables_of_others_are_not_reported(self):
        known = ("SHOP_PORT", "shop_workers", "SHOP_TEST_SERVER", "SHOP_TEST_SEED", "SHOP_IMAGE", "SHOP_BASE_IMAGE")
        of_compose = re.findall(r"\$\{(SHOP_\w+)", (ROOT / "compose.yaml").read_text("utf-8"))
        self.assertIn("SHOP_PUBLISH", of_compose)
        self.assertEqual([], self.unused(OTHER="1", SHOP_WORKR="", **dict.fromkeys([*known, *of_compose], "1")))


class PoolerTest(unittest.TestCase):
    """deploy/pgbouncer.ini, which makes the settings that the service would make and PgBouncer drops."""

    def test_it_makes_the_settings_of_a_direct_connection(self):
        direct = Database(None)
        direct.configure(load(SHOP_DATABASE_URL="postgresql://shop@localhost/shop"))
        wanted = dict(re.findall(r"-c (\w+)=(\S+)", direct.connect_params["options"]))
        pooled = (Path(__file__).parents[2] / "deploy/pgbouncer.ini").read_text("utf-8")
        made = dict(re.findall(r"SET (\w+) = '*([^';]+)", pooled)) | dict(re.findall(r" (timezone)=(\S+)", pooled))
        self.assertEqual(wanted, made)
