"""The table of SIPp scenarios and the short hand in which they are written; the playing is in test_cases.py."""

from xml.etree import ElementTree

import pytest

from conformance.sipp.scenarios import MODES, scenarios
from conformance.sipp.script import SCENARIOS, written_out

TABLE = scenarios()
KEYS = {
    "via": "UDP",
    "tp": "udp",
    "contact_port": "5060",
    "network": "127.0.0",
    "bridge": "127.0.0.2",
    "caller": "+1202",
}
PASSIVE = {"silent", "never", "closed"}


def test_at_least_sixty_scenarios_run_over_each_transport_and_under_loss():
    for mode in MODES:
        assert sum(mode in one.modes for one in TABLE) >= 60, mode


def test_the_session_flows_of_rfc_3665_are_eleven_of_eleven():
    """R45: each flow of RFC 3665 §3 is a scenario of its name."""
    names = {one.name for one in TABLE}
    assert {f"rfc3665-3-{number}" for number in range(1, 12)} <= names


def test_a_name_stands_for_one_scenario():
    assert len({one.name for one in TABLE}) == len({one.title for one in TABLE}) == len(TABLE)


def test_every_file_is_there_and_played():
    files = {path.stem for path in SCENARIOS.glob("*.xml")}
    listed = {party.file for one in TABLE for party in (one.caller, *one.callees)} - PASSIVE
    assert listed <= files
    cases = "".join(path.read_text() for path in SCENARIOS.parent.rglob("*.py"))
    assert [name for name in sorted(files - listed) if f'"{name}"' not in cases] == []


@pytest.mark.parametrize("one", TABLE, ids=lambda one: one.name)
def test_every_message_of_a_scenario_is_whole(one):
    for party in (one.caller, *one.callees):
        if party.file in PASSIVE:
            continue
        root = ElementTree.fromstring(written_out(party.file, KEYS | dict(one.keys)))
        for send in root.iter("send"):
            head, _, body = (send.text or "").strip().partition("\n\n")
            lines = [line.strip() for line in head.splitlines()]
            assert lines[0].startswith("SIP/2.0 ") or lines[0].endswith(" SIP/2.0")
            assert any(line.lower().startswith(("content-length:", "l:")) for line in lines)
            assert bool(body.strip()) == any(line.startswith(("Content-Type:", "c:")) for line in lines) or (
                party.file == "callee-without-content-type"
            )


def sent(name, index, **keys):
    """Return the lines of the message with that number in a scenario."""
    root = ElementTree.fromstring(written_out(name, KEYS | keys))
    return [line.strip() for line in (list(root.iter("send"))[index].text or "").strip().splitlines()]


def test_an_ack_to_a_refusal_has_the_branch_of_its_invite_and_one_to_a_200_its_own():
    assert "Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch-4]" in sent("caller-refused", 1, refused="486")
    assert "Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch]" in sent("caller-hangs-up", 1)


def test_requests_of_one_party_count_up_and_an_ack_counts_with_its_invite():
    numbers = [line for index in range(5) for line in sent("caller-refreshes", index) if line.startswith("CSeq:")]
    assert numbers == ["CSeq: 1 INVITE", "CSeq: 1 ACK", "CSeq: 2 INVITE", "CSeq: 2 ACK", "CSeq: 3 BYE"]


def test_a_description_is_numbered_anew_unless_it_is_the_same_again():
    assert "o=sipp 1 1 IN IP[local_ip_type] [local_ip]" in sent("caller-refreshes", 2)
    assert "o=sipp 1 2 IN IP[local_ip_type] [local_ip]" in sent("caller-holds", 2, hold="sendonly", held="recvonly")


def test_under_loss_a_provisional_response_need_not_arrive():
    strict, lossy = (written_out("caller-hears-early-media", KEYS, lossy=lossy) for lossy in (False, True))
    assert '<recv response="183" rrs="true">' in strict
    assert '<recv response="183" optional="true">' in lossy
