"""The demonstration: a bridge, a carrier and two AI platforms on loopback, real calls, and what each side measured."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conformance.listening import Heard, StreamReport, heard, rounded, stream_report
from conformance.party import Kept, load_calls
from conformance.stage import Bridge, Process, Stage, StageError, free_port

AUDIBLE = 0.5
"""Correlation from which one side counts as having heard the other."""

VAPI_NUMBER = "+14155550100"
RETELL_NUMBER = "+14155550200"
VAPI_USER = "support-agent"

_CONFIG = """\
[node]
name = "demo"
state_dir = "{directory}/state"

[sip]
listen = ["udp:{bridge}:5060"]
advertise = "{bridge}"

[media]
address = "{bridge}"
advertise = "{bridge}"
ports = "20000-{last_port}"

[admin]
listen = "127.0.0.1:{admin_port}"

[carriers.trunk]
profile = "generic-carrier"
hosts = ["{carrier}:5060"]
sources = ["{carrier}/32"]
fill_after_ms = 40          # loopback has no jitter to wait out

[platforms.vapi]
profile = "vapi"
user = "{vapi_user}"
hosts = ["{vapi}:5060;transport=udp"]
sources = ["{vapi}/32"]
fill_after_ms = 40

[platforms.retell]
profile = "retell"
hosts = ["{retell}:5060;transport=udp"]
sources = ["{retell}/32"]
fill_after_ms = 40

[[routes]]
name = "support line"
from = "trunk"
number = "{vapi_number}"
to = ["vapi"]

[[routes]]
name = "sales line"
from = "trunk"
number = "{retell_number}"
to = ["retell"]
"""

_HOSTS = {"bridge": 2, "carrier": 11, "vapi": 21, "retell": 22}


@dataclass(frozen=True, slots=True)
class Moment:
    """Where the demonstration stands: what happens, seconds since the first call, calls answered and ended."""

    doing: str
    elapsed: float = 0.0
    answered: int = 0
    ended: int = 0


Progress = Callable[[Moment], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: a JSON object for each call, and how exactly the parties kept their own time."""

    calls: tuple[dict[str, Any], ...]
    late_ms_p99: float
    late_ms_max: float

    @property
    def ok(self) -> bool:
        return bool(self.calls) and all(audible(call) for call in self.calls)


def audible(call: Mapping[str, Any]) -> bool:
    """Tell whether both sides of a call heard the other."""
    return all(call["heard"][side]["correlation"] >= AUDIBLE for side in ("platform", "caller"))


def demonstrate(calls: int, seconds: float, progress: Progress) -> Outcome:
    """Place ``calls`` calls of ``seconds`` each, half to either platform. Raises StageError."""
    with Stage() as stage:
        progress(Moment("starting the bridge"))
        hosts = {name: stage.host(last) for name, last in _HOSTS.items()}
        bridge = stage.bridge(
            _CONFIG.format(
                directory=stage.directory,
                admin_port=free_port("127.0.0.1", socket.SOCK_STREAM),
                last_port=20000 + max(200, 8 * calls) - 1,
                vapi_user=VAPI_USER,
                vapi_number=VAPI_NUMBER,
                retell_number=RETELL_NUMBER,
                **hosts,
            )
        )
        progress(Moment("making speech for the callers and the agents"))
        platforms = [
            stage.party(name, {**_platform(hosts[name], name, user), "seconds": seconds})
            for name, user in (("vapi", VAPI_USER), ("retell", RETELL_NUMBER))
        ]
        settings = {
            "role": "carrier",
            "address": [hosts["carrier"], 5060],
            "bridge": list(bridge.sip),
            "seconds": seconds,
            "calls": [_call(index) for index in range(calls)],
        }
        carrier = stage.party("carrier", settings)
        late = [_follow(carrier, calls, seconds, progress)]
        progress(Moment("reading what each side heard", seconds, calls, calls))
        late += [_finish(platform) for platform in platforms]
        records = _records(bridge, calls)
        told = load_calls(stage.directory, "carrier")
        answers = load_calls(stage.directory, "vapi") + load_calls(stage.directory, "retell")
        return Outcome(
            calls=tuple(join(kept, answers, records) for kept in told),
            late_ms_p99=max(one.get("late_ms_p99", 0.0) for one in late),
            late_ms_max=max(one.get("late_ms_max", 0.0) for one in late),
        )


def _platform(host: str, behaviour: str, user: str) -> dict[str, Any]:
    return {"role": "platform", "behaviour": behaviour, "user": user, "address": [host, 5060]}


def _call(index: int) -> dict[str, Any]:
    """Vary the calls: either platform in turn, half the callers silent on the wire while they listen, some A-law."""
    return {
        "number": VAPI_NUMBER if index % 2 == 0 else RETELL_NUMBER,
        "caller": f"+1202555{index:04}",
        "quiet": index % 4 in (1, 2),
        "payload_types": [8, 101] if index % 4 == 3 else [0, 8, 101],
        "line": index,
    }


def _follow(carrier: Process, calls: int, seconds: float, progress: Progress) -> dict[str, Any]:
    """Report the calls' progress until the carrier has written its files."""
    begun = time.monotonic()
    deadline = begun + seconds + 60 + calls
    answered = ended = 0
    while time.monotonic() < deadline:
        line = carrier.line(0.25)
        event: dict[str, Any] = json.loads(line) if line else {}
        answered += event.get("event") == "answered"
        ended += event.get("event") == "ended"
        progress(Moment("calls", time.monotonic() - begun, answered, ended))
        if event.get("event") == "saved":
            return event
        if line is None and not carrier.alive:
            break
    said = carrier.complaints()
    raise StageError("the carrier did not finish its calls" + (f": {said[-1]}" if said else ""))


def _finish(platform: Process) -> dict[str, Any]:
    platform.tell("stop")
    found = platform.wait_for(r'^\{"event": "saved".*\}$', within=30.0)
    return dict(json.loads(found.group(0)))


def _records(bridge: Bridge, calls: int) -> Mapping[str, dict[str, Any]]:
    """Return the bridge's records by the Call-ID of the carrier leg; the last one may take a moment."""
    deadline = time.monotonic() + 5.0
    records: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        records = bridge.records()
        if len(records) >= calls:
            break
        time.sleep(0.1)
    return {str(record["legs"]["carrier"]["call_id"]): record for record in records}


def join(kept: Kept, answers: Sequence[Kept], records: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Join the bridge's record of a call with what carrier and platform measured of it."""
    record = dict(records.get(str(kept.facts["call_id"]), {}))
    far = next((one for one in answers if _digits(one) == _digits(kept)), None)
    answered_at, ended_at = float(kept.facts["answered_at"]), float(kept.facts["ended_at"])
    toward_carrier = stream_report(kept.arrivals, answered_at or ended_at, ended_at)
    nothing = Heard(0.0, -127.0, -127.0, 0.0, 0, 0.0)
    toward_platform: StreamReport | None = None
    by_platform = by_caller = nothing
    first_audio_ms: float | None = None
    if far is not None:
        toward_platform = stream_report(far.arrivals, float(far.facts["answered_at"]), float(far.facts["ended_at"]))
        by_platform, by_caller = heard(kept.spurts, far.arrivals), heard(far.spurts, kept.arrivals)
        if far.spurts and by_caller.correlation >= AUDIBLE:
            first_audio_ms = round((far.spurts[0][0] - answered_at) * 1000 + by_caller.lag_ms, 1)
    return {
        **record,
        "longest_gap_ms": {
            "toward_carrier": round(toward_carrier.longest_gap_ms, 1),
            "toward_platform": round(toward_platform.longest_gap_ms, 1) if toward_platform else None,
        },
        "heard": {"platform": rounded(by_platform), "caller": rounded(by_caller)},
        "arrived": {
            "carrier": rounded(toward_carrier),
            "platform": rounded(toward_platform) if toward_platform else None,
        },
        "first_audio_ms": first_audio_ms,
        "platform_silence_ms": round(far.facts["longest_pause"] * 1000) if far else None,
    }


def _digits(kept: Kept) -> str:
    # A route may add or strip the +: the last ten digits are the caller.
    return "".join(letter for letter in str(kept.facts["caller"]) if letter.isdigit())[-10:]
