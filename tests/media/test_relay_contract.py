"""What any relay backend must do, with real sockets on loopback (bridge/media/relay.py is the contract)."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from dataclasses import replace

import pytest

from bridge.errors import RelayError
from bridge.media.relay import (
    LegName,
    MediaSilent,
    MediaStarted,
    SessionClosed,
    SessionLabel,
    SessionOpened,
    SessionRefused,
)
from tests.media.conftest import LABEL, RELAY_HOST, Bench, Call
from tests.media.peer import Packet, Peer, eventually, media, rtp, steps

pytestmark = pytest.mark.sockets

CARRIER, PLATFORM = LegName.CARRIER, LegName.PLATFORM


def speak(call: Call, leg: LegName, numbers: range, *, ssrc: int = 0x1234, start: int = 0) -> None:
    """Send 20 ms frames in real time; the payload of each is its number."""
    begin = time.monotonic()
    for index, number in enumerate(numbers):
        time.sleep(max(0.0, begin + 0.02 * index - time.monotonic()))
        call.send(leg, rtp(number, start + 160 * number, bytes([number & 0xFF]) * 160, ssrc=ssrc))


def is_silence(packet: Packet) -> bool:
    return packet.payload == b"\xff" * 160


def test_audio_passes_bit_exact_both_ways(call: Call) -> None:
    """R62: payloads untouched, one SSRC, sequence + 1."""
    call.negotiate()
    payloads = [random.Random(index).randbytes(160) for index in range(50)]
    for leg, peer in ((CARRIER, call.platform), (PLATFORM, call.carrier)):
        for index, payload in enumerate(payloads):
            call.send(leg, rtp(index, 160 * index, payload))
        received = peer.receive_many(50)
        assert [packet.payload for packet in received] == payloads
        assert steps(received) == [(1, 160)] * 49
        assert len({packet.ssrc for packet in received}) == 1
        assert received[0].ssrc != 0x1234
        assert [packet.marker for packet in received] == [True] + [False] * 49


def test_media_leaves_from_the_port_that_signalling_was_given(call: Call) -> None:
    """R60: symmetric RTP."""
    call.negotiate(fill_after_ms=100)
    assert call.carrier.receive().source == (RELAY_HOST, call.opened.carrier_port)
    assert call.platform.receive().source == (RELAY_HOST, call.opened.platform_port)
    assert call.opened.carrier_port % 2 == 0
    assert call.opened.platform_port % 2 == 0


def test_silence_is_filled_from_the_answer_on_at_fifty_frames_a_second(call: Call) -> None:
    """D27: the first frame comes with the answer, before the peer has sent anything."""
    call.negotiate(fill_after_ms=100)
    frames = call.platform.receive_many(51)
    assert all(is_silence(frame) and frame.payload_type == 0 for frame in frames)
    assert steps(frames) == [(1, 160)] * 50
    assert 0.9 < frames[-1].at - frames[0].at < 1.2
    assert call.report(PLATFORM).filled >= 51


def test_the_stream_is_one_across_speech_silence_and_another_source(call: Call) -> None:
    call.negotiate(fill_after_ms=60)
    speak(call, CARRIER, range(10))
    time.sleep(0.3)
    speak(call, CARRIER, range(500, 510), ssrc=0x9999, start=77)
    speak(call, CARRIER, range(10), ssrc=0x7777)
    time.sleep(0.02)
    received = call.platform.pending()
    assert {packet.ssrc for packet in received} == {received[0].ssrc}
    assert all(sequence == 1 and timestamp >= 160 for sequence, timestamp in steps(received))
    real = [packet for packet in received if not is_silence(packet)]
    assert len(real) == 30
    assert [packet.marker for packet in real] == ([True] + [False] * 9) * 3
    # The timestamps tell the time that has passed, to a frame and the jitter of this machine.
    elapsed = (received[-1].at - received[0].at) * 8000
    told = sum(timestamp for _, timestamp in steps(received))
    assert abs(told - elapsed) < 5 * 160


def test_fill_hands_over_without_a_doubled_rate(call: Call) -> None:
    call.negotiate(fill_after_ms=100)
    call.platform.receive_many(10)
    speak(call, CARRIER, range(20))
    time.sleep(0.02)
    received = call.platform.pending()
    first = next(index for index, packet in enumerate(received) if not is_silence(packet))
    assert not any(is_silence(packet) for packet in received[first : first + 20])
    for packet in received[:first]:
        around = [other for other in received if 0 <= other.timestamp - packet.timestamp < 1600]
        assert len(around) <= 10


def test_a_ring_tone_takes_the_place_of_the_other_legs_audio_in_the_same_stream(call: Call) -> None:
    """D33: what a caller hears while the target of a transfer rings; the platform goes on hearing the caller."""
    call.negotiate()
    speak(call, PLATFORM, range(5))
    before = call.carrier.receive_many(5)
    rings = replace(media(call.carrier.address), tone="ringback-us")
    call.relay.update(call.session, CARRIER, rings)
    speak(call, PLATFORM, range(5, 25))
    speak(call, CARRIER, range(5))
    eventually(lambda: call.report(PLATFORM).received == 25)
    call.relay.update(call.session, CARRIER, media(call.carrier.address))
    speak(call, PLATFORM, range(25, 30))
    received = before + call.carrier.drain()
    assert {packet.ssrc for packet in received} == {received[0].ssrc}
    assert all(sequence == 1 and timestamp >= 160 for sequence, timestamp in steps(received))
    spoken = [packet for packet in received if len(set(packet.payload)) == 1]
    assert [packet.payload[0] for packet in spoken] == [*range(5), *range(25, 30)]
    assert len(received) - len(spoken) >= 15
    assert len(call.platform.drain()) == 5


def test_a_tone_that_nobody_knows_raises(call: Call) -> None:
    with pytest.raises(RelayError):
        call.relay.update(call.session, CARRIER, replace(media(call.carrier.address), tone="birdsong"))


def test_strangers_are_refused_and_counted_before_and_after_the_latch(bench: Bench, call: Call) -> None:
    """T01, T02: no audio in, no audio out, every packet counted."""
    call.negotiate()
    stranger = bench.peer("127.0.0.66")
    frame = rtp(1, 160, b"s" * 160)
    for _ in range(5):
        call.send(CARRIER, frame, stranger)
    call.refused(CARRIER, "stranger", 5)
    call.send(CARRIER, rtp(1, 160, b"p" * 160))
    assert call.platform.receive().payload == b"p" * 160
    for number in range(20):
        call.send(CARRIER, rtp(2 + number, 320, b"s" * 160), stranger)  # with the peer's own SSRC
    call.refused(CARRIER, "stranger", 25)
    call.send(PLATFORM, rtp(1, 160, b"q" * 160))
    assert call.carrier.receive().payload == b"q" * 160
    assert call.platform.drain() == []
    assert stranger.drain() == []


def test_another_port_of_the_peers_own_host_is_a_stranger_after_the_latch(bench: Bench, call: Call) -> None:
    """T02"""
    call.negotiate()
    call.send(CARRIER, rtp(1, 160, b"p" * 160))
    assert bench.event(MediaStarted).remote == call.carrier.address
    neighbour = bench.peer("127.0.0.2")
    call.send(CARRIER, rtp(2, 320, b"s" * 160), neighbour)
    call.refused(CARRIER, "stranger", 1)


def test_nobody_else_can_bind_a_port_in_use(call: Call) -> None:
    call.negotiate()
    call.send(CARRIER, rtp(1, 160, b"p" * 160))
    call.platform.receive()
    for port in (call.opened.carrier_port, call.opened.carrier_port + 1):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                thief.bind((RELAY_HOST, port))


def test_a_private_sdp_address_gives_way_to_a_permitted_source(bench: Bench, call: Call) -> None:
    """T01: only the leg's own network may prove another address, and after the window nothing may."""
    behind_nat = media(("10.9.8.7", 4000), permitted=("127.0.0.2/32",), latch_for=0.1)
    call.relay.update(1, CARRIER, behind_nat)
    call.relay.update(1, PLATFORM, media(call.platform.address))
    stranger = bench.peer("127.0.0.66")
    call.send(CARRIER, rtp(1, 160, b"s" * 160), stranger)
    call.refused(CARRIER, "stranger", 1)
    call.send(CARRIER, rtp(1, 160, b"p" * 160))
    started = bench.event(MediaStarted)
    assert (started.leg, started.remote) == (CARRIER, call.carrier.address)
    call.send(PLATFORM, rtp(1, 160, b"q" * 160))
    assert call.carrier.receive().payload == b"q" * 160
    time.sleep(0.2)
    neighbour = bench.peer("127.0.0.2")
    call.send(CARRIER, rtp(2, 320, b"n" * 160), neighbour)
    call.refused(CARRIER, "stranger", 2)
    call.send(CARRIER, rtp(2, 320, b"p" * 160))
    assert [packet.payload[:1] for packet in call.platform.drain()] == [b"p", b"p"]


def test_junk_is_refused_by_reason_and_latches_nothing(bench: Bench, call: Call) -> None:
    call.negotiate()
    neighbour = bench.peer("127.0.0.2")
    junk = [
        b"",
        b"\x80",
        b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12),  # STUN
        b"\x16\xfe\xfd" + bytes(40),  # DTLS
        b"\x40" + bytes(171),  # version 1
        b"\x8f\x00" + bytes(20),  # fifteen sources that are not there
        b"\x90\x00" + bytes(12) + b"\xff\xff",  # an extension beyond the end
        b"\xa0\x00" + bytes(170),  # padding of no length
        b"\x80\x00" + bytes(4000),  # larger than any speech
    ]
    for datagram in junk:
        call.send(CARRIER, datagram, neighbour)
    call.refused(CARRIER, "not-rtp", len(junk))
    call.send(CARRIER, rtp(1, 160, bytes(20), payload_type=18), neighbour)
    call.refused(CARRIER, "payload-type", 1)
    assert call.report(CARRIER).remote == call.carrier.address
    assert call.report(CARRIER).received == 0
    call.send(CARRIER, rtp(1, 160, b"p" * 160))
    assert call.platform.receive().payload == b"p" * 160


def test_a_peer_that_moves_its_port_loses_nothing(bench: Bench, call: Call) -> None:
    """R33: heard on the old port until media comes from the new one."""
    call.negotiate()
    for number in range(5):
        call.send(CARRIER, rtp(number, 160 * number, bytes([number]) * 160))
    call.platform.receive_many(5)
    moved = bench.peer("127.0.0.2")
    call.relay.update(1, CARRIER, media(moved.address))
    for number in range(5, 10):
        call.send(CARRIER, rtp(number, 160 * number, bytes([number]) * 160))
    eventually(lambda: call.report(CARRIER).received == 10)
    call.send(PLATFORM, rtp(1, 160, b"q" * 160))
    assert moved.receive().payload == b"q" * 160
    for number in range(10, 15):
        call.send(CARRIER, rtp(number, 160 * number, bytes([number]) * 160), moved)
    received = call.platform.receive_many(10)
    assert [packet.payload[0] for packet in received] == list(range(5, 15))
    call.send(CARRIER, rtp(15, 2400, b"o" * 160))
    call.refused(CARRIER, "stranger", 1)


@pytest.mark.parametrize("remote", [("0.0.0.0", 4000), ("127.0.0.2", 0)])
def test_an_address_that_is_no_destination_gets_nothing(bench: Bench, call: Call, remote: tuple[str, int]) -> None:
    """RFC 3264 §8.4: c=0.0.0.0 was the old way to hold."""
    call.relay.update(1, CARRIER, media(call.carrier.address))
    call.relay.update(1, PLATFORM, media(remote, fill_after_ms=20))
    call.send(CARRIER, rtp(1, 160, b"p" * 160))
    call.refused(CARRIER, "no-destination", 1)
    assert call.report(PLATFORM).sent == 0


def test_nothing_goes_toward_a_held_peer_and_the_stream_resumes(call: Call) -> None:
    call.negotiate(fill_after_ms=60)
    call.platform.receive_many(5)
    call.relay.update(1, PLATFORM, media(call.platform.address, fill_after_ms=60, may_send=False))
    time.sleep(0.1)
    held_from = call.platform.pending()
    for number in range(10):
        call.send(CARRIER, rtp(number, 160 * number, b"h" * 160))
    call.refused(CARRIER, "held", 10)
    assert call.platform.drain(0.15) == []
    call.relay.update(1, PLATFORM, media(call.platform.address, fill_after_ms=60))
    resumed = call.platform.receive()
    assert is_silence(resumed)
    assert resumed.marker
    if held_from:
        ((sequence, timestamp),) = steps([held_from[-1], resumed])
        assert sequence == 1
        assert timestamp > 160


def test_a_peer_that_may_not_send_is_refused(call: Call) -> None:
    call.negotiate()
    call.relay.update(1, CARRIER, media(call.carrier.address, may_receive=False))
    call.send(CARRIER, rtp(1, 160, b"p" * 160))
    call.refused(CARRIER, "not-negotiated", 1)
    assert call.platform.drain() == []


def test_reports_are_exchanged_and_tell_the_round_trip(call: Call) -> None:
    """R64: SR, RR, SDES on the port above; the far end's report kept apart from our own measurement."""
    call.negotiate(fill_after_ms=100)
    for number in (0, 1, 2, 4, 5, 6, 7, 9):
        call.send(CARRIER, rtp(number, 160 * number, b"p" * 160))
    report = call.carrier.receive_rtcp(4.0)  # RFC 3550 §6.2: 1.03 s to 3.08 s after the start
    assert report[1] == 200
    ssrc, ntp_middle = struct.unpack("!I", report[4:8])[0], struct.unpack("!I", report[10:14])[0]
    block = struct.unpack("!IIIIII", report[28:52])
    assert block[0] == 0x1234
    assert block[1] == 51 << 24 | 2  # 2 of 10 lost: 51/256
    assert report[52:54] == b"\x81\xca"  # SDES with one chunk
    answer = struct.pack("!BBHIIIIIII", 0x81, 201, 7, 0x1234, ssrc, 64 << 24 | 3, 0, 80, ntp_middle, 0)
    call.carrier.rtcp.sendto(answer, (RELAY_HOST, call.opened.carrier_port + 1))
    eventually(lambda: call.report(CARRIER).rtcp is not None)
    far = call.report(CARRIER).rtcp
    assert far is not None
    assert (far.fraction_lost, far.cumulative_lost, far.jitter_ms) == (0.25, 3, 10.0)
    assert far.round_trip_ms is not None
    assert 0.0 <= far.round_trip_ms < 500.0
    assert call.report(CARRIER).lost == 2
    assert call.report(PLATFORM).rtcp is None


def test_rtcp_of_a_stranger_is_refused(bench: Bench, call: Call) -> None:
    """T03"""
    call.negotiate()
    stranger = bench.peer("127.0.0.66")
    empty_report = struct.pack("!BBHI", 0x80, 201, 1, 0x1234)
    stranger.rtcp.sendto(empty_report, (RELAY_HOST, call.opened.carrier_port + 1))
    call.refused(CARRIER, "rtcp-stranger", 1)
    call.carrier.rtcp.sendto(empty_report, (RELAY_HOST, call.opened.carrier_port + 1))
    eventually(lambda: call.report(CARRIER).rtcp_received == 1)


def test_closing_says_bye_reports_and_frees_the_ports_after_their_rest(bench: Bench) -> None:
    relay = bench.start(ports=(40_000, 40_003), quarantine=0.3)
    call = Call(bench).negotiate(fill_after_ms=100)
    call.send(CARRIER, rtp(1, 160, b"p" * 160))
    call.send(CARRIER, rtp(3, 480, b"p" * 160))
    eventually(lambda: call.report(CARRIER).received == 2)
    assert relay.ports() == (4, 4)
    relay.close(1)
    closed = bench.event(SessionClosed)
    assert closed.session == 1
    assert (closed.report.carrier.received, closed.report.carrier.lost) == (2, 1)
    assert closed.report.platform.sent == 2 + closed.report.platform.filled
    goodbye = call.platform.receive_rtcp(1.0)
    assert goodbye[-8:-4] == b"\x81\xcb\x00\x01"
    totals = relay.totals()[LABEL]
    for leg in LegName:
        report = closed.report.leg(leg)
        assert (totals[leg].received, totals[leg].lost, totals[leg].sent, totals[leg].filled) == (
            report.received,
            report.lost,
            report.sent,
            report.filled,
        )
    assert relay.snapshot(1) is None
    refused = relay.open(2, LABEL)
    assert isinstance(refused, SessionRefused)
    assert refused.reason == "no media ports left: 4 of 4 are in use or at rest"
    eventually(lambda: relay.ports() == (0, 4))
    assert isinstance(relay.open(3, LABEL), SessionOpened)


def test_what_comes_after_the_call_is_refused_and_counted(bench: Bench) -> None:
    """Its ports rest: the totals tell of the peer's late packets and of strangers alike."""
    relay = bench.start(quarantine=3.0)
    call = Call(bench).negotiate()
    call.send(CARRIER, rtp(1, 160, b"p" * 160))
    call.platform.receive()
    relay.close(1)
    bench.event(SessionClosed)
    call.platform.drain()
    call.send(CARRIER, rtp(2, 320, b"p" * 160))
    call.send(CARRIER, rtp(3, 480, b"p" * 160), peer=bench.peer("127.0.0.9"))
    eventually(lambda: relay.totals()[LABEL][CARRIER].refused.get("after-call") == 2)
    assert call.platform.drain() == []


def test_what_came_after_the_call_is_in_the_totals_when_the_relay_stops(bench: Bench) -> None:
    """No count waits for a turn of the second that never comes."""
    relay = bench.start(quarantine=5.0)
    call = Call(bench)
    relay.close(1)
    bench.event(SessionClosed)
    call.send(CARRIER, rtp(1, 160, b"p" * 160))
    eventually(lambda: relay.totals()[LABEL][CARRIER].refused.get("after-call") == 1)
    call.send(CARRIER, rtp(2, 320, b"p" * 160))
    time.sleep(0.2)  # it is counted, but the next turn of the second is still far away
    relay.stop()
    assert relay.totals()[LABEL][CARRIER].refused["after-call"] == 2


def test_a_session_that_moves_to_another_label_is_counted_there_from_then_on(bench: Bench, call: Call) -> None:
    moved = SessionLabel("main", "elsewhere")
    call.negotiate()
    call.send(CARRIER, rtp(1, 160, b"p" * 160))
    call.platform.receive()
    call.relay.relabel(1, moved)
    call.send(CARRIER, rtp(2, 320, b"p" * 160))
    call.platform.receive()
    call.relay.close(1)
    bench.event(SessionClosed)
    totals = call.relay.totals()
    assert (totals[LABEL][CARRIER].received, totals[moved][CARRIER].received) == (1, 1)


def test_a_range_that_is_used_up_refuses_and_leaves_nothing_behind(bench: Bench) -> None:
    relay = bench.start(ports=(40_000, 40_005), quarantine=0.0)
    assert isinstance(relay.open(1, LABEL), SessionOpened)
    for session in (2, 3):
        assert isinstance(relay.open(session, LABEL), SessionRefused)
    assert relay.ports() == (4, 6)


def test_a_port_of_another_process_is_passed_over(bench: Bench) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((RELAY_HOST, 40_003))
        relay = bench.start(ports=(40_000, 40_005))
        opened = relay.open(1, LABEL)
        assert isinstance(opened, SessionOpened)
        assert {opened.carrier_port, opened.platform_port} == {40_000, 40_004}


def test_totals_are_kept_for_each_label_and_follow_live_calls(bench: Bench, call: Call) -> None:
    call.negotiate()
    for number in range(7):
        call.send(CARRIER, rtp(number, 160 * number, b"p" * 160))
    eventually(lambda: call.relay.totals()[LABEL][CARRIER].received == 7)
    stranger = bench.peer("127.0.0.66")
    call.send(CARRIER, rtp(1, 160, b"s" * 160), stranger)
    eventually(lambda: call.relay.totals()[LABEL][CARRIER].refused == {"stranger": 1})
    assert call.relay.totals()[LABEL][PLATFORM].sent == 7


def test_a_peer_that_falls_silent_is_reported_once_for_each_silence(bench: Bench, call: Call) -> None:
    call.negotiate()
    call.relay.update(1, CARRIER, media(call.carrier.address, silent_after=0.2))
    silent = bench.event(MediaSilent)
    assert (silent.session, silent.leg) == (1, CARRIER)
    with pytest.raises(AssertionError, match="no MediaSilent came"):
        bench.event(MediaSilent, 0.4)
    call.send(CARRIER, rtp(1, 160, b"p" * 160))
    assert bench.event(MediaSilent).leg is CARRIER


def test_a_peer_whose_port_is_closed_is_reported_early(bench: Bench, call: Call) -> None:
    call.negotiate(fill_after_ms=100)
    call.send(PLATFORM, rtp(1, 160, b"p" * 160))
    call.carrier.receive()
    call.relay.update(1, PLATFORM, media(call.platform.address, fill_after_ms=100, silent_after=60.0))
    call.platform.close()
    assert bench.event(MediaSilent, 5.0).leg is PLATFORM


def test_sessions_that_are_not_known_are_ignored(bench: Bench) -> None:
    relay = bench.start()
    relay.update(99, CARRIER, media(("127.0.0.2", 4000)))
    relay.tap(99, None)
    relay.close(99)
    assert relay.snapshot(99) is None
    assert list(relay.events()) == []
    assert relay.totals() == {}


@pytest.mark.parametrize("remote", ["media.example", "127.0.0.1:5000", ""])
def test_an_address_that_is_none_raises(call: Call, remote: str) -> None:
    with pytest.raises(RelayError, match="no IP address"):
        call.relay.update(1, CARRIER, media((remote, 4000)))


def test_a_relay_that_can_not_start_says_why(bench: Bench) -> None:
    with pytest.raises(RelayError, match="no IP address to bind"):
        bench.start(host="localhost")


def test_an_address_that_is_not_ours_refuses_with_the_systems_reason(bench: Bench) -> None:
    refused = bench.start(host="192.0.2.1").open(1, LABEL)
    assert isinstance(refused, SessionRefused)
    assert "192.0.2.1" in refused.reason
    assert bench.relay.ports() == (2, 400)


@pytest.mark.parametrize(("host", "peers"), [("0.0.0.0", "127.0.0.2"), ("::1", "::1"), ("::", "::1")])
def test_media_passes_on_the_wildcard_address_and_over_ipv6(bench: Bench, host: str, peers: str) -> None:
    bench.start(host=host)
    bench.host = {"::": "::1"}.get(host, bench.host)
    call = Call(bench, hosts=(peers, peers)).negotiate()
    call.send(CARRIER, rtp(1, 160, b"p" * 160))
    assert call.platform.receive().payload == b"p" * 160
    assert bench.event(MediaStarted).remote == call.carrier.address
    stranger = bench.peer(peers)
    call.send(CARRIER, rtp(2, 320, b"s" * 160), stranger)
    call.refused(CARRIER, "stranger", 1)


def test_stopping_ends_every_session_and_thread(bench: Bench) -> None:
    before = {thread.name for thread in threading.enumerate()}
    tasks = len(os.listdir("/proc/self/task"))
    relay = bench.start()
    calls = [Call(bench, session).negotiate(fill_after_ms=100) for session in range(4)]
    relay.stop()
    assert len([event for event in relay.events() if isinstance(event, SessionClosed)]) == 4
    # The kernel lets a thread be joined a moment before it takes its entry out of /proc.
    eventually(lambda: len(os.listdir("/proc/self/task")) == tasks)
    assert {thread.name for thread in threading.enumerate()} == before
    assert calls[0].platform.pending() != []
    assert isinstance(relay.open(9, LABEL), SessionRefused)


def test_an_idle_relay_sleeps(bench: Bench) -> None:
    bench.start()
    call = Call(bench)
    assert call.opened.session == 1
    busy = time.process_time()
    time.sleep(1.0)
    assert time.process_time() - busy < 0.1


@pytest.mark.slow
def test_a_thousand_calls_leak_no_descriptor_thread_or_port(bench: Bench) -> None:
    relay = bench.start(ports=(40_000, 41_999), quarantine=0.1)
    peers = [Peer("127.0.0.2"), Peer("127.0.0.3")]

    def one(session: int) -> None:
        opened = relay.open(session, LABEL)
        assert isinstance(opened, SessionOpened)
        for leg, peer in zip(LegName, peers, strict=True):
            relay.update(session, leg, media(peer.address, fill_after_ms=100))
            peer.rtp.sendto(rtp(1, 160, b"p" * 160), (RELAY_HOST, opened.port(leg)))
        relay.snapshot(session)
        relay.close(session)
        assert bench.event(SessionClosed).session == session

    try:
        one(0)
        eventually(lambda: relay.ports()[0] == 0)  # its sockets have rested
        descriptors, tasks = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
        for session in range(1, 1001):
            one(session)
        eventually(lambda: relay.ports()[0] == 0)
        assert len(os.listdir("/proc/self/fd")) == descriptors
        eventually(lambda: len(os.listdir("/proc/self/task")) == tasks)
    finally:
        for peer in peers:
            peer.close()
