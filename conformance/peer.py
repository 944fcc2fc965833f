"""A scripted SIP peer on a raw UDP socket: it sends exactly what a case says, when the case says it."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from conformance import sip
from conformance.rtp import _SO_TIMESTAMPNS, open_pair, receive
from conformance.sip import Message

Address = tuple[str, int]


class Unmet(AssertionError):
    """Report in one sentence what the bridge should have done and what it did."""


def require(fact: bool, sentence: str) -> None:
    """Raise `Unmet` unless ``fact`` holds."""
    if not fact:
        raise Unmet(sentence)


CALLER = "+12025550147"


class Peer:
    """One party: a SIP socket, and an RTP port pair that takes what is sent to it."""

    def __init__(self, host: str, port: int = 0, name: str = "") -> None:
        self.name = name or host
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.socket.bind((host, port))
        self.address: Address = self.socket.getsockname()
        self.rtp, self.rtcp = open_pair(host)
        self.media: Address = self.rtp.getsockname()
        self.inbox: list[Message] = []
        self.log: list[Message] = []
        self.octets_received = 0
        self._offset = time.time() - time.monotonic()

    def close(self) -> None:
        for sock in (self.socket, self.rtp, self.rtcp):
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, data: bytes, to: Address, at: float | None = None) -> float:
        """Send a datagram, at a monotonic time if one is given; return when it left."""
        if at is not None:
            wait_until(at)
        self.socket.sendto(data, to)
        return time.monotonic()

    def expect(self, what: str, within: float = 2.0, call_id: str = "", caller: str = "") -> Message:
        """Return the first message that matches ``what``; others stay. Raises Unmet after ``within`` seconds.

        ``what`` is a method (``BYE``), or a status pattern with the method answered (``200 INVITE``, ``4xx INVITE``);
        ``caller`` stands in its From.
        """
        deadline = time.monotonic() + within
        while True:
            for index, message in enumerate(self.inbox):
                if matches(message, what) and call_id in ("", message.get("call-id")) and caller in message.get("from"):
                    return self.inbox.pop(index)
            left = deadline - time.monotonic()
            if left <= 0:
                had = ", ".join(summary(message) for message in self.log[-6:]) or "nothing"
                raise Unmet(f"{self.name} did not get {what} within {within:g} s; it got {had}")
            self._read(left)

    def never(self, what: str, during: float) -> None:
        """Raise Unmet if a message that matches arrives within ``during`` seconds."""
        deadline = time.monotonic() + during
        while True:
            for message in self.inbox:
                require(not matches(message, what), f"{self.name} got {summary(message)}, which it must not")
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._read(left)

    def collect(self, during: float) -> list[Message]:
        """Take whatever arrives within ``during`` seconds; return all that waits."""
        deadline = time.monotonic() + during
        while (left := deadline - time.monotonic()) > 0:
            self._read(left)
        taken, self.inbox = self.inbox, []
        return taken

    def _read(self, within: float) -> None:
        self.socket.settimeout(max(0.0005, within))
        try:
            at, data, source = receive(self.socket, self._offset, 65536)
        except (TimeoutError, BlockingIOError):
            return
        except OSError:
            return  # an ICMP unreachable of an earlier datagram
        self.octets_received += len(data)
        with contextlib.suppress(ValueError):
            message = sip.parse(data)
            message.at, message.source = at, source
            self.inbox.append(message)
            self.log.append(message)

    # Dialogs.

    def invite(self, bridge: Address, number: str, caller: str = CALLER, **more: str) -> Leg:
        """Prepare a call to ``number``; nothing is sent yet. ``more`` replaces headers (``max_forwards="0"``)."""
        host = self.address[0]
        uri = f"sip:{number}@{bridge[0]}:{bridge[1]}"
        leg = Leg(self, bridge, f"{sip.token(16)}@{host}", f"<sip:{caller}@{host}>;tag={sip.token()}", f"<{uri}>", uri)
        leg.replaced = {name.replace("_", "-").lower(): value for name, value in more.items()}
        return leg

    def take(self, invite: Message) -> Leg:
        """Become the called side of an INVITE that arrived."""
        local = f"{invite.get('to')};tag={sip.token()}"
        target = sip.address_uri(invite.get("contact"))
        leg = Leg(self, invite.source, invite.get("call-id"), local, invite.get("from"), target)
        leg.invitation = invite
        return leg


@dataclass(slots=True)
class Leg:
    """One dialog of a scripted peer. Every method sends one message and returns its bytes or what it needs later."""

    peer: Peer
    to: Address
    call_id: str
    local: str
    remote: str
    target: str
    cseq: int = 1
    route_set: list[str] = field(default_factory=list)
    invitation: Message | None = None
    branch: str = ""
    replaced: dict[str, str] = field(default_factory=dict)

    def headers(self, method: str, cseq: int, branch: str) -> list[tuple[str, str]]:
        host, port = self.peer.address
        found = [
            ("Via", f"SIP/2.0/UDP {host}:{port};branch={branch};rport"),
            ("Max-Forwards", "70"),
            ("From", self.local),
            ("To", self.remote),
            ("Call-ID", self.call_id),
            ("CSeq", f"{cseq} {method}"),
            *(("Route", route) for route in self.route_set),
        ]
        if method == "INVITE":
            found.append(("Contact", f"<sip:{host}:{port}>"))
        if method in {"INVITE", "OPTIONS"}:
            found = [(name, self.replaced.get(name.lower(), value)) for name, value in found]
        return found

    def invite(self, description: str | None = None, at: float | None = None) -> bytes:
        """Send the INVITE; the same bytes again are a retransmission."""
        self.branch = f"z9hG4bK{sip.token()}"
        body = sip.sdp(self.peer.media) if description is None else description
        data = sip.request(f"INVITE {self.target} SIP/2.0", self.headers("INVITE", self.cseq, self.branch), body)
        self.peer.send(data, self.to, at)
        return data

    def acknowledge(self, answer: Message) -> bytes:
        """Send the ACK for a final response: within the transaction for 3xx to 6xx, end to end for 2xx."""
        self.remote = answer.get("to")
        if answer.status < 300:
            self.route_set = answer.all("record-route")[::-1]
            self.target = sip.address_uri(answer.get("contact")) or self.target
            branch = f"z9hG4bK{sip.token()}"
        else:
            branch = answer.branch
        data = sip.request(f"ACK {self.target} SIP/2.0", self.headers("ACK", answer.cseq, branch))
        self.peer.send(data, self.to)
        return data

    def cancel(self, at: float | None = None) -> float:
        """Cancel the INVITE; return when the CANCEL left."""
        data = sip.request(f"CANCEL {self.target} SIP/2.0", self.headers("CANCEL", self.cseq, self.branch))
        return self.peer.send(data, self.to, at)

    def request(self, method: str, cseq: int | None = None, body: str = "", branch: str = "") -> Message:
        """Send a request within the dialog; return it as a message, for its branch and CSeq."""
        self.cseq = self.cseq + 1 if cseq is None else cseq
        branch = branch or f"z9hG4bK{sip.token()}"
        data = sip.request(f"{method} {self.target} SIP/2.0", self.headers(method, self.cseq, branch), body)
        self.peer.send(data, self.to)
        return sip.parse(data)

    def respond(
        self, status: int, reason: str, to: Message | None = None, body: str = "", at: float | None = None
    ) -> bytes:
        """Answer the INVITE, or another request of the dialog."""
        request = to or self.invitation
        assert request is not None
        host, port = self.peer.address
        extra = [("Contact", f"<sip:{host}:{port}>")] if request.method == "INVITE" and status > 100 else []
        tag = "" if status == 100 else sip.parameter(self.local, "tag")
        data = sip.response(request, status, reason, tag, extra, body)
        self.peer.send(data, request.source, at)
        return data

    def answer(self, at: float | None = None) -> bytes:
        """Send 200 with a description to the INVITE."""
        return self.respond(200, "OK", body=sip.sdp(self.peer.media, version=7), at=at)

    def hang_up(self, within: float = 2.0) -> Message:
        """Send BYE and return the response to it."""
        self.request("BYE")
        return self.peer.expect("2xx BYE", within, self.call_id)


def matches(message: Message, what: str) -> bool:
    """Tell whether a message is what `Peer.expect` was asked for."""
    status, _, method = what.rpartition(" ")
    if message.method != method:
        return False
    if not status:
        return message.status == 0
    pattern = re.escape(status).replace("x", "[0-9]")
    return message.status > 0 and re.fullmatch(pattern, str(message.status)) is not None


def summary(message: Message) -> str:
    """Return a message in two words."""
    return f"{message.status} ({message.method})" if message.status else message.method


def wait_until(at: float) -> None:
    """Return at a monotonic time, to about 20 µs: sleep, then watch the clock for the last part."""
    while (left := at - time.monotonic()) > 0:
        if left > 0.001:
            time.sleep(left - 0.001)
