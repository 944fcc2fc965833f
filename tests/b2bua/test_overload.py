"""While the bridge is behind, new calls are turned away and those that stand are not touched."""

from __future__ import annotations

import pytest

from bridge.config import NodeLimits
from bridge.sip.overload import FULL, HOPELESS
from tests.harness.world import CARRIER, World


def rejected(world: World) -> list[str]:
    return [trace.text for trace in world.network.traces if trace.kind == "rejected"]


def test_t10_under_pressure_a_new_call_gets_503_and_a_call_that_stands_ends_in_peace() -> None:
    """T10: shed with 503 and Retry-After; nothing is kept of it."""
    world = World()
    call = world.set_up()
    world.network.core.arrears = FULL
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
    world.network.core.arrears = FULL
    world.carrier.send(asked.encode())
    world.run(0.1)
    assert 503 not in world.carrier.statuses("INVITE")


def test_t10_under_extreme_pressure_what_is_new_is_dropped_in_silence() -> None:
    world = World()
    world.network.core.arrears = HOPELESS
    world.carrier.invite()
    world.run(0.1)
    assert world.carrier.responses() == []
    assert rejected(world)[0] == "overload"
    world.network.core.arrears = 0.0
    world.set_up()


@pytest.mark.parametrize(("method", "status"), [("OPTIONS", 200), ("REGISTER", 405), ("MESSAGE", 405)])
def test_t10_nothing_is_kept_of_what_can_be_answered_again(method: str, status: int) -> None:
    """T10, T19: a trunk's OPTIONS at any rate fill no memory; a repeat gets the same answer (RFC 3261 §8.2.7)."""
    world = World()
    before = world.network.core.counts()
    for number in range(100):
        asked = request_outside(method, number)
        world.carrier.send(asked)
        world.carrier.send(asked)
        world.run(0.01)
    answers = world.carrier.responses(method)
    assert {answer.status for answer in answers} == {status}
    assert len(answers) == 200
    assert len({answer.headers.get("To") for answer in answers}) == 100
    assert world.network.core.counts() == before


def test_t10_a_bye_for_no_dialog_is_481_and_forgotten() -> None:
    """T10, T19."""
    world = World()
    before = world.network.core.counts()
    world.carrier.send(request_outside("BYE", 1, ";tag=of-nobody"))
    world.run(0.1)
    assert world.carrier.statuses("BYE") == [481]
    assert world.network.core.counts() == before


def request_outside(method: str, number: int, to: str = "") -> bytes:
    host, port = CARRIER
    lines = [
        f"{method} sip:bridge.test SIP/2.0",
        f"Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bK{method}{number}",
        "Max-Forwards: 70",
        f"From: <sip:trunk@{host}>;tag={number}",
        f"To: <sip:bridge.test>{to}",
        f"Call-ID: {number}@{host}",
        f"CSeq: 1 {method}",
        f"Contact: <sip:trunk@{host}>",
        "Content-Length: 0",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def test_t10_who_floods_gets_503_then_silence_and_everybody_else_is_served() -> None:
    """T10: a bucket for each source; what belongs to a call that stands is none of its business."""
    world = World(limits=NodeLimits(requests_from_source=10.0))
    call = world.set_up()
    for number in range(100):
        world.carrier.invite(number=f"+999{number}")
    world.run(0.1)
    statuses = world.carrier.statuses("INVITE")
    assert statuses.count(404) == 20, "two seconds' worth; what the call took has leaked away"
    assert statuses.count(503) == 20
    assert set(rejected(world)) == {"flood"}
    assert len(rejected(world)) == 80
    world.platform.invite(number="+14155550111")
    world.run(0.1)
    assert world.platform.statuses("INVITE")[-1] != 503
    world.carrier.within("BYE", call.asked, call.accepted, 2)
    world.run(0.1)
    assert world.carrier.statuses("BYE") == [200]
    world.run(5.0)
    world.carrier.invite(number="+9999")
    world.run(0.1)
    assert world.carrier.statuses("INVITE")[-1] == 404, "and is forgiven a few seconds after"


def test_t10_a_flood_of_any_new_request_is_met_with_silence() -> None:
    world = World(limits=NodeLimits(requests_from_source=10.0))
    for number in range(100):
        world.carrier.send(request_outside("OPTIONS", number))
    world.run(0.1)
    assert world.carrier.statuses("OPTIONS") == [200] * 40
    assert rejected(world) == ["flood"] * 60
