"""Typed values of the headers that SIP's extensions brought: reliable provisionals, session timers, transfer, events.

Frozen, with `parse` and `__str__` like those of `bridge.sip.headers`; every `parse` raises PeerError 400 for what is
malformed. What may stand only once in a request is read by a function that takes the request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bridge.errors import PeerError
from bridge.sip.fields import UNPRINTABLE
from bridge.sip.headers import TOKEN, NameAddr, Reason, parse_params, print_params, split_list, unquote
from bridge.sip.message import REASONS, Header, Request, Response
from bridge.sip.uri import Params, Uri, param_value, unescape

SIPFRAG = "message/sipfrag;version=2.0"
"""The Content-Type of a NOTIFY that tells how a transfer goes (RFC 3515 §2.4.5)."""

_DELTA = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(r"[0-9]{1,10}")
_TOKEN = re.compile(TOKEN)
_RACK = re.compile(rf"([0-9]{{1,10}})[ \t]+([0-9]{{1,10}})[ \t]+({TOKEN})")
_CALL_ID = re.compile(r"[^\x00-\x20\x7f;,]+")
_TAG = re.compile(rf"{TOKEN}|0")
_STATUS_LINE = re.compile(r"SIP/2\.0 ([1-6][0-9]{2})(?: ([^\r\n\0]*))?", re.IGNORECASE)
# RFC 3261 §25.1: unreserved and hnv-unreserved
_UNESCAPED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.!~*'()[]/?:+$")


# -- RFC 3262: reliable provisional responses --------------------------------------------------------------------------


def parse_rseq(text: str) -> int:
    """Read an RSeq: 1 to 2^32 - 1 (RFC 3262 §7.1)."""
    if not _NUMBER.fullmatch(text) or not 0 < (number := int(text)) < 1 << 32:
        raise PeerError(400, "Malformed RSeq")
    return number


@dataclass(frozen=True, slots=True)
class RAck:
    """Hold a RAck value (RFC 3262 §7.2): which response, to which request, is acknowledged."""

    rseq: int
    cseq: int
    method: str

    @staticmethod
    def parse(text: str) -> RAck:
        match = _RACK.fullmatch(text)
        if match is None or not 0 < int(match[1]) < 1 << 32 or int(match[2]) >= 1 << 31:
            raise PeerError(400, "Malformed RAck")
        return RAck(int(match[1]), int(match[2]), match[3])

    def __str__(self) -> str:
        return f"{self.rseq} {self.cseq} {self.method}"


# -- RFC 4028: session timers ------------------------------------------------------------------------------------------


def parse_delta(text: str) -> int:
    """Read the seconds of Min-SE, Expires, Min-Expires or Retry-After; what follows them is left out."""
    digits = text.partition(";")[0].partition("(")[0].strip(" \t")
    if not _DELTA.fullmatch(digits):
        raise PeerError(400, "Malformed Seconds")
    return int(digits)


@dataclass(frozen=True, slots=True)
class SessionExpires:
    """Hold a Session-Expires value (RFC 4028 §4). ``refresher`` is ``uac``, ``uas`` or None."""

    seconds: int
    refresher: str | None = None

    @staticmethod
    def parse(text: str) -> SessionExpires:
        digits, semicolon, rest = text.partition(";")
        seconds = parse_delta(digits)
        refresher = param_value(parse_params(semicolon + rest), "refresher")
        if refresher is not None and (refresher := refresher.lower()) not in ("uac", "uas"):
            raise PeerError(400, "Malformed Session-Expires")
        return SessionExpires(seconds, refresher)

    def __str__(self) -> str:
        return f"{self.seconds}" if self.refresher is None else f"{self.seconds};refresher={self.refresher}"


# -- RFC 3515, RFC 3891, RFC 3892: transfer ----------------------------------------------------------------------------


def refer_to(request: Request) -> NameAddr:
    """Return the one Refer-To of a REFER (RFC 3515 §2.4.2, R37). Raises PeerError 400 for none or several."""
    values = _values(request, "Refer-To")
    if len(values) != 1:
        raise PeerError(400, "Exactly One Refer-To")
    return NameAddr.parse(values[0])


def referred_by(request: Request) -> NameAddr | None:
    """Return the Referred-By, None without one (RFC 3892 §3: at most one)."""
    values = _values(request, "Referred-By")
    if len(values) > 1:
        raise PeerError(400, "Repeated Referred-By")
    return NameAddr.parse(values[0]) if values else None


@dataclass(frozen=True, slots=True)
class Replaces:
    """Hold a Replaces value (RFC 3891 §6.1): the dialog to take over, as its other party names it.

    ``to_tag`` is the tag of whoever gets the INVITE.
    """

    call_id: str
    to_tag: str
    from_tag: str
    early_only: bool = False

    @staticmethod
    def parse(text: str) -> Replaces:
        call_id, semicolon, rest = text.partition(";")
        call_id = call_id.strip(" \t")
        params = parse_params(semicolon + rest)
        to_tag, from_tag = (_only(params, name) for name in ("to-tag", "from-tag"))
        if not _CALL_ID.fullmatch(call_id) or not _TAG.fullmatch(to_tag) or not _TAG.fullmatch(from_tag):
            raise PeerError(400, "Malformed Replaces")
        return Replaces(call_id, to_tag, from_tag, param_value(params, "early-only") is not None)

    def __str__(self) -> str:
        early = ";early-only" if self.early_only else ""
        return f"{self.call_id};to-tag={self.to_tag};from-tag={self.from_tag}{early}"


def replaces(request: Request) -> Replaces | None:
    """Return the Replaces of an INVITE, None without one. Raises PeerError 400 for several (RFC 3891 §3, R38)."""
    values = request.headers.get_all("Replaces")
    if len(values) > 1 or (values and "," in values[0]):
        raise PeerError(400, "Repeated Replaces")
    return Replaces.parse(values[0]) if values else None


def sipfrag(status: int, reason: str = "") -> bytes:
    """Write the status line that a NOTIFY carries. Raises ValueError for CR, LF or NUL (T13)."""
    line = f"SIP/2.0 {status} {reason or REASONS.get(status, 'Unknown')}"
    if UNPRINTABLE.search(line):
        raise ValueError("CR, LF or NUL within a status line")
    return line.encode("utf-8", "surrogateescape") + b"\r\n"


def parse_sipfrag(body: bytes) -> tuple[int, str]:
    """Read status and reason from the first line of a message/sipfrag (RFC 3420); further lines don't matter."""
    line = body.lstrip(b"\r\n").partition(b"\n")[0].removesuffix(b"\r")
    match = _STATUS_LINE.fullmatch(line.decode("utf-8", "surrogateescape").rstrip(" \t"))
    if match is None:
        raise PeerError(400, "Malformed Status-Line")
    return int(match[1]), match[2] or ""


# -- RFC 6665: events --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """Hold an Event value (RFC 6665 §8.2.1); ``id`` tells one subscription of a dialog from another."""

    package: str
    id: str | None = None

    @staticmethod
    def parse(text: str) -> Event:
        package, params = _token_and_params(text, "Event")
        return Event(package.lower(), param_value(params, "id") or None)

    def __str__(self) -> str:
        return self.package if self.id is None else f"{self.package};id={self.id}"


@dataclass(frozen=True, slots=True)
class SubscriptionState:
    """Hold a Subscription-State value (RFC 6665 §8.2.3): ``active``, ``pending`` or ``terminated``."""

    state: str
    expires: int | None = None
    reason: str | None = None

    @staticmethod
    def parse(text: str) -> SubscriptionState:
        state, params = _token_and_params(text, "Subscription-State")
        expires, reason = param_value(params, "expires"), param_value(params, "reason")
        return SubscriptionState(
            state.lower(), None if expires is None else parse_delta(expires), reason.lower() if reason else None
        )

    def __str__(self) -> str:
        params = (("expires", None if self.expires is None else str(self.expires)), ("reason", self.reason))
        return self.state + print_params(tuple(param for param in params if param[1] is not None))


# -- RFC 3326: reasons -------------------------------------------------------------------------------------------------


def reasons(message: Request | Response) -> tuple[Reason, ...]:
    """Return the Reason values, one a protocol: the first (RFC 3326 §2, R40). What can't be read is left out."""
    found: dict[str, Reason] = {}
    for value in _values(message, "Reason"):
        try:
            reason = Reason.parse(value)
        except PeerError:
            continue
        if _TOKEN.fullmatch(reason.protocol):
            found.setdefault(reason.protocol.upper(), reason)
    return tuple(found.values())


# -- RFC 3261 §19.1.1: headers within a URI ----------------------------------------------------------------------------


def embedded_headers(uri: Uri) -> tuple[Header, ...]:
    """Decode what follows the question mark of a URI. Raises PeerError 400 for what no header line can hold (T13)."""
    headers: list[Header] = []
    for part in (uri.headers or "").split("&"):
        if not part:
            continue
        name, _, value = part.partition("=")
        name, value = unescape(name), unescape(value)
        if not _TOKEN.fullmatch(name) or UNPRINTABLE.search(value):
            raise PeerError(400, "Malformed Header in URI")
        headers.append(Header(name, value))
    return tuple(headers)


def embed_headers(headers: Iterable[Header]) -> str:
    """Encode headers so that they can follow the question mark of a URI."""
    return "&".join(f"{_escape(header.name)}={_escape(header.value)}" for header in headers)


def _escape(text: str) -> str:
    octets = text.encode("utf-8", "surrogateescape")
    return "".join(chr(octet) if octet in _UNESCAPED else f"%{octet:02X}" for octet in octets)


def _values(message: Request | Response, name: str) -> list[str]:
    return [item for value in message.headers.get_all(name) for item in split_list(value) if item]


def _only(params: Params, name: str) -> str:
    """Return the value of a parameter that must be there once."""
    values = [value or "" for key, value in params if key.lower() == name]
    return unquote(values[0]) if len(values) == 1 else ""


def _token_and_params(text: str, header: str) -> tuple[str, Params]:
    token, semicolon, rest = text.partition(";")
    token = token.strip(" \t")
    if not _TOKEN.fullmatch(token):
        raise PeerError(400, f"Malformed {header}")
    return token, parse_params(semicolon + rest)
