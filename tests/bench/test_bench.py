"""The benchmarks' own instruments. No figure of speed is asserted here."""

import socket

import pytest

from conformance.benchmark import Row, _with_ratio, machine
from conformance.rivals import bdecode_string, bencode
from conformance.rtp_load import RtpLoad


@pytest.mark.sockets
def test_the_generator_sends_fifty_numbered_packets_a_second_to_every_stream():
    load = RtpLoad(("127.0.0.1", "127.0.0.1"))
    sinks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
    try:
        for sink in sinks:
            sink.bind(("127.0.0.1", 0))
            sink.setblocking(False)
        addresses = [sink.getsockname() for sink in sinks]
        carried = load.run((addresses[:3], addresses[3:]), 0.5)
        assert carried.sent == pytest.approx(100, abs=8)
        packets = []
        for sink in sinks:
            found = []
            while True:
                try:
                    found.append(sink.recv(2048))
                except OSError:
                    break
            packets.append(found)
    finally:
        load.close()
        for sink in sinks:
            sink.close()
    assert sum(map(len, packets)) == carried.sent
    for found in packets:
        sequence = [int.from_bytes(packet[2:4], "big") for packet in found]
        assert sequence == list(range(sequence[0], sequence[0] + len(found)))
        assert len({packet[8:12] for packet in found}) == 1
        assert all(len(packet) == 172 and packet[0] == 0x80 for packet in found)
    assert len({found[0][8:12] for found in packets}) == 4


def test_what_comes_back_is_counted():
    load = RtpLoad(("127.0.0.1", "127.0.0.1"))
    try:
        carried = load.run(([load.addresses[1]], [load.addresses[0]]), 0.3)
    finally:
        load.close()
    assert carried.received == carried.sent > 20


def test_ratios_are_to_the_first_subject():
    rows = [
        Row("media", "ours", "x", 8.0, "µs"),
        Row("media", "theirs", "x", 12.0, "µs"),
        Row("media", "no", "x", None, ""),
    ]
    assert [row.ratio for row in _with_ratio(rows)] == [None, 1.5, None]


def test_bencode_writes_and_reads_what_rtpengine_speaks():
    data = bencode({"sdp": "v=0\r\n", "command": "offer", "replace": ["origin"]})
    assert data == b"d7:command5:offer7:replacel6:origine3:sdp5:v=0\r\ne"
    assert bdecode_string(b"token d6:result2:ok3:sdp5:v=0\r\ne", "sdp") == "v=0\r\n"
    assert bdecode_string(b"token d6:result5:errore", "sdp") == ""


def test_the_machine_is_described():
    described = machine()
    assert int(described["cpus"]) >= 1
    assert described["kernel"]
