"""Calls that do not come up, or that somebody gives up: who is told what, and that nothing is left behind."""

from __future__ import annotations

import pytest

from bridge.b2bua.actions import Drain, HangUp
from bridge.sip.message import Request
from tests.harness.relay import FakeRelay
from tests.harness.world import CARRIER, NUMBER, PLATFORM, Party, World, sdp


def test_the_next_target_is_tried_with_a_new_call_id_and_tag() -> None:
    """D11: LiveKit replays a cached rejection to the same Call-ID and From tag."""
    world = World()
    world.carrier.invite()
    world.run(0.1)
    first = world.platform.requests("INVITE")[0]
    world.platform.respond(first, 503)
    world.run(0.1)
    second = world.sales.requests("INVITE")[0]
    assert second.call_id != first.call_id
    assert second.from_.tag != first.from_.tag
    world.sales.respond(second, 200, body=sdp(("127.0.0.21", 50000)))
    world.run(0.1)
    assert world.carrier.statuses()[-1] == 200
    assert [attempt["status"] for attempt in world.core.calls()[0]["attempts"]] == [503, 200]
    assert world.core.calls()[0]["platform"] == "sales"
    assert world.relay.labels[1].platform == "sales"


@pytest.mark.parametrize("status", [486, 603])
def test_a_refusal_that_is_final_is_not_retried(status: int) -> None:
    """D12."""
    world = World()
    asked = world.carrier.invite()
    world.run(0.1)
    world.platform.respond(world.platform.requests("INVITE")[0], status)
    world.run(0.1)
    assert world.carrier.statuses()[-1] == status
    assert world.sales.requests("INVITE") == []
    world.carrier.ack(asked, world.carrier.responses()[-1])
    assert world.record["result"] == "rejected"
    world.assert_idle()


def test_a_target_that_never_answers_at_all_is_left_within_its_deadline() -> None:
    """R51: silent targets cost 4 s, not timer B's 32."""
    world = World()
    world.network.detach(PLATFORM)
    started = world.network.now
    world.carrier.invite()
    world.run(4.5)
    assert 3.9 <= world.sales.times("INVITE")[0] - started <= 4.1


def test_a_late_answer_of_an_abandoned_target_is_acknowledged_and_ended() -> None:
    world = World()
    asked = world.carrier.invite()
    world.run(4.5)  # the platform is silent until now
    late = world.platform.requests("INVITE")[0]
    world.sales.respond(world.sales.requests("INVITE")[0], 200, body=sdp(("127.0.0.21", 50000)))
    world.run(0.1)
    world.carrier.ack(asked, world.carrier.responses()[-1])
    world.platform.respond(late, 200, body=sdp((PLATFORM[0], 50000)))
    world.run(0.2)
    assert len(world.platform.requests("ACK")) == 1
    assert len(world.platform.requests("BYE")) == 1
    assert world.core.active == 1


def test_ringing_for_ever_ends_at_the_ring_deadline_with_a_cancel() -> None:
    """D8, F08: after ringing there is no fail-over, but a ring timer."""
    world = World(platform={"ring_deadline": 20.0})
    asked = world.carrier.invite()
    world.run(0.1)
    invite = world.platform.requests("INVITE")[0]
    world.platform.respond(invite, 180)
    world.run(20.2)
    assert len(world.platform.requests("CANCEL")) == 1
    assert world.carrier.statuses()[-1] == 480
    world.carrier.ack(asked, world.carrier.responses()[-1])
    world.platform.respond(world.platform.requests("CANCEL")[0], 200)
    world.platform.respond(invite, 487)
    assert world.record["reason"] == "no-answer"
    assert world.sales.requests("INVITE") == []
    world.assert_idle()


def test_the_carriers_response_map_decides_what_it_hears() -> None:
    """D12: Telnyx tries elsewhere only on 408, 480, 503, 504."""
    world = World(carrier={"responses": {500: 503}})
    world.carrier.invite()
    world.run(0.1)
    for party in (world.platform, world.sales):
        world.run(0.1)
        party.respond(party.requests("INVITE")[0], 500)
    world.run(0.1)
    assert world.carrier.statuses()[-1] == 503
    assert world.record["reason"] == "far-failure"


def test_a_redirect_to_anybody_else_is_not_followed() -> None:
    """T09."""
    world = World()
    world.carrier.invite()
    world.run(0.1)
    world.platform.respond(world.platform.requests("INVITE")[0], 302, headers={"Contact": "<sip:900123@127.0.0.10>"})
    world.run(0.1)
    assert world.carrier.statuses()[-1] == 480
    assert world.carrier.requests("INVITE") == []


def test_an_answer_without_a_common_codec_ends_that_platform_with_bye() -> None:
    world = World()
    world.carrier.invite()
    world.run(0.1)
    world.platform.respond(world.platform.requests("INVITE")[0], 200, body=sdp((PLATFORM[0], 50000), formats="18"))
    world.run(0.1)
    assert len(world.platform.requests("ACK")) == 1
    assert len(world.platform.requests("BYE")) == 1
    assert world.carrier.statuses()[-1] == 488


def test_a_number_without_a_route_is_404() -> None:
    world = World()
    asked = world.carrier.invite(number="+19998887777")
    world.run(0.1)
    assert world.carrier.statuses()[-1] == 404
    world.carrier.ack(asked, world.carrier.responses()[-1])
    assert (world.record["reason"], world.record["ended_by"]) == ("no-route", "bridge")
    world.assert_idle()


def test_no_ports_left_is_503_with_retry_after() -> None:
    world = World(relay=FakeRelay(capacity=0))
    asked = world.carrier.invite()
    world.run(0.1)
    refused = world.carrier.responses()[-1]
    assert (refused.status, refused.headers.get("Retry-After")) == (503, "10")
    world.carrier.ack(asked, refused)
    assert world.record["reason"] == "no-ports"
    world.assert_idle()


def test_draining_refuses_new_calls_and_keeps_the_old() -> None:
    """F04."""
    world = World()
    call = world.set_up()
    world.network.command(Drain())
    world.carrier.invite()
    world.run(0.1)
    refused = world.carrier.responses()[-1]
    assert (refused.status, refused.headers.get("Retry-After")) == (503, "10")
    assert world.core.active == 1
    world.carrier.within("BYE", call.asked, call.accepted, 2)
    world.run(0.1)
    assert world.core.active == 0


def test_the_operator_ends_every_call_with_bye_on_both_legs() -> None:
    world = World()
    world.set_up()
    world.network.command(HangUp(None))
    world.run(0.1)
    assert len(world.carrier.requests("BYE")) == len(world.platform.requests("BYE")) == 1
    assert (world.record["reason"], world.record["ended_by"]) == ("operator", "operator")


def test_a_limit_on_calls_is_kept() -> None:
    world = World(carrier_peer={"max_calls": 1})
    world.set_up()
    world.carrier.invite()
    world.run(0.1)
    assert world.carrier.statuses()[-1] == 503


def test_a_target_that_is_full_is_passed_over() -> None:
    world = World(platform_peer={"max_calls": 1})
    world.set_up()
    world.carrier.invite()
    world.run(0.1)
    assert len(world.platform.requests("INVITE")) == 1
    assert len(world.sales.requests("INVITE")) == 1
    assert [attempt["status"] for attempt in world.core.calls()[1]["attempts"]] == [503]


# -- CANCEL ------------------------------------------------------------------------------------------------------------


def test_cancel_waits_for_a_provisional_of_the_platform() -> None:
    """R07: no CANCEL may be sent before any provisional response (RFC 3261 §9.1)."""
    world = World(platform={"response_deadline": 10.0})
    started = world.network.now
    asked = world.carrier.invite()
    world.run(0.05)
    world.carrier.cancel(asked, {"Reason": 'Q.850;cause=16;text="Normal"'})
    world.run(2.95)
    assert world.carrier.times("CANCEL", 200)[0] - started <= 0.25
    assert world.carrier.times("INVITE", 487)[0] - started <= 0.25
    assert world.platform.requests("CANCEL") == []
    invite = world.platform.requests("INVITE")[0]
    world.platform.respond(invite, 100)
    world.run(0.1)
    cancel = world.platform.requests("CANCEL")[0]
    assert cancel.headers.get("Reason") == 'Q.850;cause=16;text="Normal"'
    world.carrier.ack(asked, world.carrier.responses()[-1])
    world.platform.respond(cancel, 200)
    world.platform.respond(invite, 487)
    assert (world.record["result"], world.record["ended_by"]) == ("cancelled", "carrier")
    world.assert_idle()


@pytest.mark.parametrize("gap_ms", range(-20, 21))
def test_cancel_crossing_200_leaves_no_call_anywhere(gap_ms: int) -> None:
    """R08: both orders, in 1 ms steps."""
    world = World()
    asked = world.carrier.invite()
    world.run(0.1)
    invite = world.platform.requests("INVITE")[0]
    world.platform.respond(invite, 180)
    world.run(0.1)

    def accept() -> None:
        world.platform.respond(invite, 200, body=sdp((PLATFORM[0], 50000)))

    world.network.at(0.03, lambda: world.carrier.cancel(asked))
    world.network.at(0.03 + gap_ms / 1000, accept)

    def behave(message: object) -> None:
        final = [r for r in world.carrier.responses() if r.status >= 200]
        if final and message is final[-1]:
            world.carrier.ack(asked, final[-1])
            if final[-1].status == 200:
                world.carrier.within("BYE", asked, final[-1], 2)

    def leave(message: object) -> None:
        if isinstance(message, Request) and message.method in ("BYE", "CANCEL"):
            world.platform.respond(message, 200)

    world.carrier.react, world.platform.react = behave, leave
    world.run(1.0)
    assert len(world.platform.requests("ACK")) >= 1
    assert len(world.platform.requests("BYE")) == 1
    assert {r.status for r in world.carrier.responses() if r.status >= 200} <= {200, 487}
    assert len(world.network.records) == 1
    assert world.relay.open_sessions == {}
    world.assert_idle()


def test_cancel_before_the_relay_has_ports_ends_the_call() -> None:
    world = World()
    asked = world.carrier.invite()
    world.carrier.cancel(asked)
    world.run(0.2)
    assert 487 in world.carrier.statuses()
    assert world.core.active == 0


# -- strangers and strays ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["OPTIONS", "INVITE", "REGISTER", "garbage"])
def test_a_stranger_hears_nothing_and_is_counted(method: str) -> None:
    """T05, T08: default deny."""
    world = World()
    heard: list[bytes] = []
    stranger = ("127.9.9.9", 5060)
    world.network.attach(stranger, lambda data, _local: heard.append(data))
    data = world.carrier.invite().encode().replace(b"INVITE", method.encode(), 1)
    world.carrier.inbox.clear()
    for _ in range(100):
        world.network.send(data, stranger)
    world.run(1.0)
    assert heard == []
    rejected = [trace for trace in world.network.traces if trace.kind == "rejected"]
    assert [trace.text for trace in rejected] == ["unknown-source"] * 100


def test_an_invite_that_comes_back_to_us_is_a_loop() -> None:
    """R24, T20: a new Call-ID on each leg hides loops from everybody but us."""
    world = World()
    world.carrier.invite()
    world.run(0.1)
    ours = world.platform.requests("INVITE")[0]
    world.platform.send(ours.encode().replace(b"z9hG4bK", b"z9hG4bKlooped", 1))
    world.run(0.1)
    assert 482 in world.platform.statuses()
    assert world.core.active == 1


def test_a_request_for_no_dialog_is_481() -> None:
    world = World()
    call = world.set_up()
    world.carrier.within("BYE", call.asked, call.accepted, 2, headers={"X-Test": "1"})
    world.run(40.0)
    world.carrier.within("BYE", call.asked, call.accepted, 3)
    world.run(0.1)
    assert [r.status for r in world.carrier.responses("BYE")] == [200, 481]


def test_a_bye_with_copied_identifiers_from_another_peer_ends_nothing() -> None:
    """T24."""
    world = World()
    call = world.set_up()
    forged = world.carrier.within("BYE", call.asked, call.accepted, 2).encode()
    world.network._queue.clear()  # the carrier's own copy is not sent
    world.sales.send(forged)
    world.run(0.2)
    assert world.core.active == 1
    assert world.carrier.requests("BYE") == []


def test_a_cancel_or_an_answer_with_copied_identifiers_from_another_peer_does_nothing() -> None:
    """T24."""
    world = World()
    asked = world.carrier.invite()
    world.run(0.1)
    invite = world.platform.requests("INVITE")[0]
    answer = world.platform.respond(invite, 200, body=sdp((PLATFORM[0], 50000)))
    world.network._queue.clear()  # the platform's own copy is not sent
    world.sales.send(answer)
    world.run(0.1)
    cancel = asked.encode().replace(b"INVITE", b"CANCEL").partition(b"Content-Type")[0] + b"Content-Length: 0\r\n\r\n"
    world.sales.send(cancel)
    world.run(0.1)
    assert world.carrier.statuses() == [100]
    assert world.sales.statuses("CANCEL") == [481]
    assert "foreign" in [trace.text for trace in world.network.traces if trace.kind == "rejected"]
    assert world.core.calls()[0]["state"] == "dialling"


@pytest.mark.parametrize(("method", "status"), [("SUBSCRIBE", 405), ("REGISTER", 405), ("FROBNICATE", 501)])
def test_methods_we_do_not_serve_are_refused_with_allow(method: str, status: int) -> None:
    """R17."""
    world = World()
    invite = world.carrier.invite(number="+19998887777")
    world.carrier.inbox.clear()
    data = invite.encode().replace(b"INVITE", method.encode()).replace(b"branch=z9hG4bK", b"branch=z9hG4bKother")
    world.carrier.send(data.replace(invite.call_id.encode(), b"another"))
    world.run(0.1)
    refused = world.carrier.responses(method)[0]
    assert refused.status == status
    assert "INVITE" in (refused.headers.get("Allow") or "")


def test_options_is_answered_outside_a_dialog() -> None:
    """D21."""
    world = World()
    invite = world.carrier.invite(number="+19998887777")
    data = invite.encode().replace(b"INVITE", b"OPTIONS").replace(b"branch=z9hG4bK", b"branch=z9hG4bKother")
    world.carrier.send(data.replace(invite.call_id.encode(), b"another"))
    world.run(0.1)
    assert world.carrier.statuses("OPTIONS") == [200]


def test_a_required_extension_is_420_with_its_name() -> None:
    """R17."""
    world = World()
    world.carrier.invite(headers={"Require": "100rel, nothing"})
    world.run(0.1)
    refused = world.carrier.responses()[-1]
    assert refused.status == 420
    assert refused.headers.get_all("Unsupported") == ["100rel", "nothing"]


def test_a_required_extension_is_420_for_options_and_within_a_dialog_too() -> None:
    """R17: RFC 4475 §3.3.5."""
    world = World()
    call = world.set_up()
    world.carrier.within("BYE", call.asked, call.accepted, 2, headers={"Require": "nothing"})
    world.run(0.1)
    assert world.carrier.statuses("BYE") == [420]
    assert world.core.active == 1
    options = call.asked.encode().replace(b"INVITE", b"OPTIONS").replace(b"Max-", b"Require: nothing\r\nMax-")
    world.carrier.send(options.replace(b"z9hG4bK", b"z9hG4bKother").replace(call.asked.call_id.encode(), b"another"))
    world.run(0.1)
    assert world.carrier.statuses("OPTIONS") == [420]


def test_a_body_that_is_no_sdp_is_415_with_accept() -> None:
    """R17."""
    world = World()
    invite = world.carrier.invite(number="+19998887777").encode()
    world.carrier.inbox.clear()
    world.network._queue.clear()
    world.carrier.send(invite.replace(b"application/sdp", b"application/foo").replace(b"v=0", b"x=0"))
    world.run(0.1)
    refused = world.carrier.responses()[-1]
    assert (refused.status, refused.headers.get("Accept")) == (415, "application/sdp")


def test_a_bug_of_ours_ends_one_call_and_the_bridge_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.set_up()
    from bridge.b2bua.leg import Leg

    def explode(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Leg, "_peer_left", explode)
    call = world.core.calls()[0]
    invite, accepted = world.carrier.requests("INVITE"), world.carrier.responses()[-1]
    assert invite == []
    world.platform.within_received("BYE", world.platform.requests("INVITE")[0], "far", 1)
    world.run(0.2)
    monkeypatch.undo()
    assert 500 in world.platform.statuses("BYE")
    assert len(world.bugs()) == 1
    assert world.record["reason"] == "bug"
    assert world.record["id"] == call["id"]
    assert accepted.status == 200
    world.carrier.inbox.clear()
    world.carrier.invite()
    world.run(0.1)
    assert 100 in world.carrier.statuses()


def test_names_are_looked_up_and_their_addresses_may_signal() -> None:
    from bridge.config import Host

    world = World(platform_peer={"hosts": (Host("sip.example.com", 0, ""),), "sources": ()})
    world.network.names["sip.example.com"] = ("198.51.100.20",)
    world.platform = Party(world.network, ("198.51.100.20", 5060))
    world.set_up()
    world.platform.within_received("BYE", world.platform.requests("INVITE")[0], "far", 1)
    world.run(0.1)
    assert world.record["ended_by"] == "platform"


def test_a_name_that_does_not_resolve_moves_to_the_next_target() -> None:
    from bridge.config import Host

    world = World(platform_peer={"hosts": (Host("nowhere.example.com", 0, ""),)})
    world.carrier.invite(number=NUMBER)
    world.run(0.2)
    assert len(world.sales.requests("INVITE")) == 1
    assert world.carrier.address == CARRIER


@pytest.mark.parametrize("inner", ["127.0.0.20", "169.254.169.254", "10.1.2.3", "::1", "::ffff:127.0.0.1", "224.0.0.1"])
def test_t21_a_name_that_leads_into_our_own_network_is_not_called(inner: str) -> None:
    """T21: a lying name server sends nothing to loopback, link-local, multicast or private addresses."""
    from bridge.config import Host

    world = World(platform_peer={"hosts": (Host("sip.example.com", 5060, "udp"),), "sources": ("192.0.2.0/24",)})
    world.network.names["sip.example.com"] = (inner,)
    world.carrier.invite(number=NUMBER)
    world.run(0.5)
    assert world.platform.requests("INVITE") == []
    assert inner not in {transmit.flow.remote[0] for _, transmit in world.network.sent}
    assert [trace.text for trace in world.network.traces if trace.kind == "rejected"] == ["private-target"]


def test_t21_a_peer_may_live_where_its_account_says() -> None:
    """T21: "unless configured"."""
    from bridge.config import Host

    world = World(platform_peer={"hosts": (Host("sip.example.com", 5060, "udp"),), "sources": ("127.0.0.0/27",)})
    world.network.names["sip.example.com"] = ("169.254.169.254", PLATFORM[0])
    world.set_up()
