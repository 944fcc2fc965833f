"""A registrar that a test scripts: it challenges, binds, and remembers when it knew nobody."""

from __future__ import annotations

import re
from collections.abc import Callable

from bridge.sip.digest import digest_response
from bridge.sip.message import Request, Response
from tests.harness.world import Party

Answer = Callable[[Request], bool]


class ScriptedRegistrar:
    """Answer the REGISTERs that reach a party. ``script`` may answer one itself and say so by returning True."""

    def __init__(self, party: Party, *, username: str = "", password: str = "", grants: int = 60) -> None:
        self.party = party
        self.username, self.password = username, password
        self.grants = grants
        self.script: Answer = lambda request: False
        self.headers: dict[str, str] = {}  # of each 200
        self.expires_at = 0.0
        self.unbound_for = 0.0  # seconds without a binding since the first one
        self.tries: list[float] = []  # when a REGISTER came that was no answer to a challenge or a 423 of ours
        self.nonce = "first"
        self._continues = False
        party.react = self._react

    @property
    def requests(self) -> list[Request]:
        return self.party.requests("REGISTER")

    def is_bound(self) -> bool:
        return self.party.network.now < self.expires_at

    def challenge(self, request: Request, stale: bool = False) -> None:
        tail = ", stale=true" if stale else ""
        value = f'Digest realm="carrier", nonce="{self.nonce}", algorithm=MD5, qop="auth"{tail}'
        self._continues = True
        self.party.respond(request, 401, headers={"WWW-Authenticate": value})

    def too_brief(self, request: Request, least: int) -> None:
        self._continues = True
        self.party.respond(request, 423, headers={"Min-Expires": str(least)})

    def accept(self, request: Request) -> None:
        now = self.party.network.now
        asked = int(request.headers.get("Expires") or 0)
        granted = min(asked, self.grants)
        if self.expires_at:
            self.unbound_for += max(0.0, now - self.expires_at)
        self.expires_at = now + granted
        contact = request.headers.get("Contact")
        bound = {"Contact": f"{contact};expires={granted}"} if granted else {}
        self.party.respond(request, 200, headers={**bound, **self.headers})

    def _react(self, message: Request | Response) -> None:
        if not isinstance(message, Request):
            return
        if message.method == "OPTIONS":
            self.party.respond(message, 200)
        if message.method != "REGISTER":
            return
        if self._continues:
            self._continues = False
        else:
            self.tries.append(self.party.network.now)
        if self.script(message):
            return
        if self.username and not self._is_authorized(message):
            self.challenge(message)
        else:
            self.accept(message)

    def _is_authorized(self, request: Request) -> bool:
        given = dict(re.findall(r'(\w+)="?([^",]*)"?', request.headers.get("Authorization") or ""))
        if given.get("nonce") != self.nonce:
            return False
        wanted = digest_response(
            "MD5",
            self.username,
            self.password,
            "carrier",
            "REGISTER",
            request.uri,
            self.nonce,
            "auth",
            given["nc"],
            given["cnonce"],
        )
        return (given["username"], given["response"]) == (self.username, wanted)
