"""profiles/*.toml → frozen `Profile`: what a carrier or a platform requires on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """State the behaviour of one kind of carrier or platform. Every field is a key of profiles/README.md."""

    name: str
    kind: str  # "carrier" | "platform"
    title: str
    checked_on: str  # YYYY-MM-DD: the oldest check of its facts

    # addressing
    hosts: tuple[str, ...]  # HOST[:PORT][;transport=…] in order of preference; config `hosts` overrides
    port: int  # where the host names none
    transports: tuple[str, ...]  # offered by the party; the first is used where nothing else is said
    request_uri: str  # template: "sip:{number}@{host}"; placeholders number, user, host and the peer's own keys
    plus: Mapping[str, str]  # request_uri, to, from → "add" | "strip" | "keep"

    # who may send to us
    signalling_sources: tuple[str, ...]  # CIDR
    media_sources: tuple[str, ...]  # CIDR, beyond what SDP says
    # authentication when we call it: "none" | "digest" | "any" (any credentials pass: D9)
    authentication: str

    # media
    codecs: tuple[str, ...]  # upper case encodings in order of preference, without telephone-event
    telephone_event: bool
    ptime_ms: int
    srtp: str  # "off" | "prefer" | "require"
    fill: str  # "silence" | "off": what goes to this party when the other side is quiet
    fill_after_ms: int
    latch: str  # "latch" | "strict"
    latch_for: float

    # timing, seconds
    ringing_after: float  # toward this party: 180 if nothing else was said by then (D7)
    response_deadline: float  # from this party: no response at all within it moves to the next target
    ring_deadline: float  # from this party: no final response within it is a CANCEL (D8)

    # failure
    retry: tuple[int, ...]  # final statuses of this party that move the call to the next target (D12)
    responses: Mapping[int, int]  # toward this party: far status → status sent here; others pass as they are

    # headers
    headers: Mapping[str, str]  # always added to requests toward this party
    pass_headers: tuple[str, ...]  # allow-list, accepted from this party: names, or prefixes as "X-*" (D39)

    requires: tuple[str, ...]  # features the bridge must have for this party: "tls", "srtp", "http-step" …
    notes: tuple[str, ...]  # known problems with their remedy, for `profiles show`
