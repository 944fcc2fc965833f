"""One half of a call: a SIP dialog with one peer, from its INVITE to its BYE.

A leg turns SIP into call-control events (bridge.b2bua.control) and these into SIP. Whether it was called or calls is
its first state and nothing else; it knows nothing of the leg on the other side.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from bridge.b2bua.control import Answer, Cause, ControlEvent, Hangup, Progress, Reject, Reoffer, Ringing
from bridge.b2bua.routing import Invitation, is_address, is_private, passing
from bridge.config import Peer
from bridge.errors import PeerError
from bridge.media.relay import LegName
from bridge.sdp import session as sdp
from bridge.sip.dialog import Dialog
from bridge.sip.digest import DigestClient
from bridge.sip.endpoint import Endpoint
from bridge.sip.events import Flow, RequestReceived
from bridge.sip.headers import CSeq
from bridge.sip.message import Header, Headers, Request, Response, content_type_is_sdp, response_to
from bridge.sip.tokens import Tokens
from bridge.sip.transaction import ClientTransaction, ServerTransaction

ALLOW = "INVITE, ACK, CANCEL, BYE, OPTIONS"
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


@dataclass(frozen=True, slots=True)
class Switchboard:
    """What a leg needs of the core: the endpoint, tokens, and to be found by its dialog identifiers."""

    endpoint: Endpoint
    tokens: Tokens
    register: Callable[[Leg], None]
    release: Callable[[Leg], None]


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
        self.flow = flow
        self.contact = contact
        self.record_id = record_id
        self.state = LegState.IDLE
        self.call_id = ""
        self.local_tag = ""
        self.responded = False  # the peer has given any response to our INVITE
        self.local_description: sdp.Description | None = None  # what we last said, and
        self.remote_description: sdp.Description | None = None  # what the peer last said
        self.we_answered = False  # which of the two was the answer
        self._switchboard = switchboard
        self._endpoint = switchboard.endpoint
        self._receiver = receiver
        self._dialog: Dialog | None = None
        self._invite: ClientTransaction | None = None
        self._invited: ServerTransaction | None = None
        self._reinvited: ServerTransaction | None = None  # a re-INVITE of the peer's whose ACK is awaited
        self._rang = False
        self._departure: tuple[Cause, tuple[Header, ...]] | None = None  # a BYE that waits for the ACK
        self._credentials: list[Header] = []
        self._digest = _digest_client(peer, switchboard.tokens)

    @property
    def key(self) -> tuple[str, str]:
        """The dialog identifiers by which a request of the peer's finds this leg."""
        return self.call_id, self.local_tag

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
        headers.add("Supported", "")
        for header in invitation.headers:
            headers.append(header)
        headers.add("Content-Type", "application/sdp")
        self.state = LegState.CALLING
        self._switchboard.register(self)
        request = Request("INVITE", invitation.request_uri, headers, offer.encode())
        self._invite = self._endpoint.send_request(request, self.flow, now, owner=self)

    # -- from the peer: a call of its own --------------------------------------------------------------------------

    def invited(self, event: RequestReceived, now: float) -> None:
        """Take the peer's INVITE: 100 at once (D7). Raises PeerError for a body we can't read."""
        request = event.request
        event.transaction.owner = self
        self._invited = event.transaction
        self.call_id, self.local_tag = request.call_id, self._switchboard.tokens.token(64)
        self.state = LegState.INVITED
        self._switchboard.register(self)
        self._endpoint.respond(event.transaction, response_to(request, 100), now)
        self._dialog = Dialog.uas(request, self.local_tag, self.contact)
        self.remote_description = description_of(request)
        self.we_answered = self.remote_description is not None

    def ring(self, now: float) -> None:
        """Let the caller hear ringing, once however often the far side repeats it (D7)."""
        if self.state is LegState.INVITED and not self._rang:
            self._rang = True
            self._respond_invited(180, now)

    def progress(self, description: sdp.Description, now: float) -> None:
        """Open early media toward the caller (183 with SDP); a repeat of the same description says nothing new."""
        if self.state is LegState.INVITED and description != self.local_description:
            self._rang = True
            self.local_description = description
            self._respond_invited(183, now, description)

    def answer(self, description: sdp.Description, headers: tuple[Header, ...], now: float) -> None:
        """Accept the caller's INVITE (RFC 3261 §13.3.1.4)."""
        if self.state is LegState.INVITED:
            self.local_description = description
            self.state = LegState.ANSWERED
            self._respond_invited(200, now, description, headers)

    def reject(self, cause: Cause, now: float, headers: tuple[Header, ...] = ()) -> None:
        """Refuse the caller's INVITE; the leg is over with it."""
        if self.state is LegState.INVITED:
            reasons = tuple(Header("Reason", reason) for reason in cause.reasons)
            self._respond_invited(cause.status, now, None, (*reasons, *headers), cause.reason)
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
        """Answer the re-INVITE whose ``offer`` was reported by `Reoffer`; without one ``description`` is ours."""
        assert self._reinvited is not None
        self.local_description = description
        if offer is not None:
            self.remote_description, self.we_answered = offer, True
        self._respond(self._reinvited, 200, now, description)

    def probe(self, now: float) -> None:
        """Ask whether the peer still knows the dialog (OPTIONS, RFC 3261 §11): silence or 481 ends the leg."""
        if self.state is LegState.CONFIRMED:
            assert self._dialog is not None
            self._send_in_dialog(self._dialog.request("OPTIONS"), now)

    # -- what the endpoint reports ---------------------------------------------------------------------------------

    def request(self, event: RequestReceived, now: float) -> None:
        """Take a request of the peer's within the dialog. Raises PeerError, which becomes its response."""
        request = event.request
        event.transaction.owner = self
        # RFC 3261 §12: the remote tag is part of the dialog's identity; another fork's BYE is not for this one
        if self._dialog is None or self._dialog.remote_tag not in (None, request.from_.tag):
            raise PeerError(481, "Call/Transaction Does Not Exist")
        self._dialog.receive(request)  # R09: 500 for a CSeq that runs backwards
        match request.method:
            case "BYE":
                self._peer_left(event, now)
            case "INVITE":
                self._reinvite(event, now)
            case "OPTIONS":
                self._endpoint.respond(event.transaction, capabilities(request, self.local_tag), now)
            case method:
                raise refusal(method)

    def acknowledged(self, request: Request, now: float) -> None:
        """Take the ACK for a 2xx of ours; an answer in it completes an offer we made."""
        if self._reinvited is not None and request.cseq.number == self._reinvited.request.cseq.number:
            offered = not self._reinvited.request.body
            self._reinvited = None
            if offered and self.state is LegState.CONFIRMED:
                self._take_answer(request, now)
        elif self.state is LegState.ANSWERED:
            self.state = LegState.CONFIRMED
            if self._departure is not None:
                self._bye(*self._departure, now)
            elif not self.we_answered:
                self._take_answer(request, now)

    def cancelled(self, request: Request, transaction: ServerTransaction, now: float) -> None:
        """Take the CANCEL of the caller's INVITE; after a 200 of ours it has no effect (RFC 3261 §9.2)."""
        if transaction is self._invited and self.state is LegState.INVITED:
            cause = Cause(487, "Request Terminated", tuple(request.headers.get_all("Reason")))
            self.reject(Cause(487, "Request Terminated"), now)
            self._receiver(self, Hangup(cause, passing(request.headers, self.peer)), now)

    def ack_missing(self, transaction: ServerTransaction, now: float) -> None:
        """Give up on an ACK after 64*T1 and end the dialog (RFC 3261 §13.3.1.4; R05)."""
        if self.state not in (LegState.ANSWERED, LegState.CONFIRMED):
            return
        departure = self._departure or (Cause(408, "ACK missing"), ())
        self._bye(*departure, now)
        self._receiver(self, Hangup(Cause(408, "ACK missing")), now)

    def response(self, response: Response, transaction: ClientTransaction, now: float) -> None:
        """Take a response to a request of ours."""
        method = transaction.request.method
        if method == "INVITE":
            if transaction is self._invite:
                self._invite_response(response, now)
        elif response.status in (401, 407) and self._retry_with_credentials(response, transaction, now):
            return
        elif response.status >= 200:
            # RFC 3261 §12.2.1.2: 481 and 408 end the dialog
            self._in_dialog_final(method, response.status, response.status in (408, 481), now)

    def unanswered(self, transaction: ClientTransaction, status: int, now: float) -> None:
        """Take a time-out (408) or a transport error (503) as the response it stands for (RFC 3261 §8.1.3.1)."""
        if transaction.request.method != "INVITE":
            self._in_dialog_final(transaction.request.method, status, True, now)
        elif transaction is self._invite and self.state in (LegState.CALLING, LegState.CANCELLING):
            wanted = self.state is LegState.CALLING
            self._end()
            if wanted:
                self._receiver(self, Reject(Cause(status, "No Response" if status == 408 else "Unreachable")), now)

    def _take_answer(self, ack: Request, now: float) -> None:
        """Take the answer to an offer of ours from the ACK; without a usable one there is no session (§13.2.2.4)."""
        try:
            answer = description_of(ack)
        except PeerError:
            answer = None
            self.remote_description = None
        if answer is not None:
            self.remote_description, self.we_answered = answer, False
            self._receiver(self, Answer(answer), now)
        elif self.remote_description is None:  # else an offerless refresh that leaves things as they are
            cause = Cause(488, "Not Acceptable Here")
            self._bye(cause, (), now)
            self._receiver(self, Hangup(cause), now)

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
        elif self.state is LegState.CALLING and status in (401, 407) and self._invite_again(response, now):
            return
        else:
            wanted = self.state is LegState.CALLING
            self._end()
            if wanted:
                cause = Cause(status, response.reason, tuple(response.headers.get_all("Reason")))
                self._receiver(self, Reject(cause, passing(response.headers, self.peer)), now)

    def _provisional(self, response: Response, now: float) -> None:
        try:
            description = description_of(response)
        except PeerError:  # early media we can't read is no reason to lose the call
            description = None
        if description is None:
            self._receiver(self, Ringing(response.status), now)
        else:
            self.remote_description = description
            self._receiver(self, Progress(response.status, description), now)

    def _accepted(self, response: Response, now: float) -> None:
        """Acknowledge every 2xx, repeats too (R06); a second dialog of a forking peer is acknowledged and ended."""
        assert self._invite is not None
        request = self._invite.request
        known = self._dialog
        if known is not None and known.remote_tag == response.to.tag:
            self._ack(known, now)
            return
        wanted = self.state is LegState.CALLING
        try:
            dialog = Dialog.uac(request, response)
        except PeerError:  # a Record-Route that can't be read: there is no way to acknowledge this
            if known is None and self.state is not LegState.ENDED:
                self._end()
            if wanted:
                self._receiver(self, Reject(Cause(502, "Bad Gateway")), now)
            return
        self._ack(dialog, now)
        if known is not None:
            self._endpoint.send_request(dialog.request("BYE"), self._dialog_flow(dialog), now)
            return
        self._dialog = dialog
        self.state = LegState.CONFIRMED
        if not wanted:  # R08: the CANCEL crossed the 200
            self._bye(Cause(487, "Request Terminated"), (), now)
            return
        try:
            description = description_of(response)
        except PeerError as error:
            self._bye(Cause(error.status, error.reason), (), now)
            self._receiver(self, Reject(Cause(488, "Not Acceptable Here")), now)
            return
        self.remote_description = description or self.remote_description
        self._receiver(self, Answer(description, passing(response.headers, self.peer)), now)

    def _ack(self, dialog: Dialog, now: float) -> None:
        assert self._invite is not None
        ack = dialog.ack(self._invite.request.cseq.number, tuple(self._credentials))
        self._endpoint.send_ack(ack, self._dialog_flow(dialog))

    def _invite_again(self, response: Response, now: float) -> bool:
        """Repeat the INVITE with credentials: same Call-ID and From tag, next CSeq (RFC 3261 §22.2)."""
        assert self._invite is not None
        authorized = self._authorized(self._invite.request, response)
        if authorized is None:
            return False
        self._invite = self._endpoint.send_request(authorized, self.flow, now, owner=self)
        return True

    # -- requests of ours within the dialog ------------------------------------------------------------------------

    def _bye(self, cause: Cause, headers: tuple[Header, ...], now: float) -> None:
        assert self._dialog is not None
        self.state = LegState.LEAVING
        self._departure = None
        request = self._dialog.request("BYE")
        for reason in cause.reasons:
            request.headers.add("Reason", reason)
        for header in headers:
            request.headers.append(header)
        self._send_in_dialog(request, now)

    def _send_in_dialog(self, request: Request, now: float) -> None:
        assert self._dialog is not None
        self._endpoint.send_request(request, self._dialog_flow(self._dialog), now, owner=self)

    def _retry_with_credentials(self, response: Response, transaction: ClientTransaction, now: float) -> bool:
        authorized = self._authorized(transaction.request, response)
        if authorized is None or self._dialog is None:
            return False
        self._endpoint.send_request(authorized, transaction.flow, now, owner=self)
        return True

    def _authorized(self, request: Request, response: Response) -> Request | None:
        # T07: credentials go only to the peer that we called, never into a dialog that a peer opened to us.
        if self._digest is None or not self.calling:
            return None
        credentials = self._digest.authorize(request, response)
        if credentials is None:
            return None
        headers = request.headers.copy()
        headers.remove("Via")
        headers.remove(credentials.name)
        number = request.cseq.number + 1
        if self._dialog is not None:
            number = self._dialog.local_cseq = self._dialog.local_cseq + 1
        headers.set("CSeq", str(CSeq(number, request.method)))
        headers.append(credentials)
        if request.method == "INVITE":
            self._credentials = [credentials]
        return Request(request.method, request.uri, headers, request.body)

    def _in_dialog_final(self, method: str, status: int, lost: bool, now: float) -> None:
        if method == "BYE":
            self._end()
        elif method == "OPTIONS" and lost and self.state is LegState.CONFIRMED:
            self._end()
            self._receiver(self, Hangup(Cause(status, "Dialog Lost")), now)

    # -- requests of the peer's within the dialog ------------------------------------------------------------------

    def _peer_left(self, event: RequestReceived, now: float) -> None:
        request = event.request
        self._endpoint.respond(event.transaction, response_to(request, 200), now)
        state = self.state
        if state is LegState.INVITED:  # RFC 3261 §15.1.2: pending requests get 487
            self._respond_invited(487, now)
        if state is not LegState.LEAVING:  # else two BYEs cross: ours still awaits its answer
            self._end()
        if state in (LegState.INVITED, LegState.ANSWERED, LegState.CONFIRMED):
            cause = Cause(200, "OK", tuple(request.headers.get_all("Reason")))
            self._receiver(self, Hangup(cause, passing(request.headers, self.peer)), now)

    def _reinvite(self, event: RequestReceived, now: float) -> None:
        """Take a re-INVITE; the call answers it from what is already agreed (D23)."""
        request = event.request
        if self.state is LegState.INVITED or (self._reinvited is not None and self._reinvited.final is None):
            # R11, RFC 3261 §14.2: the first INVITE has no final response yet
            raise PeerError(500, "Server Internal Error", (("Retry-After", "5"),))
        if self.state is not LegState.CONFIRMED:
            raise PeerError(491, "Request Pending")
        assert self._dialog is not None
        offer = description_of(request)
        self._dialog.refresh_target(request)
        self._reinvited = event.transaction
        self._receiver(self, Reoffer(offer), now)

    # -- responses of ours -----------------------------------------------------------------------------------------

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
        response = response_to(transaction.request, status, reason, to_tag=self.local_tag)
        if status < 300:
            response.headers.add("Contact", self.contact)
            response.headers.add("Allow", ALLOW)
        for header in headers:
            response.headers.append(header)
        if description is not None:
            response.headers.add("Content-Type", "application/sdp")
            response.body = description.encode()
        self._endpoint.respond(transaction, response, now)

    # -- where in-dialog requests go -------------------------------------------------------------------------------

    def _dialog_flow(self, dialog: Dialog) -> Flow:
        """Follow route set and remote target (D16); a private Contact seen through NAT yields to the packet source."""
        hop = dialog.next_hop()
        host, source = hop.host, self.flow.remote[0]
        if not is_address(host) or (":" in host) != (":" in source):  # the listener speaks one address family
            return self.flow
        if not dialog.route_set and is_private(host) and not is_private(source):
            return self.flow
        return Flow(self.flow.transport, self.flow.local, (host.strip("[]"), hop.port or 5060), self.flow.connection)

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


def _digest_client(peer: Peer, tokens: Tokens) -> DigestClient | None:
    if peer.username:
        return DigestClient(peer.username, peer.password, tokens)
    if peer.profile.authentication == "any":  # D9: Vapi challenges even open URIs and accepts anything
        return DigestClient("trunkbridge", tokens.token(64), tokens)
    return None
