"""The command line. Each command lives in a module of its own, imported when it is called: `--help` stays fast."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass

import click

from bridge import __version__
from bridge.errors import RelayError


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command is, and what the list of commands says of it."""

    module: str
    name: str
    summary: str


COMMANDS = {
    "check": Place("bridge.cli.offline", "check", "Validate a configuration without a network."),
    "run": Place("bridge.cli.run", "run", "Run the bridge in the foreground."),
    "demo": Place("bridge.cli.demo", "demo", "Place real calls on loopback and show what was measured."),
    "route": Place("bridge.cli.offline", "route", "Show where a call would go and what would be sent."),
    "calls": Place("bridge.cli.calls", "calls", "Live and recent calls: list, show, ladder, hangup, capture."),
    "trunks": Place("bridge.cli.trunks", "trunks", "Carriers and platforms of a running bridge."),
    "records": Place("bridge.cli.records", "records", "Records of ended calls."),
    "profiles": Place("bridge.cli.profiles", "profiles", "What is known of carriers and platforms."),
    "drain": Place("bridge.cli.trunks", "drain", "Let a running bridge refuse new calls."),
    "conformance": Place("bridge.cli.conformance", "conformance", "Run the conformance suite."),
    "bench": Place("bridge.cli.bench", "bench", "Run the benchmarks."),
}


class Failure(click.ClickException):
    """End the command with one sentence on stderr and exit status 1."""


class Misuse(Failure):
    """End the command with one sentence on stderr and exit status 2: the operator's input is wrong."""

    exit_code = 2


class LazyGroup(click.Group):
    """Import a command's module only when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        command: click.Command = getattr(importlib.import_module(place.module), place.name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.summary) for name, place in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except OSError as error:
            raise Failure(str(error)) from error
        except RelayError as error:
            raise Failure(str(error)) from error
        except Exception as error:
            if os.environ.get("TRUNKBRIDGE_TRACEBACK"):
                raise
            raise Failure(
                f"a bug of ours: {type(error).__name__}: {error}; TRUNKBRIDGE_TRACEBACK=1 shows where"
            ) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="trunkbridge", message="%(prog)s %(version)s")
def main() -> None:
    """A bridge between your phone carrier and a hosted AI voice platform."""
