"""Metrics for Prometheus: written by each worker process into shared memory, read and served by their parent.

The parent serves them on a port of their own, so that they can be read while every thread of the service is stuck.

Counts and times are `prometheus_client`'s, in its multiprocess mode: a file of numbers for each process. By default it
names them by process, and they would pile up with every worker that is replaced; here a worker claims a *slot*, and
goes on where the one before it has stopped counting. What is true only now — threads that are busy, connections that
are open — stands in a row of *cells* of each slot, and counts for as long as its worker lives.
"""

import fcntl
import itertools
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from mmap import mmap
from pathlib import Path
from typing import Any
from weakref import ref
from wsgiref.simple_server import WSGIRequestHandler, make_server

import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, ProcessCollector, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

from shop import __version__
from shop.settings import Settings

log = logging.getLogger(__name__)
Kind = tuple[str, str | None, int]

# In seconds. A read takes one or two milliseconds, a log-in some thirty, and a statement ten seconds at most.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
FOLDER = "shop-metrics-"
# Files in memory, which can be written to in a read-only container too; where there are none, the temporary directory.
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - each run has a folder of its own there, which nobody else may enter
# The first cells of a slot; then comes one for each thread: when the request began that it is at, 0 when it is at none.
PID, CONNECTIONS, HASHING, FIRST_THREAD = range(4)
CELL = 8  # bytes
# The library's files begin with this size; one that is there with nothing in it is read as empty, a shorter one is not.
BEGINNING = 1 << 16


class Metrics:
    """What a worker process writes.

    Args:
        folder: Where the parent reads it.
        threads: How many requests the worker serves at a time.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        slot = self._claim(folder)
        self._cells = _make_cells(folder / f"cells-{slot}", FIRST_THREAD + threads)
        self._cells[PID] = os.getpid()
        self._free = list(range(FIRST_THREAD, FIRST_THREAD + threads))
        self._lock = threading.Lock()
        self._connections: set[ref[Any]] = set()
        for kind in ("counter", "histogram"):
            _make_file(folder / f"{kind}_{slot}.db")
        # The library looks for its folder nowhere else.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]
        registry = CollectorRegistry()
        self._requests = Histogram(
            "shop_http_request_duration_seconds",
            "Requests, and how long they took to be answered",
            ("method", "route", "status"),
            buckets=BUCKETS,
            registry=registry,
        )
        self._problems = Counter("shop_problems", "Errors that were answered", ("code",), registry=registry)
        self.slow_statements = Counter(
            "shop_slow_statements", "Statements that took SHOP_SLOW_QUERY_MS or longer", registry=registry
        )
        starts = Counter("shop_worker_starts", "Worker processes that were started", registry=registry)
        starts.inc()
        # Looking up the series of three labels costs as much as counting in it.
        self._series: dict[Kind, Histogram] = {}

    def _claim(self, folder: Path) -> int:
        """Return the lowest number that no living process has; it is ours for as long as we live."""
        for slot in itertools.count():
            self._claimed = os.open(folder / f"slot-{slot}", os.O_RDWR | os.O_CREAT, 0o600)
            with suppress(BlockingIOError):
                fcntl.flock(self._claimed, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return slot
            os.close(self._claimed)
        raise AssertionError("numbers do not end")

    def begin(self) -> int | None:
        """Note that a request begins, and return what `end` takes."""
        try:
            cell = self._free.pop()
        except IndexError:
            return None
        self._cells[cell] = time.monotonic()
        return cell

    def end(self, cell: int | None, kind: Kind, seconds: float, problem: str | None) -> None:
        """Count a request.

        Args:
            cell: What `begin` returned; None for a request that was refused before it began.
            kind: What it was: its method, the template of its path (None where the path is none of ours), its status.
            seconds: How long it took.
            problem: The code of the error, if it is one.
        """
        if cell is not None:
            self._cells[cell] = 0.0
            self._free.append(cell)
        series = self._series.get(kind)
        if series is None:
            # What a client makes up must not become a series of its own.
            method, route, status = kind
            series = self._requests.labels(method if method in METHODS else "other", route or "none", str(status))
            if method in METHODS:
                self._series[kind] = series
        series.observe(seconds)
        if problem is not None:
            self._problems.labels(problem).inc()

    def note_connection(self, connection: object) -> None:
        """Note a new connection to the database, which counts until it is closed or, with its thread, gone."""
        self._connections.add(ref(connection, self._note_end))
        self._count_connections()

    def _note_end(self, gone: "ref[Any]") -> None:
        self._connections.discard(gone)
        self._count_connections()

    def _count_connections(self) -> None:
        # Without a lock: a connection may go at any moment, also in a thread that holds one.
        known = [connection() for connection in self._connections.copy()]
        self._cells[CONNECTIONS] = sum(connection is not None and not connection.closed for connection in known)

    def note_hashing(self, more: int) -> None:
        """Note that so many requests more hash a password, or wait for that; less than 0 when they have done."""
        with self._lock:
            self._cells[HASHING] += more


@contextmanager
def exported(settings: Settings) -> Iterator[Path]:
    """Serve the metrics at ``/metrics`` meanwhile, and yield the folder that workers write to.

    Args:
        settings: With a port for the metrics.

    Raises:
        OSError: The address cannot be listened on.
    """
    assert settings.metrics_port is not None  # noqa: S101 - Who wants no metrics does not come here.
    with _folder() as folder:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
        registry.register(_Workers(folder))
        server = make_server(
            settings.metrics_host,
            settings.metrics_port,
            _only_metrics(make_wsgi_app(registry)),
            _ServerOfIpv6 if ":" in settings.metrics_host else ThreadingWSGIServer,
            handler_class=_Handler,
        )
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield folder
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _ServerOfIpv6(ThreadingWSGIServer):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    # A client that says nothing is left after so many seconds.
    timeout = 10

    def log_message(self, *_: Any) -> None:
        """Log nothing: the library would, in a format of its own."""


class _Workers:
    """Reads the cells of the workers that live."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as the library asks for them."""
        yield _gauge("shop_info", "The version that runs", [({"version": __version__}, 1)])
        found = {slot: _read_cells(self._folder / f"cells-{slot}") for slot in _living(self._folder)}
        living = {slot: cells for slot, cells in found.items() if len(cells) > FIRST_THREAD}
        began = [cell for cells in living.values() for cell in cells[FIRST_THREAD:]]
        busy = [cell for cell in began if cell]
        for name, words, value in (
            ("shop_workers", "Worker processes that live", len(living)),
            ("shop_threads", "Threads that they have for requests", len(began)),
            ("shop_busy_threads", "Threads that are at a request", len(busy)),
            (
                "shop_oldest_request_seconds",
                "Since when the longest of the requests in flight is served",
                time.monotonic() - min(busy) if busy else 0,
            ),
            ("shop_database_connections", "Connections to the database", sum(c[CONNECTIONS] for c in living.values())),
            ("shop_hashing_requests", "Log-ins and registrations under way", sum(c[HASHING] for c in living.values())),
        ):
            yield _gauge(name, words, [({}, value)])
        yield from _usage({slot: int(cells[PID]) for slot, cells in living.items()})


def _usage(pids: dict[int, int]) -> Iterator[Metric]:
    memory = GaugeMetricFamily("shop_worker_resident_memory_bytes", "Memory of a worker process", labels=["worker"])
    cpu = CounterMetricFamily("shop_worker_cpu_seconds", "Time a worker process has computed", labels=["worker"])
    for slot, pid in pids.items():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            times = process.cpu_times()
            memory.add_metric([str(slot)], process.memory_info().rss)
            cpu.add_metric([str(slot)], times.user + times.system)
    yield memory
    yield cpu


def _gauge(name: str, words: str, samples: Sequence[tuple[dict[str, str], float]]) -> Metric:
    gauge = GaugeMetricFamily(name, words)
    for labels, value in samples:
        gauge.add_sample(name, labels, value)
    return gauge


def _only_metrics(app: Any) -> Any:
    """Return the library's application, which answers at any path, for ``/metrics`` alone, and with errors logged."""

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] != "/metrics":
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"the metrics are at /metrics\n"]
        try:
            return app(environ, start_response)
        except Exception:
            log.exception("the metrics cannot be read")
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"the metrics cannot be read\n"]

    return answer


@contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder, and remove it in the end, with those that were left behind by services that were killed."""
    home = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else tempfile.gettempdir()
    for left in Path(home).glob(f"{FOLDER}*"):
        _remove_if_left(left)
    draft = Path(tempfile.mkdtemp(prefix=f".{FOLDER}", dir=home))
    lock = os.open(draft / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Only now does it have the name under which others look for what was left behind.
    folder = draft.rename(draft.with_name(draft.name[1:]))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_if_left(folder: Path) -> None:
    # Not ours, or gone already.
    with suppress(OSError):
        lock = os.open(folder / "lock", os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(lock)


def _living(folder: Path) -> Iterator[int]:
    """Yield the slots that a living process has."""
    for path in sorted(folder.glob("slot-*")):
        lock = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # Not left to `close`: a worker that is forked in this moment has the file open too.
            fcntl.flock(lock, fcntl.LOCK_UN)
        except BlockingIOError:
            yield int(path.name.partition("-")[2])
        finally:
            os.close(lock)


def _make_cells(path: Path, count: int) -> Any:
    """Return cells in shared memory, all 0."""
    with path.open("wb+") as file:
        file.truncate(count * CELL)
        return memoryview(mmap(file.fileno(), count * CELL)).cast("d")


def _read_cells(path: Path) -> "array[float]":
    cells = array("d")
    with suppress(FileNotFoundError):
        text = path.read_bytes()
        cells.frombytes(text[: len(text) // CELL * CELL])
    return cells


def _make_file(path: Path) -> None:
    """Make a file of the library's, whole from the first moment on: the parent may read it any time."""
    if not path.exists():
        draft = path.with_name(f"new-{path.name}")
        draft.write_bytes(bytes(BEGINNING))
        draft.rename(path)
