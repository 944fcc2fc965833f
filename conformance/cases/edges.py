"""Kamailio before the bridge, as carriers have it: every request of a dialog goes back through its Record-Routes."""

from __future__ import annotations

import time
from pathlib import Path

from conformance import kamailio
from conformance.ground import NUMBER, Ground, config, tool
from conformance.peer import require
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
        text = text.replace(':5060"]', f':5060", "tls:{stage.host(2)}:5061"]', 1)
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
    "R18, R27: 200 calls both ways through a Kamailio that speaks TLS with the bridge, each proving itself by certificate",
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
