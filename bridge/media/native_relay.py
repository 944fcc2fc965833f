"""The relay in Rust: `Relay` over the extension `bridge._native`.

Its threads never take the GIL. Calls from here put a command into a worker's queue; only `open` (which binds
sockets) and `snapshot` (which waits for the worker, a quarter of a second at most) do work of their own.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.errors import RelayError
from bridge.media.relay import (
    LegMedia,
    LegName,
    LegReport,
    LegTotals,
    MediaSilent,
    MediaStarted,
    RelayEvent,
    RtcpReport,
    SessionClosed,
    SessionLabel,
    SessionOpened,
    SessionRefused,
    SessionReport,
)

if TYPE_CHECKING:
    from bridge._native import _LegReport, _SessionReport

try:
    from bridge import _native
except ImportError as error:
    raise RelayError(f"the Rust relay has not been built ({error}); run: make build") from error


def source_digest(crate: Path) -> str:
    """Digest the crate's sources as bridge/native/build.rs does: CRC-32 over the files in order of name."""
    files = [*(crate / "src").glob("*.rs"), crate / "Cargo.toml", crate / "build.rs"]
    digest = 0
    for file in sorted(files, key=lambda file: file.name):
        digest = zlib.crc32(file.read_bytes(), digest)
    return f"{digest:08x}"


def refuse_stale_build(crate: Path, built_from: str) -> None:
    """Raise RelayError if a checkout's Rust sources are not those that the extension was built from."""
    if crate.joinpath("build.rs").is_file() and source_digest(crate) != built_from:
        raise RelayError("the Rust relay is older than its sources in bridge/native; run: make build")


refuse_stale_build(Path(__file__).resolve().parent.parent / "native", _native.SOURCE_DIGEST)


class NativeRelay:
    """Relay media on threads of its own.

    ``address`` is the IPv4 or IPv6 address to bind, ``ports`` the inclusive range, ``workers`` the number of
    threads. ``wake_fd`` is an eventfd of the caller's, signalled once whenever events begin to wait. A used port
    pair rests for ``quarantine`` seconds.
    """

    def __init__(
        self, address: str, ports: tuple[int, int], workers: int, wake_fd: int, quarantine: float = 5.0
    ) -> None:
        try:
            self._native = _native.Relay(address, ports, workers, wake_fd, quarantine)
        except (OSError, ValueError, OverflowError) as error:
            raise RelayError(f"the media relay can't start: {error}") from error

    def open(self, session: int, label: SessionLabel) -> SessionOpened | SessionRefused:
        opened = self._native.open(session, label.carrier, label.platform)
        if isinstance(opened, str):
            return SessionRefused(session, opened)
        return SessionOpened(session, *opened)

    def update(self, session: int, leg: LegName, media: LegMedia) -> None:
        try:
            self._native.update(session, leg, media)
        except (ValueError, OverflowError, TypeError) as error:
            raise RelayError(f"media that can't be relayed: {error}") from error

    def relabel(self, session: int, label: SessionLabel) -> None:
        self._native.relabel(session, label.carrier, label.platform)

    def close(self, session: int) -> None:
        self._native.close(session)

    def tap(self, session: int, path: str | None) -> None:
        try:
            self._native.tap(session, path)
        except OSError as error:
            raise RelayError(f"the capture can't be written to {path}: {error}") from error

    def snapshot(self, session: int) -> SessionReport | None:
        report = self._native.snapshot(session)
        return None if report is None else _session_report(report)

    def events(self) -> Sequence[RelayEvent]:
        events: list[RelayEvent] = []
        for event in self._native.events():
            if event[0] == "started":
                _, session, leg, remote, at = event
                events.append(MediaStarted(session, LegName(leg), remote, at))
            elif event[0] == "silent":
                _, session, leg, at = event
                events.append(MediaSilent(session, LegName(leg), at))
            else:
                _, session, report = event
                events.append(SessionClosed(session, _session_report(report)))
        return events

    def totals(self) -> Mapping[SessionLabel, Mapping[LegName, LegTotals]]:
        return {
            SessionLabel(carrier, platform): {
                LegName.CARRIER: LegTotals(**carrier_leg),
                LegName.PLATFORM: LegTotals(**platform_leg),
            }
            for carrier, platform, carrier_leg, platform_leg in self._native.totals()
        }

    def ports(self) -> tuple[int, int]:
        return self._native.ports()

    def faults(self) -> tuple[int, int]:
        """Return (panics that ended a session, packets that captures had to leave out)."""
        return self._native.faults()

    def stop(self) -> None:
        self._native.stop()


def _session_report(report: _SessionReport) -> SessionReport:
    carrier, platform = report
    return SessionReport(_leg_report(carrier), _leg_report(platform))


def _leg_report(report: _LegReport) -> LegReport:
    rtcp = report["rtcp"]
    return LegReport(
        remote=report["remote"],
        received=report["received"],
        received_bytes=report["received_bytes"],
        expected=report["expected"],
        lost=report["lost"],
        duplicate=report["duplicate"],
        reordered=report["reordered"],
        jitter_ms_mean=report["jitter_ms_mean"],
        jitter_ms_max=report["jitter_ms_max"],
        sent=report["sent"],
        sent_bytes=report["sent_bytes"],
        filled=report["filled"],
        refused=report["refused"],
        rtcp_received=report["rtcp_received"],
        rtcp_sent=report["rtcp_sent"],
        rtcp=None if rtcp is None else RtcpReport(**rtcp),
        first_received_at=report["first_received_at"],
        last_received_at=report["last_received_at"],
        longest_gap_ms=report["longest_gap_ms"],
        longest_sent_gap_ms=report["longest_sent_gap_ms"],
    )
