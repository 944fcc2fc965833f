"""Messages out of a byte stream: Content-Length says where one ends (RFC 3261 §18.3, §20.14), CRLFs between them ping.

A stream whose framing is in doubt can't be read on: everything behind the doubt could be somebody's smuggled request
(T14). So whatever is not plainly one length ends the connection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bridge.errors import PeerError
from bridge.sip.message import HEADER_LIMIT, MESSAGE_LIMIT

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\n(?:content-length|l)[ \t]*:((?:[^\r]|\r\n[ \t])*)", re.IGNORECASE)
_FOLD = re.compile(rb"\r\n[ \t]+")
# Not what int() takes besides: "+5", "1_0", digits of other scripts
_DIGITS = re.compile(rb"[0-9]{1,7}")


@dataclass(frozen=True, slots=True)
class Message:
    """One whole SIP message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    """A double CRLF between messages: a single one answers it (RFC 5626 §4.4.1)."""


@dataclass(frozen=True, slots=True)
class Pong:
    """A single CRLF between messages: the answer to a ping of ours, or a blank line that means nothing."""


Framed = Message | Ping | Pong


class FramingError(PeerError):
    """Report a stream that can't be read on. Close it.

    ``head`` is what `Endpoint.receive` is to be given before that: it answers 400 where an answer can be made, and
    never takes it for a message. ``framed`` is what was whole before the fault in the same octets.
    """

    def __init__(self, status: int, reason: str, head: bytes, framed: tuple[Framed, ...]) -> None:
        super().__init__(status, reason)
        self.head = head
        self.framed = framed


class Framer:
    """Cut one connection's octets into messages, in time linear in their number however they are dealt out."""

    __slots__ = ("_buffer", "_half_ping", "_length", "_searched")

    def __init__(self) -> None:
        self._buffer = bytearray()  # begins where a message begins
        self._searched = 0  # octets of it that hold no end of a header
        self._length = 0  # of the message whose header is whole, body included; 0: not known yet
        self._half_ping = False  # the last octets were a single CRLF that may be the first of two

    @property
    def pending(self) -> bool:
        """Whether a message has begun that is not whole yet (T15: it has 32 s)."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[Framed]:
        """Take what arrived and return what is whole with it. Raises FramingError, after which nothing can be fed."""
        framed: list[Framed] = []
        alone = not self._buffer and data == b"\r\n"
        self._buffer += data
        while self._buffer:
            if not self._length and not self._searched:
                self._skip_blank_lines(framed, alone)
            if self._buffer == b"\r" or not self._measure(framed) or len(self._buffer) < self._length:
                break
            framed.append(Message(bytes(self._buffer[: self._length])))
            del self._buffer[: self._length]
            self._length = self._searched = 0
        return framed

    def _skip_blank_lines(self, framed: list[Framed], alone: bool) -> None:
        buffer = self._buffer
        end = 0
        while buffer.startswith(b"\r\n", end):
            end += 2
        if end:
            del buffer[:end]
            count = end // 2 + self._half_ping
            if count > 1:
                framed.append(Ping())  # one, however many: a flood of CRLFs is worth no flood of answers
            if count % 2:
                framed.append(Pong())
            # A ping that arrives in two parts counts as pong first. A CRLF that came by itself is a pong and no half.
            self._half_ping = bool(count % 2) and not alone
        if buffer and buffer != b"\r":
            self._half_ping = False

    def _measure(self, framed: list[Framed]) -> bool:
        """Find out how long the message is; False while its header is not whole."""
        if self._length:
            return True
        buffer = self._buffer
        end = buffer.find(_END, max(0, self._searched - len(_END) + 1))
        self._searched = len(buffer)
        if (len(buffer) - len(_END) if end < 0 else end) > HEADER_LIMIT:
            # one octet more than the parser takes, so that it refuses what it is given
            raise FramingError(513, "Message Too Large", bytes(buffer[: HEADER_LIMIT + 1]), tuple(framed))
        if end < 0:
            return False
        head = bytes(buffer[: end + len(_END)])
        try:
            self._length = len(head) + content_length(head)
            if self._length > MESSAGE_LIMIT:
                raise PeerError(513, "Message Too Large")
        except PeerError as error:
            raise FramingError(error.status, error.reason, head, tuple(framed)) from None
        return True


def content_length(head: bytes) -> int:
    """Return the one Content-Length of a header section that ends with its blank line. Raises PeerError 400 (T14)."""
    line_ends = head.count(b"\r\n")
    if head.count(b"\r") != line_ends or head.count(b"\n") != line_ends:
        raise PeerError(400, "Bare CR or LF")
    lengths: set[int] = set()
    for value in _LENGTH.findall(head):
        if b"\r\n" in value:
            value = _FOLD.sub(b" ", value)
        value = value.strip(b" \t")
        if not _DIGITS.fullmatch(value):
            raise PeerError(400, "Malformed Content-Length")
        lengths.add(int(value))
    if not lengths:  # RFC 3261 §20.14: required on streams
        raise PeerError(400, "Missing Content-Length")
    if len(lengths) > 1:
        raise PeerError(400, "Repeated Content-Length")
    return lengths.pop()
