"""Let Python's garbage collector work when a pause costs nothing.

What a call leaves behind lives on for 32 s (64*T1) and is freed without the collector's help: a test sees to it that
ended calls make no cycles. The collector would look at all of it again and again in vain, for half a microsecond an
object: at 400 calls a second pauses of a tenth of a second every few seconds, and now and then of a whole one.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

YOUNG = 10_000
"""Objects made since the last pass over the young ones, which takes 3 ms and stays Python's business."""
NEVER = 1_000_000_000
LOOK_EVERY = 10.0
SHORT = 0.05
"""Seconds that a full collection may take at any time: a tenth of T1."""
PASS = 0.007
"""Seconds by which a full collection takes longer for each pass since the last one."""
MOST_PASSES = 500
"""After which a full collection is due however long it takes, for what it could free may fill the memory."""
LONGEST = 1800.0


class Collector:
    """Look every few seconds whether a full collection is worth its pause."""

    def __init__(
        self,
        clock: IReactorTime,
        passes: Callable[[], int] = lambda: gc.get_count()[1],
        collect: Callable[[], object] = gc.collect,
    ) -> None:
        """``passes`` counts the passes over young objects since the last full collection."""
        self._clock = clock
        self._passes = passes
        self._collect = collect
        self._took = 0.0
        self._collected_at = clock.seconds()
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Take over. What lives now lives until the end and is not looked at again."""
        gc.freeze()
        gc.set_threshold(YOUNG, NEVER, NEVER)
        self._call = self._clock.callLater(LOOK_EVERY, self._look)

    def stop(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _look(self) -> None:
        passes, since = self._passes(), self._clock.seconds() - self._collected_at
        short = self._took + passes * PASS <= SHORT
        if passes and (short or passes >= MOST_PASSES or since >= LONGEST):
            begun = self._clock.seconds()
            self._collect()
            self._collected_at = self._clock.seconds()
            self._took = self._collected_at - begun
        self._call = self._clock.callLater(LOOK_EVERY, self._look)
