"""Names of next hops → addresses, never blocking: the reactor's resolver uses threads, we set a deadline."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHostnameResolver,
    IHostResolution,
    IReactorTime,
    IResolutionReceiver,
)
from zope.interface import implementer

from bridge.b2bua.actions import Hop, Query, Resolution

DEADLINE = 3.0
"""Seconds until a lookup counts as failed; a caller hears ringing meanwhile."""
DEFAULT_PORTS = {"udp": 5060, "tcp": 5060, "tls": 5061}  # RFC 3261 §19.1.2

Answer = Callable[[Query, Resolution], None]


class Resolver:
    """Answer queries by name, one lookup in the air for each name however many calls wait for it."""

    def __init__(
        self,
        names: IHostnameResolver,
        clock: IReactorTime,
        families: Sequence[type[IPv4Address] | type[IPv6Address]] = (IPv4Address, IPv6Address),
    ) -> None:
        """Take the reactor's resolver and the address families that some listener of ours can send to."""
        self._names = names
        self._clock = clock
        self._families = tuple(families)
        self._lookups: dict[str, _Lookup] = {}

    def resolve(self, query: Query, answer: Answer) -> None:
        """Call ``answer`` once: at once for an address literal, else within the deadline."""
        try:
            literal = ipaddress.ip_address(query.host.strip("[]"))
        except ValueError:
            self._join(query, answer)
        else:
            answer(query, Resolution((Hop(_transport(query), (str(literal), _port(query))),)))

    def _join(self, query: Query, answer: Answer) -> None:
        lookup = self._lookups.get(query.host)
        if lookup is None:
            lookup = self._lookups[query.host] = _Lookup(query.host, self._over)
            lookup.waiting.append((query, answer))
            lookup.timer = self._clock.callLater(DEADLINE, lookup.expired)
            self._names.resolveHostName(lookup, query.host, 0, self._families, "UDP")
        else:
            lookup.waiting.append((query, answer))

    def _over(self, lookup: _Lookup, problem: str) -> None:
        if self._lookups.get(lookup.host) is lookup:
            del self._lookups[lookup.host]
        for query, answer in lookup.waiting:
            port = _port(query)
            hops = tuple(Hop(_transport(query), (host, port)) for host in lookup.found)
            answer(query, Resolution(hops, "" if hops else problem))


@implementer(IResolutionReceiver)
@dataclass(slots=True, eq=False)
class _Lookup:
    """Collect the addresses of one name for all that wait for it."""

    host: str
    over: Callable[[_Lookup, str], None]
    found: list[str] = field(default_factory=list)
    waiting: list[tuple[Query, Answer]] = field(default_factory=list)
    timer: IDelayedCall | None = None
    done: bool = False

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        pass

    def addressResolved(self, address: IAddress) -> None:
        if isinstance(address, IPv4Address | IPv6Address) and address.host not in self.found:
            self.found.append(address.host)

    def resolutionComplete(self) -> None:
        self._end(f"{self.host} has no address")

    def expired(self) -> None:
        self._end(f"looking up {self.host} took longer than {DEADLINE:.0f} s")

    def _end(self, problem: str) -> None:
        if self.done:
            return
        self.done = True
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        self.over(self, problem)


def _transport(query: Query) -> str:
    return query.transport or query.transports[0]


def _port(query: Query) -> int:
    return query.port if query.port else DEFAULT_PORTS[_transport(query)]
