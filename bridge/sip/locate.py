"""Find the next hops of a SIP name by RFC 3263 §4, from records that somebody else looks up.

`locate` is asked again and again with what is known by then: it names what it still has to know, or the hops. Nothing
is remembered between two calls, so that a cache, a file of hosts and a dead resolver are all the shell's business.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bridge.sip.events import Address
from bridge.sip.uri import DEFAULT_PORTS

MOST_TARGETS = 32
"""SRV targets that are looked at, and hops that come out: a name can list more than a call can try."""
_PREFIXES = {"udp": "_sip._udp.", "tcp": "_sip._tcp.", "tls": "_sips._tcp."}  # RFC 3263 §4.1
_SERVICES = {"SIP+D2U": "udp", "SIP+D2T": "tcp", "SIPS+D2T": "tls"}


class Kind(enum.Enum):
    """The record types that are asked for."""

    A = "A"
    AAAA = "AAAA"
    NAPTR = "NAPTR"
    SRV = "SRV"


@dataclass(frozen=True, slots=True)
class Question:
    """Ask for the records of one name, which is written in small letters without a dot at its end."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Naptr:
    order: int
    preference: int
    flags: str
    service: str
    replacement: str


@dataclass(frozen=True, slots=True)
class Srv:
    priority: int
    weight: int
    port: int
    target: str


Records = Sequence[str] | Sequence[Naptr] | Sequence[Srv]
"""What answers a question: addresses, NAPTR or SRV records; empty where there are none, or nobody could say."""
Known = Mapping[Question, Records]
Chance = Callable[[int], int]
"""Return a random whole number from 0 up to the argument, both included."""


@dataclass(frozen=True, slots=True)
class Sought:
    """What is to be found: a name, the port and the transport where they are given, and what can be used.

    ``transports`` are those to choose from, the preferred one first; ``families`` those of our listeners, by transport:
    the record types to ask for.
    """

    host: str
    port: int | None
    transport: str
    transports: tuple[str, ...]
    families: Mapping[str, tuple[Kind, ...]]

    @property
    def usable(self) -> tuple[str, ...]:
        """The transports that may be chosen: ours and the peer's."""
        wanted = (self.transport,) if self.transport else self.transports
        return tuple(one for one in wanted if self.families.get(one))


@dataclass(frozen=True, slots=True)
class Missing:
    """What must be known before `locate` can go on."""

    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Located:
    """The hops in the order in which they are to be tried: transport and address."""

    hops: tuple[tuple[str, Address], ...]


def locate(sought: Sought, known: Known, chance: Chance) -> Missing | Located:
    """Take the next step toward the hops of a name."""
    host = sought.host.rstrip(".").lower()
    usable = sought.usable
    if not usable:
        return Located(())
    if sought.port is not None:  # §4.2: a port means that the name is a host's
        return _hosts([(usable[0], host, sought.port)], sought, known)
    if sought.transport:
        services: Missing | list[tuple[str, str]] = [(sought.transport, _PREFIXES[sought.transport] + host)]
    else:
        services = _services(host, usable, known)
    if isinstance(services, Missing):
        return services
    targets = _targets(services, known, chance)
    if isinstance(targets, Missing):
        return targets
    if targets is None:  # §4.2: no SRV records: the name is a host's, on the default port
        targets = [(usable[0], host, DEFAULT_PORTS[usable[0]])]
    return _hosts(targets, sought, known)


def _services(host: str, usable: tuple[str, ...], known: Known) -> Missing | list[tuple[str, str]]:
    """Return the SRV names to try with their transports, best first (§4.1)."""
    question = Question(host, Kind.NAPTR)
    if question not in known:
        return Missing((question,))
    records = [record for record in known[question] if isinstance(record, Naptr)]
    records.sort(key=lambda record: (record.order, record.preference))
    services = []
    for record in records[:MOST_TARGETS]:
        transport = _SERVICES.get(record.service.upper())
        if transport in usable and record.flags.lower() == "s" and record.replacement:
            services.append((transport, record.replacement.rstrip(".").lower()))
    # §4.1: without a NAPTR record that helps, every transport's SRV records are asked for
    return services or [(transport, _PREFIXES[transport] + host) for transport in usable]


def _targets(
    services: list[tuple[str, str]], known: Known, chance: Chance
) -> Missing | list[tuple[str, str, int]] | None:
    """Return transport, host and port of the SRV targets of the first service that has any; None: none has."""
    questions = [Question(name, Kind.SRV) for _, name in services]
    missing = tuple(dict.fromkeys(question for question in questions if question not in known))
    if missing:
        return Missing(missing)
    found = False
    targets: list[tuple[str, str, int]] = []
    for (transport, _), question in zip(services, questions, strict=True):
        records = [record for record in known[question] if isinstance(record, Srv)]
        found = found or bool(records)
        # Cut before chance has its say: the next step must not want to know of other targets
        records = sorted(records, key=lambda record: record.priority)[: MOST_TARGETS - len(targets)]
        for record in in_order(records, chance):
            target = record.target.rstrip(".").lower()
            if target:  # RFC 2782: "." says that the service is not there
                targets.append((transport, target, record.port))
    return targets if found else None


def _hosts(targets: list[tuple[str, str, int]], sought: Sought, known: Known) -> Missing | Located:
    """Put addresses in the place of host names."""
    questions = [Question(host, kind) for transport, host, _ in targets for kind in sought.families[transport]]
    missing = tuple(dict.fromkeys(question for question in questions if question not in known))
    if missing:
        return Missing(missing)
    hops: dict[tuple[str, Address], None] = {}
    for transport, host, port in targets:
        for kind in sought.families[transport]:
            for address in known[Question(host, kind)]:
                if isinstance(address, str):
                    hops[transport, (address, port)] = None
    return Located(tuple(hops)[:MOST_TARGETS])


def in_order(records: Iterable[Srv], chance: Chance) -> list[Srv]:
    """Order SRV records as RFC 2782 says: by priority, and by weighted chance within one (R50)."""
    ordered: list[Srv] = []
    by_priority: dict[int, list[Srv]] = {}
    for record in records:
        by_priority.setdefault(record.priority, []).append(record)
    for priority in sorted(by_priority):
        left = sorted(by_priority[priority], key=lambda record: record.weight)  # those of weight 0 first
        while left:
            drawn = chance(sum(record.weight for record in left))
            for record in left:
                drawn -= record.weight
                if drawn <= 0:
                    break
            ordered.append(record)
            left.remove(record)
    return ordered
