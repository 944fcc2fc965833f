"""One half of a call: a SIP dialog with one peer, from its INVITE to its BYE.

A leg turns SIP into call-control events (bridge.b2bua.control) and these into SIP. Whether it was called or calls is
its first state and nothing else; it knows nothing of the leg on the other side. Session timers, reliable provisional
responses, glare and the subscriptions of transfers end here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from bridge.b2bua.control import (
    Answer,
    Cause,
    ControlEvent,
    Hangup,
    Info,
    Progress,
    Refer,
    ReferProgress,
    Reject,
    Reoffer,
    ReofferAnswered,
    ReofferRefused,
    Ringing,
)
from bridge.b2bua.identity import delivered, passing, reasons_of
from bridge.b2bua.next_hop import Finder, NextHop
from bridge.b2bua.referral import Referral
from bridge.b2bua.refresh import SessionTimer, supports
from bridge.b2bua.routing import Invitation
from bridge.config import Peer
from bridge.errors import PeerError
from bridge.media.relay import LegName
from bridge.sdp import session as sdp
from bridge.sip.dialog import Dialog
from bridge.sip.digest import DigestClient
from bridge.sip.endpoint import Endpoint
from bridge.sip.events import Flow, RequestReceived
from bridge.sip.extensions import Event, RAck, SubscriptionState, parse_rseq, parse_sipfrag, refer_to
from bridge.sip.headers import CSeq, split_list
from bridge.sip.message import Header, Headers, Request, Response, content_type_is_sdp, response_to
from bridge.sip.tokens import Tokens
from bridge.sip.transaction import ClientTransaction, ServerTransaction

ALLOW = "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, PRACK, INFO, REFER, NOTIFY"
_KNOWN_METHODS = frozenset(
    {"INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "REGISTER", "PRACK", "UPDATE", "INFO"}
    | {"REFER", "NOTIFY", "SUBSCRIBE", "MESSAGE", "PUBLISH"}
)


class LegState(enum.Enum):
    IDLE = "idle"
    CALLING = "calling"  # our INVITE is out
    CANCELLING = "cancelling"  # our INVITE is out and no longer wanted
    INVITED = "invited"  # the peer's INVITE has no final response yet
    ANSWERED = "answered"  # our 2xx is out, the ACK is awaited
    CONFIRMED = "confirmed"
    LEAVING = "leaving"  # our BYE is out
    ENDED = "ended"


class LegTimer(enum.Enum):
    SESSION = "session"  # refresh the session, or give up on a peer that has not (RFC 4028 §10)
    GLARE = "glare"  # offer again after a 491 (RFC 3261 §14.1)


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


@dataclass(slots=True)
class _Early:
    """One fork of an INVITE of ours: its dialog, what it last described, and the last RSeq we acknowledged."""

    dialog: Dialog
    description: sdp.Description | None = None
    rseq: int | None = None


@dataclass(slots=True)
class _Offer:
    """An offer of ours within the call: a changed description, or the old one again to refresh the session."""

    description: sdp.Description
    refresh: bool
    transaction: ClientTransaction | None = None


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
        self._switchboard = switchboard
        self._endpoint = switchboard.endpoint
        self._next_hop = NextHop(flow, switchboard.finder)
        self._session = SessionTimer(peer.profile)
        self._dialog: Dialog | None = None
        self._early: dict[str, _Early] = {}  # by the forks' To tags, until one of them is the dialog
        self._invite: ClientTransaction | None = None
        self._invited: ServerTransaction | None = None
        self._session_headers: tuple[Header, ...] = ()  # for our 2xx to the peer's INVITE
        self._settled = False  # a reliable provisional response carried our answer, which is final (RFC 3262 §5)
        self._reoffered: ServerTransaction | None = None  # a re-INVITE, UPDATE or PRACK of the peer's with an offer
        self._offer: _Offer | None = None  # an offer of ours within the call, waiting for its turn or its answer
        self._referral: Referral | None = None  # the peer's REFER
        self._referrals = 0
        self._referring = False  # the peer still has to tell what became of a REFER of ours
        self._rang = False
        self._departure: tuple[Cause, tuple[Header, ...]] | None = None  # a BYE that waits for the ACK
        self._credentials: list[Header] = []
        self._digest = _digest_client(peer, switchboard.tokens)

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
        return None if self._dialog is None else self._dialog.remote_tag

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
        headers.add("Supported", self._supported)
        for header in (*self._session.asking(), *invitation.headers):
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
        self._dialog = Dialog.uas(request, self.local_tag, self.contact)
        self._note_allowed(request)
        self._session_headers = self._session.accept(request)
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
            if self._settled and self.local_description is not None:
                description = self.local_description
            self.local_description = description
            self.state = LegState.ANSWERED
            self._respond_invited(200, now, description, (*self._session_headers, *delivered(headers, self.peer)))
            self._watch_session(now)

    def reject(self, cause: Cause, now: float, headers: tuple[Header, ...] = ()) -> None:
        """Refuse the caller's INVITE; the leg is over with it."""
        if self.state is LegState.INVITED:
            reasons = tuple(Header("Reason", reason) for reason in cause.reasons)
            self._respond_invited(cause.status, now, None, (*reasons, *delivered(headers, self.peer)), cause.reason)
            self._end()

    # -- within the dialog -----------------------------------------------------------------------------------------

    def hang_up(self, cause: Cause, headers: tuple[Header, ...], now: float) -> None:
        """Leave, in whatever way the state asks for: CANCEL, a final response, BYE, or BYE once the ACK is here."""
        match self.state:
            case LegState.CALLING if self._invite is None or self._invite.final is not None:
                self._end()  # a bug of ours struck between two steps: nothing is out that could be cancelled
            case LegState.CALLING:
                assert self._invite is not None
                self.state = LegState.CANCELLING
                self._endpoint.cancel(self._invite, now, cause.reasons)
            case LegState.INVITED:
                self.reject(cause, now, headers)
            case LegState.ANSWERED:  # RFC 3261 §15: no BYE before the ACK has come or is given up
                self._departure = (cause, headers)
            case LegState.CONFIRMED:
                self._bye(cause, headers, now)
            case _:
                pass

    def accept_reoffer(self, offer: sdp.Description | None, description: sdp.Description, now: float) -> None:
        """Answer the request whose ``offer`` was reported by `Reoffer`; without one ``description`` is ours."""
        assert self._reoffered is not None
        self.local_description = description
        if offer is not None:
            self.remote_description, self.we_answered = offer, True
        request = self._reoffered.request
        headers = self._refreshed(request, now) if request.method != "PRACK" else ()
        self._respond(self._reoffered, 200, now, description, headers)

    def reoffer(self, description: sdp.Description, now: float) -> None:
        """Offer the peer a changed description (re-INVITE): `ReofferAnswered` or `ReofferRefused` will follow."""
        self._offer = _Offer(description, refresh=False)
        self._send_offer(now)

    def probe(self, now: float) -> None:
        """Ask whether the peer still knows the dialog (OPTIONS, RFC 3261 §11): silence or 481 ends the leg."""
        if self.state is LegState.CONFIRMED:
            assert self._dialog is not None
            self._send_in_dialog(self._dialog.request("OPTIONS"), now)

    def info(self, content_type: str, body: bytes, headers: tuple[Header, ...], now: float) -> None:
        """Send INFO, if the peer takes it (RFC 6086)."""
        if self.state is LegState.CONFIRMED and "INFO" in self.allows:
            assert self._dialog is not None
            request = self._dialog.request("INFO")
            for header in delivered(headers, self.peer):
                request.headers.append(header)
            if body:
                request.headers.add("Content-Type", content_type)
                request.body = body
            self._send_in_dialog(request, now)

    def timeout(self, timer: LegTimer, now: float) -> None:
        """Let what a timer of the leg's stands for happen."""
        if self.state is not LegState.CONFIRMED:
            return
        if timer is LegTimer.GLARE:
            self._send_offer(now)
        elif self._session.agreement is not None and self._session.agreement.we_refresh:
            self._refresh(now)
        else:
            self._lost(Cause(408, "Session Expired"), now)

    # -- transfers -------------------------------------------------------------------------------------------------

    def accept_refer(self, now: float) -> None:
        """Take on the transfer that `Refer` reported: 202, and NOTIFY that it is being tried (RFC 3515 §2.4.2)."""
        if self._referral is not None:
            self._respond(self._referral.transaction, 202, now)
            self.notify_refer(100, "Trying", False, now)

    def refuse_refer(self, cause: Cause, now: float) -> None:
        """Refuse the transfer that `Refer` reported; the call goes on."""
        if self._referral is not None:
            self._respond(self._referral.transaction, cause.status, now, reason=cause.reason)
            self._referral = None

    def notify_refer(self, status: int, reason: str, final: bool, now: float) -> None:
        """Tell the peer what the target of its transfer says; ``final`` ends the subscription."""
        if self._referral is not None:
            self._referral.tell(status, reason, final)
            self._notify(now)

    def refer(self, refer_to: str, headers: tuple[Header, ...], now: float) -> None:
        """Ask the peer to bring the call to ``refer_to``, a name-addr; `ReferProgress` tells what comes of it."""
        if self.state is not LegState.CONFIRMED:
            self.receiver(self, ReferProgress(481, "Call/Transaction Does Not Exist", True), now)
            return
        assert self._dialog is not None
        request = self._dialog.request("REFER")
        request.headers.add("Refer-To", refer_to)
        for header in headers:
            request.headers.append(header)
        self._referring = True
        self._send_in_dialog(request, now)

    def _notify(self, now: float, hurry: bool = False) -> None:
        referral = self._referral
        if referral is None or self._dialog is None or self.state is not LegState.CONFIRMED:
            return
        while (news := referral.next(hurry)) is not None:
            request = self._dialog.request("NOTIFY")
            referral.write(request, news)
            self._send_in_dialog(request, now)
            if news.final:
                self._referral = None
                return

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
                self._reinvite(event, now)
            case "UPDATE":
                self._update(event, dialog, now)
            case "PRACK":
                self._prack(event, now)
            case "OPTIONS":
                self._endpoint.respond(event.transaction, capabilities(request, self.local_tag), now)
            case "INFO":
                self._endpoint.respond(event.transaction, response_to(request, 200), now)
                said = Info(
                    request.headers.get("Content-Type") or "", request.body, passing(request.headers, self.peer)
                )
                self.receiver(self, said, now)
            case "REFER":
                self._peer_refers(event, now)
            case "NOTIFY":
                self._peer_notifies(event, now)
            case method:
                raise refusal(method)

    def acknowledged(self, request: Request, now: float) -> None:
        """Take the ACK for a 2xx of ours; an answer in it completes an offer we made."""
        reoffered = self._reoffered
        if reoffered is not None and request.cseq.number == reoffered.request.cseq.number:
            self._reoffered = None
            if not reoffered.request.body and self.state is LegState.CONFIRMED:
                self._take_answer(request, now)
            self._send_offer(now)
        elif self.state is LegState.ANSWERED:
            self.state = LegState.CONFIRMED
            if self._departure is not None:
                self._bye(*self._departure, now)
            elif not self.we_answered and not self._settled:
                self._take_answer(request, now)
            self._send_offer(now)

    def cancelled(self, request: Request, transaction: ServerTransaction, now: float) -> None:
        """Take the CANCEL of the caller's INVITE; after a 200 of ours it has no effect (RFC 3261 §9.2)."""
        if transaction is self._invited and self.state is LegState.INVITED:
            cause = Cause(487, "Request Terminated", reasons_of(request.headers))
            self.reject(Cause(487, "Request Terminated"), now)
            self.receiver(self, Hangup(cause, passing(request.headers, self.peer)), now)

    def ack_missing(self, transaction: ServerTransaction, now: float) -> None:
        """Give up on an ACK after 64*T1 and end the dialog (RFC 3261 §13.3.1.4; R05)."""
        if self.state not in (LegState.ANSWERED, LegState.CONFIRMED):
            return
        departure = self._departure or (Cause(408, "ACK missing"), ())
        self._bye(*departure, now)
        self.receiver(self, Hangup(Cause(408, "ACK missing")), now)

    def prack_missing(self, transaction: ServerTransaction, now: float) -> None:
        """Refuse an INVITE whose sender never acknowledged a reliable response (RFC 3262 §3, R30)."""
        if transaction is self._invited and self.state is LegState.INVITED:
            self.reject(Cause(504, "Server Time-out"), now)
            self.receiver(self, Hangup(Cause(504, "PRACK missing")), now)

    def response(self, response: Response, flow: Flow, transaction: ClientTransaction, now: float) -> None:
        """Take a response to a request of ours."""
        self._next_hop.heard(flow)
        if transaction is self._invite:
            self._invite_response(response, now)
        elif transaction.request.method == "INVITE":
            self._offer_response(response, transaction, now)
        elif response.status in (401, 407) and self._retry_with_credentials(response, transaction, now):
            return
        elif response.status >= 200:
            self._in_dialog_final(response.status, response, transaction, now)

    def unanswered(self, transaction: ClientTransaction, status: int, now: float) -> None:
        """Take a time-out (408) or a transport error (503) as the response it stands for (RFC 3261 §8.1.3.1)."""
        if transaction is self._invite:
            wanted = self.state is LegState.CALLING
            if wanted or self.state is LegState.CANCELLING:
                self._end()
            if wanted:
                self.receiver(self, Reject(Cause(status, "No Response" if status == 408 else "Unreachable")), now)
        else:
            self._in_dialog_final(408 if status == 408 else 503, None, transaction, now)

    def _take_answer(self, message: Request, now: float) -> None:
        """Take the answer to an offer of ours from ACK or PRACK; without one there is no session (§13.2.2.4)."""
        try:
            answer = description_of(message)
        except PeerError:
            answer = None
            self.remote_description = None
        if answer is not None:
            self.remote_description, self.we_answered = answer, False
            self.receiver(self, Answer(answer), now)
        elif self.remote_description is None:  # else an offerless refresh that leaves things as they are
            cause = Cause(488, "Not Acceptable Here")
            self._bye(cause, (), now)
            self.receiver(self, Hangup(cause), now)

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
            self._end()
            if wanted:
                cause = Cause(status, response.reason, reasons_of(response.headers))
                contacts = tuple(response.headers.get_all("Contact")) if status < 400 else ()
                self.receiver(self, Reject(cause, passing(response.headers, self.peer), contacts), now)

    def _provisional(self, response: Response, now: float) -> None:
        early = self._fork(response)
        if early is not None and not self._acknowledge_early(response, early, now):
            return  # a repeat of a reliable response, or one out of order
        try:
            description = description_of(response)
        except PeerError:  # early media we can't read is no reason to lose the call
            description = None
        if description is None:
            self.receiver(self, Ringing(response.status), now)
        else:
            self.remote_description = description
            if early is not None:
                early.description = description
            self.receiver(self, Progress(response.status, description), now)

    def _fork(self, response: Response) -> _Early | None:
        """Return the early dialog that a provisional response belongs to (RFC 3261 §12.1.2), None without a tag."""
        assert self._invite is not None
        tag = response.to.tag
        if tag is None:
            return None
        early = self._early.get(tag)
        if early is None:
            try:
                early = self._early[tag] = _Early(Dialog.uac(self._invite.request, response))
            except PeerError:  # a Contact or Record-Route that can't be read: the 2xx may do better
                return None
        self._note_allowed(response)
        return early

    def _acknowledge_early(self, response: Response, early: _Early, now: float) -> bool:
        """Acknowledge a reliable provisional response; tell whether it is new and in order (RFC 3262 §4, R30)."""
        assert self._invite is not None
        text = response.headers.get("RSeq")
        if text is None or not requires(response, "100rel"):
            return True
        rseq = parse_rseq(text)
        if early.rseq is not None and rseq != early.rseq + 1:
            return False
        early.rseq = rseq
        prack = early.dialog.request("PRACK")
        prack.headers.add("RAck", str(RAck(rseq, response.cseq.number, "INVITE")))
        self._send(early.dialog, prack, now)
        return True

    def _accepted(self, response: Response, now: float) -> None:
        """Acknowledge every 2xx, repeats too (R06); a second dialog of a forking peer is acknowledged and ended."""
        assert self._invite is not None
        request = self._invite.request
        known = self._dialog
        if known is not None and known.remote_tag == response.to.tag:
            self._ack(known, now)
            return
        wanted = self.state is LegState.CALLING
        early = self._early.get(response.to.tag or "")
        try:
            if early is None:
                dialog = Dialog.uac(request, response)
            else:
                dialog = early.dialog
                dialog.confirm(response)
        except PeerError:  # a Record-Route that can't be read: there is no way to acknowledge this
            if known is None and self.state is not LegState.ENDED:
                self._end()
            if wanted:
                self.receiver(self, Reject(Cause(502, "Bad Gateway")), now)
            return
        self._ack(dialog, now)
        if known is not None:
            self._send(dialog, dialog.request("BYE"), now, owned=False)
            return
        self._dialog = dialog
        self._early.clear()
        self.state = LegState.CONFIRMED
        if not wanted:  # R08: the CANCEL crossed the 200
            self._bye(Cause(487, "Request Terminated"), (), now)
            return
        self._note_allowed(response)
        self._session.accepted(response)
        self._watch_session(now)
        try:
            description = description_of(response)
        except PeerError as error:
            self._bye(Cause(error.status, error.reason), (), now)
            self.receiver(self, Reject(Cause(488, "Not Acceptable Here")), now)
            return
        if description is None and early is not None:
            description = early.description
        self.remote_description = description or self.remote_description
        self.receiver(self, Answer(description, passing(response.headers, self.peer)), now)

    def _ack(self, dialog: Dialog, now: float) -> None:
        assert self._invite is not None
        ack = dialog.ack(self._invite.request.cseq.number, tuple(self._credentials))
        self._next_hop.deliver(dialog, lambda flow, _: self._endpoint.send_ack(ack, flow), now)

    def _invite_again(self, response: Response, now: float) -> bool:
        """Repeat the INVITE with credentials (§22.2), or with a longer session interval (RFC 4028 §7.3)."""
        assert self._invite is not None
        request = self._invite.request
        if response.status in (401, 407):
            again = self._authorized(request, response)
        elif response.status == 422 and self._session.too_brief(response):
            again = _renumbered(request, request.cseq.number + 1)
            again.headers.remove("Session-Expires")
            again.headers.remove("Min-SE")
            for header in self._session.asking():
                again.headers.append(header)
        else:
            again = None
        if again is None:
            return False
        self._early.clear()
        self._invite = self._endpoint.send_request(again, self.flow, now, owner=self)
        return True

    # -- requests of ours within the dialog ------------------------------------------------------------------------

    def _bye(self, cause: Cause, headers: tuple[Header, ...], now: float) -> None:
        assert self._dialog is not None
        self._notify(now, hurry=True)
        self.state = LegState.LEAVING
        self._departure = None
        for timer in LegTimer:
            self._switchboard.cancel_timer(self, timer)
        request = self._dialog.request("BYE")
        for reason in cause.reasons:
            request.headers.add("Reason", reason)
        for header in delivered(headers, self.peer):
            request.headers.append(header)
        self._send_in_dialog(request, now)

    def _send_in_dialog(self, request: Request, now: float) -> None:
        assert self._dialog is not None
        self._send(self._dialog, request, now)

    def _send(self, dialog: Dialog, request: Request, now: float, owned: bool = True) -> None:
        """Send a request of a dialog's along its route; unless ``owned`` nobody waits for what becomes of it."""
        owner = self if owned else None
        self._next_hop.deliver(dialog, lambda flow, at: self._sent(request, flow, owner, at), now)

    def _sent(self, request: Request, flow: Flow, owner: Leg | None, now: float) -> None:
        transaction = self._endpoint.send_request(request, flow, now, owner=owner)
        if request.method == "INVITE" and self._offer is not None:
            self._offer.transaction = transaction

    def _retry_with_credentials(self, response: Response, transaction: ClientTransaction, now: float) -> bool:
        authorized = self._authorized(transaction.request, response)
        if authorized is None:
            return False
        self._sent(authorized, transaction.flow, self, now)
        return True

    def _authorized(self, request: Request, response: Response) -> Request | None:
        """Answer a challenge to a request of ours, None where there are no credentials or they must not go there.

        T07: credentials go only to an address of the account they belong to, and never into a dialog that a peer
        opened to us, but for a REFER, which goes there because the account's profile says so.
        """
        if self._digest is None or not (self.calling or request.method == "REFER"):
            return None
        dialog = self._dialog_with(request.to.tag) if request.to.tag else None
        if dialog is not None and not self._reaches_peer(dialog):
            return None
        credentials = self._digest.authorize(request, response)
        if credentials is None:
            return None
        number = request.cseq.number + 1
        if dialog is not None:
            number = dialog.local_cseq = dialog.local_cseq + 1
        again = _renumbered(request, number)
        again.headers.remove(credentials.name)
        again.headers.append(credentials)
        if request.method == "INVITE":
            self._credentials = [credentials]
        return again

    def _reaches_peer(self, dialog: Dialog) -> bool:
        host = dialog.next_hop().host.strip("[]")
        return host == self.flow.remote[0] or host == self.flow.name or self._switchboard.owns(self.peer, host)

    def _in_dialog_final(
        self, status: int, response: Response | None, transaction: ClientTransaction, now: float
    ) -> None:
        """Take the end of a request of ours within the dialog; ``response`` None: there was none."""
        method = transaction.request.method
        dead = status == 481 or response is None  # RFC 3261 §12.2.1.2: 481 and no answer end the dialog
        match method:
            case "BYE":
                self._end()
            case "OPTIONS" | "UPDATE" | "INVITE" if dead or status == 408:
                self._lost(Cause(status, "Dialog Lost"), now)
            case "INVITE":
                self._offer_refused(Cause(status, response.reason if response else ""), now)
            case "UPDATE":
                assert response is not None
                self._update_final(response, now)
            case "NOTIFY" if self._referral is not None:
                if dead or status >= 300:  # RFC 6665 §4.2.2: the subscription is gone, the call is not
                    self._referral = None
                else:
                    self._referral.answered()
                    self._notify(now)
            case "REFER" if status >= 300 and self._referring:
                self._referring = False
                self.receiver(self, ReferProgress(status, response.reason if response else "No Response", True), now)
            case _:
                pass

    def _lost(self, cause: Cause, now: float) -> None:
        """End a dialog that the peer no longer keeps; the BYE is for a peer that only went deaf (RFC 4028 §10)."""
        if self.state is LegState.CONFIRMED:
            if cause.status == 481:
                self._end()
            else:
                self._bye(Cause(cause.status, cause.reason), (), now)
            self.receiver(self, Hangup(cause), now)

    # -- offers of ours within the dialog --------------------------------------------------------------------------

    def _send_offer(self, now: float) -> None:
        """Send the re-INVITE that waits, unless another offer is open: R10, RFC 3261 §14.1."""
        offer = self._offer
        if offer is None or offer.transaction is not None or self.state is not LegState.CONFIRMED:
            return
        if self._reoffered is not None:
            return  # its ACK comes first
        assert self._dialog is not None
        self._switchboard.cancel_timer(self, LegTimer.GLARE)
        request = self._dialog.request("INVITE")
        request.headers.add("Allow", ALLOW)
        request.headers.add("Supported", self._supported)
        for header in self._session.asking():
            request.headers.append(header)
        request.headers.add("Content-Type", "application/sdp")
        request.body = offer.description.encode()
        self._send_in_dialog(request, now)

    def _offer_response(self, response: Response, transaction: ClientTransaction, now: float) -> None:
        """Take a response to a re-INVITE of ours; a 2xx is acknowledged each time it comes (R06)."""
        status = response.status
        if status < 200:
            return
        if status < 300:
            if self._dialog is not None:
                ack = self._dialog.ack(transaction.request.cseq.number, tuple(self._credentials))
                self._next_hop.deliver(self._dialog, lambda flow, _: self._endpoint.send_ack(ack, flow), now)
            if self._offer is not None and self._offer.transaction is transaction:
                self._offer_accepted(response, now)
        elif (
            self._offer is None
            or self._offer.transaction is not transaction
            or (status in (401, 407) and self._retry_with_credentials(response, transaction, now))
        ):
            return
        elif status == 491:
            self._offer.transaction = None
            self._switchboard.set_timer(self, LegTimer.GLARE, now + self._back_off())
        elif status == 422 and self._session.too_brief(response):
            self._offer.transaction = None
            self._send_offer(now)
        else:
            self._in_dialog_final(status, response, transaction, now)

    def _offer_accepted(self, response: Response, now: float) -> None:
        offer, self._offer = self._offer, None
        if offer is None or self._dialog is None or self.state is not LegState.CONFIRMED:
            return
        self._dialog.refresh_target(response)
        self._session.accepted(response)
        self._watch_session(now)
        try:
            answer = description_of(response)
        except PeerError as error:
            answer = None
            cause = Cause(error.status, error.reason)
        else:
            cause = Cause(488, "Answer Without SDP")
        if answer is not None:
            self.local_description, self.remote_description, self.we_answered = offer.description, answer, False
            self.receiver(self, ReofferAnswered(answer), now)
        elif not offer.refresh:
            self.receiver(self, ReofferRefused(cause), now)

    def _offer_refused(self, cause: Cause, now: float) -> None:
        offer, self._offer = self._offer, None
        if offer is not None and not offer.refresh:
            self.receiver(self, ReofferRefused(cause), now)
        elif offer is not None:
            self._refresh_later(now)

    def _back_off(self) -> float:
        """Return how long to wait after a 491, in steps of 10 ms: the owner of the Call-ID longer (§14.1, R10)."""
        number = int(self._switchboard.tokens.token(32), 16)
        return (210 + number % 191) / 100 if self.calling else (number % 201) / 100

    # -- session timers --------------------------------------------------------------------------------------------

    def _watch_session(self, now: float) -> None:
        agreed = self._session.agreement
        if agreed is None:
            self._switchboard.cancel_timer(self, LegTimer.SESSION)
        else:
            self._switchboard.set_timer(self, LegTimer.SESSION, agreed.deadline(now))

    def _refresh(self, now: float) -> None:
        """Refresh the session: UPDATE where the peer takes it, else an unchanged re-INVITE (RFC 4028 §7.4)."""
        assert self._dialog is not None
        if self._offer is not None or self._reoffered is not None:
            self._refresh_later(now)  # an exchange that is under way may do it for us
        elif "UPDATE" in self.allows:
            request = self._dialog.request("UPDATE")
            request.headers.add("Supported", self._supported)
            for header in self._session.asking():
                request.headers.append(header)
            self._send_in_dialog(request, now)
        elif self.local_description is not None:
            self._offer = _Offer(self.local_description, refresh=True)
            self._send_offer(now)

    def _refresh_later(self, now: float) -> None:
        """Try again soon: there is half the interval left for it (RFC 4028 §7.4)."""
        agreed = self._session.agreement
        if agreed is not None:
            self._switchboard.set_timer(self, LegTimer.SESSION, now + min(10.0, agreed.expires / 8))

    def _update_final(self, response: Response, now: float) -> None:
        assert self._dialog is not None
        if response.status < 300:
            self._dialog.refresh_target(response)
            self._session.accepted(response)
            self._watch_session(now)
        elif response.status == 422 and self._session.too_brief(response):
            self._refresh(now)
        elif response.status in (491, 500, 503):
            self._refresh_later(now)
        else:  # it said it would take UPDATE: it does not
            self.allows -= {"UPDATE"}
            self._refresh(now)

    def _refreshed(self, request: Request, now: float) -> tuple[Header, ...]:
        """Take a session request of the peer's as the refresh it is; return the headers for our 2xx."""
        headers = self._session.accept(request)
        if self.state is LegState.CONFIRMED:
            self._watch_session(now)
        return headers

    # -- requests of the peer's within the dialog ------------------------------------------------------------------

    def _dialog_with(self, remote_tag: str | None) -> Dialog | None:
        """Return our dialog with that tag of the peer's: other forks have their own (RFC 3261 §12)."""
        if self._dialog is not None:
            return self._dialog if self._dialog.remote_tag in (None, remote_tag) else None
        early = self._early.get(remote_tag or "")
        return None if early is None else early.dialog

    def _peer_left(self, event: RequestReceived, now: float) -> None:
        request = event.request
        self._endpoint.respond(event.transaction, response_to(request, 200), now)
        if self._dialog is None:  # the BYE of an early fork: its INVITE gets a response of its own (§15)
            self._early.pop(request.from_.tag or "", None)
            return
        state = self.state
        if state is LegState.INVITED:  # RFC 3261 §15.1.2: pending requests get 487
            self._respond_invited(487, now)
        if state is not LegState.LEAVING:  # else two BYEs cross: ours still awaits its answer
            self._end()
        if state in (LegState.INVITED, LegState.ANSWERED, LegState.CONFIRMED):
            cause = Cause(200, "OK", reasons_of(request.headers))
            self.receiver(self, Hangup(cause, passing(request.headers, self.peer)), now)

    def _reinvite(self, event: RequestReceived, now: float) -> None:
        """Take a re-INVITE; the call answers it from what is already agreed (D23)."""
        request = event.request
        if self.state is LegState.INVITED or (self._reoffered is not None and self._reoffered.final is None):
            # R11, RFC 3261 §14.2: the first INVITE has no final response yet
            raise PeerError(500, "Server Internal Error", (("Retry-After", str(1 + self._back_off_seconds())),))
        if self.state is not LegState.CONFIRMED or (self._offer is not None and self._offer.transaction is not None):
            raise PeerError(491, "Request Pending")  # R10, §14.2: ours is open
        assert self._dialog is not None
        offer = description_of(request)
        self._session_check(request)
        self._dialog.refresh_target(request)
        self._note_allowed(request)
        self._reoffered = event.transaction
        self.receiver(self, Reoffer(offer), now)
        if event.transaction.final is None:  # the call is ending
            self._reoffered = None
            raise PeerError(491, "Request Pending")

    def _update(self, event: RequestReceived, dialog: Dialog, now: float) -> None:
        """Take an UPDATE: a new target, a refresh, or a new offer before or after the answer (RFC 3311 §5.2, R35)."""
        request = event.request
        offer = description_of(request)
        self._session_check(request)
        if offer is not None:
            self._check_offer_allowed()
        dialog.refresh_target(request)
        self._note_allowed(request)
        if offer is None:
            self._respond(event.transaction, 200, now, headers=self._refreshed(request, now))
            return
        self._report_offer(event, offer, now)

    def _report_offer(self, event: RequestReceived, offer: sdp.Description | None, now: float) -> None:
        """Let the call answer an offer in UPDATE or PRACK, which unlike a re-INVITE have no ACK to wait for."""
        reoffered, self._reoffered = self._reoffered, event.transaction
        self.receiver(self, Reoffer(offer), now)
        self._reoffered = reoffered
        if event.transaction.final is None:  # the call is in no state to answer it
            raise PeerError(491, "Request Pending")

    def _check_offer_allowed(self) -> None:
        """Refuse an offer while another one is open (RFC 3311 §5.2, RFC 3264 §4). Raises PeerError."""
        open_offer = self._offer is not None and self._offer.transaction is not None
        if self.state is LegState.CALLING and self.remote_description is None:
            open_offer = True  # the INVITE's own
        if self.state is LegState.INVITED and not self.we_answered:
            open_offer = self.local_description is not None
        if open_offer:
            raise PeerError(491, "Request Pending")
        unanswered = self.state is LegState.INVITED and not self._settled
        if unanswered or self._reoffered is not None:
            raise PeerError(500, "Server Internal Error", (("Retry-After", str(1 + self._back_off_seconds())),))

    def _back_off_seconds(self) -> int:
        """Return a random number of seconds for Retry-After: 0 to 9 (RFC 3261 §14.2)."""
        return int(self._switchboard.tokens.token(32), 16) % 10

    def _session_check(self, request: Request) -> None:
        """Refuse an interval that is too short before anything of the request has effect. Raises PeerError 422."""
        before = self._session.agreement
        self._session.accept(request)
        self._session.agreement = before

    def _prack(self, event: RequestReceived, now: float) -> None:
        """Take the acknowledgement of a reliable provisional response; it may carry SDP (RFC 3262 §5, R30)."""
        request = event.request
        if not self._endpoint.provisional_acknowledged(request, now):
            raise PeerError(481, "Call/Transaction Does Not Exist")
        if not request.body:
            self._endpoint.respond(event.transaction, response_to(request, 200), now)
        elif self.we_answered:  # a new offer on top of the answer it has just acknowledged
            self._report_offer(event, description_of(request), now)
        else:
            self._endpoint.respond(event.transaction, response_to(request, 200), now)
            self._take_answer(request, now)

    def _peer_refers(self, event: RequestReceived, now: float) -> None:
        """Take a REFER; the call decides (RFC 3515). Raises PeerError: 400 unless there is one Refer-To (R37)."""
        request = event.request
        target = refer_to(request)
        if self.state is not LegState.CONFIRMED or self._referral is not None:
            raise PeerError(491, "Request Pending")
        self._referrals += 1
        self._referral = Referral(event.transaction, first=self._referrals == 1)
        referred_by = request.headers.get("Referred-By")
        self.receiver(self, Refer(target, referred_by, passing(request.headers, self.peer)), now)
        if event.transaction.final is None:
            self.refuse_refer(Cause(603, "Decline"), now)

    def _peer_notifies(self, event: RequestReceived, now: float) -> None:
        """Take what the peer says of a REFER of ours (RFC 3515 §2.4.4)."""
        request = event.request
        if Event.parse(request.headers.get("Event") or "none").package != "refer":
            raise PeerError(489, "Bad Event", (("Allow-Events", "refer"),))
        if not self._referring:
            raise PeerError(481, "Subscription Does Not Exist")
        status, reason = parse_sipfrag(request.body)
        ended = SubscriptionState.parse(request.headers.get("Subscription-State") or "").state == "terminated"
        final = ended or status >= 200
        self._endpoint.respond(event.transaction, response_to(request, 200), now)
        self._referring = not final
        self.receiver(self, ReferProgress(status, reason, final), now)

    def _note_allowed(self, message: Request | Response) -> None:
        """Remember the methods that the peer says it takes (RFC 3261 §20.5)."""
        values = message.headers.get_all("Allow")
        if values:
            self.allows = frozenset(method.upper() for value in values for method in split_list(value))

    # -- responses of ours -----------------------------------------------------------------------------------------

    @property
    def _supported(self) -> str:
        """The option tags that we tell this peer of (RFC 3261 §20.37)."""
        tags = ("timer" if self._session.supported else "", "100rel" if self._reliable else "", "replaces")
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
        self._respond(self._invited, status, now, description, headers, reason)

    def _respond(
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
            response.headers.add("Supported", self._supported)
        for header in headers:
            response.headers.append(header)
        if description is not None:
            response.headers.add("Content-Type", "application/sdp")
            response.body = description.encode()
        return response

    def _end(self) -> None:
        self.state = LegState.ENDED
        self._switchboard.release(self)


def description_of(message: Request | Response) -> sdp.Description | None:
    """Return the message's session description, None without one. Raises PeerError (415 for a foreign body)."""
    if not message.body:
        return None
    if not content_type_is_sdp(message):
        raise PeerError(415, "Unsupported Media Type", (("Accept", "application/sdp"),))
    return sdp.parse(message.body)


def requires(message: Request | Response, extension: str) -> bool:
    """Tell whether the sender insists on an extension."""
    return any(
        token.lower() == extension for value in message.headers.get_all("Require") for token in split_list(value)
    )


def extensions(peer: Peer) -> frozenset[str]:
    """Return the option tags that a request of this peer may require (RFC 3261 §8.2.2.3)."""
    profile = peer.profile
    optional = {"timer": profile.session_timer != "off", "100rel": profile.prack == "supported"}
    return frozenset({"replaces", *(tag for tag, on in optional.items() if on)})


def capabilities(request: Request, tag: str) -> Response:
    """Answer an OPTIONS (RFC 3261 §11.2, D21)."""
    response = response_to(request, 200, to_tag=tag)
    response.headers.add("Allow", ALLOW)
    response.headers.add("Accept", "application/sdp")
    return response


def refusal(method: str) -> PeerError:
    """Return 405 for a method we know and do not take here, 501 for one unknown (RFC 3261 §8.2.1, §21.5.2)."""
    allow = (("Allow", ALLOW),)
    if method in _KNOWN_METHODS:
        return PeerError(405, "Method Not Allowed", allow)
    return PeerError(501, "Not Implemented", allow)


def _renumbered(request: Request, number: int) -> Request:
    """Return the request as it is sent again: a new CSeq, and no Via yet."""
    headers = request.headers.copy()
    headers.remove("Via")
    headers.set("CSeq", str(CSeq(number, request.method)))
    return Request(request.method, request.uri, headers, request.body)


def _digest_client(peer: Peer, tokens: Tokens) -> DigestClient | None:
    if peer.username:
        return DigestClient(peer.username, peer.password, tokens)
    if peer.profile.authentication == "any":  # D9: Vapi challenges even open URIs and accepts anything
        return DigestClient("trunkbridge", tokens.token(64), tokens)
    return None
