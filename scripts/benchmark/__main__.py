"""Measures the service under load: requests, latency, CPU and memory, beside their limits."""

import argparse
import json
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from benchmark import load
from benchmark.modes import chaos, operations, rolling, scale, soak, storm
from benchmark.plan import Plan, Report

# A new kind of measurement is a new row here.
MODES: dict[str, tuple[Callable[[Plan], Report], str]] = {
    "operations": (operations.measure, "each operation beside its limits (the default)"),
    "baseline": (operations.measure_with_baseline, "the same, and the service without its optimisations"),
    "storm": (storm.measure, "reads during a storm of logins, beside reads without one"),
    "scale": (
        scale.measure,
        "each operation with 10 000, 100 000, 1 000 000 and, if the disk has room, 10 000 000 orders",
    ),
    "soak": (soak.measure, "memory over time, and open connections at the end"),
    "rolling": (rolling.measure, "instances that replace each other under load: no request may fail"),
    "chaos": (
        chaos.measure,
        "kill -9 at random moments under load: no acknowledged order may be lost or stored twice",
    ),
}
# Their option takes the length in seconds.
LASTING = ("soak", "rolling", "chaos")
# Their clients are our own, because they keep account of each order.
WITHOUT_WRK = ("rolling", "chaos")


def main() -> int:
    """Measure and print; return the exit status."""
    options = _parser().parse_args()
    # As after Ctrl-C, the `with` blocks then stop all servers.
    signal.signal(signal.SIGTERM, _interrupt)
    if options.suite:
        # Only now: the test kit takes a while to import.
        from benchmark import suite  # noqa: PLC0415

        suite.measure(options.rounds or 15)
        return 0
    mode = next((name for name in MODES if getattr(options, name, None)), "operations")
    if mode not in WITHOUT_WRK and not load.is_installed():
        print(f"bench: {load.MISSING}", file=sys.stderr)
        return 2
    plan = Plan(
        seconds=options.seconds or (2 if options.quick else 5),
        rounds=options.rounds or (1 if options.quick else 3),
        orders=options.orders or (scale.SIZES[-1] if mode == "scale" else 1_000_000),
        length=next((getattr(options, name) for name in LASTING if getattr(options, name)), 0),
    )
    report = MODES[mode][0](plan)
    print(json.dumps(report._asdict(), indent=2) if options.json else report.text())
    return 0 if report.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(__doc__ or "").splitlines()[0])
    kinds = parser.add_mutually_exclusive_group()
    for name in ("baseline", "storm", "scale"):
        kinds.add_argument(f"--{name}", action="store_true", help=MODES[name][1])
    for name in LASTING:
        kinds.add_argument(f"--{name}", type=int, metavar="SECONDS", help=MODES[name][1])
    kinds.add_argument("--suite", action="store_true", help="the costs of the test kit: a sandbox, a clone, a row")
    parser.add_argument("--quick", action="store_true", help="one short round: about a minute")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--seconds", type=int, metavar="N", help="length of one measurement (5; --quick: 2)")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds, which alternate (3; --quick: 1; --suite: 15)")
    parser.add_argument(
        "--orders", type=int, metavar="N", help="orders in the database (1000000), at most (--scale: 10000000)"
    )
    return parser


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
