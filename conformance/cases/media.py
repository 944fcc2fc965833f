"""Media seen by an independent decoder: tshark reads the capture of a call and must agree with the bridge's report."""

from __future__ import annotations

import json
import random
import re
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from conformance.ground import Ground, tool
from conformance.peer import Peer, require, wait_until
from conformance.rtp import rtp_packet, sender_report
from conformance.runner import case

LOST = (40, 41, 42, 90, 150, 151, 200, 201, 202, 203, 260)
PACKETS = 300


@case("tap-agrees-with-tshark", "tshark decodes the tap's RTP and RTCP, and counts the loss and jitter that we count")
def tap_agrees(ground: Ground) -> str:
    program = tool("tshark")
    bridge = ground.bridge
    carrier, platform = ground.carrier(), ground.platform()
    caller, callee = ground.connect(carrier, platform)
    assert callee.invitation is not None
    assert callee.invitation.audio is not None
    call = next(one for one in bridge.calls() if one["legs"]["carrier"]["call_id"] == caller.call_id)
    path = _capture(bridge.admin, call["id"])
    time.sleep(0.1)
    ssrc = 0x0BADCAFE
    _stream(platform, callee.invitation.audio.address, ssrc)
    time.sleep(0.3)
    ground.disconnect(caller, callee)
    record = ground.record(caller.call_id)
    ours = record["legs"]["platform"]["rtp"]
    streams = _tshark_streams(program, path)
    stream = next((one for one in streams if int(one["ssrc"], 16) == ssrc), None)
    require(stream is not None, f"tshark does not find our stream among {[one['ssrc'] for one in streams]}")
    assert stream is not None
    require(stream["packets"] == PACKETS - len(LOST), f"tshark counts {stream['packets']} packets")
    require(ours["received"] == PACKETS - len(LOST), f"the record counts {ours['received']} packets")
    require(stream["lost"] == len(LOST) == ours["lost"], f"lost: tshark {stream['lost']}, record {ours['lost']}")
    mean = ours["jitter_ms_mean"]
    require(abs(stream["jitter"] - mean) <= 1.0, f"mean jitter: tshark {stream['jitter']} ms, record {mean} ms")
    reports, malformed = _tshark_rtcp(program, path)
    require(bool(reports), "tshark finds no RTCP in the capture")
    require(not malformed, f"tshark calls {malformed} packets malformed")
    said = [int(lost) for source, lost in reports if source == ssrc]
    require(bool(said), "no report block of the bridge's names the stream")
    require(max(said) <= len(LOST), f"the bridge reported {max(said)} packets lost of {len(LOST)}")
    return (
        f"{stream['packets']} packets, {stream['lost']} lost by both counts; mean jitter "
        f"{stream['jitter']:.2f} ms (tshark), {mean:.2f} ms (record); {len(reports)} RTCP reports, none malformed"
    )


def _capture(admin: str, call: str) -> Path:
    request = urllib.request.Request(
        f"{admin}/api/v1/calls/{call}/capture",
        data=b"{}",
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=5.0) as answer:
        return Path(json.load(answer)["path"])


def _stream(peer: Peer, to: tuple[str, int], ssrc: int) -> None:
    """Send 300 packets with losses and a jitter of up to 8 ms, and RTCP beside them."""
    shake = random.Random(7)
    begun = time.monotonic() + 0.05
    for index in range(PACKETS):
        if index in LOST:
            continue
        wait_until(begun + 0.02 * index + shake.uniform(0.0, 0.008))
        peer.rtp.sendto(rtp_packet(0, 1000 + index, 160 * index, ssrc, bytes([index % 200]) * 160), to)
        if index % 60 == 30:
            report = sender_report(ssrc, time.time(), 160 * index, index, 160 * index)
            peer.rtcp.sendto(report, (to[0], to[1] + 1))


def _tshark_streams(program: str, path: Path) -> list[dict[str, Any]]:
    """Read the table of ``-z rtp,streams``: a line a stream."""
    command = [program, "-n", "-r", str(path), "-q", "-o", "rtp.heuristic_rtp:TRUE", "-z", "rtp,streams"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = []
    for line in done.stdout.splitlines():
        # start end source port destination port SSRC payload packets lost (percent) min-delta … mean-jitter max-jitter
        match = re.search(r"(0x[0-9A-Fa-f]{8})\s+(\S.*?)\s+(\d+)\s+(-?\d+) \(\s*-?[\d.]+%\)\s+([\d.,\s-]+)", line)
        if match:
            figures = [float(one.replace(",", ".")) for one in match.group(5).split()]
            found.append(
                {
                    "ssrc": match.group(1),
                    "packets": int(match.group(3)),
                    "lost": int(match.group(4)),
                    "jitter": figures[4] if len(figures) >= 6 else figures[1],
                }
            )
    return found


def _tshark_rtcp(program: str, path: Path) -> tuple[list[tuple[int, str]], int]:
    """Return (SSRC, cumulative lost) of every report block, and how many packets tshark calls malformed."""
    ask = [program, "-n", "-r", str(path), "-o", "rtp.heuristic_rtp:TRUE", "-o", "rtcp.heuristic_rtcp:TRUE"]
    fields = ["-T", "fields", "-e", "rtcp.ssrc.identifier", "-e", "rtcp.ssrc.cum_nr"]
    done = subprocess.run([*ask, "-Y", "rtcp.ssrc.cum_nr", *fields], capture_output=True, text=True, timeout=60)
    reports = []
    for line in done.stdout.splitlines():
        sources, _, lost = line.partition("\t")
        for source, count in zip(sources.split(","), lost.split(","), strict=False):
            reports.append((int(source, 0), count))
    bad = subprocess.run([*ask, "-Y", "_ws.malformed"], capture_output=True, text=True, timeout=60)
    return reports, len(bad.stdout.splitlines())
