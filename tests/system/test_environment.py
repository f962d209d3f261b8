"""`shop serve` in an environment that others have filled."""

from typing import ClassVar

from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import LiveServerTestCase


class EnvironmentTest(LiveServerTestCase):
    """In a Kubernetes cluster with a Service `shop`, and with a misspelt variable."""

    environment: ClassVar = {
        "SHOP_PORT": "tcp://10.0.0.1:8000",
        "SHOP_PORT_8000_TCP_ADDR": "10.0.0.1",
        "SHOP_SERVICE_HOST": "10.0.0.1",
        "SHOP_METRICS_PORT": "tcp://10.0.0.2:9090",
        "SHOP_WORKER": "3",
        "SHOP_LOG_FORMAT": "text",
    }

    def test_it_serves_and_logs_a_line_for_each_variable_that_it_ignores(self) -> None:
        self.assertEqual(200, self.connection.get("/readyz").status)
        ignored = [line for line in self.shop.stderr if "ignored" in line]
        self.assertEqual(3, len(ignored), ignored)
        for line, words in zip(
            ignored,
            (
                "SHOP_METRICS_PORT is ignored: tcp://10.0.0.2:9090 is the address of a Kubernetes Service",
                "SHOP_PORT is ignored: tcp://10.0.0.1:8000 is the address of a Kubernetes Service",
                "SHOP_WORKER is not a setting and is ignored; did you mean SHOP_WORKERS?",
            ),
            strict=True,
        ):
            self.assertIn(words, line)
