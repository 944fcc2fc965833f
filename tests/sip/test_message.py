from __future__ import annotations

import pytest

from bridge.errors import PeerError
from bridge.sip.message import (
    HEADER_LIMIT,
    Header,
    Headers,
    Malformed,
    Request,
    Response,
    content_type_is_sdp,
    parse,
    response_to,
)
from tests.sip.bench import incoming, wire

INVITE = incoming(extra="Record-Route: <sip:a;lr>\nRecord-Route: <sip:b;lr>\nTimestamp: 54\n")


def refused(data: bytes) -> Malformed:
    with pytest.raises(Malformed) as caught:
        parse(data)
    return caught.value


def with_line(old: str, new: str, data: bytes = INVITE) -> bytes:
    assert old.encode() in data
    return data.replace(old.encode(), new.encode("utf-8", "surrogateescape"))


def test_a_request_is_read_and_printed_byte_for_byte():
    request = parse(INVITE)
    assert isinstance(request, Request)
    assert (request.method, request.uri) == ("INVITE", "sip:+14155550100@192.0.2.1")
    assert request.cseq.number == 7
    assert request.cseq.method == "INVITE"
    assert request.from_.tag == "theirs"
    assert request.to.tag is None
    assert request.via.branch == "z9hG4bKpeer"
    assert request.contact is not None
    assert str(request.contact.uri) == "sip:caller@198.51.100.7:5070"
    assert request.encode() == INVITE


def test_a_response_is_read_and_printed_byte_for_byte():
    data = wire(
        """
SIP/2.0 183 Session Progress, with: odd (text)
v: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1
f: <sip:a@b>;tag=1
t: <sip:c@d>;tag=2
i: x
CSeq: 1 INVITE
l: 4

abcd"""
    )
    response = parse(data)
    assert isinstance(response, Response)
    assert (response.status, response.reason, response.body) == (183, "Session Progress, with: odd (text)", b"abcd")
    assert response.contact is None
    assert response.encode() == data


def test_r16_compact_names_case_and_folding_mean_the_same_header_and_leave_as_they_came():
    data = with_line("Contact: <sip:caller@198.51.100.7:5070>", "m:\r\n  <sip:caller@198.51.100.7:5070>\r\n\t;q=1")
    data = with_line("From:", "FROM \t:", data)
    request = parse(data)
    assert request.headers.get("contact") == "<sip:caller@198.51.100.7:5070> ;q=1"
    assert request.headers.get("M") == request.headers.get("Contact")
    assert request.from_.tag == "theirs"
    assert request.encode() == data


def test_r16_repeated_headers_keep_their_order():
    request = parse(INVITE)
    assert request.headers.get_all("record-route") == ["<sip:a;lr>", "<sip:b;lr>"]
    assert request.headers.get_all("X-None") == []
    assert [header.name for header in request.headers][-4:] == [
        "Record-Route",
        "Record-Route",
        "Timestamp",
        "Content-Length",
    ]


def test_octets_that_are_no_utf_8_pass():
    data = with_line("Max-Forwards: 70", "Max-Forwards: 70\r\nX-Name: \udcff\udcfe caf\udce9")
    request = parse(data)
    assert request.headers.get("x-name") == "\udcff\udcfe caf\udce9"
    assert request.encode() == data


def test_empty_lines_before_a_message_are_skipped():
    assert parse(b"\r\n\r\n" + INVITE) == parse(INVITE)


def test_r15_octets_past_content_length_are_dropped():
    request = parse(INVITE + b"BYE sip:a@b SIP/2.0\r\n\r\n")
    assert request.body == b""


def test_r15_without_content_length_the_body_is_the_rest_of_the_datagram():
    request = parse(with_line("Content-Length: 0\r\n", "") + b"v=0\r\n")
    assert request.body == b"v=0\r\n"
    assert request.encode().endswith(b"\r\nContent-Length: 5\r\n\r\nv=0\r\n")


def test_r15_a_body_that_is_too_short_is_400():
    error = refused(with_line("Content-Length: 0", "Content-Length: 5") + b"v=0")
    assert error.status == 400
    assert error.request is not None


@pytest.mark.parametrize(
    "length",
    [
        "+5",
        "-0",
        "1_0",
        "0x5",
        "5.0",
        "5 5",
        "5,5",
        "",
        "00000005",
        "4294967301",
        "2147483653",
        "٥",
        "５",
        "5;",
        "five",
    ],
)
def test_t14_content_length_is_at_most_seven_digits_and_nothing_else(length):
    error = refused(with_line("Content-Length: 0", f"Content-Length: {length}") + b"v=0\r\n" * 20)
    assert error.status == 400


@pytest.mark.parametrize("first", ["Content-Length: 0", "l: 0"])
def test_t14_two_content_lengths_are_400_even_when_equal(first):
    assert refused(with_line("Content-Length: 0", f"{first}\r\nContent-Length: 0")).status == 400


@pytest.mark.parametrize("start", ["", "SIP/2.0", "sip/2.0"])
def test_the_version_is_read_in_any_case_and_printed_in_capitals(start):
    if start:
        request = parse(with_line(" SIP/2.0\r\nVia", f" {start}\r\nVia"))
        assert request.encode() == INVITE
    else:
        assert refused(with_line(" SIP/2.0\r\nVia", "\r\nVia")).status == 400


def test_another_version_is_505():
    error = refused(with_line(" SIP/2.0\r\nVia", " SIP/3.0\r\nVia"))
    assert (error.status, error.reason) == (505, "Version Not Supported")


@pytest.mark.parametrize(
    "start",
    [
        "INVITE  sip:a@b SIP/2.0",
        "INVITE sip:a@b  SIP/2.0",
        "INVITE sip:a@b SIP/2.0 ",
        "INVITE sip:a@b; lr SIP/2.0",
        "INVITE\tsip:a@b SIP/2.0",
        "INV{TE sip:a@b SIP/2.0",
        "INVITE SIP/2.0",
        "INVITE",
    ],
)
def test_a_malformed_request_line_is_400(start):
    data = with_line("INVITE sip:+14155550100@192.0.2.1 SIP/2.0", start)
    assert refused(data).status == 400


@pytest.mark.parametrize("name", ["Via", "From", "To", "Call-ID", "CSeq"])
def test_without_a_mandatory_header_there_is_nothing_to_answer(name):
    lines = [line for line in INVITE.split(b"\r\n") if not line.startswith(name.encode() + b":")]
    error = refused(b"\r\n".join(lines))
    assert error.status == 400
    assert error.request is None


@pytest.mark.parametrize("name", ["From", "To", "Call-ID", "CSeq", "Max-Forwards"])
def test_a_header_that_must_be_single_is_400_when_repeated(name):
    line = next(line for line in INVITE.decode().split("\r\n") if line.startswith(f"{name}:"))
    error = refused(with_line(line, f"{line}\r\n{line}"))
    assert error.status == 400
    assert error.request is not None


@pytest.mark.parametrize(
    "cseq",
    ["7 BYE", "2147483648 INVITE", "36893488147419103232 INVITE", "-1 INVITE", "INVITE", "7", "7 INVITE x", "٧ INVITE"],
)
def test_r09_a_bad_cseq_is_400(cseq):
    error = refused(with_line("7 INVITE", cseq))
    assert error.status == 400


def test_r09_the_highest_cseq_is_taken():
    assert parse(with_line("7 INVITE", "2147483647 INVITE")).cseq.number == 2**31 - 1


def test_the_method_is_told_by_its_case():
    assert refused(with_line("CSeq: 7 INVITE", "CSeq: 7 invite")).status == 400


def test_a_response_or_an_ack_is_never_answered():
    assert refused(wire("SIP/2.0 200 OK\nVia: SIP/2.0/UDP a;branch=z9hG4bKx")).request is None
    assert refused(wire("SIP/2.0 99999 OK\nVia: SIP/2.0/UDP a")).request is None
    assert refused(with_line("CSeq: 7 INVITE", "CSeq: x", INVITE).replace(b"INVITE sip", b"ACK sip")).request is None


@pytest.mark.parametrize("octets", [b"\n", b"\r", b"\nX-Evil: 1", b"\r\r\n", b"\0"])
def test_t13_a_bare_cr_lf_or_nul_is_400(octets):
    data = INVITE.replace(b"Max-Forwards: 70", b"X-Name: a" + octets + b"b\r\nMax-Forwards: 70")
    assert refused(data).status == 400


@pytest.mark.parametrize("start", ["INVITE sip:a@b\r\n  SIP/2.0", "SIP/2.0 486 Busy\r\n Here", "SIP/2.0 200\r\n\tOK"])
def test_t13_a_start_line_is_one_line(start):
    assert refused(start.encode() + INVITE[INVITE.index(b"\r\n") :]).status == 400


@pytest.mark.parametrize("line", ["hello", "X", "Route", "v", "Content-Length", "Via\t", "X\u00e9: z"])
def test_the_name_of_a_header_alone_is_400(line):
    data = INVITE.replace(b"Max-Forwards: 70", line.encode() + b"\r\nMax-Forwards: 70")
    assert refused(data).status == 400


def test_t13_an_escaped_nul_passes_in_the_raw_line_and_nowhere_else():
    data = INVITE.replace(b"From: <", b'From: "a\\\0b" <')
    request = parse(data)
    assert request.encode() == data
    assert request.from_.display == "ab"
    Request("OPTIONS", "sip:a@b", Headers([Header("From", request.headers.get("From") or "")])).encode()


@pytest.mark.parametrize("end", ["\r\n ", "\r\n\t", " \r\n \r\n  "])
def test_t13_a_fold_at_the_end_of_a_value_leaves_no_line_end_in_it(end):
    data = with_line(";rport", f";rport{end}")
    request = parse(data)
    assert request.headers.get("Via") == "SIP/2.0/UDP 198.51.100.7:5070;branch=z9hG4bKpeer;rport"
    assert request.encode() == data


def test_headers_that_end_nowhere_are_400():
    assert refused(INVITE[:-2]).status == 400


@pytest.mark.parametrize("line", ["Foobar roobar", ": empty", "a b: c", "n@me: c"])
def test_a_line_that_is_no_header_is_400(line):
    assert refused(with_line("Max-Forwards: 70", f"Max-Forwards: 70\r\n{line}")).status == 400


def test_t15_a_header_section_over_its_limit_is_not_read():
    error = refused(with_line("Max-Forwards: 70", "Max-Forwards: 70\r\nX: " + "x" * HEADER_LIMIT))
    assert error.status == 513
    assert error.request is None


@pytest.mark.parametrize("text", ["a\r\nX: b", "a\nb", "a\rb", "a\0b"])
def test_t13_nothing_we_make_can_hold_cr_lf_or_nul(text):
    headers = parse(INVITE).headers
    for request in (
        Request("INVITE", f"sip:{text}@b", headers),
        Request(f"INVITE{text}", "sip:a@b", headers),
        Request("INVITE", "sip:a@b", Headers([*headers, Header("X-Name", text)])),
        Request("INVITE", "sip:a@b", Headers([*headers, Header(text, "x")])),
        Response(200, text, headers),
    ):
        with pytest.raises(ValueError, match="CR, LF or NUL"):
            request.encode()
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        response_to(parse_request(INVITE), 200, to_tag=text)


def parse_request(data: bytes) -> Request:
    request = parse(data)
    assert isinstance(request, Request)
    return request


def test_a_wrong_content_length_is_put_right_in_its_place():
    request = parse(INVITE)
    request.body = b"v=0\r\n"
    data = request.encode()
    assert parse(data).body == b"v=0\r\n"
    assert data.count(b"Content-Length") == 1
    assert data == with_line("Content-Length: 0", "Content-Length: 5") + b"v=0\r\n"


def test_headers_are_changed_in_place():
    headers = Headers([Header("A", "1"), Header("B", "2"), Header("a", "3")])
    headers.set("A", "9")
    assert list(headers) == [Header("A", "9"), Header("B", "2")]
    headers.set("C", "4")
    headers.prepend("Via", "v")
    assert [header.name for header in headers] == ["Via", "A", "B", "C"]
    copy = headers.copy()
    copy.remove("v")
    copy.remove("none")
    assert "via" in headers
    assert "via" not in copy
    assert len(headers) == len(copy) + 1
    assert 5 not in headers
    headers.replace_first("B", "x")
    headers.add("B", "y")
    assert headers.get_all("b") == ["x", "y"]
    with pytest.raises(KeyError):
        headers.replace_first("none", "x")


def test_typed_values_follow_a_changed_header():
    request = parse(INVITE)
    assert request.to.tag is None
    request.headers.set("To", "<sip:a@b>;tag=new")
    assert request.to.tag == "new"


def test_a_missing_header_is_a_peer_error_when_it_is_asked_for():
    with pytest.raises(PeerError) as caught:
        _ = Request("BYE", "sip:a@b", Headers()).call_id
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("status", "routes", "timestamp", "tag"),
    [(100, 0, 1, False), (180, 2, 0, True), (200, 2, 0, True), (486, 0, 0, True)],
)
def test_a_response_copies_what_rfc_3261_8_2_6_says(status, routes, timestamp, tag):
    request = parse_request(INVITE)
    response = response_to(request, status, to_tag="ours")
    assert len(response.headers.get_all("Record-Route")) == routes
    assert len(response.headers.get_all("Timestamp")) == timestamp
    assert response.to.tag == ("ours" if tag else None)
    for name in ("Via", "From", "Call-ID", "CSeq"):
        assert response.headers.get_all(name) == request.headers.get_all(name)
    assert "Contact" not in response.headers
    assert response.encode().startswith(f"SIP/2.0 {status} {response.reason}\r\nVia: ".encode())


def test_a_to_tag_that_is_there_stays():
    response = response_to(parse_request(incoming("BYE", to_tag="there")), 200, to_tag="other")
    assert response.to.tag == "there"


def test_an_unknown_status_has_some_reason_phrase():
    assert response_to(parse_request(INVITE), 499).reason == "Unknown"
    assert response_to(parse_request(INVITE), 404).reason == "Not Found"
    assert response_to(parse_request(INVITE), 404, "Gone Fishing").reason == "Gone Fishing"


@pytest.mark.parametrize(
    ("content_type", "body", "is_sdp"),
    [
        ("application/sdp", b"", True),
        ("Application/SDP ; charset=utf-8", b"", True),
        ("application/isup", b"v=0", False),
        (None, b"v=0\r\n", True),
        (None, b"hello", False),
        (None, b"", False),
        ("", b"v=0\r\n", True),
    ],
)
def test_d19_a_body_without_content_type_is_sdp_when_it_looks_like_it(content_type, body, is_sdp):
    headers = Headers([] if content_type is None else [Header("c", content_type)])
    assert content_type_is_sdp(Response(200, "OK", headers, body)) is is_sdp


def test_validate_finds_what_parse_leaves_for_later():
    for old, new, status in [
        ("To: <sip:+14155550100@192.0.2.1>", 'To: "Mr. <sip:a@b>', 400),
        ("INVITE sip:+14155550100@192.0.2.1", "INVITE mailto:a@b", 416),
        ("INVITE sip:+14155550100@192.0.2.1", "INVITE sip:a@b?Route=%3Csip:c%3E", 400),
        ("Call-ID: p1", "Call-ID: p 1", 400),
        ("branch=z9hG4bKpeer;rport", ";;,;,,", 400),
        ("Contact: <sip:caller@198.51.100.7:5070>", "Contact: <sip:>", 400),
    ]:
        message = parse(with_line(old, new))
        with pytest.raises(PeerError) as caught:
            message.validate()
        assert caught.value.status == status


def test_messages_differ_by_any_of_their_parts():
    assert parse(INVITE) == parse(INVITE)
    assert parse(INVITE) != parse(with_line("caller", "called"))
    assert Response(200, "OK", Headers()) != Response(200, "Ok", Headers())
    assert Response(200, "OK", Headers()) != Request("INVITE", "sip:a@b", Headers())
    assert "INVITE" in repr(parse(INVITE))
    assert "200" in repr(Response(200, "OK", Headers([Header("A", "b")])))
    assert "Header" in repr(Headers([Header("A", "b")]))
