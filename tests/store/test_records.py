"""Records reach both files in order and once, whatever the disk does meanwhile."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.store import records as store
from bridge.store.records import Entry, JsonlSink, Records, SqliteSink, find_record, read_records, unix_time


def record(number: int) -> dict[str, Any]:
    return {
        "id": f"call-{number}",
        "started_at": "2026-01-01T10:00:00.000Z",
        "ended_at": f"2026-01-01T10:00:{number % 60:02d}.500Z",
        "direction": "inbound",
        "carrier": "main",
        "platform": "support",
        "result": "completed",
        "reason": "hangup",
    }


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def lines(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()] if path.exists() else []


class FailingSink:
    """A disk that fails as long as told to, and keeps what it took."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.tries = 0
        self.ids: list[str] = []

    def write(self, entries: list[Entry]) -> None:
        self.tries += 1
        if self.error is not None:
            raise self.error
        self.ids += [entry.record["id"] for entry in entries]

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "RETRY_AFTER", 0.01)
    monkeypatch.setattr(store, "GATHER", 0.001)


def test_records_are_written_to_both_files_in_order(tmp_path: Path) -> None:
    records = Records(tmp_path, trouble=lambda problem: None)
    records.start()
    for number in range(600):
        records.append(record(number))
    assert records.stop() == 0
    expected = [f"call-{number}" for number in range(600)]
    assert lines(tmp_path / "records.jsonl") == expected
    assert [found["id"] for found in read_records(tmp_path / "records.db", limit=1000)] == expected
    assert find_record(tmp_path / "records.db", "call-7") == record(7)


def test_a_record_appended_twice_stands_once_in_the_database(tmp_path: Path) -> None:
    sink = SqliteSink(tmp_path / "records.db")
    sink.write([Entry(record(1))])
    sink.write([Entry(record(1)), Entry(record(2))])
    sink.close()
    assert [found["id"] for found in read_records(tmp_path / "records.db")] == ["call-1", "call-2"]


def test_since_returns_the_calls_that_ended_then_or_later(tmp_path: Path) -> None:
    records = Records(tmp_path, trouble=lambda problem: None)
    records.start()
    for number in range(10):
        records.append(record(number))
    records.stop()
    found = records.query(since=unix_time("2026-01-01T10:00:07.500Z"))
    assert [entry["id"] for entry in found] == ["call-7", "call-8", "call-9"]
    assert [entry["id"] for entry in records.query(limit=2)] == ["call-8", "call-9"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), sqlite3.OperationalError("full")])
def test_f16_a_full_disk_keeps_records_in_memory_and_gets_them_all_in_order_once_it_heals(
    tmp_path: Path, error: Exception
) -> None:
    """F16: CDR spool in memory, alarm, written later in order, none twice."""
    troubles: list[str] = []
    full, healthy = FailingSink(error), FailingSink(error)
    healthy.error = None
    records = Records(tmp_path, troubles.append, sinks=[full, healthy])
    records.start()
    for number in range(10_000):
        records.append(record(number))
    until(lambda: full.tries > 3 and len(healthy.ids) == 10_000)
    assert full.ids == []
    assert records.waiting == 10_000
    assert troubles == [f"{type(error).__name__}: {error}"]
    assert records.find("call-5") == record(5), "what waits can be asked for"
    full.error = None
    until(lambda: records.waiting == 0)
    records.stop()
    assert full.ids == healthy.ids == [f"call-{number}" for number in range(10_000)]
    assert troubles[-1] == ""
    assert records.dropped == 0


def test_f16_a_disk_that_hangs_does_not_hold_up_the_caller(tmp_path: Path) -> None:
    """F16: a slow disk never blocks a call: append returns while the writer is stuck in a write."""
    released = threading.Event()

    class HangingSink(FailingSink):
        def write(self, entries: list[Entry]) -> None:
            self.tries += 1
            assert released.wait(30)
            super().write(entries)

    sink = HangingSink(OSError())
    sink.error = None
    records = Records(tmp_path, lambda problem: None, sinks=[sink])
    records.start()
    records.append(record(0))
    until(lambda: sink.tries == 1)
    for number in range(1, 1000):
        records.append(record(number))
    assert sink.ids == []
    released.set()
    assert records.stop() == 0
    assert len(sink.ids) == 1000


def test_the_memory_for_unwritten_records_has_a_cap_and_the_oldest_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CAP", 10)
    sink = FailingSink(OSError(errno.EROFS, "Read-only file system"))
    records = Records(tmp_path, lambda problem: None, sinks=[sink])
    records.start()
    for number in range(25):
        records.append(record(number))
    assert records.waiting == 10
    assert records.dropped == 15
    sink.error = None
    until(lambda: records.waiting == 0)
    records.stop()
    assert sink.ids == [f"call-{number}" for number in range(15, 25)]


def test_a_line_that_was_written_half_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.jsonl"
    sink = JsonlSink(path)
    sink.write([Entry(record(1))])
    real_write = os.write

    def short_write(descriptor: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", short_write)
    with pytest.raises(OSError, match="No space"):
        sink.write([Entry(record(2))])
    monkeypatch.undo()
    sink.write([Entry(record(2))])
    assert lines(path) == ["call-1", "call-2"]


def test_a_state_directory_that_vanishes_and_returns_loses_no_record(tmp_path: Path) -> None:
    """F16: the real files, on a path that can't be written for a while."""
    troubles: list[str] = []
    state_dir = tmp_path / "state"
    records = Records(state_dir, troubles.append)
    records.start()
    for number in range(5):
        records.append(record(number))
    until(lambda: bool(troubles))
    state_dir.mkdir()
    until(lambda: records.waiting == 0)
    records.stop()
    expected = [f"call-{number}" for number in range(5)]
    assert lines(state_dir / "records.jsonl") == expected
    assert [found["id"] for found in read_records(state_dir / "records.db")] == expected


def test_stopping_with_a_failing_disk_ends_and_tells_what_was_lost(tmp_path: Path) -> None:
    records = Records(tmp_path, lambda problem: None, sinks=[FailingSink(OSError(errno.ENOSPC, "full"))])
    records.start()
    records.append(record(1))
    assert records.stop(deadline=5.0) == 1
