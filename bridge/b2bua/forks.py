"""The early dialogs of one INVITE of ours: a peer that forks answers from several places (RFC 3261 §12.1.2, §13.2)."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.b2bua.capabilities import requires
from bridge.errors import PeerError
from bridge.sdp.session import Description
from bridge.sip.dialog import Dialog
from bridge.sip.extensions import RAck, parse_rseq
from bridge.sip.message import Request, Response

MOST_FORKS = 16
"""How many early dialogs one INVITE may have: a peer that answers with ever new tags fills no memory (T10)."""


@dataclass(slots=True)
class Fork:
    """One early dialog: what it last described, and the last RSeq of its that was acknowledged."""

    dialog: Dialog
    description: Description | None = None
    rseq: int | None = None

    def is_due(self, response: Response) -> bool:
        """Tell whether a provisional response is no repeat and, if it is reliable, the next in order (RFC 3262 §4)."""
        if not is_reliable(response):
            return True
        try:
            rseq = parse_rseq(response.headers.get("RSeq") or "")
        except PeerError:
            return False  # it can't be acknowledged; a sound one may follow
        if self.rseq is not None and rseq != self.rseq + 1:
            return False
        self.rseq = rseq
        return True

    def prack(self, response: Response) -> Request:
        """Make the PRACK for a reliable response that is due (R30)."""
        assert self.rseq is not None
        request = self.dialog.request("PRACK")
        request.headers.add("RAck", str(RAck(self.rseq, response.cseq.number, "INVITE")))
        return request


class Forks:
    """Keep the early dialogs by the tags of the peer's, until one of them is the leg's dialog."""

    def __init__(self) -> None:
        self._forks: dict[str, Fork] = {}

    def of(self, invite: Request, response: Response) -> Fork | None:
        """Return the early dialog that a provisional response belongs to or begins, None without a usable one."""
        tag = response.to.tag
        fork = self.tagged(tag)
        if fork is None and tag is not None and len(self._forks) < MOST_FORKS:
            try:
                fork = self._forks[tag] = Fork(Dialog.uac(invite, response))
            except PeerError:  # a Contact or Record-Route that can't be read: the 2xx may do better
                return None
        return fork

    def tagged(self, tag: str | None) -> Fork | None:
        """Return the early dialog with this tag of the peer's."""
        return self._forks.get(tag or "")

    def drop(self, tag: str | None) -> None:
        """Forget an early dialog that its peer has ended."""
        self._forks.pop(tag or "", None)

    def clear(self) -> None:
        """Forget them all: one of them is the dialog now, or the INVITE is another."""
        self._forks.clear()


def is_reliable(response: Response) -> bool:
    """Tell whether a provisional response wants a PRACK."""
    return response.headers.get("RSeq") is not None and requires(response, "100rel")
