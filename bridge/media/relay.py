"""The relay contract: what signalling may ask of a media relay, and what it hears back.

Every backend implements `Relay` and passes the contract tests in tests/media/. Legs are named by the side they face:
``carrier`` or ``platform``. Times are seconds of the machine's CLOCK_MONOTONIC unless the name says otherwise.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Address = tuple[str, int]


class LegName(enum.StrEnum):
    """The side of the bridge that a leg faces."""

    CARRIER = "carrier"
    PLATFORM = "platform"

    @property
    def other(self) -> LegName:
        return LegName.PLATFORM if self is LegName.CARRIER else LegName.CARRIER


@dataclass(frozen=True, slots=True)
class SessionLabel:
    """The metric labels of a session; the relay keeps running totals for each label and leg."""

    carrier: str
    platform: str


@dataclass(frozen=True, slots=True)
class Payload:
    """Describe one negotiated payload format of a leg (RFC 3551, RFC 4733).

    ``payload_type`` is the number on this leg, both ways. ``far_payload_type`` is the number of the same format on the
    other leg, or None when the other leg has not taken it: such packets are refused (reason ``payload-type``).
    """

    payload_type: int
    encoding: str  # upper case: "PCMU", "PCMA", "TELEPHONE-EVENT"
    clock_rate: int
    far_payload_type: int | None


@dataclass(frozen=True, slots=True)
class LegMedia:
    """State what is known of one leg's media; an update replaces the whole of it.

    ``remote_rtp`` and ``remote_rtcp`` are the addresses of the peer's SDP (None: not known yet; remote_rtcp None means
    RTP port + 1, or the RTP address under ``rtcp_mux``). ``may_send``: the peer accepts media from us (not on hold).
    ``may_receive``: the peer may send to us. ``permitted`` lists the networks (CIDR) from which RTP may prove another
    source address; the SDP address is always permitted, with any port. ``latch_for`` is the window in seconds, counted
    from this leg's first RTP packet from a permitted source after an update that changed the remote or opened the
    window, in which the source may still replace what is latched; after it the socket is connected.
    ``fill_after_ms``: silence frames go to this peer once nothing was sent to it for so long; None: no fill. Fill
    starts at once (first frame right away) if nothing has ever been sent to the peer. ``fill_payload_type`` names the
    G.711 format of those frames and must be in ``payloads``. ``silent_after``: seconds without RTP and RTCP from the
    peer after which `MediaSilent` is reported, once for each silence and counted from this update; None: never.
    ``tone``: ``ringback-us`` (440 and 480 Hz, 2 s on, 4 s off) or ``ringback-eu`` (425 Hz, 1 s on, 4 s off) goes to
    this peer, in the format of ``fill_payload_type``, in place of what comes from the other leg; it needs no fill.
    """

    remote_rtp: Address | None
    remote_rtcp: Address | None
    rtcp_mux: bool
    may_send: bool
    may_receive: bool
    payloads: tuple[Payload, ...]
    ptime_ms: int
    fill_after_ms: int | None
    fill_payload_type: int | None
    permitted: tuple[str, ...] = ()
    latch_for: float = 1.0
    silent_after: float | None = None
    tone: str | None = None


@dataclass(frozen=True, slots=True)
class RtcpReport:
    """What the far end's RTCP says of the stream that we send to it (RFC 3550 §6.4.1)."""

    fraction_lost: float  # 0..1, of the last report
    cumulative_lost: int
    jitter_ms: float
    round_trip_ms: float | None  # from LSR and DLSR; None until a report echoes an SR of ours


@dataclass(frozen=True, slots=True)
class LegReport:
    """Count what happened on one leg: received and lost concern what came from the peer, sent and filled what went.

    ``lost`` = expected - received by RFC 3550 A.3, summed over the SSRCs seen, never below 0. Duplicates do not count
    as received. ``sent`` includes ``filled``. ``refused`` maps a reason (``stranger``, ``not-rtp``, ``payload-type``,
    ``not-negotiated``, ``rtcp-stranger``, ``send-error`` …) to a count of packets. What comes after the call
    (``after-call``) is in the totals only. ``longest_gap_ms`` is the longest time
    between two arriving RTP packets, ``longest_sent_gap_ms`` between two departing ones.
    """

    remote: Address | None = None
    received: int = 0
    received_bytes: int = 0
    expected: int = 0
    lost: int = 0
    duplicate: int = 0
    reordered: int = 0
    jitter_ms_mean: float = 0.0
    jitter_ms_max: float = 0.0
    sent: int = 0
    sent_bytes: int = 0
    filled: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    rtcp_received: int = 0
    rtcp_sent: int = 0
    rtcp: RtcpReport | None = None
    first_received_at: float | None = None
    last_received_at: float | None = None
    longest_gap_ms: float = 0.0
    longest_sent_gap_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class SessionReport:
    """The counts of both legs of one session."""

    carrier: LegReport
    platform: LegReport

    def leg(self, name: LegName) -> LegReport:
        return self.carrier if name is LegName.CARRIER else self.platform


@dataclass(frozen=True, slots=True)
class LegTotals:
    """Running totals of one leg over all sessions of one label, live ones included (at most a second old)."""

    received: int
    received_bytes: int
    expected: int
    lost: int
    sent: int
    sent_bytes: int
    filled: int
    refused: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """The session has a port pair for each leg; these are the RTP ports (even; RTCP is the next one up)."""

    session: int
    carrier_port: int
    platform_port: int

    def port(self, name: LegName) -> int:
        return self.carrier_port if name is LegName.CARRIER else self.platform_port


@dataclass(frozen=True, slots=True)
class SessionRefused:
    """No ports or sockets were left for the session; ``reason`` says so in plain words."""

    session: int
    reason: str


@dataclass(frozen=True, slots=True)
class MediaStarted:
    """The first valid RTP packet of the peer arrived on this leg, from ``remote``."""

    session: int
    leg: LegName
    remote: Address
    at: float


@dataclass(frozen=True, slots=True)
class MediaSilent:
    """Neither RTP nor RTCP came from the peer of this leg for its ``silent_after``.

    It is reported early, after 3 s without either, where the network says that the peer's port is closed (ICMP).
    """

    session: int
    leg: LegName
    at: float


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The session is over: its ports rest in quarantine and this is its final report."""

    session: int
    report: SessionReport


RelayEvent = SessionOpened | SessionRefused | MediaStarted | MediaSilent | SessionClosed


class Relay(Protocol):
    """Relay RTP and RTCP between the two legs of sessions. Nothing here blocks or waits for a packet."""

    def open(self, session: int, label: SessionLabel) -> SessionOpened | SessionRefused:
        """Take a port pair for each leg; until updated, a leg neither forwards nor fills."""

    def update(self, session: int, leg: LegName, media: LegMedia) -> None:
        """Replace what is known of one leg's media. An unknown session is ignored (it has just been closed)."""

    def relabel(self, session: int, label: SessionLabel) -> None:
        """Let another label count the session from now on: the call has moved to another target."""

    def close(self, session: int) -> None:
        """End the session; RTCP BYE goes to both peers and `SessionClosed` follows among the events."""

    def tap(self, session: int, path: str | None) -> None:
        """Write the session's packets to a pcap file from now on; None ends it. Raises RelayError."""

    def snapshot(self, session: int) -> SessionReport | None:
        """Report a live session now; None if it is not known."""

    def events(self) -> Sequence[RelayEvent]:
        """Drain the events since the last call; the wake-up descriptor is signalled when there are some."""

    def totals(self) -> Mapping[SessionLabel, Mapping[LegName, LegTotals]]:
        """Return the running totals since the relay began."""

    def ports(self) -> tuple[int, int]:
        """Return (ports in use, quarantine included; ports in the range)."""

    def faults(self) -> tuple[int, int]:
        """Return (bugs of the relay that ended a session, packets that captures had to leave out)."""

    def stop(self) -> None:
        """End every session and the threads; returns when they have ended."""
