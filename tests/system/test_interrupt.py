"""Ctrl-C ends `scripts/test` at once: it shows the results so far and leaves no process and no file."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import psutil

from tests.harness import results

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 30.0  # seconds; only a broken promise takes that long

WAITING = """
import os, signal, subprocess, tempfile, unittest

class WaitingTest(unittest.TestCase):
    def test_before(self): pass

    def test_waiting(self):
        file = tempfile.NamedTemporaryFile(delete=False)
        # A process whose parent has ended, in a session of its own.
        script = "sleep 60 >/dev/null 2>&1 & echo $!"
        sleeping = subprocess.check_output(["sh", "-c", script], start_new_session=True, text=True)
        print(os.getpid(), sleeping.strip(), file.name, flush=True)
        signal.pause()
"""


class InterruptTest(unittest.TestCase):
    """Ctrl-C, and SIGTERM."""

    def test_it_shows_the_results_so_far_and_leaves_nothing(self):
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        (folder / "test_waiting.py").write_text(WAITING)
        for number, options in ((signal.SIGINT, []), (signal.SIGINT, ["--parallel"]), (signal.SIGTERM, [])):
            command = [sys.executable, "-W", "error", "-m", "tests.harness.runner", "-v", "test_waiting", *options]
            environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
            with (
                self.subTest(number=number, options=options),
                subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                ) as process,
            ):
                worker, sleeping, file = process.stdout.readline().split()
                left = [psutil.Process(int(pid)) for pid in (worker, sleeping)]
                process.send_signal(number)
                _, stderr = process.communicate(timeout=LIMIT)
                self.assertEqual(results.INTERRUPTED, process.returncode)
                self.assertEqual([], [each for each in left if each.is_running()])
                self.assertFalse(Path(file).parent.exists())
                self.assertRegex(
                    stderr, r"test_before .* ok\n(.*\n)*.*interrupted during .*waiting\n(.*\n)*Ran \d test"
                )
                self.assertNotIn("Traceback", stderr)
