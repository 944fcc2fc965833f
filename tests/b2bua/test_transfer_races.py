"""Transfers in which everything happens at any time: nothing is left behind, and each call has its one record (T19)."""

from __future__ import annotations

import random

import pytest

from bridge.b2bua.actions import HangUp, Transfer
from bridge.media.relay import LegName
from bridge.sip.message import Request, Response
from tests.harness.world import CARRIER, PLATFORM, Party, World, sdp

TARGET = "+14155550777"


class Crowd:
    """A caller, a platform with a second call, and targets, all of them impulsive: what they do is drawn by lot."""

    def __init__(self, seed: int, mode: str) -> None:
        self.lot = random.Random(seed)
        self.world = World(carrier={"transfer": mode}, jitter=0.03, seed=seed)
        self.first = self.world.set_up()
        self.asked = self.world.platform.invite(TARGET, body=sdp((PLATFORM[0], 50010)))
        self.world.run(0.2)
        self.offered = self.world.carrier.requests("INVITE")[-1]
        self.world.carrier.respond(self.offered, 200, body=sdp((CARRIER[0], 41000)), tag="target")
        self.world.run(0.2)
        self.accepted = self.world.platform.responses()[-1]
        self.world.platform.ack(self.asked, self.accepted)
        self.world.run(0.2)
        self.world.carrier.react = lambda message: self.react(self.world.carrier, message)
        self.world.platform.react = lambda message: self.react(self.world.platform, message)
        self.answered: set[str] = set()  # INVITEs that have their final response

    def later(self, act: object, within: float = 1.0) -> None:
        assert callable(act)
        self.world.network.at(self.lot.uniform(0.0, within), act)

    def react(self, party: Party, message: Request | Response) -> None:
        """Answer what must be answered, some of it late; do something of one's own now and then."""
        if not isinstance(message, Request):
            return
        branch = message.via.branch or ""
        match message.method:
            case "BYE" | "NOTIFY":
                party.respond(message, 200)
            case "CANCEL":
                party.respond(message, 200)
                invite = next(one for one in party.requests("INVITE") if one.via.branch == branch)
                self.final(party, invite, 487)
            case "REFER":
                party.respond(message, self.lot.choice((202, 202, 405, 603)))
            case "INVITE" if message.to.tag is not None:
                self.later(lambda: self.final(party, message, self.lot.choice((200, 200, 488, 491))))
            case "INVITE":
                if self.lot.random() < 0.7:
                    self.later(lambda: branch in self.answered or party.respond(message, 180, tag="new"), 0.3)
                self.later(lambda: self.final(party, message, self.lot.choice((200, 200, 200, 486, 503))))
            case _:
                pass

    def final(self, party: Party, invite: Request, status: int) -> None:
        if invite.via.branch in self.answered:
            return
        self.answered.add(invite.via.branch or "")
        body = sdp((party.address[0], 42000), formats=self.lot.choice(("0 8 101", "8 101"))) if status == 200 else b""
        party.respond(invite, status, body=body, tag="new")

    def refer(self) -> None:
        replaces = (
            f"{self.asked.call_id}%3Bto-tag%3D{self.accepted.to.tag}%3Bfrom-tag%3D{self.asked.from_.tag}"
            if self.lot.random() < 0.5
            else ""
        )
        uri = f"sip:{TARGET}@{PLATFORM[0]}" + (f"?Replaces={replaces}" if replaces else "")
        cseq = self.lot.randrange(1, 50)
        self.world.platform.within_received("REFER", self.first.offered, "far", cseq, headers={"Refer-To": f"<{uri}>"})

    def notify(self) -> None:
        line = self.lot.choice((b"SIP/2.0 180 Ringing", b"SIP/2.0 200 OK", b"SIP/2.0 486 Busy"))
        headers = {"Event": "refer", "Subscription-State": "terminated", "Content-Type": "message/sipfrag"}
        cseq = self.lot.randrange(10, 50)
        self.world.carrier.within("NOTIFY", self.first.asked, self.first.accepted, cseq, headers=headers, body=line)

    def order(self) -> None:
        calls = self.world.core.calls()
        if calls:
            call = self.lot.choice(calls)["id"]
            if self.lot.random() < 0.3:
                self.world.network.command(HangUp(call))
            elif self.world.core.transfer_obstacle(call, TARGET) is None:
                self.world.network.command(Transfer(call, TARGET))

    def impulse(self) -> None:
        carrier, platform, first = self.world.carrier, self.world.platform, self.first
        self.lot.choice(
            (
                self.refer,
                self.refer,
                self.notify,
                self.order,
                lambda: carrier.within("BYE", first.asked, first.accepted, 60),
                lambda: platform.within_received("BYE", first.offered, "far", 60),
                lambda: platform.within("BYE", self.asked, self.accepted, 60),
                lambda: carrier.within_received("BYE", self.offered, "target", 60),
                lambda: carrier.within(
                    "INVITE", first.asked, first.accepted, 55, body=sdp((CARRIER[0], 40000), direction="sendonly")
                ),
            )
        )()


@pytest.mark.parametrize("mode", ["dial", "refer", "refer-or-dial"])
def test_whatever_crosses_whatever_nothing_is_left(mode: str) -> None:
    """T19, D38, R37: 60 crowds each, every one a different tangle."""
    for seed in range(60):
        crowd = Crowd(seed, mode)
        world = crowd.world
        crowd.later(crowd.refer, 0.2)
        for _ in range(crowd.lot.randrange(1, 6)):
            crowd.later(crowd.impulse, 2.0)
        world.run(140.0)
        assert world.bugs() == [], f"seed {seed}"
        for call in world.core.calls():
            transfer = call["transfer"]
            assert transfer is None or transfer["result"] is not None, f"seed {seed}: a transfer hangs"
            session = world.core.session(call["id"])
            assert session is not None
            sides = world.relay.media[session]
            assert all(sides[name].tone is None for name in LegName), f"seed {seed}: it rings for ever"
            world.network.command(HangUp(call["id"]))
        world.run(140.0)
        assert {name: count for name, count in world.core.counts().items() if count} == {}, f"seed {seed}"
        assert world.relay.open_sessions == {}
        assert world.bugs() == [], f"seed {seed}"
        ids = [record["id"] for record in world.network.records]
        assert len(ids) == len(set(ids)) == 2, f"seed {seed}"
