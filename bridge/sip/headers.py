"""Typed values of the header fields the core reads: frozen, with `parse` and `__str__` (RFC 3261 §20, §25.1).

Everything else stays the text it was (bridge.sip.message). Patterns scan each octet a bounded number of times, so the
worst 64 KiB of a peer's cost no more than their length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from bridge.errors import PeerError
from bridge.sip.uri import Params, Uri, param_value
from bridge.sip.values import frozen

TOKEN = r"[A-Za-z0-9!%'*+.\-_`~]+"
_QUOTED = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_PARAM = re.compile(rf'[ \t]*;[ \t]*([^ \t;,"<>=]+)(?:[ \t]*=[ \t]*({_QUOTED}|[^ \t;,"<>]+))?', re.DOTALL)
_NAME_ADDR = re.compile(
    r'(?:(?P<quoted>"[^"\\]*(?:\\.[^"\\]*)*")[ \t]*|(?P<words>[^"<>,;:@\\]*))<(?P<uri>[^<>]*)>(?P<params>.*)', re.DOTALL
)
_ADDR_SPEC = re.compile(r'(?P<uri>[^ \t<>",;?]+)(?P<params>.*)', re.DOTALL)
_VIA = re.compile(
    rf"({TOKEN})[ \t]*/[ \t]*({TOKEN})[ \t]*/[ \t]*({TOKEN})[ \t]+"
    r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?:[ \t]*:[ \t]*([0-9]{1,5}))?(.*)",
    re.DOTALL,
)
_CSEQ = re.compile(rf"([0-9]{{1,20}})[ \t]+({TOKEN})")
# An unclosed quote or bracket runs to the end: it must not be tried again from every octet after it.
_LIST_PIECE = re.compile(r'[^",<]+|"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|<[^>]*(?:>|\Z)|,', re.DOTALL)
_MEMO_LENGTH = 300


def split_list(value: str) -> list[str]:
    """Split a comma-separated header value; commas within quotes or angle brackets don't count (RFC 3261 §7.3.1)."""
    if "," not in value:
        return [value.strip(" \t")]
    items: list[str] = []
    current: list[str] = []
    for piece in _LIST_PIECE.findall(value):
        if piece == ",":
            items.append("".join(current).strip(" \t"))
            current.clear()
        else:
            current.append(piece)
    items.append("".join(current).strip(" \t"))
    return items


def parse_params(text: str) -> Params:
    """Parse ``;name=value;name`` with white space and quoted strings, whose quotes stay. Raises PeerError 400."""
    params: list[tuple[str, str | None]] = []
    position, end = 0, len(text)
    while position < end:
        match = _PARAM.match(text, position)
        if match is None:
            if text[position:].strip(" \t"):
                raise PeerError(400, "Malformed Parameter")
            break
        params.append((match[1], match[2]))
        position = match.end()
    return tuple(params)


def print_params(params: Params) -> str:
    """Print ``;name=value;name``."""
    return "".join([f";{name}" if value is None else f";{name}={value}" for name, value in params])


def unquote(text: str) -> str:
    """Take a quoted string out of its quotes and resolve its escapes; other text stays as it is."""
    if len(text) < 2 or text[0] != '"':
        return text
    text = text[1:-1]
    # A run of backslashes begins with one that escapes, so the pairs in it are found from the left.
    return "\\".join([part.replace("\\", "") for part in text.split("\\\\")])


def quote(text: str) -> str:
    """Put text into quotes (RFC 3261 §25.1 quoted-string)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@frozen
class NameAddr:
    """Hold the value of From, To, Contact, Route …: ``display`` is without quotes, ``params`` are the header's own."""

    display: str
    uri: Uri
    params: Params = ()

    @staticmethod
    def parse(text: str) -> NameAddr:
        """Parse a name-addr or an addr-spec (RFC 3261 §20.10, §25.1). Raises PeerError 400."""
        return _name_addr_memo(text) if len(text) <= _MEMO_LENGTH else _parse_name_addr(text)

    def __str__(self) -> str:
        params = print_params(self.params)
        if self.display:
            return f"{quote(self.display)} <{self.uri}>{params}"
        return f"<{self.uri}>{params}"

    def param(self, name: str) -> str | None:
        """Return a header parameter's value, "" for one without a value, None where there is none."""
        return param_value(self.params, name)

    @property
    def tag(self) -> str | None:
        """The tag, None where there is none or an empty one."""
        return param_value(self.params, "tag") or None

    def with_tag(self, tag: str) -> NameAddr:
        """Return the same address with this tag in place of any other."""
        others = tuple(param for param in self.params if param[0].lower() != "tag")
        return replace(self, params=(*others, ("tag", tag)))


def _parse_name_addr(text: str) -> NameAddr:
    text = text.strip(" \t")
    match = _NAME_ADDR.fullmatch(text)
    if match is not None:
        quoted, words, uri, params = match.groups()
        display = unquote(quoted) if quoted else words.strip(" \t")
    else:
        match = _ADDR_SPEC.fullmatch(text)
        if match is None:
            raise PeerError(400, "Malformed Address")
        uri, params = match.groups()
        display = ""
    try:
        return NameAddr(display, Uri.parse(uri), parse_params(params) if params else ())
    except PeerError as error:  # 416 is about the Request-URI alone (RFC 3261 §8.2.2.1)
        raise PeerError(400, error.reason) from None


_name_addr_memo = lru_cache(maxsize=4096)(_parse_name_addr)

RouteSet = tuple[NameAddr, ...]


def parse_route_set(values: Iterable[str]) -> RouteSet:
    """Parse Route or Record-Route headers, repeated or comma-separated, in order. Raises PeerError 400."""
    routes = tuple(NameAddr.parse(item) for value in values for item in split_list(value))
    if any(not route.uri.host for route in routes):
        raise PeerError(400, "Malformed Route")
    return routes


@frozen
class Via:
    """Hold one Via value (RFC 3261 §20.42). ``protocol`` is "SIP/2.0"; ``host`` keeps the brackets of IPv6."""

    protocol: str
    transport: str
    host: str
    port: int | None
    params: Params = ()

    @staticmethod
    def parse(text: str) -> Via:
        """Parse one Via value. Raises PeerError 400."""
        match = _VIA.fullmatch(text.strip(" \t"))
        if match is None:
            raise PeerError(400, "Malformed Via")
        name, version, transport, host, port_text, params = match.groups()
        port = int(port_text) if port_text else None
        if port is not None and port > 65535:
            raise PeerError(400, "Malformed Via")
        return Via(f"{name}/{version}", transport, host, port, parse_params(params) if params else ())

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"{self.protocol}/{self.transport} {self.host}{port}{print_params(self.params)}"

    def param(self, name: str) -> str | None:
        """Return a parameter's value, "" for one without a value, None where there is none."""
        return param_value(self.params, name)

    @property
    def branch(self) -> str | None:
        return param_value(self.params, "branch") or None

    @property
    def received(self) -> str | None:
        """The source address that the receiver saw, without brackets (RFC 5118 §4.5 knows both spellings)."""
        value = param_value(self.params, "received")
        return value.strip("[]") if value else None

    @property
    def wants_rport(self) -> bool:
        """Whether the client asks for an answer to its source port (RFC 3581 §3)."""
        return param_value(self.params, "rport") is not None

    @property
    def rport(self) -> int | None:
        """The source port that the receiver saw."""
        value = param_value(self.params, "rport")
        return int(value) if value and len(value) <= 5 and value.isascii() and value.isdigit() else None

    def seen_from(self, address: str, port: int) -> Via:
        """Return the value with what RFC 3261 §18.2.1 and RFC 3581 §4 make the server note of the packet's source."""
        wants_rport = self.wants_rport
        if not wants_rport and self.host.strip("[]").lower() == address.lower():
            return self
        params = [(name, value) for name, value in self.params if name.lower() not in ("rport", "received")]
        params.append(("received", address))
        if wants_rport:
            params.append(("rport", str(port)))
        return replace(self, params=tuple(params))


@frozen
class CSeq:
    """Hold a CSeq value (RFC 3261 §20.16)."""

    number: int
    method: str

    @staticmethod
    def parse(text: str) -> CSeq:
        """Parse a CSeq value. Raises PeerError 400, also for 2^31 and above (RFC 3261 §8.1.1.5)."""
        match = _CSEQ.fullmatch(text)
        if match is None or (number := int(match[1])) >= 1 << 31:
            raise PeerError(400, "Malformed CSeq")
        return CSeq(number, match[2])

    def __str__(self) -> str:
        return f"{self.number} {self.method}"


@dataclass(frozen=True, slots=True)
class Reason:
    """Hold one Reason value (RFC 3326): ``protocol`` is ``SIP``, ``Q.850`` …"""

    protocol: str
    cause: int | None = None
    text: str = ""

    @staticmethod
    def parse(text: str) -> Reason:
        """Parse one Reason value. Raises PeerError 400."""
        protocol, semicolon, rest = text.partition(";")
        protocol = protocol.strip(" \t")
        if not protocol:
            raise PeerError(400, "Malformed Reason")
        params = parse_params(semicolon + rest)
        cause = param_value(params, "cause") or ""
        number = int(cause) if len(cause) <= 5 and cause.isascii() and cause.isdigit() else None
        return Reason(protocol, number, unquote(param_value(params, "text") or ""))

    def __str__(self) -> str:
        cause = "" if self.cause is None else f";cause={self.cause}"
        return f"{self.protocol}{cause}" + (f";text={quote(self.text)}" if self.text else "")
