"""Calls among parties that say anything at any time, over a network that loses and repeats: nothing is left (T19)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from bridge.b2bua.actions import HangUp, Transfer
from bridge.b2bua.media import agreed
from bridge.errors import PeerError
from bridge.media.relay import LegName, MediaSilent
from bridge.sip.message import Request, Response
from tests.harness.world import NUMBER, Party, World, sdp

CALLS = 40  # of one tangle
CHAOS = 60.0  # seconds, then everybody behaves
ODD_HEADERS = (
    {"Session-Expires": "90;refresher=uac", "Supported": "timer"},
    {"Session-Expires": "x", "Supported": "timer"},
    {"Session-Expires": "999999999", "Supported": "timer"},
    {"Min-SE": "4000", "Session-Expires": "10"},
    {"Allow": "INVITE, ACK, BYE, UPDATE, INFO, REFER, PRACK", "Supported": "100rel"},
    {"Require": "100rel"},
    {"Require": "nothing-we-know"},
    {"Reason": 'Q.850;cause=16;text="x'},
    {"Record-Route": "<sip:"},
    {"Content-Encoding": "gzip"},
    {"RSeq": "0", "Require": "100rel"},
    {"WWW-Authenticate": "Digest realm="},
    {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'},
)

Say = Callable[..., Request]


@dataclass
class Character:
    """A party whose every reaction is drawn by lot. ``calm``: it has come to its senses and is only polite."""

    party: Party
    lot: random.Random
    calm: bool = False
    dialogs: list[Say] = field(default_factory=list)
    named: list[str] = field(default_factory=list)  # values of Replaces that mean a dialog of its own
    finals: set[str] = field(default_factory=set)  # INVITEs that it has answered
    sent: list[Request] = field(default_factory=list)  # INVITEs of its own
    cseq: int = 1

    def __post_init__(self) -> None:
        self.party.react = self.react

    # -- what comes ------------------------------------------------------------------------------------------------

    def react(self, message: Request | Response) -> None:
        if isinstance(message, Response):
            self.heard(message)
        elif message.method == "INVITE":
            self.invited(message)
        elif message.method == "CANCEL":
            self.cancelled(message)
        elif message.method != "ACK":
            self.asked(message)

    def heard(self, response: Response) -> None:
        """Take a response to an INVITE of its own: mostly with the ACK or PRACK that is due."""
        invite = next((one for one in self.sent if one.via.branch == response.via.branch), None)
        if response.cseq.method != "INVITE" or invite is None or response.status == 100 or not self.likely(0.85):
            return
        if response.status >= 300:
            self.party.ack(invite, response)
        elif response.status >= 200:
            offered = not invite.body
            body = self.sdp() if offered and self.likely(0.9) else b""
            self.party.ack(invite, response, body=body)
            self.learn(invite, response)
        elif response.headers.get("RSeq") and response.contact is not None:
            rack = {"RAck": f"{response.headers.get('RSeq')} {invite.cseq.number} INVITE"}
            body = self.sdp() if self.lot.random() < (0.2 if invite.body else 0.8) else b""
            self.party.within("PRACK", invite, response, self.next(), headers=rack, body=body)
        elif response.contact is not None and not self.calm:
            self.learn(invite, response)

    def learn(self, invite: Request, response: Response) -> None:
        def say(method: str, **rest: object) -> Request:
            return self.party.within(method, invite, response, self.next(), **rest)  # type: ignore[arg-type]

        self.dialogs.append(say)
        self.named.append(f"{invite.call_id}%3Bto-tag%3D{response.to.tag}%3Bfrom-tag%3D{invite.from_.tag}")

    def invited(self, invite: Request) -> None:
        branch = invite.via.branch or ""
        if invite.to.tag is None and branch not in self.finals:
            tag = self.lot.choice(("one", "two"))

            def say(method: str, **rest: object) -> Request:
                return self.party.within_received(method, invite, tag, self.next(), **rest)  # type: ignore[arg-type]

            self.dialogs.append(say)
            self.named.append(f"{invite.call_id}%3Bto-tag%3D{invite.from_.tag}%3Bfrom-tag%3D{tag}")
            for number in range(self.lot.randrange(3)):
                self.later(lambda number=number: self.provisional(invite, number))  # type: ignore[misc]
        if self.calm:
            self.final(invite, 200)
        elif self.likely(0.9):
            status = self.lot.choice((*[200] * 14, 486, 503, 488, 491, 401, 422, 302, 481, 404, 100))
            self.later(lambda: self.final(invite, status))

    def provisional(self, invite: Request, number: int) -> None:
        if (invite.via.branch or "") in self.finals:
            return
        headers = {"Require": "100rel", "RSeq": str(7 + number)} if self.lot.random() < 0.5 else {}
        body = self.sdp() if self.lot.random() < 0.5 else b""
        tag = self.lot.choice(("one", "two"))
        self.party.respond(invite, self.lot.choice((180, 183, 181)), body=body, tag=tag, headers=headers)

    def final(self, invite: Request, status: int) -> None:
        """Answer an INVITE, once."""
        branch = invite.via.branch or ""
        if branch in self.finals:
            return
        if status >= 200:
            self.finals.add(branch)
        body = self.sdp() if status == 200 and self.likely(0.9) else b""
        headers = self.odd(0.2)
        if status == 422:
            headers = {"Min-SE": str(self.lot.randrange(90, 2000))}
        elif status == 302:
            headers = {"Contact": f"<sip:x{self.lot.randrange(9)}@{self.party.address[0]}>"}
        tag = self.lot.choice(("one", "one", "one", "two"))
        self.party.respond(invite, status, body=body, tag=tag, headers=headers)
        if status == 200 and not self.calm and self.lot.random() < 0.1:
            self.party.respond(invite, 200, body=self.sdp(), tag="three")  # a second fork

    def cancelled(self, cancel: Request) -> None:
        if self.likely(0.8):
            self.party.respond(cancel, 200)
            for _, invite in self.party.inbox:
                if isinstance(invite, Request) and invite.method == "INVITE" and invite.via.branch == cancel.via.branch:
                    self.final(invite, 487)
                    break

    def asked(self, request: Request) -> None:
        if self.calm:
            self.party.respond(request, 200)
        elif self.likely(0.85):
            status = self.lot.choice((*[200] * 14, 202, 401, 404, 405, 422, 481, 491, 500, 503))
            body = self.sdp() if self.lot.random() < 0.1 else b""
            self.later(lambda: self.party.respond(request, status, headers=self.odd(0.2), body=body), 0.3)

    # -- what it says of itself ------------------------------------------------------------------------------------

    def call(self, number: str) -> None:
        usual = {"Supported": "100rel, timer", "Allow": "INVITE, ACK, BYE, UPDATE, INFO, REFER"}
        headers = {**(usual if self.lot.random() < 0.5 else {}), **self.odd(0.25)}
        if self.named and self.lot.random() < 0.1:
            headers["Replaces"] = self.lot.choice(self.named).replace("%3B", ";").replace("%3D", "=")
        body = b"" if self.lot.random() < 0.2 else self.sdp()
        invite = self.party.invite(number, body=body, headers=headers)
        self.sent.append(invite)
        if self.lot.random() < 0.2:
            self.later(lambda: self.party.cancel(invite), 2.0)

    def impulse(self) -> None:
        """Say something within one of its dialogs."""
        if self.calm or not self.dialogs:
            return
        say = self.lot.choice(self.dialogs[-6:])
        match self.lot.randrange(12):
            case 0 | 1 | 2:
                self.sent.append(
                    say("INVITE", body=self.sdp() if self.lot.random() < 0.8 else b"", headers=self.odd(0.3))
                )
            case 3 | 4:
                say("UPDATE", body=self.sdp() if self.lot.random() < 0.5 else b"", headers=self.odd(0.3))
            case 5 | 6:
                replaces = f"?Replaces={self.lot.choice(self.named)}" if self.lot.random() < 0.5 else ""
                say("REFER", headers={"Refer-To": f"<sip:+1415555{self.lot.randrange(9999):04}@127.0.0.1{replaces}>"})
            case 7:
                say("INFO", body=b"Signal=1", headers={"Content-Type": "application/dtmf-relay"})
            case 8:
                status = self.lot.choice((b"SIP/2.0 180 R", b"SIP/2.0 200 OK", b"SIP/2.0 486 B", b"rubbish"))
                say(
                    "NOTIFY",
                    body=status,
                    headers={"Event": "refer", "Subscription-State": "active", "Content-Type": "message/sipfrag"},
                )
            case 9:
                say(self.lot.choice(("OPTIONS", "MESSAGE", "SUBSCRIBE", "PUBLISH")))
            case 10:
                say("PRACK", headers={"RAck": f"{self.lot.randrange(1, 9)} 1 INVITE"})
            case _ if self.lot.random() < 0.4:
                say("BYE", headers=self.odd(0.2))
            case _:
                pass

    # -- its lots --------------------------------------------------------------------------------------------------

    def likely(self, share: float) -> bool:
        return self.calm or self.lot.random() < share

    def next(self) -> int:
        self.cseq += 0 if self.lot.random() < 0.03 and not self.calm else 1
        return self.cseq

    def odd(self, share: float) -> dict[str, str]:
        return dict(self.lot.choice(ODD_HEADERS)) if not self.calm and self.lot.random() < share else {}

    def sdp(self) -> bytes:
        if not self.calm and self.lot.random() < 0.05:
            return self.lot.choice((b"v=0\r\nrubbish", b"\xff\xfe", sdp((self.party.address[0], 0)), b"v=0\r\n"))
        formats = self.lot.choice((*["0 8 101"] * 6, "8 101", "0 8", "18"))
        direction = self.lot.choice(("sendrecv", "sendrecv", "sendonly", "inactive"))
        port = 2 * self.lot.randrange(20000, 30000)
        return sdp((self.party.address[0], port), formats=formats, direction=direction, version=self.lot.randrange(99))

    def later(self, act: Callable[[], object], within: float = 1.5) -> None:
        self.party.network.at(self.lot.uniform(0.0, within), act)


def tangle(seed: int, ending: str) -> World:
    """Play one: every party talks at once for a while; then all are polite, or say nothing ever again."""
    lot = random.Random(seed)
    profile = {"prack": "supported", "session_timer": "offer", "session_expires": 90}
    world = World(
        carrier={**profile, "transfer": lot.choice(("dial", "refer", "refer-or-dial")), "ring_deadline": 20.0},
        platform={**profile, "ring_deadline": 20.0, "authentication": "any"},
        seed=seed,
        jitter=0.05,
        loss=0.05,
        duplicates=0.05,
    )
    network = world.network
    characters = [Character(party, lot) for party in (world.carrier, world.platform, world.sales)]

    def operator() -> None:
        for call in world.core.calls()[:1]:
            session = world.core.session(call["id"])
            if lot.random() < 0.3:
                network.command(HangUp(call["id"]))
            elif lot.random() < 0.5 and session is not None:
                network.relay_event(MediaSilent(session, lot.choice(list(LegName)), network.now))
            elif world.core.transfer_obstacle(call["id"], NUMBER) is None:
                network.command(Transfer(call["id"], NUMBER))

    for _ in range(CALLS):
        network.at(lot.uniform(0.0, CHAOS), lambda: characters[0].call(NUMBER))
        network.at(lot.uniform(0.0, CHAOS), lambda: characters[1].call("+14155550123"))
    for _ in range(12 * CALLS):
        network.at(lot.uniform(0.0, CHAOS + 10.0), lambda: lot.choice(characters).impulse())
    for _ in range(CALLS):
        network.at(lot.uniform(0.0, CHAOS), operator)
    world.run(CHAOS + 10.0)
    for character in characters:
        character.calm = True
        if ending == "dead":
            network.detach(character.party.address)
    network.loss = network.duplicates = 0.0
    world.run(10.0)
    return world


def check_media(world: World) -> None:
    """See that the relay knows of each call that stands what its legs have agreed."""
    for call in world.core._calls.values():
        legs = [leg for leg in (call.caller, call.callee) if leg is not None and leg.confirmed]
        try:
            terms = {leg.name: agreed(leg) for leg in legs}
        except PeerError:
            terms = {}
        if len(terms) < 2 or None in terms.values() or call.transferring:
            continue
        media = world.relay.media[call.session]
        for name, negotiated in terms.items():
            assert negotiated is not None
            assert media[name].remote_rtp == negotiated.remote_rtp
            assert (media[name].may_send, media[name].may_receive) == (negotiated.may_send, negotiated.may_receive)
            assert media[name].tone is None


@pytest.mark.parametrize("ending", ["polite", "dead"])
@pytest.mark.parametrize("seed", range(3))
def test_t19_whoever_says_whatever_nothing_is_left(seed: int, ending: str) -> None:
    """T19, T24: no bug of ours, one record a call, every dialog, transaction, timer, port and place given back."""
    world = tangle(seed, ending)
    assert world.bugs() == []
    check_media(world)
    world.network.command(HangUp(None))
    if ending == "dead":
        world.run(70.0)  # a lost ACK and a BYE in vain take 64*T1 each
    world.assert_idle()
    begun = {trace.call for trace in world.network.traces if trace.kind == "state"}
    ids = [record["id"] for record in world.network.records]
    assert len(ids) == len(set(ids)) == len(begun)
    assert {trunk["name"]: trunk["active_calls"] for trunk in world.core.trunks()} == {
        "main": 0,
        "support": 0,
        "sales": 0,
    }
