"""Timer values of RFC 3261 §17 (table 4), and a table of deadlines with one minimum."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TimerValues:
    """Hold T1 (round trip), T2 (longest interval of repeats) and T4 (longest life of a message in the network)."""

    t1: float = 0.5
    t2: float = 4.0
    t4: float = 5.0

    @property
    def timeout(self) -> float:
        """64*T1: how long a transaction waits for the other side (timers B, D, F, H, J, L, M)."""
        return 64 * self.t1


class TimerTable:
    """Keep deadlines by key. A cancelled entry stays in the heap until it surfaces or outnumbers the live ones.

    Every change leaves a live entry at the top, so that asking for the next deadline only reads.
    """

    __slots__ = ("_heap", "_live", "_order")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Any]] = []
        self._live: dict[Hashable, int] = {}  # key → the order number of the entry that counts
        self._order = 0

    def set(self, key: Hashable, at: float) -> None:
        """Let the key fall due at a time, in place of any other it had."""
        self._order += 1
        moved = key in self._live
        self._live[key] = self._order
        heapq.heappush(self._heap, (at, self._order, key))
        if moved:
            self._settle()

    def cancel(self, key: Hashable) -> None:
        """Forget the key's deadline, if it has one."""
        if self._live.pop(key, None) is not None:
            self._settle()

    def next(self) -> float | None:
        """Return the earliest deadline, None without any."""
        return self._heap[0][0] if self._heap else None

    def pop(self, now: float) -> Any | None:
        """Take out and return the key that fell due first, None when nothing is due by now."""
        if not self._heap or self._heap[0][0] > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._live[key]
        self._settle()
        return key

    def due(self, now: float) -> list[Any]:
        """Take out and return every key that is due by now, in the order of their deadlines."""
        keys: list[Any] = []
        while (key := self.pop(now)) is not None:
            keys.append(key)
        return keys

    def __len__(self) -> int:
        return len(self._live)

    def _settle(self) -> None:
        heap, live = self._heap, self._live
        if len(heap) > 2 * len(live) + 64:
            heap[:] = [entry for entry in heap if live.get(entry[2]) == entry[1]]
            heapq.heapify(heap)
        while heap and live.get(heap[0][2]) != heap[0][1]:
            heapq.heappop(heap)
