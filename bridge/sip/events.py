"""What crosses the edge of the SIP core: flows and datagrams below, transaction events above."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bridge.sip.values import frozen

if TYPE_CHECKING:
    from bridge.sip.message import Request, Response
    from bridge.sip.transaction import ClientTransaction, ServerTransaction

Address = tuple[str, int]
"""An IP address literal (IPv6 without brackets) and a port."""


@frozen
class Flow:
    """Name where bytes travel: a listener of ours and a peer's address (RFC 5626).

    ``transport`` is ``udp``, ``tcp`` or ``tls``; ``local`` is the address of the listener that speaks for us (over
    UDP also the socket). On streams ``connection`` names the connection a message came over (0: none yet) and is a
    wish: while it lives, what is sent goes over it; after that over any live connection to ``remote`` under
    ``name``, or over a new one to ``remote``. So ``remote`` of a flow that is answered on is where the peer can be
    called back (RFC 3261 §18.2.2), not the source port of its connection. ``name`` is the host name that was looked
    up to find ``remote``: what TLS asks for (SNI) and what the peer's certificate must prove (D14); "" where an
    address was given.
    """

    transport: str
    local: Address
    remote: Address
    connection: int = 0
    name: str = ""


@frozen
class Transmit:
    """Carry one SIP message out. ``method`` is the CSeq method; ``status`` is 0 for a request."""

    data: bytes
    flow: Flow
    method: str
    status: int
    retransmission: bool = False
    call_id: str = ""


@frozen
class RequestReceived:
    """A request that began a server transaction: any method but ACK and CANCEL."""

    request: Request
    flow: Flow
    transaction: ServerTransaction


@dataclass(frozen=True, slots=True)
class CancelReceived:
    """A CANCEL that matched an INVITE server transaction; the endpoint has answered 200 to the CANCEL itself.

    The owner still answers 487 to the INVITE if no final response was sent (RFC 3261 §9.2).
    """

    request: Request
    transaction: ServerTransaction


@frozen
class AckReceived:
    """An ACK for a 2xx of ours (RFC 3261 §13.3.1.4): first arrival or a repeat."""

    request: Request
    flow: Flow


@frozen
class ResponseReceived:
    """A response for a client transaction; 2xx to INVITE arrive once for each repeat (RFC 6026 §7.2)."""

    response: Response
    flow: Flow
    transaction: ClientTransaction


@dataclass(frozen=True, slots=True)
class TransactionTimedOut:
    """Timer B or F fired: nobody answered the request (RFC 3261 §17.1)."""

    transaction: ClientTransaction


@dataclass(frozen=True, slots=True)
class TransactionFailed:
    """The transport refused to carry the request of a client transaction (RFC 3261 §18.4)."""

    transaction: ClientTransaction


@dataclass(frozen=True, slots=True)
class AckMissing:
    """A 2xx of ours was repeated for 64*T1 and never acknowledged (RFC 3261 §13.3.1.4)."""

    transaction: ServerTransaction


@dataclass(frozen=True, slots=True)
class PrackMissing:
    """A reliable provisional response was repeated for 64*T1 and never acknowledged (RFC 3262 §3).

    The owner refuses the INVITE with a 5xx (R30: 504); a 2xx that waited for the PRACK is gone.
    """

    transaction: ServerTransaction


EndpointEvent = (
    RequestReceived
    | CancelReceived
    | AckReceived
    | ResponseReceived
    | TransactionTimedOut
    | TransactionFailed
    | AckMissing
    | PrackMissing
)
