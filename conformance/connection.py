"""A scripted SIP peer on one TCP or TLS connection: it sends exactly the octets that a case says."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from types import TracebackType
from typing import Self

from conformance import sip
from conformance.sip import Message
from conformance.stage import Address

_LENGTH = re.compile(rb"\r\n(?:content-length|l)[ \t]*:[ \t]*(\d+)", re.IGNORECASE)


class Connection:
    """One connection to the bridge from an address of the run. Raises OSError where it is refused."""

    def __init__(self, host: str, to: Address, tls: ssl.SSLContext | None = None, name: str = "") -> None:
        raw = socket.create_connection(to, 3.0, (host, 0))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = tls.wrap_socket(raw, server_hostname=name or to[0]) if tls else raw
        self.address: Address = self.socket.getsockname()[:2]
        self.closed = False
        self.inbox: list[Message] = []
        self._octets = b""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, data: bytes, piece: int = 0, pause: float = 0.0) -> None:
        """Send it whole, or in pieces of so many octets; a connection that is closed meanwhile is no error."""
        try:
            for start in range(0, len(data), piece or len(data)):
                self.socket.sendall(data[start : start + (piece or len(data))])
                time.sleep(pause)
        except OSError:
            self.closed = True

    def collect(self, during: float) -> list[Message]:
        """Take what arrives within ``during`` seconds, or until the connection is closed."""
        deadline = time.monotonic() + during
        while not self.inbox and not self.closed and (left := deadline - time.monotonic()) > 0:
            self._read(left)
        taken, self.inbox = self.inbox, []
        return taken

    def ends(self, within: float) -> bool:
        """Tell whether the bridge closes the connection in time."""
        deadline = time.monotonic() + within
        while not self.closed and (left := deadline - time.monotonic()) > 0:
            self._read(left)
        return self.closed

    def _read(self, within: float) -> None:
        self.socket.settimeout(max(0.0005, within))
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            return
        except OSError:
            data = b""
        self.closed = not data
        self._octets += data
        while True:
            self._octets = self._octets.lstrip(b"\r\n")
            head, separator, rest = self._octets.partition(b"\r\n\r\n")
            length = _LENGTH.search(head)
            wanted = int(length.group(1)) if length else 0
            if not separator or len(rest) < wanted:
                return
            self._octets = rest[wanted:]
            message = sip.parse(head + separator + rest[:wanted])
            message.at = time.monotonic()
            self.inbox.append(message)
