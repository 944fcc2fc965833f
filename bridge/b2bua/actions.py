"""What the core asks of the shell (actions) and what an operator asks of the core (commands).

`Transmit` (from bridge.sip.events) is the most frequent action. Every input to the core is followed by draining
`Core.poll()` until it returns None, in one place: bridge/net/driver.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bridge.media.relay import LegMedia, LegName, SessionLabel
from bridge.sip.events import Address, Flow, Transmit
from bridge.sip.values import frozen


@dataclass(frozen=True, slots=True)
class Query:
    """Ask for the next hops behind a name (RFC 3263). ``id`` comes back with the answer.

    ``port`` None: not given, so SRV records say it. ``transport`` is what the URI or the configuration asks for, ""
    where neither does: then NAPTR and SRV choose among ``transports``, the peer's, the first being the preferred one.
    ``networks`` are those in which the peer may live though they are not public (T21).
    """

    id: int
    host: str
    port: int | None
    transport: str
    transports: tuple[str, ...] = ("udp",)
    networks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hop:
    """One place where a next hop can be tried."""

    transport: str
    address: Address


@dataclass(frozen=True, slots=True)
class Resolution:
    """Answer a `Query`: hops in the order in which they are to be tried, or none and the problem in plain words."""

    hops: tuple[Hop, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Resolve:
    """Look up a next hop; the answer comes back by `Core.resolved`."""

    query: Query


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Open a relay session; the relay's `SessionOpened` or `SessionRefused` comes back by `Core.relay_event`."""

    session: int
    label: SessionLabel


@dataclass(frozen=True, slots=True)
class UpdateSession:
    session: int
    leg: LegName
    media: LegMedia


@dataclass(frozen=True, slots=True)
class RelabelSession:
    """The call has moved to another target: its media counts for another label from now on."""

    session: int
    label: SessionLabel


@dataclass(frozen=True, slots=True)
class CloseSession:
    session: int


@dataclass(frozen=True, slots=True)
class TapSession:
    session: int
    path: str | None


@dataclass(frozen=True, slots=True)
class Record:
    """A call has ended: its record, with the keys of the contract, ready for JSON."""

    record: dict[str, Any]


@frozen
class Trace:
    """Something happened that log, ladder, metrics and live page may want; the core itself never logs.

    ``kind`` is one of ``received`` and ``sent`` (a SIP message: ``data``, ``flow``, ``method``, ``status``,
    ``retransmission``), ``rejected`` (an input dropped or refused: ``text`` is the reason label of
    ``sip_rejected_total``), ``limit`` (a limit or rule refused a call: ``text`` is the label in
    ``limit_rejections_total``, ``details`` has carrier and platform), ``state`` (a call changed state: ``text``),
    ``note`` (what a reader of the call may wonder about: ``text``), ``relay`` (a relay event: ``text``),
    ``transfer`` (a transfer has ended: ``details``), ``trunk`` (registration or health of a peer: ``text``) and ``bug``
    (an exception of ours, contained: ``text`` is the traceback). ``call`` is the record id of the call, "" if none.
    ``leg`` is the side that the peer belongs to, None for a stranger.
    """

    kind: str
    at: float
    call: str = ""
    leg: LegName | None = None
    text: str = ""
    flow: Flow | None = None
    method: str = ""
    status: int = 0
    retransmission: bool = False
    data: bytes = b""
    details: dict[str, Any] = field(default_factory=dict)


Action = Transmit | Resolve | OpenSession | UpdateSession | RelabelSession | CloseSession | TapSession | Record | Trace


@dataclass(frozen=True, slots=True)
class Drain:
    """Refuse new calls with 503 and let those in progress end."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """End one call (its record id), or every call when ``call`` is None."""

    call: str | None


@dataclass(frozen=True, slots=True)
class Tap:
    """Write the packets of one live call to ``path``; None ends it."""

    call: str
    path: str | None


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bring the caller of one live call to another number or SIP URI, as if its platform had sent REFER (D36)."""

    call: str
    target: str


Command = Drain | HangUp | Tap | Transfer
