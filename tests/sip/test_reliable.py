"""Reliable provisional responses (RFC 3262) from the side that sends them."""

from __future__ import annotations

import pytest

from bridge.errors import PeerError
from bridge.sip.events import PrackMissing, RequestReceived
from bridge.sip.message import Request, parse, response_to
from bridge.sip.reliable import FIRST_RSEQ
from bridge.sip.transaction import State
from tests.sip.bench import TCP, Bench, incoming

REPEATS = [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]


def invited(flow=None):
    bench = Bench(*([flow] if flow else []))
    via = f"SIP/2.0/{bench.flow.transport.upper()} 198.51.100.7:5070;branch=z9hG4bKpeer;rport"
    bench.receive(incoming(via=via, extra="Supported: 100rel\n"))
    return bench, bench.one(RequestReceived).transaction


def reliably(bench, transaction, status=183, body=b"v=0\r\n", **named):
    response = response_to(transaction.request, status, to_tag="ours", **named)
    response.body = body
    bench.endpoint.respond_reliably(transaction, response, bench.now)
    bench.drain()


def finally_(bench, transaction, status):
    bench.endpoint.respond(transaction, response_to(transaction.request, status, to_tag="ours"), bench.now)
    bench.drain()


def prack(rseq, *, cseq=7, method="INVITE", to_tag="ours", number=8, rack=None) -> Request:
    rack = f"{rseq} {cseq} {method}" if rack is None else rack
    extra = f"RAck: {rack}\n" if rack else ""
    request = parse(incoming("PRACK", branch=f"z9hG4bK{number}", number=number, to_tag=to_tag, extra=extra))
    assert isinstance(request, Request)
    return request


def acknowledge(bench, request):
    found = bench.endpoint.provisional_acknowledged(request, bench.now)
    bench.drain()
    return found


def rseqs(bench) -> list[int]:
    return [
        int(message.headers.get("RSeq") or 0)
        for _, sent in bench.sent
        if 100 < sent.status < 200
        for message in [parse(sent.data)]
    ]


@pytest.mark.parametrize("flow", [None, TCP], ids=["udp", "tcp"])
def test_r30_a_reliable_183_is_repeated_until_64_t1_and_then_given_up(flow):
    bench, transaction = invited(flow)
    reliably(bench, transaction)
    bench.run(100.0)
    assert bench.times("INVITE", 183) == REPEATS
    assert bench.when(PrackMissing) == [32.0]
    assert bench.one(PrackMissing).transaction is transaction
    assert len({sent.data for _, sent in bench.sent}) == 1
    assert [sent.retransmission for _, sent in bench.sent] == [False, *[True] * 6]
    finally_(bench, transaction, 504)
    assert bench.times("INVITE", 504) == [100.0]
    bench.run(200.0)
    assert bench.idle()
    assert not bench.endpoint._reliable


def test_r30_it_bears_require_100rel_and_a_random_rseq():
    bench, transaction = invited()
    reliably(bench, transaction)
    (response,) = bench.messages("INVITE", 183)
    assert response.headers.get_all("Require") == ["100rel"]
    assert 1 <= rseqs(bench)[0] <= FIRST_RSEQ
    assert 32 in bench.tokens.asked


@pytest.mark.parametrize(("token", "first"), [("ffffffff", 2), ("00000000", 1), ("7ffffffe", FIRST_RSEQ)])
def test_r30_rseq_begins_at_1_to_2_to_the_31_minus_1_and_never_wraps(token, first):
    bench, transaction = invited()
    bench.tokens.token = lambda bits: token
    for _ in range(3):
        reliably(bench, transaction, 180, b"")
    for offset in range(3):
        assert acknowledge(bench, prack(first + offset))
    assert rseqs(bench) == [first, first + 1, first + 2]


def test_r30_a_prack_stops_the_repeats():
    bench, transaction = invited()
    reliably(bench, transaction)
    bench.run(1.0)
    (rseq, _) = rseqs(bench)
    assert acknowledge(bench, prack(rseq))
    bench.run(100.0)
    assert bench.times("INVITE", 183) == [0.0, 0.5]
    assert not list(bench.of(PrackMissing))
    finally_(bench, transaction, 486)
    bench.run(200.0)
    assert bench.idle()


def test_r30_the_next_one_waits_for_the_prack_of_the_first():
    bench, transaction = invited()
    reliably(bench, transaction, 183)
    reliably(bench, transaction, 180, b"")
    assert [sent.status for _, sent in bench.sent] == [183]
    bench.run(2.0)
    first = rseqs(bench)[0]
    assert acknowledge(bench, prack(first))
    bench.run(2.6)
    assert bench.times("INVITE", 180) == [2.0, 2.5]
    assert rseqs(bench)[-1] == first + 1
    assert acknowledge(bench, prack(first + 1, number=9))


def test_r30_a_prack_that_matches_nothing_is_told_apart():
    bench, transaction = invited()
    assert not acknowledge(bench, prack(1))
    reliably(bench, transaction)
    rseq = rseqs(bench)[0]
    for wrong in (
        prack(rseq + 1),
        prack(rseq, cseq=8),
        prack(rseq, method="UPDATE"),
        prack(rseq, to_tag="other"),
    ):
        assert not acknowledge(bench, wrong)
    assert acknowledge(bench, prack(rseq))
    assert not acknowledge(bench, prack(rseq, number=9))


@pytest.mark.parametrize("rack", ["", "x", "1 2", "0 7 INVITE", "+1 7 INVITE", f"{2**32} 7 INVITE", "1 7 INVITE x"])
def test_r30_a_malformed_rack_is_400(rack):
    bench, transaction = invited()
    reliably(bench, transaction)
    with pytest.raises(PeerError) as caught:
        bench.endpoint.provisional_acknowledged(prack(1, rack=rack), 0.0)
    assert caught.value.status == 400


def test_r30_a_200_waits_for_the_prack_of_a_183_with_sdp():
    bench, transaction = invited()
    reliably(bench, transaction)
    finally_(bench, transaction, 200)
    finally_(bench, transaction, 200)
    reliably(bench, transaction, 180, b"")
    finally_(bench, transaction, 180)
    bench.run(1.0)
    assert bench.times("INVITE", 200) == []
    finals = [transaction.final]
    assert acknowledge(bench, prack(rseqs(bench)[0]))
    assert bench.times("INVITE", 200) == [1.0]
    assert [*finals, transaction.final] == [None, 200]
    bench.receive(incoming("ACK", to_tag="ours", branch="z9hG4bKack"))
    bench.run(100.0)
    assert bench.idle()
    assert [sent.status for _, sent in bench.sent].count(180) == 0


def test_r30_a_200_waits_for_every_one_with_sdp_but_not_for_those_without():
    bench, transaction = invited()
    reliably(bench, transaction, 183)
    reliably(bench, transaction, 183)
    reliably(bench, transaction, 180, b"")
    finally_(bench, transaction, 200)
    first = rseqs(bench)[0]
    assert acknowledge(bench, prack(first))
    assert bench.times("INVITE", 200) == []
    assert acknowledge(bench, prack(first + 1))
    assert bench.times("INVITE", 200) == [0.0]
    assert bench.times("INVITE", 180) == []  # RFC 3262 §3: none is begun after the final response


def test_r30_a_200_does_not_wait_where_no_sdp_is_unacknowledged_and_ends_the_repeats():
    bench, transaction = invited()
    reliably(bench, transaction, 180, b"")
    reliably(bench, transaction, 180, b"")
    finally_(bench, transaction, 200)
    assert bench.times("INVITE", 200) == [0.0]
    assert acknowledge(bench, prack(rseqs(bench)[0]))  # RFC 3262 §3: it still counts after the final response
    bench.receive(incoming("ACK", to_tag="ours", branch="z9hG4bKack"))
    bench.run(100.0)
    assert len(bench.times("INVITE", 180)) == 1
    assert not list(bench.of(PrackMissing))
    assert bench.idle()


def test_r30_a_refusal_goes_out_at_once_and_takes_the_place_of_a_200_that_waits():
    bench, transaction = invited()
    reliably(bench, transaction)
    finally_(bench, transaction, 200)
    finally_(bench, transaction, 487)
    assert [sent.status for _, sent in bench.sent] == [183, 487]
    assert acknowledge(bench, prack(rseqs(bench)[0]))
    bench.receive(incoming("ACK", to_tag="ours"))
    assert transaction.state is State.CONFIRMED
    bench.run(100.0)
    assert bench.times("INVITE", 183) == [0.0]
    assert bench.times("INVITE", 200) == []
    assert not list(bench.of(PrackMissing))
    assert bench.idle()


def test_r30_without_the_prack_a_200_that_waits_is_gone():
    bench, transaction = invited()
    reliably(bench, transaction)
    finally_(bench, transaction, 200)
    bench.run(32.0)
    bench.one(PrackMissing)
    assert not acknowledge(bench, prack(rseqs(bench)[0]))
    finally_(bench, transaction, 504)
    bench.run(100.0)
    assert bench.times("INVITE", 200) == []
    assert bench.idle()


def test_a_repeated_invite_gets_the_reliable_response_again():
    bench, transaction = invited()
    reliably(bench, transaction)
    bench.run(0.1)
    bench.receive(transaction.request)
    assert bench.times("INVITE", 183) == [0.0, 0.1]


def test_t13_a_reliable_response_that_can_not_be_printed_leaves_nothing_behind():
    bench, transaction = invited()
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        reliably(bench, transaction, reason="a\r\nX-Evil: b")
    finally_(bench, transaction, 486)
    assert [sent.status for _, sent in bench.sent] == [486]
