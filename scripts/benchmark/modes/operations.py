"""Each operation beside its two limits: the same SQL alone, and a responder that does nothing.

The floor of a request is the CPU time of both together: of the SQL with its client, pgbench, and of an empty response
from the same framework and server. CPU time varies least when other programs use the machine.
"""

import time
from collections import defaultdict
from contextlib import ExitStack
from typing import NamedTuple

from benchmark import rows
from benchmark.load import CONNECTIONS, Load, Measured
from benchmark.operations import LOG_IN, OPERATIONS, Operation
from benchmark.plan import Plan, Report, figure, median, say
from benchmark.rig import Rig, Target

# `--storm` measures more logins than this at once.
LOGINS_AT_ONCE = 4
COLUMNS = (
    "operation",
    "req/s",
    "p50 ms",
    "p99 ms",
    "errors",
    "CPU/1000",
    "of it DB",
    "floor",
    "x floor",
    "SQL/s",
    "bare/s",
)


class Sample(NamedTuple):
    """One measurement of an operation, with the CPU time per request in seconds."""

    measured: Measured
    server_cpu: float
    database_cpu: float


class Limits(NamedTuple):
    """One measurement of the two limits, with the CPU time per request in seconds."""

    sql_rate: float
    sql_cpu: float
    bare_rate: float
    bare_cpu: float


def measure(plan: Plan) -> Report:
    """Measure the service beside its limits."""
    return _measure(plan, with_baseline=False)


def measure_with_baseline(plan: Plan) -> Report:
    """Measure the service beside its limits, and beside itself without its optimisations."""
    return _measure(plan, with_baseline=True)


def sample(rig: Rig, operation: Operation, seconds: float, target: Target | None = None) -> Sample:
    """Measure one operation, after a second of warming up; without it for logins, which would still be queued."""
    is_login = operation is LOG_IN
    load = rig.load(operation, target, patient=is_login)
    if not is_login:
        load.run(1)
    before = rig.cost(target)
    measured = load.run(seconds, LOGINS_AT_ONCE if is_login else CONNECTIONS)
    spent = rig.cost(target).since(before)
    return Sample(measured, spent.server / measured.requests, spent.database / measured.requests)


def as_clients_see_it(samples: list[Sample]) -> list[object]:
    """Return the columns of every table: requests per second, median, 99th percentile, errors."""
    return [
        figure(median(one.measured.rate for one in samples)),
        figure(median(one.measured.p50 for one in samples)),
        figure(median(one.measured.p99 for one in samples)),
        sum(one.measured.errors for one in samples),
    ]


def _measure(plan: Plan, *, with_baseline: bool) -> Report:
    samples: dict[Operation, list[Sample]] = defaultdict(list)
    limits: dict[Operation, list[Limits]] = defaultdict(list)
    baselines: dict[Operation, list[Sample]] = defaultdict(list)
    say("making the rows")
    with ExitStack() as running:
        rig = running.enter_context(Rig(plan.orders))
        bare = running.enter_context(rig.bare())
        baseline = running.enter_context(rig.baseline()) if with_baseline else None
        for number in range(plan.rounds):
            for operation in OPERATIONS:
                say(f"round {number + 1} of {plan.rounds}: {operation.name}")
                samples[operation].append(sample(rig, operation, plan.seconds))
                if operation.script is not None:
                    limits[operation].append(_limits(rig, operation, plan.seconds, bare))
                if baseline is not None:
                    baselines[operation].append(sample(rig, operation, plan.seconds, baseline))
        memory, about = rig.memory(), rig.about()
        connections = rig.connections()
    columns = (*COLUMNS, "base req/s", "x base") if with_baseline else COLUMNS
    lines = [
        _line(operation, samples[operation], limits[operation]) + _compared(samples[operation], baselines[operation])
        for operation in OPERATIONS
    ]
    return Report(about, columns, lines, _notes(memory, connections, with_baseline=with_baseline))


def _limits(rig: Rig, operation: Operation, seconds: float, bare: Target) -> Limits:
    sql_rate, sql_cpu = rig.sql_alone(operation, seconds)
    answered: Load = rig.load(operation, bare)
    before = bare.cpu()
    measured = answered.run(seconds)
    return Limits(sql_rate, sql_cpu, measured.rate, (bare.cpu() - before) / measured.requests)


def _line(operation: Operation, samples: list[Sample], limits: list[Limits]) -> list[object]:
    cpu = median(one.server_cpu + one.database_cpu for one in samples)
    line: list[object] = [
        operation.name,
        *as_clients_see_it(samples),
        f"{cpu * 1000:.3f} s",
        f"{median(one.database_cpu for one in samples) * 1000:.3f} s",
    ]
    if not limits:
        return [*line, "", "", "", ""]
    ratio = median(
        (one.server_cpu + one.database_cpu) / (limit.sql_cpu + limit.bare_cpu)
        for one, limit in zip(samples, limits, strict=True)
    )
    floor = median(limit.sql_cpu + limit.bare_cpu for limit in limits)
    rates = median(limit.sql_rate for limit in limits), median(limit.bare_rate for limit in limits)
    return [*line, f"{floor * 1000:.3f} s", f"{ratio:.2f}", *map(figure, rates)]


def _compared(samples: list[Sample], baselines: list[Sample]) -> list[object]:
    if not baselines:
        return []
    ratio = median(one.measured.rate / base.measured.rate for one, base in zip(samples, baselines, strict=True))
    return [figure(median(base.measured.rate for base in baselines)), f"{ratio:.2f}"]


def _notes(memory: float, connections: int, *, with_baseline: bool) -> list[str]:
    notes = [
        "CPU/1000: CPU time of 1000 requests, service and database. floor: CPU time of pgbench with the same SQL plus",
        "that of a bare responder on the same server. SQL/s and bare/s: their rates per second.",
        f"logins: {LOGINS_AT_ONCE} at a time; a hash alone takes {_seconds_of_a_hash() * 1000:.0f} ms of a processor.",
        f"memory of the workers: {memory:.0f} MB; connections to the database: {connections}.",
    ]
    if with_baseline:
        notes.append(
            "base: the service on gunicorn gthread; queries are built at each use, nothing is prepared or cached."
        )
    return notes


def _seconds_of_a_hash() -> float:
    """Return the CPU time of one Argon2 with the service's default parameters."""
    passwords = rows.default_passwords()
    hashed = passwords.hash(rows.PASSWORD)
    started = time.process_time()
    for _ in range(10):
        passwords.verify(hashed, rows.PASSWORD)
    return (time.process_time() - started) / 10
