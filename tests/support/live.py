"""The command `shop` in a process of its own: `LiveShop` is `shop serve`, `run_shop` runs any other command."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.harness.findings import spending
from tests.harness.gates import SWITCH
from tests.harness.live import LIMIT, ROOT, LiveServer, free_port, kill

READY = r"shop: serving on (http://\S+)"
# What a process that belongs to the service, but is no worker, has in its command line.
WATCHER = "watch.sh"
NOT_WORKERS = (WATCHER, "resource_tracker")


def inherited(*, measured: bool = False) -> dict[str, str]:
    """Return the environment without the service's settings.

    Args:
        measured: Whether coverage.py measures the process, which then takes 0.2 seconds longer to start.
    """
    left_out = ("SHOP_",) if measured else ("SHOP_", SWITCH)
    return {name: value for name, value in os.environ.items() if not name.startswith(left_out)}


def serve_command(port: int, *arguments: str | Path) -> list[str]:
    """Return the command that serves on `port`."""
    return [sys.executable, "-m", "shop", "serve", "--port", str(port), *map(str, arguments)]


class Command:
    """`shop` with these arguments; `environment` is all that it sees of `SHOP_*`."""

    def __init__(self, *arguments: str | Path, **environment: str) -> None:
        self.arguments = tuple(map(str, arguments))
        self.environment = environment

    def start(self, **options: Any) -> subprocess.Popen[str]:
        """Start it; `options` go to Popen."""
        return subprocess.Popen(
            [sys.executable, "-m", "shop", *self.arguments],
            env=inherited() | self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    @spending("server processes")
    def run(self) -> subprocess.CompletedProcess[str]:
        """Run it to its end.

        Raises:
            subprocess.TimeoutExpired: It does not end; it has been killed.
        """
        with self.start() as process:
            try:
                stdout, stderr = process.communicate(timeout=LIMIT)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(self.arguments, process.returncode, stdout, stderr)


def run_at_once(*commands: Command) -> list[subprocess.CompletedProcess[str]]:
    """Run all commands at the same time to their ends, and return what they said, in order.

    Raises:
        subprocess.TimeoutExpired: One does not end; it has been killed.
    """
    with ThreadPoolExecutor(len(commands)) as threads:
        return list(threads.map(Command.run, commands))


def run_shop(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end; see `Command`."""
    return Command(*arguments, **environment).run()


class LiveShop(LiveServer):
    """`shop serve` on a port of the loopback address, with its workers and its database.

    Args:
        data_dir: Data home of its embedded database; None where `environment` names a database.
        port: The port; None for a free one.
        environment: `SHOP_*` variables; it sees no others. Without SHOP_WORKERS, it has one worker: each takes half a
            second to start.
        arguments: Further arguments of `shop serve`.
        measured: Whether coverage.py measures it.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
        arguments: Iterable[str] = (),
        measured: bool = True,
    ) -> None:
        port = port or free_port()
        home = [] if data_dir is None else ["--data-dir", str(data_dir)]
        command = serve_command(port, *home, *arguments)
        variables = {"SHOP_WORKERS": "1"} | dict(environment or {})
        super().__init__(command, inherited(measured=measured) | variables, READY, port)

    def workers(self) -> list[psutil.Process]:
        """Return its worker processes."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if not any(word in _words(child) for word in NOT_WORKERS)]

    def databases(self) -> list[psutil.Process]:
        """Return the main processes of its own database: one, or none where it was given a database."""
        children = psutil.Process(self.process.pid).children()
        watchers = [child for child in children if WATCHER in _words(child)]
        return [database for watcher in watchers if (database := database_of(watcher)) is not None]

    def family(self) -> list[psutil.Process]:
        """Return all its processes: the server first, its workers, the watcher of its database, the database's."""
        family = super().family()
        for database in self.databases():
            family += [database, *database.children()]
        return family

    def interrupt_group(self) -> None:
        """Do what Ctrl-C in a terminal does: SIGINT to each process of the foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill_everything(self) -> None:
        """Kill all its processes with SIGKILL, at one moment as far as they can tell, and return when they are gone."""
        # What is stopped does not notice the death of the others, so nobody has the time to put things in order.
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        kill(self.family())


def database_of(watcher: psutil.Process) -> psutil.Process | None:
    """Return the main process of the database that the process of a `watch.sh` watches, if it runs."""
    with suppress(FileNotFoundError, psutil.NoSuchProcess):
        _, _, home, *_ = watcher.cmdline()
        # `pg_ctl` starts it, so it is nobody's child here.
        return psutil.Process(int((Path(home) / "data" / "postmaster.pid").read_text().split("\n")[0]))
    return None


def copy_of_home(home: Path, place: Path) -> Path:
    """Copy a data home that nobody serves to `place`: a tenth of the work of making one."""
    subprocess.run(["cp", "-Rp", home, place], check=True)
    (place / "postgres.log").unlink()  # so that the copy's log tells of the copy alone
    return place


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
