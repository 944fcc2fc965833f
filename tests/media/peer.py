"""RTP peers on loopback for the relay's tests: plain sockets, explicit packets, deadlines instead of sleeps."""

from __future__ import annotations

import itertools
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from bridge.media.relay import Address, LegMedia, Payload

DEADLINE = 5.0
SO_TIMESTAMPNS = 35


@dataclass(frozen=True, slots=True)
class Packet:
    """One RTP packet as received; ``at`` is when the kernel had it, in seconds since 1970."""

    at: float
    source: Address
    marker: bool
    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes


def rtp(
    sequence: int,
    timestamp: int,
    payload: bytes,
    *,
    ssrc: int = 0x1234,
    payload_type: int = 0,
    marker: bool = False,
) -> bytes:
    return (
        struct.pack(
            "!BBHII",
            0x80,
            marker << 7 | payload_type,
            sequence & 0xFFFF,
            timestamp & 0xFFFFFFFF,
            ssrc,
        )
        + payload
    )


def parse(data: bytes, source: Address, at: float) -> Packet:
    flags, second, sequence, timestamp, ssrc = struct.unpack("!BBHII", data[:12])
    assert flags == 0x80
    return Packet(at, source, second >= 0x80, second & 0x7F, sequence, timestamp, ssrc, data[12:])


def _socket(host: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((host, port))
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    return made


class Peer:
    """A party with an RTP and an RTCP port on one loopback address."""

    def __init__(self, host: str) -> None:
        while True:
            self.rtp = _socket(host, 0)
            port = self.rtp.getsockname()[1]
            try:
                if port % 2 == 0:
                    self.rtcp = _socket(host, port + 1)
                    break
            except OSError:
                pass
            self.rtp.close()
        self.address: Address = (host, port)

    def close(self) -> None:
        self.rtp.close()
        self.rtcp.close()

    def receive(self, deadline: float = DEADLINE) -> Packet:
        """Return the next RTP packet; raise TimeoutError if there is none within ``deadline`` seconds."""
        if not select.select([self.rtp], [], [], deadline)[0]:
            raise TimeoutError("no RTP packet came")
        data, ancillary, _, source = self.rtp.recvmsg(2048, 64)
        seconds, nanoseconds = struct.unpack("ll", ancillary[0][2])
        return parse(data, source[:2], seconds + nanoseconds / 1e9)

    def receive_many(self, count: int, deadline: float = DEADLINE) -> list[Packet]:
        return [self.receive(deadline) for _ in range(count)]

    def drain(self, quiet: float = 0.05) -> list[Packet]:
        """Take whatever comes until nothing has come for ``quiet`` seconds."""
        packets = []
        while True:
            try:
                packets.append(self.receive(quiet))
            except TimeoutError:
                return packets

    def pending(self) -> list[Packet]:
        """Take what has come already."""
        return self.drain(0.0)

    def receive_rtcp(self, deadline: float) -> bytes:
        if not select.select([self.rtcp], [], [], deadline)[0]:
            raise TimeoutError("no RTCP packet came")
        return self.rtcp.recv(2048)


def media(
    remote: Address | None,
    *,
    fill_after_ms: int | None = None,
    may_send: bool = True,
    may_receive: bool = True,
    permitted: tuple[str, ...] = (),
    latch_for: float = 1.0,
    silent_after: float | None = None,
) -> LegMedia:
    """Negotiate PCMU and telephone events at 20 ms with the peer at ``remote``."""
    return LegMedia(
        remote_rtp=remote,
        remote_rtcp=None,
        rtcp_mux=False,
        may_send=may_send,
        may_receive=may_receive,
        payloads=(Payload(0, "PCMU", 8000, 0), Payload(101, "TELEPHONE-EVENT", 8000, 101)),
        ptime_ms=20,
        fill_after_ms=fill_after_ms,
        fill_payload_type=0,
        permitted=permitted,
        latch_for=latch_for,
        silent_after=silent_after,
    )


def eventually(probe: Callable[[], bool], deadline: float = DEADLINE) -> None:
    """Wait until ``probe`` holds; fail after ``deadline`` seconds."""
    until = time.monotonic() + deadline
    while not probe():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.005)


def steps(packets: list[Packet]) -> list[tuple[int, int]]:
    """Return the steps in sequence and timestamp from each packet to the next, on their circles."""
    pairs = itertools.pairwise(packets)
    return [((b.sequence - a.sequence) & 0xFFFF, (b.timestamp - a.timestamp + 2**31) % 2**32 - 2**31) for a, b in pairs]
