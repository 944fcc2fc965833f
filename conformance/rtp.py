"""RTP and RTCP as a peer outside the bridge writes and reads them (RFC 3550), on an exact schedule."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass, field

from conformance.g711 import LOUDNESS, SILENCE

Address = tuple[str, int]

FRAME_SECONDS = 0.02
FRAME_TICKS = 160

# linux/asm-generic/socket.h; the socket module of Python 3.11 does not name it.
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@qq")
_SPEECH = 3.0  # mean magnitude / 128 of a frame that counts as speech: about -38 dBov
_NTP_EPOCH = 2208988800

_HEADER = struct.Struct("!BBHII")


def rtp_packet(
    payload_type: int, sequence: int, timestamp: int, ssrc: int, payload: bytes, marker: bool = False
) -> bytes:
    """Build one RTP packet without CSRCs or extension (RFC 3550 §5.1)."""
    second = payload_type | (0x80 if marker else 0)
    return _HEADER.pack(0x80, second, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc) + payload


def sender_report(ssrc: int, wall: float, timestamp: int, packets: int, octets: int, block: bytes = b"") -> bytes:
    """Build an SR (RFC 3550 §6.4.1) with at most one report block, and the SDES that must follow it."""
    seconds = int(wall)
    fraction = int((wall - seconds) * 2**32)
    body = struct.pack("!IIIIII", ssrc, seconds + _NTP_EPOCH, fraction, timestamp & 0xFFFFFFFF, packets, octets)
    length = (4 + len(body) + len(block)) // 4 - 1
    report = struct.pack("!BBH", 0x80 | bool(block), 200, length) + body + block
    name = b"\x01\x05party\x00"  # CNAME "party", item list ended and padded to a word boundary
    return report + struct.pack("!BBHI", 0x81, 202, (4 + len(name)) // 4, ssrc) + name


def open_pair(host: str, first: int = 20000, last: int = 60000) -> tuple[socket.socket, socket.socket]:
    """Bind an even RTP port and the RTCP port above it (RFC 3550 §11). Raises OSError if there is none."""
    for _ in range(200):
        port = random.randrange(first, last, 2)
        rtp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        rtcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            rtp.bind((host, port))
            rtcp.bind((host, port + 1))
        except OSError:
            rtp.close()
            rtcp.close()
            continue
        for one in (rtp, rtcp):
            one.setblocking(False)
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        return rtp, rtcp
    raise OSError(f"no free port pair on {host}")


def receive(sock: socket.socket, offset: float, size: int = 2048) -> tuple[float, bytes, Address]:
    """Read one datagram with the monotonic time at which the kernel took it; ``offset``: wall - monotonic."""
    data, ancillary, _, source = sock.recvmsg(size, 64)
    for _level, kind, value in ancillary:
        if kind == _SO_TIMESTAMPNS and len(value) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(value)
            return seconds + nanoseconds * 1e-9 - offset, data, source
    return time.monotonic(), data, source


@dataclass(slots=True)
class Spurt:
    """One stretch of speech as it left: when its first packet was due, and the octets that were sent."""

    at: float
    octets: bytearray = field(default_factory=bytearray)


class Endpoint:
    """Send and receive one call's RTP on the running asyncio loop.

    Packets leave on an absolute 20 ms schedule. Between utterances the endpoint sends silence frames, or
    nothing at all while ``quiet`` is set: true RTP silence as a platform's while it thinks, or a handset's
    with voice activity detection. Timestamps go on through it and the next packet carries the marker (RFC
    3551 §4.1). Every packet that arrives is kept with the time at which the kernel took it.
    """

    def __init__(self, host: str, payload_type: int = 0) -> None:
        self.rtp, self.rtcp = open_pair(host)
        self.address: Address = self.rtp.getsockname()
        self.payload_type = payload_type
        self.remote: Address | None = None
        self.quiet = False
        self.arrived: list[tuple[float, bytes]] = []
        self.arrived_rtcp: list[tuple[float, bytes]] = []
        self.spurts: list[Spurt] = []
        self.sent = 0
        self.sent_late: list[float] = []
        self.longest_pause = 0.0  # the longest time for which nothing was sent, in seconds
        self.speech_at = 0.0  # when the last frame with speech arrived
        self.speech_frames = 0  # how many arrived since the last utterance of our own began
        self._offset = time.time() - time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._frames: deque[bytes] = deque()
        self._spoken: asyncio.Event = asyncio.Event()
        self._spurt: Spurt | None = None
        self._ssrc = random.getrandbits(32)
        self._sequence = random.getrandbits(15)
        self._timestamp = random.getrandbits(32)
        self._after_silence = True
        self._timer: asyncio.TimerHandle | None = None
        self._reports: asyncio.TimerHandle | None = None
        self._next_at = self._sent_at = 0.0
        self._lsr = (0, 0.0)
        self._highest = -1
        self._loop.add_reader(self.rtp, self._readable)
        self._loop.add_reader(self.rtcp, self._readable_rtcp)

    def start(self, remote: Address) -> None:
        """Begin to send to ``remote`` now."""
        self.remote = remote
        if self._timer is None:
            self._next_at = self._sent_at = self._loop.time()
            self._tick()
            self._reports = self._loop.call_later(0.5 + random.random(), self._report)

    async def say(self, octets: bytes) -> None:
        """Speak and return when the last frame has left."""
        padding = -len(octets) % FRAME_TICKS
        octets += SILENCE[self.payload_type][:padding]
        self.speech_frames = 0
        self._spoken.clear()
        self._frames.extend(octets[i : i + FRAME_TICKS] for i in range(0, len(octets), FRAME_TICKS))
        await self._spoken.wait()

    async def heard_out(self, silent_for: float, within: float) -> bool:
        """Wait until the other side has spoken and then been silent for so long; False if it never spoke."""
        deadline = self._loop.time() + within
        while self._loop.time() < deadline:
            if self.speech_frames >= 8 and time.monotonic() - self.speech_at >= silent_for:
                return True
            await asyncio.sleep(0.02)
        return False

    def close(self) -> None:
        """Stop sending, take what is still in the sockets' buffers, and give the ports back."""
        for timer in (self._timer, self._reports):
            if timer is not None:
                timer.cancel()
        if self.rtp.fileno() < 0:
            return
        self._readable()
        for sock in (self.rtp, self.rtcp):
            self._loop.remove_reader(sock)
            sock.close()
        self._spoken.set()

    def _tick(self) -> None:
        now = self._loop.time()
        late = now - self._next_at
        if self._frames:
            frame: bytes | None = self._frames.popleft()
            if self._spurt is None:
                self._spurt = Spurt(time.monotonic() - late)
                self.spurts.append(self._spurt)
            self._spurt.octets += frame or b""
        else:
            frame = None if self.quiet else SILENCE[self.payload_type]
        if frame is not None:
            self.longest_pause = max(self.longest_pause, self._next_at - self._sent_at)
            self._sent_at = self._next_at
            self._send(frame)
            self.sent_late.append(late)
        else:
            self._after_silence = True
        if self._spurt is not None and not self._frames:
            self._spurt = None
            self._spoken.set()
        self._timestamp += FRAME_TICKS
        self._next_at += FRAME_SECONDS
        # The schedule is absolute: a late tick does not move the ones after it.
        self._timer = self._loop.call_at(self._next_at, self._tick)

    def _send(self, frame: bytes) -> None:
        assert self.remote is not None
        packet = rtp_packet(self.payload_type, self._sequence, self._timestamp, self._ssrc, frame, self._after_silence)
        self._sequence += 1
        self._after_silence = False
        with contextlib.suppress(OSError):
            self.rtp.sendto(packet, self.remote)
            self.sent += 1

    def _readable(self) -> None:
        while True:
            try:
                at, data, _ = receive(self.rtp, self._offset)
            except OSError:
                return
            self.arrived.append((at, data))
            if len(data) <= 12 or data[0] != 0x80:
                continue
            self._highest = max(self._highest, int.from_bytes(data[2:4], "big"))
            table = LOUDNESS.get(data[1] & 0x7F)
            if table and sum(data[12:].translate(table)) > _SPEECH * (len(data) - 12):
                self.speech_at = at
                self.speech_frames += 1

    def _readable_rtcp(self) -> None:
        while True:
            try:
                at, data, _ = receive(self.rtcp, self._offset)
            except OSError:
                return
            self.arrived_rtcp.append((at, data))
            if len(data) >= 28 and data[1] == 200:
                self._lsr = (int.from_bytes(data[10:14], "big"), at)

    def _report(self) -> None:
        self._reports = self._loop.call_later(2.0 + random.random(), self._report)
        if self.remote is None:
            return
        block = b""
        if self._lsr[0] and len(self.arrived[-1:]) and len(self.arrived[-1][1]) >= 12:
            delay = int((time.monotonic() - self._lsr[1]) * 65536)
            source = int.from_bytes(self.arrived[-1][1][8:12], "big")
            block = struct.pack("!IIIIII", source, 0, max(self._highest, 0), 0, self._lsr[0], delay)
        report = sender_report(self._ssrc, time.time(), self._timestamp, self.sent, self.sent * FRAME_TICKS, block)
        with contextlib.suppress(OSError):
            self.rtcp.sendto(report, (self.remote[0], self.remote[1] + 1))
