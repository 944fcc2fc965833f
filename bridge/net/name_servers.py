"""Ask name servers one question at a time, and believe only what answers it.

twisted.names writes and reads the messages; its own client believes any packet with the right id, so the asking is
ours: a socket of its own for every attempt, connected (the kernel drops what comes from elsewhere), with a random id,
and the question must stand in the answer (RFC 5452, T21).
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import ClientFactory, DatagramProtocol, Protocol, connectionDone
from twisted.names import dns
from twisted.python.failure import Failure

from bridge.literals import is_address
from bridge.sip.events import Address
from bridge.sip.locate import Kind, Naptr, Question, Records, Srv

ATTEMPTS = (0.0, 0.4, 1.0, 2.0, 4.0)
"""Seconds after which a question is asked again, of the next server each time."""
LAST_WORD = 10.0
"""Seconds after which nobody's answer is waited for any more."""
MOST_ALIASES = 8
"""CNAMEs that are followed from one question."""
_NEGATIVE_TTL = 5.0
_TYPES = {Kind.A: dns.A, Kind.AAAA: dns.AAAA, Kind.NAPTR: dns.NAPTR, Kind.SRV: dns.SRV}
_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a name server said: records (none: there are none, or no such name), and for how many seconds it holds."""

    records: Records
    ttl: float


Outcome = Answer | str
"""An answer, or why there is none in a few words."""
Done = Callable[[Outcome], None]


class NameServers:
    """Put questions to the configured servers, or to those of /etc/resolv.conf."""

    def __init__(
        self, reactor: Any, clock: IReactorTime, servers: Sequence[Address] = (), resolv_conf: str = "/etc/resolv.conf"
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._fixed = tuple(servers)
        self._resolv_conf = Lines(Path(resolv_conf))
        self._asking: set[_Asking] = set()

    def ask(self, question: Question, done: Done) -> None:
        """Call ``done`` once, within `LAST_WORD` seconds for each alias on the way."""
        self._follow(question, question.name, done, MOST_ALIASES, float("inf"))

    def stop(self) -> None:
        """Close every socket; nobody is told."""
        for asking in list(self._asking):
            asking.end()

    def servers(self) -> tuple[Address, ...]:
        """Return the servers to ask, in order."""
        if self._fixed:
            return self._fixed
        found = [words[1] for words in self._resolv_conf.read() if words[0] == "nameserver" and len(words) > 1]
        return tuple((server, 53) for server in found if is_address(server)) or (("127.0.0.1", 53),)

    def _follow(self, question: Question, name: str, done: Done, aliases: int, ttl: float) -> None:
        """Ask for a name; where the answer ends in an alias without its records, go on with that."""
        if not _NAME.fullmatch(name):
            done(f"{name!r} is no host name")
            return

        def answered(outcome: dns.Message | str) -> None:
            self._asking.discard(asking)
            if isinstance(outcome, str):
                done(outcome)
                return
            end, records, lasts = _read(outcome, name, question.kind)
            lasts = min(lasts, ttl)
            if records or end == name:
                done(Answer(records, lasts if records else min(lasts, _negative_ttl(outcome))))
            elif aliases == 0 or end in ("", question.name):
                done("its aliases (CNAME) lead in a circle, or on and on")
            else:
                self._follow(question, end, done, aliases - 1, lasts)

        asking = _Asking(self._reactor, self._clock, self.servers(), name, _TYPES[question.kind], answered)
        self._asking.add(asking)
        asking.start()


class _Asking:
    """One question to the servers in turn, until one answers it."""

    def __init__(
        self,
        reactor: Any,
        clock: IReactorTime,
        servers: Sequence[Address],
        name: str,
        kind: int,
        answered: Callable[[dns.Message | str], None],
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._servers = servers
        self.name = name
        self.kind = kind
        self._answered = answered
        self._attempts = 0
        self._refused: set[Address] = set()
        self._ports: list[Any] = []
        self._connectors: list[Any] = []
        self._next: IDelayedCall | None = None
        self._last: IDelayedCall | None = None

    def start(self) -> None:
        self._last = self._clock.callLater(LAST_WORD, self._finish, "the name servers do not answer")
        self._attempt()

    def take(self, message: dns.Message, server: Address) -> None:
        """Take an answer that fits the question."""
        if self._last is None:
            return
        if message.trunc:
            self._over_tcp(server)
        elif message.rCode in (dns.OK, dns.ENAME):
            self._finish(message)
        else:
            self.refused(server, f"the name server says {_RCODES.get(message.rCode, message.rCode)}")

    def refused(self, server: Address, problem: str) -> None:
        """Go on with the next server; when all have refused, there is no answer."""
        if self._last is None:
            return
        self._refused.add(server)
        if self._refused >= set(self._servers):
            self._finish(problem)
        elif self._next is not None:
            self._next.cancel()
            self._attempt()

    def end(self) -> None:
        for call in (self._next, self._last):
            if call is not None and call.active():
                call.cancel()
        self._next = self._last = None
        ports, self._ports = self._ports, []
        for port in ports:
            port.stopListening()
        connectors, self._connectors = self._connectors, []
        for connector in connectors:
            connector.disconnect()

    def _attempt(self) -> None:
        self._next = None
        server = self._servers[self._attempts % len(self._servers)]
        delay = ATTEMPTS[self._attempts]
        self._attempts += 1
        if self._attempts < len(ATTEMPTS):
            self._next = self._clock.callLater(ATTEMPTS[self._attempts] - delay, self._attempt)
        try:
            datagram = _Datagram(self, server)
            self._ports.append(
                self._reactor.listenUDP(0, datagram, interface="::" if ":" in server[0] else "", maxPacketSize=4096)
            )
        except Exception as error:  # no descriptors, no such family: Twisted has an exception of its own for each
            self.refused(server, f"the name server can't be asked: {error}")

    def _over_tcp(self, server: Address) -> None:
        factory = _TcpFactory(self, server)
        self._connectors.append(self._reactor.connectTCP(*server, factory, timeout=3.0))

    def _finish(self, outcome: dns.Message | str) -> None:
        if self._last is None:
            return
        self.end()
        self._answered(outcome)


class _Reader:
    """Write one question under an id of its own, and read what answers it."""

    def __init__(self, asking: _Asking, server: Address) -> None:
        self.asking = asking
        self.server = server
        message = dns.Message(id=secrets.randbelow(65536), recDes=1)
        message.addQuery(asking.name.encode("ascii"), asking.kind)
        self._id = message.id
        self.question: bytes = message.toStr()

    def read(self, data: bytes) -> dns.Message | None:
        """Return the message if it answers the question, None for everything else."""
        if len(data) < 12 or data[:2] != struct.pack("!H", self._id):
            return None
        message = dns.Message()
        try:
            message.fromStr(data)
        except Exception:  # EOFError, ValueError, struct.error …: whatever twisted.names makes of junk
            return None
        if not message.answer or len(message.queries) != 1:
            return None
        query = message.queries[0]
        same = _text(query.name) == self.asking.name and query.type == self.asking.kind and query.cls == dns.IN
        return message if same else None


class _Datagram(DatagramProtocol):
    def __init__(self, asking: _Asking, server: Address) -> None:
        self._reader = _Reader(asking, server)

    def startProtocol(self) -> None:
        transport: Any = self.transport
        transport.connect(*self._reader.server)
        transport.write(self._reader.question)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        message = self._reader.read(datagram)
        if message is not None:
            self._reader.asking.take(message, self._reader.server)

    def connectionRefused(self) -> None:
        self._reader.asking.refused(self._reader.server, "the name server is not there")

    def stopProtocol(self) -> None:
        # The reactor closes the port when the socket has an ICMP error and nothing to read; when we close it, nobody
        # listens any more.
        self.connectionRefused()


class _Tcp(Protocol):
    def __init__(self, asking: _Asking, server: Address) -> None:
        self._reader = _Reader(asking, server)
        self._buffer = b""
        self._done = False

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(struct.pack("!H", len(self._reader.question)) + self._reader.question)

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        if self._done or len(self._buffer) < 2 or len(self._buffer) < 2 + struct.unpack_from("!H", self._buffer)[0]:
            return
        self._done = True
        message = self._reader.read(self._buffer[2:])
        if message is None or message.trunc:
            self._reader.asking.refused(self._reader.server, "the name server's answer makes no sense")
        else:
            self._reader.asking.take(message, self._reader.server)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self._done:
            self._reader.asking.refused(self._reader.server, "the name server cuts its answer off")


class _TcpFactory(ClientFactory):
    noisy = False

    def __init__(self, asking: _Asking, server: Address) -> None:
        self._asking = asking
        self._server = server

    def buildProtocol(self, addr: Any) -> Protocol:
        return _Tcp(self._asking, self._server)

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self._asking.refused(self._server, "the name server cuts its answers off, and takes no TCP")


class Lines:
    """The words of a system file's lines, read again when it changes; no file is an empty one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signature: tuple[int, int, int] | None = None
        self._lines: list[list[str]] = []

    def read(self) -> list[list[str]]:
        try:
            status = self._path.stat()
            signature = status.st_mtime_ns, status.st_size, status.st_ino
            if signature != self._signature:
                text = self._path.read_text("utf-8", "replace")
                words = (re.split("[#;]", line, maxsplit=1)[0].split() for line in text.splitlines())
                self._lines = [line for line in words if line]
                self._signature = signature
        except OSError:
            self._signature, self._lines = None, []
        return self._lines


_RCODES = {1: "the question is malformed", 2: "it failed (SERVFAIL)", 4: "it can't do that", 5: "it refuses"}


def _read(message: dns.Message, name: str, kind: Kind) -> tuple[str, Records, float]:
    """Follow the aliases within one answer; return the last name, its records and for how long all of it holds.

    The last name is "" where they lead in a circle. Records of other names are no answer to the question, and left
    alone.
    """
    ttl = float("inf")
    seen = {name}
    while True:
        own = [record for record in message.answers if record.cls == dns.IN and _text(record.name) == name]
        found = [record for record in own if record.type == _TYPES[kind]]
        if found:
            ttl = min([ttl, *(float(record.ttl) for record in found)])
            return name, tuple(_value(record.payload) for record in found), ttl  # type: ignore[return-value]
        alias = next((record for record in own if record.type == dns.CNAME), None)
        if alias is None:
            return name, (), ttl
        ttl = min(ttl, float(alias.ttl))
        target: Any = alias.payload
        name = _text(target.name)
        if name in seen:
            return "", (), ttl
        seen.add(name)


def _value(payload: Any) -> str | Naptr | Srv:
    match payload:
        case dns.Record_A():
            return str(ipaddress.IPv4Address(payload.address))
        case dns.Record_AAAA():
            return str(ipaddress.IPv6Address(payload.address))
        case dns.Record_SRV():
            return Srv(payload.priority, payload.weight, payload.port, _text(payload.target))
        case _:
            flags = bytes(payload.flags.string).decode("ascii", "replace")
            service = bytes(payload.service.string).decode("ascii", "replace")
            return Naptr(payload.order, payload.preference, flags, service, _text(payload.replacement))


def _negative_ttl(message: dns.Message) -> float:
    """Return for how long "there is none" holds (RFC 2308 §5), five minutes at most."""
    for record in message.authority:
        if record.type == dns.SOA:
            authority: Any = record.payload
            return float(min(record.ttl, authority.minimum, 300))
    return _NEGATIVE_TTL


def _text(name: Any) -> str:
    return bytes(name.name).decode("ascii", "replace").rstrip(".").lower()
