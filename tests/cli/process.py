"""A bridge as its own process, on loopback with ports of the system's choice."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CANARY = "canary-password"

CONFIG = """\
[node]
name = "lab"
state_dir = "state"
[sip]
listen = ["{listen}"]
advertise = "{advertise}"
[media]
address = "127.0.0.1"
ports = "{ports}"
[admin]
listen = "{admin}"
{token}
[carriers.main]
profile = "generic-carrier"
hosts = ["127.0.0.91:5091"]
username = "bridge"
password = "canary-password"
[platforms.support]
profile = "generic-platform"
user = "agent"
hosts = ["127.0.0.92:5092"]
[[routes]]
name = "support line"
from = "main"
number = "+1415*"
to = ["support"]
"""
READY = re.compile(
    r"ready node=(?P<node>\S+) sip=udp:(?P<host>[0-9.]+):(?P<port>\d+)(?P<others>(?:,(?:udp|tcp|tls):\S+:\d+)*)"
    r" media=(?P<media>[0-9.]+:\d+-\d+) admin=(?P<admin>http://[0-9.]+:\d+)\n"
)


def write_config(
    directory: Path,
    listen: str = "udp:127.0.0.1:0",
    advertise: str = "auto",
    ports: str = "34000-34099",
    admin: str = "127.0.0.1:0",
    token: str = "",
) -> Path:
    """Write a configuration with one carrier, one platform and one route."""
    path = directory / "trunkbridge.toml"
    token_line = f'token = "{token}"' if token else ""
    path.write_text(CONFIG.format(listen=listen, advertise=advertise, ports=ports, admin=admin, token=token_line))
    path.chmod(0o600)
    return path


@dataclass
class Bridge:
    """A running bridge: what its ready line says, and its process."""

    process: subprocess.Popen[str]
    ready: str
    sip: tuple[str, int]
    admin: str

    def log_until(self, phrase: str) -> None:
        """Read the log up to the line that has the phrase."""
        assert self.process.stderr is not None
        while phrase not in (line := self.process.stderr.readline()):
            assert line, f"the log ended without {phrase!r}"

    def stop(self) -> tuple[int, str, str]:
        """Send SIGTERM; return exit status and the rest of stdout and stderr."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bridge", *arguments]


def invoke(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=30, env={**os.environ, **(environment or {})}
    )


@contextmanager
def running(config: Path, options: Sequence[str] = ()) -> Iterator[Bridge]:
    """Start a bridge, wait for its ready line, and see to it that it ends."""
    process = subprocess.Popen(
        command("run", str(config), *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = READY.fullmatch(line)
        if match is None:
            process.kill()
            raise AssertionError(f"no ready line but {line!r}, and {process.communicate()[1]}")
        yield Bridge(process, line, (match["host"], int(match["port"])), match["admin"])
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
