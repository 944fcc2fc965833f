"""RTP in bulk: hundreds of G.711 streams from two sockets, with one system call for many packets.

Every call's media address is one of two sockets, so that sendmmsg(2) and recvmmsg(2) carry a whole millisecond's
packets at once and the generator stays far below what it loads. It says how much processor time it took itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Address = tuple[str, int]

_SLOTS = 20  # each stream has its millisecond of every 20
_SIZE = 172
_BATCH = 256
_SO_RCVBUFFORCE = 33


class _IoVector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _MessageHeader(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    _fields_ = (("header", _MessageHeader), ("length", ctypes.c_uint32))


def _messages(count: int, buffer: int, size: int, names: int = 0) -> ctypes.Array[_Message]:
    """Lay out ``count`` messages of ``size`` bytes over a buffer, with socket addresses if there are any."""
    vectors = (_IoVector * count)()
    messages = (_Message * count)()
    for index in range(count):
        vectors[index].base = buffer + index * size
        vectors[index].length = size
        header = messages[index].header
        header.vectors = ctypes.addressof(vectors) + index * ctypes.sizeof(_IoVector)
        header.vector_count = 1
        if names:
            header.name = names + index * 16
            header.name_length = 16
    messages._kept = vectors  # type: ignore[attr-defined]  # lives as long as what points into it
    return messages


class _Slot:
    """The packets of one side that leave in the same millisecond."""

    def __init__(self, to: Sequence[Address], first: int) -> None:
        count = len(to)
        self.packets: npt.NDArray[np.uint8] = np.full((count, _SIZE), 0x55, dtype=np.uint8)
        self.packets[:, 0], self.packets[:, 1] = 0x80, 0
        ssrcs = np.arange(first, first + count, dtype=">u4") + 0x10000000
        self.packets[:, 8:12] = ssrcs.astype(">u4").view(np.uint8).reshape(count, 4)
        names = b"".join(struct.pack("=HH4s8x", socket.AF_INET, socket.htons(port), socket.inet_aton(host))
                         for host, port in to)  # fmt: skip
        self._names = ctypes.create_string_buffer(names, max(1, len(names)))
        self.count = count
        self.messages = _messages(count, self.packets.ctypes.data, _SIZE, ctypes.addressof(self._names))

    def number(self, sequence: int) -> None:
        """Give every packet its sequence number and timestamp."""
        head = np.frombuffer(struct.pack("!HI", sequence & 0xFFFF, (sequence * 160) & 0xFFFFFFFF), dtype=np.uint8)
        self.packets[:, 2:8] = head


@dataclass(frozen=True, slots=True)
class Carried:
    """What one run sent and got back, and the processor time that the generator took for it in seconds."""

    sent: int
    received: int
    seconds: float
    generator_cpu: float
    late_ms_max: float


class RtpLoad:
    """Both ends of the media of many calls. ``addresses`` are what goes into the SDP of either side."""

    def __init__(self, hosts: tuple[str, str]) -> None:
        self._sequence = 0
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.sockets = [self._socket(host) for host in hosts]
        self.addresses: list[Address] = [one.getsockname() for one in self.sockets]
        self._buffer = ctypes.create_string_buffer(_BATCH * 256)
        self._incoming = _messages(_BATCH, ctypes.addressof(self._buffer), 256)

    @staticmethod
    def _socket(host: str) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind((host, 0))
        sock.setblocking(False)
        return sock

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()

    def run(self, ports: tuple[Sequence[Address], Sequence[Address]], seconds: float) -> Carried:
        """Send 50 packets a second to every address, from the socket of its side, and take what comes back."""
        slots = [
            (sock, _Slot(to[slot::_SLOTS], 100_000 * side + 1000 * slot))
            for slot in range(_SLOTS)
            for side, (sock, to) in enumerate(zip(self.sockets, ports, strict=True))
        ]
        self._drain()
        cpu, begun = time.process_time(), time.monotonic()
        sent = received = tick = 0
        late = 0.0
        while (elapsed := time.monotonic() - begun) < seconds:
            due = int(elapsed * 1000)
            if tick > due:
                time.sleep(max(0.0, tick / 1000 - elapsed))
                continue
            late = max(late, elapsed - tick / 1000)
            for sock, slot in slots[2 * (tick % _SLOTS) : 2 * (tick % _SLOTS) + 2]:
                slot.number(self._sequence + tick // _SLOTS)
                sent += self._send(sock, slot)
            received += self._drain()
            tick += 1
        self._sequence += tick // _SLOTS + 1  # the next run goes on where this one ends, as a source does
        spent = time.process_time() - cpu
        elapsed = time.monotonic() - begun
        time.sleep(0.05)
        return Carried(sent, received + self._drain(), elapsed, spent, late * 1000)

    def _send(self, sock: socket.socket, slot: _Slot) -> int:
        if not slot.count:
            return 0
        return max(0, int(self._libc.sendmmsg(sock.fileno(), slot.messages, slot.count, 0)))

    def _drain(self) -> int:
        total = 0
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                while (count := self._libc.recvmmsg(sock.fileno(), self._incoming, _BATCH, 0x40, None)) > 0:
                    total += count
                    if count < _BATCH:
                        break
        return total
