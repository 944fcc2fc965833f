"""RFC 3261 §17.1.1, figure 5, as amended by RFC 6026: send times to the tick of a virtual clock."""

from __future__ import annotations

import pytest

from bridge.sip.events import ResponseReceived, TransactionFailed, TransactionTimedOut
from bridge.sip.message import Request
from bridge.sip.transaction import State
from tests.sip.bench import TCP, UDP, Bench, answer, outgoing


def calling(flow=UDP):
    bench = Bench(flow)
    transaction = bench.endpoint.send_request(outgoing(), flow, 0.0, owner="leg")
    bench.drain()
    return bench, transaction


def test_r01_an_invite_is_repeated_by_timer_a_and_given_up_by_timer_b():
    bench, transaction = calling()
    bench.run(60.0)
    assert bench.times("INVITE") == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert bench.when(TransactionTimedOut) == [32.0]
    assert bench.one(TransactionTimedOut).transaction is transaction
    assert transaction.owner == "leg"
    assert len({sent.data for _, sent in bench.sent}) == 1
    assert [sent.retransmission for _, sent in bench.sent] == [False] + [True] * 6
    assert bench.idle()


def test_r01_over_a_stream_an_invite_is_sent_once():
    bench, _ = calling(TCP)
    bench.run(60.0)
    assert bench.times("INVITE") == [0.0]
    assert bench.when(TransactionTimedOut) == [32.0]
    assert bench.idle()


def test_a_provisional_response_ends_the_repeats_and_the_deadline():
    bench, transaction = calling()
    bench.run(0.7)
    bench.receive(answer(transaction.request, 100))
    bench.run(500.0)
    assert bench.times("INVITE") == [0.0, 0.5]
    assert transaction.provisional
    assert transaction.state is State.PROCEEDING
    assert [event.response.status for event in bench.of(ResponseReceived)] == [100]
    assert bench.endpoint.counts()["timers"] == 0


@pytest.mark.parametrize("provisional", [(), (100,), (100, 180, 183, 180)])
@pytest.mark.parametrize("flow", [UDP, TCP])
def test_r03_a_refusal_is_acknowledged_in_the_transaction_each_time_it_comes(provisional, flow):
    bench, transaction = calling(flow)
    for status in provisional:
        bench.receive(answer(transaction.request, status))
    refusal = answer(transaction.request, 486)
    for at in (1.0, 2.0, 6.0, 12.0, 20.0) if flow is UDP else (1.0,):
        bench.run(at)
        bench.receive(refusal)
    assert bench.times("ACK") == ([1.0, 2.0, 6.0, 12.0, 20.0] if flow is UDP else [1.0])
    acks = [sent for _, sent in bench.sent if sent.method == "ACK"]
    assert len({ack.data for ack in acks}) == 1
    assert [ack.retransmission for ack in acks] == [False] + [True] * (len(acks) - 1)
    (ack,) = bench.messages("ACK")[:1]
    assert isinstance(ack, Request)
    invite = transaction.request
    assert ack.uri == invite.uri
    for name in ("Via", "From", "Call-ID", "Route"):
        assert ack.headers.get_all(name) == invite.headers.get_all(name)
    assert ack.to.tag == "callee"
    assert (ack.cseq.number, ack.cseq.method) == (invite.cseq.number, "ACK")
    statuses = [event.response.status for event in bench.of(ResponseReceived)]
    assert statuses == [*provisional, 486]
    assert transaction.final is not None
    assert transaction.final.status == 486


def test_r03_timer_d_keeps_the_transaction_32_seconds_for_repeats():
    bench, transaction = calling()
    bench.run(1.0)
    bench.receive(answer(transaction.request, 503))
    bench.run(32.999)
    assert bench.endpoint.counts()["invite_clients"] == 1
    bench.run(33.0)
    assert bench.idle()
    bench.receive(answer(transaction.request, 503))
    assert len(bench.times("ACK")) == 1
    assert bench.endpoint.rejected["no-transaction"] == 1


def test_timer_d_is_zero_over_a_stream():
    bench, transaction = calling(TCP)
    bench.receive(answer(transaction.request, 503))
    bench.run(0.0)
    assert bench.idle()


def test_credentials_go_with_the_ack():
    """RFC 3261 §22.1."""
    bench = Bench()
    request = outgoing()
    request.headers.add("Proxy-Authorization", 'Digest username="u"')
    transaction = bench.endpoint.send_request(request, UDP, 0.0)
    bench.receive(answer(transaction.request, 500))
    (ack,) = bench.messages("ACK")
    assert ack.headers.get("Proxy-Authorization") == 'Digest username="u"'


@pytest.mark.parametrize("provisional", [(), (180,)])
def test_rfc_6026_every_2xx_reaches_the_user_until_timer_m(provisional):
    bench, transaction = calling()
    for status in provisional:
        bench.receive(answer(transaction.request, status))
    for at, tag in ((1.0, "callee"), (1.5, "callee"), (2.0, "fork"), (32.9, "callee")):
        bench.run(at)
        bench.receive(answer(transaction.request, 200, to_tag=tag))
    answers = [event for event in bench.of(ResponseReceived) if event.response.status == 200]
    assert [event.response.to.tag for event in answers] == ["callee", "callee", "fork", "callee"]
    assert bench.times("ACK") == []  # the user's business (RFC 3261 §13.2.2.4)
    assert transaction.state is State.ACCEPTED
    assert transaction.final is not None
    assert transaction.final.to.tag == "callee"
    bench.run(33.0)
    assert bench.idle()
    bench.receive(answer(transaction.request, 200))
    assert bench.endpoint.rejected["no-transaction"] == 1


def test_what_comes_after_a_final_response_changes_nothing():
    bench, transaction = calling()
    bench.receive(answer(transaction.request, 200))
    for status in (180, 486):
        bench.receive(answer(transaction.request, status))
    assert transaction.state is State.ACCEPTED
    refused, second = calling()
    refused.receive(answer(second.request, 486))
    for status in (180, 200):
        refused.receive(answer(second.request, status))
    assert second.state is State.COMPLETED
    for each in (bench, refused):
        assert len(list(each.of(ResponseReceived))) == 1
    assert len(refused.times("ACK")) == 1


@pytest.mark.parametrize("provisional", [(), (180,)])
def test_a_transport_error_fails_the_call_before_its_final_response(provisional):
    bench, transaction = calling()
    for status in provisional:
        bench.receive(answer(transaction.request, status))
    bench.endpoint.transport_failed(UDP, 0.0)
    bench.drain()
    assert bench.one(TransactionFailed).transaction is transaction
    assert bench.idle()


@pytest.mark.parametrize("status", [200, 486])
def test_a_transport_error_after_the_final_response_is_not_news(status):
    bench, transaction = calling()
    bench.receive(answer(transaction.request, status))
    bench.endpoint.transport_failed(UDP, 0.0)
    bench.drain()
    assert list(bench.of(TransactionFailed)) == []
    assert bench.endpoint.counts()["invite_clients"] == 1
    assert transaction.state in (State.ACCEPTED, State.COMPLETED)


def test_another_flows_error_is_not_ours():
    bench, transaction = calling()
    bench.endpoint.transport_failed(TCP, 0.0)
    bench.drain()
    assert transaction.state is State.CALLING
