"""Who may call, where a call goes, and what the INVITE toward each target says.

Three tables built from the configuration: `Sources` (an address → the peers that may signal from it), `Routes` (a peer
and a number → a route) and the templates of the profiles (`invitation`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bridge.b2bua.actions import Query
from bridge.config import Config, Host, Peer, Route
from bridge.errors import PeerError
from bridge.sip.headers import NameAddr
from bridge.sip.message import Header, Request
from bridge.sip.uri import Uri, unescape

_DEFAULT_PORTS = {"udp": 5060, "tcp": 5060, "tls": 5061}
_KNOWN_ADDRESSES = 4096
_SEPARATORS = str.maketrans("", "", "-.() ")


class Sources:
    """Tell which peers own a signalling address: longest prefix first, the order of the configuration within one.

    A network belongs to as many peers as name it (two trunks of one carrier, say); the number decides between them.
    """

    def __init__(self, peers: Iterable[Peer]) -> None:
        self._peers: dict[str, Peer] = {}
        self._by_prefix: dict[tuple[int, int], dict[int, list[str]]] = {}
        self._known: dict[str, tuple[Peer, ...]] = {}  # answers given lately
        for peer in peers:
            self._peers[peer.name] = peer
            for network in peer.sources:
                self._add(peer.name, network)

    def learn(self, peer: Peer, address: str) -> None:
        """Add an address to which a host name of the peer's has resolved."""
        if peer not in self.owners(address):
            self._add(peer.name, address)

    def owners(self, address: str) -> tuple[Peer, ...]:
        """Return the peers that may signal from this address; none: a stranger (T05, T08)."""
        found = self._known.get(address)
        if found is None:
            found = self._look_up(address)
            if len(self._known) >= _KNOWN_ADDRESSES:  # strangers come from as many addresses as they like
                self._known.clear()
            self._known[address] = found
        return found

    def _look_up(self, address: str) -> tuple[Peer, ...]:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return ()
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        bits, value = ip.max_prefixlen, int(ip)
        found: list[str] = []
        for (version, length), networks in self._by_prefix.items():
            if version == ip.version:
                found.extend(networks.get(value >> (bits - length), ()))
        return tuple(self._peers[name] for name in dict.fromkeys(found))

    def _add(self, name: str, network: str) -> None:
        self._known.clear()
        parsed = ipaddress.ip_network(network, strict=False)
        key = int(parsed.network_address) >> (parsed.max_prefixlen - parsed.prefixlen)
        table = self._by_prefix.setdefault((parsed.version, parsed.prefixlen), {})
        names = table.setdefault(key, [])
        if name not in names:
            names.append(name)
        self._by_prefix = dict(sorted(self._by_prefix.items(), key=lambda item: -item[0][1]))


@dataclass(frozen=True, slots=True)
class Target:
    """One next hop of a route: an account and one of its hosts."""

    peer: Peer
    host: Host

    @property
    def transport(self) -> str:
        """What the host is written with, else the first that the party takes; DNS may say otherwise (RFC 3263)."""
        return self.host.transport or self.peer.profile.transports[0]

    @property
    def port(self) -> int:
        """The port to send to: as written, else the profile's, else the transport's default."""
        return self.host.port or self.peer.profile.port or _DEFAULT_PORTS[self.transport]

    @property
    def authority(self) -> str:
        """HOST or HOST:PORT for the Request-URI: the port only where the configuration wrote one."""
        host = f"[{self.host.host}]" if ":" in self.host.host else self.host.host
        return f"{host}:{self.host.port}" if self.host.port else host

    def query(self, id: int) -> Query:
        """Ask for the target's next hops; a port or transport that nobody wrote is left to DNS (RFC 3263)."""
        port = self.host.port or (self.peer.profile.port if self.peer.profile.port not in (5060, 5061) else None)
        return Query(id, self.host.host, port, self.host.transport, self.peer.profile.transports)

    def __str__(self) -> str:
        return f"sip:{self.authority};transport={self.transport}"


class Routes:
    """The ordered routes of the configuration."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def find(self, callers: Sequence[Peer], number: str) -> tuple[Peer, Route] | None:
        """Return the first route that fits one of the peers that may have sent the call, and that peer."""
        for route in self._config.routes:
            for peer in callers:
                if route.source in ("*", peer.name) and number_matches(route.number, number):
                    kinds = {self._config.peer(name).kind for name in route.to}
                    if peer.kind not in kinds:  # a "*" route does not send a platform's call to a platform
                        return peer, route
        return None

    def targets(self, route: Route) -> list[Target]:
        """Return the route's next hops in the order in which they are tried."""
        return [Target(peer, host) for peer in map(self._config.peer, route.to) for host in peer.hosts]


def number_matches(pattern: str, number: str) -> bool:
    """Tell whether a dialled number fits ``"+1415…"``, ``"+1415*"`` or ``"*"``.

    Carriers differ in whether they write the leading plus (D2), so it is ignored on both sides, as are visual
    separators; anything that is not a telephone number is compared as it stands.
    """
    if pattern == "*":
        return True
    wanted, given = (
        pattern.translate(_SEPARATORS).removeprefix("+"),
        number.translate(_SEPARATORS).removeprefix("+"),
    )
    if wanted.endswith("*"):
        return given.startswith(wanted[:-1])
    return given == wanted


def permitted(peer: Peer, number: str) -> bool:
    """Tell whether a number may be dialled through a peer: allowed by a prefix, if it has any, and denied by none (T09).

    ``deny`` holds however the number is written: with +, without, or behind the international prefixes 00 and 011.
    """
    plain = plain_number(number)
    if peer.allow and not any(plain.startswith(plain_number(prefix)) for prefix in peer.allow):
        return False
    readings = {plain, *(plain.removeprefix(prefix) for prefix in ("00", "011", "+"))}
    return not any(reading.startswith(plain_number(prefix)) for prefix in peer.deny for reading in readings)


def plain_number(number: str) -> str:
    """Return what a user part dials: escapes resolved, without parameters, +, and visual separators, in lower case."""
    return unescape(number).partition(";")[0].translate(_SEPARATORS).removeprefix("+").lower()


def with_plus(user: str, policy: str) -> str:
    """Apply a profile's plus policy (``add``, ``strip``, ``keep``) to the user part of a URI (D2)."""
    digits = user.removeprefix("+")
    if policy == "keep" or not digits.isdigit():
        return user
    return f"+{digits}" if policy == "add" else digits


@dataclass(frozen=True, slots=True)
class Dialled:
    """What a caller's INVITE asks for, in neutral terms."""

    number: str
    caller: str
    display: str
    max_forwards: int
    passed: tuple[Header, ...]


def dialled(request: Request) -> Dialled:
    """Read number and caller from an INVITE; what may pass depends on the route's caller. Raises PeerError."""
    uri = Uri.parse(request.uri)
    sender = request.from_
    number = uri.user or request.to.uri.user
    if not number:
        raise PeerError(484, "Address Incomplete")
    return Dialled(
        number=number,
        caller=sender.uri.user or "anonymous",
        display=sender.display or "",
        max_forwards=max_forwards(request),
        passed=(),
    )


def max_forwards(request: Request) -> int:
    """Return Max-Forwards, 70 where it is missing. Raises PeerError 400 or 483 (R12, RFC 3261 §8.1.1.6, §16.3)."""
    value = request.headers.get("Max-Forwards")
    if value is None:
        return 70
    if not (value.isascii() and value.isdigit() and int(value) <= 255):
        raise PeerError(400, "Bad Max-Forwards")
    if int(value) == 0:
        raise PeerError(483, "Too Many Hops")
    return int(value)


def passing(headers: Iterable[Header], sender: Peer) -> tuple[Header, ...]:
    """Return the headers that the sender's profile lets through to the other leg, byte for byte (D39)."""
    exact = {name.lower() for name in sender.profile.pass_headers if not name.endswith("*")}
    prefixes = tuple(name[:-1].lower() for name in sender.profile.pass_headers if name.endswith("*"))
    return tuple(
        header
        for header in headers
        if (name := header.name.lower()) in exact or (prefixes and name.startswith(prefixes))
    )


@dataclass(frozen=True, slots=True)
class Invitation:
    """What an INVITE of ours says, apart from dialog identifiers, Via, Contact and SDP."""

    request_uri: str
    to: NameAddr
    sender: NameAddr
    max_forwards: int
    headers: tuple[Header, ...]


def invitation(target: Target, call: Dialled, our_host: str) -> Invitation:
    """Fill the target's templates for one call. ``our_host`` is our advertised HOST[:PORT] on that leg."""
    profile, peer = target.peer.profile, target.peer
    plus = profile.plus
    number = call.number
    request_uri = profile.request_uri.format_map(
        {
            **peer.variables,
            "number": with_plus(number, plus.get("request_uri", "keep")),
            "user": peer.user,
            "host": target.authority,
        }
    )
    named = Uri.parse(request_uri)
    to = Uri.parse(f"sip:{with_plus(number, plus.get('to', 'keep'))}@{target.authority}")
    sender = Uri.parse(f"sip:{with_plus(call.caller, plus.get('from', 'keep'))}@{our_host}")
    headers = [Header(name, value) for name, value in profile.headers.items()]
    if "{number}" not in profile.request_uri:  # D3: the dialled number must reach the platform all the same
        taken = {header.name.lower() for header in call.passed}
        if "diversion" not in taken:
            headers.append(Header("Diversion", f"<sip:{number}@{our_host}>;reason=unconditional"))
        if "x-called-number" not in taken:
            headers.append(Header("X-Called-Number", number))
    return Invitation(
        request_uri=str(named),
        to=NameAddr("", to, ()),
        sender=NameAddr(call.display, sender, ()),
        max_forwards=min(call.max_forwards - 1, 70),  # R12, R24: loops through other B2BUAs must end
        headers=(*headers, *call.passed),
    )


def is_address(host: str) -> bool:
    """Tell an IP literal (brackets allowed) from a name."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def is_private(address: str) -> bool:
    """Tell whether an address means nothing beyond its own network; loopback is not meant."""
    ip = ipaddress.ip_address(address.strip("[]"))
    return not ip.is_global and not ip.is_loopback
