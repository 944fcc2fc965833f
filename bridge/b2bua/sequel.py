"""A platform's second call that carries out the transfer of its first (D37).

Bland's warm transfer, ElevenLabs' conference, Retell's sip_invite and Vapi's dial send no REFER: the platform calls the
target itself and bridges the two calls in its own media server. We route that INVITE like any other and can't join the
media for it; but both records say what the two calls are to each other, and the transfer is counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from bridge.b2bua.actions import Action
from bridge.b2bua.numbers import plain_number
from bridge.b2bua.record import TransferFacts, TransferResult
from bridge.b2bua.transfer import trace_transfer
from bridge.config import Peer
from bridge.sip.message import Request

if TYPE_CHECKING:
    from bridge.b2bua.call import Call

MOST_OF_A_NUMBER = 64  # calls of one number that are looked at: where there are more, none is meant

_TELLING = ("referred-by", "in-reply-to", "user-to-user")
_WORD = re.compile(r"[^\s;,=<>\"]+")


class InboundCalls:
    """Find the call that a platform's INVITE is about. ``call_of`` knows calls by the Call-IDs of their legs."""

    def __init__(self, call_of: Callable[[str], Call | None]) -> None:
        self._call_of = call_of
        self._by_number: dict[str, dict[str, Call]] = {}  # number → record id → call

    def add(self, call: Call) -> None:
        """Remember a call that a carrier has brought."""
        for number in _numbers(call):
            self._by_number.setdefault(number, {})[call.record.id] = call

    def remove(self, call: Call) -> None:
        """Forget a call that is over."""
        for number in _numbers(call):
            calls = self._by_number.get(number)
            if calls is not None and calls.pop(call.record.id, None) is not None and not calls:
                del self._by_number[number]

    def first_of(self, request: Request, platform: Peer, caller: str) -> Call | None:
        """Return the call of this platform's that an INVITE with From number ``caller`` continues, None if it is new.

        A header that names one of our dialogs with the platform decides; else the number, where one call alone has it.
        """
        for header in request.headers:
            name = header.name.lower()
            if name.startswith("x-") or name in _TELLING:
                for word in _WORD.findall(header.value):
                    named = self._call_of(word)
                    if named is not None and named.is_with(platform):
                        return named
        known = self._by_number.get(plain_number(caller), {})
        if len(known) > MOST_OF_A_NUMBER:
            return None
        found = [call for call in known.values() if call.is_with(platform)]
        return found[0] if len(found) == 1 else None

    def counts(self) -> int:
        """Return how many numbers are remembered."""
        return len(self._by_number)


class Sequel:
    """Keep what two records say of each other until the second call is answered or over."""

    def __init__(self, first: Call, second: Call, act: Callable[[Action], None], now: float) -> None:
        target = second.record.to_number
        self._first, self._second, self._act = first, second, act
        self._of_first = TransferFacts("invite", target, now, "platform", call=second.record.id)
        self._of_second = TransferFacts("invite", target, now, "platform", call=first.record.id)
        first.record.transfer, second.record.transfer = self._of_first, self._of_second

    def conclude(self, status: int, now: float) -> None:
        """Take note of how the second call began; what it says later changes nothing."""
        if self._of_first.result is not None:
            return
        result = TransferResult.SUCCEEDED if status < 300 else TransferResult.FAILED
        for facts in (self._of_first, self._of_second):
            facts.result, facts.status = result, status
        trace_transfer(self._first.record, self._of_first, self._act, now)


def _numbers(call: Call) -> set[str]:
    return {plain_number(call.record.from_number), plain_number(call.record.to_number)}
