"""A whole bridge in memory: a carrier at 127.0.0.10, two platforms at .20 and .21, and a core between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bridge.b2bua.core import Core
from bridge.b2bua.listeners import Listener
from bridge.config import Admin, Config, Host, Listen, Media, Node, NodeLimits, Peer, Route, Sip
from bridge.errors import PeerError
from bridge.profile import Profile, load_profile
from bridge.sip.events import Address
from bridge.sip.message import Request, Response, parse
from tests.harness.network import BRIDGE, SeededTokens, VirtualNetwork
from tests.harness.relay import FakeRelay

CARRIER: Address = ("127.0.0.10", 5060)
PLATFORM: Address = ("127.0.0.20", 5060)
SECOND_PLATFORM: Address = ("127.0.0.21", 5060)
NUMBER = "+14155550100"


def sdp(
    address: Address, *, formats: str = "0 8 101", direction: str = "sendrecv", extra: str = "", version: int = 1
) -> bytes:
    """Write a plain audio description."""
    host, port = address
    rtpmaps = {"0": "PCMU/8000", "8": "PCMA/8000", "18": "G729/8000", "101": "telephone-event/8000"}
    lines = [
        "v=0",
        f"o=peer 7 {version} IN IP4 {host}",
        "s=call",
        f"c=IN IP4 {host}",
        "t=0 0",
        f"m=audio {port} RTP/AVP {formats}",
        *(f"a=rtpmap:{number} {rtpmaps[number]}" for number in formats.split() if number in rtpmaps),
        "a=ptime:20",
        f"a={direction}",
    ]
    return ("\r\n".join(lines) + "\r\n" + extra).encode()


class Party:
    """A scripted SIP peer: it keeps what arrives with its time and sends what a test writes."""

    def __init__(self, network: VirtualNetwork, address: Address) -> None:
        self.network = network
        self.address = address
        self.inbox: list[tuple[float, Request | Response]] = []
        self.raw: list[bytes] = []
        self.react: Callable[[Request | Response], None] | None = None
        self._tokens = SeededTokens(hash(address) & 0xFFFF)
        network.attach(address, self._deliver)

    # -- what came ---------------------------------------------------------------------------------------------------

    def _deliver(self, data: bytes, _source: Address) -> None:
        self.raw.append(data)
        try:
            message = parse(data)
        except PeerError:  # an echo of what the test itself malformed
            return
        self.inbox.append((self.network.now, message))
        if self.react is not None:
            self.react(message)

    def requests(self, method: str) -> list[Request]:
        return [m for _, m in self.inbox if isinstance(m, Request) and m.method == method]

    def responses(self, method: str = "INVITE") -> list[Response]:
        return [m for _, m in self.inbox if isinstance(m, Response) and m.cseq.method == method]

    def statuses(self, method: str = "INVITE") -> list[int]:
        return [response.status for response in self.responses(method)]

    def times(self, method: str, status: int = 0) -> list[float]:
        """Return when requests of a method (status 0) or its responses came."""
        return [
            at
            for at, m in self.inbox
            if (m.status if isinstance(m, Response) else 0) == status and m.cseq.method == method
        ]

    # -- what it sends -----------------------------------------------------------------------------------------------

    def send(self, message: Request | Response | bytes) -> None:
        self.network.send(message if isinstance(message, bytes) else message.encode(), self.address)

    def invite(
        self,
        number: str = NUMBER,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        caller: str = "+14155550999",
        max_forwards: str | None = "70",
        call_id: str | None = None,
    ) -> Request:
        """Send an INVITE to the bridge and return it."""
        host, port = self.address
        body = sdp((host, 40000)) if body is None else body
        lines = [
            f"INVITE sip:{number}@{BRIDGE[0]}:{BRIDGE[1]} SIP/2.0",
            f"Via: SIP/2.0/UDP {host}:{port};rport;branch={self.branch()}",
            f'From: "Caller" <sip:{caller}@{host}>;tag={self._tokens.token(32)}',
            f"To: <sip:{number}@{BRIDGE[0]}>",
            f"Call-ID: {call_id or self._tokens.token(64)}",
            "CSeq: 1 INVITE",
            f"Contact: <sip:peer@{host}:{port}>",
            *([f"Max-Forwards: {max_forwards}"] if max_forwards is not None else []),
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
            *(["Content-Type: application/sdp"] if body else []),
            f"Content-Length: {len(body)}",
        ]
        data = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        self.send(data)
        request = parse(data)
        assert isinstance(request, Request)
        return request

    def branch(self) -> str:
        return "z9hG4bK" + self._tokens.token(64)

    def within(
        self,
        method: str,
        invite: Request,
        response: Response,
        cseq: int,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Request:
        """Send a request within the dialog that our ``invite`` and the bridge's ``response`` made, and return it."""
        return self._in_dialog(
            method,
            invite.headers.get("From") or "",
            response.headers.get("To") or "",
            invite,
            response,
            cseq,
            body,
            headers,
        )

    def within_received(
        self,
        method: str,
        invite: Request,
        tag: str,
        cseq: int,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Request:
        """Send a request within a dialog that the bridge's ``invite`` opened."""
        local = f"{invite.headers.get('To')};tag={tag}"
        return self._in_dialog(method, local, invite.headers.get("From") or "", invite, invite, cseq, body, headers)

    def _in_dialog(
        self,
        method: str,
        local: str,
        remote: str,
        invite: Request,
        contact_from: Request | Response,
        cseq: int,
        body: bytes,
        headers: Mapping[str, str] | None,
    ) -> Request:
        host, port = self.address
        contact = contact_from.contact
        assert contact is not None
        branch = invite.via.branch if method == "CANCEL" else self.branch()
        lines = [
            f"{method} {contact.uri} SIP/2.0",
            f"Via: SIP/2.0/UDP {host}:{port};rport;branch={branch}",
            f"From: {local}",
            f"To: {remote}",
            f"Call-ID: {invite.call_id}",
            f"CSeq: {cseq} {method}",
            "Max-Forwards: 70",
            f"Contact: <sip:peer@{host}:{port}>",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
            *(["Content-Type: application/sdp"] if body and "Content-Type" not in (headers or {}) else []),
            f"Content-Length: {len(body)}",
        ]
        data = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        self.send(data)
        request = parse(data)
        assert isinstance(request, Request)
        return request

    def cancel(self, invite: Request, headers: Mapping[str, str] | None = None) -> None:
        """Cancel an INVITE of ours (RFC 3261 §9.1: same Request-URI, top Via, From, To, Call-ID and CSeq number)."""
        lines = [
            f"CANCEL {invite.uri} SIP/2.0",
            f"Via: {invite.headers.get('Via')}",
            f"From: {invite.headers.get('From')}",
            f"To: {invite.headers.get('To')}",
            f"Call-ID: {invite.call_id}",
            f"CSeq: {invite.cseq.number} CANCEL",
            "Max-Forwards: 70",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
            "Content-Length: 0",
        ]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n")

    def ack(self, invite: Request, response: Response, body: bytes = b"") -> None:
        """Acknowledge a final response to an INVITE of ours: its own transaction for a 2xx, else the INVITE's."""
        if response.status < 300:
            self.within("ACK", invite, response, invite.cseq.number, body=body)
            return
        lines = [
            f"ACK {invite.uri} SIP/2.0",
            f"Via: {invite.headers.get('Via')}",
            f"From: {invite.headers.get('From')}",
            f"To: {response.headers.get('To')}",
            f"Call-ID: {invite.call_id}",
            f"CSeq: {invite.cseq.number} ACK",
            "Content-Length: 0",
        ]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n")

    def respond(
        self,
        request: Request,
        status: int,
        *,
        body: bytes = b"",
        tag: str = "far",
        headers: Mapping[str, str] | None = None,
        content_type: bool = True,
    ) -> bytes:
        """Answer a request of the bridge's and return the bytes sent."""
        host, port = self.address
        to = request.headers.get("To") or ""
        if ";tag=" not in to and status > 100:
            to += f";tag={tag}"
        lines = [
            f"SIP/2.0 {status} Reason",
            *(f"Via: {via}" for via in request.headers.get_all("Via")),
            f"From: {request.headers.get('From')}",
            f"To: {to}",
            f"Call-ID: {request.call_id}",
            f"CSeq: {request.headers.get('CSeq')}",
            *([] if "Contact" in (headers or {}) else [f"Contact: <sip:peer@{host}:{port}>"]),
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
            *(["Content-Type: application/sdp"] if body and content_type else []),
            f"Content-Length: {len(body)}",
        ]
        data = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        self.send(data)
        return data


class World:
    """Hold the parties, the core and the network of one test. Profile fields of a peer may be overridden by keyword."""

    def __init__(
        self,
        *,
        carrier: Mapping[str, Any] | None = None,
        platform: Mapping[str, Any] | None = None,
        relay: FakeRelay | None = None,
        routes: tuple[Route, ...] | None = None,
        platform_peer: Mapping[str, Any] | None = None,
        second_platform_peer: Mapping[str, Any] | None = None,
        carrier_peer: Mapping[str, Any] | None = None,
        limits: NodeLimits | None = None,
        **network: Any,
    ) -> None:
        self.relay = relay or FakeRelay()
        self.config = Config(
            path="test.toml",
            node=Node("test", Path("/nonexistent")),
            sip=Sip((Listen("udp", *BRIDGE),), BRIDGE[0]),
            media=Media("127.0.0.1", "127.0.0.1", (20000, 20999), "native"),
            admin=Admin(("127.0.0.1", 9060)),
            carriers={"main": peer("main", "carrier", CARRIER, carrier or {}, **(carrier_peer or {}))},
            platforms={
                "support": peer("support", "platform", PLATFORM, platform or {}, **(platform_peer or {})),
                "sales": peer("sales", "platform", SECOND_PLATFORM, platform or {}, **(second_platform_peer or {})),
            },
            routes=routes
            or (Route("in", "main", NUMBER, ("support", "sales")), Route("out", "support", "*", ("main",))),
            limits=limits or NodeLimits(),
        )
        self.core = Core(self.config, SeededTokens(1), (Listener("udp", BRIDGE, BRIDGE),), "127.0.0.1", 1.7e9)
        self.network = VirtualNetwork(self.core, self.relay, **network)
        self.carrier = Party(self.network, CARRIER)
        self.platform = Party(self.network, PLATFORM)
        self.sales = Party(self.network, SECOND_PLATFORM)

    def run(self, for_: float) -> None:
        self.network.run(for_)

    @property
    def record(self) -> dict[str, Any]:
        """The record of the one call that has ended."""
        assert len(self.network.records) == 1, self.network.records
        return self.network.records[0]

    def bugs(self) -> list[str]:
        return [trace.text for trace in self.network.traces if trace.kind == "bug"]

    def set_up(self, **invite: Any) -> Established:
        """Bring one call up between carrier and platform."""
        asked = self.carrier.invite(**invite)
        self.run(0.1)
        offered = self.platform.requests("INVITE")[-1]
        self.platform.respond(offered, 180)
        self.run(0.1)
        self.platform.respond(offered, 200, body=sdp((PLATFORM[0], 50000)))
        self.run(0.1)
        accepted = self.carrier.responses()[-1]
        assert accepted.status == 200, self.carrier.statuses()
        self.carrier.ack(asked, accepted)
        self.run(0.1)
        return Established(asked, accepted, offered)

    def assert_idle(self) -> None:
        """Let every timer pass and see that nothing is left (T19)."""
        self.run(70.0)
        left = {name: count for name, count in self.core.counts().items() if count}
        assert left == {}, left
        assert self.relay.open_sessions == {}
        assert self.bugs() == []


class Established:
    """The messages that made a call: the carrier's INVITE, our 200 to it, and our INVITE to the platform."""

    def __init__(self, asked: Request, accepted: Response, offered: Request) -> None:
        self.asked = asked
        self.accepted = accepted
        self.offered = offered


def peer(name: str, kind: str, address: Address, profile: Mapping[str, Any], **account: Any) -> Peer:
    """Make an account on the generic profile of its kind, some of whose fields differ."""
    return replace(
        Peer(
            name=name,
            kind=kind,
            profile=generic(kind, **profile),
            hosts=(Host(address[0], address[1], "udp"),),
            sources=(f"{address[0]}/32",),
            user="agent",
        ),
        **account,
    )


def generic(kind: str, **fields: Any) -> Profile:
    return replace(load_profile(f"generic-{kind}"), **fields)
