"""`shop.webhooks.sender`: which addresses are connected to, and whose certificate is accepted."""

import socket
import ssl
import threading
import unittest
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from shop.domain.events import Event
from shop.domain.webhooks import is_public, new_secret
from shop.webhooks.sender import Sender
from tests.harness.receiver import Receiver

TLS = Path(__file__).parents[1] / "support" / "tls"
# Without the certificates of the usual authorities, which take long to read.
NO_AUTHORITY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
EVENT = Event("01994f8e-54a2-7b30-a4c8-4c6b1d0e7f21", "order.placed", "2026-01-02T03:04:05.678901Z", {"status": "x"})


class AddressTest(unittest.TestCase):
    """Which addresses belong to the public internet."""

    def test_only_global_unicast_addresses_are_public(self):
        for address in ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14"):
            self.assertTrue(is_public(address), address)
        for address in (
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "::1",
            "::",
            "fe80::1",
            "fe80::1%eth0",
            "fc00::1",
            "ff0e::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:0:5ef5:79fb:0:0:80ff:fffe",
        ):
            self.assertFalse(is_public(address), address)


class SenderTest(unittest.TestCase):
    """Requests to a receiver on loopback."""

    def setUp(self):
        self.receiver = self.enterContext(Receiver())

    def send(self, url=None, *, resolves_to=None, **options):
        """Send an event; `resolves_to` are the addresses of the name, one for each look-up."""
        sender = Sender(**({"allow_http": True, "allow_private": True, "tls": NO_AUTHORITY} | options))
        real = socket.getaddrinfo
        addresses = iter(resolves_to or ())

        def resolve(host, port, *args, **keywords):
            if resolves_to and host == "hook.test":
                host = next(addresses)
            return real(host, port, *args, **keywords)

        with mock.patch("socket.getaddrinfo", resolve):
            return sender.send(url or self.receiver.url, EVENT, [new_secret()], now=datetime.now(UTC))

    def named(self, receiver=None):
        """Return the receiver's URL with a name in place of its address."""
        return (receiver or self.receiver).url.replace("127.0.0.1", "hook.test")

    def test_a_receiver_is_reached_by_name_and_sees_that_name(self):
        self.assertEqual(200, self.send(self.named(), resolves_to=["127.0.0.1"]).status)
        (received,) = self.receiver.requests
        self.assertEqual(self.named().split("/")[2], received.headers["host"])

    def test_private_addresses_get_nothing_unless_they_are_allowed(self):
        for url, resolves_to in (
            (self.receiver.url, None),
            (self.named(), ["127.0.0.1"]),
            (self.named(), ["::ffff:127.0.0.1"]),
            (self.receiver.url.replace("127.0.0.1", "2130706433"), None),
            (self.receiver.url.replace("127.0.0.1", "0x7f.1"), None),
            (self.receiver.url.replace("127.0.0.1", "localhost"), None),
            (self.receiver.url.replace("127.0.0.1", "[::ffff:127.0.0.1]"), None),
        ):
            with self.subTest(url, resolves_to=resolves_to):
                outcome = self.send(url, resolves_to=resolves_to, allow_private=False)
                self.assertEqual((None, "the address is not public"), (outcome.status, outcome.failure))
        self.assertEqual([], self.receiver.requests)

    def test_a_name_is_resolved_once_so_that_it_cannot_change_after_the_check(self):
        # A second look-up would raise StopIteration.
        with mock.patch("shop.webhooks.sender.is_public", return_value=True) as checked:
            outcome = self.send(self.named(), resolves_to=["127.0.0.1"], allow_private=False)
        self.assertEqual(200, outcome.status)
        checked.assert_called_once_with("127.0.0.1")

    def test_http_is_refused_unless_it_is_allowed(self):
        outcome = self.send(allow_http=False)
        self.assertEqual((None, "the URL must begin with https://"), (outcome.status, outcome.failure))
        self.assertEqual([], self.receiver.requests)

    def test_a_redirect_is_not_followed(self):
        self.receiver.script("redirect")
        self.assertEqual(302, self.send().status)
        self.assertEqual(["/hook"], [received.path for received in self.receiver.requests])

    def test_the_time_limit_is_for_the_whole_request(self):
        self.receiver.script("slow")
        outcome = self.send(timeout=0.2)
        self.assertEqual((None, "no response within 0.2 s"), (outcome.status, outcome.failure))

    def test_a_head_that_comes_byte_by_byte_ends_with_the_time_limit(self):
        with socket.create_server(("127.0.0.1", 0)) as server:

            def drip():
                connection, _ = server.accept()
                with connection:
                    try:
                        for _ in range(1000):
                            connection.sendall(b"H")
                            stopped.wait(0.02)
                    except OSError:
                        return

            stopped = threading.Event()
            thread = threading.Thread(target=drip)
            thread.start()
            outcome = self.send(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout=0.3)
            stopped.set()
            thread.join()
        self.assertIsNone(outcome.status)
        self.assertLess(outcome.seconds, 5)

    def test_a_failure_does_not_repeat_the_url(self):
        for url in ("http://127.0.0.1:1/token", "http://nowhere.invalid/token"):
            outcome = self.send(url)
            self.assertIsNone(outcome.status)
            self.assertNotIn("token", outcome.failure)

    def test_the_environment_has_no_say(self):
        with mock.patch.dict("os.environ", HTTP_PROXY="http://127.0.0.1:1", ALL_PROXY="http://127.0.0.1:1"):
            self.assertEqual(200, self.send().status)


class TlsTest(unittest.TestCase):
    """Certificates are those of the name, although the connection goes to an address."""

    def setUp(self):
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(TLS / "hook.test.pem", TLS / "hook.test.key")
        self.receiver = self.enterContext(Receiver(tls=server))

    def send(self, name, trusted=TLS / "hook.test.pem"):
        """Send an event to a name that is the receiver's."""
        tls = ssl.create_default_context(cafile=trusted) if trusted else None
        sender = Sender(allow_http=False, allow_private=True, tls=tls)
        port = self.receiver.url.split(":")[2].split("/")[0]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]
        real = socket.getaddrinfo
        with mock.patch("socket.getaddrinfo", lambda host, *a, **k: found if host == name else real(host, *a, **k)):
            return sender.send(f"https://{name}:{port}/hook", EVENT, [new_secret()], now=datetime.now(UTC))

    def test_the_certificate_of_the_name_is_accepted(self):
        self.assertEqual(200, self.send("hook.test").status)

    def test_the_certificate_of_another_name_is_rejected(self):
        self.assertIsNone(self.send("other.test").status)
        self.assertEqual([], self.receiver.requests)

    def test_an_unknown_authority_is_rejected(self):
        self.assertIsNone(self.send("hook.test", trusted=None).status)
        self.assertEqual([], self.receiver.requests)
