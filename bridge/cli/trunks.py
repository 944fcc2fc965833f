"""`trunkbridge trunks` and `trunkbridge drain`: a running bridge as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from bridge.cli.client import AdminClient, asks_bridge
from bridge.cli.output import print_json, print_table


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@asks_bridge
def trunks(client: AdminClient, as_json: bool) -> None:
    """List carriers and platforms: load, registration, health and last failure."""
    answer = client.get("/api/v1/trunks")
    if as_json:
        print_json(answer)
        return
    rows = [
        (
            trunk["name"],
            trunk["kind"],
            trunk["profile"],
            trunk["state"],
            trunk["active_calls"],
            _limits(trunk),
            _registration(trunk),
            _health(trunk["health"]),
            ", ".join(trunk["hosts"]),
            trunk["last_failure"],
        )
        for trunk in answer["trunks"]
    ]
    columns = ("name", "kind", "profile", "state", "calls", "limit", "registration", "health", "hosts", "last failure")
    print_table(columns, rows, "no trunks")


@click.command()
@asks_bridge
def drain(client: AdminClient) -> None:
    """Refuse new calls from now on; those in progress go on. SIGTERM does the same and then exits."""
    answer = client.post("/api/v1/drain")
    click.echo(f"draining, {answer['active']} calls in progress")


def _limits(trunk: Mapping[str, Any]) -> str | None:
    """Say what a party may carry, and how much of it is in use where that is not the number of calls."""
    limits = trunk["limits"]
    parts = [str(limits["max_calls"])] if limits["max_calls"] else []
    parts += [f"{number} for {direction}" for direction, number in limits["reserve"].items()]
    if limits["cps"]:
        waiting = f", {limits['queued']} wait" if limits["queued"] else ""
        parts.append(f"{limits['cps_used']} of {limits['cps']:g}/s{waiting}")
    if limits.get("max_minutes_a_day"):
        parts.append(f"{limits['minutes_today']:g} of {limits['max_minutes_a_day']} min")
    return ", ".join(parts) or None


def _registration(trunk: Mapping[str, Any]) -> str | None:
    """Say how we are registered there, or from how many places it is registered here."""
    ours, theirs = trunk["registration"], trunk["bindings"]
    if ours is not None:
        parts = [f"{ours['state']} since {_clock(ours['since'])}"]
        if ours["expires_at"]:
            parts.append(f"until {_clock(ours['expires_at'])}")
        if ours["failing_since"]:
            parts.append(f"failing since {_clock(ours['failing_since'])}")
        if ours["last_error"]:
            parts.append(ours["last_error"])
        return ", ".join(parts)
    if theirs is not None:
        return ", ".join(f"{one['contact']} until {_clock(one['expires_at'])}" for one in theirs) or "not registered"
    return None


def _health(health: Mapping[str, Any]) -> str:
    since = f" since {_clock(health['since'])}" if health["since"] else ""
    answer = f", last answer {_clock(health['last_answer_at'])}" if health["last_answer_at"] else ""
    return f"{health['state']}{since}{answer}"


def _clock(timestamp: str) -> str:
    """Shorten an RFC 3339 time to that of the day, in UTC."""
    return timestamp[11:19]
