"""Dialogs (RFC 3261 §12): the peer relation that begins with an INVITE, and the requests that are sent within it."""

from __future__ import annotations

from dataclasses import replace

from bridge.errors import PeerError
from bridge.sip.headers import NameAddr, RouteSet, parse_route_set
from bridge.sip.message import Header, Headers, Request, Response
from bridge.sip.uri import Uri

MAX_FORWARDS = 70  # RFC 3261 §8.1.1.6
_WITH_CONTACT = frozenset(("INVITE", "UPDATE", "SUBSCRIBE", "REFER", "NOTIFY"))
_TARGET_REFRESHING = _WITH_CONTACT  # RFC 3261 §12.2, RFC 3311, RFC 6665


class Dialog:
    """Keep one dialog's state. ``local_contact`` is the value of our Contact header, ``confirmed``: a 2xx made it."""

    __slots__ = (
        "call_id",
        "confirmed",
        "local",
        "local_contact",
        "local_cseq",
        "local_tag",
        "remote",
        "remote_cseq",
        "remote_tag",
        "remote_target",
        "route_set",
    )

    def __init__(
        self, call_id: str, local: NameAddr, remote: NameAddr, remote_target: Uri, route_set: RouteSet, contact: str
    ) -> None:
        self.call_id = call_id
        self.local = local
        self.remote = remote
        self.local_tag = local.tag or ""
        self.remote_tag = remote.tag  # None: an RFC 2543 peer (§12.1.1)
        self.remote_target = remote_target
        self.route_set = route_set
        self.local_contact = contact
        self.local_cseq = 0  # of the last request we sent
        self.remote_cseq: int | None = None
        self.confirmed = False

    @classmethod
    def uac(cls, request: Request, response: Response) -> Dialog:
        """Make the caller's dialog from its INVITE and a response with a To tag (§12.1.2). Raises PeerError 400."""
        contact = response.contact
        dialog = cls(
            response.call_id,
            request.from_,
            response.to,
            # many 18x come without a Contact; the INVITE's own target then has to do
            contact.uri if contact is not None else Uri.parse(request.uri),
            _reversed_routes(response),
            request.headers.get("Contact") or "",
        )
        dialog.local_cseq = request.cseq.number
        dialog.confirmed = response.status >= 200
        return dialog

    @classmethod
    def uas(cls, request: Request, local_tag: str, contact: str) -> Dialog:
        """Make the callee's dialog from the peer's INVITE (§12.1.1). Raises PeerError 400."""
        peer = request.contact
        if peer is None:  # RFC 3261 §8.1.1.8
            raise PeerError(400, "Missing Contact")
        dialog = cls(
            request.call_id,
            request.to.with_tag(local_tag),
            request.from_,
            peer.uri,
            parse_route_set(request.headers.get_all("Record-Route")),
            contact,
        )
        dialog.remote_cseq = request.cseq.number
        return dialog

    def request(self, method: str) -> Request:
        """Make the next request within the dialog (§12.2.1.1). For an ACK see `ack`."""
        self.local_cseq += 1  # R09
        return self._request(method, self.local_cseq)

    def ack(self, cseq_number: int, credentials: tuple[Header, ...] = ()) -> Request:
        """Make the ACK for a 2xx (§13.2.2.4): the INVITE's CSeq number, and its credentials (§22.1)."""
        request = self._request("ACK", cseq_number)
        for header in credentials:
            request.headers.append(header)
        return request

    def receive(self, request: Request) -> None:
        """Take note of a request of the peer's (§12.2.2). Raises PeerError 500 if its CSeq runs backwards (R09)."""
        if request.method in ("ACK", "CANCEL"):
            return
        number = request.cseq.number  # 400 for 2^31 and above
        if self.remote_cseq is not None and number < self.remote_cseq:
            raise PeerError(500, "CSeq Out Of Order")
        self.remote_cseq = number

    def refresh_target(self, message: Request | Response) -> None:
        """Follow the peer to its new Contact: from a target refresh request or a 2xx to ours (§12.2.1.2, §12.2.2)."""
        contact = message.contact
        if contact is not None and message.cseq.method in _TARGET_REFRESHING:
            self.remote_target = contact.uri

    def confirm(self, response: Response) -> None:
        """Turn the early dialog of our INVITE into a confirmed one; its 2xx says the route set anew (§13.2.2.4)."""
        if not self.confirmed:
            self.route_set = _reversed_routes(response)
            self.confirmed = True
        self.refresh_target(response)

    def next_hop(self) -> Uri:
        """Return where the dialog's requests go: the first route, or the remote target without any (§8.1.2)."""
        return self.route_set[0].uri if self.route_set else self.remote_target

    def _request(self, method: str, cseq_number: int) -> Request:
        target, routes = self.remote_target, list(map(str, self.route_set))
        if self.route_set and not self.route_set[0].uri.is_loose:  # §12.2.1.1: a strict router
            target = self.route_set[0].uri
            routes = [*routes[1:], f"<{self.remote_target}>"]
        headers = Headers()
        headers.add("Max-Forwards", str(MAX_FORWARDS))
        for route in routes:
            headers.add("Route", route)
        headers.add("From", str(self.local))
        headers.add("To", str(self.remote))
        headers.add("Call-ID", self.call_id)
        headers.add("CSeq", f"{cseq_number} {method}")
        if method in _WITH_CONTACT:
            headers.add("Contact", self.local_contact)
        return Request(method, str(_as_request_uri(target)), headers)


def _reversed_routes(response: Response) -> RouteSet:
    return parse_route_set(response.headers.get_all("Record-Route"))[::-1]


def _as_request_uri(uri: Uri) -> Uri:
    """Take away what a Request-URI may not have (RFC 3261 §19.1.1 table 1, §12.2.1.1)."""
    if uri.headers is None and uri.param("method") is None:
        return uri
    params = tuple(param for param in uri.params if param[0].lower() != "method")
    return replace(uri, params=params, headers=None)
