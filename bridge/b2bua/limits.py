"""How many calls, how many a second and how many minutes a day: of each peer, of each direction, of the node.

A call *enters* (the node and its caller have room), *dials* one target after the other, and *ends*; what it holds in
between is counted as it comes and goes, so that nothing is ever added up. Nothing here is SIP: a limit that is
reached is returned by its name, the label of ``limit_rejections_total``.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.b2bua.actions import Trace
from bridge.b2bua.record import CallRecord
from bridge.config import Config, Peer

DIRECTIONS = ("inbound", "outbound")
_DAY = 86_400


Turn = Callable[[float], None]
"""What a call does when it has waited long enough."""


class Pace:
    """Let no more than ``rate`` calls through in any second (below one: no two within 1 / ``rate`` seconds).

    A token bucket would let twice the rate pass within one second once it has filled, which carriers refuse (D13).
    """

    def __init__(self, rate: float) -> None:
        self._size = max(1, int(rate)) if rate else 0
        self._window = self._size / rate if rate else 0.0
        self._passed: deque[float] = deque(maxlen=self._size)

    def room_at(self, now: float, ahead: int = 0) -> float:
        """Return when one more may pass, with ``ahead`` others before it; ``now`` or earlier: at once."""
        if not self._size or len(self._passed) + ahead < self._size:
            return now
        position = len(self._passed) + ahead - self._size  # whose passing makes the room
        rounds, index = divmod(position, self._size)
        if index < len(self._passed):
            return self._passed[index] + self._window * (rounds + 1)
        return now + self._window * (rounds + 1)  # one of those ahead, who pass now

    def take(self, now: float) -> None:
        if self._size:
            self._passed.append(now)

    def in_last_second(self, now: float) -> int:
        return sum(1 for at in self._passed if at > now - 1.0)


class Ceiling:
    """Count calls by direction under a common maximum, of which shares are kept for a direction (F18)."""

    def __init__(self, maximum: int, reserve: Mapping[str, int]) -> None:
        self.maximum = maximum
        self.used: Counter[str] = Counter()
        self.total = 0
        self._reserve = reserve

    def has_room(self, direction: str) -> bool:
        """Tell whether one more call fits beside what is kept for the other directions."""
        if not self.maximum:
            return True
        kept = sum(max(0, share - self.used[other]) for other, share in self._reserve.items() if other != direction)
        return self.total + kept < self.maximum

    def add(self, direction: str, count: int) -> None:
        self.used[direction] += count
        self.total += count


class Minutes:
    """Add up the minutes of answered calls of the present day, of those still going on too (T09)."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum * 60.0
        self._day = 0
        self._spent = 0.0  # seconds of calls that have ended today
        self._talking = 0
        self._began = 0.0  # the sum of their beginnings

    def spent(self, now: float) -> float:
        """Return the seconds of this day; ``now`` is Unix time, whose days begin at midnight UTC."""
        day, since = divmod(now, _DAY)
        if int(day) != self._day:  # those who talk over midnight begin anew
            self._day, self._spent, self._began = int(day), 0.0, self._talking * (now - since)
        return self._spent + self._talking * now - self._began

    def left(self, now: float) -> bool:
        return not self._maximum or self.spent(now) < self._maximum

    def answered(self, now: float) -> None:
        self.spent(now)
        self._talking += 1
        self._began += now

    def ended(self, answered_at: float, now: float) -> None:
        self.spent(now)
        began = max(answered_at, self._day * float(_DAY))
        self._talking -= 1
        self._began -= began
        self._spent += now - began

    def exhausted_at(self, now: float) -> float | None:
        """Return when the minutes are gone if everybody talks on; None: never."""
        if not self._maximum or not self._talking:
            return None
        return now + max(0.0, self._maximum - self.spent(now)) / self._talking


def limit_reached(limit: str, record: CallRecord, peer: Peer, now: float) -> Trace:
    """Say that a limit, or a rule, of ``peer`` has refused a call: for ``limit_rejections_total`` and the log (T09)."""
    parties = {"carrier": record.carrier, "platform": record.platform} | {peer.kind: peer.name}
    return Trace("limit", now, call=record.id, text=limit, details=parties)


class Room:
    """What one peer may carry and carries."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.calls = Ceiling(peer.max_calls, peer.reserve)
        self.toward = Pace(peer.cps)
        self.taken = Pace(peer.cps_from)
        self.minutes = Minutes(peer.max_minutes_a_day)
        self.waiting: deque[tuple[str, Turn]] = deque()  # calls that wait for `toward`, in order


class Dial(enum.Enum):
    """What becomes of the wish to dial a target, where no limit is in the way for good."""

    NOW = "now"
    LATER = "later"  # the calls a second are used up: `Limits.wait` keeps a place


@dataclass(slots=True)
class _Held:
    """What one call holds: a place in the node, one at each peer, its minutes, its place in a queue."""

    direction: str
    peers: list[str] = field(default_factory=list)  # a peer with two legs of the call is there twice
    answered: dict[str, list[float]] = field(default_factory=dict)  # peer → since when the minutes of its legs count
    waits_for: str = ""


class Limits:
    """Keep every limit of the configuration. ``wall_offset`` is Unix time minus the monotonic time of ``now``.

    ``wake`` is told when `turn` and `exhausted` want to be asked again.
    """

    def __init__(self, config: Config, wall_offset: float, wake: Callable[[float], None]) -> None:
        self._node = Ceiling(config.limits.max_calls, config.limits.reserve)
        self._pace = Pace(config.limits.cps)
        self._rooms = {peer.name: Room(peer) for peer in (*config.carriers.values(), *config.platforms.values())}
        self._held: dict[str, _Held] = {}
        self._wall_offset = wall_offset
        self._wake = wake

    # -- a call's way ----------------------------------------------------------------------------------------------

    def enter(self, call: str, caller: Peer, direction: str, now: float) -> str | None:
        """Take a place in the node and at the caller; return the limit that forbids it, None where none does."""
        room = self._rooms[caller.name]
        if not self._node.has_room(direction):
            return "node_max_calls"
        if self._pace.room_at(now) > now:
            return "node_cps"
        if not room.calls.has_room(direction):
            return "max_calls"
        if room.taken.room_at(now) > now:
            return "cps"
        self._pace.take(now)
        room.taken.take(now)
        self._node.add(direction, 1)
        self._hold(self._held.setdefault(call, _Held(direction)), room)
        return None

    def dial(self, call: str, peer: Peer, now: float, waited: bool = False) -> Dial | str:
        """Take a place at a target: now, later, or the name of the limit that forbids it."""
        held, room = self._held.get(call), self._rooms[peer.name]
        if held is None:
            return "max_calls"  # it never entered
        if not room.calls.has_room(held.direction):
            return "max_calls"
        if not room.minutes.left(now + self._wall_offset):
            return "minutes_a_day"
        if (room.waiting and not waited) or room.toward.room_at(now) > now:
            return Dial.LATER
        room.toward.take(now)
        self._hold(held, room)
        return Dial.NOW

    def wait(self, call: str, peer: Peer, turn: Turn, now: float) -> bool:
        """Queue for a peer's calls a second; False where the turn would come too late (D13)."""
        held, room = self._held.get(call), self._rooms[peer.name]
        if held is None or room.toward.room_at(now, len(room.waiting)) - now > peer.queue_for:
            return False
        room.waiting.append((call, turn))
        held.waits_for = peer.name
        self.watch(now)
        return True

    def leave_queue(self, call: str) -> None:
        """Wait no longer."""
        held = self._held.get(call)
        if held is not None and held.waits_for:
            waiting = self._rooms[held.waits_for].waiting
            waiting.remove(next(entry for entry in waiting if entry[0] == call))
            held.waits_for = ""

    def answered(self, call: str, peer: Peer, now: float) -> None:
        """Count minutes from now on."""
        held = self._held.get(call)
        if held is not None and held.peers.count(peer.name) > len(held.answered.get(peer.name, ())):
            held.answered.setdefault(peer.name, []).append(now + self._wall_offset)
            self._rooms[peer.name].minutes.answered(now + self._wall_offset)
            if peer.max_minutes_a_day:
                self.watch(now)

    def left(self, call: str, peer: Peer, now: float) -> None:
        """Give back the place at a peer: an attempt has failed, or a transfer has moved the call elsewhere.

        Of two places at one peer that goes whose leg has not been answered, else the older.
        """
        held = self._held.get(call)
        if held is not None and peer.name in held.peers:
            held.peers.remove(peer.name)
            self._give_back(held, peer.name, now)

    def moved(self, call: str, other: str, peer: Peer, now: float) -> None:
        """Let another call hold the place at a peer: that peer's leg has gone over to it."""
        held, taker = self._held.get(call), self._held.get(other)
        if held is None or taker is None or peer.name not in held.peers:
            return
        talks = peer.name in held.answered
        self.left(call, peer, now)
        self._hold(taker, self._rooms[peer.name])
        if talks:
            self.answered(other, peer, now)

    def ended(self, call: str, now: float) -> None:
        """Give back all that a call holds, its place in a queue too."""
        self.leave_queue(call)
        held = self._held.pop(call, None)
        if held is None:
            return
        self._node.add(held.direction, -1)
        while held.peers:
            self._give_back(held, held.peers.pop(), now)

    # -- as time passes --------------------------------------------------------------------------------------------

    def watch(self, now: float) -> None:
        """Say when the next turn comes, or the first peer's minutes are gone."""
        wall, times = now + self._wall_offset, []
        for room in self._rooms.values():
            if room.waiting:
                times.append(room.toward.room_at(now))
            if (at := room.minutes.exhausted_at(wall)) is not None:
                times.append(at - self._wall_offset)
        if times:
            self._wake(min(times))

    def turn(self, now: float) -> tuple[str, Turn] | None:
        """Take the first call out of a queue whose turn has come; it dials with ``waited``, or ends."""
        for room in self._rooms.values():
            if room.waiting and room.toward.room_at(now) <= now:
                call, turn = room.waiting.popleft()
                self._held[call].waits_for = ""
                return call, turn
        return None

    def exhausted(self, now: float) -> list[str]:
        """Return the calls that talk on minutes that are gone."""
        wall = now + self._wall_offset
        gone = {name for name, room in self._rooms.items() if not room.minutes.left(wall + 0.001)}
        return [call for call, held in self._held.items() if gone & held.answered.keys()] if gone else []

    # -- queries ---------------------------------------------------------------------------------------------------

    def load(self, peer: Peer) -> int:
        """Return the number of calls that a peer carries."""
        return self._rooms[peer.name].calls.total

    def shown(self, peer: Peer, now: float) -> dict[str, Any]:
        """Say what a peer may carry and carries, for `trunks`."""
        room = self._rooms[peer.name]
        shown: dict[str, Any] = {
            "max_calls": peer.max_calls or None,
            "reserve": dict(peer.reserve),
            "active": {direction: room.calls.used[direction] for direction in DIRECTIONS},
            "cps": peer.cps or None,
            "cps_used": room.toward.in_last_second(now),
            "cps_from": peer.cps_from or None,
            "queued": len(room.waiting),
        }
        if peer.max_minutes_a_day:
            shown["max_minutes_a_day"] = peer.max_minutes_a_day
            shown["minutes_today"] = round(room.minutes.spent(now + self._wall_offset) / 60, 1)
        return shown

    def counts(self) -> int:
        """Return how many calls hold something: zero when there are none (T19)."""
        return len(self._held)

    # -- bookkeeping -----------------------------------------------------------------------------------------------

    def _hold(self, held: _Held, room: Room) -> None:
        room.calls.add(held.direction, 1)
        held.peers.append(room.peer.name)

    def _give_back(self, held: _Held, name: str, now: float) -> None:
        room = self._rooms[name]
        room.calls.add(held.direction, -1)
        talking = held.answered.get(name, [])
        if len(talking) > held.peers.count(name):
            room.minutes.ended(talking.pop(0), now + self._wall_offset)
            if not talking:
                del held.answered[name]
