"""The core: all that the shell knows of signalling. Inputs go in, actions come out of `poll`; no clock, no socket.

A datagram's way: source check → endpoint (parse, transaction) → dialog → leg → call → other leg → endpoint → bytes.
"""

from __future__ import annotations

import hashlib
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bridge.b2bua.actions import (
    Action,
    CloseSession,
    Command,
    Drain,
    HangUp,
    Query,
    Record,
    Resolution,
    Resolve,
    Tap,
    TapSession,
    Trace,
    Transfer,
)
from bridge.b2bua.admission import Admission
from bridge.b2bua.call import Call
from bridge.b2bua.call_ids import CallIds
from bridge.b2bua.capabilities import capabilities, extensions, refusal
from bridge.b2bua.control import Cause
from bridge.b2bua.destination import Directory, target_uri
from bridge.b2bua.errand import Errand, Inquiry, Surroundings
from bridge.b2bua.exchange import Exchange, Timer
from bridge.b2bua.identity import overlong, passing
from bridge.b2bua.leg import Leg, Switchboard
from bridge.b2bua.limits import Limits, limit_reached
from bridge.b2bua.listeners import Listener, Listeners
from bridge.b2bua.next_hop import NextHop
from bridge.b2bua.numbers import permitted, telephone_number
from bridge.b2bua.offers import LegTimer
from bridge.b2bua.plan import plan
from bridge.b2bua.reach import within_reach
from bridge.b2bua.record import CallRecord, Reason, reason_of, rfc3339
from bridge.b2bua.routing import Dialled, Routes, Sources, dialled
from bridge.b2bua.sequel import InboundCalls, Sequel
from bridge.b2bua.takeover import leg_to_replace
from bridge.b2bua.trunks import Trunks
from bridge.config import Config, Peer
from bridge.errors import PeerError
from bridge.media.relay import (
    LegName,
    MediaSilent,
    RelayEvent,
    SessionClosed,
    SessionOpened,
    SessionRefused,
    SessionReport,
)
from bridge.sip.endpoint import Endpoint
from bridge.sip.events import (
    AckMissing,
    AckReceived,
    CancelReceived,
    EndpointEvent,
    Flow,
    PrackMissing,
    RequestReceived,
    ResponseReceived,
    TransactionFailed,
    TransactionTimedOut,
    Transmit,
)
from bridge.sip.headers import split_list
from bridge.sip.message import Header, Request, Response, response_to
from bridge.sip.overload import Pressure, is_new, pressure_of, refused_share
from bridge.sip.overload import refusal as refusal_of_overload
from bridge.sip.timers import TimerTable, TimerValues
from bridge.sip.tokens import Tokens
from bridge.sip.transaction import ClientTransaction

RETRY_AFTER = Header("Retry-After", "10")
_ANSWERED_ONCE = frozenset((405, 415, 416, 420, 481, 501))
"""Refusals that a repeat may get anew: nothing came of the request, and nothing of it is kept (T10)."""


class Core:
    """Run every call. None of the inputs raises for what a peer sent."""

    def __init__(
        self,
        config: Config,
        tokens: Tokens,
        listeners: Sequence[Listener],
        media_address: str,
        wall_offset: float,
        timers: TimerValues | None = None,
    ) -> None:
        self.draining = False
        self.arrears = 0.0  # by how many seconds the shell is behind
        self._config = config
        self._tokens = tokens
        self._salt = tokens.token(128)
        self._listeners = Listeners(listeners)
        self.flow_to = self._listeners.flow_to
        self._wall_offset = wall_offset
        self._endpoint = Endpoint(tokens, self._listeners.advertised, timers, self._may_speak_for, self._stream_to)
        peers = [*config.carriers.values(), *config.platforms.values()]
        self._sources = Sources(peers)
        self._routes = Routes(config)
        self._actions: deque[Action] = deque()
        self._timers = TimerTable()
        self._now = 0.0
        self._dialogs: dict[tuple[str, str], Leg] = {}
        self._call_of = CallIds()
        self._ours: set[str] = set()  # Call-IDs of live legs that we called: one that comes back is a loop
        self._sessions: dict[int, Call] = {}
        self._inbound = InboundCalls(lambda call_id: self._calls.get(self._call_of.get(call_id)))
        self._calls: dict[str, Call] = {}
        self._queries: dict[int, Call | NextHop | Inquiry] = {}  # who waits for the answer
        self._next_id = 0
        self._failures: dict[str, str] = {}
        self._reported: Counter[str] = Counter()  # the endpoint's rejections that were traced
        self._admission = Admission(peers, config.node.name, tokens, config.limits.requests_from_source)
        surroundings = Surroundings(
            self._endpoint,
            tokens,
            self.flow_to,
            self._listeners.host,
            self._listeners.contact,
            self.look_up,
            self._sources.learn,
            talks_from=lambda peer: {leg.flow.remote[0] for leg in self._dialogs.values() if leg.peer is peer},
            tell=lambda peer, news, now: self._actions.append(Trace("trunk", now, text=f"{peer.name}: {news}")),
        )
        self._trunks = Trunks(peers, self._sources, surroundings)
        self._limits = Limits(config, wall_offset, lambda at: self._timers.set(("limits", ""), at))
        self._exchange = Exchange(
            act=self._actions.append,
            set_timer=lambda call, timer, at: self._timers.set((call.record.id, timer), at),
            cancel_timer=lambda call, timer: self._timers.cancel((call.record.id, timer)),
            switchboard=Switchboard(
                endpoint=self._endpoint,
                tokens=tokens,
                register=self._register,
                release=self._release,
                set_timer=lambda leg, timer, at: self._timers.set((leg, timer), at),
                cancel_timer=lambda leg, timer: self._timers.cancel((leg, timer)),
                find=self._find,
                owns=lambda peer, address: peer in self._sources.owners(address),
                finder=self,
            ),
            query_id=self._query_id,
            flow_to=self.flow_to,
            contact=self._listeners.contact,
            our_host=self._listeners.host,
            learn=self._sources.learn,
            trunks=self._trunks,
            limits=self._limits,
            directory=Directory(
                config, self._routes, self._sources, {*self._listeners.names(), config.sip.advertise}, permitted
            ),
            call_of=lambda leg: self._calls.get(leg.record_id),
            media_address=media_address,
            ended=self._ended,
        )

    # -- inputs ----------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, flow: Flow, now: float, waited: float | None = None) -> None:
        """Take one SIP message that has waited for so many seconds, None: as long as others (`arrears`).

        A stranger's is dropped unread, in silence (T05).
        """
        self._now = now
        owners = self._sources.owners(flow.remote[0])
        if refusal := self._admission.refusal(data, flow.remote[0], owners, now):
            self._actions.append(Trace("rejected", now, text=refusal, flow=flow))
            return
        leg = LegName((owners or self._admission.roaming)[0].kind)
        flood = self._admission.pressure(data, flow.remote[0], now)
        if flood and self._shed(data, flow, leg, flood, "flood", now):
            return
        arrears = self.arrears if waited is None else waited
        behind = pressure_of(arrears)
        if behind and self._shed(data, flow, leg, behind, "overload", now, refused_share(arrears)):
            return
        message = self._endpoint.receive(data, flow, now)
        position = len(self._actions)
        self._dispatch_all(now)
        if message is not None:  # traced before what it caused, but after it has a call to belong to
            self._actions.insert(position, self._received(message, data, flow, leg, now))
            for _ in range(overlong(message.headers, data)):
                self._actions.append(Trace("rejected", now, text="header-too-long", flow=flow, leg=leg))
        if self._endpoint.rejected.total() != self._reported.total():
            for reason in (self._endpoint.rejected - self._reported).elements():
                self._actions.append(Trace("rejected", now, text=reason, flow=flow, leg=leg))
                self._reported[reason] += 1
        self._settle(now)

    def _shed(
        self, data: bytes, flow: Flow, leg: LegName, pressure: Pressure, why: str, now: float, share: float = 1.0
    ) -> bool:
        """Turn new work away when there is too much, in all or of its sender's; what we know of goes on (T10)."""
        if pressure is Pressure.EXTREME and is_new(data):
            self._actions.append(Trace("rejected", now, text=why, flow=flow, leg=leg))
            return True
        refused = refusal_of_overload(data, flow)
        if refused is None or not refused.is_among(share):
            return False
        if refused.call_id in self._call_of:  # a repeat, or a call of the other leg's coming back
            return False
        self._actions.append(Transmit(refused.data, refused.flow, "INVITE", 503, call_id=refused.call_id))
        self._actions.append(Trace("rejected", now, text=why, flow=flow, leg=leg))
        return True

    def transport_failed(self, flow: Flow, now: float) -> None:
        """Take word that nothing can be sent on this flow."""
        self._now = now
        self._listeners.failed(flow, now)
        self._endpoint.transport_failed(flow, now)
        self._settle(now)

    def flow_lost(self, flow: Flow, now: float) -> None:
        """Take word that a connection has ended; what was unanswered on it is sent again (RFC 3261 §18.4)."""
        self._now = now
        self._endpoint.flow_lost(flow, now)
        self._contain(partial(self._trunks.flow_lost, flow, now), now)
        self._settle(now)

    def relay_event(self, event: RelayEvent, now: float) -> None:
        self._now = now
        call = self._sessions.get(event.session)
        if call is not None:
            self._guard(call, lambda: self._relay_event(call, event, now), now)
        self._settle(now)

    def resolved(self, query: Query, resolution: Resolution, now: float) -> None:
        """Take the answer to a `Resolve`."""
        self._now = now
        resolution, refused = within_reach(query, resolution)
        self._actions.extend(Trace("rejected", now, text="private-target", flow=flow) for flow in refused)
        match self._queries.pop(query.id, None):
            case Call() as call:
                self._guard(call, lambda: call.resolved(query, resolution, now), now)
            case NextHop() as next_hop:
                self._contain(partial(next_hop.resolved, query, resolution, now), now)
            case Inquiry() as inquiry:
                self._contain(partial(inquiry.resolved, query, resolution, now), now)
        self._settle(now)

    def command(self, command: Command, now: float) -> None:
        """Take an operator's wish. Raises KeyError for a call that is not there, PeerError where rules forbid it."""
        self._now = now
        match command:
            case Drain():
                self.draining = True
            case HangUp(None):
                cause = Cause(503, "Shutting Down")
                for call in list(self._calls.values()):
                    self._guard(call, partial(call.hang_up, cause, Reason.OPERATOR, "operator", now), now)
            case HangUp(call_id):
                self._calls[call_id or ""].hang_up(Cause(480, "Ended"), Reason.OPERATOR, "operator", now)
            case Transfer(call_id, target):
                self._calls[call_id].transfer(target_uri(target), now)
            case Tap(call_id, path):
                self._actions.append(TapSession(self._calls[call_id].session, path))
        self._settle(now)

    def handle_timeout(self, now: float) -> None:
        """Let everything that is due by now happen."""
        self._now = now
        self._endpoint.handle_timeout(now)
        self._contain(partial(self._trunks.handle_timeout, now), now)
        for key in self._timers.due(now):
            if key[0] == "forget":
                self._call_of.turn(now)
                self._arm_forgetting()
            elif key[0] == "limits":
                self._look_at_limits(now)
            elif isinstance(key[0], Leg):
                timer = key[1]
                self._to_leg(key[0], now, lambda leg, timer=timer: leg.timeout(timer, now))  # type: ignore[misc]
            elif (call := self._calls.get(key[0])) is not None:
                timer = key[1]
                self._guard(call, lambda call=call, timer=timer: call.timeout(timer, now), now)  # type: ignore[misc]
        self._settle(now)

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` wants to be called; reads only."""
        deadlines = self._endpoint.next_timeout(), self._timers.next(), self._trunks.next_timeout()
        return min((at for at in deadlines if at is not None), default=None)

    def poll(self) -> Action | None:
        """Return the next action to perform, None when there is none."""
        return self._actions.popleft() if self._actions else None

    # -- queries ---------------------------------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """The number of calls that have not ended."""
        return len(self._calls)

    def calls(self) -> list[dict[str, Any]]:
        """Return the live calls as records that are not finished, with their ``state``."""
        return [{**call.record.as_json(self._wall_offset), "state": call.state.value} for call in self._calls.values()]

    def peers_at(self, address: str) -> tuple[Peer, ...]:
        """Return the peers that may signal from an address; none: a stranger."""
        return self._sources.owners(address) or self._admission.roaming

    @property
    def leaving(self) -> bool:
        """Whether something is still to be said to a registrar before the bridge may go."""
        return self._trunks.leaving

    def registrations(self) -> list[tuple[str, str]]:
        """Return carrier and state of each registration of ours."""
        return self._trunks.registrations()

    def live(self) -> list[tuple[str, str, str]]:
        """Return carrier, platform and direction of every live call."""
        return [(call.record.carrier, call.record.platform, call.record.direction) for call in self._calls.values()]

    def session(self, call: str) -> int | None:
        """Return the relay session of a live call."""
        found = self._calls.get(call)
        return None if found is None else found.session

    def trunks(self) -> list[dict[str, Any]]:
        """Return every carrier and platform with its load and its last failure."""
        return [
            {
                "name": peer.name,
                "kind": peer.kind,
                "profile": peer.profile.name,
                "state": "draining" if self.draining else "ready",
                "hosts": [host.host if not host.port else f"{host.host}:{host.port}" for host in peer.hosts],
                "active_calls": self._limits.load(peer),
                "max_calls": peer.max_calls or None,
                "limits": self._limits.shown(peer, self._now),
                "last_failure": self._failures.get(peer.name),
                **self._trunks.status(peer, lambda at: rfc3339(at + self._wall_offset), self._now),
            }
            for peer in (*self._config.carriers.values(), *self._config.platforms.values())
        ]

    def transfer_obstacle(self, call: str, target: str) -> PeerError | None:
        """Say what `command` would refuse a transfer for. Raises KeyError for a call that is not there."""
        try:
            self._calls[call].check_transfer(target_uri(target))
        except PeerError as error:
            return error
        return None

    def counts(self) -> dict[str, int]:
        """Count what is held in memory; all are zero once 64*T1 have passed since the last call (T19)."""
        return {
            "calls": len(self._calls),
            "dialogs": len(self._dialogs),
            "sessions": len(self._sessions),
            "queries": len(self._queries),
            "call_ids": len(self._call_of),
            "numbers": self._inbound.counts(),
            "call_timers": len(self._timers),
            "limited": self._limits.counts(),
            **self._endpoint.counts(),
        }

    # -- from the endpoint -----------------------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Bring every event to its owner, then queue what the endpoint wants sent."""
        self._dispatch_all(now)
        if self.draining and not self._calls:
            self._contain(partial(self._trunks.stop, now), now)
        while (transmit := self._endpoint.poll_transmit()) is not None:
            owners = self._sources.owners(transmit.flow.remote[0])
            self._actions.append(transmit)
            self._actions.append(
                Trace(
                    "sent",
                    now,
                    call=self._call_of.get(transmit.call_id),
                    leg=LegName(owners[0].kind) if owners else None,
                    flow=transmit.flow,
                    method=transmit.method,
                    status=transmit.status,
                    retransmission=transmit.retransmission,
                    data=transmit.data,
                )
            )

    def _dispatch_all(self, now: float) -> None:
        while (event := self._endpoint.poll_event()) is not None:
            self._dispatch(event, now)

    def _dispatch(self, event: EndpointEvent, now: float) -> None:
        match event:
            case RequestReceived():
                self._guard_request(event, now)
            case CancelReceived(request, server):
                self._to_leg(server.owner, now, lambda leg: leg.cancelled(request, server, now))
            case AckReceived(request, flow):
                leg = self._dialogs.get((request.call_id, request.to.tag or ""))
                if leg is not None and self._belongs(leg, flow):
                    self._to_leg(leg, now, lambda leg: leg.acknowledged(request, now))
            case ResponseReceived(response, flow, client):
                self._response(response, flow, client, now)
            case TransactionTimedOut(client):
                self._unanswered(client, 408, now)
            case TransactionFailed(client):
                self._unanswered(client, 503, now)
            case AckMissing(server):
                self._to_leg(server.owner, now, lambda leg: leg.ack_missing(server, now))
            case PrackMissing(server):
                self._to_leg(server.owner, now, lambda leg: leg.prack_missing(server, now))

    def _response(self, response: Response, flow: Flow, client: ClientTransaction, now: float) -> None:
        owner = client.owner
        if isinstance(owner, Errand):
            self._contain(partial(self._trunks.response, owner, response, client, now), now)
            return
        if _is_new_call(client) and isinstance(owner, Leg):
            self._trunks.heard(owner.peer, client.flow, now)
        self._to_leg(owner, now, lambda leg: leg.response(response, flow, client, now))

    def _unanswered(self, client: ClientTransaction, status: int, now: float) -> None:
        owner = client.owner
        if isinstance(owner, Errand):
            self._contain(partial(self._trunks.unanswered, owner, client, status, now), now)
            return
        if _is_new_call(client) and isinstance(owner, Leg) and not client.provisional:
            self._trunks.failed(owner.peer, client.flow, now)
        self._to_leg(owner, now, lambda leg: leg.unanswered(client, status, now))

    def _contain(self, act: Callable[[], None], now: float) -> None:
        """Keep a bug in what goes on outside calls from them."""
        try:
            act()
        except Exception:
            self._bug(now)

    def _to_leg(self, owner: object, now: float, act: Callable[[Leg], None]) -> None:
        """Bring an event to the leg that owns the transaction, if one does; a bug there ends its call only."""
        if isinstance(owner, Leg):
            try:
                act(owner)
            except Exception:
                self._bug(now)
                self._fail(owner, now)

    def _guard_request(self, event: RequestReceived, now: float) -> None:
        """Serve a request; what goes wrong becomes its response: the peer's fault as it says, ours as 500."""
        try:
            self._request(event, now)
        except PeerError as error:
            self._refuse(event, error, now)
        except Exception:
            self._bug(now)
            if event.transaction.final is None:
                self._refuse(event, PeerError(500, "Server Internal Error"), now)
            leg = event.transaction.owner
            if isinstance(leg, Leg):
                self._fail(leg, now)

    def _request(self, event: RequestReceived, now: float) -> None:
        request = event.request
        tag = request.to.tag
        if tag is not None:
            leg = self._dialogs.get((request.call_id, tag))
            if leg is None or not self._belongs(leg, event.flow):  # T24
                raise PeerError(481, "Call/Transaction Does Not Exist")
            _check_extensions(request, extensions(leg.peer))
            if request.method != "INVITE" and "Replaces" in request.headers:  # RFC 3891 §3
                raise PeerError(400, "Replaces Outside an INVITE")
            leg.request(event, now)
            return
        if request.method == "INVITE" and request.call_id in self._ours:  # R24: it left through one of our own legs
            raise PeerError(482, "Loop Detected")
        source = event.flow.remote[0]
        peers = self._admission.admit(request, self._sources.owners(source), source, now)
        if request.method == "INVITE":
            self._invite(event, peers, now)
        elif request.method == "REGISTER" and peers:
            _check_extensions(request, frozenset(("path",)))
            self._trunks.register(event, peers[0], now)
        elif request.method == "OPTIONS":
            _check_extensions(request, frozenset())
            self._endpoint.respond_once(event.transaction, capabilities(request, self._lasting_tag(request)), now)
        else:
            raise refusal(request.method)

    def _refuse(self, event: RequestReceived, error: PeerError, now: float) -> None:
        response = response_to(event.request, error.status, error.reason, to_tag=self._lasting_tag(event.request))
        for name, value in error.headers:
            response.headers.add(name, value)
        once = error.status in _ANSWERED_ONCE and event.request.method != "INVITE" and event.transaction.owner is None
        respond = self._endpoint.respond_once if once else self._endpoint.respond
        respond(event.transaction, response, now)

    def _lasting_tag(self, request: Request) -> str:
        """Return a To tag that a repeat of the request gets as well, unguessable like any other (RFC 3261 §8.2.7)."""
        known = f"{self._salt} {request.call_id} {request.cseq} {request.via.branch}"
        return hashlib.blake2b(known.encode(errors="surrogateescape"), digest_size=8).hexdigest()

    # -- new calls -------------------------------------------------------------------------------------------------

    def _invite(self, event: RequestReceived, owners: tuple[Peer, ...], now: float) -> None:
        """Begin a call. What is wrong with the INVITE is answered, and recorded like any other end of a call."""
        request, flow = event.request, event.flow
        replaced = leg_to_replace(request, owners, self._find, self._has_ended)
        if replaced is not None:
            self._take_over(event, replaced, now)
            return
        problem: tuple[PeerError, Reason] | None = None
        try:
            asked = self._trunks.addressed(dialled(request), request, owners)
        except PeerError as error:
            asked = None
            problem = error, reason_of(error.status) if error.status in (482, 483) else Reason.BAD_REQUEST
        found = self._routes.find(owners, asked.number) if asked is not None else None
        caller_peer, route = found or (owners[0], None)
        targets = self._routes.targets(route) if route is not None else []
        self._next_id += 1
        far = targets[0].peer.name if targets else ""
        is_carrier = caller_peer.kind == "carrier"
        record = CallRecord(
            id=self._tokens.token(96),
            node=self._config.node.name,
            direction="inbound" if is_carrier else "outbound",
            carrier=caller_peer.name if is_carrier else far,
            platform=far if is_carrier else caller_peer.name,
            route=route.name if route is not None else "",
            from_number=asked.caller if asked else "",
            to_number=asked.number if asked else "",
            started_at=now,
        )
        call = Call(self._next_id, record, self._exchange)
        self._calls[record.id] = self._sessions[call.session] = call
        leg = Leg(
            LegName(caller_peer.kind),
            caller_peer,
            flow,
            self._exchange.contact(flow),
            record.id,
            self._exchange.switchboard,
            call.receive,
        )
        try:
            leg.invited(event, now)
            _check_extensions(request, extensions(caller_peer))
        except PeerError as error:
            problem = problem or (error, Reason.BAD_REQUEST)
        problem = problem or self._obstacle(record, caller_peer, now)
        if problem is not None or asked is None:
            fault, reason = problem or (PeerError(500, "Server Internal Error"), Reason.BUG)
            headers = tuple(Header(name, value) for name, value in fault.headers)
            call.refuse(leg, Cause(fault.status, fault.reason), reason, now, headers)
        else:
            if is_carrier:
                self._inbound.add(call)
            elif (first := self._inbound.first_of(request, caller_peer, asked.caller)) is not None:
                call.sequel = Sequel(first, call, self._actions.append, now)
            call.begin(leg, replace(asked, passed=passing(request.headers, caller_peer)), targets, now)

    def _take_over(self, event: RequestReceived, old: Leg, now: float) -> None:
        """Let an INVITE take the place of a leg of the same account's (RFC 3891)."""
        call = self._calls[old.record_id]
        contact = self._exchange.contact(event.flow)
        board = self._exchange.switchboard
        leg = Leg(old.name, old.peer, event.flow, contact, call.record.id, board, call.receive)
        try:
            leg.invited(event, now)
            _check_extensions(event.request, extensions(old.peer))
            call.replace(old, leg, now)
        except PeerError as error:
            headers = tuple(Header(name, value) for name, value in error.headers)
            leg.reject(Cause(error.status, error.reason), now, headers)

    def _has_ended(self, call_id: str) -> bool:
        """Tell whether a Call-ID was that of a leg of ours that is over; remembered for a while."""
        call = self._calls.get(self._call_of.get(call_id))
        return call_id in self._call_of and (call is None or all(leg.call_id != call_id for leg in call.legs()))

    def _obstacle(self, record: CallRecord, caller: Peer, now: float) -> tuple[PeerError, Reason] | None:
        """Say why a well-formed call is not taken now; if it is, it has a place in the limits from here on."""
        retry_after = ((RETRY_AFTER.name, RETRY_AFTER.value),)
        if self.draining:
            return PeerError(503, "Service Unavailable", retry_after), Reason.DRAINING
        if not record.route:
            return PeerError(404, "Not Found"), Reason.NO_ROUTE
        limit = self._limits.enter(record.id, caller, record.direction, now)
        if limit is not None:
            self._actions.append(limit_reached(limit, record, caller, now))
            return PeerError(503, "Service Unavailable", retry_after), Reason.LIMIT
        return None

    def route(self, source: str, number: str, caller: str | None = None) -> dict[str, Any]:
        """Say where a call would go and what would be sent, sending nothing. Raises KeyError for an unknown source."""
        peer = self._config.peer(source)
        number = telephone_number(number)
        found = self._routes.find((peer,), number)
        if found is None:
            return {"route": None, "targets": [], "problem": f"no route takes {number} from {source}"}
        asked = Dialled(number, telephone_number(caller or "anonymous"), "", 70, ())
        found_targets = self._routes.targets(found[1])
        targets = plan(found_targets, peer, asked, self.flow_to, self._listeners.host, self._exchange.media_address)
        return {"route": found[1].name, "targets": targets, "problem": None}

    # -- calls' housekeeping ---------------------------------------------------------------------------------------

    def _relay_event(self, call: Call, event: RelayEvent, now: float) -> None:
        match event:
            case SessionOpened():
                call.opened(event, now)
            case SessionRefused():
                call.refused(event, now)
            case SessionClosed():
                call.closed(event, now)
            case MediaSilent():
                call.media_silent(event, now)

    def _look_at_limits(self, now: float) -> None:
        """Let those dial whose turn has come; end the calls whose account has no minutes left (D13, T09)."""
        while (found := self._limits.turn(now)) is not None:
            call, turn = found
            self._guard(self._calls[call], partial(turn, now), now)
        for spent in self._limits.exhausted(now):
            call_on = self._calls[spent]
            self._actions.append(limit_reached("minutes_a_day", call_on.record, call_on.caller.peer, now))
            cause = Cause(503, "Service Unavailable")
            self._guard(call_on, partial(call_on.hang_up, cause, Reason.MINUTES_SPENT, "bridge", now), now)
        self._limits.watch(now)

    def _ended(self, call: Call, report: SessionReport | None, now: float) -> None:
        record = call.record
        self._limits.ended(record.id, now)
        self._calls.pop(record.id, None)
        self._sessions.pop(call.session, None)
        self._inbound.remove(call)
        for timer in Timer:
            self._timers.cancel((record.id, timer))
        if record.reason is not None and record.reason.result.value == "failed":
            self._failures[record.platform or record.carrier] = f"{record.reason.label} ({record.status})"
        self._actions.append(Record(record.as_json(self._wall_offset, report)))

    def _register(self, leg: Leg) -> None:
        self._dialogs[leg.key] = leg
        self._call_of.add(leg.call_id, leg.record_id)
        if leg.calling:
            self._ours.add(leg.call_id)

    def _release(self, leg: Leg) -> None:
        self._dialogs.pop(leg.key, None)
        self._ours.discard(leg.call_id)
        for timer in LegTimer:
            self._timers.cancel((leg, timer))
        armed = self._call_of.turns_at
        self._call_of.release(leg.call_id, self._now)
        if self._call_of.turns_at != armed:
            self._arm_forgetting()

    def _arm_forgetting(self) -> None:
        if self._call_of.turns_at is not None:
            self._timers.set(("forget", ""), self._call_of.turns_at)

    def _find(self, call_id: str, local_tag: str, remote_tag: str | None) -> Leg | None:
        leg = self._dialogs.get((call_id, local_tag))
        return leg if leg is not None and leg.remote_tag in (None, remote_tag) else None

    def _may_speak_for(self, owner: object, flow: Flow) -> bool:
        if isinstance(owner, Errand):
            return owner.peer in self._sources.owners(flow.remote[0])
        return not isinstance(owner, Leg) or self._belongs(owner, flow)

    def _belongs(self, leg: Leg, flow: Flow) -> bool:
        """Tell whether a message for a dialog comes from that dialog's peer (T24)."""
        source = flow.remote[0]
        return source == leg.flow.remote[0] or leg.peer in self._sources.owners(source)

    def _guard(self, call: Call, act: Callable[[], None], now: float) -> None:
        try:
            act()
        except Exception:
            self._bug(now)
            self._fail_call(call, now)

    def _fail(self, leg: Leg, now: float) -> None:
        call = self._calls.get(leg.record_id)
        if call is not None:
            self._fail_call(call, now)

    def _fail_call(self, call: Call, now: float) -> None:
        """End the one call in which a bug of ours showed."""
        try:
            call.hang_up(Cause(500, "Server Internal Error"), Reason.BUG, "bridge", now)
        except Exception:
            self._bug(now)
            call.record.reason, call.record.ended_by, call.record.ended_at = Reason.BUG, "bridge", now
            self._actions.append(CloseSession(call.session))
            self._ended(call, None, now)

    def _bug(self, now: float) -> None:
        self._actions.append(Trace("bug", now, text=traceback.format_exc()))

    # -- look-ups and traces ---------------------------------------------------------------------------------------

    def _stream_to(self, flow: Flow) -> Flow | None:
        """Return the TCP flow for a request that is too large for UDP, None where there is none (R13, §18.1.1)."""
        wants = any(
            peer.profile.large_requests == "tcp" and "tcp" in peer.profile.transports
            for peer in self._sources.owners(flow.remote[0])
        )
        return self._listeners.stream_to(flow, self._now) if wants else None

    def look_up(self, asker: NextHop | Inquiry, query: Query) -> None:
        """Ask the shell for the hops behind a name that a leg needs."""
        self._next_id += 1
        self._queries[self._next_id] = asker
        if isinstance(asker, NextHop):
            peers = self._sources.owners(asker.flow.remote[0])
            query = replace(query, networks=tuple(network for peer in peers for network in peer.sources))
        self._actions.append(Resolve(replace(query, id=self._next_id)))

    def _query_id(self, call: Call) -> int:
        self._next_id += 1
        self._queries[self._next_id] = call
        return self._next_id

    def _received(self, message: Request | Response, data: bytes, flow: Flow, leg: LegName, now: float) -> Trace:
        return Trace(
            "received",
            now,
            call=self._call_of.get(message.call_id),
            leg=leg,
            flow=flow,
            method=message.cseq.method,
            status=message.status if isinstance(message, Response) else 0,
            data=data,
        )


def _is_new_call(client: ClientTransaction) -> bool:
    return client.is_invite and client.request.to.tag is None


def _check_extensions(request: Request, known: frozenset[str]) -> None:
    """Refuse what a request requires and we don't have for its sender (RFC 3261 §8.2.2.3, R17)."""
    required = [token for value in request.headers.get_all("Require") for token in split_list(value) if token]
    unknown = [token for token in required if token.lower() not in known]
    if unknown:
        raise PeerError(420, "Bad Extension", tuple(("Unsupported", token) for token in unknown))
