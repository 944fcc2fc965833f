"""What this bridge can do in SIP, and how it says so to one that asks for more (RFC 3261 §8.2, §11.2)."""

from __future__ import annotations

from bridge.config import Peer
from bridge.errors import PeerError
from bridge.sdp import session as sdp
from bridge.sip.headers import split_list
from bridge.sip.message import Request, Response, content_type_is_sdp, response_to

ALLOW = "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, PRACK, INFO, REFER, NOTIFY"
_KNOWN_METHODS = frozenset(
    {"INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "REGISTER", "PRACK", "UPDATE", "INFO"}
    | {"REFER", "NOTIFY", "SUBSCRIBE", "MESSAGE", "PUBLISH"}
)


def description_of(message: Request | Response) -> sdp.Description | None:
    """Return the message's session description, None without one. Raises PeerError (415 for a foreign body)."""
    if not message.body:
        return None
    if not content_type_is_sdp(message):
        raise PeerError(415, "Unsupported Media Type", (("Accept", "application/sdp"),))
    return sdp.parse(message.body)


def supports(message: Request | Response, extension: str) -> bool:
    """Tell whether the sender lists an option tag in Supported or Require."""
    return any(
        token.lower() == extension
        for name in ("Supported", "Require")
        for value in message.headers.get_all(name)
        for token in split_list(value)
    )


def requires(message: Request | Response, extension: str) -> bool:
    """Tell whether the sender insists on an extension."""
    return any(
        token.lower() == extension for value in message.headers.get_all("Require") for token in split_list(value)
    )


def extensions(peer: Peer) -> frozenset[str]:
    """Return the option tags that a request of this peer may require (RFC 3261 §8.2.2.3)."""
    profile = peer.profile
    optional = {"timer": profile.session_timer != "off", "100rel": profile.prack == "supported"}
    return frozenset({"replaces", *(tag for tag, on in optional.items() if on)})


def capabilities(request: Request, tag: str) -> Response:
    """Answer an OPTIONS (RFC 3261 §11.2, D21)."""
    response = response_to(request, 200, to_tag=tag)
    response.headers.add("Allow", ALLOW)
    response.headers.add("Accept", "application/sdp")
    return response


def refusal(method: str) -> PeerError:
    """Return 405 for a method we know and do not take here, 501 for one unknown (RFC 3261 §8.2.1, §21.5.2)."""
    allow = (("Allow", ALLOW),)
    if method in _KNOWN_METHODS:
        return PeerError(405, "Method Not Allowed", allow)
    return PeerError(501, "Not Implemented", allow)
