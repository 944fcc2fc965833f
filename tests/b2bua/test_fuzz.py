"""Whole calls with damaged messages; tests/fuzz/calls.py plays as many as are wanted."""

from __future__ import annotations

import pytest

from tests.fuzz.calls import play


@pytest.mark.parametrize("hundred", [0, 1])
def test_t11_t19_calls_in_which_any_message_is_damaged_are_no_bug_and_leave_nothing(hundred):
    for number in range(hundred * 100, hundred * 100 + 100):
        play(number)
