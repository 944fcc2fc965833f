"""Messages out of a byte stream: the same however it is dealt out, and never one that a peer hid in another."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.sip.events import RequestReceived
from bridge.sip.framing import Framed, Framer, FramingError, Message, Ping, Pong
from bridge.sip.message import HEADER_LIMIT, MESSAGE_LIMIT
from tests.sip.bench import TCP, Bench, incoming

_VIA = "SIP/2.0/TCP 198.51.100.7:5070;branch=z9hG4bK{}"
_SECOND = incoming("BYE", call_id="smuggled", via=_VIA.format("second"))


def message(body: bytes = b"", branch: str = "first", length: str | None = None, extra: str = "") -> bytes:
    """Write a request with a body; ``length`` is what stands in place of the whole Content-Length line."""
    data = incoming("OPTIONS", call_id=branch, via=_VIA.format(branch), extra=extra)
    line = f"Content-Length: {len(body)}" if length is None else length
    return data.replace(b"Content-Length: 0", line.encode("utf-8", "surrogateescape")) + body


def dealt(data: bytes, sizes: list[int]) -> list[Message]:
    """Feed octets in pieces, and return the messages."""
    framer, framed, start = Framer(), [], 0
    for size in [*sizes, len(data)]:
        framed += framer.feed(data[start : start + size])
        start += size
    return [each for each in framed if isinstance(each, Message)]


def in_two(data: bytes, cut: int) -> list[Framed]:
    """Feed a stream that is to break in two pieces, and return what was whole until then."""
    framer = Framer()
    try:
        framed = framer.feed(data[:cut])
        framer.feed(data[cut:])
    except FramingError as error:
        return [*error.framed]
    return framed or [Ping()]


def served(data: bytes) -> tuple[list[str], list[int], bool]:
    """Give octets to an endpoint as a stream listener does; return Call-IDs served, statuses sent, and if it closed."""
    bench, framer, closed = Bench(TCP), Framer(), False
    try:
        framed = tuple(framer.feed(data))
    except FramingError as error:
        framed, closed = error.framed, True
        for each in framed:
            if isinstance(each, Message):
                bench.receive(each.data)
        before = len(list(bench.of(RequestReceived)))
        bench.receive(error.head)
        assert len(list(bench.of(RequestReceived))) == before, "the head of a broken stream was served"
    else:
        for each in framed:
            if isinstance(each, Message):
                bench.receive(each.data)
    calls = [event.request.call_id for event in bench.of(RequestReceived)]
    return calls, [sent.status for _, sent in bench.sent], closed


# -- RFC 3261 §18.3 ----------------------------------------------------------------------------------------------------


def test_r15_on_a_stream_content_length_governs():
    first, second = message(b"v=0\r\n\r\n", "a"), message(b"", "b")
    assert dealt(first + second, []) == [Message(first), Message(second)]


def test_r15_every_split_in_two_gives_the_same_two_messages():
    first, second = message(b"BYE sip:a@b SIP/2.0\r\n\r\n", "a"), message(b"x" * 7, "b")
    data = b"\r\n" + first + b"\r\n\r\n" + second
    for cut in range(len(data)):
        assert dealt(data, [cut]) == [Message(first), Message(second)]


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 3)), max_size=5),
    st.lists(st.integers(0, 60), max_size=40),
)
def test_r15_however_a_stream_is_dealt_out_the_messages_are_the_same(parts, sizes):
    messages = [message(body, f"n{number}") for number, (body, _) in enumerate(parts)]
    data = b"".join(b"\r\n" * blank + each for each, (_, blank) in zip(messages, parts, strict=True))
    assert dealt(data, sizes) == [Message(each) for each in messages]


def test_a_message_that_is_not_whole_is_pending():
    framer, data = Framer(), message(b"body")
    pending = [framer.pending]
    for piece in (data[:10], data[10:-1], data[-1:] + b"\r\n\r\n"):
        framed = framer.feed(piece)
        pending.append(framer.pending)
    assert pending == [False, True, True, False]
    assert framed == [Message(data), Ping()]


@pytest.mark.parametrize("piece", [1, 1000, MESSAGE_LIMIT])
def test_t15_the_largest_message_is_taken_in_linear_time(piece):
    """Octet by octet: what looks at the whole each time never ends, and the run's time-out stops it."""
    room = MESSAGE_LIMIT - len(message(b"x" * 200_000, extra=f"X: {'y' * 60_000}\r\n"))
    data = message(b"x" * (200_000 + room), extra=f"X: {'y' * 60_000}\r\n")
    assert len(data) == MESSAGE_LIMIT
    framer = Framer()
    framed = [each for start in range(0, len(data), piece) for each in framer.feed(data[start : start + piece])]
    assert framed == [Message(data)]


def test_t15_a_header_of_more_than_64_kib_ends_the_stream():
    framer = Framer()
    framer.feed(b"X: yz\r\n" * (HEADER_LIMIT // 7))
    with pytest.raises(FramingError) as caught:
        framer.feed(b"X: yz\r\n" * 2)
    assert caught.value.status == 513
    whole = message(extra=f"X: {'y' * HEADER_LIMIT}\n")
    with pytest.raises(FramingError):
        Framer().feed(whole)
    assert served(whole) == ([], [], True)


def test_t15_a_message_of_more_than_256_kib_ends_the_stream_before_its_body_is_there():
    data = message(length=f"Content-Length: {MESSAGE_LIMIT}")
    with pytest.raises(FramingError) as caught:
        Framer().feed(data)
    assert caught.value.status == 513
    assert served(data) == ([], [400], True)


def test_what_was_whole_before_the_fault_is_served():
    good = message(branch="good")
    assert served(good + message(length="Content-Length: x") + _SECOND) == (["good"], [400], True)


# -- RFC 5626 §4.4.1 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "framed"),
    [
        ([b"\r\n\r\n"], [Ping()]),
        ([b"\r\n"], [Pong()]),
        ([b"\r\n", b"\r\n", b"\r\n"], [Pong(), Pong(), Pong()]),  # three pongs, not a ping and a half
        ([b"\r", b"\n", b"\r", b"\n"], [Pong(), Ping()]),  # a ping in pieces: what it began as is harmless
        ([b"\r\n\r", b"\n"], [Pong(), Ping()]),
        ([b"\r\n\r\n\r\n"], [Ping(), Pong()]),
        ([b"\r\n" * 5000], [Ping()]),
        ([b"\r\n\r\n", b"\r\n\r\n"], [Ping(), Ping()]),
        ([b""], []),
    ],
)
def test_double_crlf_is_a_ping_and_a_single_one_a_pong(pieces, framed):
    framer = Framer()
    assert [each for piece in pieces for each in framer.feed(piece)] == framed
    assert not framer.pending


def test_crlfs_around_messages_do_not_harm_them():
    data = message()
    assert Framer().feed(b"\r\n" + data + b"\r\n\r\n" + data + b"\r\n") == [
        Pong(),
        Message(data),
        Ping(),
        Message(data),
        Pong(),
    ]


# -- T14 ---------------------------------------------------------------------------------------------------------------

_INNER = len(_SECOND)
# How a length may be written so that somebody else reads another number. In each case the octets behind the header are
# a second request; the length that is meant hides it in the body, and the one that is misread makes it a request.
_SPELLINGS = [
    f"Content-Length: +{_INNER}",
    f"Content-Length: -{_INNER}",
    "Content-Length: -0",
    "Content-Length: +0",
    "Content-Length: 0x0",
    f"Content-Length: {_INNER:#x}",
    f"Content-Length: {_INNER:#o}",
    f"Content-Length: {_INNER:#b}",
    "Content-Length: 1_0",
    f"Content-Length: {str(_INNER)[0]}_{str(_INNER)[1:]}",
    f"Content-Length: {_INNER}.0",
    f"Content-Length: {_INNER}e0",
    f"Content-Length: {_INNER},",
    f"Content-Length: {_INNER}, 0",
    f"Content-Length: 0, {_INNER}",
    f"Content-Length: {_INNER};x",
    f"Content-Length: {_INNER} 0",
    f"Content-Length: 0 {_INNER}",
    f'Content-Length: "{_INNER}"',
    f"Content-Length: ({_INNER})",
    "Content-Length:",
    "Content-Length: ",
    f"Content-Length {_INNER}",
    "Content-Length: zero",
    "Content-Length: \u0661\u0662",  # Arabic digits
    "Content-Length: \uff11\uff10",  # full-width digits
    "Content-Length: \u0967\u0968",  # Devanagari
    "Content-Length: \u00b2",  # a digit to str.isdigit, none to int
    f"Content-Length: \u00a0{_INNER}",
    f"Content-Length: {_INNER}\u2003",
    f"Content-Length: \x0b{_INNER}",
    f"Content-Length: {_INNER}\x0c",
    f"Content-Length: {_INNER}\0",
    f"Content-Length: {2**31}",
    f"Content-Length: {2**31 + _INNER}",
    f"Content-Length: {2**32 + _INNER}",
    f"Content-Length: {2**32}",
    f"Content-Length: {2**64 + _INNER}",
    f"Content-Length: {'0' * 7}{_INNER}",
    f"Content-Length: {'9' * 5000}",
    f"Content-Length: 0\r\nContent-Length: {_INNER}",
    f"Content-Length: {_INNER}\r\nContent-Length: 0",
    f"l: 0\r\nContent-Length: {_INNER}",
    f"Content-Length: {_INNER}\r\nL: 0",
    f"cONTENT-lENGTH: {_INNER}\r\nl: 0",
    f"Content-Length: {_INNER}\r\n 0",
    f"Content-Length: 0\r\n\t{_INNER}",
    f"Content-Length\r\n : {_INNER}",
    f"Content-Length: 0\rContent-Length: {_INNER}",
    f"Content-Length: 0\nContent-Length: {_INNER}",
    f"Content-Length\x00: {_INNER}",
    f"Content_Length: {_INNER}",
    f"Content-Length : x\r\nContent-Length: {_INNER}",
    "X: nothing",
]


def test_t14_there_are_forty_spellings_at_least():
    assert len(set(_SPELLINGS)) >= 40


@pytest.mark.parametrize("spelling", _SPELLINGS)
def test_t14_a_doubtful_content_length_ends_the_stream_and_smuggles_nothing(spelling):
    data = message(length=spelling) + _SECOND
    calls, statuses, closed = served(data)
    assert calls == []
    assert set(statuses) <= {400}
    assert closed
    for cut in range(0, len(data), 41):
        assert not in_two(data, cut)


@pytest.mark.parametrize(
    "spelling",
    [
        f"Content-Length: {_INNER}",
        f"l:{_INNER}",
        f"L : {_INNER}",
        f"CONTENT-LENGTH\t:\t  {_INNER} \t",
        f"Content-Length:\r\n  {_INNER}",
        f"Content-Length: {_INNER:07}",
        f"X: y\r\n Content-Length: 0\r\nContent-Length: {_INNER}",
    ],
)
def test_t14_a_length_that_is_spelt_oddly_but_well_hides_what_it_covers(spelling):
    assert served(message(length=spelling) + _SECOND) == (["first"], [], False)


def test_t14_the_same_length_twice_is_refused_but_leaves_the_framing_sound():
    length = f"Content-Length: {_INNER}\r\nl: {_INNER}"
    after = message(branch="after")
    assert served(message(length=length) + _SECOND + after) == (["after"], [400], False)


def test_t14_over_udp_no_length_makes_a_second_request_either():
    for spelling in _SPELLINGS:
        bench = Bench()
        bench.receive(message(length=spelling) + _SECOND)
        assert [event.request.call_id for event in bench.of(RequestReceived)] in ([], ["first"]), spelling


def test_a_stream_message_without_content_length_is_400_wherever_it_comes_from():
    bench = Bench(TCP)
    bench.receive(message(length="X: y"))
    ((_, sent),) = bench.sent
    assert sent.status == 400
    assert not list(bench.of(RequestReceived))


@settings(deadline=None, max_examples=500)
@given(st.lists(st.binary(max_size=80), max_size=8))
@example([b"\r\n\r\n\r\n", b" \r\n\r\n"])
def test_t11_any_stream_gives_messages_or_the_peers_error(pieces):
    framer, fed, taken = Framer(), 0, 0
    for piece in pieces:
        fed += len(piece)
        try:
            framed = framer.feed(piece)
        except FramingError:
            return
        taken += sum(len(each.data) for each in framed if isinstance(each, Message))
        assert taken <= fed
