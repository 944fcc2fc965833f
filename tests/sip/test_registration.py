"""The table of a registration of ours, and what its connection has to do with it (R25)."""

from __future__ import annotations

from itertools import product

import pytest

from bridge.sip.digest import DigestClient
from bridge.sip.events import Flow
from bridge.sip.message import Headers, Request, Response, response_to
from bridge.sip.registration import (
    REFUSED_PAUSE,
    TABLE,
    Account,
    Input,
    Registration,
    State,
    granted,
    retry_after,
)
from bridge.sip.timers import TimerValues
from bridge.sip.transaction import ClientTransaction
from tests.harness.network import SeededTokens

FLOW = Flow("tcp", ("127.4.0.1", 5060), ("192.0.2.1", 5060), name="carrier.example")
OTHER = Flow("tcp", ("127.4.0.1", 5060), ("192.0.2.2", 5060), name="carrier.example")


class Bench:
    """A registration whose REGISTERs are kept and answered by hand."""

    def __init__(self, *flows: Flow) -> None:
        self.flows = flows or (FLOW,)
        self.sent: list[ClientTransaction] = []
        self.looked_up = 0
        self.registration = Registration(
            Account("trunk", "carrier.example:5070", 600),
            DigestClient("trunk", "secret", SeededTokens()),
            SeededTokens(),
            self._send,
            self._look_up,
            lambda flow: "<sip:trunk@127.4.0.1:5060;transport=tcp>",
        )

    def _send(self, request: Request, flow: Flow, now: float) -> ClientTransaction:
        transaction = ClientTransaction(request, flow, TimerValues())
        self.sent.append(transaction)
        return transaction

    def _look_up(self, now: float) -> None:
        self.looked_up += 1
        self.registration.found(self.flows, "", now)

    def answer(self, status: int, now: float, **headers: str) -> None:
        response = response_to(self.sent[-1].request, status)
        for name, value in headers.items():
            response.headers.add(name.replace("_", "-"), value)
        self.registration.response(response, self.sent[-1], now)

    @property
    def state(self) -> str:
        return self.registration.state.value

    def registered(self) -> Registration:
        self.registration.start(0.0)
        self.answer(200, 0.1, Contact="<sip:trunk@127.4.0.1:5060;transport=tcp>;expires=600")
        assert self.registration.state is State.REGISTERED
        return self.registration


def test_the_table_says_what_every_input_does_in_every_state() -> None:
    assert set(TABLE) == set(product(State, Input))


def test_every_state_can_be_reached_and_left() -> None:
    for state in State:
        assert any(step.state is state for (before, _), step in TABLE.items() if before is not state)
        assert any(step.state is not state for (before, _), step in TABLE.items() if before is state)


def test_a_lost_connection_is_registered_over_anew_at_once() -> None:
    """R25, D17: what was bound over it can't be reached any more."""
    bench = Bench()
    registration = bench.registered()
    registration.flow_lost(Flow("tcp", FLOW.local, FLOW.remote, 7, FLOW.name), 100.0)
    assert not registration.is_bound(100.0)
    assert registration.due_at == 100.0
    registration.handle_timeout(100.0)
    assert len(bench.sent) == 2
    assert bench.sent[1].request.call_id == bench.sent[0].request.call_id
    assert bench.sent[1].request.cseq.number == 2
    bench.answer(200, 100.1)
    assert registration.is_bound(100.1)


def test_a_connection_that_is_lost_again_and_again_is_tried_every_five_seconds_at_most() -> None:
    bench = Bench()
    registration = bench.registered()
    registration.flow_lost(FLOW, 0.2)
    assert registration.due_at == 5.0


@pytest.mark.parametrize("other", [OTHER, Flow("udp", FLOW.local, FLOW.remote)])
def test_another_connection_may_be_lost(other: Flow) -> None:
    registration = Bench().registered()
    registration.flow_lost(other, 100.0)
    assert registration.state is State.REGISTERED


def test_an_answer_that_comes_after_we_stopped_waiting_still_counts() -> None:
    bench = Bench()
    bench.registration.start(0.0)
    bench.registration.handle_timeout(8.0)
    assert bench.state == "backing-off"
    bench.answer(200, 9.0, Expires="120")
    assert bench.state == "registered"
    assert bench.registration.expires_at == 129.0


def test_an_answer_to_an_older_register_does_not() -> None:
    bench = Bench(FLOW, OTHER)
    bench.registration.start(0.0)
    first = bench.sent[0]
    bench.registration.unanswered(first, 503, 0.0)
    assert bench.registration.problem == "192.0.2.1:5060 (carrier.example) can't be reached"
    assert bench.registration.due_at is not None
    bench.registration.handle_timeout(bench.registration.due_at)
    assert bench.sent[-1].flow == OTHER
    bench.registration.response(response_to(first.request, 403), first, 6.0)
    assert bench.registration.state is State.REGISTERING


@pytest.mark.parametrize("status", [403, 404])
def test_an_account_that_is_refused_is_not_offered_to_one_hop_after_the_other(status: int) -> None:
    """R25: eight hops would make eight failures in a minute, which gets an account locked."""
    bench = Bench(FLOW, OTHER)
    bench.registration.start(0.0)
    bench.answer(status, 0.1)
    assert bench.registration.due_at is not None
    assert bench.registration.due_at >= REFUSED_PAUSE * 0.75
    bench.registration.handle_timeout(bench.registration.due_at)
    assert [sent.flow for sent in bench.sent] == [FLOW, OTHER]


def test_a_423_that_asks_for_no_more_than_we_asked_for_is_a_refusal() -> None:
    """R25: no loop."""
    bench = Bench()
    bench.registration.start(0.0)
    bench.answer(423, 0.1, Min_Expires="600")
    assert len(bench.sent) == 1
    assert bench.registration.state is State.BACKING_OFF


def test_a_registrar_that_binds_us_for_no_time_is_no_registrar() -> None:
    bench = Bench()
    bench.registration.start(0.0)
    bench.answer(200, 0.1, Expires="0")
    assert bench.registration.state is State.BACKING_OFF


def test_stopping_before_anything_was_sent_says_nothing() -> None:
    bench = Bench()
    bench.registration.stop(0.0)
    assert bench.registration.state is State.UNREGISTERED
    assert bench.sent == []


@pytest.mark.parametrize(
    ("contacts", "expires", "wanted"),
    [
        (["<sip:me@127.4.0.1>;expires=90"], "3600", 90),
        (["<sip:you@192.0.2.9>;expires=30, <sip:me@127.4.0.1>;expires=90"], None, 90),
        (["<sip:you@192.0.2.9>;expires=30", "<sip:me@127.4.0.1>;expires=90"], None, 90),
        (["<sip:me@203.0.113.7:61000>;expires=45"], "3600", 45),  # as seen through NAT
        (["<sip:a@192.0.2.8>;expires=30, <sip:b@192.0.2.9>;expires=30"], "300", 300),
        (["<sip:me@127.4.0.1>"], "120", 120),
        (["<sip:me@127.4.0.1>;expires=soon"], None, 600),
        (["<garbage>;expires=5", "<sip:me@127.4.0.1>;expires=90"], None, 90),
        ([], None, 600),
    ],
)
def test_the_granted_time_is_that_of_our_own_contact(contacts: list[str], expires: str | None, wanted: float) -> None:
    """R25."""
    asked = Headers()
    asked.add("Contact", "<sip:me@127.4.0.1>")
    asked.add("Expires", "600")
    headers = Headers()
    for contact in contacts:
        headers.add("Contact", contact)
    if expires is not None:
        headers.add("Expires", expires)
    assert granted(Response(200, "OK", headers), Request("REGISTER", "sip:carrier", asked)) == wanted


@pytest.mark.parametrize(("value", "seconds"), [("30", 30), ("18000;duration=3600", 3600), ("5 (busy)", 5), ("x", 0)])
def test_retry_after_is_read_with_its_comment_and_parameters(value: str, seconds: int) -> None:
    headers = Headers()
    headers.add("Retry-After", value)
    assert retry_after(Response(503, "", headers)) == seconds
