"""Relays under test. Every backend gets the same contract tests: add its class to BACKENDS."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from typing import TypeVar

import pytest

from bridge.media.native_relay import NativeRelay
from bridge.media.relay import LegName, LegReport, RelayEvent, SessionLabel, SessionOpened
from tests.media.peer import DEADLINE, Peer, eventually, media

BACKENDS = [NativeRelay]
RELAY_HOST = "127.0.0.9"
LABEL = SessionLabel("main", "support")

Event = TypeVar("Event", bound=RelayEvent)


class Bench:
    """A relay, its wake-up descriptor, and the peers around it."""

    def __init__(self, backend: type[NativeRelay]) -> None:
        self._backend = backend
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._peers: list[Peer] = []
        self._relays: list[NativeRelay] = []
        self._events: list[RelayEvent] = []

    def start(
        self, ports: tuple[int, int] = (40_000, 40_399), quarantine: float = 0.2, host: str = RELAY_HOST
    ) -> NativeRelay:
        self.host = {"0.0.0.0": "127.0.0.1"}.get(host, host)
        self.relay = self._backend(host, ports, 2, self.wake, quarantine)
        self._relays.append(self.relay)
        return self.relay

    def peer(self, host: str) -> Peer:
        peer = Peer(host)
        self._peers.append(peer)
        return peer

    def event(self, kind: type[Event], deadline: float = DEADLINE) -> Event:
        """Return the next event of a kind; the descriptor must have been signalled for it."""
        until = time.monotonic() + deadline
        while True:
            for event in self._events:
                if isinstance(event, kind):
                    self._events.remove(event)
                    return event
            left = until - time.monotonic()
            assert left > 0, f"no {kind.__name__} came"
            if select.select([self.wake], [], [], left)[0]:
                os.eventfd_read(self.wake)
                self._events.extend(self.relay.events())

    def close(self) -> None:
        for relay in self._relays:
            relay.stop()
        for peer in self._peers:
            peer.close()
        os.close(self.wake)


class Call:
    """One session with a carrier and a platform peer; both legs negotiated on request."""

    def __init__(self, bench: Bench, session: int = 1, hosts: tuple[str, str] = ("127.0.0.2", "127.0.0.3")) -> None:
        self.bench = bench
        self.relay = bench.relay
        self.session = session
        self.carrier = bench.peer(hosts[0])
        self.platform = bench.peer(hosts[1])
        opened = self.relay.open(session, LABEL)
        assert isinstance(opened, SessionOpened)
        self.opened = opened

    def negotiate(self, fill_after_ms: int | None = None) -> Call:
        self.relay.update(self.session, LegName.CARRIER, media(self.carrier.address, fill_after_ms=fill_after_ms))
        self.relay.update(self.session, LegName.PLATFORM, media(self.platform.address, fill_after_ms=fill_after_ms))
        return self

    def send(self, leg: LegName, data: bytes, peer: Peer | None = None) -> None:
        """Send to a leg's RTP port, from that leg's peer unless another is named."""
        own = self.carrier if leg is LegName.CARRIER else self.platform
        (peer or own).rtp.sendto(data, self.address(leg))

    def address(self, leg: LegName) -> tuple[str, int]:
        return self.bench.host, self.opened.port(leg)

    def report(self, leg: LegName) -> LegReport:
        report = self.relay.snapshot(self.session)
        assert report is not None
        return report.leg(leg)

    def refused(self, leg: LegName, reason: str, count: int) -> None:
        """Wait until a leg has refused ``count`` packets for a reason."""
        eventually(lambda: self.report(leg).refused.get(reason, 0) >= count)
        assert self.report(leg).refused[reason] == count


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.__name__)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(request.param)
    yield bench
    bench.close()


@pytest.fixture
def call(bench: Bench) -> Call:
    """A call that is open and not negotiated yet."""
    bench.start()
    return Call(bench)
