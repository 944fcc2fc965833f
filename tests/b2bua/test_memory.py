"""What a call leaves behind goes with its last timer: nothing waits for the garbage collector, which seldom comes."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable

import pytest

from tests.harness.world import World


def refused(world: World) -> None:
    asked = world.carrier.invite(number="+999")
    world.run(0.1)
    world.carrier.ack(asked, world.carrier.responses()[-1])


def ended(world: World) -> None:
    call = world.set_up()
    world.carrier.within("BYE", call.asked, call.accepted, 2)
    world.run(0.1)
    world.platform.respond(world.platform.requests("BYE")[-1], 200)


def abandoned(world: World) -> None:
    asked = world.carrier.invite()
    world.run(0.1)
    world.platform.respond(world.platform.requests("INVITE")[-1], 180)
    world.run(0.1)
    world.carrier.cancel(asked)
    world.run(0.1)
    world.platform.respond(world.platform.requests("CANCEL")[-1], 200)
    world.platform.respond(world.platform.requests("INVITE")[-1], 487)


@pytest.mark.parametrize("play", [refused, ended, abandoned])
def test_t10_t19_a_call_leaves_nothing_to_the_garbage_collector(play: Callable[[World], None]) -> None:
    """T10, T19: cycles would add up to hundreds of megabytes before the collector looks at what is old."""
    world = World()
    play(world)
    world.run(100.0)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        play(world)
        world.run(100.0)
        world.network.core.handle_timeout(world.network.now)  # the next input, whatever it is
        world.network.traces.clear()
        gc.collect()
        left = Counter(type(thing).__name__ for thing in gc.garbage if type(thing).__module__.startswith("bridge."))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left
    assert world.bugs() == []
