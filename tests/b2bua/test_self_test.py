"""T08: before it opens, the bridge sees that a stranger's call comes to nothing, and stays shut where it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bridge.b2bua.routing import Sources
from bridge.b2bua.self_test import self_test
from bridge.config import Peer
from tests.harness.network import BRIDGE
from tests.harness.world import World


def tried(world: World) -> str:
    return self_test(world.core, world.config, "udp", BRIDGE, world.network.now)


def test_a_stranger_comes_to_nothing() -> None:
    """T08, T05."""
    world = World()
    assert tried(world) == ""
    assert world.core.poll() is None
    world.assert_idle()


def test_a_bridge_that_takes_strangers_for_a_peer_stays_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    """T08: fails closed."""

    def careless(self: Sources, address: str) -> tuple[Peer, ...]:
        return tuple(self._peers.values())

    world = World()
    monkeypatch.setattr(Sources, "owners", careless)
    assert "a call from 192.0.2.1, which no carrier or platform has, was taken" in tried(world)


def test_an_example_network_of_a_peer_is_passed_over() -> None:
    """T08: a lab may live in 192.0.2.0/24; the call then comes from another network of nobody's."""
    world = World(carrier_peer={"sources": ("192.0.2.0/24", "198.51.100.0/25", "127.0.0.10/32")})
    assert tried(world) == ""
    everyone = replace(world.config.carriers["main"], sources=("0.0.0.0/0",))
    assert self_test(world.core, replace(world.config, carriers={"main": everyone}), "udp", BRIDGE, 1.0) == ""


def test_a_configured_example_network_may_call_and_its_neighbour_not() -> None:
    """T08: 192.0.2.x is refused unless configured."""
    world = World(carrier_peer={"sources": ("192.0.2.0/25",)})
    assert [peer.name for peer in world.core.peers_at("192.0.2.5")] == ["main"]
    assert world.core.peers_at("192.0.2.200") == ()
