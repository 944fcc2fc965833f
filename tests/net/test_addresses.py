"""Which address is told to the world, with STUN asked on loopback only."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bridge.net import addresses
from bridge.net.addresses import advertised, host_port, interface_address, is_loopback, stun_address
from tests.net.watching import logged_warnings

PUBLIC = "198.51.100.7"


@contextmanager
def stun_server(answers: bytes | None) -> Iterator[tuple[str, int]]:
    """Run a STUN responder that sees everybody as ``answers``; None: it never answers."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(0.05)
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.is_set():
            try:
                request, peer = sock.recvfrom(2048)
            except TimeoutError:
                continue
            if answers is not None:
                # RFC 3489 §11.2.1: MAPPED-ADDRESS, family IPv4.
                attribute = struct.pack("!HHBBH", 0x0001, 8, 0, 1, peer[1]) + answers
                sock.sendto(struct.pack("!HH", 0x0101, len(attribute)) + request[4:20] + attribute, peer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield sock.getsockname()
    finally:
        stopped.set()
        thread.join()
        sock.close()


@pytest.fixture
def private_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default interface has a private address; on loopback 127.0.0.1 plays it as STUN's source."""
    monkeypatch.setattr(addresses, "interface_address", lambda family: "10.1.2.3")
    real = addresses._ask_stun
    monkeypatch.setattr(addresses, "_ask_stun", lambda source, server: real("127.0.0.1", server))


def test_what_the_operator_wrote_wins() -> None:
    assert advertised("203.0.113.9", "127.0.0.1") == "203.0.113.9"
    assert advertised("203.0.113.9", "0.0.0.0") == "203.0.113.9"
    assert advertised("localhost", "0.0.0.0") == "127.0.0.1"


def test_a_name_without_address_is_an_error() -> None:
    with pytest.raises(OSError, match="has no address"):
        advertised("no-such-host.invalid", "0.0.0.0")


def test_a_loopback_listener_advertises_loopback_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "stun_address", lambda *_: pytest.fail("STUN was asked"))
    assert advertised("auto", "127.0.0.5") == "127.0.0.5"
    assert advertised("auto", "::1") == "::1"


def test_a_public_interface_advertises_itself_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "stun_address", lambda *_: pytest.fail("STUN was asked"))
    monkeypatch.setattr(addresses, "interface_address", lambda family: "8.8.4.4")
    assert advertised("auto", "0.0.0.0") == "8.8.4.4"
    assert advertised("auto", "8.8.8.8") == "8.8.8.8"


@pytest.mark.sockets
def test_a_private_interface_advertises_what_stun_sees(private_interface: None) -> None:
    with stun_server(socket.inet_aton(PUBLIC)) as server:
        assert advertised("auto", "0.0.0.0", [server]) == PUBLIC


@pytest.mark.sockets
def test_the_first_stun_server_that_answers_is_enough(private_interface: None) -> None:
    with stun_server(None) as silent, stun_server(socket.inet_aton(PUBLIC)) as server:
        began = time.monotonic()
        assert advertised("auto", "0.0.0.0", [silent, server]) == PUBLIC
        assert time.monotonic() - began < addresses.DEADLINE


@pytest.mark.sockets
def test_silent_stun_servers_cost_the_deadline_and_the_interface_is_advertised_with_a_warning(
    private_interface: None,
) -> None:
    with stun_server(None) as silent, logged_warnings() as warnings:
        assert advertised("auto", "0.0.0.0", [silent], deadline=0.2) == "10.1.2.3"
    [warning] = warnings
    assert "10.1.2.3 is private" in warning
    assert "set advertise" in warning


@pytest.mark.sockets
@pytest.mark.parametrize("answer", [b"\x00\x00\x00\x00", b"\x01"])
def test_a_stun_answer_without_an_address_is_none(answer: bytes) -> None:
    with stun_server(answer) as server:
        assert stun_address("127.0.0.1", [server], deadline=1.0) is None


def test_the_interface_address_is_never_loopback() -> None:
    found = interface_address(socket.AF_INET)
    assert found is None or not is_loopback(found)


def test_without_any_interface_loopback_is_advertised_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "interface_address", lambda family: None)
    with logged_warnings() as warnings:
        assert advertised("auto", "0.0.0.0") == "127.0.0.1"
    assert len(warnings) == 1


def test_ipv6_is_joined_with_its_port_in_brackets() -> None:
    assert host_port("2001:db8::1", 5060) == "[2001:db8::1]:5060"
    assert host_port("192.0.2.1", 5060) == "192.0.2.1:5060"
