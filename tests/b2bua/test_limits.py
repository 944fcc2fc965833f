"""Limits: how many calls, how many a second, how many minutes a day, and which numbers (T09, T19, F18, D13)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.b2bua.actions import Trace
from bridge.b2bua.limits import Ceiling, Dial, Limits, Minutes, Pace
from bridge.b2bua.numbers import permitted
from bridge.config import NodeLimits, Peer
from bridge.sip.message import Request
from tests.harness.world import CARRIER, NUMBER, PLATFORM, World, peer, sdp

# -- the parts ---------------------------------------------------------------------------------------------------------


@given(
    st.floats(0.2, 30.0),
    st.lists(st.floats(0.0, 2.0), min_size=1, max_size=200),
)
@settings(max_examples=60, deadline=None)
def test_no_second_ever_has_more_calls_than_the_rate(rate: float, gaps: list[float]) -> None:
    """D13: whenever calls come, whatever window one looks at."""
    pace, now, passed = Pace(rate), 0.0, []
    for gap in gaps:
        now += gap
        if pace.room_at(now) <= now:
            pace.take(now)
            passed.append(now)
    size = max(1, int(rate))
    for first, after in zip(passed, passed[size:], strict=False):
        assert after - first >= size / rate - 1e-9


@given(st.integers(1, 5), st.integers(0, 12))
def test_a_place_in_the_queue_is_promised_to_the_moment(rate: int, waiting: int) -> None:
    """D13: what a call is told it must wait is what it waits."""
    pace = Pace(rate)
    for _ in range(rate):
        pace.take(10.0)
    promised = pace.room_at(10.25, waiting)
    now, ahead = 10.25, waiting
    while True:
        now = max(now, pace.room_at(now))
        if not ahead:
            break
        pace.take(now)
        ahead -= 1
    assert now == pytest.approx(promised)


def test_nobody_is_held_up_without_a_rate() -> None:
    pace = Pace(0.0)
    for _ in range(1000):
        assert pace.room_at(5.0) == 5.0
        pace.take(5.0)


def test_a_reserve_is_kept_free_for_its_direction() -> None:
    """F18: inbound calls must not starve outbound ones, nor the other way round."""
    ceiling = Ceiling(10, {"inbound": 2, "outbound": 3})
    for _ in range(7):
        assert ceiling.has_room("inbound")
        ceiling.add("inbound", 1)
    assert not ceiling.has_room("inbound")
    for _ in range(3):
        assert ceiling.has_room("outbound")
        ceiling.add("outbound", 1)
    assert not ceiling.has_room("outbound")
    ceiling.add("inbound", -6)
    assert ceiling.has_room("outbound")  # of the two kept for inbound one is in use
    ceiling.add("outbound", 5)
    assert not ceiling.has_room("outbound")
    assert ceiling.has_room("inbound")


def test_minutes_count_the_talking_too_and_begin_anew_at_midnight() -> None:
    """T09."""
    day = 20_000 * 86_400.0
    minutes = Minutes(10)
    minutes.answered(day + 100.0)
    minutes.answered(day + 200.0)
    assert minutes.spent(day + 300.0) == 300.0
    assert minutes.exhausted_at(day + 300.0) == day + 450.0  # two talk: 300 seconds last 150
    minutes.ended(day + 100.0, day + 300.0)
    assert minutes.exhausted_at(day + 300.0) == day + 600.0
    assert minutes.left(day + 599.0)
    assert not minutes.left(day + 600.0)
    minutes.ended(day + 200.0, day + 600.0)
    assert minutes.exhausted_at(day + 700.0) is None
    minutes.answered(day + 86_390.0)
    assert minutes.spent(day + 86_400.0 + 30.0) == 30.0
    minutes.ended(day + 86_390.0, day + 86_400.0 + 40.0)
    assert minutes.spent(day + 86_400.0 + 50.0) == 40.0


# -- numbers -----------------------------------------------------------------------------------------------------------

FORBIDDEN = [
    *("+8811234567", "8811234567", "008811234567", "0118811234567", "+88-11 (23)", "%2B881123", "%38%38%31123"),
    *("+19005550100", "19005550100", "+1-900-555", "9005550100", "++8811234"),
]


def account(**fields: Any) -> Peer:
    return peer("main", "carrier", CARRIER, {}, **fields)


@pytest.mark.parametrize("number", FORBIDDEN)
def test_a_denied_number_is_denied_however_it_is_written(number: str) -> None:
    """T09."""
    carrier = account(deny=("+881", "+1900", "900"))
    assert not permitted(carrier, number)
    assert permitted(carrier, "+14155550100")
    assert permitted(carrier, "+441908815555")


def test_what_is_not_allowed_is_denied_where_there_is_a_list() -> None:
    """T09."""
    carrier = account(allow=("+1", "44"), deny=("+1900",))
    allowed = {"+14155550100", "14155550100", "+442079460000"}
    tried = (*allowed, "+33123456789", "0033123456789", "9005550100", "+19005550100", "alice", "", "00441234")
    assert {number for number in tried if permitted(carrier, number)} == allowed


# -- in calls ----------------------------------------------------------------------------------------------------------


def limited(world: World) -> Counter[tuple[str, str, str]]:
    """Count the alarms by limit, carrier and platform."""
    found = [trace for trace in world.network.traces if trace.kind == "limit"]
    return Counter((trace.text, trace.details["carrier"], trace.details["platform"]) for trace in found)


def outbound(world: World, number: str = "+442079460000") -> Request:
    return world.platform.invite(number)


def dialled_at(world: World) -> dict[str, float]:
    """Return when each call to the carrier was dialled, by its Call-ID."""
    found: dict[str, float] = {}
    for at, message in world.carrier.inbox:
        if isinstance(message, Request) and message.method == "INVITE":
            found.setdefault(message.call_id, at)
    return found


def answer(world: World, which: int = -1) -> None:
    world.carrier.respond(world.carrier.requests("INVITE")[which], 200, body=sdp((CARRIER[0], 40000)))
    world.run(0.05)


def test_a_forbidden_number_leaves_as_no_invite_and_raises_the_alarm() -> None:
    """T09: 0 forbidden INVITEs, 403, counted at once."""
    world = World(carrier_peer={"deny": ("+881", "900")})
    for number in ("+8811234567", "9001234567", "008811234"):
        asked = outbound(world, number)
        world.run(0.05)
        refused = world.platform.responses()[-1]
        assert refused.status == 403
        world.platform.ack(asked, refused)
    assert world.carrier.requests("INVITE") == []
    assert limited(world) == {("destination", "main", "support"): 3}
    alarms = [trace.at for trace in world.network.traces if trace.kind == "limit"]
    assert alarms[0] - world.platform.times("INVITE", 403)[0] < 1.0
    assert {record["reason"] for record in world.network.records} == {"forbidden"}
    world.assert_idle()


def test_a_hundred_calls_at_once_leave_at_the_carriers_pace_or_are_refused() -> None:
    """T09, D13: 100 originates in one second."""
    world = World(carrier_peer={"cps": 2.0, "queue_for": 3.0})
    for _ in range(100):
        outbound(world)
    world.run(20.0)
    left = sorted(dialled_at(world).values())
    assert len(left) == 8  # 2 at once, 6 in the 3 seconds that a call may wait
    assert all(later - earlier >= 0.999 for earlier, later in zip(left, left[2:], strict=False))
    assert [record["reason"] for record in world.network.records].count("limit") == 92
    assert limited(world) == {("cps", "main", "support"): 92}
    refused = next(response for response in world.platform.responses() if response.status == 503)
    assert refused.headers.get("Retry-After") == "10"


def test_a_call_that_waits_hears_ringing_and_is_dialled_in_its_turn() -> None:
    """D13: one call a second, as Twilio and Chime begin with."""
    world = World(carrier_peer={"cps": 1.0, "queue_for": 5.0})
    began = world.network.now
    for _ in range(3):
        outbound(world)
    world.run(0.9)
    assert world.platform.statuses().count(180) == 3
    world.run(2.0)
    assert [round(at - began, 1) for at in dialled_at(world).values()] == [0.0, 1.0, 2.0]


def test_who_cancels_leaves_the_queue_and_those_behind_move_up() -> None:
    """D13."""
    world = World(carrier_peer={"cps": 1.0, "queue_for": 5.0})
    outbound(world, "+440")
    second = outbound(world, "+441")
    outbound(world, "+442")
    world.run(0.5)
    assert world.core.trunks()[0]["limits"]["queued"] == 2
    world.platform.cancel(second)
    world.run(1.0)
    dialled = list(dict.fromkeys(request.uri.partition("@")[0] for request in world.carrier.requests("INVITE")))
    assert dialled == ["sip:+440", "sip:+442"]
    assert world.core.trunks()[0]["limits"]["queued"] == 0


def test_a_call_takes_another_target_rather_than_wait() -> None:
    """D13: the queue is for those who have nowhere else to go."""
    world = World(platform_peer={"cps": 1.0, "queue_for": 5.0})
    world.carrier.invite()
    world.carrier.invite()
    world.run(0.1)
    assert len(world.platform.requests("INVITE")) == 1
    assert len(world.sales.requests("INVITE")) == 1
    world.sales.respond(world.sales.requests("INVITE")[0], 503)
    world.run(1.0)  # then it waits for its turn at the first
    assert len({request.call_id for request in world.platform.requests("INVITE")}) == 2


def test_the_reserve_of_a_carrier_keeps_outbound_calls_alive_in_a_storm_of_inbound_ones() -> None:
    """F18: 503 with Retry-After for the new ones within 200 ms, and none of the others is hurt."""
    world = World(carrier_peer={"max_calls": 5, "reserve": {"outbound": 2}})
    for _ in range(10):
        world.carrier.invite()
    world.run(0.2)
    assert Counter(world.carrier.statuses())[503] == 7
    assert world.carrier.responses()[-1].headers.get("Retry-After") == "10"
    assert len(world.platform.requests("INVITE")) == 3
    outbound(world)
    outbound(world)
    outbound(world)
    world.run(0.1)
    assert len(world.carrier.requests("INVITE")) == 2
    assert world.platform.statuses().count(503) == 1
    assert limited(world) == {("max_calls", "main", "support"): 8}
    trunk = world.core.trunks()[0]
    assert (trunk["active_calls"], trunk["limits"]["active"]) == (5, {"inbound": 3, "outbound": 2})
    assert trunk["limits"]["reserve"] == {"outbound": 2}


def test_the_node_has_limits_of_its_own() -> None:
    world = World(limits=NodeLimits(max_calls=2))
    for _ in range(3):
        world.carrier.invite()
    world.run(0.1)
    assert world.carrier.statuses().count(503) == 1
    assert limited(world) == {("node_max_calls", "main", "support"): 1}
    world = World(limits=NodeLimits(cps=3.0))
    for _ in range(5):
        world.carrier.invite()
    world.run(0.1)
    assert limited(world) == {("node_cps", "main", "support"): 2}


def test_a_peer_that_calls_too_often_is_refused() -> None:
    world = World(carrier_peer={"cps_from": 2.0})
    for _ in range(5):
        world.carrier.invite()
    world.run(0.1)
    assert world.carrier.statuses().count(503) == 3
    assert limited(world) == {("cps", "main", "support"): 3}
    world.run(1.0)
    world.carrier.invite()
    world.run(0.1)
    assert limited(world) == {("cps", "main", "support"): 3}


def test_a_full_bridge_is_busy_where_the_callers_profile_says_so() -> None:
    """D12: `responses` holds for limits too."""
    accounts: list[dict[str, Any]] = [{"carrier_peer": {"max_calls": 1}}, {"platform_peer": {"max_calls": 1}}]
    for peers in accounts:
        world = World(platform={"responses": {503: 486}}, **peers)
        outbound(world)
        outbound(world)
        world.run(0.1)
        assert 486 in world.platform.statuses()
        assert 503 not in world.platform.statuses()
        assert (world.record["status"], world.record["reason"], world.record["ended_by"]) == (486, "limit", "bridge")


def test_spending_ends_when_the_minutes_of_the_day_are_gone() -> None:
    """T09: spend after a compromise is at most the cap; calls that talk on are ended."""
    world = World(carrier_peer={"max_minutes_a_day": 2})
    for _ in range(2):
        asked = outbound(world)
        world.run(0.05)
        answer(world)
        world.platform.ack(asked, world.platform.responses()[-1])
    world.run(59.0)
    assert world.carrier.requests("BYE") == []
    world.run(1.5)
    assert len({request.call_id for request in world.carrier.requests("BYE")}) == 2
    for request in world.carrier.requests("BYE"):
        world.carrier.respond(request, 200)
    for request in world.platform.requests("BYE"):
        world.platform.respond(request, 200)
    outbound(world)
    world.run(0.1)
    assert world.platform.statuses()[-1] == 503
    assert ("minutes_a_day", "main", "support") in limited(world)
    spent = sum(record["duration"] for record in world.network.records)
    assert spent <= 120.5
    assert {record["reason"] for record in world.network.records if record["duration"]} == {"minutes-spent"}
    assert world.core.trunks()[0]["limits"]["minutes_today"] == pytest.approx(2.0, abs=0.05)
    world.assert_idle()


def test_each_leg_of_a_call_at_one_carrier_has_minutes_of_its_own() -> None:
    """T09: a transfer dials by way of the carrier that talks already; busy or answered, no minute goes uncounted."""
    config = World(carrier_peer={"max_minutes_a_day": 60}).config
    limits, carrier, platform = Limits(config, 0.0, lambda at: None), config.peer("main"), config.peer("support")

    def minutes(now: float) -> float:
        return float(limits.shown(carrier, now)["minutes_today"])

    assert limits.enter("call", platform, "outbound", 0.0) is None
    assert limits.dial("call", carrier, 0.0) is Dial.NOW
    limits.answered("call", carrier, 0.0)
    assert limits.dial("call", carrier, 60.0) is Dial.NOW
    limits.left("call", carrier, 60.0)
    assert minutes(120.0) == 2.0
    assert limits.dial("call", carrier, 120.0) is Dial.NOW
    limits.answered("call", carrier, 120.0)
    limits.answered("call", carrier, 120.0)  # there is no third leg
    limits.left("call", platform, 120.0)
    assert minutes(180.0) == 4.0
    assert limits.exhausted(3600.0) == ["call"]
    limits.ended("call", 180.0)
    assert minutes(240.0) == 4.0
    assert (limits.load(carrier), limits.load(platform), limits.counts()) == (0, 0, 0)


def test_every_place_is_given_back_however_a_call_ends() -> None:
    """T19: counters are zero again after refusals, cancels, failovers, hang-ups and time-outs."""
    world = World(carrier_peer={"cps": 3.0, "queue_for": 2.0}, platform_peer={"max_calls": 4})
    for _ in range(8):
        outbound(world)
    waiting = outbound(world)
    for _ in range(6):
        world.carrier.invite()
    world.run(0.3)
    world.platform.cancel(waiting)
    for number, request in enumerate(world.platform.requests("INVITE")):
        world.platform.respond(request, (486, 503, 302, 404)[number % 4])
    world.run(1.0)
    for number, request in enumerate(world.carrier.requests("INVITE")):
        if number % 2:
            world.carrier.respond(request, 503)
    world.run(200.0)
    for trunk in world.core.trunks():
        assert trunk["active_calls"] == 0
        assert trunk["limits"]["active"] == {"inbound": 0, "outbound": 0}
        assert trunk["limits"]["queued"] == 0
    assert world.core.counts()["limited"] == 0
    assert world.bugs() == []


def test_a_redirect_stays_with_its_account_and_its_rules() -> None:
    """T09: a 3xx is followed to hosts of the same account and numbers that it may dial, and nowhere else."""
    host = CARRIER[0]
    forbidden = f"<sip:900123@{host}>, <sip:+8811@{host}>, <sip:+1@{PLATFORM[0]}>, <tel:+14155550111>, <sips:+1@{host}>"
    world = World(carrier_peer={"deny": ("+881", "900")})
    outbound(world)
    world.run(0.05)
    first = world.carrier.requests("INVITE")[0]
    world.carrier.respond(first, 302, headers={"Contact": f"{forbidden}, <sip:+14155550111@{host}:5060>;q=0.5"})
    world.run(0.05)
    followed = world.carrier.requests("INVITE")[1]
    assert followed.uri == f"sip:+14155550111@{host}:5060"
    assert followed.call_id != first.call_id  # D11
    world.carrier.respond(followed, 302, headers={"Contact": forbidden})
    world.run(0.05)
    assert len(world.carrier.requests("INVITE")) == 2
    assert world.platform.requests("INVITE") == []
    assert world.platform.statuses()[-1] == 480
    assert [attempt["status"] for attempt in world.record["attempts"]] == [302, 302]


def test_redirects_in_a_circle_end() -> None:
    """T09, T20."""
    world = World()

    def react(message: object) -> None:
        if isinstance(message, Request) and message.method == "INVITE":
            count = len(world.carrier.requests("INVITE"))
            contact = f"<sip:+1415555{count:04}@{CARRIER[0]}>"
            world.carrier.respond(message, 302, headers={"Contact": contact})

    world.carrier.react = react
    outbound(world)
    world.run(1.0)
    assert len(world.carrier.requests("INVITE")) == 6
    assert world.platform.statuses()[-1] == 480


def test_limits_are_no_business_of_calls_that_have_none() -> None:
    world = World()
    call = world.set_up()
    world.carrier.within("BYE", call.asked, call.accepted, 2)
    world.run(0.1)
    world.platform.respond(world.platform.requests("BYE")[0], 200)
    assert not [trace for trace in world.network.traces if isinstance(trace, Trace) and trace.kind == "limit"]
    assert world.record["to"] == NUMBER
    world.assert_idle()
