"""The data home: where it is, how its folders are made, and what an earlier server may have left in it.

lock          locked (flock) while a server runs here; holds the service's pid and then the socket's directory
data/         the data directory; data.new while it is being made
socket/       the Unix socket; if that path is too long, it is in a folder below the temporary directory
postgres.log  the server's log since its last start, and postgres.log.1 the one before
programs-*/   a copy of the programs, if the server's account cannot run the installed ones
"""

import hashlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from shop.embedded.programs import Account, EmbeddedError

CHECKOUT = Path(__file__).resolve().parents[2]  # or where packages are installed
SOCKET_PATH_MAX = 85  # bytes; the kernel's limit for the whole name is 104 to 108
FAST_SHUTDOWN = 60.0  # seconds that a forgotten server gets to shut down
POLL = 0.005  # seconds between two looks at a process that is not our child


def default_home() -> Path:
    """Return the data home that is used if none is set.

    A checkout has data of its own; root's is below `/var/lib/shop`, because the account that runs root's server may
    not be able to enter the checkout. An installed `shop` uses the user's data directory.
    """
    is_checkout = (CHECKOUT / "scripts" / "serve").is_file()
    if os.name == "posix" and os.geteuid() == 0:
        name = re.sub(r"[^A-Za-z0-9._-]", "", CHECKOUT.name)[:20]
        digest = hashlib.sha256(os.fsencode(CHECKOUT)).hexdigest()[:12]
        return Path("/var/lib/shop", f"{name}-{digest}" if is_checkout else "")
    if is_checkout:
        return CHECKOUT / ".shop"
    given = os.environ.get("XDG_DATA_HOME", "")
    usual = "~/Library/Application Support" if sys.platform == "darwin" else "~/.local/share"
    return Path(given if os.path.isabs(given) else os.path.expanduser(usual)) / "shop"


def make_home(home: Path, account: Account | None) -> None:
    """Make the data home and its missing parents; folders that exist keep their modes.

    Raises:
        EmbeddedError: The account that runs root's server cannot reach it. Nothing was made.
        OSError: Something on the way is not a directory.
    """
    nearest = next(path for path in (home, *home.parents) if path.is_dir())
    command = ["/bin/sh", "-c", 'cd "$1"', "sh", os.fspath(nearest)]
    if account and subprocess.run([*account.words, *command], cwd="/", stderr=subprocess.DEVNULL).returncode:
        raise EmbeddedError(
            f"PostgreSQL does not run as root, and the account {account.uid}, which runs it instead, may not enter"
            f" {nearest}. Set SHOP_DATA_DIR (for tests: TMPDIR) to a directory that it can reach, such as one below"
            " /var/lib."
        )
    for path in (*reversed(home.parents), home):
        if not path.is_dir():
            path.mkdir(exist_ok=True)
            # The account of root's server passes through, and needs to see nothing.
            path.chmod(0o711 if account else 0o700)


def give_to(account: Account | None, path: Path, mode: int) -> None:
    """Make `path` the server's own: the server trusts everyone who can enter it."""
    path.chmod(mode)
    if account:
        os.chown(path, *account, follow_symlinks=False)


def make_sockets(home: Path, account: Account | None) -> Path:
    """Return the directory for the socket; it is made, unless it is outside the data home because of a long path."""
    name = f"shop-{secrets.token_hex(8)}"
    # The watcher makes one of the last two, and fails if it exists.
    places = home / "socket", Path(tempfile.gettempdir(), name), Path("/tmp", name)  # noqa: S108
    # libpq reads a comma as the end of a host's name.
    sockets = next(path for path in places if len(os.fsencode(path)) <= SOCKET_PATH_MAX and "," not in str(path))
    if sockets == places[0]:
        sockets.mkdir(exist_ok=True)
        give_to(account, sockets, 0o700)
    return sockets


def clear_leftovers(home: Path, sockets: Path) -> None:
    """Stop and remove what an earlier server left behind; the caller holds the lock, so nobody uses it.

    A process is stopped if it works in the data directory. A file that names a pid is only removed: the process that
    has the number by now may be anybody's.
    """
    folders = home / "data", home / "data.new"
    files = [folders[0] / "postmaster.pid", sockets / ".s.PGSQL.5432", sockets / ".s.PGSQL.5432.lock"]
    if not any(map(os.path.lexists, (*files, folders[1]))):
        return
    found = [process for process in psutil.process_iter(["cmdline"]) if _works_in(process, folders)]
    # A server stops its own processes, whose command line is a title. Without their server they can only be killed.
    servers = [process for process in found if not "".join(process.info["cmdline"] or ()).startswith("postgres:")]
    for process in servers or found:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGINT if servers else signal.SIGKILL)
    deadline = time.monotonic() + FAST_SHUTDOWN
    while left := [process for process in found if _works_in(process, folders)]:
        if time.monotonic() > deadline:
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        time.sleep(POLL)
    for path in files:
        path.unlink(missing_ok=True)
    shutil.rmtree(folders[1], ignore_errors=True)


def _works_in(process: psutil.Process, folders: tuple[Path, ...]) -> bool:
    try:
        return process.name() == "postgres" and Path(process.cwd()) in {path.resolve() for path in folders}
    except (psutil.Error, OSError):
        return False  # It has ended, or it belongs to another user.
