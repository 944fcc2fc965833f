"""SIPp on both sides: its stock scenarios at a rate, and audio that must come through octet by octet."""

from __future__ import annotations

import time

from conformance import speech
from conformance.g711 import FRAME, SILENCE, encode
from conformance.ground import NUMBER, Ground, tool
from conformance.listening import arrivals
from conformance.peer import Peer, require
from conformance.runner import case
from conformance.sipp import Sipp


@case("sipp-stock-pair", "SIPp's stock UAC to its stock UAS: 200 calls at 20 a second, none failed, no retransmission")
def stock_pair(ground: Ground) -> str:
    program = tool("sipp")
    host = ground.stage.host
    if ground.against is None:
        ground.another_bridge()  # whose count of retransmissions begins at zero
    answerer = Sipp(ground.stage, program, "uas", (host(21), 5060))
    time.sleep(0.5)
    more = ("-r", "20", "-m", "200", "-s", NUMBER, "-timeout", "60")
    caller = Sipp(ground.stage, program, "uac", (host(11), 5060), ground.address, more)
    try:
        got = caller.finish(75.0)
    finally:
        answerer.process.stop(1.0)
    other = answerer.statistics()
    require(got["SuccessfulCall"] == 200, f"{got['SuccessfulCall']} of 200 calls succeeded: {got}")
    require(got["FailedCall"] == 0, f"{got['FailedCall']} calls failed")
    resent = got["Retransmissions"] + other["Retransmissions"]
    require(resent == 0, f"SIPp retransmitted {resent} messages")
    if ground.against is None:
        ours = ground.bridge.metric("sip_retransmissions_total")
        require(ours == 0, f"the bridge retransmitted {ours:.0f} messages")
        ground.idle()
    return "200 calls, 0 failed, 0 retransmissions on either side"


@case("sipp-audio-toward-the-platform", "G.711 that SIPp plays arrives at the platform octet by octet")
def audio_to_platform(ground: Ground) -> str:
    program = tool("sipp")
    octets = _speech(ground)
    platform = ground.platform()
    play_for = str(len(octets) // 8 + 500)
    more = ("-m", "1", "-s", NUMBER, "-d", play_for, "-timeout", "30")
    caller = Sipp(ground.stage, program, "caller-with-audio", (ground.stage.host(11), 5060), ground.address, more)
    callee = platform.take(platform.expect("INVITE", 5.0))
    callee.respond(180, "Ringing")
    callee.answer()
    platform.expect("ACK", 2.0)
    packets = _record(platform, "BYE", len(octets) / 8000 + 10)
    callee.respond(200, "OK", to=platform.expect("BYE", 1.0))
    require(caller.finish(10.0)["SuccessfulCall"] == 1, "SIPp counts the call as failed")
    return _same(packets, octets)


@case("sipp-audio-toward-the-carrier", "G.711 that SIPp plays as the platform arrives at the carrier octet by octet")
def audio_to_carrier(ground: Ground) -> str:
    program = tool("sipp")
    octets = _speech(ground)
    carrier = ground.carrier()
    answerer = Sipp(ground.stage, program, "answerer-with-audio", (ground.stage.host(21), 5060))
    time.sleep(0.5)
    try:
        caller = carrier.invite(ground.address, NUMBER)
        caller.invite()
        caller.acknowledge(carrier.expect("200 INVITE", 3.0))
        packets = _record(carrier, "", len(octets) / 8000 + 1.0)
        caller.hang_up()
    finally:
        answerer.process.stop(1.0)
    return _same(packets, octets)


def _speech(ground: Ground) -> bytes:
    """Write the file that SIPp plays; no frame of it is the silence that the bridge fills with."""
    octets = encode(speech.utterance(speech.CALLER, speech.CALLER_LINES[0]))
    octets = octets[: len(octets) // FRAME * FRAME].replace(b"\xff", b"\xfe")
    (ground.stage.directory / "speech.ulaw").write_bytes(octets)
    return octets


def _record(peer: Peer, until: str, within: float) -> list[tuple[float, bytes]]:
    """Keep the RTP that arrives until a request does, or for the whole time."""
    packets: list[tuple[float, bytes]] = []
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        for message in peer.collect(0.005):
            peer.inbox.append(message)
        while True:
            try:
                packets.append((time.monotonic(), peer.rtp.recv(2048)))
            except OSError:
                break
        if until and any(message.method == until for message in peer.inbox):
            break
    return packets


def _same(packets: list[tuple[float, bytes]], octets: bytes) -> str:
    got = arrivals(packets)
    order = sorted(range(len(got.payloads)), key=lambda index: int(got.sequence[index]))
    frames = [got.payloads[index] for index in order if got.payloads[index] != SILENCE[0]]
    sent = [octets[place : place + FRAME] for place in range(0, len(octets), FRAME)]
    same = next((index for index, pair in enumerate(zip(frames, sent, strict=False)) if pair[0] != pair[1]), len(sent))
    require(
        frames == sent, f"{len(frames)} frames with audio arrived of {len(sent)} played; they differ from number {same}"
    )
    filled = len(order) - len(frames)
    return f"{len(frames)} frames byte-exact, {filled} filled around them"
