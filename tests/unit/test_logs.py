"""`shop.serving.logs`: the format of log lines, and the redaction of errors."""

import json
import logging
import os
import unittest
from unittest import mock

from peewee import DataError, IntegrityError
from pydantic import BaseModel, ValidationError

from shop.serving import logs
from shop.settings import Settings

SECRET = "hunter2"


class LogsTest(unittest.TestCase):
    """A writer on a pipe, and a logger that writes to it."""

    as_text = False

    def setUp(self):
        self.reading, writing = os.pipe()
        self.addCleanup(os.close, self.reading)
        self.addCleanup(os.close, writing)
        self.writer = logs.LogWriter(as_text=self.as_text, level=logging.INFO, descriptor=writing)
        self.logger = logging.Logger("shop.test")
        self.logger.addHandler(self.writer)

    def read(self) -> str:
        """Return the output since the last call."""
        return os.read(self.reading, 1 << 20).decode()

    def logged(self, error: Exception) -> str:
        """Log a caught error and return its line."""
        try:
            raise error
        except Exception as caught:
            self.logger.exception("it failed", exc_info=caught)
        return self.read()


class JsonTest(LogsTest):
    """Lines in JSON."""

    def test_a_record_is_one_object_with_its_fields(self):
        with mock.patch.object(logs.current_request, "request_id", "r-1"):
            self.logger.warning("slow %s", "statement", extra={"fields": {"sql": "SELECT %s"}})
        line = json.loads(self.read())
        self.assertRegex(line.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
        self.assertEqual(
            {
                "level": "warning",
                "message": "slow statement",
                "logger": "shop.test",
                "request_id": "r-1",
                "sql": "SELECT %s",
            },
            line,
        )

    def test_a_long_line_loses_its_middle_and_fits_into_one_write(self):
        for text in ("x" * 10_000, '"\\\n' * 5_000, "é" * 10_000, "\ud800" * 3_000):
            with self.subTest(text[:3]):
                self.writer.write("error", "it failed", {"exception": f"begin {text} end"})
                written = self.read()
                self.assertLessEqual(len(written.encode()), logs.LONGEST_LINE)
                self.assertRegex(json.loads(written)["exception"], r"(?s)^begin .* … .* end$")

    def test_an_error_has_its_traceback_and_its_cause(self):
        try:
            try:
                raise KeyError("first")
            except KeyError as error:
                raise RuntimeError("second") from error
        except RuntimeError as error:
            logged = json.loads(self.logged(error))["exception"]
        self.assertRegex(
            logged, r"(?s)test_logs.py.*builtins.KeyError: 'first'\nthen:\n.*builtins.RuntimeError: second$"
        )

    def test_an_error_has_its_context_unless_that_is_suppressed(self):
        for hidden in (False, True):
            try:
                try:
                    raise KeyError("first")
                except KeyError:
                    if hidden:
                        raise RuntimeError("second") from None
                    raise RuntimeError("second")  # noqa: B904 - The missing `from` is the case under test.
            except RuntimeError as error:
                logged = json.loads(self.logged(error))["exception"]
            with self.subTest(hidden=hidden):
                self.assertEqual(not hidden, "KeyError: 'first'\nthen:\n" in logged)

    def test_a_warning_has_its_error_in_one_line(self):
        try:
            try:
                raise KeyError("first")
            except KeyError as error:
                raise RuntimeError("second") from error
        except RuntimeError as error:
            self.logger.warning("it failed", exc_info=error)
        self.assertEqual("builtins.RuntimeError: second", json.loads(self.read())["exception"])

    def test_values_in_the_message_of_the_driver_are_left_out(self):
        class Diagnosis:
            message_primary = 'new row for relation "users" violates check constraint "users_name"'

        class DriverError(Exception):
            diag, pgcode = Diagnosis, "23514"

        text = f"{Diagnosis.message_primary}\nDETAIL:  Failing row contains (ada, {SECRET})."
        driver = DriverError(text)
        error = IntegrityError(text)
        error.orig, error.__cause__ = driver, driver
        line = self.logged(error)
        self.assertNotIn(SECRET, line)
        message = 'new row for relation "users" violates check constraint "users_name" (SQLSTATE 23514)'
        self.assertEqual(2, json.loads(line)["exception"].count(message))

    def test_a_data_exception_is_logged_by_its_code_alone(self):
        class Diagnosis:
            message_primary = f'invalid input syntax for type uuid: "{SECRET}"'

        error = DataError(Diagnosis.message_primary)
        error.orig = mock.Mock(diag=Diagnosis, pgcode="22P02")
        self.assertIn("peewee.DataError: SQLSTATE 22P02", self.assertSecretLeftOut(error))

    def test_the_input_in_a_validation_error_is_left_out(self):
        class Model(BaseModel):
            number: int

        with self.assertRaises(ValidationError) as caught:
            Model(number=SECRET)
        self.assertSecretLeftOut(caught.exception)

    def assertSecretLeftOut(self, error: Exception) -> str:
        """Fail if the secret in the message of `error` is in its log line; return the line."""
        self.assertIn(SECRET, str(error))
        line = self.logged(error)
        self.assertNotIn(SECRET, line)
        return line

    def test_writing_without_a_reader_does_not_fail(self):
        reading, writing = os.pipe()
        os.close(reading)
        self.addCleanup(os.close, writing)
        logs.LogWriter(as_text=False, level=logging.INFO, descriptor=writing).write("info", "request", {})


class TextTest(LogsTest):
    """Lines as text."""

    as_text = True

    def test_fields_follow_the_message_and_empty_ones_are_left_out(self):
        self.writer.write("info", "request", {"route": "/orders", "status": 201, "user_id": None})
        self.assertRegex(
            self.read(), r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z INFO    request route=/orders status=201\n$"
        )

    def test_control_characters_are_escaped(self):
        self.writer.write("info", "request", {"method": "A\nB\r\x1b[2J\x9b"})
        self.assertRegex(self.read(), r"method=A B\\x0d\\x1b\[2J\\x9b\n$")

    def test_an_error_has_its_traceback_below_the_line(self):
        self.assertRegex(
            self.logged(RuntimeError("why")), r"(?s)it failed logger=shop.test\n  File .*RuntimeError: why\n$"
        )


class ConfigureTest(unittest.TestCase):
    """Levels and formats."""

    def configured(self, **overrides: str) -> logs.LogWriter:
        """Call `configure`, and undo its changes at the end of the test."""
        root = logging.getLogger()
        self.addCleanup(root.setLevel, root.level)
        self.addCleanup(setattr, root, "handlers", list(root.handlers))
        self.addCleanup(logging.captureWarnings, False)
        for name in ("shop", "_granian"):
            self.addCleanup(logging.getLogger(name).setLevel, logging.getLogger(name).level)
        with mock.patch.dict(os.environ, clear=True):
            return logs.configure(Settings.load(**overrides))

    def test_debug_records_of_peewee_are_dropped_at_every_level(self):
        self.configured(log_level="debug")
        self.assertTrue(logging.getLogger("shop.api").isEnabledFor(logging.DEBUG))
        self.assertFalse(logging.getLogger("peewee").isEnabledFor(logging.INFO))

    def test_without_a_setting_the_format_is_text_only_on_a_terminal(self):
        for terminal, setting, as_text in (
            (True, None, True),
            (False, None, False),
            (True, "json", False),
            (False, "text", True),
        ):
            with self.subTest(terminal=terminal, setting=setting), mock.patch("os.isatty", return_value=terminal):
                self.assertEqual(as_text, self.configured(log_format=setting)._as_text)
