"""Kills processes at random moments under load. Afterwards each acknowledged order must be stored exactly once."""

import random
import shutil
import signal
import statistics
import threading
import time
from bisect import bisect
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

from benchmark.plan import Plan, Report, figure, say
from shop.embedded.server import EmbeddedPostgres
from tests.harness.live import free_port, still_running, temporary_directory, until
from tests.support.faults import Load, orders_by_key
from tests.support.live import LiveShop

CLIENTS = 4
PAUSE = 0.01  # seconds from a response to the next request of the client
# The shortest and the longest time from one kill to the next, in seconds.
BETWEEN = (0.5, 4.0)
VICTIMS = ("a worker", "the database", "the server", "everything")
COLUMNS = ("killed with SIGKILL", "times", "median ms without an order", "most ms")


class Chaos:
    """A service on one data directory and one port, restarted whenever it has ended.

    Args:
        home: The data directory.

    Attributes:
        shop: The running service.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._port = free_port()
        self.shop = self._started()

    def _started(self) -> LiveShop:
        return LiveShop(self._home, port=self._port).start()

    def strike(self, victim: str) -> None:
        """Kill a victim, and start the service again if nothing else will."""
        if victim == "a worker":
            random.choice(self.shop.workers()).kill()
        elif victim == "the database":
            self.shop.databases()[0].kill()
        elif victim == "everything":
            self.shop.kill_everything()
        else:
            family = self.shop.family()
            self.shop.terminate(signal.SIGKILL)
            until(lambda: not still_running(family), "workers and database have ended without their server")
        self.bring_back()

    def bring_back(self) -> None:
        """Start the service again if it has ended, as a process manager would."""
        if self.shop.process.poll() is not None:
            self.shop.close()
            self.shop = self._started()


def measure(plan: Plan) -> Report:
    """Kill for `plan.length` seconds, then count."""
    place = temporary_directory("shop-chaos-")
    pause = threading.Event()
    strikes: list[tuple[str, float]] = []
    say(f"killing for {plan.length} seconds")
    try:
        chaos = Chaos(place / "home")
        try:
            with Load(lambda: chaos.shop.url, clients=CLIENTS, pause=PAUSE) as load:
                end = time.monotonic() + plan.length
                while time.monotonic() < end:
                    pause.wait(random.uniform(*BETWEEN))
                    # If workers die too fast, the service ends by itself a little later.
                    chaos.bring_back()
                    strikes.append((random.choice(VICTIMS), time.monotonic()))
                    chaos.strike(strikes[-1][0])
                load.until_served(CLIENTS)
        finally:
            chaos.shop.close()
        stored = _stored(place / "home")
    finally:
        shutil.rmtree(place)
    return _report(plan, load, strikes, stored)


def _stored(home: Path) -> dict[str, int]:
    """Return the number of orders of each key, after the database has recovered."""
    embedded = EmbeddedPostgres(home)
    embedded.start()
    try:
        return orders_by_key(embedded.url)
    finally:
        embedded.stop()


def _report(plan: Plan, load: Load, strikes: list[tuple[str, float]], stored: dict[str, int]) -> Report:
    lost = load.acknowledged.keys() - stored.keys()
    unknown = stored.keys() - load.acknowledged.keys()
    twice = [key for key, times in stored.items() if times > 1]
    # A broken connection has no answer. Every answer must be an order, or a 503 that asks to send it again.
    strange = {one.answer.status for one in load.outcomes if one.answer is not None} - {200, 201, 503}
    served = sorted(one.began + one.seconds for one in load.outcomes if one.request == "POST" and one.is_served)
    ends = [moment for _, moment in strikes[1:]] + [served[-1]]
    gaps: dict[str, list[float]] = defaultdict(list)
    for (victim, moment), end in zip(strikes, ends, strict=True):
        # From the last order before the kill to the first after the next one.
        around = served[bisect(served, moment) - 1 : bisect(served, end) + 1]
        gaps[victim].append(1000 * max((after - before for before, after in pairwise(around)), default=0.0))
    lines = [
        [victim, len(gaps[victim]), figure(statistics.median(gaps[victim])), figure(max(gaps[victim]))]
        for victim in VICTIMS
        if victim in gaps
    ]
    again = sum(not one.is_served for one in load.outcomes)
    return Report(
        {
            "seconds": str(plan.length),
            "load": f"{CLIENTS} clients, each order with an Idempotency-Key, sent until it is done",
        },
        COLUMNS,
        lines,
        [
            f"{len(load.acknowledged)} orders acknowledged, after {again} requests that had to be sent again;",
            f"{len(lost)} of them lost, {len(twice)} there twice; {len(unknown)} stored of which no client knows.",
            f"answers other than 200, 201 and 503: {', '.join(map(str, sorted(strange))) or 'none'}.",
        ],
        passed=not (lost or twice or strange),
    )
