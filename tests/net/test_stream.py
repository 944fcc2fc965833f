"""TCP: messages arrive whole, go over the connection that lives, and a peer that misbehaves costs only itself."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from bridge.net import stream as stream_module
from bridge.net.connection import HANDSHAKE_DEADLINE, IDLE_DEADLINE, MESSAGE_DEADLINE, PONG_DEADLINE, WRITE_LIMIT
from bridge.net.stream import LEAST_ALLOWANCE, MOST_CONNECTIONS, Census, StreamListener
from bridge.sip.events import Flow
from tests.net.streams import OURS, PEER, Ends, answering, ends, message, peer
from tests.net.watching import logged_warnings

pytestmark = pytest.mark.sockets


@pytest.fixture
def wire() -> Iterator[Ends]:
    with ends() as made:
        yield made


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# -- in ----------------------------------------------------------------------------------------------------------------


def test_messages_arrive_whole_however_they_are_dealt_out(wire: Ends) -> None:
    sock = wire.connect()
    text = message(1, b"body") + message(2)
    for at in range(0, len(text), 7):
        sock.sendall(text[at : at + 7])
        wire.turn(0.001)
    wire.until(lambda: len(wire.told.received) == 2)
    assert [data for data, _ in wire.told.received] == [message(1, b"body"), message(2)]
    [flow] = {flow for _, flow in wire.told.received}
    assert flow == Flow("tcp", wire.listener.bound, sock.getsockname()[:2], flow.connection, "")
    assert flow.connection > 0


def test_connections_have_numbers_that_rise(wire: Ends) -> None:
    for number in range(3):
        wire.connect().sendall(message(number))
        wire.settle()
    wire.until(lambda: len(wire.told.received) == 3)
    numbers = [flow.connection for _, flow in wire.told.received]
    assert numbers == sorted(set(numbers))


def test_an_answer_goes_back_over_the_connection_that_asked(wire: Ends) -> None:
    """RFC 3261 §18.2.2: even where the flow's remote is another place, to which it would go without a connection."""
    first, second = wire.connect(), wire.connect()
    first.sendall(message(1))
    second.sendall(message(2))
    wire.until(lambda: len(wire.told.received) == 2)
    for data, flow in wire.told.received:
        wire.listener.send(b"answer to " + data[-40:], wire.flow((PEER, 5060), flow.connection))
    assert b"CSeq: 1" in wire.read(first)
    assert b"CSeq: 2" in wire.read(second)


def test_t05_a_stranger_is_closed_before_it_can_say_anything(wire: Ends) -> None:
    """T05: nothing is read of it, nothing is sent to it, and it is counted."""
    sock = wire.connect("127.1.0.66")
    assert wire.read(sock) == b""
    assert wire.told.turned_away == ["unknown-source"]
    assert wire.told.received == []
    assert wire.listener.counts() == {"connections": 0, "dials": 0}


def test_t14_a_stream_that_cant_be_framed_is_refused_and_ended(wire: Ends) -> None:
    """T14: what stands behind a doubtful length might be somebody's smuggled request."""

    def answer(data: bytes, flow: Flow) -> None:
        wire.listener.send(b"SIP/2.0 400 Bad\r\n\r\n", flow)

    wire.told.react = answer
    sock = wire.connect()
    sock.sendall(b"OPTIONS sip:a SIP/2.0\r\nContent-Length: +5\r\n\r\n" + message(2))
    assert wire.read(sock).startswith(b"SIP/2.0 400")
    assert wire.read(sock) == b""
    assert [data for data, _ in wire.told.received] == [b"OPTIONS sip:a SIP/2.0\r\nContent-Length: +5\r\n\r\n"]
    assert len(wire.told.lost) == 1
    wire.advance(3)
    assert not wire.census.of


# -- slow and deaf peers -----------------------------------------------------------------------------------------------


def test_t15_a_message_that_is_not_finished_in_time_costs_its_connection_only(wire: Ends) -> None:
    """T15: one octet every 4 s never ends; 32 s after the first it is over, and the others were not touched."""
    slow = [wire.connect() for _ in range(10)]
    good = wire.connect()
    good.sendall(message(1))
    text = message(2)
    for second in range(int(MESSAGE_DEADLINE)):
        if second % 4 == 0:
            for sock in slow:
                sock.sendall(text[second // 4 : second // 4 + 1])
        if second % 10 == 0:
            good.sendall(message(3))
        wire.advance(1)
        wire.settle(2)
    wire.advance(1)
    wire.settle()
    assert all(wire.read(sock) == b"" for sock in slow)
    assert wire.listener.counts()["connections"] == 1
    assert wire.census.total == 1
    assert len(wire.told.received) == 5


def test_t15_who_connects_and_says_nothing_is_sent_away(wire: Ends) -> None:
    sock = wire.connect()
    wire.advance(MESSAGE_DEADLINE + 1)
    assert wire.read(sock) == b""
    assert wire.census.total == 0


def test_t15_an_idle_connection_is_closed_and_one_that_keeps_alive_is_not(wire: Ends) -> None:
    """T15: 10 minutes."""
    idle, kept = wire.connect(), wire.connect()
    for sock in (idle, kept):
        sock.sendall(message())
    wire.until(lambda: len(wire.told.received) == 2)
    for _ in range(7):
        wire.advance(IDLE_DEADLINE / 6, step=50)
        kept.sendall(b"\r\n\r\n")
        assert wire.read(kept) == b"\r\n"
    assert wire.read(idle) == b""
    assert wire.listener.counts()["connections"] == 1


def test_t15_a_peer_that_never_reads_is_cut_off_with_a_bounded_backlog(wire: Ends) -> None:
    sock = wire.connect()
    sock.sendall(message())
    wire.until(lambda: wire.told.received)
    flow = wire.told.received[0][1]
    written: list[int] = []

    def write() -> None:
        for _ in range(2000):  # the kernel's own buffers take megabytes; beyond them it is 1 MiB
            wire.listener.send(b"x" * 50_000, flow)
            written.append(50_000)
            wire.turn(0.0)

    with logged_warnings() as warnings, pytest.raises(OSError, match="does not read"):
        write()
    wire.until(lambda: wire.told.lost)
    assert wire.told.lost == [flow]
    assert WRITE_LIMIT < sum(written) < 40 * WRITE_LIMIT
    assert "does not read" in warnings[0]


def test_t15_a_source_has_its_share_of_connections_and_no_more() -> None:
    """T15: 20 connections a source, or as many as its peer may have calls."""
    with ends(known=(peer(max_calls=5),)) as wire:
        socks = [wire.connect() for _ in range(LEAST_ALLOWANCE + 3)]
        assert wire.listener.counts()["connections"] == LEAST_ALLOWANCE
        assert wire.told.turned_away == ["too-many-connections-of-a-source"] * 3
        socks[0].close()
        wire.until(lambda: wire.census.total == LEAST_ALLOWANCE - 1)
        wire.connect().sendall(message())
        wire.until(lambda: wire.told.received)


def test_t15_all_sources_together_have_a_limit_too() -> None:
    """T15: 2,000 in all."""
    census, known = Census(), (peer(max_calls=50),)
    taken = 0
    for number in range(100):
        while not census.obstacle(f"192.0.2.{number}", known):
            census.add(f"192.0.2.{number}")
            taken += 1
    assert taken == MOST_CONNECTIONS == 2000
    assert census.obstacle("192.0.2.200", known) == "too-many-connections"
    census.remove("192.0.2.0")
    assert census.obstacle("192.0.2.200", known) == ""


# -- out ---------------------------------------------------------------------------------------------------------------


def test_what_is_sent_dials_once_and_keeps_its_order(wire: Ends) -> None:
    with answering() as server:
        flow = wire.flow(server.getsockname())
        for number in range(5):
            wire.listener.send(message(number), flow)
        assert wire.listener.counts() == {"connections": 0, "dials": 1}
        sock, source = wire.let(server.accept)
        wire.sockets.append(sock)
        assert source[0] == OURS, "from the listener's own address, by which the peer knows us"
        assert wire.read(sock) == b"".join(map(message, range(5)))
        wire.listener.send(b"more", flow)
        assert wire.read(sock) == b"more"
        sock.sendall(message(9))
        wire.until(lambda: wire.told.received)
        [(_, back)] = wire.told.received
        assert (back.remote, back.connection > 0) == (flow.remote, True)


def test_a_connection_is_shared_by_name_and_address_both(wire: Ends) -> None:
    """D14: what was proved for one name is not proved for another at the same address."""
    with answering() as server:
        for name in ("a.example.com", "b.example.com", "a.example.com"):
            wire.listener.send(message(), wire.flow(server.getsockname(), name=name))
        socks = [wire.let(server.accept)[0] for _ in range(2)]
        wire.sockets += socks
        assert sorted(len(wire.read(sock)) for sock in socks) == [len(message()), 2 * len(message())]


def test_r51_a_refused_connection_fails_every_flow_that_waited_once(wire: Ends) -> None:
    """R51, RFC 3261 §18.4: the calls move to the next target with the refusal, not after a timer."""
    with answering() as server:
        address = server.getsockname()
    one, other = wire.flow(address), wire.flow(address, connection=77)
    with logged_warnings() as warnings:
        for flow in (one, one, other):
            wire.listener.send(message(), flow)
        wire.until(lambda: wire.told.failed)
    assert wire.told.failed == [one, other]
    assert wire.told.lost == []
    assert wire.listener.counts() == {"connections": 0, "dials": 0}
    assert "it refuses the connection" in warnings[0]


def test_a_dial_keeps_only_so_much_waiting(wire: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MOST_WAITING", 3)
    with answering() as server:
        flow = wire.flow(server.getsockname())
        for _ in range(3):
            wire.listener.send(message(), flow)
        with pytest.raises(OSError, match="too much waits"):
            wire.listener.send(message(), flow)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_d17_a_connection_that_ends_is_told_once_and_the_next_message_dials_anew(wire: Ends, how: str) -> None:
    """D17: platforms and carriers close silently in mid-call."""
    with answering() as server:
        flow = wire.flow(server.getsockname())
        wire.listener.send(message(1), flow)
        sock, _ = wire.let(server.accept)
        assert wire.read(sock) == message(1)
        sock.close() if how == "close" else reset(sock)
        wire.until(lambda: wire.told.lost)
        [lost] = wire.told.lost
        assert (lost.remote, lost.local, lost.connection > 0) == (flow.remote, flow.local, True)
        wire.listener.send(message(2), lost)
        again, _ = wire.let(server.accept)
        wire.sockets.append(again)
        assert wire.read(again) == message(2)
    assert len(wire.told.lost) == 1


def test_an_inbound_connection_that_died_is_replaced_by_a_call_back(wire: Ends) -> None:
    with answering() as server:
        sock = wire.connect()
        sock.sendall(message())
        wire.until(lambda: wire.told.received)
        number = wire.told.received[0][1].connection
        reset(sock)
        wire.until(lambda: wire.told.lost)
        wire.listener.send(b"BYE", wire.flow(server.getsockname(), number))
        back, _ = wire.let(server.accept)
        wire.sockets.append(back)
        assert wire.read(back) == b"BYE"


# -- keep-alive --------------------------------------------------------------------------------------------------------


def test_r53_a_ping_is_answered_at_once(wire: Ends) -> None:
    """R53, RFC 5626 §4.4.1: in the same turn of the reactor that read it, far below 100 ms."""
    sock = wire.connect()
    sock.sendall(b"\r\n\r\n")
    assert wire.read(sock) == b"\r\n"
    sock.sendall(b"\r\n\r\n" + message() + b"\r\n\r\n")
    wire.until(lambda: wire.told.received)
    assert wire.read(sock) == b"\r\n\r\n"


def test_r53_a_peer_that_stops_answering_pings_is_replaced_within_twelve_seconds() -> None:
    """R53: RFC 5626 §4.4.1 gives it 10 s."""
    with ends(known=(peer(keepalive=30.0),)) as wire, answering() as server:
        flow = wire.flow(server.getsockname())
        wire.listener.send(message(), flow)
        sock, _ = wire.let(server.accept)
        wire.sockets.append(sock)
        assert wire.read(sock) == message()
        for _ in range(2):
            wire.advance(30)
            assert wire.read(sock) == b"\r\n\r\n"
            sock.sendall(b"\r\n")
            wire.settle()
        wire.advance(30)
        assert wire.read(sock) == b"\r\n\r\n"
        wire.advance(PONG_DEADLINE + 1)
        assert [lost.remote for lost in wire.told.lost] == [flow.remote]


def test_a_peer_that_has_never_answered_a_ping_is_not_cut_off_for_it() -> None:
    """D17: most parties let the pings pass in silence; the pings still keep their NATs and reapers content."""
    with ends(known=(peer(keepalive=30.0),)) as wire, answering() as server:
        wire.listener.send(message(), wire.flow(server.getsockname()))
        sock, _ = wire.let(server.accept)
        wire.sockets.append(sock)
        assert wire.read(sock) == message()
        wire.advance(3600, step=10)
        assert wire.told.lost == []
        pings = b""
        while len(pings) < 100 * 4:
            pings += wire.read(sock)


def test_no_pings_where_the_peer_wants_none() -> None:
    with ends(known=(peer(keepalive=0.0),)) as wire, answering() as server:
        wire.listener.send(message(), wire.flow(server.getsockname()))
        sock, _ = wire.let(server.accept)
        wire.sockets.append(sock)
        assert wire.read(sock) == message()
        wire.advance(IDLE_DEADLINE - 1, step=10)
        assert wire.told.lost == []
        wire.advance(5)
        assert wire.read(sock) == b""


# -- addresses ---------------------------------------------------------------------------------------------------------


def test_ipv6_listens_beside_ipv4_on_one_port() -> None:
    census = Census()
    first = StreamListener("127.0.0.1", 0, census, lambda low, high: high, None)
    try:
        second = StreamListener("::1", first.bound[1], census, lambda low, high: high, None)
    except OSError as error:
        pytest.skip(f"no ::1 here: {error}")
    finally:
        first.stop()
    second.stop()


def test_two_listeners_on_one_port_are_refused() -> None:
    first = StreamListener("127.0.0.1", 0, Census(), lambda low, high: high, None)
    with pytest.raises(OSError, match="in use"):
        StreamListener(*first.bound, Census(), lambda low, high: high, None)
    first.stop()


def test_a_stopped_listener_leaves_no_connection_and_tells_nobody(wire: Ends) -> None:
    sock = wire.connect()
    sock.sendall(message())
    wire.until(lambda: wire.told.received)
    wire.listener.stop()
    assert wire.read(sock) == b""
    assert wire.told.lost == []
    assert HANDSHAKE_DEADLINE < MESSAGE_DEADLINE
