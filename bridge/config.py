"""trunkbridge.toml → frozen `Config`; an error names file, line, key and the remedy.

Relative paths (``state_dir``, profile files, ``${file:…}``) are relative to the directory of the
configuration file. ``${env:NAME}`` and ``${file:PATH}`` stand for a value anywhere in a string. Messages
quote what the file says, never what a reference stands for, so a secret cannot get into them.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bridge.document import Document, KeyPath
from bridge.errors import ConfigError
from bridge.literals import is_address
from bridge.profile import (
    HOST,
    PLACEHOLDER,
    SCHEMA,
    TRANSPORTS,
    Mistake,
    Profile,
    alternatives,
    did_you_mean,
    is_uri_template,
    load_profile,
    read_key,
    shown,
)
from bridge.table import SECRETS, Reading, Table

BUILT_TRANSPORTS = ("udp", "tcp", "tls")
"""What this version can speak; the others of `TRANSPORTS` are refused with a sentence."""
BUILT_FEATURES: frozenset[str] = frozenset({"tcp", "tls"})
"""What this version has of the features a profile can require."""
_FEATURE_NAMES = {"tcp": "TCP", "tls": "TLS", "srtp": "SRTP", "http-step": "an HTTP request before dialling"}


@dataclass(frozen=True, slots=True)
class Listen:
    """One SIP listener: ``udp:0.0.0.0:5060``."""

    transport: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Host:
    """One next hop: HOST[:PORT][;transport=…]. Port 0, transport "": not given, ask DNS or the profile."""

    host: str
    port: int
    transport: str


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    state_dir: Path


@dataclass(frozen=True, slots=True)
class Tls:
    """What TLS shows and trusts; None: no file is named."""

    certificate: Path | None = None  # the chain, our own first; shown as server and, when asked, as client
    private_key: Path | None = None
    ca: Path | None = None  # whom we trust instead of the system's store
    verify_clients: bool = False
    client_ca: Path | None = None  # whom we trust to have signed clients' certificates; None: `ca`


@dataclass(frozen=True, slots=True)
class Sip:
    listen: tuple[Listen, ...]
    advertise: str
    tls: Tls = Tls()
    resolver: tuple[tuple[str, int], ...] = ()  # name servers; none: those of /etc/resolv.conf


@dataclass(frozen=True, slots=True)
class Media:
    address: str
    advertise: str
    ports: tuple[int, int]  # first and last port of the range, inclusive
    relay: str


REQUESTS_FROM_SOURCE = 1000.0
"""New requests a second from one address where nothing is written: more than one core can serve (T10)."""


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """What the node carries in all; 0: no limit. ``reserve`` keeps calls of ``max_calls`` for a direction.

    ``requests_from_source`` is a rate, beyond which one source address is turned away unread (T10).
    """

    max_calls: int = 0
    cps: float = 0.0  # new calls a second
    reserve: Mapping[str, int] = field(default_factory=dict)
    requests_from_source: float = REQUESTS_FROM_SOURCE  # a second, outside dialogs


@dataclass(frozen=True, slots=True)
class Admin:
    listen: tuple[str, int]
    token: str = field(repr=False, default="")


@dataclass(frozen=True, slots=True)
class Peer:
    """One account with a carrier or a platform: its profile with the account's own overrides merged in."""

    name: str
    kind: str  # "carrier" | "platform"
    profile: Profile
    hosts: tuple[Host, ...]
    sources: tuple[str, ...]  # CIDR: the account's own and the profile's signalling sources, and literal hosts
    user: str = ""
    username: str = ""
    password: str = field(repr=False, default="")
    inbound_username: str = ""  # with it we challenge this peer's INVITEs and REGISTERs
    inbound_password: str = field(repr=False, default="")
    registrar: Host | None = None  # where we register; None: at the first of `hosts`
    max_calls: int = 0  # 0: no limit
    cps: float = 0.0  # new calls a second toward this peer; 0: no limit
    cps_from: float = 0.0  # new calls a second taken from this peer; 0: no limit
    reserve: Mapping[str, int] = field(default_factory=dict)  # direction → calls of `max_calls` kept for it (F18)
    queue_for: float = 0.0  # seconds a call may wait for `cps` (D13)
    max_minutes_a_day: int = 0  # of answered calls toward this peer; 0: no limit (T09)
    allow: tuple[str, ...] = ()  # prefixes of the numbers that may be dialled through this peer; none: every number
    deny: tuple[str, ...] = ()  # prefixes that may not, whatever `allow` says
    variables: Mapping[str, str] = field(repr=False, default_factory=dict)  # other keys that fill URI templates


@dataclass(frozen=True, slots=True)
class Route:
    """``from`` (a peer's name or "*") and ``number`` (exact, prefix with "*", or "*") → peers to try in
    order.
    """

    name: str
    source: str
    number: str
    to: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Config:
    path: str
    node: Node
    sip: Sip
    media: Media
    admin: Admin
    carriers: Mapping[str, Peer]
    platforms: Mapping[str, Peer]
    routes: tuple[Route, ...]
    limits: NodeLimits = field(default_factory=NodeLimits)
    warnings: tuple[ConfigError, ...] = ()  # what works but should not stay so, in the order of the lines

    def peer(self, name: str) -> Peer:
        """Return the carrier or platform of that name; the loader has seen that routes name only known ones."""
        return self.carriers.get(name) or self.platforms[name]


def load(path: Path | str) -> Config:
    """Load a configuration. Raises its first ConfigError."""
    config, errors = check(path)
    if errors or config is None:
        raise errors[0]
    return config


def check(path: Path | str) -> tuple[Config | None, list[ConfigError]]:
    """Load a configuration; return it, or None and every problem in the order of the lines."""
    try:
        document = Document.read(Path(path))
    except ConfigError as error:
        return None, [error]
    return _Loader(document).load()


QUEUE_FOR = 5.0  # seconds a call may wait for its carrier's cps where nothing is written (D13)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NUMBER = re.compile(r"\*|\+?[A-Za-z0-9_.#() -]+\*?")
_PREFIX = re.compile(r"\+?[A-Za-z0-9_.#() -]+\*?")
_DNS_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_-]*)(?:\.[A-Za-z0-9_-]+)*\.?")
_PEER_KEYS = (
    *("profile", "mode", "region", "sources", "user", "username", "password", "inbound_username", "inbound_password"),
    *("registrar", "max_calls", "cps", "cps_from", "reserve", "queue_for", "max_minutes_a_day", "allow", "deny"),
)
_DIRECTIONS = ("inbound", "outbound")
# What nobody means to dial: satellite and international networks, international and North American premium rate (T09)
PREMIUM = ("+870", "+878", "+881", "+882", "+883", "+888", "+979", "+1900", "+1976", "900")


class _Loader(Reading):
    """Read one document, collecting every problem on the way."""

    def __init__(self, document: Document) -> None:
        super().__init__(document)
        self._broken: set[str] = set()  # peers that are there but wrong: routes to them are not wrong again
        self._listening: tuple[str, ...] = ()  # the transports of the listeners: what a peer can be reached over

    def load(self) -> tuple[Config | None, list[ConfigError]]:
        root = Table(self, self.document.values, ())
        node = self._node(root)
        sip = self._sip(root)
        media = self._media(root, sip)
        limits = self._node_limits(root)
        admin = self._admin(root)
        carriers = self._peers(root, "carrier")
        platforms = self._peers(root, "platform", taken=carriers)
        self._check_names((*carriers.values(), *platforms.values()))
        routes = self._routes(root, carriers, platforms)
        root.finish()
        self._warn_of_open_secrets()
        if self.errors:
            return None, sorted(self.errors, key=lambda error: error.line)
        warnings = tuple(sorted(self.warnings, key=lambda error: error.line))
        path = self.document.file
        return Config(path, node, sip, media, admin, carriers, platforms, routes, limits, warnings), []

    def _node(self, root: Table) -> Node:
        table = self.table(root, "node")
        name = table.text("name", "trunkbridge")
        if not _NAME.fullmatch(name):
            table.wrong("name", f"{shown(name)} does not fit here", "use letters, digits, - _ and .")
        directory = os.path.expanduser(table.text("state_dir", ".trunkbridge"))
        if "\0" in directory:
            table.wrong("state_dir", "is no path", "name a directory")
        table.finish()
        return Node(name, self.directory / directory)

    def _sip(self, root: Table) -> Sip:
        table = self.table(root, "sip")
        listen: list[Listen] = []
        given = table.texts("listen")
        if table.values.get("listen") == []:
            table.wrong("listen", "names no listener", 'write ["udp:0.0.0.0:5060"]')
        for index, text in enumerate(given or ["udp:0.0.0.0:5060"]):
            listener = self._listener((*table.path, "listen", index), text)
            if listener in listen:
                table.wrong(("listen", index), f"{shown(text)} is there twice", "leave one of them out")
            elif listener:
                listen.append(listener)
        tls = self._tls(table, any(listener.transport == "tls" for listener in listen))
        resolver = []
        for index, text in enumerate(table.texts("resolver")):
            server = self._address((*table.path, "resolver", index), text, 53, 'write ["192.0.2.53:53"]')
            resolver += [server] if server else []
        advertise = table.text("advertise", "auto")
        if not (advertise == "auto" or _is_bare_address(advertise) or _DNS_NAME.fullmatch(advertise)):
            table.wrong("advertise", f"{shown(advertise)} does not fit here", 'write "auto", an address or a name')
        table.finish()
        self._listening = tuple(dict.fromkeys(listener.transport for listener in listen))
        return Sip(tuple(listen), advertise, tls, tuple(resolver))

    def _tls(self, sip: Table, wanted: bool) -> Tls:
        given = sip.raw("tls")
        table = Table(self, {} if given is None else given, (*sip.path, "tls"))
        files = {key: self._file(table, key) for key in ("certificate", "private_key", "ca", "client_ca")}
        verify_clients = table.flag("verify_clients")
        for key, other in (("certificate", "private_key"), ("private_key", "certificate")):
            if files[key] is not None and other not in table.values:
                table.wrong(key, f"has no {other}", f'write {other} = "….pem" beside it')
        if wanted and "certificate" not in table.values and "private_key" not in table.values:
            remedy = 'write certificate = "fullchain.pem" and private_key = "privkey.pem" under [sip.tls]'
            sip.wrong("listen", "has a tls listener and there is no certificate", remedy)
        if verify_clients and "ca" not in table.values and "client_ca" not in table.values:
            table.wrong("verify_clients", "does not say who signs clients' certificates", 'write client_ca = "….pem"')
        if all(files.get(key) for key in ("certificate", "private_key")):
            self._check_certificate(table, files)
        table.finish()
        return Tls(verify_clients=verify_clients, **files)

    def _file(self, table: Table, key: str) -> Path | None:
        """Read the path of a PEM file and see that it can be used; None where it is not given or can't."""
        text = table.text(key)
        if key not in table.values or not text:
            return None
        path = self.directory / os.path.expanduser(text)
        try:
            content = path.read_bytes()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no path"
            table.wrong(key, f"{path} cannot be read ({reason})", "name a readable PEM file")
            return None
        if b"-----BEGIN " not in content:
            table.wrong(key, f"{path} is no PEM file", "convert it: openssl x509 -inform der -in FILE -out FILE.pem")
            return None
        return path

    def _check_certificate(self, table: Table, files: Mapping[str, Path | None]) -> None:
        # Deferred: it takes 50 ms to import, and most configurations of a day have no certificate to read.
        from bridge.certificate import certificate_problem, certificate_warning

        certificate, key = files["certificate"], files["private_key"]
        assert certificate is not None
        assert key is not None
        problem = certificate_problem(certificate, key)
        if problem is not None:
            table.wrong(*problem)
            return
        warning = certificate_warning(certificate)
        if warning is not None:
            self.warn((*table.path, "certificate"), *warning)
        if key.stat().st_mode & 0o004:
            self.warn((*table.path, "private_key"), f"{key} can be read by everyone", f"chmod 600 {key}")  # T17

    def _listener(self, path: KeyPath, text: str) -> Listen | None:
        transport = text.partition(":")[0]
        if transport not in TRANSPORTS:
            self.wrong(path, f"{shown(text)} is no listener", 'write TRANSPORT:ADDRESS:PORT as "udp:0.0.0.0:5060"')
            return None
        if transport not in BUILT_TRANSPORTS:
            problem = f"this version does not listen on {_FEATURE_NAMES[transport]} yet"
            self.wrong(path, problem, 'write "udp:0.0.0.0:5060"')
            return None
        default = 5061 if transport == "tls" else 5060
        address = self._address(path, text, default, f'write "{_example(transport)}"', skip=f"{transport}:")
        return Listen(transport, *address) if address else None

    def _address(
        self, path: KeyPath, text: str, default_port: int, remedy: str, skip: str = ""
    ) -> tuple[str, int] | None:
        """Read ADDRESS[:PORT] behind ``skip``, IPv6 in brackets."""
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[0-9.]+)(?::([0-9]{1,5}))?", text.removeprefix(skip))
        if not match or not is_address(match[1]):
            self.wrong(path, f"{shown(text)} is no address with a port", remedy)
            return None
        port = default_port if match[2] is None else int(match[2])
        if port > 65535:
            self.wrong(path, f"{shown(text)} has no port up to 65535", remedy)
            return None
        return match[1].strip("[]"), port

    def _media(self, root: Table, sip: Sip) -> Media:
        table = self.table(root, "media")
        address = table.text("address", "0.0.0.0")
        if not _is_bare_address(address):
            table.wrong("address", f"{shown(address)} is no address", 'write "0.0.0.0" or one of this machine')
        advertise = table.text("advertise", "auto")
        if advertise != "auto" and not _is_bare_address(advertise):
            table.wrong("advertise", f"{shown(advertise)} is no address", 'write "auto" or an address')
        relay = table.text("relay", "native")
        if relay == "rtpengine":
            table.wrong("relay", "this version has no rtpengine backend yet", 'write "native"')
        elif relay != "native":
            table.wrong("relay", f"{shown(relay)} is no relay", 'write "native"')
        ports = self._ports(table, sip)
        table.finish()
        return Media(address, advertise, ports, relay)

    def _ports(self, table: Table, sip: Sip) -> tuple[int, int]:
        text = table.text("ports", "10000-19999")
        match = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", text)
        remedy = 'write FIRST-LAST as "10000-19999"'
        if not match:
            table.wrong("ports", f"{shown(text)} is no port range", remedy)
            return (10000, 19999)
        first, last = int(match[1]), int(match[2])
        if not 1024 <= first <= last <= 65535:
            table.wrong("ports", f"{shown(text)} does not run upward from 1024 to 65535", remedy)
        elif (last + 1) // 2 - (first + 1) // 2 < 2:
            table.wrong(
                "ports", f"{shown(text)} has no room for a call", "a call takes two even ports and the odd ones above"
            )
        for listener in sip.listen:
            if listener.transport == "udp" and first <= listener.port <= last:
                table.wrong("ports", f"{listener.port} in it is a SIP listener's", "keep the range clear of it")
        return first, last

    def _node_limits(self, root: Table) -> NodeLimits:
        table = self.table(root, "limits")
        max_calls = int(table.number("max_calls", whole=True))
        limits = NodeLimits(
            max_calls,
            float(table.number("cps", whole=False)),
            self._reserve(table, max_calls),
            float(table.number("requests_from_source", whole=False, default=REQUESTS_FROM_SOURCE)),
        )
        table.finish()
        return limits

    def _admin(self, root: Table) -> Admin:
        table = self.table(root, "admin")
        text = table.text("listen", "127.0.0.1:9060")
        listen = self._address((*table.path, "listen"), text, 9060, 'write "127.0.0.1:9060"')
        before = len(self.errors)
        token = table.text("token")
        if "token" in table.values and not token and len(self.errors) == before:
            table.wrong("token", "is empty", "put a long random text in it, or leave it out on loopback")
        if listen and not token and not ipaddress.ip_address(listen[0]).is_loopback and "token" not in table.values:
            table.wrong("listen", "is not loopback and there is no token", 'write token = "${file:admin.token}"')
        table.finish()
        return Admin(listen or ("127.0.0.1", 9060), token)

    def _peers(self, root: Table, kind: str, taken: Iterable[str] = ()) -> dict[str, Peer]:
        peers = {}
        outer = self.table(root, f"{kind}s")
        for name in outer.values:
            path = (*outer.path, name)
            if not _NAME.fullmatch(name):
                self.wrong(path, f"{shown(name)} is no name", "use letters, digits, - _ and .")
            elif name in taken:
                self.wrong(path, "a carrier has this name already", "give one of the two another name")
            before = len(self.errors)
            peer = self._peer(Table(self, outer.raw(name), path), name, kind)
            if peer and len(self.errors) == before:
                peers[name] = peer
            else:
                self._broken.add(name)
        return peers

    def _peer(self, table: Table, name: str, kind: str) -> Peer | None:
        profile = self._profile(table, kind)
        accounts = self._accounts(table)
        own_sources = self._networks(table)
        limits = self._limits(table)
        if "cps" not in table.values and profile is not None:
            limits["cps"] = profile.cps
        if kind == "carrier":
            limits["deny"] = PREMIUM if "deny" not in table.values else limits["deny"]
        if profile is None:
            return None  # what the other keys should be is not known
        if accounts["inbound_username"] and not profile.answers_challenge:
            problem = f"{profile.name} cannot answer a challenge: none of its calls would come through"
            table.wrong("inbound_username", problem, "leave it out: its addresses identify it")
        needed = [key for key in profile.placeholders if key not in accounts]
        variables = {
            key: table.text(key) for key in (*needed, *profile.variables) if key in table.values or key in needed
        }
        table.known |= {*needed, *profile.variables}
        self._check_lines(table, variables)
        if self._unmet(table, profile):
            table.finish(SCHEMA)
            return None
        values = accounts | variables
        for key in profile.placeholders:
            if not values[key]:
                template = (
                    f"{profile.name} dials {profile.request_uri}"
                    if key in profile.request_uri
                    else (f"{profile.name} is reached at {', '.join(profile.hosts)}")
                )
                table.wrong(key, f"is missing: {template}", f'write {key} = "…"')
            elif not re.fullmatch(r"[A-Za-z0-9_.!~*'()&=+$,;?/%-]+", values[key]):
                table.wrong(key, "has characters that a URI cannot hold", "use letters, digits and - _ . + %")
            elif not is_uri_template(profile.request_uri.replace(f"{{{key}}}", values[key])):
                table.wrong(key, f"makes no URI of {profile.request_uri}", "use letters, digits and - _ . + %")
        table.finish(SCHEMA)
        hosts = self._hosts(table, profile, values)
        if any(host.port for host in hosts) and not is_uri_template(profile.request_uri, "host:5060"):
            table.wrong(
                "hosts", f"has a port, for which {profile.request_uri} has no room", "write it in one of the two"
            )
        self._check_registration(table, profile, accounts)
        headers = _headers(profile.headers, values)
        sources = (*own_sources, *profile.signalling_sources, *_literal_sources(hosts))
        if profile.registers and not sources and not accounts["inbound_username"]:
            problem = "lets nobody register: no address of the account is known, and no password"
            table.wrong("registers", problem, "write inbound_username and inbound_password, or sources")
        return Peer(
            name=name,
            kind=kind,
            # What no listener of ours speaks can't be chosen, whatever DNS says
            profile=replace(
                profile,
                headers=headers,
                transports=tuple(one for one in profile.transports if one in self._listening) or profile.transports,
            ),
            hosts=hosts,
            sources=tuple(dict.fromkeys(sources)),
            registrar=self._registrar(table, profile, values),
            variables=variables,
            **accounts,
            **limits,
        )

    def _accounts(self, table: Table) -> dict[str, Any]:
        """Read what identifies the account, in both directions."""
        keys = ("user", "username", "password", "inbound_username", "inbound_password")
        accounts = {key: table.text(key) for key in keys}
        self._check_lines(table, accounts)
        for name, secret in (("username", "password"), ("inbound_username", "inbound_password")):
            if accounts[name] and not accounts[secret] and secret not in table.values:
                table.wrong(name, f"has no {secret}", f'write {secret} = "${{env:NAME}}"')
            if accounts[secret] and not accounts[name]:
                table.wrong(secret, f"has no {name}", f"write {name} beside it")
        return accounts

    def _check_names(self, peers: Iterable[Peer]) -> None:
        """See to it that parties which register from anywhere can be told apart: the name is all they have."""
        roaming = [peer for peer in peers if peer.profile.registers and not peer.sources]
        taken: dict[str, Peer] = {}
        for peer in roaming:
            first = taken.setdefault(peer.inbound_username, peer)
            if first is not peer:
                problem = f"is that of {first.name}, which may register from anywhere too"
                self.wrong((f"{peer.kind}s", peer.name, "inbound_username"), problem, "give each a name of its own")

    def _check_lines(self, table: Table, values: Mapping[str, str]) -> None:
        """See to it that no value could begin a header of its own (T13)."""
        for key, value in values.items():
            if any(character < " " or character == "\x7f" for character in value):
                table.wrong(key, "holds a control character", "write one line of text")

    def _limits(self, table: Table) -> dict[str, Any]:
        """Read how much an account may carry, and which numbers may be dialled through it (T09, D13, F18)."""
        cps = float(table.number("cps", whole=False))
        max_calls = int(table.number("max_calls", whole=True))
        return {
            "max_calls": max_calls,
            "cps": cps,
            "cps_from": float(table.number("cps_from", whole=False)),
            "reserve": self._reserve(table, max_calls),
            "queue_for": float(table.number("queue_for", whole=False)) if "queue_for" in table.values else QUEUE_FOR,
            "max_minutes_a_day": int(table.number("max_minutes_a_day", whole=True)),
            "allow": self._prefixes(table, "allow"),
            "deny": self._prefixes(table, "deny"),
        }

    def _reserve(self, table: Table, max_calls: int) -> dict[str, int]:
        """Read the calls of ``max_calls`` that are kept for a direction, so that the other can't starve it (F18)."""
        if "reserve" not in table.values:
            table.known.add("reserve")
            return {}
        inner = Table(self, table.raw("reserve"), (*table.path, "reserve"))
        reserve = {name: int(inner.number(name, whole=True)) for name in _DIRECTIONS if name in inner.values}
        inner.known |= set(_DIRECTIONS)
        inner.finish()
        if reserve and not max_calls:
            table.wrong("reserve", "is a share of max_calls, which is not set", "write max_calls beside it")
        elif sum(reserve.values()) > max_calls:
            table.wrong("reserve", f"keeps more than the {max_calls} of max_calls", "write smaller numbers")
        return reserve

    def _prefixes(self, table: Table, key: str) -> tuple[str, ...]:
        prefixes = []
        for index, text in enumerate(table.texts(key)):
            if _PREFIX.fullmatch(text):
                prefixes.append(text.removesuffix("*"))
            else:
                table.wrong((key, index), f"{shown(text)} is no prefix of a number", 'write it as "+1900"')
        return tuple(prefixes)

    def _check_registration(self, table: Table, profile: Profile, accounts: Mapping[str, Any]) -> None:
        """See to it that we have a name to register by, and a place to do it."""
        if profile.register and not accounts["username"]:
            table.wrong("register", "needs the name that the carrier knows us by", "write username and password")
        if profile.register and not (profile.hosts or table.values.get("hosts") or table.values.get("registrar")):
            table.wrong("register", "needs a place to register at", 'write registrar = "sip.example.com"')

    def _registrar(self, table: Table, profile: Profile, values: Mapping[str, str]) -> Host | None:
        text = table.text("registrar")
        if not text:
            return None
        if not profile.register:
            problem = "names where to register, but this account does not register"
            table.wrong("registrar", problem, "write register = true beside it, or leave it out")
        return self._host(table, ("registrar",), profile, text)

    def _profile(self, table: Table, kind: str) -> Profile | None:
        """Load the account's profile with the overrides of its table; report what is wrong with either."""
        table.known |= set(_PEER_KEYS)
        overrides: dict[str, Any] = {}
        for option in ("mode", "region"):
            if option in table.values:
                overrides[option] = table.text(option)
        for key in table.values:
            if key not in SCHEMA or key in _PEER_KEYS:
                continue
            table.known.add(key)
            if not SCHEMA[key].overridable:
                table.wrong(key, "belongs to the profile alone", "leave it out, or write a profile file")
                continue
            try:
                value = self._resolve_all((*table.path, key), table.values[key])
                read_key(key, value)
                overrides[key] = value
            except Mistake as mistake:
                table.wrong((key, *mistake.path), mistake.problem, mistake.remedy)
        name = table.text("profile", f"generic-{kind}")

        def where(path: KeyPath, problem: str, remedy: str) -> ConfigError:
            return self.error((*table.path, *path), problem, remedy)

        try:
            profile = load_profile(name, overrides, base=self.directory, where=where)
        except ConfigError as error:
            self.errors.append(error)
            return None
        if profile.kind != kind:
            table.wrong(
                "profile", f"{profile.name} is a {profile.kind}", f"move it to [{profile.kind}s.{table.path[-1]}]"
            )
            return None
        return profile

    def _resolve_all(self, path: KeyPath, value: Any) -> Any:
        if isinstance(value, str):
            return self.resolve(path, value)
        if isinstance(value, list):
            return [self._resolve_all((*path, index), item) for index, item in enumerate(value)]
        if isinstance(value, Mapping):
            return {key: self._resolve_all((*path, key), item) for key, item in value.items()}
        return value

    def _unmet(self, table: Table, profile: Profile) -> bool:
        """Report what the profile needs and this version does not have."""
        required = set(profile.requires) | ({"srtp"} if profile.srtp == "require" else set())
        if not set(profile.transports) & set(BUILT_TRANSPORTS):
            required.add(profile.transports[0])
        missing = [name for feature, name in _FEATURE_NAMES.items() if feature in required - BUILT_FEATURES]
        if not missing and self._listening and not set(profile.transports) & set(self._listening):
            transport = profile.transports[0]
            problem = f"{profile.name} needs {_FEATURE_NAMES.get(transport, 'UDP')}, which no listener speaks"
            table.wrong("profile", problem, f'add "{_example(transport)}" to [sip] listen')
            return True
        if not missing:
            return False
        needs = " and ".join(missing)
        if profile.mode and len(profile.modes) > 1:
            others = [mode for mode in profile.modes if mode != profile.mode]
            subject, key = f"{profile.name}'s {profile.mode} mode", "mode"
            remedy = f"write mode = {alternatives(others)}"
        else:
            subject, key = profile.name, "profile"
            remedy = (
                "use another platform until it has"
                if profile.kind == "platform"
                else "use another carrier until it has"
            )
        table.wrong(key, f"{subject} needs {needs}, which this version does not have yet", remedy)
        return True

    def _networks(self, table: Table) -> list[str]:
        networks = []
        read = SCHEMA["signalling_sources"].read
        for index, text in enumerate(table.texts("sources")):
            try:
                network = str(read([text])[0])
            except Mistake as mistake:
                table.wrong(("sources", index), mistake.problem, mistake.remedy)
                continue
            networks.append(network)
            if network in ("0.0.0.0/0", "::/0"):
                problem = "trusts the whole Internet: any scanner can place calls"
                self.warn((*table.path, "sources", index), problem, "name the networks of the account")
        return networks

    def _hosts(self, table: Table, profile: Profile, values: Mapping[str, str]) -> tuple[Host, ...]:
        if not profile.hosts and not table.values.get("hosts") and not profile.registers:
            table.wrong("hosts", f"is missing: {profile.name} knows none", 'write hosts = ["sip.example.com"]')
        hosts = []
        for index, text in enumerate(profile.hosts):
            if not all(values.get(key) for key in PLACEHOLDER.findall(text)):
                continue  # that the key is missing is reported where it is asked for
            filled = PLACEHOLDER.sub(lambda match: values[match[1]], text)
            host = self._host(table, ("hosts", index), profile, filled)
            if host:
                hosts.append(host)
        return tuple(hosts)

    def _host(self, table: Table, path: KeyPath, profile: Profile, text: str) -> Host | None:
        match = HOST.fullmatch(text)
        if not match:
            table.wrong(path, f"{shown(text)} is not a host", "check the keys that fill the profile's host")
            return None
        transport = (match["transport"] or "").lower()
        if not transport:
            return Host(match["host"].strip("[]"), int(match["port"] or 0), "")  # DNS or the profile will say
        if transport not in profile.transports:
            offered = alternatives(profile.transports)
            table.wrong(path, f"{profile.name} does not take {transport}", f"write ;transport= with {offered}")
            return None
        if transport not in BUILT_TRANSPORTS:
            problem = f"this version does not send over {_FEATURE_NAMES[transport]} yet"
            table.wrong(path, problem, "write ;transport=udp, or leave it out")
            return None
        if self._listening and transport not in self._listening:
            table.wrong(path, f"no listener speaks {transport}", f'add "{_example(transport)}" to [sip] listen')
            return None
        return Host(match["host"].strip("[]"), int(match["port"] or 0), transport)

    def _routes(self, root: Table, carriers: Mapping[str, Peer], platforms: Mapping[str, Peer]) -> tuple[Route, ...]:
        given = root.raw("routes")
        if given is None:
            self.warn((), "there are no routes: every call is refused", "write [[routes]] with from and to")
            return ()
        if not isinstance(given, list):
            self.wrong(("routes",), "is not a list of tables", "write [[routes]]")
            return ()
        kinds = dict.fromkeys(carriers, "carrier") | dict.fromkeys(platforms, "platform")
        routes: list[Route] = []
        for index, values in enumerate(given):
            table = Table(self, values, ("routes", index))
            route = self._route(table, index, kinds)
            if route.name in (other.name for other in routes):
                table.wrong("name", f"{shown(route.name)} is there twice", "give each route its own name")
            routes.append(route)
            source = carriers.get(route.source) or platforms.get(route.source)
            if source and not source.sources and not source.profile.registers:
                problem = f"no address of {route.source} is known, so its calls are dropped"
                self.warn((*table.path, "from"), problem, f"write sources in [{source.kind}s.{route.source}]")
        return tuple(routes)

    def _route(self, table: Table, index: int, kinds: Mapping[str, str]) -> Route:
        name = table.text("name", f"route {index + 1}")
        source = table.text("from")
        number = table.text("number", "*")
        targets = table.texts("to")
        if not source:
            table.wrong("from", "is missing", 'write from = "NAME" of a carrier or platform, or "*"')
        elif source != "*":
            self._known_peer(table, ("from",), source, kinds)
        if not _NUMBER.fullmatch(number):
            remedy = 'write a number, a prefix with * at its end as "+1415*", or "*"'
            table.wrong("number", f"{shown(number)} is no number", remedy)
        if not targets:
            table.wrong("to", "names no target", 'write to = ["NAME"]')
        wanted = {"carrier": "platform", "platform": "carrier"}.get(kinds.get(source, ""))
        for position, target in enumerate(targets):
            if not self._known_peer(table, ("to", position), target, kinds):
                continue
            wanted = wanted or kinds[target]
            if kinds[target] != wanted:
                problem = f"{target} is a {kinds[target]}, and this route leads to {wanted}s"
                table.wrong(("to", position), problem, f"name a {wanted}, or write a route of its own")
        table.finish()
        return Route(name, source, number, tuple(targets))

    def _known_peer(self, table: Table, path: KeyPath, name: str, kinds: Mapping[str, str]) -> bool:
        if name in kinds:
            return True
        if name not in self._broken:
            known = [*kinds, *sorted(self._broken)]
            otherwise = f"write {alternatives(known)}" if known else "add it under [carriers] or [platforms]"
            table.wrong(path, f"there is no carrier or platform {shown(name)}", did_you_mean(name, known, otherwise))
        return False

    def _warn_of_open_secrets(self) -> None:
        """Point out secrets that are written in a configuration which everyone can read (T17)."""
        try:
            readable = self.document.path.stat().st_mode & 0o004
        except OSError:
            return
        for path, value in _leaves(self.document.values):
            if readable and path[-1] in SECRETS and isinstance(value, str) and "${" not in value and value:
                remedy = f"chmod 600 {self.document.file}, or write ${{file:PATH}}"
                self.warn(path, "stands in a file that everyone can read", remedy)


def _leaves(values: Any, path: KeyPath = ()) -> Iterable[tuple[KeyPath, Any]]:
    items = values.items() if isinstance(values, Mapping) else enumerate(values)
    for key, value in items:
        if isinstance(value, Mapping | list):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _headers(headers: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Fill the placeholders of header values; a header of which one is not set is left out."""
    filled = {}
    for name, text in headers.items():
        if all(values.get(key) for key in PLACEHOLDER.findall(text)):
            filled[name] = PLACEHOLDER.sub(lambda match: values[match[1]], text)
    return filled


def _example(transport: str) -> str:
    return f"{transport}:0.0.0.0:{5061 if transport == 'tls' else 5060}"


def _literal_sources(hosts: Iterable[Host]) -> Iterable[str]:
    return [str(ipaddress.ip_network(host.host)) for host in hosts if is_address(host.host)]


def _is_bare_address(text: str) -> bool:
    """Tell an address as sockets take it: without brackets."""
    return is_address(text) and not text.startswith("[")
