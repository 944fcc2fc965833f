"""`trunkbridge run`."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli import Misuse
from bridge.cli.offline import load_or_fail


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--log-level", type=click.Choice(["debug", "info", "warn", "error"]), default="info", show_default=True)
@click.option(
    "--stun-server",
    "stun_servers",
    multiple=True,
    envvar="TRUNKBRIDGE_STUN_SERVER",
    metavar="HOST:PORT",
    help='Who is asked for our public address when advertise is "auto"; may be repeated.',
)
def run(config: Path, log_format: str, log_level: str, stun_servers: tuple[str, ...]) -> None:
    """Run the bridge in the foreground; one line beginning with "ready" says that it serves.

    SIGTERM lets the calls in progress end and exits; a second one hangs them up.
    """
    loaded = load_or_fail(config)
    from bridge import app

    servers = tuple(_host_and_port(server) for server in stun_servers) or app.RunOptions().stun_servers
    try:
        status = app.run(loaded, app.RunOptions(log_format, log_level, servers))
    except app.StartError as error:
        raise Misuse(str(error)) from error
    raise SystemExit(status)


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        raise Misuse(f"--stun-server {text}: write HOST:PORT")
    return host.strip("[]"), int(port)
