"""What a compromised platform can spend, and what a storm of calls can take from others (T09, F18)."""

from __future__ import annotations

import time

from conformance import sip
from conformance.ground import NUMBER, Ground, config
from conformance.peer import Leg, Peer, require
from conformance.runner import case

ALLOWED = "+442079460000"
FORBIDDEN = ("+8811234567", "008811234567", "+1-900-555-0100", "9005550100", "%2B8811234567")
CPS, QUEUE_FOR = 3, 1
_OUTBOUND = """
[[routes]]
name = "outbound"
from = "assistant"
number = "*"
to = ["trunk"]
"""


def _start(ground: Ground, *keys: str) -> None:
    """Start a bridge whose carrier's table has these keys, and over which the platform may call out."""
    network, directory = ground.stage.network, str(ground.stage.directory)

    def text(name: str) -> str:
        plain = config(network, directory, name, "20000-21999")
        return (
            plain.replace("[carriers.trunk]\n", "[carriers.trunk]\n" + "".join(f"{key}\n" for key in keys)) + _OUTBOUND
        )

    ground.bridge_with(text)


@case(
    "toll-fraud", "T09: what the rules forbid is not dialled by INVITE, 302 or REFER; 100 calls a second leave at cps"
)
def toll_fraud(ground: Ground) -> str:
    _start(ground, f"cps = {CPS}", f"queue_for = {QUEUE_FOR}")
    carrier, platform = ground.carrier(5060), ground.platform()
    for number in FORBIDDEN:
        caller = platform.invite(ground.address, number)
        caller.invite()
        caller.acknowledge(platform.expect("403 INVITE"))
    carrier.never("INVITE", 0.3)
    require("limit=destination" in "".join(ground.bridge.complaints()), "no alarm was raised")
    _redirect(carrier, platform, ground)
    _refer(carrier, platform, ground)
    time.sleep(1.0)
    carrier.collect(0.0)
    began = time.monotonic()
    callers = [platform.invite(ground.address, ALLOWED) for _ in range(100)]
    for caller in callers:
        caller.invite()
    sent = {message.get("call-id"): message.at for message in reversed(carrier.collect(QUEUE_FOR + 1.0))
            if message.method == "INVITE" and not message.status}  # fmt: skip
    most = CPS * (QUEUE_FOR + 1)
    require(CPS <= len(sent) <= most, f"{len(sent)} of 100 calls left in {QUEUE_FOR + 1} s, at {CPS} a second")
    times = sorted(sent.values())
    windows = [later - earlier for earlier, later in zip(times, times[CPS:], strict=False)]
    require(all(window > 0.99 for window in windows), f"{CPS + 1} calls left within {min(windows):.3f} s")
    platform.collect(0.3)
    refused = {message.get("call-id") for message in platform.log if message.status == 503 and message.at >= began}
    require(len(refused) == 100 - len(sent), f"{len(refused)} calls were refused with 503, {len(sent)} left")
    counted = ground.bridge.metric("limit_rejections_total", limit="cps")
    require(counted == len(refused), f"limit_rejections_total says {counted:.0f}")
    ground.bridge_gone()
    return f"0 forbidden INVITEs; {len(sent)} of 100 calls left, never more than {CPS} in a second"


def _redirect(carrier: Peer, platform: Peer, ground: Ground) -> None:
    """Let the carrier send an allowed call on to a number that is not."""
    caller = platform.invite(ground.address, ALLOWED)
    caller.invite()
    asked = carrier.expect("INVITE")
    host = carrier.address[0]
    contacts = [
        ("Contact", f"<sip:9001234567@{host}>, <sip:+8811@{host}:5060>, <sip:{ALLOWED}@{ground.stage.host(99)}>")
    ]
    carrier.send(sip.response(asked, 302, "Moved Temporarily", "moved", contacts), asked.source)
    carrier.expect("ACK")
    caller.acknowledge(platform.expect("480 INVITE"))
    carrier.never("INVITE", 0.3)


def _refer(carrier: Peer, platform: Peer, ground: Ground) -> None:
    """Let the platform ask for a transfer to a number that is not allowed."""
    caller, callee = ground.connect(carrier, platform)
    callee.cseq += 1
    headers = [*callee.headers("REFER", callee.cseq, f"z9hG4bK{sip.token()}"), ("Refer-To", "<tel:+8811234567>")]
    headers.append(("Contact", f"<sip:{platform.address[0]}:{platform.address[1]}>"))
    platform.send(sip.request(f"REFER {callee.target} SIP/2.0", headers), callee.to)
    platform.expect("403 REFER")
    carrier.never("INVITE", 0.3)
    ground.disconnect(caller, callee)


@case(
    "reserved-shares", "F18: a storm of inbound calls leaves outbound ones their share; 503 with Retry-After in 200 ms"
)
def reserved_shares(ground: Ground) -> str:
    _start(ground, "max_calls = 6", "reserve = { outbound = 2 }")
    carrier, platform = ground.carrier(5060), ground.platform()
    storm = [carrier.invite(ground.address, NUMBER) for _ in range(30)]
    slowest = 0.0
    for one in storm:
        begun = time.monotonic()
        one.invite()
        carrier.expect("100 INVITE", call_id=one.call_id)
        refused = [message for message in carrier.collect(0.01) if message.status == 503]
        for message in refused:
            require(message.get("retry-after") != "", "503 has no Retry-After")
            slowest = max(slowest, message.at - begun)
            one.acknowledge(message)
    platform.collect(0.2)
    inbound = {message.get("call-id") for message in platform.log if message.method == "INVITE" and not message.status}
    require(len(inbound) == 4, f"{len(inbound)} inbound calls were taken, of 6 with 2 kept for outbound")
    require(slowest <= 0.2, f"503 came after {1000 * slowest:.0f} ms")
    outbound: list[Leg] = []
    for _ in range(2):
        caller = platform.invite(ground.address, ALLOWED)
        caller.invite()
        outbound.append(carrier.take(carrier.expect("INVITE")))
        outbound[-1].answer()
        caller.acknowledge(platform.expect("200 INVITE", call_id=caller.call_id))
    third = platform.invite(ground.address, ALLOWED)
    third.invite()
    third.acknowledge(platform.expect("503 INVITE", call_id=third.call_id))
    ground.bridge_gone()
    return f"4 of 30 inbound and 2 of 3 outbound calls taken; 503 within {1000 * slowest:.0f} ms"
