"""`shop.serving.metrics` and `shop.serving.exporter`: what is counted, and the shared folder."""

import fcntl
import gc
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from shop.serving import exporter
from shop.serving.metrics import Metrics

REQUESTS = "shop_http_request_duration_seconds_count"


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
