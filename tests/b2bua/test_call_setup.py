"""Calls that come up: what each side sees, hears and is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bridge.b2bua.core import Core
from bridge.b2bua.listeners import Listener
from bridge.config import Route
from bridge.media.relay import LegName
from bridge.sdp import session as sdp_session
from bridge.sip.message import Header
from tests.harness.network import BRIDGE, SeededTokens
from tests.harness.world import CARRIER, NUMBER, PLATFORM, SECOND_PLATFORM, World, peer, sdp


def test_a_call_comes_up_with_both_legs_anchored() -> None:
    world = World()
    call = world.set_up()
    opened = next(iter(world.relay.open_sessions.values()))
    offer, answer = sdp_session.parse(call.offered.body), sdp_session.parse(call.accepted.body)
    assert (offer.media[0].connection, offer.media[0].port) == ("127.0.0.1", opened.platform_port)
    assert (answer.media[0].connection, answer.media[0].port) == ("127.0.0.1", opened.carrier_port)
    for body in (call.offered.body, call.accepted.body):
        assert CARRIER[0].encode() not in body
        assert PLATFORM[0].encode() not in body


def test_the_invite_to_the_platform_is_our_own_on_a_rewritten_uri() -> None:
    world = World(platform={"request_uri": "sip:{user}@{host}"})
    call = world.set_up()
    assert call.offered.uri == f"sip:agent@{PLATFORM[0]}:{PLATFORM[1]}"
    assert call.offered.call_id != call.asked.call_id
    assert call.offered.from_.tag != call.asked.from_.tag
    assert call.offered.headers.get("Max-Forwards") == "69"
    assert call.offered.to.uri.user == NUMBER
    # D3: the Request-URI can't carry the dialled number, so these do
    assert NUMBER in (call.offered.headers.get("Diversion") or "")
    assert call.offered.headers.get("X-Called-Number") == NUMBER


@pytest.mark.parametrize(("incoming", "outgoing"), [(None, "69"), ("1", "0"), ("70", "69"), ("255", "70")])
def test_max_forwards_counts_down_and_never_exceeds_70(incoming: str | None, outgoing: str) -> None:
    """R12, R24."""
    world = World()
    world.carrier.invite(max_forwards=incoming)
    world.run(0.1)
    assert world.platform.requests("INVITE")[0].headers.get("Max-Forwards") == outgoing


@pytest.mark.parametrize(("value", "status"), [("0", 483), ("256", 400), ("abc", 400)])
def test_exhausted_or_bad_max_forwards_is_refused(value: str, status: int) -> None:
    """R12."""
    world = World()
    world.carrier.invite(max_forwards=value)
    world.run(0.1)
    assert world.carrier.statuses()[-1] == status
    assert world.platform.requests("INVITE") == []


def test_the_caller_hears_100_at_once_and_180_within_a_second_from_a_slow_platform() -> None:
    """R04, D7."""
    world = World()
    started = world.network.now
    world.carrier.invite()
    world.run(0.2)
    invite = world.platform.requests("INVITE")[0]
    world.platform.respond(invite, 100)
    world.run(3.0)
    assert world.carrier.times("INVITE", 100)[0] - started <= 0.2
    assert len(world.carrier.times("INVITE", 180)) == 1
    assert world.carrier.times("INVITE", 180)[0] - started <= 1.0


def test_ringing_repeated_every_second_reaches_the_caller_once() -> None:
    """D7: LiveKit repeats 180."""
    world = World()
    world.carrier.invite()
    world.run(0.1)
    invite = world.platform.requests("INVITE")[0]
    for _ in range(10):
        world.platform.respond(invite, 180)
        world.run(1.0)
    assert world.carrier.statuses().count(180) == 1


def test_early_media_opens_the_path_without_fill_and_the_answer_keeps_it() -> None:
    world = World()
    asked = world.carrier.invite()
    world.run(0.1)
    invite = world.platform.requests("INVITE")[0]
    world.platform.respond(invite, 183, body=sdp((PLATFORM[0], 50000)))
    world.run(0.1)
    early = world.carrier.responses()[-1]
    assert early.status == 183
    media = world.relay.media[1]
    assert media[LegName.PLATFORM].remote_rtp == (PLATFORM[0], 50000)
    assert media[LegName.CARRIER].fill_after_ms is None
    world.platform.respond(invite, 200, body=sdp((PLATFORM[0], 50000)))
    world.run(0.1)
    accepted = world.carrier.responses()[-1]
    assert accepted.status == 200
    assert accepted.body == early.body, "an unchanged description keeps its version (RFC 3264 §8)"
    world.carrier.ack(asked, accepted)
    assert world.relay.media[1][LegName.CARRIER].fill_after_ms == 100


def test_after_the_answer_both_sides_are_filled_with_the_codec_they_took() -> None:
    """D27."""
    world = World()
    asked = world.carrier.invite(body=sdp((CARRIER[0], 40000), formats="8 0 101"))
    world.run(0.1)
    invite = world.platform.requests("INVITE")[0]
    world.platform.respond(invite, 200, body=sdp((PLATFORM[0], 50000), formats="8"))
    world.run(0.1)
    world.carrier.ack(asked, world.carrier.responses()[-1])
    for leg in LegName:
        media = world.relay.media[1][leg]
        assert (media.fill_after_ms, media.fill_payload_type, media.ptime_ms) == (100, 8, 20)


def test_codecs_the_platform_can_not_take_are_not_offered_to_it() -> None:
    world = World(platform={"codecs": ("PCMA",), "telephone_event": False})
    world.carrier.invite(body=sdp((CARRIER[0], 40000), formats="18 0 8 101"))
    world.run(0.1)
    offer = sdp_session.parse(world.platform.requests("INVITE")[0].body)
    assert [codec.encoding for codec in offer.media[0].codecs] == ["PCMA"]


def test_no_common_codec_is_488_to_the_caller() -> None:
    world = World()
    world.carrier.invite(body=sdp((CARRIER[0], 40000), formats="18"))
    world.run(0.1)
    assert world.carrier.statuses()[-1] == 488
    assert world.platform.requests("INVITE") == []
    assert world.record["reason"] == "codec-mismatch"


def test_an_offerless_invite_is_offered_ours_and_the_ack_brings_the_answer() -> None:
    """D10, RFC 3264 §5: no INVITE without SDP ever goes to a platform."""
    world = World()
    asked = world.carrier.invite(body=b"")
    world.run(0.1)
    invite = world.platform.requests("INVITE")[0]
    assert invite.body
    world.platform.respond(invite, 200, body=sdp((PLATFORM[0], 50000)))
    world.run(0.1)
    accepted = world.carrier.responses()[-1]
    assert accepted.status == 200
    assert b"m=audio" in accepted.body
    world.carrier.ack(asked, accepted, sdp((CARRIER[0], 41000)))
    world.run(0.1)
    assert world.relay.media[1][LegName.CARRIER].remote_rtp == (CARRIER[0], 41000)


def test_sdp_without_content_type_is_taken_from_the_platform() -> None:
    """D19: seen from OpenAI."""
    world = World()
    asked = world.carrier.invite()
    world.run(0.1)
    invite = world.platform.requests("INVITE")[0]
    world.platform.respond(invite, 200, body=sdp((PLATFORM[0], 50000)), content_type=False)
    world.run(0.1)
    accepted = world.carrier.responses()[-1]
    assert accepted.status == 200
    world.carrier.ack(asked, accepted)


def test_each_2xx_of_the_platform_is_acknowledged() -> None:
    """R06: along the route set of the 2xx, with the INVITE's CSeq number."""
    world = World()
    world.carrier.invite()
    world.run(0.1)
    invite = world.platform.requests("INVITE")[0]
    route = {"Record-Route": f"<sip:{PLATFORM[0]}:{PLATFORM[1]};lr>"}
    for _ in range(6):
        world.platform.respond(invite, 200, body=sdp((PLATFORM[0], 50000)), headers=route)
        world.run(0.4)
    acks = world.platform.requests("ACK")
    assert len(acks) == 6
    assert {ack.cseq.number for ack in acks} == {1}
    assert {ack.headers.get("Route") for ack in acks} == {f"<sip:{PLATFORM[0]}:{PLATFORM[1]};lr>"}
    assert {ack.uri for ack in acks} == {f"sip:peer@{PLATFORM[0]}:{PLATFORM[1]}"}


def test_a_second_dialog_of_a_forked_invite_is_acknowledged_and_ended() -> None:
    world = World()
    call = world.set_up()
    world.platform.respond(call.offered, 200, body=sdp((PLATFORM[0], 50002)), tag="fork")
    world.run(0.5)
    forked = [bye for bye in world.platform.requests("BYE") if bye.to.tag == "fork"]
    assert len(forked) == 1
    assert [ack.to.tag for ack in world.platform.requests("ACK")] == ["far", "fork"]
    assert world.core.active == 1


def test_a_challenge_is_answered_with_throw_away_credentials() -> None:
    """D9: Vapi challenges open URIs and accepts anything."""
    world = World(platform={"authentication": "any"})
    asked = world.carrier.invite()
    world.run(0.1)
    first = world.platform.requests("INVITE")[0]
    world.platform.respond(
        first, 401, headers={"WWW-Authenticate": 'Digest realm="sip.vapi.ai", nonce="n1", algorithm=MD5, qop="auth"'}
    )
    world.run(0.1)
    second = world.platform.requests("INVITE")[1]
    assert 'realm="sip.vapi.ai"' in (second.headers.get("Authorization") or "")
    assert (second.call_id, second.from_.tag, second.cseq.number) == (first.call_id, first.from_.tag, 2)
    world.platform.respond(second, 200, body=sdp((PLATFORM[0], 50000)))
    world.run(0.1)
    world.carrier.ack(asked, world.carrier.responses()[-1])
    ack = world.platform.requests("ACK")[-1]
    assert ack.cseq.number == 2
    assert ack.headers.get("Authorization"), "RFC 3261 §22.1: the ACK carries the INVITE's credentials"


def test_wrong_credentials_do_not_loop() -> None:
    """R26."""
    world = World(platform_peer={"username": "u", "password": "p"}, platform={"retry": ()})
    world.carrier.invite()
    for turn in range(3):
        world.run(0.1)
        world.platform.respond(
            world.platform.requests("INVITE")[-1],
            407,
            headers={"Proxy-Authenticate": f'Digest realm="r", nonce="n{turn}", algorithm=MD5, qop="auth"'},
        )
    world.run(0.1)
    assert len(world.platform.requests("INVITE")) == 2
    assert world.record["reason"] == "credentials"


def test_allowed_headers_pass_byte_for_byte_and_others_do_not() -> None:
    """D39."""
    world = World(carrier={"pass_headers": ("X-*", "User-to-User")})
    world.set_up(headers={"X-Account": "  a  b ", "User-to-User": "00ff;encoding=hex", "P-Secret": "no"})
    invite = world.platform.requests("INVITE")[0]
    assert invite.headers.get("X-Account") == "a  b"
    assert Header("User-to-User", "00ff;encoding=hex").value == invite.headers.get("User-to-User")
    assert "P-Secret" not in invite.headers


def test_the_trunk_that_the_number_names_decides_what_passes() -> None:
    """Two trunks may share an address; the allow-list is that of the one whose route took the call (D39)."""
    world = World(carrier={"pass_headers": ()})
    second = peer("second", "carrier", CARRIER, {"pass_headers": ("X-*",)})
    config = replace(
        world.config,
        carriers={**world.config.carriers, "second": second},
        routes=(Route("in", "second", NUMBER, ("support",)),),
    )
    world.network.core = world.core = Core(
        config, SeededTokens(1), (Listener("udp", BRIDGE, BRIDGE),), "127.0.0.1", 1.7e9
    )
    world.carrier.invite(headers={"X-Account": "7"})
    world.run(0.1)
    assert world.platform.requests("INVITE")[0].headers.get("X-Account") == "7"
    assert world.core.calls()[0]["carrier"] == "second"


def test_an_outbound_call_goes_from_the_platform_to_the_carrier() -> None:
    world = World()
    asked = world.platform.invite(number="+15550001111", caller="+14155550100")
    world.run(0.1)
    invite = world.carrier.requests("INVITE")[0]
    assert invite.uri.startswith("sip:+15550001111@")
    world.carrier.respond(invite, 200, body=sdp((CARRIER[0], 40000)))
    world.run(0.1)
    accepted = world.platform.responses()[-1]
    world.platform.ack(asked, accepted)
    world.run(0.1)
    assert world.core.calls()[0]["direction"] == "outbound"
    assert world.core.calls()[0]["platform"] == "support"


def test_the_dry_run_says_what_the_real_call_sends() -> None:
    world = World(platform={"request_uri": "sip:{user}@{host}"})
    planned = world.core.route("main", NUMBER, "+14155550999")
    call = world.set_up()
    first = planned["targets"][0]
    assert planned["route"] == "in"
    assert first["request_uri"] == call.offered.uri
    assert first["to"] == call.offered.headers.get("To")
    assert first["from"] in (call.offered.headers.get("From") or "").replace('"Caller" ', "")
    for header in first["headers"]:
        name, _, value = header.partition(": ")
        assert call.offered.headers.get(name) == value


@pytest.mark.parametrize("number", ["%2B14155550100", "+1 (415) 555-0100"])
def test_the_dry_run_reads_numbers_like_a_real_call(number: str) -> None:
    world = World(platform={"plus": {"request_uri": "strip"}})
    planned = world.core.route("main", number, "%2B14155550999")
    assert planned["targets"][0]["request_uri"].startswith("sip:14155550100@")
    assert planned["targets"][0]["from"].startswith("<sip:+14155550999@")


def test_the_dry_run_promises_no_host_to_a_platform_that_has_yet_to_register() -> None:
    """D24: its Contact becomes the Request-URI, and names the host."""
    world = World(platform={"registers": True}, platform_peer={"hosts": ()})
    first = world.core.route("main", NUMBER)["targets"][0]
    assert "invalid" not in str(first).replace("anonymous.invalid", "")
    assert first["destination"] == "where it has registered from"
    assert first["request_uri"] == "the Contact that it has registered"
    assert first["chosen_by"] == "its registration"


def test_the_record_of_a_good_call_is_complete() -> None:
    world = World()
    call = world.set_up()
    world.run(5.0)
    bye = world.carrier.within("BYE", call.asked, call.accepted, 2)
    world.run(0.1)
    assert [r.status for r in world.carrier.responses("BYE")] == [200]
    assert bye.call_id == call.asked.call_id
    world.platform.respond(world.platform.requests("BYE")[0], 200)
    record = world.record
    assert (record["result"], record["reason"], record["ended_by"]) == ("completed", "hangup", "carrier")
    assert (record["carrier"], record["platform"], record["route"]) == ("main", "support", "in")
    assert (record["from"], record["to"]) == ("+14155550999", NUMBER)
    assert record["request_uri"] == call.offered.uri
    assert record["codec"] == "PCMU"
    assert [attempt["status"] for attempt in record["attempts"]] == [200]
    assert 5.0 <= record["duration"] <= 5.5
    assert record["started_at"] < record["ringing_at"] < record["answered_at"] < record["ended_at"]
    assert record["legs"]["platform"]["call_id"] == call.offered.call_id
    assert record["legs"]["carrier"]["remote"] == "127.0.0.10:5060"
    world.assert_idle()


@pytest.mark.parametrize("family", ["udp"])
def test_responses_go_to_the_packet_source_with_received_and_rport(family: str) -> None:
    """R14, RFC 3581: behind NAT the Via says something else."""
    world = World()
    seen: list[bytes] = []
    outside = (CARRIER[0], 61234)
    world.network.attach(outside, lambda data, local: seen.append(data) if local == BRIDGE else None)
    data = (
        f"OPTIONS sip:{BRIDGE[0]} SIP/2.0\r\nVia: SIP/2.0/UDP 10.1.2.3:5060;rport;branch=z9hG4bKx\r\n"
        f"From: <sip:a@b>;tag=1\r\nTo: <sip:{BRIDGE[0]}>\r\nCall-ID: q\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    ).encode()
    world.network.send(data, outside)
    world.run(0.1)
    assert len(seen) == 1
    assert b"SIP/2.0 200" in seen[0]
    assert b"received=127.0.0.10" in seen[0]
    assert b"rport=61234" in seen[0]


def test_second_platform_is_not_bothered_by_a_call_the_first_took() -> None:
    world = World()
    world.set_up()
    assert world.sales.inbox == []
    assert world.sales.address == SECOND_PLATFORM


def test_every_message_of_a_call_is_traced_as_its_own_in_order() -> None:
    world = World()
    call = world.set_up()
    world.carrier.within("BYE", call.asked, call.accepted, 2)
    world.run(0.1)
    world.platform.respond(world.platform.requests("BYE")[0], 200)
    world.run(0.1)
    messages = [trace for trace in world.network.traces if trace.kind in ("received", "sent")]
    assert {trace.call for trace in messages} == {world.record["id"]}
    assert [(trace.kind, trace.method, trace.status) for trace in messages] == [
        ("received", "INVITE", 0),
        ("sent", "INVITE", 100),
        ("sent", "INVITE", 0),
        ("received", "INVITE", 180),
        ("sent", "INVITE", 180),
        ("received", "INVITE", 200),
        ("sent", "ACK", 0),
        ("sent", "INVITE", 200),
        ("received", "ACK", 0),
        ("received", "BYE", 0),
        ("sent", "BYE", 200),
        ("sent", "BYE", 0),
        ("received", "BYE", 200),
    ]
