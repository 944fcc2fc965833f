"""Messages made to break parsers, from a known source over UDP: answered as the RFC says, or dropped."""

from __future__ import annotations

import csv
import re

from conformance import sip
from conformance.ground import NUMBER, Ground, corpus
from conformance.peer import Peer, require
from conformance.runner import case


@case("torture-rfc4475", "R15, R16, T11: the messages of RFC 4475 are answered as the manifest says; the bridge lives")
def rfc4475(ground: Ground) -> str:
    directory = corpus("rfc4475")
    carrier, platform = ground.carrier(5060), ground.platform()
    answers = {}
    with (directory / "manifest.tsv").open(newline="", encoding="utf-8") as manifest:
        for row in csv.DictReader(manifest, delimiter="\t"):
            data = (directory / "messages" / row["file"]).read_bytes()
            statuses = _throw(carrier, platform, ground, data)
            answers[row["file"]] = statuses
            _judge(row["file"], row["kind"], row["class"], row["expected"], statuses)
    _still_works(ground, carrier, platform)
    answered = sum(bool(statuses) for statuses in answers.values())
    return f"{len(answers)} messages, {answered} answered"


_HANDLED = {"zeromf.dat"}
"""OPTIONS to the bridge itself: with Max-Forwards 0 it may answer instead of refusing (RFC 3261 §16.3)."""


def _judge(file: str, kind: str, wanted: str, expected: str, statuses: list[int]) -> None:
    final = [status for status in statuses if status >= 200]
    if kind == "resp" or wanted == "drop":
        require(not statuses, f"{file} is to be dropped in silence and got {statuses}")
        return
    require(all(status != 500 for status in final), f"{file} got 500: an error of the bridge's own")
    if wanted == "reject" and not (file in _HANDLED and final == [200]):
        codes = [int(code) for code in re.findall(r"\b[45]\d\d\b", expected)]
        allowed = codes or [400]
        require(all(status in allowed for status in final), f"{file} must be refused with {allowed} and got {statuses}")
        require(not any(100 < status < 300 for status in statuses), f"{file} is malformed and was accepted")


@case("torture-rfc5118", "IPv6 spellings of RFC 5118 are read or refused; the bridge lives")
def rfc5118(ground: Ground) -> str:
    directory = corpus("rfc5118") / "wire"
    carrier, platform = ground.carrier(5060), ground.platform()
    answered = 0
    files = sorted(directory.glob("*.sip"))
    for path in files:
        statuses = _throw(carrier, platform, ground, path.read_bytes())
        answered += bool(statuses)
        if path.stem == "ipv6-bad":
            refused = all(status == 400 for status in statuses if status >= 200)
            require(refused, f"{path.name} must be refused with 400 and got {statuses}")
        require(500 not in statuses, f"{path.name} got 500: an error of the bridge's own")
    _still_works(ground, carrier, platform)
    return f"{len(files)} messages, {answered} answered"


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
    via = re.search(rb"^(?:via|v)[ \t]*:(?![^\r]*;rport)[^,\r]*?:[ \t]*(\d+)", data, re.IGNORECASE | re.MULTILINE)
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
    statuses: list[int] = []
    for _ in range(3):
        answers = [message for message in listener.collect(wait) if message.status]
        # A refusal of an earlier message may still be repeated: only answers to this one count.
        statuses += [message.status for message in answers if message.get("call-id") in ("", call_id)]
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
    # Any INVITE may have caused it: the ACK repeats what the response itself says of the request.
    names = ("via", "from", "to", "call-id")
    headers = [(name, value) for name, value in answer.headers if name in names][:8]
    headers += [("CSeq", f"{answer.get('cseq').split()[0]} ACK"), ("Max-Forwards", "70")]
    carrier.send(sip.request(f"ACK sip:{ground.address[0]} SIP/2.0", headers), ground.address)


def _still_works(ground: Ground, carrier: Peer, platform: Peer) -> None:
    """Set up and end a call as if nothing had been."""
    carrier.collect(0.1)
    platform.collect(0.1)
    caller, callee = ground.connect(carrier, platform)
    ground.disconnect(caller, callee)
