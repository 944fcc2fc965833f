"""The tables of a configuration file: typed values with their places, references to secrets, every mistake kept.

``${env:NAME}`` and ``${file:PATH}`` stand for a value anywhere in a string; messages quote what the file says, never
what a reference stands for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bridge.document import Document, KeyPath
from bridge.errors import ConfigError
from bridge.profile import did_you_mean, shown

SECRETS = frozenset({"password", "inbound_password", "token", "api_key"})
_REFERENCE = re.compile(r"\$\{([^}]*)\}?")
# Where orchestrators mount secrets for one container alone, with a mode that they choose
_MOUNTED_SECRETS = (Path("/run/secrets"), Path("/var/run/secrets"))


class Table:
    """One table of the file: typed values with their places; keys nobody asks for are errors in the end."""

    def __init__(self, reading: Reading, values: Any, path: KeyPath) -> None:
        self.reading = reading
        self.path = path
        self.known: set[str] = set()
        self.values: Mapping[str, Any] = {}
        if isinstance(values, Mapping):
            self.values = values
        else:
            reading.wrong(path, "is not a table", f"write [{'.'.join(str(part) for part in path)}]")

    def raw(self, key: str) -> Any:
        self.known.add(key)
        return self.values.get(key)

    def wrong(self, key: str | KeyPath, problem: str, remedy: str) -> None:
        self.reading.wrong((*self.path, *(key if isinstance(key, tuple) else (key,))), problem, remedy)

    def text(self, key: str, default: str = "") -> str:
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.wrong(key, f"{self.shown(key, value)} is not text", "put it in quotes")
            return default
        return self.reading.resolve((*self.path, key), value)

    def texts(self, key: str) -> list[str]:
        value = self.raw(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.wrong(key, f"{shown(value)} is not a list", f"write [{shown(value)}]")
            return []
        texts = []
        for index, item in enumerate(value):
            if isinstance(item, str):
                texts.append(self.reading.resolve((*self.path, key, index), item))
            else:
                self.wrong((key, index), f"{shown(item)} is not text", "put it in quotes")
        return texts

    def number(self, key: str, whole: bool, default: float = 0) -> float:
        value = self.raw(key)
        kinds = int if whole else int | float
        if value is None:
            return default
        if not isinstance(value, kinds) or isinstance(value, bool) or not 0 <= value < 1e9:
            wanted = "a whole number, 0 for no limit" if whole else "a number, 0 for no limit"
            self.wrong(key, f"{shown(value)} does not fit here", f"write {wanted}")
            return 0
        return value

    def flag(self, key: str) -> bool:
        value = self.raw(key)
        if value is not None and not isinstance(value, bool):
            self.wrong(key, f"{shown(value)} is neither true nor false", "write true or false, without quotes")
        return value is True

    def shown(self, key: str, value: Any) -> str:
        return "the value" if key in SECRETS else shown(value)

    def finish(self, also: Iterable[str] = ()) -> None:
        """Report the keys that nobody asked for."""
        for key in self.values:
            if key not in self.known:
                remedy = did_you_mean(key, {*self.known, *also}, "leave it out")
                self.wrong(key, "is no key here", remedy)


class Reading:
    """Read one document: what references stand for, and every problem on the way."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.directory = document.path.parent
        self.errors: list[ConfigError] = []
        self.warnings: list[ConfigError] = []
        self._resolved: dict[KeyPath, tuple[str, str]] = {}  # where references stood: what came of it, what was written

    def error(self, path: KeyPath, problem: str, remedy: str) -> ConfigError:
        """Make the error for a key, quoting references as they are written."""
        if path in self._resolved:
            value, written = map(shown, self._resolved[path])
            problem, remedy = problem.replace(value, written), remedy.replace(value, written)
        return self.document.error(path, problem, remedy)

    def wrong(self, path: KeyPath, problem: str, remedy: str) -> None:
        self.errors.append(self.error(path, problem, remedy))

    def warn(self, path: KeyPath, problem: str, remedy: str) -> None:
        self.warnings.append(self.document.error(path, problem, remedy))

    def resolve(self, path: KeyPath, text: str) -> str:
        """Put in what ``${env:NAME}`` and ``${file:PATH}`` stand for."""
        if "${" not in text:
            return text
        value = _REFERENCE.sub(lambda match: self._reference(path, match), text)
        self._resolved[path] = (value, text)
        return value

    def _reference(self, path: KeyPath, match: re.Match[str]) -> str:
        kind, _, name = match[1].partition(":")
        if not match[0].endswith("}") or kind not in ("env", "file") or not name:
            self.wrong(path, f"{shown(match[0])} is no reference", "write ${env:NAME} or ${file:PATH}")
            return ""
        if kind == "env":
            value = os.environ.get(name)
            if value is None:
                self.wrong(path, f"the environment has no {name}", f"export {name} before starting")
            return value or ""
        file = self.directory / os.path.expanduser(name)
        try:
            mode, value = file.stat().st_mode, file.read_text("utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no path, or not UTF-8"
            self.wrong(path, f"{file} cannot be read ({reason})", "name a readable text file with the value alone")
            return ""
        if mode & 0o004 and not any(file.absolute().is_relative_to(mount) for mount in _MOUNTED_SECRETS):
            # T17: a secret that everyone on the machine can read is none
            self.wrong(path, f"{file} can be read by everyone", f"chmod 600 {file}")
        return value.rstrip("\r\n")

    def table(self, root: Table, name: str) -> Table:
        values = root.raw(name)
        return Table(self, {} if values is None else values, (name,))
