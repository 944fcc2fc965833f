"""Names are looked up once for all who wait, never for longer than the deadline; literals need no lookup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHostnameResolver
from twisted.internet.task import Clock
from zope.interface import implementer

from bridge.b2bua.actions import Hop, Query, Resolution
from bridge.net.dns import DEADLINE, Resolver


@implementer(IHostnameResolver)
class ScriptedNames:
    """Hold the receivers of lookups until a test answers them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.families: Sequence[Any] | None = None
        self.receivers: list[Any] = []

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[Any] | None = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        self.asked.append(hostName)
        self.families = addressTypes
        self.receivers.append(resolutionReceiver)
        return resolutionReceiver

    def answer(self, *hosts: str) -> None:
        receiver = self.receivers.pop(0)
        for host in hosts:
            kind = IPv6Address if ":" in host else IPv4Address
            receiver.addressResolved(kind("UDP", host, 0))
        receiver.resolutionComplete()


class Desk:
    def __init__(self) -> None:
        self.names = ScriptedNames()
        self.clock = Clock()
        self.resolver = Resolver(self.names, self.clock, [IPv4Address])
        self.answers: list[tuple[int, Resolution]] = []

    def ask(self, number: int, host: str, port: int | None = None, transport: str = "udp") -> None:
        self.resolver.resolve(Query(number, host, port, transport), lambda query, r: self.answers.append((query.id, r)))


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize(
    ("host", "port", "transport", "address"),
    [
        ("192.0.2.7", 5070, "udp", ("192.0.2.7", 5070)),
        ("192.0.2.7", None, "udp", ("192.0.2.7", 5060)),
        ("192.0.2.7", None, "tls", ("192.0.2.7", 5061)),
        ("[2001:db8::1]", None, "tcp", ("2001:db8::1", 5060)),
    ],
)
def test_an_address_literal_is_answered_at_once(
    desk: Desk, host: str, port: int | None, transport: str, address: tuple[str, int]
) -> None:
    desk.ask(1, host, port, transport)
    assert desk.answers == [(1, Resolution((Hop(transport, address),)))]
    assert desk.names.asked == []


def test_a_name_is_answered_with_its_addresses_in_order_and_once_each(desk: Desk) -> None:
    desk.ask(1, "sip.example.com", 5080)
    assert desk.answers == []
    desk.names.answer("192.0.2.2", "192.0.2.1", "192.0.2.2")
    assert desk.answers == [(1, Resolution((Hop("udp", ("192.0.2.2", 5080)), Hop("udp", ("192.0.2.1", 5080)))))]
    assert desk.names.families == (IPv4Address,)
    assert not desk.clock.getDelayedCalls()


def test_calls_to_one_name_share_one_lookup(desk: Desk) -> None:
    for number in range(5):
        desk.ask(number, "sip.example.com")
    assert desk.names.asked == ["sip.example.com"]
    desk.names.answer("192.0.2.1")
    assert [number for number, _ in desk.answers] == [0, 1, 2, 3, 4]
    desk.ask(5, "sip.example.com")
    assert len(desk.names.asked) == 2, "a later call asks again: the system resolver knows what is still true"


def test_a_name_without_address_is_a_problem_in_plain_words(desk: Desk) -> None:
    desk.ask(1, "nowhere.example.com")
    desk.names.answer()
    assert desk.answers == [(1, Resolution((), "nowhere.example.com has no address"))]


def test_f11_a_dead_resolver_costs_three_seconds_and_its_late_answer_nothing(desk: Desk) -> None:
    """F11: DNS that does not answer never blocks; the call is told within the deadline."""
    desk.ask(1, "slow.example.com")
    desk.clock.advance(DEADLINE - 0.01)
    assert desk.answers == []
    desk.clock.advance(0.02)
    assert desk.answers == [(1, Resolution((), "looking up slow.example.com took longer than 3 s"))]
    desk.names.answer("192.0.2.1")
    assert len(desk.answers) == 1
