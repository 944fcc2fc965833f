"""What a call needs of the core: actions out, timers, lookups, and where we are on a transport."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bridge.b2bua.actions import Action
from bridge.b2bua.destination import Directory
from bridge.b2bua.leg import Leg, Switchboard
from bridge.b2bua.limits import Limits
from bridge.b2bua.trunks import Trunks
from bridge.config import Peer
from bridge.media.relay import SessionReport
from bridge.sip.events import Address, Flow

if TYPE_CHECKING:
    from bridge.b2bua.call import Call


class Timer(enum.Enum):
    __hash__ = object.__hash__

    RINGING = "ringing"  # let the caller hear 180 by then
    RESPONSE = "response"  # the target has given no response at all
    RING = "ring"  # the target has not answered
    TRANSFER = "transfer"  # a transfer has come to nothing, or its transferor has not left
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Exchange:
    """Carry the core's services to its calls."""

    act: Callable[[Action], None]
    set_timer: Callable[[Call, Timer, float], None]
    cancel_timer: Callable[[Call, Timer], None]
    switchboard: Switchboard
    query_id: Callable[[Call], int]
    flow_to: Callable[[str, Address, str], Flow | None]  # transport, address, host name → a flow from a listener
    contact: Callable[[Flow], str]
    our_host: Callable[[Flow], str]
    learn: Callable[[Peer, str], None]
    trunks: Trunks
    limits: Limits
    directory: Directory
    call_of: Callable[[Leg], Call | None]  # the call that a leg belongs to
    media_address: str
    ended: Callable[[Call, SessionReport | None, float], None]
