"""`shop.serving.proxies`: the address of a client behind proxies."""

import os
import unittest
from ipaddress import ip_network
from unittest import mock

from shop.serving.proxies import MAX_HEADER_LENGTH, Proxies
from shop.settings import Settings, SettingsError

PROXIES = Proxies([ip_network("10.0.0.0/8"), ip_network("192.0.2.7"), ip_network("fd00::/8")])
PROXY, CLIENT, LIAR = "10.0.0.1", "203.0.113.5", "198.51.100.9"


class ClientTest(unittest.TestCase):
    """The client's address, from the peer and ``X-Forwarded-For``."""

    def test_without_trusted_proxies_the_header_is_ignored(self):
        self.assertEqual(PROXY, Proxies([]).client(PROXY, CLIENT))

    def test_the_header_of_an_untrusted_peer_is_ignored(self):
        self.assertEqual(LIAR, PROXIES.client(LIAR, CLIENT))

    def test_the_rightmost_untrusted_address_is_the_client(self):
        for header, client in (
            (CLIENT, CLIENT),
            (f"{CLIENT}, 192.0.2.7", CLIENT),
            (f"{CLIENT} ,10.1.1.1,  10.2.2.2 ", CLIENT),
            # The client sent everything further left.
            (f"127.0.0.1, {LIAR}, {CLIENT}", CLIENT),
            (f"10.9.9.9, {CLIENT}, 10.1.1.1", CLIENT),
            ("10.9.9.9, 10.8.8.8", "10.9.9.9"),
            ("2001:db8::1, fd00::1", "2001:db8::1"),
        ):
            with self.subTest(header):
                self.assertEqual(client, PROXIES.client(PROXY, header))

    def test_only_the_end_of_a_long_header_is_parsed(self):
        # The cut splits an address, and its rest looks like an address.
        header = f"{LIAR}, " + "10.1.1.1," * (MAX_HEADER_LENGTH // 9 + 10)
        self.assertEqual("10.1.1.1", PROXIES.client(PROXY, header.rstrip(",")))
        self.assertEqual(CLIENT, PROXIES.client(PROXY, f"{header}{CLIENT}"))

    def test_ports_and_ipv4_mapped_addresses_are_understood(self):
        for hop in (f"{CLIENT}:4711", f"::ffff:{CLIENT}", f"[::ffff:{CLIENT}]:80"):
            with self.subTest(hop):
                self.assertEqual(CLIENT, PROXIES.client("::ffff:10.0.0.1", hop))

    def test_a_malformed_address_makes_its_proxy_the_client(self):
        no_addresses = ("", " ", "unknown", "1.2.3", "999.1.1.1", "fe80::1%eth0 said=so", "," * 500)
        for header in (*no_addresses, f"{CLIENT}, _hidden", f"{CLIENT}, \n{{}}"):
            with self.subTest(header):
                self.assertEqual(PROXY, PROXIES.client(PROXY, header))


class SettingTest(unittest.TestCase):
    """`SHOP_TRUSTED_PROXIES`."""

    def load(self, value: str) -> Settings:
        with mock.patch.dict(os.environ, {"SHOP_TRUSTED_PROXIES": value}, clear=True):
            return Settings.load()

    def test_addresses_and_networks_are_accepted(self):
        trusted = self.load("10.0.0.0/8, 192.0.2.7,::1").trusted_proxies
        self.assertEqual(["10.0.0.0/8", "192.0.2.7/32", "::1/128"], [str(network) for network in trusted])

    def test_a_malformed_value_is_refused_with_the_name_of_the_setting(self):
        for value, word in (("10.0.0.1/8", "host bits"), ("proxy.example", "proxy.example"), ("10.0.0.0/8;::1", ";")):
            with self.subTest(value), self.assertRaises(SettingsError) as caught:
                self.load(value)
            self.assertRegex(str(caught.exception), "^SHOP_TRUSTED_PROXIES must be addresses or networks")
            self.assertIn(word, str(caught.exception))
