"""Session descriptions (RFC 8866), kept line by line as they came: what is not understood is not touched.

A `Description` is its lines; everything typed (`MediaSection.codecs`, `direction` …) is read from them on
demand and never fails, because `parse` has refused what could not be read. The encoding is UTF-8 with
surrogate escapes, so any byte survives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from bridge.errors import PeerError

# T12: what no honest peer exceeds
MAX_BYTES = 64 * 1024
MAX_MEDIA_SECTIONS = 32
MAX_ATTRIBUTES = 256

DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
_DIRECTION_OF = {f"a={direction}": direction for direction in DIRECTIONS}
UNSPECIFIED = ("0.0.0.0", "::")

# RFC 3551 §6, tables 4 and 5: the static payload types of audio
_STATIC = {
    0: ("PCMU", 8000, 1),
    3: ("GSM", 8000, 1),
    4: ("G723", 8000, 1),
    5: ("DVI4", 8000, 1),
    6: ("DVI4", 16000, 1),
    7: ("LPC", 8000, 1),
    8: ("PCMA", 8000, 1),
    9: ("G722", 8000, 1),
    10: ("L16", 44100, 2),
    11: ("L16", 44100, 1),
    12: ("QCELP", 8000, 1),
    13: ("CN", 8000, 1),
    14: ("MPA", 90000, 1),
    15: ("G728", 8000, 1),
    16: ("DVI4", 11025, 1),
    17: ("DVI4", 22050, 1),
    18: ("G729", 8000, 1),
}

# Digits are spelt out: \d and int() take digits of every script
_FORMAT = re.compile("[0-9]{1,3}")
_PORT = re.compile(r"([0-9]{1,5})(?:/([0-9]{1,5}))?")
_CONNECTION = re.compile(r"c=IN +IP[46] +\[?([0-9A-Za-z.:%_-]+)\]?(?:/[0-9/]*)? *")
_RTPMAP = re.compile(r"a=rtpmap:([0-9]{1,3}) +([^/\s]+)/([0-9]{1,6})(?:/([0-9]{1,3}))?\s*")
_FMTP = re.compile(r"a=fmtp:([0-9]{1,3}) +(.*)")
_RTCP = re.compile(r"([0-9]{1,5})(?: +IN +IP[46] +\[?([0-9A-Za-z.:%_-]+)\]?)? *")
_PTIME = re.compile(r"([0-9]{1,3})(?:\.0*)? *")
# v=0, then <type>=<value> lines with line feeds between them
_SOUND = re.compile(r"v=0 *(?:\n[A-Za-z]=[^\r\n\0]*)*")


@dataclass(frozen=True, slots=True)
class Codec:
    """One payload format of an m-line: its number there, and what the number means."""

    payload_type: int
    encoding: str  # upper case
    clock_rate: int
    channels: int = 1
    fmtp: str = ""

    @property
    def format(self) -> tuple[str, int, int]:
        """What makes two payload formats the same whatever their numbers (RFC 3264 §6.1)."""
        return (self.encoding, self.clock_rate, self.channels)


@dataclass(frozen=True, slots=True)
class MediaSection:
    """One m-line and the lines below it; ``line`` is the m-line as it came, ``session`` the session-level lines."""

    line: str
    kind: str
    port: int
    port_count: int
    protocol: str
    formats: tuple[str, ...]
    lines: tuple[str, ...]
    session: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def attribute(self, name: str) -> str | None:
        """Return the value of the first ``a=name`` of this section, "" where it has none, None if it is not
        there.
        """
        flag, prefix = f"a={name}", f"a={name}:"
        for line in self.lines:
            if line.startswith(flag):
                if line.startswith(prefix):
                    return line[len(prefix) :]
                if line.rstrip(" ") == flag:
                    return ""
        return None

    def attributes(self, name: str) -> tuple[str, ...]:
        """Return the values of every ``a=name`` of this section, in order."""
        return tuple(_attributes(self.lines, name))

    @property
    def connection(self) -> str | None:
        """Return the address of this section or else of the session: a literal without brackets, or a host name."""
        for line in (*self.lines, *self.session):
            if line.startswith("c=") and (match := _CONNECTION.fullmatch(line)):
                return match[1]
        return None

    @property
    def direction(self) -> str:
        """Return what the writer wants to do: its own attribute, else the session's, else sendrecv (RFC 3264
        §5.1).

        An unspecified address takes reception away: hold as RFC 2543 had it (RFC 3264 §8.4, R34).
        """
        direction = "sendrecv"
        for line in (*self.lines, *self.session):
            found = _DIRECTION_OF.get(line.rstrip(" "))
            if found is not None:
                direction = found
                break
        if self.connection in UNSPECIFIED:
            return {"sendrecv": "sendonly", "recvonly": "inactive"}.get(direction, direction)
        return direction

    @property
    def rtcp(self) -> tuple[str, int] | None:
        """Return where ``a=rtcp`` wants RTCP (RFC 3605); None where it is not said or no port."""
        match = _RTCP.fullmatch(self.attribute("rtcp") or "")
        if not match or not 0 < int(match[1]) < 65536:
            return None
        address = match[2] or self.connection
        return (address, int(match[1])) if address else None

    @property
    def rtcp_mux(self) -> bool:
        return self.attribute("rtcp-mux") is not None

    @property
    def ptime_ms(self) -> int | None:
        """Return ``a=ptime`` where it is a packet length that telephony knows; anything else counts as not said."""
        match = _PTIME.fullmatch(self.attribute("ptime") or "")
        return int(match[1]) if match and 1 <= int(match[1]) <= 200 else None

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """Return the payload formats in the order of the m-line, without the numbers that nothing explains."""
        return _codecs(self.formats, self.lines)


@dataclass(frozen=True, slots=True)
class Description:
    """A session description: the session-level lines and the media sections, without line ends."""

    lines: tuple[str, ...]
    media: tuple[MediaSection, ...] = ()

    def encode(self) -> bytes:
        """Print the description with CRLF after each line."""
        lines = list(self.lines)
        for section in self.media:
            lines.append(section.line)
            lines.extend(section.lines)
        lines.append("")
        return "\r\n".join(lines).encode("utf-8", "surrogateescape")

    @property
    def origin(self) -> str:
        """Return the o= value as it came ("" without one): equal in two offers of one peer, nothing has
        changed.
        """
        return next((line[2:] for line in self.lines if line.startswith("o=")), "")


def parse(data: bytes) -> Description:
    """Read a session description; bare LF and a missing last line end are accepted (RFC 8866 §5, R69).

    Raises PeerError(488) for what is no description or exceeds the limits (T12).
    """
    if len(data) > MAX_BYTES:
        raise _refusal(f"more than {MAX_BYTES // 1024} kB of SDP")
    text = data.decode("utf-8", "surrogateescape")
    lines = text.replace("\r\n", "\n").removesuffix("\r").rstrip("\n").split("\n")
    return build(lines)


def assemble(session: Sequence[str], sections: Iterable[Sequence[str]]) -> Description:
    """Make a description of lines that we wrote ourselves: what `build` checks is so by construction."""
    above = tuple(session)
    return Description(above, tuple([_section(lines[0], tuple(lines[1:]), above) for lines in sections]))


def build(lines: Sequence[str]) -> Description:
    """Make a description of its lines (without line ends). Raises PeerError(488)."""
    if not lines or lines[0].rstrip(" ") != "v=0":
        raise _refusal("SDP does not begin with v=0")
    text = "\n".join(lines)
    if not _SOUND.fullmatch(text):
        if "\0" in text or "\r" in text:
            raise _refusal("an SDP line with a control character")
        raise _refusal("an SDP line that is not <type>=<value>")
    if text.count("\n") >= len(lines):
        raise _refusal("an SDP line with a control character")
    for line in lines:
        if line.startswith("c=") and not _CONNECTION.fullmatch(line):
            raise _refusal("an SDP c= line without an address")
    starts = [index for index, line in enumerate(lines) if line.startswith("m=")]
    if len(starts) > MAX_MEDIA_SECTIONS:
        raise _refusal(f"more than {MAX_MEDIA_SECTIONS} m-lines")
    ends = [*starts, len(lines)][1:]
    session = tuple(lines[: starts[0]] if starts else lines)
    _limit_attributes(session)
    sections = [_section(lines[s], tuple(lines[s + 1 : e]), session) for s, e in zip(starts, ends, strict=True)]
    return Description(session, tuple(sections))


def _section(line: str, lines: tuple[str, ...], session: tuple[str, ...]) -> MediaSection:
    _limit_attributes(lines)
    kind, port_text, protocol, *formats = [*filter(None, line[2:].split(" ")), "", "", ""]
    match = _PORT.fullmatch(port_text)
    formats = [text for text in formats if text]
    if not match or int(match[1]) > 65535 or not formats:
        raise _refusal("an SDP m-line that is not <media> <port> <proto> <fmt>")
    section = MediaSection(line, kind, int(match[1]), int(match[2] or 1), protocol, tuple(formats), lines, session)
    # RFC 8866 §5.7: c= is there at one of the two levels; a rejected section needs none
    if section.port and section.connection is None:
        raise _refusal("an SDP media section without a c= line")
    return section


@lru_cache(maxsize=1024)  # a call reads the same few sections over and over, and most of its peer's calls look alike
def _codecs(formats: tuple[str, ...], lines: tuple[str, ...]) -> tuple[Codec, ...]:
    rtpmap: dict[int, re.Match[str]] = {}
    fmtp: dict[int, str] = {}
    for line in lines:
        if line.startswith("a=rtpmap:") and (match := _RTPMAP.fullmatch(line)):
            rtpmap.setdefault(int(match[1]), match)
        elif line.startswith("a=fmtp:") and (match := _FMTP.fullmatch(line)):
            fmtp.setdefault(int(match[1]), match[2].strip())
    codecs: dict[int, Codec] = {}
    for text in formats:
        if not _FORMAT.fullmatch(text) or (number := int(text)) > 127 or number in codecs:
            continue
        if explained := rtpmap.get(number):
            encoding, rate, channels = explained[2].upper(), int(explained[3]), int(explained[4] or 1)
        elif number in _STATIC:
            encoding, rate, channels = _STATIC[number]
        else:
            continue
        if rate and channels:
            codecs[number] = Codec(number, encoding, rate, channels, fmtp.get(number, ""))
    return tuple(codecs.values())


def _limit_attributes(lines: Sequence[str]) -> None:
    if len(lines) > MAX_ATTRIBUTES and sum(line.startswith("a=") for line in lines) > MAX_ATTRIBUTES:
        raise _refusal(f"more than {MAX_ATTRIBUTES} SDP attributes in one section")


def _attributes(lines: Iterable[str], name: str) -> Iterable[str]:
    flag, prefix = f"a={name}", f"a={name}:"
    for line in lines:
        if line.startswith(prefix):
            yield line[len(prefix) :]
        elif line.rstrip(" ") == flag:
            yield ""


def _refusal(problem: str) -> PeerError:
    # RFC 3261 §21.4.26, T12. `problem` is ours alone: nothing of the peer's goes back into a status line.
    return PeerError(488, f"Not Acceptable Here ({problem})")
