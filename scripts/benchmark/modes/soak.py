"""Memory over time under a mixed load, and the open connections at the end."""

import statistics
import time

from benchmark.load import CONNECTIONS, Measured
from benchmark.operations import GET_USER, LOG_IN, PLACE_ORDER, READS, Operation
from benchmark.plan import Plan, Report, figure, say
from benchmark.rig import Rig, default, target_of
from tests.support.live import LiveShop

# How many connections each operation uses.
MIX = ((GET_USER, 8), (READS[1], 8), (READS[2], 4), (PLACE_ORDER, CONNECTIONS - 22), (LOG_IN, 2))
SAMPLES = 60
# Seconds from the start, memory of the workers in megabytes, connections to the database.
Sample = tuple[float, float, int]
COLUMNS = ("seconds", "workers MB", "database connections")


def measure(plan: Plan) -> Report:
    """Send a mixed load for `plan.length` seconds, and sample memory and connections."""
    say("making the rows")
    with Rig(plan.orders) as rig:
        # A second instance, so that the database still runs after the instance has stopped.
        with rig.another() as shop:
            seen, measured = _soak(rig, shop, plan.length)
            at_the_end, about = rig.connections(), rig.about()
        left = rig.connections()
    limit = default("workers") * default("database_connections")
    return Report(
        about,
        COLUMNS,
        [[round(when), round(memory), count] for when, memory, count in seen[:: SAMPLES // 12]],
        [
            *[
                f"{operation.name}: {figure(one.rate)}/s, {one.refused} refused, {one.broken} not within two seconds"
                for operation, one in measured
            ],
            _slope(seen),
            f"connections: {at_the_end} under load, of at most {limit}; {left} after the service has stopped.",
        ],
    )


def _soak(rig: Rig, shop: LiveShop, seconds: int) -> tuple[list[Sample], list[tuple[Operation, Measured]]]:
    """Send the load; return the samples, and the result of each operation."""
    loads = [(rig.load(operation, target_of(shop)), operation, connections) for operation, connections in MIX]
    say(f"soaking for {seconds} seconds")
    started = time.monotonic()
    running = [(load, operation, load.start(seconds, connections)) for load, operation, connections in loads]
    seen: list[Sample] = []
    try:
        while running[0][2].poll() is None:
            seen.append((time.monotonic() - started, rig.memory(shop), rig.connections()))
            time.sleep(seconds / SAMPLES)
    finally:
        measured = [(operation, load.finish(process)) for load, operation, process in running]
    return seen, measured


def _slope(seen: list[Sample]) -> str:
    """Return a sentence about the growth of memory in the second half, when the service is warm."""
    half = seen[len(seen) // 2 :]
    if len(half) < 2:
        return "memory: too short for a slope."
    slope = statistics.linear_regression([when for when, *_ in half], [memory for _, memory, _ in half]).slope
    seconds = half[-1][0] - half[0][0]
    return f"memory grows by {slope * seconds:.1f} MB in the last {seconds:.0f} seconds, to {half[-1][1]:.0f} MB."
