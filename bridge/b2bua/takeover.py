"""INVITEs that take the place of a dialog (Replaces, RFC 3891): which leg of ours they mean, and who may do that."""

from __future__ import annotations

from collections.abc import Callable, Collection

from bridge.b2bua.leg import Leg, LegState
from bridge.config import Peer
from bridge.errors import PeerError
from bridge.sip.extensions import replaces
from bridge.sip.message import Request

Find = Callable[[str, str, str | None], Leg | None]


def leg_to_replace(
    request: Request, owners: Collection[Peer], find: Find, has_ended: Callable[[str], bool]
) -> Leg | None:
    """Return the leg that an INVITE is to replace, None for one that replaces nothing (RFC 3891 §3, R38).

    ``owners`` are the accounts of its sender, ``has_ended`` tells a Call-ID whose dialog was ours and is over. Raises
    PeerError: 400 for several Replaces, 481 for no such dialog, 403 for another account's, 486 for one that is not
    early any more, 603 for one that has ended.
    """
    wanted = replaces(request)
    if wanted is None:
        return None
    leg = find(wanted.call_id, wanted.to_tag, wanted.from_tag)
    if leg is None:
        if has_ended(wanted.call_id):
            raise PeerError(603, "Decline")
        raise PeerError(481, "Call/Transaction Does Not Exist")
    if leg.peer not in owners:
        raise PeerError(403, "Forbidden")
    match leg.state:
        case LegState.CALLING:
            return leg
        case LegState.ANSWERED if not leg.awaits_ack:  # the other side has left
            raise PeerError(603, "Decline")
        case LegState.ANSWERED | LegState.CONFIRMED if wanted.early_only:
            raise PeerError(486, "Busy Here")
        case LegState.ANSWERED | LegState.CONFIRMED:
            return leg
        case LegState.INVITED:  # an early dialog that its peer began can't be replaced
            raise PeerError(481, "Call/Transaction Does Not Exist")
        case _:
            raise PeerError(603, "Decline")
