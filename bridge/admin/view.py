"""What the bridge remembers for its operator: calls that ended lately, and the messages of those and of live calls."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from bridge.admin.redaction import redacted
from bridge.b2bua.actions import Record, Trace

ENDED_CALLS = 500
CALLS = 10_000
"""Calls of which messages are kept, live ones included; the oldest go first."""
STEPS_A_CALL = 200
"""Messages and state changes kept of one call: a plain one has about twenty."""


class RecentCalls:
    """Keep a bounded past; an instance is an observer of the driver."""

    def __init__(self, wall_offset: float) -> None:
        """``wall_offset`` is Unix time minus monotonic time, for the stamps."""
        self._wall_offset = wall_offset
        self._ended: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._steps: dict[str, deque[Trace]] = {}

    def __call__(self, fact: Trace | Record) -> None:
        """Remember one trace or record."""
        if isinstance(fact, Record):
            self._end(fact.record)
        elif fact.kind in ("received", "sent", "state", "relay"):
            self._step(fact)

    def ended(self) -> list[dict[str, Any]]:
        """Return the records of calls that ended lately, newest first."""
        return [{**record, "state": "ended"} for record in reversed(self._ended.values())]

    def record(self, call: str) -> dict[str, Any] | None:
        """Return the record of one call that ended lately."""
        record = self._ended.get(call)
        return None if record is None else {**record, "state": "ended"}

    def messages(self, call: str) -> list[dict[str, Any]]:
        """Return what happened in one call, oldest first, ready for JSON and without secrets."""
        return [self._as_json(trace) for trace in self._steps.get(call, ())]

    def _step(self, trace: Trace) -> None:
        if not trace.call:
            return
        steps = self._steps.get(trace.call)
        if steps is None:
            if trace.retransmission or trace.method != "INVITE" or trace.status >= 200:
                return  # the last words of a call that is forgotten already (T10: refused by the thousand)
            steps = self._steps[trace.call] = deque(maxlen=STEPS_A_CALL)
            if len(self._steps) > CALLS:
                del self._steps[next(iter(self._steps))]
        steps.append(trace)

    def _end(self, record: Mapping[str, Any]) -> None:
        self._ended[record["id"]] = record
        if len(self._ended) > ENDED_CALLS:
            forgotten, _ = self._ended.popitem(last=False)
            self._steps.pop(forgotten, None)

    def _as_json(self, trace: Trace) -> dict[str, Any]:
        moment = datetime.fromtimestamp(trace.at + self._wall_offset, UTC)
        step: dict[str, Any] = {
            "at": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "kind": trace.kind,
        }
        if trace.kind in ("state", "relay"):
            return {**step, "text": trace.text}
        text = redacted(trace.data)
        return {
            **step,
            "leg": trace.leg,
            "peer": f"{trace.flow.remote[0]}:{trace.flow.remote[1]}" if trace.flow else None,
            "transport": trace.flow.transport if trace.flow else None,
            "method": trace.method,
            "status": trace.status or None,
            "retransmission": trace.retransmission,
            "summary": text.partition("\r\n")[0],
            "text": text,
        }
