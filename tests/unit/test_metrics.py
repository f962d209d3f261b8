"""`shop.serving.metrics` and `shop.serving.exporter`: what is counted, sums over processes, and the shared folder."""

import fcntl
import gc
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from prometheus_client import CollectorRegistry

from shop.serving import exporter
from shop.serving.metrics import Metrics, WorkerTotals

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


class MetricsTest(unittest.TestCase):
    """The metrics of one process, without files."""

    def setUp(self):
        self.metrics = Metrics()

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of a metric now."""
        self.metrics.refresh()
        return self.metrics.registry.get_sample_value(name, labels)

    def test_invented_methods_share_one_series_and_are_not_remembered(self):
        for number in range(3):
            self.metrics.count_request((f"BREW{number}", None, 400), 0.1, "BAD_REQUEST")
        self.assertEqual({}, self.metrics._series)
        self.assertEqual(3, self.value(REQUESTS, method="other", route="none", status="400"))
        self.assertEqual(3, self.value("shop_problems_total", code="BAD_REQUEST"))

    def test_a_thread_is_busy_from_the_start_of_a_request_to_its_end(self):
        self.metrics.start_request()
        self.metrics.start_request()
        self.assertEqual(2, self.value("shop_busy_threads"))
        self.metrics.end_request()
        self.assertEqual(1, self.value("shop_busy_threads"))

    def test_a_connection_counts_until_it_is_closed(self):
        first, second = mock.Mock(closed=0), mock.Mock(closed=0)
        for connection in (first, second):
            self.metrics.add_connection(connection)
        self.assertEqual(2, self.value("shop_database_connections"))
        first.closed = 1
        self.assertEqual(1, self.value("shop_database_connections"))

    def test_a_connection_that_was_garbage_collected_does_not_count(self):
        connection = mock.Mock(closed=0)
        self.metrics.add_connection(connection)
        del connection
        gc.collect()  # A Mock refers to itself.
        self.assertEqual(0, self.value("shop_database_connections"))


class WorkerTotalsTest(unittest.TestCase):
    """Sums over worker processes that come and go."""

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
        for number in range(1, 4):
            worker = self.start()
            self.tell(worker, "metrics.count_request(('GET', '/orders', 200), 0.02, None)")
            self.tell(worker, "metrics.count_request(('GET', '/orders', 200), 0.03, None)")
            self.tell(worker, "metrics.start_request(); metrics.refresh()")
            expected = {"requests": 2 * number, "below 25 ms": number, "starts": number}
            self.assertEqual(expected | {"busy": 1, "workers": 1}, self.totals())
            self.kill(worker)
            for _ in range(2):
                self.assertEqual(expected | {"busy": None, "workers": None}, self.totals())

    def test_files_of_ended_workers_are_removed(self):
        ended, running = self.start(), self.start()
        self.kill(ended)
        self.assertEqual(1, self.totals()["workers"])
        self.assertEqual({str(running.pid)}, {path.stem.split("_")[-1] for path in self.folder.iterdir()})

    def test_a_file_that_was_just_made_is_ignored(self):
        self.start()
        (self.folder / f"counter_{os.getpid()}.db").touch()
        self.assertEqual(1, self.totals()["workers"])

    def test_gauges_are_sums_over_running_workers(self):
        for worker in (self.start(), self.start()):
            self.tell(worker, "metrics.start_request(); metrics.refresh()")
        self.assertEqual((2, 2), (self.totals()["workers"], self.totals()["busy"]))


class SharedFolderTest(unittest.TestCase):
    """The folder that processes share."""

    def setUp(self):
        self.home = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(mock.patch.object(exporter, "SHARED_MEMORY", str(self.home)))

    def test_the_folder_is_private_and_removed_at_the_end(self):
        with exporter.shared_folder() as folder:
            self.assertEqual(0o700, folder.stat().st_mode & 0o777)
            (folder / "counter_1.db").touch()
        self.assertEqual([], list(self.home.iterdir()))

    def test_the_temporary_directory_is_used_without_shared_memory(self):
        with (
            mock.patch.object(exporter, "SHARED_MEMORY", str(self.home / "missing")),
            mock.patch("tempfile.gettempdir", return_value=str(self.home)),
            exporter.shared_folder() as folder,
        ):
            self.assertEqual(self.home, folder.parent)

    def test_only_folders_of_killed_servers_are_removed_at_the_start(self):
        left, used, strange = (self.home / f"{exporter.PREFIX}{name}" for name in ("left", "used", "strange"))
        for folder in (left, used):
            folder.mkdir()
            (folder / "lock").touch()
        strange.mkdir()
        with (used / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with exporter.shared_folder() as ours, exporter.shared_folder() as another:
                self.assertEqual({used, strange, ours, another}, set(self.home.iterdir()))
