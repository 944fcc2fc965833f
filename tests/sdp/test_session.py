"""Session descriptions: read losslessly, or refused with 488 and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import PeerError
from bridge.sdp.session import Codec, Description, MediaSection, parse

CARRIER = b"""v=0
o=carrier 1 1 IN IP4 198.51.100.7
s=call
i=an unknown line
c=IN IP4 198.51.100.7
b=AS:84
t=0 0
a=X-odd:\xff\xfe byte for byte
m=audio 49170/2  RTP/AVP 8 0 101 18 97
a=rtpmap:8 PCMA/8000
a=rtpmap:101 telephone-event/8000
a=fmtp:101 0-16
a=rtpmap:97 iLBC/8000
a=fmtp:18 annexb=no
a=ptime:30
a=rtcp:53020 IN IP4 198.51.100.8
a=rtcp-mux
a=recvonly
m=video 51372 RTP/AVP 31
c=IN IP6 2001:db8::1
k=clear:unknown
"""


def sdp(text: str) -> Description:
    return parse(text.encode())


def audio(*lines: str, session: str = "c=IN IP4 192.0.2.1") -> MediaSection:
    head = "\n".join(filter(None, ("v=0", "o=- 1 1 IN IP4 192.0.2.1", "s=-", session, "t=0 0")))
    return sdp("\n".join((head, *lines))).media[0]


def test_every_line_survives_byte_for_byte_and_in_order():
    crlf = CARRIER.replace(b"\n", b"\r\n")
    assert parse(crlf).encode() == crlf


def test_bare_line_feeds_and_a_missing_last_line_end_are_accepted():
    """R69."""
    assert parse(CARRIER.rstrip(b"\n")) == parse(CARRIER.replace(b"\n", b"\r\n"))
    assert parse(CARRIER + b"\r\n\r\n") == parse(CARRIER)


def test_the_typed_view_reads_what_stands_there():
    first, second = parse(CARRIER).media
    assert (first.kind, first.port, first.port_count, first.protocol) == ("audio", 49170, 2, "RTP/AVP")
    assert first.formats == ("8", "0", "101", "18", "97")
    assert first.connection == "198.51.100.7"
    assert first.direction == "recvonly"
    assert first.rtcp == ("198.51.100.8", 53020)
    assert first.rtcp_mux
    assert first.ptime_ms == 30
    assert first.attribute("rtcp-mux") == ""
    assert first.attribute("rtcp-rsize") is None
    assert first.attributes("rtpmap") == ("8 PCMA/8000", "101 telephone-event/8000", "97 iLBC/8000")
    assert second.connection == "2001:db8::1"
    assert second.direction == "sendrecv"
    assert not second.rtcp_mux
    assert parse(CARRIER).origin == "carrier 1 1 IN IP4 198.51.100.7"


def test_static_payload_types_need_no_rtpmap_and_unexplained_ones_are_left_out():
    """R63: RFC 3551 tables 4 and 5."""
    assert parse(CARRIER).media[0].codecs == (
        Codec(8, "PCMA", 8000),
        Codec(0, "PCMU", 8000),
        Codec(101, "TELEPHONE-EVENT", 8000, 1, "0-16"),
        Codec(18, "G729", 8000, 1, "annexb=no"),
        Codec(97, "ILBC", 8000),
    )
    assert audio("m=audio 5004 RTP/AVP 96 9 128 x 9 10").codecs == (Codec(9, "G722", 8000), Codec(10, "L16", 44100, 2))


def test_an_rtpmap_overrides_a_static_number():
    assert audio("m=audio 5004 RTP/AVP 0", "a=rtpmap:0 PCMU/16000").codecs == (Codec(0, "PCMU", 16000),)


@pytest.mark.parametrize(
    "line",
    [
        "a=rtpmap:96",
        "a=rtpmap:96 opus",
        "a=rtpmap:96 opus/",
        "a=rtpmap:96 opus/0",
        "a=rtpmap:96 opus/48000/0",
        "a=rtpmap:96 opus/99999999999999999999",
        "a=rtpmap:٩٦ opus/48000",
        "a=rtpmap:-1 opus/48000",
    ],
)
def test_an_unreadable_rtpmap_explains_nothing(line):
    assert audio("m=audio 5004 RTP/AVP 96 0", line).codecs == (Codec(0, "PCMU", 8000),)


@pytest.mark.parametrize(
    ("lines", "direction"),
    [
        ((), "sendrecv"),
        (("a=sendonly",), "sendonly"),
        (("a=inactive ",), "inactive"),
        (("c=IN IP4 0.0.0.0",), "sendonly"),
        (("c=IN IP4 0.0.0.0", "a=sendonly"), "sendonly"),
        (("c=IN IP4 0.0.0.0", "a=recvonly"), "inactive"),
        (("c=IN IP6 ::",), "sendonly"),
    ],
)
def test_direction_comes_from_the_attribute_and_an_unspecified_address_is_hold(lines, direction):
    """R34: RFC 3264 §8.4, and RFC 2543's c=0.0.0.0."""
    assert audio("m=audio 5004 RTP/AVP 0", *lines).direction == direction


def test_a_session_level_direction_counts_where_the_section_has_none():
    """R34."""
    text = (
        "v=0\ns=inactive\nc=IN IP4 192.0.2.1\nt=0 0\na=sendonly\nm=audio 4 RTP/AVP 0\nm=audio 6 RTP/AVP 0\na=recvonly"
    )
    assert [section.direction for section in sdp(text).media] == ["sendonly", "recvonly"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a=rtcp:5008", ("192.0.2.1", 5008)),
        ("a=rtcp:5008 IN IP4 192.0.2.9", ("192.0.2.9", 5008)),
        ("a=rtcp:5008 IN IP6 2001:db8::9", ("2001:db8::9", 5008)),
        ("a=rtcp:0", None),
        ("a=rtcp:99999", None),
        ("a=rtcp", None),
        ("a=rtcp:5008 IN IP4", None),
        ("a=rtcp:٥٠٠٨", None),
    ],
)
def test_rtcp_goes_where_the_attribute_says_or_nowhere_special(line, expected):
    """R65: RFC 3605."""
    assert audio("m=audio 5004 RTP/AVP 0", line).rtcp == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("20", 20),
        ("20.0", 20),
        ("0", None),
        ("-20", None),
        ("2147483648", None),
        ("4e9", None),
        ("", None),
        ("٢٠", None),
    ],
)
def test_ptime_is_a_packet_length_or_not_said(value, expected):
    """T12: CVE-2026-41416 was a ptime that overflowed."""
    assert audio("m=audio 5004 RTP/AVP 0", f"a=ptime:{value}").ptime_ms == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("c=IN IP6 2001:db8::7", "2001:db8::7"),
        ("c=IN IP6 [2001:db8::7]", "2001:db8::7"),
        ("c=IN IP4 224.2.36.42/127", "224.2.36.42"),
        ("c=IN IP4 media.example.com", "media.example.com"),
    ],
)
def test_connection_addresses_come_without_brackets_or_ttl(line, expected):
    """R69."""
    assert audio("m=audio 5004 RTP/AVP 0", line, session="").connection == expected


def test_unknown_attributes_and_a_bandwidth_without_a_colon_are_kept():
    """R69, T12: CVE-2026-46334 was `b=` without a colon."""
    body = b"v=0\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nb=\r\nb=AS\r\nt=0 0\r\nm=audio 5004 RTP/AVP 0\r\na=\r\na=:\r\nz=?\r\n"
    assert parse(body).encode() == body


HEAD = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
BAD = {
    "empty": b"",
    "only line ends": b"\r\n\r\n",
    "no version": b"o=- 1 1 IN IP4 192.0.2.1\r\n",
    "wrong version": b"v=1\r\n" + HEAD[5:],
    "not SDP at all": b'{"sdp": "v=0"}',
    "binary": bytes(range(256)),
    "NUL in a line": HEAD + b"a=x\0y\r\n",
    "carriage return in a line": HEAD + b"a=x\ry\r\n",
    "blank line inside": b"v=0\r\n\r\ns=-\r\n",
    "line without type": HEAD + b"hello\r\n",
    "line with a long type": HEAD + b"mm=audio 5004 RTP/AVP 0\r\n",
    "m-line alone": HEAD + b"m=\r\n",
    "m-line without format": HEAD + b"m=audio 5004 RTP/AVP\r\n",
    "m-line without protocol": HEAD + b"m=audio 5004\r\n",
    "port in words": HEAD + b"m=audio five RTP/AVP 0\r\n",
    "negative port": HEAD + b"m=audio -1 RTP/AVP 0\r\n",
    "port too high": HEAD + b"m=audio 65536 RTP/AVP 0\r\n",
    "port of 30 digits": HEAD + b"m=audio " + b"9" * 30 + b" RTP/AVP 0\r\n",
    "port in another script": HEAD + "m=audio ٥٠٠٤ RTP/AVP 0\r\n".encode(),
    "c= without address": b"v=0\r\nc=IN IP4\r\nm=audio 5004 RTP/AVP 0\r\n",
    "c= of another network": b"v=0\r\nc=ATM NSAP 47.0091\r\nm=audio 5004 RTP/AVP 0\r\n",
    "no c= anywhere": b"v=0\r\nm=audio 5004 RTP/AVP 0\r\n",
    "33 m-lines": HEAD + b"m=audio 5004 RTP/AVP 0\r\n" * 33,
    "257 attributes in a section": HEAD + b"m=audio 5004 RTP/AVP 0\r\n" + b"a=x\r\n" * 257,
    "257 attributes in the session": HEAD + b"a=x\r\n" * 257,
    "over 64 kB": HEAD + b"i=" + b"x" * 65536 + b"\r\n",
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_a_bad_body_is_488_and_its_bytes_stay_out_of_the_reason(body):
    """T12, T13."""
    with pytest.raises(PeerError) as caught:
        parse(body)
    assert caught.value.status == 488
    assert caught.value.reason.isascii()
    assert caught.value.reason.isprintable()
    assert caught.value.reason.startswith("Not Acceptable Here")


def test_the_limits_themselves_are_accepted():
    """T12."""
    section = b"m=audio 5004 RTP/AVP 0\r\n" + b"a=x\r\n" * 256
    assert len(parse(HEAD + section * 32).media) == 32


ATTRIBUTES = st.sampled_from(
    ["rtpmap:0 PCMU/8000", "rtpmap:101 telephone-event/8000", "fmtp:101 0-15", "ptime:20", "sendonly", "rtcp:9", "x"]
) | st.text(st.characters(blacklist_characters="\r\n\0", blacklist_categories=["Cs"]), max_size=30)
SECTIONS = st.builds(
    lambda kind, port, formats, lines: (
        [f"m={kind} {port} RTP/AVP {' '.join(map(str, formats))}"] + [f"a={line}" for line in lines]
    ),
    st.sampled_from(["audio", "video", "image"]),
    st.integers(0, 65535),
    st.lists(st.integers(0, 127), min_size=1, max_size=5),
    st.lists(ATTRIBUTES, max_size=6),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(SECTIONS, max_size=4), st.lists(ATTRIBUTES, max_size=3))
def test_parse_and_encode_are_inverse(sections, attributes):
    """R69."""
    lines = ["v=0", "s=-", "c=IN IP4 192.0.2.1", *(f"a={line}" for line in attributes)]
    for section in sections:
        lines.extend(section)
    body = "".join(f"{line}\r\n" for line in lines).encode()
    description = parse(body)
    assert description.encode() == body
    assert parse(description.encode()) == description


def read(body: bytes) -> bool:
    """Read every typed fact of a body, none of which may fail; False for a body that got the one refusal."""
    description, statuses = None, [488]
    try:
        description = parse(body)
    except PeerError as refusal:
        statuses.append(refusal.status)
    assert set(statuses) == {488}
    if description is None:
        return False
    for section in description.media:
        assert section.connection is not None or section.port == 0
        assert section.direction in ("sendrecv", "sendonly", "recvonly", "inactive")
        assert all(0 <= codec.payload_type <= 127 and codec.clock_rate for codec in section.codecs)
        assert section.rtcp is None or 0 < section.rtcp[1] < 65536
        assert section.ptime_ms is None or section.ptime_ms > 0
    return True


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_description_or_the_one_refusal(data):
    """T12, R69."""
    assert read(data) in (True, False)
    assert read(HEAD + data) in (True, False)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(CARRIER) - 1), st.integers(0, 12), st.binary(max_size=6))
def test_a_mutated_description_is_read_or_refused(start, length, replacement):
    """T12, R69."""
    assert read(CARRIER[:start] + replacement + CARRIER[start + length :]) in (True, False)
