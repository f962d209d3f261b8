"""The service with different numbers of threads in each worker: what the default of `SHOP_THREADS` rests on."""

from collections import defaultdict
from contextlib import ExitStack

from benchmark.modes.operations import Sample, as_clients_see_it, sample
from benchmark.operations import GET_USER, PLACE_ORDER, READS, Operation
from benchmark.plan import Plan, Report, median, say
from benchmark.rig import Rig, Target, target_of

THREADS = (1, 2, 4, 8, 16)
MEASURED = (GET_USER, READS[1], PLACE_ORDER)
COLUMNS = ("operation", "threads", "req/s", "p50 ms", "p99 ms", "errors", "CPU/1000")


def measure(plan: Plan) -> Report:
    """Measure services that differ in their threads alone, in turns, on one database."""
    numbers = plan.threads or THREADS
    samples: dict[tuple[Operation, int], list[Sample]] = defaultdict(list)
    say("making the rows")
    with ExitStack() as running:
        rig = running.enter_context(Rig(plan.orders))
        targets: dict[int, Target] = {
            number: target_of(running.enter_context(rig.another("--threads", str(number)))) for number in numbers
        }
        for round_ in range(plan.rounds):
            for operation in MEASURED:
                say(f"round {round_ + 1} of {plan.rounds}: {operation.name}")
                for number, target in targets.items():
                    samples[operation, number].append(sample(rig, operation, plan.seconds, target))
        about = rig.about()
    lines = [_line(operation, number, found) for (operation, number), found in samples.items()]
    return Report(about, COLUMNS, lines)


def _line(operation: Operation, number: int, samples: list[Sample]) -> list[object]:
    cpu = median(one.server_cpu + one.database_cpu for one in samples)
    return [
        operation.name,
        number,
        *as_clients_see_it(samples),
        f"{cpu * 1000:.3f} s",
    ]
