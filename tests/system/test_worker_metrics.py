"""`shop.serving.metrics.WorkerTotals`: sums over worker processes that come and go."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from prometheus_client import CollectorRegistry

from shop.serving.metrics import WorkerTotals

REQUESTS = "shop_http_request_duration_seconds_count"
# A worker process: it counts as the lines on its standard input say, and answers each with an empty line.
WORKER = """
from shop.serving.metrics import Metrics
metrics = Metrics()
print(flush=True)
while line := input():
    exec(line)
    print(flush=True)
"""


class WorkerTotalsTest(unittest.TestCase):
    """A folder that several processes write to."""

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.registry = CollectorRegistry()
        self.registry.register(WorkerTotals(self.folder))

    def start(self) -> subprocess.Popen[str]:
        """Start a worker process."""
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(self.folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(self.kill, worker)
        worker.stdout.readline()
        return worker

    def tell(self, worker: subprocess.Popen[str], line: str) -> None:
        """Run a line of Python in a worker."""
        print(line, file=worker.stdin, flush=True)
        self.assertEqual("\n", worker.stdout.readline())

    def kill(self, worker: subprocess.Popen[str]) -> None:
        """Kill a worker that may have ended already."""
        worker.kill()
        worker.communicate()

    def totals(self) -> dict[str, float | None]:
        """Return some of the sums."""
        labels = {"method": "GET", "route": "/orders", "status": "200"}
        return {
            "requests": self.registry.get_sample_value(REQUESTS, labels),
            "below 25 ms": self.registry.get_sample_value(
                REQUESTS.replace("count", "bucket"), labels | {"le": "0.025"}
            ),
            "busy": self.registry.get_sample_value("shop_busy_threads"),
            "workers": self.registry.get_sample_value("shop_workers"),
            "starts": self.registry.get_sample_value("shop_worker_starts_total"),
        }

    def test_counters_keep_what_ended_workers_counted_and_gauges_do_not(self):
        for number in (1, 2):
            worker = self.start()
            self.tell(worker, "metrics.count_request(('GET', '/orders', 200), 0.02, None)")
            self.tell(worker, "metrics.count_request(('GET', '/orders', 200), 0.03, None)")
            self.tell(worker, "metrics.start_request(); metrics.refresh()")
            expected = {"requests": 2 * number, "below 25 ms": number, "starts": number}
            self.assertEqual(expected | {"busy": 1, "workers": 1}, self.totals())
            self.kill(worker)
            for _ in range(2):
                self.assertEqual(expected | {"busy": None, "workers": None}, self.totals())

    def test_files_of_ended_workers_are_removed_and_files_just_made_ignored(self):
        ended, running = self.start(), self.start()
        for worker in (ended, running):
            self.tell(worker, "metrics.start_request(); metrics.refresh()")
        self.assertEqual((2, 2), (self.totals()["workers"], self.totals()["busy"]))
        self.kill(ended)
        self.assertEqual((1, 1), (self.totals()["workers"], self.totals()["busy"]))
        self.assertEqual({str(running.pid)}, {path.stem.split("_")[-1] for path in self.folder.iterdir()})
        (self.folder / f"counter_{os.getpid()}.db").touch()
        self.assertEqual(1, self.totals()["workers"])
