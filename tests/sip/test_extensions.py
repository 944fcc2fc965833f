"""The headers of SIP's extensions: read, printed, and refused where they are malformed."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.errors import PeerError
from bridge.sip.extensions import (
    Event,
    RAck,
    Replaces,
    SessionExpires,
    SubscriptionState,
    embed_headers,
    embedded_headers,
    parse_delta,
    parse_rseq,
    parse_sipfrag,
    reasons,
    refer_to,
    referred_by,
    replaces,
    sipfrag,
)
from bridge.sip.headers import Reason
from bridge.sip.message import Header, Request, parse
from bridge.sip.uri import Uri
from tests.sip.bench import incoming


def request(extra: str) -> Request:
    message = parse(incoming("REFER", extra=extra))
    assert isinstance(message, Request)
    return message


def refused(read, given) -> int:
    with pytest.raises(PeerError) as caught:
        read(given)
    return caught.value.status


@pytest.mark.parametrize(
    ("kind", "text", "value", "printed"),
    [
        (RAck, "776656 1 INVITE", RAck(776656, 1, "INVITE"), None),
        (RAck, "4294967295  0\tINVITE", RAck(4294967295, 0, "INVITE"), "4294967295 0 INVITE"),
        (SessionExpires, "1800", SessionExpires(1800), None),
        (SessionExpires, "90 ; Refresher = UAC;x=y", SessionExpires(90, "uac"), "90;refresher=uac"),
        (
            Replaces,
            "98732@sip.example.com ;from-tag=r33th4x0r;to-tag=ff87ff",
            Replaces("98732@sip.example.com", "ff87ff", "r33th4x0r"),
            "98732@sip.example.com;to-tag=ff87ff;from-tag=r33th4x0r",
        ),
        (Replaces, "c;to-tag=0;from-tag=1;early-only", Replaces("c", "0", "1", True), None),
        (Event, "refer;id=93809824", Event("refer", "93809824"), None),
        (Event, " Presence.Winfo ; x", Event("presence.winfo"), "presence.winfo"),
        (SubscriptionState, "active;expires=60", SubscriptionState("active", 60), None),
        (
            SubscriptionState,
            "Terminated;reason=NoResource",
            SubscriptionState("terminated", None, "noresource"),
            "terminated;reason=noresource",
        ),
    ],
)
def test_a_header_is_read_and_printed(kind, text, value, printed):
    assert kind.parse(text) == value
    assert str(value) == (printed or text)
    assert kind.parse(str(value)) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (RAck, ""),
        (RAck, "1 INVITE"),
        (RAck, "0 1 INVITE"),
        (RAck, f"{1 << 32} 1 INVITE"),
        (RAck, f"1 {1 << 31} INVITE"),
        (RAck, "\u0661 1 INVITE"),
        (SessionExpires, ""),
        (SessionExpires, "-90"),
        (SessionExpires, "1e3"),
        (SessionExpires, "9999999999"),
        (SessionExpires, "90;refresher=proxy"),
        (SessionExpires, "90;;"),
        (Replaces, ""),
        (Replaces, "c"),
        (Replaces, "c;to-tag=1"),
        (Replaces, "c;from-tag=1"),
        (Replaces, "c;to-tag=1;from-tag="),
        (Replaces, "c;to-tag=1;to-tag=2;from-tag=3"),
        (Replaces, "a b;to-tag=1;from-tag=2"),
        (Replaces, 'c;to-tag="a b";from-tag=2'),
        (Event, ""),
        (Event, "a b"),
        (Event, "<refer>"),
        (SubscriptionState, ";expires=1"),
        (SubscriptionState, "active;expires=x"),
    ],
)
def test_a_malformed_header_is_400(kind, text):
    assert refused(kind.parse, text) == 400


def test_seconds_and_rseq_are_digits_in_their_range():
    assert [parse_delta(text) for text in ("90", " 1800 ;x", "5 (maintenance);duration=1")] == [90, 1800, 5]
    assert [parse_rseq(text) for text in ("1", "4294967295")] == [1, 4294967295]
    for text in ("", "+5", "1_0", "\uff11", "1234567890"):
        assert refused(parse_delta, text) == 400
    for text in ("", "0", "+1", "4294967296", "99999999999", "1 2"):
        assert refused(parse_rseq, text) == 400


def test_r37_a_refer_has_exactly_one_refer_to():
    assert str(refer_to(request("Refer-To: <sip:carol@c.example.com?Replaces=a%3Bto-tag%3D1>\n")).uri.host) == (
        "c.example.com"
    )
    assert refer_to(request("r: tel:+14155550100\n")).uri.user == "+14155550100"
    for extra in ("", "Refer-To: <sip:a@b>\nr: <sip:c@d>\n", "Refer-To: <sip:a@b>, <sip:c@d>\n", "Refer-To:\n"):
        assert refused(refer_to, request(extra)) == 400
    assert refused(refer_to, request("Refer-To: <sip:a@>\n")) == 400


def test_referred_by_stands_once_at_most():
    assert referred_by(request("")) is None
    found = referred_by(request('b: "A, B" <sip:a@b>;cid="x"\n'))
    assert found is not None
    assert found.display == "A, B"
    assert refused(referred_by, request("Referred-By: <sip:a@b>\nb: <sip:a@b>\n")) == 400


def test_r38_more_than_one_replaces_is_400():
    assert replaces(request("")) is None
    assert replaces(request("Replaces: c;to-tag=1;from-tag=2\n")) == Replaces("c", "1", "2")
    twice = "Replaces: c;to-tag=1;from-tag=2\n"
    assert refused(replaces, request(twice * 2)) == 400
    assert refused(replaces, request("Replaces: c;to-tag=1;from-tag=2, d;to-tag=1;from-tag=2\n")) == 400


def test_r40_there_is_one_reason_a_protocol():
    found = reasons(
        request(
            'Reason: SIP ;cause=600 ;text="Busy, Everywhere", Q.850;cause=16;text="Terminated"\n'
            "Reason: sip;cause=200, preemption;cause=1\nReason: ;cause=1\nReason: a b;cause=1\n"
        )
    )
    assert found == (
        Reason("SIP", 600, "Busy, Everywhere"),
        Reason("Q.850", 16, "Terminated"),
        Reason("preemption", 1),
    )


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"SIP/2.0 100 Trying\r\n", (100, "Trying")),
        (b"SIP/2.0 200 OK", (200, "OK")),
        (b"sip/2.0 486 Busy Here\nVia: x\n\n", (486, "Busy Here")),
        (b"\r\nSIP/2.0 503 \r\nRetry-After: 5\r\n", (503, "")),
        (b"SIP/2.0 603", (603, "")),
        ("SIP/2.0 404 Nicht gefunden: München\r\n".encode(), (404, "Nicht gefunden: München")),
    ],
)
def test_a_sipfrag_says_how_a_transfer_goes(body, found):
    assert parse_sipfrag(body) == found
    assert parse_sipfrag(sipfrag(*found))[0] == found[0]


def test_sipfrags_that_are_none_are_400():
    for body in (b"", b"INVITE sip:a@b SIP/2.0\r\n", b"SIP/2.0 99 x\r\n", b"SIP/2.0 700 x\r\n", b"SIP/2.0 2000 x"):
        assert refused(parse_sipfrag, body) == 400
    assert refused(parse_sipfrag, b"SIP/2.0 \xd9\xa1\xd9\xa0\xd9\xa0 x\r\n") == 400


@pytest.mark.parametrize("reason", ["a\r\nX: b", "a\nb", "a\rb", "a\0"])
def test_t13_a_sipfrag_has_one_line(reason):
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        sipfrag(200, reason)


def test_headers_in_a_uri_are_decoded():
    uri = Uri.parse(
        "sip:dave@denver.example.org?Replaces=12345%40192.168.118.3%3Bto-tag%3D12345%3Bfrom-tag%3D5FFE-3994"
        "&User-to-User=0012%3Bencoding%3Dhex&Empty=&"
    )
    assert embedded_headers(uri) == (
        Header("Replaces", "12345@192.168.118.3;to-tag=12345;from-tag=5FFE-3994"),
        Header("User-to-User", "0012;encoding=hex"),
        Header("Empty", ""),
    )
    assert embedded_headers(Uri.parse("sip:a@b")) == ()


@pytest.mark.parametrize("headers", ["X=a%0D%0AEvil:%20b", "X=%0a", "X=%00", "X%0D%0A=b", "a%20b=c", "=b", "%C3%A9=b"])
def test_t13_percent_escapes_in_a_uri_make_no_header_line(headers):
    uri = Uri.parse(f"sip:a@b?{headers}")
    assert refused(embedded_headers, uri) == 400


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.builds(
            Header,
            st.text("abcXYZ-.!%*_+`'~", min_size=1, max_size=8),
            st.binary(max_size=20).map(lambda data: data.decode("utf-8", "surrogateescape")),
        ),
        max_size=4,
    )
)
@example([Header("X", "a=b&c?d%41;\u20ac\udcff")])
def test_t13_what_is_embedded_in_a_uri_comes_back_or_is_400(headers):
    text = embed_headers(headers)
    assert not set(text) & set('\r\n\0 "<>')
    uri = Uri.parse(f"sip:a@b?{text}")
    try:
        found = embedded_headers(uri)
    except PeerError:
        assert any(set(header.value) & set("\r\n\0") for header in headers)
    else:
        assert found == tuple(headers)
