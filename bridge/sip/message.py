"""SIP messages: ordered header fields kept byte for byte, a start line, a body (RFC 3261 §7).

Text is UTF-8 with surrogateescape, so every octet that arrives can leave again. Header values are typed on demand only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar, cast

from bridge.errors import PeerError
from bridge.sip.fields import UNPRINTABLE, Header, Headers, read_headers
from bridge.sip.headers import TOKEN, CSeq, NameAddr, Via, split_list
from bridge.sip.uri import Uri

__all__ = [
    "HEADER_LIMIT",
    "MESSAGE_LIMIT",
    "REASONS",
    "Header",
    "Headers",
    "Malformed",
    "Message",
    "Request",
    "Response",
    "content_type_is_sdp",
    "parse",
    "response_to",
]

HEADER_LIMIT = 64 * 1024  # octets; T15
MESSAGE_LIMIT = 256 * 1024

_T = TypeVar("_T")

_MANDATORY = ("via", "from", "to", "call-id", "cseq")  # RFC 3261 §8.1.1; Max-Forwards: RFC 2543 peers send none
_DIALOG_CREATING = frozenset(("INVITE", "SUBSCRIBE", "REFER", "NOTIFY"))

# Where a Contact that can't be read is no reason to lose the message, it is not looked at.
_CONTACT_MATTERS = frozenset(("INVITE", "UPDATE", "SUBSCRIBE", "REFER", "NOTIFY", "REGISTER"))

_CALL_ID = re.compile(r"[^\x00-\x20\x7f]+")
_METHOD = re.compile(TOKEN)
_VERSION = re.compile(r"SIP/[0-9]+\.[0-9]+", re.IGNORECASE)
_ANSWERABLE_VIA = re.compile(rf"SIP[ \t]*/[ \t]*[0-9.]+[ \t]*/[ \t]*{TOKEN}[ \t]+[A-Za-z0-9\[]", re.IGNORECASE)
_LOGICAL_LINE = re.compile(r"\r\n(?![ \t])")
_BARE_NUL = re.compile(rb"(?<!\\)\0")

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


class Message:
    """What requests and responses share. The typed properties raise PeerError 400 where the header is malformed."""

    __slots__ = ("body", "headers")

    def __init__(self, headers: Headers, body: bytes = b"") -> None:
        self.headers = headers
        self.body = body

    @property
    def call_id(self) -> str:
        return self.headers.typed.get("call-id") or self._read("Call-ID", str)

    @property
    def cseq(self) -> CSeq:
        return self.headers.typed.get("cseq") or self._read("CSeq", CSeq.parse)

    @property
    def from_(self) -> NameAddr:
        return self.headers.typed.get("from") or self._read("From", NameAddr.parse)

    @property
    def to(self) -> NameAddr:
        return self.headers.typed.get("to") or self._read("To", NameAddr.parse)

    @property
    def via(self) -> Via:
        """The topmost Via value."""
        return self.headers.typed.get("via") or self._read("Via", _top_via)

    @property
    def contact(self) -> NameAddr | None:
        """The first Contact address; None without one, and for the ``*`` of a REGISTER."""
        value = self.headers.get("Contact")
        if value is None or value == "*":
            return None
        return self.headers.typed.get("contact") or self._read("Contact", _first_address)

    def stamp_via(self, via: Via) -> None:
        """Put a changed value in the topmost Via's place; further values in the same header stay."""
        values = split_list(self.headers.get("Via") or "")
        self.headers.replace_first("Via", ", ".join([str(via), *values[1:]]))
        self.headers.typed["via"] = via

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
        if UNPRINTABLE.search("".join(made)):
            raise ValueError("CR, LF or NUL within a SIP header")
        lines.insert(0, start)
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body

    def start_line(self) -> str:
        """Return the first line, without CRLF."""
        raise NotImplementedError

    def validate(self) -> None:
        """Parse every header that the core goes by. Raises PeerError 400."""
        if not _CALL_ID.fullmatch(self.call_id):
            raise PeerError(400, "Malformed Call-ID")
        _ = self.cseq, self.via, self.from_, self.to

    def _read(self, name: str, parse: Callable[[str], _T]) -> _T:
        value = self.headers.get(name)
        if value is None:
            raise PeerError(400, f"Missing {name}")
        found = self.headers.typed[name.lower()] = parse(value)
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
        if self.method in _CONTACT_MATTERS:
            _ = self.contact
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

    def validate(self) -> None:
        """Parse every header that the core goes by. Raises PeerError 400."""
        super().validate()
        if self.status < 300 and self.cseq.method in _CONTACT_MATTERS:  # a 3xx may name any scheme
            _ = self.contact

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
    headers, fault = read_headers(lines[1:], folded)
    problem = problem or fault
    start = lines[0]
    if folded and "\r\n" in start:  # RFC 3261 §7.1, §7.2: a start line is one line
        problem = problem or PeerError(400, "Folded Start Line")
    if start[:4].upper() == "SIP/":
        return _response(start, headers, body, problem)
    return _request(start, headers, body, problem)


def _request(start: str, headers: Headers, body: bytes, problem: PeerError | None) -> Request:
    method, _, rest = start.partition(" ")
    uri, _, version = rest.rpartition(" ")
    request = Request(method, uri, headers, body)
    if version != "SIP/2.0" and version.upper() != "SIP/2.0":
        if problem is None and _VERSION.fullmatch(version):
            problem = PeerError(505, "Version Not Supported")
        else:
            problem = problem or PeerError(400, "Malformed Request-Line")
    if not uri or " " in uri or "\t" in uri or not _METHOD.fullmatch(method):
        problem = problem or PeerError(400, "Malformed Request-Line")
    if problem is None:
        try:
            _check_frame(request)
            if request.cseq.method != method:
                raise PeerError(400, "CSeq Method Mismatch")
            return request
        except PeerError as error:
            problem = error
    raise Malformed(problem.status, problem.reason, request if _can_be_answered(request) else None)


def _response(start: str, headers: Headers, body: bytes, problem: PeerError | None) -> Response:
    status, _, reason = start[8:].partition(" ")
    if start[:8].upper() != "SIP/2.0 " or not (len(status) == 3 and status.isascii() and status.isdigit()):
        problem = PeerError(400, "Malformed Status-Line")
    elif not 100 <= int(status) <= 699:
        problem = PeerError(400, "Unknown Status")
    if problem is None:
        response = Response(int(status), reason, headers, body)
        try:
            _check_frame(response)
            _ = response.cseq
            return response
        except PeerError as error:
            problem = error
    raise Malformed(problem.status, problem.reason, None)


def _check_frame(message: Message) -> None:
    """See that the mandatory headers are there, and cut the body to its length. Raises PeerError 400."""
    missing = message.headers.lacks(_MANDATORY)
    if missing is not None:
        raise PeerError(400, f"Missing {missing.title()}")
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
