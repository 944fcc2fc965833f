"""Turn new work away for less than it would cost to understand it (RFC 7339 in spirit, RFC 3261 §21.5.4).

Nothing is parsed and nothing is remembered: a few lines go back as they came. What belongs to a dialog is never refused
here, because a call that stands costs less than one that has to be ended.

How much is refused follows from how far behind the bridge is, so that it settles where just as much is refused as it
can't do: more would leave it idle, less would let answers come later than T1, when peers send everything again.
"""

from __future__ import annotations

import enum
import zlib
from dataclasses import dataclass, replace

from bridge.sip.events import Flow

RETRY_AFTER = 10
"""Seconds after which a peer may try again."""
TOLERATED = 0.15
"""Seconds of arrears at which nothing is refused yet."""
FULL = 0.4
"""Seconds at which every new call is: with what is left of T1 (0.5 s), an answer still comes before a repeat."""
HOPELESS = 2.0
"""Seconds at which whatever is new is dropped unread: its sender has sent it again, or given up."""
_COPIED = {b"via": 0, b"v": 0, b"from": 1, b"f": 1, b"to": 2, b"t": 2, b"call-id": 3, b"i": 3, b"cseq": 4}
_SHED = (b"INVITE ", b"OPTIONS ", b"REGISTER ", b"SUBSCRIBE ", b"MESSAGE ", b"PUBLISH ", b"REFER ")


class Pressure(enum.IntEnum):
    """What is done with new work."""

    NONE = 0
    HIGH = 1  # new calls get 503
    EXTREME = 2  # whatever is new is dropped unread


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 503, and where it goes."""

    call_id: str
    data: bytes
    flow: Flow

    def is_among(self, share: float) -> bool:
        """Tell whether it is one of a share of all, 0 to 1; a repeat meets the fate of the first."""
        return zlib.crc32(self.call_id.encode("utf-8", "replace")) < share * 2**32


def pressure_of(arrears: float) -> Pressure:
    """Return what is done with new work when the bridge is so many seconds behind."""
    if arrears <= TOLERATED:
        return Pressure.NONE
    return Pressure.HIGH if arrears < HOPELESS else Pressure.EXTREME


def refused_share(arrears: float) -> float:
    """Return what share of new calls is refused then, 0 to 1."""
    return min(1.0, max(0.0, (arrears - TOLERATED) / (FULL - TOLERATED)))


def is_new(data: bytes) -> bool:
    """Tell whether a message is a request that begins something, outside any dialog."""
    return data.startswith(_SHED) and _to_tag(data) is False


def refusal(data: bytes, flow: Flow) -> Refusal | None:
    """Return the 503 for an INVITE outside dialogs; None for everything else, and what is too odd to answer cheaply."""
    if not data.startswith(b"INVITE "):
        return None
    parts: list[list[bytes]] = [[], [], [], [], []]
    for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        if line[:1] in (b" ", b"\t"):
            return None  # folded: the parser's business
        name = line.partition(b":")[0].rstrip().lower()
        if name in _COPIED:
            parts[_COPIED[name]].append(line)
    vias, *single = parts
    if not vias or any(len(lines) != 1 for lines in single):
        return None
    sender, to, call_id, cseq = (lines[0] for lines in single)
    if _has_tag(to):
        return None
    destination = flow
    if flow.transport == "udp":
        answered = _answer_to(vias[0], flow)
        if answered is None:
            return None
        vias[0], destination = answered
    # The same tag for a repeat of the request, with nothing to remember it by
    tag = b"%08x" % zlib.crc32(call_id + cseq + sender)
    lines = (
        b"SIP/2.0 503 Service Unavailable",
        *vias,
        sender,
        to + b";tag=" + tag,
        call_id,
        cseq,
        b"Retry-After: %d" % RETRY_AFTER,
        b"Content-Length: 0\r\n\r\n",
    )
    return Refusal(call_id.partition(b":")[2].strip().decode("utf-8", "replace"), b"\r\n".join(lines), destination)


def _answer_to(via: bytes, flow: Flow) -> tuple[bytes, Flow] | None:
    """Write the packet's source into a Via, and say where its answer goes (RFC 3261 §18.2.2, RFC 3581 §4)."""
    first, comma, rest = via.partition(b",")
    head, *params = first.split(b";")
    address, port = flow.remote
    received = b";received=" + address.encode("ascii")
    names = [param.strip().lower() for param in params]
    if any(name.startswith((b"maddr=", b"received=")) for name in names):
        return None
    if b"rport" in names:
        params[names.index(b"rport")] = b"rport=%d" % port
        return b";".join((head, *params)) + received + comma + rest, flow
    host_port = head.split()[-1].rpartition(b"]")[2] if b"]" in head else head.split()[-1]
    _, colon, digits = host_port.rpartition(b":")
    if colon and not (digits.isdigit() and len(digits) <= 5 and 0 < int(digits) < 65536):
        return None
    back = replace(flow, remote=(address, int(digits) if colon else 5060))
    return b";".join((head, *params)) + received + comma + rest, back


def _to_tag(data: bytes) -> bool | None:
    """Tell whether the To of a message has a tag; None where there is no plain To."""
    for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        name = line.partition(b":")[0].rstrip().lower()
        if name in (b"to", b"t"):
            return _has_tag(line)
    return None


def _has_tag(to: bytes) -> bool:
    return b";tag=" in to.rpartition(b">")[2].replace(b" ", b"").lower()
