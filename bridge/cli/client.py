"""A client of the admin HTTP API of a running bridge."""

from __future__ import annotations

import functools
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import quote, urlencode

import click

from bridge.cli import Failure

DEFAULT_ADMIN = "http://127.0.0.1:9060"
TIMEOUT = 10.0

P = ParamSpec("P")
R = TypeVar("R")


class AdminClient:
    """Ask one bridge. Every failure is one sentence with exit status 1."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url = url.rstrip("/")
        self._token = token
        # The bridge is near: a proxy of the environment is meant for the world outside.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """Return the JSON of a GET."""
        return self._ask(path + (f"?{urlencode(query)}" if query else ""), None)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON of a POST."""
        return self._ask(path, json.dumps(body or {}).encode())

    def calls(self, state: str = "") -> list[dict[str, Any]]:
        """Return live and recent calls."""
        found: list[dict[str, Any]] = self.get("/api/v1/calls", {"state": state} if state else None)["calls"]
        return found

    def call_path(self, call: str, operation: str = "") -> str:
        """Return the path of a call; the beginning of an id is enough where it names one call."""
        matching = [record["id"] for record in self.calls() if record["id"].startswith(call)]
        if len(matching) > 1 and call not in matching:
            raise Failure(f"{len(matching)} calls have an id that begins with {call}; give more of it")
        whole = call if call in matching or not matching else matching[0]
        return f"/api/v1/calls/{quote(whole, safe='')}" + (f"/{operation}" if operation else "")

    def _ask(self, path: str, body: bytes | None) -> Any:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            request = urllib.request.Request(self._url + path, body, headers)
            with self._opener.open(request, timeout=TIMEOUT) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise Failure(_problem(error)) from error
        except urllib.error.URLError as error:
            reason = getattr(error.reason, "strerror", None) or error.reason
            raise Failure(
                f"no bridge answers at {self._url} ({reason}); start one with `trunkbridge run`, or use --admin"
            ) from error
        except (OSError, ValueError) as error:
            raise Failure(f"{self._url} gave no answer that makes sense: {error}") from error


def _problem(error: urllib.error.HTTPError) -> str:
    if error.code == 401:
        return "the bridge wants its admin token: give --token, or set TRUNKBRIDGE_TOKEN"
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"the bridge answered {error.code} {error.reason}"


def asks_bridge(command: Callable[Concatenate[AdminClient, P], R]) -> Callable[P, R]:
    """Give a command the options that name a bridge, and a client for it as first argument."""

    @click.option(
        "--admin",
        envvar="TRUNKBRIDGE_ADMIN",
        default=DEFAULT_ADMIN,
        show_default=True,
        metavar="URL",
        help="The admin address of the bridge.",
    )
    @click.option("--token", envvar="TRUNKBRIDGE_TOKEN", metavar="TOKEN", help="Its token, where it needs one.")
    @functools.wraps(command)
    def with_client(admin: str, token: str | None, *args: P.args, **kwargs: P.kwargs) -> R:
        return command(AdminClient(admin, token), *args, **kwargs)

    return with_client  # type: ignore[return-value]
