"""What comes from addresses that no carrier and no platform owns: SIP (T05) and RTP."""

from __future__ import annotations

import threading
import time

from conformance import sip
from conformance.g711 import SILENCE
from conformance.ground import NUMBER, Ground
from conformance.peer import Peer, require
from conformance.rtp import rtp_packet
from conformance.runner import case


@case(
    "strangers-hear-nothing",
    "T05: 10,000 messages of strangers get no byte back; a call among them works",
    limit=120,
)
def strangers(ground: Ground) -> str:
    stranger = ground.stranger()
    before = _rejected(ground)
    count, rate = 10_000, 2500.0
    flood = threading.Thread(target=_flood, args=(stranger, ground, count, rate), daemon=True)
    carrier, platform = ground.carrier(), ground.platform()
    flood.start()
    time.sleep(1.0)
    begun = time.monotonic()
    caller, callee = ground.connect(carrier, platform)
    took = time.monotonic() - begun
    require(took < 1.0, f"a call in the middle took {took:.2f} s to set up")
    ground.disconnect(caller, callee)
    flood.join(60.0)
    require(not flood.is_alive(), "the stranger could not send its messages in time")
    stranger.collect(1.0)
    require(stranger.octets_received == 0, f"a stranger got {stranger.octets_received} bytes back")
    platform.never("INVITE", 0.1)
    said = f"call set up in {1000 * took:.0f} ms during {rate:.0f} messages/s"
    if ground.against is None:
        counted = _rejected(ground) - before
        require(counted >= 0.98 * count, f"{counted:.0f} of {count} messages were counted as rejected")
        said += f"; {counted:.0f} counted"
    return said


def _rejected(ground: Ground) -> float:
    return 0.0 if ground.against else ground.bridge.metric("sip_rejected_total", reason="unknown-source")


def _flood(stranger: Peer, ground: Ground, count: int, rate: float) -> None:
    messages = []
    for method in ("OPTIONS", "INVITE", "REGISTER"):
        leg = stranger.invite(ground.address, NUMBER)
        body = sip.sdp(stranger.media) if method == "INVITE" else ""
        headers = leg.headers(method, 1, f"z9hG4bK{sip.token()}")
        messages.append(sip.request(f"{method} {leg.target} SIP/2.0", headers, body))
    messages.append(b"\r\n\r\n")
    messages.append(b"\x00" * 500)
    begun = time.monotonic()
    for index in range(count):
        stranger.socket.sendto(messages[index % len(messages)], ground.address)
        if index % 25 == 24:
            time.sleep(max(0.0, begun + (index + 1) / rate - time.monotonic()))


@case("rtp-of-strangers-is-refused", "RTP from another address, and what is no RTP, is refused and never passed on")
def rtp_strangers(ground: Ground) -> str:
    carrier, platform, stranger = ground.carrier(), ground.platform(), ground.stranger()
    caller, callee = ground.connect(carrier, platform)
    assert callee.invitation is not None
    assert callee.invitation.audio is not None
    toward_b = callee.invitation.audio.address  # where leg B's peer sends to
    stranger.socket.setblocking(False)
    for index in range(100):
        packet = rtp_packet(0, 5000 + index, 160 * index, 0xDEADBEEF, b"\x2a" * 160)
        stranger.rtp.sendto(packet, toward_b)
        stranger.rtp.sendto(b"not rtp", toward_b)
        own = rtp_packet(0, index, 160 * index, 0x5EED, SILENCE[0])
        platform.rtp.sendto(own, toward_b)
        time.sleep(0.005)
    time.sleep(0.2)
    heard = _drain(carrier)
    require(bool(heard), "the carrier got no RTP at all")
    require(not any(b"\x2a" * 160 in packet for packet in heard), "the carrier got a stranger's RTP")
    require(not _drain(stranger), "the stranger got RTP")
    ground.disconnect(caller, callee)
    if ground.against is not None:
        return f"{len(heard)} packets passed"
    record = ground.record(caller.call_id)
    received = record["legs"]["platform"]["rtp"]["received"]
    require(received <= 100, f"{received} packets were taken for the platform's, which sent 100")
    return f"{received} of the platform's 100 packets passed, none of the stranger's 200"


def _drain(peer: Peer) -> list[bytes]:
    packets = []
    while True:
        try:
            packets.append(peer.rtp.recv(2048))
        except OSError:
            return packets
