"""A call: two legs, a relay session, and the attempts to find somebody who answers.

The state machine is `_TABLE` below. Legs report control events; the call tells the other leg. Nothing here is SIP.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from bridge.b2bua.actions import (
    CloseSession,
    OpenSession,
    Query,
    RelabelSession,
    Resolution,
    Trace,
    UpdateSession,
)
from bridge.b2bua.control import (
    Answer,
    Cause,
    ControlEvent,
    Hangup,
    Info,
    Progress,
    Refer,
    Reject,
    Reoffer,
    ReofferAnswered,
    Ringing,
)
from bridge.b2bua.exchange import Exchange, Timer
from bridge.b2bua.hunt import Hunt
from bridge.b2bua.leg import Leg
from bridge.b2bua.media import Origin, agreed, answer_in_force, codec_policy, leg_media, speaks_more
from bridge.b2bua.record import CallRecord, LegFacts, Reason, Result, TransferFacts, TransferResult
from bridge.b2bua.routing import Dialled, Invitation, Target
from bridge.b2bua.sequel import Sequel
from bridge.b2bua.transfer import Transfer, trace_transfer
from bridge.config import Peer
from bridge.errors import PeerError
from bridge.media.relay import (
    LegName,
    MediaSilent,
    SessionClosed,
    SessionLabel,
    SessionOpened,
    SessionRefused,
    SessionReport,
)
from bridge.sdp.anchor import Anchor
from bridge.sdp.offer_answer import (
    differs,
    local_answer,
    make_answer,
    make_offer,
    negotiated,
)
from bridge.sdp.session import Description
from bridge.sip.message import REASONS, Header
from bridge.sip.uri import Uri

_IDENTITY = ("p-asserted-identity", "privacy")
REPORT_FOR = 2.0  # seconds the relay has to report on a closed session before the record goes out without it


class CallState(enum.Enum):
    __hash__ = object.__hash__  # a key of tables; Enum's own hash is written in Python

    OPENING = "opening"  # waits for the relay's ports
    DIALLING = "dialling"  # looks for a target that answers
    UP = "up"
    ENDING = "ending"  # both legs were told; waits for the relay's report
    ENDED = "ended"


class Call:
    """Bring a caller's leg together with the first target that answers, and keep the two until one leaves."""

    caller: Leg

    def __init__(self, session: int, record: CallRecord, exchange: Exchange) -> None:
        self.session = session
        self.record = record
        self.callee: Leg | None = None
        self.state = CallState.OPENING
        self._exchange = exchange
        self._hunt: Hunt | None = None
        self._ports: SessionOpened | None = None
        self._origins = {name: Origin(session) for name in LegName}
        self._facts = record.legs.copy()  # of the legs that the call has now, where a transfer has put one in
        self._numbers: dict[LegName, str] = {}  # likewise
        self._transfer: Transfer | None = None
        self.transferring = False  # a transfer of its own is under way, or another call's takes one of its legs
        self._asserted: tuple[Header, ...] = ()  # what the caller's INVITE said of its identity
        self.sequel: Sequel | None = None  # where this call is a platform's transfer of another

    # -- inputs ----------------------------------------------------------------------------------------------------

    def begin(self, caller: Leg, dialled: Dialled, targets: list[Target], now: float) -> None:
        """Ask for relay ports; the first target is dialled when they are there."""
        self.caller = caller
        self._asserted = tuple(header for header in dialled.passed if header.name.lower() in _IDENTITY)
        self._hunt = Hunt(self, self._exchange, self, caller.name.other, dialled, targets, self.record.attempts)
        self._note_leg(caller)
        self._exchange.set_timer(self, Timer.RINGING, now + caller.peer.profile.ringing_after)
        self._exchange.act(OpenSession(self.session, self._label))

    def refuse(self, caller: Leg, cause: Cause, reason: Reason, now: float, headers: tuple[Header, ...] = ()) -> None:
        """Turn the caller away before anything was begun."""
        self.caller = caller
        self._note_leg(caller)
        self.state = CallState.DIALLING
        heard = _as_heard(cause, caller.peer) if reason is Reason.LIMIT else cause
        caller.reject(heard, now, headers)
        self.record.status = heard.status
        self._end(cause, reason, "bridge", caller, now)

    def receive(self, leg: Leg, event: ControlEvent, now: float) -> None:
        """Take a control event of one of the legs."""
        if self._transfer is not None and self._transfer.receive(leg, event, now):
            self._drop_transfer()
            return
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
            if self._hunt is not None:
                self._hunt.next_target(now)

    def refused(self, event: SessionRefused, now: float) -> None:
        if self.state is CallState.OPENING:
            self._trace("relay", event.reason, now)
            self.state = CallState.DIALLING  # there is no session to close
            self._give_up(Cause(503, "No Media Ports"), Reason.NO_PORTS, now, retry_after=10)

    def resolved(self, query: Query, resolution: Resolution, now: float) -> None:
        """Take the addresses of the target that is being looked up."""
        hunt = self._hunt if self._transfer is None else self._transfer.hunt
        if hunt is not None:
            hunt.resolved(query, resolution, now)
            self._drop_transfer()

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
            case Timer.RESPONSE | Timer.RING:
                hunt = self._hunt if self._transfer is None else self._transfer.hunt
                if hunt is not None:
                    hunt.timeout(timer, now)
                    self._drop_transfer()
            case Timer.TRANSFER:
                if self._transfer is not None:
                    self._transfer.timeout(now)
                    self._drop_transfer()
            case Timer.REPORT:
                self._finish(None, now)

    def hang_up(self, cause: Cause, reason: Reason, ended_by: str, now: float) -> None:
        """End the call from outside: an operator, or a bug of ours."""
        if self.state in (CallState.OPENING, CallState.DIALLING):  # the caller hears this as its final response
            self.record.status = cause.status
            if self._hunt is not None:
                self._hunt.stop(cause, (), now)
        self._end(cause, reason, ended_by, None, now)

    # -- looking for a target --------------------------------------------------------------------------------------

    def offer(self, peer: Peer) -> Description:
        """Offer a target what the caller offered us. Raises PeerError."""
        name = self.caller.name.other
        policy = codec_policy(peer).within(codec_policy(self.caller.peer))
        offer = make_offer(self.caller.remote_description, policy, self._anchor(name))
        self._origins[name].version += 1
        return offer

    def trying(self, leg: Leg, invitation: Invitation, now: float) -> None:
        """Take the leg of an attempt as callee."""
        self.callee = leg
        self.record.request_uri = invitation.request_uri
        self._note_leg(leg)

    def nobody(self, cause: Cause, reason: Reason, now: float) -> None:
        """Give the caller the failure of the last attempt."""
        self.callee = None
        self._give_up(cause, reason, now, retry_after=10 if reason is Reason.LIMIT else None)

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
        self._connect(answer, event.headers, now)

    def _connect(self, answer: Description, headers: tuple[Header, ...], now: float) -> None:
        """Give the caller the answer: the call is up."""
        assert self.callee is not None
        if self._hunt is not None:
            self._hunt.answered(now)
        self._note_ringing(now)
        self.record.answered_at = now
        self.record.status = 200
        self._exchange.cancel_timer(self, Timer.RINGING)
        if self.sequel is not None:
            self.sequel.conclude(200, now)
        self.caller.answer(answer, headers, now)
        self._enter(CallState.UP, now)
        self._update_media(now, fill=True)
        self._align(self.caller, self.callee, now)  # an early answer may have promised more than the last fork takes

    def _callee_rejected(self, event: Reject, now: float) -> None:
        self._attempt_failed(event.cause, now, event.contacts)

    def _attempt_failed(self, cause: Cause, now: float, contacts: tuple[str, ...] = ()) -> None:
        self.callee = None
        if self._hunt is not None:
            self._hunt.failed(cause, now, contacts)

    def _caller_gave_up(self, event: Hangup, now: float) -> None:
        if self._hunt is not None:
            self._hunt.stop(event.cause, event.headers, now)
        self.record.status = event.cause.status
        match event.cause.status:
            case 504:  # it never acknowledged a reliable response (R30)
                self._end(event.cause, Reason.NO_ACK, "bridge", self.caller, now)
            case 488:  # its PRACK answered our offer with something else
                self._end(event.cause, Reason.CODEC, "bridge", self.caller, now)
            case _:
                self.record.status = 487
                self._end(event.cause, Reason.CANCELLED, self.caller.name.value, self.caller, now)

    def _caller_left(self, event: Hangup, now: float) -> None:
        if event.cause.status in (487, 504):  # the 200 still waited for a PRACK: it was never answered
            self.record.answered_at = None
            self._caller_gave_up(event, now)
        else:
            self._leg_left(self.caller, event, now)

    def _callee_left(self, event: Hangup, now: float) -> None:
        assert self.callee is not None
        self._leg_left(self.callee, event, now)

    def _leg_left(self, leg: Leg, event: Hangup, now: float) -> None:
        match event.cause.status:
            case 200:
                reason, ended_by = Reason.HANGUP, leg.peer.kind
            case 408 if event.cause.reason == "ACK missing":
                reason, ended_by = Reason.NO_ACK, "bridge"
            case 408 if event.cause.reason == "Session Expired":
                reason, ended_by = Reason.SESSION_EXPIRED, "bridge"
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

    def _caller_said(self, event: Info, now: float) -> None:
        if self.callee is not None:
            self.callee.info(event.content_type, event.body, event.headers, now)

    def _callee_said(self, event: Info, now: float) -> None:
        self.caller.info(event.content_type, event.body, event.headers, now)

    def _reoffer_answered(self, event: Answer | ReofferAnswered, now: float) -> None:
        try:
            self._update_media(now, fill=self.state is CallState.UP)
        except PeerError as error:  # it took nothing of what we offered
            self.hang_up(Cause(error.status, error.reason), Reason.CODEC, "bridge", now)

    # -- transfers -------------------------------------------------------------------------------------------------

    def transfer(self, uri: Uri, now: float) -> None:
        """Bring the caller elsewhere because an operator wants it (D36). Raises PeerError: 409 or what forbids it."""
        self._begin_transfer(*self._parties(), uri, (), "operator", now)

    def check_transfer(self, uri: Uri) -> None:
        """Raise the PeerError that `transfer` would raise."""
        Transfer(self, self._exchange, *self._parties(), TransferFacts("", "", 0.0, "operator")).check(uri, ())

    def _parties(self) -> tuple[Leg, Leg]:
        """Return the transferor and the transferee of an operator's transfer. Raises PeerError 409."""
        if self.state is not CallState.UP or self.callee is None:
            raise PeerError(409, "the call is not up")
        if self.transferring:
            raise PeerError(409, "a transfer of this call is under way")
        # The person who has been there from the start goes on; who came by a transfer before may leave.
        stays = sorted((self.caller, self.callee), key=lambda leg: (leg.peer.kind != "carrier", self._is_adopted(leg)))
        return stays[1], stays[0]

    def _is_adopted(self, leg: Leg) -> bool:
        return leg.name in self._numbers

    def _caller_refers(self, event: Refer, now: float) -> None:
        self._refer(self.caller, event, now)

    def _callee_refers(self, event: Refer, now: float) -> None:
        assert self.callee is not None
        self._refer(self.callee, event, now)

    def _refer(self, leg: Leg, event: Refer, now: float) -> None:
        """Take a platform's REFER. A carrier has no business to send its caller's AI elsewhere (T09)."""
        other = self.partner(leg)
        if self.transferring or other is None:
            leg.refuse_refer(Cause(491, "Request Pending"), now)
        elif leg.peer.kind == "carrier" or leg.peer.profile.transfer == "off":
            leg.refuse_refer(Cause(403, "Forbidden"), now)
        else:
            by = (Header("Referred-By", event.referred_by),) if event.referred_by else ()
            try:
                self._begin_transfer(leg, other, event.refer_to.uri, (*event.headers, *by), "platform", now)
            except PeerError as error:
                leg.refuse_refer(Cause(error.status, error.reason), now)

    def _begin_transfer(
        self, transferor: Leg, transferee: Leg, uri: Uri, headers: tuple[Header, ...], by: str, now: float
    ) -> None:
        facts = TransferFacts("", uri.user or str(uri), now, by)
        transfer = Transfer(self, self._exchange, transferor, transferee, facts)
        before, self.record.transfer = self.record.transfer, facts
        self._transfer, self.transferring = transfer, True
        try:
            transfer.begin(uri, headers, now)
        except PeerError as error:
            self._transfer, self.transferring = None, False
            if by == "operator":  # who is told so at once
                self.record.transfer = before
            else:
                facts.mode, facts.result, facts.status = "refer", TransferResult.REFUSED, error.status
                trace_transfer(self.record, facts, self._exchange.act, now)
            raise
        self._drop_transfer()

    def _drop_transfer(self) -> None:
        if self._transfer is not None and self._transfer.over:
            self._transfer, self.transferring = None, False

    def partner(self, leg: Leg) -> Leg | None:
        """Return the leg on the other side of a call that is up."""
        if self.state is not CallState.UP:
            return None
        return self.callee if leg is self.caller else self.caller

    def is_with(self, peer: Peer) -> bool:
        """Tell whether the call is up and one of its legs is this peer's."""
        return self.state is CallState.UP and any(leg.peer is peer for leg in (self.caller, self.callee) if leg)

    def legs(self) -> list[Leg]:
        """Return every leg of the call, that of a transfer's target included."""
        target = None if self._transfer is None else self._transfer.target
        return [leg for leg in (self.caller, self.callee, target) if leg is not None]

    def number_of(self, leg: Leg) -> str:
        """Return the telephone number at a leg's other end."""
        first = self.record.from_number if leg is self.caller else self.record.to_number
        return self._numbers.get(leg.name, first)

    def asserted(self, leg: Leg) -> tuple[Header, ...]:
        """Return what a leg's INVITE asserted of its sender, and how private that is; none where there was nothing."""
        return self._asserted if leg is self.caller and not self._is_adopted(leg) else ()

    def origin(self, name: LegName) -> Origin:
        """Return what our o= line says on one side."""
        return self._origins[name]

    def offer_to(self, peer: Peer, heard: Leg, name: LegName, origin: Origin) -> Description:
        """Offer a new party on side ``name`` what the peer of ``heard`` speaks. Raises PeerError."""
        assert self._ports is not None
        policy = codec_policy(peer).within(codec_policy(heard.peer))
        anchor = Anchor(self._exchange.media_address, self._ports.port(name), origin.session, origin.version + 1)
        offer = make_offer(answer_in_force(heard), policy, anchor)
        origin.version += 1
        return offer

    def adopt(self, old: Leg, new: Leg, number: str, origin: Origin, now: float) -> LegFacts:
        """Put a leg in the place of another; that one is no longer the call's. Returns what is known of the new one."""
        new.name = old.name
        if old is self.caller:
            self.caller = new
        else:
            self.callee = new
        host, port = new.flow.remote
        facts = self._facts[new.name] = LegFacts(new.call_id, f"{host}:{port}", new.flow.transport)
        self._numbers[new.name], self._origins[new.name] = number, origin
        self.update_media(now)
        other = self.partner(new)
        assert other is not None
        self._align(other, new, now)
        return facts

    def keep(self, leg: Leg, now: float) -> None:
        """Ask a leg's peer to send its media here: a transfer wanted it elsewhere, and came to nothing."""
        other = self.partner(leg)
        if other is not None:
            offer = make_offer(answer_in_force(other), codec_policy(leg.peer), self._anchor(leg.name))
            self._origins[leg.name].version += 1
            leg.reoffer(offer, now)

    def _align(self, leg: Leg, other: Leg, now: float) -> None:
        """Ask a leg's peer to speak nothing that the other leg has not taken: nothing is transcoded."""
        terms, theirs = agreed(leg), agreed(other)
        if terms is not None and theirs is not None and speaks_more(terms, theirs):
            offer = make_offer(answer_in_force(other), codec_policy(leg.peer), self._anchor(leg.name))
            leg.reoffer(self._unchanged_or(leg, offer), now)

    def replace(self, old: Leg, new: Leg, now: float) -> None:
        """Let an INVITE of its peer's take a leg's place (RFC 3891 §3). Raises PeerError where that can't be."""
        other = self.partner(old)
        origin = Origin(self.session)
        if self.transferring:
            raise PeerError(491, "Request Pending")
        if other is not None:
            new.answer(self._answer_to(new, other.peer, answer_in_force(other), old.name, origin), (), now)
            number = self.number_of(old)
            facts = TransferFacts("attended", number, now, old.peer.kind, TransferResult.SUCCEEDED, 200)
            self.record.transfer = facts
            facts.leg = self.adopt(old, new, number, origin, now)
            old.hang_up(Cause(200, "OK"), (), now)
            trace_transfer(self.record, facts, self._exchange.act, now)
        elif self.state is CallState.DIALLING and old is self.callee and new.remote_description is not None:
            caller, theirs = self.caller, new.remote_description
            answer = self._answer_to(caller, new.peer, theirs, caller.name, self._origins[caller.name])
            ours = self._answer_to(new, caller.peer, answer, old.name, origin)
            old.hang_up(Cause(487, "Request Terminated"), (), now)
            self.callee, self._origins[old.name] = new, origin
            self._note_leg(new)
            new.answer(ours, (), now)
            self._connect(answer, (), now)
        else:
            raise PeerError(481, "Call/Transaction Does Not Exist")

    def _answer_to(self, leg: Leg, far: Peer, chosen: Description | None, name: LegName, origin: Origin) -> Description:
        """Answer a leg's INVITE, or offer where it had no offer, with what ``chosen`` has of it. Raises PeerError."""
        assert self._ports is not None
        policy = codec_policy(far).within(codec_policy(leg.peer))
        anchor = Anchor(self._exchange.media_address, self._ports.port(name), origin.session, origin.version + 1)
        origin.version += 1
        if leg.remote_description is None or chosen is None:
            return make_offer(chosen, policy, anchor)
        return make_answer(leg.remote_description, chosen, policy, anchor, "sendrecv")

    def release(self, leg: Leg, now: float) -> None:
        """End the call without a leg that has gone over to another call."""
        self._end(Cause(200, "OK"), Reason.TRANSFERRED, "bridge", leg, now)

    def update_media(self, now: float) -> None:
        """Tell the relay anew what both legs have agreed."""
        self._update_media(now, fill=True)

    # -- media -----------------------------------------------------------------------------------------------------

    def _anchor(self, name: LegName) -> Anchor:
        assert self._ports is not None
        origin = self._origins[name]
        return Anchor(self._exchange.media_address, self._ports.port(name), origin.session, origin.version + 1)

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
        self._origins[leg.name].version += 1
        return description

    def _update_media(self, now: float, fill: bool) -> None:
        """Tell the relay what both legs have agreed."""
        legs = [leg for leg in (self.caller, self.callee) if leg is not None]
        terms = {leg.name: known for leg in legs if (known := agreed(leg)) is not None}
        if len(terms) < 2:
            return
        for leg in legs:
            near, far = terms[leg.name], terms[leg.name.other]
            facts = self._facts[leg.name]
            facts.codec = near.codecs[0].encoding
            facts.ptime_ms = near.ptime_ms
            media = leg_media(leg, near, far, fill)
            if self._transfer is not None:
                media = self._transfer.media(leg, media)
            self._exchange.act(UpdateSession(self.session, leg.name, media))

    # -- the end ---------------------------------------------------------------------------------------------------

    def _give_up(self, cause: Cause, reason: Reason, now: float, retry_after: int | None = None) -> None:
        """Refuse the caller, with the status that the caller's profile wants for it (D12)."""
        headers = (Header("Retry-After", str(retry_after)),) if retry_after is not None else ()
        heard = _as_heard(cause, self.caller.peer)
        self.caller.reject(heard, now, headers)
        self.record.status = heard.status
        ours = reason.result is Result.FAILED or reason in (Reason.LIMIT, Reason.FORBIDDEN)
        self._end(cause, reason, "bridge" if ours else self._far_name(), self.caller, now)

    def _far_name(self) -> str:
        return self.caller.name.other.value

    def _end(self, cause: Cause, reason: Reason, ended_by: str, left: Leg | None, now: float) -> None:
        if self.state in (CallState.ENDING, CallState.ENDED):
            return
        if self._transfer is not None:
            self._transfer.stop(cause, now)
        if self.sequel is not None:
            self.sequel.conclude(cause.status if cause.status >= 300 else 487, now)
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
            # What holds this call lets go of it, so that it leaves memory now and not when the garbage collector comes.
            self._hunt = self.sequel = None
            for leg in (self.caller, self.callee):
                if leg is not None and leg.receiver == self.receive:
                    leg.receiver = _nobody

    # -- the record ------------------------------------------------------------------------------------------------

    def _note_leg(self, leg: Leg) -> None:
        host, port = leg.flow.remote
        facts = LegFacts(leg.call_id, f"{host}:{port}", leg.flow.transport)
        self.record.legs[leg.name] = self._facts[leg.name] = facts
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


def _nobody(leg: Leg, event: ControlEvent, now: float) -> None:
    """Hear what a leg says after its call."""


def _as_heard(cause: Cause, caller: Peer) -> Cause:
    """Return a failure as a caller's profile wants to hear it (D12, R23)."""
    status = caller.profile.responses.get(cause.status, cause.status)
    if not 400 <= status < 700:  # a redirect that was not followed (T09)
        status = 480
    phrase = cause.reason if status == cause.status else REASONS.get(status, "")
    return Cause(status, phrase, cause.reasons)


# (state, who speaks, what is said) → what the call does. What is not listed has no meaning there and is let pass:
# a late Ringing of a call that is ending, say.
_TABLE: dict[tuple[CallState, str, type[ControlEvent]], Callable[..., None]] = {
    (CallState.OPENING, "caller", Hangup): Call._caller_gave_up,
    (CallState.DIALLING, "caller", Hangup): Call._caller_gave_up,
    (CallState.DIALLING, "callee", Ringing): Call._callee_ringing,
    (CallState.DIALLING, "callee", Progress): Call._callee_progress,
    (CallState.DIALLING, "callee", Answer): Call._callee_answered,
    (CallState.DIALLING, "callee", Reject): Call._callee_rejected,
    (CallState.DIALLING, "caller", Reoffer): Call._caller_reoffered,
    (CallState.DIALLING, "callee", Reoffer): Call._callee_reoffered,
    (CallState.DIALLING, "caller", Answer): Call._reoffer_answered,
    (CallState.UP, "caller", Hangup): Call._caller_left,
    (CallState.UP, "callee", Hangup): Call._callee_left,
    (CallState.UP, "caller", Reoffer): Call._caller_reoffered,
    (CallState.UP, "callee", Reoffer): Call._callee_reoffered,
    (CallState.UP, "caller", Refer): Call._caller_refers,
    (CallState.UP, "callee", Refer): Call._callee_refers,
    (CallState.UP, "caller", Answer): Call._reoffer_answered,
    (CallState.UP, "callee", Answer): Call._reoffer_answered,
    (CallState.UP, "caller", ReofferAnswered): Call._reoffer_answered,
    (CallState.UP, "callee", ReofferAnswered): Call._reoffer_answered,
    (CallState.UP, "caller", Info): Call._caller_said,
    (CallState.UP, "callee", Info): Call._callee_said,
}
