"""R32: the six ways in which RFC 6337 §2 lets an offer meet its answer, toward a caller: never one-way media."""

from __future__ import annotations

from bridge.media.relay import LegName
from bridge.sdp.session import parse
from bridge.sip.message import Request, Response
from tests.harness.world import CARRIER, PLATFORM, World, sdp

RELIABLE = {"Supported": "100rel"}
CALLER_MEDIA = (CARRIER[0], 40000)
PLATFORM_MEDIA = (PLATFORM[0], 50000)


def dialling(headers: dict[str, str] | None = None, body: bytes | None = None) -> tuple[World, Request, Request]:
    """Come as far as our INVITE to the platform, from a carrier with which 100rel may be used."""
    world = World(carrier={"prack": "supported"})
    asked = world.carrier.invite(headers=headers or {}, body=body)
    world.run(0.1)
    offered = world.platform.requests("INVITE")[0]
    assert offered.body, "D10: no INVITE of ours goes out without an offer"
    return world, asked, offered


def early(world: World, offered: Request) -> Response:
    world.platform.respond(offered, 183, body=sdp(PLATFORM_MEDIA))
    world.run(0.1)
    progress = world.carrier.responses()[-1]
    assert progress.status == 183
    return progress


def prack(world: World, asked: Request, progress: Response, body: bytes = b"") -> Response:
    rack = f"{progress.headers.get('RSeq')} 1 INVITE"
    world.carrier.within("PRACK", asked, progress, 2, body=body, headers={"RAck": rack})
    world.run(0.1)
    answer = world.carrier.responses("PRACK")[-1]
    assert answer.status == 200
    return answer


def answered(world: World, asked: Request, offered: Request, ack_body: bytes = b"") -> Response:
    world.platform.respond(offered, 200, body=sdp(PLATFORM_MEDIA))
    world.run(0.1)
    accepted = world.carrier.responses("INVITE")[-1]
    assert accepted.status == 200
    world.carrier.ack(asked, accepted, body=ack_body)
    world.run(0.1)
    return accepted


def assert_media_flows_both_ways(world: World, caller: tuple[str, int] = CALLER_MEDIA) -> None:
    """See that the relay was told where each party is, and that each may talk to the other."""
    told = world.relay.media[next(iter(world.relay.open_sessions))]
    assert told[LegName.CARRIER].remote_rtp == caller
    assert told[LegName.PLATFORM].remote_rtp == PLATFORM_MEDIA
    assert all(media.may_send and media.may_receive and media.payloads for media in told.values())
    assert world.core.active == 1
    assert world.bugs() == []


def test_r32_pattern_1_offer_in_invite_answer_in_200() -> None:
    world, asked, offered = dialling()
    assert answered(world, asked, offered).body
    assert_media_flows_both_ways(world)


def test_r32_pattern_2_offer_in_200_answer_in_ack() -> None:
    world, asked, offered = dialling(body=b"")
    assert answered(world, asked, offered, ack_body=sdp(CALLER_MEDIA)).body
    assert_media_flows_both_ways(world)


def test_r32_pattern_3_offer_in_invite_answer_in_a_reliable_183() -> None:
    world, asked, offered = dialling(RELIABLE)
    progress = early(world, offered)
    assert progress.body
    prack(world, asked, progress)
    # RFC 3261 §13.2.1: after the answer no response to the INVITE carries a description
    assert answered(world, asked, offered).body == b""
    assert_media_flows_both_ways(world)


def test_r32_pattern_4_offer_in_a_reliable_183_answer_in_prack() -> None:
    world, asked, offered = dialling(RELIABLE, body=b"")
    progress = early(world, offered)
    assert progress.body
    prack(world, asked, progress, body=sdp(CALLER_MEDIA))
    assert answered(world, asked, offered).body == b""
    assert_media_flows_both_ways(world)


def test_r32_pattern_5_offer_in_prack_answer_in_its_200() -> None:
    world, asked, offered = dialling(RELIABLE)
    progress = early(world, offered)
    moved = (CARRIER[0], 40010)
    answer = prack(world, asked, progress, body=sdp(moved, version=2))
    assert parse(answer.body).media[0].port == parse(progress.body).media[0].port
    assert answered(world, asked, offered).body == b""
    assert_media_flows_both_ways(world, moved)


def test_r32_pattern_6_offer_in_update_answer_in_its_200() -> None:
    world, asked, offered = dialling(RELIABLE)
    progress = early(world, offered)
    prack(world, asked, progress)
    moved = (CARRIER[0], 40020)
    world.carrier.within("UPDATE", asked, progress, 3, body=sdp(moved, version=2))
    world.run(0.1)
    assert world.carrier.responses("UPDATE")[-1].body
    answered(world, asked, offered)
    assert_media_flows_both_ways(world, moved)


def test_r32_an_offerless_reinvite_gets_our_offer_and_its_answer_in_the_ack() -> None:
    world = World()
    call = world.set_up()
    again = world.carrier.within("INVITE", call.asked, call.accepted, 2)
    world.run(0.1)
    accepted = world.carrier.responses()[-1]
    assert accepted.body
    moved = (CARRIER[0], 40030)
    world.carrier.ack(again, accepted, body=sdp(moved, version=2))
    world.run(0.1)
    assert_media_flows_both_ways(world, moved)
    assert len(world.platform.requests("INVITE")) == 1  # D10, D23
