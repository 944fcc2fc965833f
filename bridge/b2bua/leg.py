"""One half of a call: a SIP dialog with one peer, from its INVITE to its BYE.

A leg turns SIP into call-control events (bridge.b2bua.control) and these into SIP. Whether it was called or calls is
its first state and nothing else; it knows nothing of the leg on the other side. Session timers, reliable provisional
responses, glare and the subscriptions of transfers end here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from bridge.b2bua.capabilities import ALLOW, capabilities, description_of, refusal, requires, supports
from bridge.b2bua.control import Answer, Cause, ControlEvent, Hangup, Info, Progress, Reject, Ringing
from bridge.b2bua.credentials import Credentials, renumbered
from bridge.b2bua.forks import Forks, is_reliable
from bridge.b2bua.identity import delivered, passing, reasons_of
from bridge.b2bua.next_hop import Finder, NextHop
from bridge.b2bua.offers import LegTimer, Offers
from bridge.b2bua.referral import Referrals
from bridge.b2bua.routing import Invitation
from bridge.config import Peer
from bridge.errors import PeerError
from bridge.literals import is_address
from bridge.media.relay import LegName
from bridge.sdp import session as sdp
from bridge.sip.dialog import Dialog
from bridge.sip.endpoint import Endpoint
from bridge.sip.events import Flow, RequestReceived
from bridge.sip.headers import CSeq, split_list
from bridge.sip.message import Header, Headers, Request, Response, response_to
from bridge.sip.tokens import Tokens
from bridge.sip.transaction import ClientTransaction, ServerTransaction

_GONE = frozenset((404, 408, 410, 416, 481, 482, 484, 485, 502, 604))
"""Responses after which there is no dialog any more (RFC 5057 §5.1)."""


class LegState(enum.Enum):
    IDLE = "idle"
    CALLING = "calling"  # our INVITE is out
    CANCELLING = "cancelling"  # our INVITE is out and no longer wanted
    INVITED = "invited"  # the peer's INVITE has no final response yet
    ANSWERED = "answered"  # our 2xx is out, the ACK is awaited
    CONFIRMED = "confirmed"
    LEAVING = "leaving"  # our BYE is out
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Switchboard:
    """What a leg needs of the core: the endpoint, tokens, timers, and to be found by its dialog identifiers."""

    endpoint: Endpoint
    tokens: Tokens
    register: Callable[[Leg], None]
    release: Callable[[Leg], None]
    set_timer: Callable[[Leg, LegTimer, float], None]
    cancel_timer: Callable[[Leg, LegTimer], None]
    find: Callable[[str, str, str | None], Leg | None]  # Call-ID, our tag, the peer's tag → the leg with that dialog
    owns: Callable[[Peer, str], bool]  # whether an address is the peer's
    finder: Finder


class Leg:
    """Keep one dialog with one peer. ``receiver`` hears of control events; ``contact`` is our URI on this leg."""

    def __init__(
        self,
        name: LegName,
        peer: Peer,
        flow: Flow,
        contact: str,
        record_id: str,
        switchboard: Switchboard,
        receiver: Callable[[Leg, ControlEvent, float], None],
    ) -> None:
        self.name = name
        self.peer = peer
        self.contact = contact
        self.record_id = record_id
        self.receiver = receiver
        self.state = LegState.IDLE
        self.call_id = ""
        self.local_tag = ""
        self.responded = False  # the peer has given any response to our INVITE
        self.allows: frozenset[str] = frozenset()  # the peer's Allow
        self.local_description: sdp.Description | None = None  # what we last said, and
        self.remote_description: sdp.Description | None = None  # what the peer last said
        self.we_answered = False  # which of the two was the answer
        self.dialog: Dialog | None = None
        self.offers = Offers(self)
        self.referrals = Referrals(self)
        self._switchboard = switchboard
        self._endpoint = switchboard.endpoint
        self._next_hop = NextHop(flow, switchboard.finder, _own_name(peer))
        self._forks = Forks()
        self._invite: ClientTransaction | None = None
        self._invited: ServerTransaction | None = None
        self._session_headers: tuple[Header, ...] = ()  # for our 2xx to the peer's INVITE
        self._settled = False  # a reliable provisional response carried our answer, which is final (RFC 3262 §5)
        self._rang = False
        self._departure: tuple[Cause, tuple[Header, ...]] | None = None  # a BYE that waits for the ACK
        self._credentials = Credentials(peer, switchboard.tokens)

    @property
    def flow(self) -> Flow:
        """Where the first message of the leg went or came from, over the connection last heard on."""
        return self._next_hop.flow

    @property
    def key(self) -> tuple[str, str]:
        """The dialog identifiers by which a request of the peer's finds this leg."""
        return self.call_id, self.local_tag

    @property
    def remote_tag(self) -> str | None:
        """The peer's tag, None before there is a dialog."""
        return None if self.dialog is None else self.dialog.remote_tag

    @property
    def confirmed(self) -> bool:
        """Whether the dialog stands: answered and acknowledged, and nobody has left."""
        return self.state is LegState.CONFIRMED

    @property
    def awaits_ack(self) -> bool:
        """Whether our 2xx is out and the peer's ACK not here; nobody has left yet."""
        return self.state is LegState.ANSWERED and self._departure is None

    @property
    def is_invited(self) -> bool:
        """Whether the peer's INVITE still waits for our final response, be it that a 2xx waits for a PRACK (R30)."""
        if self.state is LegState.ANSWERED:
            return self._invited is not None and self._invited.final is None
        return self.state is LegState.INVITED

    @property
    def offering(self) -> bool:
        """Whether the offer that began the dialog is ours and has no answer yet."""
        return self.local_description is not None and self.remote_description is None

    @property
    def owes_answer(self) -> bool:
        """Whether the offer that began the dialog is the peer's, and we have not answered it for good."""
        return self.is_invited and not self._settled

    @property
    def calling(self) -> bool:
        """Whether the call of this leg is ours: we sent its INVITE."""
        return self._invite is not None or self.state is LegState.CALLING

    # -- toward the peer: a call of ours ---------------------------------------------------------------------------

    def call(self, invitation: Invitation, offer: sdp.Description, now: float) -> None:
        """Send an INVITE with a Call-ID and a From tag of its own (D11: LiveKit replays cached rejections)."""
        tokens = self._switchboard.tokens
        self.call_id, self.local_tag = tokens.token(128), tokens.token(64)
        self.local_description = offer
        headers = Headers()
        headers.add("Max-Forwards", str(invitation.max_forwards))
        headers.add("From", str(invitation.sender.with_tag(self.local_tag)))
        headers.add("To", str(invitation.to))
        headers.add("Call-ID", self.call_id)
        headers.add("CSeq", str(CSeq(1, "INVITE")))
        headers.add("Contact", self.contact)
        headers.add("Allow", ALLOW)
        headers.add("Supported", self.supported)
        for header in (*self.offers.session.asking(), *invitation.headers):
            headers.append(header)
        headers.add("Content-Type", "application/sdp")
        self.state = LegState.CALLING
        self._switchboard.register(self)
        request = Request("INVITE", invitation.request_uri, headers, offer.encode())
        self._invite = self._endpoint.send_request(request, self.flow, now, owner=self)

    # -- from the peer: a call of its own --------------------------------------------------------------------------

    def invited(self, event: RequestReceived, now: float) -> None:
        """Take the peer's INVITE: 100 at once (D7). Raises PeerError for what we can't take."""
        request = event.request
        event.transaction.owner = self
        self._invited = event.transaction
        self.call_id, self.local_tag = request.call_id, self._switchboard.tokens.token(64)
        self.state = LegState.INVITED
        self._switchboard.register(self)
        self._endpoint.respond(event.transaction, response_to(request, 100), now)
        self.dialog = Dialog.uas(request, self.local_tag, self.contact)
        self.note_allowed(request)
        self._session_headers = self.offers.session.accept(request)
        self.remote_description = description_of(request)
        self.we_answered = self.remote_description is not None

    def ring(self, now: float) -> None:
        """Let the caller hear ringing, once however often the far side repeats it (D7)."""
        if self.state is LegState.INVITED and not self._rang:
            self._rang = True
            self._respond_early(180, now)

    def progress(self, description: sdp.Description, now: float) -> None:
        """Open early media toward the caller (183 with SDP); a repeat of the same description says nothing new."""
        if self.state is LegState.INVITED and not self._settled and description != self.local_description:
            self._rang = True
            self.local_description = description
            self._respond_early(183, now, description)

    def answer(self, description: sdp.Description, headers: tuple[Header, ...], now: float) -> None:
        """Accept the caller's INVITE (RFC 3261 §13.3.1.4)."""
        if self.state is LegState.INVITED:
            self.state = LegState.ANSWERED
            said: sdp.Description | None = None  # RFC 3261 §13.2.1: once answered, no response describes anything
            if not self._settled:
                self.local_description = said = description
            self._respond_invited(200, now, said, (*self._session_headers, *delivered(headers, self.peer)))
            self.offers.watch(now)

    def reject(self, cause: Cause, now: float, headers: tuple[Header, ...] = ()) -> None:
        """Refuse the caller's INVITE; the leg is over with it."""
        if self.is_invited:
            reasons = tuple(Header("Reason", reason) for reason in cause.reasons)
            self._respond_invited(cause.status, now, None, (*reasons, *delivered(headers, self.peer)), cause.reason)
            self._end(now)

    # -- within the dialog -----------------------------------------------------------------------------------------

    def hang_up(self, cause: Cause, headers: tuple[Header, ...], now: float) -> None:
        """Leave, in whatever way the state asks for: CANCEL, a final response, BYE, or BYE once the ACK is here."""
        match self.state:
            case LegState.CALLING if self._invite is None or self._invite.final is not None:
                self._end(now)  # a bug of ours struck between two steps: nothing is out that could be cancelled
            case LegState.CALLING:
                assert self._invite is not None
                self.state = LegState.CANCELLING
                self._endpoint.cancel(self._invite, now, cause.reasons, delivered(headers, self.peer))
            case _ if self.is_invited:
                gone = cause.status < 300  # the far side answered and left before the peer could hear of it
                self.reject(Cause(480, "Temporarily Unavailable", cause.reasons) if gone else cause, now, headers)
            case LegState.ANSWERED:  # RFC 3261 §15: no BYE before the ACK has come or is given up
                self._departure = self._departure or (cause, headers)  # the first reason is the true one
            case LegState.CONFIRMED:
                self._bye(cause, headers, now)
            case _:
                pass

    def probe(self, now: float) -> None:
        """Ask whether the peer still knows the dialog (OPTIONS, RFC 3261 §11): silence or 481 ends the leg."""
        if self.confirmed:
            self.send(self.new_request("OPTIONS"), now)

    def info(self, content_type: str, body: bytes, headers: tuple[Header, ...], now: float) -> None:
        """Send INFO, if the peer takes it (RFC 6086)."""
        if self.confirmed and "INFO" in self.allows:
            request = self.new_request("INFO")
            for header in headers:
                request.headers.append(header)
            if body:
                request.headers.add("Content-Type", content_type)
                request.body = body
            self.send(request, now)

    def reoffer(self, description: sdp.Description, now: float) -> None:
        """Offer the peer a changed description (re-INVITE): `ReofferAnswered` or `ReofferRefused` will follow."""
        self.offers.make(description, now)

    def accept_reoffer(self, offer: sdp.Description | None, description: sdp.Description, now: float) -> None:
        """Answer the request whose ``offer`` was reported by `Reoffer`; without one ``description`` is ours."""
        self.offers.accept(offer, description, now)

    def refer(self, refer_to: str, headers: tuple[Header, ...], now: float) -> None:
        """Ask the peer to bring the call to ``refer_to``, a name-addr; `ReferProgress` tells what comes of it."""
        self.referrals.refer(refer_to, headers, now)

    def accept_refer(self, now: float) -> None:
        """Take on the transfer that `Refer` reported."""
        self.referrals.accept(now)

    def refuse_refer(self, cause: Cause, now: float) -> None:
        """Refuse the transfer that `Refer` reported; the call goes on."""
        self.referrals.refuse(cause, now)

    def notify_refer(self, status: int, reason: str, final: bool, now: float) -> None:
        """Tell the peer what the target of its transfer says; ``final`` ends the subscription."""
        self.referrals.notify(status, reason, final, now)

    def timeout(self, timer: LegTimer, now: float) -> None:
        """Let what a timer of the leg's stands for happen."""
        if self.confirmed:
            self.offers.timeout(timer, now)

    # -- what the endpoint reports ---------------------------------------------------------------------------------

    def request(self, event: RequestReceived, now: float) -> None:
        """Take a request of the peer's within the dialog. Raises PeerError, which becomes its response."""
        request = event.request
        event.transaction.owner = self
        dialog = self._dialog_with(request.from_.tag)
        if dialog is None:
            raise PeerError(481, "Call/Transaction Does Not Exist")
        self._next_hop.heard(event.flow)
        dialog.receive(request)  # R09: 500 for a CSeq that runs backwards
        match request.method:
            case "BYE":
                self._peer_left(event, now)
            case "INVITE":
                if self.awaits_ack and not self.is_invited and (self.we_answered or self._settled):
                    self.state = LegState.CONFIRMED  # RFC 5407 §3.1.4: it has our 2xx, only its ACK is late
                self.offers.reinvited(event, now)
            case "UPDATE":
                self.offers.updated(event, dialog, now)
            case "PRACK":
                self._prack(event, now)
            case "OPTIONS":
                self._endpoint.respond(event.transaction, capabilities(request, self.local_tag), now)
            case "INFO":
                self._endpoint.respond(event.transaction, response_to(request, 200), now)
                said = Info(
                    request.headers.get("Content-Type") or "", request.body, passing(request.headers, self.peer)
                )
                self.tell(said, now)
            case "REFER":
                self.referrals.referred(event, now)
            case "NOTIFY":
                self.referrals.notified(event, now)
            case method:
                raise refusal(method)

    def acknowledged(self, request: Request, now: float) -> None:
        """Take the ACK for a 2xx of ours; an answer in it completes an offer we made."""
        reinvite = self.offers.acknowledged(request)
        if reinvite is not None:
            if not reinvite.body and self.confirmed:
                self._take_answer(request, now)
        elif self.state is LegState.ANSWERED:
            self.state = LegState.CONFIRMED
            if self._departure is not None:
                self._bye(*self._departure, now)
            elif self.offering:
                self._take_answer(request, now)
        self.offers.pursue(now)
        self.referrals.pursue(now)

    def cancelled(self, request: Request, transaction: ServerTransaction, now: float) -> None:
        """Take the CANCEL of the caller's INVITE; after a 200 of ours it has no effect (RFC 3261 §9.2)."""
        if transaction is self._invited and self.is_invited:
            cause = Cause(487, "Request Terminated", reasons_of(request.headers))
            self.reject(Cause(487, "Request Terminated"), now)
            self.tell(Hangup(cause, passing(request.headers, self.peer)), now)

    def ack_missing(self, transaction: ServerTransaction, now: float) -> None:
        """Give up on an ACK after 64*T1 and end the dialog (RFC 3261 §13.3.1.4; R05)."""
        if self.state not in (LegState.ANSWERED, LegState.CONFIRMED):
            return
        departure = self._departure or (Cause(408, "ACK missing"), ())
        self._bye(*departure, now)
        self.tell(Hangup(Cause(408, "ACK missing")), now)

    def prack_missing(self, transaction: ServerTransaction, now: float) -> None:
        """Refuse an INVITE whose sender never acknowledged a reliable response (RFC 3262 §3, R30)."""
        if transaction is self._invited and self.is_invited:
            self.reject(Cause(504, "Server Time-out"), now)
            self.tell(Hangup(Cause(504, "PRACK missing")), now)

    def response(self, response: Response, flow: Flow, transaction: ClientTransaction, now: float) -> None:
        """Take a response to a request of ours."""
        self._next_hop.heard(flow)
        if transaction is self._invite:
            self._invite_response(response, now)
        elif response.status >= 200:
            if transaction.request.method == "INVITE" and response.status < 300:
                self._ack_reinvite(response, transaction, now)
            if not (response.status in (401, 407) and self._retry_with_credentials(response, transaction, now)):
                self._in_dialog_final(response.status, response, transaction, now)

    def unanswered(self, transaction: ClientTransaction, status: int, now: float) -> None:
        """Take a time-out (408) or a transport error (503) as the response it stands for (RFC 3261 §8.1.3.1)."""
        if transaction is self._invite:
            wanted = self.state is LegState.CALLING
            if wanted or self.state is LegState.CANCELLING:
                self._end(now)
            if wanted:
                self.tell(Reject(Cause(status, "No Response" if status == 408 else "Unreachable")), now)
        else:
            self._in_dialog_final(status, None, transaction, now)

    def _take_answer(self, message: Request, now: float) -> None:
        """Take the answer to an offer of ours from ACK or PRACK; without one there is no session (§13.2.2.4)."""
        try:
            answer = description_of(message)
        except PeerError:
            answer = None
            self.remote_description = None
        if answer is not None:
            self.remote_description, self.we_answered = answer, False
            self.tell(Answer(answer), now)
        elif self.remote_description is None:  # else an offerless refresh that leaves things as they are
            cause = Cause(488, "Not Acceptable Here")
            self.hang_up(cause, (), now)
            self.tell(Hangup(cause), now)

    # -- the INVITE of ours ----------------------------------------------------------------------------------------

    def _invite_response(self, response: Response, now: float) -> None:
        self.responded = True
        status = response.status
        if 200 <= status < 300:
            self._accepted(response, now)
        elif self.state not in (LegState.CALLING, LegState.CANCELLING):
            return
        elif status < 200:
            if self.state is LegState.CALLING and status > 100:
                self._provisional(response, now)
        elif self.state is LegState.CALLING and self._invite_again(response, now):
            return
        else:
            wanted = self.state is LegState.CALLING
            self._end(now)
            if wanted:
                cause = Cause(status, response.reason, reasons_of(response.headers))
                contacts = tuple(response.headers.get_all("Contact")) if status < 400 else ()
                self.tell(Reject(cause, passing(response.headers, self.peer), contacts), now)

    def _provisional(self, response: Response, now: float) -> None:
        assert self._invite is not None
        fork = self._forks.of(self._invite.request, response)
        if fork is not None:
            self.note_allowed(response)
            if not fork.is_due(response):
                return
            if is_reliable(response):
                self._send(fork.dialog, fork.prack(response), now)
        try:
            description = description_of(response)
        except PeerError:  # early media we can't read is no reason to lose the call
            description = None
        if description is None:
            self.tell(Ringing(response.status), now)
        else:
            self.remote_description = description
            if fork is not None:
                fork.description = description
            self.tell(Progress(response.status, description), now)

    def _accepted(self, response: Response, now: float) -> None:
        """Acknowledge every 2xx, repeats too (R06); a second dialog of a forking peer is acknowledged and ended."""
        assert self._invite is not None
        request = self._invite.request
        known = self.dialog
        if known is not None and known.remote_tag == response.to.tag:
            self._ack(known, request.cseq.number, now)
            return
        wanted = self.state is LegState.CALLING
        fork = self._forks.tagged(response.to.tag)
        try:
            if fork is None:
                dialog = Dialog.uac(request, response)
            else:
                dialog = fork.dialog
                dialog.confirm(response)
        except PeerError:  # a Record-Route that can't be read: there is no way to acknowledge this
            if known is None and self.state is not LegState.ENDED:
                self._end(now)
            if wanted:
                self.tell(Reject(Cause(502, "Bad Gateway")), now)
            return
        self._ack(dialog, request.cseq.number, now)
        if known is not None:
            self._send(dialog, dialog.request("BYE"), now, owned=False)
            return
        self.dialog = dialog
        self._forks.clear()
        self.state = LegState.CONFIRMED
        if not wanted:  # R08: the CANCEL crossed the 200
            self._bye(Cause(487, "Request Terminated"), (), now)
            return
        self.note_allowed(response)
        self.offers.session.accepted(response)
        self.offers.watch(now)
        try:
            description = description_of(response)
        except PeerError as error:
            self._bye(Cause(error.status, error.reason), (), now)
            self.tell(Reject(Cause(488, "Not Acceptable Here")), now)
            return
        if description is None and fork is not None:
            description = fork.description
        self.remote_description = description or self.remote_description
        self.tell(Answer(description, passing(response.headers, self.peer)), now)

    def _ack(self, dialog: Dialog, number: int, now: float) -> None:
        """Acknowledge a 2xx to the INVITE of that CSeq number, with its credentials (§22.1) where they may go (T07)."""

        def send(flow: Flow, _: float) -> None:
            credentials = self._credentials.for_ack if self._reaches_peer(flow) else ()
            self._endpoint.send_ack(dialog.ack(number, credentials), flow)

        self._next_hop.deliver(dialog, send, now)

    def _invite_again(self, response: Response, now: float) -> bool:
        """Repeat the INVITE with credentials (§22.2), or with a longer session interval (RFC 4028 §7.3)."""
        assert self._invite is not None
        request = self._invite.request
        if response.status in (401, 407):
            again = self._authorized(request, response, self.flow)
        elif response.status == 422 and self.offers.session.too_brief(response):
            again = renumbered(request, request.cseq.number + 1)
            again.headers.remove("Session-Expires")
            again.headers.remove("Min-SE")
            for header in self.offers.session.asking():
                again.headers.append(header)
        else:
            again = None
        if again is None:
            return False
        self._forks.clear()
        self._invite = self._endpoint.send_request(again, self.flow, now, owner=self)
        return True

    # -- requests of ours within the dialog ------------------------------------------------------------------------

    def _bye(self, cause: Cause, headers: tuple[Header, ...], now: float) -> None:
        self.referrals.flush(now, hurry=True)
        self.state = LegState.LEAVING
        self._departure = None
        self.offers.abandon(now)
        for timer in LegTimer:
            self.cancel_timer(timer)
        request = self.new_request("BYE")
        for reason in cause.reasons:
            request.headers.add("Reason", reason)
        for header in delivered(headers, self.peer):
            request.headers.append(header)
        self.send(request, now)

    def new_request(self, method: str) -> Request:
        """Make the next request within the dialog."""
        assert self.dialog is not None
        return self.dialog.request(method)

    def send(self, request: Request, now: float) -> None:
        """Send a request of the dialog's along its route."""
        assert self.dialog is not None
        self._send(self.dialog, request, now)

    def _send(self, dialog: Dialog, request: Request, now: float, owned: bool = True) -> None:
        """Send a request of a dialog's along its route; unless ``owned`` nobody waits for what becomes of it."""
        owner = self if owned else None
        self._next_hop.deliver(dialog, lambda flow, at: self._sent(request, flow, owner, at), now)

    def _sent(self, request: Request, flow: Flow, owner: Leg | None, now: float) -> None:
        if request.method == "INVITE" and not self.confirmed:
            return  # the dialog ended while its next hop was looked up
        transaction = self._endpoint.send_request(request, flow, now, owner=owner)
        if request.method == "INVITE":
            self.offers.sent(transaction, now)

    def cancel_reinvite(self, transaction: ClientTransaction, now: float) -> None:
        """Cancel a re-INVITE of ours: within 64*T1 it has a final response, or is over without one (§9.1)."""
        self._endpoint.cancel(transaction, now)

    def _ack_reinvite(self, response: Response, transaction: ClientTransaction, now: float) -> None:
        """Acknowledge a 2xx to a re-INVITE, each time it comes (R06), at the target that it names (§12.2.1.2)."""
        if self.dialog is not None:
            self.dialog.refresh_target(response)
            self._ack(self.dialog, transaction.request.cseq.number, now)

    def _retry_with_credentials(self, response: Response, transaction: ClientTransaction, now: float) -> bool:
        again = self._authorized(transaction.request, response, transaction.flow)
        if again is None:
            return False
        self._sent(again, transaction.flow, self, now)
        return True

    def _authorized(self, request: Request, response: Response, flow: Flow) -> Request | None:
        """Answer a challenge to a request of ours, None where there are no credentials or they must not go there.

        T07: credentials go only to an address of the account they belong to, and never into a dialog that a peer
        opened to us, but for a REFER, which goes there because the account's profile says so.
        """
        if not (self.calling or request.method == "REFER") or not self._reaches_peer(flow):
            return None
        dialog = self._dialog_with(request.to.tag) if request.to.tag else None
        again = self._credentials.repetition(request, response)
        if again is not None and dialog is not None:
            dialog.local_cseq += 1  # other requests may have gone out since
            again.headers.set("CSeq", f"{dialog.local_cseq} {request.method}")
        return again

    def _reaches_peer(self, flow: Flow) -> bool:
        address = flow.remote[0]
        return address == self.flow.remote[0] or self._switchboard.owns(self.peer, address)

    def _in_dialog_final(
        self, status: int, response: Response | None, transaction: ClientTransaction, now: float
    ) -> None:
        """Take the end of a request of ours within the dialog; ``response`` None: there was none."""
        method = transaction.request.method
        match method:
            case "BYE":
                self._end(now)
            case "OPTIONS" | "UPDATE" | "INVITE" if response is None or status in _GONE:
                self.lost(Cause(status, "Dialog Lost"), now)  # RFC 3261 §12.2.1.2
            case "INVITE" if response is not None:
                self.offers.response(response, transaction, now)
            case "UPDATE" if response is not None:
                self.offers.update_response(response, now)
            case "NOTIFY":
                self.referrals.notify_response(transaction.request, response, now)
            case "REFER":
                self.referrals.refer_response(status, response.reason if response else "No Response", now)
            case _:
                pass

    def lost(self, cause: Cause, now: float) -> None:
        """End a dialog that the peer no longer keeps; the BYE is for a peer that only went deaf (RFC 4028 §10)."""
        if self.state is LegState.CONFIRMED:
            if cause.status == 481:
                self._end(now)
            else:
                self._bye(Cause(cause.status, cause.reason), (), now)
            self.tell(Hangup(cause), now)

    # -- requests of the peer's within the dialog ------------------------------------------------------------------

    def _dialog_with(self, remote_tag: str | None) -> Dialog | None:
        """Return our dialog with that tag of the peer's: other forks have their own (RFC 3261 §12)."""
        if self.dialog is not None:
            return self.dialog if self.dialog.remote_tag in (None, remote_tag) else None
        fork = self._forks.tagged(remote_tag)
        return None if fork is None else fork.dialog

    def _peer_left(self, event: RequestReceived, now: float) -> None:
        request = event.request
        self._endpoint.respond(event.transaction, response_to(request, 200), now)
        if self.dialog is None:  # the BYE of an early fork: its INVITE gets a response of its own (§15)
            self._forks.drop(request.from_.tag)
            return
        state = self.state
        if self.is_invited:  # RFC 3261 §15.1.2: pending requests get 487
            self._respond_invited(487, now)
        if state is not LegState.LEAVING:  # else two BYEs cross: ours still awaits its answer
            self._end(now)
        if state in (LegState.INVITED, LegState.ANSWERED, LegState.CONFIRMED):
            cause = Cause(200, "OK", reasons_of(request.headers))
            self.tell(Hangup(cause, passing(request.headers, self.peer)), now)

    def _prack(self, event: RequestReceived, now: float) -> None:
        """Take the acknowledgement of a reliable provisional response; it may carry SDP (RFC 3262 §5, R30)."""
        request = event.request
        if not self._endpoint.provisional_acknowledged(request, now):
            raise PeerError(481, "Call/Transaction Does Not Exist")
        if not request.body:
            self._endpoint.respond(event.transaction, response_to(request, 200), now)
        elif self.offering:
            self._endpoint.respond(event.transaction, response_to(request, 200), now)
            self._take_answer(request, now)
        else:  # a new offer on top of the answer it has just acknowledged
            self.offers.check_open()
            self.offers.report(event, description_of(request), now)

    def note_allowed(self, message: Request | Response) -> None:
        """Remember the methods that the peer says it takes (RFC 3261 §20.5)."""
        values = message.headers.get_all("Allow")
        if values:
            self.allows = frozenset(method.upper() for value in values for method in split_list(value))

    # -- what the parts of a leg need of it --------------------------------------------------------------------------

    def tell(self, event: ControlEvent, now: float) -> None:
        """Let the call hear of something."""
        self.receiver(self, event, now)

    def set_timer(self, timer: LegTimer, at: float) -> None:
        self._switchboard.set_timer(self, timer, at)

    def cancel_timer(self, timer: LegTimer) -> None:
        self._switchboard.cancel_timer(self, timer)

    def random(self) -> int:
        """Return a random number of 32 bits."""
        return int(self._switchboard.tokens.token(32), 16)

    # -- responses of ours -----------------------------------------------------------------------------------------

    @property
    def supported(self) -> str:
        """The option tags that we tell this peer of (RFC 3261 §20.37)."""
        tags = ("timer" if self.offers.session.supported else "", "100rel" if self._reliable else "", "replaces")
        return ", ".join(filter(None, tags))

    @property
    def _reliable(self) -> bool:
        return self.peer.profile.prack == "supported"

    def _respond_early(self, status: int, now: float, description: sdp.Description | None = None) -> None:
        """Send a provisional response: reliably where the caller wants it, or can and there is SDP in it (RFC 3262)."""
        assert self._invited is not None
        request = self._invited.request
        response = self._response(self._invited, status, description)
        wanted = requires(request, "100rel")
        if wanted or (self._reliable and description is not None and supports(request, "100rel")):
            self._settled = self._settled or description is not None
            self._endpoint.respond_reliably(self._invited, response, now)
        else:
            self._endpoint.respond(self._invited, response, now)

    def _respond_invited(
        self,
        status: int,
        now: float,
        description: sdp.Description | None = None,
        headers: tuple[Header, ...] = (),
        reason: str | None = None,
    ) -> None:
        assert self._invited is not None
        self.respond(self._invited, status, now, description, headers, reason)

    def respond(
        self,
        transaction: ServerTransaction,
        status: int,
        now: float,
        description: sdp.Description | None = None,
        headers: tuple[Header, ...] = (),
        reason: str | None = None,
    ) -> None:
        self._endpoint.respond(transaction, self._response(transaction, status, description, headers, reason), now)

    def _response(
        self,
        transaction: ServerTransaction,
        status: int,
        description: sdp.Description | None = None,
        headers: tuple[Header, ...] = (),
        reason: str | None = None,
    ) -> Response:
        response = response_to(transaction.request, status, reason, to_tag=self.local_tag)
        if status < 300:
            response.headers.add("Contact", self.contact)
            response.headers.add("Allow", ALLOW)
            response.headers.add("Supported", self.supported)
        for header in headers:
            response.headers.append(header)
        if description is not None:
            response.headers.add("Content-Type", "application/sdp")
            response.body = description.encode()
        return response

    def _end(self, now: float) -> None:
        self.state = LegState.ENDED
        self.offers.abandon(now)
        self._switchboard.release(self)


def _own_name(peer: Peer) -> str:
    """Return the host name of an account, "" where it has addresses only."""
    return next((host.host for host in peer.hosts if not is_address(host.host)), "")
