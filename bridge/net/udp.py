"""SIP over UDP: one socket a listener, read in bounded batches under the reactor.

A plain socket under the reactor's readers costs less than a `DatagramProtocol` (9 against 12 µs for a datagram in
and one out, in bursts of 8), and gives access to the kernel's error queue, so that an ICMP "port unreachable" moves
a call to its next target at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from bridge.net.addresses import family_of, host_port
from bridge.sip.events import Address, Flow
from bridge.sip.overload import is_new

BUFFER = 4 * 1024 * 1024
"""Bytes asked for each way: the kernel's default holds 92 messages, and a 0.3 s stall loses calls (F19)."""
BATCH = 64
"""Datagrams taken at one wake-up, so that a flood can't starve timers and the relay's events."""
BEGUN = 8
"""New requests taken from the line at once when nothing else waits."""
LINE = 4096
"""How many stand in line; of more the oldest are lost, as they would be in the kernel's buffer."""
LARGEST = 65535
LOG_EVERY = 5.0
"""Seconds between two log lines about the same kind of send error."""

# Linux, <asm/socket.h> and <linux/in.h>: not named by the socket module of Python 3.11.
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SIOCGSTAMP = 0x8906  # <asm/sockios.h>
_IP_RECVERR = 11
_IPV6_RECVERR = 25
_MSG_ERRQUEUE = 0x2000
_SOCK_EXTENDED_ERR = struct.Struct("=IBBBBII")  # <linux/errqueue.h>: ee_errno first
_TIMEVAL = struct.Struct("@ll")

_UNREACHABLE = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOPROTOOPT)
_OURS = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EMSGSIZE)
"""Our buffers are full, or this one message is too large: a lost datagram, not a dead peer."""


@implementer(IReadDescriptor)
class UdpListener:
    """Receive and send SIP datagrams on one bound address.

    What begins something, an INVITE above all, stands in line until what goes on is served: so under any load the calls
    that were taken go through without a wait, and what can't be served is seen by how long it has waited (T10).
    """

    log = Logger()

    def __init__(self, host: str, port: int) -> None:
        """Bind. Raises OSError; its errno is EADDRINUSE when somebody else has the port."""
        family = family_of(host)
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if family == socket.AF_INET6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
            else:
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            # No SO_REUSEADDR or SO_REUSEPORT: a second bridge on the port must fail, not share its calls.
            self._socket.bind((host, port))
        except OSError:
            self._socket.close()
            raise
        # One buffer for every datagram: recvfrom would take 64 KiB anew for each.
        self._buffer = memoryview(bytearray(LARGEST))
        self.bound: Address = self._socket.getsockname()[:2]
        self._line: deque[tuple[bytes, Flow, float]] = deque(maxlen=LINE)  # with the moment of arrival
        self._turn: IDelayedCall | None = None  # of the line, when nothing comes
        self._age()  # asked once, the kernel stamps what arrives from then on
        self._enlarge_buffers()
        self._reactor: IReactorFDSet | None = None
        self._receive: Callable[[bytes, Flow, float], None] | None = None
        self._failed: Callable[[Flow], None] | None = None
        self._clock: IReactorTime | None = None
        self._logged_at: dict[int, float] = {}
        self._unlogged: dict[int, int] = {}

    def start(
        self,
        reactor: IReactorFDSet,
        clock: IReactorTime,
        receive: Callable[[bytes, Flow, float], None],
        failed: Callable[[Flow], None],
    ) -> None:
        """Hand on what arrives with the seconds that it waited, and report peers that can't be reached."""
        self._reactor = reactor
        self._clock = clock
        self._receive = receive
        self._failed = failed
        reactor.addReader(self)

    def stop(self) -> None:
        """Close the socket."""
        if self._reactor is not None:
            self._reactor.removeReader(self)
            self._reactor = None
        if self._turn is not None and self._turn.active():
            self._turn.cancel()
        self._socket.close()

    def send(self, data: bytes, flow: Flow) -> None:
        """Send one datagram. Raises OSError when the network refuses it; full buffers only lose it."""
        try:
            self._send(data, flow.remote)
        except OSError as error:
            self._log_send_error(error.errno or 0, flow.remote)
            if error.errno not in _OURS:
                raise

    def _send(self, data: bytes, remote: Address) -> None:
        try:
            self._socket.sendto(data, remote)
        except OSError:
            # With IP_RECVERR the error of an earlier datagram, perhaps to another peer, is thrown at this
            # call, and nothing was sent: take the errors where they belong and try once more.
            if not self._report_errors():
                raise
            self._socket.sendto(data, remote)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "udp"

    def doRead(self) -> None:
        receive = self._receive
        assert receive is not None
        begun = 1  # while more is there
        for _ in range(BATCH):
            try:
                length, remote = self._socket.recvfrom_into(self._buffer)
            except BlockingIOError:
                begun = BEGUN
                break
            except OSError:
                if not self._report_errors():
                    break
                continue
            data, flow = bytes(self._buffer[:length]), Flow("udp", self.bound, (remote[0], remote[1]))
            # RFC 3261 §9.2: a CANCEL comes after its INVITE
            if is_new(data) or (self._line and data.startswith(b"CANCEL ")):
                self._line.append((data, flow, self._seconds() - self._age()))
            else:
                receive(data, flow, 0.0)
            if self._reactor is None:
                return
        self._begin(begun)

    @property
    def waited(self) -> float:
        """For how many seconds the first in line has waited, 0 without one."""
        return self._seconds() - self._line[0][2] if self._line else 0.0

    def _begin(self, most: int) -> None:
        """Take from the line, and come back for the rest of it when the reactor has looked around."""
        assert self._receive is not None
        line = self._line
        while line and most and self._reactor is not None:
            data, flow, arrived_at = line.popleft()
            self._receive(data, flow, self._seconds() - arrived_at)
            most -= 1
        if line and self._turn is None and self._clock is not None:
            self._turn = self._clock.callLater(0, self._next_turn)

    def _next_turn(self) -> None:
        self._turn = None
        if self._reactor is not None:
            self.doRead()

    def _seconds(self) -> float:
        return 0.0 if self._clock is None else self._clock.seconds()

    def _age(self) -> float:
        """Return how many seconds ago the datagram read last had arrived (socket(7): SIOCGSTAMP)."""
        try:
            seconds, microseconds = _TIMEVAL.unpack(fcntl.ioctl(self._socket, _SIOCGSTAMP, bytes(_TIMEVAL.size)))
        except OSError:  # nothing has been read yet, or this system keeps no stamps
            return 0.0
        age: float = time.time() - seconds - microseconds / 1e6
        return max(0.0, age)

    def connectionLost(self, reason: Failure) -> None:
        # A UDP socket has no connection to lose: the reactor says so, and drops the reader, whenever the
        # socket has an ICMP error and nothing to read.
        if self._reactor is not None:
            self._report_errors()
            self._reactor.addReader(self)

    def _report_errors(self) -> int:
        """Empty the kernel's error queue; return how many errors there were."""
        count = 0
        while True:
            try:
                _, ancillary, _, remote = self._socket.recvmsg(512, 512, _MSG_ERRQUEUE)
            except OSError:
                return count
            count += 1
            number = 0
            for level, kind, content in ancillary:
                if (level, kind) in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
                    number = _SOCK_EXTENDED_ERR.unpack_from(content)[0]
            if not remote or not number:
                continue
            peer = (remote[0], remote[1])
            self._log_send_error(number, peer)
            # RFC 3261 §18.4: host, network, port or protocol unreachable.
            if number in _UNREACHABLE and self._failed is not None:
                self._failed(Flow("udp", self.bound, peer))

    def _log_send_error(self, number: int, remote: Address) -> None:
        now = self._clock.seconds() if self._clock is not None else 0.0
        if now - self._logged_at.get(number, float("-inf")) < LOG_EVERY:
            self._unlogged[number] = self._unlogged.get(number, 0) + 1
            return
        self._logged_at[number] = now
        more = self._unlogged.pop(number, 0)
        self.log.warn(
            "can't send from udp:{local} to {remote}: {problem}{more}",
            local=host_port(*self.bound),
            remote=host_port(*remote),
            problem=os.strerror(number),
            more=f" (and {more} times more since the last such line)" if more else "",
        )

    def _enlarge_buffers(self) -> None:
        for name, forced, option in (
            ("receive", _SO_RCVBUFFORCE, socket.SO_RCVBUF),
            ("send", _SO_SNDBUFFORCE, socket.SO_SNDBUF),
        ):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, forced, BUFFER)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)
            # The kernel reports twice what it grants, for its own book-keeping (socket(7)).
            granted = self._socket.getsockopt(socket.SOL_SOCKET, option) // 2
            if granted < BUFFER:
                self.log.warn(
                    "udp:{local} got a {name} buffer of {granted} bytes instead of {asked}: a stall may lose "
                    "calls; set net.core.{key} to {asked}",
                    local=host_port(*self.bound),
                    name=name,
                    granted=granted,
                    asked=BUFFER,
                    key="rmem_max" if option == socket.SO_RCVBUF else "wmem_max",
                )
