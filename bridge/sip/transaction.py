"""The four transaction machines of RFC 3261 §17, as amended by RFC 6026 and RFC 4320, as tables.

A table maps ``(state, input)`` to a `Step`: the next state, what to do, which timers to start and to stop. A
transaction is the state and the figures that go with it; `bridge.sip.endpoint` performs the steps. Every state has a
row for whatever peer, user and transport can do in it, so what "can't happen" is a decision written down here, and a
test holds the tables to that.

Timers that repeat a message (A, E, G) do not run over a reliable transport, and the timers that only wait for stray
copies (D, I, J, K) are zero there. Entering TERMINATED stops every timer of the transaction.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable
from dataclasses import dataclass

from bridge.sip.events import Flow
from bridge.sip.message import Header, Request, Response
from bridge.sip.reliable import ReliableResponses
from bridge.sip.timers import TimerValues


class State(enum.Enum):
    __hash__ = object.__hash__  # members are the keys of tables on every step; Enum's own hash is written in Python

    CALLING = "calling"
    TRYING = "trying"
    PROCEEDING = "proceeding"
    COMPLETED = "completed"
    CONFIRMED = "confirmed"
    ACCEPTED = "accepted"  # RFC 6026
    TERMINATED = "terminated"


class Timer(enum.Enum):
    """The timers of RFC 3261 table 4 and of RFC 6026, by their letter."""

    __hash__ = object.__hash__

    A = "A"  # INVITE repeated
    B = "B"  # INVITE given up
    D = "D"  # repeats of a final non-2xx response awaited
    E = "E"  # request repeated
    F = "F"  # request given up; on the server side: the moment at which the client gives up
    G = "G"  # final non-2xx response repeated
    H = "H"  # ACK given up
    I = "I"  # noqa: E741  # repeats of the ACK awaited
    J = "J"  # repeats of the request awaited
    K = "K"  # repeats of the response awaited
    L = "L"  # RFC 6026: repeats of an accepted INVITE awaited
    M = "M"  # RFC 6026: repeats of a 2xx, and those of other branches, awaited
    CANCELLED = "cancelled"  # RFC 3261 §9.1: the final response to a cancelled INVITE given up
    REPEAT_2XX = "2xx"  # RFC 3261 §13.3.1.4
    ACK_2XX = "2xx-ack"
    REPEAT_1XX = "1xx"  # RFC 3262 §3: a reliable provisional response repeated
    PRACK = "1xx-prack"  # and given up


class Input(enum.Enum):
    """What moves a machine: the timers, the peer, the transaction user and the transport."""

    __hash__ = object.__hash__

    PROVISIONAL = "1xx"  # from the peer, or from the user on the server side
    SUCCESS = "2xx"
    FAILURE = "300-699"
    REQUEST = "request"  # the request again
    ACK = "ACK"
    TRANSPORT_ERROR = "transport error"
    TIMER_A = "timer A"
    TIMER_B = "timer B"
    TIMER_D = "timer D"
    TIMER_E = "timer E"
    TIMER_F = "timer F"
    TIMER_G = "timer G"
    TIMER_H = "timer H"
    TIMER_I = "timer I"
    TIMER_J = "timer J"
    TIMER_K = "timer K"
    TIMER_L = "timer L"
    TIMER_M = "timer M"


class Do(enum.Enum):
    SEND = "send"  # the user's response
    REPEAT = "repeat"  # send again what was sent last
    ACKNOWLEDGE = "acknowledge"  # send the ACK for a non-2xx, the first time or again
    TELL = "tell"  # the user hears of the message
    TIMED_OUT = "timed out"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Step:
    """Say what an input does in a state."""

    state: State
    do: tuple[Do, ...] = ()
    start: tuple[Timer, ...] = ()
    stop: tuple[Timer, ...] = ()


Table = dict[tuple[State, Input], Step]

# -- RFC 3261 §17.1.1, figure 5, as amended by RFC 6026 §8.4 -----------------------------------------------------------
# Begins in CALLING with the INVITE sent and timers A and B started.
INVITE_CLIENT: Table = {
    (State.CALLING, Input.TIMER_A): Step(State.CALLING, (Do.REPEAT,), start=(Timer.A,)),
    (State.CALLING, Input.TIMER_B): Step(State.TERMINATED, (Do.TIMED_OUT,)),
    (State.CALLING, Input.TRANSPORT_ERROR): Step(State.TERMINATED, (Do.FAILED,)),
    (State.CALLING, Input.PROVISIONAL): Step(State.PROCEEDING, (Do.TELL,), stop=(Timer.A, Timer.B)),
    (State.CALLING, Input.SUCCESS): Step(State.ACCEPTED, (Do.TELL,), (Timer.M,), (Timer.A, Timer.B)),
    (State.CALLING, Input.FAILURE): Step(State.COMPLETED, (Do.ACKNOWLEDGE, Do.TELL), (Timer.D,), (Timer.A, Timer.B)),
    (State.PROCEEDING, Input.PROVISIONAL): Step(State.PROCEEDING, (Do.TELL,)),
    (State.PROCEEDING, Input.SUCCESS): Step(State.ACCEPTED, (Do.TELL,), (Timer.M,)),
    (State.PROCEEDING, Input.FAILURE): Step(State.COMPLETED, (Do.ACKNOWLEDGE, Do.TELL), (Timer.D,)),
    # No arrow in the figure; but a peer that is gone while it rings would keep the caller until the ring deadline.
    (State.PROCEEDING, Input.TRANSPORT_ERROR): Step(State.TERMINATED, (Do.FAILED,)),
    (State.COMPLETED, Input.FAILURE): Step(State.COMPLETED, (Do.ACKNOWLEDGE,)),  # R03: one ACK for each repeat
    (State.COMPLETED, Input.PROVISIONAL): Step(State.COMPLETED),
    (State.COMPLETED, Input.SUCCESS): Step(State.COMPLETED),
    (State.COMPLETED, Input.TIMER_D): Step(State.TERMINATED),
    # The figure gives up here; but the user has its answer, and the peer's repeats still want their ACK.
    (State.COMPLETED, Input.TRANSPORT_ERROR): Step(State.COMPLETED),
    (State.ACCEPTED, Input.SUCCESS): Step(State.ACCEPTED, (Do.TELL,)),  # R06: the user acknowledges each
    (State.ACCEPTED, Input.PROVISIONAL): Step(State.ACCEPTED),
    (State.ACCEPTED, Input.FAILURE): Step(State.ACCEPTED),
    (State.ACCEPTED, Input.TIMER_M): Step(State.TERMINATED),
    (State.ACCEPTED, Input.TRANSPORT_ERROR): Step(State.ACCEPTED),
}

# -- RFC 3261 §17.1.2, figure 6 --------------------------------------------------------------------------------------
# Begins in TRYING with the request sent and timers E and F started.
NON_INVITE_CLIENT: Table = {
    (State.TRYING, Input.TIMER_E): Step(State.TRYING, (Do.REPEAT,), start=(Timer.E,)),
    (State.TRYING, Input.TIMER_F): Step(State.TERMINATED, (Do.TIMED_OUT,)),
    (State.TRYING, Input.TRANSPORT_ERROR): Step(State.TERMINATED, (Do.FAILED,)),
    (State.TRYING, Input.PROVISIONAL): Step(State.PROCEEDING, (Do.TELL,)),
    (State.TRYING, Input.SUCCESS): Step(State.COMPLETED, (Do.TELL,), (Timer.K,), (Timer.E, Timer.F)),
    (State.TRYING, Input.FAILURE): Step(State.COMPLETED, (Do.TELL,), (Timer.K,), (Timer.E, Timer.F)),
    (State.PROCEEDING, Input.TIMER_E): Step(State.PROCEEDING, (Do.REPEAT,), start=(Timer.E,)),
    (State.PROCEEDING, Input.TIMER_F): Step(State.TERMINATED, (Do.TIMED_OUT,)),
    (State.PROCEEDING, Input.TRANSPORT_ERROR): Step(State.TERMINATED, (Do.FAILED,)),
    (State.PROCEEDING, Input.PROVISIONAL): Step(State.PROCEEDING, (Do.TELL,)),
    (State.PROCEEDING, Input.SUCCESS): Step(State.COMPLETED, (Do.TELL,), (Timer.K,), (Timer.E, Timer.F)),
    (State.PROCEEDING, Input.FAILURE): Step(State.COMPLETED, (Do.TELL,), (Timer.K,), (Timer.E, Timer.F)),
    (State.COMPLETED, Input.PROVISIONAL): Step(State.COMPLETED),
    (State.COMPLETED, Input.SUCCESS): Step(State.COMPLETED),
    (State.COMPLETED, Input.FAILURE): Step(State.COMPLETED),
    (State.COMPLETED, Input.TIMER_K): Step(State.TERMINATED),
    (State.COMPLETED, Input.TRANSPORT_ERROR): Step(State.COMPLETED),
}

# -- RFC 3261 §17.2.1, figure 7, as amended by RFC 6026 §8.5 -----------------------------------------------------------
# Begins in PROCEEDING; the user sends the 100 itself. R22 (RFC 6026 §8.6): a transport error changes nothing.
INVITE_SERVER: Table = {
    (State.PROCEEDING, Input.REQUEST): Step(State.PROCEEDING, (Do.REPEAT,)),
    (State.PROCEEDING, Input.PROVISIONAL): Step(State.PROCEEDING, (Do.SEND,)),
    (State.PROCEEDING, Input.SUCCESS): Step(State.ACCEPTED, (Do.SEND,), (Timer.L,)),
    (State.PROCEEDING, Input.FAILURE): Step(State.COMPLETED, (Do.SEND,), (Timer.G, Timer.H)),
    (State.PROCEEDING, Input.ACK): Step(State.PROCEEDING),
    (State.PROCEEDING, Input.TRANSPORT_ERROR): Step(State.PROCEEDING),
    (State.COMPLETED, Input.REQUEST): Step(State.COMPLETED, (Do.REPEAT,)),
    (State.COMPLETED, Input.TIMER_G): Step(State.COMPLETED, (Do.REPEAT,), start=(Timer.G,)),
    (State.COMPLETED, Input.TIMER_H): Step(State.TERMINATED),
    (State.COMPLETED, Input.ACK): Step(State.CONFIRMED, (), (Timer.I,), (Timer.G, Timer.H)),
    (State.COMPLETED, Input.PROVISIONAL): Step(State.COMPLETED),
    (State.COMPLETED, Input.SUCCESS): Step(State.COMPLETED),
    (State.COMPLETED, Input.FAILURE): Step(State.COMPLETED),
    (State.COMPLETED, Input.TRANSPORT_ERROR): Step(State.COMPLETED),
    (State.CONFIRMED, Input.REQUEST): Step(State.CONFIRMED),
    (State.CONFIRMED, Input.ACK): Step(State.CONFIRMED),
    (State.CONFIRMED, Input.TIMER_I): Step(State.TERMINATED),
    (State.CONFIRMED, Input.PROVISIONAL): Step(State.CONFIRMED),
    (State.CONFIRMED, Input.SUCCESS): Step(State.CONFIRMED),
    (State.CONFIRMED, Input.FAILURE): Step(State.CONFIRMED),
    (State.CONFIRMED, Input.TRANSPORT_ERROR): Step(State.CONFIRMED),
    (State.ACCEPTED, Input.REQUEST): Step(State.ACCEPTED),  # absorbed: the 2xx is repeated by its own timer
    (State.ACCEPTED, Input.ACK): Step(State.ACCEPTED, (Do.TELL,)),
    (State.ACCEPTED, Input.TIMER_L): Step(State.TERMINATED),
    (State.ACCEPTED, Input.PROVISIONAL): Step(State.ACCEPTED),
    (State.ACCEPTED, Input.SUCCESS): Step(State.ACCEPTED),
    (State.ACCEPTED, Input.FAILURE): Step(State.ACCEPTED),
    (State.ACCEPTED, Input.TRANSPORT_ERROR): Step(State.ACCEPTED),
}

# -- RFC 3261 §17.2.2, figure 8 --------------------------------------------------------------------------------------
# Begins in TRYING with timer F started: RFC 4320 §4.2 forbids a late 408, so an unanswered request just ends there.
NON_INVITE_SERVER: Table = {
    (State.TRYING, Input.REQUEST): Step(State.TRYING),
    (State.TRYING, Input.PROVISIONAL): Step(State.PROCEEDING, (Do.SEND,)),
    (State.TRYING, Input.SUCCESS): Step(State.COMPLETED, (Do.SEND,), (Timer.J,), (Timer.F,)),
    (State.TRYING, Input.FAILURE): Step(State.COMPLETED, (Do.SEND,), (Timer.J,), (Timer.F,)),
    (State.TRYING, Input.TIMER_F): Step(State.TERMINATED),
    (State.TRYING, Input.TRANSPORT_ERROR): Step(State.TRYING),
    (State.PROCEEDING, Input.REQUEST): Step(State.PROCEEDING, (Do.REPEAT,)),
    (State.PROCEEDING, Input.PROVISIONAL): Step(State.PROCEEDING, (Do.SEND,)),
    (State.PROCEEDING, Input.SUCCESS): Step(State.COMPLETED, (Do.SEND,), (Timer.J,), (Timer.F,)),
    (State.PROCEEDING, Input.FAILURE): Step(State.COMPLETED, (Do.SEND,), (Timer.J,), (Timer.F,)),
    (State.PROCEEDING, Input.TIMER_F): Step(State.TERMINATED),
    (State.PROCEEDING, Input.TRANSPORT_ERROR): Step(State.PROCEEDING),
    (State.COMPLETED, Input.REQUEST): Step(State.COMPLETED, (Do.REPEAT,)),
    (State.COMPLETED, Input.TIMER_J): Step(State.TERMINATED),
    (State.COMPLETED, Input.PROVISIONAL): Step(State.COMPLETED),
    (State.COMPLETED, Input.SUCCESS): Step(State.COMPLETED),
    (State.COMPLETED, Input.FAILURE): Step(State.COMPLETED),
    (State.COMPLETED, Input.TRANSPORT_ERROR): Step(State.COMPLETED),
}

TIMER_INPUTS = {timer: Input(f"timer {timer.value}") for timer in Timer if len(timer.value) == 1}
_INVITE_CLIENT_TIMERS = (Timer.A, Timer.B, Timer.D, Timer.M, Timer.CANCELLED)
_NON_INVITE_CLIENT_TIMERS = (Timer.E, Timer.F, Timer.K)
_INVITE_SERVER_TIMERS = (
    *(Timer.G, Timer.H, Timer.I, Timer.L),
    *(Timer.REPEAT_2XX, Timer.ACK_2XX, Timer.REPEAT_1XX, Timer.PRACK),
)
_NON_INVITE_SERVER_TIMERS = (Timer.F, Timer.J)


class Transaction:
    """What clients and servers share: the machine's state, and the delays of its timers."""

    __slots__ = ("_interval", "_table", "_timers", "flow", "last_sent", "owner", "reliable", "request", "state")

    def __init__(self, table: Table, state: State, request: Request, flow: Flow, timers: TimerValues) -> None:
        self.request = request
        self.flow = flow
        self.state = state
        self.owner: object = None  # for the transaction user
        self.reliable = flow.transport != "udp"
        self.last_sent: bytes | None = None  # what REPEAT sends
        self._table = table
        self._timers = timers
        self._interval = 0.0

    @property
    def is_invite(self) -> bool:
        return self.request.method == "INVITE"

    def step(self, what: Input) -> Step:
        """Move by an input and return what is to be done. Raises KeyError for an input the machine doesn't know."""
        step = self._table[(self.state, what)]
        if step.state is not self.state:
            self.state = step.state
        return step

    def delay(self, timer: Timer) -> float | None:
        """Return after how many seconds a timer that starts now fires, None: it doesn't run over this transport."""
        values = self._timers
        match timer:
            case Timer.A | Timer.E | Timer.G:
                return None if self.reliable else self._next_interval(timer)
            case Timer.I | Timer.K:
                return 0.0 if self.reliable else values.t4
            case Timer.D | Timer.J:
                return 0.0 if self.reliable else values.timeout
            case _:
                return values.timeout

    def _next_interval(self, timer: Timer) -> float:
        values = self._timers
        if timer is Timer.E and self.state is State.PROCEEDING:
            self._interval = values.t2  # RFC 3261 §17.1.2.2
        elif not self._interval:
            self._interval = values.t1
        else:
            self._interval *= 2
            if timer is not Timer.A:  # RFC 3261 §17.1.1.2 knows no T2
                self._interval = min(self._interval, values.t2)
        return self._interval


class ClientTransaction(Transaction):
    """A request of ours and the responses to it. ``final`` is its final response, ``provisional``: a 1xx has come."""

    __slots__ = (
        "ack",
        "acks",
        "cancel_pending",
        "cancel_sent",
        "cancelled",
        "datagrams",
        "final",
        "provisional",
        "sent_again",
    )

    def __init__(self, request: Request, flow: Flow, timers: TimerValues) -> None:
        invite = request.method == "INVITE"
        super().__init__(
            INVITE_CLIENT if invite else NON_INVITE_CLIENT,
            State.CALLING if invite else State.TRYING,
            request,
            flow,
            timers,
        )
        self.final: Response | None = None
        self.provisional = False
        self.sent_again = False  # over a new connection, after the first one was lost
        self.datagrams: Flow | None = None  # the UDP flow that was meant for a request too large for it (R13)
        self.ack: bytes | None = None  # for a non-2xx
        self.acks: dict[str | None, bytes] = {}  # for 2xx, by To tag
        self.cancel_pending: tuple[Header, ...] | None = None  # of a CANCEL that waits for a 1xx (R07)
        self.cancel_sent = False
        self.cancelled: ClientTransaction | None = None  # a CANCEL's: the INVITE it cancels

    @property
    def unanswered(self) -> bool:
        """Whether sending the request again may help: no answer has come, for an INVITE not even a provisional one."""
        return self.state in (State.CALLING, State.TRYING) or (self.state is State.PROCEEDING and not self.is_invite)

    def move(self, request: Request, flow: Flow) -> None:
        """Go on over another flow, with the same request under a Via that fits."""
        self.request, self.flow = request, flow
        self.reliable = flow.transport != "udp"
        self.last_sent = request.encode()

    @property
    def own_timers(self) -> tuple[Timer, ...]:
        """The timers that may be running."""
        return _INVITE_CLIENT_TIMERS if self.is_invite else _NON_INVITE_CLIENT_TIMERS


class ServerTransaction(Transaction):
    """A request of the peer's and our responses to it. ``final`` is the status of the final one."""

    __slots__ = (
        "ack_key",
        "acknowledged",
        "destination",
        "final",
        "key",
        "last_response",
        "merge_key",
        "prack_key",
        "provisionals",
        "repeat_interval",
        "started_at",
    )

    def __init__(
        self, request: Request, key: Hashable, flow: Flow, destination: Flow, timers: TimerValues, now: float
    ) -> None:
        invite = request.method == "INVITE"
        super().__init__(
            INVITE_SERVER if invite else NON_INVITE_SERVER,
            State.PROCEEDING if invite else State.TRYING,
            request,
            flow,
            timers,
        )
        self.key = key  # what its requests have in common (RFC 3261 §17.2.3),
        self.merge_key: Hashable = None  # a copy that came over another path (§8.2.2.2),
        self.ack_key: Hashable = None  # and its 2xx and the ACK for that (§13.3.1.4)
        self.prack_key: Hashable = None  # and its reliable provisional responses and their PRACKs (RFC 3262 §3)
        self.provisionals: ReliableResponses | None = None
        self.destination = destination  # where responses go (RFC 3261 §18.2.2, RFC 3581 §4)
        self.final: int | None = None
        self.last_response: Response | None = None
        self.started_at = now
        self.acknowledged = False  # the ACK for a 2xx has come, or is given up
        self.repeat_interval = timers.t1  # of the 2xx

    @property
    def own_timers(self) -> tuple[Timer, ...]:
        """The timers that may be running."""
        return _INVITE_SERVER_TIMERS if self.is_invite else _NON_INVITE_SERVER_TIMERS
