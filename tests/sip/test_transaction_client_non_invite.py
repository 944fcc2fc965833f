"""RFC 3261 §17.1.2, figure 6."""

from __future__ import annotations

import pytest

from bridge.sip.events import ResponseReceived, TransactionFailed, TransactionTimedOut
from bridge.sip.transaction import State
from tests.sip.bench import TCP, UDP, Bench, answer, outgoing


def asking(flow=UDP, method="OPTIONS"):
    bench = Bench(flow)
    transaction = bench.endpoint.send_request(outgoing(method), flow, 0.0)
    bench.drain()
    return bench, transaction


@pytest.mark.parametrize("method", ["OPTIONS", "BYE"])
def test_r02_a_request_is_repeated_by_timer_e_up_to_t2_and_given_up_by_timer_f(method):
    bench, transaction = asking(method=method)
    bench.run(60.0)
    assert bench.times(method) == [0.0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert bench.when(TransactionTimedOut) == [32.0]
    assert bench.one(TransactionTimedOut).transaction is transaction
    assert [sent.retransmission for _, sent in bench.sent] == [False] + [True] * 10
    assert bench.idle()


def test_over_a_stream_a_request_is_sent_once_and_given_up_the_same():
    bench, _ = asking(TCP)
    bench.run(60.0)
    assert bench.times("OPTIONS") == [0.0]
    assert bench.when(TransactionTimedOut) == [32.0]


@pytest.mark.parametrize(
    ("at", "sends"),
    [
        (0.1, [0.0, 0.5, 4.5, 8.5, 12.5, 16.5, 20.5, 24.5, 28.5]),  # the running E fires at .5, then every T2
        (0.7, [0.0, 0.5, 1.5, 5.5, 9.5, 13.5, 17.5, 21.5, 25.5, 29.5]),
        (5.0, [0.0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]),
    ],
)
def test_after_a_provisional_response_timer_e_runs_at_t2_and_timer_f_goes_on(at, sends):
    bench, transaction = asking()
    bench.run(at)
    bench.receive(answer(transaction.request, 100))
    bench.receive(answer(transaction.request, 182))
    bench.run(60.0)
    assert bench.times("OPTIONS") == sends
    assert [event.response.status for event in bench.of(ResponseReceived)] == [100, 182]
    assert bench.when(TransactionTimedOut) == [32.0]
    assert bench.idle()


@pytest.mark.parametrize("provisional", [(), (100,)])
@pytest.mark.parametrize("status", [200, 302, 486, 603])
def test_the_final_response_is_told_once_and_its_repeats_absorbed_until_timer_k(provisional, status):
    bench, transaction = asking()
    for early in provisional:
        bench.receive(answer(transaction.request, early))
    bench.run(0.2)
    bench.receive(answer(transaction.request, status))
    bench.run(5.1)
    for late in (status, 100, 200, 500):
        bench.receive(answer(transaction.request, late))
    assert [event.response.status for event in bench.of(ResponseReceived)] == [*provisional, status]
    assert transaction.final is not None
    assert transaction.final.status == status
    assert transaction.state is State.COMPLETED
    bench.run(5.2)  # T4 after the response
    assert bench.times("OPTIONS") == [0.0]
    assert bench.idle()


def test_timer_k_is_zero_over_a_stream():
    bench, transaction = asking(TCP)
    bench.receive(answer(transaction.request, 200))
    bench.run(0.0)
    assert bench.idle()


@pytest.mark.parametrize("provisional", [(), (100,)])
def test_a_transport_error_fails_the_request(provisional):
    bench, transaction = asking()
    for status in provisional:
        bench.receive(answer(transaction.request, status))
    bench.endpoint.transport_failed(UDP, 0.0)
    bench.drain()
    assert bench.one(TransactionFailed).transaction is transaction
    assert bench.idle()


def test_a_transport_error_after_the_final_response_changes_nothing():
    bench, transaction = asking()
    bench.receive(answer(transaction.request, 200))
    bench.endpoint.transport_failed(UDP, 0.0)
    bench.drain()
    assert transaction.state is State.COMPLETED
    assert list(bench.of(TransactionFailed)) == []
