"""`trunkbridge check` and `trunkbridge route`: what can be said of a configuration without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bridge import config as configuration
from bridge.cli import Failure
from bridge.cli.output import print_json
from bridge.config import Config, Peer
from bridge.errors import PeerError


def load_or_fail(path: Path) -> Config:
    """Load a configuration and print its warnings, or print every problem on stderr and exit 2."""
    config, errors = configuration.check(path)
    if config is None or errors:
        for error in errors:
            click.echo(str(error), err=True)
        raise SystemExit(2)
    for warning in config.warnings:
        click.echo(f"warning: {warning}", err=True)
    return config


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
def check(config: Path) -> None:
    """Validate a configuration, offline: every problem with its file, line, key and remedy."""
    for line in _summary(load_or_fail(config)):
        click.echo(line)


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--from", "source", required=True, metavar="NAME", help="The carrier or platform that calls.")
@click.option("--to", "number", required=True, metavar="NUMBER", help="The number it dials.")
@click.option("--caller", metavar="NUMBER", help="The number it calls from.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def route(config: Path, source: str, number: str, caller: str | None, as_json: bool) -> None:
    """Show the route of a call and what would be sent to each target; nothing is sent."""
    loaded = load_or_fail(config)
    if source not in loaded.carriers and source not in loaded.platforms:
        names = ", ".join([*loaded.carriers, *loaded.platforms])
        raise Failure(f"{config} has no carrier or platform {source!r}; it has {names or 'none'}")
    from bridge import app

    try:
        planned = app.plan(loaded, source, number, caller)
    except app.StartError as error:
        raise Failure(str(error)) from error
    except PeerError as error:
        raise Failure(f"--to {number!r} or --caller {caller!r} can't stand in a URI ({error})") from error
    if as_json:
        print_json(planned)
    elif planned["route"] is not None:
        click.echo(f"route {planned['route']}")
        for target in planned["targets"]:
            _show_target(target)
    if planned["problem"]:
        raise Failure(planned["problem"])
    if all(target.get("problem") for target in planned["targets"]):
        raise Failure(f"no target of route {planned['route']} can be called")


def _summary(config: Config) -> list[str]:
    listeners = ", ".join(f"{listen.transport}:{listen.host}:{listen.port}" for listen in config.sip.listen)
    first, last = config.media.ports
    lines = [
        f"{config.path} is fine",
        f"  node      {config.node.name}, state in {config.node.state_dir}",
        f"  sip       {listeners}, advertise {config.sip.advertise}",
        f"  media     {config.media.address}:{first}-{last}, advertise {config.media.advertise}",
        f"  admin     {config.admin.listen[0]}:{config.admin.listen[1]}"
        + (", with a token" * bool(config.admin.token)),
    ]
    lines += [_peer("carrier", peer) for peer in config.carriers.values()]
    lines += [_peer("platform", peer) for peer in config.platforms.values()]
    lines += [
        f"  route     {one.name}: from {one.source}, number {one.number} → {', then '.join(one.to)}"
        for one in config.routes
    ]
    return lines


def _peer(kind: str, peer: Peer) -> str:
    hosts = ", ".join(
        (f"{host.host}:{host.port}" if host.port else host.host)
        + f" ({host.transport or ', '.join(peer.profile.transports)})"
        for host in peer.hosts
    )
    limits = [f"{peer.max_calls} calls"] if peer.max_calls else []
    limits += [f"{peer.cps:g} calls/s"] if peer.cps else []
    limit = f", at most {' and '.join(limits)}" if limits else ""
    return f"  {kind:<9} {peer.name}: {peer.profile.name}, {hosts or 'no host to call'}{limit}"


def _show_target(target: dict[str, Any]) -> None:
    click.echo(f"→ {target['peer']} at {target['destination']}")
    if target.get("problem"):
        click.echo(f"    problem  {target['problem']}")
        return
    click.echo(f"    INVITE {target['request_uri']}")
    click.echo(f"    From: {target['from']}")
    click.echo(f"    To: {target['to']}")
    for header in target["headers"]:
        click.echo(f"    {header}")
    click.echo(f"    passes {', '.join(target['passes']) or 'nothing'} of what the caller sends")
    click.echo(f"    transport and port are chosen by {target['chosen_by']}")
    limits = ", ".join(f"{name} {_written(value)}" for name, value in target["limits"].items())
    click.echo(f"    limits {limits or 'none'}")
    click.echo("    SDP, with the ports that the call would get in place of 0:")
    for line in target["sdp"].splitlines():
        click.echo(f"      {line}")


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return " and ".join(f"{number} for {name}" for name, number in value.items())
    return " ".join(value) if isinstance(value, list) else f"{value:g}"
