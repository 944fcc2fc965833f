"""Headers and numbers across the bridge: what each side is told of the caller, byte for byte or not at all.

The oracle of the tables is the manual, profiles/README.md.
"""

from __future__ import annotations

from typing import Any

import pytest

from bridge.b2bua.identity import LONGEST_VALUE, delivered, passing, privacy, reasons_of
from bridge.b2bua.record import reason_of
from bridge.b2bua.routing import dialled
from bridge.config import Peer
from bridge.profile import BUILTIN
from bridge.sip.message import REASONS, Header, Headers, Request, parse
from tests.harness.world import CARRIER, NUMBER, PLATFORM, SECOND_PLATFORM, World, peer, sdp

MANUAL = (BUILTIN / "README.md").read_text("utf-8")
PAI = '"Ann" <sip:+14155550999@carrier.example>'


def table(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading of the manual, without its two lines of head."""
    section = MANUAL.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:]]


def party(kind: str = "carrier", **profile: Any) -> Peer:
    return peer("main", kind, CARRIER, profile)


def names(headers: tuple[Header, ...]) -> list[str]:
    return [header.name for header in headers]


# -- the manual's tables -----------------------------------------------------------------------------------------------

CELLS = [
    (row[0], trust, cell)
    for row in table("Identity")
    for trust, cell in zip(("both", "receiver not", "sender not"), row[1:], strict=True)
]


def test_the_manual_has_fifteen_cells() -> None:
    assert len(CELLS) == 15
    assert [row[0] for row in table("Identity")] == ["absent", "none", "header", "id", "user"]


@pytest.mark.parametrize(("asked", "trust", "told"), CELLS)
def test_privacy_is_kept_as_the_manual_says(asked: str, trust: str, told: str) -> None:
    """R39: RFC 3323, RFC 3325: three trust settings by five Privacy values, exactly."""
    world = World(carrier={"trusted": trust != "sender not"}, platform={"trusted": trust != "receiver not"})
    headers = {"P-Asserted-Identity": PAI, "Subject": "my bill"} | ({"Privacy": asked} if asked != "absent" else {})
    world.carrier.invite(headers=headers)
    world.run(0.05)
    sent = world.platform.requests("INVITE")[0]
    wanted = told.split(", ")
    anonymous = '"Anonymous" <sip:anonymous@anonymous.invalid>'
    shown = '"Caller" <sip:+14155550999@127.0.0.1:5060>'
    assert (sent.headers.get("From") or "").partition(";tag=")[0] == (anonymous if "anonymous" in wanted else shown)
    assert sent.headers.get_all("P-Asserted-Identity") == ([PAI] if "PAI" in wanted else [])
    privacies = [part.removeprefix("Privacy: ") for part in wanted if part.startswith("Privacy: ")]
    assert sent.headers.get_all("Privacy") == privacies
    assert "bill" not in sent.encode().decode()
    assert {part for part in wanted if not part.startswith("Privacy")} <= {"From", "PAI", "anonymous"}


CODES = table("Failures")


def test_the_manual_names_the_statuses_that_it_maps() -> None:
    """R23: at least thirty codes."""
    assert len(CODES) >= 30
    for row in CODES:
        assert row[0] == f"{row[0][:3]} {REASONS[int(row[0][:3])]}"


@pytest.mark.parametrize("reasons", [(), ("Q.850;cause=17", 'SIP;cause=486;text="Busy, really"')])
@pytest.mark.parametrize("row", CODES, ids=[row[0][:3] for row in CODES])
def test_a_failure_becomes_what_the_manual_says(row: list[str], reasons: tuple[str, ...]) -> None:
    """R23, D12, R40: each code with and without Reason, from platforms toward a carrier and the other way round."""
    status = int(row[0][:3])
    headers = {"Reason": ", ".join(reasons)} if reasons else {}
    headers |= {"Contact": "<sip:1@192.0.2.1>"} if status < 400 else {}
    world = World()
    world.carrier.invite()
    world.run(0.05)
    world.platform.respond(world.platform.requests("INVITE")[0], status, headers=headers)
    world.run(0.05)
    assert bool(world.sales.requests("INVITE")) == (row[2] == "yes")
    if row[2] == "yes":
        world.sales.respond(world.sales.requests("INVITE")[0], status, headers=headers)
        world.run(0.05)
    heard = world.carrier.responses()[-1]
    assert heard.status == int(row[1])
    assert tuple(heard.headers.get_all("Reason")) == reasons
    assert heard.reason == (REASONS[int(row[1])] if heard.status != status else "Reason")
    assert world.record["reason"] == row[4] == reason_of(status).label

    world = World()
    world.platform.invite()
    world.run(0.05)
    world.carrier.respond(world.carrier.requests("INVITE")[0], status, headers=headers)
    world.run(0.05)
    heard = world.platform.responses()[-1]
    assert heard.status == int(row[1])
    assert tuple(heard.headers.get_all("Reason")) == reasons
    assert (status in world.config.carriers["main"].profile.retry) == (row[3] == "yes")


def test_the_manual_says_which_kind_of_b2bua_this_is_and_what_becomes_of_each_header() -> None:
    """R44: RFC 7092's class, RFC 7362's latching, and a line for all that crosses the bridge."""
    text = " ".join(MANUAL.split("\n## What passes and what does not\n")[1].split())
    assert "SDP-modifying signalling B2BUA with a media-aware relay" in text
    assert "RFC 7092" in text
    assert "RFC 7362" in text
    told = " ".join(row[0] for row in table("What passes and what does not"))
    for name in ("Request-URI", "From", "Call-ID", "Via", "Contact", "Record-Route", "User-Agent", "Identity", "SDP"):
        assert name in told
    for name in ("Privacy", "Diversion", "History-Info", "Session-ID", "Reason", "Authorization", "Session-Expires"):
        assert name in told


# -- Reason ------------------------------------------------------------------------------------------------------------


def test_reason_passes_once_for_each_protocol() -> None:
    """R40, R23: RFC 3326 §2 allows one value a protocol."""
    headers = Headers()
    headers.add("Reason", 'SIP;cause=200;text="Call completed elsewhere", Q.850 ;cause=26')
    headers.add("Reason", "sip;cause=600")
    headers.add("Reason", ";cause=1")
    headers.add("Reason", "X" * 2000)
    assert reasons_of(headers) == ('SIP;cause=200;text="Call completed elsewhere"', "Q.850 ;cause=26")


def test_reason_passes_on_cancel_and_bye() -> None:
    """R23, R40: both ways."""
    world = World()
    asked = world.carrier.invite()
    world.run(0.05)
    world.platform.respond(world.platform.requests("INVITE")[0], 180)
    world.run(0.05)
    world.carrier.cancel(asked, {"Reason": 'SIP;cause=200;text="Call completed elsewhere"', "X-Left": "1"})
    world.run(0.05)
    assert world.platform.requests("CANCEL")[0].headers.get("X-Left") == "1"  # D39
    assert world.platform.requests("CANCEL")[0].headers.get_all("Reason") == [
        'SIP;cause=200;text="Call completed elsewhere"'
    ]
    for leaves in ("carrier", "platform"):
        world = World()
        call = world.set_up()
        reason = {"Reason": "Q.850;cause=16, SIP;cause=200"}
        if leaves == "carrier":
            world.carrier.within("BYE", call.asked, call.accepted, 2, headers=reason)
        else:
            world.platform.within_received("BYE", call.offered, "far", 1, headers=reason)
        world.run(0.05)
        other = world.platform if leaves == "carrier" else world.carrier
        assert other.requests("BYE")[0].headers.get_all("Reason") == ["Q.850;cause=16", "SIP;cause=200"]


# -- history -----------------------------------------------------------------------------------------------------------


def test_history_passes_once_and_byte_for_byte() -> None:
    """R40: Diversion (RFC 5806) and History-Info (RFC 7044), in order, nothing doubled and nothing added."""
    history = [
        Header("Diversion", "<sip:+1@a>;reason=user-busy", b"Diversion:  <sip:+1@a>;reason=user-busy"),
        Header("History-Info", "<sip:+1@a>;index=1"),
        Header("History-Info", "<sip:+2@a?Reason=SIP%3Bcause%3D302>;index=1.1;rc=1"),
        Header("Diversion", "<sip:+1@a>;reason=user-busy"),
        Header("Diversion", "<sip:+3@a>;reason=no-answer"),
    ]
    carrier, platform = party(), party("platform", request_uri="sip:{user}@{host}")
    passed = delivered(passing(Headers(history), carrier), platform)
    assert [header.value for header in passed] == [history[index].value for index in (0, 1, 2, 4)]
    assert passed[0].raw == history[0].raw
    assert passing(Headers(history), party(trusted=False)) == ()
    assert passing(Headers(history), party(pass_headers=("X-*",))) == ()


def test_a_diversion_of_ours_stands_in_only_where_none_passes() -> None:
    """D3, R40."""
    for headers, count in (({"Diversion": "<sip:+1@a>"}, ["<sip:+1@a>"]), ({}, None)):
        world = World(platform={"request_uri": "sip:{user}@{host}"})
        world.carrier.invite(headers=headers)
        world.run(0.05)
        sent = world.platform.requests("INVITE")[0].headers
        assert sent.get_all("Diversion") == (count or [f"<sip:{NUMBER}@127.0.0.1:5060>;reason=unconditional"])
        assert sent.get_all("X-Called-Number") == [NUMBER]


def test_history_that_is_private_stays_in_the_trust_domain() -> None:
    """R40: RFC 7044 §10.1, RFC 5806 §4.1."""
    headers = [
        Header("Privacy", "history"),
        Header("History-Info", "<sip:+1@a>;index=1"),
        Header("Diversion", "<sip:+1@a>;privacy=full"),
        Header("Diversion", '<sip:+2@a>;privacy="off"'),
    ]
    passed = passing(Headers(headers), party())
    assert names(delivered(passed, party("platform"))) == ["History-Info", "Diversion", "Diversion", "Privacy"]
    assert [header.value for header in delivered(passed, party("platform", trusted=False))] == [
        '<sip:+2@a>;privacy="off"'
    ]


def test_a_from_that_changes_within_a_call_goes_no_further() -> None:
    """R40: RFC 4916: the dialog takes it, the other side is told nothing and nothing breaks."""
    world = World()
    call = world.set_up()
    before = len(world.platform.raw)
    call.asked.headers.set("From", (call.asked.headers.get("From") or "").replace("+14155550999", "+14155550777"))
    world.carrier.within("INVITE", call.asked, call.accepted, 2, body=sdp((CARRIER[0], 40000)))
    world.run(0.1)
    assert world.carrier.statuses()[-1] == 200
    assert len(world.platform.raw) == before


# -- signatures and identifiers ----------------------------------------------------------------------------------------

SHAKEN = f"eyJhbGciOiJFUzI1NiJ9.{'a1B_' * 700}.sig;info=<https://cert.example/a.pem>;alg=ES256;ppt=shaken"
DIV = f"eyJhbGciOiJFUzI1NiJ9.{'-z9Y' * 40}.sig;info=<https://cert.example/b.pem>;alg=ES256;ppt=div"
SIGNED = ("X-*", "Identity")


def test_signatures_pass_byte_for_byte_with_their_date() -> None:
    """R42: RFC 8224; two Identity values of 3 kB, and Date beside them."""
    world = World(carrier={"pass_headers": SIGNED}, platform={"large_requests": "udp"})
    call = world.carrier.invite(headers={"Date": "Sun, 22 Nov 2026 22:00:00 GMT", "Identity": SHAKEN, "y": DIV})
    world.run(0.05)
    sent = world.platform.requests("INVITE")[0]
    assert sent.headers.get_all("Identity") == [SHAKEN, DIV]
    assert len(SHAKEN) > 2800
    assert f"\r\nIdentity: {SHAKEN}\r\n".encode() in world.platform.raw[0]
    assert sent.headers.get_all("Date") == ["Sun, 22 Nov 2026 22:00:00 GMT"]
    assert sent.call_id != call.call_id
    assert [trace.text for trace in world.network.traces if trace.kind == "note"] == []


def test_signatures_are_dropped_with_their_date_where_the_profile_does_not_name_them() -> None:
    """R42: the rule of every profile that comes with the bridge."""
    world = World()
    world.carrier.invite(headers={"Date": "Sun, 22 Nov 2026 22:00:00 GMT", "Identity": DIV})
    world.run(0.05)
    sent = world.platform.requests("INVITE")[0].headers
    assert ("Identity" in sent, "Date" in sent) == (False, False)


def test_a_number_that_changes_under_a_signature_is_noted() -> None:
    """R42: RFC 8224 §8.3 compares digits: a plus more is no change, another number is."""
    world = World(carrier={"pass_headers": SIGNED}, platform={"plus": {"from": "strip", "to": "strip"}})
    world.carrier.invite(headers={"Identity": DIV})
    world.run(0.05)
    world.carrier.invite(headers={"Identity": DIV, "Privacy": "user"})
    world.run(0.05)
    notes = [trace.text for trace in world.network.traces if trace.kind == "note"]
    assert notes == ["From changed under Identity: +14155550999 is anonymous"]


def test_the_session_id_is_kept_from_end_to_end() -> None:
    """R43: RFC 7989: the caller's uuid reaches the callee, the callee's comes back, and BYE has both."""
    a, b, nil = "ab30317f1a784dc48ff824d0d3715d86", "47755a9de7794ba387653f2099600ef2", "0" * 32
    world = World()
    asked = world.carrier.invite(headers={"Session-ID": f"{a};remote={nil}", "X-Call-Reference": "77"})
    world.run(0.05)
    offered = world.platform.requests("INVITE")[0]
    assert offered.headers.get_all("Session-ID") == [f"{a};remote={nil}"]
    assert offered.headers.get_all("X-Call-Reference") == ["77"]
    answer = {"Session-ID": f"{b};remote={a}"}
    world.platform.respond(offered, 200, body=sdp((PLATFORM[0], 50000)), headers=answer)
    world.run(0.05)
    accepted = world.carrier.responses()[-1]
    assert accepted.headers.get_all("Session-ID") == [f"{b};remote={a}"]
    world.carrier.ack(asked, accepted)
    world.carrier.within("BYE", asked, accepted, 2, headers={"Session-ID": f"{a};remote={b}"})
    world.run(0.05)
    assert world.platform.requests("BYE")[0].headers.get_all("Session-ID") == [f"{a};remote={b}"]


# -- the allow-list ----------------------------------------------------------------------------------------------------


def test_allowed_headers_pass_both_ways_on_every_message_of_a_call() -> None:
    """D39: on INVITE, 200, refusals and BYE."""
    world = World()
    call = world.set_up(headers={"X-Twilio-VerStat": "TN-Validation-Passed-A", "P-Charge-Info": "<sip:+1@a>"})
    assert call.offered.headers.get("X-Twilio-VerStat") == "TN-Validation-Passed-A"
    assert "P-Charge-Info" not in call.offered.headers
    world.platform.within_received("BYE", call.offered, "far", 1, headers={"X-Disposition": "sold", "Foo": "1"})
    world.run(0.05)
    bye = world.carrier.requests("BYE")[0].headers
    assert bye.get("X-Disposition") == "sold"
    assert "Foo" not in bye


@pytest.mark.parametrize("name", ["Via", "Contact", "Record-Route", "Call-ID", "Route", "Supported", "Require"])
def test_no_allow_list_lets_a_dialogs_own_headers_through(name: str) -> None:
    """D39: a prefix may be as wide as it likes."""
    headers = [Header(name, "x"), Header("X-A", "y")]
    assert names(passing(Headers(headers), party(pass_headers=("*",)))) == ["X-A"]


def test_nothing_of_one_network_is_seen_on_the_other() -> None:
    """R44: no address, no Call-ID, no tag, no product name of the other side."""
    world = World()
    extra = {"User-Agent": "SecretPBX/1", "Record-Route": "<sip:10.1.2.3;lr>", "Server": "SecretPBX/1"}
    asked = world.carrier.invite(headers=extra)
    world.run(0.05)
    sent = world.platform.raw[0].decode()
    for secret in (CARRIER[0], "SecretPBX", "10.1.2.3", asked.call_id, asked.from_.tag or "", "o=peer"):
        assert secret not in sent, secret
    offered = world.platform.requests("INVITE")[0]
    world.platform.respond(offered, 200, body=sdp((PLATFORM[0], 50000)), headers=extra, tag="secret-tag")
    world.run(0.05)
    heard = world.carrier.raw[-1].decode()
    for secret in (PLATFORM[0], SECOND_PLATFORM[0], "SecretPBX", "secret-tag", offered.call_id, "o=peer"):
        assert secret not in heard, secret


def test_a_line_that_is_too_long_stays_behind_and_is_counted() -> None:
    """D39: platforms keep about a kilobyte of each."""
    world = World(platform={"large_requests": "udp"})
    fits, exceeds = "a" * LONGEST_VALUE, "b" * (LONGEST_VALUE + 1)
    world.carrier.invite(headers={"X-Fits": fits, "X-Exceeds": exceeds})
    world.run(0.05)
    sent = world.platform.requests("INVITE")[0].headers
    assert sent.get("X-Fits") == fits
    assert "X-Exceeds" not in sent
    assert [trace.text for trace in world.network.traces if trace.kind == "rejected"] == ["header-too-long"]


def test_what_the_operator_writes_wins_over_what_a_peer_sends() -> None:
    """D4: a platform can't forge the account's own header."""
    world = World(carrier={"headers": {"X-Telnyx-Username": "ours"}})
    world.platform.invite(headers={"X-Telnyx-Username": "theirs"})
    world.run(0.05)
    sent = world.carrier.requests("INVITE")[0]
    assert sent.headers.get_all("X-Telnyx-Username") == ["ours"]
    contact = sent.headers.get("Contact") or ""
    assert len(contact) < 512


def test_a_sender_that_is_not_trusted_asserts_nothing() -> None:
    """R39, D39: whatever its allow-list says."""
    asserted = ["P-Asserted-Identity", "Remote-Party-ID", "P-Charge-Info", "Diversion", "History-Info"]
    headers = [Header(name, "<sip:+1@a>") for name in (*asserted, "P-Preferred-Identity", "X-A")]
    sender = party(trusted=False, pass_headers=("P-*", "R*", "D*", "H*", "X-*"))
    assert names(passing(Headers(headers), sender)) == ["X-A"]
    trusted = party(pass_headers=("P-*", "R*", "D*", "H*", "X-*"))
    assert names(passing(Headers(headers), trusted)) == [*asserted, "X-A"]


def test_an_entry_of_the_history_may_ask_for_privacy_by_itself() -> None:
    """R40: RFC 7044 §10.1.1 puts a Privacy into the URI of one entry."""
    entries = [
        Header("History-Info", "<sip:+1@a?Privacy=history>;index=1"),
        Header("History-Info", "<sip:+2@a?Reason=SIP%3Bcause%3D302&privacy=history>;index=1.1"),
        Header("History-Info", "<sip:+3@a?Privacy=none>;index=1.2"),
        Header("History-Info", "<sip:+4@a>;index=1.3"),
    ]
    passed = passing(Headers(entries), party())
    assert len(delivered(passed, party("platform"))) == 4
    assert list(delivered(passed, party("platform", trusted=False))) == entries[2:]


@pytest.mark.parametrize("asked", ["id", "user"])
def test_a_signature_tells_no_stranger_who_wants_to_stay_private(asked: str) -> None:
    """R39, R42: its payload is the caller's number in base64."""
    headers = [Header("Privacy", asked), Header("Identity", "e30.e30.c2ln;info=<https://a>"), Header("Date", "now")]
    passed = passing(Headers(headers), party(pass_headers=("Identity",)))
    assert names(delivered(passed, party("platform"))) == (
        ["Identity", "Date", "Privacy"] if asked == "id" else ["Identity", "Date"]
    )
    assert delivered(passed, party("platform", trusted=False)) == ()


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_every_field_has_its_own_way_to_write_numbers() -> None:
    """D2: Request-URI, To, From and asserted identities, each as the receiver compares it."""
    plus = {"request_uri": "strip", "to": "add", "from": "strip", "identity": "add"}
    world = World(platform={"plus": plus})
    world.carrier.invite(
        "+14155550100",
        headers={
            "P-Asserted-Identity": '"1 Ann" <sip:14155550999@a.example;user=phone>, <tel:14155550999>',
            "Diversion": "<sip:14155550111@a>;reason=unconditional",
            "History-Info": "<sip:alice7@a>;index=1, <sip:14155550112@a>;index=1.1",
        },
    )
    world.run(0.05)
    sent = world.platform.requests("INVITE")[0]
    assert sent.uri.startswith("sip:14155550100@")
    assert (sent.headers.get("To") or "").startswith("<sip:+14155550100@")
    assert "<sip:14155550999@" in (sent.headers.get("From") or "")
    assert sent.headers.get("P-Asserted-Identity") == (
        '"1 Ann" <sip:+14155550999@a.example;user=phone>, <tel:+14155550999>'
    )
    assert sent.headers.get("Diversion") == "<sip:+14155550111@a>;reason=unconditional"
    assert sent.headers.get("History-Info") == "<sip:alice7@a>;index=1, <sip:+14155550112@a>;index=1.1"


def test_asserted_numbers_are_written_like_from_unless_told_otherwise() -> None:
    """D2: and a tel URI keeps its plus, without which it would need a context (RFC 3966 §5.1.5)."""
    receiver = party("platform", plus={"from": "strip"})
    headers = (Header("P-Asserted-Identity", "<sip:+1415@a>, <tel:+1415>"),)
    assert delivered(headers, receiver)[0].value == "<sip:1415@a>, <tel:+1415>"


def test_a_caller_who_is_anonymous_already_stays_so() -> None:
    """RFC 3323 §4.1.1.3: and is not given our host, which would look like a number of ours."""
    world = World()
    asked = world.carrier.invite(caller="anonymous")
    world.run(0.05)
    sent = world.platform.requests("INVITE")[0]
    assert (sent.headers.get("From") or "").startswith('"Caller" <sip:anonymous@anonymous.invalid>')
    hidden = asked.encode().replace(b"sip:anonymous@127.0.0.10", b"sip:+1415@anonymous.invalid")
    request = parse(hidden)
    assert isinstance(request, Request)
    assert dialled(request).caller == "anonymous"


def test_privacy_is_read_in_any_spelling() -> None:
    """R39."""
    headers = [Header("Privacy", "ID; User"), Header("privacy", "critical")]
    assert privacy(headers) == {"id", "user", "critical"}
    told = delivered((*headers, Header("P-Asserted-Identity", PAI)), party("platform"))
    assert [(header.name, header.value) for header in told] == [
        ("P-Asserted-Identity", PAI),
        ("Privacy", "id;critical"),
    ]
