"""A transfer: the caller is brought to somebody else, and the platform that asked for it leaves.

In RFC 5589's words: the transferor (the platform, or an operator in its name) brings the transferee (the caller) to the
target. By the profile of the transferee's carrier this goes one of three ways:

    refer     the REFER is passed to the carrier, which does the rest; what it reports is passed back   (D33, D34)
    dial      the target is dialled here; the platform stays connected until somebody answers
    attended  the target is the far party of another call of the platform's: the two calls become one  (RFC 3891)

Whatever fails, the caller stays where it was, and the transferor hears the real status (D38). The machine is `_TABLE`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bridge.b2bua.actions import Action, Trace
from bridge.b2bua.control import (
    Answer,
    Cause,
    ControlEvent,
    Hangup,
    Progress,
    ReferProgress,
    Reject,
    ReofferAnswered,
    ReofferRefused,
    Ringing,
)
from bridge.b2bua.destination import Destination, refer_to
from bridge.b2bua.exchange import Exchange, Timer
from bridge.b2bua.hunt import Hunt
from bridge.b2bua.leg import Leg
from bridge.b2bua.media import Origin, agreed
from bridge.b2bua.record import CallRecord, Reason, TransferFacts, TransferResult
from bridge.b2bua.routing import Dialled, Invitation, Target
from bridge.config import Peer
from bridge.errors import PeerError
from bridge.media.relay import LegMedia
from bridge.sdp.session import Description
from bridge.sip.extensions import Replaces
from bridge.sip.message import Header
from bridge.sip.uri import Uri

if TYPE_CHECKING:
    from bridge.b2bua.call import Call

LEAVES_WITHIN = 2.0
"""Seconds a platform has for its own BYE after the good news; LiveKit takes one."""

MOVES_WITHIN = 40.0
"""Seconds a target has to take its media elsewhere: longer than a re-INVITE is repeated, glare included."""

_NO_REFER = (405, 501)  # the carrier does not do REFER at all (Telnyx until it is switched on)


class TransferState(enum.Enum):
    ASKED = "asked"
    PASSED = "passed"  # a REFER of ours is with the carrier
    DIALLING = "dialling"  # the target is looked for here
    JOINING = "joining"  # the target's media moves into this call
    LEAVING = "leaving"  # done; the transferor has been told and is expected to hang up
    OVER = "over"


class Transfer:
    """Bring one call's transferee to another party. A platform that asked hears NOTIFYs, an operator does not."""

    def __init__(self, call: Call, exchange: Exchange, transferor: Leg, transferee: Leg, facts: TransferFacts) -> None:
        self.transferor = transferor
        self.transferee = transferee
        self.target: Leg | None = None
        self.state = TransferState.ASKED
        self.hunt: Hunt | None = None
        self.tone: str | None = None  # what the transferee hears in place of the transferor
        self.alone = False  # the transferor has hung up: there is nowhere to go back to
        self.facts = facts
        self._call = call
        self._exchange = exchange
        self._instead: Callable[[float], None] | None = None  # the way to go if the carrier does not take REFER
        self._number = ""  # the target's
        self._origin: Origin | None = None  # of what we offer the target
        self._told = 100  # the last status that the transferor heard of
        self._other: Call | None = None  # the call that an attended transfer takes the target from
        self._consulted: Leg | None = None  # the transferor's leg in it
        self._left: Hangup | None = None  # what that leg said when it left
        self._moving = False  # the target has been asked to send its media here

    # -- inputs ----------------------------------------------------------------------------------------------------

    def begin(self, uri: Uri, headers: Iterable[Header], now: float) -> None:
        """Set out for ``uri``. Raises PeerError where that is impossible or forbidden; then nothing has happened."""
        step = self.check(uri, headers)
        if self._notifies:
            self.transferor.accept_refer(now)
        step(now)

    def check(self, uri: Uri, headers: Iterable[Header]) -> Callable[[float], None]:
        """Return the way to ``uri``, not taking it yet. Raises PeerError like `begin`."""
        return self._plan(self._exchange.directory.destination(uri, headers, self.transferor.peer))

    def receive(self, leg: Leg, event: ControlEvent, now: float) -> bool:
        """Take an event of one of the three; False leaves it to the call."""
        role = self._role(leg)
        action = _TABLE.get((self.state, role, type(event)))
        if action is not None:
            action(self, event, now)
            # The call has to know that its caller has gone; of the others it knows nothing.
            return role != "transferee" or not isinstance(event, Hangup)
        if role in ("target", "consulted") and self._other is not None:
            self._other.receive(leg, event, now)
        return role in ("target", "consulted")

    def _role(self, leg: Leg) -> str:
        if leg is self.transferee:
            return "transferee"
        if leg is self.transferor:
            return "transferor"
        if leg is self.target:
            return "target"
        return "consulted" if leg is self._consulted else ""

    def media(self, leg: Leg, media: LegMedia) -> LegMedia:
        """Change what the relay is told of a leg: the transferee's ring tone, a transferor that has gone."""
        if leg is self.transferee and self.tone is not None:
            return replace(media, tone=self.tone)
        if leg is self.transferor and self.alone:
            return replace(media, may_send=False, may_receive=False, fill_after_ms=None, silent_after=None)
        return media

    def timeout(self, now: float) -> None:
        """Give up on a carrier that does not report, a target that does not move, a transferor that does not leave."""
        if self.state in (TransferState.PASSED, TransferState.JOINING):
            self._failed(Cause(408, "Transfer Timed Out"), now)
        elif self.state is TransferState.LEAVING:
            self._release(now)

    def stop(self, cause: Cause, now: float) -> None:
        """Let go of everything: the call ends."""
        leaving, self.state = self.state is TransferState.LEAVING, TransferState.OVER
        self._exchange.cancel_timer(self._call, Timer.TRANSFER)
        if self.hunt is not None:
            self.hunt.stop(cause, (), now)
        self._give_back(now)
        if leaving:
            self.transferor.hang_up(cause, (), now)
        if self.facts.result is None:
            self._tell(cause.status if cause.status >= 300 else 487, cause.reason, True, now)
            self._conclude(TransferResult.ABANDONED, 487, now)

    @property
    def over(self) -> bool:
        return self.state is TransferState.OVER

    # -- the ways to go --------------------------------------------------------------------------------------------

    def _plan(self, destination: Destination) -> Callable[[float], None]:
        """Choose the way. Raises PeerError where none is open (T09)."""
        directory, carrier = self._exchange.directory, self.transferee.peer
        if destination.replaces is not None:
            return self._plan_attended(destination, destination.replaces)
        way = carrier.profile.transfer
        if way == "off":
            raise PeerError(403, "Forbidden")
        takes_refer = not self.transferee.allows or "REFER" in self.transferee.allows
        passes = way.startswith("refer") and takes_refer and directory.may_be_reached(destination, carrier)
        if passes and way == "refer":
            return partial(self._pass, destination, None)
        dial = partial(self._dial, destination, directory.targets(destination, self.transferor.peer, carrier))
        if passes:
            self._instead = dial
            return partial(self._pass, destination, None)
        return dial

    def _plan_attended(self, destination: Destination, replaces: Replaces) -> Callable[[float], None]:
        """Find the dialog that the target is in: one of the transferor's own account with us (R38)."""
        board = self._exchange.switchboard
        consulted = board.find(replaces.call_id, replaces.to_tag, replaces.from_tag)
        if consulted is None or consulted is self.transferor:
            raise PeerError(481, "Call/Transaction Does Not Exist")
        if consulted.peer is not self.transferor.peer:
            raise PeerError(403, "Forbidden")
        other = self._exchange.call_of(consulted)
        target = None if other is None else other.partner(consulted)
        if other is None or target is None or other is self._call:
            raise PeerError(481, "Call/Transaction Does Not Exist")
        if other.transferring:
            raise PeerError(491, "Request Pending")
        carrier, join = self.transferee.peer, partial(self._join, other, consulted, target)
        if carrier.profile.transfer.startswith("refer") and target.peer is carrier and target.remote_tag:
            theirs = Replaces(target.call_id, target.remote_tag, target.local_tag)
            number = other.number_of(target)
            self._instead = join if carrier.profile.transfer == "refer-or-dial" else None
            return partial(self._pass, Destination(number, carrier, destination.embedded, destination.headers), theirs)
        return join

    def _pass(self, destination: Destination, replaces: Replaces | None, now: float) -> None:
        self.facts.mode = "refer" if replaces is None else "attended"
        self.state = TransferState.PASSED
        carrier = self.transferee.peer
        self._exchange.set_timer(self._call, Timer.TRANSFER, now + carrier.profile.ring_deadline)
        self.transferee.refer(str(refer_to(destination, carrier, replaces)), destination.headers, now)

    def _dial(self, destination: Destination, targets: list[Target], now: float) -> None:
        self.facts.mode = "dial"
        self.state = TransferState.DIALLING
        self._number = destination.number
        call = self._call
        asked = Dialled(
            number=destination.number,
            caller=call.number_of(self.transferee),
            display="",
            max_forwards=70,
            passed=(*self._identity(), *destination.passed),
        )
        self.hunt = Hunt(call, self._exchange, self, self.transferor.name, asked, targets, self.facts.attempts)
        self.hunt.next_target(now)

    def _identity(self) -> tuple[Header, ...]:
        """Say who calls and who sent the call on (D35, RFC 3325, RFC 5806)."""
        host = self._exchange.our_host(self.transferee.flow)
        caller, diverted = (self._call.number_of(leg) for leg in (self.transferee, self.transferor))
        headers = list(self._call.asserted(self.transferee))
        if not headers and caller.removeprefix("+").isdigit():
            headers.append(Header("P-Asserted-Identity", f"<sip:{caller}@{host}>"))
        if diverted.removeprefix("+").isdigit():
            headers.append(Header("Diversion", f"<sip:{diverted}@{host}>;reason=deflection"))
        return tuple(headers)

    def _join(self, other: Call, consulted: Leg, target: Leg, now: float) -> None:
        """Ask the target to send its media into this call; its own goes on until it has agreed."""
        self.facts.mode, self.facts.call = "attended", other.record.id
        self.state = TransferState.JOINING
        self.target, self._consulted, self._other = target, consulted, other
        other.transferring = True
        self._number, self._origin = other.number_of(target), other.origin(target.name)
        target.receiver = consulted.receiver = self._call.receive
        self._exchange.set_timer(self._call, Timer.TRANSFER, now + MOVES_WITHIN)
        try:
            offer = self._call.offer_to(target.peer, self.transferee, self.transferor.name, self._origin)
        except PeerError as error:
            self._failed(Cause(error.status, error.reason), now)
            return
        self._moving = True
        target.reoffer(offer, now)

    # -- for the hunt ----------------------------------------------------------------------------------------------

    def offer(self, peer: Peer) -> Description:
        """Offer a target what the transferee speaks, at the transferor's side of the session. Raises PeerError."""
        self._origin = Origin(self._call.session)
        return self._call.offer_to(peer, self.transferee, self.transferor.name, self._origin)

    def trying(self, leg: Leg, invitation: Invitation, now: float) -> None:
        self.target = leg
        if self.alone:
            self._ring(now)

    def nobody(self, cause: Cause, reason: Reason, now: float) -> None:
        self._failed(cause, now)

    # -- the table's actions ---------------------------------------------------------------------------------------

    def _carrier_reported(self, event: ReferProgress, now: float) -> None:
        if not event.final:
            self._tell(event.status, event.reason, False, now)
        elif event.status < 300:
            self._succeeded(now)
            # D34: Twilio keeps the caller in silence for 32 s unless the BYE follows at once.
            self._call.hang_up(Cause(200, "OK"), Reason.TRANSFERRED, self.transferor.peer.kind, now)
        elif event.status in _NO_REFER and self._instead is not None:
            self._exchange.cancel_timer(self._call, Timer.TRANSFER)
            self._instead(now)
        else:
            self._failed(Cause(event.status, event.reason), now)

    def _target_rings(self, event: Ringing | Progress, now: float) -> None:
        """Let the transferee hear ringing. Early media is not passed: the platform would lose its own meanwhile."""
        self._tell(event.status, "", False, now)
        self._ring(now)

    def _target_answered(self, event: Answer, now: float) -> None:
        assert self.hunt is not None
        assert self.target is not None
        try:
            if agreed(self.target) is None:
                raise PeerError(488, "Answer Without SDP")
        except PeerError as error:
            cause = Cause(error.status, error.reason)
            self.target.hang_up(cause, (), now)
            self.hunt.failed(cause, now)
            return
        self.hunt.answered(now)
        self._take_over(now)

    def _target_refused(self, event: Reject, now: float) -> None:
        assert self.hunt is not None
        self.target = None
        self.hunt.failed(event.cause, now, event.contacts)

    def _target_moved(self, event: ReofferAnswered, now: float) -> None:
        assert self._other is not None
        assert self.target is not None
        try:
            agreed(self.target)
        except PeerError as error:  # it took nothing of what we offered, and has already left its old media
            self._failed(Cause(error.status, error.reason), now)
            return
        other, self._other = self._other, None
        facts = TransferFacts("attended", self._call.number_of(self.transferee), now, self.facts.by)
        facts.result, facts.status, facts.call = TransferResult.SUCCEEDED, 200, self._call.record.id
        other.record.transfer = facts
        self._exchange.limits.moved(other.record.id, self._call.record.id, self.target.peer, now)
        other.release(self.target, now)
        self.target.record_id = self._call.record.id
        self._exchange.switchboard.register(self.target)
        self._take_over(now)

    def _target_stays(self, event: ReofferRefused, now: float) -> None:
        self._moving = False
        self._failed(event.cause, now)

    def _target_left(self, event: Hangup, now: float) -> None:
        """The party to be joined hung up: its own call ends, and the transfer with it."""
        target, other = self.target, self._other
        self._failed(Cause(480, "Temporarily Unavailable"), now)
        if other is not None and target is not None:
            other.receive(target, event, now)

    def _consulted_left(self, event: Hangup, now: float) -> None:
        """The platform may drop its second call as soon as it has asked us to join the two."""
        self._left = event

    def _transferor_left(self, event: Hangup, now: float) -> None:
        """A BYE after a REFER means that the platform is done: the transfer goes on without it (D33)."""
        self.alone = True
        if self.state is TransferState.DIALLING:
            self._ring(now)
        else:
            self._call.update_media(now)

    def _transferee_left(self, event: Hangup, now: float) -> None:
        """The caller hung up: the target is let go, and the transferor hears of it before its own BYE."""
        self.stop(Cause(487, "Request Terminated"), now)

    def _transferor_released(self, event: Hangup, now: float) -> None:
        self._exchange.cancel_timer(self._call, Timer.TRANSFER)
        self.state = TransferState.OVER

    # -- outcomes --------------------------------------------------------------------------------------------------

    def _take_over(self, now: float) -> None:
        """Put the target in the transferor's place."""
        target = self.target
        assert target is not None
        assert self._origin is not None
        self.tone = None
        self.facts.leg = self._call.adopt(self.transferor, target, self._number, self._origin, now)
        self._exchange.limits.left(self._call.record.id, self.transferor.peer, now)
        self._succeeded(now)
        self.hunt = None
        self.target = None
        if self.alone:
            self.state = TransferState.OVER
        elif self._notifies:
            self.state = TransferState.LEAVING
            self._exchange.set_timer(self._call, Timer.TRANSFER, now + LEAVES_WITHIN)
        else:
            self._release(now)

    def _release(self, now: float) -> None:
        self.state = TransferState.OVER
        self.transferor.hang_up(Cause(200, "OK"), (), now)

    def _succeeded(self, now: float) -> None:
        self._exchange.cancel_timer(self._call, Timer.TRANSFER)
        self._tell(200, "OK", True, now)
        self._conclude(TransferResult.SUCCEEDED, 200, now)

    def _failed(self, cause: Cause, now: float) -> None:
        """Leave everything as it was before (D38)."""
        self._exchange.cancel_timer(self._call, Timer.TRANSFER)
        self.state = TransferState.OVER
        self._give_back(now)
        self.hunt = self.target = None
        self._tell(cause.status, cause.reason, True, now)
        self._conclude(TransferResult.FAILED, cause.status, now)
        if self.alone:
            self._call.hang_up(cause, Reason.TRANSFER_FAILED, "bridge", now)
        elif self.tone is not None:
            self.tone = None
            self._call.update_media(now)

    def _give_back(self, now: float) -> None:
        """Let the other call have its legs again, and learn what one of them said meanwhile."""
        other, consulted, self._other = self._other, self._consulted, None
        if other is None or consulted is None or self.target is None:
            return
        self.target.receiver = consulted.receiver = other.receive
        other.transferring = False
        if self._left is not None:
            other.receive(consulted, self._left, now)
        elif self._moving:
            other.keep(self.target, now)

    def _ring(self, now: float) -> None:
        number = self._call.number_of(self.transferee)
        tone = "ringback-us" if number.removeprefix("+").startswith("1") else "ringback-eu"
        self.tone = tone
        self._call.update_media(now)

    @property
    def _notifies(self) -> bool:
        return self.facts.by == "platform"

    def _tell(self, status: int, reason: str, final: bool, now: float) -> None:
        """Tell the transferor what it has not heard yet (RFC 3515 §2.4.4)."""
        if self._notifies and not self.alone and (final or status != self._told):
            self._told = status
            self.transferor.notify_refer(status, reason, final, now)

    def _conclude(self, result: TransferResult, status: int, now: float) -> None:
        self.facts.result, self.facts.status = result, status
        trace_transfer(self._call.record, self.facts, self._exchange.act, now)


def trace_transfer(record: CallRecord, facts: TransferFacts, act: Callable[[Action], None], now: float) -> None:
    """Let log and metrics know how a transfer ended."""
    details = {
        "platform": record.platform,
        "mode": facts.mode,
        "result": facts.result,
        "status": facts.status,
        "target": facts.target,
    }
    act(Trace("transfer", now, call=record.id, text=str(facts.result), details=details))


# (state, who speaks, what is said) → what the transfer does. What is not listed is the call's own business.
_TABLE: dict[tuple[TransferState, str, type[ControlEvent]], Callable[..., None]] = {
    (TransferState.PASSED, "transferee", ReferProgress): Transfer._carrier_reported,
    (TransferState.PASSED, "transferee", Hangup): Transfer._transferee_left,
    (TransferState.PASSED, "transferor", Hangup): Transfer._transferor_left,
    (TransferState.DIALLING, "target", Ringing): Transfer._target_rings,
    (TransferState.DIALLING, "target", Progress): Transfer._target_rings,
    (TransferState.DIALLING, "target", Answer): Transfer._target_answered,
    (TransferState.DIALLING, "target", Reject): Transfer._target_refused,
    (TransferState.DIALLING, "transferee", Hangup): Transfer._transferee_left,
    (TransferState.DIALLING, "transferor", Hangup): Transfer._transferor_left,
    (TransferState.JOINING, "target", ReofferAnswered): Transfer._target_moved,
    (TransferState.JOINING, "target", ReofferRefused): Transfer._target_stays,
    (TransferState.JOINING, "target", Hangup): Transfer._target_left,
    (TransferState.JOINING, "consulted", Hangup): Transfer._consulted_left,
    (TransferState.JOINING, "transferee", Hangup): Transfer._transferee_left,
    (TransferState.JOINING, "transferor", Hangup): Transfer._transferor_left,
    (TransferState.LEAVING, "transferor", Hangup): Transfer._transferor_released,
}
