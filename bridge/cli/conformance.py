"""``trunkbridge conformance``: what a bridge must do on the wire, shown against peers that are not ours."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from conformance.ground import Ground
    from conformance.runner import Case, Verdict
    from conformance.stage import Address

_MARKS = {"passed": "[green]passed[/]", "failed": "[red]FAILED[/]", "not_applicable": "[yellow]not applicable[/]"}


@click.command("conformance")
@click.option("--list", "as_list", is_flag=True, help="List the cases and run none.")
@click.option(
    "--only", metavar="PATTERN", default="*", help="Only cases whose id matches a shell pattern or contains it."
)
@click.option(
    "--against", metavar="IP:PORT", help="Test a bridge that runs already; --config prints what it must have."
)
@click.option("--config", "show_config", is_flag=True, help="Print the configuration a bridge needs for --against.")
@click.option("--quick", is_flag=True, help="Short sweeps and small loads, and no case that takes minutes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the list.")
def conformance(as_list: bool, only: str, against: str | None, show_config: bool, quick: bool, as_json: bool) -> None:
    """Run the conformance suite against a bridge that it starts, or one that runs already.

    Cases drive the bridge with a scripted peer, SIPp, baresip and tshark over loopback. A case whose party is
    missing is not applicable, with how to enable it.
    """
    from conformance.ground import Ground, config_for_others
    from conformance.runner import cases
    from conformance.stage import StageError

    if show_config:
        click.echo(config_for_others(), nl=False)
        return
    chosen = [one for one in cases(only) if not (quick and one.load)]
    if as_list:
        _list(chosen, as_json)
        return
    if not chosen:
        click.echo(f"conformance: no case matches {only!r}; --list shows them", err=True)
        sys.exit(1)
    try:
        with Ground(_address(against), thorough=not quick) as ground:
            ground.chosen = frozenset(one.id for one in chosen)
            verdicts = _play(chosen, ground, quiet=as_json)
    except StageError as error:
        click.echo(f"conformance: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("conformance: interrupted; every process it started has been ended", err=True)
        sys.exit(130)
    failed = _report(verdicts, as_json)
    sys.exit(1 if failed else 0)


def _address(against: str | None) -> Address | None:
    if against is None:
        return None
    host, _, port = against.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise click.BadParameter(f"{against!r} is not IP:PORT, as 127.0.0.2:5060", param_hint="--against")
    return host, int(port)


def _list(chosen: list[Case], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([{"id": one.id, "title": one.title} for one in chosen], indent=2))
        return
    width = max((len(one.id) for one in chosen), default=0)
    for one in chosen:
        click.echo(f"{one.id:<{width}}  {one.title}")


def _play(chosen: list[Case], ground: Ground, quiet: bool) -> list[Verdict]:
    """Play the cases, saying on stderr what runs and on stdout what came of it."""
    from rich.console import Console

    from conformance.runner import play

    progress = Console(stderr=True)
    output = Console(quiet=quiet, soft_wrap=True)
    verdicts = []
    for index, one in enumerate(chosen):
        with progress.status(f"{index + 1} of {len(chosen)}: {one.title}"):
            verdict = play(one, ground)
        verdicts.append(verdict)
        _say(output if not quiet else progress, verdict)
    return verdicts


def _say(console: Console, verdict: Verdict) -> None:
    from rich.markup import escape

    mark = _MARKS[verdict.result.value]
    console.print(f"{mark}  [bold]{verdict.case.id}[/]  {escape(verdict.case.title)}  [dim]{verdict.seconds:.1f} s[/]")
    for line in verdict.reason.splitlines():
        console.print(f"        [dim]{escape(line)}[/]", highlight=False)


def _report(verdicts: list[Verdict], as_json: bool) -> int:
    """Print the totals, or everything as JSON; return how many failed."""
    totals = {result: sum(one.result.value == result for one in verdicts) for result in _MARKS}
    if as_json:
        listed = [
            {"id": one.case.id, "title": one.case.title, "result": one.result.value, "reason": one.reason}
            for one in verdicts
        ]
        click.echo(json.dumps({"ok": not totals["failed"], **totals, "cases": listed}, indent=2))
    else:
        said = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in totals.items())
        click.echo(f"{said} in {sum(one.seconds for one in verdicts):.0f} s")
    return totals["failed"]
