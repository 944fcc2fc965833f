"""Registrations of a real process, ours over UDP and TCP, a platform's over TCP (D24, R25)."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge.sip.digest import DigestClient
from bridge.sip.message import Request, Response, parse
from tests.cli.process import Bridge, invoke, running
from tests.harness.network import SeededTokens

pytestmark = pytest.mark.sockets

HERE, CARRIER = "127.4.0.1", "127.4.0.2"
CONFIG = """\
[node]
name = "lab"
state_dir = "state"
[sip]
listen = ["udp:{here}:0", "tcp:{here}:0"]
advertise = "{here}"
[media]
address = "127.0.0.1"
ports = "34300-34319"
[admin]
listen = "127.0.0.1:0"
[carriers.main]
hosts = ["{carrier}:{port};transport={transport}"]
register = true
register_expires = 600
username = "trunk"
password = "secret"
[platforms.agents]
registers = true
inbound_username = "agent"
inbound_password = "attach"
[[routes]]
name = "line"
from = "main"
to = ["agents"]
"""


class Wire:
    """One end of a SIP conversation over a real socket, whatever its transport."""

    def __init__(self, transport: str, connection: socket.socket, remote: Any = None) -> None:
        self.transport, self.socket, self.remote = transport, connection, remote
        self.socket.settimeout(10)
        self._buffer = b""

    def receive(self) -> Request | Response:
        if self.transport == "udp":
            data, self.remote = self.socket.recvfrom(65535)
            return parse(data)
        while b"\r\n\r\n" not in (ready := self._buffer.lstrip(b"\r\n")) or len(ready) < _length(ready):
            data = self.socket.recv(65535)
            if not data:
                raise ConnectionError
            self._buffer += data
        self._buffer = ready[_length(ready) :]
        return parse(ready[: _length(ready)])

    def request(self, method: str) -> Request:
        """Return the next request of that method."""
        while not (isinstance(message := self.receive(), Request) and message.method == method):
            pass
        return message

    def response(self, method: str) -> Response:
        while not (isinstance(message := self.receive(), Response) and message.cseq.method == method):
            pass
        return message

    def send(self, data: bytes) -> None:
        if self.transport == "udp":
            self.socket.sendto(data, self.remote)
        else:
            self.socket.sendall(data)

    def respond(self, request: Request, status: int, **headers: str) -> None:
        lines = [
            f"SIP/2.0 {status} Reason",
            *(f"{name}: {request.headers.get(name)}" for name in ("Via", "From", "Call-ID", "CSeq")),
            f"To: {request.headers.get('To')};tag=registrar",
            *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
            "Content-Length: 0",
        ]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode())


def _length(data: bytes) -> int:
    head, _, _ = data.partition(b"\r\n\r\n")
    found = re.search(rb"\r\n(?:Content-Length|l)[ \t]*:[ \t]*(\d+)", head, re.IGNORECASE)
    return len(head) + 4 + (int(found[1]) if found else 0)


@contextmanager
def registrar(transport: str) -> Iterator[tuple[int, Callable[[], Wire]]]:
    """Listen like a carrier's registrar; yield the port and what waits for the next conversation."""
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_INET, kind))
        listener.bind((CARRIER, 0))
        listener.settimeout(10)
        if transport == "tcp":
            listener.listen()

        def wait() -> Wire:
            if transport == "udp":
                return Wire("udp", listener)
            return Wire("tcp", stack.enter_context(listener.accept()[0]))

        yield listener.getsockname()[1], wait


def configured(directory: Path, port: int, transport: str) -> Path:
    path = directory / "trunkbridge.toml"
    path.write_text(CONFIG.format(here=HERE, carrier=CARRIER, port=port, transport=transport))
    path.chmod(0o600)
    return path


def accept(wire: Wire, challenged: bool = True) -> Request:
    """Challenge a REGISTER, see that the answer is there, and accept it."""
    request = wire.request("REGISTER")
    if challenged:
        wire.respond(request, 401, WWW_Authenticate='Digest realm="carrier", nonce="n1", qop="auth", algorithm=SHA-256')
        request = wire.request("REGISTER")
    assert 'username="trunk"' in (request.headers.get("Authorization") or "")
    wire.respond(request, 200, Contact=f"{request.headers.get('Contact')};expires=600")
    return request


def trunks(bridge: Bridge) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{bridge.admin}/api/v1/trunks", timeout=10) as answer:
        found: list[dict[str, Any]] = json.loads(answer.read())["trunks"]
        return found


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_process_registers_with_its_carrier_and_takes_its_leave(tmp_path: Path, transport: str) -> None:
    """R25, D24: and shows its state in the API, in the metrics and to Prometheus."""
    with registrar(transport) as (port, wait), running(configured(tmp_path, port, transport)) as bridge:
        wire = wait()
        first = accept(wire)
        contact = first.contact
        assert contact is not None
        assert contact.uri.user == "trunk"
        assert contact.uri.transport == (None if transport == "udp" else "tcp")
        until(lambda: trunks(bridge)[0]["registration"]["state"] == "registered")
        listing = invoke("trunks", environment={"TRUNKBRIDGE_ADMIN": bridge.admin}).stdout
        assert re.search(r"main .*registered since \d\d:\d\d:\d\d, until .*unknown", listing), listing
        assert re.search(r"agents .*not registered", listing), listing
        with urllib.request.urlopen(f"{bridge.admin}/metrics", timeout=10) as answer:
            assert b'trunkbridge_registrations{carrier="main",state="registered"} 1.0' in answer.read()
        bridge.process.send_signal(signal.SIGTERM)
        last = wire.request("REGISTER")
        assert last.headers.get("Expires") == "0"
        assert last.call_id == first.call_id
        assert last.cseq.number > first.cseq.number
        wire.respond(last, 200)
        code, _, log = bridge.wait()
        assert code == 0, log


def test_a_connection_that_the_carrier_closes_is_registered_over_anew(tmp_path: Path) -> None:
    """R25, D17: within the five seconds that lie between two tries."""
    with registrar("tcp") as (port, wait), running(configured(tmp_path, port, "tcp")) as bridge:
        wire = wait()
        first = accept(wire)
        until(lambda: trunks(bridge)[0]["registration"]["state"] == "registered")
        wire.socket.close()
        again = accept(wait(), challenged=False)
        assert again.call_id == first.call_id
        until(lambda: trunks(bridge)[0]["registration"]["state"] == "registered")


def test_a_platform_registers_over_tcp_and_its_calls_come_over_that_connection(tmp_path: Path) -> None:
    """D24, D9: from an address that no configuration names, by its password."""
    with (
        registrar("udp") as (port, wait),
        running(configured(tmp_path, port, "udp")) as bridge,
        socket.create_connection((HERE, _tcp_port(bridge)), source_address=("127.4.0.3", 0)) as connection,
    ):
        agent = Wire("tcp", connection)
        asked = _register(agent, 1)
        challenge = agent.response("REGISTER")
        assert challenge.status == 401
        header = DigestClient("agent", "attach", SeededTokens()).authorize(asked, challenge)
        assert header is not None
        _register(agent, 2, f"Authorization: {header.value}\r\n")
        assert agent.response("REGISTER").status == 200
        assert [one["contact"] for one in trunks(bridge)[1]["bindings"]] == ["sip:agent@10.0.0.5:5060;transport=tcp"]
        carrier = wait()
        accept(carrier)
        carrier.remote = bridge.sip
        carrier.send(
            f"INVITE sip:+14155550100@{HERE} SIP/2.0\r\nVia: SIP/2.0/UDP {CARRIER}:{port};branch=z9hG4bKi\r\n"
            f"From: <sip:+14155550199@{CARRIER}>;tag=c\r\nTo: <sip:+14155550100@{HERE}>\r\nCall-ID: c\r\n"
            f"CSeq: 1 INVITE\r\nContact: <sip:c@{CARRIER}:{port}>\r\nContent-Length: 0\r\n\r\n".encode()
        )
        offered = agent.request("INVITE")
        assert offered.uri == "sip:agent@10.0.0.5:5060;transport=tcp"


def _tcp_port(bridge: Bridge) -> int:
    found = re.search(r"tcp:[0-9.]+:(\d+)", bridge.ready)
    assert found is not None
    return int(found[1])


def _register(agent: Wire, cseq: int, extra: str = "") -> Request:
    data = (
        f"REGISTER sip:{HERE} SIP/2.0\r\nVia: SIP/2.0/TCP 10.0.0.5:5060;branch=z9hG4bKr{cseq};rport\r\n"
        f"From: <sip:agent@{HERE}>;tag=a\r\nTo: <sip:agent@{HERE}>\r\nCall-ID: r\r\nCSeq: {cseq} REGISTER\r\n"
        f"Contact: <sip:agent@10.0.0.5:5060;transport=tcp>\r\n{extra}Content-Length: 0\r\n\r\n"
    ).encode()
    agent.send(data)
    request = parse(data)
    assert isinstance(request, Request)
    return request
