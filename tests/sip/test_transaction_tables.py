"""The machines as such: total, reachable, no timer without a row and no row without a timer."""

from __future__ import annotations

import pytest

from bridge.sip.transaction import (
    INVITE_CLIENT,
    INVITE_SERVER,
    NON_INVITE_CLIENT,
    NON_INVITE_SERVER,
    TIMER_INPUTS,
    Input,
    State,
    Timer,
)

_FROM_PEER = {Input.PROVISIONAL, Input.SUCCESS, Input.FAILURE, Input.TRANSPORT_ERROR}
_MACHINES = {
    "INVITE client": (INVITE_CLIENT, State.CALLING, {Timer.A, Timer.B}, _FROM_PEER),
    "non-INVITE client": (NON_INVITE_CLIENT, State.TRYING, {Timer.E, Timer.F}, _FROM_PEER),
    "INVITE server": (INVITE_SERVER, State.PROCEEDING, set(), _FROM_PEER | {Input.REQUEST, Input.ACK}),
    "non-INVITE server": (NON_INVITE_SERVER, State.TRYING, {Timer.F}, _FROM_PEER | {Input.REQUEST}),
}
_TIMER_OF = {what: timer for timer, what in TIMER_INPUTS.items()}


def situations(name):
    """Walk a machine: every reachable state with the sets of timers that may be running in it."""
    table, state, timers, _ = _MACHINES[name]
    found, todo = set(), [(state, frozenset(timers))]
    while todo:
        situation = todo.pop()
        if situation in found:
            continue
        found.add(situation)
        state, running = situation
        for (at, what), step in table.items():
            if at is state and (what not in _TIMER_OF or _TIMER_OF[what] in running):
                left = (running - {_TIMER_OF.get(what)} - set(step.stop)) | set(step.start)
                todo.append((step.state, frozenset() if step.state is State.TERMINATED else left))
    return found


@pytest.mark.parametrize("name", _MACHINES)
def test_a_machine_has_a_row_for_everything_that_can_happen_in_a_state(name):
    table, _, _, alphabet = _MACHINES[name]
    for state, running in situations(name):
        if state is State.TERMINATED:
            continue
        for what in alphabet | {TIMER_INPUTS[timer] for timer in running}:
            assert (state, what) in table, f"{name}: {what} in {state}"


@pytest.mark.parametrize("name", _MACHINES)
def test_every_row_can_be_reached(name):
    table, _, _, alphabet = _MACHINES[name]
    reached = situations(name)
    states = {state for state, _ in reached}
    assert State.TERMINATED in states
    assert states == {state for state, _ in table} | {State.TERMINATED}
    for state, what in table:
        timer = _TIMER_OF.get(what)
        assert what in alphabet or any(at is state and timer in running for at, running in reached), (
            f"{what} in {state}"
        )


@pytest.mark.parametrize("name", _MACHINES)
def test_no_state_but_the_last_lasts_for_ever_without_the_user(name):
    """Every state has a timer that ends it, but for an INVITE that rings: its user has the deadline (T19)."""
    for state, running in situations(name):
        if state is State.TERMINATED or (name.startswith("INVITE") and state is State.PROCEEDING):
            continue
        assert running, f"{name}: {state}"
