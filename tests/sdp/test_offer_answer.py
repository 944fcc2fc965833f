"""Offer and answer per leg: golden pairs of media sections, then what was agreed (RFC 3264, R31, R34, R63, R65).

In the tables a description is its media sections alone; `sdp` puts the session level above them.
"""

from __future__ import annotations

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from bridge.errors import PeerError
from bridge.sdp.offer_answer import (
    Anchor,
    CodecPolicy,
    differs,
    local_answer,
    make_answer,
    make_offer,
    negotiated,
    payload_map,
)
from bridge.sdp.session import Description, parse

G711 = CodecPolicy(("PCMU", "PCMA"), True, 20)
ULAW = CodecPolicy(("PCMU",), True, 20)
NO_EVENTS = CodecPolicy(("PCMU", "PCMA"), False, 20)
ANCHOR = Anchor("203.0.113.5", 20000, 7, 1)

EVENTS = "a=rtpmap:101 telephone-event/8000\n"


def sdp(media: str, address: str = "198.51.100.7", session: str = "") -> Description:
    kind = "IP6" if ":" in address else "IP4"
    head = f"v=0\no=peer 99 3 IN {kind} {address}\ns=secret name\nc=IN {kind} {address}\nt=0 0\n{session}"
    return parse((head + media).encode())


def media(description: Description) -> str:
    """Print the media sections of a description of ours, and check its session level on the way."""
    lines = description.encode().decode().split("\r\n")
    assert lines[:5] == [
        "v=0",
        "o=- 7 1 IN IP4 203.0.113.5",
        "s=-",
        "c=IN IP4 203.0.113.5",
        "t=0 0",
    ]
    return "\n".join(lines[5:])


def ours(numbers: str, maps: str, direction: str = "sendrecv", tail: str = "a=rtcp:20001\n") -> str:
    return f"m=audio 20000 RTP/AVP {numbers}\n{maps}a=ptime:20\na={direction}\n{tail}"


PCMU = "a=rtpmap:0 PCMU/8000\n"
PCMA = "a=rtpmap:8 PCMA/8000\n"

# what it shows → (the source's media, policy, our offer)
OFFERS = {
    "the source's order and numbers stay": (
        f"m=audio 4000 RTP/AVP 8 0 101\n{EVENTS}a=fmtp:101 0-16\n",
        G711,
        ours("8 0 101", f"{PCMA}{PCMU}{EVENTS}a=fmtp:101 0-16\n"),
    ),
    "R63: a dynamic number of the source's own stays": (
        "m=audio 4000 RTP/AVP 0 96\na=rtpmap:96 telephone-event/8000\n",
        G711,
        ours("0 96", f"{PCMU}a=rtpmap:96 telephone-event/8000\na=fmtp:96 0-15\n"),
    ),
    "codecs the policy does not have are removed with their fmtp": (
        f"m=audio 4000 RTP/AVP 18 9 8 111 101\na=rtpmap:111 opus/48000/2\na=fmtp:18 annexb=no\n{EVENTS}",
        G711,
        ours("8 101", f"{PCMA}{EVENTS}a=fmtp:101 0-15\n"),
    ),
    "a policy of one codec": ("m=audio 4000 RTP/AVP 8 0\n", ULAW, ours("0", PCMU)),
    "no telephone events unless the source has them": ("m=audio 4000 RTP/AVP 0\n", G711, ours("0", PCMU)),
    "no telephone events if the policy has none": (f"m=audio 4000 RTP/AVP 0 101\n{EVENTS}", NO_EVENTS, ours("0", PCMU)),
    "RFC 4733 §2.1: events of another clock rate go": (
        f"m=audio 4000 RTP/AVP 0 101 110\n{EVENTS}a=rtpmap:110 telephone-event/48000\n",
        G711,
        ours("0 101", f"{PCMU}{EVENTS}a=fmtp:101 0-15\n"),
    ),
    "D25: one audio section, whatever else was offered": (
        "m=video 5000 RTP/AVP 31\nm=audio 4000 RTP/AVP 0\nm=audio 4002 RTP/AVP 8\nm=image 4004 udptl t38\n",
        G711,
        ours("0", PCMU),
    ),
    "a disabled section is passed over": (
        "m=audio 0 RTP/AVP 0\nm=audio 4002 RTP/AVP 8\n",
        G711,
        ours("8", PCMA),
    ),
    "a section without a common codec is passed over": (
        "m=audio 4000 RTP/AVP 9\nm=audio 4002 RTP/AVP 8\n",
        G711,
        ours("8", PCMA),
    ),
    "the plain one of a doubled SAVP and AVP offer": (
        "m=audio 4000 RTP/SAVP 0\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:xxxx\nm=audio 4002 RTP/AVP 0\n",
        G711,
        ours("0", PCMU),
    ),
    "nothing of the source's network or keys is told": (
        "m=audio 4000 RTP/AVP 0\nc=IN IP4 10.1.1.1\na=candidate:1 1 UDP 1 10.1.1.1 4000 typ host\n"
        "a=rtcp:4001 IN IP4 10.1.1.1\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:xxxx\na=ssrc:1 cname:x\na=label:1\n",
        G711,
        ours("0", PCMU),
    ),
    "ptime is ours to choose": ("m=audio 4000 RTP/AVP 0\na=ptime:60\na=maxptime:60\n", G711, ours("0", PCMU)),
    "R65: rtcp-mux is offered on where it came in": (
        "m=audio 4000 RTP/AVP 0\na=rtcp-mux\n",
        G711,
        ours("0", PCMU, tail="a=rtcp:20001\na=rtcp-mux\n"),
    ),
    "R65: no number of RTCP's under rtcp-mux": (
        "m=audio 4000 RTP/AVP 0 72\na=rtpmap:72 telephone-event/8000\na=rtcp-mux\n",
        G711,
        ours("0", PCMU, tail="a=rtcp:20001\na=rtcp-mux\n"),
    ),
    "RFC 2543 hold is not passed on as an address": (
        "m=audio 4000 RTP/AVP 0\nc=IN IP4 0.0.0.0\n",
        G711,
        ours("0", PCMU),
    ),
}


@pytest.mark.parametrize(("source", "policy", "expected"), OFFERS.values(), ids=OFFERS.keys())
def test_our_offer_is_what_the_source_offered_within_the_policy(source, policy, expected):
    assert media(make_offer(sdp(source), policy, ANCHOR)) == expected


def test_an_invite_without_sdp_is_offered_the_whole_policy():
    """D10, D26."""
    whole = make_offer(None, G711, ANCHOR)
    assert media(whole) == ours("0 8 101", f"{PCMU}{PCMA}{EVENTS}a=fmtp:101 0-15\n")
    assert media(make_offer(None, CodecPolicy(("PCMA",), False, 20), ANCHOR, "sendonly")) == ours("8", PCMA, "sendonly")


@pytest.mark.parametrize(
    "source",
    [
        "m=audio 4000 RTP/AVP 9 18\n",
        f"m=audio 4000 RTP/AVP 101\n{EVENTS}",
        "m=audio 4000 RTP/AVP 97\na=rtpmap:97 PCMU/16000\n",
        "m=audio 4000 RTP/AVP 97\n",
        "m=audio 4000 RTP/SAVP 0\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:xxxx\n",
        "m=audio 4000 UDP/TLS/RTP/SAVPF 0\n",
        "m=audio 0 RTP/AVP 0\n",
        "m=video 4000 RTP/AVP 0\n",
        "m=image 4000 udptl t38\n",
        "",
    ],
)
def test_nothing_in_common_is_488(source):
    with pytest.raises(PeerError) as caught:
        make_offer(sdp(source), G711, ANCHOR)
    assert (caught.value.status, caught.value.reason) == (488, "Not Acceptable Here")


OFFER = f"m=audio 4000 RTP/AVP 8 0 101\n{EVENTS}a=fmtp:101 0-16\n"

# what it shows → (the caller's offer, the callee's answer, our answer to the caller)
ANSWERS = {
    "all of it": (
        OFFER,
        f"m=audio 6000 RTP/AVP 8 0 101\n{EVENTS}a=fmtp:101 0-16\n",
        ours("8 0 101", f"{PCMA}{PCMU}{EVENTS}a=fmtp:101 0-16\n"),
    ),
    "the callee's first codec comes first": (
        OFFER,
        f"m=audio 6000 RTP/AVP 0 8 101\n{EVENTS}",
        ours("0 8 101", f"{PCMU}{PCMA}{EVENTS}a=fmtp:101 0-15\n"),
    ),
    "what the callee left out is left out": (OFFER, "m=audio 6000 RTP/AVP 0\n", ours("0", PCMU)),
    "R63: events at 96 there stay at 101 here": (
        OFFER,
        "m=audio 6000 RTP/AVP 0 96\na=rtpmap:96 telephone-event/8000\na=fmtp:96 0-11\n",
        ours("0 101", f"{PCMU}{EVENTS}a=fmtp:101 0-11\n"),
    ),
    "events that come first in the callee's list do not come first in ours": (
        OFFER,
        f"m=audio 6000 RTP/AVP 101 0\n{EVENTS}",
        ours("0 101", f"{PCMU}{EVENTS}a=fmtp:101 0-15\n"),
    ),
    "codecs answered without being asked for are ignored": (
        "m=audio 4000 RTP/AVP 8\n",
        "m=audio 6000 RTP/AVP 0 9 8\n",
        ours("8", PCMA),
    ),
    "R31: video is refused in its place": (
        f"m=video 5000 RTP/AVP 31 34\na=sendonly\n{OFFER}",
        "m=audio 6000 RTP/AVP 8\n",
        "m=video 0 RTP/AVP 31 34\n" + ours("8", PCMA),
    ),
    "R31: T.38 and a data channel are refused in their places": (
        f"{OFFER}m=image 5002 udptl t38\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\n",
        "m=audio 6000 RTP/AVP 8\n",
        ours("8", PCMA) + "m=image 0 udptl t38\nm=application 0 UDP/DTLS/SCTP webrtc-datachannel\n",
    ),
    "R31: of two audio sections the first usable one is taken": (
        "m=audio 4000 RTP/AVP 8\nm=audio 4002 RTP/AVP 8 0\n",
        "m=audio 6000 RTP/AVP 8\n",
        ours("8", PCMA) + "m=audio 0 RTP/AVP 8 0\n",
    ),
    "R31: a disabled section stays disabled": (
        "m=audio 0 RTP/AVP 8\nm=audio 4002 RTP/AVP 8\n",
        "m=audio 6000 RTP/AVP 8\n",
        "m=audio 0 RTP/AVP 8\n" + ours("8", PCMA),
    ),
    "the secure one of a doubled offer is refused in its place": (
        "m=audio 4000 RTP/SAVP 0\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:xxxx\nm=audio 4002 RTP/AVP 0\n",
        "m=audio 6000 RTP/AVP 0\n",
        "m=audio 0 RTP/SAVP 0\n" + ours("0", PCMU),
    ),
    "R34: sendonly is answered recvonly": (
        "m=audio 4000 RTP/AVP 8\na=sendonly\n",
        "m=audio 6000 RTP/AVP 8\n",
        ours("8", PCMA, "recvonly"),
    ),
    "R34: recvonly is answered sendonly": (
        "m=audio 4000 RTP/AVP 8\na=recvonly\n",
        "m=audio 6000 RTP/AVP 8\n",
        ours("8", PCMA, "sendonly"),
    ),
    "R34: inactive is answered inactive": (
        "m=audio 4000 RTP/AVP 8\na=inactive\n",
        "m=audio 6000 RTP/AVP 8\n",
        ours("8", PCMA, "inactive"),
    ),
    "R34: c=0.0.0.0 is answered recvonly": (
        "m=audio 4000 RTP/AVP 8\nc=IN IP4 0.0.0.0\n",
        "m=audio 6000 RTP/AVP 8\n",
        ours("8", PCMA, "recvonly"),
    ),
    "R65: offered rtcp-mux is answered, and RTCP is then on the RTP port": (
        "m=audio 4000 RTP/AVP 8\na=rtcp-mux\n",
        "m=audio 6000 RTP/AVP 8\n",
        ours("8", PCMA, tail="a=rtcp:20000\na=rtcp-mux\n"),
    ),
    "R65: rtcp-mux that the callee alone took is not answered": (
        "m=audio 4000 RTP/AVP 8\n",
        "m=audio 6000 RTP/AVP 8\na=rtcp-mux\n",
        ours("8", PCMA),
    ),
    "R31: a ptime of the callee's stays on its leg": (
        "m=audio 4000 RTP/AVP 8\na=ptime:20\n",
        "m=audio 6000 RTP/AVP 8\na=ptime:60\n",
        ours("8", PCMA),
    ),
}


@pytest.mark.parametrize(("offer", "chosen", "expected"), ANSWERS.values(), ids=ANSWERS.keys())
def test_our_answer_is_what_the_callee_took_in_the_offers_shape(offer, chosen, expected):
    offered = sdp(offer)
    answer = make_answer(offered, sdp(chosen, "192.0.2.99"), G711, ANCHOR, "sendrecv")
    assert media(answer) == expected
    assert len(answer.media) == len(offered.media)


@pytest.mark.parametrize(
    ("offered", "wanted", "answered"),
    [
        ("sendrecv", "sendrecv", "sendrecv"),
        ("sendrecv", "sendonly", "sendonly"),
        ("sendrecv", "recvonly", "recvonly"),
        ("sendrecv", "inactive", "inactive"),
        ("sendonly", "sendrecv", "recvonly"),
        ("sendonly", "sendonly", "inactive"),
        ("sendonly", "recvonly", "recvonly"),
        ("recvonly", "sendrecv", "sendonly"),
        ("recvonly", "recvonly", "inactive"),
        ("inactive", "sendrecv", "inactive"),
    ],
)
def test_an_answer_never_claims_more_than_the_offer_allows(offered, wanted, answered):
    """R34: RFC 3264 §6.1."""
    offer = sdp(f"m=audio 4000 RTP/AVP 0\na={offered}\n")
    answer = make_answer(offer, sdp("m=audio 6000 RTP/AVP 0\n"), G711, ANCHOR, wanted)
    assert answer.media[0].direction == answered


@pytest.mark.parametrize(
    "chosen",
    [
        "m=audio 6000 RTP/AVP 9\n",
        "m=audio 0 RTP/AVP 0\n",
        "m=audio 6000 RTP/SAVP 0\n",
        f"m=audio 6000 RTP/AVP 101\n{EVENTS}",
        "",
    ],
)
def test_a_callee_that_took_nothing_is_488(chosen):
    with pytest.raises(PeerError) as caught:
        make_answer(sdp(OFFER), sdp(chosen), G711, ANCHOR, "sendrecv")
    assert caught.value.status == 488


def test_an_answer_repeats_the_times_of_the_offer():
    """RFC 3264 §6: t= of the answer equals that of the offer."""
    offer = parse(b"v=0\no=- 1 1 IN IP4 192.0.2.1\ns=-\nc=IN IP4 192.0.2.1\nt=3034423619 0\nm=audio 4 RTP/AVP 0\n")
    answer = make_answer(offer, sdp("m=audio 6000 RTP/AVP 0\n"), G711, ANCHOR, "sendrecv")
    assert "t=3034423619 0" in answer.lines


def test_an_ipv6_anchor_is_written_without_brackets():
    offer = make_offer(sdp("m=audio 4000 RTP/AVP 0\n"), G711, Anchor("2001:db8::5", 20000, 7, 2))
    assert offer.lines[1] == "o=- 7 2 IN IP6 2001:db8::5"
    assert offer.media[0].connection == "2001:db8::5"


def test_both_legs_policies_hold_because_nothing_is_transcoded():
    wide, narrow = G711, CodecPolicy(("PCMA",), False, 30)
    assert wide.within(narrow) == CodecPolicy(("PCMA",), False, 20)
    assert narrow.within(wide) == CodecPolicy(("PCMA",), False, 30)


# -- what was agreed -----------------------------------------------------------------------------------------------


def agree(offer: str, chosen: str, policy: CodecPolicy = G711):
    """Negotiate both legs of a call: the caller's and the callee's."""
    offered, answered = sdp(offer), sdp(chosen, "192.0.2.99")
    to_callee = make_offer(offered, policy, ANCHOR)
    to_caller = make_answer(offered, answered, policy, ANCHOR, "sendrecv")
    return negotiated(to_caller, offered, we_answered=True), negotiated(to_callee, answered)


def test_both_legs_agree_on_the_callees_first_codec():
    caller, callee = agree(OFFER, f"m=audio 6000 RTP/AVP 0 8 101\n{EVENTS}")
    assert [codec.encoding for codec in caller.codecs] == ["PCMU", "PCMA", "TELEPHONE-EVENT"]
    assert [codec.encoding for codec in callee.codecs] == ["PCMU", "PCMA", "TELEPHONE-EVENT"]
    assert caller.remote_rtp == ("198.51.100.7", 4000)
    assert callee.remote_rtp == ("192.0.2.99", 6000)
    assert caller.may_send
    assert caller.may_receive
    assert not caller.private_address


def test_payload_numbers_are_mapped_between_the_legs():
    """R63: events 101 here and 96 there, opus-like numbers in between are nobody's."""
    caller, callee = agree(OFFER, "m=audio 6000 RTP/AVP 0 96\na=rtpmap:96 telephone-event/8000\n")
    assert payload_map(caller, callee) == ((0, "PCMU", 8000, 0), (101, "TELEPHONE-EVENT", 8000, 96))
    # The callee was offered 101 and answered 96: it should send 101 (RFC 3264 §6.1) and may send 96
    assert payload_map(callee, caller) == (
        (0, "PCMU", 8000, 0),
        (101, "TELEPHONE-EVENT", 8000, 101),
        (96, "TELEPHONE-EVENT", 8000, 101),
    )


def test_a_number_with_two_meanings_keeps_the_one_we_gave_it():
    """R63: our 8 is PCMA, whatever the peer numbers so."""
    caller, callee = agree(OFFER, "m=audio 6000 RTP/AVP 97 8\na=rtpmap:97 PCMA/8000\na=rtpmap:8 PCMU/8000\n")
    assert payload_map(callee, caller) == (
        (8, "PCMA", 8000, 8),
        (0, "PCMU", 8000, 0),
        (97, "PCMA", 8000, 8),
    )
    assert payload_map(caller, callee) == ((8, "PCMA", 8000, 97), (0, "PCMU", 8000, 8))


def test_a_format_the_other_leg_has_not_taken_maps_to_nothing():
    caller, _ = agree(OFFER, f"m=audio 6000 RTP/AVP 8 101\n{EVENTS}")
    _, callee = agree("m=audio 4000 RTP/AVP 8\n", "m=audio 6000 RTP/AVP 8\n")
    assert payload_map(caller, callee)[-1] == (101, "TELEPHONE-EVENT", 8000, None)


@pytest.mark.parametrize(
    ("offered", "answered", "mux", "rtcp"),
    [
        ("", "", False, None),
        ("a=rtcp-mux\n", "", False, None),
        ("", "a=rtcp-mux\n", False, None),
        ("a=rtcp-mux\n", "a=rtcp-mux\n", True, None),
        ("", "a=rtcp:6011\n", False, ("192.0.2.99", 6011)),
        ("", "a=rtcp:6011 IN IP4 192.0.2.98\n", False, ("192.0.2.98", 6011)),
        ("a=rtcp-mux\n", "a=rtcp-mux\na=rtcp:6011\n", True, None),
        ("", "a=rtcp:6011 IN IP4 0.0.0.0\n", False, None),
        ("", "a=rtcp:6011 IN IP4 rtcp.example.com\n", False, None),
    ],
)
def test_rtcp_is_multiplexed_only_where_both_sides_say_so(offered, answered, mux, rtcp):
    """R65."""
    _, callee = agree(f"m=audio 4000 RTP/AVP 0\n{offered}", f"m=audio 6001 RTP/AVP 0\n{answered}")
    assert (callee.rtcp_mux, callee.remote_rtcp) == (mux, rtcp)
    assert callee.remote_rtp == ("192.0.2.99", 6001)  # R69: an odd port is a port


@pytest.mark.parametrize(
    ("attribute", "may_send", "may_receive", "remote"),
    [
        ("a=sendrecv\n", True, True, True),
        ("a=sendonly\n", False, True, True),
        ("a=recvonly\n", True, False, True),
        ("a=inactive\n", False, False, True),
        ("c=IN IP4 0.0.0.0\n", False, True, False),
    ],
)
def test_hold_stops_what_the_peer_does_not_take(attribute, may_send, may_receive, remote):
    """R34."""
    caller, _ = agree(f"m=audio 4000 RTP/AVP 0\n{attribute}", "m=audio 6000 RTP/AVP 0\n")
    assert (caller.may_send, caller.may_receive, caller.remote_rtp is not None) == (may_send, may_receive, remote)


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("10.0.0.1", True),
        ("172.31.255.255", True),
        ("172.32.0.1", False),
        ("192.168.1.1", True),
        ("100.64.0.1", True),
        ("169.254.169.254", True),
        ("127.0.0.1", True),
        ("fd00::1", True),
        ("fe80::1", True),
        ("198.51.100.1", False),
        ("2001:db8::1", False),
    ],
)
def test_private_addresses_are_told_apart(address, private):
    """T25 and D29: what can't be reached from outside is reported (and not refused: a lab lives there)."""
    assert negotiated(make_offer(None, G711, ANCHOR), sdp("m=audio 6 RTP/AVP 0\n", address)).private_address is private


def test_a_host_name_in_c_is_no_address_yet():
    caller = negotiated(make_offer(None, G711, ANCHOR), sdp("m=audio 6 RTP/AVP 0\nc=IN IP4 media.example.com\n"))
    assert caller.remote_rtp is None


def test_the_one_audio_section_may_stand_anywhere():
    """R31."""
    caller, _ = agree(f"m=video 5000 RTP/AVP 31\n{OFFER}m=audio 4444 RTP/AVP 0\n", "m=audio 6000 RTP/AVP 0\n")
    assert caller.remote_rtp == ("198.51.100.7", 4000)


@pytest.mark.parametrize(
    ("attribute", "expected"), [("", 20), ("a=ptime:30\n", 30), ("a=ptime:37\n", 20), ("a=ptime:0\n", 20)]
)
def test_the_packet_length_is_the_peers_wish_where_it_is_a_usual_one(attribute, expected):
    caller, _ = agree(f"m=audio 4000 RTP/AVP 0\n{attribute}", "m=audio 6000 RTP/AVP 0\n")
    assert caller.ptime_ms == expected


@pytest.mark.parametrize("theirs", ["m=audio 6000 RTP/AVP 9\n", "m=audio 0 RTP/AVP 0\n", "m=audio 6 RTP/SAVP 0\n", ""])
def test_an_answer_with_nothing_of_ours_is_488(theirs):
    with pytest.raises(PeerError) as caught:
        negotiated(make_offer(None, G711, ANCHOR), sdp(theirs))
    assert caught.value.status == 488


# -- re-offers -----------------------------------------------------------------------------------------------------

FIRST = sdp(f"m=audio 4000 RTP/AVP 8 0 101\n{EVENTS}")
CURRENT = make_answer(FIRST, sdp(f"m=audio 6000 RTP/AVP 0 8 101\n{EVENTS}"), G711, ANCHOR, "sendrecv")


@pytest.mark.parametrize(
    ("reoffer", "codecs", "direction", "changed"),
    [
        (f"m=audio 4000 RTP/AVP 8 0 101\n{EVENTS}", "0 8 101", "sendrecv", False),
        (f"m=audio 4000 RTP/AVP 8 0 101\n{EVENTS}a=sendonly\n", "0 8 101", "recvonly", True),
        (f"m=audio 4000 RTP/AVP 8 0 101\n{EVENTS}a=inactive\n", "0 8 101", "inactive", True),
        (f"m=audio 4000 RTP/AVP 8 0 101\n{EVENTS}c=IN IP4 0.0.0.0\n", "0 8 101", "recvonly", True),
        (f"m=audio 4002 RTP/AVP 8 0 101\n{EVENTS}", "0 8 101", "sendrecv", True),
        (f"m=audio 4000 RTP/AVP 8 0 101\n{EVENTS}c=IN IP4 198.51.100.8\n", "0 8 101", "sendrecv", True),
        (f"m=audio 4000 RTP/AVP 8 0 101\n{EVENTS}a=rtcp:4009\n", "0 8 101", "sendrecv", True),
        (f"m=audio 4000 RTP/AVP 0 18 101\n{EVENTS}", "0 101", "sendrecv", True),
        ("m=audio 4000 RTP/AVP 8 0 96\na=rtpmap:96 telephone-event/8000\n", "0 8 96", "sendrecv", True),
    ],
)
def test_a_reoffer_is_answered_with_the_codecs_in_use(reoffer, codecs, direction, changed):
    """D23, R33, R34: the moved port, the hold and the plain refresh."""
    answer, media_changed = local_answer(sdp(reoffer), CURRENT, ANCHOR, FIRST)
    assert answer.media[0].formats == tuple(codecs.split())
    assert answer.media[0].direction == direction
    assert media_changed is changed


def test_resuming_gives_back_both_directions():
    """R34."""
    held = sdp(f"m=audio 4000 RTP/AVP 8 0 101\n{EVENTS}a=sendonly\n")
    answer, _ = local_answer(held, CURRENT, ANCHOR, FIRST)
    resumed, changed = local_answer(FIRST, answer, ANCHOR, held)
    assert changed
    assert not differs(resumed, CURRENT)


def test_without_the_peers_last_description_a_change_is_assumed():
    assert local_answer(FIRST, CURRENT, ANCHOR)[1]


@pytest.mark.parametrize(
    "reoffer",
    [
        "m=audio 4000 RTP/AVP 9 18\n",
        "m=audio 0 RTP/AVP 8\nm=image 4002 udptl t38\n",
        f"m=audio 4000 RTP/AVP 101\n{EVENTS}",
    ],
)
def test_a_reoffer_that_drops_every_codec_in_use_is_488(reoffer):
    """R31: T.38 among them; the session stays as it was (RFC 3264 §8)."""
    with pytest.raises(PeerError) as caught:
        local_answer(sdp(reoffer), CURRENT, ANCHOR, FIRST)
    assert caught.value.status == 488


def test_a_codec_that_the_peer_had_refused_does_not_come_back_by_its_reoffer():
    """The other leg has not agreed to it (D23: that leg is not asked)."""
    to_callee = make_offer(FIRST, G711, ANCHOR)
    its_answer = sdp("m=audio 6000 RTP/AVP 0\n")
    answer, _ = local_answer(sdp("m=audio 6000 RTP/AVP 8 0\n"), to_callee, ANCHOR, its_answer)
    assert answer.media[0].formats == ("0",)


def test_a_section_added_by_a_reoffer_is_refused_in_its_place():
    """R31: the m-lines of the re-offer keep number and order."""
    answer, changed = local_answer(
        sdp(f"m=audio 4000 RTP/AVP 8 0 101\n{EVENTS}m=video 4010 RTP/AVP 31\n"), CURRENT, ANCHOR, FIRST
    )
    assert [(section.kind, section.port) for section in answer.media] == [("audio", 20000), ("video", 0)]
    assert not changed


def test_only_a_change_beyond_o_raises_its_version():
    """R31: RFC 3264 §8, o= version +1, else identical."""
    again = make_offer(FIRST, G711, Anchor("203.0.113.5", 20000, 7, 9))
    assert not differs(again, make_offer(FIRST, G711, ANCHOR))
    assert differs(make_offer(FIRST, ULAW, ANCHOR), again)


# -- whatever the peer writes ----------------------------------------------------------------------------------------

LINES = st.sampled_from(
    (
        *("rtpmap:0 PCMU/8000", "rtpmap:96 PCMA/8000", "rtpmap:101 telephone-event/8000", "rtpmap:8 PCMU/8000"),
        *("sendonly", "recvonly", "inactive", "rtcp-mux", "rtcp:0", "rtcp:7 IN IP4 0.0.0.0", "ptime:30", "fmtp:101 x"),
    )
)
SECTIONS = st.builds(
    lambda kind, port, protocol, formats, address, lines: (
        f"m={kind} {port} {protocol} {' '.join(map(str, formats))}\nc=IN IP4 {address}\n"
        + "".join(f"a={line}\n" for line in lines)
    ),
    st.sampled_from(["audio", "audio", "audio", "video"]),
    st.sampled_from([4000, 4001, 65535, 0]),
    st.sampled_from(["RTP/AVP", "RTP/AVP", "rtp/avp", "RTP/AVP", "RTP/SAVP"]),
    st.lists(st.sampled_from([0, 8, 0, 8, 72, 96, 101, 127, 300, "x"]), min_size=1, max_size=5),
    st.sampled_from(["192.0.2.7", "0.0.0.0", "host.example.com"]),
    st.lists(LINES, max_size=6),
)
DESCRIPTIONS = st.lists(SECTIONS, min_size=1, max_size=3).map("".join).map(sdp)


@settings(max_examples=300, deadline=None)
@given(DESCRIPTIONS, DESCRIPTIONS, DESCRIPTIONS, st.sampled_from(["sendrecv", "sendonly", "recvonly", "inactive"]))
def test_any_offer_answer_and_reoffer_is_agreed_on_or_refused_with_488(offer, chosen, reoffer, wanted):
    """R31, R63, T12: what is agreed keeps its shape, and both legs can talk to each other."""
    try:
        to_callee = make_offer(offer, G711, ANCHOR)
        to_caller = make_answer(offer, chosen, G711, ANCHOR, wanted)
        caller, callee = negotiated(to_caller, offer, we_answered=True), negotiated(to_callee, chosen)
    except PeerError as refusal:
        status = refusal.status
    else:
        status = 488
        assert len(to_callee.media) == 1
        assert [section.kind for section in to_caller.media] == [section.kind for section in offer.media]
        assert sum(section.port != 0 for section in to_caller.media) == 1
        assert caller.codecs[0].format == callee.codecs[0].format
        mapped = payload_map(caller, callee)
        assert any(number is not None for _, _, _, number in mapped)
        assert len({entry[0] for entry in mapped}) == len(mapped)
        assert parse(to_caller.encode()) == to_caller
        event("agreed")
    assert status == 488
    current = make_answer(FIRST, FIRST, G711, ANCHOR, wanted)
    try:
        again, _ = local_answer(reoffer, current, ANCHOR, FIRST)
    except PeerError as refusal:
        status = refusal.status
    else:
        event("agreed again")
        assert [section.kind for section in again.media] == [section.kind for section in reoffer.media]
        assert {codec.format for codec in again.media[_live(again)].codecs} <= {
            c.format for c in CURRENT.media[0].codecs
        }
    assert status == 488


def _live(description: Description) -> int:
    return next(index for index, section in enumerate(description.media) if section.port)
