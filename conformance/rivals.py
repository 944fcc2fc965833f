"""The peers that benchmarks measure beside the bridge: rtpengine, Kamailio and sippy's B2BUA."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conformance import sip
from conformance.stage import Address, Process, Stage, free_port


class Absent(Exception):
    """Report that a peer is not installed, and how to get it."""


def session_cpu(process: Process) -> float:
    """Return the processor seconds of a process and of those it forked: all of its session (proc(5))."""
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == process.pid:
                total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def version(command: Sequence[str]) -> str:
    """Return the first version-like word that a program prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "?"
    found = re.search(r"\d+(?:\.\d+)+", done.stdout + done.stderr)
    return found.group(0) if found else "?"


def bencode(value: Any) -> bytes:
    """Encode what rtpengine's ng protocol needs: dictionaries, lists and strings."""
    if isinstance(value, Mapping):
        return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"
    if isinstance(value, list | tuple):
        return b"l" + b"".join(bencode(one) for one in value) + b"e"
    data = str(value).encode()
    return b"%d:%s" % (len(data), data)


def bdecode_string(data: bytes, key: str) -> str:
    """Return the string that follows a key in a bencoded dictionary, empty if it is not there."""
    found = re.search(rb"%d:%s(\d+):" % (len(key), key.encode()), data)
    if not found:
        return ""
    start = found.end()
    return data[start : start + int(found.group(1))].decode()


class Rtpengine:
    """rtpengine in userspace (``--table=-1``), driven by its ng protocol."""

    def __init__(self, stage: Stage, host: str) -> None:
        """Start it. Raises Absent."""
        program = shutil.which("rtpengine")
        if program is None:
            raise Absent("rtpengine is not installed: apt-get install rtpengine-daemon")
        self.control = ("127.0.0.1", free_port("127.0.0.1"))
        command = [program, "--table=-1", f"--interface={host}", "--foreground", "--log-stderr", "--log-level=3"]
        command += [f"--listen-ng={self.control[0]}:{self.control[1]}", "--port-min=30000", "--port-max=39999"]
        self.process = stage.start("rtpengine", command)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(1.0)
        deadline = time.monotonic() + 10.0
        while b"pong" not in self._ask({"command": "ping"}):
            if time.monotonic() > deadline or not self.process.alive:
                raise Absent(f"rtpengine does not answer: {' '.join(self.process.complaints()[-1:])}")

    def _ask(self, command: Mapping[str, Any]) -> bytes:
        self._socket.sendto(sip.token().encode() + b" " + bencode(command), self.control)
        try:
            return self._socket.recv(65536)
        except OSError:
            time.sleep(0.1)
            return b""

    def session(self, carrier: Address, platform: Address) -> tuple[Address, Address]:
        """Open a media session between two addresses; return where each of them sends to."""
        call_id, tags = sip.token(), (sip.token(), sip.token())
        common = {"call-id": call_id, "from-tag": tags[0], "ICE": "remove", "replace": ["origin", "session-connection"]}
        offer = self._ask({**common, "command": "offer", "sdp": sip.sdp(carrier, (0,))})
        answer = self._ask({**common, "command": "answer", "to-tag": tags[1], "sdp": sip.sdp(platform, (0,))})
        ends = []
        for reply in (answer, offer):  # the answer's rewritten SDP goes to the carrier, the offer's to the platform
            audio = sip.read_sdp(bdecode_string(reply, "sdp").encode())
            if audio is None:
                raise Absent(f"rtpengine refused a session: {reply[:120]!r}")
            ends.append(audio.address)
        return ends[0], ends[1]


_KAMAILIO = """\
#!KAMAILIO
debug=0
log_stderror=yes
fork=yes
children=1
disable_tcp=yes
auto_aliases=no
listen=udp:{host}:5060
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "siputils.so"
loadmodule "textops.so"
{modules}request_route {{
    if (!mf_process_maxfwd_header("10")) {{ sl_send_reply("483", "Too Many Hops"); exit; }}
    if (has_totag()) {{
        {ended}if (!loose_route()) {{ $du = "sip:{platform}:5060"; }}
        t_relay();
        exit;
    }}
    record_route();
    {offer}$du = "sip:{platform}:5060";
    t_relay();
}}
"""
_KAMAILIO_MEDIA = {
    "modules": """\
loadmodule "rtpengine.so"
modparam("rtpengine", "rtpengine_sock", "udp:{control}")
onreply_route[answered] {{
    if (has_body("application/sdp")) {{ rtpengine_answer("replace-origin replace-session-connection ICE=remove"); }}
}}
""",
    "offer": """\
rtpengine_offer("replace-origin replace-session-connection ICE=remove");
    t_on_reply("answered");
    """,
    "ended": """\
if (is_method("BYE")) {{ rtpengine_delete(); }}
        """,
}


def kamailio(stage: Stage, host: str, platform: str, media: Address | None = None) -> tuple[Process, str]:
    """Start Kamailio as a stateful, record-routing proxy with one worker. Raises Absent.

    ``media`` is the control address of an rtpengine through which the media of every call then goes.
    """
    program = shutil.which("kamailio") or next(iter(map(str, Path("/usr/sbin").glob("kamailio"))), None)
    if program is None:
        raise Absent("kamailio is not installed: apt-get install kamailio")
    path = stage.directory / "kamailio.cfg"
    control = f"{media[0]}:{media[1]}" if media is not None else ""
    parts = {name: part.format(control=control) if media else "" for name, part in _KAMAILIO_MEDIA.items()}
    path.write_text(_KAMAILIO.format(host=host, platform=platform, **parts))
    command = [program, "-f", str(path), "-DD", "-E", "-P", str(stage.directory / "kamailio.pid")]
    process = stage.start("kamailio", [*command, "-Y", str(stage.directory)])
    return process, version([program, "-v"])


BENCH_VENV = Path(".venv-bench")


def sippy(stage: Stage, host: str, platform: str) -> tuple[Process, str]:
    """Start sippy's B2BUA without a media proxy. Raises Absent."""
    python = BENCH_VENV.resolve() / "bin" / "python"
    if not python.exists():
        raise Absent("sippy is not installed: trunkbridge bench --install-peers puts it into .venv-bench")
    command = [str(python), "-m", "sippy.b2bua_simple", "-f", "-n", f"{platform}:5060", "-l", host, "-p", "5060"]
    process = stage.start("sippy", command, SIPLOG_BEND="none", SIPLOG_LVL="CRIT")
    ask = "import importlib.metadata as m; print(m.version('sippy'))"
    return process, version([str(python), "-c", ask])


def install_peers() -> str:
    """Install sippy into a virtual environment of its own; return what happened."""
    python = BENCH_VENV / "bin" / "python"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(BENCH_VENV)], check=True, timeout=120)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "sippy"]
        done = subprocess.run(install, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        return f"sippy could not be installed: {error}"
    return "sippy is in .venv-bench" if done.returncode == 0 else f"pip: {done.stderr.strip().splitlines()[-1:]}"
