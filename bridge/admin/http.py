"""The admin HTTP server: metrics, health, and a small JSON API over live calls and records.

Who may ask is settled when the headers are complete, before any body is read (T18): on loopback everybody who truly
asked this host (Host and Origin are checked against rebinding and forged requests), elsewhere whoever has the token.
"""

# twisted.web is not typed.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import hmac
import io
import ipaddress
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http, resource, server

LARGEST_BODY = 1024 * 1024
MOST_BRACKETS = 32
IDLE = 60
"""Seconds after which a silent connection is closed."""


class ApiError(Exception):
    """Answer a request with an error status and one sentence."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(status, problem)
        self.status = status
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Reply:
    """A response; ``content`` is sent as it is if it is bytes, else as JSON."""

    content: Any
    status: int = 200
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Question:
    """A request that may be answered: its path's variable part, its query and its JSON body."""

    id: str
    query: Mapping[str, str]
    body: Mapping[str, Any]
    accept: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path; ``{id}`` stands for one path segment. ``query`` and ``body`` name and explain fields."""

    method: str
    path: str
    summary: str
    answer: Callable[[Question], Reply | Deferred[Reply]]
    query: Mapping[str, str] | None = None
    body: Mapping[str, str] | None = None


class AdminSite(server.Site):
    """Serve operations over HTTP."""

    noisy = False

    def __init__(self, operations: list[Operation], token: str, loopback: bool, clock: IReactorTime) -> None:
        """``loopback``: only this machine can reach the server, and so no token is asked for."""
        super().__init__(_Operations(operations), requestFactory=_AdminRequest, timeout=IDLE, reactor=clock)
        self.displayTracebacks = False
        self._token = token.encode()
        self._loopback = loopback

    def refusal(self, request: http.Request) -> tuple[int, str] | None:
        """Say why nobody may ask this, from its headers alone; None if it may be asked."""
        host = _header(request, "host") or ""
        origin = _header(request, "origin")
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            return 403, "the Origin header names another site"
        if _header(request, "sec-fetch-site") == "cross-site":
            return 403, "the request was made by another site"
        if self._loopback:
            if not _is_local(host):
                return 403, "the Host header does not name this machine"
            return None
        scheme, _, given = (_header(request, "authorization") or "").partition(" ")
        if (
            not self._token
            or scheme.lower() != "bearer"
            or not hmac.compare_digest(given.strip().encode(), self._token)
        ):
            return (
                401,
                "this needs the header Authorization: Bearer TOKEN, with the token of [admin] in the configuration",
            )
        return None


class _AdminRequest(server.Request):
    """Refuse before the body what may not be asked, and what is too long."""

    _refused = False
    _taken = 0

    def gotLength(self, length: int | None) -> None:
        site: AdminSite = self.channel.factory
        refusal = site.refusal(self)
        if refusal is None and length is not None and length > LARGEST_BODY:
            refusal = 413, f"the body is larger than {LARGEST_BODY} bytes"
        # In memory, not in a temporary file as Twisted would: the disk may be full or slow (F16).
        self.content = io.BytesIO()
        if refusal is not None:
            self._refuse(*refusal)

    def handleContentChunk(self, data: bytes) -> None:
        if self._refused:
            return
        self._taken += len(data)
        if self._taken > LARGEST_BODY:
            self._refuse(413, f"the body is larger than {LARGEST_BODY} bytes")
        else:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if not self._refused:
            super().requestReceived(command, path, version)

    def _refuse(self, status: int, problem: str) -> None:
        # Written past the usual path, which would first read the whole body; the connection ends with it.
        self._refused = True
        body = json.dumps({"error": problem}).encode()
        lines = [
            f"HTTP/1.1 {status} {http.RESPONSES.get(status, b'').decode()}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(["WWW-Authenticate: Bearer"] if status == 401 else []),
        ]
        assert self.channel.transport is not None
        self.channel.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.channel.loseConnection()


class _Operations(resource.Resource):
    """Find the operation of a request, and write its reply."""

    isLeaf = True
    log = Logger()

    def __init__(self, operations: list[Operation]) -> None:
        super().__init__()
        self._operations = operations

    def render(self, request: server.Request) -> int:
        request.responseHeaders.removeHeader("server")
        asked: Deferred[Reply] = maybeDeferred(self._answer, request)  # type: ignore[call-overload]
        asked.addErrback(self._failed)
        asked.addCallback(self._write, request)
        return server.NOT_DONE_YET

    def _answer(self, request: server.Request) -> Reply | Deferred[Reply]:
        path, method = request.path.decode("utf-8", "replace"), request.method.decode("ascii", "replace")
        found = [(operation, _match(operation.path, path)) for operation in self._operations]
        there = [(operation, variable) for operation, variable in found if variable is not None]
        if not there:
            raise ApiError(404, f"there is nothing at {path}; /api/v1/openapi.json lists what there is")
        wanted = "GET" if method == "HEAD" else method
        for operation, variable in there:
            if operation.method == wanted:
                return operation.answer(
                    Question(variable, _query(request), _body(request), _header(request, "accept") or "")
                )
        allowed = ", ".join(operation.method for operation, _ in there)
        request.setHeader("Allow", allowed)
        raise ApiError(405, f"{path} takes {allowed}")

    def _failed(self, failure: Failure) -> Reply:
        if isinstance(failure.value, ApiError):
            return Reply({"error": failure.value.problem}, failure.value.status)
        self.log.failure("The admin API failed", failure)
        return Reply({"error": "internal error; the log has the details"}, 500)

    def _write(self, reply: Reply, request: server.Request) -> None:
        if request.finished or request._disconnected:
            return
        content = reply.content
        body = content if isinstance(content, bytes) else (json.dumps(content, default=str) + "\n").encode()
        request.setResponseCode(reply.status)
        request.setHeader("Content-Type", reply.content_type)
        request.setHeader("Content-Length", str(len(body)))
        request.setHeader("Cache-Control", "no-store")
        request.setHeader("X-Content-Type-Options", "nosniff")
        if request.method != b"HEAD":
            request.write(body)
        request.finish()


def _match(pattern: str, path: str) -> str | None:
    """Return the part of the path that ``{id}`` stands for ("" where there is none), or None if it does not fit."""
    before, brace, after = pattern.partition("{id}")
    if not brace:
        return "" if path == pattern else None
    variable = path[len(before) : len(path) - len(after)]
    return variable if path == before + variable + after and variable and "/" not in variable else None


def _header(request: http.Request, name: str) -> str | None:
    """Return a header's value; what is no UTF-8 in it fits nothing (Twisted would raise, and log a traceback)."""
    value: bytes | None = request.getHeader(name.encode())
    return None if value is None else value.decode("utf-8", "replace")


def _query(request: server.Request) -> dict[str, str]:
    arguments: dict[bytes, list[bytes]] = request.args or {}
    return {key.decode("utf-8", "replace"): values[-1].decode("utf-8", "replace") for key, values in arguments.items()}


def _body(request: server.Request) -> dict[str, Any]:
    assert request.content is not None
    data = request.content.read()
    if not data.strip():
        return {}
    # Bodies here are flat; a bomb of brackets is refused before the parser recurses into it (T18).
    if data.count(b"[") + data.count(b"{") > MOST_BRACKETS:
        raise ApiError(400, "the body nests too deeply")
    try:
        body = json.loads(data)
    except ValueError as error:
        raise ApiError(400, "the body is not JSON") from error
    if not isinstance(body, dict):
        raise ApiError(400, "the body is not a JSON object")
    return body


def _is_local(host: str) -> bool:
    """Tell whether a Host header names this machine by loopback address or as localhost: no DNS name can be rebound."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
