"""The reliable provisional responses to one INVITE, one on its way at a time (RFC 3262 §3).

| situation                    | next response | its 2xx                       | its 3xx–6xx | PRACK           |
| ---------------------------- | ------------- | ----------------------------- | ----------- | --------------- |
| nothing is out               | goes out      | goes out                      | goes out    | matches nothing |
| one is out, its PRACK is due | waits         | waits if one of them has SDP  | goes out    | lets it go on   |
| a final response is out      | is dropped    |                               |             | still matches   |
| 64*T1 without a PRACK        | is dropped    | is dropped: the user says 5xx | goes out    | matches nothing |

Repeats go out after T1, 2*T1, 4*T1 … over every transport, as those of a 2xx do: the loss may be anywhere on the way.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from bridge.sip.message import Response

FIRST_RSEQ = (1 << 31) - 1
"""The largest RSeq to begin with: 2^31 more fit before the number would wrap, which it must not (RFC 3262 §3)."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """A response with its RSeq, and its octets."""

    rseq: int
    response: Response
    data: bytes


class ReliableResponses:
    """Number the responses and keep those that wait. ``outstanding`` is the one whose PRACK is due."""

    __slots__ = ("_queue", "_rseq", "interval", "outstanding", "success")

    def __init__(self, first_rseq: int) -> None:
        self.outstanding: Numbered | None = None
        self.success: Response | None = None  # a 2xx that waits
        self.interval = 0.0  # until the next repeat
        self._rseq = first_rseq
        self._queue: deque[Numbered] = deque()

    @property
    def hold_success(self) -> bool:
        """Whether a 2xx has to wait: an offer or answer is in what has no PRACK yet."""
        waiting = self._queue if self.outstanding is None else (self.outstanding, *self._queue)
        return any(numbered.response.body for numbered in waiting)

    def add(self, response: Response) -> None:
        """Queue a response: give it ``Require: 100rel`` and its RSeq. Raises ValueError if it can't be printed."""
        response.headers.add("Require", "100rel")
        response.headers.add("RSeq", str(self._rseq))
        self._queue.append(Numbered(self._rseq, response, response.encode()))
        self._rseq += 1

    def next(self) -> Numbered | None:
        """Return the response to send now, which is then outstanding; None while one is, or without any."""
        if self.outstanding is not None or not self._queue:
            return None
        self.outstanding = self._queue.popleft()
        return self.outstanding

    def acknowledge(self, rseq: int) -> bool:
        """Take a PRACK for the outstanding response; False if it is for another."""
        if self.outstanding is None or self.outstanding.rseq != rseq:
            return False
        self.outstanding = None
        return True

    def close(self) -> None:
        """Drop what has not gone out: a final response has, or is all that is left to say."""
        self._queue.clear()
        self.success = None
