"""Session timers end on each leg (RFC 4028, R36, D22): refreshed by us or by the peer, or given up."""

from __future__ import annotations

import pytest

from bridge.sip.message import Request, Response
from tests.harness.world import CARRIER, PLATFORM, Party, World, sdp

TIMER = {"Supported": "timer", "Session-Expires": "90;refresher=uas", "Allow": "INVITE, ACK, BYE, UPDATE"}


def answers_updates(party: Party, **headers: str) -> None:
    """Let a party answer UPDATE and re-INVITE like a peer that knows session timers."""

    def react(message: Request | Response) -> None:
        if isinstance(message, Request) and message.method in ("UPDATE", "INVITE") and message.to.tag:
            body = sdp((party.address[0], 40000)) if message.method == "INVITE" else b""
            party.respond(message, 200, body=body, headers={"Supported": "timer", **headers})

    party.react = react


def test_r36_we_refresh_at_half_the_interval_where_the_peer_leaves_it_to_us() -> None:
    """R36, D22: SE 90 is refreshed by UPDATE at 45 s, again and again, and the call lives."""
    world = World()
    call = world.set_up(headers=TIMER)
    answered = world.carrier.times("INVITE", 200)[0]
    assert call.accepted.headers.get("Session-Expires") == "90;refresher=uas"
    answers_updates(world.carrier, **{"Session-Expires": "90;refresher=uac"})
    world.run(200.0)
    times = [at - answered for at in world.carrier.times("UPDATE")]
    assert times == [pytest.approx(45 * n, abs=1) for n in (1, 2, 3, 4)]
    assert all(u.headers.get("Session-Expires") == "90;refresher=uac" for u in world.carrier.requests("UPDATE"))
    assert not world.carrier.requests("UPDATE")[0].body
    assert world.platform.requests("UPDATE") == []  # D22: the platform never sees it
    assert world.core.active == 1


def test_r36_a_peer_without_update_is_refreshed_by_a_reinvite_that_changes_nothing() -> None:
    world = World()
    call = world.set_up(headers={"Supported": "timer", "Session-Expires": "100", "Allow": "INVITE, ACK, BYE"})
    answers_updates(world.carrier, **{"Session-Expires": "100;refresher=uac"})
    world.run(51.0)
    refreshed = world.carrier.requests("INVITE")
    assert len(refreshed) == 1
    assert refreshed[0].body == call.accepted.body, "o= stays the same: RFC 3264 §8"
    assert len(world.carrier.requests("ACK")) == 1
    assert refreshed[0].cseq.number == 1  # the first request of ours in that direction (R09)


def test_r36_a_peer_that_should_refresh_and_does_not_is_given_up_on_both_legs() -> None:
    """R36: refresher silent, SE 90: BYE at SE - min(32, SE/3) = 60 s on both legs, and the record says why."""
    world = World()
    call = world.set_up(headers={**TIMER, "Session-Expires": "90;refresher=uac"})
    assert call.accepted.headers.get("Session-Expires") == "90;refresher=uac"
    assert call.accepted.headers.get_all("Require") == ["timer"]
    answered = world.carrier.times("INVITE", 200)[0]
    world.run(70.0)
    for party in (world.carrier, world.platform):
        assert party.times("BYE")[0] - answered == pytest.approx(60, abs=2)
        party.respond(party.requests("BYE")[0], 200)
    assert world.record["reason"] == "session-expired"
    world.assert_idle()


@pytest.mark.parametrize("method", ["UPDATE", "INVITE"])
def test_r36_a_refresh_by_the_peer_is_answered_here_and_moves_the_deadline(method: str) -> None:
    """D23: the platform sees nothing of it."""
    world = World()
    call = world.set_up(headers={**TIMER, "Session-Expires": "90;refresher=uac"})
    for number in range(2, 5):
        world.run(45.0)
        refresh = world.carrier.within(
            method,
            call.asked,
            call.accepted,
            number,
            body=sdp((CARRIER[0], 40000)) if method == "INVITE" else b"",
            headers={"Supported": "timer", "Session-Expires": "90;refresher=uac"},
        )
        world.run(0.1)
        answer = world.carrier.responses(method)[-1]
        assert (answer.status, answer.headers.get("Session-Expires")) == (200, "90;refresher=uac")
        if method == "INVITE":
            world.carrier.ack(refresh, answer)
    world.run(50.0)
    assert world.core.active == 1
    assert [len(world.platform.requests(name)) for name in ("INVITE", "UPDATE")] == [1, 0]


def test_r36_an_interval_below_ours_is_422_with_min_se() -> None:
    """R36: 90 s is the absolute minimum; a profile may ask for more."""
    world = World(carrier={"min_session_expires": 300})
    asked = world.carrier.invite(headers={"Supported": "timer", "Session-Expires": "200"})
    world.run(0.1)
    refused = world.carrier.responses()[-1]
    assert (refused.status, refused.headers.get("Min-SE")) == (422, "300")
    assert world.platform.requests("INVITE") == []
    world.carrier.ack(asked, refused)
    world.assert_idle()


def test_r36_a_422_is_answered_with_a_longer_interval_in_the_same_call() -> None:
    world = World(platform={"session_timer": "offer", "session_expires": 120})
    world.carrier.invite()
    world.run(0.1)
    first = world.platform.requests("INVITE")[0]
    assert first.headers.get("Session-Expires") == "120"
    world.platform.respond(first, 422, headers={"Min-SE": "600"})
    world.run(0.1)
    second = world.platform.requests("INVITE")[1]
    assert second.headers.get_all("Session-Expires") == ["600"]
    assert second.headers.get_all("Min-SE") == ["600"]
    assert (second.call_id, second.cseq.number) == (first.call_id, 2)
    world.platform.respond(second, 422, headers={"Min-SE": "600"})  # it is not asked a third time
    world.run(0.1)
    assert len(world.platform.requests("INVITE")) == 2


def test_d22_a_platform_without_session_timers_is_offered_none_and_refreshed_by_us_where_we_want_one() -> None:
    world = World(platform={"session_timer": "off"}, carrier={"session_timer": "offer", "session_expires": 90})
    call = world.set_up()
    assert "timer" not in (call.offered.headers.get("Supported") or "")
    assert call.offered.headers.get("Session-Expires") is None
    assert call.accepted.headers.get("Session-Expires") == "90;refresher=uas"
    answers_updates(world.carrier)
    world.run(46.0)
    assert len(world.carrier.requests("INVITE")) == 1  # no Allow of its was seen: re-INVITE


def test_r36_a_dead_peer_found_by_the_refresh_ends_the_call() -> None:
    world = World()
    world.set_up(headers=TIMER)
    world.run(45.0 + 33.0)
    assert len(world.carrier.requests("UPDATE")) == 11
    world.run(1.0)
    assert len(world.platform.requests("BYE")) >= 1
    assert world.record["reason"] == "peer-lost"


def test_r36_a_peer_that_takes_update_back_is_refreshed_by_reinvite() -> None:
    world = World()
    call = world.set_up(headers=TIMER)
    world.run(45.1)
    world.carrier.respond(world.carrier.requests("UPDATE")[0], 405)
    world.run(0.1)
    assert world.carrier.requests("INVITE")[0].body == call.accepted.body


def test_r36_an_outgoing_leg_holds_the_peer_to_the_refreshes_that_its_2xx_promises() -> None:
    world = World()
    asked = world.carrier.invite()
    world.run(0.1)
    offered = world.platform.requests("INVITE")[0]
    headers = {"Session-Expires": "90;refresher=uas", "Supported": "timer"}
    world.platform.respond(offered, 200, body=sdp((PLATFORM[0], 50000)), headers=headers)
    world.run(0.1)
    world.carrier.ack(asked, world.carrier.responses()[-1])
    answered = world.network.now
    world.run(70.0)
    assert world.platform.times("BYE")[0] - answered == pytest.approx(60, abs=2)
    assert world.record["reason"] == "session-expired"
