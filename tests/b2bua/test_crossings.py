"""What crosses what: offers, provisional responses, transfers and hang-ups that meet; nothing stays for ever (T19)."""

from __future__ import annotations

import pytest

from bridge.media.relay import LegName
from bridge.sip.message import Request, Response
from tests.b2bua.test_takeover import Consultation
from tests.harness.world import CARRIER, PLATFORM, Party, World, sdp

REFRESHED = {"Supported": "timer", "Session-Expires": "90;refresher=uas", "Allow": "INVITE, ACK, BYE"}
MEDIA = sdp((PLATFORM[0], 50000))


def reliably_ringing(**invite: object) -> tuple[World, Request, Request, Response]:
    """Come as far as our reliable 183 with SDP, whose PRACK is due."""
    world = World(carrier={"prack": "supported"})
    asked = world.carrier.invite(headers={"Supported": "100rel"}, **invite)  # type: ignore[arg-type]
    world.run(0.1)
    offered = world.platform.requests("INVITE")[0]
    world.platform.respond(offered, 183, body=MEDIA)
    world.run(0.1)
    progress = world.carrier.responses()[-1]
    assert progress.headers.get("RSeq")
    return world, asked, offered, progress


def obliging(party: Party) -> None:
    """Let a party answer 200 to whatever is no INVITE."""

    def react(message: Request | Response) -> None:
        if isinstance(message, Request) and message.method not in ("INVITE", "ACK"):
            party.respond(message, 200)

    party.react = react


# -- a 200 of ours that waits for a PRACK ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["silence", "cancel", "bye", "callee"])
def test_r30_a_200_that_waits_for_its_prack_is_no_answer_yet(how: str) -> None:
    """RFC 3262 §3, R30, T19: until it is out, the INVITE can still be cancelled, ended and refused, and must be."""
    world, asked, offered, progress = reliably_ringing()
    world.platform.respond(offered, 200, body=MEDIA)
    world.run(0.1)
    assert world.carrier.statuses()[-1] == 183
    obliging(world.platform)
    match how:
        case "cancel":
            world.carrier.cancel(asked)
        case "bye":
            world.carrier.within("BYE", asked, progress, 2)
        case "callee":
            world.platform.within_received("BYE", offered, "far", 1)
        case _:
            pass
    world.run(33.0)
    final = world.carrier.responses()[-1]
    expected = {"silence": 504, "cancel": 487, "bye": 487, "callee": 480}[how]
    assert final.status == expected
    world.carrier.ack(asked, final)
    world.run(0.1)
    assert len(world.platform.requests("BYE")) == (0 if how == "callee" else 1)
    reasons = {"silence": "no-ack", "cancel": "cancelled", "bye": "hangup", "callee": "hangup"}
    assert world.record["reason"] == reasons[how]
    world.assert_idle()


@pytest.mark.parametrize("body", [sdp((CARRIER[0], 40000), formats="18"), b"v=0\r\nrubbish"])
def test_an_answer_in_a_prack_that_takes_nothing_of_our_offer_refuses_the_call(body: bytes) -> None:
    """RFC 3262 §5: it is the peer's fault, and no bug of ours."""
    world, asked, offered, progress = reliably_ringing(body=b"")
    obliging(world.platform)
    rack = f"{progress.headers.get('RSeq')} 1 INVITE"
    world.carrier.within("PRACK", asked, progress, 2, headers={"RAck": rack}, body=body)
    world.run(0.1)
    world.platform.respond(offered, 200, body=MEDIA)
    world.run(0.1)
    assert world.bugs() == []
    final = world.carrier.responses()[-1]
    assert (final.cseq.method, final.status) == ("INVITE", 488)
    world.carrier.ack(asked, final)
    world.run(0.1)
    assert world.record["reason"] == "codec-mismatch"
    world.assert_idle()


def test_an_offer_of_ours_that_a_prack_has_answered_is_open_no_more() -> None:
    """RFC 3311 §5.2, R35."""
    world, asked, _, progress = reliably_ringing(body=b"")
    rack = f"{progress.headers.get('RSeq')} 1 INVITE"
    world.carrier.within("PRACK", asked, progress, 2, headers={"RAck": rack}, body=sdp((CARRIER[0], 40000)))
    world.run(0.1)
    world.carrier.within("UPDATE", asked, progress, 3, body=sdp((CARRIER[0], 40002), version=2))
    world.run(0.1)
    assert world.carrier.statuses("UPDATE") == [200]


def test_an_offer_in_a_prack_has_to_wait_for_the_answer_to_the_first() -> None:
    """RFC 3262 §5, R11: the INVITE's own offer has no answer yet, and there is nothing to answer this one from."""
    world = World(carrier={"prack": "supported"})
    asked = world.carrier.invite(headers={"Require": "100rel"})
    world.run(0.1)
    world.platform.respond(world.platform.requests("INVITE")[0], 180)
    world.run(0.1)
    ringing = world.carrier.responses()[-1]
    rack = f"{ringing.headers.get('RSeq')} 1 INVITE"
    world.carrier.within("PRACK", asked, ringing, 2, headers={"RAck": rack}, body=sdp((CARRIER[0], 40002)))
    world.run(0.1)
    assert world.carrier.statuses("PRACK") == [500]
    assert world.bugs() == []
    assert world.core.active == 1


def test_an_offer_of_ours_that_the_ack_has_not_answered_is_open() -> None:
    """RFC 3311 §5.2, R35: an UPDATE with an offer has to wait for it."""
    world = World()
    asked = world.carrier.invite(body=b"")
    world.run(0.1)
    world.platform.respond(world.platform.requests("INVITE")[0], 200, body=MEDIA)
    world.run(0.1)
    accepted = world.carrier.responses()[-1]
    world.carrier.within("UPDATE", asked, accepted, 2, body=sdp((CARRIER[0], 40002)))
    world.run(0.1)
    assert world.carrier.statuses("UPDATE") == [491]
    world.carrier.ack(asked, accepted, body=sdp((CARRIER[0], 40000)))
    world.run(0.1)
    assert world.relay.media[1][LegName.CARRIER].remote_rtp == (CARRIER[0], 40000)


# -- offers within the call --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_an_offer_that_we_refuse_does_not_keep_us_from_refreshing(method: str) -> None:
    """R36: a carrier that tries fax (T.38) in mid-call gets 488, and its session is refreshed as before."""
    world = World()
    call = world.set_up(headers=REFRESHED)
    image = sdp((CARRIER[0], 40000)).replace(b"m=audio 40000 RTP/AVP 0 8 101", b"m=image 40000 udptl t38")
    again = world.carrier.within(method, call.asked, call.accepted, 2, body=image)
    world.run(0.1)
    refused = world.carrier.responses(method)[-1]
    assert refused.status == 488
    if method == "INVITE":
        world.carrier.ack(again, refused)
    world.run(46.0)
    assert world.carrier.requests("INVITE"), "no refresh came"


def test_a_reinvite_that_is_never_answered_is_cancelled_and_given_up() -> None:
    """T19, RFC 3261 §14.1: a peer that says 100 and nothing more holds neither the refresh nor memory."""
    world = World()
    world.set_up(headers=REFRESHED)
    world.run(45.1)
    (ours,) = world.carrier.requests("INVITE")
    world.carrier.respond(ours, 100)
    world.run(33.0)
    assert len(world.carrier.requests("CANCEL")) >= 1
    world.carrier.respond(world.carrier.requests("CANCEL")[0], 200)
    world.run(33.0)
    assert world.record["reason"] == "peer-lost"
    world.assert_idle()


def test_a_bye_while_our_reinvite_is_out_leaves_no_transaction() -> None:
    """T19: the peer need not answer what its BYE has made pointless."""
    world = World()
    call = world.set_up(headers=REFRESHED)
    world.run(45.1)
    world.carrier.respond(world.carrier.requests("INVITE")[0], 100)
    world.run(0.1)
    obliging(world.platform)
    world.carrier.within("BYE", call.asked, call.accepted, 2)
    world.assert_idle()


def test_a_reinvite_waits_for_a_name_only_once() -> None:
    """RFC 3261 §14.1: one INVITE at a time, also while its next hop is looked up."""
    world = World(carrier={"session_timer": "accept"})
    world.network.names["sbc.example.com"] = CARRIER[:1]
    asked = world.carrier.invite(headers={"Record-Route": "<sip:sbc.example.com;lr>", **REFRESHED})
    world.run(0.1)
    world.platform.respond(world.platform.requests("INVITE")[0], 200, body=MEDIA)
    world.run(0.1)
    accepted = world.carrier.responses()[-1]
    world.carrier.ack(asked, accepted)
    answered_at = world.carrier.times("INVITE", 200)[0]
    world.run(answered_at + 45.005 - world.network.now)  # the refresh is due, its next hop not known yet
    world.carrier.ack(asked, accepted)
    world.run(0.2)
    numbers = {request.cseq.number for request in world.carrier.requests("INVITE")}
    assert len(numbers) == 1


def test_a_bug_after_a_look_up_stays_within_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    asked = world.carrier.invite(headers={"Record-Route": "<sip:sbc.example.com;lr>"})
    world.run(0.1)
    offered = world.platform.requests("INVITE")[0]
    world.platform.respond(offered, 200, body=MEDIA)
    world.run(0.1)
    world.carrier.ack(asked, world.carrier.responses()[-1])
    world.platform.within_received("BYE", offered, "far", 1)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    world.run(0.01)
    monkeypatch.setattr(world.core._endpoint, "send_request", broken)
    world.run(0.1)
    assert len(world.bugs()) == 1


@pytest.mark.parametrize("status", [491, 422])
def test_a_peer_that_never_agrees_is_not_asked_for_ever(status: int) -> None:
    """R10, RFC 4028 §7.3: 491 and ever longer intervals come to an end; the refresh is tried again at leisure."""
    world = World()
    world.set_up(headers={**REFRESHED, "Session-Expires": "1800;refresher=uas"})
    lowest = [1800]

    def react(message: Request | Response) -> None:
        if isinstance(message, Request) and message.method == "INVITE":
            lowest[0] += 1
            world.carrier.respond(message, status, headers={"Min-SE": str(lowest[0])} if status == 422 else {})

    world.carrier.react = react
    world.run(900.0 + 60.0)
    assert 2 <= len({request.cseq.number for request in world.carrier.requests("INVITE")}) <= 20


def test_an_invite_whose_interval_is_never_long_enough_is_given_up() -> None:
    """RFC 4028 §7.3: some proxies on the way may raise it, not a thousand."""
    world = World(platform={"session_timer": "offer", "session_expires": 120})
    lowest = [120]

    def react(message: Request | Response) -> None:
        if isinstance(message, Request) and message.method == "INVITE":
            lowest[0] += 1
            world.platform.respond(message, 422, headers={"Min-SE": str(lowest[0])})

    world.platform.react = react
    world.carrier.invite()
    world.run(5.0)
    assert len(world.platform.requests("INVITE")) <= 10


@pytest.mark.parametrize("status", [404, 410, 604])
def test_a_response_that_says_the_dialog_is_gone_ends_the_call(status: int) -> None:
    """RFC 5057 §5.1: these end the whole dialog, to whatever request they come."""
    world = World()
    world.set_up(headers=REFRESHED)
    world.run(45.1)
    world.carrier.respond(world.carrier.requests("INVITE")[0], status)
    world.run(0.1)
    assert len(world.platform.requests("BYE")) == 1
    assert world.record["reason"] == "peer-lost"


@pytest.mark.parametrize(
    "headers", [{"Contact": "*"}, {"Contact": "<sip:"}, {"Session-Expires": "x"}, {"Allow": '"'}, {"Min-SE": "9" * 40}]
)
@pytest.mark.parametrize("status", [200, 422])
@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_no_response_to_a_refresh_is_a_bug_of_ours(method: str, status: int, headers: dict[str, str]) -> None:
    """T19: an odd response is the peer's fault."""
    world = World()
    allow = REFRESHED["Allow"] + (", UPDATE" if method == "UPDATE" else "")
    world.set_up(headers={**REFRESHED, "Allow": allow})
    world.run(45.1)
    world.carrier.respond(world.carrier.requests(method)[0], status, headers=headers)
    world.run(0.1)
    assert world.bugs() == []


# -- attended transfers that do not come about -------------------------------------------------------------------------


def moving() -> tuple[Consultation, Request]:
    """Come as far as our re-INVITE to the target of an attended transfer."""
    scene = Consultation(carrier={"transfer": "dial"})
    assert scene.refer() == [202]
    return scene, scene.carrier.requests("INVITE")[-1]


@pytest.mark.parametrize("order", ["hangup first", "answer refused"])
def test_a_target_that_moved_for_nothing_is_brought_back(order: str) -> None:
    """R38: the caller hangs up while the target moves; the target and the platform go on hearing each other."""
    scene, move = moving()
    world = scene.world
    if order == "hangup first":
        world.carrier.within("BYE", scene.first.asked, scene.first.accepted, 2)
        world.run(0.1)
        world.carrier.respond(move, 200, body=sdp((CARRIER[0], 41000), version=2), tag="target")
    else:
        world.carrier.respond(move, 200, body=sdp((CARRIER[0], 41000), formats="18", version=2), tag="target")
    world.run(0.1)
    back = world.carrier.requests("INVITE")[-1]
    assert back.cseq.number > move.cseq.number
    assert _port(back.body) == _port(scene.offered.body) != _port(move.body)
    assert _version(back.body) > _version(move.body)
    world.carrier.respond(back, 200, body=sdp((CARRIER[0], 41000), version=3), tag="target")
    world.run(0.1)
    second = world.core.calls()[-1]
    assert second["state"] == "up"
    session = world.core.session(second["id"])
    assert session is not None
    assert world.relay.media[session][LegName.CARRIER].remote_rtp == (CARRIER[0], 41000)
    assert world.bugs() == []


def test_a_target_that_never_moved_is_not_asked_to_come_back() -> None:
    scene, move = moving()
    world = scene.world
    world.carrier.within("BYE", scene.first.asked, scene.first.accepted, 2)
    world.run(0.1)
    world.carrier.respond(move, 488, tag="target")
    world.run(5.0)
    assert {invite.cseq.number for invite in world.carrier.requests("INVITE")} == {move.cseq.number}


def test_an_offer_waits_until_the_one_before_it_is_answered() -> None:
    """RFC 3261 §14.1: never two INVITEs at once, whatever wants them: here a refresh and the move of a transfer."""
    scene = Consultation(carrier={"transfer": "dial", "session_timer": "offer", "session_expires": 90})
    world = scene.world
    world.run(45.0)
    refresh = next(one for one in world.carrier.requests("INVITE")[::-1] if one.to.tag == "target")
    world.carrier.respond(refresh, 100)
    assert scene.refer() == [202]
    moves = [one for one in world.carrier.requests("INVITE") if one.to.tag == "target"]
    assert {one.cseq.number for one in moves} == {refresh.cseq.number}
    world.carrier.respond(refresh, 200, body=sdp((CARRIER[0], 41000)), tag="target")
    world.run(0.1)
    move = world.carrier.requests("INVITE")[-1]
    assert move.cseq.number == refresh.cseq.number + 1
    world.carrier.respond(move, 200, body=sdp((CARRIER[0], 41000)), tag="target")
    world.run(0.1)
    assert any(record["transfer"] and record["transfer"]["result"] == "succeeded" for record in world.core.calls())


def test_a_late_answer_to_the_last_notify_says_nothing_of_the_next_transfer() -> None:
    """RFC 6665 §4.2.2: 481 to a NOTIFY ends the subscription that it was for."""
    world = World()
    call = world.set_up()
    world.platform.react = None
    target = {"Refer-To": "<tel:+14155550777>"}
    world.platform.within_received("REFER", call.offered, "far", 1, headers=target)
    world.run(0.1)
    world.platform.respond(world.platform.requests("NOTIFY")[-1], 200)
    world.run(0.1)
    world.carrier.respond(world.carrier.requests("INVITE")[-1], 486, tag="target")
    world.run(0.1)
    last = world.platform.requests("NOTIFY")[-1]
    world.platform.within_received("REFER", call.offered, "far", 2, headers=target)
    world.run(0.1)
    world.platform.respond(last, 481)
    for notify in world.platform.requests("NOTIFY"):
        if notify.cseq.number > last.cseq.number:
            world.platform.respond(notify, 200)
    world.run(0.1)
    world.carrier.respond(world.carrier.requests("INVITE")[-1], 486, tag="target")
    world.run(0.1)
    assert world.platform.requests("NOTIFY")[-1].body.startswith(b"SIP/2.0 486")


@pytest.mark.parametrize(("formats", "status"), [("8 101", 200), ("18", 488)])
def test_a_replacement_before_the_callers_answer_gets_an_answer_of_its_own(formats: str, status: int) -> None:
    """RFC 3891 §3, T19: our offer to the caller is still open, so what it may take is what we can agree to."""
    world = World()
    asked = world.carrier.invite(body=b"")
    world.run(0.1)
    offered = world.platform.requests("INVITE")[0]
    world.platform.respond(offered, 200, body=MEDIA)
    world.run(0.1)
    accepted = world.carrier.responses()[-1]
    obliging(world.platform)
    replaces = f"{offered.call_id};to-tag={offered.from_.tag};from-tag=far"
    body = sdp((PLATFORM[0], 50020), formats=formats)
    instead = world.platform.invite("+14155550777", body=body, headers={"Replaces": replaces})
    world.run(0.1)
    answer = world.platform.responses("INVITE")[-1]
    assert answer.status == status
    world.platform.ack(instead, answer)
    if status == 200:
        assert b"PCMA" in answer.body
        assert b"PCMU" not in answer.body
    assert len(world.platform.requests("BYE")) == (1 if status == 200 else 0)
    world.carrier.ack(asked, accepted, body=sdp((CARRIER[0], 40000), formats="8 101"))
    world.run(0.1)
    far = world.relay.media[1][LegName.PLATFORM].remote_rtp
    assert far == (PLATFORM[0], 50020 if status == 200 else 50000)
    world.carrier.within("BYE", asked, accepted, 2)
    world.assert_idle()


def test_a_dialog_whose_other_side_has_left_can_not_be_replaced() -> None:
    """RFC 3891 §3: only its ACK is missing for our BYE, and there is no call any more."""
    world = World()
    asked = world.carrier.invite()
    world.run(0.1)
    offered = world.platform.requests("INVITE")[0]
    world.platform.respond(offered, 200, body=MEDIA)
    world.run(0.1)
    accepted = world.carrier.responses()[-1]
    world.platform.within_received("BYE", offered, "far", 1)
    world.run(0.1)
    replaces = f"{asked.call_id};to-tag={accepted.to.tag};from-tag={asked.from_.tag}"
    instead = world.carrier.invite(headers={"Replaces": replaces})
    world.run(0.1)
    refused = world.carrier.responses()[-1]
    assert (refused.call_id, refused.status) == (instead.call_id, 603)
    assert world.bugs() == []
    world.carrier.ack(instead, refused)
    world.carrier.ack(asked, accepted)
    obliging(world.carrier)
    world.assert_idle()


def test_a_subscription_that_ends_without_a_result_is_no_success() -> None:
    """RFC 3515 §2.4.4, D38: the carrier stops reporting while the target rings: nobody hangs up on the caller."""
    world = World(carrier={"transfer": "refer"})
    call = world.set_up()
    obliging(world.platform)
    obliging(world.carrier)
    target = {"Refer-To": "<tel:+14155550777>"}
    world.platform.within_received("REFER", call.offered, "far", 1, headers=target)
    world.run(0.1)
    headers = {
        "Event": "refer",
        "Subscription-State": "terminated;reason=timeout",
        "Content-Type": "message/sipfrag",
    }
    world.carrier.within("NOTIFY", call.asked, call.accepted, 2, headers=headers, body=b"SIP/2.0 180 Ringing")
    world.run(0.1)
    assert world.carrier.requests("BYE") == []
    (record,) = world.core.calls()
    assert (record["state"], record["transfer"]["result"]) == ("up", "failed")
    assert world.platform.requests("NOTIFY")[-1].headers.get("Subscription-State") == "terminated;reason=noresource"


# -- strangers and other accounts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 486])
def test_t24_an_ack_with_copied_identifiers_acknowledges_nothing(status: int) -> None:
    """T24: our response is repeated until its own receiver has it."""
    world = World()
    asked = world.carrier.invite()
    world.run(0.1)
    body = MEDIA if status == 200 else b""
    world.platform.respond(world.platform.requests("INVITE")[0], status, body=body)
    world.run(0.1)
    final = world.carrier.responses()[-1]
    ack = asked.encode().replace(b"INVITE", b"ACK").partition(b"\r\nContent-Type")[0] + b"\r\nContent-Length: 0\r\n\r\n"
    ack = ack.replace(b"To: " + (asked.headers.get("To") or "").encode(), f"To: {final.headers.get('To')}".encode())
    world.network.send(ack, ("127.0.0.21", 5060))
    before = len(world.carrier.responses())
    world.run(4.0)
    assert len(world.carrier.responses()) >= before + 2
    obliging(world.platform)
    obliging(world.carrier)
    world.assert_idle()


def test_t07_the_credentials_of_an_invite_do_not_follow_its_ack_elsewhere() -> None:
    """T07: a Contact at a host that is not the account's gets the ACK, and no Authorization."""
    world = World(platform={"authentication": "any"})
    seen: list[Request | Response] = []
    Party(world.network, ("93.184.216.34", 5060)).react = seen.append
    world.carrier.invite()
    world.run(0.1)
    challenge = {"WWW-Authenticate": 'Digest realm="p", nonce="n1", qop="auth", algorithm=MD5'}
    world.platform.respond(world.platform.requests("INVITE")[0], 401, headers=challenge)
    world.run(0.1)
    again = world.platform.requests("INVITE")[-1]
    assert again.headers.get("Authorization") is not None
    world.platform.respond(again, 200, body=MEDIA, headers={"Contact": "<sip:x@93.184.216.34>"})
    world.run(0.1)
    (ack,) = [message for message in seen if isinstance(message, Request) and message.method == "ACK"]
    assert ack.headers.get("Authorization") is None


def _port(body: bytes) -> int:
    return int(next(line for line in body.decode().splitlines() if line.startswith("m=audio")).split()[1])


def _version(body: bytes) -> int:
    return int(next(line for line in body.decode().splitlines() if line.startswith("o=")).split()[2])
