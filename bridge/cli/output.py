"""How commands print: JSON for programs, tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], none: str) -> None:
    """Print a table, or the sentence ``none`` where there are no rows; values are shown as they are."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(value)) for value in row))
    if not table.row_count:
        print(none)
        return
    # Into a pipe or a file whole lines are written, however long.
    Console(width=None if sys.stdout.isatty() else 1000).print(table, soft_wrap=not sys.stdout.isatty())


def parties(record: Mapping[str, Any]) -> str:
    """Show who called whom: the carrier stands first, the arrow tells the direction."""
    arrow = "→" if record["direction"] == "inbound" else "←"
    return f"{plain(record['carrier'])} {arrow} {plain(record['platform'])}"


def plain(value: Any) -> str:
    """Show a value without control characters: numbers and names come from peers."""
    text = "-" if value is None or value == "" else str(value)
    return "".join(char if char.isprintable() else "?" for char in text)
