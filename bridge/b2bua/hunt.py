"""A hunt: one target after the other, one hop of it after the other, until somebody answers.

A call hunts for its callee, a transfer for the party it brings the caller to. The one that hunts (`Hunter`) makes the
offer for each target and says what the answer of the leg that is being tried means.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from bridge.b2bua.actions import Hop, Query, Resolution, Resolve, Trace
from bridge.b2bua.control import Cause
from bridge.b2bua.exchange import Exchange, Timer
from bridge.b2bua.leg import Leg
from bridge.b2bua.limits import Dial, limit_reached
from bridge.b2bua.record import Attempt, Reason, reason_of
from bridge.b2bua.routing import UNREGISTERED, Dialled, Invitation, Target, invitation, redirected
from bridge.config import Peer
from bridge.errors import PeerError
from bridge.literals import is_address
from bridge.media.relay import LegName
from bridge.sdp.session import Description
from bridge.sip.message import REASONS, Header

if TYPE_CHECKING:
    from bridge.b2bua.call import Call


MOST_REDIRECTS = 5  # that one hunt follows


class Hunter(Protocol):
    """The one for whom a hunt looks for somebody."""

    def offer(self, peer: Peer) -> Description:
        """Return our offer to one target. Raises PeerError where nothing is common."""

    def trying(self, leg: Leg, invitation: Invitation, now: float) -> None:
        """Learn that the INVITE of an attempt is out."""

    def nobody(self, cause: Cause, reason: Reason, now: float) -> None:
        """Learn that nobody answers: no target is left, or the last one's refusal ends the hunt."""


class Hunt:
    """Try targets in order for one call. ``leg`` is the attempt in progress, and the answered one in the end.

    ``name`` is the side of the relay session that the answerer will have; ``attempts`` takes a note of each.
    """

    def __init__(
        self,
        call: Call,
        exchange: Exchange,
        hunter: Hunter,
        name: LegName,
        asked: Dialled,
        targets: Iterable[Target],
        attempts: list[Attempt],
    ) -> None:
        self.leg: Leg | None = None
        self._call = call
        self._exchange = exchange
        self._hunter = hunter
        self._name = name
        self._asked = asked
        self._targets = exchange.trunks.reached(targets)
        self._followed: set[str] = set()  # the URIs of 3xx
        self._paced: list[Target] = []  # those whose calls a second were used up
        self._hops: list[Hop] = []  # of the target at hand, still to be tried
        self._attempts = attempts
        self._target: Target | None = None
        self._began_at = 0.0
        self._query: int | None = None
        self._last = Cause(503, "Service Unavailable"), Reason.FAR_FAILURE

    def next_target(self, now: float) -> None:
        """Begin with the next target; without one the hunt is over.

        A target whose calls a second are used up waits until no other is left, then for its turn (D13).
        """
        while self._targets or self._paced:
            waiting = not self._targets
            best = 0 if waiting else self._exchange.trunks.best(self._targets, now)
            target = self._target = (self._paced if waiting else self._targets).pop(best)
            self._began_at = now
            if waiting:
                if self._exchange.limits.wait(self._call.record.id, target.peer, self._turn, now):
                    return
                self._refused("cps", now)
            elif self._admitted(target, now):
                self._begin(target, now)
                return
        self._hunter.nobody(*self._last, now)

    def _turn(self, now: float) -> None:
        target = self._target
        assert target is not None
        if self._admitted(target, now, waited=True):
            self._begin(target, now)
        else:
            self.next_target(now)

    def _admitted(self, target: Target, now: float, waited: bool = False) -> bool:
        """Take a place at the target's account, if its rules and limits have one (T09)."""
        if not target.permits(self._asked.number):
            self._refused("destination", now, 403, Reason.FORBIDDEN)
            return False
        verdict = self._exchange.limits.dial(self._call.record.id, target.peer, now, waited)
        if verdict is Dial.LATER:
            self._paced.append(target)
        elif verdict is not Dial.NOW:
            self._refused(verdict, now)
        return verdict is Dial.NOW

    def _refused(self, limit: str, now: float, status: int = 503, reason: Reason = Reason.LIMIT) -> None:
        assert self._target is not None
        self._note(status, now)
        self._last = Cause(status, REASONS[status]), reason
        self._exchange.act(limit_reached(limit, self._call.record, self._target.peer, now))

    def _begin(self, target: Target, now: float) -> None:
        host = target.host.host
        if target.host == UNREGISTERED:
            self.failed(Cause(503, "Not Registered"), now)
        elif target.binding is not None:
            self._hops = [Hop(target.binding.flow.transport, target.binding.flow.remote)]
            self._next_hop(now)
        elif is_address(host):
            self._hops = [Hop(target.transport, (host.strip("[]"), target.port))]
            self._next_hop(now)
        else:
            self._query = self._exchange.query_id(self._call)
            self._exchange.act(Resolve(target.query(self._query)))

    def resolved(self, query: Query, resolution: Resolution, now: float) -> None:
        """Take the addresses of the target that is being looked up."""
        if query.id != self._query or self._target is None:
            return
        self._query = None
        for hop in resolution.hops:
            self._exchange.learn(self._target.peer, hop.address[0])
        if resolution.hops:
            self._hops = self._exchange.trunks.in_order(self._target, resolution.hops, now)
            self._next_hop(now)
        else:
            self.failed(Cause(503, f"Unresolvable: {resolution.problem}"), now)

    def timeout(self, timer: Timer, now: float) -> None:
        """Give up the attempt that has not answered, or not even responded, in time."""
        leg = self.leg
        if leg is None:
            return
        if timer is Timer.RING:
            self.stop(Cause(480, "No Answer"), (), now, status=480)
            self._hunter.nobody(Cause(480, "No Answer"), Reason.NO_ANSWER, now)
        elif not leg.responded:
            cause = Cause(408, "No Response")
            self._exchange.trunks.failed(leg.peer, leg.flow, now)
            leg.hang_up(cause, (), now)
            self.failed(cause, now)

    def failed(self, cause: Cause, now: float, contacts: tuple[str, ...] = ()) -> None:
        """Move to the next target where the profile says so; else the hunt is over (D12).

        ``contacts`` of a 3xx come first where they lead to the same account (T09).
        """
        assert self._target is not None
        self.leg = None
        self._note(cause.status, now)
        self._last = cause, reason_of(cause.status)
        self._stop_timers()
        onward = self._onward(contacts, self._target)
        again = cause.status in self._target.peer.profile.retry
        if again and self._hops and not onward:
            self._next_hop(now)
            return
        self._exchange.limits.left(self._call.record.id, self._target.peer, now)
        if onward:
            self._hops, self._targets = [], onward + self._targets
        if onward or again:
            self.next_target(now)
        else:
            self._hunter.nobody(*self._last, now)

    def _onward(self, contacts: tuple[str, ...], target: Target) -> list[Target]:
        """Return where a 3xx leads that was not tried before, a few times (RFC 3261 §8.1.3.4)."""
        onward = [one for one in redirected(contacts, target) if one.redirect not in self._followed]
        onward = onward[: MOST_REDIRECTS - len(self._followed)]
        self._followed.update(one.redirect for one in onward)
        return onward

    def answered(self, now: float) -> None:
        """Take note that the attempt has been answered, and rest."""
        assert self._target is not None
        self._note(200, now)
        self._stop_timers()
        self._exchange.limits.answered(self._call.record.id, self._target.peer, now)
        self._target = None

    def stop(self, cause: Cause, headers: tuple[Header, ...], now: float, status: int = 487) -> None:
        """Give the hunt up; nobody is told."""
        leg, self.leg, self._query = self.leg, None, None
        self._stop_timers()
        self._exchange.limits.leave_queue(self._call.record.id)
        if self._target is not None:
            self._exchange.limits.left(self._call.record.id, self._target.peer, now)
        if leg is not None:
            leg.hang_up(cause, headers, now)
            self._note(status, now)

    def _next_hop(self, now: float) -> None:
        target, exchange = self._target, self._exchange
        assert target is not None
        hop = self._hops.pop(0)
        self._began_at = now
        name = "" if is_address(target.host.host) else target.host.host
        bound = target.binding
        flow = exchange.flow_to(hop.transport, hop.address, name) if bound is None else bound.flow
        if flow is None:
            self.failed(Cause(503, f"No {hop.transport} listener"), now)
            return
        try:
            offer = self._hunter.offer(target.peer)
        except PeerError as error:
            self.failed(Cause(error.status, error.reason), now)
            return
        asked = exchange.trunks.through(target, invitation(target, self._asked, exchange.our_host(flow)), now)
        for note in asked.notes:
            exchange.act(Trace("note", now, call=self._call.record.id, text=note))
        self.leg = Leg(
            self._name,
            target.peer,
            flow,
            exchange.contact(flow),
            self._call.record.id,
            exchange.switchboard,
            self._call.receive,
        )
        profile = target.peer.profile
        exchange.set_timer(self._call, Timer.RESPONSE, now + profile.response_deadline)
        exchange.set_timer(self._call, Timer.RING, now + profile.ring_deadline)
        self.leg.call(asked, offer, now)
        self._hunter.trying(self.leg, asked, now)

    def _stop_timers(self) -> None:
        for timer in (Timer.RESPONSE, Timer.RING):
            self._exchange.cancel_timer(self._call, timer)

    def _note(self, status: int, now: float) -> None:
        if self._target is not None:
            target = self._target
            self._attempts.append(Attempt(target.peer.name, str(target), status, now - self._began_at))
