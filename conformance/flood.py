"""A flood of SIP over UDP from any number of loopback addresses: ``python -m conformance.flood SETTINGS.json``.

A process of its own, so that its work is not the bridge's nor that of the one who watches. It prints ``ready`` before
and one JSON line after: what it sent and what came back.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

from conformance import sip

_BATCH = 25


def _messages(target: tuple[str, int], source: tuple[str, int], number: str, methods: list[str]) -> list[bytes]:
    """Return one message a method; the token of each is replaced at every send."""
    found = []
    for method in methods:
        body = sip.sdp((source[0], 4000)) if method == "INVITE" else ""
        uri = f"sip:{number}@{target[0]}" if method == "INVITE" else f"sip:{target[0]}"
        headers = [
            ("Via", f"SIP/2.0/UDP {source[0]}:{source[1]};branch=z9hG4bKTOKENTOKEN;rport"),
            ("Max-Forwards", "70"),
            ("From", f"<sip:flood@{source[0]}>;tag=TOKENTOKEN"),
            ("To", f"<{uri}>"),
            ("Call-ID", f"TOKENTOKEN@{source[0]}"),
            ("CSeq", f"1 {method}"),
            ("Contact", f"<sip:flood@{source[0]}:{source[1]}>"),
        ]
        found.append(sip.request(f"{method} {uri} SIP/2.0", headers, body))
    return found


def flood(settings: dict[str, Any]) -> dict[str, Any]:
    """Send at the rate for the time; count what comes back."""
    target = (settings["target"][0], settings["target"][1])
    sockets = []
    for host in settings["sources"]:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((host, 0))
        sock.setblocking(False)
        sockets.append(sock)
    ready = [
        (sock, message)
        for sock in sockets
        for message in _messages(target, sock.getsockname(), settings["number"], settings["methods"])
    ]
    print("ready", flush=True)
    rate, seconds = float(settings["rate"]), float(settings["seconds"])
    counted = {"sent": 0, "refused": 0, "octets_sent": 0, "octets_received": 0, "received": 0}
    begun = time.monotonic()
    index = 0
    while (now := time.monotonic()) < begun + seconds:
        due = int((now - begun) * rate)
        if index + _BATCH > due:
            time.sleep(0.002)
        for _ in range(min(_BATCH, max(0, due - index))):
            sock, message = ready[index % len(ready)]
            data = message.replace(b"TOKENTOKEN", b"%010d" % index)
            try:
                sock.sendto(data, target)
                counted["sent"] += 1
                counted["octets_sent"] += len(data)
            except OSError:
                counted["refused"] += 1
            index += 1
        _read(sockets[index % len(sockets)], counted)
    time.sleep(0.5)
    for sock in sockets:
        _read(sock, counted)
        sock.close()
    return counted


def _read(sock: socket.socket, counted: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        while data := sock.recv(4096):
            counted["received"] += 1
            counted["octets_received"] += len(data)
            status = data[8:11].decode("ascii", "replace") if data.startswith(b"SIP/2.0 ") else "request"
            counted[status] = counted.get(status, 0) + 1


if __name__ == "__main__":
    print(json.dumps(flood(json.loads(Path(sys.argv[1]).read_text()))), flush=True)
