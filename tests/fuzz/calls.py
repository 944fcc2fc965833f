"""Whole calls in which any message may be damaged, doubled or lost: nothing is a bug, and nothing is left (T11, T19).

    python tests/fuzz/calls.py [-runs=20000] [-from=0]

Each run is made of its number alone, so that one that fails can be played again by it.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bridge.b2bua.actions import HangUp
from bridge.errors import PeerError
from bridge.sip.message import Request, Response
from tests.fuzz.sip import mutated
from tests.harness.world import CARRIER, PLATFORM, Party, World, sdp

_TRANSFER_TARGETS = (
    "<sip:+14155550111@127.0.0.10>",
    "<tel:+14155550111>",
    "sip:a@[::1]?Replaces=x%3Bto-tag%3D1%3Bfrom-tag%3D2&X=%0D%0A",
    "<sip:agent@127.0.0.20;method=BYE>",
)


class Game:
    """One call, its two scripted parties, and the dice."""

    def __init__(self, number: int) -> None:
        dice = self.dice = random.Random(number)
        features = {
            "prack": dice.choice(("off", "supported")),
            "session_timer": dice.choice(("off", "accept", "offer")),
            "transfer": dice.choice(("dial", "refer", "off")),
        }
        self.world = World(carrier=features, platform=features, seed=number, loss=dice.choice((0.0, 0.0, 0.1)))
        self.damage = dice.choice((0.0, 0.1, 0.3))
        self.cseq = 100
        self.asked: Request | None = None
        self.offered: Request | None = None
        self.accepted: Response | None = None
        network = self.world.network
        plainly = network.send

        def send(data: bytes, *where: object) -> None:
            while dice.random() < self.damage:
                plainly(mutated(data, dice), *where)  # type: ignore[arg-type]
                if dice.random() < 0.5:
                    return
            plainly(data, *where)  # type: ignore[arg-type]

        network.send = send  # type: ignore[assignment,method-assign]
        for party in (self.world.carrier, self.world.platform, self.world.sales):
            party.react = partial(self._react, party)

    def play(self) -> None:
        """Call, do this and that, and let everything end. Raises AssertionError if something is left or was a bug."""
        dice, world = self.dice, self.world
        headers = {"Supported": "100rel, timer", "Allow": "UPDATE, PRACK, REFER, NOTIFY, INFO"}
        if dice.random() < 0.5:
            headers["Session-Expires"] = dice.choice(("90;refresher=uac", "1800", "60", "90;refresher=uas", "x"))
        offer = sdp((CARRIER[0], 40000)) if dice.random() < 0.8 else b""
        self.asked = world.carrier.invite(body=offer, headers=headers)
        for _ in range(dice.randrange(8)):
            world.run(dice.choice((0.0, 0.002, 0.02, 0.5, 5.0, 60.0)))
            self._act()
        world.run(dice.choice((0.1, 40.0)))
        self.damage = 0.0
        world.network.command(HangUp(None))
        world.run(200.0)
        world.assert_idle()

    def _act(self) -> None:
        dice, world, asked = self.dice, self.world, self.asked
        self.cseq += 1
        method = dice.choice(
            ("BYE", "CANCEL", "INVITE", "UPDATE", "INFO", "REFER", "OPTIONS", "NOTIFY", "PRACK", "ACK")
        )
        headers = {
            "REFER": {"Refer-To": dice.choice(_TRANSFER_TARGETS), "Referred-By": "<sip:x@y>"},
            "NOTIFY": {"Event": "refer", "Subscription-State": "active;expires=60", "Content-Type": "message/sipfrag"},
            "PRACK": {"RAck": f"{dice.randrange(9)} 1 INVITE"},
        }.get(method, {})
        body = {"NOTIFY": b"SIP/2.0 180 Ringing\r\n"}.get(method, b"")
        if method in ("INVITE", "UPDATE") and dice.random() < 0.7:
            body = sdp((CARRIER[0], 40002), direction=dice.choice(("sendonly", "sendrecv", "inactive")))
        with contextlib.suppress(
            AssertionError, PeerError, UnicodeEncodeError
        ):  # what a damaged message gave the script to go on
            if method == "CANCEL" and asked is not None:
                world.carrier.cancel(asked)
            elif dice.random() < 0.5 and asked is not None and self.accepted is not None:
                world.carrier.within(method, asked, self.accepted, self.cseq, body=body, headers=headers)
            elif self.offered is not None:
                world.platform.within_received(method, self.offered, "far", self.cseq, body=body, headers=headers)

    def _react(self, party: Party, message: Request | Response) -> None:
        with contextlib.suppress(AssertionError, PeerError, UnicodeEncodeError):
            if isinstance(message, Request):
                self._serve(party, message)
            elif message.cseq.method == "INVITE" and message.status >= 200 and party is self.world.carrier:
                if message.status < 300:
                    self.accepted = message
                if self.asked is not None and message.call_id == self.asked.call_id and self.dice.random() < 0.9:
                    party.ack(self.asked, message)
            elif "RSeq" in message.headers and self.asked is not None and self.dice.random() < 0.8:
                self.cseq += 1
                rack = {"RAck": f"{message.headers.get('RSeq')} {message.cseq.number} INVITE"}
                party.within("PRACK", self.asked, message, self.cseq, headers=rack)

    def _serve(self, party: Party, request: Request) -> None:
        dice, body = self.dice, sdp((PLATFORM[0], 50000))
        if request.method == "ACK" or dice.random() < 0.05:
            return
        if request.method == "INVITE" and request.to.tag is None:
            self.offered = request
            for _ in range(dice.randrange(3)):
                reliable = {"Require": "100rel", "RSeq": str(dice.randrange(1, 4))} if dice.random() < 0.4 else {}
                early = body if dice.random() < 0.4 else b""
                party.respond(request, dice.choice((100, 180, 183, 199)), headers=reliable, body=early)
            status = dice.choice((0, 200, 200, 200, 200, 302, 401, 407, 422, 486, 503, 603))
            if status:
                said = {"Contact": "<sip:+14155550122@127.0.0.21>"} if status == 302 else {}
                said |= {"Session-Expires": "90;refresher=uac", "Require": "timer"} if dice.random() < 0.3 else {}
                said |= {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'} if status == 401 else {}
                party.respond(request, status, body=body if status == 200 else b"", headers=said)
        elif request.method == "INVITE":
            party.respond(request, dice.choice((200, 200, 488, 491, 481)), body=body)
        else:
            party.respond(request, dice.choice((200, 200, 200, 202, 481, 405)))


def play(number: int) -> None:
    """Play one call."""
    Game(number).play()


def main(arguments: list[str]) -> None:
    options = dict(argument.lstrip("-").split("=", 1) for argument in arguments)
    first, runs = int(options.get("from", 0)), int(options.get("runs", 20_000))
    started = time.monotonic()
    for number in range(first, first + runs):
        try:
            play(number)
        except BaseException:
            print(f"call {number} broke a rule", file=sys.stderr)
            raise
        if (number - first + 1) % max(1, runs // 10) == 0:
            print(f"{number - first + 1} calls in {time.monotonic() - started:.0f} s, none broke a rule", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
