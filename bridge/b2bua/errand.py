"""Requests of ours outside calls: who waits for their answer, and what sending them needs of the core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bridge.b2bua.actions import Hop, Query, Resolution
from bridge.b2bua.routing import Target
from bridge.config import Host, Peer
from bridge.literals import is_address
from bridge.sip.endpoint import Endpoint
from bridge.sip.events import Address, Flow
from bridge.sip.message import Response
from bridge.sip.tokens import Tokens
from bridge.sip.transaction import ClientTransaction


@dataclass(frozen=True, slots=True)
class Errand:
    """Own a transaction that belongs to no call. ``unanswered`` takes 408 for silence, 503 for no way to send."""

    peer: Peer
    response: Callable[[Response, ClientTransaction, float], None]
    unanswered: Callable[[ClientTransaction, int, float], None]


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Wait for the answer to a look-up."""

    then: Callable[[Resolution, float], None]

    def resolved(self, query: Query, resolution: Resolution, now: float) -> None:
        self.then(resolution, now)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What requests outside calls need of the core."""

    endpoint: Endpoint
    tokens: Tokens
    flow_to: Callable[[str, Address, str], Flow | None]  # transport, address, host name → a flow from a listener
    our_host: Callable[[Flow], str]
    contact: Callable[[Flow, str], str]  # ours on a flow, with a user part
    look_up: Callable[[Inquiry, Query], None]
    learn: Callable[[Peer, str], None]
    talks_from: Callable[[Peer], set[str]]  # the addresses that the peer's calls go on with
    tell: Callable[[Peer, str, float], None]  # the operator, of what has changed

    def random(self) -> float:
        """Return a random share from 0 to 1."""
        return int(self.tokens.token(32), 16) / 2**32

    def find(self, peer: Peer, host: Host, then: Callable[[Resolution, float], None], now: float) -> None:
        """Call ``then`` with the hops of a host: at once for an address, else when they have been looked up."""
        target = Target(peer, host)
        if is_address(host.host):
            then(Resolution((Hop(target.transport, (host.host.strip("[]"), target.port)),)), now)
        else:
            self.look_up(Inquiry(then), target.query(0))

    def flows(self, peer: Peer, host: Host, resolution: Resolution) -> tuple[Flow, ...]:
        """Return the flows to the hops that some listener of ours can reach; who lives there is one of the peer's."""
        name = "" if is_address(host.host) else host.host
        for hop in resolution.hops:
            self.learn(peer, hop.address[0])
        flows = (self.flow_to(hop.transport, hop.address, name) for hop in resolution.hops)
        return tuple(flow for flow in flows if flow is not None)
