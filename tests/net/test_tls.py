"""TLS: who is shown which certificate, whose is believed, and what a handshake may cost."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from OpenSSL import SSL

from bridge.certificate import certificate_problem, certificate_warning
from bridge.config import Host, Tls
from bridge.net.connection import HANDSHAKE_DEADLINE
from bridge.net.tls import LOOK_EVERY, Untrusted, check_identity
from tests.net.certificates import Authority, authority
from tests.net.streams import PEER, Ends, answering, client_context, ends, message, peer, server_context
from tests.net.watching import logged_warnings

pytestmark = pytest.mark.sockets

NAME = "sip.example.com"


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def ours(ca: Authority) -> Tls:
    certificate, key = ca.issue("ours", names=("bridge.example.com",), addresses=("127.1.0.2",))
    return Tls(certificate, key, ca.path)


def shake(wire: Ends, context: ssl.SSLContext, name: str | None = None) -> ssl.SSLSocket:
    """Connect to the listener and complete a handshake."""
    sock = wire.connect()
    secured = wire.let(lambda: context.wrap_socket(sock, server_hostname=name))
    wire.sockets.append(secured)
    return secured


def serve(wire: Ends, server: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Accept one connection of the listener's and complete its handshake."""

    def accept() -> ssl.SSLSocket:
        sock, _ = server.accept()
        sock.settimeout(5)
        try:
            return context.wrap_socket(sock, server_side=True)
        except BaseException:
            sock.close()
            raise

    secured = wire.let(accept)
    wire.sockets.append(secured)
    return secured


# -- in ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_messages_and_answers_pass_over_tls(ours: Tls, ca: Authority, version: ssl.TLSVersion) -> None:
    context = client_context(ca.path)
    context.minimum_version = context.maximum_version = version
    with ends(ours) as wire:
        sock = shake(wire, context, "bridge.example.com")
        wire.let(lambda: sock.sendall(message() + b"\r\n\r\n"))
        wire.until(lambda: wire.told.received)
        [(data, flow)] = wire.told.received
        assert (data, flow.transport) == (message(), "tls")
        assert wire.read(sock) == b"\r\n"
        wire.listener.send(b"answer", flow)
        assert wire.read(sock) == b"answer"


@pytest.mark.parametrize(
    "weak", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES128-SHA", "AES128-GCM-SHA256"]
)
def test_t16_weak_suites_and_old_versions_are_refused(ours: Tls, weak: str) -> None:
    """T16: TLS 1.2 and newer, forward secrecy and authenticated encryption only."""
    context = client_context()
    context.set_ciphers(weak)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with ends(ours) as wire, logged_warnings(), pytest.raises((ssl.SSLError, ConnectionError)):
        shake(wire, context)


def test_t16_versions_before_1_2_are_refused(ours: Tls) -> None:
    """T16: written as OpenSSL's own, since today's Python does not even ask for them without a warning."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(SSL.TLS1_1_VERSION)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    with ends(ours) as wire, logged_warnings():
        sock = wire.connect()
        sock.setblocking(True)
        with pytest.raises(SSL.Error):
            wire.let(lambda: shake_hands(SSL.Connection(context, sock)))


def shake_hands(connection: SSL.Connection) -> None:
    connection.set_connect_state()
    connection.do_handshake()


def test_t16_a_handshake_has_five_seconds(ours: Tls) -> None:
    """T16: half-open handshakes go away, and those that are complete stay."""
    with ends(ours, known=(peer(max_calls=300),)) as wire, logged_warnings() as warnings:
        good = shake(wire, client_context())
        half_open = [socket.create_connection(wire.listener.bound, 5, (PEER, 0)) for _ in range(100)]
        wire.until(lambda: wire.census.total == 101)
        for sock in half_open[:50]:
            sock.sendall(b"\x16\x03\x01")  # a record that never ends
        wire.settle()
        wire.advance(HANDSHAKE_DEADLINE + 0.5)
        wire.until(lambda: wire.census.total == 1)
        wire.let(lambda: good.sendall(message()))
        wire.until(lambda: wire.told.received)
        for sock in half_open:
            sock.close()
    assert len(warnings) == 1, "one line, however many"
    assert wire.told.lost == []


def test_a_client_must_show_a_certificate_where_that_is_asked(ours: Tls, ca: Authority, tmp_path: Path) -> None:
    other = authority(tmp_path, "other")
    tls = Tls(ours.certificate, ours.private_key, None, True, ca.path)
    with ends(tls) as wire, logged_warnings() as warnings:
        context = client_context()
        context.load_cert_chain(*ca.issue("client", names=("carrier.example.com",)))
        sock = shake(wire, context)
        wire.let(lambda: sock.sendall(message()))
        wire.until(lambda: wire.told.received)
        for chain in ((), other.issue("stranger")):
            context = client_context()
            if chain:
                context.load_cert_chain(*chain)
            sock = shake(wire, context)  # TLS 1.3: the client learns it with the first read
            with pytest.raises(ssl.SSLError):
                wire.let(partial(sock.recv, 100))
            wire.clock.advance(10)
    assert len(wire.told.received) == 1
    assert "peer did not return a certificate" in warnings[0]
    assert "authority that is not in the trust store" in warnings[1]


# -- out ---------------------------------------------------------------------------------------------------------------


def dial(
    ca: Authority,
    chain: tuple[Path, Path],
    name: str = NAME,
    rule: str = "strict",
    ours: Tls | None = None,
    client_ca: Path | None = None,
) -> tuple[bool, str, Any]:
    """Call a peer that shows this certificate: whether it got the message, what was logged, the name it was asked."""
    known = (peer(hosts=(Host(name, 0, "tls"),), tls_names=rule),)
    context = server_context(*chain, client_ca)
    asked: list[Any] = []
    context.sni_callback = lambda sock, sni, context: asked.append(sni)
    tls = ours or Tls(None, None, ca.path)
    with ends(tls, known) as wire, answering() as server, logged_warnings() as warnings:
        flow = wire.flow(server.getsockname(), name=name)
        wire.listener.send(message(), flow)
        try:
            sock = serve(wire, server, context)
            got = wire.read(sock) == message()
        except (ssl.SSLError, ConnectionError, OSError):
            got = False
        if not got:
            # With TLS 1.3 a peer's refusal of our certificate comes when we hold the handshake for done.
            wire.until(lambda: wire.told.failed or wire.told.lost)
            assert wire.told.failed == [flow] or client_ca
    return got, " ".join(warnings), asked[0] if asked else None


_EIGHT = {
    "sip uri": ({"uris": (f"sip:{NAME}",)}, ""),
    "dns name": ({"names": ("other.example.com", NAME.upper())}, ""),
    "wildcard": ({"names": ("*.example.com",)}, "a wildcard is no SIP identity"),
    "uri of another domain beside the right name": (
        {"uris": ("sip:other.example.com",), "names": (NAME,)},
        "names sip:other.example.com, sip.example.com, not sip.example.com",
    ),
    "uri of a person": ({"uris": (f"sip:alice@{NAME}",)}, "names nobody"),
    "common name alone": ({"common_name": NAME}, "names nobody"),
    "expired": ({"names": (NAME,), "ended": True}, "its certificate has expired"),
    "another authority": ({"names": (NAME,)}, "authority that is not in the trust store"),
}


@pytest.mark.parametrize("case", _EIGHT)
def test_r27_of_eight_certificates_two_are_accepted_and_six_refused_with_the_reason(
    case: str, ca: Authority, tmp_path: Path
) -> None:
    """R27, RFC 5922 §7.1 and §7.2: a SIP domain in full, in a URI before a DNS name, and no wildcard."""
    values, reason = _EIGHT[case]
    issuer = authority(tmp_path, "other") if case == "another authority" else ca
    got, warned, asked = dial(ca, issuer.issue(case.replace(" ", "-"), **values))  # type: ignore[arg-type]
    assert got is (reason == "")
    assert reason in warned
    assert asked == NAME, "D14: SNI is the name before any look-up"


@pytest.mark.parametrize(
    ("names", "rule", "accepted"),
    [
        (("*.example.com",), "web", True),
        (("*.com",), "web", False),
        (("example.com",), "web", False),
        (("other.example.com",), "any", True),
    ],
)
def test_a_profile_says_how_names_are_compared(
    ca: Authority, names: tuple[str, ...], rule: str, accepted: bool
) -> None:
    """RFC 6125 for hosted parties, whose certificates are wildcards; `any` asks for a trusted chain alone."""
    got, _, _ = dial(ca, ca.issue("named", names=names), rule=rule)
    assert got is accepted


def test_sips_identities_and_addresses_are_nobodys(ca: Authority) -> None:
    certificate = x509.load_pem_x509_certificate(ca.issue("x", uris=(f"sips:{NAME}", "sip:192.0.2.1"))[0].read_bytes())
    for name in (NAME, "192.0.2.1"):
        with pytest.raises(Untrusted, match="names nobody"):
            check_identity(certificate, name, "192.0.2.1", "strict")


def test_an_address_needs_a_name_only_where_its_certificate_has_addresses(ca: Authority) -> None:
    """A Contact with an address is common, a certificate with one is not."""

    def made(file: str, **values: Any) -> x509.Certificate:
        return x509.load_pem_x509_certificate(ca.issue(file, **values)[0].read_bytes())

    named, right = made("named", names=(NAME,)), made("right", addresses=("192.0.2.1",))
    check_identity(named, "", "192.0.2.1", "web")
    check_identity(right, "", "192.0.2.1", "strict")
    for certificate, address, rule in ((right, "192.0.2.2", "web"), (named, "192.0.2.1", "strict")):
        with pytest.raises(Untrusted, match="does not name the address"):
            check_identity(certificate, "", address, rule)


def test_we_show_our_certificate_to_a_peer_that_asks(ca: Authority, ours: Tls) -> None:
    """Mutual TLS toward platforms that want it."""
    got, _, _ = dial(ca, ca.issue("asking", names=(NAME,)), ours=ours, client_ca=ca.path)
    assert got
    got, _, _ = dial(ca, ca.issue("asking", names=(NAME,)), ours=Tls(None, None, ca.path), client_ca=ca.path)
    assert not got


def test_a_peer_that_never_shakes_hands_fails_the_dial(ca: Authority) -> None:
    with ends(Tls(None, None, ca.path)) as wire, answering() as server, logged_warnings() as warnings:
        flow = wire.flow(server.getsockname(), name=NAME)
        wire.listener.send(message(), flow)
        wire.sockets.append(wire.let(server.accept)[0])
        wire.settle()
        wire.advance(HANDSHAKE_DEADLINE + 1)
        wire.settle()
        assert wire.told.failed == [flow]
        assert wire.listener.counts() == {"connections": 0, "dials": 0}
    assert "handshake took longer" in warnings[0]


def test_d17_a_tls_connection_closed_without_a_word_is_told_and_replaced(ca: Authority) -> None:
    """D17: the TCP connection ends with no close_notify."""
    context = server_context(*ca.issue("peer", names=(NAME,)))
    with ends(Tls(None, None, ca.path)) as wire, answering() as server:
        flow = wire.flow(server.getsockname(), name=NAME)
        wire.listener.send(message(1), flow)
        sock = serve(wire, server, context)
        assert wire.read(sock) == message(1)
        socket.socket(fileno=sock.detach()).close()
        wire.until(lambda: wire.told.lost)
        wire.listener.send(message(2), flow)
        assert wire.read(serve(wire, server, context)) == message(2)
        assert len(wire.told.lost) == 1


# -- the files ---------------------------------------------------------------------------------------------------------


def shown_serial(wire: Ends) -> int:
    sock = shake(wire, client_context())
    shown = sock.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def serial(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


@pytest.mark.parametrize("how", ["signal", "change"])
def test_a_new_certificate_is_taken_without_a_restart_and_live_connections_stay(
    ca: Authority, tmp_path: Path, how: str
) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    first, second = ca.issue("first"), ca.issue("second")
    shutil.copy(first[0], certificate)
    shutil.copy(first[1], key)
    with ends(Tls(certificate, key)) as wire:
        live = shake(wire, client_context())
        assert shown_serial(wire) == serial(first[0])
        shutil.copy(second[0], certificate)
        shutil.copy(second[1], key)
        assert wire.credentials is not None
        if how == "signal":
            assert wire.credentials.reload()
        else:
            wire.clock.advance(LOOK_EVERY)
        assert shown_serial(wire) == serial(second[0])
        wire.let(lambda: live.sendall(message()))
        wire.until(lambda: wire.told.received)


@pytest.mark.parametrize("broken", ["gone", "garbage", "other key", "encrypted"])
def test_f06_a_bad_file_keeps_the_old_certificate_and_says_why(ca: Authority, tmp_path: Path, broken: str) -> None:
    """F06: 0 calls touched; above all, OpenSSL does not stop everything to ask the terminal for a password."""
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    first = ca.issue("first")
    shutil.copy(first[0], certificate)
    shutil.copy(first[1], key)
    with ends(Tls(certificate, key)) as wire, logged_warnings() as warnings:
        if broken == "gone":
            os.unlink(certificate)
        elif broken == "garbage":
            key.write_text("-----BEGIN nothing")
        elif broken == "encrypted":
            private = load_pem_private_key(first[1].read_bytes(), None)
            form = Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
            key.write_bytes(private.private_bytes(*form))
        else:
            shutil.copy(ca.issue("second")[1], key)
        assert wire.credentials is not None
        assert not wire.credentials.reload()
        assert shown_serial(wire) == serial(first[0])
    assert "stays in force" in warnings[0]
    if broken == "gone":
        assert f"{certificate}: No such file" in warnings[0]


def test_a_key_that_does_not_fit_is_found_before_anything_listens(ca: Authority, tmp_path: Path) -> None:
    first, second = ca.issue("first"), ca.issue("second")
    assert certificate_problem(*first) is None
    problem = certificate_problem(first[0], second[1])
    assert problem is not None
    assert problem[0] == "private_key"
    assert "does not fit" in problem[1]
    with pytest.raises(SSL.Error), ends(Tls(first[0], second[1])):
        pass
    assert certificate_warning(first[0]) is None
    ended = certificate_warning(ca.issue("ended", ended=True)[0])
    assert ended is not None
    assert "expired on" in ended[0]
