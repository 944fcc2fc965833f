"""Transactions over TCP and TLS: no repeats, connections that are lost in between, and requests too large for UDP."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bridge.sip.events import (
    CancelReceived,
    Flow,
    RequestReceived,
    ResponseReceived,
    TransactionFailed,
    TransactionTimedOut,
)
from bridge.sip.message import Request, response_to
from bridge.sip.transaction import State
from tests.sip.bench import OURS, PEER, TCP, UDP, Bench, answer, incoming, outgoing

DIALLED = Flow("tcp", OURS, PEER, 0, "edge.example.com")  # as a call that was routed there has it
CONNECTION = replace(DIALLED, connection=4)  # and as the shell names what it dialled for it


def calling(method: str = "INVITE", flow: Flow = DIALLED, **wiring):
    bench = Bench(CONNECTION, **wiring)
    transaction = bench.endpoint.send_request(outgoing(method), flow, 0.0, "leg")
    bench.drain()
    return bench, transaction


def large(method: str = "INVITE", octets: int = 1300, **named) -> Request:
    """Return a request that is one octet larger than this once its Via is in it."""
    request = outgoing(method, **named)
    bench = Bench()
    bench.endpoint.send_request(request, UDP, 0.0)
    bench.drain()
    ((_, sent),) = bench.sent
    request.headers.add("Identity", "x" * (octets + 1 - len(sent.data) - len("Identity: \r\n")))
    return request


# -- RFC 3261 §17 over reliable transports -----------------------------------------------------------------------------


def test_r01_over_tcp_an_invite_is_sent_exactly_once_and_given_up_at_32_seconds():
    bench, transaction = calling()
    bench.run(100.0)
    assert bench.times("INVITE") == [0.0]
    assert bench.when(TransactionTimedOut) == [32.0]
    assert transaction.request.via.transport == "TCP"
    assert bench.idle()


def test_r02_over_tcp_a_request_is_sent_exactly_once_and_given_up_at_32_seconds():
    bench, _ = calling("OPTIONS")
    bench.run(100.0)
    assert bench.times("OPTIONS") == [0.0]
    assert bench.when(TransactionTimedOut) == [32.0]
    assert bench.idle()


def test_r04_over_tcp_a_refusal_is_said_once_and_its_ack_awaited_for_32_seconds():
    bench = Bench(TCP)
    bench.receive(incoming(via="SIP/2.0/TCP 198.51.100.7;branch=z9hG4bKpeer"))
    transaction = bench.one(RequestReceived).transaction
    bench.endpoint.respond(transaction, response_to(transaction.request, 404, to_tag="ours"), 0.0)
    bench.run(31.9)
    assert transaction.state is State.COMPLETED
    bench.run(40.0)
    assert bench.times("INVITE", 404) == [0.0]
    assert bench.idle()


def test_r05_over_tcp_a_200_is_repeated_all_the_same_until_its_ack():
    bench = Bench(TCP)
    bench.receive(incoming(via="SIP/2.0/TCP 198.51.100.7;branch=z9hG4bKpeer"))
    transaction = bench.one(RequestReceived).transaction
    bench.endpoint.respond(transaction, response_to(transaction.request, 200, to_tag="ours"), 0.0)
    bench.run(100.0)
    assert len(bench.times("INVITE", 200)) == 11
    assert bench.idle()


# -- a connection that is lost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["INVITE", "BYE"])
def test_an_unanswered_request_goes_out_once_more_when_its_connection_is_lost(method):
    bench, transaction = calling(method)
    bench.run(2.0)
    bench.endpoint.flow_lost(CONNECTION, 2.0)
    bench.drain()
    (_, first), (at, again) = bench.sent
    assert at == 2.0
    assert again.data == first.data  # same branch: a peer that had read the first one takes it for a repeat
    assert again.retransmission
    bench.receive(answer(transaction.request, 200), replace(CONNECTION, connection=5))
    assert bench.one(ResponseReceived).response.status == 200
    bench.run(100.0)
    assert bench.idle()


def test_a_second_loss_is_a_transport_error():
    bench, transaction = calling()
    bench.endpoint.flow_lost(CONNECTION, 1.0)
    bench.endpoint.flow_lost(replace(CONNECTION, connection=5), 2.0)
    bench.drain()
    assert bench.one(TransactionFailed).transaction is transaction
    assert len(bench.sent) == 2
    assert bench.idle()


def test_an_invite_that_rings_survives_the_loss_of_its_connection():
    bench, transaction = calling()
    bench.receive(answer(transaction.request, 180))
    bench.endpoint.flow_lost(CONNECTION, 1.0)
    bench.drain()
    assert len(bench.sent) == 1
    bench.receive(answer(transaction.request, 200), Flow("tcp", OURS, (PEER[0], 50000), 9))
    assert [event.response.status for event in bench.of(ResponseReceived)] == [180, 200]


@pytest.mark.parametrize(
    "other",
    [
        replace(CONNECTION, remote=("198.51.100.8", 5060)),
        replace(CONNECTION, name="other.example.com"),
        replace(CONNECTION, transport="tls"),
    ],
)
def test_the_loss_of_another_connection_changes_nothing(other):
    bench, _ = calling()
    bench.endpoint.flow_lost(other, 1.0)
    bench.endpoint.transport_failed(other, 1.0)
    bench.drain()
    assert len(bench.sent) == 1
    assert not list(bench.of(TransactionFailed))


def test_a_request_within_a_dialog_is_found_by_its_connection():
    bench, _ = calling("BYE", Flow("tcp", OURS, (PEER[0], 5060), 4))
    bench.endpoint.flow_lost(Flow("tcp", OURS, (PEER[0], 49999), 4), 1.0)
    bench.drain()
    assert len(bench.sent) == 2


def test_dialling_that_fails_fails_the_transaction():
    bench, transaction = calling()
    bench.endpoint.transport_failed(replace(DIALLED, local=("192.0.2.1", 0)), 1.0)
    bench.drain()
    assert bench.one(TransactionFailed).transaction is transaction
    assert bench.idle()


def test_a_refusal_of_the_dial_reaches_a_name_over_udp_too():
    named = replace(UDP, name="edge.example.com")
    bench, transaction = calling(flow=named)
    bench.endpoint.transport_failed(UDP, 1.0)  # what ICMP tells has no name
    bench.drain()
    assert bench.one(TransactionFailed).transaction is transaction


def test_r22_a_lost_connection_leaves_server_transactions_alone():
    bench = Bench(TCP)
    bench.receive(incoming(via="SIP/2.0/TCP 198.51.100.7:5070;branch=z9hG4bKpeer"))
    transaction = bench.one(RequestReceived).transaction
    bench.endpoint.flow_lost(TCP, 0.0)
    bench.endpoint.transport_failed(TCP, 0.0)
    bench.endpoint.respond(transaction, response_to(transaction.request, 200, to_tag="ours"), 0.0)
    bench.drain()
    assert bench.times("INVITE", 200) == [0.0]
    bench.receive(incoming("ACK", to_tag="ours", branch="z9hG4bKack"), replace(TCP, connection=2))
    assert transaction.acknowledged


@pytest.mark.parametrize(
    ("flow", "connection"),
    [
        (replace(TCP, remote=(PEER[0], 41234), connection=2), 2),
        (replace(TCP, remote=("203.0.113.66", 5), connection=3), 1),
    ],
    ids=["the peer's next connection", "a stranger's"],
)
def test_r14_a_request_that_comes_again_over_a_new_connection_is_answered_there(flow, connection):
    """RFC 3261 §18.2.2: the one before has ended; who copies identifiers from elsewhere gets nothing (T24)."""
    bench = Bench(replace(TCP, remote=(PEER[0], 40000)))
    request = incoming(via="SIP/2.0/TCP 198.51.100.7:5070;branch=z9hG4bKpeer")
    bench.receive(request)
    transaction = bench.one(RequestReceived).transaction
    bench.endpoint.respond(transaction, response_to(transaction.request, 180, to_tag="ours"), 0.0)
    bench.receive(request, flow)
    bench.endpoint.respond(transaction, response_to(transaction.request, 486, to_tag="ours"), 0.0)
    bench.drain()
    assert [sent.status for _, sent in bench.sent] == [180, 180, 486]
    assert [sent.flow.connection for _, sent in bench.sent] == [1, connection, connection]
    assert all(sent.flow.remote == PEER for _, sent in bench.sent)


def test_r22_icmp_for_one_answer_does_not_end_the_server_transaction():
    bench = Bench()
    bench.receive(incoming())
    transaction = bench.one(RequestReceived).transaction
    bench.endpoint.respond(transaction, response_to(transaction.request, 200, to_tag="ours"), 0.0)
    bench.drain()
    bench.endpoint.transport_failed(bench.sent[0][1].flow, 0.1)
    bench.run(0.6)
    assert bench.times("INVITE", 200) == [0.0, 0.5]
    bench.receive(incoming("ACK", to_tag="ours", branch="z9hG4bKack"))
    assert transaction.acknowledged
    bench.run(100.0)
    assert not list(bench.of(TransactionFailed))
    assert bench.idle()


# -- T24 ---------------------------------------------------------------------------------------------------------------


def from_the_peer(owner: object, flow: Flow) -> bool:
    return flow.remote[0] == PEER[0]


def test_t24_a_response_or_cancel_over_a_strangers_connection_is_refused():
    stranger = Flow("tcp", OURS, ("203.0.113.66", 40000), 8)
    bench, transaction = calling(belongs=from_the_peer)
    assert bench.receive(answer(transaction.request, 200), stranger) is None
    assert bench.endpoint.rejected["foreign"] == 1
    via = "SIP/2.0/TCP 198.51.100.7:5070;branch=z9hG4bKpeer"
    bench.receive(incoming(via=via), replace(TCP, remote=(PEER[0], 41234)))
    bench.receive(incoming("CANCEL", via=via), stranger)
    assert not list(bench.of(CancelReceived))
    bench.receive(incoming("CANCEL", via=via), replace(TCP, remote=(PEER[0], 42345), connection=3))
    bench.one(CancelReceived)


# -- R13 ---------------------------------------------------------------------------------------------------------------

STREAM = Flow("tcp", OURS, (PEER[0], 5060))


def calling_large(request: Request | None = None, stream: Flow | None = STREAM):
    bench = Bench(stream_to=lambda flow: stream)
    transaction = bench.endpoint.send_request(request or large(), UDP, 0.0, "leg")
    bench.drain()
    return bench, transaction


def test_r13_a_request_of_more_than_1300_octets_goes_over_a_stream():
    bench, transaction = calling_large()
    ((_, sent),) = bench.sent
    assert sent.flow == transaction.flow == STREAM
    assert transaction.request.via.transport == "TCP"
    assert transaction.owner == "leg"
    bench.run(10.0)
    assert len(bench.sent) == 1  # nothing is repeated on a stream


@pytest.mark.parametrize(
    ("request_", "stream"), [(large(octets=1299), STREAM), (large(), None)], ids=["1300 octets", "udp always"]
)
def test_r13_a_smaller_one_or_one_that_has_no_stream_stays_on_udp(request_, stream):
    bench, transaction = calling_large(request_, stream)
    assert bench.sent[0][1].flow == UDP
    assert transaction.request.via.transport == "UDP"


def test_r13_1300_octets_are_what_leaves():
    bench, _ = calling_large(large(octets=1299))
    assert len(bench.sent[0][1].data) == 1300


def test_r13_where_tcp_is_refused_the_request_goes_over_udp_in_the_same_transaction():
    bench, transaction = calling_large()
    branch = transaction.request.via.branch
    bench.run(3.0)
    bench.endpoint.transport_failed(STREAM, 3.0)
    bench.run(100.0)
    assert [at for at, _ in bench.sent] == [0.0, 3.0, 3.5, 4.5, 6.5, 10.5, 18.5]
    assert [sent.flow for _, sent in bench.sent] == [STREAM, *[UDP] * 6]
    sent = bench.messages("INVITE")[-1]
    assert (sent.via.transport, sent.via.branch) == ("UDP", branch)
    assert bench.one(TransactionTimedOut).transaction is transaction  # told once, 32 s after the first try
    assert bench.when(TransactionTimedOut) == [32.0]
    assert bench.idle()


def test_r13_after_the_fall_back_icmp_is_a_failure():
    bench, transaction = calling_large(large("OPTIONS"))
    bench.endpoint.transport_failed(STREAM, 1.0)
    bench.endpoint.transport_failed(UDP, 1.1)
    bench.drain()
    assert bench.one(TransactionFailed).transaction is transaction
    assert bench.idle()


def test_r13_a_stream_that_was_heard_from_is_not_fallen_back_from():
    bench, transaction = calling_large()
    bench.receive(answer(transaction.request, 180), STREAM)
    bench.endpoint.transport_failed(STREAM, 1.0)
    bench.drain()
    assert bench.one(TransactionFailed).transaction is transaction
    assert len(bench.sent) == 1


def test_r13_cancel_and_ack_follow_their_invite():
    bench, transaction = calling_large()
    bench.receive(answer(transaction.request, 180), STREAM)
    bench.endpoint.cancel(transaction, 0.0)
    bench.receive(answer(transaction.request, 487), STREAM)
    assert [(sent.method, sent.flow) for _, sent in bench.sent] == [
        ("INVITE", STREAM),
        ("CANCEL", STREAM),
        ("ACK", STREAM),
    ]


def test_r13_the_ack_for_a_2xx_follows_its_invite_too():
    bench, transaction = calling_large()
    bench.receive(answer(transaction.request, 200), STREAM)
    bench.endpoint.send_ack(outgoing("ACK", to_tag="callee"), UDP)
    bench.drain()
    assert bench.sent[-1][1].flow == STREAM
    assert bench.messages("ACK")[0].via.transport == "TCP"
    elsewhere = replace(UDP, remote=("203.0.113.9", 5060))
    bench.endpoint.send_ack(outgoing("ACK", to_tag="fork"), elsewhere)
    bench.drain()
    assert bench.sent[-1][1].flow == elsewhere
