"""Every Prometheus metric, declared once, and the one observer that feeds them.

Counts of messages and calls are fed by the core's traces and records; what the relay counts is read when somebody
scrapes. No label carries a call, a number or an address.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from bridge.b2bua.actions import Record, Trace
from bridge.media.relay import LegName, LegTotals, Relay, SessionLabel
from bridge.sip.registration import State

PREFIX = "trunkbridge"

REGISTRATION_STATES = tuple(state.value for state in State)
CALL = ("carrier", "platform", "direction")
LEG = ("leg", "carrier", "platform")

# Setup is machine time up to seconds; a ring may last minutes; calls last from a wrong number to an hour on hold.
_SETUP = (0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 180)
_DURATION = (1, 5, 10, 30, 60, 120, 180, 300, 600, 1200, 1800, 3600, 7200)
_JITTER = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2)
_FRACTION = (0.0, 0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5)
_ROUND_TRIP = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
_MOS = (1.5, 2.0, 2.5, 3.0, 3.3, 3.6, 3.8, 4.0, 4.1, 4.2, 4.3, 4.4, 4.5)

_METHODS = frozenset(
    ("INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "REGISTER", "PRACK", "UPDATE", "INFO", "REFER", "NOTIFY", "SUBSCRIBE")
)


class Metrics:
    """Hold the metrics of one bridge; an instance is an observer of the driver."""

    def __init__(
        self,
        relay: Relay,
        live_calls: Callable[[], Iterable[tuple[str, str, str]]],
        held: Callable[[], Mapping[str, int]] = dict,
        registrations: Callable[[], Iterable[tuple[str, str]]] = tuple,
    ) -> None:
        """``live_calls`` returns carrier, platform and direction of each (`Core.live`), ``held`` what signalling holds
        in memory by kind (`Core.counts`), ``registrations`` carrier and state of each (`Core.registrations`); all are
        read at each scrape.
        """
        # A creation time for each series would swell a scrape by a third.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_Scraped(relay, live_calls, held, registrations, lambda: self.bugs, self.messages))

        self._calls = self._counter("calls", "Calls that ended.", (*CALL, "result", "reason"))
        self._setup = self._histogram("call_setup_seconds", "From the INVITE to the answer.", CALL, _SETUP)
        self._post_dial = self._histogram(
            "post_dial_delay_seconds", "From the INVITE to the first sign of ringing.", CALL, _SETUP
        )
        self._duration = self._histogram("call_duration_seconds", "From the answer to the end.", CALL, _DURATION)
        # Plain numbers, read at each scrape: a counter of the library takes a lock and four calls for each message.
        self._messages: dict[tuple[str, str, int, str, str], int] = {}
        self._retransmissions = 0
        self._rejected = self._counter("sip_rejected", "SIP input that was dropped or refused.", ("reason",))
        self._jitter = self._histogram("rtp_jitter_seconds", "Mean interarrival jitter of a call's leg.", LEG, _JITTER)
        self._fraction_lost = self._histogram(
            "rtcp_fraction_lost", "What the far end last reported lost of our stream, 0 to 1.", LEG, _FRACTION
        )
        self._round_trip = self._histogram(
            "rtcp_round_trip_seconds", "Round trip of a call's leg, from RTCP.", LEG, _ROUND_TRIP
        )
        self._mos = self._histogram("call_mos", "Estimated listening quality of a call's leg (ITU-T G.107).", LEG, _MOS)
        self._failovers = self._counter(
            "failovers", "Attempts that failed and moved the call to another target.", ("platform", "result")
        )
        self._transfers = self._counter("transfers", "Transfers that have ended.", ("platform", "mode", "result"))
        self._limits = self._counter(
            "limit_rejections", "Calls refused because of a limit or a rule.", ("carrier", "platform", "limit")
        )
        self.bugs = 0  # faults of our own, each contained to one input or call

    def __call__(self, fact: Trace | Record) -> None:
        """Count one trace or record."""
        if isinstance(fact, Record):
            self._ended(fact.record)
        elif fact.kind in ("received", "sent"):
            self._message(fact)
        elif fact.kind == "rejected":
            self._rejected.labels(fact.text).inc()
        elif fact.kind == "limit":
            self._limits.labels(fact.details["carrier"], fact.details["platform"], fact.text).inc()
        elif fact.kind == "transfer":
            self._transfers.labels(*(str(fact.details[label]) for label in ("platform", "mode", "result"))).inc()
        elif fact.kind == "bug":
            self.bugs += 1

    def exposition(self, accept: str) -> tuple[str, bytes]:
        """Return content type and body in the format that the Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", text, labels, registry=self.registry, buckets=buckets)

    def messages(self) -> Iterator[Metric]:
        """Return the counts of SIP messages."""
        labels = ("leg", "method", "status", "transport", "way")
        family = CounterMetricFamily(
            f"{PREFIX}_sip_messages", "SIP messages; the status is empty for requests.", labels=labels
        )
        for (leg, method, status, transport, kind), count in self._messages.items():
            way = "in" if kind == "received" else "out"
            family.add_metric((leg, method, str(status or ""), transport, way), count)
        yield family
        yield CounterMetricFamily(
            f"{PREFIX}_sip_retransmissions", "SIP messages that were sent once more.", value=self._retransmissions
        )

    def _message(self, trace: Trace) -> None:
        # A peer may write any method: an unknown one must not become a label of its own.
        method = trace.method if trace.method in _METHODS else "other"
        transport = trace.flow.transport if trace.flow else ""
        labels = (trace.leg or "", method, trace.status, transport, trace.kind)
        self._messages[labels] = self._messages.get(labels, 0) + 1
        if trace.retransmission:
            self._retransmissions += 1

    def _ended(self, record: Mapping[str, Any]) -> None:
        carrier, platform = record["carrier"] or "", record["platform"] or ""
        labels = (carrier, platform, record["direction"])
        self._calls.labels(*labels, record["result"], record["reason"]).inc()
        for histogram, key in ((self._setup, "setup_seconds"), (self._post_dial, "post_dial_delay_seconds")):
            if record.get(key) is not None:
                histogram.labels(*labels).observe(record[key])
        if record["answered_at"]:
            self._duration.labels(*labels).observe(record["duration"])
        if record["reason"] == "no-ports":
            self._limits.labels(carrier, platform, "media_ports").inc()
        for attempt in record["attempts"][:-1]:
            # Carriers have no label here: of outbound calls it is the platform whose call moved on
            failed = attempt["peer"] if record["direction"] == "inbound" else platform
            self._failovers.labels(failed, record["result"]).inc()
        for name in LegName:
            leg = record["legs"].get(name)
            if leg:
                self._quality(leg, (name.value, carrier, platform))

    def _quality(self, leg: Mapping[str, Any], labels: tuple[str, str, str]) -> None:
        rtp, rtcp = leg.get("rtp"), leg.get("rtcp")
        if rtp and rtp["received"]:
            self._jitter.labels(*labels).observe(rtp["jitter_ms_mean"] / 1000)
        if rtcp:
            self._fraction_lost.labels(*labels).observe(rtcp["fraction_lost"])
            if rtcp["round_trip_ms"] is not None:
                self._round_trip.labels(*labels).observe(rtcp["round_trip_ms"] / 1000)
        if leg.get("mos") is not None:
            self._mos.labels(*labels).observe(leg["mos"])


class _Scraped(Collector):
    """Read at each scrape what others count: live calls, what signalling holds, and the relay's totals and ports."""

    def __init__(
        self,
        relay: Relay,
        live_calls: Callable[[], Iterable[tuple[str, str, str]]],
        held: Callable[[], Mapping[str, int]],
        registrations: Callable[[], Iterable[tuple[str, str]]],
        bugs: Callable[[], int],
        messages: Callable[[], Iterable[Metric]],
    ) -> None:
        self._relay = relay
        self._live_calls = live_calls
        self._held = held
        self._registrations = registrations
        self._bugs = bugs
        self._messages = messages

    def collect(self) -> Iterator[Metric]:
        yield self._active()
        yield self._registered()
        yield from self._messages()
        held = GaugeMetricFamily(
            f"{PREFIX}_sip_held", "Dialogs, transactions, timers and the like in memory (T19).", labels=("kind",)
        )
        for kind, count in self._held().items():
            held.add_metric([kind], count)
        yield held
        totals = self._relay.totals()
        yield from self._streams(totals)
        yield self._refused(totals)
        in_use, limit = self._relay.ports()
        yield GaugeMetricFamily(
            f"{PREFIX}_media_ports_in_use", "Media ports taken by calls or resting after one.", value=in_use
        )
        yield GaugeMetricFamily(f"{PREFIX}_media_ports_limit", "Media ports in the configured range.", value=limit)
        bugs = self._bugs() + self._relay.faults()[0]
        yield CounterMetricFamily(
            f"{PREFIX}_bugs", "Faults of our own, each contained to one input or call.", value=bugs
        )

    def _active(self) -> Metric:
        family = GaugeMetricFamily(f"{PREFIX}_calls_active", "Calls in progress, ringing ones included.", labels=CALL)
        for labels, count in Tally(self._live_calls()).items():
            family.add_metric(labels, count)
        return family

    def _registered(self) -> Metric:
        family = GaugeMetricFamily(
            f"{PREFIX}_registrations",
            "Our registration with each carrier: 1 in its state.",
            labels=("carrier", "state"),
        )
        for carrier, state in self._registrations():
            for each in REGISTRATION_STATES:
                family.add_metric([carrier, each], 1 if each == state else 0)
        return family

    def _streams(self, totals: Mapping[SessionLabel, Mapping[LegName, LegTotals]]) -> Iterator[Metric]:
        way = ("leg", "way", "carrier", "platform")
        packets = CounterMetricFamily(f"{PREFIX}_rtp_packets", "RTP packets of each leg.", labels=way)
        octets = CounterMetricFamily(f"{PREFIX}_rtp_bytes", "Bytes in RTP packets of each leg.", labels=way)
        lost = CounterMetricFamily(f"{PREFIX}_rtp_lost_packets", "RTP packets that never arrived.", labels=LEG)
        expected = CounterMetricFamily(
            f"{PREFIX}_rtp_expected_packets", "RTP packets that peers sent, by sequence number.", labels=LEG
        )
        filled = CounterMetricFamily(
            f"{PREFIX}_rtp_filled_frames", "Silence frames sent to a peer while the other side was quiet.", labels=LEG
        )
        for label, legs in totals.items():
            for leg, total in legs.items():
                names = [label.carrier, label.platform]
                packets.add_metric([leg, "in", *names], total.received)
                packets.add_metric([leg, "out", *names], total.sent)
                octets.add_metric([leg, "in", *names], total.received_bytes)
                octets.add_metric([leg, "out", *names], total.sent_bytes)
                lost.add_metric([leg, *names], total.lost)
                expected.add_metric([leg, *names], total.expected)
                filled.add_metric([leg, *names], total.filled)
        yield from (packets, octets, lost, expected, filled)

    def _refused(self, totals: Mapping[SessionLabel, Mapping[LegName, LegTotals]]) -> Metric:
        family = CounterMetricFamily(
            f"{PREFIX}_rtp_refused", "RTP and RTCP packets that were not passed on.", labels=("leg", "reason")
        )
        tally: Tally[tuple[LegName, str]] = Tally()
        for legs in totals.values():
            for leg, total in legs.items():
                for reason, count in total.refused.items():
                    tally[leg, reason] += count
        for (leg, reason), count in sorted(tally.items()):
            family.add_metric([leg, reason], count)
        return family
