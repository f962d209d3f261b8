"""The metrics port. The server process answers there, even while all threads of the workers are busy."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shop.settings import Settings

PREFIX = "shop-metrics-"
# Files in memory, which a read-only container can write, too. If it is missing, the temporary directory is used.
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - Each server makes a private folder there.


@contextmanager
def exported(settings: Settings) -> Iterator[None]:
    """Serve the metrics for the duration of the block, if the settings have a metrics port.

    Workers that are started in the block find the shared folder for their metrics in the environment.

    Raises:
        OSError: The address cannot be bound.
    """
    if settings.metrics_port is None:
        yield
        return
    with shared_folder() as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        # Imported here: the library reads the variable when it is imported.
        from shop.serving.metrics import served, server_registry  # noqa: PLC0415

        with served(settings.metrics_host, settings.metrics_port, server_registry(folder)):
            yield


@contextmanager
def shared_folder() -> Iterator[Path]:
    """Make a private folder for the duration of the block, and remove the folders of servers that were killed."""
    home = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else tempfile.gettempdir()
    for abandoned in Path(home).glob(f"{PREFIX}*"):
        _remove_unless_locked(abandoned)
    draft = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=home))
    lock = os.open(draft / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Other servers look for the final name, so the folder gets it only when it is locked.
    folder = draft.rename(draft.with_name(draft.name[1:]))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_unless_locked(folder: Path) -> None:
    # OSError: another user's folder, or in use, or another process has removed it.
    with suppress(OSError):
        lock = os.open(folder / "lock", os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(lock)
