"""`trunkbridge calls`: live and recent calls of a running bridge."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import click

from bridge.cli import Failure
from bridge.cli.client import AdminClient, asks_bridge
from bridge.cli.ladder import ladder as draw_ladder
from bridge.cli.output import parties, plain, print_json, print_table


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print the calls as JSON.")
@click.option("--state", type=click.Choice(["active", "ended"]), help="Only these.")
@asks_bridge
def calls(client: AdminClient, as_json: bool, state: str | None) -> None:
    """List live and recent calls, or look at one of them."""
    ctx = click.get_current_context()
    ctx.obj = client
    if ctx.invoked_subcommand is not None:
        return
    found = client.calls(state or "")
    if as_json:
        print_json({"calls": found})
        return
    rows = [
        (
            record["id"],
            record["state"],
            record["started_at"],
            parties(record),
            record["from"],
            record["to"],
            record["route"],
            record["reason"] or "",
            f"{record['duration']:.1f}" if record["state"] == "ended" else "",
        )
        for record in found
    ]
    columns = ("id", "state", "started", "carrier and platform", "from", "to", "route", "end", "seconds")
    print_table(columns, rows, "no calls")


@calls.command()
@click.argument("call", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON, with its messages.")
@click.pass_obj
def show(client: AdminClient, call: str, as_json: bool) -> None:
    """Show one call's record."""
    record = client.get(client.call_path(call))
    if as_json:
        print_json(record)
        return
    for key, value in record.items():
        if key not in ("messages", "legs", "media") and value not in (None, [], ""):
            click.echo(f"{key:<14} {_compact(value)}")
    for name, leg in (record.get("legs") or {}).items():
        for key, value in {**(leg or {}), "now": (record.get("media") or {}).get(name)}.items():
            if value is not None:
                click.echo(f"{name + ' leg':<14} {key:<10} {_compact(value)}")


@calls.command()
@click.argument("call", metavar="ID")
@click.option("--messages", is_flag=True, help="Print the messages themselves, credentials left out.")
@click.pass_obj
def ladder(client: AdminClient, call: str, messages: bool) -> None:
    """Draw the SIP messages of one call."""
    record = client.get(client.call_path(call))
    if not record["messages"]:
        raise Failure("the bridge no longer has the messages of this call")
    for line in draw_ladder(record):
        click.echo(line)
    for step in record["messages"] if messages else ():
        if "text" in step and step["kind"] in ("received", "sent"):
            click.echo(f"\n{step['at']} {step['kind']} {step['peer']}")
            for line in step["text"].splitlines():
                click.echo(f"  {plain(line) if line else ''}")


@calls.command()
@click.argument("call", metavar="ID")
@click.pass_obj
def hangup(client: AdminClient, call: str) -> None:
    """End a live call on both legs."""
    client.post(client.call_path(call, "hangup"))
    click.echo("hanging up")


@calls.command()
@click.argument("call", metavar="ID")
@click.argument("target")
@click.pass_obj
def transfer(client: AdminClient, call: str, target: str) -> None:
    """Bring a live call's caller to TARGET: a number, or a SIP URI at a host of an account.

    What becomes of it stands in the call's record (`calls show`).
    """
    client.post(client.call_path(call, "transfer"), {"target": target})
    click.echo(f"transferring to {plain(target)}")


@calls.command()
@click.argument("call", metavar="ID")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Where to put it.")
@click.option("--seconds", type=click.FloatRange(min=0.1), help="Stop after so long; else when the call ends.")
@click.pass_obj
def capture(client: AdminClient, call: str, output: Path, seconds: float | None) -> None:
    """Capture the RTP and RTCP of a live call into a pcap file, until it ends or you press Ctrl-C.

    The bridge writes the file in its own state directory and this command moves it from there: run it on the
    bridge's machine, as a user that may read that directory.
    """
    path = client.call_path(call)
    written = Path(client.post(f"{path}/capture")["path"])
    ends_at = time.monotonic() + (seconds or float("inf"))
    try:
        while client.get(path)["state"] != "ended" and time.monotonic() < ends_at:
            time.sleep(min(0.5, max(0.0, ends_at - time.monotonic())))
    except KeyboardInterrupt:
        pass
    if client.get(path)["state"] != "ended":
        client.post(f"{path}/capture", {"stop": True})
        time.sleep(0.3)  # a worker of the relay closes the file
    try:
        shutil.move(written, output)
    except OSError as error:
        raise Failure(f"the capture is in {written} on the bridge's machine, but can't be moved: {error}") from error
    click.echo(f"{output}: {output.stat().st_size} bytes")


def _compact(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={_compact(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list):
        return "; ".join(_compact(inner) for inner in value)
    return plain(value)
