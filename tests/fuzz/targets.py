"""What must hold for any octets: each target takes some, and raises for what it may not do (T11, T12, T13, T14).

A target raises nothing but AssertionError of its own; whatever else escapes is the fault that is looked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from bridge.errors import PeerError
from bridge.sdp import session as sdp
from bridge.sip import extensions
from bridge.sip.digest import Challenge, DigestServer
from bridge.sip.events import CancelReceived, PrackMissing, RequestReceived, ResponseReceived
from bridge.sip.framing import Framed, Framer, FramingError
from bridge.sip.framing import Message as Framed_Message
from bridge.sip.headers import CSeq, NameAddr, Reason, Via, parse_route_set, quote
from bridge.sip.message import Header, Headers, Malformed, Request, Response, parse, response_to
from bridge.sip.uri import Uri, escape_user
from tests.sip.bench import TCP, UDP, Bench, CountingTokens, answer, incoming, outgoing, wire

SEPARATOR = b"\n%%\n"
"""Parts the datagrams, or the pieces of a stream, within one input."""


class Dice:
    """Decisions out of the input itself, so that a fuzzer can steer them."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def byte(self) -> int:
        if self._place >= len(self._data):
            return 0
        self._place += 1
        return self._data[self._place - 1]

    def text(self) -> str:
        length = self.byte() % 24
        taken = self._data[self._place : self._place + length]
        self._place += length
        return taken.decode("utf-8", "surrogateescape")


# -- messages ----------------------------------------------------------------------------------------------------------


def message(data: bytes) -> None:
    """A datagram gives a message that prints and reads the same, or the peer's error (R16, T11)."""
    try:
        read = parse(data)
    except Malformed as error:
        _expect(error, 400, 505, 513)
        if error.request is not None:
            response_to(error.request, error.status, error.reason, "tag").encode()
        return
    assert len(read.body) <= len(data)
    for header in read.headers:
        assert not set(header.name + header.value) & set("\r\n\0")
    if "Content-Length" not in read.headers:  # UDP alone takes that; what we print has one
        read.headers.add("Content-Length", str(len(read.body)))
    printed = read.encode()
    again = parse(printed)
    assert again == read
    assert again.encode() == printed
    try:
        read.validate()
    except PeerError as error:
        _expect(error, 400, 416)
    else:
        if isinstance(read, Request):
            parse(response_to(read, 486, to_tag="tag").encode())
    if isinstance(read, Request):
        for reader in (extensions.refer_to, extensions.referred_by, extensions.replaces, extensions.reasons):
            _read(reader, read)
        _read(lambda request: DigestServer("b", CountingTokens(), b"s").verify(request, lambda user: "p", 0.0), read)


_VALUES: tuple[Callable[[str], object], ...] = (
    Uri.parse,
    NameAddr.parse,
    Via.parse,
    CSeq.parse,
    Reason.parse,
    extensions.RAck.parse,
    extensions.SessionExpires.parse,
    extensions.Replaces.parse,
    extensions.Event.parse,
    extensions.SubscriptionState.parse,
    Challenge.parse,
    extensions.parse_delta,
    extensions.parse_rseq,
    lambda text: parse_route_set([text]),
    lambda text: extensions.parse_sipfrag(text.encode("utf-8", "surrogateescape")),
)


def value(data: bytes) -> None:
    """A header value is read, and reads the same when printed, or is the peer's error."""
    text = data.decode("utf-8", "surrogateescape")
    for reader in _VALUES:
        found = _read(reader, text)
        if isinstance(found, PeerError):
            _expect(found, 400, 416)
        elif not isinstance(found, (tuple, int, Challenge)) and found is not None:
            assert reader(str(found)) == found, (text, found)
        if isinstance(found, Uri):
            embedded = _read(extensions.embedded_headers, found)
            if isinstance(embedded, tuple):
                for header in embedded:
                    assert not set(header.name + header.value) & set("\r\n\0")


def _expect(error: PeerError, *statuses: int) -> None:
    """A fault has a status of its own, and nothing of the peer's octets in its reason."""
    assert error.status in statuses, error
    assert error.reason.isascii()
    assert error.reason.isprintable()


def _read(reader: Callable[..., object], given: object) -> object:
    try:
        return reader(given)
    except PeerError as error:
        return error


# -- streams -----------------------------------------------------------------------------------------------------------


def stream(data: bytes) -> None:
    """However a stream is dealt out, the same messages come of it, and no head that broke it is served (T14)."""
    pieces = data.split(SEPARATOR)
    whole, whole_error = _framed([b"".join(pieces)])
    dealt, dealt_error = _framed(pieces)
    assert _messages(whole) == _messages(dealt)
    assert (whole_error is None) == (dealt_error is None)
    bench = Bench(TCP)
    for each in _messages(whole):
        bench.receive(each)
    if whole_error is not None:
        assert bench.receive(whole_error.head) is None


def _framed(pieces: Sequence[bytes]) -> tuple[list[Framed], FramingError | None]:
    framer, framed = Framer(), []
    for piece in pieces:
        try:
            framed += framer.feed(piece)
        except FramingError as error:
            return [*framed, *error.framed], error
    return framed, None


def _messages(framed: Sequence[Framed]) -> list[bytes]:
    return [each.data for each in framed if isinstance(each, Framed_Message)]


# -- the endpoint ------------------------------------------------------------------------------------------------------


def endpoint(data: bytes) -> None:
    """Datagrams in any order, answered by a user in any way, leave nothing behind but what was sent (T11, T19)."""
    choices, *datagrams = data.split(SEPARATOR)
    dice = Dice(choices)
    flow = TCP if dice.byte() % 2 else UDP
    bench = Bench(flow, stream_to=lambda flow: TCP if dice.byte() % 2 else None)
    if dice.byte() % 2:
        bench.endpoint.send_request(outgoing("INVITE" if dice.byte() % 2 else "BYE"), flow, 0.0)
    served = 0
    for datagram in datagrams:
        bench.receive(datagram)
        _step(bench, dice)
        served = _serve(bench, dice, served)
    bench.run(bench.now + 100.0)
    for server in list(bench.endpoint._servers.values()):
        if server.is_invite:
            bench.endpoint.respond(server, response_to(server.request, 486, to_tag="ours"), bench.now)
    for client in list(bench.endpoint._clients.values()):  # what rings has no deadline but the user's
        bench.endpoint.cancel(client, bench.now)
    bench.run(bench.now + 100.0)
    assert bench.idle(), bench.endpoint.counts()
    assert not any((bench.endpoint._servers, bench.endpoint._first_of, bench.endpoint._accepted))
    assert not any((bench.endpoint._clients, bench.endpoint._answered, bench.endpoint._reliable))
    for _, sent in bench.sent:
        head = sent.data.partition(b"\r\n\r\n")[0]
        assert head.count(b"\n") == head.count(b"\r") == head.count(b"\r\n")


def _step(bench: Bench, dice: Dice) -> None:
    match dice.byte() % 8:
        case 0:
            bench.run(bench.now + dice.byte() / 4)
        case 1:
            bench.endpoint.flow_lost(bench.flow, bench.now)
        case 2:
            bench.endpoint.transport_failed(bench.flow, bench.now)
        case 3:
            for client in list(bench.endpoint._clients.values()):
                bench.receive(answer(client.request, 100 + dice.byte() * 2))
        case 4:
            reasons = (quote(dice.text()),) if dice.byte() % 2 == 0 else ()
            for client in list(bench.endpoint._clients.values()):
                with contextlib.suppress(ValueError):
                    bench.endpoint.cancel(client, bench.now, reasons)
    bench.drain()


def _serve(bench: Bench, dice: Dice, served: int) -> int:
    for _, event in bench.events[served:]:
        match event:
            case RequestReceived() if event.request.method == "PRACK":
                try:
                    known = bench.endpoint.provisional_acknowledged(event.request, bench.now)
                except PeerError:
                    known = False
                bench.endpoint.respond(event.transaction, response_to(event.request, 200 if known else 481), bench.now)
            case RequestReceived():
                _answer(bench, dice, event)
            case CancelReceived() | PrackMissing():
                response = response_to(event.transaction.request, 487, to_tag="ours")
                bench.endpoint.respond(event.transaction, response, bench.now)
            case ResponseReceived() if event.transaction.is_invite and event.response.status // 100 == 2:
                bench.endpoint.send_ack(outgoing("ACK", to_tag=event.response.to.tag), bench.flow)
    served = len(bench.events)
    bench.drain()
    return served


def _answer(bench: Bench, dice: Dice, event: RequestReceived) -> None:
    for _ in range(dice.byte() % 4):
        status = (100, 180, 183, 200, 202, 302, 408, 486, 503, 600)[dice.byte() % 10]
        response = response_to(event.request, status, to_tag="ours")
        response.body = b"v=0" if dice.byte() % 2 else b""
        if 100 < status < 200 and event.transaction.is_invite and dice.byte() % 2:
            bench.endpoint.respond_reliably(event.transaction, response, bench.now)
        else:
            bench.endpoint.respond(event.transaction, response, bench.now)


# -- what we write -----------------------------------------------------------------------------------------------------


def injection(data: bytes) -> None:
    """No text in any field that we serialise makes a header line of its own (T13)."""
    dice = Dice(data)
    which, text, other = dice.byte(), dice.text(), dice.text()
    request = Request("INVITE", "sip:a@b", Headers([Header("X-First", "1")]), b"body")
    response = Response(200, "OK", Headers([Header("X-First", "1")]), b"body")
    written: Request | Response = request
    lines = 2  # beside the start line and Content-Length
    try:
        match which % 16:
            case 0:
                request.headers.add("X-Name", text)
            case 1:
                request.headers.add(f"X{text}", other)
            case 2:
                request.headers.prepend("Reason", str(Reason("SIP", 200, text)))
            case 3:
                request.headers.append(Header("From", str(NameAddr(text, Uri.parse("sip:a@b"), (("tag", other),)))))
            case 4:
                request.headers.add("To", f"<sip:{escape_user(text)}@b>")
            case 5:
                request.headers.add("To", str(NameAddr("", Uri("sip", text, other, "b", None, (("x", text),), other))))
            case 6:
                request.headers.add("Via", str(Via("SIP/2.0", text, other, 5060, (("branch", text),))))
            case 7:
                request.uri, lines = f"sip:{text}@b", 1
            case 8:
                request.method, lines = text, 1
            case 9:
                written, lines = response, 1
                response.reason = text
            case 10:
                request.headers.set("X-First", text)
                lines = 1
            case 11:
                request.headers.replace_first("X-First", text)
                lines = 1
            case 12:
                request.headers.extend_first("X-First", text)
                lines = 1
            case 13:
                request.headers.add("Replaces", str(extensions.Replaces(text, other, text)))
            case 14:
                request.headers.add("Refer-To", f"<sip:a@b?{extensions.embed_headers([Header(text, other)])}>")
            case 15:
                event = extensions.SubscriptionState(text, 60, other)
                request.headers.add("Subscription-State", str(event))
                request.headers.set("Event", str(extensions.Event(text, other)))
                lines = 3
        octets = written.encode()
    except (ValueError, UnicodeEncodeError):
        return
    head, _, body = octets.partition(b"\r\n\r\n")
    assert body == b"body", octets
    assert head.count(b"\r\n") == head.count(b"\r") == head.count(b"\n") == lines + 1, octets
    assert b"\0" not in head


def description(data: bytes) -> None:
    """A body is read, every typed fact of it too, and prints as it was; or it is 488 (T12)."""
    try:
        read = sdp.parse(data)
    except PeerError as error:
        _expect(error, 488)
        return
    assert sdp.parse(read.encode()) == read
    for section in read.media:
        assert section.codecs is not None
        assert section.direction in sdp.DIRECTIONS
        assert section.ptime_ms is None or 0 < section.ptime_ms <= 200
        _ = section.rtcp, section.rtcp_mux, section.connection
    _ = read.origin


TARGETS: dict[str, Callable[[bytes], None]] = {
    "message": message,
    "value": value,
    "stream": stream,
    "endpoint": endpoint,
    "injection": injection,
    "description": description,
}

_INVITE = incoming(extra="Supported: 100rel\nRecord-Route: <sip:p;lr>\n")
_SDP = wire("v=0\no=- 1 1 IN IP4 192.0.2.1\ns=-\nc=IN IP4 192.0.2.1\nt=0 0\nm=audio 5004 RTP/AVP 0 101\na=sendrecv\n\n")
_REFER = incoming(
    "REFER",
    to_tag="ours",
    extra="Refer-To: <sip:c@d?Replaces=1%3Bto-tag%3D2%3Bfrom-tag%3D3>\nReferred-By: <sip:a@b>\nReason: Q.850;cause=16\n"
    'Authorization: Digest username="a", realm="b", nonce="c", uri="sip:+14155550100@192.0.2.1", response="d", '
    'algorithm=MD5, qop=auth, cnonce="e", nc=00000001\n',
)
_OK = answer(outgoing(), 200)
_OK.headers.add("Via", "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK000000000000000000000001;rport")

SEEDS: dict[str, tuple[bytes, ...]] = {
    "message": (_INVITE, _REFER, _OK.encode(), incoming("REGISTER", via="SIP/2.0/UDP [2001:db8::1];received=1.2.3.4")),
    "value": tuple(
        text.encode()
        for text in (
            "sip:a%41:b@[2001:db8::1]:5060;transport=tcp;lr?Subject=x%0D&Y=z",
            '"A, \\"B\\"" <sip:a@b;x=y>;tag=1;q=0.5',
            "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport=1;received=1.2.3.4",
            "7 INVITE",
            "1 7 INVITE",
            'Q.850;cause=16;text="x"',
            "90;refresher=uac",
            "c@d;to-tag=1;from-tag=2;early-only",
            "terminated;reason=noresource;expires=1",
            'Digest realm="a", nonce="b", algorithm=SHA-256, qop="auth,auth-int", stale=true',
            "SIP/2.0 200 OK",
            "<sip:a;lr>, <sip:b>",
        )
    ),
    "stream": (
        _INVITE + SEPARATOR + b"\r\n\r\n" + SEPARATOR + _REFER,
        _INVITE.replace(b"Content-Length: 0", b"l: 4") + SEPARATOR + b"body" + _INVITE,
    ),
    "endpoint": (
        SEPARATOR.join(
            [
                bytes([0, 1, 1, 5, 3, 2, 1, 1, 3, 0]),
                _INVITE,
                incoming("PRACK", to_tag="ours", number=8, extra="RAck: 2 7 INVITE\n", branch="z9hG4bKp"),
                incoming("ACK", to_tag="ours"),
            ]
        ),
        SEPARATOR.join([bytes([1, 1, 0, 3, 40, 5, 2, 1, 7]), incoming("CANCEL"), _INVITE, incoming("CANCEL")]),
        SEPARATOR.join([bytes([0, 1, 1, 5, 5]), _OK.encode(), _OK.encode(), incoming("BYE", to_tag="ours")]),
    ),
    "injection": tuple(bytes([which, 6]) + b"a\r\nX: b" + b"\3c\0d" for which in range(16)),
    "description": (_SDP[:-2],),
}
