"""The offers within one leg's dialog, ours and the peer's, and the session timer that rides on them.

One offer is open at a time (RFC 3264 §4): what crosses is 491 and comes again (RFC 3261 §14, R10); what asks for an
answer while another is owed is 500 with Retry-After (R11, R35). A refresh is an offer that changes nothing.
"""

from __future__ import annotations

import enum
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bridge.b2bua.capabilities import ALLOW, description_of
from bridge.b2bua.control import Cause, Reoffer, ReofferAnswered, ReofferRefused
from bridge.b2bua.refresh import SessionTimer
from bridge.errors import PeerError
from bridge.sdp import session as sdp
from bridge.sdp.offer_answer import differs
from bridge.sip.dialog import Dialog
from bridge.sip.events import RequestReceived
from bridge.sip.message import Header, Request, Response
from bridge.sip.transaction import ClientTransaction, ServerTransaction

if TYPE_CHECKING:
    from bridge.b2bua.leg import Leg


class LegTimer(enum.Enum):
    __hash__ = object.__hash__

    SESSION = "session"  # refresh the session, or give up on a peer that has not (RFC 4028 §10)
    GLARE = "glare"  # offer again after a 491 (RFC 3261 §14.1)
    ANSWER = "answer"  # cancel a re-INVITE to which no answer comes


ANSWERED_WITHIN = 32.0
"""Seconds: a peer may say 100 to a re-INVITE and then nothing, which no timer of the transaction ends (T19)."""
MOST_ATTEMPTS = 5
"""How often one offer is made, where each time it is refused in a way that invites another."""


@dataclass(slots=True)
class _Offer:
    """An offer of ours: a changed description, or None for the one in force again, to refresh the session."""

    change: sdp.Description | None
    said: sdp.Description | None = None  # what went out
    attempts: int = 0
    transaction: ClientTransaction | None = None  # None while the next hop is looked up


class Offers:
    """Keep offer and answer of one leg apart and in order once its dialog stands."""

    def __init__(self, leg: Leg) -> None:
        self.session = SessionTimer(leg.peer.profile)
        self._leg: Leg = weakref.proxy(leg)  # which owns this one: no two that hold each other
        self._open: _Offer | None = None  # ours that is out
        self._next: _Offer | None = None  # ours that waits for its turn; a later one takes its place
        self._theirs: ServerTransaction | None = None  # to be answered, or a re-INVITE whose ACK is awaited

    # -- ours --------------------------------------------------------------------------------------------------------

    def make(self, description: sdp.Description | None, now: float) -> None:
        """Offer a description by re-INVITE, as soon as no other offer is open; None: the one in force.

        Where it turns out by then to be what was said last, there is nothing to offer.
        """
        self._next = _Offer(description)
        self.pursue(now)

    def pursue(self, now: float) -> None:
        """Send the offer that waits, unless another is open (RFC 3261 §14.1)."""
        leg, offer = self._leg, self._next
        if offer is None or self._open is not None or self._theirs is not None or not leg.confirmed:
            return
        self._next = None
        leg.cancel_timer(LegTimer.GLARE)
        offer.said = offer.change or leg.local_description
        if offer.said is None or (
            offer.change and leg.local_description and not differs(offer.change, leg.local_description)
        ):
            return
        self._open = offer
        offer.attempts += 1
        request = leg.new_request("INVITE")
        request.headers.add("Allow", ALLOW)
        request.headers.add("Supported", leg.supported)
        for header in self.session.asking():
            request.headers.append(header)
        request.headers.add("Content-Type", "application/sdp")
        request.body = offer.said.encode()
        leg.send(request, now)

    def sent(self, transaction: ClientTransaction, now: float) -> None:
        """Note the transaction of a re-INVITE of ours."""
        if self._open is not None:
            self._open.transaction = transaction
            self._leg.set_timer(LegTimer.ANSWER, now + ANSWERED_WITHIN)

    def abandon(self, now: float) -> None:
        """Let go of our offers: the dialog ends. The peer need not answer what it has no use for any more (T19)."""
        offer, self._open, self._next = self._open, None, None
        if offer is not None and offer.transaction is not None:
            self._leg.cancel_reinvite(offer.transaction, now)

    def response(self, response: Response, transaction: ClientTransaction, now: float) -> None:
        """Take a final response to a re-INVITE of ours but a challenge; a 2xx has been acknowledged."""
        offer = self._open
        if offer is None or offer.transaction is not transaction:
            return
        self._open = offer.transaction = None
        self._leg.cancel_timer(LegTimer.ANSWER)
        again = offer.attempts < MOST_ATTEMPTS
        if response.status < 300:
            self._answered(offer, response, now)
        elif response.status == 491 and again:
            self._next = self._next or offer
            self._leg.set_timer(LegTimer.GLARE, now + self._back_off())
            return
        elif response.status == 422 and again and self.session.too_brief(response):
            self._next = self._next or offer
        elif offer.change is None:
            self._refresh_later(now)
        elif self._next is None:  # else nobody asks any more what became of this one
            self._leg.tell(ReofferRefused(Cause(response.status, response.reason)), now)
        self.pursue(now)

    def _answered(self, offer: _Offer, response: Response, now: float) -> None:
        leg = self._leg
        self.session.accepted(response)
        self.watch(now)
        cause = Cause(488, "Answer Without SDP")
        try:
            answer = description_of(response)
        except PeerError as error:
            answer, cause = None, Cause(error.status, error.reason)
        if answer is not None:
            leg.local_description, leg.remote_description, leg.we_answered = offer.said, answer, False
        if self._next is not None:
            return  # nobody asks any more what became of this one
        if answer is not None:
            leg.tell(ReofferAnswered(answer), now)
        elif offer.change is not None:
            leg.tell(ReofferRefused(cause), now)

    def _back_off(self) -> float:
        """Return how long to wait after a 491, in steps of 10 ms: the owner of the Call-ID longer (§14.1, R10)."""
        number = self._leg.random()
        return (210 + number % 191) / 100 if self._leg.calling else (number % 201) / 100

    # -- the peer's --------------------------------------------------------------------------------------------------

    def reinvited(self, event: RequestReceived, now: float) -> None:
        """Take a re-INVITE; the call answers it from what is already agreed (D23). Raises PeerError."""
        leg, request = self._leg, event.request
        if leg.is_invited or (self._theirs is not None and self._theirs.final is None):
            raise self._later()  # R11, RFC 3261 §14.2: the first INVITE has no final response yet
        if not leg.confirmed or self._open is not None:
            raise PeerError(491, "Request Pending")  # R10, §14.2: ours is open
        assert leg.dialog is not None
        offer = description_of(request)
        self._check_interval(request)
        leg.dialog.refresh_target(request)
        leg.note_allowed(request)
        self._theirs = event.transaction
        try:
            leg.tell(Reoffer(offer), now)
        finally:
            if event.transaction.final is None:
                self._theirs = None  # it is refused: no ACK will come up to us
        if event.transaction.final is None:  # the call is ending
            raise PeerError(491, "Request Pending")

    def updated(self, event: RequestReceived, dialog: Dialog, now: float) -> None:
        """Take an UPDATE: a new target, a refresh, or an offer before or after the answer (RFC 3311 §5.2, R35)."""
        request = event.request
        offer = description_of(request)
        self._check_interval(request)
        if offer is not None:
            self.check_open()
        dialog.refresh_target(request)
        self._leg.note_allowed(request)
        if offer is None:
            self._leg.respond(event.transaction, 200, now, headers=self._refreshed(request, now))
        else:
            self.report(event, offer, now)

    def report(self, event: RequestReceived, offer: sdp.Description | None, now: float) -> None:
        """Let the call answer an offer in UPDATE or PRACK, which unlike a re-INVITE have no ACK to wait for."""
        theirs, self._theirs = self._theirs, event.transaction
        try:
            self._leg.tell(Reoffer(offer), now)
        finally:
            self._theirs = theirs
        if event.transaction.final is None:  # the call is in no state to answer it
            raise PeerError(491, "Request Pending")

    def accept(self, offer: sdp.Description | None, description: sdp.Description, now: float) -> None:
        """Answer the request of which `Reoffer` told; without an ``offer`` in it ``description`` is ours."""
        assert self._theirs is not None
        leg, request = self._leg, self._theirs.request
        leg.local_description = description
        if offer is not None:
            leg.remote_description, leg.we_answered = offer, True
        headers = self._refreshed(request, now) if request.method != "PRACK" else ()
        leg.respond(self._theirs, 200, now, description, headers)

    def acknowledged(self, ack: Request) -> Request | None:
        """Take an ACK; return the re-INVITE that it belongs to, None if it is not one's."""
        theirs = self._theirs
        if theirs is None or theirs.request.cseq.number != ack.cseq.number:
            return None
        self._theirs = None
        return theirs.request

    def check_open(self) -> None:
        """Refuse an offer while another one is open (RFC 3311 §5.2, RFC 3264 §4). Raises PeerError."""
        leg = self._leg
        if leg.offering or self._open is not None:
            raise PeerError(491, "Request Pending")
        if leg.owes_answer or self._theirs is not None:
            raise self._later()

    def _later(self) -> PeerError:
        """Return the refusal of an offer that comes too early: in 0 to 10 seconds (RFC 3261 §14.2)."""
        return PeerError(500, "Server Internal Error", (("Retry-After", str(self._leg.random() % 11)),))

    # -- the session timer -------------------------------------------------------------------------------------------

    def watch(self, now: float) -> None:
        """Arm the timer for what is agreed."""
        agreed = self.session.agreement
        if agreed is None:
            self._leg.cancel_timer(LegTimer.SESSION)
        else:
            self._leg.set_timer(LegTimer.SESSION, agreed.deadline(now))

    def timeout(self, timer: LegTimer, now: float) -> None:
        """Offer again, refresh, or give up on a peer that should have refreshed."""
        agreed = self.session.agreement
        if timer is LegTimer.GLARE:
            self.pursue(now)
        elif timer is LegTimer.ANSWER:
            if self._open is not None and self._open.transaction is not None:
                self._leg.cancel_reinvite(self._open.transaction, now)
        elif agreed is not None and agreed.we_refresh:
            self._refresh(now)
        else:
            self._leg.lost(Cause(408, "Session Expired"), now)

    def update_response(self, response: Response, now: float) -> None:
        """Take the final response to an UPDATE of ours, which was a refresh."""
        leg = self._leg
        if not leg.confirmed or leg.dialog is None:
            return
        if response.status < 300:
            leg.dialog.refresh_target(response)
            self.session.accepted(response)
            self.watch(now)
        elif response.status == 422 and self.session.too_brief(response):
            self._refresh(now)
        elif response.status in (491, 500, 503):
            self._refresh_later(now)
        else:  # it said it would take UPDATE: it does not
            leg.allows -= {"UPDATE"}
            self._refresh(now)

    def _refresh(self, now: float) -> None:
        """Refresh the session: UPDATE where the peer takes it, else an unchanged re-INVITE (RFC 4028 §7.4)."""
        leg = self._leg
        if self._open is not None or self._next is not None or self._theirs is not None:
            self._refresh_later(now)  # an exchange that is under way may do it for us
        elif "UPDATE" in leg.allows:
            request = leg.new_request("UPDATE")
            request.headers.add("Supported", leg.supported)
            for header in self.session.asking():
                request.headers.append(header)
            leg.send(request, now)
        else:
            self.make(None, now)

    def _refresh_later(self, now: float) -> None:
        """Try again, a few times in the half of the interval that is left for it (RFC 4028 §7.4)."""
        agreed = self.session.agreement
        if agreed is not None:
            self._leg.set_timer(LegTimer.SESSION, now + agreed.expires / 8)

    def _refreshed(self, request: Request, now: float) -> tuple[Header, ...]:
        """Take a request of the peer's as the refresh it is; return the headers for our 2xx."""
        headers = self.session.accept(request)
        if self._leg.confirmed:
            self.watch(now)
        return headers

    def _check_interval(self, request: Request) -> None:
        """Refuse an interval that is too short before the request has any effect. Raises PeerError 422."""
        before = self.session.agreement
        self.session.accept(request)
        self.session.agreement = before
