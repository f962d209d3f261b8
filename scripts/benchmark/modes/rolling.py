"""Instances that replace each other under load, behind a front that checks whether they are ready."""

import secrets
import shutil
import statistics
import time
from contextlib import ExitStack

from benchmark.plan import Plan, Report, figure, say
from shop.embedded.server import EmbeddedPostgres
from tests.harness.live import temporary_directory
from tests.support.faults import Load, orders_by_key, roll
from tests.support.live import LiveShop

CLIENTS = 8
DRAIN = 1  # seconds; far more than the front takes to notice
SHOWN = 5  # failures
COLUMNS = ("restarts", "requests", "failed", "p50 ms", "p99 ms", "most ms")


def measure(plan: Plan) -> Report:
    """Replace instance by instance for `plan.length` seconds, under load."""
    say(f"rolling for {plan.length} seconds")
    with ExitStack() as running:
        place = temporary_directory("shop-rolling-")
        running.callback(shutil.rmtree, place)
        embedded = EmbeddedPostgres(place / "home")
        embedded.start()
        running.callback(embedded.stop)
        settings = {
            "SHOP_DATABASE_URL": embedded.url,
            "SHOP_SECRET_KEY": secrets.token_urlsafe(48),
            "SHOP_DRAIN_SECONDS": str(DRAIN),
        }

        def start() -> LiveShop:
            return running.enter_context(LiveShop(environment=settings))

        restarts = 0
        with roll(start(), start) as (front, replace), Load(front, clients=CLIENTS) as load:
            end = time.monotonic() + plan.length
            while time.monotonic() < end:
                replace()
                restarts += 1
        stored = orders_by_key(embedded.url)
    failed = [outcome for outcome in load.outcomes if not outcome.is_served]
    kept = "yes" if load.acknowledged.keys() == stored.keys() and set(stored.values()) == {1} else "no"
    times = statistics.quantiles((1000 * outcome.seconds for outcome in load.outcomes), n=100)
    most = max(1000 * outcome.seconds for outcome in load.outcomes)
    return Report(
        {"seconds": str(plan.length), "load": f"{CLIENTS} clients, drain of {DRAIN} s"},
        COLUMNS,
        [[restarts, len(load.outcomes), len(failed), figure(times[49]), figure(times[98]), figure(most)]],
        [
            f"{len(load.acknowledged)} orders acknowledged, {len(stored)} stored, each once: {kept}.",
            *[f"failed: {outcome}" for outcome in failed[:SHOWN]],
        ],
        passed=kept == "yes" and not failed,
    )
