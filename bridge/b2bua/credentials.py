"""The account that a leg may prove to its peer when it is challenged, and when it may not (T07)."""

from __future__ import annotations

from bridge.config import Peer
from bridge.sip.digest import DigestClient, put_credentials
from bridge.sip.headers import CSeq
from bridge.sip.message import Header, Request, Response
from bridge.sip.tokens import Tokens

_CREDENTIALS = ("Authorization", "Proxy-Authorization")


class Credentials:
    """Answer the challenges of one peer. ``for_ack`` are those of the last INVITE (RFC 3261 §22.1)."""

    def __init__(self, peer: Peer, tokens: Tokens) -> None:
        self.for_ack: tuple[Header, ...] = ()
        self._digest: DigestClient | None = None
        if peer.username:
            self._digest = DigestClient(peer.username, peer.password, tokens)
        elif peer.profile.authentication == "any":  # D9: Vapi challenges even open URIs and accepts anything
            self._digest = DigestClient("trunkbridge", tokens.token(64), tokens)

    def repetition(self, request: Request, response: Response) -> Request | None:
        """Return the request with the answer to a 401 or 407, and the next CSeq; None if we have none (§22.2)."""
        answer = None if self._digest is None else self._digest.authorize(request, response)
        if answer is None:
            return None
        again = renumbered(request, request.cseq.number + 1)
        put_credentials(again.headers, answer)
        if request.method == "INVITE":
            self.for_ack = tuple(header for header in again.headers if header.name in _CREDENTIALS)
        return again


def renumbered(request: Request, number: int) -> Request:
    """Return the request as it is sent again: another CSeq, and no Via yet. Digest does not cover the CSeq."""
    headers = request.headers.copy()
    headers.remove("Via")
    headers.set("CSeq", str(CSeq(number, request.method)))
    return Request(request.method, request.uri, headers, request.body)
