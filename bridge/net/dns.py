"""Names of next hops → where to try them, in time: RFC 3263 over a cache that outlives its name servers.

Answers hold for as long as their TTL says. When they can't be renewed, the last good one goes on serving (F11, R52): at
once while the servers are known to be down, after half a second while that is being found out. Calls to one name share
its look-ups, and no call waits longer than the deadline.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from bridge.b2bua.actions import Hop, Query, Resolution
from bridge.net.name_servers import Answer, Done, Lines, Outcome
from bridge.sip.locate import Chance, Kind, Known, Located, Missing, Question, Records, Sought, locate
from bridge.sip.uri import DEFAULT_PORTS

DEADLINE = 3.0
"""Seconds until a lookup counts as failed; a caller hears ringing meanwhile."""
PATIENCE = 0.5
"""Seconds for the name servers to renew an answer, before the old one is used (RFC 8767 §5)."""
RETRY_AFTER = 5.0
"""Seconds for which a question that failed is not asked again."""
GOOD_FOR = 48 * 3600.0
"""Seconds for which an answer that can't be renewed goes on serving."""
LONGEST_TTL = 86_400.0
MOST_ANSWERS = 4096
"""Questions that are remembered; the oldest answers make room."""
MOST_LOOKUPS = 500
"""Questions in the air at once."""

_MOST_STEPS = 5  # NAPTR, SRV, addresses: `locate` asks three times at the most

Give = Callable[[Query, Resolution], None]
Take = Callable[[Records, str], None]


class Servers(Protocol):
    """Whoever is asked what the cache does not know."""

    def ask(self, question: Question, done: Done) -> None:
        """Call ``done`` once."""

    def stop(self) -> None:
        """Forget what was asked."""


@dataclass(slots=True)
class _Entry:
    """What is known about one question. ``good`` is the last answer that held records."""

    records: Records
    expires_at: float
    good: Records
    good_until: float


class Cache:
    """Answer questions from memory, from the file of hosts, or by asking, one look-up for all who ask the same."""

    log = Logger()

    def __init__(self, servers: Servers, clock: IReactorTime, hosts: str = "/etc/hosts") -> None:
        self._servers = servers
        self._clock = clock
        self._hosts = Lines(Path(hosts))
        self._entries: dict[Question, _Entry] = {}
        self._lookups: dict[Question, list[Take]] = {}  # in the air, with those who wait
        self._failed: dict[Question, tuple[float, str]] = {}  # since the last answer: when last, and why
        self._down = False  # whether the log has been told that the servers can't be asked

    def look_up(self, question: Question, take: Take) -> None:
        """Call ``take`` with the records and "", or with what is left and the problem: once, maybe at once."""
        now = self._clock.seconds()
        if (local := self._from_hosts(question)) is not None:
            take(local, "")
            return
        entry = self._entries.get(question)
        if entry is not None and now < entry.expires_at:
            take(entry.records, "")
            return
        good = self.last_good(question)
        failed_at, problem = self._failed.get(question, (float("-inf"), ""))
        may_ask = now - failed_at >= RETRY_AFTER and len(self._lookups) < MOST_LOOKUPS
        if good and problem:  # the servers are known to be down: nobody waits for them
            if may_ask and question not in self._lookups:
                self._ask(question)
            take(good, "")
        elif question in self._lookups or may_ask:
            self._join(question, take, good)
        else:
            take(good, "" if good else problem or "too many names are being looked up")

    def last_good(self, question: Question) -> Records:
        """Return the last records that there were, though a later answer denies them."""
        entry = self._entries.get(question)
        return entry.good if entry is not None and self._clock.seconds() < entry.good_until else ()

    def _join(self, question: Question, take: Take, good: Records) -> None:
        taken = False
        timer: IDelayedCall | None = None

        def once(records: Records, problem: str) -> None:
            nonlocal taken
            if not taken:
                taken = True
                if timer is not None and timer.active():
                    timer.cancel()
                take(records, problem)

        if good:
            timer = self._clock.callLater(PATIENCE, once, good, "")
        if question in self._lookups:
            self._lookups[question].append(once)
        else:
            self._ask(question, once)

    def _ask(self, question: Question, *waiting: Take) -> None:
        self._lookups[question] = list(waiting)
        self._servers.ask(question, partial(self._answered, question))

    def _answered(self, question: Question, outcome: Outcome) -> None:
        waiting = self._lookups.pop(question)
        now = self._clock.seconds()
        entry = self._entries.pop(question, None)
        if isinstance(outcome, Answer):
            # A TTL of 0 serves those who asked, and nobody after them (RFC 1035 §3.2.1)
            ttl = min(max(1.0, outcome.ttl), LONGEST_TTL) if outcome.ttl > 0 else 0.0
            good, good_until = (outcome.records, now + ttl + GOOD_FOR) if outcome.records else ((), 0.0)
            if not outcome.records and entry is not None:
                good, good_until = entry.good, entry.good_until
            self._entries[question] = _Entry(outcome.records, now + ttl, good, good_until)
            self._failed.pop(question, None)
            self._up()
            records, problem = outcome.records, ""
        else:
            if entry is not None:
                self._entries[question] = entry
            self._failed[question] = now, outcome
            records = self.last_good(question)
            problem = "" if records else outcome
            if records:
                self._tell_down(outcome)
        _make_room(self._entries)
        _make_room(self._failed)
        for take in waiting:
            take(records, problem)

    def _from_hosts(self, question: Question) -> Records | None:
        """Return what /etc/hosts says, None where it does not know the name."""
        if question.kind not in (Kind.A, Kind.AAAA):
            return None
        known = [
            address
            for address, *names in self._hosts.read()
            if any(name.lower().rstrip(".") == question.name for name in names)
        ]
        if not known:
            return None
        return tuple(one for one in dict.fromkeys(known) if (":" in one) == (question.kind is Kind.AAAA))

    def _tell_down(self, problem: str) -> None:
        if not self._down:
            self._down = True
            self.log.warn("{problem}: the last good answers serve instead", problem=problem)

    def _up(self) -> None:
        if self._down:
            self._down = False
            self.log.info("the name servers answer again")


def _make_room(table: dict[Question, Any]) -> None:
    while len(table) > MOST_ANSWERS:
        del table[next(iter(table))]


class Resolver:
    """Answer the core's queries."""

    log = Logger()

    def __init__(
        self,
        servers: Servers,
        clock: IReactorTime,
        families: Mapping[str, tuple[Kind, ...]],
        chance: Chance,
        hosts: str = "/etc/hosts",
    ) -> None:
        """``families`` says for each transport what addresses some listener of ours can send to."""
        self._servers = servers
        self._clock = clock
        self._families = families
        self._chance = chance
        self.cache = Cache(servers, clock, hosts)
        self._denied: set[str] = set()  # names that the log knows to have lost all their records
        self._searches: set[_Search] = set()

    def resolve(self, query: Query, give: Give) -> None:
        """Call ``give`` once: at once for an address literal and for what is known, else within the deadline."""
        try:
            literal = str(ipaddress.ip_address(query.host.strip("[]")))
        except ValueError:
            search = _Search(self, self._clock, query, give)
            self._searches.add(search)
            search.step()
            return
        transport = query.transport or next((one for one in query.transports if one in self._families), "udp")
        give(query, Resolution((Hop(transport, (literal, query.port or DEFAULT_PORTS[transport])),)))

    def stop(self) -> None:
        """Forget every search; nobody is told."""
        for search in list(self._searches):
            search.end()
        self._servers.stop()

    def locate(self, query: Query, known: Known) -> Missing | Located:
        """Take the next step of a search."""
        sought = Sought(query.host, query.port, query.transport, query.transports, self._families)
        return locate(sought, known, self._chance)

    def found(self, search: _Search, hops: Iterable[Hop]) -> None:
        self._denied.discard(search.query.host)
        self._over(search, Resolution(tuple(hops)))

    def nothing(self, search: _Search, problem: str) -> None:
        """Fall back on what the name last led to, were it denied since (R52)."""
        query = search.query
        hops = self._last_good(query)
        if hops and query.host not in self._denied:
            if len(self._denied) >= MOST_ANSWERS:
                self._denied.clear()
            self._denied.add(query.host)
            self.log.warn("{problem}: the last good answer serves instead", problem=problem)
        self._over(search, Resolution(hops, "" if hops else problem))

    def _last_good(self, query: Query) -> tuple[Hop, ...]:
        known: dict[Question, Records] = {}
        for _ in range(_MOST_STEPS):
            step = self.locate(query, known)
            if isinstance(step, Located):
                return tuple(Hop(*hop) for hop in step.hops)
            known |= {question: self.cache.last_good(question) for question in step.questions}
        return ()

    def _over(self, search: _Search, resolution: Resolution) -> None:
        self._searches.discard(search)
        search.end()
        search.give(search.query, resolution)


class _Search:
    """One query on its way through RFC 3263."""

    def __init__(self, resolver: Resolver, clock: IReactorTime, query: Query, give: Give) -> None:
        self.query = query
        self.give = give
        self._resolver = resolver
        self._known: dict[Question, Records] = {}
        self._missing: set[Question] = set()
        self._problem = f"{query.host} has no address"
        self._stepping = False
        self._over = False
        self._timer = clock.callLater(DEADLINE, self._expired)

    def step(self) -> None:
        """Go on with what is known, until something has to be waited for."""
        if self._stepping:
            return  # an answer from memory, within the loop below
        self._stepping = True
        while not self._over and not self._missing:
            step = self._resolver.locate(self.query, self._known)
            if isinstance(step, Located):
                if step.hops:
                    self._resolver.found(self, (Hop(*hop) for hop in step.hops))
                else:
                    self._resolver.nothing(self, self._problem)
                break
            self._missing.update(step.questions)
            for question in step.questions:
                self._resolver.cache.look_up(question, partial(self._take, question))
        self._stepping = False

    def end(self) -> None:
        self._over = True
        if self._timer.active():
            self._timer.cancel()

    def _take(self, question: Question, records: Records, problem: str) -> None:
        self._known[question] = records
        self._missing.discard(question)
        if problem:
            self._problem = f"{self.query.host} can't be looked up: {problem}"
        if not self._over:
            self.step()

    def _expired(self) -> None:
        self._resolver.nothing(self, f"looking up {self.query.host} took longer than {DEADLINE:g} s")
