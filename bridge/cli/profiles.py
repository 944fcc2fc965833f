"""`trunkbridge profiles`: what is known of carriers and platforms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bridge import profile as profiles_module
from bridge.cli import Misuse
from bridge.cli.output import plain, print_json, print_table
from bridge.errors import ConfigError
from bridge.profile import Profile


@click.group()
def profiles() -> None:
    """Look at the profiles that come with the bridge, or check one of your own."""


@profiles.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def list_profiles(as_json: bool) -> None:
    """List the built-in profiles."""
    found = [_load(name) for name in profiles_module.builtin_profiles()]
    if as_json:
        keys = ("name", "kind", "title", "checked_on", "transports", "requires")
        print_json({"profiles": [{key: _value(getattr(one, key)) for key in keys} for one in found]})
        return
    rows = [(one.name, one.kind, one.title, ", ".join(one.transports), ", ".join(one.requires)) for one in found]
    print_table(("name", "kind", "title", "transports", "needs"), rows, "no profiles")


@profiles.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show(name: str, as_json: bool) -> None:
    """Show every key of a profile, with the facts behind them."""
    shown = _load(name)
    values = {one.name: _value(getattr(shown, one.name)) for one in dataclasses.fields(shown)}
    if as_json:
        print_json(values)
        return
    facts, notes = values.pop("facts"), values.pop("notes")
    for key, value in values.items():
        click.echo(f"{key:<20} {_text(value)}")
    for key, fact in facts.items():
        click.echo(f"\n{key}: {plain(fact['note'])}")
        click.echo(f"  checked on {fact['checked_on']}: {', '.join(fact['source'])}")
    for note in notes:
        click.echo(f"\nnote: {plain(note)}")


@profiles.command()
@click.argument("file")
def check(file: str) -> None:
    """Validate a profile of your own."""
    path = file if "/" in file or file.endswith(".toml") else f"./{file}"
    checked, errors = profiles_module.check_profile(path, Path.cwd())
    if checked is None or errors:
        for error in errors:
            click.echo(str(error), err=True)
        raise SystemExit(2)
    click.echo(f"{file} is fine: {checked.name}, a {checked.kind}")


def _load(name: str) -> Profile:
    try:
        return profiles_module.load_profile(name, base=Path.cwd())
    except ConfigError as error:
        raise Misuse(f"{error.problem}; {error.remedy}" if error.line == 0 else str(error)) from error


def _value(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: _value(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _value(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list | frozenset | set):
        return [_value(inner) for inner in value]
    return value


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(inner)}" for key, inner in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(_text(inner) for inner in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return plain(value)
