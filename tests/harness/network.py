"""A network in virtual time: one core, scripted parties around it, seeded delay, loss and reordering.

Time jumps to the next deadline, so a 32-second timer costs nothing; too many steps at one instant fail as a livelock.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from bridge.b2bua.actions import (
    CloseSession,
    Command,
    Hop,
    OpenSession,
    Record,
    RelabelSession,
    Resolution,
    Resolve,
    TapSession,
    Trace,
    UpdateSession,
)
from bridge.b2bua.core import Core
from bridge.media.relay import RelayEvent
from bridge.sip.events import Address, Flow, Transmit
from tests.harness.relay import FakeRelay

BRIDGE: Address = ("127.0.0.1", 5060)
_STEPS_AT_ONE_INSTANT = 10_000


class SeededTokens:
    """Hand out tokens that are the same in every run."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def token(self, bits: int) -> str:
        return f"{self._random.getrandbits(bits):0{bits // 4}x}"


class VirtualNetwork:
    """Deliver datagrams between the core and parties after ``delay`` ± ``jitter`` seconds.

    A share ``loss`` is lost, a share ``duplicates`` comes twice.
    """

    def __init__(
        self,
        core: Core,
        relay: FakeRelay,
        *,
        seed: int = 0,
        delay: float = 0.001,
        jitter: float = 0.0,
        loss: float = 0.0,
        duplicates: float = 0.0,
    ) -> None:
        self.core = core
        self.relay = relay
        self.now = 1000.0
        self.delay, self.jitter, self.loss, self.duplicates = delay, jitter, loss, duplicates
        self.names: dict[str, tuple[str, ...]] = {}
        self.records: list[dict[str, Any]] = []
        self.traces: list[Trace] = []
        self.sent: list[tuple[float, Transmit]] = []
        self._random = random.Random(seed)
        self._parties: dict[Address, Callable[[bytes, Address], None]] = {}
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._order = 0

    # -- what parties use ------------------------------------------------------------------------------------------

    def attach(self, address: Address, deliver: Callable[[bytes, Address], None]) -> None:
        """Let a party receive what is sent to its address."""
        self._parties[address] = deliver

    def detach(self, address: Address) -> None:
        """Make a party vanish without a word."""
        self._parties.pop(address, None)

    def send(self, data: bytes, source: Address, local: Address = BRIDGE) -> None:
        """Send a datagram to the bridge."""
        self._carry(lambda: self._receive(data, Flow("udp", local, source)))

    def at(self, delay: float, act: Callable[[], object]) -> None:
        """Let something happen ``delay`` seconds from now."""
        self._order += 1
        heapq.heappush(self._queue, (self.now + delay, self._order, act))

    # -- the clock -------------------------------------------------------------------------------------------------

    def run(self, for_: float) -> None:
        """Let ``for_`` seconds pass."""
        end = self.now + for_
        steps = 0
        while True:
            deadlines = [self._queue[0][0]] if self._queue else []
            core_at = self.core.next_timeout()
            if core_at is not None:
                deadlines.append(max(core_at, self.now))
            at = min(deadlines, default=end)
            if at > end or not deadlines:
                break
            steps = steps + 1 if at == self.now else 0
            assert steps < _STEPS_AT_ONE_INSTANT, "livelock: nothing moves the clock"
            self.now = at
            if self._queue and self._queue[0][0] <= at:
                heapq.heappop(self._queue)[2]()
            else:
                self.core.handle_timeout(self.now)
                self._drain()
        self.now = end

    def command(self, command: Command) -> None:
        self.core.command(command, self.now)
        self._drain()

    def relay_event(self, event: RelayEvent) -> None:
        self.core.relay_event(event, self.now)
        self._drain()

    def transport_failed(self, flow: Flow) -> None:
        self.core.transport_failed(flow, self.now)
        self._drain()

    def flow_lost(self, flow: Flow) -> None:
        self.core.flow_lost(flow, self.now)
        self._drain()

    # -- the driver's part -----------------------------------------------------------------------------------------

    def _carry(self, act: Callable[[], None]) -> None:
        if self.duplicates and self._random.random() < self.duplicates:
            self.at(self.delay + self._random.uniform(0, self.jitter), act)
        if self._random.random() >= self.loss:
            self.at(self.delay + self._random.uniform(0, self.jitter), act)

    def _receive(self, data: bytes, flow: Flow) -> None:
        self.core.receive(data, flow, self.now)
        self._drain()

    def _drain(self) -> None:
        while (action := self.core.poll()) is not None:
            match action:
                case Transmit():
                    self.sent.append((self.now, action))
                    self._deliver(action)
                case OpenSession(session, label):
                    self.core.relay_event(self.relay.open(session, label), self.now)
                case UpdateSession(session, leg, media):
                    self.relay.update(session, leg, media)
                case RelabelSession(session, label):
                    self.relay.relabel(session, label)
                case CloseSession(session):
                    self.relay.close(session)
                case TapSession(session, path):
                    self.relay.tap(session, path)
                case Resolve(query):
                    transport = query.transport or query.transports[0]
                    hops = tuple(Hop(transport, (ip, query.port or 5060)) for ip in self.names.get(query.host, ()))
                    resolution = Resolution(hops, "" if hops else "no such name")
                    self.at(0.02, lambda query=query, resolution=resolution: self._resolved(query, resolution))  # type: ignore[misc]
                case Record(record):
                    self.records.append(record)
                case Trace():
                    self.traces.append(action)
            for event in self.relay.events():
                self.core.relay_event(event, self.now)

    def _resolved(self, query: Any, resolution: Resolution) -> None:
        self.core.resolved(query, resolution, self.now)
        self._drain()

    def _deliver(self, transmit: Transmit) -> None:
        def arrive() -> None:
            deliver = self._parties.get(transmit.flow.remote)
            if deliver is not None:
                deliver(transmit.data, transmit.flow.local)

        self._carry(arrive)
