"""What goes on with a peer outside calls: we register with it, it registers with us, and somebody watches its hops.

The core brings REGISTERs, the responses to `Errand`s, lost connections and time; calls ask where a target is reached
and which of several to try first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bridge.b2bua.actions import Hop, Resolution
from bridge.b2bua.errand import Errand, Surroundings
from bridge.b2bua.lookout import Lookout
from bridge.b2bua.routing import Dialled, Invitation, Sources, Target
from bridge.config import Host, Peer
from bridge.errors import PeerError
from bridge.sip.digest import DigestClient
from bridge.sip.events import Address, Flow, RequestReceived
from bridge.sip.headers import NameAddr
from bridge.sip.message import Header, Request, Response
from bridge.sip.registrar import Binding, Registrar
from bridge.sip.registration import Account, Registration, State
from bridge.sip.timers import TimerTable
from bridge.sip.tokens import new_tag
from bridge.sip.transaction import ClientTransaction
from bridge.sip.uri import escape_user

LINGERS_FOR = 60.0  # seconds until it is seen whether the calls of an address that is bound no more have ended


class Trunks:
    """Own the registrations, the bindings and the health of every peer. Nothing happens before the first time-out."""

    def __init__(self, peers: Iterable[Peer], sources: Sources, surroundings: Surroundings) -> None:
        self._peers = {peer.name: peer for peer in peers}
        self._sources = sources
        self._surroundings = surroundings
        self._timers = TimerTable()  # by ("begin",), ("register" | "bindings" | "linger", peer), and the lookout's
        self._lookout = Lookout(surroundings, self._timers)
        self._registrations: dict[str, Registration] = {}
        self._registrars: dict[str, Registrar] = {}
        self._bound: dict[str, set[Address]] = {}  # where each peer is registered from
        self._lingering: dict[str, set[str]] = {}  # addresses unbound while calls went on
        self._news: dict[str, str] = {}  # what the operator was told last of each registration
        self._stopped = False
        for peer in self._peers.values():
            if peer.profile.register:
                self._registrations[peer.name] = self._registration(peer)
            if peer.profile.registers:
                self._registrars[peer.name] = Registrar()
        if self._registrations or any(peer.profile.health == "options" for peer in self._peers.values()):
            self._timers.set(("begin",), 0.0)

    # -- inputs ------------------------------------------------------------------------------------------------------

    def register(self, event: RequestReceived, peer: Peer, now: float) -> None:
        """Carry out a peer's REGISTER (D24). Raises PeerError."""
        registrar = self._registrars[peer.name]
        response = registrar.register(event.request, event.flow, now, new_tag(self._surroundings.tokens))
        self._rebind(peer, now)
        self._surroundings.endpoint.respond(event.transaction, response, now)

    def response(self, errand: Errand, response: Response, transaction: ClientTransaction, now: float) -> None:
        errand.response(response, transaction, now)
        self._arm(errand.peer, now)

    def unanswered(self, errand: Errand, transaction: ClientTransaction, status: int, now: float) -> None:
        errand.unanswered(transaction, status, now)
        self._arm(errand.peer, now)

    def flow_lost(self, flow: Flow, now: float) -> None:
        """Take word that a connection is gone."""
        for name, registration in self._registrations.items():
            registration.flow_lost(flow, now)
            self._arm(self._peers[name], now)
        for name, registrar in self._registrars.items():
            registrar.flow_lost(flow)
            self._rebind(self._peers[name], now)

    def stop(self, now: float) -> None:
        """Take our bindings back; what comes later finds nobody."""
        if not self._stopped:
            self._stopped = True
            self._timers.cancel(("begin",))
            for name, registration in self._registrations.items():
                registration.stop(now)
                self._arm(self._peers[name], now)

    def handle_timeout(self, now: float) -> None:
        """Let everything that is due by now happen."""
        for key in self._timers.due(now):
            match key:
                case ("begin",):
                    self._begin(now)
                case ("register", name):
                    self._registrations[name].handle_timeout(now)
                    self._arm(self._peers[name], now)
                case ("linger", name):
                    self._bind(self._peers[name], now)
                case ("bindings", name):
                    self._registrars[name].expire(now)
                    self._rebind(self._peers[name], now)
                case _:
                    self._lookout.timeout(key, self._peers[key[1]], now)

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` wants to be called; reads only."""
        return self._timers.next()

    # -- what calls ask ----------------------------------------------------------------------------------------------

    def reached(self, targets: Iterable[Target]) -> list[Target]:
        """Put the bindings of a peer that registers with us in the place of its host."""
        found: list[Target] = []
        for target in targets:
            registrar = self._registrars.get(target.peer.name)
            bound = registrar.bindings() if registrar is not None else []
            for binding in bound:
                if not any(other.binding is binding for other in found):
                    found.append(Target(target.peer, _host_of(binding), binding))
            if not bound:
                found.append(target)
        return found

    def best(self, targets: Sequence[Target], now: float) -> int:
        """Return the place of the target to try next: the first that is well, else the first."""
        return self._lookout.best(targets, now)

    def in_order(self, target: Target, hops: Iterable[Hop], now: float) -> list[Hop]:
        """Return a target's hops as they are to be tried: where we are registered first, what is unwell last."""
        hops = list(hops)
        self._lookout.resolved(target, hops)
        registration = self._registrations.get(target.peer.name)
        home = registration.flow if registration is not None and registration.is_bound(now) else None
        if home is not None:
            hops.sort(key=lambda hop: hop.address != home.remote)
        return self._lookout.in_order(target.peer, hops, now)

    def through(self, target: Target, invitation: Invitation, now: float) -> Invitation:
        """Write what a registration asks for into an INVITE: the Contact that was bound, and the route to it.

        The Path of a binding (RFC 3327 §5.3) or the Service-Route of our own (RFC 3608 §6.1) becomes its Route.
        """
        if target.binding is not None:
            routes = target.binding.path
            invitation = replace(invitation, request_uri=target.binding.request_uri)
        else:
            registration = self._registrations.get(target.peer.name)
            if registration is None or not registration.is_bound(now):
                return invitation
            routes = tuple(str(hop) for hop in registration.service_route)
        headers = tuple(Header("Route", route) for route in routes)
        return replace(invitation, headers=(*headers, *invitation.headers)) if headers else invitation

    def addressed(self, call: Dialled, request: Request, callers: Iterable[Peer]) -> Dialled:
        """Find the dialled number where a registrar has put our Contact into the Request-URI (RFC 3261 §16.5)."""
        if not any(peer.name in self._registrations and _user(peer) == call.number for peer in callers):
            return call
        called = request.headers.get("P-Called-Party-ID")
        try:
            number = NameAddr.parse(called).uri.user if called is not None else request.to.uri.user
        except PeerError:
            number = request.to.uri.user
        return replace(call, number=number) if number else call

    def heard(self, peer: Peer, flow: Flow, now: float) -> None:
        """Learn that a response to an INVITE came from a hop."""
        self._lookout.heard(peer, flow, now)

    def failed(self, peer: Peer, flow: Flow, now: float) -> None:
        """Learn that an INVITE got no response from a hop, or could not be sent there."""
        self._lookout.failed(peer, flow, now)

    # -- what operators ask ------------------------------------------------------------------------------------------

    @property
    def leaving(self) -> bool:
        """Whether a registrar has yet to confirm that it forgets us."""
        return any(registration.state is State.UNREGISTERING for registration in self._registrations.values())

    def registrations(self) -> list[tuple[str, str]]:
        """Return carrier and state of each registration."""
        return [(name, registration.state.value) for name, registration in self._registrations.items()]

    def status(self, peer: Peer, timestamp: Callable[[float], str], now: float) -> dict[str, Any]:
        """Return what the API shows of a peer: registration, bindings and health, None where there are none."""

        def told(at: float | None) -> str | None:
            return None if at is None else timestamp(at)

        state, since, answered_at = self._lookout.state(peer)
        registration, registrar = self._registrations.get(peer.name), self._registrars.get(peer.name)
        return {
            "registration": None
            if registration is None
            else {
                "state": registration.state.value,
                "since": told(registration.since),
                "expires_at": told(registration.expires_at) if registration.is_bound(now) else None,
                "registrar": None if registration.flow is None else "{}:{}".format(*registration.flow.remote),
                "failing_since": told(registration.failing_since),
                "last_error": registration.problem or None,
            },
            "bindings": None
            if registrar is None
            else [
                {
                    "contact": str(binding.contact),
                    "source": "{}:{}".format(*binding.flow.remote),
                    "transport": binding.flow.transport,
                    "expires_at": told(binding.expires_at),
                }
                for binding in registrar.bindings()
            ],
            "health": {"state": state, "since": told(since), "last_answer_at": told(answered_at)},
        }

    # -- registrations of ours ---------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        for name, registration in self._registrations.items():
            registration.start(now)
            self._arm(self._peers[name], now)
        for peer in self._peers.values():
            if peer.profile.health == "options":
                for host in peer.hosts:
                    self._lookout.watch(peer, host, now)

    def _registration(self, peer: Peer) -> Registration:
        surroundings = self._surroundings
        host = peer.registrar or peer.hosts[0]
        tokens = surroundings.tokens
        return Registration(
            Account(_user(peer), Target(peer, host).authority, peer.profile.register_expires),
            DigestClient(peer.username, peer.password, tokens) if peer.username else None,
            tokens,
            send=partial(self._send_register, peer),
            look_up=lambda now: surroundings.find(peer, host, partial(self._registrar_found, peer, host), now),
            contact=lambda flow: surroundings.contact(flow, _user(peer)),
        )

    def _send_register(self, peer: Peer, request: Request, flow: Flow, now: float) -> ClientTransaction:
        registration = self._registrations[peer.name]
        errand = Errand(peer, registration.response, registration.unanswered)
        return self._surroundings.endpoint.send_request(request, flow, now, owner=errand)

    def _registrar_found(self, peer: Peer, host: Host, resolution: Resolution, now: float) -> None:
        flows = self._surroundings.flows(peer, host, resolution)
        problem = f"{host.host} can't be found: {resolution.problem}"
        if resolution.hops:
            problem = f"there is no {resolution.hops[0].transport} listener to reach {host.host} from"
        self._registrations[peer.name].found(flows, problem, now)
        self._arm(peer, now)

    def _arm(self, peer: Peer, now: float) -> None:
        registration = self._registrations.get(peer.name)
        if registration is None:
            return
        self._tell(peer, registration, now)
        if registration.due_at is None:
            self._timers.cancel(("register", peer.name))
        else:
            self._timers.set(("register", peer.name), registration.due_at)

    def _tell(self, peer: Peer, registration: Registration, now: float) -> None:
        """Let the operator know of a registration that has come about, failed or ended, once each."""
        if registration.failing_since is not None:
            news = "can't register: " + registration.problem
        elif registration.state is State.REGISTERED:
            news = "registered"
        elif registration.state is State.UNREGISTERED:
            news = "no longer registered"
        else:
            return
        if self._news.get(peer.name) != news:
            self._news[peer.name] = news
            self._surroundings.tell(peer, news, now)

    # -- registrations of theirs -------------------------------------------------------------------------------------

    def _rebind(self, peer: Peer, now: float) -> None:
        """Let calls come from, and OPTIONS go to, where a peer is bound now."""
        registrar = self._registrars[peer.name]
        bindings = registrar.bindings()
        expiry = registrar.next_expiry()
        if expiry is None:
            self._timers.cancel(("bindings", peer.name))
        else:
            self._timers.set(("bindings", peer.name), expiry)
        bound = {binding.flow.remote for binding in bindings}
        before = self._bound.get(peer.name, set())
        self._bound[peer.name] = bound
        if bound != before:
            self._lingering.setdefault(peer.name, set()).update(address for address, _ in before - bound)
            self._bind(peer, now)
        for gone in before - bound:
            self._lookout.forget(peer, gone)
        if peer.profile.health == "options":
            for binding in bindings:
                self._lookout.watch_flow(peer, binding.flow, binding.request_uri, now)

    def _bind(self, peer: Peer, now: float) -> None:
        """Take requests from where a peer is bound, and was when the calls began that still go on."""
        lingering = self._lingering[peer.name]
        lingering &= self._surroundings.talks_from(peer)
        if lingering:
            self._timers.set(("linger", peer.name), now + LINGERS_FOR)
        self._sources.bind(peer, {address for address, _ in self._bound[peer.name]} | lingering)


def _user(peer: Peer) -> str:
    """Return the user part of what a peer knows us by."""
    return escape_user(peer.username or peer.user)


def _host_of(binding: Binding) -> Host:
    return Host(binding.contact.host.strip("[]"), binding.contact.port or 0, binding.flow.transport)
