"""Whose request it is: by its source, and by digest where the configuration gives a peer credentials (D9, T06).

A stranger is looked at for one thing only: a REGISTER, while some peer may register from anywhere; and that seldom.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bridge.config import Peer
from bridge.errors import PeerError
from bridge.sip.digest import DigestServer, Verdict
from bridge.sip.message import Request
from bridge.sip.overload import Pressure, is_new
from bridge.sip.tokens import Tokens

CHALLENGED = frozenset(("INVITE", "REGISTER", "REFER", "SUBSCRIBE"))  # outside dialogs; OPTIONS are answered anyway
WINDOW = 60.0  # seconds in which failures add up
MOST_FAILURES = 5
MOST_ASKED = 10  # REGISTERs of a stranger without one that is accepted
BANNED_FOR = 300.0
STRANGERS_A_SECOND = 50  # REGISTERs of strangers that are looked at, whatever the number of their addresses
_SOURCES = 4096  # whose failures and floods are remembered; the oldest go first
_BURST = 2.0  # seconds' worth of requests that may come at once, and as many again before there is no answer any more

_START = re.compile(rb"(?:INVITE|REGISTER|REFER|SUBSCRIBE) ")
_IN_DIALOG = re.compile(rb"\r\n(?:to|t)[ \t]*:[^\r\n]*;[ \t]*tag[ \t]*=", re.IGNORECASE)


@dataclass(slots=True)
class _Suspicion:
    """What one source has got wrong lately."""

    since: float
    failures: int = 0
    asked: int = 0
    banned_until: float = 0.0


class Admission:
    """Tell peers from each other, from those who guess and from those who flood.

    ``rate`` is how many new requests a second one source may send, 0: any number.
    """

    def __init__(self, peers: Iterable[Peer], realm: str, tokens: Tokens, rate: float) -> None:
        peers = list(peers)
        self.roaming = tuple(peer for peer in peers if peer.profile.registers and _guarded(peer) and not peer.sources)
        self._digest = DigestServer(realm, tokens, bytes.fromhex(tokens.token(256)))
        self._suspicions: dict[str, _Suspicion] = {}
        self._strangers = 0
        self._second = 0
        self._rate = rate
        self._poured: dict[str, tuple[float, float]] = {}  # by source: how full its bucket is, and since when

    def pressure(self, data: bytes, address: str, now: float) -> Pressure:
        """Say what a new request of a known source is met with, for what it has sent lately (T10): see `Pressure`.

        Its bucket leaks at the rate. What belongs to a dialog is not counted, and never refused for this.
        """
        if not self._rate or not is_new(data):
            return Pressure.NONE
        source, size = _source(address), max(1.0, self._rate * _BURST)
        level, since = self._poured.get(source, (0.0, now))
        level = min(max(0.0, level - (now - since) * self._rate) + 1.0, 2 * size + 1.0)
        if source not in self._poured and len(self._poured) >= _SOURCES:
            del self._poured[next(iter(self._poured))]
        self._poured[source] = level, now
        if level <= size:
            return Pressure.NONE
        return Pressure.HIGH if level <= 2 * size else Pressure.EXTREME

    def refusal(self, data: bytes, address: str, owners: Sequence[Peer], now: float) -> str:
        """Say why a message is dropped unread and in silence, "" if it is not.

        A ban is for requests that would be challenged: the calls of a banned source go on.
        """
        if owners:
            suspicion = self._suspicions.get(_source(address)) if self._suspicions else None
            if suspicion is None or suspicion.banned_until <= now:
                return ""
            return "banned" if _START.match(data) and not _IN_DIALOG.search(data) else ""
        if not self.roaming or not data.startswith(b"REGISTER "):
            return "unknown-source"
        suspicion = self._suspicion(address, now)
        if suspicion.banned_until > now:
            return "banned"
        if int(now) != self._second:
            self._second, self._strangers = int(now), 0
        self._strangers += 1
        if self._strangers > STRANGERS_A_SECOND:
            return "unknown-source"
        suspicion.asked += 1
        if suspicion.asked >= MOST_ASKED:  # this one is still answered
            suspicion.banned_until = now + BANNED_FOR
        return ""

    def admit(self, request: Request, owners: Sequence[Peer], address: str, now: float) -> tuple[Peer, ...]:
        """Return the peers that a request outside dialogs may be from. Raises PeerError 401.

        ``owners`` are those of its source address. Where one of them has credentials and another has none, the
        credentials in the request decide, and without any it is the other's.
        """
        candidates = list(owners)
        if request.method == "REGISTER":
            candidates = [peer for peer in owners if peer.profile.registers]
            candidates += [peer for peer in self.roaming if peer not in candidates]
        guarded = [peer for peer in candidates if _guarded(peer)]
        if not guarded or request.method not in CHALLENGED:
            return tuple(candidates)
        named: list[str] = []

        def password_of(username: str) -> str | None:
            named.append(username)
            return next((peer.inbound_password for peer in guarded if peer.inbound_username == username), None)

        try:
            verdict = self._digest.verify(request, password_of, now)
        except PeerError:
            self._note_failure(address, now)
            raise
        if verdict is Verdict.ACCEPTED:
            self._suspicions.pop(_source(address), None)
            return tuple(peer for peer in guarded if peer.inbound_username == named[0])
        open_to_source = tuple(peer for peer in candidates if not _guarded(peer))
        if verdict is Verdict.ABSENT and open_to_source:
            return open_to_source
        if verdict is Verdict.REFUSED:
            self._note_failure(address, now)
        challenges = self._digest.challenges(now, stale=verdict is Verdict.STALE)
        raise PeerError(401, "Unauthorized", tuple(("WWW-Authenticate", challenge) for challenge in challenges))

    def _note_failure(self, address: str, now: float) -> None:
        suspicion = self._suspicion(address, now)
        suspicion.failures += 1
        if suspicion.failures >= MOST_FAILURES:
            suspicion.banned_until = now + BANNED_FOR

    def _suspicion(self, address: str, now: float) -> _Suspicion:
        """Return what is held against a source; what is older than a minute is not."""
        source = _source(address)
        found = self._suspicions.get(source)
        if found is None or (found.since + WINDOW <= now and found.banned_until <= now):
            self._suspicions.pop(source, None)
            if len(self._suspicions) >= _SOURCES:
                del self._suspicions[next(iter(self._suspicions))]
            found = self._suspicions[source] = _Suspicion(now)
        return found


def _guarded(peer: Peer) -> bool:
    """Whether a peer proves who it is; some can't answer a challenge at all (D9)."""
    return bool(peer.inbound_username) and peer.profile.answers_challenge


def _source(address: str) -> str:
    """Return what stands for one sender: of IPv6 the network that anybody has to himself."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
