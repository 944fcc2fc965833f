"""What happens before the answer: reliable provisional responses (RFC 3262), forks, early UPDATE."""

from __future__ import annotations

import pytest

from bridge.media.relay import LegName
from bridge.sip.message import Request, Response
from tests.harness.world import CARRIER, PLATFORM, World, sdp

MEDIA = sdp((PLATFORM[0], 50000))


def ringing_world(carrier: str, platform: str, **invite: object) -> tuple[World, Request, Request]:
    """Let a carrier and a platform with these ``prack`` settings come as far as our INVITE to the platform."""
    world = World(carrier={"prack": carrier}, platform={"prack": platform})
    asked = world.carrier.invite(**invite)  # type: ignore[arg-type]
    world.run(0.1)
    return world, asked, world.platform.requests("INVITE")[0]


@pytest.mark.parametrize("caller_can", [True, False])
@pytest.mark.parametrize("callee_does", [True, False])
def test_r30_reliable_and_plain_provisionals_are_bridged_in_every_mix(caller_can: bool, callee_does: bool) -> None:
    """R30: 100rel ends on each leg; neither side hears of the other's."""
    headers = {"Supported": "100rel"} if caller_can else {}
    world, asked, offered = ringing_world("supported", "supported", headers=headers)
    assert "100rel" in (offered.headers.get("Supported") or "")
    assert offered.headers.get("Require") is None  # D10
    reliable = {"Require": "100rel", "RSeq": "7001"} if callee_does else {}
    world.platform.respond(offered, 183, body=MEDIA, headers=reliable)
    world.run(0.1)
    pracks = world.platform.requests("PRACK")
    assert [prack.headers.get("RAck") for prack in pracks] == (["7001 1 INVITE"] if callee_does else [])
    progress = world.carrier.responses()[-1]
    assert progress.status == 183
    assert ("100rel" in (progress.headers.get("Require") or "")) == caller_can
    if caller_can:
        rack = f"{progress.headers.get('RSeq')} 1 INVITE"
        world.carrier.within("PRACK", asked, progress, 2, headers={"RAck": rack})
        world.run(0.1)
        assert world.carrier.statuses("PRACK") == [200]
    if callee_does:
        world.platform.respond(pracks[0], 200)
    world.platform.respond(offered, 200, body=MEDIA)
    world.run(0.1)
    accepted = world.carrier.responses()[-1]
    assert accepted.status == 200
    assert accepted.body == (b"" if caller_can else progress.body)
    world.carrier.ack(asked, accepted)
    bye = 3 if caller_can else 2
    world.carrier.within("BYE", asked, accepted, bye)
    world.run(0.1)
    world.platform.respond(world.platform.requests("BYE")[0], 200)
    world.assert_idle()


def test_r30_a_caller_that_requires_100rel_gets_it_or_420() -> None:
    world, _, offered = ringing_world("supported", "off", headers={"Require": "100rel"})
    world.platform.respond(offered, 180)
    world.run(0.1)
    assert world.carrier.responses()[-1].headers.get("Require") == "100rel"
    world = World(carrier={"prack": "off"})
    world.carrier.invite(headers={"Require": "100rel"})
    world.run(0.1)
    refused = world.carrier.responses()[-1]
    assert (refused.status, refused.headers.get("Unsupported")) == (420, "100rel")


def test_r30_a_183_whose_prack_never_comes_is_repeated_and_then_refused_with_504() -> None:
    """R30: 0, .5, 1.5, 3.5, 7.5, 15.5, 31.5 s, then a 5xx; the platform's ringing is cancelled."""
    world, asked, offered = ringing_world("supported", "off", headers={"Supported": "100rel"})
    began = world.network.now
    world.platform.respond(offered, 183, body=MEDIA)
    world.run(33.0)
    assert [round(at - began, 1) for at in world.carrier.times("INVITE", 183)] == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    refused = world.carrier.responses()[-1]
    assert refused.status == 504
    world.carrier.ack(asked, refused)
    assert len(world.platform.requests("CANCEL")) >= 1
    world.platform.respond(world.platform.requests("CANCEL")[0], 200)
    world.platform.respond(offered, 487)
    world.run(0.1)
    assert world.record["reason"] == "no-ack"


def test_r30_a_prack_that_matches_nothing_is_481() -> None:
    world, asked, offered = ringing_world("supported", "off", headers={"Supported": "100rel"})
    world.platform.respond(offered, 183, body=MEDIA)
    world.run(0.1)
    progress = world.carrier.responses()[-1]
    wrong = f"{int(progress.headers.get('RSeq') or 0) + 5} 1 INVITE"
    world.carrier.within("PRACK", asked, progress, 2, headers={"RAck": wrong})
    world.run(0.1)
    assert world.carrier.statuses("PRACK") == [481]


def test_r30_reliable_responses_are_acknowledged_once_and_in_order() -> None:
    world, _, offered = ringing_world("off", "supported")
    for rseq in (100, 100, 102, 101):
        world.platform.respond(offered, 180, headers={"Require": "100rel", "RSeq": str(rseq)})
        world.run(0.05)
    assert [p.headers.get("RAck") for p in world.platform.requests("PRACK")] == ["100 1 INVITE", "101 1 INVITE"]
    assert [p.cseq.number for p in world.platform.requests("PRACK")] == [2, 3]


def test_an_answer_given_reliably_stays_the_answer_whatever_the_platform_says_later() -> None:
    """RFC 3262 §5: once a reliable 183 carried the answer, the 200 can't carry another."""
    world, asked, offered = ringing_world("supported", "off", headers={"Supported": "100rel"})
    world.platform.respond(offered, 183, body=MEDIA, tag="one")
    world.run(0.1)
    progress = world.carrier.responses()[-1]
    rack = f"{progress.headers.get('RSeq')} 1 INVITE"
    world.carrier.within("PRACK", asked, progress, 2, headers={"RAck": rack})
    world.run(0.1)
    world.platform.respond(offered, 200, body=sdp((PLATFORM[0], 50002), formats="8"), tag="two")
    world.run(0.1)
    accepted = world.carrier.responses()[-1]
    assert (accepted.status, accepted.body) == (200, b"")
    world.carrier.ack(asked, accepted)
    world.run(0.1)
    # the caller is asked to speak what the platform took in the end
    again = world.carrier.requests("INVITE")[-1]
    assert b"m=audio" in again.body
    assert b"PCMU" not in again.body


def test_a_200_waits_for_the_prack_of_the_183_with_sdp() -> None:
    """RFC 3262 §3: no 2xx while a reliable response that carried SDP is unacknowledged."""
    world, asked, offered = ringing_world("supported", "off", headers={"Supported": "100rel"})
    world.platform.respond(offered, 183, body=MEDIA)
    world.platform.respond(offered, 200, body=MEDIA)
    world.run(0.1)
    assert world.carrier.statuses()[-1] == 183
    progress = world.carrier.responses()[-1]
    world.carrier.within("PRACK", asked, progress, 2, headers={"RAck": f"{progress.headers.get('RSeq')} 1 INVITE"})
    world.run(0.1)
    assert world.carrier.statuses()[-1] == 200
    assert world.carrier.statuses("PRACK") == [200]


def test_forks_that_both_answer_leave_one_call_and_the_other_is_acknowledged_and_ended() -> None:
    world, asked, offered = ringing_world("off", "off")
    for tag in ("one", "two"):
        world.platform.respond(offered, 180, tag=tag)
    world.run(0.1)
    world.platform.respond(offered, 200, body=MEDIA, tag="two")
    world.platform.respond(offered, 200, body=sdp((PLATFORM[0], 50002)), tag="one")
    world.run(0.1)
    acks = [ack.to.tag for ack in world.platform.requests("ACK")]
    assert sorted(filter(None, acks)) == ["one", "two"]
    assert [bye.to.tag for bye in world.platform.requests("BYE")] == ["one"]
    accepted = world.carrier.responses()[-1]
    world.carrier.ack(asked, accepted)
    world.platform.respond(world.platform.requests("BYE")[0], 200)
    world.run(1.0)
    assert world.core.active == 1


def test_a_200_without_sdp_takes_the_description_of_its_own_fork() -> None:
    world, _, offered = ringing_world("off", "off")
    world.platform.respond(offered, 183, body=sdp((PLATFORM[0], 50000)), tag="one")
    world.platform.respond(offered, 183, body=sdp((PLATFORM[0], 50002)), tag="two")
    world.platform.respond(offered, 200, tag="one")
    world.run(0.1)
    media = [media for _, leg, media in world.relay.updates if leg is LegName.PLATFORM]
    assert media[-1].remote_rtp == (PLATFORM[0], 50000)


def test_r35_update_with_an_offer_before_the_answer_is_answered_or_refused_by_the_state() -> None:
    """R35, RFC 3311 §5.2: while the INVITE's own offer is unanswered 491 from the callee, 500 from the caller."""
    world, asked, offered = ringing_world("supported", "off", headers={"Supported": "100rel"})
    world.platform.respond(offered, 180)
    world.run(0.1)
    ringing = world.carrier.responses()[-1]
    world.carrier.within("UPDATE", asked, ringing, 2, body=sdp((CARRIER[0], 40002)))
    world.platform.within_received("UPDATE", offered, "far", 1, body=MEDIA)
    world.run(0.1)
    refused = world.carrier.responses("UPDATE")[0]
    assert refused.status == 500
    assert 0 <= int(refused.headers.get("Retry-After") or -1) <= 10
    assert world.platform.statuses("UPDATE") == [491]
    world.platform.respond(offered, 183, body=MEDIA)
    world.run(0.1)
    progress = world.carrier.responses()[-1]
    world.carrier.within("PRACK", asked, progress, 3, headers={"RAck": f"{progress.headers.get('RSeq')} 1 INVITE"})
    world.run(0.1)
    world.carrier.within("UPDATE", asked, progress, 4, body=sdp((CARRIER[0], 40002), version=2))
    world.platform.within_received("UPDATE", offered, "far", 2, body=sdp((PLATFORM[0], 50004), version=2))
    world.run(0.1)
    for party in (world.carrier, world.platform):
        answer: Response = party.responses("UPDATE")[-1]
        assert answer.status == 200
        assert answer.body


def test_r35_update_moves_the_remote_target() -> None:
    world = World()
    call = world.set_up()
    host = CARRIER[0]
    body = (
        f"UPDATE sip:x@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {host}:5060;rport;branch={world.carrier.branch()}\r\n"
        f"From: {call.asked.headers.get('From')}\r\nTo: {call.accepted.headers.get('To')}\r\n"
        f"Call-ID: {call.asked.call_id}\r\nCSeq: 2 UPDATE\r\nContact: <sip:moved@{host}:5060>\r\n"
        "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
    world.carrier.send(body.encode())
    world.run(0.1)
    assert world.carrier.statuses("UPDATE") == [200]
    world.platform.within_received("BYE", call.offered, "far", 1)
    world.run(0.1)
    assert world.carrier.requests("BYE")[0].uri == f"sip:moved@{host}:5060"
