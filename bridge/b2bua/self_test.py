"""What the bridge tries on itself before it opens: a stranger's call must come to nothing (T08).

That every caller is identified rests on tables that are built from the configuration. A mistake in building them, or in
asking them, must keep the bridge from serving rather than let anybody call (CVE-2024-35190 is one that did).
"""

from __future__ import annotations

import ipaddress

from bridge.b2bua.actions import Trace
from bridge.b2bua.core import Core
from bridge.config import Config
from bridge.sip.events import Address, Flow

# RFC 5737, RFC 3849: networks of examples, where nobody lives
_EXAMPLES = {4: ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"), 6: ("2001:db8::/32",)}


def self_test(core: Core, config: Config, transport: str, local: Address, now: float) -> str:
    """Send the core a call from nobody, over one listener; return what it wrongly did, "" where it did nothing.

    To be called before anything else reaches the core. A configuration that trusts every example network is not tested.
    """
    source = _stranger(config, ipaddress.ip_address(local[0]).version)
    if source is None:
        return ""
    flow = Flow(transport, local, (source, 5060))
    core.receive(_invite(source), flow, now)
    done = []
    while (action := core.poll()) is not None:
        if not isinstance(action, Trace):
            done.append(type(action).__name__)
    if done or core.active:
        return (
            f"a call from {source}, which no carrier or platform has, was taken ({', '.join(done) or 'a call began'})"
        )
    return ""


def _stranger(config: Config, version: int) -> str | None:
    """Return an address that the configuration gives to nobody."""
    peers = (*config.carriers.values(), *config.platforms.values())
    trusted = [ipaddress.ip_network(text, strict=False) for peer in peers for text in peer.sources]
    examples = (ipaddress.ip_network(text)[index] for text in _EXAMPLES[version] for index in (1, 77, 200))
    return next((str(one) for one in examples if not any(one in network for network in trusted)), None)


def _invite(source: str) -> bytes:
    host = f"[{source}]" if ":" in source else source
    return (
        "INVITE sip:1000@bridge.invalid SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP {host}:5060;rport;branch=z9hG4bKself-test\r\n"
        f"From: <sip:stranger@{host}>;tag=self-test\r\n"
        "To: <sip:1000@bridge.invalid>\r\n"
        "Call-ID: self-test\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\n"
        f"Contact: <sip:stranger@{host}>\r\nContent-Length: 0\r\n\r\n"
    ).encode()
