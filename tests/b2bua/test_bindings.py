"""A platform that registers with us (D24): how its calls get in, and how calls reach it."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.sip.events import Address
from bridge.sip.message import Request, Response
from tests.b2bua.test_admission import Prover
from tests.harness.network import BRIDGE
from tests.harness.world import NUMBER, PLATFORM, Party, World, sdp

ROAMING: Address = ("20.30.40.50", 61000)


def registered_platform(**peer: Any) -> World:
    """Return a world whose first platform has no host: it is known by its source and registers."""
    account = {"hosts": (), "sources": (f"{ROAMING[0]}/32",), **peer}
    return World(platform={"registers": True}, platform_peer=account)


def register(party: Party, contact: str = "<sip:agent@10.0.0.5:5060>", *, cseq: int = 1, **headers: str) -> Response:
    host, port = party.address
    lines = [
        f"REGISTER sip:{BRIDGE[0]} SIP/2.0",
        f"Via: SIP/2.0/UDP 10.0.0.5:5060;rport;branch={party.branch()}",
        f"From: <sip:agent@{BRIDGE[0]}>;tag=reg",
        f"To: <sip:agent@{BRIDGE[0]}>",
        f"Call-ID: registers-{host}-{port}",
        f"CSeq: {cseq} REGISTER",
        *([f"Contact: {contact}"] if contact else []),
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
        "Max-Forwards: 70",
        "",
        "",
    ]
    party.send("\r\n".join(lines).encode())
    party.network.run(0.1)
    return party.responses("REGISTER")[-1]


def test_a_call_goes_to_the_contact_that_registered_the_way_it_came() -> None:
    world = registered_platform()
    agent = Party(world.network, ROAMING)
    answer = register(agent)
    assert answer.status == 200
    assert answer.headers.get("Contact") == "<sip:agent@10.0.0.5:5060>;expires=3600"
    asked = world.carrier.invite()
    world.run(0.1)
    [offered] = agent.requests("INVITE")
    assert offered.uri == "sip:agent@10.0.0.5:5060"
    assert offered.to.uri.user == NUMBER
    agent.respond(offered, 200, body=sdp((ROAMING[0], 50000)), headers={"Contact": "<sip:agent@10.0.0.5:5060>"})
    world.run(0.1)
    accepted = world.carrier.responses()[-1]
    assert accepted.status == 200
    world.carrier.ack(asked, accepted)
    world.run(0.1)
    assert len(agent.requests("ACK")) == 1
    world.carrier.within("BYE", asked, accepted, 2)
    world.run(0.1)
    assert len(agent.requests("BYE")) == 1
    assert world.bugs() == []


def test_the_path_of_a_registration_is_the_route_of_its_calls() -> None:
    """R41."""
    world = registered_platform()
    agent = Party(world.network, ROAMING)
    answer = register(agent, Path="<sip:edge.example;lr>, <sip:core.example;lr>")
    assert answer.headers.get_all("Path") == ["<sip:edge.example;lr>, <sip:core.example;lr>"]
    world.carrier.invite()
    world.run(0.1)
    [offered] = agent.requests("INVITE")
    assert offered.headers.get_all("Route") == ["<sip:edge.example;lr>", "<sip:core.example;lr>"]


def test_a_call_for_a_platform_that_has_not_registered_moves_on_to_the_next() -> None:
    world = registered_platform()
    world.carrier.invite()
    world.run(0.1)
    assert len(world.sales.requests("INVITE")) == 1


def test_bindings_are_tried_by_their_q_and_the_next_serves_when_one_fails() -> None:
    world = registered_platform(sources=(f"{ROAMING[0]}/32", "203.0.113.10/32"))
    first, second = Party(world.network, ROAMING), Party(world.network, ("203.0.113.10", 5060))
    register(first, "<sip:first@10.0.0.5>;q=0.9")
    register(second, "<sip:second@10.0.0.6>;q=0.5")
    world.carrier.invite()
    world.run(0.1)
    [offered] = first.requests("INVITE")
    assert second.requests("INVITE") == []
    first.respond(offered, 503)
    world.run(0.1)
    assert [request.uri for request in second.requests("INVITE")] == ["sip:second@10.0.0.6"]


def test_a_binding_that_has_run_out_is_not_called() -> None:
    world = registered_platform()
    agent = Party(world.network, ROAMING)
    register(agent, Expires="60")
    world.run(61.0)
    world.carrier.invite()
    world.run(0.1)
    assert agent.requests("INVITE") == []
    assert world.core.trunks()[1]["bindings"] == []


def test_a_register_from_a_peer_that_does_not_register_is_refused() -> None:
    world = registered_platform()
    register(world.carrier)
    assert world.carrier.statuses("REGISTER") == [405]


def test_too_brief_a_registration_is_told_the_least_that_does() -> None:
    world = registered_platform()
    agent = Party(world.network, ROAMING)
    answer = register(agent, Expires="30")
    assert (answer.status, answer.headers.get("Min-Expires")) == (423, "60")


@pytest.mark.parametrize(("required", "status"), [("path", 200), ("gruu, path", 420)])
def test_path_is_the_one_extension_that_a_register_may_require(required: str, status: int) -> None:
    """R41, R17."""
    world = registered_platform()
    answer = register(Party(world.network, ROAMING), Require=required)
    assert answer.status == status


def test_the_api_shows_what_is_bound() -> None:
    world = registered_platform()
    register(Party(world.network, ROAMING), Expires="600")
    [binding] = world.core.trunks()[1]["bindings"]
    assert binding["contact"] == "sip:agent@10.0.0.5:5060"
    assert binding["source"] == "20.30.40.50:61000"
    assert binding["expires_at"].endswith("Z")
    assert world.core.trunks()[0]["bindings"] is None


def test_a_registered_peer_is_probed_where_it_registered_from() -> None:
    """D21, D24."""
    world = World(
        platform={"registers": True, "health": "options"},
        platform_peer={"hosts": (), "sources": (f"{ROAMING[0]}/32",)},
    )
    agent = Party(world.network, ROAMING)

    def alive(message: Request | Response) -> None:
        if isinstance(message, Request):
            agent.respond(message, 200)

    agent.react = alive
    register(agent)
    world.run(100.0)
    assert {request.uri for request in agent.requests("OPTIONS")} == {"sip:agent@10.0.0.5:5060"}
    assert world.core.trunks()[1]["health"]["state"] == "up"
    register(agent, "*", cseq=2, Expires="0")
    asked = len(agent.requests("OPTIONS"))
    world.run(100.0)
    assert len(agent.requests("OPTIONS")) == asked


def test_configured_hosts_serve_while_nothing_is_bound() -> None:
    world = World(platform={"registers": True})
    agent = Party(world.network, PLATFORM)
    world.carrier.invite()
    world.run(0.1)
    assert len(agent.requests("INVITE")) == 1


def test_a_call_outlives_the_binding_that_it_came_by() -> None:
    """D24: from an address that is known by its registration alone."""
    world = registered_platform(sources=(), inbound_username="agent", inbound_password="secret")
    agent = Prover(world.network, ROAMING)
    agent.prove(agent.ask("REGISTER"), "agent", "secret")
    asked = world.carrier.invite()
    world.run(0.1)
    [offered] = agent.requests("INVITE")
    agent.respond(offered, 200, body=sdp((ROAMING[0], 50000)))
    world.run(0.1)
    world.carrier.ack(asked, world.carrier.responses()[-1])
    world.run(3700.0)
    assert world.core.trunks()[1]["bindings"] == []
    agent.within_received("BYE", offered, "far", 2)
    world.run(0.1)
    assert agent.statuses("BYE") == [200]
    world.run(130.0)
    before = len(agent.inbox)
    agent.ask("INVITE")
    assert len(agent.inbox) == before


def test_an_address_is_let_go_though_calls_go_on_elsewhere() -> None:
    """D24, T08: a platform that is never idle would be believed for ever wherever it has been."""
    world = registered_platform(sources=(), inbound_username="agent", inbound_password="secret")
    old, new = Prover(world.network, ROAMING), Prover(world.network, ("20.30.40.51", 61000))
    old.prove(old.ask("REGISTER"), "agent", "secret")
    world.run(3500.0)
    new.prove(new.ask("REGISTER"), "agent", "secret")
    asked = world.carrier.invite()
    world.run(0.1)
    [offered] = new.requests("INVITE")
    new.respond(offered, 200, body=sdp((new.address[0], 50000)))
    world.run(0.1)
    world.carrier.ack(asked, world.carrier.responses()[-1])
    world.run(200.0)
    assert world.core.active == 1
    before = len(old.inbox)
    old.ask("INVITE")
    assert len(old.inbox) == before
