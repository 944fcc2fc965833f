"""The coverage of the programme's rows: which tests cite each row of tests/rows.toml, and which rows nothing proves.

    python -m tests.rows [--verbose]

prints one line a group and the missing rows by name; it exits with 1 where a row has neither a proof nor a reason.
A citation counts in the name, docstring or parameters of a test, in the title or docstring of a conformance case, in
the header of a SIPp scenario and in the values of a TOML manifest; never in the comments or modules that tests are of.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("tests", "conformance")
REASONS = "not applicable"
_ROW = re.compile(r"\b[RT]\d\d\b")
_OF_THE_PROGRAMME = re.compile(r"^\| ([RT]\d\d)\b", re.MULTILINE)


@dataclass(slots=True)
class Rows:
    """The rows in scope: titles by group, reasons for those that do not apply, and what cites each."""

    scope: list[str]
    groups: dict[str, dict[str, str]]
    reasons: dict[str, str]
    proofs: dict[str, list[str]] = field(default_factory=dict)

    @property
    def titles(self) -> dict[str, str]:
        return {row: title for rows in self.groups.values() for row, title in rows.items()}

    def missing(self, group: str) -> dict[str, str]:
        """Return the rows of a group that have neither a proof nor a reason, with their titles."""
        rows = self.groups[group]
        return {row: title for row, title in rows.items() if not self.proofs.get(row) and row not in self.reasons}

    def covers(self, row: str) -> bool:
        """Tell whether a row lies in one of the ranges of the scope."""
        ends = (part.partition("-") for part in self.scope)
        return any(first <= row <= (last or first) and row[0] == first[0] for first, _, last in ends)


def read(path: Path) -> Rows:
    """Read the list of rows. Raises ValueError for a row that is listed twice, out of scope or unknown."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    scope, reasons = document.pop("scope"), document.pop(REASONS, {})
    rows = Rows(scope, document, reasons)
    if len(rows.titles) != sum(map(len, rows.groups.values())):
        raise ValueError(f"{path.name}: a row is in two groups")
    for row in rows.titles:
        if not rows.covers(row):
            raise ValueError(f"{path.name}: {row} is not in the scope")
    for row, reason in reasons.items():
        if row not in rows.titles or not reason.startswith("n/a because "):
            raise ValueError(f"{path.name}: the reason for {row} must be for a row above, and begin 'n/a because'")
    return rows


def prove(rows: Rows, directories: Iterable[Path]) -> None:
    """Look for citations of the rows in every test, case, scenario and manifest."""
    readers = {".py": _of_python, ".xml": _of_scenario, ".toml": _of_manifest}
    for directory in directories:
        for path in sorted(directory.rglob("*")):
            if path.suffix not in readers or path.name == "rows.toml":
                continue
            for where, text in readers[path.suffix](path):
                for row in sorted(set(_ROW.findall(text)) & rows.titles.keys()):
                    rows.proofs.setdefault(row, []).append(where)


def _of_python(path: Path) -> Iterator[tuple[str, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    tables = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        is_case = any(isinstance(one, ast.Call) and _called(one) == "case" for one in node.decorator_list)
        if not is_case and not node.name.startswith("test_"):
            continue
        texts = [node.name.upper().replace("_", " "), ast.get_docstring(node) or ""]
        for decorator in node.decorator_list:
            texts += _strings(decorator)
            for name in ast.walk(decorator):
                if isinstance(name, ast.Name) and name.id in tables:  # parameters that stand in a table of the module
                    texts += _strings(tables[name.id])
        yield f"{path.relative_to(ROOT)}::{node.name}" if path.is_relative_to(ROOT) else node.name, "\n".join(texts)


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _strings(node: ast.AST) -> list[str]:
    return [one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)]


def _of_scenario(path: Path) -> Iterator[tuple[str, str]]:
    """The header ends where the first message begins."""
    text = path.read_text(encoding="utf-8", errors="replace")
    yield path.name, re.split(r"<(?:send|recv)\b", text, maxsplit=1)[0]


def _of_manifest(path: Path) -> Iterator[tuple[str, str]]:
    def leaves(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping | list):
            for one in value.values() if isinstance(value, Mapping) else value:
                yield from leaves(one)

    yield path.name, "\n".join(leaves(tomllib.loads(path.read_text(encoding="utf-8"))))


def absent(rows: Rows, programme: str) -> list[str]:
    """Return the rows of the programme that are in scope and not in the list."""
    return [row for row in _OF_THE_PROGRAMME.findall(programme) if rows.covers(row) and row not in rows.titles]


def report(rows: Rows, verbose: bool) -> Iterator[str]:
    """Say how far each group is, and what it misses."""
    for group, titles in rows.groups.items():
        missing = rows.missing(group)
        proven = sum(bool(rows.proofs.get(row)) for row in titles)
        said = f"{group:<13} {proven} of {len(titles)} rows proven"
        excused = len(titles) - proven - len(missing)
        yield (
            said + (f", {excused} not applicable" if excused else "") + (f", {len(missing)} MISSING" if missing else "")
        )
        for row, title in titles.items():
            if row in missing:
                yield f"  {row} {title}: cited by no test"
            elif verbose:
                proofs = rows.proofs.get(row)
                yield f"  {row} {title}: " + (", ".join(proofs) if proofs else rows.reasons[row])


def main() -> int:
    """Print the coverage; return 1 if a row in scope has neither a proof nor a reason."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--verbose", action="store_true", help="name the tests that cite each row")
    verbose = options.parse_args().verbose
    rows = read(ROOT / "tests" / "rows.toml")
    prove(rows, (ROOT / place for place in PLACES))
    programme = ROOT.parent / "shared" / "programme.md"
    unlisted = absent(rows, programme.read_text(encoding="utf-8")) if programme.exists() else []
    for line in report(rows, verbose):
        print(line)
    if unlisted:
        print(f"tests/rows.toml lacks rows of the programme that are in scope: {', '.join(unlisted)}")
    return 1 if unlisted or any(rows.missing(group) for group in rows.groups) else 0


if __name__ == "__main__":
    sys.exit(main())
