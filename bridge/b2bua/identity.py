"""Which headers of one party reach the other, and what they tell of the caller (D2, D39, RFC 3323, RFC 3325).

Two gates stand between the legs. `passing` is the sender's: its allow-list, and what it may assert. `delivered` is the
receiver's: what it may be told, and how it wants numbers written. What both let through leaves byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from bridge.b2bua.numbers import with_plus
from bridge.config import Peer
from bridge.errors import PeerError
from bridge.sip.fields import long_name
from bridge.sip.headers import Reason, parse_params, split_list
from bridge.sip.message import Header, Headers
from bridge.sip.uri import param_value

LONGEST_VALUE = 1024  # octets of a header that may pass; platforms keep no more (D39)
ANONYMOUS = "sip:anonymous@anonymous.invalid"  # RFC 3323 §4.1.1.3

# What belongs to one dialog or one hop, or would tell of the other leg's network: nobody can allow-list it
_NEVER = frozenset(
    """
    via from to call-id cseq contact route record-route path service-route max-forwards
    content-length content-type content-encoding content-disposition content-language mime-version
    authorization proxy-authorization www-authenticate proxy-authenticate authentication-info
    allow allow-events supported require proxy-require unsupported accept accept-encoding
    session-expires min-se rseq rack replaces refer-to refer-sub event subscription-state expires min-expires
    retry-after reason p-preferred-identity sip-etag sip-if-match
    """.split()  # noqa: SIM905
)
# What only those in the trust domain may say (RFC 3325 §5), and are told of callers who want to stay private
_ASSERTED = frozenset(("p-asserted-identity", "remote-party-id", "p-asserted-service", "p-charge-info"))
# What an untrusted sender could make up of a call's past (RFC 5806, RFC 7044)
_HISTORY = frozenset(("diversion", "history-info"))
# What says who the caller is besides From (RFC 3323 §5.3)
_PERSONAL = frozenset(("call-info", "reply-to", "subject", "organization", "in-reply-to", "user-agent", "server"))
# What a signature says of the caller stands in it for everyone to read (RFC 8225 §5.2.1)
_SIGNED = frozenset(("identity", "date"))
_WITH_NUMBERS = frozenset(("p-asserted-identity", "remote-party-id", "diversion", "history-info"))
_EMBEDDED = re.compile(r"[?&]([A-Za-z-]+)=([^&>]*)")
_NUMBER = re.compile(r"\b(sips?:|tel:)(\+?[0-9]+)(?=[@;>?,]|$)")


def passing(headers: Headers, sender: Peer) -> tuple[Header, ...]:
    """Return what the sender's profile lets through to the other leg; Privacy goes along for `delivered`.

    A line of more than `LONGEST_VALUE` is left out, Identity excepted, which a signature makes long (RFC 8224).
    """
    profile = sender.profile
    exact, prefixes = _passing_names(profile.pass_headers, profile.trusted)
    passed = []
    for header in headers.named(exact, prefixes):
        name = long_name(header.name)
        if name in _NEVER or (not profile.trusted and name in _ASSERTED | _HISTORY):
            continue
        if len(header.value) <= LONGEST_VALUE or name == "identity":
            passed.append(header)
    return tuple(passed)


@lru_cache(maxsize=256)
def _passing_names(pass_headers: tuple[str, ...], trusted: bool) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the names that a profile lets through, and the beginnings of such names."""
    exact = {long_name(name) for name in pass_headers if not name.endswith("*")} | {"privacy"}
    if "identity" in exact:
        exact.add("date")  # what it signs is only as fresh as the Date it came with (RFC 8224 §6.2)
    if not trusted:
        exact -= _ASSERTED | _HISTORY
    return frozenset(exact), tuple(name[:-1].lower() for name in pass_headers if name.endswith("*"))


def overlong(headers: Iterable[Header], data: bytes) -> int:
    """Count the headers of a message that can't pass for their length alone; ``data`` is the message as it came."""
    if len(data) <= LONGEST_VALUE or max(map(len, data.split(b"\n"))) <= LONGEST_VALUE:
        return 0
    return sum(
        1
        for header in headers
        if len(header.value) > LONGEST_VALUE and long_name(header.name) not in _NEVER | {"identity"}
    )


def delivered(headers: Iterable[Header], receiver: Peer) -> tuple[Header, ...]:
    """Return what of the passed headers this receiver gets: nothing twice, and nothing that its own `headers` set."""
    headers = tuple(headers)
    if not headers:
        return ()
    profile = receiver.profile
    asked = privacy(headers)
    hidden = _hidden(asked, profile.trusted) | {long_name(name) for name in profile.headers} | {"privacy"}
    policy = profile.plus.get("identity", profile.plus.get("from", "keep"))
    kept: dict[tuple[str, str], Header] = {}
    for header in headers:
        name = long_name(header.name)
        if name in hidden or (not profile.trusted and _is_private(name, header.value)):
            continue
        if policy != "keep" and name in _WITH_NUMBERS:
            header = _with_plus(header, policy)
        kept.setdefault((name, header.value), header)
    left = _privacy_left(asked, profile.trusted)
    if left:
        kept["privacy", left] = Header("Privacy", left)
    return tuple(kept.values())


def privacy(headers: Iterable[Header]) -> frozenset[str]:
    """Return what a caller asks to be kept private: ``id``, ``user``, ``header`` … (RFC 3323 §4.2, RFC 3325 §9.3)."""
    values = (header.value for header in headers if long_name(header.name) == "privacy")
    tokens = {token.strip().lower() for value in values for token in re.split("[;,]", value)}
    return frozenset(tokens - {""})


def wants_anonymity(headers: Iterable[Header]) -> bool:
    """Tell whether From must not say who calls (RFC 3323 §5.3)."""
    return "user" in privacy(headers)


def reasons_of(headers: Headers) -> tuple[str, ...]:
    """Return the Reason values that may pass: the first of each protocol, as it was written (RFC 3326 §2, R40)."""
    found: dict[str, str] = {}
    for line in headers.get_all("Reason"):
        for value in split_list(line):
            try:
                protocol = Reason.parse(value).protocol.lower()
            except PeerError:
                continue
            if len(value) <= LONGEST_VALUE:
                found.setdefault(protocol, value)
    return tuple(found.values())


def _hidden(asked: frozenset[str], trusted: bool) -> frozenset[str]:
    """Return the headers that the caller's wish keeps from this receiver."""
    hidden = _PERSONAL if "user" in asked else frozenset()
    if not trusted and "none" not in asked:
        if asked & {"id", "user"}:  # RFC 3325 §7
            hidden |= _ASSERTED | _SIGNED
        if asked & {"history", "header", "session"}:  # RFC 7044 §10.1
            hidden |= {"history-info"}
    return hidden


def _privacy_left(asked: frozenset[str], trusted: bool) -> str:
    """Return the Privacy that is still to be asked for: what was done here is taken out (RFC 3323 §5).

    ``user`` is done by `wants_anonymity`, ``header`` and ``session`` by being a back-to-back user agent; ``id`` holds
    for whoever stands at the edge of the trust domain.
    """
    left = asked - {"user", "header", "session", "critical"}
    if not trusted:
        left &= {"none"}
    if left and "critical" in asked:
        left |= {"critical"}
    return ";".join(sorted(left, key=lambda token: (token == "critical", token)))


def _is_private(name: str, value: str) -> bool:
    """Tell whether a line of a call's past asks for itself not to be shown."""
    return _diversion_is_private(value) if name == "diversion" else name == "history-info" and _entry_is_private(value)


def _entry_is_private(history: str) -> bool:
    """Tell whether an entry of History-Info bears a Privacy of its own in its URI (RFC 7044 §10.1.1)."""
    return any(name.lower() == "privacy" and value.lower() != "none" for name, value in _EMBEDDED.findall(history))


def _diversion_is_private(diversion: str) -> bool:
    """Tell whether a Diversion asks not to be shown (RFC 5806 §4.1 ``privacy``)."""
    for value in split_list(diversion):
        try:
            params = parse_params(value.rpartition(">")[2])
        except PeerError:
            return True
        if (param_value(params, "privacy") or "off").strip('"').lower() != "off":
            return True
    return False


def _with_plus(header: Header, policy: str) -> Header:
    """Write the numbers of a header's URIs as the receiver wants them (D2); unchanged, it stays the same bytes."""

    def number(match: re.Match[str]) -> str:
        if match[1] == "tel:" and policy == "strip":
            return match[0]  # without + a tel URI would need a phone-context (RFC 3966 §5.1.5)
        return match[1] + with_plus(match[2], policy)

    value = _NUMBER.sub(number, header.value)
    return header if value == header.value else Header(header.name, value)


def static(headers: Mapping[str, str]) -> tuple[Header, ...]:
    """Return the headers that a profile always adds (D4)."""
    return tuple(Header(name, value) for name, value in headers.items())
