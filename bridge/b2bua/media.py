"""What the relay is told of a leg: what its peer and the other leg's peer have agreed, and what our profile adds."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.b2bua.leg import Leg
from bridge.config import Peer
from bridge.media.relay import LegMedia, Payload
from bridge.sdp.offer_answer import CodecPolicy, Negotiated, negotiated, payload_map
from bridge.sdp.session import Description

SILENT_AFTER = 60.0  # seconds without RTP and RTCP after which a peer is asked whether it still lives
_SPEECH = ("PCMU", "PCMA")


@dataclass(slots=True)
class Origin:
    """What our o= line says to one peer: its session id, and the version used last (RFC 3264 §8)."""

    session: int
    version: int = 0


def codec_policy(peer: Peer) -> CodecPolicy:
    """Return what a peer's profile lets us negotiate with it."""
    profile = peer.profile
    return CodecPolicy(profile.codecs, profile.telephone_event, profile.ptime_ms)


def agreed(leg: Leg) -> Negotiated | None:
    """Return what a leg has agreed with its peer, None as long as one has said nothing. Raises PeerError(488)."""
    if leg.local_description is None or leg.remote_description is None:
        return None
    return negotiated(leg.local_description, leg.remote_description, leg.we_answered)


def answer_in_force(leg: Leg) -> Description | None:
    """Return the answer of a leg's last offer and answer: its codecs are what may be spoken.

    While the peer owes us the first answer, our offer says what it may be.
    """
    return leg.local_description if leg.we_answered else leg.remote_description or leg.local_description


def speaks_more(leg: Negotiated, other: Negotiated) -> bool:
    """Tell whether a leg's peer may speak a codec that the other leg has not taken."""
    taken = {codec.format for codec in other.codecs}
    return any(codec.format not in taken for codec in leg.codecs if codec.encoding in _SPEECH)


def leg_media(leg: Leg, near: Negotiated, far: Negotiated, fill: bool, tone: str | None = None) -> LegMedia:
    """Describe one leg's media to the relay. ``tone`` is heard by its peer in place of the other leg's."""
    profile = leg.peer.profile
    speech = next((codec for codec in near.codecs if codec.encoding in _SPEECH), None)
    permitted = list(profile.media_sources) if profile.latch == "latch" else []
    if near.private_address and profile.latch == "latch":
        permitted.append(leg.flow.remote[0])  # T01: the leg's signalling source stands in for it
    return LegMedia(
        remote_rtp=near.remote_rtp,
        remote_rtcp=near.remote_rtcp,
        rtcp_mux=near.rtcp_mux,
        may_send=near.may_send,
        may_receive=near.may_receive,
        payloads=tuple(Payload(*entry) for entry in payload_map(near, far)),
        ptime_ms=near.ptime_ms,
        fill_after_ms=profile.fill_after_ms if fill and profile.fill == "silence" else None,
        fill_payload_type=speech.payload_type if speech else None,
        permitted=tuple(permitted),
        latch_for=profile.latch_for if profile.latch == "latch" else 0.0,
        silent_after=SILENT_AFTER if fill and near.may_receive else None,
        tone=tone,
    )
