"""A stream listener on a real socket, under a reactor that turns only when a test says so and a clock of the test's."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.task import Clock

from bridge.config import Host, Peer, Tls
from bridge.net.stream import Census, StreamListener
from bridge.net.tls import Credentials
from bridge.profile import load_profile
from bridge.sip.events import Address, Flow

PEER = "127.1.0.1"
OURS = "127.1.0.2"
_T = TypeVar("_T")


def message(number: int = 1, body: bytes = b"") -> bytes:
    return b"OPTIONS sip:a SIP/2.0\r\nCSeq: %d OPTIONS\r\nContent-Length: %d\r\n\r\n%b" % (number, len(body), body)


def peer(name: str = "main", hosts: tuple[Host, ...] = (), max_calls: int = 0, **profile: Any) -> Peer:
    return Peer(
        name=name,
        kind="carrier",
        profile=load_profile("generic-carrier", profile),
        hosts=hosts,
        sources=(f"{PEER}/32",),
        max_calls=max_calls,
    )


@dataclass
class Told:
    """The driver's part: what the listener said."""

    received: list[tuple[bytes, Flow]] = field(default_factory=list)
    failed: list[Flow] = field(default_factory=list)
    lost: list[Flow] = field(default_factory=list)
    turned_away: list[str] = field(default_factory=list)
    react: Callable[[bytes, Flow], None] = lambda data, flow: None

    def receive(self, data: bytes, flow: Flow) -> None:
        self.received.append((data, flow))
        self.react(data, flow)

    def transport_failed(self, flow: Flow) -> None:
        self.failed.append(flow)

    def flow_lost(self, flow: Flow) -> None:
        self.lost.append(flow)

    def rejected(self, reason: str, flow: Flow) -> None:
        self.turned_away.append(reason)


class Ends:
    """A listener of ours and the means to be its peer. ``known`` are the peers at `PEER`; others are strangers."""

    def __init__(self, tls: Tls | None = None, known: tuple[Peer, ...] | None = None) -> None:
        self.reactor: Any = EPollReactor()
        self.clock = Clock()
        self.told = Told()
        self.known = (peer(),) if known is None else known
        self.census = Census()
        self.credentials = Credentials(tls, self.clock) if tls else None
        self.listener = StreamListener(OURS, 0, self.census, lambda low, high: high, self.credentials)
        self.listener.start(self.reactor, self.clock, self.told, lambda address: self.known if address == PEER else ())
        self._threads = ThreadPoolExecutor(4)
        self.sockets: list[socket.socket] = []

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.listener.stop()
        for _ in range(5):
            self.turn()
        self._threads.shutdown()
        for reader in self.reactor.removeAll():
            reader.connectionLost(None) if hasattr(reader, "_readSize") else None
        self.reactor._poller.close()

    def turn(self, delay: float = 0.01) -> None:
        self.reactor.iterate(delay)
        self.clock.advance(0)

    def until(self, true: Callable[[], object], within: float = 5.0) -> None:
        """Turn the reactor until something is true."""
        ends_at = time.monotonic() + within
        while not true():
            assert time.monotonic() < ends_at, "it did not come true"
            self.turn()

    def let(self, act: Callable[[], _T]) -> _T:
        """Do something that blocks, in a thread, while the reactor turns."""
        future = self._threads.submit(act)
        self.until(future.done, 10.0)
        return future.result()

    def settle(self, turns: int = 10) -> None:
        for _ in range(turns):
            self.turn(0.002)

    def connect(self, source: str = PEER) -> socket.socket:
        """Connect to the listener as a peer of ours would."""
        sock = socket.create_connection(self.listener.bound, timeout=5, source_address=(source, 0))
        self.sockets.append(sock)
        self.settle()
        return sock

    def flow(self, remote: Address, connection: int = 0, name: str = "") -> Flow:
        return Flow(self.listener.transport, self.listener.bound, remote, connection, name)

    def read(self, sock: socket.socket) -> bytes:
        """Read what comes, "" for the end."""
        sock.settimeout(5)
        try:
            return self.let(lambda: sock.recv(65536))
        except ConnectionResetError:
            return b""

    def advance(self, seconds: float, step: float = 1.0) -> None:
        """Let the test's clock run, turning the reactor."""
        while seconds > 0:
            self.clock.advance(min(step, seconds))
            seconds -= step
            self.turn(0.0)


@contextmanager
def ends(tls: Tls | None = None, known: tuple[Peer, ...] | None = None) -> Iterator[Ends]:
    made = Ends(tls, known)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def answering(backlog: int = 50) -> Iterator[socket.socket]:
    """A listening socket of a peer's."""
    with socket.create_server((PEER, 0), backlog=backlog) as server:
        server.settimeout(5)
        yield server


def server_context(certificate: Path, key: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = ca is not None
    if ca is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(ca)
    return context
