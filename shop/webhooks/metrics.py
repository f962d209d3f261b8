"""The metrics of `shop deliver`, on a port of their own."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge

from shop.serving.metrics import served
from shop.settings import Settings


class DeliveryMetrics:
    """The metrics of a deliverer; `registry` has their values."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.attempts = Counter(
            "shop_webhook_deliveries", "Attempts to deliver an event", ("outcome",), registry=self.registry
        )
        self.age = Gauge(
            "shop_webhook_oldest_undelivered_seconds",
            "Age of the oldest event that is neither delivered nor failed",
            registry=self.registry,
        )


@contextmanager
def exported(settings: Settings) -> Iterator[DeliveryMetrics | None]:
    """Serve the metrics for the duration of the block, if the settings name a port for them.

    Raises:
        OSError: The address cannot be bound.
    """
    if settings.metrics_port is None:
        yield None
        return
    metrics = DeliveryMetrics()
    with served(settings.metrics_host, settings.metrics_port, metrics.registry):
        yield metrics
