"""Anchoring: descriptions in which the media is ours, with nothing of the other side's network in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bridge.sdp.session import Codec, Description, MediaSection, assemble

_TIME = re.compile(r"t=[0-9]{1,20} [0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where our side of a leg's media is, and our o= line for that leg.

    ``version`` is the o= version: the caller raises it by one whenever the description changes (RFC 3264 §8);
    `bridge.sdp.offer_answer.differs` says whether it did.
    """

    address: str  # advertised media address: an IPv4 or IPv6 literal, without brackets
    port: int  # RTP; RTCP is port + 1
    session_id: int  # of the o= line: constant for the leg
    version: int


def describe(anchor: Anchor, sections: Iterable[Sequence[str]], times: Sequence[str] = ()) -> Description:
    """Build a description of ours around media sections; ``times`` are the t= lines to repeat.

    o=, s= and c= are ours, and a user name is never told (RFC 8866 §5.2: "-").
    """
    network = f"IN {'IP6' if ':' in anchor.address else 'IP4'} {anchor.address}"
    lines = [
        "v=0",
        f"o=- {anchor.session_id} {anchor.version} {network}",
        "s=-",
        f"c={network}",
        *(times or ("t=0 0",)),
    ]
    return assemble(lines, sections)


def audio(
    anchor: Anchor, codecs: Sequence[Codec], direction: str, ptime_ms: int, mux: bool, rtcp_port: int
) -> list[str]:
    """Write our audio section: RTP/AVP at the anchor, an rtpmap for every number, RTCP at ``rtcp_port``."""
    lines = [f"m=audio {anchor.port} RTP/AVP {' '.join(str(codec.payload_type) for codec in codecs)}"]
    for codec in codecs:
        channels = f"/{codec.channels}" if codec.channels > 1 else ""
        name = _SPELLING.get(codec.encoding, codec.encoding)
        lines.append(f"a=rtpmap:{codec.payload_type} {name}/{codec.clock_rate}{channels}")
        if codec.fmtp:
            lines.append(f"a=fmtp:{codec.payload_type} {codec.fmtp}")
    lines.append(f"a=ptime:{ptime_ms}")
    lines.append(f"a={direction}")
    lines.append(f"a=rtcp:{rtcp_port}")
    if mux:
        lines.append("a=rtcp-mux")
    return lines


def rejected(section: MediaSection) -> list[str]:
    """Write the refusal of an offered section: port 0, its own formats, nothing else (RFC 3264 §6)."""
    return [f"m={section.kind} 0 {section.protocol} {' '.join(section.formats)}"]


def times(description: Description) -> list[str]:
    """Return the t= lines of an offer, which its answer repeats (RFC 3264 §6)."""
    return [line for line in description.lines if _TIME.fullmatch(line)]


# The registered spelling of names that are not in capitals (RFC 4733 §7.1.1, RFC 7587 §6.1)
_SPELLING = {"TELEPHONE-EVENT": "telephone-event", "OPUS": "opus"}
