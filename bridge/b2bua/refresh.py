"""Session timers on one leg (RFC 4028): what is agreed with its peer, when to refresh, and when to give up.

They end here, on each leg: a peer's refresh never reaches the other side, which may not know what to do with it (D22).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bridge.b2bua.capabilities import supports
from bridge.errors import PeerError
from bridge.profile import Profile
from bridge.sip.extensions import SessionExpires
from bridge.sip.message import Header, Request, Response

SHORTEST = 90
"""Seconds: the absolute minimum of a session interval (RFC 4028 §5)."""
MOST_RAISES = 4
"""How often in a row a 422 may ask for more: each hop on the way has a minimum of its own, but there are few."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What holds on a leg: ``expires`` in seconds, and whether the refreshes are ours to send."""

    expires: int
    we_refresh: bool
    enforced: bool = True  # False: the peer knows no session timers, so only we care

    def deadline(self, now: float) -> float:
        """Return when to act: refresh at half the interval; a peer that has not by then is given up (§10)."""
        if self.we_refresh:
            return now + self.expires / 2
        return now + self.expires - min(32.0, self.expires / 3)


class SessionTimer:
    """Keep one leg's session interval. ``agreement`` is None while there is none."""

    def __init__(self, profile: Profile) -> None:
        self.agreement: Agreement | None = None
        self._mode = profile.session_timer
        self._wanted = profile.session_expires
        self._shortest = max(profile.min_session_expires, SHORTEST)
        self._least = 0  # what a 422 of the peer's asked for (§7.4)
        self._raises = 0  # since an interval was accepted

    @property
    def supported(self) -> bool:
        """Whether we tell this peer that we know session timers."""
        return self._mode != "off"

    def asking(self) -> tuple[Header, ...]:
        """Return the headers for a session request of ours: the INVITE, or a refresh (§7.1, §7.4)."""
        agreed = self.agreement
        if agreed is not None:
            # The refresher stays the same; the roles are those of this very transaction.
            asked = SessionExpires(max(agreed.expires, self._least), "uac" if agreed.we_refresh else "uas")
        elif self._mode == "offer" or self._least:
            asked = SessionExpires(max(self._wanted, self._least), None)
        else:
            return ()
        least = (Header("Min-SE", str(self._least)),) if self._least else ()
        return (Header("Session-Expires", str(asked)), *least)

    def too_brief(self, response: Response) -> bool:
        """Take a 422; tell whether asking again with a longer interval is worth while (§7.3)."""
        least = _seconds(response.headers.get("Min-SE"))
        if not self.supported or least is None or least <= self._least or self._raises >= MOST_RAISES:
            return False
        self._least = least
        self._raises += 1
        if self.agreement is not None:
            self.agreement = replace(self.agreement, expires=max(self.agreement.expires, least))
        return True

    def accept(self, request: Request) -> tuple[Header, ...]:
        """Agree on the interval of a peer's session request; return the headers for our 2xx (§9).

        Raises PeerError 422 for an interval below our minimum.
        """
        if not self.supported:
            return ()
        knows = supports(request, "timer")
        text = request.headers.get("Session-Expires")
        if text is None:
            if self._mode != "offer" and self.agreement is None:
                return ()
            # D22: we refresh where the peer did not ask for a timer, or can't have one
            expires = max(
                self.agreement.expires if self.agreement else self._wanted, _seconds(request.headers.get("Min-SE")) or 0
            )
            self.agreement = Agreement(expires, we_refresh=True, enforced=knows)
            return (Header("Session-Expires", str(SessionExpires(expires, "uas"))),)
        asked = SessionExpires.parse(text)
        if asked.seconds < self._shortest:
            if knows:
                raise PeerError(422, "Session Interval Too Small", (("Min-SE", str(self._shortest)),))
            return ()  # a proxy's wish; the peer itself would not understand a 422
        peer_refreshes = knows and asked.refresher == "uac"
        self.agreement = Agreement(asked.seconds, we_refresh=not peer_refreshes, enforced=knows)
        said = SessionExpires(asked.seconds, "uac" if peer_refreshes else "uas")
        required = (Header("Require", "timer"),) if peer_refreshes else ()
        return (Header("Session-Expires", str(said)), *required)

    def accepted(self, response: Response) -> None:
        """Take what the peer's 2xx to a session request of ours says (§7.2)."""
        text = response.headers.get("Session-Expires")
        self._raises = 0
        try:
            said = SessionExpires.parse(text) if text is not None else None
        except PeerError:
            said = None
        if said is not None and self.supported:
            self.agreement = Agreement(max(said.seconds, SHORTEST), we_refresh=said.refresher != "uas")
        elif self.agreement is not None:
            self.agreement = replace(self.agreement, we_refresh=True, enforced=False)
        elif self._mode == "offer":  # the peer knows no timers: we still look whether it lives
            self.agreement = Agreement(max(self._wanted, self._least), we_refresh=True, enforced=False)


def _seconds(text: str | None) -> int | None:
    digits = text.partition(";")[0].strip(" \t") if text else ""
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 9 else None
