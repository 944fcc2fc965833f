"""The dry run: where a call would go, and what would be sent to each target, sending nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bridge.b2bua.identity import passing
from bridge.b2bua.media import codec_policy
from bridge.b2bua.routing import UNREGISTERED, Dialled, Target, invitation
from bridge.config import Peer
from bridge.sdp.anchor import Anchor
from bridge.sdp.offer_answer import make_offer
from bridge.sip.events import Address, Flow
from bridge.sip.message import Header, Headers


def plan(
    targets: Iterable[Target],
    caller: Peer,
    asked: Dialled,
    flow_to: Callable[[str, Address], Flow | None],
    our_host: Callable[[Flow], str],
    media_address: str,
) -> list[dict[str, Any]]:
    """Return for each target what its INVITE would say, or the ``problem`` that keeps it from being called."""
    plans = []
    for target in targets:
        flow = flow_to(target.transport, ("0.0.0.0", 0)) or flow_to(target.transport, ("::", 0))
        problem = None if flow else f"no {target.transport} listener"
        if not target.permits(asked.number):
            problem = f"{target.peer.name} may not dial {asked.number}: see allow and deny of the account"
        registers = target.host == UNREGISTERED
        place = f"{target.host.host}:{target.port};transport={target.transport}"
        one: dict[str, Any] = {
            "peer": target.peer.name,
            "destination": "where it has registered from" if registers else place,
            "problem": problem,
        }
        if flow is not None and problem is None:
            sent = invitation(target, asked, our_host(flow))
            policy = codec_policy(target.peer).within(codec_policy(caller))
            one |= {
                "request_uri": "the Contact that it has registered" if registers else sent.request_uri,
                "from": str(sent.sender),
                "to": str(sent.to).replace(UNREGISTERED.host, "HOST-OF-ITS-CONTACT"),
                "headers": [f"{header.name}: {header.value}" for header in sent.headers],
                "passes": list(_passes(caller, target.peer)),
                "chosen_by": _chosen_by(target),
                "limits": _limits(target.peer),
                "sdp": make_offer(None, policy, Anchor(media_address, 0, 0, 0)).encode().decode(),
            }
        plans.append(one)
    return plans


def _passes(caller: Peer, receiver: Peer) -> Iterable[str]:
    """Name the caller's headers that would reach the receiver, if it sent them and asked for no privacy."""
    fixed = {name.lower() for name in receiver.profile.headers}
    for name in caller.profile.pass_headers:
        if (name.endswith("*") or passing(Headers([Header(name, "x")]), caller)) and name.lower() not in fixed:
            yield name


def _chosen_by(target: Target) -> str:
    """Say what decides on transport and port."""
    if target.host == UNREGISTERED:
        return "its registration"
    written = [what for what, given in (("transport", target.host.transport), ("port", target.host.port)) if given]
    query = target.query(0)
    if len(written) == 2 or (query.port and query.transport):
        return "the configuration"
    return f"DNS, of {', '.join(query.transports)}" if not query.transport else "DNS"


def _limits(peer: Peer) -> dict[str, Any]:
    """Return the account's limits that are set."""
    limits = {
        "max_calls": peer.max_calls,
        "reserve": dict(peer.reserve),
        "cps": peer.cps,
        "queue_for": peer.queue_for if peer.cps else 0,
        "max_minutes_a_day": peer.max_minutes_a_day,
        "allow": list(peer.allow),
        "deny": list(peer.deny),
    }
    return {name: value for name, value in limits.items() if value}
