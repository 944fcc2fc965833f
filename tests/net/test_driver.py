"""Every input is followed by a full drain and one armed timer; a bug of ours costs one input, never the bridge."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from bridge.b2bua.actions import (
    Action,
    CloseSession,
    Command,
    Drain,
    HangUp,
    Hop,
    OpenSession,
    Query,
    Record,
    Resolution,
    Resolve,
    Tap,
    TapSession,
    Trace,
)
from bridge.errors import RelayError
from bridge.media.relay import RelayEvent, SessionClosed, SessionLabel, SessionOpened, SessionRefused
from bridge.net.driver import SHORTEST_DELAY, Driver
from bridge.sip.events import Flow, Transmit
from tests.harness.relay import FakeRelay

LOCAL, PEER = ("127.0.0.1", 5060), ("127.0.0.9", 5060)
FLOW = Flow("udp", LOCAL, PEER)
LABEL = SessionLabel("main", "support")


class ScriptedCore:
    """Keep what was put in, and give out what a test scripts."""

    def __init__(self) -> None:
        self.inputs: list[tuple[Any, ...]] = []
        self.actions: deque[Action] = deque()
        self.due: float | None = None
        self.react: Callable[[str, Any], None] = lambda kind, value: None

    def _take(self, kind: str, value: Any, now: float) -> None:
        self.inputs.append((kind, value, now))
        self.react(kind, value)

    def receive(self, data: bytes, flow: Flow, now: float) -> None:
        self._take("receive", (data, flow), now)

    def relay_event(self, event: RelayEvent, now: float) -> None:
        self._take("relay", event, now)

    def resolved(self, query: Query, resolution: Resolution, now: float) -> None:
        self._take("resolved", (query, resolution), now)

    def transport_failed(self, flow: Flow, now: float) -> None:
        self._take("failed", flow, now)

    def command(self, command: Command, now: float) -> None:
        self._take("command", command, now)

    def handle_timeout(self, now: float) -> None:
        self._take("timeout", None, now)

    def next_timeout(self) -> float | None:
        return self.due

    def poll(self) -> Action | None:
        return self.actions.popleft() if self.actions else None

    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.inputs]


class Bench:
    """A driver with everything around it scripted."""

    def __init__(self) -> None:
        self.core = ScriptedCore()
        self.clock = Clock()
        self.relay = FakeRelay()
        self.sent: list[bytes] = []
        self.refuses = False
        self.told: list[Trace | Record] = []
        self.driver = Driver(
            self.core,  # type: ignore[arg-type]
            self.clock,
            self.relay,
            self.look_up,
            {("udp", LOCAL): self},
            [self.told.append],
        )

    def send(self, data: bytes, flow: Flow) -> None:
        if self.refuses:
            raise OSError("refused")
        self.sent.append(data)

    def look_up(self, query: Query, answer: Callable[[Query, Resolution], None]) -> None:
        answer(query, Resolution((Hop("udp", ("192.0.2.1", 5060)),)))

    def bugs(self) -> list[str]:
        return [fact.text for fact in self.told if isinstance(fact, Trace) and fact.kind == "bug"]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_input_is_followed_by_all_its_outputs_in_order(bench: Bench) -> None:
    bench.core.actions.extend(Transmit(data, FLOW, "INVITE", 0) for data in (b"1", b"2", b"3"))
    bench.driver.receive(b"x", FLOW)
    assert bench.core.inputs == [("receive", (b"x", FLOW), 0.0)]
    assert bench.sent == [b"1", b"2", b"3"]


def test_the_ports_of_an_opened_session_come_back_within_the_same_drain(bench: Bench) -> None:
    def react(kind: str, value: Any) -> None:
        if isinstance(value, SessionOpened):
            bench.core.actions.append(Transmit(b"INVITE", FLOW, "INVITE", 0))

    bench.core.react = react
    bench.core.actions.append(OpenSession(7, LABEL))
    bench.driver.receive(b"x", FLOW)
    assert bench.core.kinds() == ["receive", "relay"]
    assert bench.sent == [b"INVITE"]


def test_a_relay_that_raises_on_open_refuses_the_session_and_is_counted_as_a_bug(bench: Bench) -> None:
    def broken(session: int, label: SessionLabel) -> SessionOpened:
        raise ValueError("a bug")

    bench.relay.open = broken  # type: ignore[method-assign]
    bench.core.actions.append(OpenSession(7, LABEL))
    bench.driver.receive(b"x", FLOW)
    assert isinstance(bench.core.inputs[-1][1], SessionRefused)
    assert len(bench.bugs()) == 1


def test_a_lookup_that_answers_at_once_joins_the_drain(bench: Bench) -> None:
    query = Query(1, "192.0.2.1", None, "udp")
    bench.core.actions.extend([Resolve(query), Transmit(b"later", FLOW, "INVITE", 0)])
    bench.driver.receive(b"x", FLOW)
    assert bench.core.kinds() == ["receive", "resolved"]
    assert bench.sent == [b"later"]


def test_a_refused_send_is_told_to_the_core_and_the_drain_goes_on(bench: Bench) -> None:
    bench.refuses = True
    bench.core.actions.extend([Transmit(b"1", FLOW, "INVITE", 0), Trace("state", 0.0, text="kept")])
    bench.driver.receive(b"x", FLOW)
    assert bench.core.kinds() == ["receive", "failed"]
    assert [fact.text for fact in bench.told if isinstance(fact, Trace)] == ["kept"]


def test_the_relays_events_reach_the_core_when_it_wakes_the_driver(bench: Bench) -> None:
    bench.relay.open(7, LABEL)
    bench.core.actions.append(CloseSession(7))
    bench.driver.receive(b"x", FLOW)
    bench.driver.relay_woke()
    assert isinstance(bench.core.inputs[-1][1], SessionClosed)


def test_the_timer_fires_when_the_core_wants_it(bench: Bench) -> None:
    bench.core.due = 0.5
    bench.driver.receive(b"x", FLOW)
    bench.clock.advance(0.499)
    assert bench.core.kinds() == ["receive"]
    bench.core.due = None
    bench.clock.advance(0.002)
    assert bench.core.inputs[-1] == ("timeout", None, pytest.approx(0.501))
    assert not bench.clock.getDelayedCalls()


def test_only_one_timer_is_armed_and_an_earlier_deadline_moves_it(bench: Bench) -> None:
    for due in (32.0, 4.0, 0.5, 8.0):
        bench.core.due = due
        bench.driver.receive(b"x", FLOW)
    [timer] = bench.clock.getDelayedCalls()
    assert timer.getTime() == 0.5, "firing early for nothing is cheaper than moving it later"


def test_a_deadline_that_stays_in_the_past_does_not_spin(bench: Bench) -> None:
    bench.clock.advance(10)
    bench.core.due = 1.0
    bench.driver.receive(b"x", FLOW)
    [timer] = bench.clock.getDelayedCalls()
    assert timer.getTime() == pytest.approx(10 + SHORTEST_DELAY)


@pytest.mark.parametrize("place", ["input", "poll", "send"])
def test_a_bug_is_contained_and_told_with_its_traceback(bench: Bench, place: str) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("a bug of ours")

    bench.core.actions.append(Transmit(b"1", FLOW, "INVITE", 0))
    if place == "input":
        bench.core.react = fail
    elif place == "poll":
        bench.core.poll = fail  # type: ignore[method-assign]
    else:
        bench.send = fail  # type: ignore[method-assign, assignment]
    bench.driver.receive(b"x", FLOW)
    [bug] = bench.bugs()
    assert "ZeroDivisionError: a bug of ours" in bug
    assert "Traceback" in bug


def test_the_bridge_works_on_after_a_bug(bench: Bench) -> None:
    def fail(kind: str, value: Any) -> None:
        raise ZeroDivisionError

    bench.core.react = fail
    bench.driver.receive(b"x", FLOW)
    bench.core.react = lambda kind, value: None
    bench.core.actions.append(Transmit(b"fine", FLOW, "INVITE", 0))
    bench.driver.receive(b"y", FLOW)
    assert bench.sent == [b"fine"]


def test_an_observer_that_raises_silences_no_other(bench: Bench) -> None:
    def fail(fact: Trace | Record) -> None:
        raise ZeroDivisionError

    told: list[Trace | Record] = []
    bench.driver._observers = [fail, told.append]
    bench.core.actions.append(Record({"id": "1"}))
    bench.driver.receive(b"x", FLOW)
    assert told == [Record({"id": "1"})]


def test_a_command_returns_what_went_wrong(bench: Bench) -> None:
    def refuse(session: int, path: str | None) -> None:
        raise RelayError("the disk is full")

    bench.relay.tap = refuse  # type: ignore[method-assign]
    bench.core.actions.append(TapSession(1, "/nowhere"))
    assert bench.driver.command(Tap("call", "/nowhere")) == "the disk is full"
    assert bench.driver.command(Drain()) == ""


def test_a_command_for_a_call_that_is_gone_is_no_bug(bench: Bench) -> None:
    def unknown(kind: str, value: Any) -> None:
        raise KeyError("call")

    bench.core.react = unknown
    assert bench.driver.command(HangUp("call")) == "no live call has this id"
    assert bench.bugs() == []


def test_a_stopped_driver_leaves_no_timer(bench: Bench) -> None:
    bench.core.due = 1.0
    bench.driver.receive(b"x", FLOW)
    bench.driver.stop()
    assert not bench.clock.getDelayedCalls()
