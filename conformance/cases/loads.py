"""Load and neglect: what calls leave behind when they end well, and when nobody ends them (T19)."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

from conformance.ground import NUMBER, Ground, tool
from conformance.peer import Unmet, require
from conformance.runner import case
from conformance.sipp import Sipp
from conformance.stage import Bridge

RATES = (50, 100, 150, 200, 300, 400, 500, 600, 800)
IDLE_AFTER = 40.0  # 64*T1 and the rest of the ports: whatever is held longer has no deadline


@dataclass(frozen=True, slots=True)
class Held:
    """Everything that a bridge holds at one moment and that calls make it hold."""

    counts: dict[str, float]
    threads: int

    @classmethod
    def by(cls, bridge: Bridge) -> Held:
        metrics = bridge.metrics()
        names = ("trunkbridge_sip_held", "trunkbridge_calls_active", "trunkbridge_media_ports_in_use")
        counts = {key.removeprefix("trunkbridge_"): value for key, value in metrics.items() if key.startswith(names)}
        counts["descriptors"] = len([one for one in bridge.descriptors() if "socket" in one])
        return cls(counts, bridge.threads())

    def more_than(self, before: Held) -> dict[str, float]:
        """Return what there is more of than there was."""
        grown = {key: value - before.counts.get(key, 0) for key, value in self.counts.items()}
        grown["threads"] = self.threads - before.threads
        return {key: value for key, value in grown.items() if value > 0}


def settles(bridge: Bridge, before: Held, within: float = IDLE_AFTER) -> float:
    """Wait until the bridge holds no more than before; return the seconds. Raises Unmet with what is left."""
    begun = time.monotonic()
    left: dict[str, float] = {}
    while time.monotonic() - begun < within:
        time.sleep(1.0)
        left = Held.by(bridge).more_than(before)
        if not left:
            return time.monotonic() - begun
    raise Unmet(f"{within:g} s after the last call there is still more than before: {left}")


@case(
    "clean-rate",
    "T19: 5,000 calls at the highest rate that is clean (1 retransmission in 1,000 at most); nothing of them is left",
    500,
    True,
)
def clean_rate(ground: Ground) -> str:
    program = tool("sipp")
    answerer = Sipp(ground.stage, program, "uas", (ground.stage.host(21), 5060))
    try:
        rate = _clean_for_seconds(ground, program)
        while True:
            before = _warm_bridge(ground, program)  # what a rate too many has left behind is another matter
            load = _calls(ground, program, rate, 5000)
            if load.clean:
                break
            require(rate > RATES[0], f"5,000 calls at {rate}/s are not clean, {load.resent} sent again: {load.ends}")
            rate = max(RATES[0], rate * 9 // 10)  # seconds of it were clean, and no more
        took = settles(ground.bridge, before)
    finally:
        answerer.process.stop(1.0)
        ground.bridge_gone()
    return (
        f"5,000 calls at {rate}/s, none failed, {load.resent} retransmissions, "
        f"{load.cpu / 5:.2f} ms of processor time each; "
        f"all released {took:.0f} s after"
    )


def _clean_for_seconds(ground: Ground, program: str) -> int:
    """Return the highest rate that is clean for three seconds, at the second try if not at the first."""

    def is_clean(rate: int) -> bool:
        return any(_calls(ground, program, rate, 3 * rate).clean for _ in range(2))

    _warm_bridge(ground, program)
    clean = list(itertools.takewhile(is_clean, RATES))
    require(bool(clean), f"{RATES[0]} calls/s are not clean: {_ends(ground)}")
    return clean[-1]


@case(
    "beyond-capacity",
    "T10: at twice the highest clean rate four fifths of it are carried, and all other calls get 503 at once",
    240,
    True,
)
def beyond_capacity(ground: Ground) -> str:
    program = tool("sipp")
    answerer = Sipp(ground.stage, program, "uas", (ground.stage.host(21), 5060))
    try:
        rate = _clean_for_seconds(ground, program)
        _warm_bridge(ground, program)
        begun = time.monotonic()
        load = _calls(ground, program, 2 * rate, 30 * rate)
        took = time.monotonic() - begun
        refused = ground.bridge.metric("sip_rejected_total", reason="overload")
        ground.idle(IDLE_AFTER)
    finally:
        answerer.process.stop(1.0)
        ground.bridge_gone()
    carried = load.calls - load.failed
    told = (
        f"{rate} calls/s are clean; of {2 * rate}/s {carried / took:.0f}/s were carried, {refused:.0f} refused; "
        f"{load.resent} sent again"
    )
    require(carried / took >= 0.8 * rate, told)
    require(load.failed <= refused, f"{load.failed - refused:.0f} calls failed otherwise: {told}")
    return told


def _warm_bridge(ground: Ground, program: str) -> Held:
    """Start a bridge, place its first calls, and return what it holds when they are over: that is no leak."""
    bridge = ground.another_bridge(ports="10000-49999")
    time.sleep(0.5)
    require(_calls(ground, program, 25, 25).clean, "25 calls/s are not clean")
    ground.idle(IDLE_AFTER)
    return Held.by(bridge)


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a number of calls. ``cpu`` in seconds of the bridge's processor time."""

    calls: int
    failed: int
    resent: int
    cpu: float
    ends: str

    @property
    def clean(self) -> bool:
        # On a machine that others use as well a process may sleep for T1 now and then.
        return not self.failed and self.resent <= self.calls / 1000


def _calls(ground: Ground, program: str, rate: int, calls: int) -> Load:
    """Place calls at a rate."""
    ours, cpu = ground.bridge.metric("sip_retransmissions_total"), ground.bridge.cpu_seconds()
    more = ("-r", str(rate), "-m", str(calls), "-s", NUMBER, "-timeout", "150", "-d", "100", "-l", "3000")
    caller = Sipp(ground.stage, program, "uac", (ground.stage.host(11), 5060), ground.address, more)
    got = caller.finish(160.0)
    used = ground.bridge.cpu_seconds() - cpu
    resent = got["Retransmissions"] + int(ground.bridge.metric("sip_retransmissions_total") - ours)
    return Load(calls, calls - got["SuccessfulCall"], resent, used, _ends(ground))


def _ends(ground: Ground) -> str:
    """Say how calls ended, by the bridge's own count."""
    found = {key: value for key, value in ground.bridge.metrics().items() if key.startswith("trunkbridge_calls_total")}
    return ", ".join(f"{key.partition('reason=')[2].strip('}')} {value:.0f}" for key, value in found.items())


_NEGLECT = {
    "caller-forgets-the-ack": ("caller-forgets-the-ack", "uas"),
    "answerer-vanishes": ("uac", "answerer-vanishes"),
    "answerer-makes-no-sense": ("uac", "answerer-makes-no-sense"),
}


@case(
    "neglected-calls-end",
    "T19, R05: 1,000 calls each without ACK, without an answer to BYE, and with a senseless answer leave nothing",
    400,
    True,
)
def neglected(ground: Ground) -> str:
    program = tool("sipp")
    warm = Sipp(ground.stage, program, "uas", (ground.stage.host(21), 5060))
    before = _warm_bridge(ground, program)
    warm.process.stop(1.0)
    bridge = ground.bridge
    for caller, callee in _NEGLECT.values():
        _neglect(ground, program, caller, callee)
    most = Held.by(bridge).counts['sip_held{kind="timers"}']
    took = settles(bridge, before, IDLE_AFTER + 35.0)
    bugs = bridge.metric("bugs_total")
    require(bugs == 0, f"{bugs:.0f} exceptions of the bridge's own were contained: see its log")
    platform, carrier = ground.platform(), ground.carrier()
    ground.disconnect(*ground.connect(carrier, platform))
    ground.end_case()
    ground.bridge_gone()
    return f"3,000 calls, {most:.0f} timers at the end of the load, all gone {took:.0f} s later"


def _neglect(ground: Ground, program: str, caller: str, callee: str) -> None:
    answerer = Sipp(ground.stage, program, callee, (ground.stage.host(21), 5060), more=("-deadcall_wait", "0"))
    time.sleep(0.5)
    more = ("-r", "80", "-m", "1000", "-s", NUMBER, "-timeout", "80", "-d", "100", "-l", "3000")
    load = Sipp(ground.stage, program, caller, (ground.stage.host(11), 5060), ground.address, more)
    try:
        load.finish(90.0)
    finally:
        answerer.process.stop(1.0)
