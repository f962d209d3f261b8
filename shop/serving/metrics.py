"""Metrics for Prometheus, in the multiprocess mode of `prometheus_client`.

Each worker process writes its counts to files in a shared folder. The server process adds them up and serves them.
The library chooses this mode when it is imported: `shop.serving.exporter` sets ``PROMETHEUS_MULTIPROC_DIR`` before.
"""

import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import ref

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    Metric,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from shop import __version__

# Method, template of the path (None for an unknown path), status.
Kind = tuple[str, str | None, int]

# In seconds. A read takes one or two milliseconds, a login about thirty, and a statement at most ten seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# How often a worker writes its busy threads and open connections, in seconds.
REFRESH_INTERVAL = 1


class Metrics:
    """The metrics of one worker process. `registry` has them, and without the multiprocess mode also their values."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Histogram(
            "shop_http_request_duration_seconds",
            "Requests, and how long the service took to answer them",
            ("method", "route", "status"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._problems = Counter("shop_problems", "Error responses", ("code",), registry=self.registry)
        self.slow_statements = Counter(
            "shop_slow_statements", "Statements that took SHOP_SLOW_QUERY_MS or longer", registry=self.registry
        )
        self._busy_threads = self._gauge("shop_busy_threads", "Threads that are serving a request")
        self._database_connections = self._gauge("shop_database_connections", "Open connections to the database")
        self.hashing_requests = self._gauge("shop_hashing_requests", "Logins and registrations in progress")
        self._gauge("shop_workers", "Worker processes that are running").set(1)
        Counter("shop_worker_starts", "Worker processes that were started", registry=self.registry).inc()
        # A cache: looking up a series by its three labels costs as much as counting in it.
        self._series: dict[Kind, Histogram] = {}
        self._in_progress: list[None] = []
        self._connections: set[ref[Any]] = set()

    def _gauge(self, name: str, description: str) -> Gauge:
        """Return a gauge that is summed over the workers that are alive."""
        return Gauge(name, description, multiprocess_mode="livesum", registry=self.registry)

    def start_request(self) -> None:
        """Count a request as in progress, until `end_request`."""
        # Writing a gauge twice a request would double what metrics cost. Appending and popping need no lock.
        self._in_progress.append(None)

    def end_request(self) -> None:
        """Count a request as no longer in progress."""
        self._in_progress.pop()

    def count_request(self, kind: Kind, seconds: float, problem: str | None) -> None:
        """Count a request that was answered in `seconds`; `problem` is the code of the error, if it got one."""
        series = self._series.get(kind)
        if series is None:
            # A client can invent methods and paths. They must not create new series.
            method, route, status = kind
            series = self._requests.labels(method if method in METHODS else "other", route or "none", str(status))
            if method in METHODS:
                self._series[kind] = series
        series.observe(seconds)
        if problem is not None:
            self._problems.labels(problem).inc()

    def add_connection(self, connection: object) -> None:
        """Count a new connection to the database, until it is closed or garbage-collected."""
        self._connections.add(ref(connection, self._connections.discard))

    def refresh(self) -> None:
        """Write the gauges of busy threads and open connections.

        The garbage collector may drop a connection in a thread that holds the library's lock, so a connection that
        ends cannot write its gauge itself.
        """
        self._busy_threads.set(len(self._in_progress))
        connections = [connection() for connection in self._connections.copy()]
        opened = [connection for connection in connections if connection is not None and not connection.closed]
        self._database_connections.set(len(opened))

    def start_refreshing(self) -> None:
        """Start a thread that calls `refresh` at regular intervals."""
        threading.Thread(target=self._refresh_forever, daemon=True, name="metrics").start()

    def _refresh_forever(self) -> None:
        pause = threading.Event()
        while True:
            self.refresh()
            pause.wait(REFRESH_INTERVAL)


@contextmanager
def served(host: str, port: int, registry: CollectorRegistry) -> Iterator[None]:
    """Serve the metrics of `registry` at an address for the duration of the block.

    Raises:
        OSError: The address cannot be bound.
    """
    server, thread = start_http_server(port, host, registry)
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def server_registry(folder: Path) -> CollectorRegistry:
    """Return the metrics that the server process serves: its own, and the sums over the workers of `folder`."""
    registry = CollectorRegistry()
    Info("shop", "The version that is running", registry=registry).info({"version": __version__})
    ProcessCollector(registry=registry)
    registry.register(WorkerTotals(folder))
    return registry


class WorkerTotals(Collector):
    """Sums over all workers. Counters include workers that have ended; gauges do not.

    The library keeps the files of ended workers. Here they are added to a sum in memory and removed, because a full
    ``/dev/shm`` would kill the workers that write to it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended: list[Metric] = []
        self._lock = threading.Lock()

    def collect(self) -> list[Metric]:
        """Return the sums, as the library asks for them."""
        with self._lock:
            # A file that the library has just made is empty, and it could not read that.
            files = {path for path in self._folder.glob("*.db") if path.stat().st_size}
            ended = {path for path in files if not _is_alive(int(path.stem.rpartition("_")[2]))}
            counters = [path for path in ended if not path.name.startswith("gauge")]
            self._ended = _sum([*self._ended, *_read(counters)])
            for path in ended:
                path.unlink()
            return _sum([*self._ended, *_read(files - ended)])


def _read(files: Iterable[Path]) -> Iterable[Metric]:
    return MultiProcessCollector.merge(map(str, files))  # type: ignore[no-untyped-call,no-any-return]


def _sum(metrics: Iterable[Metric]) -> list[Metric]:
    """Return one metric for each name, with samples of the same labels added up."""
    summed: dict[str, Metric] = {}
    values: dict[tuple[str, str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
    for metric in metrics:
        summed.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
        for sample in metric.samples:
            values[metric.name, sample.name, tuple(sorted(sample.labels.items()))] += sample.value
    for (name, sample_name, labels), value in values.items():
        summed[name].add_sample(sample_name, dict(labels), value)
    return list(summed.values())


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        # There is no such process, or it belongs to somebody else and only has the number of the worker.
        return False
    return True
