"""`scripts/test --keep-server`: the server outlives the run, and stops when no run has used it for a while."""

import os
import threading
import unittest
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import psycopg2

from tests import binding
from tests.harness import keeper
from tests.harness.live import until


class KeeperTest(unittest.TestCase):
    """The keeper, in this process."""

    def setUp(self):
        folder = Path(self.enterContext(TemporaryDirectory()))
        self.state = folder / "kept-server-url"
        self.enterContext(mock.patch.multiple(keeper, STATE=self.state, LOG=folder / "log"))
        self.enterContext(mock.patch.dict(os.environ))

    def test_it_serves_runs_and_stops_after_the_last_one(self):
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        with mock.patch("signal.signal"):  # Only the main thread may use it.
            thread = threading.Thread(target=keeper.keep, args=(writing, 0.5))
            thread.start()
            self.addCleanup(thread.join)
            self.assertEqual(b"", os.read(reading, 1), "the pipe is closed when the server is ready")
        url = self.state.read_text()
        keeper.use()
        self.assertEqual(url, os.environ[f"{binding.PREFIX}DATABASE_URL"])
        with closing(psycopg2.connect(url)):
            pass
        until(lambda: not thread.is_alive(), "the server has stopped")
        self.assertFalse(self.state.exists())
        with self.assertRaises(psycopg2.OperationalError):
            psycopg2.connect(url)

    def test_a_server_that_does_not_answer_is_replaced(self):
        self.state.write_text("postgresql:///postgres?host=/nowhere")
        with mock.patch.object(keeper, "_start", lambda: self.state.write_text("another")):
            keeper.use()
        self.assertEqual("another", os.environ[f"{binding.PREFIX}DATABASE_URL"])
