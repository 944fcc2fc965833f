"""Offer and answer per leg (RFC 3264): what we offer one peer, what we answer the other, and what came of it.

Each leg is negotiated on its own with our anchor in it; the two meet in the codecs, since nothing is
transcoded: what we offer the callee is what the caller offered, and what we answer the caller is what the
callee took.

RTCP multiplexing (RFC 5761, R65) belongs to a leg, because RTCP ends there. We offer ``a=rtcp-mux`` only
where the other side's offer shows that such peers are about, answer it always where it was offered, and use
it only where both said so.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from bridge.errors import PeerError
from bridge.literals import address_of, is_private
from bridge.sdp.anchor import Anchor, audio, describe, rejected, times
from bridge.sdp.session import Codec, Description, MediaSection

__all__ = [
    "Anchor",
    "CodecPolicy",
    "Negotiated",
    "differs",
    "local_answer",
    "make_answer",
    "make_offer",
    "negotiated",
    "payload_map",
]

TELEPHONE_EVENT = "TELEPHONE-EVENT"

# The formats a policy can name, with the numbers we give them where nobody else has numbered them
_FORMATS = {
    "PCMU": Codec(0, "PCMU", 8000),
    "PCMA": Codec(8, "PCMA", 8000),
    "G722": Codec(9, "G722", 8000),
    "OPUS": Codec(96, "OPUS", 48000, 2),
}
_EVENTS = Codec(101, TELEPHONE_EVENT, 8000, 1, "0-15")
_PTIMES_MS = (10, 20, 30, 40, 60)
_DEFAULT_PTIME_MS = 20


@dataclass(frozen=True, slots=True)
class CodecPolicy:
    """What may be spoken on a leg: encodings in capitals in order of preference, and whether telephone events
    pass.
    """

    codecs: tuple[str, ...]
    telephone_event: bool
    ptime_ms: int

    def within(self, other: CodecPolicy) -> CodecPolicy:
        """Return what both policies allow, in this one's order: nothing is transcoded, so both legs must
        allow it.
        """
        codecs = tuple(encoding for encoding in self.codecs if encoding in other.codecs)
        return CodecPolicy(codecs, self.telephone_event and other.telephone_event, self.ptime_ms)

    def select(self, codecs: Iterable[Codec]) -> list[Codec]:
        """Return those of ``codecs`` that the policy allows, in their order; no audio codec among them: none
        at all.

        Telephone events stay only with the clock rate of a codec that stays (RFC 4733 §2.1: one RTP clock).
        """
        offered = list(codecs)
        wanted = {_FORMATS[encoding].format for encoding in self.codecs if encoding in _FORMATS}
        taken = [codec for codec in offered if codec.format in wanted]
        rates = {codec.clock_rate for codec in taken}
        if self.telephone_event:
            taken += [codec for codec in offered if codec.encoding == TELEPHONE_EVENT and codec.clock_rate in rates]
        return taken


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What one leg agreed.

    ``codecs`` carry the peer's numbers, those we send with, in the order of the answer, telephone events
    last. ``receive_codecs`` carry the numbers that the peer may send with: ours first (RFC 3264 §5.1), then
    the peer's own where it numbered otherwise. ``remote_rtp`` is None where the peer named no usable address;
    ``remote_rtcp`` is None unless ``a=rtcp`` named one (then: RTP port + 1, or the RTP address under
    ``rtcp_mux``). ``private_address``: what the peer wrote can't be reached from outside its network.
    """

    remote_rtp: tuple[str, int] | None
    remote_rtcp: tuple[str, int] | None
    rtcp_mux: bool
    may_send: bool
    may_receive: bool
    codecs: tuple[Codec, ...]
    ptime_ms: int
    private_address: bool
    receive_codecs: tuple[Codec, ...] = ()


def make_offer(
    source: Description | None, policy: CodecPolicy, anchor: Anchor, direction: str = "sendrecv"
) -> Description:
    """Make our offer to one peer of the other peer's offer: one audio section (D25), its codecs within
    ``policy``.

    The source's payload numbers and order stay; telephone events are offered if the source has them. Without
    a source (an INVITE without SDP) the whole policy is offered with our own numbers (D10). Raises
    PeerError(488).
    """
    if source is None:
        codecs, mux = _whole(policy), False
    else:
        section = _usable(source, policy)
        codecs, mux = _usable_codecs(section, policy), section.rtcp_mux
    if not codecs:
        raise _not_acceptable()
    # RFC 5761 §5.1.1: a=rtcp in an offer says where RTCP goes if the answer has no a=rtcp-mux
    return describe(anchor, [audio(anchor, codecs, direction, policy.ptime_ms, mux, anchor.port + 1)])


def make_answer(
    offer: Description, chosen: Description, policy: CodecPolicy, anchor: Anchor, direction: str
) -> Description:
    """Answer ``offer`` with what the other peer's answer ``chosen`` took of it.

    ``policy`` is the one that our offer to the other peer was made with, so codecs that it named unasked are
    ignored. The m-lines of the offer keep number and order; all but the first usable audio line are rejected
    (R31). Numbers are the offer's, the order is that of ``chosen``, telephone events need both. ``direction``
    is what we would like; the answer never claims more than the offer allows (RFC 3264 §6.1). Raises
    PeerError(488) if nothing is common.
    """
    taken = next((_usable_codecs(section, policy) for section in chosen.media if _is_live_audio(section)), [])
    order = {codec.format: position for position, codec in reversed(list(enumerate(taken)))}
    fmtp = {codec.format: codec.fmtp for codec in reversed(taken)}
    for index, section in enumerate(offer.media):
        if not _is_live_audio(section):
            continue
        common = [codec for codec in _usable_codecs(section, policy) if codec.format in order]
        if _has_audio(common):
            common.sort(key=lambda codec: order[codec.format])
            # The events that the other peer can take are what we can take (RFC 4733 §2.4.1)
            answered = [
                replace(codec, fmtp=fmtp[codec.format]) if codec.encoding == TELEPHONE_EVENT else codec
                for codec in common
            ]
            return _answer(offer, index, answered, direction, policy.ptime_ms, anchor)
    raise _not_acceptable()


def local_answer(
    offer: Description, current: Description, anchor: Anchor, theirs: Description | None = None
) -> tuple[Description, bool]:
    """Answer a re-offer without asking the other leg (D23), keeping the codecs in use; and say if media
    changed.

    ``current`` is our description on that leg, ``theirs`` the peer's last one. The bool is True if the peer's
    address, its port, its RTCP, the direction or the payload numbers changed; without ``theirs`` it is always
    True, as the address may have. Raises PeerError(488) if the re-offer drops every codec in use, which
    leaves the session as it was (RFC 3264 §8).
    """
    before = _active(current)
    if before is None:
        raise _not_acceptable()
    position, ours = before
    in_use = ours.codecs
    if theirs is not None:
        agreed = {codec.format for codec in negotiated(current, theirs).codecs}
        in_use = tuple(codec for codec in in_use if codec.format in agreed)
    order = {codec.format: rank for rank, codec in reversed(list(enumerate(in_use)))}
    fmtp = {codec.format: codec.fmtp for codec in reversed(in_use)}
    # The section in use comes first, whatever else is offered beside it
    candidates = sorted(enumerate(offer.media), key=lambda pair: pair[0] != position)
    for index, section in candidates:
        if not _is_live_audio(section):
            continue
        codecs = [replace(codec, fmtp=fmtp[codec.format]) for codec in _numbered(section) if codec.format in order]
        if _has_audio(codecs):
            codecs.sort(key=lambda codec: order[codec.format])
            # Hold ends when the peer ends it, so we always want all that it allows (RFC 3264 §6.1)
            answer = _answer(offer, index, codecs, "sendrecv", ours.ptime_ms or _DEFAULT_PTIME_MS, anchor)
            if theirs is None:
                return answer, True
            return answer, _facts(answer, offer) != _facts(current, theirs)
    raise _not_acceptable()


@lru_cache(maxsize=256)  # a call asks several times what it has agreed
def negotiated(ours: Description, theirs: Description, we_answered: bool = False) -> Negotiated:
    """Read what a leg agreed: ``theirs`` is the peer's offer or answer, ``ours`` our counterpart to it.

    ``we_answered`` says which of the two is the answer, whose order of codecs counts. Raises PeerError(488)
    if the peer took nothing of ours.
    """
    active = _active(ours)
    if active is None:
        raise _not_acceptable()
    index, near = active
    far = theirs.media[index] if index < len(theirs.media) else None
    if far is None or not _is_live_audio(far):
        far = next((section for section in theirs.media if _is_live_audio(section)), None)
    if far is None:
        raise _not_acceptable()
    mux = near.rtcp_mux and far.rtcp_mux
    our_formats = {codec.format: codec for codec in reversed(near.codecs)}
    codecs = [codec for codec in _numbered(far, mux) if codec.format in our_formats]
    if not _has_audio(codecs):
        raise _not_acceptable()
    if we_answered:
        order = {codec.format: rank for rank, codec in reversed(list(enumerate(near.codecs)))}
        codecs.sort(key=lambda codec: order[codec.format])
    codecs.sort(key=lambda codec: codec.encoding == TELEPHONE_EVENT)
    remote, rtcp = far.connection or "", far.rtcp
    near_direction, far_direction = near.direction, far.direction
    return Negotiated(
        remote_rtp=(remote, far.port) if _address(remote) else None,
        remote_rtcp=rtcp if rtcp and not mux and _address(rtcp[0]) else None,
        rtcp_mux=mux,
        may_send=near_direction in ("sendrecv", "sendonly") and far_direction in ("sendrecv", "recvonly"),
        may_receive=near_direction in ("sendrecv", "recvonly") and far_direction in ("sendrecv", "sendonly"),
        codecs=tuple(codecs),
        ptime_ms=_ptime_ms(far, near),
        private_address=_is_private(remote),
        receive_codecs=_receive_codecs([our_formats[codec.format] for codec in codecs], codecs),
    )


def payload_map(near: Negotiated, far: Negotiated) -> tuple[tuple[int, str, int, int | None], ...]:
    """Map the near leg's payload numbers to the far leg's (R63): (number, encoding, clock rate, far number or
    None).

    The numbers are those that arrive on the near leg; the far number is the one to send with there.
    """
    numbers = {codec.format: codec.payload_type for codec in reversed(far.codecs)}
    return tuple(
        (codec.payload_type, codec.encoding, codec.clock_rate, numbers.get(codec.format))
        for codec in near.receive_codecs
    )


def differs(new: Description, current: Description) -> bool:
    """Say whether two descriptions of ours differ in more than o=, so that its version must rise (RFC 3264
    §8).
    """
    return _without_origin(new) != _without_origin(current)


def _answer(
    offer: Description, index: int, codecs: Sequence[Codec], direction: str, ptime_ms: int, anchor: Anchor
) -> Description:
    """Answer section ``index`` of the offer with ``codecs`` and reject the others."""
    taken = offer.media[index]
    allowed = _answer_direction(taken.direction, direction)
    rtcp_port = anchor.port if taken.rtcp_mux else anchor.port + 1
    ours = audio(anchor, codecs, allowed, ptime_ms, taken.rtcp_mux, rtcp_port)
    sections = [ours if position == index else rejected(other) for position, other in enumerate(offer.media)]
    return describe(anchor, sections, times(offer))


def _answer_direction(offered: str, wanted: str) -> str:
    """Return the most of ``wanted`` that an offer of direction ``offered`` allows (RFC 3264 §6.1)."""
    send = offered in ("sendrecv", "recvonly") and wanted in ("sendrecv", "sendonly")
    receive = offered in ("sendrecv", "sendonly") and wanted in ("sendrecv", "recvonly")
    return {(True, True): "sendrecv", (True, False): "sendonly", (False, True): "recvonly"}.get(
        (send, receive), "inactive"
    )


def _whole(policy: CodecPolicy) -> list[Codec]:
    codecs = [_FORMATS[encoding] for encoding in policy.codecs if encoding in _FORMATS]
    return [*codecs, _EVENTS] if codecs and policy.telephone_event else codecs


def _usable(description: Description, policy: CodecPolicy) -> MediaSection:
    """Return the first audio section that shares a codec with the policy."""
    for section in description.media:
        if _is_live_audio(section) and _usable_codecs(section, policy):
            return section
    raise _not_acceptable()


def _usable_codecs(section: MediaSection, policy: CodecPolicy) -> list[Codec]:
    codecs = policy.select(_numbered(section))
    # Events that were offered without their parameter mean 0-15 (RFC 4733 §2.4.1); say so to the next one
    return [
        replace(codec, fmtp="0-15") if codec.encoding == TELEPHONE_EVENT and not codec.fmtp else codec
        for codec in codecs
    ]


def _numbered(section: MediaSection, mux: bool | None = None) -> list[Codec]:
    """Return the codecs of a section without the numbers that RTCP owns under rtcp-mux (RFC 5761 §4: 64 to
    95).
    """
    if not (section.rtcp_mux if mux is None else mux):
        return list(section.codecs)
    return [codec for codec in section.codecs if not 64 <= codec.payload_type <= 95]


def _receive_codecs(ours: Sequence[Codec], theirs: Sequence[Codec]) -> tuple[Codec, ...]:
    """Return the formats under every number that may arrive.

    A peer sends with the numbers of our description (RFC 3264 §5.1, §6.1); one that answered with others
    often sends with its own, which is taken too where the number is not another format's.
    """
    by_number = {codec.payload_type: codec for codec in ours}
    for codec in theirs:
        by_number.setdefault(codec.payload_type, codec)
    return tuple(by_number.values())


def _is_live_audio(section: MediaSection) -> bool:
    return section.kind == "audio" and section.port != 0 and section.protocol.upper() == "RTP/AVP"


def _has_audio(codecs: Iterable[Codec]) -> bool:
    return any(codec.encoding != TELEPHONE_EVENT for codec in codecs)


def _active(ours: Description) -> tuple[int, MediaSection] | None:
    return next(((index, section) for index, section in enumerate(ours.media) if section.port), None)


def _facts(ours: Description, theirs: Description) -> tuple[object, ...]:
    leg = negotiated(ours, theirs, we_answered=True)
    return (
        leg.remote_rtp,
        leg.remote_rtcp,
        leg.rtcp_mux,
        leg.may_send,
        leg.may_receive,
        frozenset(leg.codecs),
        leg.ptime_ms,
    )


def _ptime_ms(far: MediaSection, near: MediaSection) -> int:
    """Return the packet length the peer wants to receive, or ours."""
    for section in (far, near):
        if section.ptime_ms in _PTIMES_MS:
            return section.ptime_ms or _DEFAULT_PTIME_MS
    return _DEFAULT_PTIME_MS


def _address(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address to which something can be sent; None for a host name and for 0.0.0.0."""
    address = address_of(text or "")
    return None if address is None or address.is_unspecified else address


def _is_private(text: str) -> bool:
    """Tell whether a peer beyond a NAT can't be reached at an address."""
    address = address_of(text)
    return address is not None and (address.is_loopback or is_private(text))


def _without_origin(description: Description) -> tuple[object, ...]:
    return tuple(line for line in description.lines if not line.startswith("o=")), description.media


def _not_acceptable() -> PeerError:
    return PeerError(488, "Not Acceptable Here")  # RFC 3261 §21.4.26
