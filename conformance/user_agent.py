"""A small SIP user agent over UDP on asyncio: enough of RFC 3261 to be an honest carrier or platform."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import re
import time
from collections.abc import Awaitable, Callable
from typing import cast

from conformance import sip
from conformance.sip import Audio, Message

Address = tuple[str, int]

T1 = 0.5
TIMEOUT = 64 * T1


class State(enum.Enum):
    """Where a call stands, as its own user agent sees it."""

    CALLING = "calling"
    RINGING = "ringing"
    ANSWERED = "answered"
    ENDED = "ended"


class Call:
    """One dialog of the user agent, on either side of it."""

    def __init__(self, agent: UserAgent, call_id: str, local: str, remote: str, target: str) -> None:
        self.agent = agent
        self.call_id = call_id
        self.local = local  # our From or To value with tag
        self.remote = remote
        self.target = target
        self.route_set: list[str] = []
        self.peer: Address = ("", 0)
        self.invite: Message | None = None  # of an incoming call
        self.request_uri = ""
        self.state = State.CALLING
        self.status = 0
        self.ended_by = ""  # "us" | "them"
        self.audio: Audio | None = None
        self.media: Address = ("", 0)
        self.headers: list[tuple[str, str]] = []
        self.cseq = 1
        self.placed_at = self.trying_at = self.ringing_at = self.answered_at = self.ended_at = 0.0
        self.retransmissions = 0
        self.changed = asyncio.Event()
        self.ended = asyncio.Event()
        self._branch = ""
        self._request = b""
        self._acknowledgement = b""
        self._resend: asyncio.Task[None] | None = None
        self._answer = b""

    @property
    def caller(self) -> str:
        """The user part of the calling side's URI."""
        value = self.invite.get("from") if self.invite else self.local
        return sip.uri_user(sip.address_uri(value))

    async def until(self, *states: State, within: float) -> bool:
        """Wait for one of the states; False after ``within`` seconds."""
        deadline = time.monotonic() + within
        while self.state not in states:
            self.changed.clear()
            try:
                await asyncio.wait_for(self.changed.wait(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                return False
        return True

    def _enter(self, state: State, status: int = 0, by: str = "") -> None:
        if self.state is State.ENDED:
            return
        self.state = state
        self.status = status or self.status
        now = time.monotonic()
        if state is State.RINGING:
            self.ringing_at = self.ringing_at or now
        elif state is State.ANSWERED:
            self.answered_at = now
        elif state is State.ENDED:
            self.ended_at, self.ended_by = now, by
            self.ended.set()
        self.changed.set()

    # The calling side.

    def start(self, peer: Address, uri: str, media: Address, payload_types: tuple[int, ...]) -> None:
        """Send the INVITE and repeat it by timer A until something answers (RFC 3261 §17.1.1.2)."""
        self.peer, self.target, self.request_uri, self.media = peer, uri, uri, media
        self.placed_at = time.monotonic()
        self._branch = f"z9hG4bK{sip.token()}"
        headers = self._request_headers("INVITE", self._branch)
        self._request = sip.request(f"INVITE {uri} SIP/2.0", headers, sip.sdp(media, payload_types))
        self._repeat(self._request, lambda: self.trying_at > 0 or self.state is not State.CALLING)

    def _request_headers(self, method: str, branch: str, cseq: int | None = None) -> list[tuple[str, str]]:
        host, port = self.agent.address
        headers = [
            ("Via", f"SIP/2.0/UDP {host}:{port};branch={branch};rport"),
            ("Max-Forwards", "70"),
            ("From", self.local),
            ("To", self.remote),
            ("Call-ID", self.call_id),
            ("CSeq", f"{cseq or self.cseq} {method}"),
            ("Contact", f"<sip:{host}:{port}>"),
        ]
        headers += [("Route", route) for route in self.route_set]
        return headers + (self.headers if method == "INVITE" else [])

    def _repeat(self, data: bytes, done: Callable[[], bool], cap: float = TIMEOUT) -> None:
        async def resend() -> None:
            wait, total = T1, 0.0
            self.agent.send(data, self.peer)
            while total < TIMEOUT:
                await asyncio.sleep(wait)
                total += wait
                if done():
                    return
                self.retransmissions += 1
                self.agent.send(data, self.peer)
                wait = min(2 * wait, cap)
            self._enter(State.ENDED, 408, "timeout")

        if self._resend is not None:
            self._resend.cancel()
        self._resend = asyncio.ensure_future(resend())

    def _response(self, message: Message) -> None:
        if message.method == "INVITE":
            self._invite_response(message)
        elif message.method == "BYE" and message.status >= 200:
            self._enter(State.ENDED, 0, "us")

    def _invite_response(self, message: Message) -> None:
        self.trying_at = self.trying_at or message.at
        if message.status < 200:
            if message.status > 100 and self.state is State.CALLING:
                self._enter(State.RINGING, message.status)
            return
        if message.status >= 300:
            headers = [
                (name, value)
                for name, value in self._request_headers("ACK", message.branch)
                if name not in {"To", "Contact"}
            ]
            acknowledgement = sip.request(f"ACK {self.target} SIP/2.0", [*headers, ("To", message.get("to"))])
            self.agent.send(acknowledgement, self.peer)
            self._enter(State.ENDED, message.status, "them")
            return
        if not self._acknowledgement:
            self.remote = message.get("to")
            self.route_set = message.all("record-route")[::-1]
            self.target = sip.address_uri(message.get("contact")) or self.target
            self.audio = message.audio
            headers = self._request_headers("ACK", f"z9hG4bK{sip.token()}", self.cseq)
            self._acknowledgement = sip.request(f"ACK {self.target} SIP/2.0", headers)
            self.agent.send(self._acknowledgement, self.peer)
            self._enter(State.ANSWERED, message.status)
            return
        # RFC 3261 §13.2.2.4: the ACK again for every repeat of the 2xx.
        self.agent.send(self._acknowledgement, self.peer)

    def cancel(self) -> None:
        """Cancel the INVITE (RFC 3261 §9.1)."""
        headers = [pair for pair in self._request_headers("CANCEL", self._branch) if pair[0] not in {"Contact"}]
        self.agent.send(sip.request(f"CANCEL {self.request_uri} SIP/2.0", headers), self.peer)

    # The called side.

    def respond(self, status: int, reason: str, extra: list[tuple[str, str]] | None = None) -> None:
        """Send a response without a body to the INVITE."""
        assert self.invite is not None
        if status > 100:
            extra = [("Contact", f"<sip:{self.agent.address[0]}:{self.agent.address[1]}>"), *(extra or [])]
        tag = "" if status == 100 else sip.parameter(self.local, "tag")
        data = sip.response(self.invite, status, reason, tag, extra)
        if 100 < status < 200:
            self.agent.send(data, self.peer)
            self._enter(State.RINGING, status)
        elif status >= 300:
            self._answer = data
            self._repeat(data, lambda: self.state is State.ENDED and self.status == status, 4.0)

    def answer(self, media: Address, payload_types: tuple[int, ...]) -> None:
        """Send 200 with a description and repeat it until the ACK comes (RFC 3261 §13.3.1.4)."""
        assert self.invite is not None
        self.media = media
        host, port = self.agent.address
        contact = [("Contact", f"<sip:{host}:{port}>"), ("Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS")]
        tag = sip.parameter(self.local, "tag")
        self._answer = sip.response(self.invite, 200, "OK", tag, contact, sip.sdp(media, payload_types))
        self.answered_at = time.monotonic()
        self._repeat(self._answer, lambda: self.state in {State.ANSWERED, State.ENDED}, 4.0)

    def _in_dialog(self, message: Message) -> None:
        if message.method == "ACK":
            if self._answer.startswith(b"SIP/2.0 200"):
                if self.state is not State.ANSWERED:
                    at = self.answered_at
                    self._enter(State.ANSWERED, 200)
                    self.answered_at = at
            else:
                self._enter(State.ENDED, int(self._answer.split()[1]) if self._answer else 0, "us")
        elif message.method == "BYE":
            self.agent.send(sip.response(message, 200, "OK"), message.source)
            self._enter(State.ENDED, 0, "them")
        elif message.method == "CANCEL":
            self.agent.send(sip.response(message, 200, "OK", sip.parameter(self.local, "tag")), message.source)
            if self.state in {State.CALLING, State.RINGING} and not self._answer:
                self.respond(487, "Request Terminated")
                self._enter(State.ENDED, 487, "them")
        elif message.method == "INVITE" and self.state is State.ANSWERED:
            self._reinvited(message)
        elif message.method == "INVITE" and self._answer:
            self.agent.send(self._answer, message.source)
        elif message.method == "OPTIONS":
            self.agent.send(sip.response(message, 200, "OK"), message.source)

    def _reinvited(self, message: Message) -> None:
        self.audio = message.audio or self.audio
        host, port = self.agent.address
        description = sip.sdp(self.media, self.audio.payload_types if self.audio else (0,), 2)
        contact = [("Contact", f"<sip:{host}:{port}>")]
        self.agent.send(sip.response(message, 200, "OK", "", contact, description), message.source)

    # Both.

    async def hang_up(self, within: float = 5.0) -> bool:
        """Send BYE and wait for its answer; True if the call has ended, by whichever side."""
        if self.state is State.ANSWERED:
            self.cseq += 1
            if self.invite is None:
                uri = self.target
            else:
                uri = sip.address_uri(self.invite.get("contact"))
            headers = self._request_headers("BYE", f"z9hG4bK{sip.token()}")
            data = sip.request(f"BYE {uri} SIP/2.0", [pair for pair in headers if pair[0] != "Contact"])
            self._repeat(data, lambda: self.state is State.ENDED, 4.0)
        return await self.until(State.ENDED, within=within)

    def close(self) -> None:
        """Forget the call without a word."""
        if self._resend is not None:
            self._resend.cancel()
        self._enter(State.ENDED, 0, "us")


Incoming = Callable[[Call], Awaitable[None]]


class UserAgent(asyncio.DatagramProtocol):
    """One SIP address over UDP; ``incoming`` runs as a task for each new INVITE."""

    def __init__(self, address: Address, incoming: Incoming | None = None, challenge: bool = False) -> None:
        self.address = address
        self.incoming = incoming
        self.challenge = challenge
        self.calls: dict[str, Call] = {}
        self.challenged = 0
        self.received = 0
        self._transport: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Future[None]] = set()

    async def open(self) -> None:
        """Bind the address. Raises OSError."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=self.address)
        self._transport = transport
        self.address = transport.get_extra_info("sockname")[:2]
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(1, 8, 1 << 20)  # SOL_SOCKET, SO_RCVBUF

    def close(self) -> None:
        for call in list(self.calls.values()):
            call.close()
        if self._transport is not None:
            self._transport.close()

    def send(self, data: bytes, to: Address) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, to)

    def call(
        self,
        peer: Address,
        number: str,
        caller: str,
        media: Address,
        payload_types: tuple[int, ...] = (0, 8, 101),
        headers: list[tuple[str, str]] | None = None,
    ) -> Call:
        """Place a call to ``number`` through ``peer``."""
        host, port = self.address
        uri = f"sip:{number}@{peer[0]}:{peer[1]}"
        local = f"<sip:{caller}@{host}:{port}>;tag={sip.token()}"
        call = Call(self, f"{sip.token(16)}@{host}", local, f"<{uri}>", uri)
        call.headers = headers or []
        self.calls[call.call_id] = call
        call.start(peer, uri, media, payload_types)
        return call

    def datagram_received(self, data: bytes, source: tuple[str | int, int]) -> None:
        self.received += 1
        try:
            message = sip.parse(data)
        except ValueError:
            return
        message.at, message.source = time.monotonic(), cast(Address, source[:2])
        call = self.calls.get(message.get("call-id"))
        if message.status:
            if call is not None:
                call._response(message)
        elif call is not None and not self._challenges(message):
            call._in_dialog(message)
        elif message.method == "INVITE" and call is None:
            self._invited(message)
        elif message.method == "OPTIONS":
            self.send(sip.response(message, 200, "OK", sip.token()), message.source)
        elif message.method not in {"ACK"} and call is None:
            self.send(sip.response(message, 481, "Call Does Not Exist", sip.token()), message.source)

    def error_received(self, exc: Exception) -> None:
        """Ignore an ICMP unreachable: the transaction timers decide (RFC 3261 §18.4)."""

    def _challenges(self, message: Message) -> bool:
        """Tell whether the INVITE has to come back with credentials, and say so; any credentials pass (D9)."""
        if not self.challenge or message.method != "INVITE" or message.get("authorization"):
            return False
        if re.search(r";\s*tag=", message.get("to")):
            return False
        self.challenged += 1
        offer = [("WWW-Authenticate", f'Digest realm="party", nonce="{sip.token(24)}", algorithm=MD5, qop="auth"')]
        self.send(sip.response(message, 401, "Unauthorized", sip.token(), offer), message.source)
        return True

    def _invited(self, message: Message) -> None:
        if self._challenges(message):
            return
        tag = sip.token()
        target = sip.address_uri(message.get("contact"))
        call = Call(self, message.get("call-id"), f"{message.get('to')};tag={tag}", message.get("from"), target)
        call.invite, call.peer, call.request_uri = message, message.source, message.uri
        call.route_set = message.all("record-route")
        call.audio, call.placed_at = message.audio, message.at
        self.calls[call.call_id] = call
        if self.incoming is not None:
            task = asyncio.ensure_future(self.incoming(call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
