"""We register with a carrier that wants it (D24): refreshes, refusals, other hops, and what calls take from it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from bridge.b2bua.actions import Drain
from bridge.config import Host
from bridge.sip.message import Request
from tests.harness.network import BRIDGE
from tests.harness.registrar import ScriptedRegistrar
from tests.harness.world import CARRIER, NUMBER, PLATFORM, Party, World, sdp

SECOND_HOP = ("127.0.0.11", 5060)


def registering(expires: int = 60, grants: int = 60, peer: dict[str, Any] | None = None, **network: Any) -> World:
    """Return a world whose carrier wants us to register; its registrar is ``world.registrar``."""
    world = World(
        carrier={"register": True, "register_expires": expires},
        carrier_peer={"username": "trunk", "password": "secret", **(peer or {})},
        **network,
    )
    world.registrar = ScriptedRegistrar(  # type: ignore[attr-defined]
        world.carrier, username="trunk", password="secret", grants=grants
    )
    return world


def registrar(world: World) -> ScriptedRegistrar:
    return world.registrar  # type: ignore[attr-defined,no-any-return]


def status(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.core.trunks()[0]["registration"]
    return found


def cseqs(requests: list[Request]) -> list[int]:
    return [request.cseq.number for request in requests]


def test_the_first_register_is_challenged_and_answered() -> None:
    world = registering()
    world.run(1.0)
    first, second = registrar(world).requests
    assert first.uri == f"sip:{CARRIER[0]}:{CARRIER[1]}"
    assert str(first.to.uri) == str(first.from_.uri) == f"sip:trunk@{CARRIER[0]}"
    assert first.to.tag is None
    assert first.headers.get("Contact") == f"<sip:trunk@{BRIDGE[0]}:{BRIDGE[1]}>"
    assert first.headers.get("Expires") == "60"
    assert "Authorization" not in first.headers
    assert "Authorization" in second.headers
    assert registrar(world).is_bound()
    assert status(world)["state"] == "registered"
    assert status(world)["last_error"] is None
    assert world.core.registrations() == [("main", "registered")]


@pytest.mark.parametrize("seed", range(3))
def test_a_binding_of_a_minute_is_kept_for_an_hour_under_one_call_id(seed: int) -> None:
    """R25: refreshed at 50 to 90 % of what was granted, never unregistered, though every tenth datagram is lost."""
    world = registering(seed=seed, loss=0.1)
    world.run(3600.0)
    found = registrar(world)
    assert found.is_bound()
    assert found.unbound_for == 0.0
    assert len(found.tries) >= 3600 / 54
    requests = found.requests
    assert len({request.call_id for request in requests}) == 1
    assert cseqs(requests) == sorted(cseqs(requests))


def test_a_refresh_comes_between_half_and_nine_tenths_of_the_time() -> None:
    """R25: and never at the same share of it."""
    world = registering()
    world.run(1800.0)
    tries = registrar(world).tries
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert all(30.0 <= gap <= 54.0 for gap in gaps), gaps
    assert max(gaps) - min(gaps) > 5.0


def test_a_refresh_answers_the_last_challenge_ahead_of_time() -> None:
    world = registering()
    world.run(600.0)
    found = registrar(world)
    assert len(found.requests) == len(found.tries) + 1  # only the very first was challenged


@pytest.mark.parametrize("stale", [True, False])
def test_a_new_nonce_is_answered_whether_or_not_the_old_one_is_called_stale(stale: bool) -> None:
    """R25: a refresh that is challenged again is no refusal of the password."""
    world = registering()
    world.run(1.0)
    found = registrar(world)

    def renewed(request: Request) -> bool:
        if 'nonce="first"' not in (request.headers.get("Authorization") or ""):
            return False
        found.nonce = "second"
        found.challenge(request, stale)
        return True

    found.script = renewed
    world.run(60.0)
    assert found.unbound_for == 0.0
    assert found.is_bound()
    assert status(world)["failing_since"] is None


def test_the_expires_of_the_contact_wins_over_that_of_the_message() -> None:
    """R25: and over somebody else's Contact in the list."""
    world = registering(expires=3600)

    def accept(request: Request) -> bool:
        contact = request.headers.get("Contact")
        listed = f"<sip:other@192.0.2.1>;expires=30, {contact};expires=100"
        world.carrier.respond(request, 200, headers={"Contact": listed, "Expires": "3600"})
        return True

    registrar(world).script = accept
    world.run(200.0)
    first, second = registrar(world).tries[:2]
    assert 50.0 <= second - first <= 90.0


def test_a_time_that_is_too_brief_is_made_longer_at_once() -> None:
    """R25: 423 with Min-Expires."""
    world = registering(expires=60, grants=600)
    found = registrar(world)

    def script(request: Request) -> bool:
        brief = int(request.headers.get("Expires") or 0) < 300 and "Authorization" in request.headers
        if brief:
            found.too_brief(request, 300)
        return brief

    found.script = script
    world.run(1.0)
    assert [request.headers.get("Expires") for request in found.requests] == ["60", "60", "300"]
    world.run(200.0)
    assert found.is_bound()
    assert found.requests[-1].headers.get("Expires") == "300"  # what was learnt is not asked again


def test_a_busy_registrar_is_left_alone_for_as_long_as_it_says() -> None:
    """R25: 503 with Retry-After."""
    world = registering()

    def busy(request: Request) -> bool:
        world.carrier.respond(request, 503, headers={"Retry-After": "40"})
        return True

    registrar(world).script = busy
    world.run(100.0)
    first, second, third = registrar(world).tries[:3]
    assert 40.0 <= second - first <= 45.0
    assert 40.0 <= third - second <= 45.0
    assert status(world)["state"] == "backing-off"
    assert status(world)["last_error"] == "the registrar answered 503 Reason"


@pytest.mark.parametrize("answer", [500, 403, None])
def test_a_registrar_that_refuses_or_is_silent_is_tried_ever_more_seldom(answer: int | None) -> None:
    """R25: at most one try in five seconds, with jitter; and when it comes back we are registered."""
    world = registering()

    def refuse(request: Request) -> bool:
        if answer is not None:
            world.carrier.respond(request, answer)
        return True

    registrar(world).script = refuse
    world.run(1800.0)
    found = registrar(world)
    # Over UDP a silent one hears every REGISTER several times.
    tries = sorted({request.cseq.number: at for at, request in reversed(of_register(world.carrier))}.values())
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert min(gaps) >= 5.0
    assert len(tries) < 20
    assert gaps[-1] > 200.0
    assert status(world)["failing_since"] is not None
    found.script = lambda request: False
    world.run(500.0)
    assert found.is_bound()
    assert status(world)["failing_since"] is None


def of_register(party: Party) -> list[tuple[float, Request]]:
    return [(at, m) for at, m in party.inbox if isinstance(m, Request) and m.method == "REGISTER"]


def test_a_wrong_password_is_offered_once_and_said_in_plain_words() -> None:
    world = registering(peer={"password": "wrong"})
    world.run(40.0)
    assert len(registrar(world).requests) == 2
    assert status(world)["last_error"] == "the registrar refused username or password (401)"


def test_a_failed_refresh_is_made_up_for_before_the_binding_runs_out() -> None:
    """R25: a minute's binding survives a registrar that is busy for ten seconds."""
    world = registering()
    world.run(1.0)
    found = registrar(world)
    until = world.network.now + 50.0

    def busy(request: Request) -> bool:
        if world.network.now < until:
            world.carrier.respond(request, 500)
            return True
        return False

    found.script = busy
    world.run(120.0)
    assert found.unbound_for == 0.0
    assert all(later - earlier >= 5.0 for earlier, later in pairwise(found.tries))


def test_the_hop_that_answered_is_kept_and_its_neighbour_serves_while_it_fails() -> None:
    """D24: a carrier sends calls from the point of presence that we registered with; R25: the others are a refuge."""
    world = registering(peer={"hosts": (Host("pop.example", 0, "udp"),), "sources": ("127.0.0.8/29",)})
    world.network.names["pop.example"] = (CARRIER[0], SECOND_HOP[0])
    neighbour = ScriptedRegistrar(Party(world.network, SECOND_HOP), username="trunk", password="secret")
    home = registrar(world)
    world.run(300.0)
    assert home.is_bound()
    assert neighbour.requests == []
    assert home.requests[0].uri == "sip:pop.example"

    home.script = lambda request: True  # silent
    asked = len(home.requests)
    world.run(200.0)
    assert neighbour.is_bound()
    assert neighbour.requests[0].call_id == home.requests[0].call_id
    assert len(home.requests) > asked

    home.script = lambda request: False
    world.run(600.0)
    assert home.is_bound()
    assert not neighbour.is_bound()
    assert status(world)["registrar"] == f"{CARRIER[0]}:{CARRIER[1]}"


def test_a_registrar_that_can_not_be_found_is_looked_up_again() -> None:
    world = registering(peer={"hosts": (Host("pop.example", 0, "udp"),), "sources": ("127.0.0.8/29",)})
    world.run(2.0)
    assert status(world)["last_error"] == "pop.example can't be found: no such name"
    world.network.names["pop.example"] = (CARRIER[0],)
    world.run(60.0)
    assert registrar(world).is_bound()


def test_the_account_may_name_a_registrar_that_is_no_host_for_calls() -> None:
    world = World(
        carrier={"register": True},
        carrier_peer={"username": "trunk", "password": "secret", "registrar": Host(SECOND_HOP[0], 5060, "udp")},
    )
    found = ScriptedRegistrar(Party(world.network, SECOND_HOP), username="trunk", password="secret", grants=600)
    world.run(1.0)
    assert found.is_bound()
    assert world.carrier.requests("REGISTER") == []


def test_draining_takes_the_binding_back_when_the_last_call_has_ended() -> None:
    world = registering(grants=600, expires=600)
    world.run(1.0)
    call = world.set_up()
    world.network.command(Drain())
    world.run(5.0)
    assert registrar(world).is_bound()
    world.platform.within_received("BYE", call.offered, "far", 2)
    world.run(0.5)
    world.carrier.respond(world.carrier.requests("BYE")[0], 200)
    world.run(3.0)
    last = registrar(world).requests[-1]
    assert last.headers.get("Expires") == "0"
    assert not registrar(world).is_bound()
    assert world.core.registrations() == [("main", "unregistered")]
    assert not world.core.leaving
    asked = len(registrar(world).requests)
    world.run(3600.0)
    assert len(registrar(world).requests) == asked


def test_leaving_waits_a_few_seconds_for_a_registrar_that_says_nothing() -> None:
    world = registering()
    world.run(1.0)
    registrar(world).script = lambda request: True
    world.network.command(Drain())
    world.run(1.0)
    assert world.core.leaving
    world.run(4.0)
    assert not world.core.leaving


def test_the_service_route_leads_our_calls_in_its_order() -> None:
    """R41: RFC 3608."""
    world = registering()
    registrar(world).headers = {"Service-Route": "<sip:edge.example;lr>, <sip:home.example;lr>"}
    world.run(1.0)
    world.platform.invite("+14155550111")
    world.run(0.2)
    [invite] = world.carrier.requests("INVITE")
    assert invite.headers.get_all("Route") == ["<sip:edge.example;lr>", "<sip:home.example;lr>"]
    assert all("Route" not in request.headers for request in registrar(world).requests)


@pytest.mark.parametrize("by", ["To", "P-Called-Party-ID"])
def test_a_call_to_our_contact_is_for_the_number_that_was_dialled(by: str) -> None:
    """D24: a registrar puts the Contact in the Request-URI's place (RFC 3261 §16.5)."""
    world = registering()
    world.run(1.0)
    to = NUMBER if by == "To" else "trunk"
    world.carrier.send(
        (
            f"INVITE sip:trunk@{BRIDGE[0]}:5060 SIP/2.0\r\nVia: SIP/2.0/UDP {CARRIER[0]}:5060;branch=z9hG4bKc1\r\n"
            f"From: <sip:+14155550999@{CARRIER[0]}>;tag=c1\r\nTo: <sip:{to}@{CARRIER[0]}>\r\nCall-ID: c1\r\n"
            f"CSeq: 1 INVITE\r\nContact: <sip:peer@{CARRIER[0]}>\r\nMax-Forwards: 70\r\n"
            + ("" if by == "To" else f"P-Called-Party-ID: <sip:{NUMBER}@{CARRIER[0]}>\r\n")
            + "Content-Type: application/sdp\r\n\r\n"
        ).encode()
        + sdp((CARRIER[0], 40000))
    )
    world.run(0.2)
    assert world.platform.requests("INVITE")[0].to.uri.user == NUMBER


def test_keep_stands_in_no_via_of_ours_and_gets_no_value_from_us() -> None:
    """R54: RFC 6223 is not negotiated from our side, and a peer's offer is left as it came, which declines it."""
    world = registering()
    world.run(1.0)
    world.platform.send(
        (
            f"OPTIONS sip:{BRIDGE[0]} SIP/2.0\r\nVia: SIP/2.0/UDP {PLATFORM[0]}:5060;keep;branch=z9hG4bKo1\r\n"
            f"From: <sip:p@{PLATFORM[0]}>;tag=o1\r\nTo: <sip:{BRIDGE[0]}>\r\nCall-ID: o1\r\nCSeq: 1 OPTIONS\r\n\r\n"
        ).encode()
    )
    world.set_up()
    world.run(0.1)
    sent = [request for party in (world.carrier, world.platform) for request in party.requests("INVITE")]
    assert all(request.via.param("keep") is None for request in [*sent, *registrar(world).requests])
    [answer] = world.platform.responses("OPTIONS")
    assert answer.status == 200
    assert answer.via.param("keep") == ""


def test_the_operator_is_told_once_of_each_change() -> None:
    world = registering()
    found = registrar(world)
    found.script = lambda request: bool(world.carrier.respond(request, 500))
    world.run(60.0)
    found.script = lambda request: False
    world.run(200.0)
    world.network.command(Drain())
    world.run(1.0)
    assert [trace.text for trace in world.network.traces if trace.kind == "trunk"] == [
        "main: can't register: the registrar answered 500 Reason",
        "main: registered",
        "main: no longer registered",
    ]


def test_calls_to_the_carrier_go_first_to_the_hop_that_we_registered_with() -> None:
    """D24: whatever order its name resolves in at the moment."""
    world = registering(peer={"hosts": (Host("pop.example", 0, "udp"),), "sources": ("127.0.0.10/31",)})
    neighbour = Party(world.network, SECOND_HOP)
    world.network.names["pop.example"] = (CARRIER[0], SECOND_HOP[0])
    world.run(1.0)
    world.network.names["pop.example"] = (SECOND_HOP[0], CARRIER[0])
    world.platform.invite("+14155550111")
    world.run(0.2)
    assert len(world.carrier.requests("INVITE")) == 1
    assert neighbour.requests("INVITE") == []
