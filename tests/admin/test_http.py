"""Who may ask the admin server, and what the API answers (T18)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.testing import MemoryReactorClock, StringTransport

from bridge.admin.api import Api
from bridge.admin.http import LARGEST_BODY, AdminSite, Operation, Reply
from bridge.admin.view import RecentCalls
from bridge.b2bua.actions import Command, Drain, HangUp, Record, Tap, Transfer
from bridge.errors import PeerError
from bridge.metrics import Metrics
from bridge.store.records import Records
from tests.harness.relay import FakeRelay

LIVE = {"id": "live1", "carrier": "main", "platform": "support", "direction": "inbound", "state": "up"}
ENDED = {
    "id": "ended1",
    "carrier": "main",
    "platform": "support",
    "direction": "inbound",
    "started_at": "2026-01-01T10:00:00.000Z",
    "answered_at": "2026-01-01T10:00:01.000Z",
    "ended_at": "2026-01-01T10:00:10.000Z",
    "duration": 9.0,
    "result": "completed",
    "reason": "hangup",
    "attempts": [],
    "legs": {"carrier": None, "platform": None},
}
TOKEN = "s3cret-canary"


class Answer:
    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}

    def json(self) -> Any:
        return json.loads(self.body)


class Desk:
    """An admin server over a transport in memory, with a scripted bridge behind it."""

    def __init__(self, state_dir: Path, loopback: bool = True) -> None:
        self.draining = False
        self.live: list[dict[str, Any]] = [LIVE]
        self.commands: list[Command] = []
        self.problem = ""
        self.obstacle: PeerError | None = None
        self.captures = state_dir / "captures"
        relay = FakeRelay()
        self.records = Records(state_dir, lambda problem: None)
        recent = RecentCalls(0.0)
        recent(Record(ENDED))
        self.records.append(ENDED)
        metrics = Metrics(relay, list)
        api = Api("lab", self, self._command, recent, self.records, metrics, relay, self.captures, _at_once)
        self.site = AdminSite(api.operations(), TOKEN, loopback, MemoryReactorClock())
        self.operations = api.operations()

    def calls(self) -> list[dict[str, Any]]:
        return list(self.live)

    def session(self, call: str) -> int | None:
        return next((7 for record in self.live if record["id"] == call), None)

    def transfer_obstacle(self, call: str, target: str) -> PeerError | None:
        return self.obstacle

    def counts(self) -> dict[str, int]:
        return {"calls": len(self.live)}

    def trunks(self) -> list[dict[str, Any]]:
        return [{"name": "main", "kind": "carrier"}]

    def _command(self, command: Command) -> str:
        self.commands.append(command)
        if isinstance(command, Drain):
            self.draining = True
        return self.problem

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        given = {"Host": "127.0.0.1:9060", **(headers or {})}
        if body is not None:
            given.setdefault("Content-Length", str(len(body)))
        head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        return self.raw(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + (body or b""))

    def raw(self, data: bytes) -> Answer:
        protocol = self.site.buildProtocol(None)
        assert protocol is not None
        transport = StringTransport()
        protocol.makeConnection(transport)
        protocol.dataReceived(data)
        return Answer(transport.value())


def _at_once(question: Callable[[], Any]) -> Deferred[Any]:
    return maybeDeferred(question)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def guarded(tmp_path: Path) -> Desk:
    return Desk(tmp_path, loopback=False)


# -- who may ask -----------------------------------------------------------------------------------------------------


def test_t18_without_the_token_every_operation_answers_401(guarded: Desk) -> None:
    """T18: a walk over all routes without a token gets 401 everywhere, and changes nothing."""
    paths = [(one.method, one.path.replace("{id}", "live1")) for one in guarded.operations]
    assert len(paths) > 10
    for method, path in [*paths, ("GET", "/nowhere")]:
        answer = guarded.ask(path, method)
        assert answer.status == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
        assert TOKEN.encode() not in answer.body
    assert guarded.commands == []


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN, "Bearer é"]
)
def test_t18_a_wrong_token_is_refused(guarded: Desk, authorization: str) -> None:
    assert guarded.ask("/healthz", headers={"Authorization": authorization}).status == 401


@pytest.mark.parametrize("name", [b"Authorization", b"Host", b"Origin"])
def test_t18_a_header_that_is_no_utf_8_is_refused_like_any_other(guarded: Desk, desk: Desk, name: bytes) -> None:
    """T18: a stranger must not fill the log with tracebacks."""
    request = b"GET /healthz HTTP/1.1\r\n" + name + b": Bearer \xff\r\n\r\n"
    assert guarded.raw(request).status in (401, 403)
    assert desk.raw(request).status == 403


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_the_token_opens_the_door(guarded: Desk, scheme: str) -> None:
    answer = guarded.ask("/healthz", headers={"Authorization": f"{scheme} {TOKEN}", "Host": "edge.example.com"})
    assert answer.status == 200


def test_t18_an_empty_token_opens_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path, loopback=False)
    desk.site._token = b""
    assert desk.ask("/healthz", headers={"Authorization": "Bearer "}).status == 401


def test_t18_the_token_is_judged_before_the_body_is_read(guarded: Desk) -> None:
    """T18, CVE-2026-49841: the refusal does not wait for a body that was only announced."""
    answer = guarded.ask("/api/v1/drain", "POST", headers={"Content-Length": "500000"})
    assert answer.status == 401


@pytest.mark.parametrize("host", ["127.0.0.1:9060", "localhost:9060", "[::1]:9060", "127.9.9.9"])
def test_loopback_needs_no_token(desk: Desk, host: str) -> None:
    assert desk.ask("/healthz", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example.com", "localhost.evil.example", "192.0.2.1", "", "[", "127.0.0.1.nip.io"]
)
def test_t18_a_rebound_name_is_refused_on_loopback(desk: Desk, host: str) -> None:
    assert desk.ask("/api/v1/calls", headers={"Host": host}).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_t18_a_request_forged_by_another_site_changes_nothing(desk: Desk, headers: dict[str, str]) -> None:
    assert desk.ask("/api/v1/drain", "POST", b"{}", headers).status == 403
    assert desk.commands == []


def test_the_own_page_may_post(desk: Desk) -> None:
    assert desk.ask("/api/v1/drain", "POST", b"{}", {"Origin": "http://127.0.0.1:9060"}).status == 202


def test_t18_a_body_over_a_megabyte_is_refused_before_it_is_sent(desk: Desk) -> None:
    headers = {"Content-Length": str(LARGEST_BODY + 1)}
    assert desk.ask("/api/v1/drain", "POST", headers=headers).status == 413
    assert desk.commands == []


def test_t18_a_chunked_body_over_a_megabyte_is_refused_on_the_way(desk: Desk) -> None:
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    head = b"POST /api/v1/drain HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert desk.raw(head + chunk * 17 + b"0\r\n\r\n").status == 413
    assert desk.commands == []


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 1000, b"{", b"[]", b"1", b'"x"', b"\xff\xfe", b"{]"])
def test_t18_a_body_that_is_no_flat_object_is_refused(desk: Desk, body: bytes) -> None:
    answer = desk.ask("/api/v1/calls/live1/capture", "POST", body)
    assert answer.status == 400
    assert "error" in answer.json()
    assert desk.commands == []


# -- what is answered ------------------------------------------------------------------------------------------------


def test_health_and_readiness_differ_while_draining(desk: Desk) -> None:
    assert desk.ask("/healthz").json()["status"] == "ok"
    assert desk.ask("/healthz").json()["held"] == {"calls": 1}
    assert (desk.ask("/readyz").status, desk.ask("/readyz").json()) == (200, {"status": "ready"})
    answer = desk.ask("/api/v1/drain", "POST")
    assert (answer.status, answer.json()) == (202, {"status": "draining", "active": 1})
    assert desk.commands == [Drain()]
    assert desk.ask("/healthz").status == 200
    assert (desk.ask("/readyz").status, desk.ask("/readyz").json()) == (503, {"status": "draining"})


@pytest.mark.parametrize(
    ("query", "ids"), [("", ["live1", "ended1"]), ("?state=active", ["live1"]), ("?state=ended", ["ended1"])]
)
def test_calls_are_listed_by_state(desk: Desk, query: str, ids: list[str]) -> None:
    assert [call["id"] for call in desk.ask(f"/api/v1/calls{query}").json()["calls"]] == ids


def test_an_unknown_state_is_refused(desk: Desk) -> None:
    assert desk.ask("/api/v1/calls?state=odd").status == 400


def test_one_call_is_shown_live_or_ended_with_its_messages(desk: Desk) -> None:
    live, ended = desk.ask("/api/v1/calls/live1").json(), desk.ask("/api/v1/calls/ended1").json()
    assert (live["state"], live["messages"], live["media"]) == ("up", [], None)
    assert (ended["state"], ended["result"]) == ("ended", "completed")
    assert desk.ask("/api/v1/calls/unknown").status == 404


def test_a_call_that_only_the_disk_remembers_is_shown(desk: Desk) -> None:
    old = {**ENDED, "id": "old1"}
    desk.records.append(old)
    desk.records.start()
    desk.records.stop()
    assert desk.ask("/api/v1/calls/old1").json() == {**old, "state": "ended", "messages": []}


def test_records_are_returned_since_a_time_and_up_to_a_limit(desk: Desk) -> None:
    assert [one["id"] for one in desk.ask("/api/v1/records").json()["records"]] == ["ended1"]
    assert desk.ask("/api/v1/records?since=2026-01-01T10:00:11Z").json() == {"records": []}
    assert len(desk.ask("/api/v1/records?since=2026-01-01T10:00:10Z&limit=1").json()["records"]) == 1


@pytest.mark.parametrize("query", ["since=yesterday", "limit=0", "limit=-1", "limit=99999999", "limit=%D9%A1"])
def test_a_wrong_query_of_records_is_refused(desk: Desk, query: str) -> None:
    assert desk.ask(f"/api/v1/records?{query}").status == 400


def test_a_live_call_is_hung_up(desk: Desk) -> None:
    assert desk.ask("/api/v1/calls/live1/hangup", "POST").status == 202
    assert desk.commands == [HangUp("live1")]
    assert desk.ask("/api/v1/calls/ended1/hangup", "POST").status == 404


def test_a_live_call_is_transferred(desk: Desk) -> None:
    """D36."""
    answer = desk.ask("/api/v1/calls/live1/transfer", "POST", b'{"target": "+14155550777"}')
    assert (answer.status, answer.json()["status"]) == (202, "transferring")
    assert desk.commands == [Transfer("live1", "+14155550777")]
    assert desk.ask("/api/v1/calls/other/transfer", "POST", b'{"target": "+14155550777"}').status == 404


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (PeerError(403, "Forbidden"), 403),
        (PeerError(409, "the call is not up"), 409),
        (PeerError(416, "Unsupported URI Scheme"), 400),
    ],
)
def test_a_transfer_that_can_not_be_is_refused_and_ordered_from_nobody(
    desk: Desk, problem: PeerError, status: int
) -> None:
    """D36, T09."""
    desk.obstacle = problem
    assert desk.ask("/api/v1/calls/live1/transfer", "POST", b'{"target": "+88161234567"}').status == status
    assert desk.ask("/api/v1/calls/live1/transfer", "POST", b"{}").status == 400
    assert desk.commands == []


def test_a_capture_is_named_by_the_server(desk: Desk) -> None:
    answer = desk.ask("/api/v1/calls/live1/capture", "POST")
    path = str(desk.captures.resolve() / "live1.pcap")
    assert (answer.status, answer.json()["path"]) == (200, path)
    assert desk.commands == [Tap("live1", path)]
    assert desk.captures.is_dir()
    assert desk.ask("/api/v1/calls/live1/capture", "POST", b'{"stop": true}').json()["status"] == "stopped"
    assert desk.commands[1:] == [Tap("live1", None)]


def test_a_capture_inside_the_captures_directory_may_be_named(desk: Desk) -> None:
    body = json.dumps({"path": "case-7.pcap"}).encode()
    answer = desk.ask("/api/v1/calls/live1/capture", "POST", body)
    assert answer.json()["path"] == str(desk.captures.resolve() / "case-7.pcap")


@pytest.mark.parametrize("path", ["/etc/passwd", "../records.db", "", ".", "a/../../x", "/tmp/x.pcap", "a\0b"])
def test_t18_a_capture_elsewhere_is_refused(desk: Desk, path: str) -> None:
    assert desk.ask("/api/v1/calls/live1/capture", "POST", json.dumps({"path": path}).encode()).status == 400
    assert desk.commands == []


def test_what_the_bridge_could_not_do_is_said(desk: Desk) -> None:
    desk.problem = "the disk is full"
    answer = desk.ask("/api/v1/calls/live1/capture", "POST")
    assert (answer.status, answer.json()) == (409, {"error": "the disk is full"})


def test_metrics_come_in_both_formats(desk: Desk) -> None:
    plain = desk.ask("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"trunkbridge_calls_active" in plain.body
    open_metrics = desk.ask("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert open_metrics.body.endswith(b"# EOF\n")


def test_unknown_paths_and_methods_are_answered_in_json(desk: Desk) -> None:
    assert desk.ask("/nowhere").status == 404
    answer = desk.ask("/api/v1/drain")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert "error" in answer.json()
    assert desk.ask("/api/v1/calls/a/b/c").status == 404


def test_head_has_the_headers_and_no_body(desk: Desk) -> None:
    answer = desk.ask("/healthz", "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


def test_the_description_and_the_front_page_name_every_operation(desk: Desk) -> None:
    described = desk.ask("/api/v1/openapi.json").json()
    front = desk.ask("/").body.decode()
    for operation in desk.operations:
        if operation.path not in ("/", "/api/v1/openapi.json"):
            assert operation.method.lower() in described["paths"][operation.path]
            assert re.search(rf"^{operation.method} +{re.escape(operation.path)} ", front, re.M)
    assert described["openapi"].startswith("3.")


def test_the_server_says_nothing_of_its_make(desk: Desk) -> None:
    assert "server" not in desk.ask("/healthz").headers


def test_a_bug_in_an_operation_is_a_500_without_details(desk: Desk) -> None:
    def fail(question: Any) -> Reply:
        raise ZeroDivisionError(TOKEN)

    site = AdminSite([Operation("GET", "/", "broken", fail)], "", True, MemoryReactorClock())
    desk.site = site
    answer = desk.ask("/")
    assert answer.status == 500
    assert answer.json() == {"error": "internal error; the log has the details"}
