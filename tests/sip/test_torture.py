"""The torture messages of RFC 4475 and RFC 5118 as datagrams, against the expectation written down for each.

The corpora are no part of this repository; the tests look for them beside the checkout.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.errors import PeerError
from bridge.sip.events import RequestReceived
from bridge.sip.message import Request, Response, parse, response_to
from bridge.sip.uri import Uri
from tests.sip.bench import Bench

_CORPORA = Path(__file__).parents[3] / "shared" / "corpora"
_RFC_4475 = _CORPORA / "rfc4475" / "messages"
_RFC_5118 = _CORPORA / "rfc5118" / "wire"

pytestmark = pytest.mark.skipif(not _CORPORA.is_dir(), reason=f"the torture corpora are not at {_CORPORA}")

# What the endpoint does with each. ACCEPT: a transaction begins, and the user has the next word (501, 420, 415, 483 …).
# A number: the endpoint refuses with it. DROP: nothing leaves.
ACCEPT, DROP = "accept", "drop"
RFC_4475: dict[str, str | int] = {
    "wsinv": ACCEPT,
    "intmeth": ACCEPT,
    "esc01": ACCEPT,
    "escnull": ACCEPT,
    "esc02": ACCEPT,
    "lwsdisp": ACCEPT,
    "longreq": ACCEPT,
    "dblreq": ACCEPT,
    "semiuri": ACCEPT,
    "transports": ACCEPT,
    "mpart01": ACCEPT,
    "unreason": DROP,  # responses to nothing of ours
    "noreason": DROP,
    "badinv01": 400,
    "clerr": 400,
    "ncl": 400,
    "scalar02": 400,
    "scalarlg": DROP,
    "quotbal": 400,
    "ltgtruri": 400,
    "lwsruri": 400,
    "lwsstart": 400,  # may be tolerated; must not be forwarded: not ours to repair
    "trws": 400,
    "escruri": 400,
    "baddate": ACCEPT,  # Date means nothing to us
    "regbadct": 400,
    "badaspec": 400,
    "baddn": 400,
    "badvers": 505,
    "mismatch01": 400,
    "mismatch02": 400,
    "bigcode": DROP,
    "badbranch": ACCEPT,  # matched as RFC 2543 did
    "insuf": DROP,  # nothing to make an answer from
    "unkscm": 416,
    "novelsc": 416,
    "unksm2": 400,
    "bext01": ACCEPT,  # 420 is the user's
    "invut": ACCEPT,  # 415 too
    "regaut01": ACCEPT,
    "multi01": 400,
    "mcl01": 400,
    "bcast": DROP,
    "zeromf": ACCEPT,  # 483 too
    "cparam01": ACCEPT,
    "cparam02": ACCEPT,
    "regescrt": ACCEPT,
    "sdp01": ACCEPT,
    "inv2543": ACCEPT,
    "test": DROP,  # in the archive, in no section: neither version nor Via
}
RFC_5118: dict[str, str | int] = {
    "ipv6-good": ACCEPT,
    "ipv6-bad": 400,
    "port-ambiguous": ACCEPT,
    "port-unambiguous": ACCEPT,
    "via-received-param-no-delim": ACCEPT,
    "via-received-param-with-delim": ACCEPT,
    "ipv6-in-sdp": ACCEPT,
    "mult-ip-in-header": ACCEPT,
    "mult-ip-in-sdp": ACCEPT,
    "ipv4-mapped-ipv6": ACCEPT,
    "ipv6-bug-abnf-3-colons": ACCEPT,
    "ipv6-correct-abnf-2-colons": ACCEPT,
}
_ALLOWED: dict[str, set[str | int]] = {
    "accept": {ACCEPT},
    "reject": {ACCEPT, DROP, 400, 416, 505},
    "either": {ACCEPT, DROP, 400},
    "drop": {DROP},
}


def load(name: str) -> bytes:
    path = _RFC_4475 / f"{name}.dat"
    return (path if path.exists() else _RFC_5118 / f"{name}.sip").read_bytes()


def outcome(data: bytes) -> str | int:
    bench = Bench()
    bench.receive(data)
    if any(bench.of(RequestReceived)):
        assert bench.sent == []
        return ACCEPT
    return bench.sent[0][1].status if bench.sent else DROP


def request(name: str) -> Request:
    message = parse(load(name))
    assert isinstance(message, Request)
    message.validate()
    return message


@pytest.mark.parametrize(("name", "expected"), [*RFC_4475.items(), *RFC_5118.items()])
def test_a_torture_message_gets_what_is_written_down_for_it(name, expected):
    assert outcome(load(name)) == expected


def test_what_is_written_down_agrees_with_the_manifests_and_covers_them():
    rows = [line.split("\t") for line in (_CORPORA / "rfc4475" / "manifest.tsv").read_text().splitlines()[1:]]
    assert {row[0].removesuffix(".dat") for row in rows} == RFC_4475.keys()
    for file, _, kind, verdict, expectation, *_ in rows:
        ours = RFC_4475[file.removesuffix(".dat")]
        if kind == "resp":
            assert ours == DROP
            continue
        assert ours in _ALLOWED[verdict], file
        if isinstance(ours, int):
            assert str(ours) in expectation or expectation.startswith("error"), file
        if verdict == "reject" and ours == ACCEPT:  # then what refuses it is a rule of the user's, with its own code
            assert any(code in expectation for code in ("420", "415", "483")), file
    rows = [line.split("\t") for line in (_CORPORA / "rfc5118" / "manifest.tsv").read_text().splitlines()[1:]]
    assert {row[0] for row in rows} == RFC_5118.keys()
    for name, _, expectation in rows:
        assert RFC_5118[name] == (400 if expectation == "400" else ACCEPT)


@pytest.mark.parametrize("name", [name for name, expected in (RFC_4475 | RFC_5118).items() if expected == ACCEPT])
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


@pytest.mark.parametrize("name", [*RFC_4475, *RFC_5118])
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
