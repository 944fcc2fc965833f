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
        _show(outcome, seconds)
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


def _show(outcome: Outcome, seconds: float) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, 110))
    console.print(_table(outcome.calls))
    console.print(_summary(outcome), highlight=False)


def _table(calls: tuple[dict[str, Any], ...]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_lines=False)
    table.add_column("call", overflow="fold", min_width=38)
    table.add_column("way", no_wrap=True)
    for title in ("in", "out", "filled", "lost", "jitter\nms", "MOS", "longest\ngap ms", "heard\n%", "level\ndBov"):
        table.add_column(title, justify="right", no_wrap=True)
    for index, call in enumerate(calls):
        table.add_row(*_row(index, call), end_section=True)
    return table


def _row(index: int, call: Mapping[str, Any]) -> tuple[str, ...]:
    legs = call.get("legs", {})
    carrier, platform = legs.get("carrier", {}), legs.get("platform", {})
    first = call.get("first_audio_ms")
    about = [
        f"[bold]{index + 1}  {call.get('route') or 'no record'}[/bold] → {call.get('platform') or '?'}",
        f"[cyan]{call.get('request_uri') or '–'}[/cyan]",
        f"{call.get('codec') or '–'}, {call.get('duration') or 0:.1f} s, {call.get('result', '?')}"
        + (f", first audio {first:.0f} ms" if first is not None else ""),
    ]
    ways = (
        ("caller → AI", carrier, platform, "toward_platform", "platform"),
        ("AI → caller", platform, carrier, "toward_carrier", "caller"),
    )
    columns = zip(*(_way(call, *way) for way in ways), strict=True)
    return ("\n".join(about), *("\n".join(cells) for cells in columns))


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
