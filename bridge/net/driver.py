"""Drive the core: every input, then every output, then the one timer.

    datagram, relay event, resolution, command, deadline
        → one method of the core
        → drain `Core.poll()`, performing each action here and nowhere else
        → arm one timer from `Core.next_timeout()`

What comes back at once while draining (a relay session, an address that needed no lookup, a refused send) is
one more input, and its outputs join the drain in progress. A bug of ours costs the input that met it, never
the bridge.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from twisted.logger import Logger

from bridge.b2bua.actions import (
    Action,
    CloseSession,
    Command,
    OpenSession,
    Query,
    Record,
    RelabelSession,
    Resolution,
    Resolve,
    TapSession,
    Trace,
    UpdateSession,
)
from bridge.errors import PeerError, RelayError
from bridge.media.relay import Relay, SessionOpened, SessionRefused
from bridge.sip.events import Address, Flow, Transmit

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from bridge.b2bua.core import Core

Observer = Callable[[Trace | Record], None]
Lookup = Callable[[Query, Callable[[Query, Resolution], None]], None]

SHORTEST_DELAY = 0.001
"""Seconds: a deadline that stays in the past must not turn the reactor into a busy loop."""


class Sender(Protocol):
    """One bound listener, seen from the side that sends."""

    def send(self, data: bytes, flow: Flow) -> None:
        """Send one message; raises OSError when the transport refuses it."""


class Driver:
    """Carry bytes, time and events into the core, and its actions out."""

    log = Logger()

    def __init__(
        self,
        core: Core,
        clock: IReactorTime,
        relay: Relay,
        lookup: Lookup,
        senders: Mapping[tuple[str, Address], Sender],
        observers: Sequence[Observer],
    ) -> None:
        self._core = core
        self._clock = clock
        self._relay = relay
        self._lookup = lookup
        self._senders = senders
        self._observers = observers
        self._timer: IDelayedCall | None = None
        self._draining = False
        self._problem = ""

    def start(self) -> None:
        """Let the core begin what waits for nobody: registrations, say."""
        self._arm(self._clock.seconds())

    def receive(self, data: bytes, flow: Flow, waited: float | None = None) -> None:
        """Take one datagram or framed message; ``waited``: for how many seconds, where that is known."""
        self._input(partial(self._core.receive, waited=waited) if waited else self._core.receive, data, flow)

    def transport_failed(self, flow: Flow) -> None:
        """Learn that what was sent on the flow can't arrive."""
        self._input(self._core.transport_failed, flow)

    def flow_lost(self, flow: Flow) -> None:
        """Learn that a connection has ended, and with it what was unanswered on it."""
        self._input(self._core.flow_lost, flow)

    def behind(self, arrears: float) -> None:
        """Learn by how many seconds we are behind."""
        self._core.arrears = arrears

    def rejected(self, reason: str, flow: Flow) -> None:
        """Let the observers know of a peer that was turned away before it could say anything."""
        self._tell(Trace("rejected", self._clock.seconds(), text=reason, flow=flow))

    def resolved(self, query: Query, resolution: Resolution) -> None:
        """Take the answer to a lookup."""
        self._input(self._core.resolved, query, resolution)

    def relay_woke(self) -> None:
        """Take what the relay has to tell."""
        for event in self._relay.events():
            self._input(self._core.relay_event, event)

    def command(self, command: Command) -> str:
        """Obey the operator; return what went wrong in plain words, or an empty string."""
        self._problem = ""
        self._input(self._obey, command)
        return self._problem

    def stop(self) -> None:
        """Let go of the timer."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _obey(self, command: Command, now: float) -> None:
        try:
            self._core.command(command, now)
        except KeyError:
            self._problem = "no live call has this id"
        except PeerError as error:
            self._problem = error.reason

    def _deadline(self) -> None:
        self._timer = None
        self._input(self._core.handle_timeout)

    def _input(self, step: Callable[..., None], *arguments: object) -> None:
        now = self._clock.seconds()
        try:
            step(*arguments, now)
        except Exception:
            self._bug(now)
        if self._draining:
            return
        self._draining = True
        try:
            self._drain(now)
        finally:
            self._draining = False
        self._arm(now)

    def _drain(self, now: float) -> None:
        while True:
            try:
                action = self._core.poll()
            except Exception:
                # Whatever poll() fails on it may fail on again: leave it for the next input.
                self._bug(now)
                return
            if action is None:
                return
            try:
                self._perform(action)
            except Exception:
                self._bug(now)

    def _perform(self, action: Action) -> None:
        match action:
            case Transmit():
                self._send(action)
            case Trace() | Record():
                self._tell(action)
            case UpdateSession():
                self._relay.update(action.session, action.leg, action.media)
            case OpenSession():
                self._input(self._core.relay_event, self._open(action))
            case RelabelSession():
                self._relay.relabel(action.session, action.label)
            case CloseSession():
                self._relay.close(action.session)
            case Resolve():
                self._lookup(action.query, self.resolved)
            case TapSession():
                try:
                    self._relay.tap(action.session, action.path)
                except RelayError as error:
                    self._problem = str(error)

    def _send(self, action: Transmit) -> None:
        try:
            self._senders[action.flow.transport, action.flow.local].send(action.data, action.flow)
        except OSError:
            # The listener has logged it. RFC 3261 §18.4: the transaction is told.
            self.transport_failed(action.flow)

    def _open(self, action: OpenSession) -> SessionOpened | SessionRefused:
        try:
            return self._relay.open(action.session, action.label)
        except Exception:
            # The call waits for an answer: a bug in the relay must refuse it, not hang it.
            self._bug(self._clock.seconds())
            return SessionRefused(action.session, "the relay failed")

    def _bug(self, now: float) -> None:
        self._tell(Trace(kind="bug", at=now, text=traceback.format_exc()))

    def _tell(self, fact: Trace | Record) -> None:
        for observer in self._observers:
            try:
                observer(fact)
            except Exception:
                self.log.failure("An observer failed; the others and the call go on")

    def _arm(self, now: float) -> None:
        due = self._core.next_timeout()
        if due is None:
            # A timer still armed fires once for nothing, which is cheaper than cancelling it each time.
            return
        delay = max(due - now, SHORTEST_DELAY)
        if self._timer is None:
            self._timer = self._clock.callLater(delay, self._deadline)
        elif self._timer.getTime() > now + delay:
            self._timer.reset(delay)
