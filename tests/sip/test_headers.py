from __future__ import annotations

import pytest

from bridge.errors import PeerError
from bridge.sip.headers import CSeq, NameAddr, Reason, Via, parse_params, parse_route_set, quote, split_list, unquote


@pytest.mark.parametrize(
    ("text", "display", "uri", "params"),
    [
        ("<sip:a@b>", "", "sip:a@b", ()),
        ("sip:a@b;tag=x", "", "sip:a@b", (("tag", "x"),)),
        ("sip:a@b ;   tag    = 1918181833n", "", "sip:a@b", (("tag", "1918181833n"),)),
        ("Bob <sip:a@b;lr>;tag=x ; q=0.5", "Bob", "sip:a@b;lr", (("tag", "x"), ("q", "0.5"))),
        ("caller<sip:a@b>;tag=323", "caller", "sip:a@b", (("tag", "323"),)),
        ('"J Rosenberg \\\\\\""       <sip:a@b> ;tag = 98', 'J Rosenberg \\"', "sip:a@b", (("tag", "98"),)),
        (
            '"Semi; comma, <angle>" <sip:a@b>;x="y;z,\\"<";w',
            "Semi; comma, <angle>",
            "sip:a@b",
            (("x", '"y;z,\\"<"'), ("w", None)),
        ),
        ("token1~` token2'+_ token3*%!.- <sip:a@b>", "token1~` token2'+_ token3*%!.-", "sip:a@b", ()),
        ("Jürgen <sip:a@b>", "Jürgen", "sip:a@b", ()),
        ('"" <tel:+1415>', "", "tel:+1415", ()),
        (
            "sip:user@example.com;received=2001:db8::9:255",
            "",
            "sip:user@example.com",
            (("received", "2001:db8::9:255"),),
        ),
    ],
)
def test_addresses_are_read_in_every_form(text, display, uri, params):
    address = NameAddr.parse(text)
    assert (address.display, str(address.uri), address.params) == (display, uri, params)
    assert NameAddr.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<>",
        "<sip:a@b",
        "sip:a@b>",
        '"Mr. J. User <sip:j.user@example.com>',
        "Bell, Alexander <sip:a.g.bell@example.com>",
        '"Watson, Thomas" < sip:t.watson@example.org >',
        "<sip:a@b>;;;;",
        "<sip:a@b>;=x",
        "<sip:a@b>x",
        "sip:a@b?Route=%3Csip:c%3E",
        "<sip:a@b>, <sip:c@d>",
        "isbn:2983792873",
        "<http://www.example.com>",
    ],
)
def test_a_malformed_address_is_400(text):
    with pytest.raises(PeerError) as caught:
        NameAddr.parse(text)
    assert caught.value.status == 400


def test_a_tag_is_put_in_place_of_another():
    address = NameAddr.parse("<sip:a@b>;x=1;TAG=old")
    assert address.tag == "old"
    assert str(address.with_tag("new")) == "<sip:a@b>;x=1;tag=new"
    assert NameAddr.parse("<sip:a@b>;tag").tag is None
    assert address.param("x") == "1"


def test_t13_a_display_name_is_quoted_so_that_it_can_not_leave_its_quotes():
    address = NameAddr('a" <sip:evil@x>;tag=1, "\\', NameAddr.parse("sip:a@b").uri)
    assert NameAddr.parse(str(address)) == address
    assert unquote(quote('\\"')) == '\\"'
    assert unquote("plain") == "plain"


@pytest.mark.parametrize(
    ("text", "host", "port", "branch"),
    [
        ("SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx", "192.0.2.1", None, "z9hG4bKx"),
        ("SIP  /   2.0 /UDP     192.0.2.2;branch=390skdjuw", "192.0.2.2", None, "390skdjuw"),
        (
            "SIP / 2.0 / TCP     spindle.example.com   ; branch  =   z9hG4bK9ikj8",
            "spindle.example.com",
            None,
            "z9hG4bK9ikj8",
        ),
        ("SIP/2.0/TLS [2001:db8::9:1]:6050;branch=z9hG4bKas3-111;rport", "[2001:db8::9:1]", 6050, "z9hG4bKas3-111"),
        ("SIP/2.0/UNKNOWN t4.example.com : 5061", "t4.example.com", 5061, None),
    ],
)
def test_via_is_read_in_every_form(text, host, port, branch):
    via = Via.parse(text)
    assert (via.protocol, via.host, via.port, via.branch) == ("SIP/2.0", host, port, branch)
    assert Via.parse(str(via)) == via


@pytest.mark.parametrize("received", ["2001:db8::9:255", "[2001:db8::9:255]"])
def test_received_is_read_with_and_without_brackets(received):
    via = Via.parse(f"SIP/2.0/UDP [2001:db8::9:1];received={received};branch=z9hG4bKas3")
    assert via.received == "2001:db8::9:255"


@pytest.mark.parametrize(
    "text", ["", "SIP/2.0/UDP", "SIP/2.0 host", "SIP/2.0/UDP 192.0.2.15;;", "SIP/2.0/UDP a:99999", "SIP/2.0/UDP a b"]
)
def test_a_malformed_via_is_400(text):
    with pytest.raises(PeerError):
        Via.parse(text)


def test_r14_the_source_of_a_packet_is_noted_in_its_via():
    asked = Via.parse("SIP/2.0/UDP 10.0.0.1:5060;rport;branch=z9hG4bKx")
    assert str(asked.seen_from("192.0.2.9", 4444)) == (
        "SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKx;received=192.0.2.9;rport=4444"
    )
    # RFC 3581 §4: with rport, received is there even where it says nothing new
    assert asked.seen_from("10.0.0.1", 5060).received == "10.0.0.1"
    assert asked.seen_from("10.0.0.1", 5060).rport == 5060
    plain = Via.parse("SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKx")
    assert plain.seen_from("10.0.0.1", 5061) is plain
    assert plain.seen_from("192.0.2.9", 5061).received == "192.0.2.9"
    assert plain.rport is None
    forged = Via.parse("SIP/2.0/UDP h;received=203.0.113.5;rport=1;branch=z9hG4bKx").seen_from("192.0.2.9", 5)
    assert (forged.received, forged.rport) == ("192.0.2.9", 5)


def test_cseq_is_a_number_and_a_method():
    assert CSeq.parse("0009 INVITE") == CSeq(9, "INVITE")
    assert str(CSeq(1, "BYE")) == "1 BYE"


def test_routes_are_read_from_lists_and_repeats_in_order():
    routes = parse_route_set(["<sip:a;lr>, <sip:b,c@d>;x", "<sip:e>"])
    assert [str(route) for route in routes] == ["<sip:a;lr>", "<sip:b,c@d>;x", "<sip:e>"]
    assert parse_route_set([]) == ()
    for bad in ("<sip:a>,", "tel:+1"):
        with pytest.raises(PeerError):
            parse_route_set([bad])


@pytest.mark.parametrize(
    ("value", "items"),
    [
        ("a", ["a"]),
        ("a, b ,c", ["a", "b", "c"]),
        ('"x, y" <sip:a,b@c>, z', ['"x, y" <sip:a,b@c>', "z"]),
        ('"a\\", b", c', ['"a\\", b"', "c"]),
        ('"open, b', ['"open, b']),
        ("<open, b", ["<open, b"]),
        (",", ["", ""]),
        ("", [""]),
        ('"a\\', ['"a\\']),
        ('x,"a\\', ["x", '"a\\']),
    ],
)
def test_lists_are_split_outside_quotes_and_brackets(value, items):
    assert split_list(value) == items


def test_parameters_are_read_with_white_space_and_quotes():
    assert parse_params(' ; a = "x;\\"y" ;b; c=1 ') == (("a", '"x;\\"y"'), ("b", None), ("c", "1"))
    for bad in (";", ";;a", ";a=", "a=1", ';a="x', ";a=b c"):
        with pytest.raises(PeerError):
            parse_params(bad)


def test_reasons_are_read_and_printed():
    reason = Reason.parse(' Q.850 ;cause=16 ;text="Terminated, \\"normally\\""')
    assert reason == Reason("Q.850", 16, 'Terminated, "normally"')
    assert Reason.parse(str(reason)) == reason
    assert str(Reason("SIP", 200)) == "SIP;cause=200"
    assert Reason.parse("Preemption") == Reason("Preemption")
    assert Reason.parse("SIP;cause=+5").cause is None
    with pytest.raises(PeerError):
        Reason.parse(";cause=1")
