"""Offers within a call: re-INVITEs of ours that meet the peer's, INFO, and where in-dialog requests go."""

from __future__ import annotations

import pytest

from bridge.sip.message import Request, Response
from tests.harness.world import CARRIER, PLATFORM, Established, Party, World, sdp

TIMER = {"Supported": "timer", "Session-Expires": "90;refresher=uas", "Allow": "INVITE, ACK, BYE"}


def refreshing(world: World) -> tuple[Established, Request]:
    """Bring a call up that we refresh by re-INVITE, and come as far as the first of them."""
    call = world.set_up(headers=TIMER)
    world.run(45.05)
    return call, world.carrier.requests("INVITE")[-1]


def _first_seen(party: Party, request: Request) -> float:
    """Return when a request came for the first time; over UDP it is repeated."""
    return next(
        at for at, m in party.inbox if isinstance(m, Request) and m.headers.get("CSeq") == request.headers.get("CSeq")
    )


@pytest.mark.parametrize("seed", range(100))
def test_r10_reinvites_that_cross_are_491_both_ways_and_ours_comes_again_in_its_window(seed: int) -> None:
    """R10: 100 runs; the carrier owns the Call-ID, so ours waits 0 to 2 s, and both ends agree in the end."""
    world = World()
    for _ in range(seed):  # other tokens, so other back-offs
        world.core._tokens.token(32)
    call, ours = refreshing(world)
    theirs = world.carrier.within("INVITE", call.asked, call.accepted, 2, body=sdp((CARRIER[0], 40000), version=2))
    world.run(0.05)
    refused = world.carrier.responses()[-1]
    assert refused.status == 491
    world.carrier.ack(theirs, refused)
    world.carrier.respond(ours, 491)
    refused_at = world.network.now
    world.run(2.1)
    again = world.carrier.requests("INVITE")[-1]
    assert again.cseq.number == ours.cseq.number + 1
    assert 0 <= _first_seen(world.carrier, again) - refused_at <= 2.05
    world.carrier.respond(again, 200, body=sdp((CARRIER[0], 40000)))
    world.run(0.1)
    acknowledged = [ack for ack in world.carrier.requests("ACK") if ack.cseq.number == again.cseq.number]
    assert [a.to.tag for a in acknowledged] == [call.asked.from_.tag]
    assert again.body == call.accepted.body


def test_r10_the_owner_of_the_call_id_waits_two_to_four_seconds() -> None:
    world = World(platform={"session_timer": "offer", "session_expires": 90})
    world.set_up()
    world.run(45.05)
    ours = world.platform.requests("INVITE")[-1]
    assert ours.to.tag == "far"
    world.platform.respond(ours, 491)
    refused_at = world.network.now
    world.run(4.1)
    assert 2.1 <= _first_seen(world.platform, world.platform.requests("INVITE")[-1]) - refused_at <= 4.05


def test_r06_every_repeat_of_a_2xx_to_our_reinvite_is_acknowledged_again() -> None:
    world = World()
    _, ours = refreshing(world)
    for _ in range(3):
        world.carrier.respond(ours, 200, body=sdp((CARRIER[0], 40000)))
        world.run(0.1)
    acks = [ack for ack in world.carrier.requests("ACK") if ack.cseq.number == ours.cseq.number]
    assert len(acks) == 3


def test_a_new_media_address_in_the_answer_to_our_refresh_reaches_the_relay() -> None:
    world = World()
    _, ours = refreshing(world)
    world.carrier.respond(ours, 200, body=sdp((CARRIER[0], 41000), version=2))
    world.run(0.1)
    assert world.relay.updates[-1][2].remote_rtp is not None
    assert (CARRIER[0], 41000) in [media.remote_rtp for _, _, media in world.relay.updates[-2:]]


@pytest.mark.parametrize("status", [481, 408])
def test_a_refresh_that_says_the_dialog_is_gone_ends_the_call(status: int) -> None:
    world = World()
    _, ours = refreshing(world)
    world.carrier.respond(ours, status)
    world.run(0.1)
    assert len(world.platform.requests("BYE")) == 1
    assert world.record["reason"] == "peer-lost"


@pytest.mark.parametrize("status", [488, 500, 603])
def test_a_refresh_that_is_refused_leaves_the_call_as_it_is(status: int) -> None:
    """RFC 3261 §14.1: a non-2xx to a re-INVITE changes nothing."""
    world = World()
    _, ours = refreshing(world)
    world.carrier.respond(ours, status)
    world.run(12.0)
    assert world.core.active == 1
    assert len(world.carrier.requests("INVITE")) >= 2, "it is tried again before the session expires"


def test_a_401_to_our_reinvite_is_answered_on_a_dialog_that_we_opened() -> None:
    """R26: digest for every method; the ACK carries the credentials too."""
    profile = {"session_timer": "offer", "session_expires": 90, "authentication": "any"}
    world = World(platform=profile)
    world.set_up()
    world.run(45.05)
    ours = world.platform.requests("INVITE")[-1]
    challenge = {"WWW-Authenticate": 'Digest realm="p", nonce="n1", qop="auth", algorithm=SHA-256'}
    world.platform.respond(ours, 401, headers=challenge)
    world.run(0.1)
    again = world.platform.requests("INVITE")[-1]
    assert again.cseq.number == ours.cseq.number + 1
    assert "SHA-256" in (again.headers.get("Authorization") or "")
    world.platform.respond(again, 200, body=sdp((PLATFORM[0], 50000)))
    world.run(0.1)
    assert world.platform.requests("ACK")[-1].headers.get("Authorization") is not None


def test_t07_a_challenge_to_a_request_in_a_dialog_that_a_peer_opened_gets_no_credentials() -> None:
    """T07, CVE-2021-41158: 0 Authorization headers into an incoming dialog."""
    world = World(carrier_peer={"username": "account", "password": "secret"})
    _, ours = refreshing(world)
    world.carrier.respond(ours, 407, headers={"Proxy-Authenticate": 'Digest realm="trunk", nonce="n", qop="auth"'})
    world.run(30.0)
    assert all(request.headers.get("Proxy-Authorization") is None for request in world.carrier.requests("INVITE"))


def test_info_is_answered_here_and_carried_to_a_peer_that_takes_it() -> None:
    """What a peer does not list in Allow is not sent to it: the platform's 200 had none."""
    world = World()
    call = world.set_up(headers={"Allow": "INVITE, ACK, BYE, INFO"})
    world.platform.within_received("INFO", call.offered, "far", 1, body=sdp(PLATFORM))
    world.carrier.within("INFO", call.asked, call.accepted, 2, body=sdp(CARRIER))
    world.run(0.1)
    assert world.platform.statuses("INFO") == world.carrier.statuses("INFO") == [200]
    assert [request.body for request in world.carrier.requests("INFO")] == [sdp(PLATFORM)]
    assert world.platform.requests("INFO") == []


def test_a_contact_that_is_a_name_is_looked_up_once_and_followed() -> None:
    """D16: ACK and BYE go to the Contact of the 200, wherever the INVITE went."""
    world = World()
    world.network.names["node7.example.com"] = ("198.51.100.77",)
    seen: list[Request | Response] = []
    node = Party(world.network, ("198.51.100.77", 5060))
    node.react = seen.append
    asked = world.carrier.invite()
    world.run(0.1)
    offered = world.platform.requests("INVITE")[0]
    body = sdp((PLATFORM[0], 50000))
    data = world.platform.respond(offered, 180)  # a plain 180 first; then the 200 of a node behind the balancer
    ok = data.replace(b"180 Reason", b"200 OK").replace(b"sip:peer@127.0.0.20:5060", b"sip:agent@node7.example.com")
    ok = ok.replace(b"Content-Length: 0\r\n", b"Content-Type: application/sdp\r\nContent-Length: %d\r\n" % len(body))
    world.platform.send(ok + body)
    world.run(0.2)
    world.carrier.ack(asked, world.carrier.responses()[-1])
    world.carrier.within("BYE", asked, world.carrier.responses()[-1], 2)
    world.run(0.2)
    assert [m.method for m in seen if isinstance(m, Request)] == ["ACK", "BYE"]
    assert [m.uri for m in seen if isinstance(m, Request)] == ["sip:agent@node7.example.com"] * 2
    assert world.platform.requests("BYE") == []


def test_a_contact_whose_name_nobody_knows_is_reached_where_the_peer_is() -> None:
    world = World()
    asked = world.carrier.invite()
    world.run(0.1)
    offered = world.platform.requests("INVITE")[0]
    body = sdp((PLATFORM[0], 50000))
    ok = world.platform.respond(offered, 180).replace(b"180 Reason", b"200 OK")
    ok = ok.replace(b"sip:peer@127.0.0.20:5060", b"sip:agent@gone.example.com")
    ok = ok.replace(b"Content-Length: 0\r\n", b"Content-Type: application/sdp\r\nContent-Length: %d\r\n" % len(body))
    world.platform.send(ok + body)
    world.run(0.2)
    assert len(world.platform.requests("ACK")) >= 1
    world.carrier.ack(asked, world.carrier.responses()[-1])
