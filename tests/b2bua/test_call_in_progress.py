"""Calls that are up: re-INVITEs, the ways to end, and peers that vanish."""

from __future__ import annotations

import pytest

from bridge.media.relay import LegName, MediaSilent
from bridge.sdp import session as sdp_session
from tests.harness.world import CARRIER, PLATFORM, World, sdp


@pytest.mark.parametrize("side", ["carrier", "platform"])
def test_a_bye_from_either_side_ends_the_other(side: str) -> None:
    world = World()
    call = world.set_up()
    if side == "carrier":
        world.carrier.within("BYE", call.asked, call.accepted, 2, headers={"Reason": "Q.850;cause=16"})
    else:
        world.platform.within_received("BYE", call.offered, "far", 1, headers={"Reason": "Q.850;cause=16"})
    world.run(0.1)
    leaver, other = (world.carrier, world.platform) if side == "carrier" else (world.platform, world.carrier)
    assert leaver.statuses("BYE") == [200]
    bye = other.requests("BYE")[0]
    assert bye.headers.get("Reason") == "Q.850;cause=16"
    other.respond(bye, 200)
    assert world.record["ended_by"] == side
    world.assert_idle()


def test_a_bye_crossing_a_bye_ends_both_legs() -> None:
    world = World()
    call = world.set_up()
    world.carrier.within("BYE", call.asked, call.accepted, 2)
    world.platform.within_received("BYE", call.offered, "far", 1)
    world.run(0.1)
    assert world.carrier.statuses("BYE") == [200]
    assert world.platform.statuses("BYE") == [200]
    for party in (world.carrier, world.platform):
        for bye in party.requests("BYE"):
            party.respond(bye, 481)
    assert len(world.network.records) == 1
    world.assert_idle()


def test_a_missing_ack_ends_both_legs_after_64_t1() -> None:
    """R05: the 2xx is repeated 10 times, then BYE on both legs, and the record says so."""
    world = World()
    world.carrier.invite()
    world.run(0.1)
    invite = world.platform.requests("INVITE")[0]
    answered = world.network.now
    world.platform.respond(invite, 200, body=sdp((PLATFORM[0], 50000)))
    world.run(33.0)
    times = [round(at - answered, 1) for at in world.carrier.times("INVITE", 200)]
    assert times == [0.0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert len(world.carrier.requests("BYE")) >= 1
    assert len(world.platform.requests("BYE")) >= 1
    assert world.carrier.times("BYE")[0] - answered == pytest.approx(32.0, abs=0.1)
    for party in (world.carrier, world.platform):
        party.respond(party.requests("BYE")[0], 200)
    assert (world.record["reason"], world.record["ended_by"]) == ("no-ack", "bridge")
    world.assert_idle()


def test_a_bye_waits_for_the_ack_of_our_200() -> None:
    """RFC 3261 §15: the callee may not send BYE before the ACK."""
    world = World()
    asked = world.carrier.invite()
    world.run(0.1)
    invite = world.platform.requests("INVITE")[0]
    world.platform.respond(invite, 200, body=sdp((PLATFORM[0], 50000)))
    world.run(0.1)
    world.platform.within_received("BYE", invite, "far", 1)
    world.run(0.2)
    assert world.carrier.requests("BYE") == []
    world.carrier.ack(asked, world.carrier.responses()[-1])
    world.run(0.1)
    assert len(world.carrier.requests("BYE")) == 1
    world.carrier.respond(world.carrier.requests("BYE")[0], 200)
    world.assert_idle()


def test_cseq_rules_hold_within_the_dialog() -> None:
    """R09: backwards is 500, a repeat is absorbed, jumps are fine, 2^31 is 400."""
    world = World()
    call = world.set_up()
    body = sdp((CARRIER[0], 40000), version=2)

    def reinvite(cseq: int) -> list[int]:
        world.carrier.inbox.clear()
        request = world.carrier.within("INVITE", call.asked, call.accepted, cseq, body=body)
        world.run(0.2)
        for response in world.carrier.responses():
            world.carrier.ack(request, response)
        world.run(0.1)
        return world.carrier.statuses()

    assert reinvite(6) == [200]
    assert reinvite(5) == [500]
    assert reinvite(6) == [200]  # §12.2.2 refuses only lower ones
    assert reinvite(11) == [200]
    assert reinvite(2147483647) == [200]
    last = world.carrier.within("INVITE", call.asked, call.accepted, 7, body=body).encode()
    world.network._queue.clear()
    world.carrier.send(last.replace(b"CSeq: 7 ", b"CSeq: 2147483648 "))
    world.run(0.2)
    assert world.carrier.raw[-1].startswith(b"SIP/2.0 400 ")
    assert world.core.active == 1


def test_hold_and_resume_are_answered_locally_and_reach_the_relay() -> None:
    """D23, R34: the platform leg is not touched."""
    world = World()
    call = world.set_up()
    world.platform.inbox.clear()
    for cseq, direction, answer, may_send in ((2, "sendonly", "recvonly", False), (3, "sendrecv", "sendrecv", True)):
        body = sdp((CARRIER[0], 40000), direction=direction, version=cseq)
        request = world.carrier.within("INVITE", call.asked, call.accepted, cseq, body=body)
        world.run(0.1)
        response = world.carrier.responses()[-1]
        world.carrier.ack(request, response)
        world.run(0.1)
        assert response.status == 200
        assert sdp_session.parse(response.body).media[0].direction == answer
        assert world.relay.media[1][LegName.CARRIER].may_send is may_send
        assert world.relay.media[1][LegName.PLATFORM].may_send is True
    assert world.platform.inbox == []


def test_hold_by_a_zero_address_stops_sending_there() -> None:
    """R34: RFC 2543 hold."""
    world = World()
    call = world.set_up()
    body = sdp((CARRIER[0], 40000), version=2).replace(b"c=IN IP4 127.0.0.10", b"c=IN IP4 0.0.0.0")
    request = world.carrier.within("INVITE", call.asked, call.accepted, 2, body=body)
    world.run(0.1)
    world.carrier.ack(request, world.carrier.responses()[-1])
    assert world.relay.media[1][LegName.CARRIER].may_send is False


def test_a_refresh_that_changes_nothing_is_answered_with_the_same_description() -> None:
    """R31: the o= version stands while nothing changes."""
    world = World()
    call = world.set_up()
    updates = len(world.relay.updates)
    request = world.carrier.within("INVITE", call.asked, call.accepted, 2, body=sdp((CARRIER[0], 40000)))
    world.run(0.1)
    response = world.carrier.responses()[-1]
    world.carrier.ack(request, response)
    assert response.body == call.accepted.body
    assert len(world.relay.updates) == updates


def test_a_moved_media_address_reaches_the_relay() -> None:
    """R33."""
    world = World()
    call = world.set_up()
    body = sdp((CARRIER[0], 41000), version=2)
    request = world.carrier.within("INVITE", call.asked, call.accepted, 2, body=body)
    world.run(0.1)
    world.carrier.ack(request, world.carrier.responses()[-1])
    assert world.relay.media[1][LegName.CARRIER].remote_rtp == (CARRIER[0], 41000)


def test_a_reinvite_that_drops_every_codec_is_488_and_changes_nothing() -> None:
    world = World()
    call = world.set_up()
    body = sdp((CARRIER[0], 41000), formats="18", version=2)
    request = world.carrier.within("INVITE", call.asked, call.accepted, 2, body=body)
    world.run(0.1)
    response = world.carrier.responses()[-1]
    world.carrier.ack(request, response)
    assert response.status == 488
    assert world.relay.media[1][LegName.CARRIER].remote_rtp == (CARRIER[0], 40000)
    assert world.core.active == 1


def test_an_offerless_reinvite_is_offered_what_is_agreed() -> None:
    world = World()
    call = world.set_up()
    request = world.carrier.within("INVITE", call.asked, call.accepted, 2)
    world.run(0.1)
    response = world.carrier.responses()[-1]
    assert response.status == 200
    assert b"m=audio" in response.body
    world.carrier.ack(request, response, sdp((CARRIER[0], 42000)))
    world.run(0.1)
    assert world.relay.media[1][LegName.CARRIER].remote_rtp == (CARRIER[0], 42000)


def test_a_second_invite_before_the_first_is_answered_is_500_with_retry_after() -> None:
    """R11: RFC 3261 §14.2."""
    world = World()
    asked = world.carrier.invite()
    world.run(0.1)
    invite = world.platform.requests("INVITE")[0]
    world.platform.respond(invite, 180)
    world.run(0.1)
    ringing = world.carrier.responses()[-1]
    world.carrier.within("INVITE", asked, ringing, 2, body=sdp((CARRIER[0], 40000)))
    world.run(0.1)
    refused = next(r for r in world.carrier.responses() if r.status == 500)
    assert 0 <= int(refused.headers.get("Retry-After") or "-1") <= 10
    assert world.core.active == 1


def test_a_peer_without_media_that_answers_the_probe_stays() -> None:
    """F09: silence alone ends no call."""
    world = World()
    world.set_up()
    world.network.relay_event(MediaSilent(1, LegName.PLATFORM, world.network.now))
    world.run(0.1)
    probe = world.platform.requests("OPTIONS")[0]
    assert probe.to.tag == "far"
    world.platform.respond(probe, 200)
    world.run(40.0)
    assert world.core.active == 1


@pytest.mark.parametrize("answer", [481, None])
def test_a_peer_that_is_gone_ends_the_call_on_the_other_leg(answer: int | None) -> None:
    """F09: no media, and the dialog is unknown or nobody answers."""
    world = World()
    world.set_up()
    world.network.relay_event(MediaSilent(1, LegName.PLATFORM, world.network.now))
    world.run(0.1)
    if answer is not None:
        world.platform.respond(world.platform.requests("OPTIONS")[0], answer)
    world.run(33.0)
    bye = world.carrier.requests("BYE")[0]
    world.carrier.respond(bye, 200)
    assert (world.record["reason"], world.record["ended_by"]) == ("peer-lost", "bridge")
    world.assert_idle()


def test_a_relay_that_never_reports_does_not_hold_the_record_back() -> None:
    world = World()
    world.relay.answers = False
    call = world.set_up()
    world.carrier.within("BYE", call.asked, call.accepted, 2)
    world.run(3.0)
    assert world.record["legs"]["carrier"]["rtp"] is None


def test_in_dialog_requests_follow_the_route_set_of_the_carrier() -> None:
    """R18, D16: Twilio's Contact is private and its BYE must go through the Record-Route."""
    world = World()
    asked = world.carrier.invite(headers={"Record-Route": f"<sip:{CARRIER[0]}:{CARRIER[1]};lr>"})
    world.run(0.1)
    invite = world.platform.requests("INVITE")[0]
    world.platform.respond(invite, 200, body=sdp((PLATFORM[0], 50000)))
    world.run(0.1)
    accepted = world.carrier.responses()[-1]
    assert accepted.headers.get("Record-Route") == f"<sip:{CARRIER[0]}:{CARRIER[1]};lr>"
    world.carrier.ack(asked, accepted)
    world.run(0.1)
    world.platform.within_received("BYE", invite, "far", 1)
    world.run(0.1)
    bye = world.carrier.requests("BYE")[0]
    assert bye.uri == f"sip:peer@{CARRIER[0]}:{CARRIER[1]}"
    assert bye.headers.get("Route") == f"<sip:{CARRIER[0]}:{CARRIER[1]};lr>"


def test_a_challenge_to_our_bye_on_the_carriers_dialog_gets_no_credentials() -> None:
    """T07: a digest must never leak into a dialog that the peer opened."""
    world = World(carrier_peer={"username": "u", "password": "p"})
    call = world.set_up()
    world.platform.within_received("BYE", call.offered, "far", 1)
    world.run(0.1)
    bye = world.carrier.requests("BYE")[0]
    world.carrier.respond(bye, 407, headers={"Proxy-Authenticate": 'Digest realm="trunk", nonce="n", algorithm=MD5'})
    world.run(1.0)
    assert len(world.carrier.requests("BYE")) == 1
    world.assert_idle()


@pytest.mark.parametrize("seed", range(25))
def test_calls_survive_loss_and_reordering(seed: int) -> None:
    """F12: 10 % loss both ways; every call comes up, ends, and leaves one record and nothing else."""
    world = World(seed=seed, loss=0.1, delay=0.005, jitter=0.03)

    def carrier(message: object) -> None:
        response = message
        if getattr(response, "status", 0) == 200 and response.cseq.method == "INVITE":  # type: ignore[attr-defined]
            world.carrier.ack(asked, response)  # type: ignore[arg-type]
        elif getattr(message, "method", "") == "BYE":
            world.carrier.respond(message, 200)  # type: ignore[arg-type]

    def platform(message: object) -> None:
        method = getattr(message, "method", "")
        if method == "INVITE":
            world.platform.respond(message, 180)  # type: ignore[arg-type]
            world.network.at(1.0, lambda: answer(message))
        elif method == "BYE":
            world.platform.respond(message, 200)  # type: ignore[arg-type]

    def answer(invite: object) -> None:
        """Repeat the 200 as a UAS core does, until the ACK is here."""
        if not world.platform.requests("ACK"):
            world.platform.respond(invite, 200, body=sdp((PLATFORM[0], 50000)))  # type: ignore[arg-type]
            world.network.at(0.5, lambda: answer(invite))

    world.carrier.react, world.platform.react = carrier, platform
    asked = world.carrier.invite()
    for attempt in range(1, 8):  # the carrier's timer A
        world.network.at(0.5 * (2**attempt - 1), lambda: None if world.carrier.inbox else world.carrier.send(asked))
    world.run(20.0)
    assert world.core.calls()[0]["state"] == "up"
    from bridge.b2bua.actions import HangUp

    world.network.command(HangUp(None))
    world.run(40.0)
    assert len(world.network.records) == 1
    world.assert_idle()
