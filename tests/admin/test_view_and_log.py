"""What the operator sees of calls: bounded, in order, and without secrets (T17)."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import Logger, LogPublisher

from bridge.admin import view as view_module
from bridge.admin.log import REJECTED_EVERY, CallLog, log_observer
from bridge.admin.redaction import redacted
from bridge.admin.view import RecentCalls
from bridge.b2bua.actions import Record, Trace
from bridge.media.relay import LegName
from bridge.sip.events import Flow

FLOW = Flow("udp", ("127.0.0.1", 5060), ("127.0.0.9", 5061))
MESSAGE = (
    b"INVITE sip:a@b SIP/2.0\r\n"
    b'Authorization: Digest username="u", response="canary1"\r\n'
    b"Proxy-Authorization : Digest\r\n response=canary2,\r\n\tnonce=canary3\r\n"
    b"Call-ID: 1\r\n\r\n"
    b"v=0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:canary4|2^20|1:4 UNENCRYPTED_SRTP\r\na=ptime:20\r\n"
)


def record(call: str) -> dict[str, Any]:
    leg = {
        "codec": "PCMU",
        "mos": 4.4,
        "rtp": {"received": 500, "lost": 1, "jitter_ms_mean": 0.5, "sent": 510, "filled": 10},
    }
    return {
        "id": call,
        "result": "completed",
        "reason": "hangup",
        "status": 200,
        "ended_by": "carrier",
        "route": "support line",
        "direction": "inbound",
        "carrier": "main",
        "platform": "support",
        "from": "+14155550101",
        "to": "+14155550100",
        "duration": 10.1,
        "legs": {"carrier": leg, "platform": None},
    }


def message(kind: str, at: float, call: str = "", method: str = "INVITE", status: int = 0) -> Trace:
    return Trace(kind, at, call, LegName.CARRIER, flow=FLOW, method=method, status=status, data=MESSAGE)


def test_t17_credentials_and_keys_are_left_out_and_all_else_stands() -> None:
    """T17: Authorization (folded lines too) and a=crypto are redacted."""
    shown = redacted(MESSAGE)
    assert "canary" not in shown
    assert "Authorization: [redacted]\r\nProxy-Authorization : [redacted]\r\nCall-ID: 1\r\n" in shown
    assert "inline:[redacted]|2^20|1:4 UNENCRYPTED_SRTP\r\na=ptime:20" in shown


def test_t17_every_key_of_a_line_is_left_out() -> None:
    """T17: RFC 4568 §6.1 lets one line hold several."""
    line = b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:canary1|1:4;inline:canary2|2^20|2:4\r\n"
    assert redacted(line).endswith("inline:[redacted]|1:4;inline:[redacted]|2^20|2:4\r\n")


def test_any_bytes_can_be_shown() -> None:
    assert redacted(b"\xff\x00INVITE") == "\\xff\x00INVITE"


def test_the_messages_of_a_call_are_kept_in_order() -> None:
    recent = RecentCalls(wall_offset=1_000_000_000.0)
    recent(message("received", 1.0, "call1"))
    recent(message("sent", 1.0, "call1", status=100))
    recent(Trace("state", 1.5, "call1", text="dialling"))
    steps = recent.messages("call1")
    assert [(step["kind"], step.get("status")) for step in steps] == [
        ("received", None),
        ("sent", 100),
        ("state", None),
    ]
    assert steps[0]["at"] == "2001-09-09T01:46:41.000Z"
    assert steps[0]["peer"] == "127.0.0.9:5061"
    assert steps[0]["summary"] == "INVITE sip:a@b SIP/2.0"
    assert "canary" not in json.dumps(steps)


def test_a_message_of_no_call_is_not_kept() -> None:
    recent = RecentCalls(0.0)
    recent(message("received", 1.0))
    recent(message("sent", 2.0, "call1"))
    assert [step["kind"] for step in recent.messages("call1")] == ["sent"]


def test_t10_the_last_words_of_a_forgotten_call_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """T10: calls refused by the thousand answer and repeat after they are forgotten."""
    monkeypatch.setattr(view_module, "ENDED_CALLS", 1)
    recent = RecentCalls(0.0)
    for call in ("one", "two"):
        recent(message("received", 1.0, call))
        recent(Record(record(call)))
    recent(message("sent", 1.5, "one", status=503))
    recent(message("received", 1.6, "one", method="ACK"))
    assert recent.messages("one") == []
    assert len(recent.messages("two")) == 1


def test_ended_calls_are_remembered_newest_first_up_to_a_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_module, "ENDED_CALLS", 3)
    recent = RecentCalls(0.0)
    for number in range(5):
        recent(message("sent", 1.0, f"call{number}"))
        recent(Record(record(f"call{number}")))
    assert [call["id"] for call in recent.ended()] == ["call4", "call3", "call2"]
    assert recent.record("call0") is None
    assert recent.messages("call0") == []
    assert len(recent.messages("call4")) == 1


def test_the_memory_for_messages_is_bounded_in_calls_and_in_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_module, "CALLS", 10)
    recent = RecentCalls(0.0)
    for number in range(100):
        recent(message("sent", 1.0, f"call{number}"))
    assert sum(bool(recent.messages(f"call{number}")) for number in range(100)) == 10
    for number in range(1000):
        recent(Trace("state", float(number), "call99", text="up"))
    assert len(recent.messages("call99")) == view_module.STEPS_A_CALL


class LogFile:
    """A log as the operator reads it."""

    def __init__(self, form: str = "text", level: str = "info") -> None:
        self.stream = io.StringIO()
        self.clock = Clock()
        publisher = LogPublisher(log_observer(self.stream, form, level))
        self.calls = CallLog(self.clock, messages=level == "debug")
        self.calls.log = Logger("bridge", observer=publisher)

    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


def test_a_call_is_told_in_one_line_each_for_start_answer_and_end() -> None:
    log = LogFile()
    details = {"route": "support line", "direction": "inbound", "carrier": "main", "platform": "support"}
    for state in ("dialling", "up", "ending", "ended"):
        log.calls(Trace("state", 1.0, "call1", text=state, details=details))
    log.calls(Record(record("call1")))
    start, answer, end = log.lines()
    assert 'call call1 dialling route="support line" direction=inbound carrier=main platform=support' in start
    assert "call call1 up" in answer
    for part in (
        "call call1 completed reason=hangup status=200 by=carrier duration=10.1s",
        'route="support line"',
        "[carrier PCMU in=500 lost=1 jitter=0.5ms out=510 filled=10 mos=4.4]",
    ):
        assert part in end


def test_the_json_log_is_one_object_a_line() -> None:
    log = LogFile("json")
    log.calls(Record(record("call1")))
    [line] = log.lines()
    parsed = json.loads(line)
    assert parsed["level"] == "info"
    assert (parsed["call"], parsed["result"], parsed["reason"]) == ("call1", "completed", "hangup")
    assert parsed["time"].endswith("Z")


@pytest.mark.parametrize("form", ["text", "json"])
def test_messages_are_told_at_debug_only_and_without_secrets(form: str) -> None:
    quiet, loud = LogFile(form), LogFile(form, "debug")
    for log in (quiet, loud):
        log.calls(message("received", 1.0, "call1"))
    assert quiet.lines() == []
    assert "INVITE sip:a@b SIP/2.0" in loud.stream.getvalue()
    assert "canary" not in loud.stream.getvalue()


def test_a_scan_writes_one_line_in_ten_seconds_for_each_kind() -> None:
    log = LogFile()
    for _ in range(1000):
        log.calls(Trace("rejected", 1.0, text="unknown-source", flow=FLOW))
    log.calls(Trace("rejected", 1.0, text="malformed", flow=FLOW))
    assert len(log.lines()) == 2
    log.clock.advance(REJECTED_EVERY)
    log.calls(Trace("rejected", 1.0, text="unknown-source", flow=FLOW))
    assert "unknown-source (and 999 more of the kind)" in log.lines()[2]


def test_a_limit_raises_the_alarm_at_once_and_then_counts() -> None:
    """T09: the first line comes with the first call that is refused; a storm does not fill the disk."""
    log = LogFile()
    parties = {"carrier": "main", "platform": "support"}
    for _ in range(50):
        log.calls(Trace("limit", 1.0, "call1", text="destination", details=parties))
    log.calls(Trace("limit", 1.0, "call2", text="cps", details={"carrier": "main", "platform": ""}))
    first, other = log.lines()
    assert "warn" in first
    assert "call call1 refused: limit=destination carrier=main platform=support" in first
    assert "call call2 refused: limit=cps carrier=main platform=-" in other
    log.clock.advance(10.0)
    log.calls(Trace("limit", 1.0, "call3", text="destination", details=parties))
    assert log.lines()[-1].endswith("platform=support (and 49 more of the kind)")


def test_a_note_is_told_with_its_call() -> None:
    """R42: a number that changed under a signature, say."""
    log = LogFile()
    log.calls(Trace("note", 1.0, "call1", text="From changed under Identity: +1 is anonymous"))
    assert "call call1 note: From changed under Identity: +1 is anonymous" in log.lines()[0]


def test_a_bug_is_told_with_its_traceback() -> None:
    log = LogFile()
    log.calls(Trace("bug", 1.0, text="Traceback (most recent call last):\nZeroDivisionError"))
    assert "a bug of ours" in log.lines()[0]
    assert "ZeroDivisionError" in log.lines()[-1]


def test_what_a_peer_wrote_begins_no_line_of_the_log() -> None:
    log = LogFile()
    log.calls(Record({**record("call1"), "from": "x\n2026 forged line\x1b[2J"}))
    assert all(not line.startswith("2026 forged") for line in log.lines())
    assert "\x1b" not in log.stream.getvalue()
