"""Digest authentication, both ways: answering a peer's challenges, and challenging it (RFC 3261 §22, 7616, 8760)."""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bridge.errors import PeerError
from bridge.sip.headers import TOKEN, quote, unquote
from bridge.sip.message import Header, Headers, Request, Response
from bridge.sip.tokens import Tokens

_PARAM = re.compile(rf'[ \t]*({TOKEN})[ \t]*=[ \t]*("[^"\\]*(?:\\.[^"\\]*)*"|[^ \t,"]+)[ \t]*(?:,[ \t]*)*', re.DOTALL)
_NONCES = 64  # how many a client remembers; the oldest goes first
_REALMS = 4  # that one request may bear answers for: a peer that names another each time is not followed for ever

NONCE_LIFE = 300.0
"""Seconds in which a nonce of ours may be used."""
_USED_NONCES = 4096  # whose counts a server remembers
_WINDOW = 64  # how far a nonce count may come late
_OFFERED = ("SHA-256", "MD5")  # RFC 8760 §2.4: the one that is liked best comes first
_NONCE = re.compile(r"([0-9a-f]{12})([0-9a-f]{16})([0-9a-f]{32})")
_COUNT = re.compile(r"[0-9A-Fa-f]{8}")
_CNONCE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")

_HASHES: dict[str, Callable[[bytes], str]] = {
    "MD5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
    "SHA-256": lambda data: hashlib.sha256(data).hexdigest(),
    "SHA-512-256": lambda data: hashlib.new("sha512_256", data).hexdigest(),
}


@dataclass(frozen=True, slots=True)
class Challenge:
    """Hold one Digest challenge. ``realm``, ``nonce`` and ``opaque`` are as they stand between the quotes."""

    realm: str
    nonce: str
    algorithm: str | None = None  # as written; None: not given, which means MD5
    qop: str | None = None  # "auth" if offered, None if no qop is offered at all
    opaque: str | None = None
    stale: bool = False

    @staticmethod
    def parse(value: str) -> Challenge | None:
        """Parse a WWW-Authenticate or Proxy-Authenticate value; None if it is nothing that we can answer."""
        params = _params(value)
        if params is None or "realm" not in params or not params.get("nonce"):
            return None
        algorithm = params.get("algorithm")
        if _hash_of(algorithm) is None:
            return None
        offered = params.get("qop")
        qop = None
        if offered is not None:
            if "auth" not in (option.strip(" \t").lower() for option in offered.split(",")):
                return None  # auth-int alone
            qop = "auth"
        stale = params.get("stale", "").lower() == "true"
        return Challenge(params["realm"], params["nonce"], algorithm, qop, params.get("opaque"), stale)


def digest_response(
    algorithm: str | None,
    username: str,
    password: str,
    realm: str,
    method: str,
    uri: str,
    nonce: str,
    qop: str | None = None,
    nonce_count: str = "",
    cnonce: str = "",
) -> str:
    """Return the response to a challenge in hexadecimal (RFC 7616 §3.4.1; without qop RFC 2069's).

    Raises ValueError for an unknown algorithm.
    """
    digest = _hash_of(algorithm)
    if digest is None:
        raise ValueError(f"unknown digest algorithm {algorithm}")

    def hashed(*parts: str) -> str:
        return digest(":".join(parts).encode("utf-8", "surrogateescape"))

    secret = hashed(username, realm, password)
    if algorithm is not None and algorithm.lower().endswith("-sess"):
        secret = hashed(secret, nonce, cnonce)
    action = hashed(method, uri)
    if qop is None:
        return hashed(secret, nonce, action)
    return hashed(secret, nonce, nonce_count, cnonce, qop, action)


@dataclass(slots=True)
class _Nonce:
    """What is known of a nonce we answered: how often, for which request last, and whether it replaced a stale one."""

    count: int = 0
    asked: tuple[str, int, str] | None = None
    replaced_stale: bool = False


class DigestClient:
    """Answer challenges with one username and password."""

    def __init__(self, username: str, password: str, tokens: Tokens) -> None:
        self._username = username
        self._password = password
        self._tokens = tokens
        self._nonces: dict[str, _Nonce] = {}

    def authorize(self, request: Request, response: Response) -> Header | None:
        """Return the header that answers a 401 or 407 to this request, for its repetition (see `put_credentials`).

        None if no challenge can be answered, or if it was answered already and the peer does not call the nonce stale
        (R26: a wrong password is offered once, a stale nonce replaced once). The topmost algorithm that we know wins
        (RFC 8760 §2.4).
        """
        proxy = response.status == 407
        name = "Proxy-Authorization" if proxy else "Authorization"
        answered = {
            params.get("realm", ""): params.get("nonce", "")
            for params in map(_params, request.headers.get_all(name))
            if params is not None
        }
        if len(answered) >= _REALMS and not any(each.realm in answered for each in _challenges(response, proxy)):
            return None
        refused: set[str] = set()
        for challenge in _challenges(response, proxy):
            if challenge.realm in refused:
                continue
            if self._may_answer(challenge, answered.get(challenge.realm), request):
                return Header(name, self._credentials(challenge, request, challenge.realm in answered))
            refused.add(challenge.realm)
        return None

    def _may_answer(self, challenge: Challenge, used: str | None, request: Request) -> bool:
        known = self._nonces.get(challenge.nonce)
        if used is None:
            return known is None or known.asked != _identity(request)
        before = self._nonces.get(used)
        return challenge.stale and challenge.nonce != used and not (before is not None and before.replaced_stale)

    def _credentials(self, challenge: Challenge, request: Request, replaces_stale: bool) -> str:
        nonce = self._nonces.pop(challenge.nonce, None) or _Nonce()
        self._nonces[challenge.nonce] = nonce  # at the end: the freshest
        if len(self._nonces) > _NONCES:
            del self._nonces[next(iter(self._nonces))]
        nonce.count += 1
        nonce.asked = _identity(request)
        nonce.replaced_stale = replaces_stale
        nonce_count, cnonce = f"{nonce.count:08x}", self._tokens.token(64)
        answer = digest_response(
            challenge.algorithm,
            self._username,
            self._password,
            challenge.realm,
            request.method,
            request.uri,
            challenge.nonce,
            challenge.qop,
            nonce_count,
            cnonce,
        )
        # RFC 7616 §3.4: these are quoted, and algorithm, qop and nc are not
        parts = [
            f"username={quote(self._username)}",
            f'realm="{challenge.realm}"',
            f'nonce="{challenge.nonce}"',
            f'uri="{request.uri}"',
            f'response="{answer}"',
        ]
        if challenge.algorithm is not None:
            parts.append(f"algorithm={challenge.algorithm}")
        if challenge.qop is not None or (challenge.algorithm or "").lower().endswith("-sess"):
            parts.append(f'cnonce="{cnonce}"')
        if challenge.qop is not None:
            parts += [f"qop={challenge.qop}", f"nc={nonce_count}"]
        if challenge.opaque is not None:
            parts.append(f'opaque="{challenge.opaque}"')
        return "Digest " + ", ".join(parts)


def put_credentials(headers: Headers, credentials: Header) -> None:
    """Add credentials to a request's headers in place of those for the same realm: others stay (RFC 3261 §22.3, R26).

    Without those of one realm its server would challenge again, and with it the two would take turns for ever.
    """
    realm = (_params(credentials.value) or {}).get("realm")
    others = [value for value in headers.get_all(credentials.name) if (_params(value) or {}).get("realm") != realm]
    headers.remove(credentials.name)
    for value in others:
        headers.add(credentials.name, value)
    headers.append(credentials)


class Verdict(enum.Enum):
    """What a request's credentials are worth."""

    ACCEPTED = "accepted"
    STALE = "stale"  # the nonce is not ours; or the password is right, but the nonce too old, or used with this count
    REFUSED = "refused"
    ABSENT = "absent"  # none for our realm


@dataclass(slots=True)
class _Used:
    """The counts that came with one nonce: the highest, and a bit for each of those below it, the nearest lowest."""

    issued_ms: int
    highest: int = 0
    seen: int = 0

    def take(self, count: int) -> bool:
        """Note a count; False if it came before, or too late to tell."""
        ahead = count - self.highest
        if ahead > 0:
            self.seen = ((self.seen << ahead) | (1 << (ahead - 1)) if ahead <= _WINDOW else 0) & ((1 << _WINDOW) - 1)
            self.highest = count
            return True
        behind = -ahead
        if not 0 < behind <= _WINDOW or count < 1 or self.seen >> (behind - 1) & 1:
            return False
        self.seen |= 1 << (behind - 1)
        return True


class DigestServer:
    """Challenge requests and judge what comes back. ``secret`` signs nonces, so that those out need no memory."""

    def __init__(self, realm: str, tokens: Tokens, secret: bytes) -> None:
        self._realm = realm
        self._tokens = tokens
        self._secret = secret
        self._nobody = hmac.digest(secret, b"nobody", "sha256").hex()  # the password of users that are not there
        self._used: dict[str, _Used] = {}  # by nonce, in the order of their first use
        self._forgotten_ms = -1  # of the nonces issued until then the counts may be forgotten: none is good any more

    def challenges(self, now: float, stale: bool = False) -> tuple[str, ...]:
        """Return the values of the WWW-Authenticate headers for a 401, in order; they share a nonce."""
        issued, salt = f"{int(now * 1000) & 0xFFFFFFFFFFFF:012x}", self._tokens.token(64)
        nonce = f"{issued}{salt}{self._signature(issued + salt)}"
        tail = ", stale=true" if stale else ""
        return tuple(
            f'Digest realm={quote(self._realm)}, nonce="{nonce}", algorithm={algorithm}, qop="auth"{tail}'
            for algorithm in _OFFERED
        )

    def verify(self, request: Request, password_of: Callable[[str], str | None], now: float) -> Verdict:
        """Judge the first Authorization for our realm (RFC 7616 §3.4.6); ``password_of`` is asked once at most.

        A user who is not there costs the same steps as a wrong password (T06), and a guess for a nonce that is not ours
        is none: who forges the address of a peer can't make it look like a guesser. Raises PeerError 400 where the
        credentials are for another Request-URI.
        """
        given = self._credentials(request)
        if given is None:
            return Verdict.ABSENT
        issued_ms = self._issued_ms(given.get("nonce", ""))
        if issued_ms is None:
            return Verdict.STALE
        algorithm, count, cnonce = given.get("algorithm", "MD5").upper(), given.get("nc", ""), given.get("cnonce", "")
        username, nonce = unquote(f'"{given.get("username", "")}"'), given.get("nonce", "")
        if algorithm not in _OFFERED or given.get("qop", "").lower() != "auth" or not username:
            return Verdict.REFUSED
        if not _COUNT.fullmatch(count) or not _CNONCE.fullmatch(cnonce):
            return Verdict.REFUSED
        if given.get("uri") != request.uri:
            raise PeerError(400, "Digest URI Mismatch")
        password = password_of(username)
        expected = digest_response(
            algorithm,
            username,
            self._nobody if password is None else password,
            self._realm,
            request.method,
            request.uri,
            nonce,
            given["qop"],
            count,
            cnonce,
        )
        response = given.get("response", "").lower().encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(expected.encode(), response) or password is None:
            return Verdict.REFUSED
        return Verdict.ACCEPTED if self._take(nonce, issued_ms, int(count, 16), now) else Verdict.STALE

    def _credentials(self, request: Request) -> dict[str, str] | None:
        for params in map(_params, request.headers.get_all("Authorization")):
            if params is not None and unquote(f'"{params.get("realm", "")}"') == self._realm:
                return params  # and no other: one message is one guess
        return None

    def _issued_ms(self, nonce: str) -> int | None:
        """Return when a nonce was issued, None if it is not ours."""
        match = _NONCE.fullmatch(nonce)
        if match is None or not hmac.compare_digest(self._signature(match[1] + match[2]).encode(), match[3].encode()):
            return None
        return int(match[1], 16)

    def _take(self, nonce: str, issued_ms: int, count: int, now: float) -> bool:
        """Use a nonce with a count; False if that can't be the first time."""
        if not 0 <= int(now * 1000) - issued_ms <= NONCE_LIFE * 1000:
            return False
        used = self._used.get(nonce)
        if used is None:
            if issued_ms <= self._forgotten_ms:
                return False
            self._make_room(now)
            used = self._used[nonce] = _Used(issued_ms)
        return used.take(count)

    def _make_room(self, now: float) -> None:
        while self._used:
            oldest = next(iter(self._used))
            issued_ms = self._used[oldest].issued_ms
            expired = int(now * 1000) - issued_ms > NONCE_LIFE * 1000
            if not expired and len(self._used) < _USED_NONCES:
                return
            if not expired:
                self._forgotten_ms = max(self._forgotten_ms, issued_ms)
            del self._used[oldest]

    def _signature(self, text: str) -> str:
        return hmac.digest(self._secret, f"{self._realm}:{text}".encode(), "sha256").hex()[:32]


def _challenges(response: Response, proxy: bool) -> Iterator[Challenge]:
    for value in response.headers.get_all("Proxy-Authenticate" if proxy else "WWW-Authenticate"):
        challenge = Challenge.parse(value)
        if challenge is not None:
            yield challenge


def _hash_of(algorithm: str | None) -> Callable[[bytes], str] | None:
    name = (algorithm or "MD5").upper()
    return _HASHES.get(name.removesuffix("-SESS"))


def _identity(request: Request) -> tuple[str, int, str]:
    cseq = request.cseq
    return request.call_id, cseq.number, cseq.method


def _params(value: str) -> dict[str, str] | None:
    """Split ``Digest name=value, …``; values lose their quotes and keep their escapes. None if it is something else."""
    scheme, _, rest = value.strip(" \t").partition(" ")
    if scheme.lower() != "digest":
        return None
    params: dict[str, str] = {}
    position = 0
    while position < len(rest):
        match = _PARAM.match(rest, position)
        if match is None:
            return None
        text = match[2]
        params.setdefault(match[1].lower(), text[1:-1] if text[0] == '"' else text)
        position = match.end()
    return params
