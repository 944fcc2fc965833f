"""A relay without sockets: it hands out ports, remembers what it was told, and reports what a test tells it to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bridge.media.relay import (
    LegMedia,
    LegName,
    LegReport,
    LegTotals,
    RelayEvent,
    SessionClosed,
    SessionLabel,
    SessionOpened,
    SessionRefused,
    SessionReport,
)


class FakeRelay:
    """Implement the relay contract in memory: ``capacity`` sessions fit; without ``answers`` no close is reported."""

    def __init__(self, capacity: int = 1000) -> None:
        self.capacity = capacity
        self.answers = True
        self.open_sessions: dict[int, SessionOpened] = {}
        self.media: dict[int, dict[LegName, LegMedia]] = {}
        self.updates: list[tuple[int, LegName, LegMedia]] = []
        self.labels: dict[int, SessionLabel] = {}
        self.taps: dict[int, str | None] = {}
        self.pending: list[RelayEvent] = []
        self.most_open = 0
        self._next_port = 20000

    def open(self, session: int, label: SessionLabel) -> SessionOpened | SessionRefused:
        if len(self.open_sessions) >= self.capacity:
            return SessionRefused(session, "no port pair is free")
        opened = SessionOpened(session, self._next_port, self._next_port + 2)
        self._next_port += 4
        self.open_sessions[session] = opened
        self.labels[session] = label
        self.media[session] = {}
        self.most_open = max(self.most_open, len(self.open_sessions))
        return opened

    def update(self, session: int, leg: LegName, media: LegMedia) -> None:
        if session in self.open_sessions:
            self.media[session][leg] = media
            self.updates.append((session, leg, media))

    def relabel(self, session: int, label: SessionLabel) -> None:
        self.labels[session] = label

    def close(self, session: int) -> None:
        if self.open_sessions.pop(session, None) is not None and self.answers:
            empty = LegReport()
            self.pending.append(SessionClosed(session, SessionReport(empty, empty)))

    def tap(self, session: int, path: str | None) -> None:
        self.taps[session] = path

    def snapshot(self, session: int) -> SessionReport | None:
        return None

    def events(self) -> Sequence[RelayEvent]:
        events, self.pending = self.pending, []
        return events

    def totals(self) -> Mapping[SessionLabel, Mapping[LegName, LegTotals]]:
        return {}

    def ports(self) -> tuple[int, int]:
        return 4 * len(self.open_sessions), 4 * self.capacity

    def faults(self) -> tuple[int, int]:
        return 0, 0

    def stop(self) -> None:
        self.open_sessions.clear()
