"""Kamailio before the bridge, as carriers have it: every request of a dialog goes back through its Record-Routes."""

from __future__ import annotations

import time
from pathlib import Path

from conformance import kamailio
from conformance.ground import NUMBER, Ground, config, tool
from conformance.peer import Peer, Unmet, require
from conformance.runner import case
from conformance.sipp import Sipp
from conformance.stage import Address

CALLS = 50  # of each pattern, so 200 in all
_PATTERNS = (
    ("routed-caller-hangs-up", "routed-answerer-waits"),
    ("routed-caller-waits", "routed-answerer-hangs-up"),
)
_OUTBOUND = """
[[routes]]
name = "outbound"
from = "assistant"
number = "*"
to = ["trunk"]
"""


_TLS = """\
[sip.tls]
certificate = "{directory}/bridge.pem"
private_key = "{directory}/bridge.key"
ca = "{directory}/authority.pem"
"""


def _config(ground: Ground, name: str, tls: Path | None = None) -> str:
    stage = ground.stage
    text = config(stage.network, str(stage.directory), name, "20000-21999") + _OUTBOUND
    if tls is not None:
        text = text.replace(':5060"]\nadvertise', f':5060", "tls:{stage.host(2)}:5061"]\nadvertise', 1)
        text = text.replace("[media]", _TLS.format(directory=tls) + "\n[media]", 1)
        carrier = f'hosts = ["{stage.host(11)}:5060;transport=udp"]'
        secure = f'hosts = ["{stage.host(11)}:5061;transport=tls"]\ntransports = ["tls"]'
        text = text.replace(carrier, secure, 1)
    return text


@case(
    "kamailio-edge",
    "R18, D16: 200 calls both ways through a record-routing Kamailio; ACK and BYE keep to the route set",
    load=True,
)
def edge(ground: Ground) -> str:
    ground.bridge_with(lambda name: _config(ground, name))
    return _calls(ground, topos=False)


@case(
    "kamailio-edge-topos",
    "R18, D16: 200 calls both ways through a Kamailio that hides the topology (topos); none is lost",
    load=True,
)
def edge_with_topos(ground: Ground) -> str:
    ground.bridge_with(lambda name: _config(ground, name))
    return _calls(ground, topos=True)


@case(
    "kamailio-edge-tls",
    "R18, R27: 200 calls both ways through a Kamailio that speaks TLS with the bridge, each proven by certificate",
    load=True,
)
def edge_over_tls(ground: Ground) -> str:
    hosts = {"kamailio": ground.stage.host(11), "bridge": ground.stage.host(2)}
    files = kamailio.certificates(ground.stage.directory / "certificates", **hosts)
    ground.bridge_with(lambda name: _config(ground, name, files))
    return _calls(ground, topos=False, tls=files)


def _calls(ground: Ground, topos: bool, tls: Path | None = None) -> str:
    """Place calls both ways, hung up by either side; return what was counted."""
    program, host = tool("sipp"), ground.stage.host
    proxy = kamailio.edge(ground.stage, host(11), ground.address[0], host(12), topos, tls)
    outside, inside = (host(12), 5060), (host(21), 5060)
    ways = (
        ("inbound", outside, (host(11), 5060), inside),
        ("outbound", inside, ground.address, outside),
    )
    try:
        for way, source, next_hop, destination in ways:
            for caller, answerer in _PATTERNS:
                _batch(ground, program, f"{way}, {caller}", (caller, source, next_hop), (answerer, destination))
        ground.idle(15.0)
    finally:
        proxy.stop()
        ground.bridge_gone()
    astray = proxy.said("ASTRAY")
    require(not astray, f"Kamailio got {len(astray)} requests outside their route set: {' '.join(astray[:1])}")
    total = CALLS * len(_PATTERNS) * len(ways)
    for method in ("ACK", "BYE"):
        routed = len(proxy.said(f"ROUTED {method}"))
        require(routed >= total, f"{routed} of {total} {method}s went through Kamailio")
    return f"{total} calls, none failed, each ACK and BYE through Kamailio"


def _batch(
    ground: Ground,
    program: str,
    what: str,
    calling: tuple[str, Address, Address],
    called: tuple[str, Address],
) -> None:
    """Let SIPp place the calls of one pattern and see that none failed on either side."""
    scenario, source, next_hop = calling
    answerer = Sipp(ground.stage, program, called[0], called[1], more=("-timeout", "40"))
    time.sleep(0.3)
    more = ("-r", "25", "-m", str(CALLS), "-s", NUMBER, "-timeout", "30")
    caller = Sipp(ground.stage, program, scenario, source, next_hop, more)
    try:
        got = caller.finish(40.0)
    finally:
        answerer.process.stop(1.0)
    other = answerer.statistics()
    require(got["SuccessfulCall"] == CALLS, f"{what}: {got['SuccessfulCall']} of {CALLS} calls succeeded: {got}")
    require(other["FailedCall"] == 0, f"{what}: {other['FailedCall']} calls failed at the called side")


_ACCOUNT = """\
register = true
register_expires = 30
username = "trunk-one"
password = "not a secret"
"""
REFRESHES = 10


@case(
    "kamailio-registrar",
    "R25, R26: registered with Kamailio for 10 refreshes, reachable all the time; lost, and regained when it is back",
    limit=200,
    load=True,
)
def registrar(ground: Ground) -> str:
    host = ground.stage.host
    account = f'hosts = ["{host(11)}:5060;transport=udp"]'
    carrier = kamailio.registrar(ground.stage, host(11), "trunk-one", "not a secret", "carrier.test")
    caller, platform = ground.peer(12, 5060, "the caller"), ground.platform()
    ground.bridge_with(lambda name: _config(ground, name).replace(account, account + "\n" + _ACCOUNT, 1))
    try:
        first = _state(ground, {"registered"}, 10.0)
        saved = calls = 0
        while saved <= REFRESHES:
            _call_through(host(11), caller, platform)  # 480 if there is no binding
            calls += 1
            _hold(ground, 4.0)
            saved = len(carrier.said("SAVED"))
        carrier.stop()
        lost = _state(ground, {"backing-off", "registering"}, 30.0)
        time.sleep(5.0)
        _state(ground, {"backing-off", "registering"}, 1.0)
        carrier.start()
        regained = _state(ground, {"registered"}, 60.0)
        _call_through(host(11), caller, platform)
    finally:
        carrier.stop()
        ground.end_case()
        ground.bridge_gone()
    return (
        f"registered after {first:.1f} s, {saved - 1} refreshes, {calls} calls to the binding meanwhile; "
        f"loss seen after {lost:.0f} s, registered again {regained:.0f} s after the registrar was back"
    )


def _state(ground: Ground, wanted: set[str], within: float) -> float:
    """Wait for a state of the registration; return the seconds."""
    begun = time.monotonic()
    seen = ""
    while (took := time.monotonic() - begun) < within:
        trunk = next(one for one in ground.bridge.api("/api/v1/trunks")["trunks"] if one["name"] == "trunk")
        seen = trunk["registration"]["state"]
        if seen in wanted:
            return took
        time.sleep(0.1)
    raise Unmet(f"the registration is {seen} and not {' or '.join(sorted(wanted))} after {within:g} s")


def _hold(ground: Ground, seconds: float) -> None:
    """See for a while that the binding is never given up."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        _state(ground, {"registered", "refreshing"}, 0.05)
        time.sleep(0.2)


def _call_through(edge: str, caller: Peer, platform: Peer) -> None:
    """Call the number at the carrier and see that it comes to the platform by way of our binding."""
    leg = caller.invite((edge, 5060), NUMBER)
    leg.invite()
    callee = platform.take(platform.expect("INVITE", 3.0))
    callee.answer()
    leg.acknowledge(caller.expect("200 INVITE", 3.0, leg.call_id))
    platform.expect("ACK", 2.0, callee.call_id)
    leg.request("BYE")
    bye = platform.expect("BYE", 2.0, callee.call_id)
    callee.respond(200, "OK", to=bye)
    caller.expect("200 BYE", 2.0, leg.call_id)
