"""Which address a request comes from, where proxies stand in front. It is for the log, and decides nothing.

Anybody can send ``X-Forwarded-For``; only what proxies have added to its end, that the operator trusts, says something.
``Forwarded`` (RFC 7239) is never looked at: a proxy that writes the one passes on the other as it came.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from shop.settings import Network

# Headers that are remembered, with what was found; each client sends the same again and again.
REMEMBERED = 1024
# How much of a header's end is looked at, in characters: more than any chain of proxies writes.
LONGEST = 1024


class Proxies:
    """The proxies whose word is taken.

    Args:
        trusted: Their addresses.
    """

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)
        self._found = lru_cache(REMEMBERED)(self._find)

    def client(self, peer: str, forwarded_for: str | None) -> str:
        """Return the address of the client: the rightmost that is no trusted proxy's.

        Args:
            peer: Who has connected.
            forwarded_for: The header ``X-Forwarded-For``: a list to whose end each proxy has added who connected to it.
        """
        if not self._trusted or not forwarded_for or not self._trusts(_parsed(peer)):
            return peer
        if len(forwarded_for) > LONGEST:
            # Without the address that is cut in two.
            forwarded_for = forwarded_for[-LONGEST:].partition(",")[2]
        return self._found(peer, forwarded_for)

    def _trusts(self, address: IPv4Address | IPv6Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)

    def _find(self, peer: str, forwarded_for: str) -> str:
        client = peer
        for hop in reversed(forwarded_for.split(",")):
            if not self._trusts(_parsed(client)):
                break
            before = _parsed(hop)
            if before is None:
                # A trusted proxy does not know who it was; what is further left is anybody's.
                break
            client = str(before)
        return client


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address that may have a port, as some proxies write it, or None where there is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    if "%" in text:
        # Of the zone of an address the library takes any text (RFC 4007, section 11).
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
