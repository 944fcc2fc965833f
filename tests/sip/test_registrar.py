"""Bindings of a party that registers with us (D24): RFC 3261 §10.3, with RFC 3327's Path."""

from __future__ import annotations

import pytest

from bridge.errors import PeerError
from bridge.sip.events import Flow
from bridge.sip.message import Request, Response, parse
from bridge.sip.registrar import MOST_BINDINGS, Registrar

UDP = Flow("udp", ("127.4.0.1", 5060), ("203.0.113.9", 61000))
TCP = Flow("tcp", ("127.4.0.1", 5060), ("203.0.113.9", 61000), connection=3)


def request(*contacts: str, expires: str | None = None, cseq: int = 1, call_id: str = "r1", extra: str = "") -> Request:
    lines = [
        "REGISTER sip:bridge.example SIP/2.0",
        "Via: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bKr;rport",
        "From: <sip:attach@bridge.example>;tag=1",
        "To: <sip:attach@bridge.example>",
        f"Call-ID: {call_id}",
        f"CSeq: {cseq} REGISTER",
        *(f"Contact: {contact}" for contact in contacts),
        *([f"Expires: {expires}"] if expires is not None else []),
    ]
    parsed = parse(("\r\n".join(lines) + "\r\n" + extra + "\r\n").encode())
    assert isinstance(parsed, Request)
    return parsed


def register(registrar: Registrar, asked: Request, now: float = 0.0, flow: Flow = UDP) -> Response:
    return registrar.register(asked, flow, now, "ours")


def contacts(registrar: Registrar) -> list[str]:
    return [str(binding.contact) for binding in registrar.bindings()]


@pytest.mark.parametrize(
    ("contact", "expires", "granted"),
    [
        ("<sip:a@10.0.0.5>", None, 3600),
        ("<sip:a@10.0.0.5>", "60", 60),
        ("<sip:a@10.0.0.5>;expires=120", "60", 120),
        ("<sip:a@10.0.0.5>", "999999", 3600),
        ("<sip:a@10.0.0.5>", "soon", 3600),
    ],
)
def test_a_contact_is_bound_for_the_time_it_asks_for_up_to_an_hour(
    contact: str, expires: str | None, granted: int
) -> None:
    registrar = Registrar()
    response = register(registrar, request(contact, expires=expires), now=10.0)
    assert response.status == 200
    assert response.to.tag == "ours"
    assert response.headers.get_all("Contact") == [f"<sip:a@10.0.0.5>;expires={granted}"]
    assert registrar.next_expiry() == 10.0 + granted


def test_too_brief_a_time_is_refused_with_the_least_that_does() -> None:
    registrar = Registrar()
    with pytest.raises(PeerError) as refused:
        register(registrar, request("<sip:a@10.0.0.5>", "<sip:b@10.0.0.5>;expires=59", expires="600"))
    assert refused.value.status == 423
    assert refused.value.headers == (("Min-Expires", "60"),)
    assert contacts(registrar) == []  # all of it or nothing


def test_a_register_without_a_contact_asks_what_is_bound() -> None:
    registrar = Registrar()
    register(registrar, request("<sip:a@10.0.0.5>", expires="600"))
    response = register(registrar, request(cseq=2), now=100.0)
    assert response.headers.get_all("Contact") == ["<sip:a@10.0.0.5>;expires=500"]


def test_bindings_come_by_q_and_then_the_latest_first() -> None:
    registrar = Registrar()
    register(registrar, request("<sip:old@10.0.0.5>"), now=0.0)
    register(registrar, request("<sip:low@10.0.0.5>;q=0.2", cseq=2), now=1.0)
    register(registrar, request("<sip:new@10.0.0.5>;q=odd", cseq=3), now=2.0)
    assert [contact[4:7] for contact in contacts(registrar)] == ["new", "old", "low"]


def test_a_contact_is_renewed_and_removed_by_its_uri() -> None:
    registrar = Registrar()
    register(registrar, request("<sip:a@10.0.0.5;ob>", expires="600"))
    register(registrar, request("<sip:a@10.0.0.5>", expires="600", cseq=2), now=300.0)
    assert registrar.next_expiry() == 900.0
    response = register(registrar, request("<sip:a@10.0.0.5>;expires=0", cseq=3), now=301.0)
    assert response.headers.get_all("Contact") == []


def test_a_star_removes_everything_alone_and_with_no_time_only() -> None:
    registrar = Registrar()
    register(registrar, request("<sip:a@10.0.0.5>", "<sip:b@10.0.0.5>"))
    for wrong in (
        request("*", expires="60", cseq=2),
        request("*", cseq=2),
        request("*", "<sip:a@10.0.0.5>", expires="0", cseq=2),
    ):
        with pytest.raises(PeerError, match="400"):
            register(registrar, wrong)
    register(registrar, request("*", expires="0", cseq=2))
    assert contacts(registrar) == []


@pytest.mark.parametrize("asked", [request("<sip:a@10.0.0.5>;expires=0", cseq=4), request("*", expires="0", cseq=5)])
def test_a_request_that_was_overtaken_changes_nothing(asked: Request) -> None:
    registrar = Registrar()
    register(registrar, request("<sip:a@10.0.0.5>", cseq=5))
    with pytest.raises(PeerError, match="500"):
        register(registrar, asked)
    assert contacts(registrar) == ["sip:a@10.0.0.5"]
    register(registrar, request("*", expires="0", cseq=1, call_id="after a restart".replace(" ", "-")))
    assert contacts(registrar) == []


def test_a_contact_that_is_named_twice_in_one_request_is_bound_once() -> None:
    """RFC 3261 §10.3: the order is that of requests."""
    registrar = Registrar()
    asked = request("<sip:a@10.0.0.5>;expires=60, <sip:a@10.0.0.5>;expires=90", "<sip:b@10.0.0.5>")
    assert len(register(registrar, asked).headers.get_all("Contact")) == 2
    assert [binding.expires_at for binding in registrar.bindings()] == [3600.0, 90.0]


def test_the_latest_ten_are_kept() -> None:
    registrar = Registrar()
    for number in range(MOST_BINDINGS + 3):
        register(registrar, request(f"<sip:a@10.0.0.{number + 1}>", cseq=number + 1), now=float(number))
    assert len(contacts(registrar)) == MOST_BINDINGS
    assert contacts(registrar)[0] == "sip:a@10.0.0.13"
    many = [f"<sip:a@10.0.1.{number}>" for number in range(MOST_BINDINGS + 1)]
    with pytest.raises(PeerError, match="400"):
        register(registrar, request(*many, cseq=99))


def test_the_path_is_kept_in_order_and_told_back() -> None:
    """R41: RFC 3327."""
    registrar = Registrar()
    path = "Path: <sip:edge.example;lr>, <sip:core.example;lr>\r\nPath: <sip:near.example;lr>\r\n"
    response = register(registrar, request("<sip:a@203.0.113.9>", extra=path))
    [binding] = registrar.bindings()
    assert binding.path == ("<sip:edge.example;lr>", "<sip:core.example;lr>", "<sip:near.example;lr>")
    assert binding.flow == UDP  # the proxy that it came through
    assert response.headers.get_all("Path") == [
        "<sip:edge.example;lr>, <sip:core.example;lr>",
        "<sip:near.example;lr>",
    ]


def test_a_contact_behind_nat_is_reached_the_way_it_came() -> None:
    registrar = Registrar()
    register(registrar, request("<sip:a@10.0.0.5:5060>", "<sip:b@203.0.113.9:5070>"))
    flows = {str(binding.contact.user): binding.flow.remote for binding in registrar.bindings()}
    assert flows == {"a": ("203.0.113.9", 61000), "b": ("203.0.113.9", 5070)}


def test_a_lost_connection_loses_what_can_not_be_called_back() -> None:
    registrar = Registrar()
    register(registrar, request("<sip:a@10.0.0.5;transport=tcp>", "<sip:b@203.0.113.9:5070;transport=tcp>"), flow=TCP)
    registrar.flow_lost(Flow("tcp", TCP.local, TCP.remote, connection=2))
    assert len(registrar.bindings()) == 2
    registrar.flow_lost(TCP)
    [left] = registrar.bindings()
    assert left.contact.user == "b"
    assert left.flow == Flow("tcp", TCP.local, ("203.0.113.9", 5070))


@pytest.mark.parametrize("contact", ["<tel:+14155550100>", "<sip:a@10.0.0.5", "<mailto:a@example.com>"])
def test_a_contact_that_can_not_be_called_is_refused(contact: str) -> None:
    with pytest.raises(PeerError, match="400"):
        register(Registrar(), request(contact))


def test_the_headers_of_a_contact_stand_in_no_request_uri() -> None:
    """T13: nor do they become headers of the request."""
    registrar = Registrar()
    register(registrar, request("<sip:a@10.0.0.5;ob?Replaces=x&Diversion=y>"))
    assert registrar.bindings()[0].request_uri == "sip:a@10.0.0.5;ob"


def test_what_has_run_out_is_forgotten() -> None:
    registrar = Registrar()
    register(registrar, request("<sip:a@10.0.0.5>", expires="60"))
    registrar.expire(59.9)
    assert len(registrar.bindings()) == 1
    registrar.expire(60.0)
    assert registrar.bindings() == []
    assert registrar.next_expiry() is None
