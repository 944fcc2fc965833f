"""TLS for a SIPp that has none: one stunnel before all parties of an arena, with mutual certificates both ways."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from conformance.kamailio import certificates
from conformance.stage import Address, Process, Stage, StageError

_COMMON = """\
foreground = yes
pid =
debug = err
cert = {directory}/peers.pem
key = {directory}/peers.key
CAfile = {directory}/authority.pem
verifyChain = yes
TIMEOUTclose = 0
"""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """One way through: TLS toward the bridge where ``source`` is set, which is then the address it comes from."""

    accept: Address
    connect: Address
    source: str = ""


def program() -> str | None:
    """Return the path of stunnel, None where it is not installed."""
    return shutil.which("stunnel") or shutil.which("stunnel4")


def keys(stage: Stage) -> Path:
    """Make what the bridge (bridge.pem, bridge.key) and its peers show, and the authority that both trust."""
    return certificates(stage.directory / "sipp-tls", bridge="bridge.test", peers="peers.test")


def start(stage: Stage, name: str, directory: Path, tunnels: Iterable[Tunnel]) -> Process:
    """Start stunnel with these tunnels. Raises StageError."""
    path = stage.directory / f"{name}.conf"
    path.write_text(_COMMON.format(directory=directory) + "".join(map(_service, tunnels)))
    found = program()
    if found is None:
        raise StageError("stunnel is not installed: apt-get install stunnel4")
    return stage.start(name, [found, str(path)])


def _service(tunnel: Tunnel) -> str:
    lines = [f"[{tunnel.accept[0]}:{tunnel.accept[1]}]", f"accept = {tunnel.accept[0]}:{tunnel.accept[1]}"]
    lines.append(f"connect = {tunnel.connect[0]}:{tunnel.connect[1]}")
    if tunnel.source:
        lines += ["client = yes", f"local = {tunnel.source}"]
    return "\n" + "\n".join(lines) + "\n"
