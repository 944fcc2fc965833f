"""Attacks from outside: floods, slow and half-open connections, and the scanners that are sold for it."""

from __future__ import annotations

import contextlib
import json
import shutil
import ssl
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conformance import kamailio, sip
from conformance.cases.loads import Held, settles
from conformance.connection import Connection
from conformance.g711 import FRAME, SILENCE
from conformance.ground import NUMBER, Ground, NotApplicable, config
from conformance.peer import Leg, Unmet, require
from conformance.rtp import rtp_packet
from conformance.runner import case
from conformance.stage import Address, Process

MOST_ANSWERED = 10
"""Requests of a stranger that are answered where a platform may register from anywhere (T06)."""
_STRANGERS = tuple(f"127.251.{index // 250}.{1 + index % 250}" for index in range(1000))
"""Addresses that no run has: `free_network` takes 127.16 to 127.249."""


def _open_ground(ground: Ground, name: str, tls: Path | None = None) -> str:
    """Let the carrier have a network, as the big ones do, and TLS where certificates are given."""
    host = ground.stage.network
    text = config(host, str(ground.stage.directory), name, "20000-21999")
    text = text.replace(f'sources = ["{host}.11/32"]', f'sources = ["{host}.11/32", "{host}.128/25"]')
    if tls is not None:
        secure = f'certificate = "{tls}/bridge.pem"\nprivate_key = "{tls}/bridge.key"\nca = "{tls}/authority.pem"'
        text = text.replace(':5060"]\nadvertise', f':5060", "tls:{host}.2:5061"]\nadvertise', 1)
        text = text.replace("[media]", f"[sip.tls]\n{secure}\n\n[media]", 1)
    return text


def _two_trunks(ground: Ground, name: str) -> str:
    """Let a second carrier call the same platform, with few calls at a time: one that floods may cost only itself."""
    host = ground.stage.network
    rowdy = (
        f'[carriers.rowdy]\nhosts = ["{host}.130:5060"]\nsources = ["{host}.130/32"]\nmax_calls = 20\n\n'
        f'[[routes]]\nname = "from the rowdy one"\nfrom = "rowdy"\nto = ["assistant"]\n'
    )
    return config(host, str(ground.stage.directory), name, "20000-21999") + "\n" + rowdy


class Traffic:
    """Calls that go on beside an attack: one with audio all the time, and new ones one after the other."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._carrier, self._platform = ground.carrier(), ground.platform()
        self._standing = ground.connect(self._carrier, self._platform)
        self.set_up: list[float] = []
        self.failed: list[str] = []
        self.sent = 0
        self._heard: set[int] = set()
        self._over = threading.Event()
        self._audio = threading.Thread(target=self._talk, daemon=True)
        self._audio.start()

    def place(self, seconds: float, pause: float = 0.1) -> None:
        """Place calls for a while."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            begun = time.monotonic()
            try:
                caller = f"+1202556{len(self.set_up) + len(self.failed):04d}"  # not one of the flood's
                call = self._ground.connect(self._carrier, self._platform, caller_number=caller)
                self.set_up.append(time.monotonic() - begun)
                self._ground.disconnect(*call)
            except Unmet as problem:
                self.failed.append(str(problem))
            time.sleep(pause)

    def end(self) -> str:
        """End the standing call; say how it and the others fared. Raises Unmet where one was hurt."""
        self._over.set()
        self._audio.join(5.0)
        self._ground.disconnect(*self._standing)
        lost = self.sent - len(self._heard)
        total = len(self.set_up) + len(self.failed)
        require(lost == 0, f"{lost} of {self.sent} packets of the call in progress were lost")
        require(len(self.failed) <= total / 100, f"{len(self.failed)} of {total} calls failed: {self.failed[:1]}")
        slowest = max(self.set_up)
        return (
            f"{total} calls set up meanwhile, {1000 * statistics.median(self.set_up):.0f} ms in the middle, "
            f"{1000 * slowest:.0f} ms at most; {self.sent} packets of the call in progress, none lost"
        )

    def _talk(self) -> None:
        callee: Leg = self._standing[1]
        caller: Leg = self._standing[0]
        assert callee.invitation is not None
        assert callee.invitation.audio is not None
        answer = next(one for one in self._carrier.log if one.status == 200 and one.get("call-id") == caller.call_id)
        assert answer.audio is not None
        self._platform.rtp.setblocking(False)
        while not self._over.is_set():
            frame = self.sent.to_bytes(4, "big") * (FRAME // 4)
            for peer, to in ((self._carrier, answer.audio.address), (self._platform, callee.invitation.audio.address)):
                with contextlib.suppress(OSError):  # the case has failed meanwhile, and its peers are closed
                    peer.rtp.sendto(rtp_packet(0, self.sent, FRAME * self.sent, 0xF100D, frame), to)
            self.sent += 1
            self._over.wait(0.02)
            self._listen()
        time.sleep(0.3)
        self._listen()

    def _listen(self) -> None:
        """Keep the numbers of the frames that have come to the platform: what fills gaps has none."""
        while True:
            try:
                frame = self._platform.rtp.recv(2048)[12:]
            except OSError:
                return
            if frame == frame[:4] * (FRAME // 4) and frame[:2] != SILENCE[0][:2]:
                self._heard.add(int.from_bytes(frame[:4], "big"))


def _flood(ground: Ground, name: str, **settings: Any) -> Process:
    path = ground.stage.directory / f"{name}.json"
    path.write_text(json.dumps({"target": ground.address, "number": NUMBER, **settings}))
    process = ground.stage.start(name, [sys.executable, "-m", "conformance.flood", str(path)])
    process.wait_for("^ready", 20.0)
    return process


@case(
    "flood",
    "T10: 5,000 INVITE, REGISTER, OPTIONS a second from 1,000 strangers, then from a trunk: others' calls live on",
    limit=150,
    load=True,
)
def flood(ground: Ground) -> str:
    bridge = ground.bridge_with(lambda name: _two_trunks(ground, name))
    methods = ["INVITE", "REGISTER", "OPTIONS"]
    known = ground.stage.host(130)
    said = []
    for name, sources in (("flood-of-strangers", _STRANGERS), ("flood-of-one-stranger", _STRANGERS[:1])):
        traffic = Traffic(ground)
        memory, cpu = bridge.resident_kb(), bridge.cpu_seconds()
        attacker = _flood(ground, name, sources=sources, methods=methods, rate=5000, seconds=10)
        traffic.place(9.0)
        result = json.loads(attacker.wait_for(r"^\{.*", 20.0).group(0))
        told = traffic.end()
        ground.end_case()
        require(result["received"] == 0, f"strangers got {result['received']} datagrams back")
        said.append(f"{name}: {_cost(bridge, memory, cpu, result)}; {told}")
    traffic = Traffic(ground)
    memory, cpu = bridge.resident_kb(), bridge.cpu_seconds()
    attacker = _flood(ground, "flood-of-a-trunk", sources=[known], methods=methods, rate=5000, seconds=10)
    traffic.place(9.0)
    result = json.loads(attacker.wait_for(r"^\{.*", 40.0).group(0))
    traffic.place(2.0)
    said.append(f"flood of a trunk: {_cost(bridge, memory, cpu, result)}, answers {_statuses(result)}")
    said.append(f"the other trunk's calls: {traffic.end()}")
    ground.end_case()
    ground.bridge_gone()
    return "\n".join(said)


def _statuses(result: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in sorted(result.items()) if key.isdigit())


def _cost(bridge: Any, memory: int, cpu: float, result: dict[str, Any]) -> str:
    grown = (bridge.resident_kb() - memory) / 1024
    require(grown <= 50, f"{grown:.0f} MB more are resident after {result['sent']} messages")
    used = (bridge.cpu_seconds() - cpu) / 10 * 100
    return f"{result['sent']} sent, {grown:+.1f} MB, {used:.0f} % of a core with the calls"


@case(
    "slow-connections",
    "T15: 300 connections that send an octet every 4 s are closed within 35 s; calls beside them are unaffected",
    limit=90,
    load=True,
)
def slow_connections(ground: Ground) -> str:
    bridge = ground.bridge_with(lambda name: _open_ground(ground, name))
    ground.disconnect(*ground.connect(ground.carrier(), ground.platform()))
    ground.end_case()
    ground.idle(15.0)
    before = Held.by(bridge)
    slow = [Connection(ground.stage.host(130 + index % 5), ground.address) for index in range(300)]
    begun = time.monotonic()
    dribble = threading.Thread(target=_dribble, args=(slow, b"INVITE sip:slow@example.com SIP/2.0\r\n"), daemon=True)
    dribble.start()
    traffic = Traffic(ground)
    fast = Connection(ground.stage.host(11), ground.address)
    traffic.place(8.0, 0.3)
    fast.send(_options(ground, fast))
    require([one.status for one in fast.collect(1.0)] == [200], "OPTIONS over TCP got no 200 beside slow connections")
    fast.close()
    told = traffic.end()
    open_yet = [one for one in slow if not one.ends(max(0.0, begun + 35.0 - time.monotonic()))]
    took = time.monotonic() - begun
    require(not open_yet, f"{len(open_yet)} of 300 slow connections are open after {took:.0f} s")
    for one in slow:
        one.close()
    ground.end_case()
    settles(bridge, before)
    ground.bridge_gone()
    return f"all closed after {took:.0f} s; {told}"


def _dribble(connections: Sequence[Connection], data: bytes) -> None:
    for octet in data:
        for one in connections:
            try:
                one.socket.send(bytes([octet]))
            except OSError:
                continue
        time.sleep(4.0)
        if all(one.closed for one in connections):
            return


def _options(ground: Ground, connection: Connection) -> bytes:
    host, port = connection.address
    headers = [
        ("Via", f"SIP/2.0/TCP {host}:{port};branch=z9hG4bK{sip.token()};rport"),
        ("Max-Forwards", "70"),
        ("From", f"<sip:carrier@{host}>;tag={sip.token()}"),
        ("To", f"<sip:{ground.address[0]}>"),
        ("Call-ID", sip.token(16)),
        ("CSeq", "1 OPTIONS"),
    ]
    return sip.request(f"OPTIONS sip:{ground.address[0]} SIP/2.0", headers)


@case(
    "half-open-handshakes",
    "T16: 1,000 TLS handshakes that are never finished end; calls and good handshakes go on; no weak TLS",
    limit=90,
    load=True,
)
def half_open(ground: Ground) -> str:
    hosts = {"kamailio": ground.stage.host(11), "bridge": ground.stage.host(2)}
    files = kamailio.certificates(ground.stage.directory / "certificates", **hosts)
    bridge = ground.bridge_with(lambda name: _open_ground(ground, name, files))
    ground.disconnect(*ground.connect(ground.carrier(), ground.platform()))
    ground.end_case()
    ground.idle(15.0)
    before = Held.by(bridge)
    secure = (ground.stage.host(2), 5061)
    traffic = Traffic(ground)
    begun = time.monotonic()
    idle = [Connection(ground.stage.host(130 + index % 10), secure) for index in range(1000)]
    for one in idle[::2]:
        one.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # the first octets of a ClientHello
    traffic.place(3.0)
    good = ssl.create_default_context(cafile=str(files / "authority.pem"))
    shaken = _handshake(ground, secure, good)
    told = traffic.end()
    open_yet = [one for one in idle if not one.ends(max(0.0, begun + 15.0 - time.monotonic()))]
    took = time.monotonic() - begun
    require(not open_yet, f"{len(open_yet)} of 1,000 half-open handshakes are there after {took:.0f} s")
    for one in idle:
        one.close()
    refused = [name for name, context in _weak().items() if not _accepts(ground, secure, context)]
    require(len(refused) == len(_weak()), f"only {refused} of the weak handshakes were refused")
    ground.end_case()
    settles(bridge, before)
    ground.bridge_gone()
    return f"a good handshake in {1000 * shaken:.0f} ms among them, all gone after {took:.0f} s; {told}; no {refused}"


def _handshake(ground: Ground, to: Address, context: ssl.SSLContext) -> float:
    begun = time.monotonic()
    with Connection(ground.stage.host(11), to, context, to[0]) as connection:
        took = time.monotonic() - begun
        connection.send(_options(ground, connection).replace(b"SIP/2.0/TCP", b"SIP/2.0/TLS"))
        require([one.status for one in connection.collect(2.0)] == [200], "OPTIONS over TLS got no 200")
    return took


def _accepts(ground: Ground, to: Address, context: ssl.SSLContext) -> bool:
    try:
        Connection(ground.stage.host(11), to, context).close()
    except (ssl.SSLError, OSError):
        return False
    return True


def _weak() -> dict[str, ssl.SSLContext]:
    """Return contexts that only speak what nobody should (T16)."""

    def context(change: Callable[[ssl.SSLContext], None]) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
        change(made)
        return made

    def version(number: ssl.TLSVersion) -> Callable[[ssl.SSLContext], None]:
        def change(made: ssl.SSLContext) -> None:
            made.set_ciphers("ALL:@SECLEVEL=0")
            made.minimum_version, made.maximum_version = ssl.TLSVersion.TLSv1, number

        return change

    def ciphers(names: str) -> Callable[[ssl.SSLContext], None]:
        def change(made: ssl.SSLContext) -> None:
            made.maximum_version = ssl.TLSVersion.TLSv1_2
            made.set_ciphers(f"{names}:@SECLEVEL=0")

        return change

    return {
        "TLS 1.1": context(version(ssl.TLSVersion.TLSv1_1)),
        "no forward secrecy": context(ciphers("AES256-GCM-SHA384")),
        "CBC": context(ciphers("ECDHE-ECDSA-AES128-SHA")),
        "anonymous": context(ciphers("aNULL")),
    }


# Scanners that anyone can have.


def _scanner(name: str) -> str:
    path = shutil.which(name) or shutil.which(f"sipvicious_{name}")
    if path is None:
        raise NotApplicable(f"{name} is not installed: apt-get install sipvicious")
    return path


def _scan(ground: Ground, name: str, *options: str) -> str:
    """Run a scanner from a stranger's address; return what it prints."""
    process = ground.stage.start(name, [_scanner(name), *options])
    try:
        process.popen.wait(45.0)
    except Exception:
        process.stop(1.0)
    lines = []
    while (line := process.line(0.2)) is not None:
        lines.append(line)
    return "\n".join([*lines, *process.complaints()])


@case(
    "scanners-find-nothing",
    "T05, T06: svmap, svwar and svcrack of SIPVicious find no server, no extension and no password",
    limit=150,
    load=True,
)
def scanners(ground: Ground) -> str:
    host, target = ground.stage.host(99), ground.stage.host(2)
    said: list[str] = []
    with_account = 'registers = true\ninbound_username = "100"\ninbound_password = "4711 and more"\n'
    for roaming in (False, True):
        text = f'\n[platforms.roaming]\nprofile = "generic-platform"\n{with_account}' if roaming else ""
        bridge = ground.bridge_with(lambda name, text=text: _open_ground(ground, name) + text)  # type: ignore[misc]
        rejected, sent = bridge.metric("sip_rejected_total"), bridge.metric("sip_messages_total", way="out")
        found = {
            "svmap": _scan(ground, "svmap", "-b", host, "-P", "5099", target),
            "svwar": _scan(ground, "svwar", "-b", host, "-P", "5098", "-e", "100-300", "--force", target),
            "svcrack": _scan(ground, "svcrack", "-b", host, "-P", "5097", "-u", "100", "-r", "1-1000", target),
        }
        dropped = bridge.metric("sip_rejected_total") - rejected
        answered = bridge.metric("sip_messages_total", way="out") - sent
        require(dropped > 0, f"no scanner reached the bridge: {found}")
        most = MOST_ANSWERED if roaming else 0
        require(answered <= most, f"{answered:.0f} answers went to strangers who scanned")
        require("| 4711" not in found["svcrack"], f"svcrack found the password: {found['svcrack']}")
        require(roaming or "|" not in "".join(found.values()), f"the scanners found something: {found}")
        said.append(f"{dropped:.0f} messages dropped, {answered:.0f} answered")
        ground.disconnect(*ground.connect(ground.carrier(), ground.platform()))
        ground.end_case()
    ground.bridge_gone()
    return f"without accounts: {said[0]}; where a platform may register from anywhere: {said[1]}"
