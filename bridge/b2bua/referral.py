"""A peer's REFER and what it is told of it: an implicit subscription and its NOTIFYs (RFC 3515 §2.4)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from bridge.sip.extensions import sipfrag
from bridge.sip.message import Header, Request
from bridge.sip.transaction import ServerTransaction

EXPIRES = 180
"""Seconds that a subscription to a transfer may take: longer than any telephone rings."""


@dataclass(frozen=True, slots=True)
class News:
    """What the target of the transfer last said."""

    status: int
    reason: str
    final: bool


class Referral:
    """Keep the news for one REFER in order: a NOTIFY goes out when the one before it has been answered."""

    def __init__(self, transaction: ServerTransaction, first: bool) -> None:
        self.transaction = transaction
        # RFC 3515 §2.4.6: the second and later REFERs of a dialog are told apart by the CSeq number
        self._event = "refer" if first else f"refer;id={transaction.request.cseq.number}"
        self._news: deque[News] = deque()
        self._outstanding = False
        self.over = False

    def tell(self, status: int, reason: str, final: bool) -> None:
        """Add news; after final ones there are no more."""
        if not self.over:
            self._news.append(News(status, reason, final))
            self.over = final

    def next(self, hurry: bool = False) -> News | None:
        """Take the next piece of news to send, None while a NOTIFY is unanswered (unless we are about to leave)."""
        if not self._news or (self._outstanding and not hurry):
            return None
        self._outstanding = True
        return self._news.popleft()

    def answered(self) -> None:
        self._outstanding = False

    def write(self, request: Request, news: News) -> None:
        """Make a request of the dialog's the NOTIFY for a piece of news."""
        state = "terminated;reason=noresource" if news.final else f"active;expires={EXPIRES}"
        request.headers.append(Header("Event", self._event))
        request.headers.append(Header("Subscription-State", state))
        request.headers.append(Header("Content-Type", "message/sipfrag;version=2.0"))
        request.body = sipfrag(news.status, news.reason)
