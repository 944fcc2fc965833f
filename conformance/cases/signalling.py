"""Signalling with a scripted peer on either side and exact timing: rows R04 to R14 of the programme, from outside."""

from __future__ import annotations

import re
import time

from conformance import sip
from conformance.ground import CHALLENGING, NUMBER, TWO_TARGETS, Ground
from conformance.peer import Leg, Peer, require, wait_until
from conformance.runner import case
from conformance.sip import Message


@case("call-set-up-and-hang-up", "A call is set up with audio described by the bridge, and ends from either side")
def call_set_up(ground: Ground) -> str:
    carrier, platform = ground.carrier(), ground.platform()
    caller, callee = ground.connect(carrier, platform)
    assert callee.invitation is not None
    offer = callee.invitation.audio
    require(offer is not None and offer.address[0] == ground.address[0], "leg B's SDP does not name the bridge")
    require(callee.call_id != caller.call_id, "leg B carries leg A's Call-ID")
    require(carrier.media[0] not in callee.invitation.body.decode(), "leg B's SDP shows the carrier's address")
    ground.disconnect(caller, callee)
    uri = callee.invitation.uri
    caller, callee = ground.connect(carrier, platform)
    callee.request("BYE")
    bye = carrier.expect("BYE", 1.0, caller.call_id)
    caller.respond(200, "OK", to=bye)
    platform.expect("200 BYE", 1.0, callee.call_id)
    return f"Request-URI {uri}"


@case("trying-and-ringing-though-the-platform-is-slow", "100 at once and 180 within a second of a silent platform (D7)")
def ringing_in_time(ground: Ground) -> str:
    carrier, platform = ground.carrier(), ground.platform()
    caller = carrier.invite(ground.address, NUMBER)
    begun = time.monotonic()
    caller.invite()
    trying = carrier.expect("100 INVITE", 0.5)
    require(trying.at - begun <= 0.2, f"100 came after {1000 * (trying.at - begun):.0f} ms")  # R04
    callee = platform.take(platform.expect("INVITE"))
    callee.respond(100, "Trying")
    ringing = carrier.expect("180 INVITE", 1.5)
    require(ringing.at - begun <= 1.0, f"180 came after {1000 * (ringing.at - begun):.0f} ms")
    callee.answer()
    caller.acknowledge(carrier.expect("200 INVITE"))
    platform.expect("ACK")
    ground.disconnect(caller, callee)
    return f"100 after {1000 * (trying.at - begun):.1f} ms, 180 after {1000 * (ringing.at - begun):.0f} ms"


@case("next-target-with-new-dialog", "503 of a platform moves the call to the next, in a dialog of its own (D11, D12)")
def next_target(ground: Ground) -> str:
    carrier, first, second = ground.carrier(), ground.platform(), ground.platform(22)
    caller = carrier.invite(ground.address, TWO_TARGETS)
    caller.invite()
    refused = first.take(first.expect("INVITE"))
    refused.respond(503, "Service Unavailable")
    acknowledged = first.expect("ACK", 1.0)
    require(acknowledged.branch == refused.invitation.branch if refused.invitation else False, "ACK on another branch")
    callee = second.take(second.expect("INVITE", 1.0))
    assert refused.invitation is not None
    assert callee.invitation is not None
    require(callee.call_id != refused.call_id, "the second attempt carries the first one's Call-ID")
    tags = [sip.parameter(leg.invitation.get("from"), "tag") for leg in (refused, callee) if leg.invitation]
    require(tags[0] != tags[1], "the second attempt carries the first one's From tag")
    callee.answer()
    caller.acknowledge(carrier.expect("200 INVITE"))
    second.expect("ACK")
    caller.request("BYE")
    callee.respond(200, "OK", to=second.expect("BYE"))
    carrier.expect("200 BYE")
    return f"next INVITE {1000 * (callee.invitation.at - acknowledged.at):.0f} ms after the ACK for 503"


@case("busy-is-final", "486 of a platform ends the call, though the route has another target (D12)")
def busy_is_final(ground: Ground) -> str | None:
    carrier, first, second = ground.carrier(), ground.platform(), ground.platform(22)
    caller = carrier.invite(ground.address, TWO_TARGETS)
    caller.invite()
    callee = first.take(first.expect("INVITE"))
    callee.respond(486, "Busy Here")
    first.expect("ACK", 1.0)
    caller.acknowledge(carrier.expect("486 INVITE", 1.0))
    second.never("INVITE", 0.5)
    return None


@case("any-credentials-pass", "A platform that challenges every INVITE gets an answer to it (D9)")
def any_credentials(ground: Ground) -> str | None:
    carrier, platform = ground.carrier(), ground.platform(24)
    caller = carrier.invite(ground.address, CHALLENGING)
    caller.invite()
    first = platform.take(platform.expect("INVITE"))
    assert first.invitation is not None
    challenge = 'Digest realm="party", nonce="4bf92f3577b34da6", algorithm=MD5, qop="auth"'
    tag = sip.parameter(first.local, "tag")
    refusal = sip.response(first.invitation, 401, "Unauthorized", tag, [("WWW-Authenticate", challenge)])
    platform.send(refusal, first.to)
    platform.expect("ACK", 1.0)
    second = platform.take(platform.expect("INVITE", 1.0))
    assert second.invitation is not None
    credentials = second.invitation.get("authorization")
    require('realm="party"' in credentials and "response=" in credentials, "the second INVITE has no credentials")
    require(second.invitation.cseq == first.invitation.cseq + 1, "CSeq did not grow by one (RFC 3261 §22.2)")
    second.answer()
    caller.acknowledge(carrier.expect("200 INVITE"))
    platform.expect("ACK")
    ground.disconnect(caller, second)
    return None


@case("no-ack-ends-both-legs", "R05: 200 repeated ten times without ACK, then BYE to both legs and a record", limit=60)
def no_ack(ground: Ground) -> str:
    carrier, platform = ground.carrier(), ground.platform()
    caller = carrier.invite(ground.address, NUMBER)
    caller.invite()
    callee = platform.take(platform.expect("INVITE"))
    callee.answer()
    platform.expect("ACK")
    first = carrier.expect("200 INVITE")
    caller.remote = first.get("to")
    repeats: list[float] = []
    while len(repeats) < 10:
        repeats.append(carrier.expect("200 INVITE", 5.0, caller.call_id).at - first.at)
    wanted = (0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5)
    for at, due in zip(repeats, wanted, strict=True):
        require(abs(at - due) <= 0.1, f"a repeat came {at:.2f} s after the first 200, not {due} s")
    bye = platform.expect("BYE", 3.0, callee.call_id)
    callee.respond(200, "OK", to=bye)
    other = carrier.expect("BYE", 1.0, caller.call_id)
    caller.respond(200, "OK", to=other)
    for one in (bye, other):
        require(31.5 <= one.at - first.at <= 32.6, f"BYE came after {one.at - first.at:.1f} s, not 32 s")
    if ground.against is None:
        record = ground.record(caller.call_id)
        require(
            "ack" in str(record["reason"]).lower(), f"the record says {record['reason']}, not that the ACK is missing"
        )
    return f"repeats at {', '.join(f'{at:.1f}' for at in repeats)} s, BYE at {bye.at - first.at:.1f} s"


@case("final-refusal-is-repeated", "R04: a refusal is repeated until its ACK, 11 sends in 32 s", limit=60, load=True)
def refusal_repeated(ground: Ground) -> str:
    carrier, platform = ground.carrier(), ground.platform()
    caller = carrier.invite(ground.address, NUMBER)
    caller.invite()
    callee = platform.take(platform.expect("INVITE"))
    callee.respond(486, "Busy Here")
    first = carrier.expect("486 INVITE")
    repeats = [carrier.expect("486 INVITE", 5.0).at - first.at for _ in range(10)]
    carrier.never("486 INVITE", 4.5)
    return f"repeats at {', '.join(f'{at:.1f}' for at in repeats)} s"


@case("cancel-before-a-provisional", "R07: CANCEL waits on leg B for a provisional response, and is answered at once")
def cancel_early(ground: Ground) -> str:
    carrier, platform = ground.carrier(), ground.platform()
    caller = carrier.invite(ground.address, NUMBER)
    begun = time.monotonic()
    caller.invite()
    callee = platform.take(platform.expect("INVITE"))
    sent = caller.cancel(begun + 0.05)
    answers = [carrier.expect("200 CANCEL", 0.5), carrier.expect("487 INVITE", 0.5)]
    for answer in answers:
        require(answer.at - sent <= 0.2, f"{answer.status} came {1000 * (answer.at - sent):.0f} ms after CANCEL")
    caller.acknowledge(answers[1])
    platform.never("CANCEL", begun + 3.0 - time.monotonic())
    callee.respond(100, "Trying")
    trying_at = time.monotonic()
    cancel = platform.expect("CANCEL", 1.0, callee.call_id)
    assert callee.invitation is not None
    require(cancel.uri == callee.invitation.uri, "CANCEL has another Request-URI than the INVITE (§9.1)")
    require(cancel.branch == callee.invitation.branch, "CANCEL has another branch than the INVITE (§9.1)")
    callee.respond(200, "OK", to=cancel)
    callee.respond(487, "Request Terminated")
    platform.expect("ACK", 1.0, callee.call_id)
    heard, passed = answers[1].at - sent, cancel.at - trying_at
    return f"487 after {1000 * heard:.0f} ms; CANCEL on leg B {1000 * passed:.0f} ms after its 100"


@case("cancel-while-ringing", "CANCEL of a ringing call reaches the platform with its Reason (R07, RFC 3326)")
def cancel_ringing(ground: Ground) -> str | None:
    carrier, platform = ground.carrier(), ground.platform()
    caller = carrier.invite(ground.address, NUMBER)
    caller.invite()
    callee = platform.take(platform.expect("INVITE"))
    callee.respond(180, "Ringing")
    carrier.expect("180 INVITE")
    headers = [*caller.headers("CANCEL", caller.cseq, caller.branch), ("Reason", 'SIP;cause=200;text="elsewhere"')]
    carrier.send(sip.request(f"CANCEL {caller.target} SIP/2.0", headers), caller.to)
    carrier.expect("200 CANCEL", 0.5)
    caller.acknowledge(carrier.expect("487 INVITE", 0.5))
    cancel = platform.expect("CANCEL", 1.0)
    require("cause=200" in cancel.get("reason"), "the Reason of the CANCEL was not copied")
    callee.respond(200, "OK", to=cancel)
    callee.respond(487, "Request Terminated")
    platform.expect("ACK", 1.0)
    return None


@case(
    "cancel-crosses-answer",
    "R08: CANCEL crosses 200 in either order: B is released, A hears 487 or 200",
    limit=120,
)
def cancel_crosses(ground: Ground) -> str:
    carrier, platform = ground.carrier(), ground.platform()
    outcomes = {"487": 0, "200": 0}
    gaps = range(-20, 21, 1 if ground.thorough else 4)
    for gap in gaps:
        outcomes[_crossing(ground, carrier, platform, gap / 1000)] += 1
    if ground.against is None:
        ground.idle()
    return f"{len(gaps)} gaps from -20 to +20 ms: A heard 487 {outcomes['487']} times, 200 {outcomes['200']} times"


def _crossing(ground: Ground, carrier: Peer, platform: Peer, gap: float) -> str:
    caller = carrier.invite(ground.address, NUMBER)
    caller.invite()
    callee = platform.take(platform.expect("INVITE"))
    callee.respond(180, "Ringing")
    carrier.expect("180 INVITE", call_id=caller.call_id)
    at = time.monotonic() + 0.03
    if gap < 0:
        caller.cancel(at + gap)
        callee.answer(at)
    else:
        callee.answer(at)
        caller.cancel(at + gap)
    heard = ""
    acknowledged = released = False
    deadline = time.monotonic() + 1.0
    where = f"with CANCEL {1000 * gap:+.0f} ms from the 200"
    while time.monotonic() < deadline and not (heard and released):
        for message in carrier.collect(0.005):
            if message.method == "INVITE" and message.status >= 200 and message.get("call-id") == caller.call_id:
                caller.acknowledge(message)
                if not heard and message.status == 200:
                    caller.request("BYE")
                heard = heard or str(message.status)
            elif message.method == "BYE" and message.status == 0:
                caller.respond(200, "OK", to=message)
        for message in platform.collect(0.005):
            if message.get("call-id") != callee.call_id:
                continue
            if message.method == "CANCEL":
                callee.respond(200, "OK", to=message)
            elif message.method == "ACK":
                acknowledged = True
            elif message.method == "BYE":
                require(acknowledged, f"{where}: BYE came before the ACK")
                callee.respond(200, "OK", to=message)
                released = True
    require(heard in ("487", "200"), f"{where}: A heard {heard or 'nothing'} within a second")
    require(released, f"{where}: B answered and got no BYE within a second")
    return heard


@case("cseq-rules", "R09: re-INVITEs with a lower, equal, larger, largest and too large CSeq")
def cseq_rules(ground: Ground) -> str:
    carrier, platform = ground.carrier(), ground.platform()
    caller = carrier.invite(ground.address, NUMBER)
    caller.cseq = 10
    caller.invite()
    callee = platform.take(platform.expect("INVITE"))
    callee.answer()
    caller.acknowledge(carrier.expect("200 INVITE"))
    platform.expect("ACK")
    found = []
    for cseq, wanted in ((9, "500"), (15, "200"), (2**31 - 1, "200"), (2**31, "400")):
        answer = _reinvite(caller, callee, cseq)
        require(str(answer.status) == wanted, f"a re-INVITE with CSeq {cseq} got {answer.status}, not {wanted}")
        found.append(f"{cseq}: {answer.status}")
    caller.cseq = 2**31 - 2  # the last CSeq that was taken
    caller.request("BYE", 2**31 - 1)
    bye = platform.collect(0.5)
    released = [one for one in bye if one.method == "BYE"]
    for one in released:
        callee.respond(200, "OK", to=one)
    if not released:  # a BYE with the CSeq of the re-INVITE before it is no new request: end it from B
        callee.request("BYE")
        caller.respond(200, "OK", to=carrier.expect("BYE", 1.0))
    return ", ".join(found)


def _reinvite(caller: Leg, callee: Leg, cseq: int) -> Message:
    """Send a re-INVITE and its ACK, the same bytes twice; answer B's side of it where the bridge passes it on."""
    branch = f"z9hG4bK{sip.token()}"
    body = sip.sdp(caller.peer.media, version=cseq % 10000)
    for _ in range(2):  # a retransmission must not be taken for a request of its own
        data = sip.request(f"INVITE {caller.target} SIP/2.0", caller.headers("INVITE", cseq, branch), body)
        caller.peer.send(data, caller.to)
    deadline = time.monotonic() + 2.0
    answer: Message | None = None
    while time.monotonic() < deadline:
        for message in callee.peer.collect(0.01):
            if message.method == "INVITE" and message.status == 0:
                callee.respond(200, "OK", to=message, body=sip.sdp(callee.peer.media, version=8))
        answers = [one for one in caller.peer.collect(0.01) if one.method == "INVITE" and one.status >= 200]
        answer = answer or next(iter(answers), None)
        if answer is not None:
            target = caller.target
            caller.acknowledge(answer)
            caller.target = target
            if time.monotonic() > answer.at + 0.2:
                break
    require(answer is not None, f"no answer to a re-INVITE with CSeq {cseq}")
    assert answer is not None
    return answer


@case("max-forwards", "R12: Max-Forwards 0 is 483; leg B carries one less, 70 at most; nonsense is 400")
def max_forwards(ground: Ground) -> str:
    carrier, platform = ground.carrier(), ground.platform()
    found = []
    for value, wanted in (("0", "483"), ("1", "0"), ("70", "69"), ("255", "70"), ("256", "400 70"), ("abc", "400")):
        caller = carrier.invite(ground.address, NUMBER, max_forwards=value)
        caller.invite()
        got = ""
        deadline = time.monotonic() + 1.5
        while not got and time.monotonic() < deadline:
            for message in platform.collect(0.01):
                if message.method == "INVITE":
                    got = message.get("max-forwards")
                    platform.take(message).respond(486, "Busy Here")
            for message in carrier.collect(0.01):
                if message.status >= 300:
                    caller.acknowledge(message)
                    got = got or str(message.status)
        require(got in wanted.split(), f"Max-Forwards {value} gave {got or 'nothing'}, not {wanted}")
        found.append(f"{value}: {got}")
        for message in carrier.collect(0.1):
            if message.status >= 300:
                caller.acknowledge(message)
        platform.collect(0.05)
    return ", ".join(found)


@case("responses-go-to-the-source", "R14: received and rport; answers come from the address that was asked (RFC 3581)")
def responses_to_source(ground: Ground) -> str:
    carrier = ground.carrier()
    bridges = [ground.address]
    if ground.against is None:
        bridges += [(ground.stage.host(last), 5060) for last in (3, 4)]
    for bridge in bridges:
        via = f"SIP/2.0/UDP 192.0.2.7:5999;branch=z9hG4bK{sip.token()};rport"
        headers = carrier.invite(bridge, NUMBER, via=via).headers("OPTIONS", 1, "")
        carrier.send(sip.request(f"OPTIONS sip:{bridge[0]} SIP/2.0", headers), bridge)
        answer = carrier.expect("200 OPTIONS", 1.0)
        via = answer.all("via")[0]
        require(answer.source == bridge, f"asked at {bridge[0]}, answered from {answer.source[0]}:{answer.source[1]}")
        require(sip.parameter(via, "received") == carrier.address[0], f"no received in {via}")
        require(sip.parameter(via, "rport") == str(carrier.address[1]), f"no rport in {via}")
    # Without rport the answer goes to the port in Via (RFC 3261 §18.2.2), at the address it came from.
    behind = ground.carrier()
    via = f"SIP/2.0/UDP 192.0.2.7:{behind.address[1]};branch=z9hG4bK{sip.token()}"
    headers = carrier.invite(bridges[0], NUMBER, via=via).headers("OPTIONS", 2, "")
    carrier.send(sip.request(f"OPTIONS sip:{bridges[0][0]} SIP/2.0", headers), bridges[0])
    behind.expect("200 OPTIONS", 1.0)
    return f"{len(bridges)} local addresses"


@case("unknown-extension", "R17: Require of an unknown extension is 420 with Unsupported")
def unknown_extension(ground: Ground) -> str | None:
    carrier = ground.carrier()
    caller = carrier.invite(ground.address, NUMBER)
    caller.branch = f"z9hG4bK{sip.token()}"
    headers = [*caller.headers("INVITE", 1, caller.branch), ("Require", "nothing.we.know")]
    carrier.send(sip.request(f"INVITE {caller.target} SIP/2.0", headers, sip.sdp(carrier.media)), caller.to)
    answer = carrier.expect("420 INVITE", 1.0)
    caller.acknowledge(answer)
    require("nothing.we.know" in answer.get("unsupported"), "420 does not say what is unsupported")
    return None


@case("no-common-codec", "An offer without G.711 is refused with 488, and no platform is called")
def no_common_codec(ground: Ground) -> str | None:
    carrier, platform = ground.carrier(), ground.platform()
    caller = carrier.invite(ground.address, NUMBER)
    offer = re.sub(r"RTP/AVP.*", "RTP/AVP 9\r\na=rtpmap:9 G722/8000", sip.sdp(carrier.media, (0,)))
    offer = offer.replace("a=rtpmap:0 PCMU/8000\r\n", "")
    caller.invite(offer)
    caller.acknowledge(carrier.expect("488 INVITE", 1.0))
    platform.never("INVITE", 0.3)
    return None


@case("unknown-dialog", "A BYE for no call is 481")
def unknown_dialog(ground: Ground) -> str | None:
    carrier = ground.carrier()
    caller = carrier.invite(ground.address, NUMBER)
    caller.remote += ";tag=gone"
    caller.request("BYE")
    carrier.expect("481 BYE", 1.0)
    return None


@case("merged-request", "R19: the same request on another branch is 482, with one call placed")
def merged_request(ground: Ground) -> str | None:
    carrier, platform = ground.carrier(), ground.platform()
    caller = carrier.invite(ground.address, NUMBER)
    caller.invite()
    callee = platform.take(platform.expect("INVITE"))
    caller.invite()  # on a branch of its own
    carrier.expect("482 INVITE", 1.0)
    platform.never("INVITE", 0.3)
    callee.respond(486, "Busy Here")
    carrier.expect("486 INVITE", 1.0)
    return None


@case("answer-repeats-are-acknowledged", "R06: every 200 that the platform repeats gets its ACK")
def answer_repeats(ground: Ground) -> str | None:
    carrier, platform = ground.carrier(), ground.platform()
    caller = carrier.invite(ground.address, NUMBER)
    caller.invite()
    callee = platform.take(platform.expect("INVITE"))
    answer = callee.answer()
    caller.acknowledge(carrier.expect("200 INVITE"))
    platform.expect("ACK")
    assert callee.invitation is not None
    begun = time.monotonic()
    for index in range(5):
        platform.send(answer, callee.invitation.source, begun + 0.05 * index)
        acknowledgement = platform.expect("ACK", 0.5, callee.call_id)
        require(acknowledgement.cseq == callee.invitation.cseq, "the ACK has another CSeq than the INVITE")
    wait_until(begun + 0.4)
    ground.disconnect(caller, callee)
    return None
