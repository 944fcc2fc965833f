"""SIP messages: ordered header fields kept byte for byte, a start line, a body (RFC 3261 §7).

Text is UTF-8 with surrogateescape, so every octet that arrives can leave again. Header values are typed on demand only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from bridge.errors import PeerError
from bridge.sip.headers import TOKEN, CSeq, NameAddr, Via, split_list
from bridge.sip.uri import Uri

HEADER_LIMIT = 64 * 1024  # octets; T15
MESSAGE_LIMIT = 256 * 1024

_T = TypeVar("_T")
_Entry = tuple[str, str, str, str | None]  # key, name as written, value, lines as they arrived

_COMPACT = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "n": "identity-info",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}
_USUAL = (
    "Accept Accept-Encoding Accept-Language Alert-Info Allow Allow-Events Authentication-Info Authorization Call-ID "
    "Call-Info Contact Content-Disposition Content-Encoding Content-Language Content-Length Content-Type CSeq Date "
    "Diversion Event Expires From History-Info Identity Max-Forwards MIME-Version Min-Expires Min-SE Organization "
    "P-Asserted-Identity P-Preferred-Identity Privacy Proxy-Authenticate Proxy-Authorization Proxy-Require RAck Reason "
    "Record-Route Refer-To Referred-By Remote-Party-ID Replaces Require Retry-After Route RSeq Server Session-Expires "
    "Subject Subscription-State Supported Timestamp To Unsupported User-Agent User-to-User Via Warning WWW-Authenticate"
)
# The usual spellings; every other one takes the slow way through `_key`.
_KEYS = {
    spelling: name.lower() for name in _USUAL.split() for spelling in (name, name.lower(), name.upper(), name.title())
} | {spelling: name for letter, name in _COMPACT.items() for spelling in (letter, letter.upper())}
_SINGLE = frozenset(("call-id", "cseq", "from", "to", "max-forwards", "content-length", "content-type"))
_MANDATORY = ("via", "from", "to", "call-id", "cseq")  # RFC 3261 §8.1.1; Max-Forwards: RFC 2543 peers send none
_DIALOG_CREATING = frozenset(("INVITE", "SUBSCRIBE", "REFER", "NOTIFY"))

_NAME = re.compile(TOKEN)
_METHOD = re.compile(TOKEN)
_VERSION = re.compile(r"SIP/[0-9]+\.[0-9]+", re.IGNORECASE)
_ANSWERABLE_VIA = re.compile(rf"SIP[ \t]*/[ \t]*[0-9.]+[ \t]*/[ \t]*{TOKEN}[ \t]+[A-Za-z0-9\[]", re.IGNORECASE)
_LOGICAL_LINE = re.compile(r"\r\n(?![ \t])")
_UNPRINTABLE = re.compile(r"[\r\n\0]")
_BARE_NUL = re.compile(rb"(?<!\\)\0")
_FOLD = re.compile(r"\r\n[ \t]+")

REASONS = {
    100: "Trying",
    180: "Ringing",
    181: "Call Is Being Forwarded",
    182: "Queued",
    183: "Session Progress",
    199: "Early Dialog Terminated",
    200: "OK",
    202: "Accepted",
    204: "No Notification",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    410: "Gone",
    412: "Conditional Request Failed",
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    417: "Unknown Resource-Priority",
    420: "Bad Extension",
    421: "Extension Required",
    422: "Session Interval Too Small",
    423: "Interval Too Brief",
    428: "Use Identity Header",
    429: "Provide Referrer Identity",
    433: "Anonymity Disallowed",
    436: "Bad Identity Info",
    437: "Unsupported Credential",
    438: "Invalid Identity Header",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    484: "Address Incomplete",
    485: "Ambiguous",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    493: "Undecipherable",
    494: "Security Agreement Required",
    500: "Server Internal Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    580: "Precondition Failure",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
    607: "Unwanted",
    608: "Rejected",
}


class Malformed(PeerError):
    """Report a message that can't be used; ``request`` is what a response can be made from, None: drop it."""

    def __init__(self, status: int, reason: str, request: Request | None) -> None:
        super().__init__(status, reason)
        self.request = request


@dataclass(frozen=True, slots=True)
class Header:
    """Hold one header field. ``raw`` are its lines as they arrived, without the last CRLF, and is what gets printed."""

    name: str
    value: str
    raw: bytes | None = field(default=None, compare=False)


def _key(name: str) -> str:
    """Return the name under which a header is found: lower-case and in its long form."""
    found = _KEYS.get(name)
    if found is None:
        lower = name.lower()
        found = _COMPACT.get(lower, lower)
    return found


class Headers:
    """Keep header fields in order; a name matches in any case and in its compact form (RFC 3261 §7.3.1, §7.3.3)."""

    __slots__ = ("_entries", "_index", "edits")

    def __init__(self, headers: Iterable[Header] = ()) -> None:
        self._entries: list[_Entry] = []
        self._index: dict[str, int] | None = None  # key → place of its first entry; None: to be made anew
        self.edits = 0  # counts changes, so that typed values know when they are stale
        for header in headers:
            self.append(header)

    def get(self, name: str) -> str | None:
        """Return the first value of that name."""
        place = self._places().get(_KEYS.get(name) or _key(name))
        return None if place is None else self._entries[place][2]

    def get_all(self, name: str) -> list[str]:
        """Return every value of that name, one an appearance (see `split_list` for comma-separated ones)."""
        key = _KEYS.get(name) or _key(name)
        if key not in self._places():
            return []
        return [entry[2] for entry in self._entries if entry[0] == key]

    def add(self, name: str, value: str) -> None:
        """Put a header at the end."""
        self._add((_key(name), name, value, None))

    def append(self, header: Header) -> None:
        """Put a header at the end as it is, its raw lines included."""
        self._add(_entry_of(header))

    def prepend(self, name: str, value: str) -> None:
        """Put a header at the top."""
        self._entries.insert(0, (_key(name), name, value, None))
        self._changed()

    def set(self, name: str, value: str) -> None:
        """Replace all headers of that name by one at the first one's place, or at the end."""
        key = _key(name)
        place = self._places().get(key)
        if place is None:
            self.add(name, value)
            return
        entries = self._entries
        entries[place] = (key, entries[place][1], value, None)
        self._entries = entries[: place + 1] + [entry for entry in entries[place + 1 :] if entry[0] != key]
        self._changed()

    def replace_first(self, name: str, value: str) -> None:
        """Replace the first header of that name and leave further ones. Raises KeyError where there is none."""
        key = _key(name)
        place = self._places()[key]
        self._entries[place] = (key, self._entries[place][1], value, None)
        self.edits += 1

    def extend_first(self, name: str, text: str) -> None:
        """Write more behind the first header of that name. Raises KeyError, and ValueError for CR, LF or NUL (T13)."""
        if _UNPRINTABLE.search(text):
            raise ValueError("CR, LF or NUL within a SIP header")
        place = self._places()[_key(name)]
        key, written, value, raw = self._entries[place]
        self._entries[place] = (key, written, value + text, None if raw is None else raw + text)
        self.edits += 1

    def remove(self, name: str) -> None:
        """Remove all headers of that name."""
        key = _key(name)
        if key in self._places():
            self._entries = [entry for entry in self._entries if entry[0] != key]
            self._changed()

    def copy(self) -> Headers:
        """Return headers that can be changed apart from these."""
        copy = Headers.__new__(Headers)
        copy._entries = self._entries.copy()
        copy._index = None if self._index is None else self._index.copy()
        copy.edits = 0
        return copy

    def copy_from(self, other: Headers, names: Collection[str]) -> None:
        """Put the other's headers of these names at the end, in the order of ``names``, byte for byte."""
        places, entries = other._places(), other._entries
        for name in names:
            key = _KEYS.get(name) or _key(name)
            place = places.get(key)
            if place is None:
                continue
            self._entries.append(entries[place])
            if key not in _SINGLE:
                self._entries.extend(entry for entry in entries[place + 1 :] if entry[0] == key)
        self._changed()

    def lines(self) -> tuple[list[str], list[str]]:
        """Return what to print of each header, and of these lines the ones that we made and that must be checked."""
        lines: list[str] = []
        made: list[str] = []
        for _, name, value, raw in self._entries:
            if raw is None:
                raw = f"{name}: {value}"
                made.append(raw)
            lines.append(raw)
        return lines, made

    def place(self, name: str) -> int | None:
        """Return the place of the first header of that name."""
        return self._places().get(_key(name))

    def __iter__(self) -> Iterator[Header]:
        for _, name, value, raw in self._entries:
            yield Header(name, value, None if raw is None else raw.encode("utf-8", "surrogateescape"))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _key(name) in self._places()

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return [entry[1:3] for entry in self._entries] == [entry[1:3] for entry in other._entries]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Headers({list(self)!r})"

    def _add(self, entry: _Entry) -> None:
        if self._index is not None:
            self._index.setdefault(entry[0], len(self._entries))
        self._entries.append(entry)
        self.edits += 1

    def _changed(self) -> None:
        self._index = None
        self.edits += 1

    def _places(self) -> dict[str, int]:
        index = self._index
        if index is None:
            index = self._index = {}
            for place, entry in enumerate(self._entries):
                index.setdefault(entry[0], place)
        return index

    @classmethod
    def _of(cls, entries: list[_Entry], index: dict[str, int] | None = None) -> Headers:
        headers = cls.__new__(cls)
        headers._entries, headers._index, headers.edits = entries, index, 0
        return headers


def _entry_of(header: Header) -> _Entry:
    raw = None if header.raw is None else header.raw.decode("utf-8", "surrogateescape")
    return _key(header.name), header.name, header.value, raw


class Message:
    """What requests and responses share. The typed properties raise PeerError 400 where the header is malformed."""

    __slots__ = ("_edits", "_typed", "body", "headers")

    def __init__(self, headers: Headers, body: bytes = b"") -> None:
        self.headers = headers
        self.body = body
        self._typed: dict[str, Any] = {}
        self._edits = headers.edits

    @property
    def call_id(self) -> str:
        return self._value("Call-ID", str)

    @property
    def cseq(self) -> CSeq:
        return self._value("CSeq", CSeq.parse)

    @property
    def from_(self) -> NameAddr:
        return self._value("From", NameAddr.parse)

    @property
    def to(self) -> NameAddr:
        return self._value("To", NameAddr.parse)

    @property
    def via(self) -> Via:
        """The topmost Via value."""
        return self._value("Via", _top_via)

    @property
    def contact(self) -> NameAddr | None:
        """The first Contact address; None without one, and for the ``*`` of a REGISTER."""
        value = self.headers.get("Contact")
        if value is None or value == "*":
            return None
        return self._value("Contact", _first_address)

    def stamp_via(self, via: Via) -> None:
        """Put a changed value in the topmost Via's place; further values in the same header stay."""
        values = split_list(self.headers.get("Via") or "")
        self.headers.replace_first("Via", ", ".join([str(via), *values[1:]]))
        self._edits = self.headers.edits  # nothing else that is typed has changed
        self._typed["Via"] = via

    def encode(self) -> bytes:
        """Print the message with a right Content-Length.

        Raises ValueError for CR, LF or NUL in anything that we made ourselves (T13).
        """
        headers, body = self.headers, self.body
        lines, made = headers.lines()
        length = headers.get("Content-Length")
        if length is None:
            lines.append(f"Content-Length: {len(body)}")
        elif length != str(len(body)) and not (length.isascii() and length.isdigit() and int(length) == len(body)):
            lines[cast(int, headers.place("Content-Length"))] = f"Content-Length: {len(body)}"
        start = self.start_line()
        made.append(start)
        if _UNPRINTABLE.search("".join(made)):
            raise ValueError("CR, LF or NUL within a SIP header")
        lines.insert(0, start)
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body

    def start_line(self) -> str:
        """Return the first line, without CRLF."""
        raise NotImplementedError

    def validate(self) -> None:
        """Parse every header that the core goes by. Raises PeerError 400."""
        if not self.call_id or " " in self.call_id:
            raise PeerError(400, "Malformed Call-ID")
        _ = self.cseq, self.via, self.from_, self.to, self.contact

    def _value(self, name: str, parse: Callable[[str], _T]) -> _T:
        if self._edits != self.headers.edits:
            self._typed.clear()
            self._edits = self.headers.edits
        found: _T | None = self._typed.get(name)
        if found is None:
            value = self.headers.get(name)
            if value is None:
                raise PeerError(400, f"Missing {name}")
            found = self._typed[name] = parse(value)
        return found


class Request(Message):
    """A SIP request. ``uri`` is the Request-URI as it is written on the wire."""

    __slots__ = ("method", "uri")

    def __init__(self, method: str, uri: str, headers: Headers, body: bytes = b"") -> None:
        super().__init__(headers, body)
        self.method = method
        self.uri = uri

    def start_line(self) -> str:
        return f"{self.method} {self.uri} SIP/2.0"

    def copy(self) -> Request:
        """Return a request whose headers can be changed apart from this one's."""
        return Request(self.method, self.uri, self.headers.copy(), self.body)

    def validate(self) -> None:
        """Parse every header that the core goes by, and the Request-URI. Raises PeerError 400 or 416."""
        super().validate()
        uri = Uri.parse(self.uri)
        if uri.headers is not None:  # RFC 3261 §19.1.1 table 1: never in a Request-URI
            raise PeerError(400, "Headers in Request-URI")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Request):
            return NotImplemented
        ours = (self.method, self.uri, self.headers, self.body)
        return ours == (other.method, other.uri, other.headers, other.body)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Request {self.start_line()!r}>"


class Response(Message):
    """A SIP response."""

    __slots__ = ("reason", "status")

    def __init__(self, status: int, reason: str, headers: Headers, body: bytes = b"") -> None:
        super().__init__(headers, body)
        self.status = status
        self.reason = reason

    def start_line(self) -> str:
        return f"SIP/2.0 {self.status} {self.reason}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Response):
            return NotImplemented
        ours = (self.status, self.reason, self.headers, self.body)
        return ours == (other.status, other.reason, other.headers, other.body)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Response {self.start_line()!r}>"


def parse(data: bytes) -> Request | Response:
    """Parse one datagram (RFC 3261 §18.3: Content-Length governs, octets past it are dropped). Raises Malformed."""
    if data[:2] == b"\r\n":  # RFC 3261 §7.5: empty lines before the start line
        data = data.lstrip(b"\r\n")
    head, end, body = data.partition(b"\r\n\r\n")
    if len(head) > HEADER_LIMIT or len(data) > MESSAGE_LIMIT:
        raise Malformed(513, "Message Too Large", None)
    text = head.decode("utf-8", "surrogateescape")
    folded = "\r\n " in text or "\r\n\t" in text
    lines = _LOGICAL_LINE.split(text) if folded else text.split("\r\n")
    # T13: a CR or LF by itself would end a line for some reader, so it isn't even sent back. RFC 3261 §25.1: a NUL
    # stands in a quoted-pair or nowhere.
    if head.count(b"\r") != (line_ends := head.count(b"\r\n")) or head.count(b"\n") != line_ends:
        raise Malformed(400, "Bare CR or LF", None)
    if b"\0" in head and (_BARE_NUL.search(head) or "\0" in lines[0]):
        raise Malformed(400, "Bare NUL", None)
    problem = None if end else PeerError(400, "Incomplete Header")
    entries, index, fault = _read_headers(lines, folded)
    problem = problem or fault
    start = lines[0]
    if start[:4].upper() == "SIP/":
        return _response(start, entries, index, body, problem)
    return _request(start, entries, index, body, problem)


def _read_headers(lines: list[str], folded: bool) -> tuple[list[_Entry], dict[str, int], PeerError | None]:
    """Read the header lines; what is no header is left out and reported as the fault."""
    entries: list[_Entry] = []
    index: dict[str, int] = {}
    fault: PeerError | None = None
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        key = _KEYS.get(name)
        if key is None:
            name = name.rstrip(" \t")  # RFC 3261 §25.1 HCOLON
            if not colon or not _NAME.fullmatch(name):
                fault = PeerError(400, "Malformed Header")
                continue
            key = _key(name)
        value = value.strip(" \t")
        if folded and "\r\n" in value:
            value = _FOLD.sub(" ", value).strip(" \t")
        if "\0" in value:  # stays in the raw line only: what we make of the value must not carry it (T13)
            value = value.replace("\\\0", "")
        if key not in index:
            index[key] = len(entries)
        elif key in _SINGLE:
            fault = PeerError(400, f"Repeated {name}")
        entries.append((key, name, value, line))
    return entries, index, fault


def _request(
    start: str, entries: list[_Entry], index: dict[str, int], body: bytes, problem: PeerError | None
) -> Request:
    method, _, rest = start.partition(" ")
    uri, _, version = rest.rpartition(" ")
    request = Request(method, uri, Headers._of(entries, index), body)
    if version != "SIP/2.0" and version.upper() != "SIP/2.0":
        if problem is None and _VERSION.fullmatch(version):
            problem = PeerError(505, "Version Not Supported")
        else:
            problem = problem or PeerError(400, "Malformed Request-Line")
    if not uri or " " in uri or "\t" in uri or not _METHOD.fullmatch(method):
        problem = problem or PeerError(400, "Malformed Request-Line")
    if problem is None:
        try:
            _check_frame(request, index)
            if request.cseq.method != method:
                raise PeerError(400, "CSeq Method Mismatch")
            return request
        except PeerError as error:
            problem = error
    raise Malformed(problem.status, problem.reason, request if _can_be_answered(request) else None)


def _response(
    start: str, entries: list[_Entry], index: dict[str, int], body: bytes, problem: PeerError | None
) -> Response:
    status, _, reason = start[8:].partition(" ")
    if start[:8].upper() != "SIP/2.0 " or not (len(status) == 3 and status.isascii() and status.isdigit()):
        problem = PeerError(400, "Malformed Status-Line")
    elif not 100 <= int(status) <= 699:
        problem = PeerError(400, "Unknown Status")
    if problem is None:
        response = Response(int(status), reason, Headers._of(entries, index), body)
        try:
            _check_frame(response, index)
            _ = response.cseq
            return response
        except PeerError as error:
            problem = error
    raise Malformed(problem.status, problem.reason, None)


def _check_frame(message: Message, index: dict[str, int]) -> None:
    """See that the mandatory headers are there, and cut the body to its length. Raises PeerError 400."""
    for key in _MANDATORY:
        if key not in index:
            raise PeerError(400, f"Missing {key.title()}")
    length = message.headers.get("content-length")
    if length is not None:
        # T14: digits only, few of them, and not what int() takes besides ("+5", "1_0", other scripts' digits)
        if not (0 < len(length) <= 7 and length.isascii() and length.isdigit()):
            raise PeerError(400, "Malformed Content-Length")
        wanted = int(length)
        if wanted > len(message.body):
            raise PeerError(400, "Incomplete Body")
        if wanted < len(message.body):
            message.body = message.body[:wanted]


def _can_be_answered(request: Request) -> bool:
    """Tell whether a response to a malformed request can be made and has a way back."""
    if request.method == "ACK" or not _METHOD.fullmatch(request.method):
        return False
    values = [request.headers.get(key) for key in _MANDATORY]
    return all(values) and _ANSWERABLE_VIA.match(values[0] or "") is not None


def response_to(request: Request, status: int, reason: str | None = None, to_tag: str | None = None) -> Response:
    """Make a response to a request (RFC 3261 §8.2.6); ``to_tag`` is added unless the To has one or it is a 100."""
    names = ["via"]
    if 100 < status < 300 and request.method in _DIALOG_CREATING:  # RFC 3261 §12.1.1
        names.append("record-route")
    names += ("from", "to", "call-id", "cseq")
    if status == 100:  # RFC 3261 §8.2.6.1
        names.append("timestamp")
    headers = Headers()
    headers.copy_from(request.headers, names)
    if to_tag is not None and status != 100:
        value = request.headers.get("to") or ""
        if not _has_tag(value):
            headers.extend_first("to", f";tag={to_tag}")
    return Response(status, REASONS.get(status, "Unknown") if reason is None else reason, headers)


def content_type_is_sdp(message: Message) -> bool:
    """Tell whether the body is SDP: by its Content-Type or, where that is missing, by its look (D19)."""
    content_type = message.headers.get("Content-Type")
    if not content_type:
        return message.body.startswith(b"v=0")
    return content_type.partition(";")[0].strip(" \t").lower() == "application/sdp"


def _has_tag(value: str) -> bool:
    try:
        return NameAddr.parse(value).tag is not None
    except PeerError:  # the To of a malformed request goes back as it came
        return True


def _top_via(value: str) -> Via:
    return Via.parse(split_list(value)[0] if "," in value else value)


def _first_address(value: str) -> NameAddr:
    return NameAddr.parse(split_list(value)[0] if "," in value else value)
