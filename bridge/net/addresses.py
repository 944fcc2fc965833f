"""Which address to tell the world: what the operator wrote, the interface's, or what STUN sees of us.

Used while the bridge starts, before the reactor runs, so what blocks here blocks nobody; every wait has a
deadline.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import netifaces
import stun
from twisted.logger import Logger

from bridge.sip.events import Address

DEADLINE = 3.0
"""Seconds that STUN or a name lookup may take at the start."""

STUN_SERVERS: tuple[Address, ...] = (("stun.l.google.com", 19302), ("stun.cloudflare.com", 3478))

_STUN_TRY = 0.7
"""Seconds to wait for each of pystun3's four sends, so that all of them fit into the deadline."""

_T = TypeVar("_T")
_log = Logger()


def family_of(host: str) -> socket.AddressFamily:
    """Return the family of an address literal. Raises ValueError."""
    return socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET


def is_loopback(host: str) -> bool:
    """Tell whether a host, literal or name, can only mean this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_wildcard(host: str) -> bool:
    """Tell whether an address literal means every address of this machine."""
    return ipaddress.ip_address(host).is_unspecified


def is_name(setting: str) -> bool:
    """Tell a host name from an address literal and from ``auto``."""
    try:
        ipaddress.ip_address(setting.strip("[]"))
    except ValueError:
        return setting != "auto"
    return False


def host_port(host: str, port: int) -> str:
    """Join a host and a port as URIs write them: IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def advertised(
    setting: str, bound: str, stun_servers: Sequence[Address] = STUN_SERVERS, deadline: float = DEADLINE
) -> str:
    """Return the address literal to advertise for a socket bound to ``bound``.

    ``setting`` is ``auto``, an address or a name. What the operator wrote wins. Otherwise a loopback address
    stands for itself, a wildcard becomes the default interface's address, and where that is private, STUN is
    asked. Raises OSError when a name has no address.
    """
    if setting != "auto":
        return _literal(setting, bound, deadline)
    own = ipaddress.ip_address(bound)
    if own.is_unspecified:
        found = interface_address(family_of(bound))
        if found is None:
            loopback = "::1" if own.version == 6 else "127.0.0.1"
            _log.warn(
                "no interface has an address: advertising {address}, which no peer can reach",
                address=loopback,
            )
            return loopback
        own = ipaddress.ip_address(found)
    if own.is_loopback or own.is_global or own.version == 6:
        return str(own)
    public = stun_address(str(own), stun_servers, deadline)
    if public is None:
        _log.warn(
            "{address} is private and no STUN server answered: peers outside this network can't reach "
            "it; set advertise to the public address",
            address=str(own),
        )
        return str(own)
    return public


def interface_address(family: socket.AddressFamily) -> str | None:
    """Return the address of the default route's interface, or of the first that has one but loopback."""
    which = netifaces.AF_INET6 if family == socket.AF_INET6 else netifaces.AF_INET
    default: Any = netifaces.gateways().get("default", {})  # the stubs miss that this key holds a dict
    names = [default[which][1]] if which in default else []
    names += [name for name in netifaces.interfaces() if name not in names]
    for name in names:
        for entry in netifaces.ifaddresses(name).get(which, ()):
            address = ipaddress.ip_address(entry["addr"].partition("%")[0])
            if not address.is_loopback and not address.is_link_local:
                return str(address)
    return None


def stun_address(source: str, servers: Sequence[Address], deadline: float = DEADLINE) -> str | None:
    """Ask STUN servers, all at once, as what they see packets from ``source``; None if none answers."""
    asked = [lambda server=server: _ask_stun(source, server) for server in servers]
    return _first(asked, deadline)


def _ask_stun(source: str, server: Address) -> str | None:
    # pystun3 fills its tables only on the way to a NAT type test, which takes longer than a start may.
    stun._initialize()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_STUN_TRY)
        sock.bind((source, 0))
        answer = stun.stun_test(sock, server[0], server[1], source, sock.getsockname()[1])
    seen = ipaddress.ip_address(answer["ExternalIP"]) if answer["Resp"] and answer["ExternalIP"] else None
    return None if seen is None or seen.is_unspecified else str(seen)


def _literal(setting: str, bound: str, deadline: float) -> str:
    try:
        return str(ipaddress.ip_address(setting.strip("[]")))
    except ValueError:
        pass
    family = family_of(bound)

    def look_up() -> str | None:
        found = socket.getaddrinfo(setting, None, family, socket.SOCK_DGRAM)
        return str(found[0][4][0]) if found else None

    address = _first([look_up], deadline)
    if address is None:
        raise OSError(f"the name {setting!r} has no address")
    return address


def _first(questions: Sequence[Callable[[], _T | None]], deadline: float) -> _T | None:
    """Ask all at once, each in a thread of its own; return the first answer within the deadline, or None."""
    answers: queue.SimpleQueue[_T | None] = queue.SimpleQueue()

    def ask(question: Callable[[], _T | None]) -> None:
        try:
            answers.put(question())
        except Exception as error:  # a server may answer anything, and pystun3 raises KeyError and the like
            _log.debug("a lookup failed: {error}", error=error)
            answers.put(None)

    for question in questions:
        threading.Thread(target=ask, args=(question,), daemon=True).start()
    ends_at = time.monotonic() + deadline
    for _ in questions:
        try:
            answer = answers.get(timeout=max(0.0, ends_at - time.monotonic()))
        except queue.Empty:
            return None
        if answer is not None:
            return answer
    return None
