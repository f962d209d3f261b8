"""Kills processes at random moments under load, the one that delivers events too.

Afterwards each acknowledged order must be stored exactly once, and a receiver must have got the events of all stored
orders, and of no others.
"""

import random
import secrets
import signal
import statistics
import threading
import time
from bisect import bisect
from collections import defaultdict
from itertools import pairwise

from benchmark.plan import Plan, Report, figure, say
from tests import binding
from tests.binding import point_at
from tests.harness.live import free_port, still_running, until
from tests.harness.receiver import Receiver
from tests.support.faults import FaultyDatabase, Load, orders_by_key
from tests.support.live import LiveShop, run_shop
from tests.support.webhooks import ALLOWED, Deliver, deliver_the_rest, sequences

CLIENTS = 4
PAUSE = 0.01  # seconds from a response to the next request of the client
# The shortest and the longest time from one kill to the next, in seconds.
BETWEEN = (0.5, 4.0)
VICTIMS = ("a worker", "the deliverer", "the database", "the server", "everything")
COLUMNS = ("killed with SIGKILL", "times", "median ms without an order", "most ms")


class Chaos:
    """A service on one database and one port, restarted whenever it has ended.

    Args:
        database: The database. It is restarted, too.

    Attributes:
        shop: The running service.
    """

    def __init__(self, database: FaultyDatabase) -> None:
        self._database = database
        self._port = free_port()
        self._settings = {"SHOP_DATABASE_URL": database.url, "SHOP_SECRET_KEY": secrets.token_urlsafe(48)}
        self.shop = self._started()
        self.deliver = Deliver(database.url)

    def _started(self) -> LiveShop:
        return LiveShop(port=self._port, environment=self._settings).start()

    def strike(self, victim: str) -> None:
        """Kill a victim, and start again what nothing else will."""
        if victim == "a worker":
            random.choice(self.shop.workers()).kill()
        elif victim == "the deliverer":
            self.deliver.process.kill()
        elif victim == "the server":
            family = self.shop.family()
            self.shop.terminate(signal.SIGKILL)
            until(lambda: not still_running(family), "the workers have ended without their server")
        elif victim == "everything":
            self._database.main_process.kill()
            self.shop.kill_everything()
            self.deliver.process.kill()
        if victim in ("the database", "everything"):
            self._database.kill()
            self._database.start()
        self.bring_back()

    def bring_back(self) -> None:
        """Start the service again if it has ended, as a process manager would."""
        if self.shop.process.poll() is not None:
            self.shop.close()
            self.shop = self._started()
        if self.deliver.process.poll() is not None:
            self.deliver.stop()
            self.deliver = Deliver(self._database.url)

    def close(self) -> None:
        """Stop all."""
        self.deliver.stop()
        self.shop.close()


def measure(plan: Plan) -> Report:
    """Kill for `plan.length` seconds, then count."""
    pause = threading.Event()
    strikes: list[tuple[str, float]] = []
    say(f"killing for {plan.length} seconds")
    with FaultyDatabase() as database, Receiver() as receiver:
        run_shop("webhooks", "add", receiver.url, SHOP_DATABASE_URL=database.url, **ALLOWED)
        chaos = Chaos(database)
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
            chaos.close()
        # It recovers once more, without the service.
        database.stop()
        database.start()
        stored = orders_by_key(database.url)
        point_at(database.url)
        deliver_the_rest()
        events = {str(order_id) for (order_id,) in database.execute("SELECT id FROM orders")}
        binding.database().close_all()
        arrived = sequences(receiver.requests)
    missing, invented = events - arrived.keys(), arrived.keys() - events
    report = _report(plan, load, strikes, stored)
    report.notes.append(
        f"{len(receiver.requests)} webhooks of {len(arrived)} orders; {len(missing)} orders without one, "
        f"{len(invented)} of orders that are not stored."
    )
    return report._replace(passed=report.passed and not (missing or invented))


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
