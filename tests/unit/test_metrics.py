"""`shop.serving.metrics`: the folder that processes share, and what is left of it."""

import fcntl
import os
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

from shop.serving import metrics


class FolderTest(unittest.TestCase):
    """The folder."""

    def setUp(self):
        self.home = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(mock.patch.object(metrics, "SHARED_MEMORY", str(self.home)))

    def test_it_is_private_and_gone_afterwards(self):
        with metrics._folder() as folder:
            self.assertEqual(0o700, folder.stat().st_mode & 0o777)
            (folder / "slot-0").touch()
        self.assertEqual([], list(self.home.iterdir()))

    def test_what_a_killed_service_has_left_is_removed_and_what_one_uses_is_not(self):
        left, used, strange = (self.home / f"{metrics.FOLDER}{name}" for name in ("left", "used", "strange"))
        for folder in (left, used):
            folder.mkdir()
            (folder / "lock").touch()
        strange.mkdir()
        with (used / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with metrics._folder() as ours, metrics._folder() as another:
                self.assertEqual({used, strange, ours, another}, set(self.home.iterdir()))

    def test_a_slot_lives_as_long_as_somebody_holds_it(self):
        for slot in (0, 1):
            (self.home / f"slot-{slot}").touch()
        with (self.home / "slot-1").open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            self.assertEqual([1], list(metrics._living(self.home)))
        self.assertEqual([], list(metrics._living(self.home)))

    def test_cells_that_are_just_being_made_are_none(self):
        path = self.home / "cells-0"
        self.assertEqual([], list(metrics._read_cells(path)))
        path.write_bytes(b"\0" * 3)
        self.assertEqual([], list(metrics._read_cells(path)))
        cells = metrics._make_cells(path, 3)
        cells[2] = 1.5
        self.assertEqual([0, 0, 1.5], list(metrics._read_cells(path)))

    def test_of_all_requests_in_flight_the_one_that_began_first_is_the_oldest(self):
        now = time.monotonic()
        for slot, began in enumerate(((now - 60, 0), (now - 5, now - 30))):
            cells = metrics._make_cells(self.home / f"cells-{slot}", metrics.FIRST_THREAD + len(began))
            cells[metrics.PID] = os.getpid()
            for cell, since in enumerate(began, metrics.FIRST_THREAD):
                cells[cell] = since
            held = self.enterContext((self.home / f"slot-{slot}").open("w"))
            fcntl.flock(held, fcntl.LOCK_EX)
        found = {metric.name: metric.samples[0].value for metric in metrics._Workers(self.home).collect()}
        self.assertEqual((2, 4, 3), tuple(found[f"shop_{of}"] for of in ("workers", "threads", "busy_threads")))
        self.assertAlmostEqual(60, found["shop_oldest_request_seconds"], delta=5)


class OnlyMetricsTest(unittest.TestCase):
    """The answer where it cannot be given."""

    def test_metrics_that_cannot_be_read_are_a_500_and_in_the_log(self):
        started = mock.Mock()
        answer = metrics._only_metrics(mock.Mock(side_effect=ValueError("a file is broken")))
        with self.assertLogs("shop.serving.metrics", "ERROR") as logs:
            self.assertEqual([b"the metrics cannot be read\n"], answer({"PATH_INFO": "/metrics"}, started))
        self.assertIn("a file is broken", logs.output[0])
        self.assertEqual("500 Internal Server Error", started.call_args.args[0])
