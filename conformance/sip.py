"""SIP messages as text, for peers that must not share the bridge's own reading of them.

This is deliberately not `bridge.sip`: a peer that parsed with the code under test would agree with its
mistakes. It reads what a decent peer writes, leniently, and writes plain RFC 3261.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

_COMPACT = {
    "v": "via", "f": "from", "t": "to", "i": "call-id", "m": "contact", "l": "content-length",
    "c": "content-type", "k": "supported", "s": "subject", "e": "content-encoding", "r": "refer-to",
    "x": "session-expires", "o": "event", "u": "allow-events", "b": "referred-by",
}  # fmt: skip


@dataclass(slots=True)
class Message:
    """One SIP message: its start line, its headers in order with lower-case names, its body."""

    start_line: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    at: float = 0.0  # monotonic time of arrival
    source: tuple[str, int] = ("", 0)

    @property
    def status(self) -> int:
        """The status code of a response, 0 for a request."""
        return int(self.start_line.split()[1]) if self.start_line.startswith("SIP/2.0 ") else 0

    @property
    def method(self) -> str:
        """The method of a request, or of the request that a response answers."""
        if self.status:
            return self.get("cseq").split()[-1] if self.get("cseq") else ""
        return self.start_line.split(" ", 1)[0]

    @property
    def uri(self) -> str:
        """The Request-URI, empty for a response."""
        return "" if self.status else self.start_line.split(" ")[1]

    def get(self, name: str) -> str:
        """Return the first header of that name, or an empty string."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key == wanted), "")

    def all(self, name: str) -> list[str]:
        """Return every value of that header in order, comma-separated ones of the list headers apart."""
        wanted = name.lower()
        values = [value for key, value in self.headers if key == wanted]
        if wanted in {"via", "route", "record-route", "contact"}:
            return [part.strip() for value in values for part in _split(value)]
        return values

    @property
    def cseq(self) -> int:
        return int(self.get("cseq").split()[0])

    @property
    def branch(self) -> str:
        return parameter(self.all("via")[0], "branch")

    @property
    def audio(self) -> Audio | None:
        """The audio section of the SDP body, None if there is no body."""
        return read_sdp(self.body) if self.body.strip() else None


def _split(value: str) -> list[str]:
    return re.split(r",(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)(?![^<]*>)", value)


def parse(data: bytes) -> Message:
    """Read one datagram. Raises ValueError for what is no SIP message."""
    head, separator, body = data.partition(b"\r\n\r\n")
    lines = re.sub(r"\r\n[ \t]+", " ", head.decode("utf-8", "surrogateescape")).split("\r\n")
    if not separator or "SIP/2.0" not in lines[0]:
        raise ValueError("not a SIP message")
    headers: list[tuple[str, str]] = []
    for line in lines[1:]:
        name, _, value = line.partition(":")
        lower = name.strip().lower()
        headers.append((_COMPACT.get(lower, lower), value.strip()))
    return Message(lines[0], headers, body)


def parameter(value: str, name: str) -> str:
    """Return a header or URI parameter outside angle brackets, empty if it is absent or has no value."""
    outside = value.rsplit(">", 1)[-1] if ">" in value else value
    found = re.search(rf";\s*{re.escape(name)}\s*=\s*\"?([^;,\s\"]*)", outside, re.IGNORECASE)
    return found.group(1) if found else ""


def address_uri(value: str) -> str:
    """Return the URI of a name-addr or addr-spec."""
    found = re.search(r"<([^>]*)>", value)
    return found.group(1) if found else value.split(";")[0].strip()


def uri_user(uri: str) -> str:
    """Return the user part of a SIP URI without its parameters."""
    found = re.match(r"sips?:([^@;]*)", uri)
    return found.group(1) if found and "@" in uri else ""


def uri_host_port(uri: str) -> tuple[str, int]:
    """Return host and port of a SIP URI; port 5060 where none is given."""
    hostport = re.sub(r"^sips?:", "", uri).split("@")[-1].split(";")[0].split("?")[0]
    host, _, port = hostport.partition(":")
    return host, int(port) if port.isdigit() else 5060


def token(length: int = 10) -> str:
    """Return a random token for a tag, branch or Call-ID of a test peer."""
    return "".join(random.choices("abcdefghijkmnpqrstuvwxyz23456789", k=length))


def request(start_line: str, headers: list[tuple[str, str]], body: str = "") -> bytes:
    """Print a request; Content-Length, and Content-Type where there is a body, are added."""
    lines = [start_line, *(f"{name}: {value}" for name, value in headers)]
    if body:
        lines.append("Content-Type: application/sdp")
    lines.append(f"Content-Length: {len(body.encode())}")
    return "\r\n".join([*lines, "", body]).encode("utf-8", "surrogateescape")


def response(
    to: Message,
    status: int,
    reason: str,
    tag: str = "",
    extra: list[tuple[str, str]] | None = None,
    body: str = "",
) -> bytes:
    """Print a response to a request: Via, From, To, Call-ID and CSeq copied (RFC 3261 §8.2.6.2)."""
    headers: list[tuple[str, str]] = []
    for name, value in to.headers:
        if name in {"via", "from", "call-id", "cseq"} or (name == "record-route" and 100 < status < 300):
            headers.append((name.title().replace("Cseq", "CSeq").replace("Call-Id", "Call-ID"), value))
        elif name == "to":
            tagged = value if not tag or parameter(value, "tag") else f"{value};tag={tag}"
            headers.append(("To", tagged))
    return request(f"SIP/2.0 {status} {reason}", headers + (extra or []), body)


@dataclass(frozen=True, slots=True)
class Audio:
    """The audio section of a description: where to send, and which formats in order."""

    address: tuple[str, int]
    payload_types: tuple[int, ...]
    direction: str
    text: str


def sdp(
    address: tuple[str, int],
    payload_types: tuple[int, ...] = (0, 8, 101),
    version: int = 1,
    direction: str = "sendrecv",
) -> str:
    """Write a description with one audio section on ``address``."""
    names = {0: "PCMU/8000", 8: "PCMA/8000", 101: "telephone-event/8000"}
    maps = "".join(f"a=rtpmap:{number} {names[number]}\r\n" for number in payload_types)
    events = "a=fmtp:101 0-16\r\n" if 101 in payload_types else ""
    return (
        f"v=0\r\no=party 4711 {version} IN IP4 {address[0]}\r\ns=-\r\nc=IN IP4 {address[0]}\r\nt=0 0\r\n"
        f"m=audio {address[1]} RTP/AVP {' '.join(map(str, payload_types))}\r\n{maps}{events}"
        f"a=ptime:20\r\na={direction}\r\n"
    )


def read_sdp(body: bytes) -> Audio | None:
    """Read the first audio section."""
    text = body.decode("utf-8", "replace")
    media = re.search(r"^m=audio (\d+) \S+ ([\d ]+)", text, re.MULTILINE)
    if media is None:
        return None
    section = text[media.start() :]
    connection = re.search(r"^c=IN IP4 (\S+)", section, re.MULTILINE) or re.search(
        r"^c=IN IP4 (\S+)", text, re.MULTILINE
    )
    direction = re.search(r"^a=(sendrecv|sendonly|recvonly|inactive)\s*$", text, re.MULTILINE)
    return Audio(
        (connection.group(1) if connection else "", int(media.group(1))),
        tuple(int(number) for number in media.group(2).split()),
        direction.group(1) if direction else "sendrecv",
        text,
    )
