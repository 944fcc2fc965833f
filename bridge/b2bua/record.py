"""The call record of the contract, and the closed list of ways in which a call can end."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bridge.insight.quality import leg_mos
from bridge.media.relay import LegName, LegReport, SessionReport


class Result(enum.StrEnum):
    COMPLETED = "completed"  # was answered and ended by a party
    CANCELLED = "cancelled"  # the caller gave up before the answer
    REJECTED = "rejected"  # the far party, or a rule of ours, said no
    FAILED = "failed"  # something did not work


class Reason(enum.Enum):
    """Every way in which a call ends; exactly one holds for each call."""

    HANGUP = ("hangup", Result.COMPLETED)
    OPERATOR = ("operator", Result.COMPLETED)
    TRANSFERRED = ("transferred", Result.COMPLETED)  # the carrier, or another call, took the caller over
    CANCELLED = ("cancelled", Result.CANCELLED)
    BUSY = ("busy", Result.REJECTED)
    DECLINED = ("declined", Result.REJECTED)
    NOT_FOUND = ("not-found", Result.REJECTED)
    REFUSED = ("refused", Result.REJECTED)  # any other final refusal of the far party
    CREDENTIALS = ("credentials", Result.REJECTED)  # 401, 403, 407 from the far party
    NO_ROUTE = ("no-route", Result.REJECTED)
    LOOP = ("loop", Result.REJECTED)
    LIMIT = ("limit", Result.REJECTED)
    FORBIDDEN = ("forbidden", Result.REJECTED)  # a number that the rules let nobody dial
    MINUTES_SPENT = ("minutes-spent", Result.COMPLETED)  # the account's minutes of the day were gone
    DRAINING = ("draining", Result.REJECTED)
    BAD_REQUEST = ("bad-request", Result.REJECTED)
    CODEC = ("codec-mismatch", Result.REJECTED)
    NO_ANSWER = ("no-answer", Result.FAILED)  # it rang until the deadline
    UNREACHABLE = ("unreachable", Result.FAILED)  # no target gave any response
    FAR_FAILURE = ("far-failure", Result.FAILED)  # 5xx from the far party
    NO_PORTS = ("no-ports", Result.FAILED)
    NO_ACK = ("no-ack", Result.FAILED)
    TRANSFER_FAILED = ("transfer-failed", Result.FAILED)  # after the platform had left
    PEER_LOST = ("peer-lost", Result.FAILED)  # neither media nor signalling came any more
    SESSION_EXPIRED = ("session-expired", Result.FAILED)  # a peer that should refresh the session has not
    BUG = ("bug", Result.FAILED)

    def __init__(self, label: str, result: Result) -> None:
        self.label = label
        self.result = result


_BY_STATUS = {
    401: Reason.CREDENTIALS,
    403: Reason.CREDENTIALS,
    404: Reason.NOT_FOUND,
    407: Reason.CREDENTIALS,
    408: Reason.UNREACHABLE,
    480: Reason.NO_ANSWER,
    482: Reason.LOOP,
    483: Reason.LOOP,
    486: Reason.BUSY,
    487: Reason.CANCELLED,
    488: Reason.CODEC,
    600: Reason.BUSY,
    603: Reason.DECLINED,
    604: Reason.NOT_FOUND,
    606: Reason.CODEC,
}


def reason_of(status: int) -> Reason:
    """Classify a final response of the far party."""
    return _BY_STATUS.get(status) or (Reason.FAR_FAILURE if 500 <= status < 600 else Reason.REFUSED)


@dataclass(slots=True)
class Attempt:
    """One target that was tried: ``status`` is its final response, 408 for none, 200 for the one that answered."""

    peer: str
    target: str
    status: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return {"peer": self.peer, "target": self.target, "status": self.status, "seconds": round(self.seconds, 3)}


@dataclass(slots=True)
class LegFacts:
    """What a record says of one leg besides its media counts."""

    call_id: str = ""
    remote: str = ""
    transport: str = ""
    codec: str | None = None
    ptime_ms: int = 20


class TransferResult(enum.StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the target, or the carrier, said no
    REFUSED = "refused"  # a rule of ours did
    ABANDONED = "abandoned"  # the caller hung up before


@dataclass(slots=True)
class TransferFacts:
    """What a record says of the last transfer: ``mode`` is ``refer``, ``dial``, ``attended`` or ``invite``.

    ``status`` is the final SIP status of the target, ``leg`` the target's dialog with us, ``call`` the id of the other
    call where two are concerned.
    """

    mode: str
    target: str
    requested_at: float
    by: str  # platform, carrier or operator
    result: TransferResult | None = None
    status: int | None = None
    attempts: list[Attempt] = field(default_factory=list)
    leg: LegFacts | None = None
    call: str | None = None

    def as_json(self, wall_offset: float) -> dict[str, Any]:
        leg = self.leg
        return {
            "mode": self.mode,
            "target": self.target,
            "requested_at": rfc3339(self.requested_at + wall_offset),
            "result": self.result,
            "status": self.status,
            "by": self.by,
            "attempts": [attempt.as_json() for attempt in self.attempts],
            "leg": None
            if leg is None
            else {"call_id": leg.call_id, "remote": leg.remote, "transport": leg.transport, "codec": leg.codec},
            "call": self.call,
        }


@dataclass(slots=True)
class CallRecord:
    """Gather the facts of one call; `as_json` gives the object of the contract. Times are monotonic seconds."""

    id: str
    node: str
    direction: str
    carrier: str
    platform: str
    route: str
    from_number: str
    to_number: str
    started_at: float
    request_uri: str | None = None
    ringing_at: float | None = None
    answered_at: float | None = None
    ended_at: float | None = None
    reason: Reason | None = None
    status: int | None = None
    ended_by: str | None = None  # carrier, platform, bridge or operator
    attempts: list[Attempt] = field(default_factory=list)
    legs: dict[LegName, LegFacts] = field(default_factory=dict)
    transfer: TransferFacts | None = None

    def as_json(self, wall_offset: float, report: SessionReport | None = None) -> dict[str, Any]:
        """Return the record; ``wall_offset`` is Unix time minus monotonic time."""

        def stamp(at: float | None) -> str | None:
            return None if at is None else rfc3339(at + wall_offset)

        answered = self.answered_at
        codec = next((facts.codec for facts in self.legs.values() if facts.codec), None)
        return {
            "id": self.id,
            "node": self.node,
            "direction": self.direction,
            "carrier": self.carrier,
            "platform": self.platform,
            "route": self.route,
            "from": self.from_number,
            "to": self.to_number,
            "request_uri": self.request_uri,
            "started_at": stamp(self.started_at),
            "ringing_at": stamp(self.ringing_at),
            "answered_at": stamp(answered),
            "ended_at": stamp(self.ended_at),
            "duration": round(self.ended_at - answered, 3) if answered is not None and self.ended_at else 0.0,
            "setup_seconds": round(answered - self.started_at, 3) if answered is not None else None,
            "post_dial_delay_seconds": (
                round(self.ringing_at - self.started_at, 3) if self.ringing_at is not None else None
            ),
            "result": self.reason.result.value if self.reason else None,
            "reason": self.reason.label if self.reason else None,
            "status": self.status,
            "ended_by": self.ended_by,
            "codec": codec,
            "attempts": [attempt.as_json() for attempt in self.attempts],
            "legs": {
                name.value: _leg_json(self.legs.get(name), report.leg(name) if report else None) for name in LegName
            },
            "turns": None,
            "echo": None,
            "transfer": None if self.transfer is None else self.transfer.as_json(wall_offset),
            "verdict": None,
            "budget": None,
        }


def _leg_json(facts: LegFacts | None, report: LegReport | None) -> dict[str, Any] | None:
    if facts is None:
        return None
    leg: dict[str, Any] = {
        "call_id": facts.call_id,
        "remote": facts.remote,
        "transport": facts.transport,
        "srtp": None,
        "codec": facts.codec,
        "rtp": None,
        "rtcp": None,
        "mos": None,
    }
    if report is None:
        return leg
    leg["rtp"] = {
        "remote": f"{report.remote[0]}:{report.remote[1]}" if report.remote else None,
        "received": report.received,
        "expected": report.expected,
        "lost": report.lost,
        "duplicate": report.duplicate,
        "reordered": report.reordered,
        "jitter_ms_mean": round(report.jitter_ms_mean, 3),
        "jitter_ms_max": round(report.jitter_ms_max, 3),
        "sent": report.sent,
        "filled": report.filled,
        "longest_gap_ms": round(report.longest_gap_ms, 1),
        "longest_sent_gap_ms": round(report.longest_sent_gap_ms, 1),
        "refused": dict(report.refused),
    }
    if report.rtcp is not None:
        leg["rtcp"] = {
            "fraction_lost": round(report.rtcp.fraction_lost, 4),
            "round_trip_ms": None if report.rtcp.round_trip_ms is None else round(report.rtcp.round_trip_ms, 3),
            "jitter_ms": round(report.rtcp.jitter_ms, 3),
        }
    round_trip = report.rtcp.round_trip_ms if report.rtcp else None
    leg["mos"] = leg_mos(report.expected, report.lost, report.jitter_ms_mean, round_trip, facts.ptime_ms)
    return leg


def rfc3339(unix: float) -> str:
    """Write a Unix time in UTC (RFC 3339)."""
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
