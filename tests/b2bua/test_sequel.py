"""Transfers without REFER: the platform calls the target itself and bridges the two calls (D37)."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.sip.message import Request
from tests.harness.world import CARRIER, NUMBER, PLATFORM, World, sdp

TARGET = "+14155550777"
CALLER = "+14155550999"


def second_call(world: World, caller: str = "+19995550000", headers: dict[str, str] | None = None) -> Request:
    """Let the platform call somebody while its first call is up."""
    invite = world.platform.invite(TARGET, caller=caller, headers=headers, body=sdp((PLATFORM[0], 50010)))
    world.run(0.1)
    return invite


def transfers(world: World) -> list[Any]:
    return [call["transfer"] for call in world.core.calls()]


@pytest.mark.parametrize(
    "how", ["the caller's number", "the called number", "X-Call-ID", "Referred-By", "User-to-User", "In-Reply-To"]
)
def test_a_second_call_is_recognised_as_the_transfer_of_the_first(how: str) -> None:
    """D37: by a header that names the first dialog, or by the first call's numbers."""
    world = World()
    first = world.set_up()
    call_id = first.offered.call_id
    caller, headers = {
        "the caller's number": (CALLER.removeprefix("+"), {}),
        "the called number": (NUMBER, {}),
        "X-Call-ID": ("anonymous", {"X-Call-ID": call_id}),
        "Referred-By": ("anonymous", {"Referred-By": f"<sip:agent@platform.example>;cid={call_id}"}),
        "User-to-User": ("anonymous", {"User-to-User": f"{call_id};encoding=hex"}),
        "In-Reply-To": ("anonymous", {"In-Reply-To": call_id}),
    }[how]
    invite = second_call(world, caller, headers)
    one, two = world.core.calls()
    assert (one["transfer"]["mode"], one["transfer"]["target"]) == ("invite", TARGET)
    assert (one["transfer"]["call"], two["transfer"]["call"]) == (two["id"], one["id"])
    assert one["transfer"]["result"] is None
    offered = world.carrier.requests("INVITE")[-1]
    world.carrier.respond(offered, 200, body=sdp((CARRIER[0], 41000)), tag="target")
    world.run(0.1)
    world.platform.ack(invite, world.platform.responses()[-1])
    world.run(0.1)
    assert [facts["result"] for facts in transfers(world)] == ["succeeded", "succeeded"]
    counted = [trace.details for trace in world.network.traces if trace.kind == "transfer"]
    assert [(facts["platform"], facts["mode"]) for facts in counted] == [("support", "invite")]
    assert world.bugs() == []


def test_a_second_call_that_fails_leaves_the_first_alone() -> None:
    """D37, D38."""
    world = World()
    first = world.set_up()
    invite = second_call(world, CALLER)
    world.carrier.respond(world.carrier.requests("INVITE")[-1], 486, tag="target")
    world.run(0.1)
    world.platform.ack(invite, world.platform.responses()[-1])
    (refused,) = world.network.records
    assert (refused["transfer"]["result"], refused["transfer"]["status"]) == ("failed", 486)
    (alive,) = world.core.calls()
    assert (alive["state"], alive["transfer"]["result"]) == ("up", "failed")
    world.carrier.within("BYE", first.asked, first.accepted, 2)
    world.run(0.1)
    world.platform.respond(world.platform.requests("BYE")[-1], 200)
    world.assert_idle()


def test_a_call_that_has_nothing_to_do_with_the_first_is_a_new_one() -> None:
    world = World()
    world.set_up()
    second_call(world, headers={"X-Call-ID": "something-else", "Referred-By": "<sip:agent@platform.example>"})
    assert transfers(world) == [None, None]


def test_a_number_with_two_calls_decides_nothing() -> None:
    """D37: only the life of exactly one call says which one is meant."""
    world = World()
    world.set_up()
    world.set_up(caller="+14155550888")
    second_call(world, NUMBER)
    assert transfers(world) == [None, None, None]
    second_call(world, "+14155550888")
    assert [facts and facts["mode"] for facts in transfers(world)] == [None, "invite", None, "invite"]


def test_another_platforms_call_is_no_transfer_of_this_ones() -> None:
    world = World(routes=None)
    first = world.set_up()
    world.sales.invite(TARGET, caller=CALLER, headers={"X-Call-ID": first.offered.call_id})
    world.run(0.1)
    assert transfers(world)[0] is None
