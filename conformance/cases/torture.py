"""Messages made to break parsers, from a known source over UDP and TCP: answered as torture.toml says, or dropped."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from conformance import sip
from conformance.connection import Connection
from conformance.ground import NUMBER, Ground, corpus
from conformance.peer import Peer, require
from conformance.runner import case


@dataclass(frozen=True, slots=True)
class Torture:
    """One message with what is written down for it in torture.toml, which explains its keys."""

    name: str
    data: bytes
    udp: str
    stream: tuple[str, ...]
    answer: tuple[str, ...]
    why: str

    @classmethod
    def all(cls) -> list[Torture]:
        """Read the messages of both RFCs. Raises NotApplicable without them, Unmet if one is not written down."""
        table = tomllib.loads((Path(__file__).parent.parent / "torture.toml").read_text(encoding="utf-8"))
        files = {
            "rfc4475": sorted((corpus("rfc4475") / "messages").glob("*.dat")),
            "rfc5118": sorted((corpus("rfc5118") / "wire").glob("*.sip")),
        }
        found = []
        for rfc, paths in files.items():
            differ = {path.stem for path in paths} ^ table[rfc].keys()
            require(not differ, f"torture.toml and the messages of {rfc} differ by {sorted(differ)}")
            for path in paths:
                row = table[rfc][path.stem]
                stream, answer = tuple(map(str, row["stream"])), tuple(map(str, row["answer"]))
                found.append(cls(path.stem, path.read_bytes(), str(row["udp"]), stream, answer, row["why"]))
        return found

    def allows(self, status: int) -> bool:
        """Tell whether the whole bridge may give this final status."""
        return str(status) in self.answer or ("call" in self.answer and status not in (400, 500))


@case(
    "torture-udp", "R15, R16, T11: RFC 4475 and RFC 5118 over UDP: each message as written down, and a call after each"
)
def torture_over_udp(ground: Ground) -> str:
    return _matrix(ground, _judged_over_udp)


@case(
    "torture-tcp", "R15, R16, T11: RFC 4475 and RFC 5118 over TCP: each message as written down, and a call after each"
)
def torture_over_tcp(ground: Ground) -> str:
    return _matrix(ground, partial(_judged_over_tcp, 0))


@case(
    "torture-split",
    "R15, T11: RFC 4475 and RFC 5118 over TCP in pieces of 1, 7 and 100 octets: the same answers, a call after each",
    limit=240,
    load=True,
)
def torture_in_pieces(ground: Ground) -> str:
    pieces = (1, 7, 100)
    for piece in pieces:
        told = _matrix(ground, partial(_judged_over_tcp, piece))
    return f"{len(told.splitlines())} messages in pieces of {', '.join(map(str, pieces))} octets: all as whole ones"


def _matrix(ground: Ground, judge: Callable[[Ground, Peer, Peer, Torture], str]) -> str:
    """Play every message; return one line for each: what came of it, and why that is right."""
    messages = Torture.all()
    if ground.against is None:
        ground.another_bridge()  # that has seen none of them: what comes again is a retransmission
    lines = []
    carrier, platform = ground.carrier(5060), ground.platform()
    for one in messages:
        lines.append(f"{one.name:<30} {judge(ground, carrier, platform, one):<24} {one.why}")
        _still_works(ground, carrier, platform)
    ground.end_case()
    if ground.against is None:
        bugs = ground.bridge.metric("bugs_total")
        require(bugs == 0, f"{bugs:.0f} exceptions of the bridge's own were contained: see its log")
    return "\n".join(lines)


def _judged_over_udp(ground: Ground, carrier: Peer, platform: Peer, one: Torture) -> str:
    statuses = _throw(carrier, platform, ground, one.data)
    final = [status for status in statuses if status >= 200]
    if not one.answer or one.udp == "drop":
        require(not statuses or bool(one.answer), f"{one.name} is to be dropped in silence and got {statuses}")
    else:
        require(bool(final), f"{one.name} got no final answer, and {' or '.join(one.answer)} is due")
    wrong = [status for status in final if not one.allows(status)]
    require(not wrong, f"{one.name} got {wrong}, and {' or '.join(one.answer)} is due: {one.why}")
    return " ".join(map(str, final)) or "silence"


def _judged_over_tcp(piece: int, ground: Ground, carrier: Peer, platform: Peer, one: Torture) -> str:
    """Send the octets on a connection of their own; each message in them has its answer, or the connection its end."""
    expected = [status for status in one.stream if status == "accept" or status.isdigit()]
    final: list[int] = []
    with Connection(ground.stage.host(11), ground.address) as connection:
        connection.send(one.data, piece, 0.0002 if piece else 0.0)
        deadline = time.monotonic() + (2.0 if expected else 0.15)
        while time.monotonic() < deadline and (len(final) < len(expected) or not expected):
            for message in connection.collect(0.02):
                if message.status >= 200:
                    final.append(message.status)
                    if message.method == "INVITE":
                        connection.send(_acknowledgement(ground, message))
            for message in platform.collect(0.002):
                if message.method == "INVITE" and not message.status:
                    platform.take(message).respond(486, "Busy Here")
        ended = connection.ends(1.0 if "close" in one.stream else 0.05)
    require(len(final) == len(expected), f"{one.name} got {final or 'nothing'}, and {one.stream} is due: {one.why}")
    for index, (status, due) in enumerate(zip(final, expected, strict=True)):
        # What is written down for the whole bridge is the fate of the first message.
        right = status == int(due) if due.isdigit() else one.allows(status) if index == 0 else status != 500
        require(right, f"{one.name} got {status}, and {due} ({' or '.join(one.answer)}) is due: {one.why}")
    wanted = "close" in one.stream
    require(ended == wanted, f"the connection of {one.name} is {'closed' if ended else 'open'}: {one.stream} is due")
    return ", ".join([*map(str, final), *(["closed"] if ended else [])]) or "silence"


@case("broken-bytes", "T11, T14: truncated, doubled, binary and numerically odd messages over UDP; the bridge lives")
def broken_bytes(ground: Ground) -> str:
    carrier, platform = ground.carrier(5060), ground.platform()
    whole = _invitation(carrier, ground)
    thrown = [whole[:cut] for cut in range(0, len(whole), 37)]
    thrown += [whole + whole, whole.replace(b"\r\n", b"\n"), whole.replace(b" ", b"\t"), b"\xff" * 1400, b"\r\n" * 300]
    # What int() takes, what C truncates, and what is no number at all (T14).
    for value in ("+5", "1_0", " 5 5", "-1", "4294967296", "99999999999", "0x10", "٥", "５", ""):
        thrown.append(re.sub(rb"Content-Length: \d+", b"Content-Length: " + value.encode(), whole))
    for name in (b"From", b"To", b"Call-ID", b"CSeq", b"Via", b"Contact", b"Max-Forwards"):
        thrown.append(re.sub(rb"\r\n" + name + rb": [^\r]*", b"", whole))
        thrown.append(re.sub(rb"\r\n" + name + rb": [^\r]*", b"\r\n" + name + b": \x00\xff<<>;;,", whole))
    for data in thrown:
        data = data.replace(b"Call-ID: ", b"Call-ID: " + sip.token().encode())  # each is a request of its own
        statuses = _throw(carrier, platform, ground, data, 0.01)
        require(500 not in statuses, f"{data[:60]!r} got 500: an error of the bridge's own")
    _still_works(ground, carrier, platform)
    if ground.against is None:
        bugs = ground.bridge.metric("bugs_total")
        require(bugs == 0, f"{bugs:.0f} exceptions of the bridge's own were contained: see its log")
    return f"{len(thrown)} datagrams"


def _invitation(carrier: Peer, ground: Ground) -> bytes:
    leg = carrier.invite(ground.address, NUMBER)
    headers = leg.headers("INVITE", 1, f"z9hG4bK{sip.token()}")
    return sip.request(f"INVITE {leg.target} SIP/2.0", headers, sip.sdp(carrier.media))


def _throw(carrier: Peer, platform: Peer, ground: Ground, data: bytes, wait: float = 0.06) -> list[int]:
    """Send one datagram; refuse and end whatever call comes of it; return the statuses that came back."""
    carrier.collect(0.0)
    # Without rport the answer goes to the port of the top Via (RFC 3261 §18.2.2), with it to where we send from.
    named = re.sub(rb"\[[^]]*]", b"ipv6", data)
    via = re.search(rb"^(?:via|v)[ \t]*:(?![^\r]*;rport)[^,\r]*?:[ \t]*(\d+)", named, re.IGNORECASE | re.MULTILINE)
    port = int(via.group(1)) if via and via.group(1).isdigit() else 5060
    beside = ground.carrier(port) if 1024 < port < 65536 and port != 5060 else None
    try:
        return _answers(carrier, beside or carrier, platform, ground, data, wait)
    finally:
        if beside is not None:
            beside.close()


def _answers(carrier: Peer, listener: Peer, platform: Peer, ground: Ground, data: bytes, wait: float) -> list[int]:
    carrier.send(data, ground.address)
    named = re.search(rb"^(?:call-id|i)[ \t]*:[ \t\r\n]*(\S+)", data, re.IGNORECASE | re.MULTILINE)
    call_id = named.group(1).decode("utf-8", "surrogateescape") if named else ""
    branches = re.findall(rb"branch=(z9hG4bK\w+)", data)
    statuses: list[int] = []
    for _ in range(3):
        answers = [message for message in listener.collect(wait) if message.status]
        # A refusal of an earlier message may still be repeated: only answers to this one count.
        # Two of the torture messages share a branch, so that the second is a retransmission of the first.
        statuses += [
            message.status
            for message in answers
            if message.get("call-id") in ("", call_id) or message.branch.encode() in branches
        ]
        for message in answers:
            if message.method == "INVITE" and message.status >= 300:
                _acknowledge(carrier, ground, message)
        for message in platform.collect(0.01):
            if message.method == "INVITE" and not message.status:
                platform.take(message).respond(486, "Busy Here")
        if any(status >= 200 for status in statuses):
            break
    return statuses


def _acknowledge(carrier: Peer, ground: Ground, answer: sip.Message) -> None:
    carrier.send(_acknowledgement(ground, answer), ground.address)


def _acknowledgement(ground: Ground, answer: sip.Message) -> bytes:
    # Any INVITE may have caused it: the ACK repeats what the response itself says of the request.
    names = ("via", "from", "to", "call-id")
    headers = [(name, value) for name, value in answer.headers if name in names][:8]
    headers += [("CSeq", f"{answer.get('cseq').split()[0]} ACK"), ("Max-Forwards", "70")]
    return sip.request(f"ACK sip:{ground.address[0]} SIP/2.0", headers)


def _still_works(ground: Ground, carrier: Peer, platform: Peer) -> None:
    """Set up and end a call as if nothing had been."""
    carrier.collect(0.01)
    platform.collect(0.01)
    caller, callee = ground.connect(carrier, platform)
    ground.disconnect(caller, callee)
