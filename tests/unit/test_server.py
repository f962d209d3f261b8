"""`shop.serving.server`: what only chance would show of the running command, one step at a time."""

import shutil
import signal
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from shop.serving import server
from shop.settings import SettingsError


class SavedKeyTest(unittest.TestCase):
    def setUp(self):
        self.path = Path(self.enterContext(tempfile.TemporaryDirectory())) / "secret-key"

    def test_if_two_processes_generate_a_key_both_use_the_same(self):
        theirs = "t" * 64

        def the_other_is_quicker(_bytes):
            self.path.write_text(theirs)
            return "o" * 64

        with mock.patch("shop.serving.server.secrets.token_urlsafe", the_other_is_quicker):
            self.assertEqual(theirs, server._saved_key(self.path))
        self.assertEqual(theirs, server._saved_key(self.path))
        self.assertEqual([self.path], list(self.path.parent.iterdir()), "no draft is left")

    def test_a_key_that_cannot_be_read_is_refused_with_its_path(self):
        spoilers = (
            self.path.mkdir,
            lambda: self.path.write_bytes(b"\xff" * 64),
            lambda: self.path.symlink_to("nowhere"),
            lambda: self.path.write_text("short"),
        )
        for spoil in spoilers:
            spoil()
            with self.subTest(path=self.path), self.assertRaisesRegex(SettingsError, str(self.path)):
                server._saved_key(self.path)
            shutil.rmtree(self.path) if self.path.is_dir() else self.path.unlink()


class SignalTest(unittest.TestCase):
    def test_closed_terminal_stops_the_service_except_under_nohup(self):
        for handler, stops in ((signal.SIG_DFL, True), (signal.SIG_IGN, False)):
            before = signal.signal(signal.SIGHUP, handler)
            try:
                stopping = server._stop_signals()
            finally:
                signal.signal(signal.SIGHUP, before)
            with self.subTest(handler):
                self.assertEqual(stops, signal.SIGHUP in stopping)
                self.assertLessEqual({signal.SIGINT, signal.SIGTERM}, stopping)

    def test_a_server_that_misses_the_word_to_stop_is_told_again(self):
        class Gone(Exception):
            pass

        granian = mock.Mock()
        granian.signal_handler_interrupt.side_effect = [None, None, Gone]
        drain = mock.Mock()
        with (
            mock.patch("signal.sigwait"),
            mock.patch.object(server, "STOP_RETRY_SECONDS", 0.001),
            self.assertRaises(Gone),
        ):
            server._stop_on_signal(granian, {signal.SIGTERM}, drain)
        drain.assert_called_once_with()
