"""Which addresses a name may lead to: a name server that lies must not turn our calls on our own network (T21)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from bridge.b2bua.actions import Hop, Query, Resolution
from bridge.sip.events import Flow

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_INNER = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this machine
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers' NATs
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local; clouds tell their secrets at 169.254.169.254
        "172.16.0.0/12",
        "192.168.0.0/16",
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "::/127",  # unspecified and loopback
        "fc00::/7",
        "fe80::/10",
        "ff00::/8",
    )
)


def within_reach(query: Query, resolution: Resolution) -> tuple[Resolution, tuple[Flow, ...]]:
    """Leave out the hops that no name may lead to, unless the peer was configured to live there; return them too."""
    refused = tuple(hop for hop in resolution.hops if not may_be_called(hop.address[0], query.networks))
    if not refused:
        return resolution, ()
    kept = tuple(hop for hop in resolution.hops if hop not in refused)
    problem = resolution.problem
    if not kept:
        address = refused[0].address[0]
        problem = f"{query.host} leads to {address}, which is not public and not in the sources of its peer"
    return Resolution(kept, problem), tuple(_flow(hop) for hop in refused)


def may_be_called(address: str, networks: Iterable[str]) -> bool:
    """Tell whether an address that a name led to is public, or in one of the networks that a peer was given."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if not any(ip in network for network in _INNER):
        return True
    return any(ip in _network(network) for network in networks)


@lru_cache(1024)
def _network(text: str) -> Network:
    return ipaddress.ip_network(text, strict=False)


def _flow(hop: Hop) -> Flow:
    return Flow(hop.transport, ("", 0), hop.address)
