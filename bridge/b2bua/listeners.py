"""Our own addresses: the listener by which a peer is reached, and what peers are told of it (D15)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bridge.sip.events import Address, Flow

STREAMLESS_FOR = 300.0
"""Seconds for which a peer that took no TCP connection gets large requests over UDP at once."""
STREAMLESS = 1024


@dataclass(frozen=True, slots=True)
class Listener:
    """A SIP listener: the address it is bound to, and the one that peers are told."""

    transport: str
    bound: Address
    advertised: Address


class Listeners:
    """Find the listener of a flow, and flows from a listener."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = {(listener.transport, listener.bound): listener for listener in listeners}
        self._streamless: dict[Address, float] = {}  # where no stream could be opened, and until when to believe it

    def advertised(self, flow: Flow) -> Address:
        """Return what peers on a flow know us by."""
        return self._listeners[flow.transport, flow.local].advertised

    def host(self, flow: Flow) -> str:
        """Return the same as HOST:PORT."""
        host, port = self.advertised(flow)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def contact(self, flow: Flow, user: str = "trunkbridge") -> str:
        """Return our Contact on a flow: the listener of its transport, by the advertised name (D15)."""
        transport = "" if flow.transport == "udp" else f";transport={flow.transport}"
        return f"<sip:{user}@{self.host(flow)}{transport}>"

    def names(self) -> set[str]:
        """Return the names and addresses that peers know us by."""
        return {address[0] for one in self._listeners.values() for address in (one.bound, one.advertised)}

    def flow_to(self, transport: str, address: Address, name: str = "") -> Flow | None:
        """Return a flow from the first listener of that transport and address family."""
        for listener in self._listeners.values():
            if listener.transport == transport and (":" in listener.bound[0]) == (":" in address[0]):
                return Flow(transport, listener.bound, address, name=name)
        return None

    def stream_to(self, flow: Flow, now: float) -> Flow | None:
        """Return the TCP flow to where a UDP flow leads; None without a listener, or where none was taken lately."""
        if self._streamless.get(flow.remote, 0.0) > now:
            return None
        return self.flow_to("tcp", flow.remote, flow.name)

    def failed(self, flow: Flow, now: float) -> None:
        """Take note of a flow on which nothing could be sent."""
        if flow.transport == "tcp":
            if len(self._streamless) >= STREAMLESS:
                self._streamless.clear()
            self._streamless[flow.remote] = now + STREAMLESS_FOR
