"""Digest authentication toward a peer that challenges us (RFC 3261 §22, RFC 7616, RFC 8760)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bridge.sip.headers import TOKEN, quote
from bridge.sip.message import Header, Request, Response
from bridge.sip.tokens import Tokens

_PARAM = re.compile(rf'[ \t]*({TOKEN})[ \t]*=[ \t]*("[^"\\]*(?:\\.[^"\\]*)*"|[^ \t,"]+)[ \t]*(?:,[ \t]*)*', re.DOTALL)
_NONCES = 64  # how many a client remembers; the oldest goes first


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
        """Return the header that answers a 401 or 407 to this request, to be added to its repetition.

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
