"""``trunkbridge bench``: processor time per packet and per call, beside the field's own peers in the same run."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from conformance.benchmark import Row


@click.command("bench")
@click.argument("name", required=False, type=click.Choice(["media", "signalling"]))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
@click.option("--install-peers", is_flag=True, help="Install sippy into .venv-bench first, to be measured as well.")
def bench(name: str | None, as_json: bool, install_peers: bool) -> None:
    """Measure what a relayed packet and a call cost, with rtpengine, sippy and Kamailio beside where installed.

    Bounded loads over loopback. Run it on an idle machine: everything shares its processors.
    """
    from rich.console import Console

    from conformance import rivals
    from conformance.benchmark import BENCHES, machine, versions
    from conformance.stage import StageError

    progress = Console(stderr=True)
    if install_peers:
        progress.print(rivals.install_peers(), highlight=False)
    where, what = machine(), versions()
    rows: list[Row] = []
    try:
        for one in [name] if name else list(BENCHES):
            rows += BENCHES[one](lambda text: progress.print(text, highlight=False))
    except StageError as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("bench: interrupted; every process it started has been ended", err=True)
        sys.exit(130)
    if as_json:
        listed = [asdict(row) for row in rows]
        click.echo(json.dumps({"machine": where, "versions": what, "rows": listed}, indent=2, ensure_ascii=False))
        return
    _show(where, what, rows)


def _show(where: dict[str, str | int | float], what: dict[str, str], rows: list[Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, 150))
    facts = [f"{where['cpus']} × {where['model']}", f"Linux {where['kernel']}", f"Python {where['python']}"]
    facts += [f"{name} {number}" for name, number in what.items()] + [f"load before {where['load_before']}"]
    console.print(", ".join(facts), highlight=False)
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("bench", "load", "subject"):
        table.add_column(title)
    table.add_column("CPU", justify="right", no_wrap=True)
    table.add_column("× ours", justify="right", no_wrap=True)
    table.add_column("how", overflow="fold")
    for row in rows:
        value = "–" if row.value is None else f"{row.value:.2f} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(row.bench, row.load, row.subject, value, ratio, f"[dim]{row.note}[/]")
    console.print(table)
