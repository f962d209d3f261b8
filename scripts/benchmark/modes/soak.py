"""Memory over time under a mixed load, and the connections that are left when it ends."""

import statistics
import time

from benchmark.load import CONNECTIONS
from benchmark.operations import GET_USER, LOG_IN, PLACE_ORDER, READS
from benchmark.plan import Plan, Report, figure, say
from benchmark.rig import Rig
from shop.settings import Settings

# Reads, writes and log-ins share the connections in this way.
MIX = ((GET_USER, 8), (READS[1], 8), (READS[2], 4), (PLACE_ORDER, CONNECTIONS - 22), (LOG_IN, 2))
SAMPLES = 60
DEFAULTS = Settings.model_fields
COLUMNS = ("seconds", "workers MB", "database connections")


def measure(plan: Plan) -> Report:
    """Send a mixed load for `plan.soak` seconds, and look at the workers meanwhile."""
    say("making the rows")
    with Rig(plan.orders) as rig:
        loads = [(rig.load(operation), operation, connections) for operation, connections in MIX]
        say(f"soaking for {plan.soak} seconds")
        started = time.monotonic()
        running = [(load, operation, load.start(plan.soak, connections)) for load, operation, connections in loads]
        seen: list[tuple[float, float, int]] = []
        try:
            while running[0][2].poll() is None:
                seen.append((time.monotonic() - started, rig.memory(), rig.connections()))
                time.sleep(plan.soak / SAMPLES)
        finally:
            measured = [(operation, load.finish(process)) for load, operation, process in running]
        limit = DEFAULTS["workers"].default * DEFAULTS["threads"].default
        at_the_end, about = rig.connections(), rig.about()
        rig.shop.close()
        left = rig.connections()
    return Report(
        about,
        COLUMNS,
        [[round(when), round(memory), count] for when, memory, count in seen[:: SAMPLES // 12]],
        [
            *[f"{operation.name}: {figure(one.rate)} a second, {one.errors} errors" for operation, one in measured],
            _slope(seen),
            f"connections: {at_the_end} under load, of at most {limit}; {left} after the service has stopped.",
        ],
    )


def _slope(seen: list[tuple[float, float, int]]) -> str:
    """Say how fast memory grows once the service is warm: over the second half."""
    half = seen[len(seen) // 2 :]
    if len(half) < 2:
        return "memory: too short for a slope."
    slope = statistics.linear_regression([when for when, *_ in half], [memory for _, memory, _ in half]).slope
    return f"memory grows by {slope * 3600:.1f} MB an hour over the second half, at {half[-1][1]:.0f} MB."
