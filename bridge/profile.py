"""profiles/*.toml → frozen `Profile`: what a carrier or a platform requires on the wire.

A profile is layered: the profile it ``extends``, its own keys, the keys of its chosen ``mode`` and
``region``, and last the keys of the account's own table in trunkbridge.toml. Tables (``plus``, ``responses``,
``headers``) are merged key by key and ``notes`` add up; every other key replaces what was there. `SCHEMA` is
the one list of keys; profiles/README.md explains each.
"""

from __future__ import annotations

import datetime
import difflib
import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from bridge.document import Document, KeyPath
from bridge.errors import ConfigError, PeerError
from bridge.sip.uri import Uri

BUILTIN = Path(__file__).resolve().parent.parent / "profiles"

HOST = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_{}][A-Za-z0-9._{}-]*)"
    r"(?::(?P<port>[0-9]{1,5}))?(?:;transport=(?P<transport>[A-Za-z]+))?"
)
PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
TRANSPORTS = ("udp", "tcp", "tls")
PLUS_FIELDS = ("request_uri", "to", "from", "identity", "refer_to")  # where a number is written (D2)

Where = Callable[[KeyPath, str, str], ConfigError]


@dataclass(frozen=True, slots=True)
class Fact:
    """Why a key has its value: the pages that say so, when they were last read, and what they say."""

    source: tuple[str, ...]
    checked_on: str
    note: str


@dataclass(frozen=True, slots=True)
class Profile:
    """State the behaviour of one kind of carrier or platform. Every field is a key of profiles/README.md."""

    name: str
    kind: str  # "carrier" | "platform"
    title: str
    checked_on: str  # YYYY-MM-DD: the oldest check of its facts

    # addressing
    hosts: tuple[str, ...]  # HOST[:PORT][;transport=…] in order of preference; config `hosts` overrides
    port: int  # where the host names none
    transports: tuple[str, ...]  # offered by the party; the first is used where nothing else is said
    request_uri: str  # template: "sip:{number}@{host}"; placeholders number, user, host and the peer's own keys
    plus: Mapping[str, str]  # request_uri, to, from, identity, refer_to → "add" | "strip" | "keep"

    # who may send to us
    signalling_sources: tuple[str, ...]  # CIDR
    media_sources: tuple[str, ...]  # CIDR, beyond what SDP says
    # authentication when we call it: "none" | "digest" | "any" (any credentials pass: D9)
    authentication: str

    # media
    codecs: tuple[str, ...]  # upper case encodings in order of preference, without telephone-event
    telephone_event: bool
    ptime_ms: int
    srtp: str  # "off" | "prefer" | "require"
    fill: str  # "silence" | "off": what goes to this party when the other side is quiet
    fill_after_ms: int
    latch: str  # "latch" | "strict"
    latch_for: float

    # timing, seconds
    ringing_after: float  # toward this party: 180 if nothing else was said by then (D7)
    response_deadline: float  # from this party: no response at all within it moves to the next target
    ring_deadline: float  # from this party: no final response within it is a CANCEL (D8)

    # failure
    retry: tuple[int, ...]  # final statuses of this party that move the call to the next target (D12)
    responses: Mapping[int, int]  # toward this party: far status → status sent here; others pass as they are

    # headers
    headers: Mapping[str, str]  # always added to requests toward this party
    pass_headers: tuple[str, ...]  # allow-list, accepted from this party: names, or prefixes as "X-*" (D39)

    requires: tuple[str, ...]  # features the bridge must have for this party: "tls", "srtp", "http-step" …
    notes: tuple[str, ...]  # known problems with their remedy, for `profiles show`

    # dialogs
    session_timer: str = "accept"  # "off" | "accept" | "offer": RFC 4028 on this leg (D22)
    session_expires: int = 1800  # seconds, in our INVITEs where offered
    min_session_expires: int = 90  # seconds: less is answered 422 (Min-SE)
    prack: str = "off"  # "off" | "supported": RFC 3262 on this leg (D10)
    transfer: str = "dial"  # carrier: REFERs to numbers behind it are passed ("refer"), dialled ("dial") or refused
    # ("off"); platform: "off" refuses its REFERs, anything else takes them
    answers_challenge: bool = True  # False: this party can't answer a digest challenge (D9)
    trusted: bool = True  # in the trust domain of RFC 3325: its P-Asserted-Identity is believed, and it is told others'

    # transport
    keepalive: float = 30.0  # seconds between double CRLFs on streams to this party, 0: none (RFC 5626, D17)
    tls_names: str = "web"  # "strict" (RFC 5922) | "web" (RFC 6125) | "any": what this party's certificate must name
    large_requests: str = "tcp"  # "tcp" | "udp": what carries a request over 1300 bytes where UDP is meant (R13)
    health: str = "passive"  # "passive" | "options": how this party is known to live (D21)
    health_interval: float = 30.0  # seconds between two OPTIONS

    # registration
    register: bool = False  # we register with this party (carrier)
    register_expires: int = 3600  # seconds asked for
    registers: bool = False  # this party registers with us, its hosts come from there (D24)

    cps: float = 0.0  # new calls a second that the party takes unless the account says otherwise, 0: no limit (D13)

    domain: str = ""  # what fills {domain} in hosts and request_uri; regions set it (D5)
    variables: tuple[str, ...] = ()  # further keys an account may set; those in the templates need no naming here
    mode: str = ""  # the chosen one of `modes`
    modes: tuple[str, ...] = ()
    region: str = ""  # the chosen one of `regions`
    regions: tuple[str, ...] = ()
    facts: Mapping[str, Fact] = field(default_factory=dict)

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Return the account's keys that the URI template and the hosts need: ``user``, ``credential_id`` …"""
        names = PLACEHOLDER.findall(" ".join((self.request_uri, *self.hosts)))
        return tuple(dict.fromkeys(name for name in names if name not in ("number", "host")))


class Mistake(Exception):
    """Report a wrong value: what is wrong, what to write instead, and where inside the value it is."""

    def __init__(self, problem: str, remedy: str, path: KeyPath = ()) -> None:
        super().__init__(problem, remedy, path)
        self.problem = problem
        self.remedy = remedy
        self.path = path


Read = Callable[[Any], Any]


def _text(pattern: str, remedy: str) -> Read:
    compiled = re.compile(pattern)

    def read(value: Any) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise Mistake(f"{shown(value)} does not fit here", remedy)
        return value

    return read


def _one_of(*words: str) -> Read:
    def read(value: Any) -> str:
        if value not in words or not isinstance(value, str):
            raise Mistake(f"{shown(value)} is not one of its values", f"write {alternatives(words)}")
        return value

    return read


def _integer(low: int, high: int) -> Read:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Mistake(f"{shown(value)} is not in its range", f"write a whole number from {low} to {high}")
        return value

    return read


def _seconds(low: float, high: float) -> Read:
    def read(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise Mistake(f"{shown(value)} is not in its range", f"write seconds from {low:g} to {high:g}")
        return float(value)

    return read


def _rate(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e6:
        raise Mistake(f"{shown(value)} is not a rate", "write calls a second, 0 for no limit")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Mistake(f"{shown(value)} is neither true nor false", "write true or false, without quotes")
    return value


def _listing(item: Read, at_least: int = 0) -> Read:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise Mistake(f"{shown(value)} is not a list", f"write [{shown(value)}]")
        if len(value) < at_least:
            raise Mistake("the list is empty", "name at least one")
        items = []
        for index, element in enumerate(value):
            try:
                items.append(item(element))
            except Mistake as mistake:
                raise Mistake(mistake.problem, mistake.remedy, (index, *mistake.path)) from None
        return tuple(items)

    return read


def _table(key: Read, value: Read) -> Read:
    def read(table: Any) -> dict[Any, Any]:
        if not isinstance(table, Mapping):
            raise Mistake(f"{shown(table)} is not a table", "write it as { key = value }")
        entries = {}
        for name, element in table.items():
            try:
                entries[key(name)] = value(element)
            except Mistake as mistake:
                raise Mistake(mistake.problem, mistake.remedy, (str(name), *mistake.path)) from None
        return entries

    return read


def _date(value: Any) -> str:
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        return value
    raise Mistake(f"{shown(value)} is not a date", "write it as 2026-11-22")


def _network(value: Any) -> str:
    try:
        return str(ipaddress.ip_network(value if isinstance(value, str) else ""))
    except ValueError:
        loose = None
        try:
            loose = ipaddress.ip_network(value, strict=False)
        except (ValueError, TypeError):
            pass
        remedy = f'write "{loose}"' if loose else 'write a network as "192.0.2.0/24"'
        raise Mistake(f"{shown(value)} is not a network", remedy) from None


def _host(value: Any) -> str:
    match = HOST.fullmatch(value) if isinstance(value, str) else None
    remedy = 'write HOST[:PORT][;transport=udp|tcp|tls], an IPv6 address in brackets: "[2001:db8::1]:5060"'
    if not match or not isinstance(value, str):
        raise Mistake(f"{shown(value)} is not a host", remedy)
    if match["port"] and not 0 < int(match["port"]) < 65536:
        raise Mistake(f"{shown(value)} has no port from 1 to 65535", remedy)
    if match["transport"] and match["transport"].lower() not in TRANSPORTS:
        raise Mistake(f"{shown(value)} names an unknown transport", remedy)
    host = match["host"]
    if host.startswith("[") or re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            raise Mistake(f"{shown(value)} is not an address", remedy) from None
    return value


def _request_uri(value: Any) -> str:
    remedy = 'write a SIP URI with placeholders: "sip:{number}@{host}"'
    if not isinstance(value, str) or not re.fullmatch(r"sips?:[!-~]+", value) or "@{" not in value:
        raise Mistake(f"{shown(value)} is not a URI template", remedy)
    if re.search(r"[{}]", PLACEHOLDER.sub("", value)):
        raise Mistake(f"{shown(value)} has a brace that closes no placeholder", remedy)
    if not is_uri_template(value):
        raise Mistake(f"{shown(value)} makes no URI when its placeholders are filled", remedy)
    return value


def is_uri_template(template: str, authority: str = "host") -> bool:
    """Tell whether a Request-URI's template makes a URI when its placeholders are filled with plain words."""
    words = {"number": "+1", "host": authority}
    try:
        Uri.parse(PLACEHOLDER.sub(lambda match: words.get(match[1], "1"), template))
    except PeerError:
        return False
    return True


def _status(low: int, high: int) -> Read:
    inner = _integer(low, high)

    def read(value: Any) -> int:
        number = int(value) if isinstance(value, str) and re.fullmatch("[0-9]{3}", value) else value
        return int(inner(number))

    return read


# What the bridge itself writes and nobody may add (RFC 3261 §20)
_OWN_HEADERS = re.compile(
    "via|v|from|f|to|t|call-id|i|cseq|contact|m|max-forwards|route|record-route|"
    "content-length|l|content-type|c|authorization|proxy-authorization"
)
_TOKEN = r"[A-Za-z0-9.!%*_+`'~-]+"


def _header_name(value: Any) -> str:
    name: str = _text(_TOKEN, 'write a header name: "X-Account"')(value)
    if _OWN_HEADERS.fullmatch(name.lower()):
        raise Mistake(f"{name} is the bridge's own header", "leave it out")
    return name


def _source(sources: Mapping[str, Any]) -> Read:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in sources:
            raise Mistake(f"{shown(value)} is not under [sources]", "write the page's address there")
        return value

    return read


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a profile: how its value is read, and whether an account's own table may override it."""

    read: Read
    overridable: bool = True


_LINE = _text(r"[^\x00-\x08\x0a-\x1f\x7f]+", "write one line of text")
_NAMES = _listing(_text(r"[a-z][a-z0-9_]*", "write a name in small letters, digits and _"))

SCHEMA: Mapping[str, Key] = {
    "kind": Key(_one_of("carrier", "platform"), overridable=False),
    "title": Key(_LINE, overridable=False),
    "checked_on": Key(_date, overridable=False),
    "domain": Key(_text(r"[A-Za-z0-9.-]*", "write a host name")),
    "hosts": Key(_listing(_host)),
    "port": Key(_integer(1, 65535)),
    "transports": Key(_listing(_one_of(*TRANSPORTS), at_least=1)),
    "request_uri": Key(_request_uri),
    "plus": Key(_table(_one_of(*PLUS_FIELDS), _one_of("add", "strip", "keep"))),
    "signalling_sources": Key(_listing(_network)),
    "media_sources": Key(_listing(_network)),
    "authentication": Key(_one_of("none", "digest", "any")),
    "codecs": Key(_listing(_one_of("PCMU", "PCMA"), at_least=1)),
    "telephone_event": Key(_flag),
    "ptime_ms": Key(_integer(10, 60)),
    "srtp": Key(_one_of("off", "prefer", "require")),
    "fill": Key(_one_of("silence", "off")),
    "fill_after_ms": Key(_integer(20, 10_000)),
    "latch": Key(_one_of("latch", "strict")),
    "latch_for": Key(_seconds(0.0, 60.0)),
    "ringing_after": Key(_seconds(0.0, 10.0)),
    "response_deadline": Key(_seconds(0.5, 32.0)),
    "ring_deadline": Key(_seconds(1.0, 300.0)),
    "retry": Key(_listing(_status(300, 699))),
    "responses": Key(_table(_status(300, 699), _status(400, 699))),
    "headers": Key(_table(_header_name, _LINE)),
    "pass_headers": Key(_listing(_header_name)),
    "variables": Key(_NAMES, overridable=False),
    "session_timer": Key(_one_of("off", "accept", "offer")),
    "session_expires": Key(_integer(90, 86_400)),
    "min_session_expires": Key(_integer(90, 86_400)),
    "prack": Key(_one_of("off", "supported")),
    "transfer": Key(_one_of("refer", "refer-or-dial", "dial", "off")),
    "answers_challenge": Key(_flag),
    "trusted": Key(_flag),
    "keepalive": Key(_seconds(0.0, 600.0)),
    "tls_names": Key(_one_of("strict", "web", "any")),
    "large_requests": Key(_one_of("tcp", "udp")),
    "health": Key(_one_of("passive", "options")),
    "health_interval": Key(_seconds(1.0, 3600.0)),
    "register": Key(_flag),
    "register_expires": Key(_integer(30, 86_400)),
    "registers": Key(_flag),
    "cps": Key(_rate),
    "requires": Key(_listing(_one_of("tcp", "tls", "srtp", "http-step"))),
    "notes": Key(_listing(_LINE), overridable=False),
}

_FRAME = ("extends", "default_mode", "default_region", "modes", "regions", "facts", "sources")
_MERGED = ("plus", "responses", "headers")
_REQUIRED = tuple(
    item.name
    for item in fields(Profile)
    if item.name in SCHEMA and item.default is MISSING and item.default_factory is MISSING
)


def read_key(key: str, value: Any) -> Any:
    """Check and convert the value of one profile key. Raises Mistake; an unknown key is a bug."""
    return SCHEMA[key].read(value)


def builtin_profiles() -> list[str]:
    """Return the names of the profiles that come with the bridge, sorted."""
    return sorted(path.stem for path in BUILTIN.glob("*.toml"))


def load_profile(
    name_or_path: str,
    overrides: Mapping[str, Any] | None = None,
    base: Path | None = None,
    where: Where | None = None,
) -> Profile:
    """Load a built-in profile by name, or a file by path (with a slash or .toml; relative to ``base``).

    ``overrides`` are profile keys of the account's own table, ``mode`` and ``region`` among them; ``where``
    makes the error for one of them. Raises the first ConfigError.
    """
    profile, errors = _load(name_or_path, overrides or {}, base, where)
    if errors or profile is None:
        raise errors[0]
    return profile


def check_profile(name_or_path: str, base: Path | None = None) -> tuple[Profile | None, list[ConfigError]]:
    """Load a profile and return every problem of its file, in the order of its lines; without one, the profile."""
    return _load(name_or_path, {}, base, None)


def _load(
    name_or_path: str, overrides: Mapping[str, Any], base: Path | None, where: Where | None
) -> tuple[Profile | None, list[ConfigError]]:
    where = where or _nowhere
    try:
        chain = _chain(name_or_path, base, where)
    except ConfigError as error:
        return None, [error]
    errors: list[ConfigError] = []
    layers = [_Layer(document, errors) for document in chain]
    if errors:
        return None, sorted(errors, key=lambda error: error.line)
    merged: dict[str, Any] = {"notes": ()}
    facts: dict[str, Fact] = {}
    for layer in layers:
        _merge(merged, layer.keys)
        facts |= layer.facts
    for option in ("mode", "region"):
        merged |= _choose(option, layers, overrides.get(option), merged, errors, where)
    for key in SCHEMA.keys() & overrides.keys():
        try:
            _merge(merged, {key: read_key(key, overrides[key])})
        except Mistake as mistake:
            errors.append(where((key, *mistake.path), mistake.problem, mistake.remedy))
    if facts:
        merged.setdefault("checked_on", min(fact.checked_on for fact in facts.values()))
    for key in _REQUIRED:
        if key not in merged:
            remedy = f'write it, or extends = "generic-{merged.get("kind", "platform")}"'
            errors.append(chain[-1].error((), f'"{key}" is missing', remedy))
    if errors:
        return None, errors
    domain = merged.get("domain", "")
    merged["hosts"] = tuple(host.replace("{domain}", domain) for host in merged["hosts"])
    merged["request_uri"] = merged["request_uri"].replace("{domain}", domain)
    return Profile(name=chain[-1].path.stem, facts=facts, **merged), []


def _choose(
    option: str,
    layers: Sequence[_Layer],
    wanted: object,
    merged: dict[str, Any],
    errors: list[ConfigError],
    where: Where,
) -> dict[str, Any]:
    """Merge the keys of the wanted (or default) mode or region; return the two fields that tell of it."""
    variants: dict[str, dict[str, Any]] = {}
    default = ""
    for layer in layers:
        variants |= layer.variants[option]
        default = str(layer.defaults.get(option, default))
    own = layers[-1].document
    chosen = default if wanted is None else str(wanted)
    remedy = f"write {alternatives(variants)}" if variants else f"leave {option} out"
    if default not in ("", *variants):
        problem = f'there is no {option} "{default}"'
        errors.append(own.error((f"default_{option}",), problem, remedy))
    elif chosen not in ("", *variants):
        problem = f"{shown(chosen)} is no {option} of {own.path.stem}"
        errors.append(where((option,), problem, remedy))
    else:
        _merge(merged, variants.get(chosen, {}))
    return {option: chosen, f"{option}s": tuple(variants)}


def _chain(name_or_path: str, base: Path | None, where: Where) -> list[Document]:
    """Read the profile and what it extends, the oldest ancestor first. Raises ConfigError."""
    chain: list[Document] = []
    name, key = name_or_path, "profile"
    while True:
        wrong = chain[-1].error if chain else where
        path = _path(name, base)
        if not os.path.isfile(path):  # unlike Path.is_file, False for a name that no file can have
            raise wrong((key,), f"there is no profile {shown(name)}", _known_profiles(name))
        if any(document.path == path for document in chain):
            raise wrong((key,), f'"{name}" extends itself', "extend a generic profile")
        chain.append(Document.read(path))
        extends = chain[-1].values.get("extends")
        if extends is None:
            return chain[::-1]
        key = "extends"
        if not isinstance(extends, str):
            raise chain[-1].error((key,), "is not a name", 'write extends = "generic-platform"')
        name, base = extends, path.parent


def _path(name: str, base: Path | None) -> Path:
    if "/" in name or name.endswith(".toml"):
        return (base or Path()) / os.path.expanduser(name)
    beside, builtin = (base or BUILTIN) / f"{name}.toml", BUILTIN / f"{name}.toml"
    return builtin if os.path.isfile(builtin) or not os.path.isfile(beside) else beside


class _Layer:
    """One profile file, read and checked: its keys, its modes and regions, its facts."""

    def __init__(self, document: Document, errors: list[ConfigError]) -> None:
        self.document = document
        self._errors = errors
        values = document.values
        self.keys = self._keys({k: v for k, v in values.items() if k not in _FRAME}, (), _FRAME)
        self.variants = {option: self._variants(f"{option}s") for option in ("mode", "region")}
        self.defaults = {
            option: values[f"default_{option}"] for option in ("mode", "region") if f"default_{option}" in values
        }
        self.facts = self._facts()

    def _keys(self, table: Mapping[str, Any], path: KeyPath, also: Iterable[str] = ()) -> dict[str, Any]:
        keys = {}
        for key, value in table.items():
            if key not in SCHEMA:
                remedy = did_you_mean(key, (*SCHEMA, *also), "leave it out, or see profiles/README.md")
                self._errors.append(self.document.error((*path, key), "is no key of a profile", remedy))
                continue
            try:
                keys[key] = read_key(key, value)
            except Mistake as mistake:
                place = (*path, key, *mistake.path)
                self._errors.append(self.document.error(place, mistake.problem, mistake.remedy))
        return keys

    def _variants(self, name: str) -> dict[str, dict[str, Any]]:
        return {variant: self._keys(table, (name, variant)) for variant, table in self._tables(name).items()}

    def _facts(self) -> dict[str, Fact]:
        sources = self.document.values.get("sources", {})
        if not isinstance(sources, dict):
            self._errors.append(self.document.error(("sources",), "is not a table", "write [sources]"))
            return {}
        default = self.document.values.get("checked_on")
        readers = {"source": _listing(_source(sources)), "checked_on": _date, "note": _LINE}
        facts = {}
        for key, table in self._tables("facts").items():
            values = {"source": [], "checked_on": default, "note": "as the source says", **table}
            read: dict[str, Any] = {}
            for part, value in values.items():
                place: KeyPath = ("facts", key, part)
                try:
                    if key not in SCHEMA:
                        place = ("facts", key)
                        raise Mistake("is a fact about no key", did_you_mean(key, SCHEMA, "name a profile key"))
                    if part not in readers:
                        raise Mistake("is no part of a fact", f"write {alternatives(readers)}")
                    read[part] = readers[part](value)
                except Mistake as mistake:
                    error = self.document.error((*place, *mistake.path), mistake.problem, mistake.remedy)
                    self._errors.append(error)
                    break
            else:
                pages = tuple(str(sources[name]) for name in read["source"])
                facts[key] = Fact(pages, read["checked_on"], read["note"])
        return facts

    def _tables(self, name: str) -> dict[str, Any]:
        outer = self.document.values.get(name, {})
        if isinstance(outer, dict) and all(isinstance(table, dict) for table in outer.values()):
            return outer
        self._errors.append(self.document.error((name,), "does not hold tables", f"write [{name}.NAME]"))
        return {}


def _merge(merged: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if key in _MERGED:
            merged[key] = {**merged.get(key, {}), **value}
        elif key == "notes":
            merged[key] = (*merged[key], *value)
        else:
            merged[key] = value


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """Return the remedy for an unknown word: the nearest known one, or ``otherwise``."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else otherwise


def alternatives(words: Iterable[str]) -> str:
    """Write a choice: ``"a", "b" or "c"``."""
    *most, last = [f'"{word}"' for word in words]
    return f"{', '.join(most)} or {last}" if most else last


def shown(value: Any) -> str:
    """Write a value as its author wrote it, in short."""
    if isinstance(value, bool):
        return str(value).lower()
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _known_profiles(name: str) -> str:
    known = builtin_profiles()
    otherwise = f"write {alternatives(known)}, or the path of a .toml file" if known else "name a .toml file"
    return did_you_mean(name, known, otherwise)


def _nowhere(path: KeyPath, problem: str, remedy: str) -> ConfigError:
    return ConfigError("overrides", 0, ".".join(str(part) for part in path) or "profile", problem, remedy)
