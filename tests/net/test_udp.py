"""The UDP listener on real sockets: it hands on what comes, survives every send error, and reports dead peers."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from bridge.net import udp as udp_module
from bridge.net.udp import BATCH, BEGUN, BUFFER, LINE, UdpListener
from bridge.net.wakeup import Wakeup
from bridge.sip.events import Flow
from tests.net.watching import logged_warnings

pytestmark = pytest.mark.sockets


@implementer(IReactorFDSet)
class FakeReadiness:
    """Stand for the reactor's reader set; `turn` reads once what is ready, as the epoll reactor would."""

    def __init__(self) -> None:
        self.readers: list[IReadDescriptor] = []

    def addReader(self, reader: IReadDescriptor) -> None:
        if reader not in self.readers:
            self.readers.append(reader)

    def removeReader(self, reader: IReadDescriptor) -> None:
        if reader in self.readers:
            self.readers.remove(reader)

    def addWriter(self, writer: object) -> None: ...
    def removeWriter(self, writer: object) -> None: ...
    def removeAll(self) -> list[Any]:
        return []

    def getReaders(self) -> list[IReadDescriptor]:
        return self.readers

    def getWriters(self) -> list[Any]:
        return []

    def turn(self, timeout: float = 1.0) -> bool:
        poll = select.epoll()
        try:
            by_descriptor = {reader.fileno(): reader for reader in self.readers}
            for descriptor in by_descriptor:
                poll.register(descriptor, select.EPOLLIN)
            ready = poll.poll(timeout)
            for descriptor, event in ready:
                reader = by_descriptor[descriptor]
                if event & select.EPOLLIN:
                    reader.doRead()
                else:
                    # posixbase: an error without input removes the reader and says that the connection is lost.
                    self.removeReader(reader)
                    reader.connectionLost(Failure(ConnectionError()))
            return bool(ready)
        finally:
            poll.close()


class Ends:
    """A listener and what it said."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.readiness = FakeReadiness()
        self.clock = Clock()
        self.received: list[tuple[bytes, Flow]] = []
        self.failed: list[Flow] = []
        self.listener = UdpListener(host, 0)
        self.listener.start(
            self.readiness, self.clock, lambda data, flow, _: self.received.append((data, flow)), self.failed.append
        )

    def flow(self, peer: tuple[str, int]) -> Flow:
        return Flow("udp", self.listener.bound, peer)


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.listener.stop()


def closed_port() -> tuple[str, int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address: tuple[str, int] = sock.getsockname()
        return address


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_datagrams_arrive_with_their_flow_and_go_out_from_the_listeners_port(
    host: str, family: socket.AddressFamily
) -> None:
    try:
        ends = Ends(host)
    except OSError as error:
        pytest.skip(f"no {host} here: {error}")
    with socket.socket(family, socket.SOCK_DGRAM) as peer:
        peer.bind((host, 0))
        peer.settimeout(5)
        peer.sendto(b"OPTIONS", ends.listener.bound)
        assert ends.readiness.turn()
        [(data, flow)] = ends.received
        assert data == b"OPTIONS"
        assert flow == Flow("udp", ends.listener.bound, peer.getsockname()[:2])
        ends.listener.send(b"200", flow)
        reply, source = peer.recvfrom(100)
        assert (reply, source[:2]) == (b"200", ends.listener.bound)
    ends.listener.stop()


def test_one_wakeup_takes_a_bounded_batch(ends: Ends) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        for number in range(BATCH + 10):
            peer.sendto(b"%d" % number, ends.listener.bound)
        ends.readiness.turn()
        assert len(ends.received) == BATCH
        ends.readiness.turn()
        assert len(ends.received) == BATCH + 10


def test_f19_the_buffers_hold_what_arrives_in_a_stall(ends: Ends) -> None:
    """F19: 4 MiB each way; three seconds at 300 messages a second of 900 bytes fit many times over."""
    sock = ends.listener._socket
    granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    limit = int(Path("/proc/sys/net/core/rmem_max").read_text())
    assert granted >= min(BUFFER, limit)


def test_a_smaller_buffer_than_asked_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_module, "BUFFER", 2**30)
    with logged_warnings() as warnings:
        listener = UdpListener("127.0.0.1", 0)
    listener.stop()
    granted_all = os.geteuid() == 0 and not warnings
    assert granted_all or any("net.core.rmem_max" in line for line in warnings)


def test_a_peer_whose_port_is_closed_is_reported_at_once_by_its_own_flow(ends: Ends) -> None:
    """F08, RFC 3261 §18.4: the network's refusal moves the call on within milliseconds, not after timer B."""
    dead = closed_port()
    ends.listener.send(b"INVITE", ends.flow(dead))
    assert ends.readiness.turn()
    assert ends.failed == [ends.flow(dead)]
    assert ends.readiness.readers == [ends.listener], "the listener goes on reading"


def test_r22_the_error_of_one_peer_neither_stops_the_listener_nor_hits_another_peer(ends: Ends) -> None:
    """R22: a pending ICMP error is thrown at the next send, to whomever it goes: that datagram still leaves."""
    dead = closed_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(5)
        for number in range(20):
            ends.listener.send(b"to the dead", ends.flow(dead))
            ends.listener.send(b"%d" % number, ends.flow(peer.getsockname()))
            assert peer.recv(100) == b"%d" % number
        assert set(ends.failed) == {ends.flow(dead)}
        peer.sendto(b"still here", ends.listener.bound)
        while ends.readiness.turn(0.2):
            pass
        assert [data for data, _ in ends.received] == [b"still here"]


def test_a_destination_that_the_system_refuses_raises_for_the_driver(ends: Ends) -> None:
    with pytest.raises(PermissionError, match="denied"):  # a loopback source can't reach the world
        ends.listener.send(b"x", ends.flow(("255.255.255.255", 9)))


def test_a_message_that_is_too_large_is_lost_without_blaming_its_peer(ends: Ends) -> None:
    """Else it would fail every transaction of the flow, other calls' too."""
    with logged_warnings() as warnings:
        ends.listener.send(b"x" * 70_000, ends.flow(("127.0.0.1", 9)))
    assert "Message too long" in warnings[0]


def test_send_errors_of_one_kind_are_logged_once_in_five_seconds_with_their_count(ends: Ends) -> None:
    def fail() -> None:
        ends.listener.send(b"x" * 70_000, ends.flow(("127.0.0.1", 9)))

    with logged_warnings() as warnings:
        for _ in range(100):
            fail()
        assert len(warnings) == 1
        ends.clock.advance(6)
        fail()
    assert len(warnings) == 2
    assert "99 times more" in warnings[1]


def test_two_listeners_on_one_port_are_refused() -> None:
    first = UdpListener("127.0.0.1", 0)
    with pytest.raises(OSError, match="in use") as taken:
        UdpListener(*first.bound)
    assert taken.value.errno == errno.EADDRINUSE
    first.stop()


def test_a_signal_on_the_eventfd_wakes_once_however_often_it_was_given() -> None:
    readiness, woken = FakeReadiness(), []
    wakeup = Wakeup()
    os.eventfd_write(wakeup.fileno(), 1)
    wakeup.start(readiness, lambda: woken.append(True))
    for _ in range(10):
        os.eventfd_write(wakeup.fileno(), 1)
    assert readiness.turn()
    assert woken == [True]
    assert not readiness.turn(0.0)
    os.eventfd_write(wakeup.fileno(), 1)
    assert readiness.turn()
    assert woken == [True, True]
    wakeup.stop()
    assert readiness.readers == []


def sip(method: str, number: int, to: str = "") -> bytes:
    lines = (f"{method} sip:b SIP/2.0", f"Call-ID: {number}", f"To: <sip:b>{to}", "Content-Length: 0")
    return "\r\n".join((*lines, "", "")).encode()


def test_t10_what_begins_something_stands_in_line_until_what_goes_on_is_served() -> None:
    """T10: the calls that were taken go through; a CANCEL stays behind its INVITE; how long each waited is told."""
    served: list[tuple[bytes, float]] = []
    readiness, clock = FakeReadiness(), Clock()
    clock.advance(100.0)
    listener = UdpListener("127.1.0.3", 0)
    listener.start(readiness, clock, lambda data, flow, waited: served.append((data, waited)), lambda flow: None)
    begin = [sip("INVITE", number) for number in range(2 * BEGUN)]
    go_on = [sip("INVITE", 1, ";tag=x"), sip("BYE", 2, ";tag=x"), b"SIP/2.0 200 OK\r\n\r\n"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        for data in (*begin, sip("CANCEL", 0), *go_on):
            peer.sendto(data, listener.bound)
        time.sleep(0.02)
        readiness.turn()
        assert [data for data, _ in served] == [*go_on, *begin[:BEGUN]]
        assert [waited for _, waited in served[:3]] == [0.0] * 3
        assert all(0.01 < waited < 10.0 for _, waited in served[3:])
        assert listener.waited > 0.01
        served.clear()
        clock.rightNow += 5.0
        peer.sendto(go_on[1], listener.bound)
        clock.advance(0)
    assert [data for data, _ in served] == [go_on[1], *begin[BEGUN:], sip("CANCEL", 0)]
    assert all(waited > 5.0 for _, waited in served[1:])
    assert listener.waited == 0.0
    assert not clock.getDelayedCalls()
    listener.stop()


def test_t10_the_line_is_bounded_and_ends_with_the_listener() -> None:
    served: list[bytes] = []
    readiness, clock = FakeReadiness(), Clock()
    listener = UdpListener("127.1.0.3", 0)
    listener.start(readiness, clock, lambda data, flow, waited: served.append(data), lambda flow: None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        for number in range(2 * BATCH):
            peer.sendto(sip("OPTIONS", number), listener.bound)
    readiness.turn()
    assert served == [sip("OPTIONS", 0)], "more is there to be read"
    assert listener._line.maxlen == LINE
    listener.stop()
    assert not clock.getDelayedCalls()
