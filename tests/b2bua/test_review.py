"""Odd peers: answers that are none, identifiers of another dialog, addresses that nobody can send to."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.b2bua.actions import HangUp
from bridge.b2bua.leg import Leg
from bridge.config import Route
from bridge.media.relay import LegName, MediaSilent
from bridge.sip.message import Request
from tests.harness.world import CARRIER, PLATFORM, World, sdp


@pytest.mark.parametrize("value", ["<sip:", "%%%"])
def test_a_200_whose_record_route_can_not_be_read_fails_the_attempt(value: str) -> None:
    """There is no way to acknowledge it; it is the peer's fault and no bug of ours."""
    world = World()
    world.carrier.invite()
    world.run(0.1)
    offered = world.platform.requests("INVITE")[0]
    for _ in range(2):
        world.platform.respond(offered, 200, body=sdp((PLATFORM[0], 50000)), headers={"Record-Route": value})
        world.run(0.1)
    assert world.bugs() == []
    world.sales.respond(world.sales.requests("INVITE")[0], 486)
    world.run(0.1)
    assert [attempt["status"] for attempt in world.record["attempts"]] == [502, 486]
    world.assert_idle()


@pytest.mark.parametrize("body", [b"", b"v=0\r\nrubbish", sdp((CARRIER[0], 40000), formats="18"), sdp((CARRIER[0], 0))])
def test_an_offerless_invite_whose_ack_brings_no_usable_answer_ends_both_legs(body: bytes) -> None:
    """RFC 3261 §13.2.2.4: without an answer there is no session."""
    world = World()
    asked = world.carrier.invite(body=b"")
    world.run(0.1)
    world.platform.respond(world.platform.requests("INVITE")[0], 200, body=sdp((PLATFORM[0], 50000)))
    world.run(0.1)
    world.carrier.ack(asked, world.carrier.responses()[-1], body=body)
    world.run(0.1)
    for party in (world.carrier, world.platform):
        assert len(party.requests("BYE")) == 1
        party.respond(party.requests("BYE")[0], 200)
    world.assert_idle()
    assert world.record["reason"] == "codec-mismatch"
    assert world.record["ended_by"] == "bridge"


@pytest.mark.parametrize(
    ("body", "stays"), [(b"", True), (b"v=0\r\nrubbish", False), (sdp((CARRIER[0], 40000), formats="18"), False)]
)
def test_an_offerless_reinvite_lives_without_an_answer_but_not_with_a_bad_one(body: bytes, stays: bool) -> None:
    world = World()
    call = world.set_up()
    again = world.carrier.within("INVITE", call.asked, call.accepted, 2)
    world.run(0.1)
    world.carrier.within("ACK", again, world.carrier.responses()[-1], 2, body=body)
    world.run(0.1)
    assert world.bugs() == []
    assert len(world.carrier.requests("BYE")) == len(world.platform.requests("BYE")) == (0 if stays else 1)


def test_an_answer_that_took_nothing_of_our_offer_fails_the_attempt() -> None:
    """The caller's second audio line has the codec, but it was not offered to the platform."""
    world = World()
    second_line = "m=audio 40002 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n"
    world.carrier.invite(body=sdp((CARRIER[0], 40000), formats="0", extra=second_line))
    world.run(0.1)
    offered = world.platform.requests("INVITE")[0]
    world.platform.respond(offered, 200, body=sdp((PLATFORM[0], 50000), formats="8"))
    world.run(0.1)
    assert world.bugs() == []
    assert world.carrier.statuses() == [100, 488]
    assert len(world.platform.requests("BYE")) == 1


def test_a_bye_of_another_fork_ends_nothing() -> None:
    """RFC 3261 §12: the remote tag is part of the dialog's identity."""
    world = World()
    call = world.set_up()
    world.platform.within_received("BYE", call.offered, "other", 1)
    world.run(0.1)
    assert world.platform.statuses("BYE") == [481]
    assert not world.carrier.requests("BYE")


def test_a_probe_that_is_answered_503_keeps_the_call() -> None:
    """An overloaded peer is a living one."""
    world = World()
    world.set_up()
    session = next(iter(world.relay.open_sessions))
    world.network.relay_event(MediaSilent(session, LegName.PLATFORM, world.network.now))
    world.run(0.1)
    world.platform.respond(world.platform.requests("OPTIONS")[0], 503)
    world.run(0.1)
    assert not world.carrier.requests("BYE")


def test_a_hold_ends_by_an_offerless_reinvite() -> None:
    """RFC 3261 §14.2, RFC 6337 §5.3: our offer is all that we can do, not what the hold left of it."""
    world = World()
    call = world.set_up()
    held = sdp((CARRIER[0], 40000), direction="sendonly", version=2)
    hold = world.carrier.within("INVITE", call.asked, call.accepted, 2, body=held)
    world.run(0.1)
    world.carrier.within("ACK", hold, world.carrier.responses()[-1], 2)
    world.run(0.1)
    resume = world.carrier.within("INVITE", call.asked, call.accepted, 3)
    world.run(0.1)
    offer = world.carrier.responses()[-1]
    assert b"a=sendrecv" in offer.body
    assert _version(offer.body) == _version(call.accepted.body) + 2
    world.carrier.within("ACK", resume, offer, 3, body=sdp((CARRIER[0], 40000), version=3))
    world.run(0.1)
    media = next(iter(world.relay.media.values()))[LegName.CARRIER]
    assert (media.may_send, media.may_receive) == (True, True)


def test_the_version_of_our_description_rises_by_one_with_each_change_only() -> None:
    """RFC 3264 §8 (R31)."""
    world = World()
    call = world.set_up()
    versions = [_version(call.accepted.body)]
    for number, direction in enumerate(["sendrecv", "sendrecv", "sendonly", "sendrecv"], 2):
        body = sdp((CARRIER[0], 40000), direction=direction, version=number)
        again = world.carrier.within("INVITE", call.asked, call.accepted, number, body=body)
        world.run(0.1)
        response = world.carrier.responses()[-1]
        world.carrier.within("ACK", again, response, number)
        world.run(0.1)
        versions.append(_version(response.body))
    assert [version - versions[0] for version in versions] == [0, 0, 0, 1, 2]


def test_the_record_of_a_ringing_call_that_the_operator_ends_says_what_the_caller_heard() -> None:
    world = World()
    world.carrier.invite()
    world.run(0.1)
    offered = world.platform.requests("INVITE")[0]
    world.platform.respond(offered, 180)
    world.run(0.1)
    world.network.command(HangUp(None))
    world.run(0.1)
    assert world.carrier.statuses()[-1] == world.record["status"] == 503
    assert [attempt["status"] for attempt in world.record["attempts"]] == [487]
    world.platform.respond(world.platform.requests("CANCEL")[0], 200)
    world.platform.respond(offered, 487)
    world.assert_idle()


def test_a_contact_of_another_address_family_yields_to_the_packet_source() -> None:
    world = World()
    world.carrier.invite()
    world.run(0.1)
    body = sdp((PLATFORM[0], 50000))
    answer = world.platform.respond(world.platform.requests("INVITE")[0], 180, body=body)
    answer = answer.replace(b"SIP/2.0 180", b"SIP/2.0 200").replace(b"peer@127.0.0.20:5060", b"peer@[2600::1]:5060")
    world.platform.send(answer)
    world.run(0.1)
    assert len(world.platform.requests("ACK")) == 1


def test_an_invite_that_names_nobody_is_484() -> None:
    world = World(routes=(Route("all", "main", "*", ("support",)),))
    asked = World().carrier.invite()
    world.carrier.send(asked.encode().replace(b"sip:+14155550100@", b"sip:"))
    world.run(0.1)
    assert world.bugs() == []
    assert world.carrier.statuses() == [100, 484]
    assert world.record["reason"] == "bad-request"
    world.assert_idle()


def test_a_bug_while_the_platform_is_called_refuses_the_caller_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    send = world.core._endpoint.send_request

    def broken(request: Request, *rest: Any, **named: Any) -> Any:
        if request.method == "INVITE":
            raise RuntimeError("a bug")
        return send(request, *rest, **named)

    monkeypatch.setattr(world.core._endpoint, "send_request", broken)
    world.carrier.invite()
    world.run(0.1)
    assert world.carrier.statuses() == [100, 500]
    assert (world.record["reason"], world.record["status"]) == ("bug", 500)
    world.run(70.0)
    assert not any(world.core.counts().values())
    assert world.relay.open_sessions == {}


def test_a_status_that_the_profile_changes_does_not_keep_the_phrase_of_the_other() -> None:
    """D12: "503 Forbidden" would send whoever reads a trace the wrong way."""
    world = World(carrier={"responses": {403: 503}})
    world.carrier.invite()
    world.run(0.1)
    answer = world.platform.requests("INVITE")[0]
    world.platform.respond(answer, 403)
    world.run(0.1)
    final = world.carrier.responses()[-1]
    assert (final.status, final.reason) == (503, "Service Unavailable")


def test_a_bug_in_one_call_does_not_keep_the_operator_from_ending_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    first, _ = world.set_up(), world.set_up()
    hang_up = Leg.hang_up

    def broken(leg: Leg, *rest: Any) -> None:
        if leg.call_id == first.asked.call_id:
            raise RuntimeError("a bug")
        hang_up(leg, *rest)

    monkeypatch.setattr(Leg, "hang_up", broken)
    world.network.command(HangUp(None))
    world.run(3.0)
    assert {record["reason"] for record in world.network.records} == {"operator", "bug"}
    assert world.relay.open_sessions == {}


def _version(body: bytes) -> int:
    return int(next(line for line in body.decode().splitlines() if line.startswith("o=")).split()[2])
