"""TLS for SIP: which certificate we show, whom we trust, and what a peer's certificate must say.

The files are looked at again when they change: new handshakes use the new certificate, live connections stay. A file
that can't be used leaves what was loaded before in force (F06).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import service_identity
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    IReactorTime,
)
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from bridge.config import Tls
from bridge.literals import is_address

LOOK_EVERY = 5.0
"""Seconds for which the files are taken to be what they were (a handshake then looks at them again)."""
# Forward secrecy and authenticated encryption only; TLS 1.3 has nothing else (T16)
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:!aNULL:!eNULL:!aDSS:!PSK:!SRP"
_VERIFY_PROBLEMS = {  # <openssl/x509_vfy.h>
    9: "is not valid yet",
    10: "has expired",
    18: "is self-signed and not in the trust store",
    19: "comes from an authority that is not in the trust store",
    20: "comes from an authority that is not in the trust store",
    21: "comes without its chain, from an authority that is not in the trust store",
    23: "is revoked",
    24: "comes from an authority whose certificate is none of an authority's",
    26: "is not meant for this use (extended key usage)",
    66: "has a key that is too weak",
    67: "comes from an authority whose key is too weak",
    68: "is signed with a digest that is too weak",
}

Signature = tuple[tuple[int, int, int] | None, ...]


class Untrusted(Exception):
    """Report why a certificate does not prove its peer, in words that follow "its certificate"."""


class Credentials:
    """Make the TLS side of connections, with the certificate that is in the files now."""

    log = Logger()

    def __init__(self, settings: Tls, clock: IReactorTime) -> None:
        """Load everything. Raises OSError or SSL.Error for files that can't be used."""
        self._settings = settings
        self._clock = clock
        self._signature = self._look()
        self._looked_at = clock.seconds()
        self._server, self._client = self._load()

    def reload(self) -> bool:
        """Take the files as they are now; False, and a line in the log, where they can't be used."""
        self._signature = self._look()
        self._looked_at = self._clock.seconds()
        try:
            self._server, self._client = self._load()
        except (OSError, SSL.Error) as error:
            self.log.error(
                "the TLS files can't be used, so what was loaded before stays in force: {problem}",
                problem=problem_of(error),
            )
            return False
        self.log.info("TLS certificate loaded from {certificate}", certificate=self._settings.certificate)
        return True

    def refresh(self) -> None:
        """Reload if a file has changed, looking no more often than every `LOOK_EVERY` seconds."""
        if self._clock.seconds() - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = self._clock.seconds()
        if self._look() != self._signature:
            self.reload()

    def server(self) -> ServerSide:
        """Return what makes the server's side of handshakes."""
        return ServerSide(self)

    def client(self, name: str) -> ClientSide:
        """Return what makes the client's side of a handshake with the peer of that name ("": an address)."""
        return ClientSide(self, name)

    def connection(self, server: bool) -> SSL.Connection:
        """Return the TLS state of one new connection."""
        self.refresh()
        return _Handshake(self._server if server else self._client, None)

    def _files(self) -> Iterable[Path | None]:
        settings = self._settings
        return settings.certificate, settings.private_key, settings.ca, settings.client_ca

    def _look(self) -> Signature:
        return tuple(_signature(path) for path in self._files())

    def _load(self) -> tuple[SSL.Context, SSL.Context]:
        settings = self._settings
        server, client = _context(settings), _context(settings)
        server.set_session_id(b"trunkbridge")
        if settings.verify_clients:
            server.load_verify_locations(str(settings.client_ca or settings.ca))
            server.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _note_problem)
        # The system's store misses no public authority; a file of the operator's replaces it.
        if settings.ca is not None:
            client.load_verify_locations(str(settings.ca))
        else:
            client.set_default_verify_paths()
        client.set_verify(SSL.VERIFY_PEER, _note_problem)
        return server, client


class _Handshake(SSL.Connection):
    """The TLS state of a connection, with what was wrong with the peer's certificate."""

    problem = ""


@implementer(IOpenSSLServerConnectionCreator)
class ServerSide:
    """Begin handshakes with peers that come to us."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return self._credentials.connection(server=True)


@implementer(IOpenSSLClientConnectionCreator)
class ClientSide:
    """Begin a handshake with a peer that we call."""

    def __init__(self, credentials: Credentials, name: str) -> None:
        self._credentials = credentials
        self._name = name

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = self._credentials.connection(server=False)
        if self._name:  # D14: the name before any look-up; RFC 6066 §3: never an address
            connection.set_tlsext_host_name(self._name.rstrip(".").encode("ascii"))
        return connection


def check_identity(certificate: x509.Certificate, name: str, address: str, rule: str) -> None:
    """See that a certificate proves the peer we meant to call. Raises Untrusted.

    ``rule``: ``strict`` is RFC 5922 (R27: a SIP domain in full, no wildcard), ``web`` is RFC 6125 as web servers are
    checked (a wildcard may stand for the first label), ``any`` asks for no name. Where an address was called, its
    certificate must name that address if it names addresses at all.
    """
    if rule == "any":
        return
    if not name:
        _check_address(certificate, address, rule)
        return
    wanted = name.rstrip(".").lower()
    uris, names = _alternative_names(certificate)
    domains = [domain for domain in map(_sip_domain, uris) if domain]
    if wanted in domains or (rule == "strict" and not domains and wanted in names):
        return
    if rule == "web":
        try:
            verify_certificate_hostname(certificate, wanted)
        except (service_identity.VerificationError, service_identity.CertificateError):
            pass
        else:
            return
    found = [f"sip:{domain}" for domain in domains] + names
    shown = f"names {', '.join(found[:5])}" if found else "names nobody in its subjectAltName"
    remedy = ""
    if rule == "strict" and any(name.startswith("*.") for name in names):
        remedy = ' (a wildcard is no SIP identity, RFC 5922 §7.2; tls_names = "web" takes it)'
    raise Untrusted(f"{shown}, not {wanted}{remedy}")


def handshake_problem(connection: object, error: BaseException) -> str:
    """Say why a handshake failed, as well as OpenSSL tells."""
    if isinstance(connection, _Handshake) and connection.problem:
        return f"its certificate {connection.problem}"
    return problem_of(error)


def problem_of(error: BaseException) -> str:
    """Say in a few words what an error of OpenSSL's or of the system's means."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        return ", ".join(dict.fromkeys(entry[-1] for entry in error.args[0] if entry[-1])) or "TLS failed"
    return str(error) or type(error).__name__


def _context(settings: Tls) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_cipher_list(_CIPHERS)
    if settings.certificate is not None and settings.private_key is not None:
        settings.certificate.open("rb").close()  # OpenSSL's own error does not say which file it is, nor why
        context.use_certificate_chain_file(str(settings.certificate))
        context.use_privatekey(_private_key(settings.private_key))
        context.check_privatekey()
    return context


def _private_key(path: Path) -> Any:
    """Read a key. Raises OSError for an encrypted one: OpenSSL would ask the terminal, and every call wait for that."""
    try:
        return load_pem_private_key(path.read_bytes(), None)
    except TypeError:
        raise OSError(errno.EINVAL, "is encrypted", str(path)) from None
    except ValueError:
        raise OSError(errno.EINVAL, "holds no private key", str(path)) from None


def _note_problem(connection: SSL.Connection, certificate: object, number: int, depth: int, ok: int) -> bool:
    if not ok and isinstance(connection, _Handshake):
        connection.problem = _VERIFY_PROBLEMS.get(number, f"is not trusted (OpenSSL's error {number})")
    return bool(ok)


def _check_address(certificate: x509.Certificate, address: str, rule: str) -> None:
    try:
        verify_certificate_ip_address(certificate, address)
        return
    except (service_identity.VerificationError, service_identity.CertificateError):
        pass
    names = _extension(certificate)
    # A Contact or Record-Route often is an address that no certificate names: the trusted chain must do there.
    if rule == "strict" or (names is not None and names.get_values_for_type(x509.IPAddress)):
        raise Untrusted(f"does not name the address {address}")


def _alternative_names(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    """Return the URIs and the DNS names of a certificate, names in lower case."""
    extension = _extension(certificate)
    if extension is None:
        return [], []
    uris = extension.get_values_for_type(x509.UniformResourceIdentifier)
    names = extension.get_values_for_type(x509.DNSName)
    return uris, [name.rstrip(".").lower() for name in names]


def _extension(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None


def _sip_domain(uri: str) -> str:
    """Return the SIP domain that a URI in a certificate stands for, "" for none (RFC 5922 §7.1).

    A userinfo makes it a person's, another scheme (sips too) makes it nobody's.
    """
    match = re.fullmatch(r"sip:([A-Za-z0-9.-]+)(?::[0-9]+)?(?:[;?].*)?", uri, re.IGNORECASE)
    if match is None or is_address(match[1]):
        return ""
    return match[1].rstrip(".").lower()


def _signature(path: Path | None) -> tuple[int, int, int] | None:
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status is not None else None
