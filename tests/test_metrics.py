"""The metrics of the contract: names, types, labels, and what feeds them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridge.b2bua.actions import Record, Trace
from bridge.media.relay import LegName, LegTotals, SessionLabel
from bridge.metrics import Metrics
from bridge.sip.events import Flow
from tests.harness.relay import FakeRelay

FLOW = Flow("udp", ("127.0.0.1", 5060), ("127.0.0.9", 5060))

CONTRACT = {
    "calls_active": ("gauge", {"carrier", "platform", "direction"}),
    "registrations": ("gauge", {"carrier", "state"}),
    "calls_total": ("counter", {"carrier", "platform", "direction", "result", "reason"}),
    "call_setup_seconds": ("histogram", {"carrier", "platform", "direction"}),
    "post_dial_delay_seconds": ("histogram", {"carrier", "platform", "direction"}),
    "call_duration_seconds": ("histogram", {"carrier", "platform", "direction"}),
    "sip_messages_total": ("counter", {"leg", "method", "status", "transport", "way"}),
    "sip_retransmissions_total": ("counter", set()),
    "sip_rejected_total": ("counter", {"reason"}),
    "rtp_packets_total": ("counter", {"leg", "way", "carrier", "platform"}),
    "rtp_bytes_total": ("counter", {"leg", "way", "carrier", "platform"}),
    "rtp_lost_packets_total": ("counter", {"leg", "carrier", "platform"}),
    "rtp_expected_packets_total": ("counter", {"leg", "carrier", "platform"}),
    "rtp_jitter_seconds": ("histogram", {"leg", "carrier", "platform"}),
    "rtcp_fraction_lost": ("histogram", {"leg", "carrier", "platform"}),
    "rtcp_round_trip_seconds": ("histogram", {"leg", "carrier", "platform"}),
    "call_mos": ("histogram", {"leg", "carrier", "platform"}),
    "rtp_filled_frames_total": ("counter", {"leg", "carrier", "platform"}),
    "rtp_refused_total": ("counter", {"leg", "reason"}),
    "failovers_total": ("counter", {"platform", "result"}),
    "limit_rejections_total": ("counter", {"carrier", "platform", "limit"}),
    "transfers_total": ("counter", {"platform", "mode", "result"}),
    "media_ports_in_use": ("gauge", set()),
    "media_ports_limit": ("gauge", set()),
    "sip_held": ("gauge", {"kind"}),
    "bugs_total": ("counter", set()),
}


class BusyRelay(FakeRelay):
    def totals(self) -> Mapping[SessionLabel, Mapping[LegName, LegTotals]]:
        totals = LegTotals(
            received=100, received_bytes=17200, expected=105, lost=5, sent=110, sent_bytes=18920, filled=10,
            refused={"stranger": 3},
        )  # fmt: skip
        return {
            SessionLabel("main", "support"): {LegName.CARRIER: totals, LegName.PLATFORM: totals},
            SessionLabel("main", "sales"): {LegName.CARRIER: totals},
        }


def record(**changes: Any) -> dict[str, Any]:
    leg = {
        "rtp": {"received": 500, "jitter_ms_mean": 2.5},
        "rtcp": {"fraction_lost": 0.01, "round_trip_ms": 30.0, "jitter_ms": 1.0},
        "mos": 4.3,
    }
    return {
        "carrier": "main",
        "platform": "support",
        "direction": "inbound",
        "result": "completed",
        "reason": "hangup",
        "setup_seconds": 0.25,
        "post_dial_delay_seconds": 0.05,
        "answered_at": "2026-01-01T10:00:00.000Z",
        "duration": 65.0,
        "attempts": [{"peer": "sales", "status": 503, "seconds": 0.1}, {"peer": "support", "status": 200}],
        "legs": {"carrier": leg, "platform": leg},
        **changes,
    }


@pytest.fixture
def metrics() -> Metrics:
    live = ("main", "support", "inbound")
    return Metrics(BusyRelay(), lambda: [live, live], lambda: {"dialogs": 4}, lambda: [("main", "refreshing")])


def fed(metrics: Metrics) -> Metrics:
    metrics(Trace("received", 1.0, leg=LegName.CARRIER, flow=FLOW, method="INVITE", retransmission=True))
    metrics(Trace("sent", 1.0, leg=LegName.CARRIER, flow=FLOW, method="INVITE", status=200))
    metrics(Trace("rejected", 1.0, text="unknown-source", flow=FLOW))
    metrics(Trace("bug", 1.0, text="traceback"))
    metrics(Record(record()))
    metrics(Record(record(result="rejected", reason="limit", answered_at=None, setup_seconds=None, legs={})))
    metrics(Trace("limit", 1.0, text="max_calls", details={"carrier": "main", "platform": "support"}))
    metrics(Trace("transfer", 1.0, details={"platform": "support", "mode": "dial", "result": "succeeded"}))
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"trunkbridge_{name}", labels)


def test_every_metric_has_the_name_type_and_labels_of_the_contract(metrics: Metrics) -> None:
    text = fed(metrics).exposition("")[1].decode()
    found: dict[str, tuple[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        if family.name.startswith("trunkbridge_"):
            name = family.name.removeprefix("trunkbridge_") + ("_total" if family.type == "counter" else "")
            found[name] = (family.type, {label for sample in family.samples for label in sample.labels} - {"le"})
    assert found == CONTRACT


def test_messages_are_counted_by_leg_method_status_transport_and_way(metrics: Metrics) -> None:
    fed(metrics)
    labels = {"leg": "carrier", "method": "INVITE", "transport": "udp"}
    assert value(metrics, "sip_messages_total", status="", way="in", **labels) == 1
    assert value(metrics, "sip_messages_total", status="200", way="out", **labels) == 1
    assert value(metrics, "sip_retransmissions_total") == 1
    assert value(metrics, "sip_rejected_total", reason="unknown-source") == 1
    assert value(metrics, "bugs_total") == 1


def test_a_peer_can_not_make_labels_of_its_own(metrics: Metrics) -> None:
    for number in range(100):
        metrics(Trace("received", 1.0, leg=LegName.CARRIER, flow=FLOW, method=f"EVIL{number}"))
    labels = {"leg": "carrier", "method": "other", "status": "", "transport": "udp", "way": "in"}
    assert value(metrics, "sip_messages_total", **labels) == 100


def test_a_record_feeds_calls_times_and_quality(metrics: Metrics) -> None:
    fed(metrics)
    call = {"carrier": "main", "platform": "support", "direction": "inbound"}
    assert value(metrics, "calls_total", **call, result="completed", reason="hangup") == 1
    assert value(metrics, "calls_total", **call, result="rejected", reason="limit") == 1
    assert value(metrics, "call_setup_seconds_sum", **call) == 0.25
    assert value(metrics, "post_dial_delay_seconds_sum", **call) == 0.1
    assert value(metrics, "call_duration_seconds_count", **call) == 1, "an unanswered call has no duration"
    leg = {"leg": "platform", "carrier": "main", "platform": "support"}
    assert value(metrics, "rtp_jitter_seconds_sum", **leg) == 0.0025
    assert value(metrics, "rtcp_round_trip_seconds_sum", **leg) == 0.03
    assert value(metrics, "rtcp_fraction_lost_sum", **leg) == 0.01
    assert value(metrics, "call_mos_sum", **leg) == 4.3
    assert value(metrics, "failovers_total", platform="sales", result="completed") == 1
    metrics(Record(record(direction="outbound", attempts=[{"peer": "main"}, {"peer": "other"}])))
    assert value(metrics, "failovers_total", platform="support", result="completed") == 1
    assert value(metrics, "limit_rejections_total", carrier="main", platform="support", limit="max_calls") == 1


def test_a_record_without_media_observes_no_quality(metrics: Metrics) -> None:
    leg = {"rtp": None, "rtcp": None, "mos": None}
    metrics(Record(record(legs={"carrier": leg, "platform": None})))
    labels = {"leg": "carrier", "carrier": "main", "platform": "support"}
    assert value(metrics, "call_mos_count", **labels) is None
    assert value(metrics, "rtp_jitter_seconds_count", **labels) is None


def test_the_relays_totals_are_read_at_each_scrape(metrics: Metrics) -> None:
    leg = {"leg": "carrier", "carrier": "main", "platform": "support"}
    assert value(metrics, "rtp_packets_total", way="in", **leg) == 100
    assert value(metrics, "rtp_packets_total", way="out", **leg) == 110
    assert value(metrics, "rtp_bytes_total", way="out", **leg) == 18920
    assert value(metrics, "rtp_lost_packets_total", **leg) == 5
    assert value(metrics, "rtp_expected_packets_total", **leg) == 105
    assert value(metrics, "rtp_filled_frames_total", **leg) == 10
    assert value(metrics, "rtp_refused_total", leg="carrier", reason="stranger") == 6, "summed over both platforms"
    assert value(metrics, "media_ports_limit") == 4000
    assert value(metrics, "calls_active", carrier="main", platform="support", direction="inbound") == 2


def test_what_signalling_holds_is_read_at_each_scrape(metrics: Metrics) -> None:
    """T19: an operator can see that dialogs, transactions and timers go back to what they were."""
    assert value(metrics, "sip_held", kind="dialogs") == 4


def test_two_bridges_in_one_process_do_not_share_metrics(metrics: Metrics) -> None:
    other = Metrics(FakeRelay(), list)
    other(Trace("bug", 1.0))
    assert value(metrics, "bugs_total") == 0
    assert value(other, "bugs_total") == 1


@pytest.mark.interop
def test_promtool_finds_nothing_to_mend(metrics: Metrics) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    body = fed(metrics).exposition("")[1]
    result = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, timeout=30)
    assert (result.returncode, result.stdout + result.stderr) == (0, b"")


def test_a_registration_is_one_in_its_state_and_zero_in_the_others(metrics: Metrics) -> None:
    assert value(metrics, "registrations", carrier="main", state="refreshing") == 1
    assert value(metrics, "registrations", carrier="main", state="registered") == 0
    assert value(metrics, "registrations", carrier="main", state="backing-off") == 0
