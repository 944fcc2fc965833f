"""Where scenarios are played: one bridge for each mode, and SIPp parties at addresses of their own, many at a time."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from conformance.peer import Unmet, require
from conformance.sipp import tunnels
from conformance.sipp.namespace import LossyNetwork
from conformance.sipp.scenarios import MODES, Party, Scenario
from conformance.sipp.script import written_out
from conformance.stage import Address, Bridge, Process, Stage, StageError, free_port

LOST_PER_CENT = 5
_AT_A_TIME = 10
_PLAY_WITHIN = 100.0  # seconds for one scenario
_HOSTS = {"carrier": 11, "platform": 21, "platform2": 22, "platform3": 23}
_TUNNEL = 12  # where the caller finds TLS
_CALLER_PORT = 5080
_TLS = """
[sip.tls]
certificate = "{directory}/bridge.pem"
private_key = "{directory}/bridge.key"
ca = "{directory}/authority.pem"
verify_clients = true
"""
_PASSIVE = ("silent", "never", "closed")

_CONFIG = """\
[node]
name = "{name}"
state_dir = "{directory}/state-{name}"

[sip]
listen = [{listen}]
advertise = "{host}"
{tls}
[media]
address = "{host}"
advertise = "{host}"
ports = "30000-39999"

[admin]
listen = "127.0.0.1:{admin_port}"
"""


class Arena:
    """One mode: its bridge, started with the first scenario, and a pool of threads that each play one."""

    def __init__(self, stage: Stage, mode: str, scenarios: Sequence[Scenario]) -> None:
        self.mode = mode
        self.transport = "udp" if mode == "loss" else mode
        self.port = 5061 if mode == "tls" else 5060
        self._stage = stage
        self._scenarios = [one for one in scenarios if mode in one.modes]
        self._loss = LossyNetwork(LOST_PER_CENT) if mode == "loss" and LossyNetwork.allowed() else None
        self._pool = ThreadPoolExecutor(_AT_A_TIME, f"sipp-{mode}", self._loss.enter if self._loss else None)
        second = int(stage.network.split(".")[1]) ^ MODES.index(mode)  # each mode has addresses of its own
        self._prefix = f"127.{second}"
        self.host = f"{self._prefix}.254.2"
        self._played: dict[str, Future[str]] = {}
        self._bridge = self._pool.submit(self._start)

    def close(self) -> None:
        """End what has not been played; what was started ends with its stage."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._loss is not None:
            self._loss.close()

    def begin(self, scenario: Scenario) -> Future[str]:
        """Play a scenario when its turn comes; the result is what was measured. Its errors are the future's."""
        if scenario.name not in self._played:
            self._played[scenario.name] = self._pool.submit(self._play, scenario)
        return self._played[scenario.name]

    def bridge(self) -> Bridge:
        return self._bridge.result(60.0)

    def at_rest(self) -> str:
        """Wait until the bridge holds nothing any more. Raises Unmet with what stays (T19)."""
        return self._pool.submit(self._at_rest, self.bridge()).result(60.0)

    def _at_rest(self, bridge: Bridge) -> str:
        deadline = time.monotonic() + 45.0
        while True:
            held = {name: bridge.metric(name) for name in ("calls_active", "media_ports_in_use")}
            if not any(held.values()) or time.monotonic() > deadline:
                break
            time.sleep(0.3)
        require(not any(held.values()), f"{self.mode}: still held are {held}")
        bugs = bridge.metric("bugs_total")
        require(bugs == 0, f"{self.mode}: {bugs:.0f} bugs of the bridge's own were contained")
        return f"{self.mode}: {len(self._played)} scenarios, {bridge.metric('sip_retransmissions_total'):.0f} repeats"

    # The bridge.

    def _start(self) -> Bridge:
        name = f"bridge-{self.mode}"
        listen = [f"udp:{self.host}:5060", f"tcp:{self.host}:5060"]
        if self.transport == "tls":
            listen.append(f"tls:{self.host}:{self.port}")
        keys = tunnels.keys(self._stage) if self.transport == "tls" else None
        text = _CONFIG.format(
            name=name,
            directory=self._stage.directory,
            listen=", ".join(f'"{one}"' for one in listen),
            host=self.host,
            tls=_TLS.format(directory=keys) if keys else "",
            admin_port=free_port("127.0.0.1", socket.SOCK_STREAM),
        )
        text += "".join(self._accounts(one) for one in self._scenarios)
        bridge = self._stage.bridge(text, name)
        if keys is not None:
            found = [tunnel for one in self._scenarios for tunnel in self._tunnels(one)]
            tunnels.start(self._stage, "stunnel", keys, found)
            _until(lambda: _bound(found[-1].accept, socket.SOCK_STREAM), 10.0, "stunnel did not start")
        return bridge

    def _network(self, scenario: Scenario) -> str:
        return f"{self._prefix}.{1 + self._scenarios.index(scenario)}"

    def _accounts(self, scenario: Scenario) -> str:
        """Return the accounts and routes of one scenario: it has addresses that no other has."""
        network, label = self._network(scenario), scenario.name
        carrier, platforms = f"{label}.carrier", [f"{label}.{name}" for name in scenario.platforms]
        text = self._account("carriers", carrier, [f"{network}.{_HOSTS['carrier']}"], scenario.carrier)
        for name, account in zip(scenario.platforms, platforms, strict=True):
            names = ("platform", "platform2") if scenario.same_account else (name,)
            hosts = [f"{network}.{_HOSTS[one]}" for one in names]
            text += self._account("platforms", account, hosts, scenario.platform)
        text += _route(carrier, platforms)
        return text + "".join(_route(account, [carrier]) for account in platforms)

    def _account(self, table: str, name: str, hosts: Sequence[str], more: Mapping[str, Any]) -> str:
        lines = {
            "profile": f"generic-{table[:-1]}",
            "hosts": [f"{host}:{self.port};transport={self.transport}" for host in hosts],
            "sources": [f"{host}/32" for host in hosts],
            **({"tls_names": "any"} if self.transport == "tls" else {}),
            **more,
        }
        return f'\n[{table}."{name}"]\n' + "".join(f"{key} = {_toml(value)}\n" for key, value in lines.items())

    def _tunnels(self, scenario: Scenario) -> Iterator[tunnels.Tunnel]:
        for party in scenario.callees:
            host, port = self.address(scenario, party)
            if party.file not in _PASSIVE and not party.later:
                yield tunnels.Tunnel((host, self.port), (host, port))
        source = self.address(scenario, scenario.caller)[0]
        yield tunnels.Tunnel(self._bridge_address(scenario), (self.host, self.port), source)

    # One scenario.

    def _play(self, scenario: Scenario) -> str:
        bridge = self.bridge()
        calls = scenario.lossy_calls if self.mode == "loss" else 1
        begun = time.monotonic()
        with contextlib.ExitStack() as stack:
            passive, callees = [], []
            for party in scenario.callees:
                if party.file in _PASSIVE:
                    passive.append(stack.enter_context(_Passive(party.file, self.address(scenario, party), self.mode)))
                elif not party.later:
                    callees.append(self._sipp(scenario, party, calls, stack))
            for one in callees:
                one.listening()
            caller = self._sipp(scenario, scenario.caller, calls, stack, self._bridge_address(scenario))
            deadline = begun + _PLAY_WITHIN
            for party in scenario.callees:
                if party.later:
                    callees.pop().finish(deadline)
                    callees.append(self._sipp(scenario, party, calls, stack))
            for one in (caller, *callees):
                one.finish(deadline)
            for address in passive:
                address.check()
        took = time.monotonic() - begun
        self._records(bridge, scenario, calls)
        said = f"{self.mode} {took:.1f} s"
        return f"{said} for {calls} calls" if calls > 1 else said

    def address(self, scenario: Scenario, party: Party) -> Address:
        """Return where a party's own socket is bound; TLS stands before it."""
        port = _CALLER_PORT if party is scenario.caller else self.port if party.file in _PASSIVE else 5060
        return f"{self._network(scenario)}.{_HOSTS[party.at]}", port

    def _bridge_address(self, scenario: Scenario) -> Address:
        return (f"{self._network(scenario)}.{_TUNNEL}", 5060) if self.transport == "tls" else (self.host, 5060)

    def _sipp(
        self,
        scenario: Scenario,
        party: Party,
        calls: int,
        stack: contextlib.ExitStack,
        remote: Address | None = None,
    ) -> _Sipp:
        sipp = _Sipp(self, scenario, party, self.address(scenario, party), calls, remote)
        stack.callback(sipp.end)
        return sipp

    def start(self, name: str, command: Sequence[str]) -> Process:
        return self._stage.start(f"{self.mode}-{name}", command, TERM="dumb")

    @property
    def directory(self) -> Path:
        return self._stage.directory

    @property
    def loses_by_itself(self) -> bool:
        """Whether SIPp has to lose messages because the network cannot."""
        return self.mode == "loss" and self._loss is None

    def _records(self, bridge: Bridge, scenario: Scenario, calls: int) -> None:
        """See that each call has one record, and that it says what the scenario wants."""
        wanted, name = calls * scenario.records, f"{scenario.name}.carrier"
        deadline = time.monotonic() + (45.0 if self.mode == "loss" else 8.0)
        found: list[dict[str, Any]] = []
        while True:
            found = [record for record in bridge.records() if record["carrier"] == name]
            if len(found) >= wanted or time.monotonic() > deadline:
                break
            time.sleep(0.3)
        require(len(found) == wanted, f"{len(found)} records were written of {wanted}")
        for record in found:
            for key, allowed in scenario.record.items():
                said = f"{key} = {record[key]!r} ({record['reason']}, {record['status']}), not {_either(allowed)}"
                require(record[key] in allowed, f"the record says {said}")


class Arenas:
    """The arenas of a run, each made when something is first played there."""

    def __init__(self, stage: Stage, table: Sequence[Scenario]) -> None:
        self._stage, self._table = stage, table
        self._made: dict[str, Arena] = {}

    def begin(self, scenario: Scenario, modes: Sequence[str]) -> None:
        """Let a scenario begin in these modes as soon as there is room."""
        for mode in modes:
            if mode != "tls" or tunnels.program() is not None:
                self._arena(mode).begin(scenario)

    def result(self, scenario: Scenario, mode: str, within: float) -> str:
        """Wait for the end of a scenario; return what was measured. Raises what went wrong."""
        return self._arena(mode).begin(scenario).result(within)

    def at_rest(self) -> str:
        """Wait until every bridge holds nothing any more. Raises Unmet where something stays."""
        return "; ".join(arena.at_rest() for arena in self._made.values())

    def close(self) -> None:
        for arena in self._made.values():
            arena.close()

    def _arena(self, mode: str) -> Arena:
        if mode not in self._made:
            self._made[mode] = Arena(self._stage, mode, self._table)
        return self._made[mode]


class _Sipp:
    """One SIPp process with its part."""

    def __init__(
        self, arena: Arena, scenario: Scenario, party: Party, local: Address, calls: int, remote: Address | None
    ) -> None:
        self.party, self._local = party, local
        transport = party.transport or arena.transport
        self._kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
        name = f"{scenario.name}-{party.at}-{party.file}"
        path = arena.directory / f"{arena.mode}-{name}.xml"
        contact_port = local[1] if party is scenario.caller else arena.port
        keys = {"via": transport.upper(), "tp": transport, "contact_port": str(contact_port)}
        keys |= {"caller": "+12025550147", "network": local[0].rpartition(".")[0]}
        keys |= {"bridge": arena.host, **scenario.keys}
        lossy = arena.mode == "loss"
        path.write_text(written_out(party.file, keys, 6000 if lossy else 700, lossy))
        self._errors = path.with_suffix(".errors")
        command = [shutil.which("sipp") or "sipp", "-sf", str(path), "-i", local[0], "-p", str(local[1])]
        command += ["-mi", local[0], "-bind_local", "-nostdin", "-m", str(calls), "-s", scenario.number]
        command += ["-t", "u1" if transport == "udp" else "t1", "-trace_err", "-error_file", str(self._errors)]
        command += ["-timeout", "95", "-timeout_error", "-skip_rlimit"]
        if arena.mode == "loss":
            command += ["-default_behaviors", "all,-abortunexp,-bye"]
        if arena.loses_by_itself:
            command += ["-lost", str(LOST_PER_CENT)]
        if os.environ.get("TRUNKBRIDGE_SIPP_TRACE"):
            command += ["-trace_msg", "-message_file", str(path.with_suffix(".messages"))]
        if remote is not None:
            command += ["-r", "2", *scenario.arguments, f"{remote[0]}:{remote[1]}"]
        else:
            command += scenario.callee_arguments
        self._process = arena.start(name, command)

    def listening(self) -> None:
        """Wait until it has its address."""
        _until(self._is_there, 10.0, f"{self.party.file} did not start")

    def _is_there(self) -> bool:
        if not self._process.alive:
            raise StageError(f"{self.party.file} did not start: {self._said()}")
        return _bound(self._local, self._kind)

    def finish(self, deadline: float) -> None:
        """Wait for its end. Raises Unmet with what it said where a call of its own failed."""
        try:
            status = self._process.popen.wait(max(0.1, deadline - time.monotonic()))
        except Exception:
            self.end()
            raise Unmet(f"{self.party.file} at {self.party.at} did not end: {self._said()}") from None
        require(status == 0, f"{self.party.file} at {self.party.at} failed: {self._said()}")

    def end(self) -> None:
        if self._process.alive:
            self._process.kill()

    def _said(self) -> str:
        try:
            text = self._errors.read_text(errors="replace")
        except OSError:
            text = ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        lines += self._process.complaints()
        return " | ".join(lines[:12])[:1500] or "it said nothing"


class _Passive:
    """An address where nobody answers: ``silent`` takes all, ``never`` must get nothing, ``closed`` is not there."""

    def __init__(self, kind: str, address: Address, mode: str) -> None:
        self._kind, self._address = kind, address
        self._socket: socket.socket | None = None
        if kind != "closed":
            self._socket = socket.socket(
                socket.AF_INET, socket.SOCK_STREAM if mode in ("tcp", "tls") else socket.SOCK_DGRAM
            )
            self._socket.bind(address)
            if mode in ("tcp", "tls"):
                self._socket.listen(8)
            self._socket.setblocking(False)

    def check(self) -> None:
        """Raise Unmet where something came that must not."""
        if self._kind == "never" and self._socket is not None:
            with contextlib.suppress(OSError):
                got = self._socket.accept() if self._socket.type == socket.SOCK_STREAM else self._socket.recv(2048)
                raise Unmet(f"{self._address[0]} was called, and it must not be: {got!r:.80}")

    def __enter__(self) -> _Passive:
        return self

    def __exit__(self, *error: object) -> None:
        if self._socket is not None:
            self._socket.close()


def _until(fact: Callable[[], bool], within: float, otherwise: str) -> None:
    deadline = time.monotonic() + within
    while not fact():
        if time.monotonic() > deadline:
            raise StageError(otherwise)
        time.sleep(0.02)


def _bound(address: Address, kind: socket.SocketKind) -> bool:
    """Tell whether somebody has an address (proc(5), net/udp and net/tcp); to try it would be in his way."""
    number = int.from_bytes(socket.inet_aton(address[0]), sys.byteorder)
    wanted = f" {number:08X}:{address[1]:04X} "
    table = "udp" if kind is socket.SOCK_DGRAM else "tcp"
    return wanted in Path(f"/proc/thread-self/net/{table}").read_text()


def _route(source: str, to: list[str]) -> str:
    values = {"name": f"from {source}", "from": source, "number": "*", "to": to}
    return "\n[[routes]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


def _either(values: Sequence[Any]) -> str:
    return " or ".join(repr(value) for value in values)
