"""Which call a Call-ID belongs to: while its leg lives, and a little longer, for what comes late.

What has ended is kept in two generations, the younger of which takes the place of the older one: no timer for each, and
no more of them in memory than `MOST` however fast calls are refused (T10).
"""

from __future__ import annotations

GENERATION = 16.0
"""Seconds: a Call-ID is remembered for one to two of these."""
MOST = 8192
"""How many a generation holds before the next one begins early."""


class CallIds:
    """Map Call-IDs to the record ids of their calls."""

    def __init__(self) -> None:
        self._live: dict[str, str] = {}
        self._young: dict[str, str] = {}
        self._old: dict[str, str] = {}
        self.turns_at: float | None = None  # when the next generation begins

    def add(self, call_id: str, record_id: str) -> None:
        """Learn that a leg of a call has this Call-ID."""
        self._live[call_id] = record_id

    def release(self, call_id: str, now: float) -> None:
        """Keep the Call-ID of a leg that has ended for a while."""
        record_id = self._live.pop(call_id, None)
        if record_id is None:
            return
        if len(self._young) >= MOST:
            self.turn(now)
        self._young[call_id] = record_id
        if self.turns_at is None:
            self.turns_at = now + GENERATION

    def turn(self, now: float) -> None:
        """Begin a new generation; the older one is forgotten."""
        self._old, self._young = self._young, {}
        self.turns_at = now + GENERATION if self._old else None

    def get(self, call_id: str) -> str:
        """Return the record id of the call, "" if there is none."""
        return self._live.get(call_id) or self._young.get(call_id) or self._old.get(call_id) or ""

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._live or call_id in self._young or call_id in self._old

    def __len__(self) -> int:
        return len(self._live) + len(self._young) + len(self._old)
