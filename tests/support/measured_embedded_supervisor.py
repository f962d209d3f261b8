"""Takes the place of the embedded database's supervisor while a run is measured, so that its lines are measured too.

`shop.embedded.server` runs the supervisor with `python -I -S`: without site-packages, and so without coverage.py. Run
in its place, this file brings site-packages back, with which coverage.py starts itself, and becomes the supervisor.
"""

import os
import runpy
import site


def take_its_place() -> None:
    """Have `shop.embedded.server` in this process run this file, if the process is measured."""
    from tests.harness.measured import SWITCH  # noqa: PLC0415 - run as a file, it is not in a package

    if SWITCH in os.environ:
        from shop.embedded import supervisor as embedded_supervisor  # noqa: PLC0415 - measurement first

        embedded_supervisor.__file__ = __file__


if __name__ == "__main__":
    site.main()
    runpy.run_module("shop.embedded.supervisor", run_name="__main__", alter_sys=True)
