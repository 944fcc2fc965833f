"""The table of scenarios: which parties play, over what, and what the bridge must have written down afterwards."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODES = ("udp", "loss", "tcp", "tls")
"""How a scenario is run: over each transport, and over UDP with 5 % of all datagrams lost."""

_TABLE = Path(__file__).resolve().parent / "scenarios.toml"


@dataclass(frozen=True, slots=True)
class Party:
    """One SIPp of a scenario: its file, and whose address it has (``platform``, ``platform2``, ``carrier``)."""

    file: str
    at: str
    transport: str = ""  # where it is not the scenario's own
    later: bool = False  # takes the place of the one before it

    @classmethod
    def read(cls, text: str, default: str) -> Party:
        """Read ``then FILE@ACCOUNT/TRANSPORT``."""
        file, _, place = text.removeprefix("then ").partition("@")
        at, _, transport = place.partition("/")
        return cls(file, at or default, transport, text.startswith("then "))


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of scenarios.toml, which explains its keys."""

    name: str
    title: str
    caller: Party
    callees: tuple[Party, ...]
    outbound: bool
    same_account: bool  # platform2 is a second host of the platform
    modes: tuple[str, ...]
    quick: tuple[str, ...]
    record: Mapping[str, tuple[Any, ...]]
    records: int  # a call
    number: str
    lossy_calls: int
    carrier: Mapping[str, Any] = field(default_factory=dict)
    platform: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()  # further ones of the caller's SIPp
    callee_arguments: tuple[str, ...] = ()

    @property
    def platforms(self) -> tuple[str, ...]:
        """The names of the platform accounts, in the order in which the route tries them."""
        named = {party.at for party in (self.caller, *self.callees) if party.at.startswith("platform")}
        return ("platform",) if self.same_account else tuple(sorted({"platform", *named}))


def scenarios() -> list[Scenario]:
    """Read the table."""
    return [_scenario(row) for row in tomllib.loads(_TABLE.read_text("utf-8"))["scenario"]]


def _scenario(row: dict[str, Any]) -> Scenario:
    outbound = row.get("direction") == "outbound"
    near, far = ("platform", "carrier") if outbound else ("carrier", "platform")
    record = row.get("record", {"result": "completed", "reason": "hangup"})
    known = {"name", "title", "caller", "callees", "direction", "same_account", "modes", "quick", "record", "records"}
    known |= {"number", "lossy_calls", "carrier", "platform", "keys", "arguments", "callee_arguments"}
    if unknown := row.keys() - known:
        raise ValueError(f"{row['name']}: {sorted(unknown)} is no key of a scenario")
    return Scenario(
        name=row["name"],
        title=row["title"],
        caller=Party.read(row["caller"], near),
        callees=tuple(Party.read(text, far) for text in row.get("callees", [])),
        outbound=outbound,
        same_account=row.get("same_account", False),
        modes=tuple(row.get("modes", MODES)),
        quick=tuple(row.get("quick", ())),
        record={key: tuple(value) if isinstance(value, list) else (value,) for key, value in record.items()},
        records=row.get("records", 1),
        number=row.get("number", "+14155550100"),
        lossy_calls=row.get("lossy_calls", 4),
        carrier=row.get("carrier", {}),
        platform=row.get("platform", {}),
        keys=row.get("keys", {}),
        arguments=tuple(row.get("arguments", ())),
        callee_arguments=tuple(row.get("callee_arguments", ())),
    )
