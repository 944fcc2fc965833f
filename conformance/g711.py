"""G.711: companding between 16-bit samples and µ-law or A-law octets, by table; levels in dBov."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.int16]
Octets = npt.NDArray[np.uint8]

RATE = 8000
FRAME = 160
"""Samples and octets of one 20 ms frame."""

PAYLOAD_TYPES = {"PCMU": 0, "PCMA": 8}
SILENCE = {0: b"\xff" * FRAME, 8: b"\xd5" * FRAME}
"""One silent frame for each static payload type (RFC 3551 §4.5.14)."""


def _decode_ulaw_table() -> Samples:
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84) << ((code >> 4) & 7)
    value = magnitude - 0x84
    return np.where(code & 0x80, -value, value).astype(np.int16)


def _decode_alaw_table() -> Samples:
    code = np.arange(256, dtype=np.int32) ^ 0x55
    segment = (code >> 4) & 7
    magnitude = np.where(
        segment == 0, ((code & 0x0F) << 4) + 8, (((code & 0x0F) << 4) + 0x108) << np.maximum(segment - 1, 0)
    )
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


def _encode_table(decoded: Samples) -> Octets:
    """Map every 16-bit sample (index: sample + 32768) to the code whose value is nearest."""
    order = np.argsort(decoded, kind="stable")
    values = decoded[order].astype(np.int32)
    edges = (values[1:] + values[:-1] + 1) // 2
    samples = np.arange(-32768, 32768, dtype=np.int32)
    return order[np.searchsorted(edges, samples, side="right")].astype(np.uint8)


_DECODE = {0: _decode_ulaw_table(), 8: _decode_alaw_table()}
_ENCODE = {payload_type: _encode_table(table) for payload_type, table in _DECODE.items()}

LOUDNESS = {
    payload_type: bytes(np.minimum(np.abs(table.astype(np.int32)) >> 7, 255).astype(np.uint8))
    for payload_type, table in _DECODE.items()
}
"""Translate table from octet to magnitude / 128, for ``sum(payload.translate(table))`` on each packet."""


def encode(samples: Samples, payload_type: int = 0) -> bytes:
    """Compress samples to µ-law (payload type 0) or A-law (8)."""
    return bytes(_ENCODE[payload_type][samples.astype(np.int32) + 32768])


def decode(octets: bytes, payload_type: int = 0) -> Samples:
    """Expand µ-law (payload type 0) or A-law (8) octets to samples."""
    return _DECODE[payload_type][np.frombuffer(octets, dtype=np.uint8)]


def level_dbov(samples: npt.NDArray[np.generic]) -> float:
    """Measure the RMS level in dBov (0 dBov: a full-scale square wave); -127 for silence (RFC 6465 §3)."""
    if samples.size == 0:
        return -127.0
    power = float(np.mean(np.square(samples.astype(np.float64) / 32768.0)))
    return max(-127.0, 10.0 * float(np.log10(power))) if power > 0 else -127.0
