"""`trunkbridge records`: records of ended calls, from a running bridge or from its files."""

from __future__ import annotations

import re
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bridge.cli import Failure, Misuse
from bridge.cli.client import AdminClient, asks_bridge
from bridge.cli.output import parties, print_json, print_table

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command()
@click.option("--since", metavar="TIME", help="Calls that ended since: an RFC 3339 time, or as 90s, 15m, 2h, 7d ago.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True, help="The newest so many.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Read the files of a bridge that is not running.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@asks_bridge
def records(client: AdminClient, since: str | None, limit: int, state_dir: Path | None, as_json: bool) -> None:
    """List records of ended calls, oldest first."""
    began = _unix_time(since) if since else None
    if state_dir is not None:
        found = _from_files(state_dir, began, limit)
    else:
        query = {"limit": str(limit)}
        if began is not None:
            query["since"] = datetime.fromtimestamp(began, UTC).isoformat()
        found = client.get("/api/v1/records", query)["records"]
    if as_json:
        print_json({"records": found})
        return
    rows = [
        (
            record["started_at"],
            parties(record),
            record["from"],
            record["to"],
            record["result"],
            record["reason"],
            record["status"],
            f"{record['duration']:.1f}",
            " ".join(f"{leg['mos']:.2f}" if leg and leg.get("mos") else "-" for leg in record["legs"].values()),
            record["id"],
        )
        for record in found
    ]
    columns = ("started", "carrier and platform", "from", "to", "result", "reason", "status", "seconds", "mos", "id")
    print_table(columns, rows, "no records")


def _from_files(state_dir: Path, since: float | None, limit: int) -> list[dict[str, Any]]:
    from bridge.store.records import read_records

    database = state_dir / "records.db"
    if not database.exists():
        raise Failure(f"there is no {database}; state_dir is named in the bridge's configuration")
    try:
        return read_records(database, since, limit)
    except sqlite3.Error as error:
        raise Failure(f"can't read {database}: {error}") from error


def _unix_time(text: str) -> float:
    from bridge.store.records import unix_time

    ago = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if ago:
        return time.time() - int(ago[1]) * _UNITS[ago[2]]
    try:
        return unix_time(text)
    except ValueError as error:
        raise Misuse(f"--since {text}: write a time as 2026-01-31T08:00:00Z, or as 15m, 2h, 7d") from error
