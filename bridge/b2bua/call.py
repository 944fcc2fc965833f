"""A call: two legs, a relay session, and the attempts to find somebody who answers.

The state machine is `_TABLE` below. Legs report control events; the call tells the other leg. Nothing here is SIP.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from bridge.b2bua.actions import (
    Action,
    CloseSession,
    Hop,
    OpenSession,
    Query,
    RelabelSession,
    Resolution,
    Resolve,
    Trace,
    UpdateSession,
)
from bridge.b2bua.control import Answer, Cause, ControlEvent, Hangup, Progress, Reject, Reoffer, Ringing
from bridge.b2bua.leg import Leg, Switchboard
from bridge.b2bua.record import Attempt, CallRecord, LegFacts, Reason, reason_of
from bridge.b2bua.routing import Dialled, Target, invitation, is_address
from bridge.config import Peer
from bridge.errors import PeerError
from bridge.media.relay import (
    LegMedia,
    LegName,
    MediaSilent,
    Payload,
    SessionClosed,
    SessionLabel,
    SessionOpened,
    SessionRefused,
    SessionReport,
)
from bridge.sdp.anchor import Anchor
from bridge.sdp.offer_answer import (
    CodecPolicy,
    differs,
    local_answer,
    make_answer,
    make_offer,
    negotiated,
    payload_map,
)
from bridge.sdp.session import Description
from bridge.sip.events import Address, Flow
from bridge.sip.message import REASONS, Header

REPORT_FOR = 2.0  # seconds the relay has to report on a closed session before the record goes out without it
SILENT_AFTER = 60.0  # seconds without RTP and RTCP after which a peer is asked whether it still lives


class CallState(enum.Enum):
    OPENING = "opening"  # waits for the relay's ports
    DIALLING = "dialling"  # looks for a target that answers
    UP = "up"
    ENDING = "ending"  # both legs were told; waits for the relay's report
    ENDED = "ended"


class Timer(enum.Enum):
    RINGING = "ringing"  # let the caller hear 180 by then
    RESPONSE = "response"  # the target has given no response at all
    RING = "ring"  # the target has not answered
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a call needs of the core: actions out, timers, legs, and where we are on a transport."""

    act: Callable[[Action], None]
    set_timer: Callable[[Call, Timer, float], None]
    cancel_timer: Callable[[Call, Timer], None]
    switchboard: Switchboard
    query_id: Callable[[Call], int]
    flow_to: Callable[[str, Address, str], Flow | None]  # transport, address, host name → a flow from a listener
    contact: Callable[[Flow], str]
    our_host: Callable[[Flow], str]
    learn: Callable[[Peer, str], None]
    full: Callable[[Peer], bool]  # a peer that has all the calls it may have
    media_address: str
    ended: Callable[[Call, SessionReport | None, float], None]


class Call:
    """Bring a caller's leg together with the first target that answers, and keep the two until one leaves."""

    caller: Leg

    def __init__(self, session: int, record: CallRecord, exchange: Exchange) -> None:
        self.session = session
        self.record = record
        self.callee: Leg | None = None
        self.state = CallState.OPENING
        self._dialled: Dialled | None = None
        self._targets: list[Target] = []
        self._hops: list[tuple[Target, Hop]] = []  # the current target's, still to be tried
        self._exchange = exchange
        self._ports: SessionOpened | None = None
        self._attempt_at = 0.0
        self._attempt: Target | None = None
        self._versions = dict.fromkeys(LegName, 0)
        self._query: int | None = None
        self._last_cause = Cause(503, "Service Unavailable")
        self._last_reason: Reason | None = None  # where the status alone does not say it

    # -- inputs ----------------------------------------------------------------------------------------------------

    def begin(self, caller: Leg, dialled: Dialled, targets: list[Target], now: float) -> None:
        """Ask for relay ports; the first target is dialled when they are there."""
        self.caller, self._dialled, self._targets = caller, dialled, targets
        self._note_leg(caller)
        self._exchange.set_timer(self, Timer.RINGING, now + caller.peer.profile.ringing_after)
        self._exchange.act(OpenSession(self.session, self._label))

    def refuse(self, caller: Leg, cause: Cause, reason: Reason, now: float, headers: tuple[Header, ...] = ()) -> None:
        """Turn the caller away before anything was begun."""
        self.caller = caller
        self._note_leg(caller)
        self.state = CallState.DIALLING
        caller.reject(cause, now, headers)
        self.record.status = cause.status
        self._end(cause, reason, "bridge", caller, now)

    def receive(self, leg: Leg, event: ControlEvent, now: float) -> None:
        """Take a control event of one of the legs."""
        if leg is not self.caller and leg is not self.callee:
            return  # an attempt that was given up
        side = "caller" if leg is self.caller else "callee"
        action = _TABLE.get((self.state, side, type(event)))
        if action is not None:
            action(self, event, now)

    def opened(self, event: SessionOpened, now: float) -> None:
        if self.state is CallState.OPENING:
            self._ports = event
            self._enter(CallState.DIALLING, now)
            self._next_target(now)

    def refused(self, event: SessionRefused, now: float) -> None:
        if self.state is CallState.OPENING:
            self._trace("relay", event.reason, now)
            self.state = CallState.DIALLING  # there is no session to close
            self._give_up(Cause(503, "No Media Ports"), Reason.NO_PORTS, now, retry_after=10)

    def resolved(self, query: Query, resolution: Resolution, now: float) -> None:
        """Take the addresses of the target that is being looked up."""
        if self.state is not CallState.DIALLING or query.id != self._query or self._attempt is None:
            return
        self._query = None
        for hop in resolution.hops:
            self._exchange.learn(self._attempt.peer, hop.address[0])
        if resolution.hops:
            self._hops = [(self._attempt, hop) for hop in resolution.hops]
            self._next_hop(now)
        else:
            self._attempt_failed(Cause(503, f"Unresolvable: {resolution.problem}"), now)

    def media_silent(self, event: MediaSilent, now: float) -> None:
        """Probe a peer from which neither RTP nor RTCP comes: a dead one must not hold the other for ever (F09)."""
        leg = self._leg(event.leg)
        if self.state is CallState.UP and leg is not None:
            self._trace("relay", f"{event.leg.value} leg: no media, probing", now)
            leg.probe(now)

    def closed(self, event: SessionClosed, now: float) -> None:
        if self.state is CallState.ENDING:
            self._finish(event.report, now)

    def timeout(self, timer: Timer, now: float) -> None:
        match timer:
            case Timer.RINGING:
                self.caller.ring(now)
            case Timer.RESPONSE:
                if self.callee is not None and not self.callee.responded:
                    self._abandon_attempt(Cause(408, "No Response"), now)
            case Timer.RING:
                self._abandon_attempt(Cause(480, "No Answer"), now, final=True)
            case Timer.REPORT:
                self._finish(None, now)

    def hang_up(self, cause: Cause, reason: Reason, ended_by: str, now: float) -> None:
        """End the call from outside: an operator, or a bug of ours."""
        if self.state in (CallState.OPENING, CallState.DIALLING):  # the caller hears this as its final response
            self.record.status = cause.status
            if self.callee is not None:
                self._note_attempt(487, now)
        self._end(cause, reason, ended_by, None, now)

    # -- looking for a target --------------------------------------------------------------------------------------

    def _next_target(self, now: float) -> None:
        if not self._targets:
            self._give_up(self._last_cause, self._last_reason or reason_of(self._last_cause.status), now)
            return
        target = self._attempt = self._targets.pop(0)
        self._attempt_at = now
        if self._exchange.full(target.peer):
            self._note_attempt(503, now)
            self._last_cause, self._last_reason = Cause(503, "Service Unavailable"), Reason.LIMIT
            self._next_target(now)
            return
        host = target.host.host
        if is_address(host):
            self._hops = [(target, Hop(target.transport, (host.strip("[]"), target.port)))]
            self._next_hop(now)
        else:
            self._query = self._exchange.query_id(self)
            self._exchange.act(Resolve(target.query(self._query)))

    def _next_hop(self, now: float) -> None:
        assert self._ports is not None
        if not self._hops:
            self._next_target(now)
            return
        target, hop = self._hops.pop(0)
        self._attempt, self._attempt_at = target, now
        name = "" if is_address(target.host.host) else target.host.host
        flow = self._exchange.flow_to(hop.transport, hop.address, name)
        if flow is None:
            self._attempt_failed(Cause(503, f"No {hop.transport} listener"), now)
            return
        assert self._dialled is not None
        exchange, name = self._exchange, self.caller.name.other
        asked = invitation(target, self._dialled, exchange.our_host(flow))
        try:
            policy = codec_policy(target.peer).within(codec_policy(self.caller.peer))
            offer = make_offer(self.caller.remote_description, policy, self._anchor(name))
        except PeerError as error:
            self._attempt_failed(Cause(error.status, error.reason), now)
            return
        self._versions[name] += 1
        self.callee = Leg(
            name,
            target.peer,
            flow,
            exchange.contact(flow),
            self.record.id,
            exchange.switchboard,
            self.receive,
        )
        self.record.request_uri = asked.request_uri
        profile = target.peer.profile
        exchange.set_timer(self, Timer.RESPONSE, now + profile.response_deadline)
        exchange.set_timer(self, Timer.RING, now + profile.ring_deadline)
        self.callee.call(asked, offer, now)
        self._note_leg(self.callee)

    def _abandon_attempt(self, cause: Cause, now: float, final: bool = False) -> None:
        if self.state is not CallState.DIALLING or self.callee is None:
            return
        callee, self.callee = self.callee, None
        callee.hang_up(cause, (), now)
        if final:
            self._note_attempt(cause.status, now)
            self._give_up(cause, Reason.NO_ANSWER, now)
        else:
            self._attempt_failed(cause, now)

    def _attempt_failed(self, cause: Cause, now: float) -> None:
        """Move to the next target where the profile says so; else the caller gets the failure (D12)."""
        assert self._attempt is not None
        self.callee = None
        self._note_attempt(cause.status, now)
        self._last_cause, self._last_reason = cause, None
        self._exchange.cancel_timer(self, Timer.RESPONSE)
        self._exchange.cancel_timer(self, Timer.RING)
        if cause.status not in self._attempt.peer.profile.retry:
            self._give_up(cause, reason_of(cause.status), now)
        elif self._hops:
            self._next_hop(now)
        else:
            self._next_target(now)

    # -- the table's actions ---------------------------------------------------------------------------------------

    def _callee_ringing(self, event: Ringing, now: float) -> None:
        self._note_ringing(now)
        self.caller.ring(now)

    def _callee_progress(self, event: Progress, now: float) -> None:
        self._note_ringing(now)
        try:
            answer = self._answer_for_caller(event.description)
        except PeerError:
            self.caller.ring(now)
            return
        self.caller.progress(answer, now)
        self._update_media(now, fill=False)

    def _callee_answered(self, event: Answer, now: float) -> None:
        assert self.callee is not None
        chosen = event.description or self.callee.remote_description
        try:
            if chosen is None:
                raise PeerError(488, "Answer Without SDP")
            answer = self._answer_for_caller(chosen)
        except PeerError as error:
            cause = Cause(error.status, error.reason)
            self.callee.hang_up(cause, (), now)
            self._attempt_failed(cause, now)
            return
        self._note_attempt(200, now)
        self._note_ringing(now)
        self.record.answered_at = now
        self.record.status = 200
        for timer in (Timer.RINGING, Timer.RESPONSE, Timer.RING):
            self._exchange.cancel_timer(self, timer)
        self.caller.answer(answer, event.headers, now)
        self._enter(CallState.UP, now)
        self._update_media(now, fill=True)

    def _callee_rejected(self, event: Reject, now: float) -> None:
        self._attempt_failed(event.cause, now)

    def _caller_gave_up(self, event: Hangup, now: float) -> None:
        if self.callee is not None:
            self.callee.hang_up(event.cause, event.headers, now)
            self._note_attempt(487, now)
        self._end(event.cause, Reason.CANCELLED, self.caller.name.value, self.caller, now)
        self.record.status = 487

    def _caller_left(self, event: Hangup, now: float) -> None:
        self._leg_left(self.caller, event, now)

    def _callee_left(self, event: Hangup, now: float) -> None:
        assert self.callee is not None
        self._leg_left(self.callee, event, now)

    def _leg_left(self, leg: Leg, event: Hangup, now: float) -> None:
        match event.cause.status:
            case 200:
                reason, ended_by = Reason.HANGUP, leg.name.value
            case 408 if event.cause.reason == "ACK missing":
                reason, ended_by = Reason.NO_ACK, "bridge"
            case 488:
                reason, ended_by = Reason.CODEC, "bridge"
            case _:
                reason, ended_by = Reason.PEER_LOST, "bridge"
        other = self.callee if leg is self.caller else self.caller
        if other is not None:
            other.hang_up(event.cause, event.headers, now)
        self._end(event.cause, reason, ended_by, leg, now)

    def _caller_reoffered(self, event: Reoffer, now: float) -> None:
        self._answer_reoffer(self.caller, event.offer, now)

    def _callee_reoffered(self, event: Reoffer, now: float) -> None:
        assert self.callee is not None
        self._answer_reoffer(self.callee, event.offer, now)

    def _answer_reoffer(self, leg: Leg, offer: Description | None, now: float) -> None:
        """Answer a re-INVITE from what is agreed; the other leg is not touched (D23)."""
        assert leg.local_description is not None
        current, theirs = leg.local_description, leg.remote_description
        if offer is None:  # it gets what is in use; the answer comes in the ACK
            if len(current.media) == 1:  # RFC 6337 §5.3: all we can do, since a hold may end this way
                current = make_offer(current, codec_policy(leg.peer), self._anchor(leg.name))
            leg.accept_reoffer(None, self._unchanged_or(leg, current), now)
            return
        answer, changed = local_answer(offer, current, self._anchor(leg.name), theirs)
        leg.accept_reoffer(offer, self._unchanged_or(leg, answer), now)
        if changed:
            self._update_media(now, fill=True)

    def _reoffer_answered(self, event: Answer, now: float) -> None:
        try:
            self._update_media(now, fill=True)
        except PeerError as error:  # it took nothing of what we offered
            self.hang_up(Cause(error.status, error.reason), Reason.CODEC, "bridge", now)

    # -- media -----------------------------------------------------------------------------------------------------

    def _anchor(self, name: LegName) -> Anchor:
        assert self._ports is not None
        return Anchor(self._exchange.media_address, self._ports.port(name), self.session, self._versions[name] + 1)

    def _answer_for_caller(self, chosen: Description) -> Description:
        assert self.callee is not None
        assert self.callee.local_description is not None
        negotiated(self.callee.local_description, chosen)  # 488 for an answer that took nothing of our offer
        caller, offer = self.caller, self.caller.remote_description
        policy = codec_policy(self.callee.peer).within(codec_policy(caller.peer))
        anchor = self._anchor(caller.name)
        if offer is None:  # the caller's INVITE had none: ours stands in the 200, its answer comes in the ACK
            return self._unchanged_or(caller, make_offer(chosen, policy, anchor))
        return self._unchanged_or(caller, make_answer(offer, chosen, policy, anchor, "sendrecv"))

    def _unchanged_or(self, leg: Leg, description: Description) -> Description:
        """Return what the leg last said if this says no more: o= may rise only with a change (RFC 3264 §8)."""
        last = leg.local_description
        if last is not None and not differs(description, last):
            return last
        self._versions[leg.name] += 1
        return description

    def _update_media(self, now: float, fill: bool) -> None:
        """Tell the relay what both legs have agreed."""
        legs = [leg for leg in (self.caller, self.callee) if leg is not None]
        agreed = {
            leg.name: negotiated(leg.local_description, leg.remote_description, leg.we_answered)
            for leg in legs
            if leg.local_description is not None and leg.remote_description is not None
        }
        if len(agreed) < 2:
            return
        for leg in legs:
            near, far, profile = agreed[leg.name], agreed[leg.name.other], leg.peer.profile
            payloads = tuple(Payload(*entry) for entry in payload_map(near, far))
            speech = next((codec for codec in near.codecs if codec.encoding in ("PCMU", "PCMA")), None)
            permitted = list(profile.media_sources) if profile.latch == "latch" else []
            if near.private_address and profile.latch == "latch":
                permitted.append(leg.flow.remote[0])  # T01: the leg's signalling source stands in for it
            media = LegMedia(
                remote_rtp=near.remote_rtp,
                remote_rtcp=near.remote_rtcp,
                rtcp_mux=near.rtcp_mux,
                may_send=near.may_send,
                may_receive=near.may_receive,
                payloads=payloads,
                ptime_ms=near.ptime_ms,
                fill_after_ms=profile.fill_after_ms if fill and profile.fill == "silence" else None,
                fill_payload_type=speech.payload_type if speech else None,
                permitted=tuple(permitted),
                latch_for=profile.latch_for if profile.latch == "latch" else 0.0,
                silent_after=SILENT_AFTER if fill and near.may_receive else None,
            )
            facts = self.record.legs[leg.name]
            facts.codec = near.codecs[0].encoding
            facts.ptime_ms = near.ptime_ms
            self._exchange.act(UpdateSession(self.session, leg.name, media))

    # -- the end ---------------------------------------------------------------------------------------------------

    def _give_up(self, cause: Cause, reason: Reason, now: float, retry_after: int | None = None) -> None:
        """Refuse the caller, with the status that the caller's profile wants for it (D12)."""
        status = self.caller.peer.profile.responses.get(cause.status, cause.status)
        if not 400 <= status < 700:  # an unfollowed redirect (T09)
            status = 480
        phrase = cause.reason if status == cause.status else REASONS.get(status, "")
        headers = (Header("Retry-After", str(retry_after)),) if retry_after is not None else ()
        self.caller.reject(Cause(status, phrase, cause.reasons), now, headers)
        self.record.status = status
        self._end(cause, reason, "bridge" if reason.result.value == "failed" else self._far_name(), self.caller, now)

    def _far_name(self) -> str:
        return self.caller.name.other.value

    def _end(self, cause: Cause, reason: Reason, ended_by: str, left: Leg | None, now: float) -> None:
        if self.state in (CallState.ENDING, CallState.ENDED):
            return
        for timer in Timer:
            self._exchange.cancel_timer(self, timer)
        for leg in (self.caller, self.callee):
            if leg is not None and leg is not left:
                leg.hang_up(cause, (), now)
        self.record.reason, self.record.ended_by, self.record.ended_at = reason, ended_by, now
        has_session = self._ports is not None or self.state is CallState.OPENING
        self._enter(CallState.ENDING, now)
        if has_session:
            self._exchange.set_timer(self, Timer.REPORT, now + REPORT_FOR)
            self._exchange.act(CloseSession(self.session))
        else:
            self._finish(None, now)

    def _finish(self, report: SessionReport | None, now: float) -> None:
        if self.state is CallState.ENDING:
            self._exchange.cancel_timer(self, Timer.REPORT)
            self._enter(CallState.ENDED, now)
            self._exchange.ended(self, report, now)

    # -- the record ------------------------------------------------------------------------------------------------

    def _note_leg(self, leg: Leg) -> None:
        host, port = leg.flow.remote
        self.record.legs[leg.name] = LegFacts(leg.call_id, f"{host}:{port}", leg.flow.transport)
        label = self._label
        if leg.peer.kind == "carrier":
            self.record.carrier = leg.peer.name
        else:
            self.record.platform = leg.peer.name
        if self._ports is not None and self._label != label:
            self._exchange.act(RelabelSession(self.session, self._label))

    @property
    def _label(self) -> SessionLabel:
        return SessionLabel(self.record.carrier, self.record.platform)

    def _note_attempt(self, status: int, now: float) -> None:
        if self._attempt is not None:
            self.record.attempts.append(
                Attempt(self._attempt.peer.name, str(self._attempt), status, now - self._attempt_at)
            )

    def _note_ringing(self, now: float) -> None:
        if self.record.ringing_at is None:
            self.record.ringing_at = now

    def _leg(self, name: LegName) -> Leg | None:
        return self.caller if self.caller.name is name else self.callee

    def _enter(self, state: CallState, now: float) -> None:
        self.state = state
        record = self.record
        details = {
            "route": record.route,
            "direction": record.direction,
            "carrier": record.carrier,
            "platform": record.platform,
            "from": record.from_number,
            "to": record.to_number,
        }
        self._exchange.act(Trace("state", now, call=record.id, text=state.value, details=details))

    def _trace(self, kind: str, text: str, now: float) -> None:
        self._exchange.act(Trace(kind, now, call=self.record.id, text=text))


def codec_policy(peer: Peer) -> CodecPolicy:
    """Return what a peer's profile lets us negotiate with it."""
    profile = peer.profile
    return CodecPolicy(profile.codecs, profile.telephone_event, profile.ptime_ms)


# (state, who speaks, what is said) → what the call does. What is not listed has no meaning there and is let pass:
# a late Ringing of a call that is ending, say.
_TABLE: dict[tuple[CallState, str, type[ControlEvent]], Callable[..., None]] = {
    (CallState.OPENING, "caller", Hangup): Call._caller_gave_up,
    (CallState.DIALLING, "caller", Hangup): Call._caller_gave_up,
    (CallState.DIALLING, "callee", Ringing): Call._callee_ringing,
    (CallState.DIALLING, "callee", Progress): Call._callee_progress,
    (CallState.DIALLING, "callee", Answer): Call._callee_answered,
    (CallState.DIALLING, "callee", Reject): Call._callee_rejected,
    (CallState.UP, "caller", Hangup): Call._caller_left,
    (CallState.UP, "callee", Hangup): Call._callee_left,
    (CallState.UP, "caller", Reoffer): Call._caller_reoffered,
    (CallState.UP, "callee", Reoffer): Call._callee_reoffered,
    (CallState.UP, "caller", Answer): Call._reoffer_answered,
    (CallState.UP, "callee", Answer): Call._reoffer_answered,
}
