"""What each of the things buys that make the service fast: the service as it is, beside itself without that one."""

from collections import defaultdict
from contextlib import ExitStack

from benchmark.modes.operations import Sample, sample
from benchmark.operations import GET_USER, PLACE_ORDER, READS, Operation
from benchmark.plan import Plan, Report, figure, median, say
from benchmark.rig import Rig, Target
from benchmark.without import TRICKS

MEASURED = (GET_USER, READS[1], PLACE_ORDER)
AS_IT_IS = "as it is"
COLUMNS = ("operation", "without", "req/s", "CPU/1000", "x req/s", "x CPU")


def measure(plan: Plan) -> Report:
    """Measure services that differ in one thing, in turns, on one database."""
    samples: dict[tuple[Operation, str], list[Sample]] = defaultdict(list)
    say("making the rows")
    with ExitStack() as running:
        rig = running.enter_context(Rig(plan.orders))
        targets: dict[str, Target] = {AS_IT_IS: rig.target}
        targets |= {name: running.enter_context(rig.without(name)) for name in TRICKS}
        for number in range(plan.rounds):
            for operation in MEASURED:
                say(f"round {number + 1} of {plan.rounds}: {operation.name}")
                for name, target in targets.items():
                    samples[operation, name].append(sample(rig, operation, plan.seconds, target))
        about = rig.about()
    lines = [
        _line(operation, name, found, samples[operation, AS_IT_IS]) for (operation, name), found in samples.items()
    ]
    return Report(about, COLUMNS, lines, ["x: of the service as it is, beside which each was measured in turns."])


def _line(operation: Operation, name: str, found: list[Sample], as_it_is: list[Sample]) -> list[object]:
    pairs = list(zip(found, as_it_is, strict=True))
    return [
        operation.name,
        "nothing" if name == AS_IT_IS else name,
        figure(median(one.measured.rate for one in found)),
        f"{median(map(_cpu, found)) * 1000:.3f} s",
        f"{median(one.measured.rate / whole.measured.rate for one, whole in pairs):.2f}",
        f"{median(_cpu(one) / _cpu(whole) for one, whole in pairs):.2f}",
    ]


def _cpu(one: Sample) -> float:
    return one.server_cpu + one.database_cpu
