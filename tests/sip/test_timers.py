from __future__ import annotations

import random

from bridge.sip.timers import TimerTable, TimerValues


def test_the_defaults_are_those_of_rfc_3261():
    values = TimerValues()
    assert (values.t1, values.t2, values.t4, values.timeout) == (0.5, 4.0, 5.0, 32.0)


def test_keys_fall_due_in_the_order_of_their_deadlines():
    table = TimerTable()
    for key, at in (("c", 3.0), ("a", 1.0), ("b", 2.0), ("late", 9.0)):
        table.set(key, at)
    assert table.next() == 1.0
    assert table.due(0.5) == []
    assert table.due(3.0) == ["a", "b", "c"]
    assert (table.next(), len(table)) == (9.0, 1)


def test_of_equal_deadlines_the_one_set_first_comes_first():
    table = TimerTable()
    for key in ("b", "a", "c"):
        table.set(key, 1.0)
    assert table.due(1.0) == ["b", "a", "c"]


def test_a_cancelled_key_is_gone_at_once():
    table = TimerTable()
    table.set("a", 1.0)
    table.set("b", 2.0)
    table.cancel("a")
    table.cancel("a")
    table.cancel("unknown")
    assert (table.next(), len(table)) == (2.0, 1)
    table.cancel("b")
    assert (table.next(), len(table), table.due(9.0), table.pop(9.0)) == (None, 0, [], None)


def test_a_key_set_again_moves():
    table = TimerTable()
    table.set("a", 1.0)
    table.set("a", 5.0)
    assert (table.next(), len(table)) == (5.0, 1)
    table.set("a", 0.5)
    assert table.due(0.5) == ["a"]
    assert table.next() is None


def test_asking_changes_nothing():
    table = TimerTable()
    table.set("a", 1.0)
    table.set("b", 2.0)
    table.cancel("a")
    assert [table.next() for _ in range(3)] == [2.0, 2.0, 2.0]
    assert table.due(2.0) == ["b"]


def test_cancelled_deadlines_do_not_pile_up():
    table = TimerTable()
    table.set("first", 0.0)  # keeps the others below the top of the heap
    for number in range(10_000):
        table.set(number, 1.0 + number)
        table.cancel(number)
    assert len(table._heap) < 200


def test_it_agrees_with_a_plain_dictionary():
    generator = random.Random(7)
    table, model = TimerTable(), dict[int, float]()
    now = 0.0
    for _ in range(5_000):
        key, at = generator.randrange(50), now + generator.randrange(20) / 2
        match generator.randrange(4):
            case 0 | 1:
                table.set(key, at)
                model[key] = at
            case 2:
                table.cancel(key)
                model.pop(key, None)
            case 3:
                now += 0.5
                due = table.due(now)
                assert [model[key] for key in due] == sorted(at for at in model.values() if at <= now)
                for key in due:
                    del model[key]
        assert table.next() == min(model.values(), default=None)
        assert len(table) == len(model)
