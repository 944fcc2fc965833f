"""RFC 3261 §17.2.1, figure 7, as amended by RFC 6026, and the 2xx repeats of §13.3.1.4."""

from __future__ import annotations

import pytest

from bridge.sip.events import AckMissing, AckReceived, RequestReceived
from bridge.sip.message import response_to
from bridge.sip.transaction import State
from tests.sip.bench import TCP, UDP, Bench, incoming

EVERY_T1_TO_T2 = [0.0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]


def invited(flow=UDP):
    bench = Bench(flow)
    bench.receive(incoming())
    return bench, bench.one(RequestReceived).transaction


def respond(bench, transaction, status, now=None):
    now = bench.now if now is None else now
    bench.endpoint.respond(transaction, response_to(transaction.request, status, to_tag="ours"), now)
    bench.drain()


def ack(to_tag="ours", branch="z9hG4bKpeer", **rest):
    return incoming("ACK", branch=branch, to_tag=to_tag, **rest)


def test_a_repeated_invite_gets_the_last_provisional_response_again_and_is_told_once():
    bench, transaction = invited()
    bench.receive(incoming())  # nothing has been said yet
    respond(bench, transaction, 100)
    respond(bench, transaction, 180)
    bench.run(0.5)
    bench.receive(incoming())
    assert [(sent.status, sent.retransmission) for _, sent in bench.sent] == [(100, False), (180, False), (180, True)]
    assert len(list(bench.of(RequestReceived))) == 1
    assert transaction.state is State.PROCEEDING
    assert bench.endpoint.next_timeout() is None  # how long it may ring is the user's to say


def test_r04_a_refusal_is_repeated_by_timer_g_and_given_up_by_timer_h():
    bench, transaction = invited()
    respond(bench, transaction, 404)
    bench.run(31.9)
    assert bench.endpoint.counts()["invite_servers"] == 1
    bench.run(60.0)
    assert bench.times("INVITE", 404) == EVERY_T1_TO_T2
    assert [sent.retransmission for _, sent in bench.sent] == [False] + [True] * 10
    assert transaction.final == 404
    assert list(bench.of(AckMissing)) == []
    assert bench.idle()


def test_r04_over_a_stream_a_refusal_is_sent_once():
    bench, transaction = invited(TCP)
    respond(bench, transaction, 404)
    bench.run(31.9)
    assert bench.endpoint.counts()["invite_servers"] == 1  # timer H runs over any transport
    bench.run(60.0)
    assert bench.times("INVITE", 404) == [0.0]
    assert bench.idle()


def test_r04_an_ack_ends_the_repeats_and_timer_i_absorbs_further_ones():
    bench, transaction = invited()
    respond(bench, transaction, 486)
    bench.run(0.6)
    bench.receive(ack())
    bench.run(5.5)
    bench.receive(ack())
    bench.receive(incoming())
    assert bench.times("INVITE", 486) == [0.0, 0.5]
    assert transaction.state is State.CONFIRMED
    bench.run(5.6)  # T4 after the ACK
    assert list(bench.of(AckReceived)) == []
    assert bench.idle()


def test_timer_i_is_zero_over_a_stream():
    bench, transaction = invited(TCP)
    respond(bench, transaction, 486)
    bench.receive(ack())
    bench.run(0.0)
    assert bench.idle()


def test_a_repeated_invite_gets_the_refusal_again():
    bench, transaction = invited()
    respond(bench, transaction, 486)
    bench.run(0.2)
    bench.receive(incoming())
    assert bench.times("INVITE", 486) == [0.0, 0.2]


@pytest.mark.parametrize("flow", [UDP, TCP])
def test_r05_a_2xx_is_repeated_until_64_t1_and_then_the_missing_ack_is_told(flow):
    """RFC 3261 §13.3.1.4: over streams too, since the ACK is end to end."""
    bench, transaction = invited(flow)
    respond(bench, transaction, 200)
    assert bench.endpoint.counts()["pending_2xx"] == 1
    bench.run(60.0)
    assert bench.times("INVITE", 200) == EVERY_T1_TO_T2
    assert bench.when(AckMissing) == [32.0]
    assert bench.one(AckMissing).transaction is transaction
    assert bench.idle()


def test_r05_the_ack_ends_the_repeats_and_is_told_each_time_it_comes():
    bench, transaction = invited()
    respond(bench, transaction, 200)
    bench.run(1.6)
    for at in (1.6, 2.0, 20.0):
        bench.run(at)
        bench.receive(ack(branch=f"z9hG4bKack{at}"))
    bench.run(60.0)
    assert bench.times("INVITE", 200) == [0.0, 0.5, 1.5]
    assert bench.when(AckReceived) == [1.6, 2.0, 20.0]
    assert list(bench.of(AckMissing)) == []
    assert bench.idle()


def test_rfc_6026_timer_l_keeps_the_transaction_to_absorb_repeats_of_the_invite():
    bench, transaction = invited()
    respond(bench, transaction, 200)
    bench.receive(ack(branch="z9hG4bKack"))
    bench.run(31.9)
    bench.receive(incoming())
    assert transaction.state is State.ACCEPTED
    assert len(list(bench.of(RequestReceived))) == 1
    assert bench.times("INVITE", 200) == [0.0]
    bench.run(32.0)
    assert bench.idle()
    bench.receive(ack(branch="z9hG4bKlate"))
    assert bench.endpoint.rejected["no-transaction"] == 1


def test_an_ack_for_the_2xx_on_the_invites_branch_is_taken_as_well():
    """RFC 2543 clients do that."""
    bench, transaction = invited()
    respond(bench, transaction, 200)
    bench.receive(ack())
    assert transaction.acknowledged
    assert bench.one(AckReceived).request.method == "ACK"


@pytest.mark.parametrize("wrong", [{"to_tag": "other"}, {"from_tag": "other"}, {"number": 8}, {"call_id": "other"}])
def test_r05_only_the_ack_of_this_2xx_ends_its_repeats(wrong):
    bench, transaction = invited()
    respond(bench, transaction, 200)
    bench.receive(ack(**{"branch": "z9hG4bKother", **wrong}))
    assert not transaction.acknowledged
    assert list(bench.of(AckReceived)) == []
    assert bench.endpoint.rejected["no-transaction"] == 1


def test_a_stray_ack_before_the_final_response_changes_nothing():
    bench, transaction = invited()
    bench.receive(ack())
    assert transaction.state is State.PROCEEDING
    assert list(bench.of(AckReceived)) == []


@pytest.mark.parametrize("first", [200, 486])
def test_after_a_final_response_there_is_nothing_more_to_say(first):
    bench, transaction = invited()
    respond(bench, transaction, first)
    for status in (180, 200, 487):
        respond(bench, transaction, status)
    assert [sent.status for _, sent in bench.sent] == [first]
    assert transaction.final == first


@pytest.mark.parametrize("status", [None, 180, 200, 486])
def test_r22_a_transport_error_does_not_kill_a_server_transaction(status):
    bench, transaction = invited()
    if status is not None:
        respond(bench, transaction, status)
    before = transaction.state
    bench.endpoint.transport_failed(UDP, 0.0)
    bench.run(0.5)
    assert transaction.state is before
    if status in (200, 486):
        assert bench.times("INVITE", status) == [0.0, 0.5]
