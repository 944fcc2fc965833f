"""The torture messages of RFC 4475 and RFC 5118, over UDP and over streams, held to conformance/torture.toml.

The corpora are no part of this repository; the tests look for them beside the checkout.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from bridge.errors import PeerError
from bridge.sip.events import RequestReceived
from bridge.sip.framing import Framer, FramingError, Message
from bridge.sip.message import Request, Response, parse, response_to
from bridge.sip.uri import Uri
from tests.harness.world import CARRIER, World
from tests.sip.bench import TCP, Bench, incoming

_ROOT = Path(__file__).parents[2]
_CORPORA = _ROOT.parent / "shared" / "corpora"
_RFC_4475 = _CORPORA / "rfc4475" / "messages"
_RFC_5118 = _CORPORA / "rfc5118" / "wire"

pytestmark = pytest.mark.skipif(not _CORPORA.is_dir(), reason=f"the torture corpora are not at {_CORPORA}")

_MANIFEST = tomllib.loads((_ROOT / "conformance" / "torture.toml").read_text(encoding="utf-8"))
RFC_4475, RFC_5118 = _MANIFEST["rfc4475"], _MANIFEST["rfc5118"]
_MESSAGES = RFC_4475 | RFC_5118
ACCEPT, DROP = "accept", "drop"
_ALLOWED: dict[str, set[str]] = {  # by the class that the corpus gives a message
    "accept": {ACCEPT},
    "reject": {ACCEPT, DROP, "400", "416", "505"},
    "either": {ACCEPT, DROP, "400"},
    "drop": {DROP},
}
_GOOD = incoming("OPTIONS", call_id="good", via="SIP/2.0/TCP 198.51.100.7;branch=z9hG4bKgood")


def load(name: str) -> bytes:
    path = _RFC_4475 / f"{name}.dat"
    return (path if path.exists() else _RFC_5118 / f"{name}.sip").read_bytes()


def outcome(bench: Bench, data: bytes) -> str:
    """Give one message to the endpoint and say what it makes of it, in the manifest's words."""
    before = len(bench.sent), len(list(bench.of(RequestReceived)))
    bench.receive(data)
    if len(list(bench.of(RequestReceived))) > before[1]:
        assert len(bench.sent) == before[0]
        return ACCEPT
    return str(bench.sent[before[0]][1].status) if len(bench.sent) > before[0] else DROP


def outcomes(pieces: list[bytes]) -> list[str]:
    """Give what a connection brings to the endpoint, as a stream listener does."""
    bench, framer, found = Bench(TCP), Framer(), []
    for piece in pieces:
        try:
            framed = tuple(framer.feed(piece))
            broken = None
        except FramingError as error:
            framed, broken = error.framed, error
        found += [outcome(bench, each.data) for each in framed if isinstance(each, Message)]
        if broken is not None:
            return [*found, outcome(bench, broken.head), "close"]
    return [*found, "wait"] if framer.pending else found


def request(name: str) -> Request:
    message = parse(load(name))
    assert isinstance(message, Request)
    message.validate()
    return message


@pytest.mark.parametrize("name", _MESSAGES)
def test_t11_a_torture_message_gets_over_udp_what_is_written_down_for_it(name):
    assert outcome(Bench(), load(name)) == _MESSAGES[name]["udp"]


@pytest.mark.parametrize("name", _MESSAGES)
def test_t11_and_over_a_stream_whole_and_octet_by_octet(name):
    data, expected = load(name), _MESSAGES[name]["stream"]
    assert outcomes([data]) == expected
    assert outcomes([data[place : place + 1] for place in range(len(data))]) == expected


@pytest.mark.parametrize("name", _MESSAGES)
def test_r15_what_follows_in_the_same_segment_is_served_unless_the_stream_is_closed(name):
    data, expected = load(name), _MESSAGES[name]["stream"]
    found = outcomes([data + _GOOD])
    if "close" in expected:
        assert found == expected
    elif expected == ["wait"]:  # the rest that it waited for: nothing of it starts a request of its own
        assert ACCEPT not in found
    else:
        assert found == [*expected, ACCEPT]
    assert outcomes([_GOOD + data]) == [ACCEPT, *expected]


@pytest.mark.parametrize("name", _MESSAGES)
def test_t11_the_whole_bridge_answers_as_is_written_down(name):
    world = World()
    world.network.send(load(name), CARRIER)
    world.run(0.2)
    finals = {sent.status for _, sent in world.network.sent if sent.status >= 200}
    expected = _MESSAGES[name]["answer"]
    if "call" in expected and finals:
        assert 400 not in finals
        assert not any(status >= 500 for status in finals)
    elif "call" not in expected:
        assert {str(status) for status in finals} <= set(expected)
        assert bool(finals) == bool(expected)
    assert world.bugs() == []


def test_what_is_written_down_agrees_with_the_corpora_and_covers_them():
    rows = [line.split("\t") for line in (_CORPORA / "rfc4475" / "manifest.tsv").read_text().splitlines()[1:]]
    assert {row[0].removesuffix(".dat") for row in rows} == RFC_4475.keys()
    for file, section, kind, verdict, expectation, *_ in rows:
        ours = RFC_4475[file.removesuffix(".dat")]
        assert ours["section"] == section
        if kind == "resp":
            assert ours["udp"] == DROP
            assert ours["answer"] == []
            continue
        assert ours["udp"] in _ALLOWED[verdict], file
        if ours["udp"].isdigit():
            assert ours["udp"] in expectation or expectation.startswith("error"), file
            assert ours["udp"] in ours["answer"], file
        if verdict == "reject" and ours["udp"] == ACCEPT:  # then a rule of the bridge refuses it, with its own code
            assert any(code in expectation for code in ours["answer"]), file
    rows = [line.split("\t") for line in (_CORPORA / "rfc5118" / "manifest.tsv").read_text().splitlines()[1:]]
    assert {row[0] for row in rows} == RFC_5118.keys()
    for name, section, expectation in rows:
        assert RFC_5118[name]["section"] == section
        assert RFC_5118[name]["udp"] == ("400" if expectation == "400" else ACCEPT)
    assert all(message["why"] for message in _MESSAGES.values())


@pytest.mark.parametrize("name", [name for name, message in _MESSAGES.items() if message["udp"] == ACCEPT])
def test_an_accepted_message_can_be_answered_and_leaves_as_it_came(name):
    data = load(name)
    message = request(name)
    encoded = message.encode()
    assert parse(encoded).encode() == encoded
    head, _, _ = data.partition(b"\r\n\r\n")
    assert encoded.startswith(head)  # at most a Content-Length is added, or surplus octets are gone
    bench = Bench()
    bench.receive(data)
    received = bench.one(RequestReceived)
    bench.endpoint.respond(received.transaction, response_to(received.request, 501, to_tag="ours"), 0.0)
    bench.drain()
    ((_, sent),) = bench.sent
    response = parse(sent.data)
    assert isinstance(response, Response)
    assert response.headers.get("Call-ID") == message.headers.get("Call-ID")
    assert response.headers.get("CSeq") == message.headers.get("CSeq")


@pytest.mark.parametrize("name", _MESSAGES)
def test_a_message_cut_anywhere_harms_nobody(name):
    data = load(name)
    for end in range(0, len(data), 7):
        bench = Bench()
        bench.receive(data[:end])
        assert len(bench.sent) <= 1


def test_r16_wsinv_is_read_through_its_folds():
    message = request("wsinv")
    assert message.to.tag == "1918181833n"
    assert message.from_.tag == "98asjd8"
    assert message.from_.display == 'J Rosenberg \\"'
    assert (message.cseq.number, message.cseq.method) == (9, "INVITE")
    assert (message.via.host, message.via.branch) == ("192.0.2.2", "390skdjuw")
    assert len(message.headers.get_all("via")) == 2
    assert message.headers.get("Subject") == ""
    assert message.headers.get("newfangledheader") == "newfangled value continued newfangled value"
    assert message.headers.get("UnknownHeaderWithUnusualValue") == ";;,,;;,;"
    assert message.contact is not None
    assert message.contact.param("q") == "0.33"
    assert len(message.body) == 150


def test_r15_dblreq_starts_one_request_and_no_call():
    bench = Bench()
    bench.receive(load("dblreq"))
    assert bench.one(RequestReceived).request.method == "REGISTER"
    assert bench.one(RequestReceived).request.body == b""


def test_escapes_stay_as_they_are():
    assert Uri.parse(request("esc01").uri).user == "sips%3Auser%40example.com"
    assert request("escnull").to.uri.user == "null-%00-null"
    assert request("esc02").method == "RE%47IST%45R"
    assert request("esc02").headers.get_all("Contact") == [
        "<sip:alias1@host1.example.com>",
        "<sip:alias3@host3.example.com>",
    ]


def test_semiuri_has_its_parameter_in_the_user_part():
    uri = Uri.parse(request("semiuri").uri)
    assert uri.user == "user;par=u%40example.net"
    assert uri.params == ()


def test_parameters_of_an_address_without_brackets_are_the_headers():
    one, other = request("cparam01").contact, request("cparam02").contact
    assert one is not None
    assert other is not None
    assert (one.param("unknownparam"), one.uri.params) == ("", ())
    assert (other.params, other.uri.param("unknownparam")) == ((), "")


def test_ports_and_ipv6_addresses_are_told_apart():
    assert (Uri.parse(request("port-ambiguous").uri).host, Uri.parse(request("port-ambiguous").uri).port) == (
        "[2001:db8::10:5070]",
        None,
    )
    assert Uri.parse(request("port-unambiguous").uri).port == 5070
    assert request("via-received-param-no-delim").via.received == "2001:db8::9:255"
    assert request("via-received-param-with-delim").via.received == "2001:db8::9:255"


def test_intmeth_keeps_every_octet():
    message = request("intmeth")
    assert message.encode() == load("intmeth")
    assert "\0" not in message.to.display
    with pytest.raises(PeerError):
        Uri.parse(message.uri + "\0")
