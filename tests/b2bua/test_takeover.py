"""Two dialogs that become one: attended transfers, and INVITEs with Replaces (RFC 3891, R37, R38)."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.b2bua.actions import HangUp
from bridge.media.relay import LegName
from bridge.sip.message import Request, Response
from tests.harness.network import BRIDGE
from tests.harness.world import CARRIER, PLATFORM, Established, Party, World, sdp

TARGET = "+14155550777"


class Consultation:
    """A caller is with the platform (``first``), which has called somebody else through us (``asked``)."""

    def __init__(self, **world: Any) -> None:
        self.world = World(**world)
        self.carrier, self.platform = self.world.carrier, self.world.platform
        self.first: Established = self.world.set_up()
        self.platform.inbox.clear()
        self.asked = self.platform.invite(TARGET, caller="+14155550100", body=sdp((PLATFORM[0], 50010)))
        self.world.run(0.1)
        self.offered = self.carrier.requests("INVITE")[-1]  # to the target
        self.carrier.respond(self.offered, 200, body=sdp((CARRIER[0], 41000)), tag="target")
        self.world.run(0.1)
        self.accepted = self.platform.responses()[-1]
        self.platform.ack(self.asked, self.accepted)
        self.world.run(0.1)
        assert [call["state"] for call in self.world.core.calls()] == ["up", "up"]
        self.carrier.inbox.clear()
        self.platform.inbox.clear()
        self.platform.react = self._answer

    def _answer(self, message: Request | Response) -> None:
        if isinstance(message, Request) and message.method in ("NOTIFY", "BYE"):
            self.platform.respond(message, 200)

    def refer(self, call_id: str = "", to_tag: str = "", from_tag: str = "") -> list[int]:
        """Ask, in the caller's call, for the second one's target."""
        replaces = (
            f"{call_id or self.asked.call_id}%3Bto-tag%3D{to_tag or self.accepted.to.tag}"
            f"%3Bfrom-tag%3D{from_tag or self.asked.from_.tag}"
        )
        headers = {"Refer-To": f"<sip:{TARGET}@{BRIDGE[0]}?Replaces={replaces}>"}
        self.platform.within_received("REFER", self.first.offered, "far", 1, headers=headers)
        self.world.run(0.1)
        return self.platform.statuses("REFER")

    def notified(self) -> list[str]:
        return [notify.body.decode().strip() for notify in self.platform.requests("NOTIFY")]

    def sides(self) -> list[dict[LegName, Any]]:
        return list(self.world.relay.media.values())

    def bye_all(self) -> None:
        """Let every dialog that is left end."""
        for party in (self.carrier, self.platform):
            for bye in party.requests("BYE"):
                party.respond(bye, 200)
        self.world.run(0.1)


def test_an_attended_transfer_joins_the_caller_and_the_target() -> None:
    """R37: the target's media moves into the caller's session, the platform's legs are released, one record each."""
    talk = Consultation()
    assert talk.refer() == [202]
    again = talk.carrier.requests("INVITE")[0]
    assert (again.call_id, again.to.tag) == (talk.offered.call_id, "target")
    ports = talk.world.relay.open_sessions
    first, second = sorted(ports)
    assert f"m=audio {ports[first].platform_port} " in again.body.decode()
    origin = {line for line in talk.offered.body.decode().splitlines() if line.startswith("o=")}.pop()
    moved = {line for line in again.body.decode().splitlines() if line.startswith("o=")}.pop()
    assert moved.split()[1] == origin.split()[1]  # RFC 3264 §8: same session id, version + 1
    assert int(moved.split()[2]) == int(origin.split()[2]) + 1
    talk.carrier.respond(again, 200, body=sdp((CARRIER[0], 41000), version=2))
    talk.world.run(0.1)
    assert talk.notified() == ["SIP/2.0 100 Trying", "SIP/2.0 200 OK"]
    assert talk.world.relay.media[first][LegName.PLATFORM].remote_rtp == (CARRIER[0], 41000)
    assert second not in talk.world.relay.open_sessions
    carried = {trunk["name"]: trunk["active_calls"] for trunk in talk.world.core.trunks()}
    assert carried == {"main": 2, "support": 0, "sales": 0}  # the caller and the target, both the carrier's
    talk.world.run(2.5)
    assert {bye.call_id for bye in talk.platform.requests("BYE")} == {talk.asked.call_id, talk.first.offered.call_id}
    talk.bye_all()
    (consulted,) = talk.world.network.records
    assert (consulted["reason"], consulted["transfer"]["mode"]) == ("transferred", "attended")
    live = talk.world.core.calls()[0]
    assert live["transfer"]["call"] == consulted["id"]
    assert consulted["transfer"]["call"] == live["id"]
    # The target hangs up: the caller is told.
    talk.carrier.within_received("BYE", talk.offered, "target", 1, headers={"Reason": "Q.850;cause=16"})
    talk.world.run(0.1)
    assert talk.carrier.statuses("BYE") == [200]
    (bye,) = talk.carrier.requests("BYE")
    assert bye.call_id == talk.first.asked.call_id
    talk.bye_all()
    assert talk.world.network.records[-1]["transfer"]["result"] == "succeeded"
    talk.world.assert_idle()


def test_a_target_that_refuses_to_move_leaves_both_calls_as_they_were() -> None:
    """D38."""
    talk = Consultation()
    before = [dict(sides) for sides in talk.sides()]
    talk.refer()
    talk.carrier.respond(talk.carrier.requests("INVITE")[0], 488)
    talk.world.run(0.1)
    assert talk.notified()[-1] == "SIP/2.0 488 Reason"
    assert talk.sides() == before
    assert [call["state"] for call in talk.world.core.calls()] == ["up", "up"]
    talk.platform.within("BYE", talk.asked, talk.accepted, 2)  # the second call still is one
    talk.world.run(0.1)
    talk.bye_all()
    talk.carrier.within("BYE", talk.first.asked, talk.first.accepted, 2)
    talk.world.run(0.1)
    talk.bye_all()
    assert sorted(record["reason"] for record in talk.world.network.records) == ["hangup", "hangup"]
    talk.world.assert_idle()


def test_a_platform_may_drop_both_its_legs_as_soon_as_it_has_asked() -> None:
    """D33: the join goes on without it."""
    talk = Consultation()
    talk.refer()
    talk.platform.within("BYE", talk.asked, talk.accepted, 2)
    talk.platform.within_received("BYE", talk.first.offered, "far", 2)
    talk.world.run(0.1)
    assert talk.platform.statuses("BYE") == [200, 200]
    assert talk.carrier.requests("BYE") == []
    talk.carrier.respond(talk.carrier.requests("INVITE")[0], 200, body=sdp((CARRIER[0], 41000), version=2))
    talk.world.run(0.1)
    assert len(talk.world.network.records) == 1
    assert talk.world.core.calls()[0]["transfer"]["result"] == "succeeded"
    talk.carrier.within("BYE", talk.first.asked, talk.first.accepted, 2)
    talk.world.run(0.1)
    talk.bye_all()
    talk.world.assert_idle()


def test_the_target_may_hang_up_while_it_is_being_moved() -> None:
    talk = Consultation()
    talk.refer()
    talk.carrier.within_received("BYE", talk.offered, "target", 1)
    talk.world.run(0.1)
    assert talk.notified()[-1] == "SIP/2.0 480 Temporarily Unavailable"
    talk.bye_all()
    assert len(talk.world.network.records) == 1
    assert talk.world.core.calls()[0]["state"] == "up"
    talk.carrier.within("BYE", talk.first.asked, talk.first.accepted, 2)
    talk.world.run(0.1)
    talk.bye_all()
    talk.world.assert_idle()


def test_a_consulted_call_that_an_operator_ends_gives_the_transfer_up() -> None:
    talk = Consultation()
    talk.refer()
    consulted = talk.world.core.calls()[1]["id"]
    assert talk.world.core.transfer_obstacle(consulted, TARGET) is not None  # one at a time
    talk.world.network.command(HangUp(consulted))
    talk.world.run(41.0)
    assert talk.notified()[-1].startswith("SIP/2.0 408 ")
    assert [call["state"] for call in talk.world.core.calls()] == ["up"]
    talk.carrier.within("BYE", talk.first.asked, talk.first.accepted, 2)
    talk.world.run(0.1)
    talk.bye_all()
    talk.world.assert_idle()


@pytest.mark.parametrize(
    "identifiers", [{"call_id": "nobody"}, {"to_tag": "wrong"}, {"from_tag": "wrong"}], ids=["call", "to", "from"]
)
def test_a_refer_to_a_dialog_that_is_not_there_is_refused(identifiers: dict[str, str]) -> None:
    """R38: 481, and nothing has changed."""
    talk = Consultation()
    assert talk.refer(**identifiers) == [481]
    assert talk.carrier.inbox == []
    assert [call["state"] for call in talk.world.core.calls()] == ["up", "up"]


def test_an_attended_transfer_within_one_carrier_is_passed_with_the_carriers_own_dialog() -> None:
    """R37, D33: Replaces names the dialog as the carrier knows it."""
    talk = Consultation(carrier={"transfer": "refer"})
    assert talk.refer() == [202]
    refer = talk.carrier.requests("REFER")[0]
    assert refer.call_id == talk.first.asked.call_id
    replaces = f"{talk.offered.call_id}%3Bto-tag%3Dtarget%3Bfrom-tag%3D{talk.offered.from_.tag}"
    assert refer.headers.get("Refer-To") == f"<sip:{TARGET}@{CARRIER[0]}:{CARRIER[1]}?Replaces={replaces}>"
    talk.carrier.respond(refer, 202)
    headers = {"Event": "refer", "Subscription-State": "terminated", "Content-Type": "message/sipfrag"}
    talk.carrier.within("NOTIFY", talk.first.asked, talk.first.accepted, 2, headers=headers, body=b"SIP/2.0 200 OK\r\n")
    talk.world.run(0.1)
    assert talk.notified()[-1] == "SIP/2.0 200 OK"
    assert len(talk.carrier.requests("BYE")) == len(talk.platform.requests("BYE")) == 1


def test_a_carrier_without_refer_has_its_two_calls_joined_here() -> None:
    """D33: in an attended transfer nobody is dialled anew."""
    talk = Consultation(carrier={"transfer": "refer-or-dial"})
    talk.refer()
    talk.carrier.respond(talk.carrier.requests("REFER")[0], 405)
    talk.world.run(0.1)
    again = talk.carrier.requests("INVITE")[0]
    assert (again.call_id, again.to.tag) == (talk.offered.call_id, "target")
    talk.carrier.respond(again, 200, body=sdp((CARRIER[0], 41000), version=2))
    talk.world.run(0.1)
    assert talk.notified()[-1] == "SIP/2.0 200 OK"
    assert talk.world.core.calls()[0]["transfer"]["mode"] == "attended"


# -- INVITE with Replaces --------------------------------------------------------------------------------------------


def replacing(party: Party, call_id: str, to_tag: str, from_tag: str, **more: Any) -> Request:
    """Call the bridge from a new dialog that is to replace another one."""
    extra = more.pop("suffix", "")
    headers = {"Replaces": f"{call_id};to-tag={to_tag};from-tag={from_tag}{extra}", **more.pop("headers", {})}
    invite = party.invite(headers=headers, body=sdp((party.address[0], 45000)), **more)
    party.network.run(0.1)
    return invite


def test_an_invite_with_replaces_takes_the_place_of_its_peers_leg() -> None:
    """R38: the new dialog is answered, the old one gets BYE, the caller notices nothing."""
    world = World()
    call = world.set_up()
    old = world.platform.requests("INVITE")[0]
    invite = replacing(world.platform, old.call_id, old.from_.tag or "", "far", headers={"Require": "replaces"})
    accepted = world.platform.responses()[-1]
    assert accepted.status == 200
    world.platform.ack(invite, accepted)
    world.run(0.1)
    (bye,) = world.platform.requests("BYE")
    assert bye.call_id == old.call_id
    world.platform.respond(bye, 200)
    assert world.relay.media[1][LegName.PLATFORM].remote_rtp == (PLATFORM[0], 45000)
    assert world.core.active == 1
    world.carrier.within("BYE", call.asked, call.accepted, 2)
    world.run(0.1)
    last = world.platform.requests("BYE")[-1]
    assert last.call_id == invite.call_id
    world.platform.respond(last, 200)
    world.run(0.1)
    assert (world.record["transfer"]["mode"], world.record["transfer"]["by"]) == ("attended", "platform")
    world.assert_idle()


def test_a_carriers_invite_with_replaces_takes_the_callers_place() -> None:
    """R38: without an offer of its own it gets ours, and answers in the ACK."""
    world = World()
    call = world.set_up()
    headers = {"Replaces": f"{call.asked.call_id};to-tag={call.accepted.to.tag};from-tag={call.asked.from_.tag}"}
    invite = world.carrier.invite(headers=headers, body=b"")
    world.run(0.1)
    accepted = world.carrier.responses()[-1]
    assert accepted.status == 200
    world.carrier.ack(invite, accepted, sdp((CARRIER[0], 45000), formats="0 101"))
    world.run(0.1)
    assert world.relay.media[1][LegName.CARRIER].remote_rtp == (CARRIER[0], 45000)
    assert [bye.call_id for bye in world.carrier.requests("BYE")] == [call.asked.call_id]
    assert world.platform.requests("BYE") == []
    assert world.bugs() == []


def test_a_ringing_platform_may_answer_in_another_dialog() -> None:
    """R38: an early dialog that we began is replaced: the old INVITE is cancelled, the caller is answered."""
    world = World()
    asked = world.carrier.invite()
    world.run(0.1)
    ringing = world.platform.requests("INVITE")[0]
    world.platform.respond(ringing, 180)
    world.run(0.1)
    invite = replacing(world.platform, ringing.call_id, ringing.from_.tag or "", "far", suffix=";early-only")
    assert world.platform.responses()[-1].status == 200
    world.platform.ack(invite, world.platform.responses()[-1])
    (cancel,) = world.platform.requests("CANCEL")
    world.platform.respond(cancel, 200)
    world.platform.respond(ringing, 487)
    accepted = world.carrier.responses()[-1]
    assert accepted.status == 200
    world.carrier.ack(asked, accepted)
    world.run(0.1)
    assert world.core.calls()[0]["state"] == "up"
    assert world.relay.media[1][LegName.PLATFORM].remote_rtp == (PLATFORM[0], 45000)
    world.carrier.within("BYE", asked, accepted, 2)
    world.run(0.1)
    (bye,) = world.platform.requests("BYE")
    assert bye.call_id == invite.call_id
    world.platform.respond(bye, 200)
    world.assert_idle()


def test_two_replaces_are_one_too_many() -> None:
    """R38: 400."""
    world = World()
    call = world.set_up()
    tags = f"to-tag={call.accepted.to.tag};from-tag={call.asked.from_.tag}"
    one = f"{call.asked.call_id};{tags}"
    world.carrier.invite(headers={"Replaces": f"{one}\r\nReplaces: {one}"})
    world.run(0.1)
    assert world.carrier.statuses()[-1] == 400


@pytest.mark.parametrize(
    ("how", "status"), [("nobody's", 481), ("another tag", 481), ("no longer early", 486), ("a stranger's", 403)]
)
def test_a_replaces_that_may_not_be_is_refused_and_changes_nothing(how: str, status: int) -> None:
    """R38, T09, T24: 481 for no match, 403 for another account's dialog, 486 for early-only after the answer."""
    world = World()
    world.set_up()
    old = world.platform.requests("INVITE")[0]
    party = world.sales if how == "a stranger's" else world.platform
    replacing(
        party,
        "nobody" if how == "nobody's" else old.call_id,
        old.from_.tag or "",
        "other" if how == "another tag" else "far",
        suffix=";early-only" if how == "no longer early" else "",
    )
    assert party.statuses()[-1] == status
    assert world.platform.requests("BYE") == []
    assert world.core.active == 1
    assert world.bugs() == []


def test_a_replaces_of_a_dialog_that_has_ended_is_declined() -> None:
    """R38: 603, as long as we remember it; 481 after that."""
    world = World()
    call = world.set_up()
    old = world.platform.requests("INVITE")[0]
    world.carrier.within("BYE", call.asked, call.accepted, 2)
    world.run(0.1)
    world.platform.respond(world.platform.requests("BYE")[0], 200)
    world.run(0.1)
    replacing(world.platform, old.call_id, old.from_.tag or "", "far")
    assert world.platform.statuses()[-1] == 603
    world.run(60.0)
    replacing(world.platform, old.call_id, old.from_.tag or "", "far")
    assert world.platform.statuses()[-1] == 481


def test_an_early_dialog_that_its_peer_began_can_not_be_replaced() -> None:
    """R38: 481."""
    world = World()
    asked = world.carrier.invite()
    world.run(0.1)
    world.platform.respond(world.platform.requests("INVITE")[0], 180)
    world.run(0.1)
    ringing = world.carrier.responses()[-1]
    replacing(world.carrier, asked.call_id, ringing.to.tag or "", asked.from_.tag or "")
    assert world.carrier.statuses()[-1] == 481


def test_replaces_belongs_in_an_invite() -> None:
    """R38: 400 in any other request."""
    world = World()
    call = world.set_up()
    world.carrier.within("INFO", call.asked, call.accepted, 2, headers={"Replaces": "a;to-tag=b;from-tag=c"})
    world.run(0.1)
    assert world.carrier.statuses("INFO") == [400]
