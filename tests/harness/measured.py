"""Keeps processes out of the measurement of coverage."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH = "COVERAGE_PROCESS_CONFIG"  # in the environment of processes that coverage.py is to measure


@contextmanager
def unmeasured() -> Iterator[None]:
    """Leave out processes that start in the block: what outlives the measurement would have nowhere to write to."""
    switch = os.environ.pop(SWITCH, None)
    try:
        yield
    finally:
        if switch is not None:
            os.environ[SWITCH] = switch
