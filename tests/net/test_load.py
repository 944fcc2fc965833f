"""The bridge knows how far it is behind, and turns away as many calls as it can't take, and no more."""

from __future__ import annotations

from collections import deque

import pytest
from twisted.internet.task import Clock

from bridge.net.load import CALM_FOR, LOOK_EVERY, Load
from bridge.sip.events import Flow
from bridge.sip.overload import FULL, TOLERATED, Refusal, refused_share
from tests.net.watching import logged_warnings

BEHIND = 2 * TOLERATED
T1 = 0.5


class Scale:
    def __init__(self) -> None:
        self.clock = Clock()
        self.waited = 0.0
        self.arrears = 0.0
        self.load = Load(self.clock, lambda: self.waited, self.tell)
        self.load.start()

    def tell(self, arrears: float) -> None:
        self.arrears = arrears

    def look(self, times: int = 1, late: float = 0.0) -> None:
        for _ in range(times):
            self.clock.advance(LOOK_EVERY + late)


@pytest.fixture
def scale() -> Scale:
    return Scale()


def test_datagrams_that_go_on_waiting_are_arrears_and_the_log_tells_once(scale: Scale) -> None:
    scale.waited = BEHIND
    with logged_warnings() as warnings:
        scale.look(5)
        assert scale.arrears == BEHIND
        scale.waited = 0.0
        scale.look()
        assert scale.arrears == 0.0, "what is done with is done with"
        scale.look(int(CALM_FOR / LOOK_EVERY) // 2)
        scale.waited = BEHIND
        scale.look(2)
    assert len(warnings) == 1
    scale.waited = 0.0
    scale.look(2 * int(CALM_FOR / LOOK_EVERY))
    with logged_warnings() as warnings:
        scale.waited = BEHIND
        scale.look(2)
    assert len(warnings) == 1


def test_a_reactor_that_stays_late_is_behind_and_one_that_was_late_once_is_not(scale: Scale) -> None:
    scale.look(1, late=BEHIND)
    assert scale.arrears == 0.0
    scale.look(20)
    with logged_warnings():
        scale.look(2, late=BEHIND)
    assert scale.arrears == pytest.approx(BEHIND)


@pytest.mark.parametrize("times", [1.2, 1.5, 3.0, 10.0])
def test_t10_above_its_capacity_the_bridge_still_does_most_of_it_and_answers_in_time(
    scale: Scale, times: float
) -> None:
    """T10: requests wait in a line; one that is taken costs 2.5 ms, one that is refused a twentieth of that."""
    cost, step, seconds = 0.0025, 0.01, 20.0
    line: deque[tuple[float, str]] = deque()
    taken, refused, offered, spare, longest = 0, 0, 0.0, 0.0, 0.0
    with logged_warnings():
        while scale.clock.seconds() < seconds:
            now = scale.clock.seconds()
            offered += times * step / cost
            while offered >= 1.0:
                offered -= 1.0
                line.append((now, f"{taken + refused + len(line)}@caller"))
            spare += step
            while spare > 0.0 and line:
                since, call_id = line.popleft()
                longest = max(longest, now - since)
                if Refusal(call_id, b"", Flow("udp", ("", 0), ("", 0))).is_among(refused_share(scale.arrears)):
                    refused, spare = refused + 1, spare - cost / 20
                else:
                    taken, spare = taken + 1, spare - cost
            spare = min(spare, 0.0)
            scale.waited = now - line[0][0] if line else 0.0
            scale.clock.advance(step)
    assert taken * cost >= (0.9 if times < 2.0 else 0.5) * seconds
    assert refused >= (times - 1.0) * seconds / cost * 0.9
    assert longest < (T1 if times < 5.0 else 2 * T1)


def test_a_stopped_load_leaves_no_timer(scale: Scale) -> None:
    scale.load.stop()
    assert not scale.clock.getDelayedCalls()


def test_nothing_is_refused_in_time_and_everything_before_peers_repeat_it() -> None:
    assert refused_share(0.0) == refused_share(TOLERATED) == 0.0
    assert refused_share((TOLERATED + FULL) / 2) == pytest.approx(0.5)
    assert refused_share(FULL) == refused_share(10 * FULL) == 1.0
    assert FULL < T1
