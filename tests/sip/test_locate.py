"""RFC 3263 §4, step by step, over record sets that a test writes down."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

import pytest

from bridge.sip.locate import MOST_TARGETS, Kind, Known, Located, Missing, Naptr, Question, Records, Sought, Srv, locate

V4 = dict.fromkeys(("udp", "tcp", "tls"), (Kind.A,))
BOTH = dict.fromkeys(("udp", "tcp", "tls"), (Kind.A, Kind.AAAA))
HOST = "example.com"


def sought(
    port: int | None = None,
    transport: str = "",
    transports: tuple[str, ...] = ("udp", "tcp", "tls"),
    families: Mapping[str, tuple[Kind, ...]] = V4,
    host: str = HOST,
) -> Sought:
    return Sought(host, port, transport, transports, families)


class Zone:
    """Answer `locate`'s questions from a table; what is not there does not exist."""

    def __init__(self, records: Mapping[tuple[str, str], Records], seed: int = 1) -> None:
        self.records = {Question(name, Kind(kind)): value for (name, kind), value in records.items()}
        self.asked: list[tuple[str, str]] = []
        self.random = random.Random(seed)

    def find(self, what: Sought) -> list[tuple[str, str, int]]:
        known: dict[Question, Records] = {}
        for _ in range(5):
            step = locate(what, known, lambda most: self.random.randint(0, most))
            if isinstance(step, Located):
                return [(transport, *address) for transport, address in step.hops]
            for question in step.questions:
                assert question not in known, "nothing is asked twice"
                self.asked.append((question.name, question.kind.value))
                known[question] = self.records.get(question, ())
        raise AssertionError("it asks for ever")


def test_a_port_means_a_host() -> None:
    """§4.2: no SRV look-up where a port is given."""
    zone = Zone({(HOST, "A"): ("192.0.2.1", "192.0.2.2")})
    assert zone.find(sought(port=5070, transport="tcp")) == [("tcp", "192.0.2.1", 5070), ("tcp", "192.0.2.2", 5070)]
    assert zone.asked == [(HOST, "A")]


def test_a_port_without_a_transport_takes_the_peers_first() -> None:
    zone = Zone({(HOST, "A"): ("192.0.2.1",)})
    assert zone.find(sought(port=5070, transports=("tcp", "udp"))) == [("tcp", "192.0.2.1", 5070)]


def test_a_transport_without_a_port_asks_for_its_srv_records() -> None:
    zone = Zone(
        {
            ("_sips._tcp.example.com", "SRV"): (Srv(10, 0, 5071, "a.example.com"),),
            ("a.example.com", "A"): ("192.0.2.1",),
        }
    )
    assert zone.find(sought(transport="tls")) == [("tls", "192.0.2.1", 5071)]
    assert zone.asked == [("_sips._tcp.example.com", "SRV"), ("a.example.com", "A")]


@pytest.mark.parametrize(("transport", "port"), [("udp", 5060), ("tcp", 5060), ("tls", 5061)])
def test_without_srv_records_the_name_is_a_host_on_the_default_port(transport: str, port: int) -> None:
    zone = Zone({(HOST, "A"): ("192.0.2.1",)})
    assert zone.find(sought(transport=transport)) == [(transport, "192.0.2.1", port)]


def test_r50_naptr_chooses_the_transport_by_order_and_preference() -> None:
    """R50, §4.1: what we or the peer don't speak is passed over, as is what is no SIP service."""
    zone = Zone(
        {
            (HOST, "NAPTR"): (
                Naptr(50, 20, "s", "SIP+D2T", "_sip._tcp.example.com"),
                Naptr(50, 10, "S", "sips+d2t", "_sips._tcp.other.example.com."),
                Naptr(10, 10, "s", "SIP+D2S", "_sip._sctp.example.com"),
                Naptr(10, 10, "u", "SIP+D2U", "_sip._udp.example.com"),
                Naptr(10, 10, "s", "E2U+sip", "_sip._udp.example.com"),
                Naptr(90, 10, "s", "SIP+D2U", "_sip._udp.example.com"),
            ),
            ("_sips._tcp.other.example.com", "SRV"): (Srv(1, 1, 5061, "tls.example.com"),),
            ("_sip._tcp.example.com", "SRV"): (Srv(1, 1, 5060, "tcp.example.com"),),
            ("tls.example.com", "A"): ("192.0.2.1",),
            ("tcp.example.com", "A"): ("192.0.2.2",),
        }
    )
    assert zone.find(sought(transports=("tcp", "tls"))) == [("tls", "192.0.2.1", 5061), ("tcp", "192.0.2.2", 5060)]
    assert zone.find(sought(transports=("tcp",))) == [("tcp", "192.0.2.2", 5060)]


def test_without_naptr_each_transports_srv_records_are_asked_for_in_the_peers_order() -> None:
    zone = Zone(
        {
            ("_sip._udp.example.com", "SRV"): (Srv(1, 1, 5060, "a.example.com"),),
            ("_sip._tcp.example.com", "SRV"): (Srv(1, 1, 5062, "a.example.com"),),
            ("a.example.com", "A"): ("192.0.2.1",),
        }
    )
    hops = [("tcp", "192.0.2.1", 5062), ("udp", "192.0.2.1", 5060)]
    assert zone.find(sought(transports=("tcp", "udp"))) == hops
    assert zone.asked[0] == (HOST, "NAPTR")


def test_a_transport_without_a_listener_is_never_chosen() -> None:
    zone = Zone({(HOST, "A"): ("192.0.2.1",)})
    assert zone.find(sought(families={"udp": (Kind.A,)}, transports=("tls", "tcp", "udp"))) == [
        ("udp", "192.0.2.1", 5060)
    ]
    assert zone.find(sought(families={"udp": (Kind.A,)}, transport="tls")) == []
    assert ("_sips._tcp.example.com", "SRV") not in zone.asked


def test_only_addresses_that_a_listener_can_send_to_are_asked_for() -> None:
    zone = Zone({(HOST, "A"): ("192.0.2.1",), (HOST, "AAAA"): ("2001:db8::1",)})
    both = [("udp", "192.0.2.1", 5060), ("udp", "2001:db8::1", 5060)]
    assert zone.find(sought(5060, "udp", families=BOTH)) == both
    assert zone.find(sought(5060, "udp", families={"udp": (Kind.AAAA,)})) == both[1:]


def test_a_target_of_a_single_dot_says_that_there_is_no_service() -> None:
    """RFC 2782; RFC 3263 §4.2 falls back to the host only where there are no SRV records at all."""
    zone = Zone({("_sip._udp.example.com", "SRV"): (Srv(0, 0, 0, "."),), (HOST, "A"): ("192.0.2.1",)})
    assert zone.find(sought(transport="udp")) == []


def test_r50_weights_share_calls_within_three_per_cent() -> None:
    """R50: 60/40 over 1,000 calls, and nothing for the lower priority while the first is there."""
    zone = Zone(
        {
            ("_sip._udp.example.com", "SRV"): (
                Srv(20, 100, 5060, "spare.example.com"),
                Srv(10, 60, 5060, "a.example.com"),
                Srv(10, 40, 5060, "b.example.com"),
            ),
            ("a.example.com", "A"): ("192.0.2.1",),
            ("b.example.com", "A"): ("192.0.2.2",),
            ("spare.example.com", "A"): ("192.0.2.3",),
        },
        seed=3263,
    )
    orders = [[host for _, host, _ in zone.find(sought(transport="udp"))] for _ in range(1000)]
    first = Counter(order[0] for order in orders)
    assert abs(first["192.0.2.1"] - 600) <= 30
    assert first["192.0.2.1"] + first["192.0.2.2"] == 1000
    assert {order[2] for order in orders} == {"192.0.2.3"}, "the spare comes last, always"


def test_a_weight_of_zero_is_drawn_now_and_then_and_all_zero_alike() -> None:
    zone = Zone(
        {
            ("_sip._udp.example.com", "SRV"): (Srv(1, 0, 1, "a.example.com"), Srv(1, 0, 2, "a.example.com")),
            ("a.example.com", "A"): ("192.0.2.1",),
        }
    )
    assert sorted(zone.find(sought(transport="udp"))) == [("udp", "192.0.2.1", 1), ("udp", "192.0.2.1", 2)]


def test_r52_thirty_targets_are_all_tried_and_a_thousand_are_not() -> None:
    """R52."""

    def hops(count: int) -> list[tuple[str, str, int]]:
        records: dict[tuple[str, str], Records] = {
            ("_sip._udp.example.com", "SRV"): tuple(Srv(n, 0, 5060, f"h{n}.example.com") for n in range(count))
        }
        records |= {(f"h{n}.example.com", "A"): (f"198.51.{n // 250}.{n % 250}",) for n in range(count)}
        return Zone(records).find(sought(transport="udp"))

    assert len(hops(30)) == 30
    assert len(hops(1000)) == MOST_TARGETS


def test_what_can_be_asked_at_once_is_asked_at_once() -> None:
    known: Known = {Question(HOST, Kind.NAPTR): ()}
    step = locate(sought(transports=("udp", "tcp")), known, lambda most: 0)
    assert step == Missing((Question("_sip._udp.example.com", Kind.SRV), Question("_sip._tcp.example.com", Kind.SRV)))
