"""A TOML file that remembers the line of every key, so that an error can name its place."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridge.errors import ConfigError

KeyPath = tuple[str | int, ...]

_AT_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\r\n]+")


class Document:
    """One TOML file: its values and where each of them stands."""

    def __init__(self, path: Path, text: str) -> None:
        """Read ``text``; ``path`` is what errors name. Raises ConfigError."""
        self.path = path
        self.file = str(path)
        try:
            self.values: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            place = _AT_LINE.search(str(error))
            line = int(place[1]) if place else text.count("\n") + 1
            problem = _AT_LINE.sub("", str(error)).replace("(at end of document)", "at the end of the file")
            raise ConfigError(
                self.file, line, "TOML", problem.strip(), 'write it as TOML: key = "value", [table]'
            ) from None
        self._lines = _Scanner(text).scan()

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a file. Raises ConfigError if it is not there, not UTF-8 or not TOML."""
        try:
            return cls(path, path.read_bytes().decode("utf-8"))
        except OSError as error:
            problem = f"cannot be read ({error.strerror or error})"
            raise ConfigError(str(path), 0, "file", problem, "name a file that exists and is readable") from None
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise ConfigError(str(path), line, "file", "is not UTF-8", "save it as UTF-8") from None

    def line(self, path: KeyPath) -> int:
        """Return the line of a key, or of the nearest table or key around it; 0 for the whole file."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return 0

    def error(self, path: KeyPath, problem: str, remedy: str) -> ConfigError:
        """Make the error that names this file, the line of ``path`` and the key."""
        return ConfigError(self.file, self.line(path), key_text(path) or "file", problem, remedy)


def key_text(path: KeyPath) -> str:
    """Write a key as its author knows it: ``platforms.sales.hosts[0]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            quoted = part if _BARE_KEY.fullmatch(part) else f'"{part}"'
            text += f".{quoted}" if text else quoted
    return text


class _Scanner:
    """Walk over text that tomllib has accepted and note the line of every key and array element."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counted = 0  # how far line ends are counted
        self._line = 1
        self._found: dict[KeyPath, int] = {}
        self._arrays: dict[KeyPath, int] = {}  # arrays of tables → index of the last element

    def scan(self) -> Mapping[KeyPath, int]:
        table: KeyPath = ()
        self._skip_blank()
        while self._at < len(self._text):
            if self._text.startswith("[[", self._at):
                self._at += 2
                table = self._element(self._key())
                self._at = self._text.index("]]", self._at) + 2
            elif self._text[self._at] == "[":
                self._at += 1
                line = self._here()
                table = self._resolve(self._key(), line)
                self._at = self._text.index("]", self._at) + 1
            else:
                self._pair(table)
            self._skip_blank()
        return self._found

    def _here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def _skip_blank(self) -> None:
        match = _BLANK.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _key(self) -> list[str]:
        """Read a dotted key; stop at what follows it."""
        parts: list[str] = []
        while True:
            self._skip_blank()
            if self._text[self._at] in "\"'":
                start = self._at
                self._string()
                # The one place where a key's escapes matter: let tomllib read them
                parts.append(tomllib.loads(f"k={self._text[start : self._at]}")["k"])
            else:
                match = _BARE_KEY.match(self._text, self._at)
                parts.append(match[0] if match else "")
                self._at = match.end() if match else self._at + 1
            self._skip_blank()
            if self._at >= len(self._text) or self._text[self._at] != ".":
                return parts
            self._at += 1

    def _resolve(self, parts: list[str], line: int) -> KeyPath:
        """Turn a header's key into a path, noting the tables on the way: one of an array means its last element."""
        path: KeyPath = ()
        for part in parts:
            path = (*path, part)
            self._found.setdefault(path, line)
            if path in self._arrays:
                path = (*path, self._arrays[path])
        return path

    def _element(self, parts: list[str]) -> KeyPath:
        line = self._here()
        array = (*self._resolve(parts[:-1], line), parts[-1])
        index = self._arrays[array] = self._arrays.get(array, -1) + 1
        self._found.setdefault(array, line)
        self._found[(*array, index)] = line
        return (*array, index)

    def _pair(self, table: KeyPath) -> None:
        line = self._here()
        parts = self._key()
        path = table
        for part in parts:
            path = (*path, part)
            self._found.setdefault(path, line)
        self._at += 1  # "="
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        self._skip_blank()
        opening = self._text[self._at]
        if opening in "\"'":
            self._string()
        elif opening == "[":
            self._list(path)
        elif opening == "{":
            self._inline_table(path)
        else:
            match = _SCALAR.match(self._text, self._at)
            self._at = match.end() if match else self._at + 1

    def _list(self, path: KeyPath) -> None:
        self._at += 1
        index = 0
        self._skip_blank()
        while self._text[self._at] != "]":
            self._found[(*path, index)] = self._here()
            self._value((*path, index))
            index += 1
            self._skip_comma()
        self._at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        self._skip_blank()
        while self._text[self._at] != "}":
            self._pair(path)
            self._skip_comma()
        self._at += 1

    def _skip_comma(self) -> None:
        self._skip_blank()
        if self._text[self._at] == ",":
            self._at += 1
            self._skip_blank()

    def _string(self) -> None:
        quote = self._text[self._at]
        fence = quote * 3 if self._text.startswith(quote * 3, self._at) else quote
        self._at += len(fence)
        while not self._text.startswith(fence, self._at):
            self._at += 2 if quote == '"' and self._text[self._at] == "\\" else 1
        self._at += len(fence)
        # A multi-line string may end in up to two quotes of its own before the fence (TOML 1.0, strings)
        if len(fence) == 3:
            while self._text.startswith(quote, self._at):
                self._at += 1
