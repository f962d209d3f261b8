"""Keeps an embedded PostgreSQL server between runs, for `scripts/test --keep-server`.

The keeper is a process of its own. It stops the server when no run has used it for 15 minutes.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2

from tests import binding
from tests.harness.leftovers import in_memory
from tests.harness.results import PROGRAM, say

LIFETIME = 15 * 60.0  # seconds after the last run
STATE = Path(sys.prefix) / "kept-server-url"  # its time is the last use
LOG = STATE.with_suffix(".log")


def use() -> None:
    """Have this run use the kept server; start it if it does not run."""
    with _locked():
        url = _running()
        if url is None:
            STATE.unlink(missing_ok=True)
            _start()
            url = STATE.read_text()
        os.utime(STATE)
    os.environ |= {f"{binding.PREFIX}SERVER": "url", f"{binding.PREFIX}DATABASE_URL": url}


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    with STATE.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _running() -> str | None:
    """Return the URL of the kept server if it answers: its keeper may have been killed."""
    try:
        url = STATE.read_text()
        psycopg2.connect(url).close()
    except (OSError, psycopg2.Error):
        return None
    return url


def _start() -> None:
    reading, writing = os.pipe()
    # Not this process's own output: a program that reads it would wait for the end of the server.
    with LOG.open("w") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", __name__, str(writing)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[writing],
            start_new_session=True,
        )
    os.close(writing)
    with os.fdopen(reading) as pipe:
        # The keeper closes the pipe when the server is ready, or when it ends.
        pipe.read()
    if not STATE.exists():
        sys.exit(f"{PROGRAM}: the embedded server did not start\n{LOG.read_text()}")
    say(f"keeping an embedded server for {LIFETIME / 60:.0f} minutes after the last run (process {keeper.pid})")
    keeper.returncode = 0  # It outlives this process on purpose.


def keep(ready: int, lifetime: float = LIFETIME) -> None:
    """Start a server, close the file descriptor `ready`, and stop the server `lifetime` seconds after its last use."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    server = binding.embedded()
    try:
        STATE.write_text(server.url)
        os.close(ready)
        left = lifetime
        while left > 0 and not ended.wait(left):
            with _locked():  # No run may begin to use the server while it is given up.
                left = STATE.stat().st_mtime + lifetime - time.time() if STATE.exists() else 0.0
                if left <= 0:
                    STATE.unlink(missing_ok=True)
    finally:
        STATE.unlink(missing_ok=True)
        server.stop()


if __name__ == "__main__":
    tempfile.tempdir = in_memory()
    keep(int(sys.argv[1]))
