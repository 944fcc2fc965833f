"""The ground that conformance cases stand on: one bridge with a carrier and platforms, and peers at their addresses."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from conformance.peer import CALLER, Leg, Peer, Unmet
from conformance.stage import Address, Bridge, Stage, free_port

NUMBER = "+14155550100"
TWO_TARGETS = "+14155550200"
IMPATIENT = "+14155550300"
CHALLENGING = "+14155550400"

_CONFIG = """\
[node]
name = "conformance"
state_dir = "{directory}/state-{name}"

[sip]
listen = [{listen}]
advertise = "{host}.2"

[media]
address = "{host}.2"
advertise = "{host}.2"
ports = "{ports}"

[admin]
listen = "127.0.0.1:{admin_port}"

[carriers.trunk]
profile = "generic-carrier"
hosts = ["{host}.11:5060;transport=udp"]
sources = ["{host}.11/32"]
media_sources = ["127.0.0.1/32"]      # softphones bind no address for RTP: the bridge must latch

[platforms.assistant]
profile = "generic-platform"
hosts = ["{host}.21:5060;transport=udp"]
sources = ["{host}.21/32"]

[platforms.second]
profile = "generic-platform"
hosts = ["{host}.22:5060;transport=udp"]
sources = ["{host}.22/32"]

[platforms.impatient]
profile = "generic-platform"
hosts = ["{host}.23:5060;transport=udp"]
sources = ["{host}.23/32"]
ring_deadline = 2.0

[platforms.challenging]
profile = "generic-platform"
hosts = ["{host}.24:5060;transport=udp"]
sources = ["{host}.24/32"]
authentication = "any"

[[routes]]
name = "two targets"
from = "trunk"
number = "+14155550200"
to = ["assistant", "second"]

[[routes]]
name = "impatient"
from = "trunk"
number = "+14155550300"
to = ["impatient"]

[[routes]]
name = "challenging"
from = "trunk"
number = "+14155550400"
to = ["challenging"]

[[routes]]
name = "everything else"
from = "trunk"
number = "*"
to = ["assistant"]
"""


class NotApplicable(Exception):
    """Report why a case says nothing here, and what would enable it."""


class Kept(Protocol):
    """What cases leave for those that follow; closed with the ground."""

    def close(self) -> None: ...


class Ground:
    """Give cases a bridge and peers; what a case opened is closed when it ends.

    ``against`` names a bridge that somebody else runs, set up as `config_for_others` says; else one is started on
    first use. ``thorough``: full loads and sweeps instead of the short ones of a test run.
    """

    def __init__(self, against: Address | None = None, thorough: bool = True) -> None:
        self.against = against
        self.thorough = thorough
        self.stage = Stage()
        if against is not None:
            self.stage.network = "127.0.0"
        self.chosen: frozenset[str] = frozenset()  # the ids of all cases of this run, where that is known
        self.kept: dict[str, Kept] = {}  # what several cases share, by name
        self._bridge: Bridge | None = None
        self._peers: list[Peer] = []
        self._bridges = 0

    def __enter__(self) -> Self:
        self.stage.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_case()
        for kept in self.kept.values():
            kept.close()
        self.stage.__exit__(kind, error, trace)

    @property
    def bridge(self) -> Bridge:
        """The bridge's own process. Raises NotApplicable if it is not ours."""
        if self.against is not None:
            raise NotApplicable("needs the bridge's process and admin API; run without --against")
        if self._bridge is None or not self._bridge.alive:
            self._bridge = self.another_bridge()
        return self._bridge

    @property
    def address(self) -> Address:
        """Where the bridge takes SIP over UDP."""
        return self.against or self.bridge.sip

    def another_bridge(self, ports: str = "20000-21999") -> Bridge:
        """Start a bridge with a range of media ports in place of the one that is there."""
        return self.bridge_with(lambda name: config(self.stage.network, str(self.stage.directory), name, ports))

    def bridge_with(self, text: Callable[[str], str]) -> Bridge:
        """Start a bridge with a configuration of its own in place of the one that is there; ``text`` takes its name."""
        if self.against is not None:
            raise NotApplicable("needs a bridge with a configuration of its own; run without --against")
        self.bridge_gone()
        self._bridges += 1
        name = f"bridge{self._bridges}"
        self._bridge = self.stage.bridge(text(name), name)
        return self._bridge

    def bridge_died(self) -> str:
        """Return what the bridge said last if it ended by itself, else an empty string."""
        if self._bridge is None or self._bridge.alive:
            return ""
        said = self._bridge.complaints()
        status, self._bridge = self._bridge.popen.returncode, None
        return f"status {status}" + (f", {said[-1]}" if said else "")

    def bridge_gone(self) -> None:
        """End the bridge that is there."""
        if self._bridge is not None:
            self._bridge.stop(1.0)
            self._bridge = None

    # Peers.

    def peer(self, last: int, port: int, name: str) -> Peer:
        """Open a peer on the address that ends with ``last``. Raises NotApplicable if that is taken."""
        try:
            peer = Peer(self.stage.host(last), port, name)
        except OSError as error:
            raise NotApplicable(f"{self.stage.host(last)}:{port} cannot be bound ({error.strerror})") from None
        self._peers.append(peer)
        return peer

    def carrier(self, port: int = 0) -> Peer:
        """Open a peer at the carrier's address, on any port: it is known by its address."""
        return self.peer(11, port, "the carrier")

    def platform(self, last: int = 21) -> Peer:
        """Open a peer where the bridge sends the calls of a platform: 21 assistant, 22 second, 23 impatient, 24 …"""
        return self.peer(last, 5060, "the platform" if last == 21 else f"platform .{last}")

    def stranger(self) -> Peer:
        """Open a peer at an address that no carrier or platform owns."""
        return self.peer(99, 0, "the stranger")

    def connect(
        self, carrier: Peer, platform: Peer, number: str = NUMBER, caller_number: str = CALLER
    ) -> tuple[Leg, Leg]:
        """Set up one call from carrier to platform; return both legs as the peers see them."""
        caller = carrier.invite(self.address, number, caller_number)
        caller.invite()
        callee = platform.take(platform.expect("INVITE", 3.0, caller=caller_number))
        callee.respond(180, "Ringing")
        carrier.expect("180 INVITE", call_id=caller.call_id)
        callee.answer()
        caller.acknowledge(carrier.expect("200 INVITE", call_id=caller.call_id))
        platform.expect("ACK", call_id=callee.call_id)
        return caller, callee

    def disconnect(self, caller: Leg, callee: Leg) -> None:
        """End a call from the carrier's side and see it end on the platform's."""
        caller.request("BYE")
        bye = callee.peer.expect("BYE", call_id=callee.call_id)
        callee.respond(200, "OK", to=bye)
        caller.peer.expect("200 BYE", call_id=caller.call_id)

    def end_case(self) -> None:
        """Close the peers of the case that ended."""
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.close()
        self._peers.clear()

    # What is left.

    def idle(self, within: float = 10.0) -> None:
        """Wait until the bridge has no call and no media port in use. Raises Unmet if something stays."""
        deadline = time.monotonic() + within
        calls = ports = -1.0
        while time.monotonic() < deadline:
            calls, ports = self.bridge.metric("calls_active"), self.bridge.metric("media_ports_in_use")
            if calls == 0 and ports == 0:
                return
            time.sleep(0.2)
        raise Unmet(f"{calls:.0f} calls and {ports:.0f} media ports are still held after {within:g} s")

    def record(self, call_id: str, within: float = 5.0) -> dict[str, Any]:
        """Return the record of the call whose carrier leg has this Call-ID. Raises Unmet if none is written."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            for record in self.bridge.records():
                if record["legs"]["carrier"]["call_id"] == call_id:
                    return record
            time.sleep(0.1)
        raise Unmet(f"no record of the call was written within {within:g} s")


def config(network: str, directory: str, name: str, ports: str, admin_port: int = 0) -> str:
    """Return the configuration of the bridge that the cases expect."""
    return _CONFIG.format(
        host=network,
        directory=directory,
        name=name,
        listen=", ".join((*(f'"udp:{network}.{last}:5060"' for last in (2, 3, 4)), f'"tcp:{network}.2:5060"')),
        ports=ports,
        admin_port=admin_port or free_port("127.0.0.1", socket.SOCK_STREAM),
    )


def config_for_others() -> str:
    """Return the configuration that a bridge needs for ``--against``."""
    return config("127.0.0", "/tmp", "conformance", "20000-21999", 9060)


_REMEDIES = {
    "sipp": "apt-get install sip-tester",
    "stunnel": "apt-get install stunnel4",
    "tshark": "apt-get install tshark",
    "baresip": "apt-get install baresip-core",
    "dnsmasq": "apt-get install dnsmasq-base",
}


def tool(name: str) -> str:
    """Return the path of an independent party's program. Raises NotApplicable with how to get it."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if path is None:
        raise NotApplicable(f"{name} is not installed: {_REMEDIES.get(name, f'install {name}')}")
    return path


def corpus(name: str) -> Path:
    """Return the directory of a torture corpus. Raises NotApplicable where it is absent."""
    for directory in (Path.cwd(), Path(__file__).resolve().parent.parent):
        found = directory.parent / "shared" / "corpora" / name
        if found.is_dir():
            return found
    raise NotApplicable(f"the corpus {name} is not there: put it at ../shared/corpora/{name} beside the checkout")
