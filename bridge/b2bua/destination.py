"""Where a transfer leads: from what a platform or an operator wrote to numbers and the trunks that may reach them.

Platforms name the target as they see the world: ``tel:``, or a SIP URI at their own host or ours. Behind each there is
a telephone number that the rules for calls hold for (D35, T09). Any other host must be an account's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from bridge.b2bua.numbers import telephone_number, with_plus
from bridge.b2bua.routing import Routes, Sources, Target
from bridge.config import Config, Peer
from bridge.errors import PeerError
from bridge.literals import is_address
from bridge.sip.extensions import Replaces, embed_headers, embedded_headers
from bridge.sip.headers import NameAddr
from bridge.sip.message import Header
from bridge.sip.uri import Uri

_PASSING = ("user-to-user", "referred-by")


@dataclass(frozen=True, slots=True)
class Destination:
    """Hold a transfer's target: the number, and the account whose host was named (None: the routes decide).

    ``embedded`` are the headers that the URI carried, ``headers`` those that stood beside it; of either only what may
    pass. ``replaces`` names the dialog that an attended transfer ends in.
    """

    number: str
    peer: Peer | None
    embedded: tuple[Header, ...] = ()
    headers: tuple[Header, ...] = ()
    replaces: Replaces | None = None

    @property
    def passed(self) -> tuple[Header, ...]:
        """All headers for an INVITE to the target; what the URI carried counts more."""
        named = {header.name.lower() for header in self.embedded}
        return (*self.embedded, *(header for header in self.headers if header.name.lower() not in named))


class Directory:
    """Know whose a host is and where a number leads. ``our_hosts`` are the names and addresses we are called by."""

    def __init__(
        self,
        config: Config,
        routes: Routes,
        sources: Sources,
        our_hosts: Collection[str],
        permitted: Callable[[Peer, str], bool],
    ) -> None:
        self._peers = (*config.carriers.values(), *config.platforms.values())
        self._routes = routes
        self._sources = sources
        self._our_hosts = frozenset(host.lower() for host in our_hosts)
        self._permitted = permitted

    def destination(self, uri: Uri, headers: Iterable[Header], transferor: Peer) -> Destination:
        """Read a target that ``transferor`` names; ``headers`` are those of the REFER.

        Raises PeerError: 400 for a target without a user, 403 for a foreign host.
        """
        embedded = embedded_headers(uri)
        replaces = [header.value for header in embedded if header.name.lower() == "replaces"]
        if len(replaces) > 1:
            raise PeerError(400, "Repeated Replaces")
        number = telephone_number((uri.user or "").partition(";")[0])
        if not number and not replaces:
            raise PeerError(400, "Refer-To Without a User")
        return Destination(
            number=number,
            peer=None if uri.scheme == "tel" else self._owner(uri.host, transferor),
            embedded=tuple(filter(_passes, embedded)),
            headers=tuple(filter(_passes, headers)),
            replaces=Replaces.parse(replaces[0]) if replaces else None,
        )

    def targets(self, destination: Destination, transferor: Peer, transferee: Peer) -> list[Target]:
        """Return where to dial: the named account, a route of the transferor's, or where the transferee came from.

        Raises PeerError 403 where the rules let nobody dial that number (T09).
        """
        if destination.peer is not None:
            found = _hosts(destination.peer)
        elif (route := self._routes.find((transferor,), destination.number)) is not None:
            found = self._routes.targets(route[1])
        else:
            found = _hosts(transferee)
        targets = [target for target in found if self._permitted(target.peer, destination.number)]
        if not targets:
            raise PeerError(403, "Forbidden")
        return targets

    def may_be_reached(self, destination: Destination, through: Peer) -> bool:
        """Tell whether a number may be reached by asking this account to do it (T09)."""
        return destination.peer in (None, through) and self._permitted(through, destination.number)

    def _owner(self, host: str, transferor: Peer) -> Peer | None:
        """Return whose host it is; None for ours and the transferor's, which only stand for a number."""
        name = host.lower().strip("[]")
        if name in self._our_hosts:
            return None
        owners = [peer for peer in self._peers if any(name == known.host.lower().strip("[]") for known in peer.hosts)]
        if is_address(name):
            owners += self._sources.owners(name)
        owners += [peer for peer in self._peers if peer.profile.domain and name == peer.profile.domain.lower()]
        if not owners:
            raise PeerError(403, "Forbidden")
        return None if transferor in owners else owners[0]


def target_uri(text: str) -> Uri:
    """Read what an operator gives as target: a telephone number, a tel URI or a SIP URI. Raises PeerError 400, 416."""
    number = telephone_number(text)
    return Uri.parse(f"tel:{number}" if number.removeprefix("+").isdigit() else text)


def refer_to(destination: Destination, through: Peer, replaces: Replaces | None = None) -> NameAddr:
    """Write the Refer-To of a REFER to ``through``: its host and its way to write numbers, our headers in the URI.

    Of a Replaces only one of that account's own dialogs may go there: it is given apart.
    """
    target = _hosts(through)[0]
    plus = through.profile.plus
    number = with_plus(destination.number, plus.get("refer_to", plus.get("request_uri", "keep")))
    headers = list(destination.embedded)
    if replaces is not None:
        headers.append(Header("Replaces", str(replaces)))
    embedded = f"?{embed_headers(headers)}" if headers else ""
    return NameAddr("", Uri.parse(f"sip:{number}@{target.authority}{embedded}"))


def _hosts(peer: Peer) -> list[Target]:
    return [Target(peer, host) for host in peer.hosts]


def _passes(header: Header) -> bool:
    name = header.name.lower()
    return name.startswith("x-") or name in _PASSING
