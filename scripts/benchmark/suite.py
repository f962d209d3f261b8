"""Measures the costs of the test kit on the database server of the tests.

Each figure is the median of several rounds. The rounds alternate, so that a machine that slows down slows all of them.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shop.demo.factories import OrderFactory, UserFactory
from shop.storage.database import database
from tests.harness.parity import ClonedDatabase, DeletedRows
from tests.harness.sandbox import Sandbox
from tests.harness.tables import deletion
from tests.support.cases import make_client

BATCH = 100


@contextmanager
def isolated(isolation: Sandbox | ClonedDatabase | DeletedRows) -> Iterator[None]:
    """Isolate the block as a test is isolated."""
    isolation.enter()
    try:
        yield
    finally:
        isolation.leave()


def figures() -> dict[str, Callable[[], float]]:
    """Return the measurements by name: functions that return the seconds of one run."""
    client = make_client()

    def sandbox() -> float:
        return timed(lambda: repeat(BATCH, enter_and_leave)) / BATCH

    def enter_and_leave() -> None:
        with isolated(Sandbox(database)):
            database.connection()

    def clone() -> float:
        def once() -> None:
            with isolated(ClonedDatabase(database)):
                pass

        return timed(once)

    def requests() -> float:
        user = UserFactory.create()
        taken = timed(lambda: repeat(BATCH, lambda: client.get(f"/users/{user.id}", user=user))) / BATCH
        database.execute_sql(deletion())
        return taken

    def requests_in_sandbox() -> float:
        with isolated(Sandbox(database)):
            return requests()

    def users() -> float:
        with isolated(Sandbox(database)):
            return timed(lambda: UserFactory.create_batch(BATCH)) / BATCH

    def orders() -> float:
        with isolated(Sandbox(database)):
            user = UserFactory.create()
            return timed(lambda: OrderFactory.create_batch(BATCH, user=user)) / BATCH

    def deletes() -> float:
        def once() -> None:
            with isolated(DeletedRows(database)):
                pass

        return timed(lambda: repeat(BATCH, once)) / BATCH

    return {
        "a sandbox, entered, connected to and left": sandbox,
        "a clone of the template, made and dropped": clone,
        "a test with real commits, guarded, its rows deleted": deletes,
        "GET /users/{id} through WebTest, in autocommit": requests,
        "GET /users/{id} through WebTest, in a sandbox": requests_in_sandbox,
        "a user of a factory, in a batch of 100": users,
        "an order of a factory, in a batch of 100": orders,
    }


def repeat(times: int, action: Callable[[], object]) -> None:
    """Do `action` some times."""
    for _ in range(times):
        action()


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that `action` takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def measure(rounds: int) -> None:
    """Measure and print."""
    measured: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, figure in figures().items():
            measured.setdefault(name, []).append(figure())
    print(f"milliseconds each, median of {rounds} rounds")
    for name, values in measured.items():
        print(f"{statistics.median(values) * 1000:10.3f}  {name}")
