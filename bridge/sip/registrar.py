"""A small registrar (RFC 3261 §10.3): the bindings of one party that registers with us (D24).

Who may register, and as whom, is settled before: here a REGISTER of the right party is carried out, wholly or not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bridge.errors import PeerError
from bridge.sip.events import Flow
from bridge.sip.headers import NameAddr, parse_route_set, split_list
from bridge.sip.message import Request, Response, response_to
from bridge.sip.uri import DEFAULT_PORTS, Uri

SHORTEST, LONGEST = 60, 3600  # seconds that may be granted; without a wish it is the longest
MOST_BINDINGS = 10


@dataclass(frozen=True, slots=True)
class Binding:
    """One Contact of the party: where it is reached, over which flow, and the proxies in between (RFC 3327)."""

    contact: Uri
    flow: Flow
    path: tuple[str, ...]  # the Path values, in order: the Route of requests to this Contact (R41)
    q: float
    call_id: str
    cseq: int
    registered_at: float
    expires_at: float

    @property
    def request_uri(self) -> str:
        """The Contact as a Request-URI, where it may bear no headers (RFC 3261 §19.1.1 table 1)."""
        return str(self.contact if self.contact.headers is None else replace(self.contact, headers=None))


class Registrar:
    """Keep one party's bindings, `MOST_BINDINGS` at most: a new one then takes the place of the oldest."""

    def __init__(self) -> None:
        self._bindings: list[Binding] = []

    def register(self, request: Request, flow: Flow, now: float, to_tag: str) -> Response:
        """Carry out a REGISTER and return its 200 with what is bound now; without a Contact it only asks.

        Raises PeerError: 400 for what makes no sense, 423 for too short a time, 500 for a request out of order.
        """
        self.expire(now)
        contacts = [item for value in request.headers.get_all("Contact") for item in split_list(value) if item]
        if "*" in contacts:
            self._bindings = self._without_all(request, contacts)
        elif contacts:
            self._bindings = self._with(request, [NameAddr.parse(item) for item in contacts], flow, now)
        response = response_to(request, 200, to_tag=to_tag)
        for binding in self.bindings():
            left = max(1, round(binding.expires_at - now))
            q = "" if binding.q == 1.0 else f";q={binding.q:g}"
            response.headers.add("Contact", f"<{binding.contact}>{q};expires={left}")
        for value in request.headers.get_all("Path"):  # RFC 3327 §5.3: told back as it came
            response.headers.add("Path", value)
        return response

    def bindings(self) -> list[Binding]:
        """Return what is bound: by q-value, the most recent first where it is the same."""
        latest_first = self._bindings[::-1]
        return sorted(latest_first, key=lambda binding: -binding.q)

    def expire(self, now: float) -> None:
        """Forget what has run out."""
        self._bindings = [binding for binding in self._bindings if binding.expires_at > now]

    def next_expiry(self) -> float | None:
        """Return when the next binding runs out."""
        return min((binding.expires_at for binding in self._bindings), default=None)

    def flow_lost(self, flow: Flow) -> None:
        """Take word that a connection is gone: a Contact that can be called is called anew, behind NAT it is lost."""
        self._bindings = [
            replace(binding, flow=replace(binding.flow, connection=0)) if _is_over(binding.flow, flow) else binding
            for binding in self._bindings
            if not _is_over(binding.flow, flow) or _is_where_it_says(binding)
        ]

    def _without_all(self, request: Request, contacts: list[str]) -> list[Binding]:
        # RFC 3261 §10.2.2: the star stands alone and with Expires: 0
        if len(contacts) > 1 or _seconds(request.headers.get("Expires")) != 0:
            raise PeerError(400, "Bad Wildcard Contact")
        for binding in self._bindings:
            _check_order(binding, request)
        return []

    def _with(self, request: Request, contacts: list[NameAddr], flow: Flow, now: float) -> list[Binding]:
        """Return the bindings as the request makes them (RFC 3261 §10.3 step 7)."""
        if len(contacts) > MOST_BINDINGS:
            raise PeerError(400, "Too Many Contacts")
        path = tuple(str(hop) for hop in parse_route_set(request.headers.get_all("Path")))
        bindings = list(self._bindings)
        for contact in contacts:
            if contact.uri.scheme not in ("sip", "sips"):
                raise PeerError(400, "Contact Is No SIP URI")
            lasts = _granted(contact, request)
            known = next((binding for binding in bindings if binding.contact.matches(contact.uri)), None)
            if known is not None:
                if known in self._bindings:  # and not one that the same request has named twice
                    _check_order(known, request)
                bindings.remove(known)
            if lasts:
                bindings.append(
                    Binding(
                        contact=contact.uri,
                        flow=flow if path else _flow_to(contact.uri, flow),
                        path=path,
                        q=_q(contact),
                        call_id=request.call_id,
                        cseq=request.cseq.number,
                        registered_at=now,
                        expires_at=now + lasts,
                    )
                )
        return bindings[-MOST_BINDINGS:]


def _granted(contact: NameAddr, request: Request) -> int:
    """Return the seconds that a Contact gets. Raises PeerError 423 for a wish that is too short."""
    wanted = _seconds(contact.param("expires"))
    if wanted is None:
        wanted = _seconds(request.headers.get("Expires"))
    if wanted is None:
        return LONGEST
    if 0 < wanted < SHORTEST:
        raise PeerError(423, "Interval Too Brief", (("Min-Expires", str(SHORTEST)),))
    return min(wanted, LONGEST)


def _seconds(value: str | None) -> int | None:
    """Read a delta-seconds; a malformed one is treated as none at all (RFC 3261 §10.2.1.1)."""
    value = (value or "").strip(" \t")
    return int(value) if value.isascii() and value.isdigit() and len(value) <= 10 else None


def _q(contact: NameAddr) -> float:
    try:
        q = float(contact.param("q") or "1")
    except ValueError:
        return 1.0
    return q if 0.0 <= q <= 1.0 else 1.0  # not for NaN either


def _check_order(binding: Binding, request: Request) -> None:
    """Refuse a request that was overtaken by a later one. Raises PeerError 500 (RFC 3261 §10.3 steps 6 and 7)."""
    if binding.call_id == request.call_id and request.cseq.number <= binding.cseq:
        raise PeerError(500, "Request Out of Order")


def _flow_to(contact: Uri, flow: Flow) -> Flow:
    """Return the flow to a Contact: to the address it names if that is the one it came from, else back through NAT."""
    if not _names_source(contact, flow):
        return flow
    return replace(flow, remote=(flow.remote[0], contact.port or DEFAULT_PORTS[flow.transport]))


def _names_source(contact: Uri, flow: Flow) -> bool:
    return contact.host.strip("[]").lower() == flow.remote[0].lower()


def _is_over(used: Flow, lost: Flow) -> bool:
    """Whether a binding was made over the connection that is gone."""
    return used.transport != "udp" and used.connection != 0 and used.connection == lost.connection


def _is_where_it_says(binding: Binding) -> bool:
    """Whether the Contact can be called without the connection that it came over."""
    return not binding.path and _names_source(binding.contact, binding.flow)
