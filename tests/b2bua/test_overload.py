"""While the bridge is behind, new calls are turned away and those that stand are not touched."""

from __future__ import annotations

from bridge.sip.overload import Pressure
from tests.harness.world import World


def rejected(world: World) -> list[str]:
    return [trace.text for trace in world.network.traces if trace.kind == "rejected"]


def test_t10_under_pressure_a_new_call_gets_503_and_a_call_that_stands_ends_in_peace() -> None:
    """T10: shed with 503 and Retry-After; nothing is kept of it."""
    world = World()
    call = world.set_up()
    world.network.core.pressure = Pressure.HIGH
    before = world.network.core.counts()
    refused = world.carrier.invite()
    world.run(0.1)
    response = world.carrier.responses()[-1]
    assert (response.status, response.headers.get("Retry-After")) == (503, "10")
    assert response.call_id == refused.call_id
    world.carrier.ack(refused, response)
    assert world.network.core.counts() == before
    assert rejected(world) == ["overload"]
    world.carrier.within("BYE", call.asked, call.accepted, 2)
    world.run(0.1)
    assert world.carrier.statuses("BYE") == [200]


def test_t10_a_repeat_of_a_call_that_was_taken_is_not_refused() -> None:
    """Its first copy came before the pressure."""
    world = World()
    asked = world.carrier.invite()
    world.run(0.1)
    world.network.core.pressure = Pressure.HIGH
    world.carrier.send(asked.encode())
    world.run(0.1)
    assert 503 not in world.carrier.statuses("INVITE")


def test_t10_under_extreme_pressure_what_is_new_is_dropped_in_silence() -> None:
    world = World()
    world.network.core.pressure = Pressure.EXTREME
    world.carrier.invite()
    world.run(0.1)
    assert world.carrier.responses() == []
    assert rejected(world)[0] == "overload"
    world.network.core.pressure = Pressure.NONE
    world.set_up()
