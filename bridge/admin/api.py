"""What the admin server offers: the operations of the API, and their description in OpenAPI."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from bridge import __version__
from bridge.admin.http import ApiError, Operation, Question, Reply
from bridge.admin.view import RecentCalls
from bridge.b2bua.actions import Command, Drain, HangUp, Tap, Transfer
from bridge.errors import PeerError
from bridge.media.relay import LegName, Relay, SessionReport
from bridge.metrics import Metrics
from bridge.store.records import Records, unix_time

LARGEST_LIMIT = 10_000


class LiveCalls(Protocol):
    """The core, as far as the API asks it."""

    draining: bool

    def calls(self) -> list[dict[str, Any]]: ...

    def trunks(self) -> list[dict[str, Any]]: ...

    def counts(self) -> dict[str, int]: ...

    def session(self, call: str) -> int | None: ...

    def transfer_obstacle(self, call: str, target: str) -> PeerError | None: ...


@dataclass(frozen=True, slots=True)
class Api:
    """Answer questions about one bridge. Everything that could block goes through ``in_thread``."""

    node: str
    live: LiveCalls
    command: Callable[[Command], str]  # returns what went wrong, "" if nothing did
    recent: RecentCalls
    records: Records
    metrics: Metrics
    relay: Relay
    captures: Path
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]]

    def operations(self) -> list[Operation]:
        """Return every operation; the description is made of this list and so can't be untrue."""
        operations = [
            Operation("GET", "/metrics", "Metrics for Prometheus, in its text format or OpenMetrics", self._metrics),
            Operation("GET", "/healthz", "Whether the process lives, and what it holds in memory", self._healthz),
            Operation("GET", "/readyz", "Whether new calls are taken; 503 while draining", self._readyz),
            Operation(
                "GET",
                "/api/v1/calls",
                "Live calls, and calls that ended lately, newest first",
                self._calls,
                query={"state": "active or ended; both if not given"},
            ),
            Operation(
                "GET",
                "/api/v1/calls/{id}",
                "One call's record with its SIP messages, and with what the relay counts while it lives",
                self._call,
            ),
            Operation("POST", "/api/v1/calls/{id}/hangup", "End a live call on both legs", self._hangup),
            Operation(
                "POST",
                "/api/v1/calls/{id}/transfer",
                "Bring the caller of a live call to another number, as if its platform had asked for it; the record's "
                "transfer says what became of it. 403: the rules forbid the target; 409: not up, or a transfer is on",
                self._transfer,
                body={"target": "a telephone number, a tel URI, or a SIP URI at a host of an account"},
            ),
            Operation(
                "POST",
                "/api/v1/calls/{id}/capture",
                "Write a live call's RTP and RTCP to a pcap file; the reply names it",
                self._capture,
                body={
                    "path": "the file, inside the captures directory of state_dir; the bridge picks one if not given",
                    "stop": "true ends a capture that runs",
                },
            ),
            Operation(
                "GET",
                "/api/v1/trunks",
                "Carriers and platforms: load, limits, registration, bindings, health",
                self._trunks,
            ),
            Operation(
                "GET",
                "/api/v1/records",
                "Records of ended calls, oldest first",
                self._records,
                query={
                    "since": "RFC 3339 time: only calls that ended then or later",
                    "limit": f"the newest so many; 1000 if not given, {LARGEST_LIMIT} at most",
                },
            ),
            Operation("POST", "/api/v1/drain", "Refuse new calls from now on; live ones go on", self._drain),
        ]
        description = _openapi(operations)
        operations.append(
            Operation("GET", "/api/v1/openapi.json", "This description", lambda question: Reply(description))
        )
        listing = "".join(f"{one.method:<5} {one.path:<34} {one.summary}\n" for one in operations)
        front = f"trunkbridge {__version__}, node {self.node}\n\n{listing}".encode()
        operations.append(
            Operation("GET", "/", "This list", lambda question: Reply(front, content_type="text/plain; charset=utf-8"))
        )
        return operations

    def _metrics(self, question: Question) -> Reply:
        content_type, body = self.metrics.exposition(question.accept)
        return Reply(body, content_type=content_type)

    def _healthz(self, question: Question) -> Reply:
        return Reply({"status": "ok", "node": self.node, "version": __version__, "held": self.live.counts()})

    def _readyz(self, question: Question) -> Reply:
        return Reply({"status": "draining"}, 503) if self.live.draining else Reply({"status": "ready"})

    def _calls(self, question: Question) -> Reply:
        state = question.query.get("state", "")
        if state not in ("", "active", "ended"):
            raise ApiError(400, "state is active or ended")
        calls = self.live.calls() if state != "ended" else []
        calls += self.recent.ended() if state != "active" else []
        return Reply({"calls": calls})

    def _call(self, question: Question) -> Reply | Deferred[Reply]:
        found: Deferred[Any]
        session = self.live.session(question.id)
        if session is not None:
            found = self.in_thread(lambda: self.relay.snapshot(session))
            return found.addCallback(lambda report: self._live_call(question.id, report))
        if record := self.recent.record(question.id):
            return Reply({**record, "messages": self.recent.messages(question.id)})
        found = self.in_thread(lambda: self.records.find(question.id))
        return found.addCallback(_ended_call)

    def _live_call(self, call: str, report: SessionReport | None) -> Reply:
        record = self._live(call) or self.recent.record(call)
        if record is None:
            raise ApiError(404, "no call has this id")
        media = {leg.value: asdict(report.leg(leg)) for leg in LegName} if report is not None else None
        return Reply({**record, "media": media, "messages": self.recent.messages(call)})

    def _hangup(self, question: Question) -> Reply:
        self._need(question.id)
        self._order(HangUp(question.id))
        return Reply({"id": question.id, "status": "hanging up"}, 202)

    def _transfer(self, question: Question) -> Reply:
        self._need(question.id)
        target = question.body.get("target")
        if not isinstance(target, str) or not target:
            raise ApiError(400, "target is a telephone number or a URI")
        obstacle = self.live.transfer_obstacle(question.id, target)
        if obstacle is not None:
            status = obstacle.status if obstacle.status in (403, 409) else 400
            text = "the rules forbid this target" if status == 403 else obstacle.reason
            raise ApiError(status, text)
        self._order(Transfer(question.id, target))
        return Reply({"id": question.id, "status": "transferring", "target": target}, 202)

    def _capture(self, question: Question) -> Reply:
        self._need(question.id)
        if question.body.get("stop") is True:
            self._order(Tap(question.id, None))
            return Reply({"id": question.id, "status": "stopped"})
        path = self._capture_path(question)
        try:
            self.captures.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ApiError(500, f"can't make {self.captures}: {error.strerror}") from error
        self._order(Tap(question.id, str(path)))
        return Reply({"id": question.id, "status": "capturing", "path": str(path)})

    def _capture_path(self, question: Question) -> Path:
        directory = self.captures.resolve()
        asked = question.body.get("path")
        if asked is None:
            # The id is ours and plain; still nothing of a URL becomes a path unchecked.
            return directory / (re.sub(r"[^A-Za-z0-9_-]", "_", question.id) + ".pcap")
        if isinstance(asked, str) and "\0" not in asked:
            path = (directory / asked).resolve()
            if directory in path.parents:
                return path
        raise ApiError(400, f"captures are written inside {directory} only")

    def _trunks(self, question: Question) -> Reply:
        return Reply({"trunks": self.live.trunks()})

    def _records(self, question: Question) -> Deferred[Reply]:
        try:
            since = unix_time(question.query["since"]) if "since" in question.query else None
        except ValueError as error:
            raise ApiError(400, "since is not an RFC 3339 time") from error
        limit = question.query.get("limit", "1000")
        if not re.fullmatch(r"[0-9]{1,6}", limit) or not 1 <= int(limit) <= LARGEST_LIMIT:
            raise ApiError(400, f"limit is a number from 1 to {LARGEST_LIMIT}")
        found: Deferred[Any] = self.in_thread(lambda: self.records.query(since, int(limit)))
        return found.addCallback(lambda records: Reply({"records": records}))

    def _drain(self, question: Question) -> Reply:
        self._order(Drain())
        return Reply({"status": "draining", "active": len(self.live.calls())}, 202)

    def _live(self, call: str) -> dict[str, Any] | None:
        return next((record for record in self.live.calls() if record["id"] == call), None)

    def _need(self, call: str) -> None:
        if self.live.session(call) is None:
            raise ApiError(404, "no live call has this id")

    def _order(self, command: Command) -> None:
        problem = self.command(command)
        if problem:
            raise ApiError(409, problem)


def _ended_call(record: dict[str, Any] | None) -> Reply:
    if record is None:
        raise ApiError(404, "no call has this id")
    return Reply({**record, "state": "ended", "messages": []})


def _openapi(operations: list[Operation]) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        parameters = [_parameter("id", "path", "the id of the call's record")] if "{id}" in operation.path else []
        parameters += [_parameter(name, "query", text) for name, text in (operation.query or {}).items()]
        described: dict[str, Any] = {
            "summary": operation.summary,
            "parameters": parameters,
            "responses": {"200": {"description": "OK"}, "default": {"description": "an object with the key error"}},
        }
        if operation.body:
            properties = {name: {"description": text} for name, text in operation.body.items()}
            described["requestBody"] = {
                "content": {"application/json": {"schema": {"type": "object", "properties": properties}}}
            }
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": "trunkbridge admin API", "version": __version__},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
        "paths": paths,
    }


def _parameter(name: str, place: str, text: str) -> Mapping[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": text,
        "schema": {"type": "string"},
    }
