"""Address literals: IP addresses as they stand in URIs, in SDP and in configurations, with brackets or without."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

_LONGEST = 64  # an IPv6 address with brackets and a zone; bounds what the memo holds
# RFC 1918, RFC 6598, RFC 3927, RFC 4193. (`is_private` of the standard library also counts the documentation ranges.)
_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "fc00::/7",
        "fe80::/10",
    )
)


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a literal names; None for a host name."""
    return _address(text) if len(text) <= _LONGEST else None


def is_address(text: str) -> bool:
    """Tell an address literal from a name."""
    return address_of(text) is not None


@lru_cache(maxsize=4096)
def is_private(text: str) -> bool:
    """Tell whether a literal means nothing beyond its own network; loopback is not meant."""
    address = address_of(text)
    return address is not None and any(address in network for network in _PRIVATE)


@lru_cache(maxsize=4096)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text)
    except ValueError:
        return None
