"""Late messages still find their call, and a flood of refused ones fills nothing (T10)."""

from __future__ import annotations

from bridge.b2bua.call_ids import GENERATION, MOST, CallIds


def test_a_released_call_id_is_known_for_one_to_two_generations() -> None:
    ids = CallIds()
    ids.add("a", "record")
    assert (ids.get("a"), ids.turns_at) == ("record", None)
    ids.release("a", 100.0)
    assert ids.turns_at == 100.0 + GENERATION
    ids.turn(ids.turns_at)
    assert ids.get("a") == "record"
    assert ids.turns_at == 100.0 + 2 * GENERATION
    ids.turn(ids.turns_at)
    assert len(ids) == 0
    assert ids.turns_at is None


def test_t10_however_many_calls_end_at_once_no_more_than_two_generations_are_held() -> None:
    ids = CallIds()
    ids.add("live", "long call")
    for number in range(5 * MOST):
        ids.add(f"call {number}", "refused")
        ids.release(f"call {number}", 1.0)
    assert len(ids) <= 2 * MOST + 1
    assert ids.get(f"call {5 * MOST - 1}") == "refused"
    assert ids.get("live") == "long call"


def test_a_call_id_that_was_never_added_is_nobodys() -> None:
    ids = CallIds()
    ids.release("x", 0.0)
    assert (ids.get("x"), "x" in ids, ids.turns_at) == ("", False, None)
