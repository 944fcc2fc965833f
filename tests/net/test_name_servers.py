"""Questions on the wire, to a name server that follows a script: what does not answer them is not believed."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.names import dns

from bridge.net.name_servers import Answer, NameServers, Outcome
from bridge.sip.locate import Kind, Naptr, Question, Srv

pytestmark = pytest.mark.sockets

SERVER = "127.1.0.53"
NAME = "sip.example.com"
A = Question(NAME, Kind.A)
Reply = Callable[[dns.Message, bool], "dns.Message | bytes | None"]


def reply_to(query: dns.Message, *records: dns.RRHeader, code: int = dns.OK, truncated: bool = False) -> dns.Message:
    message = dns.Message(query.id, answer=1, recAv=1, rCode=code, maxSize=65535)
    message.queries = query.queries
    message.answers = list(records)
    message.trunc = truncated
    return message


def record(name: str, payload: Any, ttl: int = 60) -> dns.RRHeader:
    return dns.RRHeader(name.encode(), payload.TYPE, dns.IN, ttl, payload)


def a(name: str = NAME, address: str = "192.0.2.1", ttl: int = 60) -> dns.RRHeader:
    return record(name, dns.Record_A(address), ttl)


def alias(name: str, target: str, ttl: int = 60) -> dns.RRHeader:
    return record(name, dns.Record_CNAME(target.encode()), ttl)


class ScriptedServer:
    """A name server over UDP and TCP on loopback. ``reply`` gets each query and whether it came over TCP."""

    def __init__(self, reply: Reply, host: str = SERVER) -> None:
        self.reply = reply
        self.queries: list[tuple[str, bool]] = []
        self.sources: list[tuple[int, int]] = []  # port and id
        self._tcp = socket.create_server((host, 0))
        self.address = self._tcp.getsockname()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(self.address)
        self._stopped = False
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._datagrams, self._streams)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._udp.sendto(b"", self.address)
        socket.create_connection(self.address).close()
        for thread in self._threads:
            thread.join(5)
        self._udp.close()
        self._tcp.close()

    def _datagrams(self) -> None:
        while True:
            data, source = self._udp.recvfrom(4096)
            if self._stopped:
                return
            for answer in self._answers(data, False, source[1]):
                self._udp.sendto(answer, source)

    def _streams(self) -> None:
        while True:
            sock, source = self._tcp.accept()
            with sock:
                sock.settimeout(2)
                data = sock.recv(4096)
                if self._stopped:
                    return
                for answer in self._answers(data[2:], True, source[1]):
                    sock.sendall(struct.pack("!H", len(answer)) + answer)
                sock.recv(1)

    def _answers(self, data: bytes, tcp: bool, port: int) -> list[bytes]:
        query = dns.Message()
        query.fromStr(data)
        self.queries.append((query.queries[0].name.name.decode(), tcp))
        self.sources.append((port, query.id))
        reply = self.reply(query, tcp)
        if reply is None:
            return []
        return [reply if isinstance(reply, bytes) else reply.toStr()]


@contextmanager
def serving(reply: Reply, host: str = SERVER) -> Iterator[ScriptedServer]:
    server = ScriptedServer(reply, host)
    try:
        yield server
    finally:
        server.stop()


def ask(question: Question, *servers: tuple[str, int], turns: Callable[[], None] = lambda: None) -> Outcome:
    """Ask over real sockets and return what came of it."""
    reactor: Any = EPollReactor()
    asker = NameServers(reactor, reactor, servers)
    outcomes: list[Outcome] = []
    asker.ask(question, outcomes.append)
    ends_at = time.monotonic() + 8
    while not outcomes and time.monotonic() < ends_at:
        turns()
        reactor.iterate(0.01)
    asker.stop()
    for _ in range(5):
        reactor.iterate(0.001)
    reactor.removeAll()
    reactor._poller.close()
    assert outcomes, "nothing came of it"
    assert not reactor.getDelayedCalls()
    return outcomes[0]


def test_records_of_every_kind_come_back_with_their_ttl() -> None:
    records = {
        Kind.A: a(ttl=30),
        Kind.AAAA: record(NAME, dns.Record_AAAA("2001:db8::1"), 30),
        Kind.SRV: record(NAME, dns.Record_SRV(10, 60, 5061, b"A.example.com"), 30),
        Kind.NAPTR: record(NAME, dns.Record_NAPTR(50, 10, b"s", b"SIPS+D2T", b"", b"_sips._tcp.example.com"), 30),
    }
    expected = {
        Kind.A: "192.0.2.1",
        Kind.AAAA: "2001:db8::1",
        Kind.SRV: Srv(10, 60, 5061, "a.example.com"),
        Kind.NAPTR: Naptr(50, 10, "s", "SIPS+D2T", "_sips._tcp.example.com"),
    }
    with serving(lambda query, tcp: reply_to(query, records[Kind(dns.QUERY_TYPES[query.queries[0].type])])) as server:
        for kind, one in expected.items():
            assert ask(Question(NAME, kind), server.address) == Answer((one,), 30.0)  # type: ignore[arg-type]


def test_a_name_that_is_not_there_is_an_answer_that_holds_for_a_while() -> None:
    def reply(query: dns.Message, tcp: bool) -> dns.Message:
        message = reply_to(query, code=dns.ENAME)
        message.authority = [record("example.com", dns.Record_SOA(b"ns", b"admin", minimum=120), 600)]
        return message

    with serving(reply) as server:
        assert ask(A, server.address) == Answer((), 120.0)


@pytest.mark.parametrize(
    "lie",
    [
        lambda query: reply_to(query, a("other.example.com")),
        lambda query: reply_to(query, alias("x.example.com", "y.example.com"), a("y.example.com")),
    ],
    ids=["another name", "another alias"],
)
def test_t21_records_of_other_names_are_no_answer(lie: Callable[[dns.Message], dns.Message]) -> None:
    """T21: answers must be in the question."""
    with serving(lambda query, tcp: lie(query)) as server:
        assert ask(A, server.address) == Answer((), 5.0)


def other_question(query: dns.Message) -> dns.Message:
    message = reply_to(query, a("evil.example.com"))
    message.queries = [dns.Query(b"evil.example.com", dns.A, dns.IN)]
    return message


def other_id(query: dns.Message) -> dns.Message:
    query.id ^= 1
    return reply_to(query, a(address="192.0.2.66"))


def no_answer_bit(query: dns.Message) -> dns.Message:
    message = reply_to(query, a(address="192.0.2.66"))
    message.answer = 0
    return message


@pytest.mark.parametrize(
    "lie",
    [
        other_question,
        other_id,
        no_answer_bit,
        lambda query: b"junk",
        lambda query: struct.pack("!H", query.id) + b"\xff" * 40,
    ],
    ids=["question", "id", "no answer", "junk", "junk with the id"],
)
def test_t21_what_does_not_fit_the_question_is_passed_over_and_asked_again(lie: Callable[[dns.Message], Any]) -> None:
    """T21: the second attempt has the true answer."""
    with serving(lambda query, tcp: lie(query) if len(server.queries) == 1 else reply_to(query, a())) as server:
        assert ask(A, server.address) == Answer(("192.0.2.1",), 60.0)
        assert len(server.queries) == 2


def test_t21_twenty_thousand_wrong_ids_and_strange_sources_are_all_refused() -> None:
    """T21: an attacker that knows the port still has to guess the id, and can't come from another address at all."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger, serving(lambda query, tcp: None) as server:
        sent = 0

        def flood() -> None:
            nonlocal sent
            if not server.sources or sent >= 20_000:
                if sent >= 20_000:
                    server.reply = lambda query, tcp: reply_to(query, a())
                return
            port, right = server.sources[0]
            for guess in range(sent, sent + 500):
                message = dns.Message((right + 1 + guess) % 65536, answer=1)
                message.queries = [dns.Query(NAME.encode(), dns.A, dns.IN)]
                message.answers = [a(address="192.0.2.66")]
                server._udp.sendto(message.toStr(), ("127.0.0.1", port))
            message.id = right
            forger.sendto(message.toStr(), ("127.0.0.1", port))  # the right id from the wrong address
            sent += 500

        assert ask(A, server.address, turns=flood) == Answer(("192.0.2.1",), 60.0)
        assert sent == 20_000


def test_t21_every_attempt_has_an_id_and_a_port_of_its_own() -> None:
    with serving(lambda query, tcp: reply_to(query, a()) if len(server.queries) > 2 else None) as server:
        ask(A, server.address)
        assert len(set(server.sources)) == len({port for port, _ in server.sources}) == 3


def test_r52_a_truncated_answer_is_fetched_over_tcp() -> None:
    """R52: 30 targets do not fit a datagram of 512 octets."""
    targets = [record(NAME, dns.Record_SRV(1, 1, 5060, f"h{n}.example.com".encode())) for n in range(30)]

    def reply(query: dns.Message, tcp: bool) -> dns.Message:
        return reply_to(query, *targets) if tcp else reply_to(query, truncated=True)

    with serving(reply) as server:
        outcome = ask(Question(NAME, Kind.SRV), server.address)
    assert isinstance(outcome, Answer)
    assert len(outcome.records) == 30


def test_r52_aliases_are_followed_within_an_answer_and_beyond_it() -> None:
    def reply(query: dns.Message, tcp: bool) -> dns.Message:
        name = query.queries[0].name.name.decode()
        if name == NAME:
            return reply_to(query, alias(NAME, "b.example.com", 20), alias("b.example.com", "c.example.net"))
        return reply_to(query, a("c.example.net", ttl=90))

    with serving(reply) as server:
        assert ask(A, server.address) == Answer(("192.0.2.1",), 20.0)
        assert [name for name, _ in server.queries] == [NAME, "c.example.net"]


@pytest.mark.parametrize("where", ["in one answer", "over answers", "on and on"])
def test_r52_t21_a_circle_of_aliases_ends(where: str) -> None:
    """R52, T21: CNAME loop."""

    def reply(query: dns.Message, tcp: bool) -> dns.Message:
        name = query.queries[0].name.name.decode()
        if where == "in one answer":
            return reply_to(query, alias(NAME, "b.example.com"), alias("b.example.com", NAME))
        if where == "over answers":
            return reply_to(query, alias(name, "b.example.com" if name == NAME else NAME))
        return reply_to(query, alias(name, f"x{name}"))

    with serving(reply) as server:
        assert ask(A, server.address) == "its aliases (CNAME) lead in a circle, or on and on"
        assert len(server.queries) < 12


def test_r52_a_server_that_fails_is_passed_over_for_the_next() -> None:
    with (
        serving(lambda query, tcp: reply_to(query, code=dns.ESERVER)) as broken,
        serving(lambda query, tcp: reply_to(query, a()), "127.1.0.54") as good,
    ):
        assert ask(A, broken.address, good.address) == Answer(("192.0.2.1",), 60.0)
        assert ask(A, broken.address) == "the name server says it failed (SERVFAIL)"


def test_f11_a_server_that_is_not_there_is_known_at_once_and_one_that_hangs_is_passed_over() -> None:
    """F11: ICMP says it, or the next server is asked after 0.4 s."""
    with serving(lambda query, tcp: None) as gone:
        pass
    assert ask(A, gone.address) == "the name server is not there"
    with (
        serving(lambda query, tcp: None) as silent,
        serving(lambda query, tcp: reply_to(query, a()), "127.1.0.54") as good,
    ):
        assert ask(A, silent.address, good.address) == Answer(("192.0.2.1",), 60.0)


@pytest.mark.parametrize("name", ["", "a..b", "a b", "x" * 64 + ".com", "ü.example.com", "a.b" * 100])
def test_what_is_no_name_is_not_asked_for(name: str) -> None:
    outcome = ask(Question(name, Kind.A), (SERVER, 1))
    assert isinstance(outcome, str)
    assert "is no host name" in outcome


def test_the_servers_are_those_of_resolv_conf_as_it_is_now(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(
        "# made by hand\nnameserver 192.0.2.53\nsearch example.com\nnameserver 2001:db8::53 ; v6\nnameserver\n"
    )
    reactor: Any = None
    servers = NameServers(reactor, reactor, (), str(file))
    assert servers.servers() == (("192.0.2.53", 53), ("2001:db8::53", 53))
    file.write_text("")
    assert servers.servers() == (("127.0.0.1", 53),)
    assert NameServers(reactor, reactor, [("192.0.2.9", 5353)], str(file)).servers() == (("192.0.2.9", 5353),)
