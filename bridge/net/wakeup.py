"""Wake the reactor from threads that know nothing of Python: one eventfd, read when it is signalled."""

from __future__ import annotations

import os
from collections.abc import Callable

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IReadDescriptor)
class Wakeup:
    """Call back on the reactor whenever the eventfd was signalled, once for any number of signals."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._reactor: IReactorFDSet | None = None
        self._woke: Callable[[], None] | None = None

    def start(self, reactor: IReactorFDSet, woke: Callable[[], None]) -> None:
        """Call ``woke`` on the reactor from now on; a signal given earlier counts."""
        self._reactor = reactor
        self._woke = woke
        reactor.addReader(self)

    def stop(self) -> None:
        """Close the descriptor; whoever signals it must have ended."""
        if self._reactor is not None:
            self._reactor.removeReader(self)
            self._reactor = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def fileno(self) -> int:
        return self._descriptor

    def doRead(self) -> None:
        # Emptied before the callback: a signal that comes meanwhile wakes the reactor again.
        try:
            os.eventfd_read(self._descriptor)
        except BlockingIOError:
            return
        if self._woke is not None:
            self._woke()

    def connectionLost(self, reason: Failure) -> None:
        self.stop()

    def logPrefix(self) -> str:
        return "wakeup"
