"""`shop webhooks`: endpoints and failed events from the command line."""

import re
from unittest import mock

from shop.demo.factories import OrderFactory, UserFactory
from tests.harness.postgres import current_url, point_at, setUpModule, tearDownModule
from tests.support.cases import CommittedApiTestCase
from tests.support.commands import call_shop
from tests.support.webhooks import ALLOWED, Clock, make_deliverer


class CommandTest(CommittedApiTestCase):
    """The command, in this process."""

    def setUp(self):
        super().setUp()
        # The command has connected the service's database object with its own options.
        self.addCleanup(point_at, current_url())

    def run_command(self, *arguments, **environment):
        """Run `shop webhooks` and return its status and what it printed."""
        status, out, err = call_shop("webhooks", *arguments, SHOP_DATABASE_URL=current_url(), **environment)
        return status, out + err

    def test_an_endpoint_is_added_listed_rotated_and_removed(self):
        status, text = self.run_command("add", "https://example.com/hook", "--type", "order.placed")
        self.assertEqual(0, status, text)
        endpoint_id, secret = re.fullmatch(
            r"endpoint (\S+)\nsecret   (whsec_\S+)\nThe secret is not shown again.\n", text
        ).groups()
        listed = f"{endpoint_id}  https://example.com/hook  order.placed\n"
        self.assertEqual((0, listed), self.run_command("list"))
        status, text = self.run_command("rotate", endpoint_id)
        self.assertEqual(0, status)
        self.assertNotIn(secret, text)
        self.assertEqual((0, f"removed {endpoint_id}\n"), self.run_command("remove", endpoint_id))
        self.assertEqual((0, ""), self.run_command("list"))

    def test_what_cannot_be_done_is_one_sentence_and_status_2(self):
        for arguments, sentence in (
            (("add", "http://example.com"), "the URL must begin with https://"),
            (("remove", "x"), "x is not an id"),
            (("replay", "x"), "x is not an id"),
        ):
            with self.subTest(arguments):
                self.assertEqual((2, f"shop: {sentence}\n"), self.run_command(*arguments))

    def test_failed_events_are_listed_and_replayed(self):
        self.run_command("add", "http://127.0.0.1:1/hook", **ALLOWED)
        order = self.client.post("/orders", OrderFactory.body(ada := UserFactory.create()), user=ada).json
        clock = Clock()
        deliverer = make_deliverer(clock)
        with mock.patch("shop.webhooks.deliverer.log"):
            for _ in range(7):
                deliverer.deliver_due()
                clock.advance(days=2)
        _status, text = self.run_command("failed")
        (event_id,) = re.findall(rf"^(\S+)  \S+ \S+  order {order['id']}  endpoint \S+  7 attempts$", text, re.M)
        self.assertEqual((0, "the event is sent again to 1 endpoint\n"), self.run_command("replay", event_id))
        self.assertEqual((0, ""), self.run_command("failed"))
