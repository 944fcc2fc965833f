"""Transfers as one leg's dialog sees them: REFER, and the NOTIFYs that tell what became of it (RFC 3515 §2.4)."""

from __future__ import annotations

import weakref
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bridge.b2bua.control import Cause, Refer, ReferProgress
from bridge.b2bua.identity import passing
from bridge.errors import PeerError
from bridge.sip.events import RequestReceived
from bridge.sip.extensions import Event, SubscriptionState, parse_sipfrag, refer_to, sipfrag
from bridge.sip.message import Header, Request, Response
from bridge.sip.transaction import ServerTransaction

if TYPE_CHECKING:
    from bridge.b2bua.leg import Leg

EXPIRES = 180
"""Seconds that a subscription to a transfer may take: longer than any telephone rings."""


@dataclass(frozen=True, slots=True)
class News:
    """What the target of the transfer last said."""

    status: int
    reason: str
    final: bool


class Subscription:
    """Keep the news for one REFER in order: a NOTIFY goes out when the one before it has been answered."""

    def __init__(self, transaction: ServerTransaction, first: bool) -> None:
        self.transaction = transaction
        # RFC 3515 §2.4.6: the second and later REFERs of a dialog are told apart by the CSeq number
        self._event = Event("refer", None if first else str(transaction.request.cseq.number))
        self._news: deque[News] = deque()
        self._outstanding = False

    def add(self, news: News) -> None:
        """Queue what is new."""
        self._news.append(news)

    def next(self, hurry: bool) -> News | None:
        """Take the next piece of news to send; none while a NOTIFY is unanswered, unless in a ``hurry`` to leave."""
        if not self._news or (self._outstanding and not hurry):
            return None
        self._outstanding = True
        return self._news.popleft()

    def wrote(self, request: Request) -> bool:
        """Tell whether a NOTIFY of the dialog's is this subscription's."""
        return request.headers.get("Event") == str(self._event)

    def answered(self) -> None:
        """Let the next NOTIFY go."""
        self._outstanding = False

    def write(self, request: Request, news: News) -> None:
        """Make a request of the dialog's the NOTIFY for a piece of news."""
        state = (
            SubscriptionState("terminated", reason="noresource")
            if news.final
            else SubscriptionState("active", expires=EXPIRES)
        )
        request.headers.add("Event", str(self._event))
        request.headers.add("Subscription-State", str(state))
        request.headers.add("Content-Type", "message/sipfrag;version=2.0")
        request.body = sipfrag(news.status, news.reason)


class Referrals:
    """Keep a leg's REFERs: at most one of the peer's that is not settled, and one of ours."""

    def __init__(self, leg: Leg) -> None:
        self._leg: Leg = weakref.proxy(leg)  # which owns this one: no two that hold each other
        self._theirs: Subscription | None = None
        self._count = 0
        self._awaiting = False  # the peer still has to tell what became of a REFER of ours
        self._waiting: tuple[str, tuple[Header, ...]] | None = None  # a REFER that goes out once the ACK is here

    # -- the peer's --------------------------------------------------------------------------------------------------

    def referred(self, event: RequestReceived, now: float) -> None:
        """Take a REFER; the call decides. Raises PeerError: 400 unless there is one Refer-To (R37)."""
        leg, request = self._leg, event.request
        target = refer_to(request)
        if not leg.confirmed or self._theirs is not None:
            raise PeerError(491, "Request Pending")
        self._count += 1
        self._theirs = Subscription(event.transaction, first=self._count == 1)
        leg.tell(Refer(target, request.headers.get("Referred-By"), passing(request.headers, leg.peer)), now)
        if event.transaction.final is None:  # the call is in no state to be transferred
            self.refuse(Cause(603, "Decline"), now)

    def accept(self, now: float) -> None:
        """Take on the transfer: 202, and NOTIFY that it is being tried (RFC 3515 §2.4.2)."""
        if self._theirs is not None:
            self._leg.respond(self._theirs.transaction, 202, now)
            self.notify(100, "Trying", False, now)

    def refuse(self, cause: Cause, now: float) -> None:
        """Refuse the transfer; the call goes on."""
        if self._theirs is not None:
            self._leg.respond(self._theirs.transaction, cause.status, now, reason=cause.reason)
            self._theirs = None

    def notify(self, status: int, reason: str, final: bool, now: float) -> None:
        """Tell the peer what the target says; ``final`` ends the subscription."""
        if self._theirs is not None:
            self._theirs.add(News(status, reason, final))
            self.flush(now)

    def flush(self, now: float, hurry: bool = False) -> None:
        """Send the NOTIFYs whose turn it is; all of them before a BYE."""
        theirs = self._theirs
        while theirs is not None and self._leg.confirmed and (news := theirs.next(hurry)) is not None:
            request = self._leg.new_request("NOTIFY")
            theirs.write(request, news)
            self._leg.send(request, now)
            if news.final:
                self._theirs = theirs = None

    def notify_response(self, request: Request, response: Response | None, now: float) -> None:
        """Take the end of a NOTIFY; what the peer does not want to hear is told no more (RFC 6665 §4.2.2)."""
        if self._theirs is None or not self._theirs.wrote(request):
            return
        if response is None or response.status >= 300:
            self._theirs = None
        else:
            self._theirs.answered()
            self.flush(now)

    # -- ours --------------------------------------------------------------------------------------------------------

    def refer(self, target: str, headers: tuple[Header, ...], now: float) -> None:
        """Ask the peer to bring the call to ``target``, a name-addr; `ReferProgress` tells what comes of it."""
        leg = self._leg
        if leg.awaits_ack:
            self._waiting = (target, headers)
            return
        if not leg.confirmed:
            leg.tell(ReferProgress(481, "Call/Transaction Does Not Exist", True), now)
            return
        request = leg.new_request("REFER")
        request.headers.add("Refer-To", target)
        for header in headers:
            request.headers.append(header)
        self._awaiting = True
        leg.send(request, now)

    def pursue(self, now: float) -> None:
        """Send the REFER that waited for the peer's ACK."""
        if self._waiting is not None and self._leg.confirmed:
            waiting, self._waiting = self._waiting, None
            self.refer(*waiting, now)

    def refer_response(self, status: int, reason: str, now: float) -> None:
        """Take the final response to a REFER of ours; an acceptance says nothing yet."""
        if status >= 300 and self._awaiting:
            self._awaiting = False
            self._leg.tell(ReferProgress(status, reason, True), now)

    def notified(self, event: RequestReceived, now: float) -> None:
        """Take what the peer says of a REFER of ours (RFC 3515 §2.4.4). Raises PeerError."""
        request = event.request
        if Event.parse(request.headers.get("Event") or "none").package != "refer":
            raise PeerError(489, "Bad Event", (("Allow-Events", "refer"),))
        if not self._awaiting:
            raise PeerError(481, "Subscription Does Not Exist")
        status, reason = parse_sipfrag(request.body)
        state = SubscriptionState.parse(request.headers.get("Subscription-State") or "")
        final = status >= 200 or state.state == "terminated"
        if status < 200 and final:  # it tells us no more, and not what became of it (RFC 6665 §4.1.3)
            status, reason = 408, "No Final Report"
        self._leg.respond(event.transaction, 200, now)
        self._awaiting = not final
        self._leg.tell(ReferProgress(status, reason, final), now)
