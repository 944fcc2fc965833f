"""An endpoint on a virtual clock: what it sends and reports is noted with the time at which it did so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from bridge.sip.endpoint import Endpoint
from bridge.sip.events import EndpointEvent, Flow, Transmit
from bridge.sip.message import Headers, Request, Response, parse
from bridge.sip.timers import TimerValues

OURS = ("192.0.2.1", 5060)
PEER = ("198.51.100.7", 5070)
UDP = Flow("udp", OURS, PEER)
TCP = Flow("tcp", OURS, PEER, 1)

_E = TypeVar("_E", bound=EndpointEvent)


class CountingTokens:
    """Give tokens that are as long as asked for and never repeat."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def token(self, bits: int) -> str:
        self.asked.append(bits)
        return f"{len(self.asked):0{bits // 4}x}"


class Bench:
    """Drive one endpoint from deadline to deadline."""

    def __init__(
        self,
        flow: Flow = UDP,
        belongs: Callable[[object, Flow], bool] = lambda owner, flow: True,
        stream_to: Callable[[Flow], Flow | None] = lambda flow: None,
    ) -> None:
        self.tokens = CountingTokens()
        self.endpoint = Endpoint(self.tokens, lambda flow: flow.local, TimerValues(), belongs, stream_to)
        self.flow = flow
        self.now = 0.0
        self.sent: list[tuple[float, Transmit]] = []
        self.events: list[tuple[float, EndpointEvent]] = []

    def drain(self) -> None:
        while (event := self.endpoint.poll_event()) is not None:
            self.events.append((self.now, event))
        while (transmit := self.endpoint.poll_transmit()) is not None:
            self.sent.append((self.now, transmit))

    def run(self, until: float) -> None:
        """Jump from deadline to deadline up to a time; too many jumps are a livelock."""
        self.drain()
        jumps = 0
        while (at := self.endpoint.next_timeout()) is not None and at <= until:
            jumps += 1
            assert jumps < 10_000, "livelock"
            self.now = max(self.now, at)
            self.endpoint.handle_timeout(self.now)
            self.drain()
        self.now = until

    def receive(self, data: bytes | str | Request | Response, flow: Flow | None = None) -> Request | Response | None:
        if isinstance(data, (Request, Response)):
            data = data.encode()
        elif isinstance(data, str):
            data = wire(data)
        message = self.endpoint.receive(data, flow or self.flow, self.now)
        self.drain()
        return message

    def times(self, method: str, status: int = 0) -> list[float]:
        """Return when each message of that method and status was sent."""
        return [at for at, sent in self.sent if (sent.method, sent.status) == (method, status)]

    def messages(self, method: str, status: int = 0) -> list[Request | Response]:
        return [parse(sent.data) for _, sent in self.sent if (sent.method, sent.status) == (method, status)]

    def of(self, kind: type[_E]) -> Iterator[_E]:
        return (event for _, event in self.events if isinstance(event, kind))

    def one(self, kind: type[_E]) -> _E:
        (event,) = self.of(kind)
        return event

    def when(self, kind: type[EndpointEvent]) -> list[float]:
        return [at for at, event in self.events if isinstance(event, kind)]

    def idle(self) -> bool:
        """Whether nothing at all is held in memory."""
        return not any(self.endpoint.counts().values())


def wire(text: str) -> bytes:
    """Turn a readable message into octets with CRLF; a missing blank line at the end is added."""
    head, blank, body = text.lstrip("\n").partition("\n\n")
    lines = [line.rstrip() for line in head.strip("\n").split("\n")]
    return "\r\n".join([*lines, "", body.replace("\n", "\r\n") if blank else ""]).encode("utf-8", "surrogateescape")


def outgoing(method: str = "INVITE", call_id: str = "c1", number: int = 1, to_tag: str | None = None) -> Request:
    """Return a request such as a leg would make."""
    headers = Headers()
    headers.add("Max-Forwards", "70")
    headers.add("Route", "<sip:edge.example.com;lr>")
    headers.add("From", "<sip:+14155550199@192.0.2.1>;tag=ours")
    headers.add("To", "<sip:agent@198.51.100.7>" + (f";tag={to_tag}" if to_tag else ""))
    headers.add("Call-ID", call_id)
    headers.add("CSeq", f"{number} {method}")
    headers.add("Contact", "<sip:trunkbridge@192.0.2.1:5060>")
    return Request(method, "sip:agent@198.51.100.7:5070", headers)


def incoming(
    method: str = "INVITE",
    branch: str = "z9hG4bKpeer",
    call_id: str = "p1",
    number: int = 7,
    to_tag: str | None = None,
    from_tag: str = "theirs",
    via: str | None = None,
    extra: str = "",
) -> bytes:
    """Return a request of the peer's."""
    to = "<sip:+14155550100@192.0.2.1>" + (f";tag={to_tag}" if to_tag else "")
    via = via or f"SIP/2.0/UDP 198.51.100.7:5070;branch={branch};rport"
    return wire(
        f"""
{method} sip:+14155550100@192.0.2.1 SIP/2.0
Via: {via}
Max-Forwards: 70
From: <sip:+14155550199@198.51.100.7>;tag={from_tag}
To: {to}
Call-ID: {call_id}
CSeq: {number} {method}
Contact: <sip:caller@198.51.100.7:5070>
{extra}Content-Length: 0
"""
    )


def answer(request: Request, status: int, reason: str = "", to_tag: str | None = "callee") -> Response:
    """Return the peer's response to a request of ours."""
    headers = Headers()
    headers.copy_from(request.headers, ("Via", "From", "To", "Call-ID", "CSeq"))
    if to_tag is not None and status > 100 and request.to.tag is None:
        headers.extend_first("To", f";tag={to_tag}")
    if 200 <= status < 300:
        headers.add("Contact", "<sip:agent@198.51.100.7:5070>")
    return Response(status, reason or "Whatever", headers)
