"""Where the requests within a leg's dialogs go: the route set and the remote target, over the connection that lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from bridge.b2bua.actions import Hop, Query, Resolution
from bridge.literals import is_address, is_private
from bridge.sip.dialog import Dialog
from bridge.sip.events import Address, Flow
from bridge.sip.uri import DEFAULT_PORTS, Uri

Delivery = Callable[[Flow, float], None]


class Finder(Protocol):
    """What finding a next hop needs of the core."""

    def flow_to(self, transport: str, address: Address, name: str) -> Flow | None:
        """Return a flow from a listener of ours, None without a fitting one."""

    def look_up(self, asker: NextHop, query: Query) -> None:
        """Ask for the hops behind a name; the answer comes by `NextHop.resolved`."""


class NextHop:
    """Find the flow for each request of one leg.

    ``flow`` is where its first message went or came from. ``name`` is the peer's own host name: what TLS asks for and
    checks where a route or Contact is a bare address (D17: Twilio takes no address for SNI).
    """

    def __init__(self, flow: Flow, finder: Finder, name: str = "") -> None:
        self.flow = flow
        self._name = name
        self._finder = finder
        self._found: dict[tuple[str, int | None], Flow] = {}
        self._waiting: dict[tuple[str, int | None], list[Delivery]] = {}

    def heard(self, flow: Flow) -> None:
        """Note the connection over which the peer speaks, to keep using it while it lives."""
        if flow.transport == "tls" and flow.name != self.flow.name:
            return  # D14, RFC 5923 §5: a connection that came has not proved the name that ours had to prove
        if flow.connection and flow.connection != self.flow.connection and flow.transport == self.flow.transport:
            self.flow = replace(self.flow, connection=flow.connection)

    def deliver(self, dialog: Dialog, delivery: Delivery, now: float) -> None:
        """Call ``delivery`` with the flow for the dialog's requests: at once, or when its name has been looked up."""
        hop = dialog.next_hop()
        name = hop.host.lower()
        if name == self.flow.name.lower() and hop.port in (None, self.flow.remote[1]):
            delivery(self.flow, now)
        elif is_address(hop.host):
            delivery(self._to_address(hop, dialog), now)
        elif (known := self._found.get((name, hop.port))) is not None:
            delivery(known, now)
        else:
            self._wait((name, hop.port), hop, delivery)

    def resolved(self, query: Query, resolution: Resolution, now: float) -> None:
        """Take the answer to a look-up; without one, what the peer came from has to do."""
        key = (query.host, query.port)
        flow = next(
            (flow for hop in resolution.hops if (flow := self._flow_to(hop, query.host)) is not None), self.flow
        )
        if resolution.hops:
            self._found[key] = flow
        for delivery in self._waiting.pop(key, ()):
            delivery(flow, now)

    def _wait(self, key: tuple[str, int | None], hop: Uri, delivery: Delivery) -> None:
        waiting = self._waiting.setdefault(key, [])
        waiting.append(delivery)
        if len(waiting) == 1:
            transport = _transport(hop) or ("" if self.flow.transport == "udp" else self.flow.transport)
            self._finder.look_up(self, Query(0, key[0], hop.port, transport, (self.flow.transport,)))

    def _to_address(self, hop: Uri, dialog: Dialog) -> Flow:
        """Follow route set and remote target (D16); a private Contact seen through NAT yields to the packet source."""
        address, source = hop.host.strip("[]"), self.flow.remote[0]
        if not dialog.route_set and is_private(address) and not is_private(source):
            return self.flow
        # Many a peer leaves the transport out of its Contact and means the one in use.
        transport = _transport(hop) or self.flow.transport
        found = self._flow_to(Hop(transport, (address, hop.port or DEFAULT_PORTS.get(transport, 5060))), "")
        return found or self.flow

    def _flow_to(self, hop: Hop, name: str) -> Flow | None:
        ours = self.flow
        same_family = (":" in hop.address[0]) == (":" in ours.remote[0])
        if hop.transport == ours.transport and same_family:
            # D17: over the connection that lives, if it leads to the same host (Flow)
            same_host = hop.address[0] == ours.remote[0]
            connection = ours.connection if same_host else 0
            name = name or (ours.name if same_host else "") or self._proven_name(hop)
            return Flow(ours.transport, ours.local, hop.address, connection, name)
        return self._finder.flow_to(hop.transport, hop.address, name or self._proven_name(hop))

    def _proven_name(self, hop: Hop) -> str:
        """Return the name that the owner of a bare address has to prove over TLS."""
        return (self.flow.name or self._name) if hop.transport == "tls" else ""


def _transport(uri: Uri) -> str:
    transport = (uri.param("transport") or "").lower()
    return "tls" if uri.scheme == "sips" else transport
