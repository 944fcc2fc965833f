"""The neutral language of call control: what the two legs of a call say to each other through the call.

A leg turns SIP into these events and these into SIP; it knows nothing of the other leg. Descriptions travel as the
sender's peer wrote them: the call anchors them for the other side.
"""

from __future__ import annotations

from dataclasses import dataclass

from bridge.sdp.session import Description
from bridge.sip.headers import NameAddr
from bridge.sip.message import Header


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a call, an attempt or a leg ended: the SIP status behind it and the Reason headers to carry (RFC 3326)."""

    status: int
    reason: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ringing:
    """The peer's phone rings (180, 181, 182 or a 183 without SDP)."""

    status: int


@dataclass(frozen=True, slots=True)
class Progress:
    """The peer sends early media (183 or 180 with SDP)."""

    status: int
    description: Description


@dataclass(frozen=True, slots=True)
class Answer:
    """The peer accepted the call."""

    description: Description | None
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class Reject:
    """The peer, or its silence, refused the call before it was answered."""

    cause: Cause
    headers: tuple[Header, ...] = ()
    contacts: tuple[str, ...] = ()  # of a 3xx: where else the peer would have us try


@dataclass(frozen=True, slots=True)
class Hangup:
    """The peer ended the call: BYE after the answer, CANCEL before it, or a dialog that died under us."""

    cause: Cause
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class Reoffer:
    """The peer offers a changed description within the call (re-INVITE); None: it wants our offer."""

    offer: Description | None


@dataclass(frozen=True, slots=True)
class ReofferAnswered:
    """The peer answered an offer of ours within the call (`Leg.reoffer`)."""

    description: Description


@dataclass(frozen=True, slots=True)
class ReofferRefused:
    """The peer refused an offer of ours within the call; what was agreed before still holds (RFC 3261 §14.1)."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class Refer:
    """The peer asks us to bring the call elsewhere (REFER, RFC 3515).

    The call answers with `Leg.accept_refer` or `Leg.refuse_refer`. ``headers`` are those that may pass (D35).
    """

    refer_to: NameAddr
    referred_by: str | None
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class ReferProgress:
    """What became of a REFER of ours (`Leg.refer`): a NOTIFY's sipfrag, or the refusal of the REFER itself.

    ``final``: nothing more will be heard; below 300 the peer has reached the target.
    """

    status: int
    reason: str
    final: bool


@dataclass(frozen=True, slots=True)
class Info:
    """The peer sent INFO (RFC 6086, or the older kind that carries DTMF); it has been answered."""

    content_type: str
    body: bytes
    headers: tuple[Header, ...] = ()


ControlEvent = (
    Ringing
    | Progress
    | Answer
    | Reject
    | Hangup
    | Reoffer
    | ReofferAnswered
    | ReofferRefused
    | Refer
    | ReferProgress
    | Info
)
