"""Where requests within a dialog go: route set and remote target (D16), over the connection that lives (D17)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bridge.b2bua.actions import Hop, Query, Resolution
from bridge.b2bua.next_hop import NextHop
from bridge.sip.dialog import Dialog
from bridge.sip.events import Address, Flow
from bridge.sip.message import Request, parse

V4, V6 = ("192.0.2.1", 5060), ("2001:db8::1", 5060)


class Finder:
    """Have a UDP and a TLS listener on IPv4 and a UDP one on IPv6; remember what is asked."""

    def __init__(self) -> None:
        self.asked: list[Query] = []

    def flow_to(self, transport: str, address: Address, name: str) -> Flow | None:
        if ":" in address[0]:
            return Flow("udp", V6, address, name=name) if transport == "udp" else None
        return Flow(transport, V4, address, name=name) if transport in ("udp", "tls") else None

    def look_up(self, asker: NextHop, query: Query) -> None:
        self.asked.append(query)


def dialog(contact: str, *record_routes: str) -> Dialog:
    lines = [
        "INVITE sip:x@192.0.2.1 SIP/2.0",
        "Via: SIP/2.0/UDP 93.184.216.1;branch=z9hG4bKx",
        *(f"Record-Route: {route}" for route in record_routes),
        "From: <sip:a@b>;tag=1",
        "To: <sip:x@y>",
        "Call-ID: c",
        "CSeq: 1 INVITE",
        f"Contact: <{contact}>",
        "Content-Length: 0",
    ]
    request = parse(("\r\n".join(lines) + "\r\n\r\n").encode())
    assert isinstance(request, Request)
    return Dialog.uas(request, "us", "<sip:us@192.0.2.1>")


def reached(hop: NextHop, to: Dialog) -> Flow:
    flows: list[Flow] = []
    hop.deliver(to, lambda flow, now: flows.append(flow), 0.0)
    [flow] = flows
    return flow


TLS = Flow("tls", V4, ("93.184.216.1", 5061), connection=7, name="sip.example.com")
UDP = Flow("udp", V4, ("93.184.216.1", 5060))


@pytest.mark.parametrize(
    ("flow", "contact", "routes", "expected"),
    [
        pytest.param(UDP, "sip:a@93.184.216.9:5070", (), Flow("udp", V4, ("93.184.216.9", 5070)), id="remote target"),
        pytest.param(UDP, "sip:a@10.1.2.3", (), UDP, id="a private Contact without routes yields to the packet source"),
        pytest.param(
            UDP,
            "sip:a@10.1.2.3",
            ("<sip:93.184.216.4;lr>",),
            Flow("udp", V4, ("93.184.216.4", 5060)),
            id="D16: with a route set nothing else counts",
        ),
        pytest.param(
            TLS,
            "sip:a@93.184.216.1:5061;transport=tls",
            (),
            TLS,
            id="D17: the same host is reached over the connection that lives",
        ),
        pytest.param(
            TLS,
            "sip:a@93.184.216.1:5063;transport=tls",
            (),
            Flow("tls", V4, ("93.184.216.1", 5063), 7, "sip.example.com"),
            id="and dialled at its own port when that is gone",
        ),
        pytest.param(
            TLS, "sip:a@SIP.example.com;transport=tls", (), TLS, id="O5: the shared name means this connection"
        ),
        pytest.param(
            TLS,
            "sip:a@93.184.216.77;transport=tls",
            (),
            Flow("tls", V4, ("93.184.216.77", 5061), name="sip.example.com"),
            id="E1: another node is another connection",
        ),
        pytest.param(TLS, "sip:a@93.184.216.1", (), TLS, id="a Contact that names no transport means the one in use"),
        pytest.param(
            TLS, "sip:a@93.184.216.8;transport=udp", (), Flow("udp", V4, ("93.184.216.8", 5060)), id="another transport"
        ),
        pytest.param(UDP, "sip:a@[2606:4700::5]", (), Flow("udp", V6, ("2606:4700::5", 5060)), id="another family"),
        pytest.param(
            TLS, "sip:a@93.184.216.8;transport=sctp", (), TLS, id="a transport we have not: where it came from"
        ),
    ],
)
def test_requests_within_a_dialog_go(flow: Flow, contact: str, routes: tuple[str, ...], expected: Flow) -> None:
    assert reached(NextHop(flow, Finder()), dialog(contact, *routes)) == expected


def test_a_name_is_looked_up_once_and_what_waits_for_it_goes_out_in_order() -> None:
    finder = Finder()
    hop = NextHop(TLS, finder)
    to = dialog("sip:a@node7.example.com;transport=tls")
    sent: list[tuple[str, Flow]] = []
    hop.deliver(to, lambda flow, now: sent.append(("ACK", flow)), 0.0)
    hop.deliver(to, lambda flow, now: sent.append(("BYE", flow)), 0.1)
    assert sent == []
    [query] = finder.asked
    assert (query.host, query.port, query.transport) == ("node7.example.com", None, "tls")
    hop.resolved(query, Resolution((Hop("tls", ("93.184.216.70", 5061)),)), 0.2)
    node = Flow("tls", V4, ("93.184.216.70", 5061), name="node7.example.com")
    assert sent == [("ACK", node), ("BYE", node)]
    hop.deliver(to, lambda flow, now: sent.append(("INFO", flow)), 0.3)
    assert sent[-1] == ("INFO", node)
    assert len(finder.asked) == 1


def test_a_name_without_an_address_is_reached_where_the_peer_is_and_asked_for_again() -> None:
    finder = Finder()
    hop = NextHop(UDP, finder)
    to = dialog("sip:a@gone.example.com")
    sent: list[Flow] = []
    hop.deliver(to, lambda flow, now: sent.append(flow), 0.0)
    hop.resolved(finder.asked[0], Resolution((), "no such name"), 0.1)
    assert sent == [UDP]
    hop.deliver(to, lambda flow, now: sent.append(flow), 1.0)
    assert len(finder.asked) == 2


def test_the_connection_that_the_peer_speaks_over_is_the_one_to_use() -> None:
    hop = NextHop(Flow("tcp", V4, ("93.184.216.1", 5060)), Finder())
    hop.heard(Flow("tcp", V4, ("93.184.216.1", 40000), connection=12))
    assert reached(hop, dialog("sip:a@93.184.216.1:5060;transport=tcp")).connection == 12


def test_d14_a_tls_connection_that_came_proves_no_name_and_is_not_taken_for_one_that_was_asked_for() -> None:
    """D14, RFC 5923 §5: whoever shares the peer's address could open it, and would get our keys by the next offer."""
    called = Flow("tls", V4, ("93.184.216.1", 5061), connection=4, name="sip.example.com")
    hop = NextHop(called, Finder())
    hop.heard(Flow("tls", V4, ("93.184.216.1", 40000), connection=12))
    to = dialog("sip:a@93.184.216.1:5061;transport=tls")
    assert reached(hop, to) == called
    hop.heard(replace(called, connection=13))
    assert reached(hop, to).connection == 13, "one of ours does"


def test_d17_a_bare_address_in_the_route_of_a_tls_peer_has_to_prove_the_name_of_the_account() -> None:
    """D17, T9: what reaped its connection is dialled by name, for SNI and certificate."""
    inbound = Flow("tls", V4, ("54.172.60.1", 31000), connection=3)
    hop = NextHop(inbound, Finder(), "example.pstn.twilio.com")
    flow = reached(hop, dialog("sip:a@10.0.0.9:5061;transport=tls", "<sip:54.172.60.1:5061;transport=tls;lr>"))
    assert flow == Flow("tls", V4, ("54.172.60.1", 5061), 3, "example.pstn.twilio.com")
