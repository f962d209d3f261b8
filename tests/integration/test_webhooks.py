"""Webhooks: what a receiver gets, when it gets it again, and which addresses get nothing."""

import json
import logging
from datetime import timedelta
from unittest import mock

import jsonschema_rs
from standardwebhooks import Webhook, WebhookVerificationError

from shop.domain import webhooks
from shop.domain.models import Order, WebhookDelivery, WebhookEndpoint
from shop.storage.database import database
from shop.webhooks.deliverer import RETRIES
from shop.webhooks.metrics import DeliveryMetrics
from tests import binding
from tests.harness.postgres import setUpModule, tearDownModule
from tests.harness.receiver import Receiver
from tests.support.webhooks import WebhookTestCase, make_deliverer, sequences


def quiet():
    """Keep the lines about failed attempts out of the tests' output."""
    return mock.patch.object(logging.getLogger("shop.webhooks.deliverer"), "disabled", True)


class QuietTestCase(WebhookTestCase):
    """Tests whose receivers fail on purpose."""

    def setUp(self):
        super().setUp()
        self.enterContext(quiet())

    def assertDelivered(self, *event_types):
        """Fail unless the receiver got events of these types since the last call, in this order."""
        self.assertEqual(list(event_types), [request.json["type"] for request in self.receiver.requests])
        self.receiver.requests.clear()


class ContentTest(WebhookTestCase):
    """What a receiver gets."""

    def test_the_signature_verifies_with_the_secret_and_no_other(self):
        self.place()
        self.deliverer.deliver_due()
        (received,) = self.receiver.requests
        Webhook(self.secret).verify(received.body, received.headers)
        with self.assertRaises(WebhookVerificationError):
            Webhook(webhooks.new_secret()).verify(received.body, received.headers)
        with self.assertRaises(WebhookVerificationError):
            Webhook(self.secret).verify(received.body.replace(b"confirmed", b"delivered"), received.headers)

    def test_the_body_and_the_id_are_those_of_the_event(self):
        order_id = self.place()
        self.change(order_id, "shipped")
        self.deliverer.deliver_due()
        listed = self.client.get(f"/orders/{order_id}/events", user=self.ada).json["events"]
        expected = [
            (event["id"], {"type": event["type"], "timestamp": event["time"], "data": event["data"]})
            for event in listed
        ]
        self.assertEqual(expected, [(one.headers["webhook-id"], one.json) for one in self.receiver.requests])

    def test_bodies_match_their_schemas_in_the_description(self):
        description = binding.describe()
        self.change(self.place(), "shipped")
        self.deliverer.deliver_due()
        seen = set()
        for received in self.receiver.requests:
            operation = description["webhooks"][received.json["type"]]["post"]
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            root = {**schema, "components": description["components"]}
            jsonschema_rs.Draft202012Validator(root, validate_formats=True).validate(received.json)
            for parameter in operation["parameters"]:
                self.assertIn(parameter["name"], received.headers)
            seen.add(received.json["type"])
        self.assertEqual(set(description["webhooks"]), seen)

    def test_amounts_keep_their_digits(self):
        self.place()
        self.deliverer.deliver_due()
        (received,) = self.receiver.requests
        self.assertIn(f'"total":{Order.get().total}}}', received.body.decode())

    def test_a_delivered_event_is_not_sent_again(self):
        self.place()
        self.assertEqual(1, self.deliverer.deliver_due())
        self.clock.advance(days=2)
        self.assertEqual(0, self.deliverer.deliver_due())
        self.assertEqual(0, WebhookDelivery.select().count())

    def test_only_events_of_the_registered_types_are_sent(self):
        other = self.enterContext(Receiver())
        self.register(other, "order.status_changed")
        self.change(self.place(), "shipped")
        self.deliverer.deliver_due()
        self.assertEqual(["order.status_changed"], [one.json["type"] for one in other.requests])
        self.assertEqual(2, len(self.receiver.requests))

    def test_events_from_before_the_registration_are_not_sent(self):
        self.place()
        self.clock.advance(seconds=1)
        other = self.enterContext(Receiver())
        self.register(other)
        self.deliverer.deliver_due()
        self.assertEqual((1, 0), (len(self.receiver.requests), len(other.requests)))

    def test_a_rolled_back_order_is_not_sent(self):
        with database.atomic() as transaction:
            self.place()
            transaction.rollback()
        self.assertEqual(0, self.deliverer.deliver_due())

    def test_a_replayed_idempotency_key_is_not_sent_again(self):
        order = self.client.get(f"/orders/{self.place()}", user=self.ada).json
        body = {name: order[name] for name in ("userId", "items", "shippingAddress")}
        for _ in range(2):
            self.client.post("/orders", body, user=self.ada, Idempotency_Key="key")
        self.assertEqual(2, self.deliverer.deliver_due())

    def test_the_log_has_a_line_for_each_attempt_without_body_secret_or_path(self):
        with self.assertLogs("shop.webhooks.deliverer", "INFO") as logged:
            order_id = self.place()
            self.receiver.script(500)
            self.deliverer.deliver_due()
            self.clock.advance(seconds=5)
            self.deliverer.deliver_due()
        first, second = [record.fields for record in logged.records]
        self.assertEqual(("retried", 1, 500), (first["outcome"], first["attempt"], first["status"]))
        self.assertEqual(("delivered", 2, 200), (second["outcome"], second["attempt"], second["status"]))
        self.assertEqual(order_id, second["order_id"])
        for secret in (self.secret, "/hook", "confirmed", str(self.ada.id)):
            self.assertNotIn(secret, str([record.__dict__ for record in logged.records]))


class RetryTest(QuietTestCase):
    """Receivers that fail."""

    def test_an_event_is_kept_as_failed_after_seven_attempts(self):
        self.receiver.usual = 500
        self.place()
        self.assertEqual(1, self.deliverer.deliver_due())
        for wait in RETRIES:
            self.clock.advance(seconds=wait.total_seconds() - 0.001)
            self.assertEqual(0, self.deliverer.deliver_due(), wait)
            self.clock.advance(seconds=0.001)
            self.assertEqual(1, self.deliverer.deliver_due(), wait)
        self.clock.advance(days=30)
        self.assertEqual(0, self.deliverer.deliver_due())
        (kept,) = webhooks.failed()
        ids = {request.headers["webhook-id"] for request in self.receiver.requests}
        self.assertEqual(({kept.event_id}, len(RETRIES) + 1), (ids, kept.attempts))

    def test_the_waits_are_those_of_the_contract(self):
        seconds = [5, 30, 5 * 60, 60 * 60, 6 * 60 * 60, 24 * 60 * 60]
        self.assertEqual(seconds, [wait.total_seconds() for wait in RETRIES])

    def test_jitter_makes_a_wait_longer(self):
        deliverer = make_deliverer(self.clock, chance=lambda: 1.0)
        self.receiver.script(500)
        self.place()
        deliverer.deliver_due()
        self.assertEqual(self.clock() + timedelta(seconds=5.5), WebhookDelivery.get().due_at)

    def test_a_failed_event_can_be_replayed_with_its_id(self):
        self.receiver.usual = 500
        self.place()
        for wait in (*RETRIES, timedelta()):
            self.deliverer.deliver_due()
            self.clock.advance(seconds=wait.total_seconds())
        (kept,) = webhooks.failed()
        self.receiver.usual = 200
        self.receiver.requests.clear()
        self.assertEqual(1, webhooks.replay(kept.event_id, now=self.clock()))
        self.deliverer.deliver_due()
        (received,) = self.receiver.requests
        self.assertEqual(kept.event_id, received.headers["webhook-id"])
        self.assertEqual([], webhooks.failed())
        with self.assertRaisesRegex(webhooks.WebhookRefused, "no delivery of the event .* has failed"):
            webhooks.replay(kept.event_id, now=self.clock())

    def test_an_event_is_sent_again_after_a_hang_up_redirect_or_timeout(self):
        impatient = make_deliverer(self.clock, timeout=0.3)
        for response in ("hang up", "redirect", "slow", 404):
            with self.subTest(response):
                self.receiver.script(response)
                self.place()
                (impatient if response == "slow" else self.deliverer).deliver_due()
                self.assertDelivered("order.placed")
                self.clock.advance(seconds=5)
                self.deliverer.deliver_due()
                self.assertDelivered("order.placed")

    def test_nothing_listens_and_later_the_event_arrives(self):
        with Receiver() as gone:
            self.register(gone)
        self.place()
        self.deliverer.deliver_due()
        self.assertEqual([1], [delivery.attempts for delivery in WebhookDelivery.select()])

    def test_410_disables_the_endpoint_until_its_secret_is_rotated(self):
        self.receiver.script(410)
        self.place()
        self.deliverer.deliver_due()
        self.assertDelivered("order.placed")
        self.place()
        self.clock.advance(days=2)
        self.assertEqual(0, self.deliverer.deliver_due())
        (endpoint,) = webhooks.list_all()
        self.assertIsNotNone(endpoint.disabled_at)
        self.assertEqual(1, len(webhooks.failed()))
        webhooks.rotate(self.endpoint.id, now=self.clock())
        self.place()
        self.deliverer.deliver_due()
        self.assertDelivered("order.placed")

    def test_410_for_one_event_gives_up_those_that_wait(self):
        self.receiver.usual = 500
        self.place()
        self.place()
        self.deliverer.deliver_due()
        self.receiver.usual = 410
        self.clock.advance(seconds=5)
        self.deliverer.deliver_due()
        self.assertEqual(3, len(self.receiver.requests))
        self.assertEqual(2, len(webhooks.failed()))

    def test_an_endpoint_that_is_down_does_not_hold_up_another(self):
        down = self.enterContext(Receiver(usual=500))
        self.register(down)
        self.change(self.place(), "shipped")
        self.deliverer.deliver_due()
        self.assertDelivered("order.placed", "order.status_changed")
        self.assertEqual(1, len(down.requests))

    def test_a_removed_endpoint_gets_nothing_more(self):
        self.receiver.script(500)
        self.place()
        self.deliverer.deliver_due()
        webhooks.remove(self.endpoint.id)
        self.clock.advance(days=2)
        self.place()
        self.assertEqual(0, self.deliverer.deliver_due())
        self.assertEqual((0, 0), (WebhookDelivery.select().count(), WebhookEndpoint.select().count()))


class OrderTest(QuietTestCase):
    """Events of one order arrive in order."""

    def test_later_events_wait_for_one_that_failed_and_follow_it_at_once(self):
        self.receiver.script(500, 500)
        order_id = self.place()
        self.deliverer.deliver_due()
        self.assertDelivered("order.placed")
        self.change(order_id, "shipped")
        self.assertEqual(0, self.deliverer.deliver_due())
        self.clock.advance(seconds=5)
        self.deliverer.deliver_due()
        self.assertDelivered("order.placed")
        self.change(order_id, "delivered")
        self.clock.advance(seconds=30)
        self.deliverer.deliver_due()
        self.assertDelivered("order.placed", "order.status_changed", "order.status_changed")

    def test_events_follow_one_that_was_given_up(self):
        order_id = self.place()
        self.receiver.usual = 500
        for wait in (timedelta(), *RETRIES[:-1]):
            self.clock.advance(seconds=wait.total_seconds())
            self.deliverer.deliver_due()
        self.change(order_id, "shipped")
        self.receiver.usual = lambda received: 500 if received.json["type"] == "order.placed" else 200
        self.receiver.requests.clear()
        self.clock.advance(days=1)
        self.deliverer.deliver_due()
        self.assertDelivered("order.placed", "order.status_changed")

    def test_two_deliverers_at_once_keep_the_order_and_lose_nothing(self):
        ids = [self.place() for _ in range(10)]
        for order_id in ids:
            self.change(order_id, "shipped")
        # The first attempt of every third event fails. An event that fails often by chance would wait for hours.
        attempted: dict[str, int] = {}

        def answer(request):
            event_id = request.headers["webhook-id"]
            is_first = event_id not in attempted
            return 500 if attempted.setdefault(event_id, len(attempted)) % 3 == 0 and is_first else 200

        self.receiver.usual = answer
        for _ in range(8):
            self.at_once(*[make_deliverer(self.clock).deliver_due for _ in range(3)])
            self.clock.advance(minutes=10)
        self.assertEqual({key: ["confirmed", "shipped"] for key in ids}, sequences(self.receiver.requests))
        self.assertEqual(0, WebhookDelivery.select().count())

    def test_events_arrive_in_order_after_a_receiver_was_down_for_an_hour(self):
        self.receiver.usual = "hang up"
        ids = []
        for _ in range(6):
            ids.append(self.place())
            self.deliverer.deliver_due()
            self.clock.advance(minutes=10)
            self.change(ids[-1], "shipped")
            self.deliverer.deliver_due()
        self.receiver.usual = 200
        self.receiver.requests.clear()
        for _ in range(3):
            self.clock.advance(minutes=30)
            self.deliverer.deliver_due()
        self.assertEqual({key: ["confirmed", "shipped"] for key in ids}, sequences(self.receiver.requests))
        self.assertEqual(0, WebhookDelivery.select().count())

    def test_a_claim_of_a_deliverer_that_died_expires(self):
        self.place()
        with (
            mock.patch("shop.webhooks.deliverer.deliveries.delivered", side_effect=RuntimeError("killed")),
            self.assertRaises(RuntimeError),
        ):
            self.deliverer.deliver_due()
        self.clock.advance(seconds=59)
        self.assertEqual(0, self.deliverer.deliver_due())
        self.clock.advance(seconds=1)
        self.assertEqual(1, self.deliverer.deliver_due())
        first, second = self.receiver.requests
        self.assertEqual((first.headers["webhook-id"], first.body), (second.headers["webhook-id"], second.body))

    def test_an_expired_claim_does_not_undo_what_another_deliverer_did(self):
        self.place()

        def be_slow(_received):
            self.clock.advance(seconds=61)
            other = make_deliverer(self.clock)
            self.receiver.usual = 200
            self.assertEqual([1], self.at_once(other.deliver_due))
            return 500

        self.receiver.usual = be_slow
        self.deliverer.deliver_due()
        self.assertEqual(2, len(self.receiver.requests))
        self.assertEqual(0, WebhookDelivery.select().count())


class RotationTest(WebhookTestCase):
    """A new secret."""

    def verifies(self, secret):
        """Tell whether the last request verifies with a secret, whatever its time."""
        received = self.receiver.requests[-1]
        with mock.patch("standardwebhooks.webhooks.datetime", wraps=__import__("datetime").datetime) as clock:
            clock.now.return_value = self.clock()
            try:
                Webhook(secret).verify(received.body, received.headers)
            except WebhookVerificationError:
                return False
        return True

    def test_the_old_secret_signs_for_a_day_beside_the_new_one(self):
        new = webhooks.rotate(self.endpoint.id, now=self.clock())
        self.assertNotEqual(new, self.secret)
        for hours, old_signs in ((0, True), (23.9, True), (0.1, False)):
            with self.subTest(hours):
                self.clock.advance(hours=hours)
                self.place()
                self.deliverer.deliver_due()
                self.assertEqual((True, old_signs), (self.verifies(new), self.verifies(self.secret)))


class MetricsTest(QuietTestCase):
    """What is counted."""

    def test_attempts_by_outcome_and_the_age_of_the_oldest_event(self):
        metrics = DeliveryMetrics()
        deliverer = make_deliverer(self.clock, metrics=metrics)
        self.receiver.script(200, 500, 410)
        self.place()
        deliverer.deliver_due()
        self.place()
        self.clock.advance(seconds=3)
        self.assertEqual(3, self.age(deliverer, metrics))
        deliverer.deliver_due()
        self.assertEqual(3, self.age(deliverer, metrics))
        self.clock.advance(seconds=5)
        deliverer.deliver_due()
        self.assertEqual(0, self.age(deliverer, metrics))
        for outcome in ("delivered", "retried", "disabled"):
            labels = {"outcome": outcome}
            self.assertEqual(1, metrics.registry.get_sample_value("shop_webhook_deliveries_total", labels))

    @staticmethod
    def age(deliverer, metrics):
        """Return the gauge after it was set."""
        deliverer._note_age()
        return metrics.registry.get_sample_value("shop_webhook_oldest_undelivered_seconds")


class RegistrationTest(WebhookTestCase):
    """What can be registered."""

    def refused(self, url, *types, allow_http=False):
        """Return the sentence of a refusal."""
        with self.assertRaises(webhooks.WebhookRefused) as caught:
            webhooks.add(url, types, allow_http=allow_http, now=self.clock())
        return str(caught.exception)

    def test_urls_that_are_not_acceptable(self):
        for url in ("http://example.com", "ftp://example.com", "example.com", "", "//example.com"):
            with self.subTest(url):
                self.assertEqual("the URL must begin with https://", self.refused(url))
        self.assertEqual(
            "the URL must begin with https:// or http://", self.refused("ftp://example.com", allow_http=True)
        )
        for url in ("https://", "https://user@example.com", "https://example.com#a", "https://:443"):
            with self.subTest(url):
                self.assertIn("must have a host", self.refused(url))
        for url in (
            f"https://{'a' * 2000}",
            "https://ex ample.com",
            "https://example.com/\n",
            "https://ex\u00e4mple.com",
        ):
            with self.subTest(url):
                self.assertIn("printable ASCII", self.refused(url))
        self.assertEqual("the URL is malformed", self.refused("https://[::1"))
        self.assertEqual("the URL is malformed", self.refused("https://example.com:99999"))

    def test_unknown_types_and_a_second_registration_are_refused(self):
        self.assertIn("there is no event type order.lost", self.refused("https://example.com", "order.lost"))
        self.assertEqual("this URL is registered already", self.refused(self.receiver.url, allow_http=True))

    def test_unknown_endpoints_are_refused(self):
        for endpoint_id, sentence in (
            ("no-id", "no-id is not an id"),
            (str(self.ada.id), f"there is no endpoint {self.ada.id}"),
        ):
            for act in (webhooks.remove, lambda one: webhooks.rotate(one, now=self.clock())):
                with self.subTest(endpoint_id), self.assertRaisesRegex(webhooks.WebhookRefused, sentence):
                    act(endpoint_id)

    def test_a_secret_has_the_form_of_the_standard(self):
        self.assertRegex(self.secret, r"^whsec_[A-Za-z0-9+/]{43}=$")
        self.assertNotIn(self.secret, json.dumps([list(map(str, one)) for one in webhooks.list_all()]))
