"""Whose request it is: digest toward peers that have credentials (D9), and what it costs to guess (T05, T06)."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.b2bua.admission import BANNED_FOR, MOST_ASKED, MOST_FAILURES, STRANGERS_A_SECOND
from bridge.config import Route
from bridge.sip.digest import DigestClient, digest_response
from bridge.sip.events import Address
from bridge.sip.message import Request, Response, parse
from tests.harness.network import BRIDGE, SeededTokens
from tests.harness.world import CARRIER, NUMBER, PLATFORM, SECOND_PLATFORM, Party, World, sdp

STRANGER: Address = ("20.30.40.50", 61000)


class Prover(Party):
    """A party that can answer a challenge; its requests are sent out of dialogs."""

    number = 0

    def ask(
        self, method: str, *, cseq: int = 1, call_id: str | None = None, credentials: str | None = None, to: str = ""
    ) -> Request:
        self.number += 1
        host, port = self.address
        body = sdp((host, 40000)) if method == "INVITE" else b""
        call_id = call_id or f"ask-{host}-{port}-{self.number}"
        lines = [
            f"{method} sip:{NUMBER}@{BRIDGE[0]} SIP/2.0",
            f"Via: SIP/2.0/UDP {host}:{port};rport;branch={self.branch()}",
            f"From: <sip:agent@{host}>;tag=from",
            f"To: <sip:{NUMBER}@{BRIDGE[0]}>{to}",
            f"Call-ID: {call_id}",
            f"CSeq: {cseq} {method}",
            f"Contact: <sip:agent@{host}:{port}>",
            *(["Event: presence"] if method == "SUBSCRIBE" else []),
            *([f"Authorization: {credentials}"] if credentials else []),
            *(["Content-Type: application/sdp"] if body else []),
            "",
            "",
        ]
        data = "\r\n".join(lines).encode() + body
        self.send(data)
        request = parse(data)
        assert isinstance(request, Request)
        self.network.run(0.02)
        return request

    def prove(self, asked: Request, username: str, password: str) -> None:
        """Repeat a request that was challenged, with credentials."""
        challenge = self.last(asked.method)
        assert challenge.status == 401
        header = DigestClient(username, password, SeededTokens(self.number)).authorize(asked, challenge)
        assert header is not None
        if asked.method == "INVITE":
            self.ack(asked, challenge)
        self.ask(asked.method, cseq=asked.cseq.number + 1, call_id=asked.call_id, credentials=header.value)

    def last(self, method: str) -> Response:
        return self.responses(method)[-1]


def guarded(**changes: Any) -> tuple[World, Prover]:
    """Return a world whose platform has credentials for calls to us, and that platform."""
    account = {"inbound_username": "agent", "inbound_password": "secret", **changes.pop("peer", {})}
    world = World(platform_peer=account, **changes)
    return world, Prover(world.network, PLATFORM)


def roaming() -> tuple[World, Prover]:
    """Return a world with a platform that registers from wherever it is, and a stranger."""
    world, _ = guarded(platform={"registers": True}, peer={"hosts": (), "sources": ()})
    return world, Prover(world.network, STRANGER)


def challenge_nonce(challenge: Response) -> str:
    return (challenge.headers.get("WWW-Authenticate") or "").partition('nonce="')[2].partition('"')[0]


def rejected(world: World, reason: str) -> int:
    return sum(trace.kind == "rejected" and trace.text == reason for trace in world.network.traces)


def test_a_peer_with_credentials_is_challenged_with_the_better_algorithm_first() -> None:
    """D9."""
    world, platform = guarded()
    asked = platform.ask("INVITE")
    challenge = platform.last("INVITE")
    assert challenge.status == 401
    algorithms = [
        part for value in challenge.headers.get_all("WWW-Authenticate") for part in ("SHA-256", "MD5") if part in value
    ]
    assert algorithms == ["SHA-256", "MD5"]
    assert world.carrier.requests("INVITE") == []
    platform.prove(asked, "agent", "secret")
    world.run(0.1)
    assert len(world.carrier.requests("INVITE")) == 1
    assert "Authorization" not in world.carrier.requests("INVITE")[0].headers


def test_requests_within_the_dialog_are_not_challenged() -> None:
    """D9."""
    world, platform = guarded()
    platform.prove(platform.ask("INVITE"), "agent", "secret")
    world.run(0.1)
    [offered] = world.carrier.requests("INVITE")
    world.carrier.respond(offered, 200, body=sdp((CARRIER[0], 40000)))
    world.run(0.1)
    accepted = platform.last("INVITE")
    assert accepted.status == 200
    asked = Request("INVITE", "", accepted.headers)
    platform.within("ACK", asked, accepted, 2)
    platform.within("BYE", asked, accepted, 3)
    world.run(0.1)
    assert platform.last("BYE").status == 200


@pytest.mark.parametrize(
    ("method", "status"), [("INVITE", 401), ("REFER", 401), ("SUBSCRIBE", 401), ("REGISTER", 405), ("OPTIONS", 200)]
)
def test_what_begins_something_is_challenged_and_options_are_answered(method: str, status: int) -> None:
    """D9, D21."""
    _world, platform = guarded()
    platform.ask(method)
    statuses = [response.status for response in platform.responses(method) if response.status > 100]
    assert statuses == [status]


def test_a_peer_that_can_not_answer_a_challenge_gets_none() -> None:
    """D9."""
    world, platform = guarded(platform={"answers_challenge": False})
    platform.ask("INVITE")
    world.run(0.1)
    assert len(world.carrier.requests("INVITE")) == 1


@pytest.mark.parametrize(("username", "password"), [("agent", "wrong"), ("nobody", "secret"), ("other", "secret")])
def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(username: str, password: str) -> None:
    """T06."""
    _world, platform = guarded()
    platform.prove(platform.ask("INVITE"), username, password)
    answer = platform.last("INVITE")
    assert (answer.status, answer.reason) == (401, "Unauthorized")
    assert "stale" not in (answer.headers.get("WWW-Authenticate") or "")
    assert sorted(header.name for header in answer.headers) == [
        "CSeq",
        "Call-ID",
        "Content-Length",
        "From",
        "To",
        "Via",
        "WWW-Authenticate",
        "WWW-Authenticate",
    ]


def test_credentials_tell_two_peers_at_one_address_apart() -> None:
    """D9: a shared address."""
    shared = {"sources": (f"{PLATFORM[0]}/32",), "inbound_username": "sales", "inbound_password": "other"}
    world = World(
        platform_peer={"inbound_username": "agent", "inbound_password": "secret"},
        second_platform_peer=shared,
        routes=(Route("out", "support", "*", ("main",)), Route("other", "sales", "*", ("main",))),
    )
    platform = Prover(world.network, PLATFORM)
    for username, password, route in (("agent", "secret", "out"), ("sales", "other", "other")):
        platform.prove(platform.ask("INVITE"), username, password)
        assert world.core.calls()[-1]["route"] == route
    platform.prove(platform.ask("INVITE"), "sales", "secret")
    assert platform.last("INVITE").status == 401


def test_a_peer_without_credentials_may_call_beside_one_that_has_them() -> None:
    """D9: a shared address, one of them trusted by it."""
    world = World(
        platform_peer={"inbound_username": "agent", "inbound_password": "secret"},
        second_platform_peer={"sources": (f"{PLATFORM[0]}/32",)},
        routes=(Route("out", "support", "*", ("main",)), Route("other", "sales", "*", ("main",))),
    )
    platform = Prover(world.network, PLATFORM)
    platform.ask("INVITE")
    assert [call["route"] for call in world.core.calls()] == ["other"]


def test_five_failures_in_a_minute_ban_the_source_for_five_minutes() -> None:
    """T06: a thousand guesses get no more than five answers."""
    world, platform = guarded()
    asked = platform.ask("REFER")
    challenge = platform.last("REFER")
    for guess in range(1000):
        header = DigestClient("agent", f"guess {guess}", SeededTokens(guess)).authorize(asked, challenge)
        assert header is not None
        platform.ask("REFER", credentials=header.value)
    assert len(platform.responses("REFER")) - 1 == MOST_FAILURES
    assert rejected(world, "banned") == 1000 - MOST_FAILURES
    world.run(BANNED_FOR + 1)
    platform.prove(platform.ask("INVITE"), "agent", "secret")
    assert len(world.core.calls()) == 1


def test_the_calls_of_a_banned_source_go_on() -> None:
    """T06: what is banned is guessing."""
    world, platform = guarded()
    world.platform = platform
    established = world.set_up()
    for guess in range(MOST_FAILURES + 1):
        asked = platform.ask("REFER", call_id=f"guess-{guess}")
        if guess < MOST_FAILURES:
            platform.prove(asked, "agent", "wrong")
    assert rejected(world, "banned") == 1
    platform.within_received("BYE", established.offered, "far", 2)
    platform.ask("OPTIONS")
    world.run(0.1)
    assert [response.status for response in platform.responses("BYE")] == [200]
    assert [response.status for response in platform.responses("OPTIONS")] == [200]
    assert len(world.carrier.requests("BYE")) == 1


@pytest.mark.parametrize("changed", [("", ""), ("qop=auth", "qop=auth-int"), (f"@{BRIDGE[0]}", "@elsewhere")])
def test_who_forges_a_peers_address_can_not_get_it_banned(changed: tuple[str, str]) -> None:
    """T06: he never sees a nonce of ours, and guesses for another are none."""
    world, platform = guarded()
    asked = platform.ask("INVITE")
    nonce = challenge_nonce(platform.last("INVITE"))
    header = DigestClient("agent", "wrong", SeededTokens(7)).authorize(asked, platform.last("INVITE"))
    assert header is not None
    forged = header.value.replace(nonce, nonce[::-1]).replace(*changed)
    for _ in range(20):
        platform.ask("REFER", credentials=forged)
    assert rejected(world, "banned") == 0
    platform.prove(platform.ask("INVITE"), "agent", "secret")
    assert len(world.core.calls()) == 1


def test_failures_that_lie_more_than_a_minute_apart_do_not_add_up() -> None:
    """T06."""
    world, platform = guarded()
    for _ in range(3):
        for _ in range(MOST_FAILURES - 1):
            platform.prove(platform.ask("REFER"), "agent", "wrong")
        world.run(61.0)
    assert rejected(world, "banned") == 0


def test_an_unknown_user_costs_the_same_work_as_a_wrong_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """T06: the answer comes as late, so that time tells nobody who is there."""
    _, platform = guarded()
    asked = platform.ask("REFER")
    challenge = platform.last("REFER")
    headers = {
        username: DigestClient(username, "wrong", SeededTokens(1)).authorize(asked, challenge)
        for username in ("agent", "nobody")
    }
    work: list[int] = []

    def counted(*arguments: Any) -> str:
        work[-1] += 1
        return digest_response(*arguments)

    monkeypatch.setattr("bridge.sip.digest.digest_response", counted)
    for header in headers.values():
        assert header is not None
        work.append(0)
        platform.ask("REFER", credentials=header.value)
    assert work == [1, 1]


def test_a_platform_that_roams_registers_by_its_password_and_may_then_call() -> None:
    """D24: from an address that nobody configured."""
    world, platform = roaming()
    platform.ask("INVITE")
    platform.ask("OPTIONS")
    assert platform.inbox == []
    platform.prove(platform.ask("REGISTER"), "agent", "secret")
    assert platform.last("REGISTER").status == 200
    platform.prove(platform.ask("INVITE"), "agent", "secret")
    world.run(0.1)
    assert len(world.carrier.requests("INVITE")) == 1
    world.carrier.invite()
    world.run(0.1)
    assert len(platform.requests("INVITE")) == 1
    world.run(3700.0)
    before = len(platform.inbox)
    platform.ask("INVITE")
    assert len(platform.inbox) == before  # the binding has run out: a stranger again


def test_a_stranger_who_registers_wrongly_is_soon_heard_no_more() -> None:
    """T05, T06."""
    world, stranger = roaming()
    for _ in range(100):
        stranger.ask("REGISTER")
    assert len(stranger.responses("REGISTER")) == MOST_ASKED
    assert rejected(world, "banned") == 100 - MOST_ASKED


def test_a_guessing_stranger_has_five_tries() -> None:
    """T06."""
    _world, stranger = roaming()
    asked = stranger.ask("REGISTER")
    challenge = stranger.last("REGISTER")
    for guess in range(1000):
        header = DigestClient("agent", f"guess {guess}", SeededTokens(guess)).authorize(asked, challenge)
        assert header is not None
        stranger.ask("REGISTER", credentials=header.value)
    assert len(stranger.responses("REGISTER")) - 1 <= MOST_FAILURES


def test_a_crowd_of_strangers_is_looked_at_now_and_then_only() -> None:
    """T05: many addresses, bounded work, bounded memory."""
    world, _ = roaming()
    for number in range(6000):
        source = (f"21.{number // 250}.{number % 250}.7", 5060)
        data = f"REGISTER sip:x SIP/2.0\r\nVia: SIP/2.0/UDP {source[0]};branch=z9hG4bK{number}\r\n"
        data += f"From: <sip:a@x>;tag=1\r\nTo: <sip:a@x>\r\nCall-ID: {number}\r\nCSeq: 1 REGISTER\r\n\r\n"
        world.network.send(data.encode(), source)
    world.run(0.5)
    assert len(world.network.sent) <= 2 * STRANGERS_A_SECOND
    assert len(world.core._admission._suspicions) <= 4096


def test_without_a_roaming_peer_a_stranger_is_not_looked_at() -> None:
    """T05."""
    world, _ = guarded(platform={"registers": True})
    stranger = Prover(world.network, STRANGER)
    for method in ("REGISTER", "INVITE", "OPTIONS"):
        stranger.ask(method)
    assert stranger.inbox == []
    assert rejected(world, "unknown-source") == 3


def test_the_second_platform_is_not_challenged_for_the_first() -> None:
    world, _ = guarded(routes=(Route("out", "sales", "*", ("main",)),))
    Prover(world.network, SECOND_PLATFORM).ask("INVITE")
    assert len(world.core.calls()) == 1
