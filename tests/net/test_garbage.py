"""Full collections happen where they cost little, and else rarely."""

from __future__ import annotations

from twisted.internet.task import Clock

from bridge.net.garbage import LONGEST, LOOK_EVERY, MOST_PASSES, PASS, SHORT, Collector


class Bin:
    """A heap that takes ``takes`` seconds to look through."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.passes = 0
        self.takes = 0.0
        self.collected_at: list[float] = []
        self.collector = Collector(self.clock, lambda: self.passes, self.collect)
        self.collector._call = self.clock.callLater(LOOK_EVERY, self.collector._look)

    def collect(self) -> None:
        self.collected_at.append(self.clock.seconds())
        self.clock.rightNow += self.takes
        self.passes = 0

    def look(self, times: int = 1) -> int:
        before = len(self.collected_at)
        for _ in range(times):
            self.clock.advance(LOOK_EVERY)
        return len(self.collected_at) - before


def test_a_small_heap_is_collected_soon_and_an_unchanged_one_not_at_all() -> None:
    bin_ = Bin()
    assert bin_.look(5) == 0
    bin_.passes = 1
    assert bin_.look() == 1
    assert bin_.look(5) == 0


def test_what_would_stall_calls_waits_until_it_fills_the_memory() -> None:
    """T10: no pause of the collector's while calls are on their way."""
    bin_ = Bin()
    bin_.passes = int(SHORT / PASS) + 1
    assert bin_.look(10) == 0
    bin_.passes = MOST_PASSES
    bin_.takes = 1.0
    assert bin_.look() == 1
    bin_.passes = 1  # little is new, but all that lives is looked at
    assert bin_.look(10) == 0
    assert bin_.look(int(LONGEST / LOOK_EVERY)) == 1


def test_a_collection_that_has_become_short_is_had_again() -> None:
    bin_ = Bin()
    bin_.passes, bin_.takes = MOST_PASSES, 1.0
    bin_.look()
    bin_.passes, bin_.takes = MOST_PASSES, SHORT / 4
    bin_.look()
    bin_.passes = 1
    assert bin_.look() == 1
    bin_.collector.stop()
    assert not bin_.clock.getDelayedCalls()
