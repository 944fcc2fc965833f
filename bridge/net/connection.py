"""One TCP or TLS connection that carries SIP: framing, what a slow or deaf peer may cost, and whether it still lives.

Whatever the peer does costs its own connection only: 5 s for a handshake, 32 s for a message, 10 minutes of silence,
1 MiB of what it does not read (T15, T16).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any, Protocol

from cryptography import x509
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from bridge.net.tls import Untrusted, handshake_problem, problem_of
from bridge.sip.events import Flow
from bridge.sip.framing import Framer, FramingError, Message, Ping, Pong

HANDSHAKE_DEADLINE = 5.0
"""Seconds for a TLS handshake (T16)."""
MESSAGE_DEADLINE = 32.0
"""Seconds from the first octet of a message to its last, and for a stranger's first message (T15)."""
IDLE_DEADLINE = 600.0
"""Seconds without anything from the peer, after which a connection that we do not keep alive is closed (T15)."""
PONG_DEADLINE = 10.0
"""Seconds for the answer to a ping (RFC 5626 §4.4.1)."""
CLOSE_DEADLINE = 2.0
"""Seconds in which a peer can still read what was sent before the connection was closed."""
WRITE_LIMIT = 1024 * 1024
"""Bytes kept for a peer that does not read, besides the transport's own 64 KiB."""
_UNACKNOWLEDGED_MS = 10_000
"""Milliseconds after which TCP gives up octets that nobody acknowledged: a NAT that forgot us says nothing (D17)."""


class Owner(Protocol):
    """What a connection tells whoever opened or accepted it."""

    def ready(self, connection: Connection) -> None:
        """Take word that messages can be sent now."""

    def received(self, connection: Connection, data: bytes) -> None:
        """Take one whole message."""

    def lost(self, connection: Connection, problem: str) -> None:
        """Take word, once, that nothing will go over the connection any more; ``problem`` is "" for a plain end."""


@implementer(IHandshakeListener, IPushProducer)
class Connection(TwistedProtocol):
    """Frame what comes, bound what goes, and close in time.

    ``flow`` names the connection. ``check`` looks at the peer's certificate after the handshake and raises Untrusted.
    ``keepalive`` is the number of seconds between pings on a connection that we dialled, 0 for none.
    """

    def __init__(
        self,
        owner: Owner,
        flow: Flow,
        clock: IReactorTime,
        uniform: Callable[[float, float], float],
        dialled: bool = False,
        keepalive: float = 0.0,
        check: Callable[[x509.Certificate], None] | None = None,
    ) -> None:
        self.flow = flow
        self.is_ready = False
        self.alive = True
        self.dialled = dialled
        self._owner = owner
        self._clock = clock
        self._uniform = uniform
        self._keepalive = keepalive if dialled else 0.0
        self._check = check
        self._framer = Framer()
        self._deadlines: dict[str, float] = {}  # by what happens then
        self._timer: IDelayedCall | None = None
        self._paused = False
        self._unread = 0  # octets written since the transport asked for a pause
        self._pongs = False  # the peer has answered a ping: from now on a missing answer means something

    # -- from Twisted ----------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.setTcpNoDelay(True)
        handle = getattr(transport, "socket", None)
        if handle is not None:
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
        transport.registerProducer(self, True)
        if self.flow.transport == "tls":
            self._set("handshake", HANDSHAKE_DEADLINE)
        else:
            self._begin()

    def handshakeCompleted(self) -> None:
        transport: Any = self.transport
        connection = transport.getHandle()
        if self._check is not None:
            certificate = connection.get_peer_certificate(as_cryptography=True)
            try:
                if certificate is None:
                    raise Untrusted("was not shown")
                self._check(certificate)
            except Untrusted as error:
                self.abort(f"its certificate {error}")
                return
        self._deadlines.pop("handshake", None)
        self._begin()

    def dataReceived(self, data: bytes) -> None:
        if not self.alive:
            return
        try:
            framed = self._framer.feed(data)
        except FramingError as error:
            self._take(error.framed)
            if self.alive:
                self._owner.received(self, error.head)  # it is refused, and answered where that can be done
                self.close(f"what it sends can't be framed: {error.reason}")
            return
        self._take(framed)
        if framed:
            self._deadlines.pop("message", None)
            if "idle" in self._deadlines:
                self._deadlines["idle"] = self._clock.seconds() + IDLE_DEADLINE
        if self.alive and self._framer.pending and "message" not in self._deadlines:
            self._set("message", MESSAGE_DEADLINE)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        problem = ""
        error = reason.value
        if not self.is_ready and self.flow.transport == "tls" and error is not None:
            transport: Any = self.transport
            problem = handshake_problem(transport.getHandle(), error)
        elif not isinstance(error, ConnectionDone):
            problem = problem_of(error) if error is not None else ""
        self._end(problem)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._unread = 0

    def stopProducing(self) -> None:
        pass

    # -- for the owner ---------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send one message. Raises OSError when the peer has stopped reading, and ends the connection."""
        assert self.transport is not None
        if self._paused:
            self._unread += len(data)
            if self._unread > WRITE_LIMIT:
                self.abort("it does not read what is sent to it")
                raise OSError(errno.ENOBUFS, "the peer does not read")
        self.transport.write(data)

    def close(self, problem: str = "") -> None:
        """Let what was written reach the peer, and end."""
        self._end(problem)
        transport: Any = self.transport
        transport.unregisterProducer()
        if self.flow.transport == "tls":
            transport.loseConnection()
        else:
            # Half a close: were all of it closed, with something of the peer's unread, TCP would reset, and the
            # peer might lose our last words.
            transport.loseWriteConnection()
        self._set("abort", CLOSE_DEADLINE)

    def abort(self, problem: str) -> None:
        """End at once."""
        self._end(problem)
        transport: Any = self.transport
        transport.abortConnection()

    # -- its life --------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.is_ready = True
        if self._keepalive:
            self._set("ping", self._next_ping())
        else:
            self._set("idle", IDLE_DEADLINE)
        if not self.dialled:
            self._set("message", MESSAGE_DEADLINE)  # who connects and says nothing holds a place for nothing
        self._owner.ready(self)

    def _take(self, framed: tuple[Message | Ping | Pong, ...] | list[Message | Ping | Pong]) -> None:
        for one in framed:
            if not self.alive:
                return
            if isinstance(one, Message):
                self._owner.received(self, one.data)
            elif isinstance(one, Ping):
                self._answer_ping()
            else:
                self._pongs = self._pongs or "ping" in self._deadlines
                self._deadlines.pop("pong", None)

    def _answer_ping(self) -> None:
        try:
            self.send(b"\r\n")  # RFC 5626 §4.4.1
        except OSError:
            pass  # `send` has ended the connection

    def _end(self, problem: str) -> None:
        if self.alive:
            self.alive = False
            self._deadlines.clear()
            self._owner.lost(self, problem)

    def _set(self, what: str, delay: float) -> None:
        self._deadlines[what] = self._clock.seconds() + delay
        self._arm()

    def _arm(self) -> None:
        """See that the timer fires by the earliest deadline; firing early for nothing is cheaper than moving it."""
        if not self._deadlines:
            return
        due = min(self._deadlines.values())
        if self._timer is None:
            self._timer = self._clock.callLater(max(0.0, due - self._clock.seconds()), self._due)
        elif self._timer.getTime() > due:
            self._timer.reset(max(0.0, due - self._clock.seconds()))

    def _due(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        for what in [what for what, at in self._deadlines.items() if at <= now]:
            if self._deadlines.pop(what, None) is not None:
                self._happen(what)
        self._arm()

    def _happen(self, what: str) -> None:
        match what:
            case "handshake":
                self.abort(f"its TLS handshake took longer than {HANDSHAKE_DEADLINE:g} s")
            case "message":
                self.abort(f"it took longer than {MESSAGE_DEADLINE:g} s for a message")
            case "idle":
                self.close()
            case "pong":
                self.abort("it does not answer keep-alives any more")
            case "abort":
                transport: Any = self.transport
                transport.abortConnection()
            case "ping":
                self._ping()

    def _ping(self) -> None:
        try:
            self.send(b"\r\n\r\n")
        except OSError:
            return
        self._set("ping", self._next_ping())
        # RFC 5626 §4.4.1: 10 s; only from a peer that has shown that it answers, since most do not say (D17)
        if self._pongs:
            self._set("pong", PONG_DEADLINE)

    def _next_ping(self) -> float:
        return self._uniform(0.8, 1.0) * self._keepalive  # RFC 5626 §4.4.1: 80 to 100 % of it
