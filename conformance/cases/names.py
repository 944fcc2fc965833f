"""Finding the peer by name: dnsmasq with NAPTR, SRV and A records for three platforms at addresses of the run."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from conformance import sip
from conformance.ground import NUMBER, Ground, config, tool
from conformance.peer import Peer, require
from conformance.runner import case
from conformance.sipp import Sipp
from conformance.stage import Process, StageError

_PORT = 5353
_TTL = 2
_RECORDS = """\
port={port}
listen-address={host}.53
bind-interfaces
no-resolv
no-hosts
no-daemon
local-ttl={ttl}
local=/test/
naptr-record=platform.test,10,10,s,SIP+D2U,,_sip._udp.platform.test
srv-host=_sip._udp.platform.test,a.platform.test,5060,10,60
srv-host=_sip._udp.platform.test,b.platform.test,5060,10,40
srv-host=_sip._udp.platform.test,c.platform.test,5060,20,0
host-record=a.platform.test,{host}.31
host-record=b.platform.test,{host}.32
host-record=c.platform.test,{host}.33
"""
_LAST = {"a": 31, "b": 32, "c": 33}


def _dnsmasq(ground: Ground) -> Process:
    """Start the name server of the run and wait until it listens."""
    program = tool("dnsmasq")
    path = ground.stage.directory / "dnsmasq.conf"
    path.write_text(_RECORDS.format(host=ground.stage.network, port=_PORT, ttl=_TTL))
    name = f"dnsmasq-{len(ground.stage.processes)}"
    process = ground.stage.start(name, [program, "-C", str(path), "--pid-file=", "-u", "root"])
    deadline = time.monotonic() + 5.0
    while not any("started" in line for line in process.complaints()):
        if not process.alive or time.monotonic() > deadline:
            raise StageError(f"dnsmasq does not start: {' '.join(process.complaints()[-2:])}")
        time.sleep(0.05)
    return process


def _config(ground: Ground, name: str) -> str:
    host = ground.stage.network
    text = config(host, str(ground.stage.directory), name, "20000-29999")
    text = text.replace("[media]", f'resolver = ["{host}.53:{_PORT}"]\n\n[media]', 1)
    addresses = ", ".join(f'"{host}.{last}/32"' for last in _LAST.values())
    before = f'hosts = ["{host}.21:5060;transport=udp"]\nsources = ["{host}.21/32"]'
    return text.replace(before, f'hosts = ["platform.test"]\nsources = [{addresses}]', 1)


@contextlib.contextmanager
def _answerers(ground: Ground, *names: str) -> Iterator[dict[str, Sipp]]:
    """Have SIPp answer at some of the names."""
    program = tool("sipp")
    parties = {name: Sipp(ground.stage, program, "uas", (ground.stage.host(_LAST[name]), 5060)) for name in names}
    time.sleep(0.7)
    try:
        yield parties
    finally:
        for one in parties.values():
            one.process.stop(1.0)


def _calls(ground: Ground, rate: int, calls: int) -> None:
    more = ("-r", str(rate), "-m", str(calls), "-s", NUMBER, "-timeout", "60", "-d", "50")
    caller = Sipp(ground.stage, tool("sipp"), "uac", (ground.stage.host(11), 5060), ground.address, more)
    got = caller.finish(70.0)
    require(got["SuccessfulCall"] == calls, f"{got['SuccessfulCall']} of {calls} calls succeeded: {got}")


def _took(carrier: Peer, ground: Ground) -> float:
    """Place one call that SIPp answers; return the seconds to its answer."""
    leg = carrier.invite(ground.address, NUMBER)
    begun = time.monotonic()
    leg.invite()
    answer = carrier.expect("200 INVITE", 6.0, leg.call_id)
    leg.acknowledge(answer)
    leg.hang_up()
    return answer.at - begun


@case(
    "names-share-the-load",
    "R50: 2,000 calls by NAPTR and SRV of weights 60 and 40 are shared within 3 %; the lower priority gets none",
    limit=120,
    load=True,
)
def weights(ground: Ground) -> str:
    server = _dnsmasq(ground)
    ground.bridge_with(lambda name: _config(ground, name))
    try:
        with _answerers(ground, "a", "b", "c") as parties:
            _calls(ground, 100, 2000)
            time.sleep(1.5)  # SIPp writes its statistics once a second
            got = {name: one.statistics()["IncomingCall"] for name, one in parties.items()}
    finally:
        server.stop(1.0)
        ground.bridge_gone()
    require(got["c"] == 0, f"{got['c']} calls went to the lower priority")
    share = got["a"] / 2000
    require(abs(share - 0.6) <= 0.03, f"{100 * share:.1f} % of the calls went to the target of weight 60 of 100")
    return f"{100 * share:.1f} % and {100 - 100 * share:.1f} %, none to the lower priority"


@case(
    "names-fail-over",
    "R50, R51: a target that refuses or says 503 costs 200 ms at the most, a silent one 4 s, and later calls nothing",
    limit=120,
    load=True,
)
def fail_over(ground: Ground) -> str:
    server = _dnsmasq(ground)
    said = []
    try:
        for fault in ("refused", "503", "silent"):
            ground.bridge_with(lambda name: _config(ground, name))  # that knows nothing of the last fault
            with _answerers(ground, "b"), _faulty(ground, fault):
                carrier = ground.carrier()
                took = [_took(carrier, ground) for _ in range(12)]
            ground.end_case()
            most = 4.3 if fault == "silent" else 0.2
            require(max(took) <= most, f"a target that is {fault}: a call took {max(took):.2f} s")
            slow = sum(one > 1.0 for one in took)
            require(slow <= 2, f"a target that is {fault}: {slow} of 12 calls waited for it")
            said.append(f"{fault}: {1000 * max(took):.0f} ms at most, {slow} calls over 1 s")
    finally:
        server.stop(1.0)
        ground.bridge_gone()
    return "; ".join(said)


@contextlib.contextmanager
def _faulty(ground: Ground, fault: str) -> Iterator[None]:
    """Have the target of most weight refuse (nobody is there), say 503, or say nothing."""
    if fault == "refused":
        yield
        return
    over = threading.Event()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((ground.stage.host(_LAST["a"]), 5060))
    sock.settimeout(0.1)

    def serve() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError, ValueError):
                data, source = sock.recvfrom(65536)
                message = sip.parse(data)
                if fault == "503" and message.method == "INVITE":
                    sock.sendto(sip.response(message, 503, "Service Unavailable", sip.token()), source)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(2.0)
        sock.close()


@case(
    "names-outlive-their-server",
    "R52, F11, D14: the name server dies in mid-run and all TTLs with it: calls go on by the last good answer",
    limit=120,
    load=True,
)
def server_dies(ground: Ground) -> str:
    server = _dnsmasq(ground)
    ground.bridge_with(lambda name: _config(ground, name))
    try:
        with _answerers(ground, "a", "b"):
            _calls(ground, 20, 40)
            server.kill()
            time.sleep(_TTL + 1.0)
            carrier = ground.carrier()
            first = _took(carrier, ground)
            ground.end_case()
            _calls(ground, 20, 200)
            server = _dnsmasq(ground)
            time.sleep(_TTL + 4.0)
            _calls(ground, 20, 40)
    finally:
        server.stop(1.0)
        ground.bridge_gone()
    require(first <= 1.0, f"the first call after the loss took {first:.2f} s")
    return f"200 calls without a name server, none failed; the first took {1000 * first:.0f} ms"
