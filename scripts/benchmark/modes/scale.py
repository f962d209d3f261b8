"""Each operation with more and more orders in the database. A figure that grows with them shows a missing index."""

import shutil
import tempfile

from benchmark.modes.operations import Sample, as_clients_see_it, sample
from benchmark.operations import OPERATIONS, Operation
from benchmark.plan import Plan, Report, median, say
from benchmark.rig import Rig

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
# The disk space of an order in bytes, at most, with its part of the indexes and the write-ahead log.
BYTES_EACH = 1500
COLUMNS = ("operation", "orders", "req/s", "p50 ms", "p99 ms", "errors", "CPU/1000", "of it DB")


def measure(plan: Plan) -> Report:
    """Measure every operation with each size. The report names the sizes that the disk has no room for."""
    found: dict[tuple[Operation, int], list[Sample]] = {}
    free = shutil.disk_usage(tempfile.gettempdir()).free
    wanted = [size for size in SIZES if size <= plan.orders]
    sizes = [size for size in wanted if size * BYTES_EACH < free]
    about: dict[str, str] = {}
    for size in sizes:
        say(f"making {size} orders")
        with Rig(size) as rig:
            for operation in OPERATIONS:
                say(f"{size} orders: {operation.name}")
                found[operation, size] = [sample(rig, operation, plan.seconds) for _ in range(plan.rounds)]
            about = rig.about()
    left_out = [f"{size} orders are left out: the disk has no room for them." for size in wanted if size not in sizes]
    lines = [_line(operation, size, found[operation, size]) for operation in OPERATIONS for size in sizes]
    return Report(about, COLUMNS, lines, left_out)


def _line(operation: Operation, size: int, samples: list[Sample]) -> list[object]:
    return [
        operation.name,
        size,
        *as_clients_see_it(samples),
        f"{median(one.server_cpu + one.database_cpu for one in samples) * 1000:.3f} s",
        f"{median(one.database_cpu for one in samples) * 1000:.3f} s",
    ]
