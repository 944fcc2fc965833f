"""Call records on disk: SQLite for questions, JSONL for pipelines, one writer thread so that no disk holds up a call.

Both files are written in the order in which the calls ended. What can't be written now waits in memory, up to a cap,
and is written once the disk is well again; a record is never written twice, not even after a write that half
succeeded (F16).
"""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

CAP = 20_000
"""Records kept in memory while the disk fails; the oldest go first after that."""
RETRY_AFTER = 2.0
"""Seconds between two tries at a disk that fails."""
GATHER = 0.2
"""Seconds for which records gather before a write: one transaction for many calls costs a tenth of one for each."""
BATCH = 256

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    started REAL,
    ended REAL,
    direction TEXT,
    carrier TEXT,
    platform TEXT,
    result TEXT,
    reason TEXT,
    record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS records_ended ON records (ended);
CREATE INDEX IF NOT EXISTS records_carrier ON records (carrier, ended);
CREATE INDEX IF NOT EXISTS records_platform ON records (platform, ended);
"""


def unix_time(stamp: str) -> float:
    """Read an RFC 3339 time. Raises ValueError; a time without a zone is taken as UTC."""
    moment = datetime.fromisoformat(stamp)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class Entry:
    """A record on its way to the files, and its JSON: made once, in the writer's thread, for both."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record

    @cached_property
    def line(self) -> str:
        # default=str: a value that JSON doesn't know is a bug elsewhere, and no reason to lose the record.
        return _ENCODER.encode(self.record)


_ENCODER = json.JSONEncoder(separators=(",", ":"), default=str)


class Sink(Protocol):
    """A file that takes records in order."""

    def write(self, entries: list[Entry]) -> None:
        """Write all or none. Raises OSError or sqlite3.Error."""

    def close(self) -> None: ...


class SqliteSink:
    """Write records to the database; the id makes a second write of the same record do nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def write(self, entries: list[Entry]) -> None:
        if self._connection is None:
            self._connection = _open(self._path)
        try:
            with self._connection as connection:
                connection.executemany(
                    "INSERT OR IGNORE INTO records"
                    " (id, started, ended, direction, carrier, platform, result, reason, record)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [_row(entry) for entry in entries],
                )
        except sqlite3.Error:
            # The file may have been replaced, or the disk remounted: begin anew with the next try.
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()


class JsonlSink:
    """Append records to a text file, one JSON object a line; a write that fails half-way is taken back."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, entries: list[Entry]) -> None:
        data = "".join([f"{entry.line}\n" for entry in entries]).encode()
        # Opened for each batch, so that a log rotation or a remount needs no signal.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            before = os.fstat(descriptor).st_size
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)

    def close(self) -> None:
        pass


class Records:
    """Take records from the reactor's thread and write them in a thread of their own; answer questions about them."""

    def __init__(self, state_dir: Path, trouble: Callable[[str], None], sinks: Iterable[Sink] | None = None) -> None:
        """``trouble`` hears, from the writer thread, when writing begins to fail, and "" when it is well again."""
        self._database = state_dir / "records.db"
        self._trouble = trouble
        files = (SqliteSink(self._database), JsonlSink(state_dir / "records.jsonl")) if sinks is None else sinks
        self._queues: list[tuple[Sink, deque[Entry]]] = [(sink, deque()) for sink in files]
        self._condition = threading.Condition()
        self._stopping = False
        self._failing = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def append(self, record: dict[str, Any]) -> None:
        """Queue one record; returns at once. The record must not change afterwards."""
        entry = Entry(record)
        with self._condition:
            idle = not self.waiting
            for _, queue in self._queues:
                if len(queue) >= CAP:
                    queue.popleft()
                    self.dropped += 1
                queue.append(entry)
            if idle:  # else the writer is at work, or gathers; to wake it for each would cost both threads
                self._condition.notify()

    def stop(self, deadline: float = 5.0) -> int:
        """Write what is queued, for at most ``deadline`` seconds; return how many records were left unwritten."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(deadline)
        return self.waiting

    @property
    def waiting(self) -> int:
        """The number of records that some file still lacks."""
        return max((len(queue) for _, queue in self._queues), default=0)

    def query(self, since: float | None = None, limit: int = 1000) -> list[dict[str, Any]]:
        """Return the newest records that ended at or after ``since`` (Unix time), oldest first. Blocks on the disk."""
        with self._condition:
            queued = [entry.record for entry in self._queues[0][1]] if self._queues else []
        found = {record["id"]: record for record in read_records(self._database, since, limit)}
        for record in queued:
            if since is None or _unix_or_zero(record.get("ended_at")) >= since:
                found[record["id"]] = record
        return list(found.values())[-limit:]

    def find(self, call: str) -> dict[str, Any] | None:
        """Return one record by its id. Blocks on the disk."""
        with self._condition:
            for entry in self._queues[0][1] if self._queues else ():
                if entry.record["id"] == call:
                    return entry.record
        return find_record(self._database, call)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._stopping and not self.waiting:
                    self._condition.wait()
                if not self.waiting:
                    break
                self._condition.wait_for(lambda: self._stopping, GATHER)
            problems = [problem for sink, queue in self._queues if (problem := self._write(sink, queue))]
            self._report(problems[0] if problems else "")
            if problems:
                with self._condition:
                    if self._stopping:
                        break
                    self._condition.wait_for(lambda: self._stopping, RETRY_AFTER)
        for sink, _ in self._queues:
            sink.close()

    def _write(self, sink: Sink, queue: deque[Entry]) -> str:
        with self._condition:
            batch = list(itertools.islice(queue, BATCH))
        if not batch:
            return ""
        try:
            sink.write(batch)
        except (OSError, sqlite3.Error) as error:
            return f"{type(error).__name__}: {error}"
        written = {entry.record["id"] for entry in batch}
        with self._condition:
            # By id, not by count: the cap may have pushed some of these out meanwhile.
            while queue and queue[0].record["id"] in written:
                queue.popleft()
        return ""

    def _report(self, problem: str) -> None:
        if bool(problem) != self._failing:
            self._failing = bool(problem)
            self._trouble(problem)


def read_records(database: Path, since: float | None = None, limit: int = 1000) -> list[dict[str, Any]]:
    """Read the newest records of a database, oldest first; [] if there is none yet. Raises sqlite3.Error."""
    rows = _read(
        database,
        "SELECT record FROM records WHERE ended >= ? ORDER BY number DESC LIMIT ?",
        (since if since is not None else 0.0, limit),
    )
    return [json.loads(row[0]) for row in reversed(rows)]


def find_record(database: Path, call: str) -> dict[str, Any] | None:
    """Read one record of a database by its id. Raises sqlite3.Error."""
    rows = _read(database, "SELECT record FROM records WHERE id = ?", (call,))
    return json.loads(rows[0][0]) if rows else None


def _read(database: Path, statement: str, arguments: tuple[object, ...]) -> list[tuple[str]]:
    if not database.exists():
        return []
    # Read-only, so that a question can't create, lock or repair anything.
    with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)) as connection:
        return connection.execute(statement, arguments).fetchall()


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5.0)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _row(entry: Entry) -> tuple[object, ...]:
    record = entry.record
    return (
        record["id"],
        _unix_or_zero(record.get("started_at")),
        _unix_or_zero(record.get("ended_at")),
        record.get("direction"),
        record.get("carrier"),
        record.get("platform"),
        record.get("result"),
        record.get("reason"),
        entry.line,
    )


def _unix_or_zero(stamp: str | None) -> float:
    return unix_time(stamp) if stamp else 0.0
