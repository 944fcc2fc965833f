"""The log: two formats on stderr, and the lines that tell a call's story at three in the morning."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

from twisted.internet.interfaces import IReactorTime
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent
from zope.interface import implementer

from bridge.admin.redaction import redacted
from bridge.b2bua.actions import Record, Trace

REJECTED_EVERY = 10.0
"""Seconds between two lines about rejected input of one kind: a scan must not fill the disk."""


def log_observer(stream: TextIO, form: str, level: str) -> ILogObserver:
    """Make the observer that writes events of ``level`` and above as ``text`` or ``json`` lines."""
    return _Lines(stream, as_json if form == "json" else as_text, level)


@implementer(ILogObserver)
class _Lines:
    """Filter, format and write in one step: Twisted's three observers for it cost as much as the rest of a line."""

    def __init__(self, stream: TextIO, form: Callable[[LogEvent], str | None], level: str) -> None:
        self._stream = stream
        self._form = form
        lowest = LogLevel.levelWithName(level)
        self._told = {one for one in LogLevel.iterconstants() if one >= lowest}
        # Twisted tells of its ports and its main loop, which says nothing to the operator.
        twisteds = LogLevel.warn if level == "info" else lowest
        self._told_by_twisted = {one for one in LogLevel.iterconstants() if one >= twisteds}

    def __call__(self, event: LogEvent) -> None:
        namespace = event.get("log_namespace", "")
        told = self._told_by_twisted if namespace.startswith(("twisted", "log_legacy")) else self._told
        if event.get("log_level", LogLevel.info) in told and (line := self._form(event)):
            self._stream.write(line)
            self._stream.flush()


def as_text(event: LogEvent) -> str | None:
    """Format one event for a person; continuation lines are indented."""
    message, level = _message(event), event.get("log_level", LogLevel.info)
    return f"{_stamp(event)} {level.name:<8} {message}\n" if message else None


def as_json(event: LogEvent) -> str | None:
    """Format one event for a machine."""
    message = _message(event)
    if not message:
        return None
    line: dict[str, Any] = {
        "time": _stamp(event),
        "level": event.get("log_level", LogLevel.info).name,
        "message": message,
        "source": event.get("log_namespace", ""),
    }
    for key in ("call", "result", "reason", "route"):
        if event.get(key):
            line[key] = event[key]
    return json.dumps(line, ensure_ascii=False) + "\n"


def _message(event: LogEvent) -> str:
    # Most lines come ready made: `CallLog`.
    message = event["line"] if event.get("log_format") == "{line}" else formatEvent(event)
    failure = event.get("log_failure")
    if failure is not None:
        message = f"{message}\n{failure.getTraceback()}"
    message = message.rstrip()
    if message.isprintable():
        return message
    # Nothing that a peer wrote may begin a line of the log or move the reader's cursor.
    lines = message.splitlines()
    return "\n    ".join("".join(char if char.isprintable() else "?" for char in line) for line in lines)


def _stamp(event: LogEvent) -> str:
    moment = datetime.fromtimestamp(event["log_time"], UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class CallLog:
    """Tell calls and faults in the log; an instance is an observer of the driver."""

    def __init__(self, clock: IReactorTime, messages: bool = False) -> None:
        """``messages``: tell SIP messages too, at level debug; off where nobody reads that level, for they cost."""
        self.log = Logger(namespace=f"{__name__}.CallLog")  # an attribute of the class would be made anew each time
        self._clock = clock
        self._tellers: dict[str, Callable[[Trace], None]] = {
            "state": self._state,
            "relay": self._relay,
            "note": self._note,
            "rejected": self._reject,
            "limit": self._limit,
            "bug": self._bug,
            "transfer": self._transferred,
            "trunk": self._trunk,
        }
        if messages:
            self._tellers |= {"received": self._message, "sent": self._message}
        self._rejected: dict[str, tuple[float, int]] = {}  # reason → last line at, inputs since
        self._limited: dict[tuple[str, ...], tuple[float, int]] = {}  # the same of limits

    def __call__(self, fact: Trace | Record) -> None:
        """Log one trace or record."""
        if isinstance(fact, Record):
            self._ended(fact.record)
            return
        tell = self._tellers.get(fact.kind)
        if tell is not None:
            tell(fact)

    def _state(self, trace: Trace) -> None:
        if trace.text in ("ending", "ended"):
            return  # the record says it, and more
        details = "".join([f" {key}={_quoted(value)}" for key, value in trace.details.items()])
        self.log.info("{line}", line=f"call {trace.call} {trace.text}{details}", call=trace.call)

    def _note(self, trace: Trace) -> None:
        self.log.info("{line}", line=f"call {trace.call} note: {trace.text}", call=trace.call)

    def _trunk(self, trace: Trace) -> None:
        self.log.info("{line}", line=f"trunk {trace.text}")

    def _transferred(self, trace: Trace) -> None:
        details = "".join(f" {key}={_quoted(str(value))}" for key, value in trace.details.items())
        self.log.info("{line}", line=f"call {trace.call} transfer{details}", call=trace.call)

    def _relay(self, trace: Trace) -> None:
        self.log.warn("call {call} media: {text}", call=trace.call, text=trace.text)

    def _bug(self, trace: Trace) -> None:
        self.log.error("a bug of ours, contained; please report it:\n{text}", text=trace.text)

    def _limit(self, trace: Trace) -> None:
        """Raise the alarm of a limit at once, then once in a while with the number of calls that it has hit (T09)."""
        key = (trace.text, trace.details["carrier"], trace.details["platform"])
        now = self._clock.seconds()
        last, count = self._limited.get(key, (float("-inf"), 0))
        if now - last < REJECTED_EVERY:
            self._limited[key] = (last, count + 1)
            return
        self._limited[key] = (now, 0)
        self.log.warn(
            "call {call} refused: limit={limit} carrier={carrier} platform={platform}{more}",
            call=trace.call,
            limit=trace.text,
            carrier=key[1] or "-",
            platform=key[2] or "-",
            more=f" (and {count} more of the kind)" if count else "",
        )

    def _reject(self, trace: Trace) -> None:
        now = self._clock.seconds()
        last, count = self._rejected.get(trace.text, (float("-inf"), 0))
        if now - last < REJECTED_EVERY:
            self._rejected[trace.text] = (last, count + 1)
            return
        self._rejected[trace.text] = (now, 0)
        self.log.info(
            "rejected input from {peer}: {reason}{more}",
            peer=_address(trace),
            reason=trace.text,
            more=f" (and {count} more of the kind)" if count else "",
        )

    def _message(self, trace: Trace) -> None:
        self.log.debug(
            "{way} {peer} ({leg}){again}\n{text}",
            way="from" if trace.kind == "received" else "to",
            peer=_address(trace),
            leg=trace.leg or "stranger",
            again=" again" if trace.retransmission else "",
            text=redacted(trace.data),
        )

    def _ended(self, record: dict[str, Any]) -> None:
        legs = "; ".join(filter(None, (_leg(name, leg) for name, leg in record["legs"].items())))
        line = (
            f"call {record['id']} {record['result']} reason={record['reason']} status={record['status']}"
            f" by={record['ended_by']} duration={record['duration']}s route={_quoted(record['route'])}"
            f" direction={record['direction']} carrier={record['carrier'] or '-'} platform={record['platform'] or '-'}"
            f" from={_quoted(record['from'])} to={_quoted(record['to'])}" + (f" [{legs}]" if legs else "")
        )
        self.log.info(
            "{line}",
            line=line,
            call=record["id"],
            result=record["result"],
            reason=record["reason"],
            route=record["route"],
        )


def _leg(name: str, leg: dict[str, Any] | None) -> str:
    rtp = leg.get("rtp") if leg else None
    if not leg or not rtp:
        return ""
    mos = f" mos={leg['mos']}" if leg["mos"] is not None else ""
    return (
        f"{name} {leg['codec']} in={rtp['received']} lost={rtp['lost']} jitter={rtp['jitter_ms_mean']}ms"
        f" out={rtp['sent']} filled={rtp['filled']}{mos}"
    )


def _address(trace: Trace) -> str:
    flow = trace.flow
    return f"{flow.transport}:{flow.remote[0]}:{flow.remote[1]}" if flow else "nowhere"


_PLAIN = re.compile(r'[^\s"]+')


def _quoted(value: Any) -> str:
    text = str(value) if value is not None else "-"
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
