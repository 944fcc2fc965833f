"""How a next hop is known to live: OPTIONS of ours where its profile wants them (R55), and what calls meet (D21).

`TABLE` maps ``(state, input)`` to the next state. A hop that missed one probe is asked again soon, so that it is down
within two intervals and a few seconds, and one that lost a datagram is not. A suspect hop comes after all others when a
call looks for a target; it is believed again once it has said anything, or after `FORGIVEN_AFTER`.
"""

from __future__ import annotations

import enum

ANSWER_WITHIN = 8.0  # seconds for the answer to an OPTIONS: five sendings over UDP
FORGIVEN_AFTER = 30.0  # seconds after which a call may try a suspect hop first again
_SOONER = 1 / 3  # of the interval: when a missed probe is repeated
_JITTER = 0.1  # of the interval, either way


class State(enum.Enum):
    __hash__ = object.__hash__

    UNKNOWN = "unknown"
    UP = "up"
    SUSPECT = "suspect"
    DOWN = "down"
    RECOVERING = "recovering"  # down, and one answer has come


class Input(enum.Enum):
    __hash__ = object.__hash__

    ANSWER = "answer"  # to a probe
    HEARD = "heard"  # any response to a request of a call
    MISS = "miss"  # no answer to a probe
    FAILURE = "failure"  # a call got no response at all, or could not be sent
    FORGIVE = "forgive"


TABLE: dict[tuple[State, Input], State] = {
    (State.UNKNOWN, Input.ANSWER): State.UP,
    (State.UNKNOWN, Input.HEARD): State.UP,
    (State.UNKNOWN, Input.MISS): State.SUSPECT,
    (State.UNKNOWN, Input.FAILURE): State.SUSPECT,
    (State.UNKNOWN, Input.FORGIVE): State.UNKNOWN,
    (State.UP, Input.ANSWER): State.UP,
    (State.UP, Input.HEARD): State.UP,
    (State.UP, Input.MISS): State.SUSPECT,
    (State.UP, Input.FAILURE): State.SUSPECT,
    (State.UP, Input.FORGIVE): State.UP,
    (State.SUSPECT, Input.ANSWER): State.UP,
    (State.SUSPECT, Input.HEARD): State.UP,
    (State.SUSPECT, Input.MISS): State.DOWN,
    (State.SUSPECT, Input.FAILURE): State.SUSPECT,
    (State.SUSPECT, Input.FORGIVE): State.UNKNOWN,
    (State.DOWN, Input.ANSWER): State.RECOVERING,
    (State.DOWN, Input.HEARD): State.UP,  # a call that tried it for want of another
    (State.DOWN, Input.MISS): State.DOWN,
    (State.DOWN, Input.FAILURE): State.DOWN,
    (State.DOWN, Input.FORGIVE): State.DOWN,
    (State.RECOVERING, Input.ANSWER): State.UP,
    (State.RECOVERING, Input.HEARD): State.UP,
    (State.RECOVERING, Input.MISS): State.DOWN,
    (State.RECOVERING, Input.FAILURE): State.DOWN,
    (State.RECOVERING, Input.FORGIVE): State.RECOVERING,
}


class Health:
    """Keep what is known of one hop. ``interval``: seconds between two probes, None: it is never probed."""

    def __init__(self, interval: float | None, now: float, jitter: float) -> None:
        """``jitter`` and every other one here is a random share from 0 to 1."""
        self.state = State.UNKNOWN
        self.since = now
        self.answered_at: float | None = None  # when it last said anything
        self.probe_at: float | None = None  # when the next probe is due
        self.answer_by: float | None = None  # when the probe that is out counts as missed
        self._interval = interval
        self._suspect_at = now
        if interval is not None:
            self.probe_at = now + min(interval, 2.0) * jitter

    @property
    def due_at(self) -> float | None:
        """When `handle_timeout` wants to be called."""
        return self.answer_by if self.answer_by is not None else self.probe_at

    def answered(self, now: float, jitter: float) -> None:
        """Take the answer to a probe, whatever it says."""
        self.answered_at = now
        if self.answer_by is not None:
            self.answer_by = None
            self._plan(now, 1.0, jitter)
        self._input(Input.ANSWER, now)

    def heard(self, now: float) -> None:
        """Take note of any response to a call."""
        self.answered_at = now
        if self.state is not State.UP:
            self._input(Input.HEARD, now)

    def failed(self, now: float) -> None:
        """Take note of a call that got no response here: it is a suspect at once, and asked at once."""
        self._suspect_at = now
        self._input(Input.FAILURE, now)
        if self.probe_at is not None and self.answer_by is None:
            self.probe_at = now

    def handle_timeout(self, now: float, jitter: float) -> bool:
        """Count a probe as missed that had no answer in time; tell whether one is to be sent now."""
        if self.answer_by is not None:
            if self.answer_by > now:
                return False
            self.missed(now, jitter)
        if self.probe_at is None or self.probe_at > now:
            return False
        self.answer_by = now + ANSWER_WITHIN
        return True

    def missed(self, now: float, jitter: float) -> None:
        """Take a probe as lost: it can't be sent, or nothing came back."""
        if self.answer_by is None:
            return
        self.answer_by = None
        self._suspect_at = now
        was = self.state
        self._input(Input.MISS, now)
        certain = was is State.DOWN or self.state is State.DOWN
        self._plan(now, 1.0 if certain else _SOONER, jitter)

    def is_well(self, now: float) -> bool:
        """Whether a call may come here as long as others are well."""
        if self.state is State.SUSPECT and self._interval is None and now >= self._suspect_at + FORGIVEN_AFTER:
            self._input(Input.FORGIVE, now)
        return self.state in (State.UNKNOWN, State.UP)

    def _plan(self, now: float, share: float, jitter: float) -> None:
        if self._interval is not None:
            self.probe_at = now + self._interval * share * (1 - _JITTER + 2 * _JITTER * jitter)

    def _input(self, what: Input, now: float) -> None:
        state = TABLE[self.state, what]
        if state is not self.state:
            self.state, self.since = state, now
