"""Processes and addresses for a run on loopback: the bridge, its parties, and nothing of them left afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Address = tuple[str, int]

_PR_SET_PDEATHSIG = 1  # prctl(2)
_ROOT = Path(__file__).resolve().parent.parent


class StageError(Exception):
    """Report that a process of the run could not be started or did not do its part, in one sentence."""


def free_network() -> str:
    """Return the first three numbers of a 127.x.y.0/24 in which nobody listens on the SIP port.

    Each run has addresses of its own, so that two of them on one machine never meet.
    """
    for _ in range(100):
        prefix = f"127.{random.randrange(16, 250)}.{random.randrange(1, 250)}"
        if all(can_bind((f"{prefix}.{last}", 5060)) for last in (2, 11, 21)):
            return prefix
    raise StageError("no free addresses in 127.0.0.0/8: something listens on UDP port 5060 of every address")


def can_bind(address: Address) -> bool:
    """Tell whether a UDP socket can have this address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(address)
        except OSError:
            return False
    return True


def free_port(host: str, kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    """Return a port of ``host`` that nobody has at the moment."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    # A run that is killed with SIGKILL must not leave a bridge behind.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """One child process with its output: lines of stdout on request, stderr in a file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        directory: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it in ``directory``. Raises StageError if it cannot be started."""
        self.name = name
        self.stderr_path = directory / f"{name}.stderr"
        self._lines: queue.Queue[str | None] = queue.Queue()
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
        try:
            with self.stderr_path.open("wb") as stderr:
                self.popen = subprocess.Popen(
                    list(command),
                    cwd=directory,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                    env={**os.environ, "PYTHONPATH": path, **(environment or {})},
                    # Its own session: Ctrl-C reaches the run, which then ends its processes in order.
                    start_new_session=True,
                    preexec_fn=_die_with_parent,
                )
        except OSError as error:
            raise StageError(f"{name} cannot be started: {error.strerror or error}") from None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        with contextlib.suppress(ValueError, OSError), self.popen.stdout:
            for line in self.popen.stdout:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def line(self, within: float) -> str | None:
        """Return the next line of stdout; None at its end or after ``within`` seconds."""
        try:
            return self._lines.get(timeout=max(0.0, within))
        except queue.Empty:
            return None

    def wait_for(self, pattern: str, within: float) -> re.Match[str]:
        """Return the match of the first line that has it. Raises StageError with what stderr said."""
        deadline = time.monotonic() + within
        while (left := deadline - time.monotonic()) > 0:
            line = self.line(min(left, 0.5))
            if line is None:
                if not self.alive:
                    break
                continue
            if found := re.search(pattern, line):
                return found
        said = self.complaints()
        state = "did not get ready" if self.alive else f"ended with status {self.popen.returncode}"
        raise StageError(f"{self.name} {state}" + (f": {said[-1]}" if said else ""))

    def complaints(self) -> list[str]:
        """Return what it wrote to stderr."""
        with contextlib.suppress(OSError):
            return [line for line in self.stderr_path.read_text(errors="replace").splitlines() if line.strip()]
        return []

    def tell(self, line: str) -> None:
        """Write a line to its stdin."""
        assert self.popen.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self.popen.stdin.write(line + "\n")
            self.popen.stdin.flush()

    def stop(self, patience: float = 3.0) -> int:
        """End it: close stdin and SIGTERM, again, then SIGKILL; return its exit status."""
        with contextlib.suppress(OSError, ValueError):
            assert self.popen.stdin is not None
            self.popen.stdin.close()
        for number, wait in ((signal.SIGTERM, patience), (signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
            if self.popen.poll() is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                self.popen.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(wait)
        status = self.popen.wait(5.0)
        self._reader.join(2.0)
        return status

    def kill(self) -> None:
        """End it at once, as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            self.popen.kill()
        self.stop(0.0)

    # What the kernel says of it.

    def cpu_seconds(self) -> float:
        """Return the user and system time of all its threads (proc(5), stat fields 14 and 15)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> list[str]:
        """Return what its open file descriptors are: a path, or a kind with an inode number."""
        found = []
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(OSError):
                found.append(os.readlink(f"/proc/{self.pid}/fd/{name}"))
        return sorted(found)

    def threads(self) -> int:
        """Count its threads."""
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def resident_kb(self) -> int:
        """Return its resident memory in kB."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        return int(found.group(1)) if found else 0


class Bridge(Process):
    """The bridge under test: ``python -m bridge run CONFIG`` in a process of its own."""

    def __init__(self, config: str, directory: Path, name: str = "bridge") -> None:
        path = directory / f"{name}.toml"
        path.write_text(config)
        super().__init__(name, [sys.executable, "-m", "bridge", "run", str(path)], directory)
        self.admin = ""
        self.sip: Address = ("", 0)

    def wait_ready(self, within: float = 20.0) -> None:
        """Wait for the ready line and learn the addresses from it. Raises StageError."""
        found = self.wait_for(r"^ready .*\bsip=udp:([\d.]+):(\d+).*\badmin=(\S+)", within)
        self.sip, self.admin = (found.group(1), int(found.group(2))), found.group(3)

    def api(self, path: str, within: float = 5.0) -> Any:
        """Ask the admin API. Raises StageError."""
        try:
            with urllib.request.urlopen(f"{self.admin}{path}", timeout=within) as answer:
                return json.load(answer)
        except (OSError, ValueError) as error:
            raise StageError(f"the admin API did not answer {path}: {error}") from None

    def records(self) -> list[dict[str, Any]]:
        """Return the records of the calls that have ended."""
        answer = self.api("/api/v1/records?limit=10000")
        found = answer if isinstance(answer, list) else answer.get("records", [])
        return [dict(record) for record in found]

    def calls(self) -> list[dict[str, Any]]:
        """Return the calls that are up."""
        answer = self.api("/api/v1/calls?state=active")
        found = answer if isinstance(answer, list) else answer.get("calls", [])
        return [dict(call) for call in found]

    def metrics(self) -> dict[str, float]:
        """Return every sample of /metrics, keyed as it stands there: ``name{label="value"}``."""
        try:
            with urllib.request.urlopen(f"{self.admin}/metrics", timeout=5.0) as answer:
                text = answer.read().decode()
        except OSError as error:
            raise StageError(f"the bridge did not answer /metrics: {error}") from None
        samples = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                key, _, value = line.rpartition(" ")
                samples[key] = float(value)
        return samples

    def metric(self, name: str, **labels: str) -> float:
        """Add up the samples of ``trunkbridge_<name>`` that have these labels."""
        total = 0.0
        for key, value in self.metrics().items():
            if key.partition("{")[0] == f"trunkbridge_{name}" and all(
                f'{label}="{wanted}"' in key for label, wanted in labels.items()
            ):
                total += value
        return total


class Stage:
    """One run: its network, its directory, its processes. Leaving it ends every process and removes the directory."""

    def __init__(self, keep: bool = False) -> None:
        self.network = free_network()
        self.directory = Path(tempfile.mkdtemp(prefix="trunkbridge-"))
        self.keep = keep
        self.processes: list[Process] = []

    def host(self, last: int) -> str:
        """Return the address of this run that ends with ``last``."""
        return f"{self.network}.{last}"

    def bridge(self, config: str, name: str = "bridge") -> Bridge:
        """Start a bridge and wait until it is ready. Raises StageError."""
        bridge = Bridge(config, self.directory, name)
        self.processes.append(bridge)
        bridge.wait_ready()
        return bridge

    def start(self, name: str, command: Sequence[str], **environment: str) -> Process:
        """Start another process of the run. Raises StageError."""
        process = Process(name, command, self.directory, environment)
        self.processes.append(process)
        return process

    def party(self, name: str, settings: Mapping[str, Any]) -> Process:
        """Start a carrier or a platform and wait until it is ready. Raises StageError."""
        path = self.directory / f"{name}.json"
        path.write_text(json.dumps({**settings, "name": name, "out": str(self.directory)}))
        process = self.start(name, [sys.executable, "-m", "conformance.party", str(path)])
        process.wait_for(r'"event": "ready"', within=40.0)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self.processes):
            with contextlib.suppress(Exception):
                process.stop(1.0)
        if not self.keep:
            shutil.rmtree(self.directory, ignore_errors=True)
