"""Transfers as the caller's ear hears them: the AI, then ringing, then the person, in one stream without a seam."""

from __future__ import annotations

import contextlib
import itertools
import json
import struct
import time
import urllib.error
import urllib.request

from conformance import sip
from conformance.ground import Ground
from conformance.peer import Leg, Peer, require, wait_until
from conformance.rtp import rtp_packet
from conformance.runner import case
from conformance.sip import Message

Address = tuple[str, int]

TARGET = "+14155550777"
AI, WAITING, PERSON, CALLER = 0x31, 0x32, 0x33, 0x34  # the octet that each one's frames are made of


@case("transfer-rings-and-connects", "a platform's REFER: the caller hears ringing, then the target, in one stream")
def rings_and_connects(ground: Ground) -> str:
    carrier, platform = ground.carrier(5060), ground.platform()
    target = ground.peer(11, 0, "the target")
    caller, callee = ground.connect(carrier, platform)
    ours, theirs = _media_ports(carrier, callee)
    _speak(platform, theirs, AI, 25)
    _refer(callee, f"<tel:{TARGET}>")
    platform.expect("202 REFER")
    require(_notified(platform, callee) == 100, "the first NOTIFY is not 100")
    person = carrier.take(carrier.expect("INVITE"))
    assert person.invitation is not None
    require(TARGET in person.invitation.uri, "the INVITE is not for the target")
    person.respond(180, "Ringing")
    require(_notified(platform, callee) == 180, "the ringing is not told")
    _speak(platform, theirs, WAITING, 50, first=25)
    person.respond(200, "OK", body=sip.sdp(target.media))
    carrier.expect("ACK", call_id=person.call_id)
    require(_notified(platform, callee) == 200, "the answer is not told")
    callee.hang_up()
    _speak(target, theirs, PERSON, 25)
    _speak(carrier, ours, CALLER, 10)
    time.sleep(0.1)
    heard = _heard(carrier)
    require(len({ssrc for _, ssrc, _ in heard}) == 1, "the caller's stream changes its SSRC")
    gaps = [(b - a) & 0xFFFF for (a, _, _), (b, _, _) in itertools.pairwise(heard)]
    require(set(gaps) == {1}, f"the caller's stream has gaps in its sequence numbers: {sorted(set(gaps))}")
    spoken = [payload[0] if len(set(payload)) == 1 else None for _, _, payload in heard]
    tone = spoken.count(None)
    require(spoken.count(AI) == 25, f"{spoken.count(AI)} of 25 frames of the AI came")
    require(WAITING not in spoken, "the caller hears the platform while the target rings")
    require(tone >= 40, f"only {tone} frames of ring tone came in a second")
    require(spoken.count(PERSON) == 25, f"{spoken.count(PERSON)} of 25 frames of the target came")
    answered = [payload[0] for _, _, payload in _heard(target) if len(set(payload)) == 1]
    require(answered.count(CALLER) == 10, "the target does not hear the caller")
    _end(caller, carrier, person)
    facts = ground.record(caller.call_id)["transfer"]
    require((facts["mode"], facts["result"], facts["status"]) == ("dial", "succeeded", 200), f"the record says {facts}")
    return f"25 frames of the AI, {tone} of ring tone, 25 of the target: one SSRC, no gap"


@case(
    "transfer-by-api", "POST …/transfer brings a caller elsewhere; a target that is busy leaves the caller with the AI"
)
def by_api(ground: Ground) -> str:
    carrier, platform = ground.carrier(5060), ground.platform()
    caller, callee = ground.connect(carrier, platform)
    call = next(one for one in ground.bridge.calls() if one["legs"]["carrier"]["call_id"] == caller.call_id)
    path = f"{ground.bridge.admin}/api/v1/calls/{call['id']}/transfer"
    require(_post(path, {"target": TARGET}) == 202, "the transfer is not accepted")
    require(_post(path, {"target": TARGET}) == 409, "a second transfer beside it is")
    busy = carrier.take(carrier.expect("INVITE"))
    busy.respond(486, "Busy Here")
    carrier.expect("ACK", call_id=busy.call_id)
    platform.never("BYE", 0.3)
    require(_post(path, {"target": "sip:900@elsewhere.example"}) == 403, "a host that is nobody's is dialled")
    require(_post(path, {"target": TARGET}) == 202, "after a failure no other target may be tried")
    person = carrier.take(carrier.expect("INVITE"))
    person.answer()
    carrier.expect("ACK", call_id=person.call_id)
    callee.respond(200, "OK", to=platform.expect("BYE"))
    _end(caller, carrier, person)
    facts = ground.record(caller.call_id)["transfer"]
    require((facts["by"], facts["result"]) == ("operator", "succeeded"), f"the record says {facts}")
    counted = ground.bridge.metric("transfers_total", platform="assistant", mode="dial", result="failed")
    require(counted >= 1, "the transfer that failed is not counted")
    return "busy: 486, the AI stays; then answered: the AI is released at once"


def _media_ports(carrier: Peer, callee: Leg) -> tuple[Address, Address]:
    """Return where the bridge wants the carrier's media and the platform's."""
    answer = next(one for one in carrier.log if one.status == 200 and one.method == "INVITE")
    assert answer.audio is not None
    assert callee.invitation is not None
    assert callee.invitation.audio is not None
    return answer.audio.address, callee.invitation.audio.address


def _refer(leg: Leg, target: str) -> None:
    leg.cseq += 1
    headers = [*leg.headers("REFER", leg.cseq, f"z9hG4bK{sip.token()}"), ("Refer-To", target)]
    host, port = leg.peer.address
    headers.append(("Contact", f"<sip:{host}:{port}>"))
    leg.peer.send(sip.request(f"REFER {leg.target} SIP/2.0", headers), leg.to)


def _notified(peer: Peer, leg: Leg) -> int:
    """Take a NOTIFY, and return the status in it."""
    notify: Message = peer.expect("NOTIFY", call_id=leg.call_id)
    leg.respond(200, "OK", to=notify)
    return int(notify.body.split()[1])


def _speak(peer: Peer, to: Address, octet: int, frames: int, first: int = 0) -> None:
    """Send frames of one octet in real time."""
    begun = time.monotonic()
    for index in range(first, first + frames):
        wait_until(begun + 0.02 * (index - first))
        peer.rtp.sendto(rtp_packet(0, index, 160 * index, octet, bytes([octet]) * 160), to)


def _heard(peer: Peer) -> list[tuple[int, int, bytes]]:
    """Return what has come to a peer's RTP port: sequence number, SSRC and payload of each packet."""
    packets = []
    with contextlib.suppress(BlockingIOError):
        while True:
            data = peer.rtp.recv(2048)
            _, _, sequence, _, ssrc = struct.unpack_from("!BBHII", data)
            packets.append((sequence, ssrc, data[12:]))
    return packets


def _end(caller: Leg, carrier: Peer, person: Leg) -> None:
    """Let the caller hang up, and the person hear of it."""
    caller.request("BYE")
    person.respond(200, "OK", to=carrier.expect("BYE", call_id=person.call_id))
    carrier.expect("200 BYE", call_id=caller.call_id)


def _post(url: str, body: dict[str, str]) -> int:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=5.0) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
