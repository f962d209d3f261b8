"""Where an export goes: stdout, or a file that is complete or absent."""

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

STDOUT = "-"


class CannotWrite(Exception):
    """The export cannot be written; the text is a sentence for a person."""


@contextmanager
def opened(target: str) -> Iterator[BinaryIO]:
    """Open stdout if `target` is ``-``, else the file `target` for the duration of the block.

    The file is written beside its target, and renamed when the block ends without an error. Only its owner may read
    it, because addresses are personal data.

    Raises:
        CannotWrite: The disk is full, the pipe is closed, the directory is missing, and the like.
    """
    stdout = target == STDOUT
    try:
        with open(sys.stdout.fileno(), "wb", closefd=False) if stdout else _replaced(Path(target)) as file:
            yield file
    except OSError as error:
        raise CannotWrite(f"cannot write {'to stdout' if stdout else target}: {error.strerror}") from error


@contextmanager
def _replaced(target: Path) -> Iterator[BinaryIO]:
    # A link stays a link: the file that it names is replaced.
    target = Path(os.path.realpath(target))
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise CannotWrite(f"cannot write {target}: it is not a regular file")
    descriptor, draft = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    except BaseException:
        os.unlink(draft)
        raise
