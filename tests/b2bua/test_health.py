"""Which next hops are well: OPTIONS where the profile wants them, what calls meet everywhere (R55, D21)."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import pytest

from bridge.b2bua.health import TABLE, Health, Input, State
from bridge.config import Host, Route
from bridge.sip.message import Request, Response
from tests.harness.network import BRIDGE
from tests.harness.world import NUMBER, PLATFORM, SECOND_PLATFORM, Party, World

OTHER_HOP = ("127.0.0.22", 5060)


def probing(**network: Any) -> World:
    """Return a world that probes its platforms, which answer."""
    world = World(platform={"health": "options", "health_interval": 30.0}, **network)
    for party in (world.platform, world.sales):
        answers(party)
    return world


def answers(party: Party, status: int = 200) -> None:
    def react(message: Request | Response) -> None:
        if isinstance(message, Request) and message.method == "OPTIONS":
            party.respond(message, status)

    party.react = react


def health(world: World, place: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = world.core.trunks()[place]["health"]
    return found


def called(world: World) -> list[str]:
    """Place one call and return who is asked in the next ten seconds, in order."""
    before = {party: len(party.requests("INVITE")) for party in (world.platform, world.sales)}
    world.carrier.invite()
    world.run(10.0)
    asked = [
        (party.inbox[[m for _, m in party.inbox].index(party.requests("INVITE")[count])][0], name)
        for name, party in (("support", world.platform), ("sales", world.sales))
        if len(party.requests("INVITE")) > (count := before[party])
    ]
    return [name for _, name in sorted(asked)]


def test_the_table_says_what_every_input_does_in_every_state() -> None:
    assert set(TABLE) == set(product(State, Input))
    assert set(TABLE.values()) == set(State)


def test_a_peer_is_asked_every_thirty_seconds_give_or_take() -> None:
    """R55."""
    world = probing()
    world.run(600.0)
    at = world.platform.times("OPTIONS")
    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert all(27.0 <= gap <= 33.1 for gap in gaps), gaps
    assert max(gaps) - min(gaps) > 1.0
    assert health(world)["state"] == "up"
    assert health(world)["last_answer_at"] is not None
    request = world.platform.requests("OPTIONS")[0]
    assert request.uri == f"sip:{PLATFORM[0]}:{PLATFORM[1]}"
    assert str(request.from_.uri) == f"sip:trunkbridge@{BRIDGE[0]}:{BRIDGE[1]}"
    assert world.carrier.requests("OPTIONS") == []  # passive, as is the default


@pytest.mark.parametrize("status", [200, 404, 405, 483, 503])
def test_any_answer_is_a_sign_of_life(status: int) -> None:
    """R55."""
    world = probing()
    answers(world.platform, status)
    world.run(100.0)
    assert health(world)["state"] == "up"


@pytest.mark.parametrize("seed", range(5))
def test_a_silent_peer_is_down_within_65_seconds_and_up_after_two_answers(seed: int) -> None:
    """R55."""
    world = probing(seed=seed)
    world.run(100.0 + 7 * seed)
    world.platform.react = None
    world.run(65.0)
    assert health(world)["state"] == "down"
    answers(world.platform)
    answered = len(world.platform.requests("OPTIONS"))
    while len(world.platform.requests("OPTIONS")) <= answered:
        world.run(0.5)
    world.run(1.0)
    assert health(world)["state"] == "down"  # one answer is not enough
    world.run(34.0)
    assert health(world)["state"] == "up"
    assert [trace.text for trace in world.network.traces if trace.kind == "trunk"] == [
        "support: 127.0.0.20:5060 is down: it leaves OPTIONS unanswered",
        "support: 127.0.0.20:5060 is up again",
    ]


@pytest.mark.parametrize("seed", range(4))
def test_a_fifth_of_the_datagrams_lost_makes_nobody_flap(seed: int) -> None:
    """R55: for an hour."""
    world = probing(seed=seed, loss=0.2)
    states = set()
    for _ in range(360):
        world.run(10.0)
        states.add(health(world)["state"])
    assert "down" not in states


def test_calls_pass_over_a_peer_that_is_down_and_come_back_to_it() -> None:
    """R55."""
    world = probing()
    world.run(60.0)
    world.platform.react = None
    world.run(65.0)
    assert called(world)[0] == "sales"
    answers(world.platform)
    world.run(80.0)
    assert called(world)[0] == "support"


def test_the_only_peer_is_called_though_it_is_down() -> None:
    """R55."""
    world = probing(routes=(Route("in", "main", NUMBER, ("support",)),))
    world.platform.react = None
    world.run(100.0)
    assert health(world)["state"] == "down"
    assert called(world) == ["support"]


def test_a_peer_that_is_down_is_the_last_resort() -> None:
    """R55."""
    world = probing()
    world.platform.react = None
    world.run(100.0)
    world.network.detach(SECOND_PLATFORM)
    asked = len(world.platform.requests("INVITE"))
    world.carrier.invite()
    world.run(5.0)
    assert len(world.platform.requests("INVITE")) > asked


def test_a_call_without_a_response_makes_its_target_a_suspect_at_once() -> None:
    """R55, D21: passive health, as for a platform that ignores OPTIONS."""
    world = World()
    assert called(world)[:2] == ["support", "sales"]
    assert called(world)[0] == "sales"
    world.run(30.0)
    assert called(world)[0] == "support"  # forgiven: somebody has to find out
    assert world.platform.requests("OPTIONS") == []


def test_any_response_to_a_call_makes_its_target_well_again() -> None:
    """D21."""
    world = World(routes=(Route("in", "main", NUMBER, ("support",)), Route("both", "main", "*", ("support", "sales"))))
    world.carrier.invite()
    world.run(5.0)
    world.carrier.invite()
    world.run(0.1)
    world.platform.respond(world.platform.requests("INVITE")[-1], 486)
    world.run(0.1)
    assert health(world)["state"] == "up"
    world.carrier.invite("+14155550199")
    world.run(0.1)
    assert world.sales.requests("INVITE") == []


def test_a_call_that_fails_makes_the_probe_come_at_once() -> None:
    """R55."""
    world = probing()
    while not world.platform.requests("OPTIONS"):
        world.run(0.1)
    world.platform.react = None
    world.carrier.invite()
    world.run(4.2)  # the target's response deadline is 4 s, the next probe's time some 30
    assert len(world.platform.requests("OPTIONS")) == 2


def test_an_unreachable_address_is_a_suspect_at_once() -> None:
    """R55: ICMP, or a connection that is refused."""
    world = World()
    world.carrier.invite()
    world.run(0.1)
    [flow] = {transmit.flow for _, transmit in world.network.sent if transmit.flow.remote == PLATFORM}
    world.network.transport_failed(flow)
    world.run(0.1)
    assert len(world.sales.requests("INVITE")) == 1
    assert called(world)[0] == "sales"


def test_the_hops_of_one_name_are_watched_each_by_itself() -> None:
    """R55."""
    host = Host("platform.example", 0, "udp")
    world = World(
        platform={"health": "options"},
        platform_peer={"hosts": (host,), "sources": (f"{PLATFORM[0]}/32", f"{OTHER_HOP[0]}/32")},
        routes=(Route("in", "main", NUMBER, ("support",)),),
    )
    world.network.names["platform.example"] = (PLATFORM[0], OTHER_HOP[0])
    other = Party(world.network, OTHER_HOP)
    answers(other)
    world.run(100.0)
    assert health(world)["state"] == "up"  # one of them does
    assert other.requests("OPTIONS")[0].uri == "sip:platform.example"
    world.carrier.invite()
    world.run(0.2)
    assert len(other.requests("INVITE")) == 1
    assert world.platform.requests("INVITE") == []
    world.network.names["platform.example"] = (OTHER_HOP[0],)
    asked = len(world.platform.requests("OPTIONS"))
    world.run(120.0)
    assert len(world.platform.requests("OPTIONS")) <= asked + 20  # what was out is repeated, nothing else
    assert world.platform.times("OPTIONS")[-1] < world.network.now - 50.0


def test_probes_leave_nothing_behind() -> None:
    """T19."""
    world = probing()
    world.network.detach(SECOND_PLATFORM)
    world.run(3600.0)
    held = world.core.counts()
    assert held["dialogs"] == held["calls"] == held["queries"] == 0
    assert held["non_invite_clients"] <= 4
    assert world.bugs() == []


def test_health_is_asked_again_sooner_after_a_miss_and_not_at_all_without_an_interval() -> None:
    silent = Health(30.0, 0.0, 0.5)
    assert silent.handle_timeout(1.0, 0.5)
    assert not silent.handle_timeout(9.0, 0.5)
    assert silent.state is State.SUSPECT
    assert silent.probe_at == 19.0
    passive = Health(None, 0.0, 0.5)
    assert passive.due_at is None
    passive.failed(5.0)
    assert not passive.is_well(34.9)
    assert passive.is_well(35.0)


def test_out_of_dialog_options_are_answered_always() -> None:
    """D21: also while draining, and in the middle of a call."""
    world = World()
    world.set_up()
    world.platform.send(
        (
            f"OPTIONS sip:{BRIDGE[0]} SIP/2.0\r\nVia: SIP/2.0/UDP {PLATFORM[0]}:5060;branch=z9hG4bKo1\r\n"
            f"From: <sip:p@{PLATFORM[0]}>;tag=o1\r\nTo: <sip:{BRIDGE[0]}>\r\nCall-ID: o1\r\nCSeq: 1 OPTIONS\r\n\r\n"
        ).encode()
    )
    world.run(0.1)
    assert world.platform.statuses("OPTIONS") == [200]
