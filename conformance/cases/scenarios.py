"""SIPp on both sides of the bridge, scenario by scenario, over UDP, TCP and TLS, and over UDP with loss.

Each row of conformance/sipp/scenarios.toml is a case; the modes in which it is played stand in its result. A run of
many cases plays many scenarios at a time: the cases that follow have begun when the first one is asked for.
"""

from __future__ import annotations

import functools
from concurrent.futures import TimeoutError as StillRunning

from conformance.ground import Ground, NotApplicable, tool
from conformance.peer import Unmet
from conformance.runner import case
from conformance.sipp import tunnels
from conformance.sipp.arena import Arenas
from conformance.sipp.scenarios import Scenario, scenarios
from conformance.stage import StageError

_LIMIT = 400.0  # seconds: the first of many waits for its turn among them


def _case_id(scenario: Scenario) -> str:
    return f"sipp-{scenario.name}"


def _play(scenario: Scenario, ground: Ground) -> str:
    """Play one scenario in all of its modes. Raises Unmet with the mode in which it failed."""
    tool("sipp")
    _ = ground.bridge if ground.against is not None else None
    arenas = _arenas(ground)
    if ground.chosen:
        for other in scenarios():
            if _case_id(other) in ground.chosen:
                arenas.begin(other, _modes(other, ground))
    said, failed, absent = [], [], []
    for mode in _modes(scenario, ground):
        if mode == "tls" and tunnels.program() is None:
            absent.append("over TLS: stunnel is not installed: apt-get install stunnel4")
            continue
        try:
            said.append(arenas.result(scenario, mode, _LIMIT))
        except (Unmet, StageError, StillRunning) as error:
            failed.append(f"{mode}: {error or 'did not end'}")
    if failed:
        raise Unmet("; ".join(failed))
    if absent:
        raise NotApplicable(", ".join([*said, *absent]))
    return ", ".join(said)


def _modes(scenario: Scenario, ground: Ground) -> tuple[str, ...]:
    return scenario.modes if ground.thorough else scenario.quick


def _arenas(ground: Ground) -> Arenas:
    if "sipp" not in ground.kept:
        ground.kept["sipp"] = Arenas(ground.stage, scenarios())
    found = ground.kept["sipp"]
    assert isinstance(found, Arenas)
    return found


def _at_rest(ground: Ground) -> str:
    """See that all bridges hold nothing any more once every scenario has been played (T19)."""
    return _arenas(ground).at_rest()


for _one in scenarios():
    case(_case_id(_one), _one.title, limit=_LIMIT, load=not _one.quick)(functools.partial(_play, _one))

case("sipp-all-at-rest", "After all scenarios no call, port, dialog or bug is left in any of their bridges", limit=90)(
    _at_rest
)
