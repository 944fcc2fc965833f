"""The measure itself: what the demonstration and the cases blame the bridge for must be there, and nothing else."""

import numpy as np
import pytest

from conformance import speech
from conformance.g711 import SILENCE, encode
from conformance.listening import arrivals, find, heard, stream_report
from conformance.rtp import rtp_packet

SSRC = 0x1234


def stream(count, skip=(), start=100.0, sequence=65500, shift=None):
    """Packets 20 ms apart, with the sequence number wrapping, those in ``skip`` missing."""
    return [
        (start + 0.02 * n + (shift or {}).get(n, 0.0), rtp_packet(0, sequence + n, 160 * n, SSRC, SILENCE[0]))
        for n in range(count)
        if n not in skip
    ]


def test_a_clean_stream_has_no_fault():
    report = stream_report(arrivals(stream(500)), 100.0, 110.0)
    assert (report.packets, report.sequence_gaps, report.duplicates, report.ssrcs) == (500, 0, 0, 1)
    assert (report.rate_low, report.rate_high) == (50, 50)
    assert report.longest_gap_ms == pytest.approx(20.0, abs=0.01)
    assert report.jitter_ms == pytest.approx(0.0, abs=0.01)


def test_lost_packets_are_a_gap_in_time_and_in_sequence():
    report = stream_report(arrivals(stream(500, skip=(200, 201))), 100.0, 110.0)
    assert report.sequence_gaps == 2
    assert report.longest_gap_ms == pytest.approx(60.0, abs=0.01)
    assert report.longest_gap_at == pytest.approx(3.98, abs=0.01)
    assert report.rate_low == 48


def test_a_stream_that_stops_before_the_call_ends_has_a_gap():
    assert stream_report(arrivals(stream(100)), 100.0, 105.0).longest_gap_ms == pytest.approx(3020, abs=1)


def test_a_stream_that_never_came_is_one_gap():
    report = stream_report(arrivals([]), 100.0, 105.0)
    assert (report.packets, report.longest_gap_ms, report.rate_low) == (0, 5000.0, 0)


def test_duplicates_reordering_and_a_second_source_are_seen():
    packets = stream(100)
    packets[50], packets[51] = (packets[50][0], packets[51][1]), (packets[51][0], packets[50][1])
    packets.append((102.0, packets[10][1]))
    packets.append((102.01, rtp_packet(0, 65600, 16000, 0x9999, SILENCE[0])))
    packets.append((102.02, b"not rtp at all"))
    report = stream_report(arrivals(packets), 100.0, 102.1)
    assert report.duplicates == 1
    assert report.reordered >= 1
    assert report.ssrcs == 2
    assert report.not_rtp == 1


def test_jitter_is_that_of_rfc_3550():
    shift = {n: 0.004 if n % 2 else 0.0 for n in range(500)}
    # Every difference is 4 ms, so the estimate settles there.
    assert stream_report(arrivals(stream(500, shift=shift)), 100.0, 110.0).jitter_ms == pytest.approx(4.0, abs=0.3)


def spoken(line=0):
    return speech.utterance(speech.CALLER, speech.CALLER_LINES[line])


def carried(samples, at, gain=1.0, start=100.0):
    """The packets of an utterance said at a time, silence around it."""
    octets = encode((samples * gain).astype(np.int16))
    octets += SILENCE[0][: -len(octets) % 160]
    first = round((at - start) / 0.02)
    frames = [SILENCE[0]] * first + [octets[n : n + 160] for n in range(0, len(octets), 160)] + [SILENCE[0]] * 50
    return [(start + 0.02 * n, rtp_packet(0, n, 160 * n, SSRC, frame)) for n, frame in enumerate(frames)]


def test_what_was_said_is_heard_with_its_lag_and_level():
    result = heard([(101.0, spoken())], arrivals(carried(spoken(), 101.04, gain=0.5)))
    assert result.correlation > 0.99
    assert result.lag_ms == pytest.approx(40, abs=1)
    assert result.level_dbov == pytest.approx(result.said_dbov - 6.0, abs=0.3)


def test_another_utterance_is_not_taken_for_what_was_said():
    assert heard([(101.0, spoken(0))], arrivals(carried(spoken(2), 101.0))).correlation < 0.4


def test_silence_is_not_heard():
    result = heard([(101.0, spoken())], arrivals(stream(300)))
    assert result.correlation < 0.05
    assert result.level_dbov < -70


def test_half_of_an_utterance_lowers_the_correlation():
    samples = spoken()
    cut = samples.copy()
    cut[samples.size // 2 :] = 0
    assert 0.5 < find(samples, cut, 0).correlation < 0.9
