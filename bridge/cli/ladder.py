"""A call's messages as a ladder in plain text: carrier, bridge, platform."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.cli.output import plain

WIDTH = 36
_TIME = 14


def ladder(call: Mapping[str, Any]) -> list[str]:
    """Draw a call with its ``messages`` as the API gives them."""
    steps = call.get("messages") or []
    peers = {step["leg"]: step["peer"] for step in reversed(steps) if step.get("leg") and step.get("peer")}
    heads = [f"{call.get(leg) or leg} {peers.get(leg, '')}".strip() for leg in ("carrier", "platform")]
    rails = " " * _TIME + "|" + " " * WIDTH + "|" + " " * WIDTH + "|"
    lines = [
        " " * _TIME
        + plain(heads[0])[:WIDTH].ljust(WIDTH - 4)
        + "trunkbridge".center(10)
        + plain(heads[1]).rjust(WIDTH - 5),
        rails,
    ]
    for step in steps:
        lines.append(_line(step))
    lines.append(rails)
    return lines


def _line(step: Mapping[str, Any]) -> str:
    time = str(step["at"])[11:23].ljust(_TIME)
    if step["kind"] not in ("received", "sent"):
        return time + "|" + " " * WIDTH + "*" + f" {plain(step['text'])}".ljust(WIDTH) + "|"
    label = _label(step)
    on_carrier_side = step.get("leg") != "platform"
    # To the right: from the carrier to us, and from us to the platform.
    rightward = (step["kind"] == "received") == on_carrier_side
    arrow = _arrow(label, rightward)
    blank = " " * WIDTH
    return time + (f"|{arrow}|{blank}|" if on_carrier_side else f"|{blank}|{arrow}|")


def _label(step: Mapping[str, Any]) -> str:
    if step.get("status"):
        reason = str(step["summary"]).partition(" ")[2]
        label = f"{reason} ({step['method']})"
    else:
        label = str(step["method"])
    again = " again" if step.get("retransmission") else ""
    sdp = " SDP" if "\r\n\r\nv=0" in str(step.get("text", "")) else ""
    return plain(label + sdp + again)[: WIDTH - 6]


def _arrow(label: str, rightward: bool) -> str:
    shaft = f" {label} ".center(WIDTH - 1, "-")
    return shaft + ">" if rightward else "<" + shaft
