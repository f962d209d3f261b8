"""Removes what a run leaves behind, however it ends: processes that tests have started, and temporary files."""

import atexit
import contextlib
import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

import psutil

from tests.harness.results import say

GRACE = 1.0  # seconds that processes have to end by themselves
STOP_GRACE = 5.0  # seconds that they have after SIGTERM
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
MEMORY = "/dev/shm"
ROOM = 2 << 30  # bytes that must be free there


def use_own_temporary_directory() -> None:
    """Have this process and its children make their temporary files in a folder that is removed at exit."""
    folder = tempfile.mkdtemp(prefix="run-", dir=in_memory())
    os.chmod(folder, 0o711)  # The embedded server may run as another user.
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def in_memory() -> str | None:
    """Return the folder whose files are in memory: there, a database is copied in 25 ms instead of 200.

    None if TMPDIR is set, or if there is no such folder that has room and runs programs.
    """
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK | os.X_OK):
        return None
    facts = os.statvfs(MEMORY)
    fits = facts.f_bavail * facts.f_frsize >= ROOM and not facts.f_flag & os.ST_NOEXEC
    return MEMORY if fits else None


@contextlib.contextmanager
def processes_ended() -> Iterator[None]:
    """End the processes that start in the block and outlive it, also those whose parents have ended (Linux)."""
    before = set(psutil.Process().children())
    _control(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        children = set(psutil.Process().children()) - before
        trees = [process for child in children for process in (child, *_descendants(child))]
        # A server that has lost its parent may be shutting down.
        _, left = psutil.wait_procs(trees, GRACE)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process in children:
                    say(f"ended a process that a test left behind: {process.pid} {' '.join(process.cmdline())[:100]}")
                    process.terminate()
        _, left = psutil.wait_procs(left, STOP_GRACE)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, STOP_GRACE)
        _control(_PR_SET_CHILD_SUBREAPER, 0)


def end_with_parent(number: int) -> None:
    """Have this process get the signal `number` when its parent ends (Linux)."""
    _control(_PR_SET_PDEATHSIG, number)


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _control(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)
