"""See when the bridge falls behind, before its peers do: datagrams that wait, and a reactor that is late."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from bridge.sip.overload import Pressure

LOOK_EVERY = 0.1
CALM_FOR = 1.0
"""Seconds without either sign, after which new calls are taken again."""
LATE = {Pressure.HIGH: 0.25, Pressure.EXTREME: 2.0}
"""Seconds by which a timer of ours fires late."""
QUEUED = {Pressure.HIGH: 1024 * 1024, Pressure.EXTREME: 4 * 1024 * 1024}
"""Bytes that wait in a socket as the kernel counts them: about two thousand for each message, of 8 MiB in all."""


class Load:
    """Tell of every change of pressure."""

    log = Logger()

    def __init__(self, clock: IReactorTime, queued: Callable[[], int], tell: Callable[[Pressure], None]) -> None:
        """``queued`` returns how many bytes wait in the fullest socket."""
        self._clock = clock
        self._queued = queued
        self._tell = tell
        self._pressure = Pressure.NONE
        self._seen = Pressure.NONE
        self._calm_since = 0.0
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        self._call = self._clock.callLater(LOOK_EVERY, self._look, self._clock.seconds() + LOOK_EVERY)

    def stop(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _look(self, due: float) -> None:
        now = self._clock.seconds()
        late, queued = now - due, self._queued()
        seen = max(
            (one for one in (Pressure.HIGH, Pressure.EXTREME) if late >= LATE[one] or queued >= QUEUED[one]),
            default=Pressure.NONE,
        )
        # One stall is none of the peers' concern: what waited is done a moment later. Two looks in a row are.
        lasting, self._seen = min(seen, self._seen), seen
        if seen > Pressure.NONE:
            self._calm_since = now
        if lasting > self._pressure or now - self._calm_since >= CALM_FOR:
            self._change(lasting, late, queued)
        self.start()

    def _change(self, seen: Pressure, late: float, queued: int) -> None:
        if seen is self._pressure:
            return
        if seen is Pressure.NONE:
            self.log.info("overload is over: calls are taken again")
        else:
            self.log.warn(
                "overload: {late_ms} ms late, {queued} bytes wait; {what}",
                late_ms=round(late * 1000),
                queued=queued,
                what="new calls get 503" if seen is Pressure.HIGH else "new requests are dropped",
            )
        self._pressure = seen
        self._tell(seen)
