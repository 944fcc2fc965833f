"""RFC 3261 §17.2.2, figure 8, with RFC 4320."""

from __future__ import annotations

import pytest

from bridge.sip.events import RequestReceived
from bridge.sip.message import response_to
from bridge.sip.transaction import State
from tests.sip.bench import TCP, UDP, Bench, incoming


def asked(flow=UDP, method="BYE"):
    bench = Bench(flow)
    bench.receive(incoming(method, to_tag="ours"))
    return bench, bench.one(RequestReceived).transaction


def respond(bench, transaction, status):
    bench.endpoint.respond(transaction, response_to(transaction.request, status, to_tag="ours"), bench.now)
    bench.drain()


@pytest.mark.parametrize("status", [200, 481, 603])
def test_a_repeated_request_gets_the_response_again_until_timer_j(status):
    bench, transaction = asked()
    bench.run(0.1)
    bench.receive(incoming("BYE", to_tag="ours"))  # still being worked on: absorbed
    respond(bench, transaction, status)
    bench.run(32.0)
    bench.receive(incoming("BYE", to_tag="ours"))
    assert bench.times("BYE", status) == [0.1, 32.0]
    assert [sent.retransmission for _, sent in bench.sent] == [False, True]
    assert len(list(bench.of(RequestReceived))) == 1
    bench.run(32.1)
    assert transaction.state is State.TERMINATED
    assert bench.idle()


def test_timer_j_is_zero_over_a_stream():
    bench, transaction = asked(TCP)
    respond(bench, transaction, 200)
    bench.run(0.0)
    assert bench.idle()


def test_a_second_final_response_is_not_sent():
    bench, transaction = asked()
    respond(bench, transaction, 200)
    respond(bench, transaction, 500)
    assert [sent.status for _, sent in bench.sent] == [200]


def test_r21_a_408_is_never_sent():
    bench, transaction = asked(method="OPTIONS")
    respond(bench, transaction, 408)
    assert bench.sent == []
    assert transaction.state is State.TERMINATED
    assert bench.idle()


@pytest.mark.parametrize(("at", "sent"), [(0.0, []), (3.4, []), (3.5, [3.5]), (10.0, [10.0])])
def test_r21_a_100_goes_out_only_once_timer_e_of_the_client_has_reached_t2(at, sent):
    bench, transaction = asked(method="OPTIONS")
    bench.run(at)
    respond(bench, transaction, 100)
    respond(bench, transaction, 180)
    assert bench.times("OPTIONS", 100) == sent
    assert bench.times("OPTIONS", 180) == []


def test_r21_no_100_over_a_stream():
    bench, transaction = asked(TCP, "OPTIONS")
    bench.run(10.0)
    respond(bench, transaction, 100)
    assert bench.sent == []


def test_a_repeated_request_gets_its_provisional_response_again():
    bench, transaction = asked(method="OPTIONS")
    bench.run(4.0)
    respond(bench, transaction, 100)
    bench.receive(incoming("OPTIONS", to_tag="ours"))
    assert bench.times("OPTIONS", 100) == [4.0, 4.0]
    respond(bench, transaction, 200)
    bench.run(60.0)
    assert bench.idle()


@pytest.mark.parametrize("with_100", [False, True])
def test_r21_a_request_that_nobody_answers_ends_in_silence_with_the_clients_timer_f(with_100):
    bench, transaction = asked(method="OPTIONS")
    bench.run(4.0)
    if with_100:
        respond(bench, transaction, 100)
    bench.run(31.9)
    assert bench.endpoint.counts()["non_invite_servers"] == 1
    bench.run(60.0)
    assert transaction.state is State.TERMINATED
    assert bench.idle()
    respond(bench, transaction, 200)
    assert bench.times("OPTIONS", 200) == []


@pytest.mark.parametrize("status", [None, 100, 200])
def test_r22_a_transport_error_does_not_kill_a_server_transaction(status):
    bench, transaction = asked(method="OPTIONS")
    bench.run(4.0)
    if status is not None:
        respond(bench, transaction, status)
    before = transaction.state
    bench.endpoint.transport_failed(UDP, bench.now)
    bench.receive(incoming("OPTIONS", to_tag="ours"))
    assert transaction.state is before
    assert len(bench.sent) == (0 if status is None else 2)
