"""The pcap tap of one call, read by an independent party: tshark."""

from __future__ import annotations

import random
import re
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from bridge.errors import RelayError
from bridge.media.relay import LegName, SessionClosed
from tests.media.conftest import Bench, Call
from tests.media.peer import eventually, rtp

pytestmark = [pytest.mark.sockets]

CARRIER, PLATFORM = LegName.CARRIER, LegName.PLATFORM


def tshark(capture: Path, *arguments: str) -> str:
    program = shutil.which("tshark")
    if program is None:
        pytest.skip("tshark is not installed")
    command = [
        program,
        "-r",
        str(capture),
        "--enable-heuristic",
        "rtp_udp",
        "--enable-heuristic",
        "rtcp_udp",
        *arguments,
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def streams(capture: Path) -> dict[tuple[int, int], dict[str, float]]:
    """Return tshark's RTP streams by (source port, destination port)."""
    found = {}
    for line in tshark(capture, "-q", "-z", "rtp,streams").splitlines():
        fields = line.split()
        if not re.match(r"\s*\d+\.\d+\s+\d+\.\d+\s", line):
            continue
        # start, end, source, port, destination, port, SSRC, payload, packets, lost, (percent), deltas, jitters
        jitters = [float(field) for field in fields if re.fullmatch(r"\d+\.\d+", field)][-3:]
        packets, lost = fields[8], fields[9]
        found[int(fields[3]), int(fields[5])] = {
            "packets": int(packets),
            "lost": int(lost),
            "jitter_mean": jitters[1],
            "jitter_max": jitters[2],
        }
    return found


def jittered_speech(call: Call, leg: LegName, count: int, seed: int) -> int:
    """Send ``count`` frames up to 15 ms late, but for about a tenth; return how many were left out."""
    chance = random.Random(seed)
    begin = time.monotonic()
    dropped = 0
    for number in range(count):
        due = begin + 0.02 * number + chance.uniform(0.0, 0.015)
        if 0 < number < count - 1 and chance.random() < 0.1:
            dropped += 1
            continue
        time.sleep(max(0.0, due - time.monotonic()))
        call.send(leg, rtp(number, 160 * number, bytes([number & 0xFF]) * 160))
    return dropped


@pytest.mark.interop
@pytest.mark.slow
def test_tshark_agrees_with_our_loss_and_jitter(bench: Bench, call: Call, tmp_path: Path) -> None:
    capture = tmp_path / "call.pcap"
    call.negotiate()
    call.relay.tap(call.session, str(capture))
    dropped = jittered_speech(call, CARRIER, 200, seed=4)
    call.carrier.receive_rtcp(4.0)
    call.carrier.rtcp.sendto(struct.pack("!BBHI", 0x80, 201, 1, 0x1234), ("127.0.0.9", call.opened.carrier_port + 1))
    eventually(lambda: call.report(CARRIER).rtcp_received == 1)
    call.relay.close(call.session)
    report = bench.event(SessionClosed).report
    eventually(lambda: "Goodbye" in tshark(capture, "-Y", "rtcp"))

    carrier_port, platform_port = call.carrier.address[1], call.platform.address[1]
    heard = streams(capture)[carrier_port, call.opened.carrier_port]
    assert report.carrier.lost == dropped > 0
    assert (heard["packets"], heard["lost"]) == (report.carrier.received, dropped)
    assert heard["jitter_mean"] == pytest.approx(report.carrier.jitter_ms_mean, rel=0.05, abs=0.1)
    assert heard["jitter_max"] == pytest.approx(report.carrier.jitter_ms_max, rel=0.05, abs=0.1)
    assert report.carrier.jitter_ms_mean > 1.0
    # What left is whole: nothing lost in it, whatever was lost before.
    sent = streams(capture)[call.opened.platform_port, platform_port]
    assert (sent["packets"], sent["lost"]) == (report.platform.sent, 0)
    reports = tshark(capture, "-Y", "rtcp", "-T", "fields", "-e", "udp.srcport", "-e", "rtcp.pt").split("\n")
    # SR to whom we sent, RR to whom we did not; each with its SDES.
    assert any(line.startswith(f"{call.opened.platform_port + 1}\t200,202") for line in reports)
    assert any(line.startswith(f"{call.opened.carrier_port + 1}\t201,202") for line in reports)
    assert any(line.startswith(f"{carrier_port + 1}\t201") for line in reports)
    assert "bogus" not in tshark(capture, "-V", "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")


def test_a_relay_on_the_wildcard_address_shows_its_true_one(bench: Bench, tmp_path: Path) -> None:
    bench.start(host="0.0.0.0")
    call = Call(bench).negotiate()
    capture = tmp_path / "call.pcap"
    call.relay.tap(call.session, str(capture))
    call.send(CARRIER, rtp(1, 160, b"p" * 160))
    call.platform.receive()
    record = 16 + 20 + 8 + 172
    eventually(lambda: capture.stat().st_size == 24 + 2 * record)
    addresses = [capture.read_bytes()[at : at + 8] for at in (24 + 28, 24 + record + 28)]
    assert addresses == [bytes([127, 0, 0, 2, 127, 0, 0, 1]), bytes([127, 0, 0, 1, 127, 0, 0, 3])]


def test_a_tap_that_ends_leaves_a_whole_file_and_the_call_alive(call: Call, tmp_path: Path) -> None:
    capture = tmp_path / "call.pcap"
    call.negotiate()
    call.relay.tap(call.session, str(capture))
    call.send(CARRIER, rtp(1, 160, b"p" * 160))
    call.platform.receive()
    call.relay.tap(call.session, None)
    call.send(CARRIER, rtp(2, 320, b"p" * 160))
    call.platform.receive()
    record = 16 + 20 + 8 + 172
    eventually(lambda: capture.stat().st_size == 24 + 2 * record)
    assert capture.read_bytes()[:4] == b"\xd4\xc3\xb2\xa1"


def test_a_path_that_can_not_be_written_is_a_relay_error(call: Call, tmp_path: Path) -> None:
    with pytest.raises(RelayError, match="can't be written"):
        call.relay.tap(call.session, str(tmp_path / "missing" / "call.pcap"))


def test_a_disk_that_is_full_ends_the_tap_and_not_the_call(call: Call) -> None:
    call.negotiate()
    with pytest.raises(RelayError, match="can't be written"):
        call.relay.tap(call.session, "/dev/full")
    call.send(CARRIER, rtp(1, 160, b"p" * 160))
    assert call.platform.receive().payload == b"p" * 160
