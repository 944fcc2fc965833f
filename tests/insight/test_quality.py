"""R-factor and MOS against the values that G.107 Annex B and G.113 Appendix I print."""

from __future__ import annotations

import pytest

from bridge.insight.quality import leg_mos, mos, r_factor


@pytest.mark.parametrize(("r", "expected"), [(93.2, 4.41), (90, 4.34), (80, 4.03), (70, 3.60), (60, 3.10), (50, 2.58)])
def test_mos_follows_annex_b(r: float, expected: float) -> None:
    assert mos(r) == pytest.approx(expected, abs=0.01)


def test_mos_stays_within_its_scale() -> None:
    values = [mos(r / 10) for r in range(-100, 1100)]
    assert min(values) == 1.0
    assert max(values) <= 4.5
    assert [mos(r) for r in range(94)] == sorted(mos(r) for r in range(94))


def test_a_clean_call_on_a_short_path_is_rated_best() -> None:
    assert r_factor(0.0, 0.0) == pytest.approx(93.2)
    assert r_factor(0.0, 150.0) == pytest.approx(93.2 - 3.6)


def test_loss_costs_what_g113_says_of_g711_with_concealment() -> None:
    # Ie,eff = (95 - 0) * Ppl / (Ppl + 25.1)
    assert r_factor(0.05, 0.0) == pytest.approx(93.2 - 95 * 5 / 30.1)
    assert r_factor(1.0, 0.0) == pytest.approx(93.2 - 95 * 100 / 125.1)


def test_delay_beyond_177_ms_costs_more() -> None:
    assert r_factor(0.0, 277.3) == pytest.approx(93.2 - 0.024 * 277.3 - 11.0)


def test_a_leg_that_heard_nothing_has_no_mos() -> None:
    assert leg_mos(0, 0, 0.0, None) is None


def test_a_leg_is_rated_by_its_loss_jitter_and_round_trip() -> None:
    clean = leg_mos(1000, 0, 0.5, 10.0)
    assert clean == pytest.approx(4.39, abs=0.02)
    lossy, distant = leg_mos(1000, 50, 0.5, 10.0), leg_mos(1000, 0, 0.5, 600.0)
    assert clean is not None
    assert lossy is not None
    assert distant is not None
    assert lossy < 4.0 < clean
    assert distant < clean
