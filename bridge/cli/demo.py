"""``trunkbridge demo``: real calls between a carrier and AI platforms on loopback, and what came of them."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from conformance.demonstration import Moment, Outcome, Progress


@click.command("demo")
@click.option("--calls", default=4, show_default=True, type=click.IntRange(1, 100), help="How many calls at once.")
@click.option("--seconds", default=20.0, show_default=True, type=click.FloatRange(3, 3600), help="How long each lasts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def demo(calls: int, seconds: float, as_json: bool) -> None:
    """Place real calls through the bridge to simulated AI platforms and show what each side heard.

    Needs no configuration, no account, no root and no network but loopback.
    """
    from conformance.demonstration import demonstrate
    from conformance.stage import StageError

    try:
        with _ending_on_signals(), _progress(calls, seconds) as progress:
            outcome = demonstrate(calls, seconds, progress)
    except StageError as error:
        click.echo(f"demo: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("demo: interrupted; every process it started has been ended", err=True)
        sys.exit(130)
    if as_json:
        click.echo(json.dumps({"ok": outcome.ok, "calls": outcome.calls, "parties": _parties(outcome)}, indent=2))
    else:
        _show(outcome)
    sys.exit(0 if outcome.ok else 1)


def _parties(outcome: Outcome) -> dict[str, float]:
    return {"send_late_ms_p99": round(outcome.late_ms_p99, 2), "send_late_ms_max": round(outcome.late_ms_max, 2)}


@contextlib.contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt, so that they too end every process in order."""
    import signal

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _progress(calls: int, seconds: float) -> Iterator[Progress]:
    """Show progress on stderr: a bar on a terminal, a line every few seconds elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console, calls)
        return
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[calls]}"), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=seconds + 0.1 * calls + 1.0, calls="")

        def show(moment: Moment) -> None:
            counted = f"{moment.answered} answered, {moment.ended} ended of {calls}" if moment.elapsed else ""
            bar.update(task, description=moment.doing, completed=moment.elapsed, calls=counted)

        yield show


def _lines(console: Console, calls: int) -> Progress:
    last = ("", 0.0)

    def show(moment: Moment) -> None:
        nonlocal last
        now = time.monotonic()
        if moment.doing == last[0] and now - last[1] < 5.0:
            return
        last = (moment.doing, now)
        counted = f": {moment.elapsed:.0f} s, {moment.answered} answered, {moment.ended} ended of {calls}"
        console.print(moment.doing + (counted if moment.elapsed else ""), highlight=False)

    return show


def _show(outcome: Outcome) -> None:
    from rich.console import Console
    from rich.rule import Rule

    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, 80))
    console.print(_table())
    for index, call in enumerate(outcome.calls):
        console.print(Rule(style="dim"))
        console.print(_about(index, call), highlight=False, soft_wrap=True)
        console.print(_table(call))
    console.print(Rule(style="dim"))
    console.print(_summary(outcome), highlight=False)


# The columns are of one width in every table, so that the calls line up below the one header; 80 characters in all.
_COLUMNS = {
    "": 12,
    "in": 6,
    "out": 6,
    "filled": 6,
    "lost": 5,
    "jitter\nms": 6,
    "MOS": 4,
    "longest\ngap ms": 7,
    "heard\n%": 5,
    "level\ndBov": 5,
}


def _table(call: Mapping[str, Any] | None = None) -> Table:
    """Make the two lines of a call, or the header above them all when there is none."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), show_header=call is None)
    for title, width in _COLUMNS.items():
        table.add_column(title, justify="right" if title else "left", no_wrap=True, width=width)
    for way in _ways(call) if call is not None else ():
        table.add_row(*way)
    return table


def _about(index: int, call: Mapping[str, Any]) -> str:
    first = call.get("first_audio_ms")
    return (
        f"[bold]{index + 1}  {call.get('route') or 'no record'} → {call.get('platform') or '?'}[/bold]"
        f"  {call.get('codec') or '–'}, {call.get('duration') or 0:.1f} s, {call.get('result', '?')}"
        + (f", first audio {first:.0f} ms" if first is not None else "")
        + f"\n   [cyan]INVITE {call.get('request_uri') or '–'}[/cyan]"
    )


def _ways(call: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    legs = call.get("legs", {})
    carrier, platform = legs.get("carrier", {}), legs.get("platform", {})
    yield _way(call, "caller → AI", carrier, platform, "toward_platform", "platform")
    yield _way(call, "AI → caller", platform, carrier, "toward_carrier", "caller")


def _way(
    call: Mapping[str, Any], name: str, source: Mapping[str, Any], sink: Mapping[str, Any], gap: str, side: str
) -> tuple[str, ...]:
    received, sent = source.get("rtp", {}), sink.get("rtp", {})
    longest = call["longest_gap_ms"][gap]
    ear = call["heard"][side]
    good = ear["correlation"] >= 0.5
    return (
        name,
        f"{received.get('received', 0)}",
        f"{sent.get('sent', 0)}",
        f"{sent.get('filled', 0)}",
        f"{received.get('lost', 0)}",
        f"{received.get('jitter_ms_mean', 0.0) or 0.0:.1f}",
        f"{source['mos']:.1f}" if source.get("mos") else "–",
        f"{longest:.0f}" if longest is not None else "–",
        f"[{'green' if good else 'red'}]{100 * ear['correlation']:.0f}[/]",
        f"{ear['level_dbov']:.0f}",
    )


def _summary(outcome: Outcome) -> str:
    calls = outcome.calls
    deaf = [index + 1 for index, call in enumerate(calls) if not _both_heard(call)]
    gaps = [gap for call in calls for gap in call["longest_gap_ms"].values() if gap is not None]
    silence = max((call["platform_silence_ms"] or 0 for call in calls), default=0) / 1000
    filled = sum(leg.get("rtp", {}).get("filled", 0) for call in calls for leg in call.get("legs", {}).values())
    rates = [
        arrived[key]
        for call in calls
        for arrived in call["arrived"].values()
        if arrived
        for key in ("rate_low", "rate_high")
    ]
    lines = [
        f"[bold green]All {len(calls)} calls had audio both ways.[/]"
        if not deaf
        else f"[bold red]No audio one way or both in call {', '.join(map(str, deaf))}.[/]",
    ]
    if gaps and rates:
        lines.append(
            f"The agents went up to {silence:.1f} s without sending one packet, and half of the callers sent nothing "
            f"while they listened. The bridge filled {filled} frames, so either side saw {min(rates)} to {max(rates)} "
            f"packets in every second and never a gap over {max(gaps):.0f} ms: nothing for a platform or a carrier to "
            "take for a dead call."
        )
    lines.append(
        "[dim]in, out: RTP packets the bridge took from the talker and sent to the listener. heard: how closely what "
        "arrived matches what was said (cross-correlation).[/]"
    )
    return "\n".join(lines)


def _both_heard(call: Mapping[str, Any]) -> bool:
    from conformance.demonstration import audible

    return audible(call)
