"""The address of the client behind trusted proxies, for the log only.

Every client can send ``X-Forwarded-For``, so only the addresses that trusted proxies appended are believed.
``Forwarded`` (RFC 7239) is ignored: a proxy that sets one of the two headers passes the other one on unchanged.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from shop.settings import Network

# How many headers are cached with their client; each client sends the same header in every request.
CACHE_SIZE = 1024
# How many characters at the end of the header are parsed: more than any chain of proxies writes.
MAX_HEADER_LENGTH = 1024


class Proxies:
    """The proxies that the operator trusts."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)
        self._found = lru_cache(CACHE_SIZE)(self._find)

    def client(self, peer: str, forwarded_for: str | None) -> str:
        """Return the address of the client: the rightmost address that is not a trusted proxy.

        Args:
            peer: The address that connected to the service.
            forwarded_for: The header ``X-Forwarded-For``. Each proxy appends the address that connected to it.
        """
        if not self._trusted or not forwarded_for or not self._trusts(_parsed(peer)):
            return peer
        if len(forwarded_for) > MAX_HEADER_LENGTH:
            # The cut may have split an address, so the first one is dropped.
            forwarded_for = forwarded_for[-MAX_HEADER_LENGTH:].partition(",")[2]
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
                # The trusted proxy did not know the address. The client may have sent everything further left.
                break
            client = str(before)
        return client


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address, with or without a port, as proxies write it; return None if it is malformed."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    if "%" in text:
        # The library accepts any text as the zone of an address (RFC 4007, section 11).
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
