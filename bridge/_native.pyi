"""The Rust extension's door. Only bridge/media/native_relay.py comes through it."""

from collections.abc import Mapping
from os import PathLike
from typing import Final, Literal, TypedDict, final

from bridge.media.relay import LegMedia

__all__ = ["SOURCE_DIGEST", "Relay"]

SOURCE_DIGEST: Final[str]

class _FarReport(TypedDict):
    fraction_lost: float
    cumulative_lost: int
    jitter_ms: float
    round_trip_ms: float | None

class _LegReport(TypedDict):
    remote: tuple[str, int] | None
    received: int
    received_bytes: int
    expected: int
    lost: int
    duplicate: int
    reordered: int
    jitter_ms_mean: float
    jitter_ms_max: float
    sent: int
    sent_bytes: int
    filled: int
    refused: Mapping[str, int]
    rtcp_received: int
    rtcp_sent: int
    rtcp: _FarReport | None
    first_received_at: float | None
    last_received_at: float | None
    longest_gap_ms: float
    longest_sent_gap_ms: float

class _LegTotals(TypedDict):
    received: int
    received_bytes: int
    expected: int
    lost: int
    sent: int
    sent_bytes: int
    filled: int
    refused: Mapping[str, int]

_SessionReport = tuple[_LegReport, _LegReport]
_Started = tuple[Literal["started"], int, str, tuple[str, int], float]
_Silent = tuple[Literal["silent"], int, str, float]
_Closed = tuple[Literal["closed"], int, _SessionReport]

@final
class Relay:
    def __new__(cls, address: str, ports: tuple[int, int], workers: int, wake_fd: int, quarantine: float) -> Relay: ...
    def open(self, session: int, carrier: str, platform: str) -> tuple[int, int] | str: ...
    def update(self, session: int, leg: str, media: LegMedia) -> None: ...
    def relabel(self, session: int, carrier: str, platform: str) -> None: ...
    def close(self, session: int) -> None: ...
    def tap(self, session: int, path: str | PathLike[str] | None) -> None: ...
    def snapshot(self, session: int) -> _SessionReport | None: ...
    def events(self) -> list[_Started | _Silent | _Closed]: ...
    def totals(self) -> list[tuple[str, str, _LegTotals, _LegTotals]]: ...
    def ports(self) -> tuple[int, int]: ...
    def faults(self) -> tuple[int, int]: ...
    def stop(self) -> None: ...
