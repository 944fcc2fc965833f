"""What a party heard, from the packets it kept: gaps, sequence, rate, and heard against said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conformance.g711 import RATE, Samples, decode, level_dbov

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The RTP packets of one stream in the order of their arrival; times are monotonic seconds."""

    at: Float
    sequence: npt.NDArray[np.int64]
    timestamp: npt.NDArray[np.int64]
    ssrc: npt.NDArray[np.int64]
    payload_type: npt.NDArray[np.int64]
    marker: npt.NDArray[np.bool_]
    payloads: tuple[bytes, ...]
    not_rtp: int


def arrivals(packets: Sequence[tuple[float, bytes]]) -> Arrivals:
    """Read the headers of the packets kept; what is not RTP version 2 is counted apart."""
    kept = [(at, data) for at, data in packets if len(data) >= 12 and data[0] >> 6 == 2]
    header = np.frombuffer(b"".join(data[:12] for _, data in kept), dtype=np.uint8).reshape(-1, 12)
    header = header.astype(np.int64)

    def field(first: int, last: int) -> npt.NDArray[np.int64]:
        value = np.zeros(len(header), dtype=np.int64)
        for column in range(first, last):
            value = (value << 8) | header[:, column]
        return value

    return Arrivals(
        at=np.array([at for at, _ in kept], dtype=np.float64),
        sequence=unwrapped(field(2, 4), 16),
        timestamp=unwrapped(field(4, 8), 32),
        ssrc=field(8, 12),
        payload_type=field(1, 2) & 0x7F,
        marker=(field(1, 2) & 0x80) != 0,
        payloads=tuple(data[12 + 4 * (data[0] & 0x0F) :] for _, data in kept),
        not_rtp=len(packets) - len(kept),
    )


def unwrapped(values: npt.NDArray[np.int64], bits: int) -> npt.NDArray[np.int64]:
    """Turn counters that wrap at 2**bits into running ones, each the nearest to the one before it."""
    if values.size == 0:
        return values
    size = 1 << bits
    steps = (np.diff(values) + size // 2) % size - size // 2
    return np.concatenate((values[:1], values[0] + np.cumsum(steps)))


@dataclass(frozen=True, slots=True)
class StreamReport:
    """How one arriving stream behaved.

    ``longest_gap_ms`` counts the time from the last packet to the end of the call too. ``sequence_gaps`` are
    sequence numbers that never came; ``rate_low`` and ``rate_high`` the fewest and most packets in any whole
    second.
    """

    packets: int
    longest_gap_ms: float
    longest_gap_at: float  # seconds after the first packet
    sequence_gaps: int
    duplicates: int
    reordered: int
    ssrcs: int
    rate_low: int
    rate_high: int
    jitter_ms: float
    first_packet_ms: float
    not_rtp: int


def stream_report(got: Arrivals, answered_at: float, ended_at: float) -> StreamReport:
    """Measure the stream between the answer and the end of the call, both monotonic seconds."""
    during = got.at <= ended_at
    at = got.at[during]
    if at.size == 0:
        gap = (ended_at - answered_at) * 1000
        return StreamReport(0, gap, 0.0, 0, 0, 0, 0, 0, 0, 0.0, -1.0, got.not_rtp)
    gaps = np.diff(np.concatenate((at, [ended_at])))
    sequence = got.sequence[during]
    distinct = np.unique(sequence)
    # Seconds begin half a frame before the first packet: a packet that is a hair late stays in its own second.
    begun = at[0] - 0.01
    per_second = np.bincount((at - begun).astype(np.int64))[: int(ended_at - begun)]
    return StreamReport(
        packets=int(at.size),
        longest_gap_ms=float(gaps.max() * 1000),
        longest_gap_at=float(at[int(gaps.argmax())] - at[0]),
        sequence_gaps=int(distinct[-1] - distinct[0] + 1 - distinct.size),
        duplicates=int(sequence.size - distinct.size),
        reordered=int(np.count_nonzero(np.diff(sequence) < 0)),
        ssrcs=int(np.unique(got.ssrc[during]).size),
        rate_low=int(per_second.min()) if per_second.size else 0,
        rate_high=int(per_second.max()) if per_second.size else 0,
        jitter_ms=interarrival_jitter_ms(at, got.timestamp[during]),
        first_packet_ms=float((at[0] - answered_at) * 1000),
        not_rtp=got.not_rtp,
    )


def interarrival_jitter_ms(at: Float, timestamp: npt.NDArray[np.int64]) -> float:
    """Return the mean of the running estimate J of RFC 3550 A.8, in milliseconds."""
    if at.size < 2:
        return 0.0
    difference = np.abs(np.diff(at - timestamp / RATE)) * 1000
    jitter = total = 0.0
    for one in difference:
        jitter += (float(one) - jitter) / 16
        total += jitter
    return total / difference.size


def heard_signal(got: Arrivals) -> tuple[Samples, float]:
    """Lay the payloads out by RTP timestamp; return the samples and the monotonic time of the first one."""
    audio = np.isin(got.payload_type, (0, 8))
    if not audio.any():
        return np.zeros(0, dtype=np.int16), 0.0
    start = got.timestamp[audio].min()
    length = int(got.timestamp[audio].max() - start) + 160
    if length > 3600 * RATE:  # a jump of the timestamps: not a signal that can be laid out
        return np.zeros(0, dtype=np.int16), 0.0
    signal = np.zeros(length + 8000, dtype=np.int16)
    for index in np.flatnonzero(audio):
        samples = decode(got.payloads[index], int(got.payload_type[index]))
        place = int(got.timestamp[index] - start)
        signal[place : place + samples.size] = samples[: signal.size - place]
    first = int(np.flatnonzero(audio)[0])
    return signal[:length], float(got.at[first] - (got.timestamp[first] - start) / RATE)


@dataclass(frozen=True, slots=True)
class Match:
    """Place one utterance in what was heard: correlation 0..1, level there, lag behind the talker."""

    correlation: float
    level_dbov: float
    lag_ms: float


def find(said: Samples, heard: Samples, expected: int, slack: int = RATE) -> Match:
    """Find ``said`` in ``heard`` near sample ``expected`` by normalised cross-correlation."""
    first = max(0, expected - slack)
    window = heard[first : max(first, expected + said.size + slack)].astype(np.float64)
    if window.size < said.size:
        window = np.concatenate((window, np.zeros(said.size - window.size)))
    reference = said.astype(np.float64)
    size = 1 << int(window.size + reference.size).bit_length()
    product = np.fft.irfft(np.fft.rfft(window, size) * np.conj(np.fft.rfft(reference, size)), size)
    places = window.size - reference.size + 1
    energy = np.concatenate(([0.0], np.cumsum(window**2)))
    power = energy[reference.size : reference.size + places] - energy[:places]
    floor = 1e-3 * float(np.sum(reference**2)) + 1.0
    scores = product[:places] / np.sqrt(np.maximum(power, floor) * max(float(np.sum(reference**2)), 1.0))
    best = int(np.argmax(scores))
    return Match(
        correlation=float(np.clip(scores[best], 0.0, 1.0)),
        level_dbov=level_dbov(window[best : best + reference.size]),
        lag_ms=(first + best - expected) * 1000 / RATE,
    )


@dataclass(frozen=True, slots=True)
class Heard:
    """What one side heard of the other: each utterance found, weighted by its length."""

    correlation: float
    level_dbov: float
    said_dbov: float
    lag_ms: float
    utterances: int
    worst: float


def heard(spurts: Sequence[tuple[float, Samples]], got: Arrivals) -> Heard:
    """Compare the utterances (monotonic time of the first sample, samples) with what arrived over there."""
    signal, begun_at = heard_signal(got)
    # Less than 300 ms says too little: the tail of an utterance cut by the end of the call.
    spoken = [(at, samples) for at, samples in spurts if samples.size >= 0.3 * RATE]
    if not spoken or signal.size == 0:
        return Heard(0.0, -127.0, -127.0, 0.0, len(spoken), 0.0)
    matches = [find(samples, signal, round((at - begun_at) * RATE)) for at, samples in spoken]
    weights = np.array([samples.size for _, samples in spoken], dtype=np.float64)
    weights /= weights.sum()

    def mean(values: list[float]) -> float:
        return float(np.dot(weights, values))

    powers = [10 ** (match.level_dbov / 10) for match in matches]
    said = [10 ** (level_dbov(samples) / 10) for _, samples in spoken]
    return Heard(
        correlation=mean([match.correlation for match in matches]),
        level_dbov=max(-127.0, float(10 * np.log10(mean(powers) + 1e-13))),
        said_dbov=max(-127.0, float(10 * np.log10(mean(said) + 1e-13))),
        lag_ms=mean([match.lag_ms for match in matches]),
        utterances=len(matches),
        worst=min(match.correlation for match in matches),
    )


def rounded(report: StreamReport | Heard) -> Mapping[str, Any]:
    """Return a report as a JSON object with figures a person can read."""
    return {
        key: round(value, 4 if key in {"correlation", "worst"} else 1) if isinstance(value, float) else value
        for key, value in asdict(report).items()
    }
