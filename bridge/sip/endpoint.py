"""The SIP endpoint: bytes in, transactions and events out; the transaction user's requests and responses in, bytes out.

It performs the steps of the machines in `bridge.sip.transaction`, repeats 2xx responses until their ACK, and answers by
itself whatever needs no transaction user. Every call may leave events and datagrams behind: drain both after each.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable
from dataclasses import replace

from bridge.errors import PeerError
from bridge.literals import is_address
from bridge.sip.events import (
    AckMissing,
    AckReceived,
    CancelReceived,
    EndpointEvent,
    Flow,
    PrackMissing,
    RequestReceived,
    ResponseReceived,
    TransactionFailed,
    TransactionTimedOut,
    Transmit,
)
from bridge.sip.extensions import RAck
from bridge.sip.fields import UNPRINTABLE
from bridge.sip.message import Header, Headers, Malformed, Request, Response, parse, response_to
from bridge.sip.reliable import FIRST_RSEQ, Numbered, ReliableResponses
from bridge.sip.timers import TimerTable, TimerValues
from bridge.sip.tokens import MAGIC_COOKIE, Tokens, new_branch, new_tag
from bridge.sip.transaction import (
    TIMER_INPUTS,
    ClientTransaction,
    Do,
    Input,
    ServerTransaction,
    State,
    Step,
    Timer,
    Transaction,
)
from bridge.sip.uri import DEFAULT_PORTS

LARGEST_DATAGRAM = 1300
"""Octets: a larger request goes over a stream where there is one (RFC 3261 §18.1.1, R13)."""

MOST_REFUSED = 2000
"""Refused INVITEs that are held for their ACK, or its repeats: who never acknowledges fills no memory (T10)."""
_COPIED_TO_ACK = ("From", "Call-ID", "Route", "Authorization", "Proxy-Authorization")
_COPIED_TO_CANCEL = ("From", "To", "Call-ID", "Route")


class Endpoint:
    """Run the transactions of every flow.

    ``via`` gives the host and port that a flow's listener is known by; ``belongs`` says whether a flow may speak for
    the owner of a transaction: a response or a CANCEL from elsewhere is refused (T24). ``stream_to`` gives the stream
    that takes a request which is too large for a UDP flow, None: there is none, or the peer wants it over UDP (R13).
    """

    def __init__(
        self,
        tokens: Tokens,
        via: Callable[[Flow], tuple[str, int]],
        timers: TimerValues | None = None,
        belongs: Callable[[object, Flow], bool] = lambda owner, flow: True,
        stream_to: Callable[[Flow], Flow | None] = lambda flow: None,
    ) -> None:
        self.rejected: Counter[str] = Counter()  # why input was dropped or refused without a transaction
        self._tokens = tokens
        self._via = via
        self._belongs = belongs
        self._stream_to = stream_to
        self._values = timers or TimerValues()
        self._timers = TimerTable()  # by (transaction, Timer)
        self._events: deque[EndpointEvent] = deque()
        self._transmits: deque[Transmit] = deque()
        self._clients: dict[tuple[str, str], ClientTransaction] = {}  # by branch and method (RFC 3261 §17.1.3)
        self._waiting: dict[ClientTransaction, None] = {}  # without a final response: the few that can still fail
        self._answered: dict[tuple[str, int], ClientTransaction] = {}  # by Call-ID and CSeq: a 2xx has come, until M
        self._servers: dict[Hashable, ServerTransaction] = {}  # by `_server_key`
        self._refused: dict[ServerTransaction, None] = {}  # INVITEs, in the order of their refusal
        self._first_of: dict[Hashable, ServerTransaction] = {}  # by `_merge_key`: what may be merged into
        self._accepted: dict[Hashable, ServerTransaction] = {}  # by `_ack_key`: 2xx sent, until timer L
        self._reliable: dict[Hashable, ServerTransaction] = {}  # by `_ack_key`: reliable 1xx sent
        self._over: list[Transaction] = []  # forgotten, but named by events that are not drained yet

    # -- inputs ------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, flow: Flow, now: float) -> Request | Response | None:
        """Take one datagram. Return the message, every typed property of which is sound, or None if it was dropped."""
        self._let_go()
        if not data.strip(b"\r\n\0"):  # keep-alives (RFC 5626 §3.5.1 and its lookalikes)
            return None
        try:
            message = parse(data)
            message.validate()
            if flow.transport != "udp" and "Content-Length" not in message.headers:  # RFC 3261 §20.14
                raise PeerError(400, "Missing Content-Length")
        except Malformed as error:
            self._refuse(error.request, error, flow)
            return None
        except PeerError as error:
            request = message if isinstance(message, Request) and message.method != "ACK" else None
            self._refuse(request, error, flow)
            return None
        if isinstance(message, Response):
            accepted = self._receive_response(message, flow, now)
        else:
            accepted = self._receive_request(message, flow, now)
        return message if accepted else None

    def transport_failed(self, flow: Flow, now: float) -> None:
        """Fail the client transactions that send to a place which can't be reached.

        A request that is on a stream only for its size goes out over UDP instead (RFC 3261 §18.1.1). Server
        transactions go on (R22, RFC 6026 §8.6).
        """
        for transaction in [client for client in self._waiting if _leads_to(client.flow, flow)]:
            if transaction.state is not State.TERMINATED:
                self._fail(transaction, now)

    def flow_lost(self, flow: Flow, now: float) -> None:
        """Send again, once, what was not answered when its connection closed: same branch, over a new connection.

        A second loss is a transport error. An INVITE that rings needs nothing: the peer answers over a connection of
        its own (RFC 3261 §18.2.2), and so do the server transactions.
        """
        for transaction in [client for client in self._waiting if _went_over(client.flow, flow)]:
            if not transaction.unanswered:
                continue
            if transaction.sent_again:
                self._fail(transaction, now)
            else:
                transaction.sent_again = True
                assert transaction.last_sent is not None
                self._transmit_request(transaction, transaction.last_sent, retransmission=True)

    def handle_timeout(self, now: float) -> None:
        """Let every timer fire that is due by now, in the order of their deadlines."""
        self._let_go()
        while (key := self._timers.pop(now)) is not None:
            transaction, timer = key
            if isinstance(transaction, ClientTransaction):
                if timer is Timer.CANCELLED:  # RFC 3261 §9.1
                    transaction.state = State.TERMINATED
                    self._events.append(TransactionTimedOut(transaction))
                    self._forget_client(transaction)
                else:
                    self._perform_client(transaction, transaction.step(TIMER_INPUTS[timer]), now)
            elif timer is Timer.REPEAT_2XX:
                self._repeat_success(transaction, now)
            elif timer is Timer.ACK_2XX:
                self._stop_repeating(transaction)
                self._events.append(AckMissing(transaction))
            elif timer is Timer.REPEAT_1XX:
                self._repeat_provisional(transaction, now)
            elif timer is Timer.PRACK:
                self._give_up_provisional(transaction)
            else:
                self._perform_server(transaction, transaction.step(TIMER_INPUTS[timer]), now)

    # -- what the transaction user asks for --------------------------------------------------------------------------

    def send_request(self, request: Request, flow: Flow, now: float, owner: object = None) -> ClientTransaction:
        """Send a copy of the request under a fresh Via and return its transaction. Any method but ACK.

        What is larger than a datagram should be goes over a stream; where that is refused before any response, it goes
        over UDP after all, in the same transaction (RFC 3261 §18.1.1, R13). Raises ValueError for a header that can't
        be printed (T13).
        """
        branch = new_branch(self._tokens)
        transaction = ClientTransaction(self._with_via(request, flow, branch), flow, self._values)
        transaction.owner = owner
        transaction.last_sent = transaction.request.encode()
        if flow.transport == "udp" and len(transaction.last_sent) > LARGEST_DATAGRAM:
            stream = self._stream_to(flow)
            if stream is not None:
                transaction.datagrams = flow
                transaction.move(self._with_via(request, stream, branch), stream)
        self._begin_client(transaction, branch, now)
        return transaction

    def send_ack(self, request: Request, flow: Flow) -> None:
        """Send an ACK for a 2xx: under a branch of its own, outside any transaction (RFC 3261 §13.2.2.4).

        For a repeat of the 2xx (R06) the same octets go out again. Where the INVITE went over a stream for its size,
        its ACK does too.
        """
        invite = self._answered.get(_call_and_number(request))
        if invite is not None and invite.datagrams == flow:
            flow = invite.flow
        tag = request.to.tag
        sent = None if invite is None else invite.acks.get(tag)
        repeated = sent is not None
        if sent is None:
            sent = self._with_via(request, flow, new_branch(self._tokens)).encode()
            if invite is not None:
                invite.acks[tag] = sent
        self._transmits.append(Transmit(sent, flow, "ACK", 0, repeated, request.call_id))

    def cancel(
        self,
        transaction: ClientTransaction,
        now: float,
        reasons: tuple[str, ...] = (),
        headers: tuple[Header, ...] = (),
    ) -> None:
        """Cancel an INVITE of ours; ``reasons`` become Reason headers. Nothing happens once it has a final response.

        The CANCEL waits for a provisional response (RFC 3261 §9.1, R07). Without a final response within 64*T1 after
        it `TransactionTimedOut` comes. Raises ValueError for a reason that can't be printed (T13).
        """
        if UNPRINTABLE.search("".join(reasons)):  # now, and not when the provisional response comes
            raise ValueError("CR, LF or NUL within a SIP header")
        said = (*(Header("Reason", reason) for reason in reasons), *headers)
        if transaction.state is State.PROCEEDING and not transaction.cancel_sent:
            self._send_cancel(transaction, said, now)
        elif transaction.state is State.CALLING:
            transaction.cancel_pending = said

    def respond(self, transaction: ServerTransaction, response: Response, now: float) -> None:
        """Send a response; after a final one there is nothing more to say and the call does nothing.

        A 2xx to INVITE is repeated until its ACK (RFC 3261 §13.3.1.4); while a reliable provisional response with a
        body awaits its PRACK, it waits for that (RFC 3262 §3), with ``transaction.final`` still None, and only a
        refusal can take its place. A 408 to anything else ends the transaction unsaid, and a 100 to it goes out only
        over UDP after 3.5 s (R21, RFC 4320 §4). Raises ValueError for a header that can't be printed (T13).
        """
        if transaction.final is not None or transaction.state is State.TERMINATED:
            return
        status = response.status
        if transaction.provisionals is not None and not self._may_follow(transaction.provisionals, response):
            return
        if not transaction.is_invite:
            if status == 408:
                transaction.final = status
                transaction.state = State.TERMINATED
                self._forget_server(transaction)
                return
            if status < 200 and not self._may_say_trying(transaction, status, now):
                return
        transaction.last_sent = response.encode()
        transaction.last_response = response
        if status < 200:
            what = Input.PROVISIONAL
        else:
            transaction.final = status
            what = Input.SUCCESS if status < 300 else Input.FAILURE
            self._stop_provisionals(transaction)
            if transaction.is_invite and status < 300:
                transaction.ack_key = _ack_key(response)
                self._accepted[transaction.ack_key] = transaction
                self._timers.set((transaction, Timer.REPEAT_2XX), now + self._values.t1)
                self._timers.set((transaction, Timer.ACK_2XX), now + self._values.timeout)
        self._perform_server(transaction, transaction.step(what), now)
        if transaction.is_invite and status >= 300:
            self._refused[transaction] = None
            if len(self._refused) > MOST_REFUSED:
                self._drop_server(next(iter(self._refused)))

    def respond_once(self, transaction: ServerTransaction, response: Response, now: float) -> None:
        """Send the final response to a request other than INVITE and keep nothing of it (RFC 3261 §8.2.7).

        A repeat of the request is served anew, so this is for what can be answered twice: a flood of it must not fill
        memory for the 32 s of timer J (T10). Raises ValueError as `respond` does.
        """
        self.respond(transaction, response, now)
        self._drop_server(transaction)

    def respond_reliably(self, transaction: ServerTransaction, response: Response, now: float) -> None:
        """Send a 101–199 to an INVITE so that it arrives (RFC 3262 §3): with 100rel and RSeq, repeated until its PRACK.

        The next one waits for that PRACK, a final response ends them all (bridge.sip.reliable). `PrackMissing` comes
        after 64*T1 without it. Raises ValueError for a header that can't be printed (T13).
        """
        if transaction.final is not None or transaction.state is State.TERMINATED:
            return
        if transaction.provisionals is None:
            transaction.provisionals = ReliableResponses(int(self._tokens.token(32), 16) % FIRST_RSEQ + 1)
            transaction.prack_key = _ack_key(response)
            self._reliable[transaction.prack_key] = transaction
        if transaction.provisionals.success is None:
            transaction.provisionals.add(response)
            self._send_provisional(transaction, now)

    def provisional_acknowledged(self, prack: Request, now: float) -> bool:
        """Take a PRACK for a reliable response of ours and let go what waited for it; False: it matches none (481).

        Raises PeerError 400 for a RAck that is missing or malformed.
        """
        rack = RAck.parse(prack.headers.get("RAck") or "")
        transaction = self._reliable.get((prack.call_id, rack.cseq, prack.from_.tag, prack.to.tag))
        provisionals = None if transaction is None else transaction.provisionals
        if transaction is None or provisionals is None or rack.method != "INVITE":
            return False
        if not provisionals.acknowledge(rack.rseq):
            return False
        self._stop_repeating_provisional(transaction)
        if provisionals.success is not None and not provisionals.hold_success:
            success, provisionals.success = provisionals.success, None
            self.respond(transaction, success, now)
        else:
            self._send_provisional(transaction, now)
        return True

    # -- outputs and queries -----------------------------------------------------------------------------------------

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` wants to be called; reads only."""
        return self._timers.next()

    def poll_event(self) -> EndpointEvent | None:
        """Return the next event, None when there is none."""
        return self._events.popleft() if self._events else None

    def poll_transmit(self) -> Transmit | None:
        """Return the next message to send, None when there is none."""
        return self._transmits.popleft() if self._transmits else None

    def counts(self) -> dict[str, int]:
        """Count what is held in memory (T19)."""
        invite_clients = sum(client.is_invite for client in self._clients.values())
        invite_servers = sum(server.is_invite for server in self._servers.values())
        return {
            "invite_clients": invite_clients,
            "non_invite_clients": len(self._clients) - invite_clients,
            "unanswered_clients": len(self._waiting),
            "invite_servers": invite_servers,
            "non_invite_servers": len(self._servers) - invite_servers,
            "pending_2xx": sum(not server.acknowledged for server in self._accepted.values()),
            "timers": len(self._timers),
        }

    # -- clients -----------------------------------------------------------------------------------------------------

    def _begin_client(self, transaction: ClientTransaction, branch: str, now: float) -> None:
        request = transaction.request
        if transaction.last_sent is None:
            transaction.last_sent = request.encode()
        self._clients[branch, request.method] = transaction
        self._waiting[transaction] = None
        self._transmit_request(transaction, transaction.last_sent)
        # RFC 3261 §17.1.1.2: timers A and B; §17.1.2.2: timers E and F
        self._start(transaction, (Timer.A, Timer.B) if transaction.is_invite else (Timer.E, Timer.F), now)

    def _receive_response(self, response: Response, flow: Flow, now: float) -> bool:
        vias = response.headers.get_all("Via")
        if len(vias) > 1 or "," in vias[0]:  # RFC 3261 §8.1.3.3: it was meant for somebody else
            self.rejected["surplus-via"] += 1
            return False
        transaction = self._clients.get((response.via.branch or "", response.cseq.method))
        if transaction is None:
            self.rejected["no-transaction"] += 1
            return False
        if not self._belongs(transaction.owner, flow):  # T24: copied identifiers
            self.rejected["foreign"] += 1
            return False
        status = response.status
        if status < 200:
            transaction.provisional = True
            what = Input.PROVISIONAL
        else:
            if transaction.final is None:
                transaction.final = response
            what = Input.SUCCESS if status < 300 else Input.FAILURE
            if what is Input.SUCCESS and transaction.is_invite:
                self._answered[_call_and_number(transaction.request)] = transaction
        self._perform_client(transaction, transaction.step(what), now, response, flow)
        if transaction.cancel_pending is not None and transaction.state is not State.CALLING:
            said, transaction.cancel_pending = transaction.cancel_pending, None
            if transaction.state is State.PROCEEDING:
                self._send_cancel(transaction, said, now)
        return True

    def _perform_client(
        self,
        transaction: ClientTransaction,
        step: Step,
        now: float,
        response: Response | None = None,
        flow: Flow | None = None,
    ) -> None:
        for do in step.do:
            if do is Do.REPEAT:
                assert transaction.last_sent is not None
                self._transmit_request(transaction, transaction.last_sent, retransmission=True)
            elif do is Do.ACKNOWLEDGE:
                assert response is not None
                self._acknowledge(transaction, response)
            elif transaction.cancelled is not None:  # nobody owns a CANCEL: its INVITE tells the outcome
                continue
            elif do is Do.TELL:
                assert response is not None
                assert flow is not None
                self._events.append(ResponseReceived(response, flow, transaction))
            elif do is Do.TIMED_OUT:
                self._events.append(TransactionTimedOut(transaction))
            elif do is Do.FAILED:
                self._events.append(TransactionFailed(transaction))
        for timer in step.stop:
            self._timers.cancel((transaction, timer))
        if transaction.final is not None:
            self._waiting.pop(transaction, None)
            self._timers.cancel((transaction, Timer.CANCELLED))
        self._start(transaction, step.start, now)
        if step.state is State.TERMINATED:
            self._forget_client(transaction)

    def _fail(self, transaction: ClientTransaction, now: float) -> None:
        datagrams = transaction.datagrams
        if datagrams is None or not transaction.unanswered:
            self._perform_client(transaction, transaction.step(Input.TRANSPORT_ERROR), now)
            return
        transaction.datagrams = None
        branch = transaction.request.via.branch or ""
        transaction.move(self._with_via(transaction.request, datagrams, branch), datagrams)
        assert transaction.last_sent is not None
        self._transmit_request(transaction, transaction.last_sent)
        # What is left of timers B and F is left: the user waits once for one request.
        self._start(transaction, (Timer.A if transaction.is_invite else Timer.E,), now)

    def _acknowledge(self, transaction: ClientTransaction, response: Response) -> None:
        """Send the ACK for a 3xx–6xx (RFC 3261 §17.1.1.3, R03), each time the same octets."""
        repeated = transaction.ack is not None
        if transaction.ack is None:
            invite = transaction.request
            headers = Headers()
            headers.add("Via", str(invite.via))
            headers.add("Max-Forwards", "70")
            headers.copy_from(invite.headers, _COPIED_TO_ACK)
            headers.copy_from(response.headers, ("To",))
            headers.add("CSeq", f"{invite.cseq.number} ACK")
            transaction.ack = Request("ACK", invite.uri, headers).encode()
        self._transmits.append(
            Transmit(transaction.ack, transaction.flow, "ACK", 0, repeated, transaction.request.call_id)
        )

    def _send_cancel(self, invite: ClientTransaction, said: tuple[Header, ...], now: float) -> None:
        """Send the CANCEL of an INVITE that is ringing (RFC 3261 §9.1): same branch, same place."""
        request = invite.request
        headers = Headers()
        headers.add("Via", str(request.via))
        headers.add("Max-Forwards", "70")
        headers.copy_from(request.headers, _COPIED_TO_CANCEL)
        headers.add("CSeq", f"{request.cseq.number} CANCEL")
        for header in said:
            headers.append(header)
        invite.cancel_sent = True
        transaction = ClientTransaction(Request("CANCEL", request.uri, headers), invite.flow, self._values)
        transaction.cancelled = invite
        self._begin_client(transaction, request.via.branch or "", now)
        self._timers.set((invite, Timer.CANCELLED), now + self._values.timeout)

    def _forget_client(self, transaction: ClientTransaction) -> None:
        self._stop_all(transaction)
        self._waiting.pop(transaction, None)
        request = transaction.request
        self._clients.pop((request.via.branch or "", request.method), None)
        if transaction.is_invite:
            self._answered.pop(_call_and_number(request), None)

    # -- servers -----------------------------------------------------------------------------------------------------

    def _receive_request(self, request: Request, flow: Flow, now: float) -> bool:
        key = _server_key(request, request.method)
        if request.method == "ACK":
            return self._receive_ack(request, flow, now)
        known = self._servers.get(key)
        if known is not None:
            if known.reliable and (flow.transport, flow.remote[0]) == (known.flow.transport, known.flow.remote[0]):
                # RFC 3261 §18.2.2: the connection that brought it before has ended, or there would be no repeat
                known.flow, known.destination = flow, _answer_to(request, flow)
            self._perform_server(known, known.step(Input.REQUEST), now)
            return True
        if request.method == "CANCEL":
            return self._receive_cancel(request, key, flow, now)
        if request.to.tag is None:
            merge_key = _merge_key(request)
            if merge_key in self._first_of:  # RFC 3261 §8.2.2.2, R19: it came twice, over two paths
                self._refuse(request, PeerError(482, "Loop Detected"), flow, "merged")
                return False
            transaction = self._begin_server(request, key, flow, now)
            transaction.merge_key = merge_key
            self._first_of[merge_key] = transaction
        else:
            transaction = self._begin_server(request, key, flow, now)
        self._events.append(RequestReceived(request, flow, transaction))
        return True

    def _begin_server(self, request: Request, key: Hashable, flow: Flow, now: float) -> ServerTransaction:
        destination = _answer_to(request, flow)
        transaction = ServerTransaction(request, key, flow, destination, self._values, now)
        self._servers[key] = transaction
        if not transaction.is_invite:
            self._start(transaction, (Timer.F,), now)
        return transaction

    def _receive_ack(self, request: Request, flow: Flow, now: float) -> bool:
        accepted = self._accepted.get(_ack_key(request))
        transaction = accepted or self._servers.get(_server_key(request, "INVITE"))
        if transaction is None:
            self.rejected["no-transaction"] += 1
            return False
        if not self._belongs(transaction.owner, flow):  # T24: copied identifiers
            self.rejected["foreign"] += 1
            return False
        if accepted is not None:
            self._stop_repeating(accepted)
            self._events.append(AckReceived(request, flow))
            return True
        step = transaction.step(Input.ACK)
        if Do.TELL in step.do:
            self._events.append(AckReceived(request, flow))
        self._perform_server(transaction, step, now)
        return True

    def _receive_cancel(self, request: Request, key: Hashable, flow: Flow, now: float) -> bool:
        """Answer a CANCEL (RFC 3261 §9.2) and report it if its INVITE has no final response yet."""
        invite = self._servers.get(_server_key(request, "INVITE"))
        if invite is None or not self._belongs(invite.owner, flow):
            self._refuse(request, PeerError(481, "Call/Transaction Does Not Exist"), flow, "bad-cancel")
            return False
        transaction = self._begin_server(request, key, flow, now)
        # RFC 3261 §9.2: the To tag SHOULD be that of the response to the INVITE
        tag = invite.last_response.to.tag if invite.last_response is not None else None
        self.respond(transaction, response_to(request, 200, to_tag=tag or new_tag(self._tokens)), now)
        if invite.final is None:
            self._events.append(CancelReceived(request, invite))
        return True

    def _perform_server(self, transaction: ServerTransaction, step: Step, now: float) -> None:
        for do in step.do:
            if do is Do.SEND:
                self._transmit_response(transaction)
            elif do is Do.REPEAT and transaction.last_sent is not None:
                self._transmit_response(transaction, retransmission=True)
        for timer in step.stop:
            self._timers.cancel((transaction, timer))
        self._start(transaction, step.start, now)
        if step.state is State.TERMINATED:
            self._forget_server(transaction)

    def _may_say_trying(self, transaction: ServerTransaction, status: int, now: float) -> bool:
        # RFC 4320 §4.1: no earlier than the client's timer E reaches T2
        waited = now - transaction.started_at
        return status == 100 and not transaction.reliable and waited >= self._values.t2 - self._values.t1

    def _repeat_success(self, transaction: ServerTransaction, now: float) -> None:
        self._transmit_response(transaction, retransmission=True)
        transaction.repeat_interval = min(2 * transaction.repeat_interval, self._values.t2)
        self._timers.set((transaction, Timer.REPEAT_2XX), now + transaction.repeat_interval)

    def _stop_repeating(self, transaction: ServerTransaction) -> None:
        transaction.acknowledged = True
        self._timers.cancel((transaction, Timer.REPEAT_2XX))
        self._timers.cancel((transaction, Timer.ACK_2XX))

    # -- reliable provisional responses (RFC 3262 §3) ----------------------------------------------------------------

    def _may_follow(self, provisionals: ReliableResponses, response: Response) -> bool:
        """Tell whether a response may go out now; a 2xx that may not is kept."""
        status = response.status
        if status >= 300:
            return True
        if provisionals.success is not None:
            return False
        if status >= 200 and provisionals.hold_success:
            response.encode()  # what can't be printed is the caller's to know now
            provisionals.success = response
            return False
        return True

    def _send_provisional(self, transaction: ServerTransaction, now: float) -> None:
        assert transaction.provisionals is not None
        numbered = transaction.provisionals.next()
        if numbered is None:
            return
        transaction.last_sent, transaction.last_response = numbered.data, numbered.response
        self._perform_server(transaction, transaction.step(Input.PROVISIONAL), now)
        transaction.provisionals.interval = self._values.t1
        self._timers.set((transaction, Timer.REPEAT_1XX), now + self._values.t1)
        self._timers.set((transaction, Timer.PRACK), now + self._values.timeout)

    def _repeat_provisional(self, transaction: ServerTransaction, now: float) -> None:
        provisionals = transaction.provisionals
        assert provisionals is not None
        assert provisionals.outstanding is not None
        self._transmit_numbered(transaction, provisionals.outstanding)
        provisionals.interval *= 2  # R30: T2 is no limit here
        self._timers.set((transaction, Timer.REPEAT_1XX), now + provisionals.interval)

    def _give_up_provisional(self, transaction: ServerTransaction) -> None:
        assert transaction.provisionals is not None
        self._stop_provisionals(transaction)
        transaction.provisionals.outstanding = None
        self._events.append(PrackMissing(transaction))

    def _stop_provisionals(self, transaction: ServerTransaction) -> None:
        if transaction.provisionals is not None:
            self._stop_repeating_provisional(transaction)
            transaction.provisionals.close()

    def _stop_repeating_provisional(self, transaction: ServerTransaction) -> None:
        self._timers.cancel((transaction, Timer.REPEAT_1XX))
        self._timers.cancel((transaction, Timer.PRACK))

    def _transmit_numbered(self, transaction: ServerTransaction, numbered: Numbered) -> None:
        request, status = transaction.request, numbered.response.status
        self._transmits.append(
            Transmit(numbered.data, transaction.destination, request.method, status, True, request.call_id)
        )

    def _drop_server(self, transaction: ServerTransaction) -> None:
        transaction.state = State.TERMINATED
        self._forget_server(transaction)

    def _forget_server(self, transaction: ServerTransaction) -> None:
        self._stop_all(transaction)
        self._refused.pop(transaction, None)
        self._reliable.pop(transaction.prack_key, None)
        self._servers.pop(transaction.key, None)
        self._first_of.pop(transaction.merge_key, None)
        self._accepted.pop(transaction.ack_key, None)

    def _refuse(self, request: Request | None, error: PeerError, flow: Flow, reason: str = "malformed") -> None:
        """Count a message that gets no transaction and, where it is a request that can be answered, answer it once."""
        self.rejected[reason] += 1
        if request is None:
            return
        try:
            destination = _answer_to(request, flow)
        except PeerError:  # a Via that can't be read goes back untouched, to where the packet came from
            destination = flow
        response = response_to(request, error.status, error.reason, new_tag(self._tokens))
        for name, value in error.headers:
            response.headers.add(name, value)
        call_id = request.headers.get("Call-ID") or ""
        self._transmits.append(Transmit(response.encode(), destination, request.method, error.status, call_id=call_id))

    # -- what clients and servers share ------------------------------------------------------------------------------

    def _start(self, transaction: Transaction, timers: tuple[Timer, ...], now: float) -> None:
        for timer in timers:
            delay = transaction.delay(timer)
            if delay is not None:
                self._timers.set((transaction, timer), now + delay)

    def _let_go(self) -> None:
        """Part what is over from its owner: they would hold each other until the collector comes, seldom (T10, T19)."""
        for transaction in self._over:
            transaction.owner = None
        self._over.clear()

    def _stop_all(self, transaction: ClientTransaction | ServerTransaction) -> None:
        self._over.append(transaction)
        for timer in transaction.own_timers:
            self._timers.cancel((transaction, timer))

    def _with_via(self, request: Request, flow: Flow, branch: str) -> Request:
        host, port = self._via(flow)
        if ":" in host:
            host = f"[{host}]"
        copy = request.copy()
        copy.headers.remove("Via")
        copy.headers.prepend("Via", f"SIP/2.0/{flow.transport.upper()} {host}:{port};branch={branch};rport")
        return copy

    def _transmit_request(self, transaction: ClientTransaction, data: bytes, retransmission: bool = False) -> None:
        request = transaction.request
        self._transmits.append(Transmit(data, transaction.flow, request.method, 0, retransmission, request.call_id))

    def _transmit_response(self, transaction: ServerTransaction, retransmission: bool = False) -> None:
        response = transaction.last_response
        assert response is not None
        assert transaction.last_sent is not None
        self._transmits.append(
            Transmit(
                transaction.last_sent,
                transaction.destination,
                transaction.request.method,
                response.status,
                retransmission,
                transaction.request.call_id,
            )
        )


def _server_key(request: Request, method: str) -> Hashable:
    """Return what tells a server transaction of that method from others (RFC 3261 §17.2.3)."""
    via = request.via
    branch = via.branch or ""
    if len(branch) > len(MAGIC_COOKIE) and branch.startswith(MAGIC_COOKIE):
        return branch, via.host.lower(), via.port, method
    # An RFC 2543 peer. An ACK bears the To tag of our response, so that one is left out of the comparison.
    return request.uri, request.from_.tag, request.call_id, request.cseq.number, str(via), method


def _call_and_number(request: Request) -> tuple[str, int]:
    return request.call_id, request.cseq.number


def _merge_key(request: Request) -> Hashable:
    """Return what a request that came over several paths has in common (RFC 3261 §8.2.2.2)."""
    return request.from_.tag, request.call_id, request.cseq.number, request.method


def _ack_key(message: Request | Response) -> Hashable:
    """Return what a 2xx and its ACK have in common (RFC 3261 §13.3.1.4)."""
    return message.call_id, message.cseq.number, message.from_.tag, message.to.tag


def _answer_to(request: Request, flow: Flow) -> Flow:
    """Note the packet's source in the top Via, and return where responses go. Raises PeerError 400.

    RFC 3261 §18.2.1 and §18.2.2, RFC 3581 §4 (R14): the same listener answers, always.
    """
    address, port = flow.remote
    via = request.via
    stamped = via.seen_from(address, port)
    if stamped is not via:
        request.stamp_via(stamped)
    if flow.transport != "udp":
        # Over the same connection; should that be gone, over a new one to where the client says that it listens
        return replace(flow, remote=(address, via.port or DEFAULT_PORTS[flow.transport]))
    maddr = (via.param("maddr") or "").strip("[]")
    if maddr and is_address(maddr):  # a name would have to be looked up, and is no place for an answer anyway
        address, port = maddr, via.port or DEFAULT_PORTS["udp"]
    elif not via.wants_rport:
        port = via.port or DEFAULT_PORTS["udp"]
    return flow if (address, port) == flow.remote else Flow(flow.transport, flow.local, (address, port))


def _leads_to(sent: Flow, failed: Flow) -> bool:
    """Tell whether what was sent on a flow went to the place that a transport reports as unreachable."""
    if (sent.transport, sent.remote) != (failed.transport, failed.remote):
        return False
    return sent.local == failed.local if sent.transport == "udp" else sent.name == failed.name


def _went_over(sent: Flow, lost: Flow) -> bool:
    """Tell whether what was sent on a flow was carried by a connection that is gone now."""
    if sent.transport != lost.transport:
        return False
    if sent.connection and sent.connection == lost.connection:
        return True
    return (sent.remote, sent.name) == (lost.remote, lost.name)
