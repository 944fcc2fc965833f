"""Who may call, where a call goes, and what the INVITE toward each target says.

Three tables built from the configuration: `Sources` (an address → the peers that may signal from it), `Routes` (a peer
and a number → a route) and the templates of the profiles (`invitation`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bridge.b2bua.actions import Query
from bridge.b2bua.identity import ANONYMOUS, delivered, static, wants_anonymity
from bridge.b2bua.numbers import number_matches, permitted, plain_number, telephone_number, with_plus
from bridge.config import Config, Host, Peer, Route
from bridge.errors import PeerError
from bridge.sip.headers import NameAddr, split_list
from bridge.sip.message import Header, Request
from bridge.sip.registrar import Binding
from bridge.sip.uri import DEFAULT_PORTS, Uri

_KNOWN_ADDRESSES = 4096
MOST_LEARNED = 64  # addresses behind a peer's names; the oldest go first: by now somebody else may have them
UNREGISTERED = Host("unregistered.invalid", 0, "")  # RFC 2606: nobody has this name


class Sources:
    """Tell which peers own a signalling address: longest prefix first, the order of the configuration within one.

    A network belongs to as many peers as name it (two trunks of one carrier, say); the number decides between them.
    """

    def __init__(self, peers: Iterable[Peer]) -> None:
        self._peers: dict[str, Peer] = {}
        self._by_prefix: dict[tuple[int, int], dict[int, list[str]]] = {}
        self._known: dict[str, tuple[Peer, ...]] = {}  # answers given lately
        self._learned: dict[str, dict[str, None]] = {}  # peer → addresses behind its names, the freshest last
        self._bound: dict[str, list[str]] = {}  # address → peers that have registered from it
        for peer in peers:
            self._peers[peer.name] = peer
            for network in peer.sources:
                self._names_at(network).append(peer.name)

    def learn(self, peer: Peer, address: str) -> None:
        """Add an address to which a host name of the peer's has resolved."""
        learned = self._learned.setdefault(peer.name, {})
        if address in learned:
            learned[address] = learned.pop(address)
        elif peer not in self.owners(address):
            learned[address] = None
            self._names_at(address).append(peer.name)
            if len(learned) > MOST_LEARNED:
                oldest = next(iter(learned))
                del learned[oldest]
                self._names_at(oldest).remove(peer.name)
            self._known.clear()

    def bind(self, peer: Peer, addresses: Iterable[str]) -> None:
        """Let a peer signal from where it is registered from, and from nowhere else that was bound before (D24)."""
        for address, names in list(self._bound.items()):
            if peer.name in names:
                names.remove(peer.name)
                if not names:
                    del self._bound[address]
        for address in addresses:
            self._bound.setdefault(address, []).append(peer.name)
        self._known.clear()

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
        found.extend(self._bound.get(address, ()))
        return tuple(self._peers[name] for name in dict.fromkeys(found))

    def _names_at(self, network: str) -> list[str]:
        """Return the peers of exactly this network, to be changed in place."""
        parsed = ipaddress.ip_network(network, strict=False)
        prefix = parsed.version, parsed.prefixlen
        if prefix not in self._by_prefix:
            self._by_prefix[prefix] = {}
            self._by_prefix = dict(sorted(self._by_prefix.items(), key=lambda item: -item[0][1]))
        key = int(parsed.network_address) >> (parsed.max_prefixlen - parsed.prefixlen)
        return self._by_prefix[prefix].setdefault(key, [])


@dataclass(frozen=True, slots=True)
class Target:
    """One next hop of a route: an account and one of its hosts, or where it has registered from (D24).

    The host of a peer that registers and has not is ``UNREGISTERED``. ``redirect`` is the URI that a 3xx named.
    """

    peer: Peer
    host: Host
    binding: Binding | None = None
    redirect: str = ""

    @property
    def transport(self) -> str:
        """What the host is written with, else the first that the party takes; DNS may say otherwise (RFC 3263)."""
        return self.host.transport or self.peer.profile.transports[0]

    @property
    def port(self) -> int:
        """The port to send to: as written, else the profile's, else the transport's default."""
        port = self.peer.profile.port
        return self.host.port or (port if port not in DEFAULT_PORTS.values() else DEFAULT_PORTS[self.transport])

    @property
    def authority(self) -> str:
        """HOST or HOST:PORT for the Request-URI: the port only where the configuration wrote one."""
        host = f"[{self.host.host}]" if ":" in self.host.host else self.host.host
        return f"{host}:{self.host.port}" if self.host.port else host

    def permits(self, number: str) -> bool:
        """Tell whether the account's rules let this number, or the one it redirects to, be dialled (T09)."""
        return permitted(self.peer, Uri.parse(self.redirect).user or "" if self.redirect else number)

    def query(self, id: int) -> Query:
        """Ask for the target's next hops; a port or transport that nobody wrote is left to DNS (RFC 3263)."""
        port = self.host.port or (self.peer.profile.port if self.peer.profile.port not in (5060, 5061) else None)
        profile = self.peer.profile
        return Query(id, self.host.host, port, self.host.transport, profile.transports, self.peer.sources)

    def __str__(self) -> str:
        return f"sip:{self.authority};transport={self.transport}"


def redirected(contacts: Iterable[str], target: Target) -> list[Target]:
    """Return the targets that a 3xx of ``target`` leads to, best first (RFC 3261 §8.1.3.4, §21.3).

    A peer may send a call to other hosts and numbers of its own only: hosts that its account names, and numbers that
    the account's rules permit. Anything else is left out (T09).
    """
    found: list[tuple[float, Target]] = []
    for value in (item for line in contacts for item in split_list(line)):
        try:
            contact = NameAddr.parse(value)
            uri = contact.uri
            weight = float(contact.param("q") or "1")
        except (PeerError, ValueError):
            continue
        host = next((host for host in target.peer.hosts if _same_host(host.host, uri.host)), None)
        transport = uri.transport or (host.transport if host else "")
        if host is None or uri.scheme != "sip" or (transport and transport not in target.peer.profile.transports):
            continue
        plain = replace(uri, params=tuple(p for p in uri.params if p[0].lower() != "method"), headers=None)
        found.append((weight, Target(target.peer, Host(host.host, uri.port or 0, transport), redirect=str(plain))))
    return [one for _, one in sorted(found, key=lambda entry: -entry[0]) if one.permits("")]


def _same_host(ours: str, theirs: str) -> bool:
    return ours.strip("[]").lower() == theirs.strip("[]").lower()


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
        peers = map(self._config.peer, route.to)
        return [Target(peer, host) for peer in peers for host in peer.hosts or (UNREGISTERED,)]


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
    caller = sender.uri.user if sender.uri.host.lower() != "anonymous.invalid" else None
    return Dialled(
        number=telephone_number(number),
        caller=telephone_number(caller or "anonymous"),
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


@dataclass(frozen=True, slots=True)
class Invitation:
    """What an INVITE of ours says, apart from dialog identifiers, Via, Contact and SDP."""

    request_uri: str
    to: NameAddr
    sender: NameAddr
    max_forwards: int
    headers: tuple[Header, ...]
    notes: tuple[str, ...] = ()  # what was changed that somebody may wonder about


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
    named = Uri.parse(target.redirect or request_uri)
    to = Uri.parse(f"sip:{with_plus(number, plus.get('to', 'keep'))}@{target.authority}")
    caller, display = with_plus(call.caller, plus.get("from", "keep")), call.display
    sender = f"sip:{caller}@{our_host}" if caller != "anonymous" else ANONYMOUS
    if wants_anonymity(call.passed):
        sender, display = ANONYMOUS, "Anonymous"
    headers = list(static(profile.headers))
    passed = delivered(call.passed, target.peer)
    if "{number}" not in profile.request_uri:  # D3: the dialled number must reach the platform all the same
        taken = {header.name.lower() for header in (*headers, *passed)}
        if "diversion" not in taken:
            headers.append(Header("Diversion", f"<sip:{number}@{our_host}>;reason=unconditional"))
        if "x-called-number" not in taken:
            headers.append(Header("X-Called-Number", number))
    return Invitation(
        request_uri=str(named),
        to=NameAddr("", to, ()),
        sender=NameAddr(display, Uri.parse(sender), ()),
        max_forwards=min(call.max_forwards - 1, 70),  # R12, R24: loops through other B2BUAs must end
        headers=(*headers, *passed),
        notes=_broken_signature(call, to, Uri.parse(sender), passed),
    )


def _broken_signature(call: Dialled, to: Uri, sender: Uri, passed: Iterable[Header]) -> tuple[str, ...]:
    """Note the numbers that differ from those an Identity header has signed (RFC 8224 §8.3 compares digits; R42)."""
    if not any(header.name.lower() in ("identity", "y") for header in passed):
        return ()
    pairs = (("From", call.caller, sender.user or ""), ("To", call.number, to.user or ""))
    return tuple(
        f"{field} changed under Identity: {was} is {now}"
        for field, was, now in pairs
        if plain_number(was) != plain_number(now)
    )
