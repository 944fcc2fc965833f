"""What goes wrong around a bridge: dying platforms, no ports left, two bridges on one address, leaks."""

from __future__ import annotations

import time

from conformance.ground import IMPATIENT, NUMBER, Ground, config, tool
from conformance.peer import Peer, Unmet, require
from conformance.runner import case
from conformance.sip import Message
from conformance.sipp import Sipp
from conformance.stage import Bridge, Process, StageError


def _party(ground: Ground, last: int, answers_after: float) -> Process:
    """Start a platform as a process that can be killed."""
    name = f"platform-{last}-{answers_after:g}"
    settings = {
        "role": "platform",
        "behaviour": "generic",
        "user": "",
        "answers_after": answers_after,
        "address": [ground.stage.host(last), 5060],
        "seconds": 60,
    }
    return ground.stage.party(name, settings)


@case("platform-dies-ringing", "A platform killed while it rings: the caller gets a 4xx or 5xx at the ring deadline")
def dies_ringing(ground: Ground) -> str:
    platform, carrier = _party(ground, 23, 60.0), ground.carrier()
    caller = carrier.invite(ground.address, IMPATIENT)
    caller.invite()
    ringing = carrier.expect("180 INVITE", 3.0)
    platform.kill()
    final = _final(carrier, 6.0)
    caller.acknowledge(final)
    require(final.status in (408, 480, 503, 504), f"the caller got {final.status}")
    took = final.at - ringing.at
    require(took <= 3.0, f"the caller waited {took:.1f} s, and the ring deadline is 2 s")
    if ground.against is None:
        ground.idle(45.0 if ground.thorough else 15.0)
    return f"{final.status} after {took:.1f} s"


@case("platform-dies-in-call", "A platform killed in a call: the caller's BYE is answered at once, and all is released")
def dies_in_call(ground: Ground) -> str:
    platform, carrier = _party(ground, 21, 0.1), ground.carrier()
    caller = carrier.invite(ground.address, NUMBER)
    caller.invite()
    caller.acknowledge(carrier.expect("200 INVITE", 3.0))
    time.sleep(0.5)
    platform.kill()
    time.sleep(0.5)
    begun = time.monotonic()
    answer = caller.hang_up(1.0)
    took = answer.at - begun
    require(took <= 0.5, f"BYE was answered after {took:.1f} s")
    if ground.against is None:
        ground.idle(45.0 if ground.thorough else 15.0)
        require(bool(ground.record(caller.call_id)["ended_by"]), "the record does not say who ended the call")
    return f"BYE answered in {1000 * took:.0f} ms, ports released"


@case(
    "silent-platform-is-noticed",
    "F09: a platform killed in a call is noticed without the caller: BYE to him",
    limit=150,
    load=True,
)
def silent_platform(ground: Ground) -> str:
    platform, carrier = _party(ground, 21, 0.1), ground.carrier()
    caller = carrier.invite(ground.address, NUMBER)
    caller.invite()
    caller.acknowledge(carrier.expect("200 INVITE", 3.0))
    time.sleep(0.5)
    platform.kill()
    begun = time.monotonic()
    bye = carrier.expect("BYE", 110.0, caller.call_id)
    caller.respond(200, "OK", to=bye)
    if ground.against is None:
        ground.idle(15.0)
    return f"BYE to the caller {bye.at - begun:.0f} s after the platform died"


def _final(carrier: Peer, within: float) -> Message:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        for message in carrier.collect(0.01):
            if message.method == "INVITE" and message.status >= 200:
                return message
    raise Unmet(f"the caller got no final answer within {within:g} s")


@case("no-ports-left", "A used-up port range is 503 with Retry-After; calls work again when ports are free", limit=60)
def no_ports(ground: Ground) -> str:
    if ground.against is not None:
        _ = ground.bridge
    ground.another_bridge(ports="20000-20007")  # four pairs: two calls
    try:
        carrier, platform = ground.carrier(), ground.platform()
        up = [ground.connect(carrier, platform) for _ in range(2)]
        caller = carrier.invite(ground.address, NUMBER)
        caller.invite()
        refusal = carrier.expect("503 INVITE", 1.0, caller.call_id)
        caller.acknowledge(refusal)
        require(refusal.get("retry-after").split(";")[0].strip().isdigit(), "503 has no Retry-After")
        for one in up:
            ground.disconnect(*one)
        ground.idle(20.0)
        ground.disconnect(*ground.connect(carrier, platform))
    finally:
        ground.bridge_gone()
    return f"Retry-After: {refusal.get('retry-after')}"


@case("two-bridges-on-one-address", "A second bridge on the same address says so in a sentence and exits with status 2")
def two_bridges(ground: Ground) -> str:
    _ = ground.bridge
    text = config(ground.stage.network, str(ground.stage.directory), "twin", "22000-22099")
    twin = Bridge(text, ground.stage.directory, "twin")
    ground.stage.processes.append(twin)
    try:
        twin.wait_ready(15.0)
    except StageError:
        pass
    else:
        require(False, "a second bridge on the same address got ready")
    twin.popen.wait(5.0)
    said = twin.complaints()
    require(twin.popen.returncode == 2, f"it exited with status {twin.popen.returncode}: {' '.join(said[-1:])}")
    require(not any("Traceback" in line for line in said), "it printed a traceback")
    require(any("5060" in line for line in said), f"it did not name the address: {' '.join(said[-1:])}")
    return said[-1]


@case("no-leak", "1,000 calls leave no descriptor, thread, port, call or transaction behind", limit=300)
def no_leak(ground: Ground) -> str:
    program = tool("sipp")
    bridge = ground.bridge
    host = ground.stage.host
    calls = 1000 if ground.thorough else 200
    answerer = Sipp(ground.stage, program, "uas", (host(21), 5060))
    time.sleep(0.5)
    try:
        _load(ground, program, 50)  # what is made once, at the first call, is no leak
        ground.idle(20.0)
        time.sleep(1.0)  # the bridge may still hold the connection over which it was asked
        before = (bridge.descriptors(), bridge.threads())
        memory = bridge.resident_kb()
        _load(ground, program, calls)
        ground.idle(20.0)
        time.sleep(1.0)
        after = (bridge.descriptors(), bridge.threads())
        grown = bridge.resident_kb() - memory
    finally:
        answerer.process.stop(1.0)
    more = len(after[0]) - len(before[0])
    new = ", ".join(sorted(set(after[0]) - set(before[0])))
    require(more <= 0, f"{more} descriptors more than before {calls} calls: {new}")
    require(after[1] <= before[1], f"{after[1] - before[1]} threads more than before {calls} calls")
    return (
        f"{calls} calls: {len(after[0])} descriptors and {after[1]} threads as before, {grown / 1024:+.1f} MB resident"
    )


def _load(ground: Ground, program: str, calls: int) -> None:
    more = ("-r", "50", "-m", str(calls), "-s", NUMBER, "-timeout", "120")
    caller = Sipp(ground.stage, program, "uac", (ground.stage.host(11), 5060), ground.address, more)
    got = caller.finish(140.0)
    require(got["FailedCall"] == 0, f"{got['FailedCall']} of {calls} calls failed")
