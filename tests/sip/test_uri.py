from __future__ import annotations

from dataclasses import replace

import pytest

from bridge.errors import PeerError
from bridge.sip.uri import Uri, escape_user, unescape


@pytest.mark.parametrize(
    "text",
    [
        "sip:alice@atlanta.example.com",
        "sip:alice:secretword@atlanta.example.com:5062;transport=tcp;lr",
        "sips:1212@gateway.example.com",
        "sip:+14155550100;npdi=yes;rn=+14155550199@192.0.2.1:5060;user=phone",
        "sip:atlanta.example.com;method=REGISTER?to=alice%40atlanta.example.com",
        "sip:[2001:db8::10]:5070",
        "sip:[2001:db8:::192.0.2.1]",
        "sip:user;par=u%40example.net@example.com",
        "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com",
        "SIP:Alice@Example.COM;Transport=UDP",
        "sip:*98#@pbx_1.example",
        "sip:x@h:05060",
        "sip:null-%00-null@example.com",
        "tel:+1-415-555-0100",
        "tel:7042;phone-context=example.com",
    ],
)
def test_a_uri_prints_as_it_was_written(text):
    assert str(Uri.parse(text)) == text


def test_the_parts_of_a_uri_are_told_apart():
    uri = Uri.parse("SIP:alice:pw@Example.COM:5062;Transport=TCP;lr;maddr=192.0.2.9?Subject=x&Priority=urgent")
    assert (uri.scheme, uri.user, uri.password, uri.host, uri.port) == ("sip", "alice", "pw", "Example.COM", 5062)
    assert uri.params == (("Transport", "TCP"), ("lr", None), ("maddr", "192.0.2.9"))
    assert uri.headers == "Subject=x&Priority=urgent"
    assert uri.transport == "tcp"
    assert uri.param("lr") == ""
    assert uri.param("ttl") is None
    assert uri.is_loose


def test_a_tel_uri_holds_its_number_as_user():
    uri = Uri.parse("tel:+1(415)555.0100;ext=7")
    assert (uri.scheme, uri.user, uri.host, uri.param("ext")) == ("tel", "+1(415)555.0100", "", "7")


def test_a_changed_copy_prints_its_parts():
    uri = replace(Uri.parse("SIP:alice@example.com:5062;lr"), user="bob", port=None)
    assert str(uri) == "sip:bob@example.com;lr"
    assert str(replace(Uri.parse("sip:a:b@c?x=1"), host="[::1]", port=5)) == "sip:a:b@[::1]:5?x=1"
    assert str(Uri("tel", "+1415")) == "tel:+1415"
    assert str(replace(Uri.parse("sip:example.com"), params=(("a", None), ("b", "1")))) == "sip:example.com;a;b=1"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("nobodyKnowsThisScheme:totallyopaquecontent", 416),
        ("soap.beep://192.0.2.103:3002", 416),
        ("http://example.com", 416),
        ("<sip:user@example.com>", 400),
        ("sip:", 400),
        ("sip:@example.com", 400),
        ("sip:a@b@c", 400),
        ("sip:a@b:99999", 400),
        ("sip:a@b:", 400),
        ("sip:2001:db8::10", 400),
        ("sip:a@b; lr", 400),
        ("sip:a@b;;lr", 400),
        ("sip:a b@c", 400),
        ("sip:a\r\nb@c", 400),
        ('sip:"a"@c', 400),
        ("tel:alice", 400),
        ("tel:", 400),
        ("alan@jasomi.com", 400),
        ("*", 400),
        ("", 400),
    ],
)
def test_a_bad_uri_is_400_and_an_unknown_scheme_416(text, status):
    with pytest.raises(PeerError) as caught:
        Uri.parse(text)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("one", "other"),
    [  # RFC 3261 §19.1.4
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
        ("sip:carol@chicago.com;newparam=5", "sip:carol@chicago.com;security=on"),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        ),
        (
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
        ),
        ("tel:+1-415-555-0100", "tel:+1(415)5550100"),
    ],
)
def test_equal_uris_match(one, other):
    assert Uri.parse(one).matches(Uri.parse(other))
    assert Uri.parse(other).matches(Uri.parse(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
        ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
        ("sip:a:b@c", "sip:a@c"),
        ("sip:a@c", "sips:a@c"),
        ("tel:+1415", "tel:+1416"),
    ],
)
def test_different_uris_do_not_match(one, other):
    assert not Uri.parse(one).matches(Uri.parse(other))
    assert not Uri.parse(other).matches(Uri.parse(one))


def test_t13_a_user_part_is_escaped_and_comes_back():
    text = 'a b<>"@:;?\r\n\0é\udcff%'
    escaped = escape_user(text)
    assert str(Uri.parse(f"sip:{escaped}@c")) == f"sip:{escaped}@c"
    assert not set(escaped) & set(' <>"@:\r\n\0')
    assert unescape(escaped) == text
    assert unescape("%Z%4") == "%Z%4"


def test_a_very_long_uri_is_parsed_too():
    text = "sip:" + "a" * 4000 + "@example.com"
    assert str(Uri.parse(text)) == text
