"""How a leg sounds: the E-model's R-factor and the MOS that follows from it (ITU-T G.107, G.113)."""

from __future__ import annotations

import math

# G.113 Appendix I, G.711 with packet loss concealment: no impairment of its own, robust to random loss.
_G711_IE = 0.0
_G711_BPL = 25.1
# G.107 with every parameter at its default: R0 - Is.
_BEST_R = 93.2


def r_factor(loss: float, one_way_delay_ms: float) -> float:
    """Return the transmission rating R, 0 to 93.2.

    ``loss`` is the share of packets lost after the jitter buffer, 0..1; ``one_way_delay_ms`` is mouth to ear. The delay
    impairment is the usual two-slope reading of G.107 §7.4 (Cole and Rosenbluth), good to 400 ms.
    """
    percent = 100.0 * min(max(loss, 0.0), 1.0)
    equipment = _G711_IE + (95.0 - _G711_IE) * percent / (percent + _G711_BPL)
    delay = max(one_way_delay_ms, 0.0)
    impairment = 0.024 * delay + (0.11 * (delay - 177.3) if delay > 177.3 else 0.0)
    return min(max(_BEST_R - impairment - equipment, 0.0), _BEST_R)


def mos(r: float) -> float:
    """Return the mean opinion score, 1 to 4.41, of a transmission rating (G.107 Annex B)."""
    if r <= 6.5:  # below this the cubic dips under 1
        return 1.0
    r = min(r, 100.0)
    return 1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7.0e-6


def leg_mos(
    expected: int, lost: int, jitter_ms: float, round_trip_ms: float | None, ptime_ms: int = 20
) -> float | None:
    """Estimate how the peer of a leg is heard: None when nothing was expected from it.

    A receiver is taken to hold two mean jitters in its buffer; half the round trip is taken as the network's share.
    """
    if expected <= 0:
        return None
    delay = ptime_ms + 2.0 * jitter_ms + (round_trip_ms or 0.0) / 2.0
    return math.floor(mos(r_factor(lost / expected, delay)) * 100.0 + 0.5) / 100.0
