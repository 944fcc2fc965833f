"""SIP over TCP and TLS: one listener each, the connections that came to it, and those that were dialled in its name.

What is sent goes over the connection that the flow names while it lives, over any live connection to the same place
under the same name after that, and else over a new one. Nobody is accepted whose address is no peer's (T05).
"""

from __future__ import annotations

import errno
import itertools
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryptography import x509
from twisted.internet import protocol
from twisted.internet.interfaces import IAddress, IConnector, IReactorTime
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from bridge.config import Peer
from bridge.net.addresses import family_of, host_port
from bridge.net.connection import WRITE_LIMIT, Connection
from bridge.net.tls import Credentials, check_identity
from bridge.sip.events import Address, Flow

DIAL_DEADLINE = 4.0
"""Seconds for a TCP connection to be made."""
MOST_CONNECTIONS = 2000
"""Accepted connections at once, all listeners and peers together (T15)."""
LEAST_ALLOWANCE = 20
"""Accepted connections from one source address, however few calls its peer may have (T15)."""
FREE_ALLOWANCE = 200
"""The same where the peer's calls have no limit."""
MOST_WAITING = 1000
"""Messages that wait for one dial."""
LOG_EVERY = 5.0
"""Seconds between two log lines about the same kind of trouble with one address."""
BATCH = 8
"""Connections taken at one wake-up of the reactor, which would take a hundred: a TLS one costs half a millisecond."""
_KNOWN_TROUBLES = 1000
_BACKLOG = 512

PeersAt = Callable[[str], Sequence[Peer]]


class Above(Protocol):
    """What a listener tells: the driver."""

    def receive(self, data: bytes, flow: Flow) -> None:
        """Take one framed message."""

    def transport_failed(self, flow: Flow) -> None:
        """Take a flow on which nothing could be sent."""

    def flow_lost(self, flow: Flow) -> None:
        """Take the flow of a connection that has ended."""

    def rejected(self, reason: str, flow: Flow) -> None:
        """Take the reason why a connection was not accepted."""


class Census:
    """Count accepted connections, by source and in all, over every listener; and number every connection."""

    def __init__(self) -> None:
        self.total = 0
        self.of: Counter[str] = Counter()
        self._ids = itertools.count(1)

    def number(self) -> int:
        """Return the next connection id."""
        return next(self._ids)

    def obstacle(self, source: str, peers: Sequence[Peer]) -> str:
        """Say why one more connection from a source is not accepted, "" if it is."""
        if not peers:
            return "unknown-source"
        if self.total >= MOST_CONNECTIONS:
            return "too-many-connections"
        # A peer that may register from anywhere has no sources, and anybody may be that one.
        known = [peer for peer in peers if peer.sources]
        if not known and self.total >= MOST_CONNECTIONS // 2:
            return "too-many-connections"
        # Some peers take a connection for every call.
        allowance = max([LEAST_ALLOWANCE, *(peer.max_calls or FREE_ALLOWANCE for peer in known)])
        return "too-many-connections-of-a-source" if self.of[source] >= allowance else ""

    def add(self, source: str) -> None:
        self.total += 1
        self.of[source] += 1

    def remove(self, source: str) -> None:
        self.total -= 1
        self.of[source] -= 1
        if not self.of[source]:
            del self.of[source]


@dataclass(slots=True)
class _Dial:
    """A connection that is being made, and what waits for it."""

    flow: Flow
    waiting: list[tuple[bytes, Flow]] = field(default_factory=list)
    size: int = 0

    def add(self, data: bytes, flow: Flow) -> None:
        if len(self.waiting) >= MOST_WAITING or self.size + len(data) > WRITE_LIMIT:
            raise OSError(errno.ENOBUFS, "too much waits for the connection")
        self.waiting.append((data, flow))
        self.size += len(data)


class StreamListener:
    """Accept, dial and use the connections of one bound address. ``credentials`` make it TLS."""

    log = Logger()

    def __init__(
        self,
        host: str,
        port: int,
        census: Census,
        uniform: Callable[[float, float], float],
        credentials: Credentials | None,
    ) -> None:
        """Bind. Raises OSError; its errno is EADDRINUSE when somebody else has the port."""
        self.transport = "tcp" if credentials is None else "tls"
        self._family = family_of(host)
        self._socket = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if self._family == socket.AF_INET6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Lets a restart bind while connections of the last run rest in TIME_WAIT; a second listener still fails.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            self._socket.listen(_BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self.bound: Address = self._socket.getsockname()[:2]
        self._census = census
        self._uniform = uniform
        self._credentials = credentials
        self._live: dict[int, Connection] = {}
        self._leading_to: dict[tuple[Address, str], list[Connection]] = {}
        self._dials: dict[tuple[Address, str], _Dial] = {}
        self._dialled: dict[int, _Dial] = {}  # by connection id: connected, not ready yet
        self._told_at: dict[tuple[str, str], float] = {}
        self._port: Any = None
        self._reactor: Any = None

    def start(
        self,
        reactor: Any,
        clock: IReactorTime,
        driver: Above,
        peers_at: PeersAt,
    ) -> None:
        """Accept connections and hand on what they bring."""
        self._reactor = reactor
        self._clock = clock
        self._driver = driver
        self._peers_at = peers_at
        self._tls = None
        if self._credentials is not None:
            self._tls = TLSMemoryBIOFactory(self._credentials.server(), False, protocol.Factory(), clock)
        self._port = reactor.adoptStreamPort(self._socket.fileno(), self._family, _Acceptor(self))
        self._port.numberAccepts = BATCH  # Twisted raises it by itself: `accept` puts it back
        self._socket.close()  # the reactor has its own copy

    def stop(self) -> None:
        """Stop listening and end every connection; nobody is told."""
        if self._port is not None:
            self._port.stopListening()
            self._port = None
        self._socket.close()
        self._dials.clear()
        self._dialled.clear()
        live, self._live = self._live, {}
        self._leading_to.clear()
        for connection in live.values():
            connection.abort("")

    def send(self, data: bytes, flow: Flow) -> None:
        """Send one message, dialling where no connection lives. Raises OSError when it can't even wait for that."""
        connection = self._live.get(flow.connection)
        if connection is None or not connection.is_ready:
            leading = self._leading_to.get((flow.remote, flow.name))
            connection = leading[-1] if leading else None
        if connection is not None:
            connection.send(data)
            return
        key = flow.remote, flow.name
        dial = self._dials.get(key)
        if dial is None:
            dial = _Dial(Flow(self.transport, self.bound, flow.remote, self._census.number(), flow.name))
            dial.add(data, flow)
            self._dial(key, dial)
        else:
            dial.add(data, flow)

    def counts(self) -> dict[str, int]:
        """Count live connections and dials."""
        return {"connections": len(self._live), "dials": len(self._dials)}

    # -- accepting -------------------------------------------------------------------------------------------------

    def accept(self, address: IAddress) -> protocol.Protocol | None:
        """Make the protocol of a connection that came, None to close it at once."""
        self._port.numberAccepts = BATCH
        remote: Address = (address.host, address.port)  # type: ignore[attr-defined]
        obstacle = self._census.obstacle(remote[0], self._peers_at(remote[0]))
        if obstacle:
            self._driver.rejected(obstacle, Flow(self.transport, self.bound, remote))
            return None
        flow = Flow(self.transport, self.bound, remote, self._census.number())
        connection = Connection(self, flow, self._clock, self._uniform)
        self._census.add(remote[0])
        self._live[flow.connection] = connection
        return connection if self._tls is None else self._tls.protocol(self._tls, connection)

    # -- dialling --------------------------------------------------------------------------------------------------

    def _dial(self, key: tuple[Address, str], dial: _Dial) -> None:
        self._dials[key] = dial
        flow = dial.flow
        peer = self._peer_of(flow)
        check = None
        if self._credentials is not None:
            rule = peer.profile.tls_names if peer is not None else "strict"

            def check(certificate: x509.Certificate) -> None:
                check_identity(certificate, flow.name, flow.remote[0], rule)

        keepalive = peer.profile.keepalive if peer is not None else 0.0
        connection = Connection(self, flow, self._clock, self._uniform, True, keepalive, check)
        factory: Any = _Dialler(connection, lambda problem: self._dial_failed(key, problem))
        if self._credentials is not None:
            factory = TLSMemoryBIOFactory(self._credentials.client(flow.name), True, factory, self._clock)
        self._dialled[flow.connection] = dial
        # From the listener's own address, which the peer may know us by; a wildcard leaves it to the routes.
        wildcard = self.bound[0] in ("0.0.0.0", "::")
        source = None if wildcard else (self.bound[0], 0)
        self._reactor.connectTCP(*flow.remote, factory, timeout=DIAL_DEADLINE, bindAddress=source)

    def _dial_failed(self, key: tuple[Address, str], problem: str) -> None:
        """Tell everybody who waited, once for each flow."""
        dial = self._dials.pop(key, None)
        if dial is None:
            return
        self._dialled.pop(dial.flow.connection, None)
        self._tell(dial.flow, "can't connect to", problem)
        for flow in dict.fromkeys(flow for _, flow in dial.waiting):
            self._driver.transport_failed(flow)

    def _peer_of(self, flow: Flow) -> Peer | None:
        """Return the peer that a flow leads to: of those at its address the one that has its name."""
        peers = self._peers_at(flow.remote[0])
        named = (peer for peer in peers if any(host.host == flow.name for host in peer.hosts))
        return next(named, None) or (peers[0] if peers else None)

    # -- from connections ------------------------------------------------------------------------------------------

    def ready(self, connection: Connection) -> None:
        flow = connection.flow
        key = flow.remote, flow.name
        self._live[flow.connection] = connection
        self._leading_to.setdefault(key, []).append(connection)
        dial = self._dialled.pop(flow.connection, None)
        if dial is None:
            return
        self._dials.pop(key, None)
        for data, asked in dial.waiting:
            try:
                connection.send(data)
            except OSError:
                self._driver.transport_failed(asked)

    def received(self, connection: Connection, data: bytes) -> None:
        self._driver.receive(data, connection.flow)

    def lost(self, connection: Connection, problem: str) -> None:
        flow = connection.flow
        key = flow.remote, flow.name
        if not connection.dialled:
            self._census.remove(flow.remote[0])
        known = self._live.pop(flow.connection, None)
        if flow.connection in self._dialled:
            self._dial_failed(key, problem or "it closed the connection")
            return
        leading = self._leading_to.get(key, [])
        if connection in leading:
            leading.remove(connection)
        if not leading:
            self._leading_to.pop(key, None)
        if known is None:
            return  # we are stopping
        if problem:
            self._tell(flow, "lost the connection with", problem)
        if connection.is_ready:
            self._driver.flow_lost(flow)

    def _tell(self, flow: Flow, what: str, problem: str) -> None:
        """Log trouble with an address, once in a while for each kind."""
        now = self._clock.seconds()
        kind = flow.remote[0], problem
        if now - self._told_at.get(kind, float("-inf")) < LOG_EVERY:
            return
        if len(self._told_at) >= _KNOWN_TROUBLES:
            self._told_at.clear()
        self._told_at[kind] = now
        self.log.warn(
            "{what} {transport}:{remote}{name}: {problem}",
            what=what,
            transport=self.transport,
            remote=host_port(*flow.remote),
            name=f" ({flow.name})" if flow.name else "",
            problem=problem,
        )


class _Acceptor(protocol.Factory):
    """Ask the listener about each connection."""

    noisy = False

    def __init__(self, listener: StreamListener) -> None:
        self._listener = listener

    def buildProtocol(self, addr: IAddress | None) -> protocol.Protocol | None:
        assert addr is not None
        return self._listener.accept(addr)


class _Dialler(protocol.ClientFactory):
    """Make one connection, or say why not."""

    noisy = False

    def __init__(self, connection: Connection, failed: Callable[[str], None]) -> None:
        self._connection = connection
        self._failed_with = failed

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        return self._connection

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        error = reason.value
        number = getattr(error, "osError", None)
        self._failed_with(_PROBLEMS.get(type(error).__name__) or (str(number) if number else reason.getErrorMessage()))


_PROBLEMS = {
    "ConnectionRefusedError": "it refuses the connection",
    "TimeoutError": f"no answer within {DIAL_DEADLINE:g} s",
    "TCPTimedOutError": "no answer",
    "NoRouteError": "no route to it",
}
