"""Reads during many simultaneous logins, beside reads without: what the logins cost users who are logged in already.

In a storm, clients obey `Retry-After`. In a flood, they ignore it and send from as many connections as the readers.
"""

from typing import NamedTuple

from benchmark.load import CONNECTIONS, Load, Measured
from benchmark.operations import GET_USER, LOG_IN
from benchmark.plan import Plan, Report, figure, median, say
from benchmark.rig import Rig

COLUMNS = ("reads", "req/s", "p50 ms", "p99 ms", "errors", "of the rate", "logins/s", "refused/s")


class Round(NamedTuple):
    """Reads, and the logins at the same time."""

    reads: Measured
    logins: Measured | None


def measure(plan: Plan) -> Report:
    """Measure reads alone, in a storm and in a flood, in turns."""
    say("making the rows")
    with Rig(plan.orders) as rig:
        reads = rig.load(GET_USER)
        storms = {
            "without logins": None,
            "in a storm": rig.load(LOG_IN, patient=True),
            "in a flood": rig.load(LOG_IN),
        }
        reads.run(1)
        before = rig.memory()
        found: dict[str, list[Round]] = {name: [] for name in storms}
        for number in range(plan.rounds):
            for name, storm in storms.items():
                say(f"round {number + 1} of {plan.rounds}: {name}")
                found[name].append(_round(reads, storm, plan.seconds))
        after, about = rig.memory(), rig.about()
    alone = found["without logins"]
    notes = [
        f"{GET_USER.name} on {CONNECTIONS} connections, logins on as many more. After a 503, clients in the storm wait",
        "for a second, clients in the flood do not. of the rate: share of the rate without logins.",
        f"memory of the workers: {before:.0f} MB before, {after:.0f} MB after.",
    ]
    return Report(about, COLUMNS, [_line(name, rounds, alone) for name, rounds in found.items()], notes)


def _round(reads: Load, storm: Load | None, seconds: float) -> Round:
    if storm is None:
        return Round(reads.run(seconds), None)
    logins = storm.start(seconds + 1)
    try:
        measured = reads.run(seconds)
    finally:
        refused = storm.finish(logins)
    return Round(measured, refused)


def _line(name: str, rounds: list[Round], alone: list[Round]) -> list[object]:
    reads = [one.reads for one in rounds]
    kept = median(during.reads.rate / without.reads.rate for during, without in zip(rounds, alone, strict=True))
    logins = [one.logins for one in rounds if one.logins]
    return [
        name,
        figure(median(one.rate for one in reads)),
        figure(median(one.p50 for one in reads)),
        figure(median(one.p99 for one in reads)),
        sum(one.errors for one in reads),
        f"{kept:.0%}",
        figure(median((one.requests - one.refused) / one.seconds for one in logins)) if logins else "",
        figure(median(one.refused / one.seconds for one in logins)) if logins else "",
    ]
