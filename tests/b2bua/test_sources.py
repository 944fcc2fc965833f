"""Which peers own an address, and for how long (T05, T08, T10)."""

from __future__ import annotations

from bridge.b2bua.actions import Hop
from bridge.b2bua.lookout import Lookout
from bridge.b2bua.routing import MOST_LEARNED, Sources, Target
from bridge.config import Host
from bridge.sip.timers import TimerTable
from tests.harness.world import CARRIER, PLATFORM, World, peer

MAIN = peer("main", "carrier", CARRIER, {})
SUPPORT = peer("support", "platform", PLATFORM, {}, sources=("203.0.113.0/24", "198.51.100.7/32"))


def address(number: int) -> str:
    return f"192.0.2.{number}"


def test_the_longest_prefix_comes_first() -> None:
    sources = Sources([SUPPORT, peer("main", "carrier", CARRIER, {}, sources=("203.0.113.5/32",))])
    assert [owner.name for owner in sources.owners("203.0.113.5")] == ["main", "support"]
    assert [owner.name for owner in sources.owners("203.0.113.6")] == ["support"]
    assert sources.owners("203.0.114.6") == ()


def test_an_address_that_a_name_no_longer_leads_to_is_a_strangers_again() -> None:
    """T05, T08: names of clouds move from address to address, and somebody else gets those they leave."""
    sources = Sources([MAIN, SUPPORT])
    for number in range(200):
        sources.learn(MAIN, address(number))
        sources.learn(MAIN, address(0))  # the one that it always leads to
    trusted = [number for number in range(200) if sources.owners(address(number))]
    assert trusted == [0, *range(200 - MOST_LEARNED + 1, 200)]


def test_what_is_configured_is_never_forgotten() -> None:
    sources = Sources([MAIN, SUPPORT])
    for number in range(200):
        sources.learn(SUPPORT, "198.51.100.7")
        sources.learn(SUPPORT, address(number))
        sources.learn(MAIN, "198.51.100.7")
    assert [owner.name for owner in sources.owners("198.51.100.7")] == ["support", "main"]
    assert sources.owners("203.0.113.9") == (SUPPORT,)


def test_a_peer_that_redirects_to_many_ports_fills_no_memory() -> None:
    """T10: of what a 3xx names nothing is kept."""
    host = Host("sip.example.com", 0, "")
    party = peer("main", "carrier", CARRIER, {}, hosts=(host,))
    lookout = Lookout(World().core._trunks._surroundings, TimerTable())
    for port in range(1, 1000):
        target = Target(party, Host(host.host, port, "udp"), redirect=f"sip:+1415@sip.example.com:{port}")
        lookout.resolved(target, [Hop("udp", (address(1), port))])
    lookout.resolved(Target(party, host), [Hop("udp", (address(1), 5060))])
    assert len(lookout._of_host) == 1
