"""Any octets give a message or the peer's error; what is well formed survives reading and printing unchanged.

With TRUNKBRIDGE_LONG=1 in the environment the numbers of the programme are run (10^5 for R16, 10^6 for T13); without
it a hundredth of them. tests/fuzz/sip.py goes on from there.
"""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.errors import PeerError
from bridge.sip.digest import Challenge
from bridge.sip.headers import CSeq, NameAddr, Reason, Via, parse_route_set, quote, split_list
from bridge.sip.message import Header, Headers, Malformed, Request, Response, parse, response_to
from bridge.sip.uri import Uri
from tests.fuzz.sip import mutated
from tests.fuzz.targets import SEEDS, TARGETS, injection
from tests.sip.bench import Bench, incoming, wire

_LONG = 100 if os.environ.get("TRUNKBRIDGE_LONG") else 1

_TOKEN = st.text("ABCDEFabcdef0123456789-.!%*_+`'~", min_size=1, max_size=12)
_OCTETS = st.binary(max_size=30).map(lambda data: data.decode("utf-8", "surrogateescape"))
_TEXT = st.one_of(st.text(max_size=30), _OCTETS).map(
    lambda text: "".join(char for char in text if char not in "\r\n\0").strip(" \t")
)
# A lone high surrogate is no text that can have come from the wire.
_VALUE = _TEXT.filter(lambda text: text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") == text)
_RESERVED = {"via", "v", "from", "f", "to", "t", "call-id", "i", "cseq", "max-forwards", "content-length", "l"} | {
    "content-type",
    "c",
    "contact",
    "m",
}
_NAME = _TOKEN.filter(lambda name: name.lower() not in _RESERVED)


def _safe(strategy):
    return strategy.filter(lambda text: not any("\ud800" <= char <= "\udc7f" for char in text))


def _lone(text):
    """Whether there are surrogates in it that no octets from the wire become."""
    return any("\ud800" <= char <= "\udc7f" or "\udd00" <= char <= "\udfff" for char in text)


def _read(reader, given):
    """Return what a reader makes of its input, be it the peer's error."""
    try:
        return reader(given)
    except PeerError as error:
        return error


@st.composite
def messages(draw):
    method = draw(st.sampled_from(["INVITE", "ACK", "BYE", "OPTIONS", "NEW-method"]))
    mandatory = [
        Header(draw(st.sampled_from(["Via", "v", "VIA"])), f"SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{draw(_TOKEN)}"),
        Header("Via", "SIP/2.0/TCP h.example.com"),
        Header(draw(st.sampled_from(["From", "f"])), f"<sip:a@b>;tag={draw(_TOKEN)}"),
        Header(draw(st.sampled_from(["To", "t"])), f"{quote(draw(_safe(_VALUE)))} <sip:c@d>"),
        Header(draw(st.sampled_from(["Call-ID", "i", "CALL-id"])), draw(_TOKEN)),
        Header("CSeq", f"{draw(st.integers(0, 2**31 - 1))} {method}"),
    ]
    others = draw(st.lists(st.builds(Header, _NAME, _safe(_VALUE)), max_size=8))
    headers = Headers(draw(st.permutations([*mandatory, *others])))
    body = draw(st.binary(max_size=60))
    headers.add(draw(st.sampled_from(["Content-Length", "l"])), str(len(body)))
    if draw(st.booleans()):
        return Request(method, f"sip:{draw(_TOKEN)}@{draw(st.sampled_from(['b', '[::1]:5070']))}", headers, body)
    return Response(draw(st.integers(100, 699)), draw(_safe(_VALUE)), headers, body)


@settings(deadline=None, max_examples=300)
@given(messages())
def test_r16_a_message_that_is_printed_and_read_is_the_same(message):
    data = message.encode()
    again = parse(data)
    assert again == message
    assert again.encode() == data


@pytest.mark.timeout(600)
def test_r16_100_000_random_messages_are_the_same_after_printing_and_reading():
    generator = random.Random(16)
    letters = 'abcXYZ019 \t,;:<>"\\=@%()/é\udcff'
    names = [header.name for header in parse(incoming()).headers][1:-1]
    spellings = {name: [name, name.lower(), name.upper()] for name in names}
    for _ in range(1_000 * _LONG):
        headers = parse(incoming(number=generator.randrange(2**31), branch=f"z9hG4bK{generator.random()}")).headers
        listed = [
            Header(generator.choice(spellings.get(header.name, [header.name])), header.value) for header in headers
        ]
        for _ in range(generator.randrange(6)):
            value = "".join(generator.choices(letters, k=generator.randrange(25))).strip(" \t")
            listed.insert(generator.randrange(len(listed)), Header(f"X-{generator.randrange(99)}", value))
        body = generator.randbytes(generator.randrange(40))
        headers = Headers(listed)
        headers.set("Content-Length", str(len(body)))
        message = Request("INVITE", "sip:a@b", headers, body)
        data = message.encode()
        again = parse(data)
        assert again == message
        assert again.encode() == data


@st.composite
def foldings(draw):
    """A well-formed request, written in one of the many ways that mean the same."""
    lines = []
    for line in incoming(extra="X-List: a, b ,c\n").decode().split("\r\n")[1:-2]:
        name, _, value = line.partition(": ")
        colon = draw(st.sampled_from([":", ": ", " : ", "\t:\t", ":\r\n ", ":\r\n\t "]))
        value = value.replace(", ", draw(st.sampled_from([", ", ",\r\n  ", ",\t"])))
        lines.append(name + colon + value + draw(st.sampled_from(["", " ", "\t"])))
    start = "INVITE sip:+14155550100@192.0.2.1 SIP/2.0"
    return "\r\n".join([start, *lines, "", ""]).encode()


@settings(deadline=None, max_examples=500)
@given(foldings())
def test_r16_folding_and_white_space_change_nothing_and_leave_as_they_came(data):
    message = parse(data)
    assert message.encode() == data
    plain = parse(incoming(extra="X-List: a, b ,c\n"))
    assert [header.name for header in message.headers] == [header.name for header in plain.headers]
    for header in message.headers:
        assert header.value.split() == (plain.headers.get(header.name) or "").replace(", ", ", ").split() or (
            header.name == "X-List"
        )
    assert split_list(message.headers.get("X-List") or "") == ["a", "b", "c"]
    message.validate()


def _fed(data):
    bench = Bench()
    message = bench.receive(data)
    bench.run(100.0)
    if message is not None:
        message.validate()
        for header in message.headers:  # T13: whatever is made of these has one line
            assert not set(header.name + header.value) & set("\r\n\0")


@settings(deadline=None, max_examples=2000)
@given(st.binary(max_size=400))
@example(b"\r\n\r\n")
@example(b" ")
@example(b"SIP/2.0 200 OK\r\n\r\n")
@example(b"INVITE sip:a@b SIP/2.0\r\n\r\n")
def test_t11_any_octets_give_a_message_or_malformed(data):
    message = _read(parse, data)
    assert isinstance(message, (Request, Response, Malformed))
    _fed(data)


_INTERESTING = [
    b"",
    b"\0",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n ",
    b'"',
    b"<",
    b">",
    b";",
    b",",
    b":",
    b"\\",
    b"%",
    b"\xff",
    b" ",
    b"=",
    b"@",
]
_SEEDS = [
    incoming(),
    incoming("BYE", to_tag="x"),
    incoming("ACK", to_tag="x"),
    incoming("CANCEL"),
    incoming("REGISTER", extra='Authorization: Digest username="a", nonce="b"\nRoute: <sip:a;lr>, <sip:b>\n'),
    incoming(via="SIP/2.0/UDP [2001:db8::1]:5060;received=1.2.3.4;rport;branch=z9hG4bK1, SIP/2.0/TCP b;maddr=1.1.1.1"),
    wire(
        "SIP/2.0 200 OK\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\n"
        "f: <sip:a@b>;tag=1\nt: c <sip:c@d>\ni: 1\nCSeq: 1 INVITE"
    ),
]


@settings(deadline=None, max_examples=600)
@given(
    st.sampled_from(_SEEDS),
    st.lists(
        st.tuples(
            st.floats(0, 1, allow_nan=False),
            st.integers(0, 20),
            st.one_of(st.sampled_from(_INTERESTING), st.binary(max_size=6)),
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_t11_a_damaged_message_never_raises_past_the_endpoint(seed, damages):
    for where, cut, put in damages:
        place = int(where * len(seed))
        seed = seed[:place] + put + seed[place + cut :]
    _fed(seed)


@settings(deadline=None, max_examples=500)
@given(
    st.lists(st.sampled_from([*_SEEDS, incoming(branch="z9hG4bK2"), incoming("OPTIONS", call_id="p2")]), max_size=12)
)
def test_t19_messages_in_any_order_leave_nothing_behind(data):
    bench = Bench()
    for each in data:
        bench.receive(each)
    for server in list(bench.endpoint._servers.values()):  # a user that answers everything
        if server.is_invite:
            bench.endpoint.respond(server, response_to(server.request, 486, to_tag="x"), bench.now)
    bench.run(100.0)
    assert bench.idle()
    assert not any(
        (bench.endpoint._servers, bench.endpoint._first_of, bench.endpoint._accepted, bench.endpoint._answered)
    )


@settings(deadline=None, max_examples=200)
@given(_TEXT | st.text('<>"\\;,:@=[]sip?% \t', max_size=40))
@pytest.mark.parametrize(
    "reader", [Uri.parse, NameAddr.parse, Via.parse, CSeq.parse, Reason.parse, lambda text: parse_route_set([text])]
)
def test_t11_a_value_is_read_or_is_the_peers_error(reader, text):
    value = _read(reader, text)
    if isinstance(value, PeerError):
        assert value.status in (400, 416)
    elif not isinstance(value, tuple):
        assert reader(str(value)) == value


@settings(deadline=None, max_examples=500)
@given(st.text(max_size=20), st.text(max_size=20))
def test_t13_no_text_of_ours_makes_a_second_line(name, value):
    request = parse(incoming())
    request.headers.add(f"X-{name}", value)
    try:
        data = request.encode()
    except (ValueError, UnicodeEncodeError):
        return
    assert data.count(b"\r\n") == incoming().count(b"\r\n") + 1
    assert data.count(b"\n") == data.count(b"\r") == data.count(b"\r\n")


_HOSTILE = st.lists(
    st.sampled_from(["\r\n", "\n", "\r", "\0", "%0D%0A", "X: y", '"', "<", ">", ";", "a", "\\"]) | _TEXT
)


@pytest.mark.timeout(3600)
@settings(deadline=None, max_examples=500 * _LONG)
@given(st.integers(0, 15), _HOSTILE.map("".join), _HOSTILE.map("".join))
def test_t13_no_text_in_any_field_we_write_makes_a_header_line(field, text, other):
    parts = [part.encode("utf-8", "surrogateescape")[:23] for part in (text, other) if not _lone(part)]
    injection(bytes([field]) + b"".join(bytes([len(part)]) + part for part in parts))


@pytest.mark.timeout(3600)
def test_t13_nor_do_10_000_mutations_of_what_would():
    generator = random.Random(13)
    for number in range(9_500 * _LONG):
        seed = SEEDS["injection"][number % 16]
        injection(seed[:1] + mutated(seed[1:], generator))


@pytest.mark.parametrize("name", TARGETS)
def test_t11_the_first_mutations_of_the_fuzzer_break_no_rule(name):
    generator = random.Random(11)
    for _ in range(500):
        TARGETS[name](mutated(generator.choice(SEEDS[name]), generator))


@pytest.mark.parametrize(
    "line",
    [
        "X: " + '"' * 60_000,
        "Contact: " + '"\\' * 30_000,
        "Contact: " + "<" * 60_000,
        "Contact: " + " " * 60_000 + "x",
        "Contact: a" + ";b" * 30_000 + ",",
        "Contact: a" + "; " * 30_000,
        "Route: " + "," * 60_000,
        "Via: SIP/2.0/UDP a" + ";b" * 30_000 + ";;",
        "Contact: sip:" + "a" * 60_000,
        "Contact: <sip:" + "a:" * 30_000 + ">",
        "Contact: <sip:a" + ";=" * 30_000 + ">",
        "\r\n".join(["X: y"] * 10_000),
        "X: a" + "\r\n b" * 10_000,
        "X: a" + "\r\n  " * 10_000,
        "WWW-Authenticate: Digest " + 'a="' * 20_000,
    ],
)
def test_t11_the_worst_64_kib_are_read_in_linear_time(line):
    """A pattern that goes back over what it has read needs minutes for these, and the time-out of the run ends it."""
    bench = Bench()
    bench.receive(incoming().replace(b"Max-Forwards", line.encode() + b"\r\nMax-Forwards"))
    assert bench.endpoint.counts()["invite_servers"] + bench.endpoint.rejected["malformed"] == 1
    value = line.partition(": ")[2]
    for reader in (
        Uri.parse,
        NameAddr.parse,
        Via.parse,
        Reason.parse,
        Challenge.parse,
        lambda text: parse_route_set([text]),
    ):
        _read(reader, value)
