"""The lookout: which next hops of the peers are well. It sends the OPTIONS and hears how calls fare (D21, R55)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bridge.b2bua.actions import Hop, Resolution
from bridge.b2bua.errand import Errand, Surroundings
from bridge.b2bua.health import Health, State
from bridge.b2bua.routing import Target
from bridge.config import Host, Peer
from bridge.sip.events import Address, Flow
from bridge.sip.headers import CSeq
from bridge.sip.message import Headers, Request, Response
from bridge.sip.timers import TimerTable
from bridge.sip.tokens import new_tag
from bridge.sip.transaction import ClientTransaction

MOST_HOPS = 64  # of one peer that are remembered; the oldest go first

_Key = tuple[str, Address]


@dataclass(slots=True, eq=False)
class _Watch:
    """One hop of a peer: its health, and how it is asked; without a flow it is not."""

    peer: Peer
    health: Health
    flow: Flow | None = None
    uri: str = ""
    told_down: bool = False


class Lookout:
    """Watch the hops of every peer. Its timers are ``("find", peer, host)`` and ``("probe", peer, address)``."""

    def __init__(self, surroundings: Surroundings, timers: TimerTable) -> None:
        self._surroundings = surroundings
        self._timers = timers
        self._watches: dict[_Key, _Watch] = {}
        self._of_host: dict[tuple[str, Host], tuple[Address, ...]] = {}

    # -- probing -----------------------------------------------------------------------------------------------------

    def watch(self, peer: Peer, host: Host, now: float) -> None:
        """Probe a host from now on, and look its name up again at every interval."""
        self._surroundings.find(peer, host, partial(self._found, peer, host), now)

    def watch_flow(self, peer: Peer, flow: Flow, uri: str, now: float) -> None:
        """Probe where the peer has registered from, until `forget`."""
        watch = self._watch(peer, flow.remote, now, probed=True)
        watch.flow, watch.uri = flow, uri
        self._arm(watch, flow.remote, now)

    def forget(self, peer: Peer, address: Address) -> None:
        """Stop watching a hop."""
        if self._watches.pop((peer.name, address), None) is not None:
            self._timers.cancel(("probe", peer.name, address))

    def timeout(self, key: tuple[str, Any, Any], peer: Peer, now: float) -> None:
        """Take one of the timers."""
        kind, _, which = key
        if kind == "find":
            self.watch(peer, which, now)
            return
        watch = self._watches.get((peer.name, which))
        if watch is not None:
            if watch.health.handle_timeout(now, self._surroundings.random()):
                self._probe(watch, now)
            self._arm(watch, which, now)

    def _found(self, peer: Peer, host: Host, resolution: Resolution, now: float) -> None:
        self._timers.set(("find", peer.name, host), now + peer.profile.health_interval)
        flows = self._surroundings.flows(peer, host, resolution)
        if not flows and (peer.name, host) in self._of_host:
            return  # the resolver is ill: the hops that were known are no worse for it
        addresses = tuple(flow.remote for flow in flows)
        for gone in set(self._of_host.get((peer.name, host), ())) - set(addresses):
            self.forget(peer, gone)
        self._of_host[peer.name, host] = addresses
        for flow in flows:
            watch = self._watch(peer, flow.remote, now, probed=True)
            if watch.flow != flow:
                watch.flow, watch.uri = flow, f"sip:{Target(peer, host).authority}"
                self._arm(watch, flow.remote, now)

    def _probe(self, watch: _Watch, now: float) -> None:
        """Send OPTIONS (RFC 3261 §11.1): any answer to it is a sign of life."""
        assert watch.flow is not None
        surroundings = self._surroundings
        host = surroundings.our_host(watch.flow)
        headers = Headers()
        headers.add("Max-Forwards", "70")
        headers.add("From", f"<sip:trunkbridge@{host}>;tag={new_tag(surroundings.tokens)}")
        headers.add("To", f"<{watch.uri}>")
        headers.add("Call-ID", surroundings.tokens.token(128))
        headers.add("CSeq", str(CSeq(1, "OPTIONS")))
        headers.add("Accept", "application/sdp")
        errand = Errand(watch.peer, partial(self._answered, watch), partial(self._unanswered, watch))
        surroundings.endpoint.send_request(Request("OPTIONS", watch.uri, headers), watch.flow, now, owner=errand)

    def _answered(self, watch: _Watch, response: Response, transaction: ClientTransaction, now: float) -> None:
        watch.health.answered(now, self._surroundings.random())
        self._arm(watch, transaction.flow.remote, now)

    def _unanswered(self, watch: _Watch, transaction: ClientTransaction, status: int, now: float) -> None:
        if status == 503:  # else the probe was given up long before its transaction
            watch.health.missed(now, self._surroundings.random())
            self._arm(watch, transaction.flow.remote, now)

    # -- what calls meet ---------------------------------------------------------------------------------------------

    def heard(self, peer: Peer, flow: Flow, now: float) -> None:
        """Learn that a response to a call came from a hop."""
        watch = self._watch(peer, flow.remote, now)
        watch.health.heard(now)
        if watch.told_down:
            self._arm(watch, flow.remote, now)

    def failed(self, peer: Peer, flow: Flow, now: float) -> None:
        """Learn that a call got no response from a hop, or could not be sent there."""
        watch = self._watch(peer, flow.remote, now)
        watch.health.failed(now)
        self._arm(watch, flow.remote, now)

    def resolved(self, target: Target, hops: Iterable[Hop]) -> None:
        """Learn the hops of a host that a call has looked up; not of those that a 3xx has named, at any port."""
        if target.peer.profile.health != "options" and target.host in target.peer.hosts:
            self._of_host[target.peer.name, target.host] = tuple(hop.address for hop in hops)

    # -- queries -----------------------------------------------------------------------------------------------------

    def best(self, targets: Sequence[Target], now: float) -> int:
        """Return the place of the first target that is well; where none is, that of the first."""
        for place, target in enumerate(targets):
            if any(self._is_well(target.peer, address, now) for address in self._addresses(target)):
                return place
        return 0

    def in_order(self, peer: Peer, hops: Iterable[Hop], now: float) -> list[Hop]:
        """Return the hops with those that are not well at the end."""
        return sorted(hops, key=lambda hop: not self._is_well(peer, hop.address, now))

    def state(self, peer: Peer) -> tuple[str, float | None, float | None]:
        """Return ``up``, ``down`` or ``unknown``, since when, and when something was last heard, over all hops."""
        watches = [watch.health for watch in self._watches.values() if watch.peer is peer]
        answered = max((health.answered_at for health in watches if health.answered_at is not None), default=None)
        for word, states in _WORDS:
            having = [health.since for health in watches if health.state in states]
            if having and (word != "down" or len(having) == len(watches)):
                return word, min(having), answered
        return "unknown", None, answered

    def _addresses(self, target: Target) -> tuple[Address, ...]:
        if target.binding is not None:
            return (target.binding.flow.remote,)
        known = self._of_host.get((target.peer.name, target.host))
        return known or ((target.host.host.strip("[]"), target.port),)

    def _is_well(self, peer: Peer, address: Address, now: float) -> bool:
        watch = self._watches.get((peer.name, address))
        return watch is None or watch.health.is_well(now)

    def _watch(self, peer: Peer, address: Address, now: float, probed: bool = False) -> _Watch:
        key = (peer.name, address)
        found = self._watches.get(key)
        if found is None or (probed and found.flow is None):
            interval = peer.profile.health_interval if probed else None
            found = _Watch(peer, Health(interval, now, self._surroundings.random()))
            self._watches[key] = found
            mine = [other for other in self._watches if other[0] == peer.name]
            if len(mine) > MOST_HOPS:
                self.forget(peer, mine[0][1])
        return found

    def _arm(self, watch: _Watch, address: Address, now: float) -> None:
        """Set the timer by what has become of a hop, and tell the operator of one that fell or rose."""
        state = watch.health.state
        if state is State.DOWN and not watch.told_down:
            watch.told_down = True
            self._surroundings.tell(watch.peer, "{}:{} is down: it leaves OPTIONS unanswered".format(*address), now)
        elif state is State.UP and watch.told_down:
            watch.told_down = False
            self._surroundings.tell(watch.peer, "{}:{} is up again".format(*address), now)
        key = ("probe", watch.peer.name, address)
        if watch.flow is None or watch.health.due_at is None or (watch.peer.name, address) not in self._watches:
            self._timers.cancel(key)
        else:
            self._timers.set(key, watch.health.due_at)


_WORDS = (
    ("up", (State.UP,)),
    ("down", (State.DOWN, State.RECOVERING)),
    ("unknown", (State.UNKNOWN, State.SUSPECT)),
)
