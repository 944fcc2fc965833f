"""Names are looked up in time, once for all who wait, and the last good answer outlives the name servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from bridge.b2bua.actions import Hop, Query, Resolution
from bridge.net.dns import DEADLINE, GOOD_FOR, MOST_ANSWERS, PATIENCE, RETRY_AFTER, Resolver
from bridge.net.name_servers import Answer, Done, Outcome
from bridge.sip.locate import Kind, Question, Srv
from tests.net.watching import logged_warnings

ANY = {"udp": (Kind.A,), "tcp": (Kind.A,), "tls": (Kind.A,)}
HOST = "sip.example.com"
DAY = 86_400.0


class ScriptedServers:
    """Answer from a table at once, or hold the questions until a test answers them."""

    def __init__(self) -> None:
        self.table: dict[tuple[str, str], Outcome] = {}
        self.asked: list[tuple[str, str]] = []
        self.held: list[tuple[Question, Done]] = []
        self.holds = False
        self.down = ""

    def ask(self, question: Question, done: Done) -> None:
        self.asked.append((question.name, question.kind.value))
        if self.holds:
            self.held.append((question, done))
        else:
            done(self.outcome(question))

    def outcome(self, question: Question) -> Outcome:
        return self.down or self.table.get((question.name, question.kind.value), Answer((), 60.0))

    def release(self) -> None:
        held, self.held = self.held, []
        for question, done in held:
            done(self.outcome(question))

    def stop(self) -> None:
        self.held.clear()


class Desk:
    def __init__(self, hosts: Path | None = None, chance: Callable[[int], int] = lambda most: 0) -> None:
        self.servers = ScriptedServers()
        self.clock = Clock()
        self.resolver = Resolver(self.servers, self.clock, ANY, chance, str(hosts or "/nowhere"))
        self.answers: list[tuple[int, Resolution]] = []

    def ask(
        self,
        number: int = 1,
        host: str = HOST,
        port: int | None = 5060,
        transport: str = "udp",
        transports: tuple[str, ...] = ("udp",),
    ) -> None:
        query = Query(number, host, port, transport, transports)
        self.resolver.resolve(query, lambda query, answer: self.answers.append((query.id, answer)))

    def knows(self, *addresses: str, ttl: float = 60.0, host: str = HOST) -> None:
        self.servers.table[host, "A"] = Answer(addresses, ttl)

    def hosts(self) -> list[str]:
        """Ask once more; return the addresses that come at once."""
        before = len(self.answers)
        self.ask()
        assert len(self.answers) == before + 1, "the answer did not come at once"
        return [hop.address[0] for hop in self.answers[-1][1].hops]


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize(
    ("host", "port", "transport", "hop"),
    [
        ("192.0.2.7", 5070, "udp", Hop("udp", ("192.0.2.7", 5070))),
        ("192.0.2.7", None, "", Hop("tcp", ("192.0.2.7", 5060))),
        ("192.0.2.7", None, "tls", Hop("tls", ("192.0.2.7", 5061))),
        ("[2001:db8::1]", None, "tcp", Hop("tcp", ("2001:db8::1", 5060))),
    ],
)
def test_an_address_literal_is_answered_at_once(
    desk: Desk, host: str, port: int | None, transport: str, hop: Hop
) -> None:
    desk.ask(1, host, port, transport, ("tcp", "udp"))
    assert desk.answers == [(1, Resolution((hop,)))]
    assert desk.servers.asked == []


def test_calls_to_one_name_share_one_lookup(desk: Desk) -> None:
    desk.knows("192.0.2.1")
    desk.servers.holds = True
    for number in range(5):
        desk.ask(number)
    assert desk.servers.asked == [(HOST, "A")]
    desk.servers.release()
    assert [number for number, _ in desk.answers] == [0, 1, 2, 3, 4]
    assert not desk.clock.getDelayedCalls()


def test_r52_an_answer_holds_for_its_ttl(desk: Desk) -> None:
    """R52."""
    desk.knows("192.0.2.1", ttl=30)
    assert desk.hosts() == ["192.0.2.1"]
    desk.knows("192.0.2.2", ttl=30)
    desk.clock.advance(29)
    assert desk.hosts() == ["192.0.2.1"]
    desk.clock.advance(2)
    assert desk.hosts() == ["192.0.2.2"]
    assert len(desk.servers.asked) == 2


def test_r52_a_ttl_of_zero_is_used_once(desk: Desk) -> None:
    """R52: it serves those who wait for it, and the next call asks again."""
    desk.knows("192.0.2.1", ttl=0)
    for _ in range(3):
        assert desk.hosts() == ["192.0.2.1"]
    assert len(desk.servers.asked) == 3


def test_a_name_without_address_is_a_problem_in_plain_words_and_is_remembered(desk: Desk) -> None:
    desk.ask(1, "nowhere.example.com")
    assert desk.answers == [(1, Resolution((), "nowhere.example.com has no address"))]
    desk.ask(2, "nowhere.example.com")
    assert len(desk.servers.asked) == 1


def test_f11_dead_servers_cost_a_new_name_three_seconds_and_their_late_answer_serves_the_next_call(
    desk: Desk,
) -> None:
    """F11: slow by 5 s: the first call is told within the deadline, the second finds the answer."""
    desk.knows("192.0.2.1")
    desk.servers.holds = True
    desk.ask(1)
    desk.clock.advance(DEADLINE - 0.01)
    assert desk.answers == []
    desk.clock.advance(0.02)
    assert desk.answers == [(1, Resolution((), f"looking up {HOST} took longer than 3 s"))]
    desk.clock.advance(2)
    desk.servers.release()
    assert len(desk.answers) == 1
    assert desk.hosts() == ["192.0.2.1"]


@pytest.mark.parametrize("problem", ["it failed (SERVFAIL)", "the name servers do not answer"])
def test_f11_r52_the_last_good_answer_serves_for_a_day_and_the_log_says_so_once(desk: Desk, problem: str) -> None:
    """F11, R52: no call fails for 24 h; what is down is asked now and then; one line."""
    desk.knows("192.0.2.1", ttl=30)
    assert desk.hosts() == ["192.0.2.1"]
    desk.servers.down = problem
    with logged_warnings() as warnings:
        for _ in range(24 * 4):
            desk.clock.advance(DAY / 96)
            assert desk.hosts() == ["192.0.2.1"]
            assert desk.hosts() == ["192.0.2.1"]
    assert len(warnings) == 1
    assert problem in warnings[0]
    desk.servers.down = ""
    desk.knows("192.0.2.2", ttl=30)
    desk.clock.advance(RETRY_AFTER)
    desk.hosts()
    assert desk.hosts() == ["192.0.2.2"], "renewed in the background"


def test_f11_servers_that_hang_delay_one_call_by_half_a_second_and_the_others_not_at_all(desk: Desk) -> None:
    desk.knows("192.0.2.1", ttl=30)
    desk.hosts()
    desk.clock.advance(60)
    desk.servers.holds = True
    desk.ask(1)
    before = len(desk.answers)
    desk.clock.advance(PATIENCE)
    assert len(desk.answers) == before + 1
    desk.servers.down = "the name servers do not answer"
    with logged_warnings():
        desk.servers.release()
    for _ in range(10):
        desk.clock.advance(RETRY_AFTER)
        assert desk.hosts() == ["192.0.2.1"]


def test_r52_a_name_that_is_suddenly_denied_goes_on_where_it_was(desk: Desk) -> None:
    """R52: NXDOMAIN for a carrier in use is somebody's mistake more often than not."""
    desk.knows("192.0.2.1", ttl=30)
    desk.hosts()
    del desk.servers.table[HOST, "A"]
    with logged_warnings() as warnings:
        for _ in range(24):
            desk.clock.advance(3600)
            assert desk.hosts() == ["192.0.2.1"]
    assert len(warnings) == 1
    assert "has no address" in warnings[0]
    desk.clock.advance(GOOD_FOR)
    assert desk.hosts() == []


def test_srv_records_that_went_away_on_purpose_do_not_linger(desk: Desk) -> None:
    """As long as the name leads anywhere, what is true now wins over what was."""
    desk.servers.table["_sip._udp." + HOST, "SRV"] = Answer((Srv(1, 1, 5070, "old.example.com"),), 30.0)
    desk.knows("192.0.2.9", host="old.example.com")
    desk.ask(1, port=None)
    assert desk.answers[-1][1].hops == (Hop("udp", ("192.0.2.9", 5070)),)
    del desk.servers.table["_sip._udp." + HOST, "SRV"]
    desk.knows("192.0.2.1")
    desk.clock.advance(31)
    desk.ask(2, port=None)
    assert desk.answers[-1][1].hops == (Hop("udp", ("192.0.2.1", 5060)),)


def test_r50_every_call_draws_its_own_order_from_one_cached_answer() -> None:
    """R50: weights hold between calls, whatever the cache holds."""
    drawn = [0]
    desk = Desk(chance=lambda most: min(most, drawn[0]))
    desk.servers.table["_sip._udp." + HOST, "SRV"] = Answer(
        (Srv(1, 0, 5060, "a.example.com"), Srv(1, 1, 5060, "b.example.com")), 60.0
    )
    desk.knows("192.0.2.1", host="a.example.com")
    desk.knows("192.0.2.2", host="b.example.com")
    for number in range(2):
        drawn[0] = number
        desk.ask(number, port=None)
    assert [answer.hops[0].address[0] for _, answer in desk.answers] == ["192.0.2.1", "192.0.2.2"]
    assert len(desk.servers.asked) == 3


def test_the_file_of_hosts_is_asked_first_and_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text(f"192.0.2.5 alias {HOST} # a comment\n::1 {HOST}\n\nbroken\n")
    desk = Desk(file)
    assert desk.hosts() == ["192.0.2.5"]
    assert desk.servers.asked == []
    file.write_text(f"192.0.2.66 {HOST.upper()}\n")
    assert desk.hosts() == ["192.0.2.66"]
    file.unlink()
    desk.knows("192.0.2.1")
    assert desk.hosts() == ["192.0.2.1"]


def test_the_cache_is_bounded(desk: Desk) -> None:
    desk.servers.down = "down"
    for number in range(50):
        desk.ask(number, f"h{number}.example.com")
    desk.servers.down = ""
    for number in range(MOST_ANSWERS + 100):
        desk.knows("192.0.2.1", host=f"x{number}.example.com")
        desk.ask(number, f"x{number}.example.com")
    assert len(desk.resolver.cache._entries) == MOST_ANSWERS


def test_a_stopped_resolver_leaves_no_timer(desk: Desk) -> None:
    desk.servers.holds = True
    desk.ask(1)
    desk.resolver.stop()
    assert not desk.clock.getDelayedCalls()
    assert desk.answers == []
