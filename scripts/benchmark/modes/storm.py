"""Reads during a storm of log-ins, beside reads without one: what it costs those who are logged in already.

There are two storms. In the first everybody logs in at once, and who is told to come back in a second does; the second
is a flood that heeds nothing, from as many connections as read.
"""

from typing import NamedTuple

from benchmark.load import CONNECTIONS, Load, Measured
from benchmark.operations import GET_USER, LOG_IN
from benchmark.plan import Plan, Report, figure, median, say
from benchmark.rig import Rig

COLUMNS = ("reads", "req/s", "p50 ms", "p99 ms", "errors", "of the rate", "log-ins/s", "refused/s")


class Round(NamedTuple):
    """Reads, and the log-ins that went on meanwhile."""

    reads: Measured
    logins: Measured | None


def measure(plan: Plan) -> Report:
    """Measure reads alone and in each storm, in turns."""
    say("making the rows")
    with Rig(plan.orders) as rig:
        reads = rig.load(GET_USER)
        storms = {
            "without log-ins": None,
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
    alone = found["without log-ins"]
    notes = [
        f"{GET_USER.name} on {CONNECTIONS} connections, log-ins on as many more. In the storm who is refused waits a",
        "second, as the answer says; in the flood nobody does. of the rate: of what the reads do without log-ins.",
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
