"""Header fields in the order in which they arrived: found by any of their names, kept byte for byte (RFC 3261 §7.3)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import field
from typing import Any

from bridge.errors import PeerError
from bridge.sip.headers import TOKEN
from bridge.sip.values import frozen

_Entry = tuple[str, str, str, str | None]  # key, name as written, value, lines as they arrived

_COMPACT = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "n": "identity-info",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}
_USUAL = (
    "Accept Accept-Encoding Accept-Language Alert-Info Allow Allow-Events Authentication-Info Authorization Call-ID "
    "Call-Info Contact Content-Disposition Content-Encoding Content-Language Content-Length Content-Type CSeq Date "
    "Diversion Event Expires From History-Info Identity Max-Forwards MIME-Version Min-Expires Min-SE Organization "
    "P-Asserted-Identity P-Preferred-Identity Privacy Proxy-Authenticate Proxy-Authorization Proxy-Require RAck Reason "
    "Record-Route Refer-To Referred-By Remote-Party-ID Replaces Require Retry-After Route RSeq Server Session-Expires "
    "Subject Subscription-State Supported Timestamp To Unsupported User-Agent User-to-User Via Warning WWW-Authenticate"
)
# The usual spellings; every other one takes the slow way through `_key`.
_KEYS = {
    spelling: name.lower() for name in _USUAL.split() for spelling in (name, name.lower(), name.upper(), name.title())
} | {spelling: name for letter, name in _COMPACT.items() for spelling in (letter, letter.upper())}
_SINGLE = frozenset(("call-id", "cseq", "from", "to", "max-forwards", "content-length", "content-type"))

_NAME = re.compile(TOKEN)
_FOLD = re.compile(r"\r\n[ \t]+")
UNPRINTABLE = re.compile(r"[\r\n\0]")


@frozen
class Header:
    """Hold one header field. ``raw`` are its lines as they arrived, without the last CRLF, and is what gets printed."""

    name: str
    value: str
    raw: bytes | None = field(default=None, compare=False)


def _key(name: str) -> str:
    """Return the name under which a header is found: lower-case and in its long form."""
    found = _KEYS.get(name)
    if found is None:
        lower = name.lower()
        found = _COMPACT.get(lower, lower)
    return found


def long_name(name: str) -> str:
    """Return a header's name in lower case and in its long form: ``t`` is ``to``."""
    return _KEYS.get(name) or _key(name)


class Headers:
    """Keep header fields in order; a name matches in any case and in its compact form (RFC 3261 §7.3.1, §7.3.3)."""

    __slots__ = ("_entries", "_index", "typed")

    def __init__(self, headers: Iterable[Header] = ()) -> None:
        self._entries: list[_Entry] = []
        self._index: dict[str, int] | None = None  # key → place of its first entry; None: to be made anew
        self.typed: dict[str, Any] = {}  # first values as they were parsed, by key, until their header changes
        for header in headers:
            self.append(header)

    def get(self, name: str) -> str | None:
        """Return the first value of that name."""
        place = self._places().get(_KEYS.get(name) or _key(name))
        return None if place is None else self._entries[place][2]

    def get_all(self, name: str) -> list[str]:
        """Return every value of that name, one an appearance (see `split_list` for comma-separated ones)."""
        key = _KEYS.get(name) or _key(name)
        if key not in self._places():
            return []
        return [entry[2] for entry in self._entries if entry[0] == key]

    def named(self, names: Collection[str], prefixes: tuple[str, ...] = ()) -> list[Header]:
        """Return the headers of these lower-case long names, and those whose names begin in one of these ways."""
        return [
            _header_of(entry)
            for entry in self._entries
            if entry[0] in names or (prefixes and entry[0].startswith(prefixes))
        ]

    def add(self, name: str, value: str) -> None:
        """Put a header at the end."""
        self._add((_key(name), name, value, None))

    def append(self, header: Header) -> None:
        """Put a header at the end as it is, its raw lines included."""
        self._add(_entry_of(header))

    def prepend(self, name: str, value: str) -> None:
        """Put a header at the top."""
        key = _key(name)
        self._entries.insert(0, (key, name, value, None))
        self._changed(key)

    def set(self, name: str, value: str) -> None:
        """Replace all headers of that name by one at the first one's place, or at the end."""
        key = _key(name)
        place = self._places().get(key)
        if place is None:
            self.add(name, value)
            return
        entries = self._entries
        entries[place] = (key, entries[place][1], value, None)
        self._entries = entries[: place + 1] + [entry for entry in entries[place + 1 :] if entry[0] != key]
        self._changed(key)

    def replace_first(self, name: str, value: str) -> None:
        """Replace the first header of that name and leave further ones. Raises KeyError where there is none."""
        key = _key(name)
        place = self._places()[key]
        self._entries[place] = (key, self._entries[place][1], value, None)
        self.typed.pop(key, None)

    def extend_first(self, name: str, text: str) -> None:
        """Write more behind the first header of that name. Raises KeyError, and ValueError for CR, LF or NUL (T13)."""
        if UNPRINTABLE.search(text):
            raise ValueError("CR, LF or NUL within a SIP header")
        place = self._places()[_key(name)]
        key, written, value, raw = self._entries[place]
        self._entries[place] = (key, written, value + text, None if raw is None else raw + text)
        self.typed.pop(key, None)

    def remove(self, name: str) -> None:
        """Remove all headers of that name."""
        key = _key(name)
        if key in self._places():
            self._entries = [entry for entry in self._entries if entry[0] != key]
            self._changed(key)

    def copy(self) -> Headers:
        """Return headers that can be changed apart from these."""
        copy = Headers.__new__(Headers)
        copy._entries = self._entries.copy()
        copy._index = None if self._index is None else self._index.copy()
        copy.typed = self.typed.copy()
        return copy

    def copy_from(self, other: Headers, names: Collection[str]) -> None:
        """Put the other's headers of these names at the end, in the order of ``names``, byte for byte."""
        places, entries = other._places(), other._entries
        for name in names:
            key = _KEYS.get(name) or _key(name)
            place = places.get(key)
            if place is None:
                continue
            self._entries.append(entries[place])
            if key not in _SINGLE:
                self._entries.extend([entry for entry in entries[place + 1 :] if entry[0] == key])
            self.typed.pop(key, None)
        self._index = None

    def lines(self) -> tuple[list[str], list[str]]:
        """Return what to print of each header, and of these lines the ones that we made and that must be checked."""
        lines: list[str] = []
        made: list[str] = []
        for _, name, value, raw in self._entries:
            if raw is None:
                raw = f"{name}: {value}"
                made.append(raw)
            lines.append(raw)
        return lines, made

    def place(self, name: str) -> int | None:
        """Return the place of the first header of that name."""
        return self._places().get(_key(name))

    def lacks(self, keys: Iterable[str]) -> str | None:
        """Return the first of these lower-case long names that is missing."""
        places = self._places()
        for key in keys:
            if key not in places:
                return key
        return None

    def __iter__(self) -> Iterator[Header]:
        return map(_header_of, self._entries)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _key(name) in self._places()

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return [entry[1:3] for entry in self._entries] == [entry[1:3] for entry in other._entries]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Headers({list(self)!r})"

    def _add(self, entry: _Entry) -> None:
        if self._index is not None:
            self._index.setdefault(entry[0], len(self._entries))
        self._entries.append(entry)

    def _changed(self, key: str) -> None:
        self._index = None
        self.typed.pop(key, None)

    def _places(self) -> dict[str, int]:
        index = self._index
        if index is None:
            index = self._index = {}
            for place, entry in enumerate(self._entries):
                index.setdefault(entry[0], place)
        return index

    @classmethod
    def _of(cls, entries: list[_Entry], index: dict[str, int]) -> Headers:
        headers = cls.__new__(cls)
        headers._entries, headers._index, headers.typed = entries, index, {}
        return headers


def _header_of(entry: _Entry) -> Header:
    _, name, value, raw = entry
    return Header(name, value, None if raw is None else raw.encode("utf-8", "surrogateescape"))


def _entry_of(header: Header) -> _Entry:
    raw = None if header.raw is None else header.raw.decode("utf-8", "surrogateescape")
    return _key(header.name), header.name, header.value, raw


def read_headers(lines: list[str], folded: bool) -> tuple[Headers, PeerError | None]:
    """Read header lines, each with those folded into it; what is no header is left out and reported as the fault."""
    entries: list[_Entry] = []
    index: dict[str, int] = {}
    fault: PeerError | None = None
    for line in lines:
        name, colon, value = line.partition(":")
        key = _KEYS.get(name)
        if key is None or not colon:
            name = name.rstrip(" \t")  # RFC 3261 §25.1 HCOLON
            if not colon or not _NAME.fullmatch(name):
                # One for all: 20,000 of them would cost what the whole of a good message may not (T11)
                fault = fault or PeerError(400, "Malformed Header")
                continue
            key = _key(name)
        if folded and "\r\n" in value:
            value = _FOLD.sub(" ", value)
        value = value.strip(" \t")
        if "\0" in value:  # stays in the raw line only: what we make of the value must not carry it (T13)
            value = value.replace("\\\0", "")
        if key not in index:
            index[key] = len(entries)
        elif key in _SINGLE:
            fault = fault or PeerError(400, f"Repeated {name}")
        entries.append((key, name, value, line))
    return Headers._of(entries, index), fault
