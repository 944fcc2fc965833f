"""Our registration with a carrier's registrar (RFC 3261 §10): one address-of-record kept bound to one Contact of ours.

`TABLE` maps ``(state, input)`` to the next state and what to do. A try is one REGISTER with the repetitions that a
challenge or a 423 asks for; a trunk makes at most one in `SHORTEST_PAUSE` seconds (R25). The machine has one timer:
``due_at`` is when `Registration.handle_timeout` wants to be called. Bulk registration (RFC 6140) is for registrars that
know a whole PBX under one name; none of the carriers at hand asks for it, so it is neither offered nor sent.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from bridge.errors import PeerError
from bridge.sip.digest import DigestClient
from bridge.sip.events import Flow
from bridge.sip.headers import CSeq, NameAddr, RouteSet, parse_route_set, split_list
from bridge.sip.message import Headers, Request, Response
from bridge.sip.tokens import Tokens, new_tag
from bridge.sip.transaction import ClientTransaction
from bridge.sip.uri import Uri

SHORTEST_PAUSE = 5.0  # seconds between two tries
ANSWER_WITHIN = 8.0  # seconds for a look-up and an answer: timer F alone (32 s) could outlast a short binding
LEAVE_WITHIN = 4.0  # seconds for the answer when we take the binding back
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0  # of the back-off, doubling
REFUSED_PAUSE = 60.0  # where the account itself is refused: trying on soon would only get it locked
HOME_AFTER = 300.0  # seconds at another hop before the first one is tried again
_REFRESH_FROM, _REFRESH_TO = 0.5, 0.75  # of the granted time: a refresh that fails has the last quarter to recover
_ACCOUNT_REFUSED = frozenset((401, 402, 403, 404, 407))


class State(enum.Enum):
    __hash__ = object.__hash__

    UNREGISTERED = "unregistered"
    REGISTERING = "registering"
    REGISTERED = "registered"
    REFRESHING = "refreshing"
    BACKING_OFF = "backing-off"
    UNREGISTERING = "unregistering"


class Input(enum.Enum):
    __hash__ = object.__hash__

    START = "start"
    ACCEPTED = "2xx"
    FAILED = "failed"  # a refusal, a transport error, or a registrar that can't be found
    DUE = "due"  # the timer: time to refresh, to try again, or to give up waiting for an answer
    LOST = "connection lost"  # the one the binding was made over
    STOP = "stop"


class Do(enum.Enum):
    __hash__ = object.__hash__

    TRY = "try"
    KEEP = "keep"  # plan the refresh
    BACK_OFF = "back off"
    HURRY = "hurry"  # the next try as soon as one may be made
    LEAVE = "leave"  # ask the registrar to forget us
    FORGET = "forget"


@dataclass(frozen=True, slots=True)
class Step:
    state: State
    do: Do | None = None


TABLE: dict[tuple[State, Input], Step] = {
    (State.UNREGISTERED, Input.START): Step(State.REGISTERING, Do.TRY),
    (State.UNREGISTERED, Input.ACCEPTED): Step(State.UNREGISTERED),
    (State.UNREGISTERED, Input.FAILED): Step(State.UNREGISTERED),
    (State.UNREGISTERED, Input.DUE): Step(State.UNREGISTERED),
    (State.UNREGISTERED, Input.LOST): Step(State.UNREGISTERED),
    (State.UNREGISTERED, Input.STOP): Step(State.UNREGISTERED),
    (State.REGISTERING, Input.START): Step(State.REGISTERING),
    (State.REGISTERING, Input.ACCEPTED): Step(State.REGISTERED, Do.KEEP),
    (State.REGISTERING, Input.FAILED): Step(State.BACKING_OFF, Do.BACK_OFF),
    (State.REGISTERING, Input.DUE): Step(State.BACKING_OFF, Do.BACK_OFF),
    (State.REGISTERING, Input.LOST): Step(State.BACKING_OFF, Do.HURRY),
    (State.REGISTERING, Input.STOP): Step(State.UNREGISTERING, Do.LEAVE),
    (State.REGISTERED, Input.START): Step(State.REGISTERED),
    (State.REGISTERED, Input.ACCEPTED): Step(State.REGISTERED),
    (State.REGISTERED, Input.FAILED): Step(State.REGISTERED),
    (State.REGISTERED, Input.DUE): Step(State.REFRESHING, Do.TRY),
    (State.REGISTERED, Input.LOST): Step(State.BACKING_OFF, Do.HURRY),
    (State.REGISTERED, Input.STOP): Step(State.UNREGISTERING, Do.LEAVE),
    (State.REFRESHING, Input.START): Step(State.REFRESHING),
    (State.REFRESHING, Input.ACCEPTED): Step(State.REGISTERED, Do.KEEP),
    (State.REFRESHING, Input.FAILED): Step(State.BACKING_OFF, Do.BACK_OFF),
    (State.REFRESHING, Input.DUE): Step(State.BACKING_OFF, Do.BACK_OFF),
    (State.REFRESHING, Input.LOST): Step(State.BACKING_OFF, Do.HURRY),
    (State.REFRESHING, Input.STOP): Step(State.UNREGISTERING, Do.LEAVE),
    (State.BACKING_OFF, Input.START): Step(State.BACKING_OFF),
    (State.BACKING_OFF, Input.ACCEPTED): Step(
        State.REGISTERED, Do.KEEP
    ),  # the answer that came after we had stopped waiting
    (State.BACKING_OFF, Input.FAILED): Step(State.BACKING_OFF),
    (State.BACKING_OFF, Input.DUE): Step(State.REGISTERING, Do.TRY),
    (State.BACKING_OFF, Input.LOST): Step(State.BACKING_OFF),
    (State.BACKING_OFF, Input.STOP): Step(State.UNREGISTERING, Do.LEAVE),
    (State.UNREGISTERING, Input.START): Step(State.UNREGISTERING),
    (State.UNREGISTERING, Input.ACCEPTED): Step(State.UNREGISTERED, Do.FORGET),
    (State.UNREGISTERING, Input.FAILED): Step(State.UNREGISTERED, Do.FORGET),
    (State.UNREGISTERING, Input.DUE): Step(State.UNREGISTERED, Do.FORGET),
    (State.UNREGISTERING, Input.LOST): Step(State.UNREGISTERED, Do.FORGET),
    (State.UNREGISTERING, Input.STOP): Step(State.UNREGISTERING),
}


@dataclass(frozen=True, slots=True)
class Account:
    """What a carrier gave us to register with: ``registrar`` is HOST[:PORT], ``expires`` what we ask for in seconds."""

    user: str  # as it stands in a URI
    registrar: str
    expires: int

    @property
    def address_of_record(self) -> str:
        host = Uri.parse(f"sip:{self.registrar}").host
        return f"sip:{self.user}@{host}"


class Registration:
    """Keep one account registered.

    ``send`` carries a REGISTER; ``look_up`` asks for the registrar's hops, which come back by `found`; ``contact``
    says how we are reached on a flow. The hop that answered is kept: a carrier sends its calls from the point of
    presence that we registered with (VoIP.ms, D24). Where it fails the others are tried, and it again after a while.
    """

    def __init__(
        self,
        account: Account,
        digest: DigestClient | None,
        tokens: Tokens,
        send: Callable[[Request, Flow, float], ClientTransaction],
        look_up: Callable[[float], None],
        contact: Callable[[Flow], str],
    ) -> None:
        self.account = account
        self.state = State.UNREGISTERED
        self.since = 0.0  # when this state was entered
        self.due_at: float | None = None
        self.problem = ""  # why the last try failed, in plain words
        self.failing_since: float | None = None
        self.expires_at = 0.0  # when the registrar forgets us
        self.service_route: RouteSet = ()  # RFC 3608: the Route of our calls through this registrar, in order (R41)
        self.flow: Flow | None = None  # over which the registrar has answered
        self._digest = digest
        self._tokens = tokens
        self._send = send
        self._look_up = look_up
        self._contact = contact
        self._call_id = tokens.token(128)
        self._tag = new_tag(tokens)
        self._cseq = 0
        self._asked = account.expires
        self._sent: ClientTransaction | None = None  # the last REGISTER of the try
        self._challenge: Response | None = None  # answered ahead of time in the next try
        self._ahead = False  # whether the last REGISTER answered it so
        self._tried_at = -SHORTEST_PAUSE
        self._failures = 0
        self._retry_after = 0
        self._status = 0  # that ended the last try, 0: silence or no way to send
        self._round: list[Flow] = []  # hops still to be tried, the current one first
        self._home: Flow | None = None  # the hop that answered first
        self._away_at: float | None = None
        self._failed: Flow | None = None  # the hop that failed last: the others come before it

    # -- inputs ------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin to register."""
        self._input(Input.START, now)

    def stop(self, now: float) -> None:
        """Take the binding back, if there may be one (RFC 3261 §10.2.2)."""
        self._input(Input.STOP, now)

    def found(self, flows: tuple[Flow, ...], problem: str, now: float) -> None:
        """Take the registrar's hops in order, or the reason why there are none."""
        if self._round or self.state not in (State.REGISTERING, State.REFRESHING):
            return
        if not flows:
            self._fail(0, problem, now)
            return
        self._round = sorted(flows, key=lambda flow: (flow == self._failed, flow != self._home))
        self._try(now)

    def response(self, response: Response, transaction: ClientTransaction, now: float) -> None:
        """Take a response to one of our REGISTERs."""
        if response.status < 200 or transaction is not self._sent:
            return
        status = response.status
        if status < 300:
            self._accepted(response, transaction, now)
        elif not self._continue(response, transaction, now):
            self._retry_after = retry_after(response)
            self._fail(status, _refusal(status, response.reason, self._digest is not None), now)

    def unanswered(self, transaction: ClientTransaction, status: int, now: float) -> None:
        """Take a time-out (408) or a transport error (503) of one of our REGISTERs."""
        if transaction is self._sent:
            place = _place(transaction.flow)
            self._fail(0, f"no answer from {place}" if status == 408 else f"{place} can't be reached", now)

    def flow_lost(self, flow: Flow, now: float) -> None:
        """Take word that a connection is gone: what was bound over it can't be reached any more."""
        if self.flow is not None and flow.transport != "udp" and _same_way(flow, self.flow):
            self.expires_at = now
            self.problem = f"the connection to {_place(flow)} was lost"
            self._input(Input.LOST, now)

    def handle_timeout(self, now: float) -> None:
        """Let what is due happen."""
        if self.due_at is None or self.due_at > now:
            return
        self.due_at = None
        if self.state in (State.REGISTERING, State.REFRESHING):
            where = f" from {_place(self._round[0])}" if self._round else ""
            self._note_failure(
                0, f"no answer{where}" if where else "the registrar's name was not resolved in time", now
            )
        self._input(Input.DUE, now)

    # -- queries -----------------------------------------------------------------------------------------------------

    def is_bound(self, now: float) -> bool:
        """Whether the registrar knows us at this moment."""
        return self.expires_at > now

    # -- the machine -------------------------------------------------------------------------------------------------

    def _input(self, what: Input, now: float) -> None:
        step = TABLE[self.state, what]
        if step.state is not self.state:
            self.state, self.since = step.state, now
        match step.do:
            case Do.TRY:
                self.due_at = now + ANSWER_WITHIN
                self._try(now)
            case Do.KEEP:
                self._keep(now)
            case Do.BACK_OFF:
                self._back_off(now)
            case Do.HURRY:
                self.due_at = max(now, self._tried_at + SHORTEST_PAUSE)
            case Do.LEAVE:
                self._leave(now)
            case Do.FORGET:
                self.due_at, self._sent, self.expires_at, self.service_route = None, None, now, ()

    def _try(self, now: float) -> None:
        if self._away_at is not None and self._home is not None and now >= self._away_at + HOME_AFTER:
            self._away_at = now
            self._round = [self._home, *self._round]
        if not self._round:
            self._sent = None
            self._look_up(now)
            return
        self._tried_at = now
        self._register(self._round[0], self._asked, now)

    def _keep(self, now: float) -> None:
        granted = self.expires_at - now
        share = _REFRESH_FROM + (_REFRESH_TO - _REFRESH_FROM) * self._random()
        self.due_at = max(now + granted * share, self._tried_at + SHORTEST_PAUSE)

    def _back_off(self, now: float) -> None:
        """Plan the next try: soon at another hop, else later and later, but before a binding that holds runs out."""
        refused = self._status in _ACCOUNT_REFUSED
        if self._round:
            self._failed = self._round.pop(0)
        if refused:
            self._round = []  # the other hops know the same accounts, and count the same failures
        pause = 0.0
        if not self._round:
            first = REFUSED_PAUSE if refused else FIRST_PAUSE
            pause = min(first * 2.0 ** min(self._failures, 16), LONGEST_PAUSE) * (0.75 + 0.5 * self._random())
            self._failures += 1
            if self.is_bound(now):
                pause = min(pause, (self.expires_at - now) / 2)
            # RFC 3261 §21.5.4: the registrar's own wish; its trunks should not all come back at one moment
            pause = max(pause, self._retry_after * (1.0 + 0.1 * self._random()))
        self._retry_after = 0
        self.due_at = max(now + pause, self._tried_at + SHORTEST_PAUSE * (1.0 + 0.2 * self._random()))

    def _leave(self, now: float) -> None:
        if self.flow is None and self._sent is None:
            self._input(Input.FAILED, now)
            return
        flow = self.flow or (self._sent.flow if self._sent is not None else None)
        assert flow is not None
        self._register(flow, 0, now)

    def _fail(self, status: int, problem: str, now: float) -> None:
        self._note_failure(status, problem, now)
        self._input(Input.FAILED, now)

    def _note_failure(self, status: int, problem: str, now: float) -> None:
        self._status, self.problem = status, problem
        if self.failing_since is None:
            self.failing_since = now

    def _random(self) -> float:
        return int(self._tokens.token(32), 16) / 2**32

    # -- REGISTER ----------------------------------------------------------------------------------------------------

    def _register(self, flow: Flow, expires: int, now: float) -> None:
        """Send a REGISTER, with an answer to the last challenge: most registrars still know its nonce."""
        request = self._request(flow, expires)
        credentials = None
        if self._digest is not None and self._challenge is not None:
            credentials = self._digest.authorize(request, self._challenge)
        if credentials is not None:
            request.headers.append(credentials)
        self._ahead = credentials is not None
        self._transmit(request, flow, now)

    def _request(self, flow: Flow, expires: int) -> Request:
        """Write a REGISTER: one Call-ID for all of them, under a CSeq that rises (RFC 3261 §10.2)."""
        self._cseq += 1
        address = self.account.address_of_record
        headers = Headers()
        headers.add("Max-Forwards", "70")
        headers.add("From", f"<{address}>;tag={self._tag}")
        headers.add("To", f"<{address}>")
        headers.add("Call-ID", self._call_id)
        headers.add("CSeq", str(CSeq(self._cseq, "REGISTER")))
        headers.add("Contact", self._contact(flow))
        headers.add("Expires", str(expires))
        headers.add("Supported", "path")
        return Request("REGISTER", f"sip:{self.account.registrar}", headers)

    def _continue(self, response: Response, transaction: ClientTransaction, now: float) -> bool:
        """Go on with the try where the registrar asks for credentials or for more time; tell whether we could."""
        match response.status:
            case 401 | 407:
                return self._authorize(response, transaction, now)
            case 423:
                return self._ask_for_longer(response, transaction, now)
            case _:
                return False

    def _authorize(self, response: Response, transaction: ClientTransaction, now: float) -> bool:
        """Answer a challenge within the try (RFC 3261 §22.2)."""
        if self._digest is None:
            return False
        asked = transaction.request
        if self._ahead:  # it refused an old nonce; whether it says stale or not, this is its first question
            asked = asked.copy()
            for name in ("Authorization", "Proxy-Authorization"):
                asked.headers.remove(name)
        credentials = self._digest.authorize(asked, response)
        if credentials is None:
            self._challenge = None
            return False
        self._challenge = response
        request = self._request(transaction.flow, _expires(asked))
        request.headers.append(credentials)
        self._ahead = False
        self._transmit(request, transaction.flow, now)
        return True

    def _ask_for_longer(self, response: Response, transaction: ClientTransaction, now: float) -> bool:
        """Ask for the registrar's Min-Expires within the try (RFC 3261 §10.2.8)."""
        least = _number(response.headers.get("Min-Expires"))
        if least is None or not self._asked < least <= 86_400 or self.state is State.UNREGISTERING:
            return False
        self._asked = least
        self._register(transaction.flow, least, now)
        return True

    def _transmit(self, request: Request, flow: Flow, now: float) -> None:
        self.due_at = now + (LEAVE_WITHIN if self.state is State.UNREGISTERING else ANSWER_WITHIN)
        self._sent = self._send(request, flow, now)

    def _accepted(self, response: Response, transaction: ClientTransaction, now: float) -> None:
        if self.state is State.UNREGISTERING:
            self._input(Input.ACCEPTED, now)
            return
        lasts = granted(response, transaction.request)
        if lasts <= 0:
            self._fail(0, "the registrar accepted us for no time at all", now)
            return
        self.flow, self._sent = transaction.flow, None
        self.expires_at = now + lasts
        self.problem, self.failing_since, self._failures = "", None, 0
        try:
            self.service_route = parse_route_set(response.headers.get_all("Service-Route"))
        except PeerError:  # one that can't be read is no reason to be unreachable
            self.service_route = ()
        self._failed = None
        self._home = self._home or self.flow
        if self.flow == self._home:
            self._away_at = None
        elif self._away_at is None:
            self._away_at = now
        self._round = [self.flow]
        self._input(Input.ACCEPTED, now)


def granted(response: Response, request: Request) -> float:
    """Return for how many seconds a 200 binds the request's Contact.

    The Contact's own parameter wins over the Expires header (RFC 3261 §10.2.4, R25); a registrar that shows our
    Contact as it sees it through NAT is understood where it shows just one.
    """
    ours = request.contact
    assert ours is not None
    listed: list[NameAddr] = []
    for item in (item for value in response.headers.get_all("Contact") for item in split_list(value)):
        try:
            listed.append(NameAddr.parse(item))
        except PeerError:  # somebody else's binding
            continue
    own = next((contact for contact in listed if contact.uri.matches(ours.uri)), None)
    if own is None and len(listed) == 1:
        own = listed[0]
    expires = _number(own.param("expires")) if own is not None else None
    if expires is None:
        expires = _number(response.headers.get("Expires"))
    return float(_expires(request) if expires is None else expires)


def retry_after(response: Response) -> int:
    """Return the seconds of a Retry-After, an hour at most, 0 where it says nothing (RFC 3261 §20.33)."""
    value = (response.headers.get("Retry-After") or "").partition(";")[0].partition("(")[0]
    return min(_number(value) or 0, 3600)


def _number(value: str | None) -> int | None:
    value = (value or "").strip(" \t")
    return int(value) if value.isascii() and value.isdigit() and len(value) <= 10 else None


def _expires(request: Request) -> int:
    return _number(request.headers.get("Expires")) or 0


def _place(flow: Flow) -> str:
    host, port = flow.remote
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"{address} ({flow.name})" if flow.name else address


def _same_way(one: Flow, other: Flow) -> bool:
    return (one.transport, one.remote, one.name) == (other.transport, other.remote, other.name)


def _refusal(status: int, reason: str, has_password: bool) -> str:
    if status in (401, 407):
        return (
            f"the registrar refused username or password ({status})"
            if has_password
            else f"the registrar asks for a password ({status}) and the account has none"
        )
    if status in (403, 404):
        return f"the registrar does not take this account ({status} {reason})"
    return f"the registrar answered {status} {reason}"
