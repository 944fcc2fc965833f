"""`trunkbridge trunks`: what a party may carry, in one cell."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.cli.trunks import _limits

NONE: dict[str, Any] = {"max_calls": None, "reserve": {}, "cps": None, "cps_used": 0, "queued": 0}
CELLS: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"max_calls": 100, "reserve": {"inbound": 20}}, "100, 20 for inbound"),
    ({"cps": 1.0, "cps_used": 1, "queued": 3}, "1 of 1/s, 3 wait"),
    ({"max_calls": 5, "max_minutes_a_day": 3000, "minutes_today": 12.5}, "5, 12.5 of 3000 min"),
]


@pytest.mark.parametrize(("limits", "cell"), CELLS)
def test_limits_and_their_use_are_told_in_short(limits: dict[str, Any], cell: str | None) -> None:
    assert _limits({"limits": NONE | limits}) == cell
