"""Telephone numbers as carriers and platforms write them (D2, D19)."""

from __future__ import annotations

import pytest

from bridge.b2bua.numbers import telephone_number
from tests.harness.world import NUMBER, World


@pytest.mark.parametrize(
    ("user", "number"),
    [
        ("+14155550100", "+14155550100"),
        ("%2B14155550100", "+14155550100"),
        ("+1-415-555-0100", "+14155550100"),
        ("(415)%20555.0100", "4155550100"),
        ("+14155550100;npdi;rn=+14155550000", "+14155550100"),
        ("5550100;phone-context=+1415", "5550100;phone-context=+1415"),  # elsewhere it is another number
        ("support-agent", "support-agent"),
        ("proj_%41;x", "proj_%41;x"),
        ("%EF%BC%91%EF%BC%92", "%EF%BC%91%EF%BC%92"),  # digits, but not those of a telephone
        ("anonymous", "anonymous"),
        ("+", "+"),
        ("", ""),
    ],
)
def test_a_telephone_number_is_read_however_it_is_written(user: str, number: str) -> None:
    assert telephone_number(user) == number


@pytest.mark.parametrize("written", ["%2B14155550100", "+1-415-555-0100", "+14155550100;npdi;rn=+14155550000"])
def test_a_number_finds_its_route_and_gets_its_plus_however_it_is_written(written: str) -> None:
    """D2, D19: RFC 3261 §19.1.4 knows no difference between an escape and its character."""
    world = World(platform={"plus": {"request_uri": "strip", "from": "strip"}})
    world.carrier.invite(written, caller="%2B14155550999")
    world.run(0.05)
    [sent] = world.platform.requests("INVITE")
    assert sent.uri.partition("@")[0] == "sip:14155550100"
    assert sent.from_.uri.user == "14155550999"
    [call] = world.core.calls()
    assert (call["to"], call["from"]) == (NUMBER, "+14155550999")
