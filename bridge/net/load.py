"""See by how much the bridge is behind, before its peers do: datagrams that wait, and a reactor that is late."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from bridge.sip.overload import HOPELESS, TOLERATED, refused_share

LOOK_EVERY = 0.05
CALM_FOR = 1.0
"""Seconds without arrears after which the log says that overload is over."""


class Load:
    """Tell at every look by how many seconds we are behind."""

    log = Logger()

    def __init__(self, clock: IReactorTime, waited: Callable[[], float], tell: Callable[[float], None]) -> None:
        """``waited`` returns how long the datagram that was read last had waited, 0 where none is left."""
        self._clock = clock
        self._waited = waited
        self._tell = tell
        self._seen = 0.0
        self._begun_at: float | None = None  # of the overload that goes on
        self._worst = 0.0
        self._behind_at = 0.0
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        self._call = self._clock.callLater(LOOK_EVERY, self._look, self._clock.seconds() + LOOK_EVERY)

    def stop(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _look(self, due: float) -> None:
        now = self._clock.seconds()
        seen = max(now - due, self._waited())
        # One stall is none of the peers' concern: what waited is done a moment later. Two looks in a row are.
        arrears, self._seen = min(seen, self._seen), seen
        self._tell(arrears)
        self._log(arrears, now)
        self.start()

    def _log(self, arrears: float, now: float) -> None:
        if arrears > TOLERATED:
            if self._begun_at is None:
                self._begun_at, self._worst = now, 0.0
                self.log.warn(
                    "overload: {late_ms} ms behind; {what}",
                    late_ms=round(arrears * 1000),
                    what="new requests are dropped"
                    if arrears >= HOPELESS
                    else f"{refused_share(arrears):.0%} of new calls get 503, more if that is not enough",
                )
            self._behind_at, self._worst = now, max(self._worst, arrears)
        elif self._begun_at is not None and now - self._behind_at >= CALM_FOR:
            self.log.info(
                "overload is over after {seconds} s, {late_ms} ms behind at worst: all calls are taken again",
                seconds=round(self._behind_at - self._begun_at, 1),
                late_ms=round(self._worst * 1000),
            )
            self._begun_at = None
