"""SIP, SIPS and tel URIs (RFC 3261 §19.1, RFC 3966) as frozen values that print what they were parsed from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from bridge.errors import PeerError

Params = tuple[tuple[str, str | None], ...]

DEFAULT_PORTS = {"udp": 5060, "tcp": 5060, "tls": 5061}
"""Where nothing is written (RFC 3261 §19.1.2)."""

# Wider than RFC 3261 §25.1 where peers are: any octet that can't end a part of the URI may stand in it unescaped.
_SIP = re.compile(
    r"(?:(?P<user>[^\x00-\x20\x7f\"<>@:]+)(?::(?P<password>[^\x00-\x20\x7f\"<>@]*))?@)?"
    r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<params>(?:;[^\x00-\x20\x7f\"<>;?@=]+(?:=[^\x00-\x20\x7f\"<>;?@]*)?)*)"
    r"(?:\?(?P<headers>[^\x00-\x20\x7f\"<>]*))?",
)
_TEL = re.compile(
    r"(?P<number>[0-9A-Fa-f+*#().-]+)(?P<params>(?:;[^\x00-\x20\x7f\"<>;?@=]+(?:=[^\x00-\x20\x7f\"<>;?@]*)?)*)"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_ESCAPED = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
# RFC 3261 §25.1: unreserved and user-unreserved
_UNESCAPED_IN_USER = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.!~*'()&=+$,;?/")
# RFC 3261 §19.1.4: these are never ignored when only one of the two URIs has them
_PARAMS_THAT_MATTER = frozenset(("user", "ttl", "method", "maddr", "transport"))
_MEMO_LENGTH = 200  # longer texts are parsed anew each time, which bounds the memo's memory


def split_params(text: str) -> Params:
    """Split ``;name=value;name`` at its semicolons; a value is None where there is no equals sign."""
    if not text:
        return ()
    params: list[tuple[str, str | None]] = []
    for part in text[1:].split(";"):
        name, equals, value = part.partition("=")
        params.append((name, value if equals else None))
    return tuple(params)


def param_value(params: Params, name: str) -> str | None:
    """Return a parameter's value, "" for one without a value, None where there is none (names match in any case)."""
    for key, value in params:
        if key == name or key.lower() == name:
            return value or ""
    return None


def escape_user(text: str) -> str:
    """Escape what may not stand in a user part (RFC 3261 §19.1.2, T13)."""
    return "".join(
        char
        if char in _UNESCAPED_IN_USER
        else "".join(f"%{octet:02X}" for octet in char.encode("utf-8", "surrogateescape"))
        for char in text
    )


def unescape(text: str) -> str:
    """Replace every %HH by its octet; octets that are no UTF-8 become surrogates (RFC 3261 §19.1.2)."""
    if "%" not in text:
        return text
    return _ESCAPED.sub(lambda match: bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "surrogateescape"), text)


@dataclass(frozen=True, slots=True)
class Uri:
    """Hold a sip, sips or tel URI. ``user`` stays escaped as written; a tel URI's number is its ``user``.

    ``scheme`` is lower-case; ``host`` keeps the brackets of an IPv6 address; ``headers`` is what follows the
    question mark.
    """

    scheme: str
    user: str | None = None
    password: str | None = None
    host: str = ""
    port: int | None = None
    params: Params = ()
    headers: str | None = None
    _text: str = field(init=False, repr=False, compare=False, default="")

    @staticmethod
    def parse(text: str) -> Uri:
        """Parse a URI. Raises PeerError: 416 for a scheme we don't serve, 400 for a malformed one."""
        return _memo(text) if len(text) <= _MEMO_LENGTH else _parse(text)

    def __str__(self) -> str:
        if self._text:
            return self._text
        userinfo = ""
        if self.user is not None:
            userinfo = self.user if self.password is None else f"{self.user}:{self.password}"
            if self.scheme != "tel":
                userinfo += "@"
        port = "" if self.port is None else f":{self.port}"
        params = "".join(f";{name}" if value is None else f";{name}={value}" for name, value in self.params)
        headers = "" if self.headers is None else f"?{self.headers}"
        return f"{self.scheme}:{userinfo}{self.host}{port}{params}{headers}"

    def param(self, name: str) -> str | None:
        """Return a parameter's value, "" for one without a value, None where there is none."""
        return param_value(self.params, name)

    @property
    def transport(self) -> str | None:
        """The transport parameter in lower case, None where there is none."""
        value = param_value(self.params, "transport")
        return value.lower() if value else None

    @property
    def is_loose(self) -> bool:
        """Whether the ``lr`` parameter is there (RFC 3261 §19.1.1)."""
        return param_value(self.params, "lr") is not None

    def matches(self, other: Uri) -> bool:
        """Compare as RFC 3261 §19.1.4 says: user by case, host not; only some parameters matter in one alone."""
        if self.scheme != other.scheme:
            return False
        if self.scheme == "tel":
            return _digits(self.user) == _digits(other.user)
        if _plain(self.user) != _plain(other.user) or _plain(self.password) != _plain(other.password):
            return False
        if self.host.lower() != other.host.lower() or self.port != other.port:
            return False
        ours, theirs = _comparable(self.params), _comparable(other.params)
        for name in ours.keys() | theirs.keys():
            one_alone = name not in ours or name not in theirs
            if one_alone and name in _PARAMS_THAT_MATTER:
                return False
            if not one_alone and ours[name] != theirs[name]:
                return False
        return _comparable_headers(self.headers) == _comparable_headers(other.headers)


def _parse(text: str) -> Uri:
    scheme, colon, rest = text.partition(":")
    scheme = scheme.lower()
    if scheme in ("sip", "sips"):
        match = _SIP.fullmatch(rest)
        if match is None:
            raise PeerError(400, "Malformed URI")
        user, password, host, port_text, params, headers = match.groups()
        port = int(port_text) if port_text else None
        if port is not None and port > 65535:
            raise PeerError(400, "Malformed URI")
        uri = Uri(scheme, user, password, host, port, split_params(params), headers)
    elif scheme == "tel" and colon:
        match = _TEL.fullmatch(rest)
        if match is None:
            raise PeerError(400, "Malformed URI")
        uri = Uri(scheme, match["number"], params=split_params(match["params"]))
    elif _SCHEME.match(text):
        raise PeerError(416, "Unsupported URI Scheme")
    else:
        raise PeerError(400, "Malformed URI")
    object.__setattr__(uri, "_text", text)  # printed as it was written; a changed copy prints its parts
    return uri


_memo = lru_cache(maxsize=2048)(_parse)


def _plain(text: str | None) -> str | None:
    return None if text is None else unescape(text)


def _digits(number: str | None) -> str:
    # RFC 3966 §4: visual separators don't count
    return (number or "").translate(str.maketrans("", "", "-.()")).lower()


def _comparable(params: Params) -> dict[str, str | None]:
    return {name.lower(): None if value is None else unescape(value).lower() for name, value in params}


def _comparable_headers(headers: str | None) -> list[str]:
    return sorted(unescape(header) for header in headers.split("&")) if headers else []
