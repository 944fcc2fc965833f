"""`trunkbridge trunks` and `trunkbridge drain`: a running bridge as a whole."""

from __future__ import annotations

import click

from bridge.cli.client import AdminClient, asks_bridge
from bridge.cli.output import print_json, print_table


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@asks_bridge
def trunks(client: AdminClient, as_json: bool) -> None:
    """List carriers and platforms with their load and last failure."""
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
            trunk["max_calls"],
            ", ".join(trunk["hosts"]),
            trunk["last_failure"],
        )
        for trunk in answer["trunks"]
    ]
    print_table(("name", "kind", "profile", "state", "calls", "limit", "hosts", "last failure"), rows, "no trunks")


@click.command()
@asks_bridge
def drain(client: AdminClient) -> None:
    """Refuse new calls from now on; those in progress go on. SIGTERM does the same and then exits."""
    answer = client.post("/api/v1/drain")
    click.echo(f"draining, {answer['active']} calls in progress")
