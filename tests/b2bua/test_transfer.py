"""Transfers that a platform asks for by REFER: dialled here, passed to the carrier, refused (R37, T09, D33 to D38)."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.b2bua import actions
from bridge.config import Host
from bridge.errors import PeerError
from bridge.media.relay import LegName
from bridge.sip.message import Request
from tests.harness.world import CARRIER, NUMBER, PLATFORM, Established, World, sdp

TARGET = "+14155550777"
CALLER = "+14155550999"


class Transfer:
    """A call that is up, whose platform (``far`` is its tag) asks for transfers."""

    def __init__(self, **world: Any) -> None:
        self.world = World(**world)
        self.call: Established = self.world.set_up()
        self.carrier, self.platform = self.world.carrier, self.world.platform
        self.carrier.inbox.clear()
        self.platform.inbox.clear()
        self._cseq = 0
        self.platform.react = self._answer

    def _answer(self, message: Any) -> None:
        """The platform takes every NOTIFY and BYE."""
        if isinstance(message, Request) and message.method in ("NOTIFY", "BYE"):
            self.platform.respond(message, 200)

    def refer(self, refer_to: str, **headers: str) -> list[int]:
        """Send a REFER from the platform and return the statuses of its answer."""
        self._cseq += 1
        before = len(self.platform.responses("REFER"))
        self.platform.within_received(
            "REFER", self.call.offered, "far", self._cseq, headers={"Refer-To": refer_to, **headers}
        )
        self.world.run(0.1)
        return self.platform.statuses("REFER")[before:]

    def notified(self) -> list[str]:
        """What the platform was told: the status line of each NOTIFY, with its subscription's state."""
        return [
            f"{notify.body.decode().strip()} {(notify.headers.get('Subscription-State') or '').partition(';')[0]}"
            for notify in self.platform.requests("NOTIFY")
        ]

    def dialled(self) -> Request:
        """The INVITE that went out for the target."""
        return self.carrier.requests("INVITE")[-1]

    def bye(self, party: Any, invite: Request, tag: str) -> None:
        self._cseq += 1
        party.within_received("BYE", invite, tag, self._cseq)
        self.world.run(0.1)

    def caller_hangs_up(self) -> None:
        self.carrier.within("BYE", self.call.asked, self.call.accepted, 2)
        self.world.run(0.1)

    def answer_byes(self) -> None:
        for bye in self.carrier.requests("BYE"):
            self.carrier.respond(bye, 200)
        self.world.run(0.1)

    @property
    def facts(self) -> dict[str, Any]:
        """What the record says of the transfer."""
        live = self.world.core.calls()
        record = live[0] if live else self.world.record
        facts: dict[str, Any] = record["transfer"]
        return facts


TRYING = "SIP/2.0 100 Trying active"


def test_a_terminated_transfer_dials_the_target_and_lets_the_platform_go() -> None:
    """R37, D33: 202, NOTIFY 100, 180 and 200; the caller talks to the target; one record says so."""
    transfer = Transfer()
    world = transfer.world
    session, sides = next(iter(world.relay.media.items()))
    platform_media = sides[LegName.PLATFORM]
    assert transfer.refer(f"<tel:{TARGET}>") == [202]
    invite = transfer.dialled()
    assert invite.uri == f"sip:{TARGET}@{CARRIER[0]}:{CARRIER[1]}"
    assert invite.from_.uri.user == CALLER
    assert sides[LegName.CARRIER].tone is None
    transfer.carrier.respond(invite, 180, tag="target")
    world.run(0.1)
    assert sides[LegName.CARRIER].tone == "ringback-us"
    assert sides[LegName.PLATFORM] == platform_media  # it stays connected
    transfer.carrier.respond(invite, 200, body=sdp((CARRIER[0], 41000)), tag="target")
    world.run(0.1)
    assert transfer.notified() == [TRYING, "SIP/2.0 180 Ringing active", "SIP/2.0 200 OK terminated"]
    assert sides[LegName.CARRIER].tone is None
    assert sides[LegName.PLATFORM].remote_rtp == (CARRIER[0], 41000)
    assert len(transfer.carrier.requests("ACK")) == 1
    transfer.bye(transfer.platform, transfer.call.offered, "far")
    assert transfer.platform.statuses("BYE") == [200]
    assert transfer.facts["result"] == "succeeded"
    assert transfer.facts["leg"]["codec"] == "PCMU"
    carried = {trunk["name"]: trunk["active_calls"] for trunk in world.core.trunks()}
    assert carried == {"main": 2, "support": 0, "sales": 0}
    transfer.caller_hangs_up()
    transfer.answer_byes()
    record = world.record
    assert (record["result"], record["reason"], record["ended_by"]) == ("completed", "hangup", "carrier")
    assert record["legs"]["platform"]["remote"] == f"{PLATFORM[0]}:{PLATFORM[1]}"
    assert (transfer.facts["mode"], transfer.facts["status"], transfer.facts["by"]) == ("dial", 200, "platform")
    assert session not in world.relay.open_sessions
    world.assert_idle()


def test_a_platform_that_does_not_leave_is_hung_up_on() -> None:
    """D33: then expect or send BYE: LiveKit's comes after a second, ours after two."""
    transfer = Transfer()
    transfer.refer(f"<tel:{TARGET}>")
    transfer.carrier.respond(transfer.dialled(), 200, body=sdp((CARRIER[0], 41000)), tag="target")
    transfer.world.run(1.5)
    assert transfer.platform.requests("BYE") == []
    transfer.world.run(1.0)
    assert len(transfer.platform.requests("BYE")) == 1
    assert transfer.world.core.active == 1
    transfer.bye(transfer.carrier, transfer.dialled(), "target")
    transfer.answer_byes()
    assert transfer.world.record["ended_by"] == "carrier"
    transfer.world.assert_idle()


def test_a_busy_target_leaves_the_caller_with_the_platform() -> None:
    """D38: the real code is told, the ring tone ends, and nothing else has changed."""
    transfer = Transfer()
    sides = next(iter(transfer.world.relay.media.values()))
    before = dict(sides)
    transfer.refer(f"<sip:{TARGET}@{PLATFORM[0]}>")
    transfer.carrier.respond(transfer.dialled(), 180, tag="target")
    transfer.world.run(0.1)
    transfer.carrier.respond(transfer.dialled(), 486, tag="target")
    transfer.world.run(0.1)
    assert transfer.notified()[-1] == "SIP/2.0 486 Reason terminated"
    assert sides == before
    assert (transfer.facts["result"], transfer.facts["status"]) == ("failed", 486)
    assert transfer.world.core.calls()[0]["state"] == "up"
    assert transfer.refer(f"<tel:{TARGET}>") == [202]  # and it may try again
    transfer.carrier.respond(transfer.dialled(), 603, tag="target")
    transfer.world.run(0.1)
    assert transfer.notified()[-1] == "SIP/2.0 603 Reason terminated"
    transfer.caller_hangs_up()
    transfer.world.assert_idle()


def test_a_target_that_never_answers_is_given_up() -> None:
    """D38: the ring deadline ends the attempt, not the call."""
    transfer = Transfer(carrier={"ring_deadline": 20.0})
    transfer.refer(f"<tel:{TARGET}>")
    transfer.carrier.respond(transfer.dialled(), 180, tag="target")
    transfer.world.run(20.1)
    assert len(transfer.carrier.requests("CANCEL")) == 1
    assert transfer.notified()[-1] == "SIP/2.0 480 No Answer terminated"
    assert transfer.world.core.active == 1
    transfer.carrier.respond(transfer.carrier.requests("CANCEL")[0], 200)
    transfer.carrier.respond(transfer.dialled(), 487, tag="target")
    transfer.caller_hangs_up()
    transfer.world.assert_idle()


@pytest.mark.parametrize("how", ["tel", "platform", "bridge", "escaped"])
def test_a_forbidden_target_is_refused_before_anything_is_dialled(how: str) -> None:
    """T09, R37: policy first. No INVITE, no REFER leaves; the call stays."""
    transfer = Transfer(carrier_peer={"deny": ("+881",)})
    target = {
        "tel": "<tel:+881-6123-4567>",
        "platform": f"<sip:+88161234567@{PLATFORM[0]}>",
        "bridge": "<sip:0088161234567@127.0.0.1>",
        "escaped": f"<sip:%2B88161234567@{PLATFORM[0]}>",
    }[how]
    assert transfer.refer(target) == [403]
    transfer.world.run(5.0)
    assert transfer.carrier.inbox == []
    assert transfer.notified() == []
    assert (transfer.facts["result"], transfer.facts["status"]) == ("refused", 403)
    assert transfer.world.core.calls()[0]["state"] == "up"
    transfer.caller_hangs_up()
    transfer.world.assert_idle()


def test_a_forbidden_target_is_not_passed_to_the_carrier_either() -> None:
    """T09."""
    transfer = Transfer(carrier={"transfer": "refer"}, carrier_peer={"deny": ("+881",)})
    assert transfer.refer("<tel:+88161234567>") == [403]
    assert transfer.carrier.inbox == []


def test_a_full_carrier_takes_no_transfer() -> None:
    """T09, D38: the caps of a trunk hold for transfers as for calls."""
    transfer = Transfer(carrier_peer={"max_calls": 1})
    assert transfer.refer(f"<tel:{TARGET}>") == [202]
    assert transfer.notified()[-1] == "SIP/2.0 503 Service Unavailable terminated"
    assert transfer.carrier.inbox == []
    assert transfer.world.core.calls()[0]["state"] == "up"
    transfer.caller_hangs_up()
    transfer.world.assert_idle()


def test_a_host_that_no_account_owns_is_refused() -> None:
    """T09, D35."""
    transfer = Transfer()
    assert transfer.refer("<sip:900@trunk.example.net>") == [403]
    assert transfer.refer(f"<sip:{CARRIER[0]}>") == [400]
    assert transfer.refer("<mailto:a@b>") == [400]
    assert transfer.carrier.inbox == []


@pytest.mark.parametrize("headers", [{}, {"Refer-To": "<tel:+1>, <tel:+2>"}], ids=["none", "two"])
def test_a_refer_needs_exactly_one_refer_to(headers: dict[str, str]) -> None:
    """R37."""
    transfer = Transfer()
    transfer.platform.within_received("REFER", transfer.call.offered, "far", 1, headers=headers)
    transfer.world.run(0.1)
    assert transfer.platform.statuses("REFER") == [400]


def test_a_carrier_may_not_send_the_callers_ai_elsewhere() -> None:
    """T09: a REFER from the carrier's side is refused whatever it asks for."""
    transfer = Transfer()
    transfer.carrier.within(
        "REFER", transfer.call.asked, transfer.call.accepted, 2, headers={"Refer-To": f"<tel:{TARGET}>"}
    )
    transfer.world.run(0.1)
    assert transfer.carrier.statuses("REFER") == [403]
    assert transfer.world.core.active == 1


def test_a_second_refer_meanwhile_has_to_wait() -> None:
    """R37: one transfer at a time."""
    transfer = Transfer()
    assert transfer.refer(f"<tel:{TARGET}>") == [202]
    assert transfer.refer("<tel:+14155550778>") == [491]
    assert len(transfer.carrier.requests("INVITE")) == 1
    transfer.carrier.respond(transfer.dialled(), 486, tag="target")
    transfer.world.run(0.1)
    assert transfer.refer("<tel:+14155550778>") == [202]
    # RFC 3515 §2.4.6: the second subscription of a dialog has an id
    assert transfer.platform.requests("NOTIFY")[-1].headers.get("Event") == "refer;id=3"


def test_the_caller_may_hang_up_while_the_target_rings() -> None:
    transfer = Transfer()
    transfer.refer(f"<tel:{TARGET}>")
    transfer.carrier.respond(transfer.dialled(), 180, tag="target")
    transfer.world.run(0.1)
    transfer.caller_hangs_up()
    assert len(transfer.carrier.requests("CANCEL")) == 1
    assert transfer.notified()[-1] == "SIP/2.0 487 Request Terminated terminated"
    assert len(transfer.platform.requests("BYE")) == 1
    transfer.carrier.respond(transfer.carrier.requests("CANCEL")[0], 200)
    transfer.carrier.respond(transfer.dialled(), 487, tag="target")
    transfer.world.run(0.1)
    assert transfer.world.record["transfer"]["result"] == "abandoned"
    transfer.world.assert_idle()


def test_a_platform_that_leaves_at_once_does_not_stop_the_transfer() -> None:
    """D33: BYE after REFER is what many send; the caller hears ringing until the target answers."""
    transfer = Transfer()
    sides = next(iter(transfer.world.relay.media.values()))
    transfer.refer(f"<tel:{TARGET}>")
    transfer.bye(transfer.platform, transfer.call.offered, "far")
    assert transfer.world.core.active == 1
    assert sides[LegName.CARRIER].tone == "ringback-us"
    assert not sides[LegName.PLATFORM].may_send
    transfer.carrier.respond(transfer.dialled(), 200, body=sdp((CARRIER[0], 41000)), tag="target")
    transfer.world.run(0.1)
    assert sides[LegName.CARRIER].tone is None
    assert sides[LegName.PLATFORM].may_send
    assert transfer.facts["result"] == "succeeded"
    transfer.caller_hangs_up()
    transfer.answer_byes()
    assert transfer.world.record["reason"] == "hangup"
    transfer.world.assert_idle()


def test_a_caller_with_nobody_left_is_let_go() -> None:
    """The platform has left and the target refuses: there is nothing to keep the caller for."""
    transfer = Transfer()
    transfer.refer(f"<tel:{TARGET}>")
    transfer.bye(transfer.platform, transfer.call.offered, "far")
    transfer.carrier.respond(transfer.dialled(), 486, tag="target")
    transfer.world.run(0.1)
    assert len(transfer.carrier.requests("BYE")) == 1
    transfer.answer_byes()
    assert (transfer.world.record["reason"], transfer.world.record["transfer"]["status"]) == ("transfer-failed", 486)
    transfer.world.assert_idle()


@pytest.mark.parametrize(
    "written",
    [
        "<tel:+1-415-555-0777>",
        "tel:+14155550777",
        "<sip:+14155550777;phone-context=+1@127.0.0.1:5060;user=phone>",
        f"<sip:%2B14155550777@{PLATFORM[0]}:5061;transport=tls>",
        f'"A person" <sip:+14155550777@{CARRIER[0]}>',
    ],
)
def test_however_a_number_is_written_it_is_dialled_in_the_carriers_form(written: str) -> None:
    """D35: tel:, our host, the platform's or the carrier's."""
    transfer = Transfer(carrier={"plus": {"request_uri": "strip", "to": "add"}})
    assert transfer.refer(written) == [202]
    invite = transfer.dialled()
    assert invite.uri == f"sip:14155550777@{CARRIER[0]}:{CARRIER[1]}"
    assert invite.to.uri.user == TARGET


def test_another_platforms_host_leads_to_that_platform() -> None:
    """D35: an AI may hand its caller to another AI that has an account here."""
    transfer = Transfer()
    transfer.refer("<sip:sales@127.0.0.21>")
    transfer.world.run(0.1)
    (invite,) = transfer.world.sales.requests("INVITE")
    assert invite.from_.uri.user == CALLER
    transfer.world.sales.respond(invite, 200, body=sdp(("127.0.0.21", 52000)), tag="sales")
    transfer.world.run(0.1)
    assert transfer.notified()[-1] == "SIP/2.0 200 OK terminated"
    assert transfer.world.relay.media[1][LegName.PLATFORM].remote_rtp == ("127.0.0.21", 52000)


def test_the_target_is_told_who_calls_and_what_came_with_the_refer() -> None:
    """D35: X-*, User-to-User and Referred-By pass, whether beside the Refer-To or in it; Replaces never does."""
    transfer = Transfer()
    embedded = "User-to-User=3132%3Bencoding%3Dhex&X-Ticket=a%20b&Route=%3Csip%3Aevil%3E"
    transfer.refer(
        f"<sip:{TARGET}@{PLATFORM[0]}?{embedded}>",
        **{"Referred-By": "<sip:agent@platform.example>", "X-Conversation-ID": "c-1", "X-Ticket": "outer"},
    )
    invite = transfer.dialled()
    assert invite.headers.get_all("User-to-User") == ["3132;encoding=hex"]
    assert invite.headers.get_all("X-Ticket") == ["a b"]
    assert invite.headers.get_all("X-Conversation-ID") == ["c-1"]
    assert invite.headers.get_all("Referred-By") == ["<sip:agent@platform.example>"]
    assert invite.headers.get_all("Route") == []
    assert invite.headers.get_all("P-Asserted-Identity") == [f"<sip:{CALLER}@127.0.0.1:5060>"]
    assert invite.headers.get_all("Diversion") == [f"<sip:{NUMBER}@127.0.0.1:5060>;reason=deflection"]


def test_a_caller_who_stays_private_is_private_to_the_target_too() -> None:
    """R39, D35: what the caller's own INVITE asserts, and its Privacy, go along."""
    transfer = Transfer()
    transfer.caller_hangs_up()
    asserted = f"<sip:{CALLER}@carrier.example>"
    headers = {"P-Asserted-Identity": asserted, "Privacy": "id"}
    transfer.call = transfer.world.set_up(caller="anonymous", headers=headers)
    transfer.carrier.inbox.clear()
    transfer.refer(f"<tel:{TARGET}>")
    invite = transfer.dialled()
    assert invite.headers.get_all("P-Asserted-Identity") == [asserted]
    assert invite.headers.get_all("Privacy") == ["id"]
    assert invite.from_.uri.user == "anonymous"


def test_a_header_in_the_uri_can_not_break_out_of_its_line() -> None:
    """T13."""
    transfer = Transfer()
    assert transfer.refer(f"<sip:{TARGET}@{PLATFORM[0]}?X-A=1%0D%0AX-B%3A%202>") == [400]
    assert transfer.carrier.inbox == []


def test_the_target_is_offered_what_the_caller_speaks_and_no_more() -> None:
    """D26, R63: nothing is transcoded, so the caller's codec decides."""
    transfer = Transfer()
    transfer.refer(f"<tel:{TARGET}>")
    body = transfer.dialled().body.decode()
    port = int(body.partition("m=audio ")[2].split()[0])
    assert port == transfer.world.relay.open_sessions[1].platform_port
    transfer.carrier.respond(transfer.dialled(), 200, body=sdp((CARRIER[0], 41000), formats="8 101"), tag="target")
    transfer.world.run(0.1)
    again = transfer.carrier.requests("INVITE")[-1]  # the caller may have spoken PCMU: it is asked not to
    assert again.to.tag is not None
    assert "RTP/AVP 8 101" in again.body.decode()
    transfer.carrier.respond(again, 200, body=sdp((CARRIER[0], 40000), formats="8 101", version=2))
    transfer.world.run(0.1)
    sides = transfer.world.relay.media[1]
    assert {payload.encoding for payload in sides[LegName.CARRIER].payloads} == {"PCMA", "TELEPHONE-EVENT"}
    assert transfer.world.bugs() == []


# -- passed to the carrier -----------------------------------------------------------------------------------------


def passed(transfer: Transfer) -> Request:
    return transfer.carrier.requests("REFER")[-1]


def sipfrag(transfer: Transfer, cseq: int, line: str, state: str) -> None:
    headers = {"Event": "refer", "Subscription-State": state, "Content-Type": "message/sipfrag"}
    transfer.carrier.within(
        "NOTIFY", transfer.call.asked, transfer.call.accepted, cseq, headers=headers, body=line.encode()
    )
    transfer.world.run(0.1)


def test_a_passed_transfer_is_reported_back_and_both_legs_get_bye_at_once() -> None:
    """D33, D34, D35: Twilio keeps the caller in silence for 32 s unless the BYE follows the last NOTIFY at once."""
    transfer = Transfer(carrier={"transfer": "refer", "plus": {"refer_to": "add"}})
    assert transfer.refer("<tel:1-415-555-0777>", **{"Referred-By": "<sip:agent@platform.example>"}) == [202]
    refer = passed(transfer)
    assert refer.headers.get("Refer-To") == f"<sip:{TARGET}@{CARRIER[0]}:{CARRIER[1]}>"
    assert refer.headers.get("Referred-By") == "<sip:agent@platform.example>"
    transfer.carrier.respond(refer, 202)
    transfer.world.run(0.1)
    sipfrag(transfer, 2, "SIP/2.0 100 Trying\r\n", "active;expires=60")
    sipfrag(transfer, 3, "SIP/2.0 180 Ringing\r\n", "active;expires=60")
    assert transfer.carrier.statuses("NOTIFY") == [200, 200]
    assert transfer.carrier.requests("BYE") == []
    sipfrag(transfer, 4, "SIP/2.0 200 OK\r\n", "terminated;reason=noresource")
    assert transfer.notified() == [TRYING, "SIP/2.0 180 Ringing active", "SIP/2.0 200 OK terminated"]
    assert len(transfer.carrier.requests("BYE")) == len(transfer.platform.requests("BYE")) == 1
    transfer.answer_byes()
    record = transfer.world.record
    assert (record["result"], record["reason"]) == ("completed", "transferred")
    assert (record["transfer"]["mode"], record["transfer"]["result"]) == ("refer", "succeeded")
    transfer.world.assert_idle()


@pytest.mark.parametrize("status", [403, 405, 603])
def test_a_carrier_that_refuses_the_refer_keeps_the_call(status: int) -> None:
    """D38: Telnyx answers 405 until transfers are switched on; the platform gets the code, the caller stays."""
    transfer = Transfer(carrier={"transfer": "refer"})
    transfer.refer(f"<tel:{TARGET}>")
    transfer.carrier.respond(passed(transfer), status)
    transfer.world.run(0.1)
    assert transfer.notified() == [TRYING, f"SIP/2.0 {status} Reason terminated"]
    assert transfer.facts["result"] == "failed"
    assert transfer.world.core.calls()[0]["state"] == "up"
    transfer.caller_hangs_up()
    transfer.world.assert_idle()


def test_a_carrier_without_refer_is_dialled_where_its_profile_says_so() -> None:
    """D33."""
    transfer = Transfer(carrier={"transfer": "refer-or-dial"})
    transfer.refer(f"<tel:{TARGET}>")
    transfer.carrier.respond(passed(transfer), 405)
    transfer.world.run(0.1)
    transfer.carrier.respond(transfer.dialled(), 200, body=sdp((CARRIER[0], 41000)), tag="target")
    transfer.world.run(0.1)
    assert transfer.notified() == [TRYING, "SIP/2.0 200 OK terminated"]
    assert (transfer.facts["mode"], transfer.facts["result"]) == ("dial", "succeeded")


def test_a_carrier_that_fails_after_a_while_keeps_the_call() -> None:
    """D38."""
    transfer = Transfer(carrier={"transfer": "refer"})
    transfer.refer(f"<tel:{TARGET}>")
    transfer.carrier.respond(passed(transfer), 202)
    transfer.world.run(0.1)
    sipfrag(transfer, 2, "SIP/2.0 503 Service Unavailable\r\n", "terminated;reason=noresource")
    assert transfer.notified()[-1] == "SIP/2.0 503 Service Unavailable terminated"
    assert transfer.world.core.calls()[0]["state"] == "up"
    transfer.caller_hangs_up()
    transfer.world.assert_idle()


@pytest.mark.parametrize(("answers", "after"), [(False, 32.5), (True, 120.5)], ids=["the REFER", "the NOTIFY"])
def test_a_carrier_that_says_nothing_is_given_up(answers: bool, after: float) -> None:
    """D38: a REFER times out after 32 s, a transfer that is never reported on with the ring deadline."""
    transfer = Transfer(carrier={"transfer": "refer"})
    transfer.refer(f"<tel:{TARGET}>")
    if answers:
        transfer.carrier.respond(passed(transfer), 202)
    transfer.world.run(after)
    assert transfer.notified()[-1].startswith("SIP/2.0 408 ")
    assert transfer.facts["status"] == 408
    assert transfer.world.core.active == 1
    transfer.caller_hangs_up()
    transfer.world.assert_idle()


def test_a_challenge_to_a_passed_refer_is_answered() -> None:
    """R26, D33: Twilio and others challenge a REFER in a call that they began."""
    account = {"username": "user", "password": "secret"}
    transfer = Transfer(carrier={"transfer": "refer"}, carrier_peer=account)
    transfer.refer(f"<tel:{TARGET}>")
    challenge = 'Digest realm="carrier", nonce="n1", algorithm=MD5, qop="auth"'
    transfer.carrier.respond(passed(transfer), 401, headers={"WWW-Authenticate": challenge})
    transfer.world.run(0.1)
    assert 'username="user"' in (passed(transfer).headers.get("Authorization") or "")


def test_a_lost_notify_is_sent_again_until_it_arrives() -> None:
    """R02, R37: a NOTIFY is a request like any other."""
    transfer = Transfer()
    transfer.platform.react = None
    transfer.refer(f"<tel:{TARGET}>")
    transfer.carrier.respond(transfer.dialled(), 486, tag="target")
    transfer.world.run(1.6)
    assert transfer.notified() == [TRYING] * 3
    transfer.platform.react = transfer._answer
    transfer.world.run(2.5)
    assert transfer.notified()[-1] == "SIP/2.0 486 Reason terminated"
    transfer.caller_hangs_up()
    transfer.world.assert_idle()


def test_a_platform_without_permission_to_transfer_is_refused() -> None:
    transfer = Transfer(platform={"transfer": "off"})
    assert transfer.refer(f"<tel:{TARGET}>") == [403]


def test_a_second_target_is_tried_when_the_first_is_unwell() -> None:
    """D12, D33: a transfer fails over like a call."""
    hosts = (Host(CARRIER[0], 5060, "udp"), Host(CARRIER[0], 5062, "udp"))
    transfer = Transfer(carrier_peer={"hosts": hosts})
    second: list[bytes] = []
    transfer.world.network.attach((CARRIER[0], 5062), lambda data, _: second.append(data))
    transfer.refer(f"<tel:{TARGET}>")
    transfer.carrier.respond(transfer.dialled(), 503, tag="target")
    transfer.world.run(0.1)
    assert second[0].startswith(b"INVITE ")
    assert transfer.notified() == [TRYING]
    assert transfer.facts["attempts"][0]["status"] == 503


# -- by an operator ------------------------------------------------------------------------------------------------


def test_an_operator_transfers_a_call_whose_platform_can_not() -> None:
    """D36: for Retell's call_id mode, OpenAI's REFER that never comes. Nobody is notified, the platform gets BYE."""
    transfer = Transfer()
    call = transfer.world.core.calls()[0]["id"]
    transfer.world.network.command(actions.Transfer(call, "+1 (415) 555-0777"))
    transfer.world.run(0.1)
    assert transfer.dialled().uri == f"sip:{TARGET}@{CARRIER[0]}:{CARRIER[1]}"
    obstacle = transfer.world.core.transfer_obstacle(call, TARGET)
    assert obstacle is not None
    assert obstacle.status == 409
    transfer.carrier.respond(transfer.dialled(), 200, body=sdp((CARRIER[0], 41000)), tag="target")
    transfer.world.run(0.1)
    assert transfer.notified() == []
    assert len(transfer.platform.requests("BYE")) == 1
    assert (transfer.facts["by"], transfer.facts["result"]) == ("operator", "succeeded")
    transfer.caller_hangs_up()
    transfer.answer_byes()
    transfer.world.assert_idle()


def test_an_operators_transfer_is_passed_on_like_a_platforms() -> None:
    """D36, D34."""
    transfer = Transfer(carrier={"transfer": "refer"})
    call = transfer.world.core.calls()[0]["id"]
    transfer.world.network.command(actions.Transfer(call, f"tel:{TARGET}"))
    transfer.world.run(0.1)
    transfer.carrier.respond(passed(transfer), 202)
    transfer.world.run(0.1)
    sipfrag(transfer, 2, "SIP/2.0 200 OK\r\n", "terminated;reason=noresource")
    assert len(transfer.carrier.requests("BYE")) == len(transfer.platform.requests("BYE")) == 1
    assert transfer.notified() == []


def test_an_operator_may_transfer_a_transferred_call_again() -> None:
    """D36: the caller goes on to the next person, the first one is released."""
    transfer = Transfer()
    call = transfer.world.core.calls()[0]["id"]
    for number, tag in ((TARGET, "first"), ("+14155550778", "second")):
        transfer.world.network.command(actions.Transfer(call, number))
        transfer.world.run(0.1)
        transfer.carrier.respond(transfer.dialled(), 200, body=sdp((CARRIER[0], 41000)), tag=tag)
        transfer.world.run(0.1)
    (bye,) = transfer.carrier.requests("BYE")
    assert bye.to.tag == "first"
    second = transfer.dialled()
    assert second.from_.uri.user == CALLER
    assert second.headers.get("Diversion") == f"<sip:{TARGET}@127.0.0.1:5060>;reason=deflection"
    transfer.caller_hangs_up()
    transfer.answer_byes()
    assert transfer.carrier.requests("BYE")[-1].to.tag == "second"
    transfer.world.assert_idle()


def test_what_an_operator_may_not_do_is_said_before_it_is_done() -> None:
    """D36, T09."""
    transfer = Transfer(carrier_peer={"deny": ("+881",)})
    core = transfer.world.core
    call = core.calls()[0]["id"]
    for target, status in (("+88161234567", 403), ("sip:a@elsewhere.example", 403), ("mailto:a@b", 416)):
        obstacle = core.transfer_obstacle(call, target)
        assert obstacle is not None
        assert obstacle.status == status
        with pytest.raises(PeerError):
            core.command(actions.Transfer(call, target), transfer.world.network.now)
    assert core.transfer_obstacle(call, TARGET) is None
    with pytest.raises(KeyError):
        core.command(actions.Transfer("nobody", TARGET), transfer.world.network.now)
    transfer.carrier.invite()  # rings, not up
    transfer.world.run(0.1)
    ringing = next(record for record in core.calls() if record["state"] != "up")
    obstacle = core.transfer_obstacle(ringing["id"], TARGET)
    assert obstacle is not None
    assert obstacle.status == 409
    assert transfer.carrier.requests("INVITE") == []
