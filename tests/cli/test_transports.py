"""A real bridge speaks SIP over UDP, TCP and TLS, each with its own listener in Via and Contact."""

from __future__ import annotations

import re
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from tests.cli.process import Bridge, running, write_config
from tests.net.certificates import Authority, authority
from tests.net.streams import client_context

pytestmark = pytest.mark.sockets

KNOWN = "127.0.0.91"
"""The carrier of the configuration."""
OURS = "127.1.0.9"


def options(transport: str, source: tuple[str, int]) -> bytes:
    host = f"{source[0]}:{source[1]}"
    return (
        f"OPTIONS sip:{OURS} SIP/2.0\r\nVia: SIP/2.0/{transport} {host};branch=z9hG4bK-{transport}\r\n"
        f"From: <sip:a@{host}>;tag=1\r\nTo: <sip:{OURS}>\r\nCall-ID: {transport}@{host}\r\nCSeq: 1 OPTIONS\r\n"
        f"Contact: <sip:a@{host}>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    ).encode()


@contextmanager
def bridge(tmp_path: Path, ca: Authority) -> Iterator[tuple[Bridge, dict[str, tuple[str, int]]]]:
    certificate, key = ca.issue("bridge", names=("bridge.example.com",))
    listen = '", "'.join(f"{transport}:{OURS}:0" for transport in ("udp", "tcp", "tls"))
    path = write_config(tmp_path, listen=listen, advertise="bridge.example.com")
    shutil.copy(certificate, tmp_path / "chain.pem")
    shutil.copy(key, tmp_path / "key.pem")
    text = path.read_text().replace("[media]", '[sip.tls]\ncertificate = "chain.pem"\nprivate_key = "key.pem"\n[media]')
    path.write_text(text)
    with running(path) as process:
        places = re.findall(r"(udp|tcp|tls):([0-9.]+):(\d+)", process.ready)
        yield process, {transport: (host, int(port)) for transport, host, port in places}


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return authority(tmp_path)


def connect(place: tuple[str, int]) -> socket.socket:
    return socket.create_connection(place, 5, (KNOWN, 0))


def answer(sock: socket.socket, transport: str) -> bytes:
    sock.settimeout(5)
    sock.sendall(options(transport, sock.getsockname()))
    return sock.recv(4096)


def test_each_transport_answers_and_a_stranger_gets_nothing(tmp_path: Path, ca: Authority) -> None:
    with bridge(tmp_path, ca) as (process, places):
        assert list(places) == ["udp", "tcp", "tls"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind((KNOWN, 0))
            udp.connect(places["udp"])
            assert answer(udp, "UDP").startswith(b"SIP/2.0 200")
        with connect(places["tcp"]) as tcp:
            assert answer(tcp, "TCP").startswith(b"SIP/2.0 200")
            tcp.sendall(b"\r\n\r\n")
            assert tcp.recv(10) == b"\r\n"
        context = client_context(ca.path)
        with context.wrap_socket(connect(places["tls"]), server_hostname="bridge.example.com") as tls:
            assert answer(tls, "TLS").startswith(b"SIP/2.0 200")
        with socket.create_connection(places["tcp"], 5, ("127.1.0.66", 0)) as stranger:
            assert stranger.recv(10) == b""
        status, _, log = process.stop()
        assert status == 0
        assert "Traceback" not in log


def test_f06_sighup_takes_a_new_certificate_and_keeps_the_old_one_if_it_is_bad(tmp_path: Path, ca: Authority) -> None:
    """F06: connections that live are not touched."""

    def shown() -> int:
        with client_context().wrap_socket(connect(places["tls"])) as tls:
            der = tls.getpeercert(binary_form=True)
            assert der is not None
            return x509.load_der_x509_certificate(der).serial_number

    with bridge(tmp_path, ca) as (process, places):
        live = client_context().wrap_socket(connect(places["tls"]))
        first = shown()
        (tmp_path / "key.pem").write_text("-----BEGIN nothing-----")
        process.process.send_signal(signal.SIGHUP)
        process.log_until("stays in force")
        assert shown() == first
        certificate, key = ca.issue("renewed", names=("bridge.example.com",))
        shutil.copy(certificate, tmp_path / "chain.pem")
        shutil.copy(key, tmp_path / "key.pem")
        process.process.send_signal(signal.SIGHUP)
        process.log_until("TLS certificate loaded")
        assert shown() == x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number
        assert answer(live, "TLS").startswith(b"SIP/2.0 200")
        live.close()


def test_a_call_out_over_tcp_names_the_tcp_listener_by_the_operators_name(tmp_path: Path) -> None:
    """D15: Via and Contact carry the public name, with the port of the listener that matches the transport."""
    with socket.create_server(("127.0.0.92", 0)) as platform:
        platform.settimeout(5)
        listen = '", "'.join(f"{transport}:{OURS}:0" for transport in ("udp", "tcp"))
        path = write_config(tmp_path, listen=listen, advertise="bridge.example.com")
        host = f"127.0.0.92:{platform.getsockname()[1]};transport=tcp"
        path.write_text(path.read_text().replace("127.0.0.92:5092", host))
        with running(path) as process, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as carrier:
            port = re.findall(r"tcp:[0-9.]+:(\d+)", process.ready)[0]
            carrier.bind((KNOWN, 0))
            body = (
                "v=0\r\no=- 1 1 IN IP4 127.0.0.91\r\ns=-\r\nc=IN IP4 127.0.0.91\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
            )
            own = f"{KNOWN}:{carrier.getsockname()[1]}"
            invite = (
                f"INVITE sip:+14155550100@{OURS} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK-1\r\n"
                f"From: <sip:+14155550999@{own}>;tag=1\r\nTo: <sip:+14155550100@{OURS}>\r\nCall-ID: 1@{own}\r\n"
                f"CSeq: 1 INVITE\r\nContact: <sip:a@{own}>\r\nMax-Forwards: 70\r\nContent-Type: application/sdp\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}"
            )
            carrier.sendto(invite.encode(), process.sip)
            sock, source = platform.accept()
            with sock:
                sock.settimeout(5)
                text = sock.recv(65536).decode()
            assert source[0] == OURS
            assert text.startswith("INVITE ")
            assert re.search(rf"\r\nVia: SIP/2\.0/TCP bridge\.example\.com:{port};", text)
            assert re.search(rf"\r\nContact: <sip:[^>]*@bridge\.example\.com:{port}[;>]", text)
