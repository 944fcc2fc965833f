"""What SIPp scenarios under loss have shown to go wrong, in the smallest form."""

from __future__ import annotations

from tests.harness.world import CARRIER, PLATFORM, World, sdp


def test_headers_of_a_bye_wait_with_it_for_the_callers_ack() -> None:
    """D39: the platform hangs up while our 200 has no ACK yet; its headers are not lost over the waiting."""
    world = World()
    invite = world.carrier.invite()
    world.run(0.1)
    offered = world.platform.requests("INVITE")[0]
    world.platform.respond(offered, 200, body=sdp((PLATFORM[0], 50000)))
    world.run(0.1)
    headers = {"X-Disposition": "done", "Reason": "Q.850;cause=31"}
    world.platform.within_received("BYE", offered, "far", 1, headers=headers)
    world.run(0.1)
    assert world.carrier.requests("BYE") == []
    accepted = next(one for one in world.carrier.responses() if one.status == 200)
    world.carrier.ack(invite, accepted)
    world.run(0.1)
    bye = world.carrier.requests("BYE")[0]
    assert bye.headers.get("X-Disposition") == "done"
    assert bye.headers.get("Reason") == "Q.850;cause=31"


def test_a_reinvite_that_overtakes_the_ack_is_answered() -> None:
    """RFC 5407 §3.1.4: the caller has our 200, since it re-INVITEs: offer and answer are through, the ACK is late."""
    world = World()
    invite = world.carrier.invite()
    world.run(0.1)
    offered = world.platform.requests("INVITE")[0]
    world.platform.respond(offered, 200, body=sdp((PLATFORM[0], 50000)))
    world.run(0.1)
    accepted = next(one for one in world.carrier.responses() if one.status == 200)
    world.carrier.within("INVITE", invite, accepted, 2, body=sdp((CARRIER[0], 40000), version=2, direction="sendonly"))
    world.run(0.1)
    again = next(one for one in world.carrier.responses() if one.status >= 200 and one.cseq.number == 2)
    assert again.status == 200
    assert b"a=recvonly" in again.body
    world.carrier.ack(invite, accepted)
    world.carrier.within("ACK", invite, accepted, 2)
    world.run(40.0)
    assert world.platform.requests("BYE") == []
    world.carrier.within("BYE", invite, accepted, 3)
    world.run(0.1)
    world.platform.respond(world.platform.requests("BYE")[0], 200)
    assert world.record["reason"] == "hangup"
    world.assert_idle()


def test_a_refer_to_the_caller_waits_for_its_ack() -> None:
    """R37, D38: a transfer right after the answer does not fail because the caller's ACK was lost."""
    world = World(carrier={"transfer": "refer"})
    invite = world.carrier.invite(headers={"Allow": "INVITE, ACK, BYE, REFER, NOTIFY"})
    world.run(0.1)
    offered = world.platform.requests("INVITE")[0]
    world.platform.respond(offered, 200, body=sdp((PLATFORM[0], 50000)))
    world.run(0.1)
    world.platform.within_received("REFER", offered, "far", 1, headers={"Refer-To": "<tel:+14155550777>"})
    world.run(0.1)
    assert world.platform.statuses("REFER") == [202]
    assert world.carrier.requests("REFER") == []
    accepted = next(one for one in world.carrier.responses() if one.status == 200)
    world.carrier.ack(invite, accepted)
    world.run(0.1)
    assert len(world.carrier.requests("REFER")) == 1
