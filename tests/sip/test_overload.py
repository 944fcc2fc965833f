"""A cheap 503 is a right 503, goes where the parsed one would go, and is never made for what belongs to a dialog."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.sip.endpoint import MOST_REFUSED
from bridge.sip.events import Flow, RequestReceived
from bridge.sip.message import Response, parse, response_to
from bridge.sip.overload import is_new, refusal
from tests.sip.bench import Bench

UDP = Flow("udp", ("192.0.2.1", 5060), ("198.51.100.7", 40000))
INVITE = (
    b"INVITE sip:+1@b SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bK1;rport\r\n"
    b"v: SIP/2.0/UDP 10.0.0.2;branch=z9hG4bK0\r\n"
    b"Max-Forwards: 70\r\n"
    b"f: <sip:a@c>;tag=1\r\n"
    b"To: <sip:+1@b;user=phone>\r\n"
    b"Call-ID: c1@c\r\n"
    b"CSeq: 7 INVITE\r\n"
    b"Content-Length: 4\r\n\r\nbody"
)


def answer(data: bytes, flow: Flow = UDP) -> tuple[Response, Flow]:
    refused = refusal(data, flow)
    assert refused is not None
    response = parse(refused.data)
    assert isinstance(response, Response)
    response.validate()
    return response, refused.flow


def test_t10_a_new_invite_gets_a_whole_503_with_retry_after() -> None:
    """T10, RFC 3261 §8.2.6.2: Via, From, Call-ID and CSeq as they came, a To tag, and nothing to remember it by."""
    response, flow = answer(INVITE)
    assert (response.status, response.headers.get("Retry-After")) == (503, "10")
    assert response.headers.get_all("Via") == [
        "SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bK1;rport=40000;received=198.51.100.7",
        "SIP/2.0/UDP 10.0.0.2;branch=z9hG4bK0",
    ]
    assert (response.call_id, response.cseq.number, response.from_.tag) == ("c1@c", 7, "1")
    assert response.to.tag
    assert flow == UDP
    assert answer(INVITE)[0].to.tag == response.to.tag, "a repeat gets the same"


@pytest.mark.parametrize(
    ("via", "port"),
    [(b"10.0.0.1:5070;branch=z9", 5070), (b"10.0.0.1;branch=z9", 5060), (b"[2001:db8::1]:5099;branch=z9", 5099)],
)
def test_without_rport_the_answer_goes_to_the_port_of_the_via(via: bytes, port: int) -> None:
    """RFC 3261 §18.2.2."""
    _, flow = answer(INVITE.replace(b"10.0.0.1:5070;branch=z9hG4bK1;rport", via))
    assert flow.remote == ("198.51.100.7", port)


def test_on_a_stream_the_answer_goes_back_over_its_connection() -> None:
    flow = Flow("tls", ("192.0.2.1", 5061), ("198.51.100.7", 40000), 12)
    response, back = answer(INVITE, flow)
    assert back == flow
    assert "received" not in (response.headers.get("Via") or "")


@pytest.mark.parametrize(
    "data",
    [
        INVITE.replace(b"user=phone>", b"user=phone>;tag=2"),
        INVITE.replace(b"user=phone>", b"user=phone> ; TAG=2"),
        INVITE.replace(b"INVITE", b"BYE"),
        INVITE.replace(b"INVITE", b"ACK"),
        INVITE.replace(b"INVITE", b"CANCEL"),
        INVITE.replace(b"Call-ID: c1@c\r\n", b""),
        INVITE.replace(b"CSeq: 7", b"CSeq: 7 INVITE\r\nCSeq: 7"),
        INVITE.replace(b";rport", b";maddr=10.0.0.9"),
        INVITE.replace(b"c1@c", b"c1\r\n @c"),
        b"SIP/2.0 200 OK\r\n\r\n",
        b"",
    ],
)
def test_what_belongs_to_a_dialog_or_is_odd_is_left_to_the_parser(data: bytes) -> None:
    assert refusal(data, UDP) is None


def test_what_is_new_is_told_from_what_belongs_to_a_dialog() -> None:
    assert is_new(INVITE)
    assert is_new(INVITE.replace(b"INVITE", b"OPTIONS"))
    assert not is_new(INVITE.replace(b"user=phone>", b"user=phone>;tag=2"))
    assert not is_new(INVITE.replace(b"INVITE", b"BYE"))
    assert not is_new(b"SIP/2.0 200 OK\r\nTo: <sip:a@b>\r\n\r\n")


@given(st.binary(max_size=300), st.integers(0, len(INVITE)))
def test_no_octets_raise(junk: bytes, at: int) -> None:
    for data in (junk, INVITE[:at] + junk, INVITE[:at] + junk + INVITE[at:]):
        refusal(data, UDP)
        is_new(data)


@pytest.mark.parametrize("port", [b"65536", b"0", b"9" * 5000])
def test_t11_a_port_that_is_none_is_the_parsers_to_refuse(port: bytes) -> None:
    """T11: no socket takes it, and Python reads no number of 5,000 digits."""
    data = INVITE.replace(b";rport", b"").replace(b":5070", b":" + port)
    assert b";rport" not in data
    assert port in data
    assert refusal(data, UDP) is None


def test_t10_of_refused_invites_that_nobody_acknowledges_only_so_many_are_held():
    """T10: the oldest go first; an honest peer's ACK comes within a round trip."""
    bench = Bench()
    for number in range(MOST_REFUSED + 100):
        bench.receive(invite_of(number))
        received = bench.one(RequestReceived)
        bench.events.clear()
        bench.endpoint.respond(received.transaction, response_to(received.request, 503, to_tag="ours"), bench.now)
        bench.drain()
    assert bench.endpoint.counts()["invite_servers"] == MOST_REFUSED
    bench.run(40.0)
    assert not any(bench.endpoint.counts().values())


def invite_of(number: int) -> bytes:
    lines = [
        "INVITE sip:bridge.test SIP/2.0",
        f"Via: SIP/2.0/UDP 198.51.100.7:5070;branch=z9hG4bK{number}",
        "Max-Forwards: 70",
        f"From: <sip:caller@198.51.100.7>;tag={number}",
        "To: <sip:bridge.test>",
        f"Call-ID: {number}@198.51.100.7",
        "CSeq: 1 INVITE",
        "Contact: <sip:caller@198.51.100.7>",
        "Content-Length: 0",
    ]
    return "\r\n".join([*lines, "", ""]).encode()
