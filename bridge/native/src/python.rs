//! The Python door. Nothing here runs per packet; the relay's own threads never come here.

use crate::latch::{Network, Permission};
use crate::relay::{Event, Label, Relay as NativeRelay, SessionReport, Settings};
use crate::session::{Encoding, FarReport, LegMedia, LegReport, Payload, Refusal, Refused, Side};
use crate::sys::Wake;
use crate::tone::Tone;
use crate::worker::LegTotals;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

const SECOND: f64 = 1e9;

type Address = (String, u16);

/// `bridge.media.relay.Payload`, read by its attributes.
#[derive(FromPyObject)]
struct PayloadIn {
    payload_type: u8,
    encoding: String,
    clock_rate: u32,
    far_payload_type: Option<u8>,
}

/// `bridge.media.relay.LegMedia`, read by its attributes.
#[derive(FromPyObject)]
struct LegMediaIn {
    remote_rtp: Option<Address>,
    remote_rtcp: Option<Address>,
    rtcp_mux: bool,
    may_send: bool,
    may_receive: bool,
    payloads: Vec<PayloadIn>,
    ptime_ms: u64,
    fill_after_ms: Option<u64>,
    fill_payload_type: Option<u8>,
    permitted: Vec<String>,
    latch_for: f64,
    silent_after: Option<f64>,
    tone: Option<String>,
}

fn socket_address(address: Option<Address>) -> PyResult<Option<SocketAddr>> {
    let Some((host, port)) = address else {
        return Ok(None);
    };
    let host: IpAddr =
        host.parse().map_err(|_| PyValueError::new_err(format!("{host:?} is no IP address for media")))?;
    // RFC 3264 §8.4: 0.0.0.0 is a hold of old; and nobody listens on port 0. Neither is a destination.
    Ok((!host.is_unspecified() && port != 0).then_some(SocketAddr::new(host, port)))
}

fn tone_named(name: &str) -> PyResult<Tone> {
    Tone::named(name).ok_or_else(|| PyValueError::new_err(format!("{name:?} is no tone")))
}

impl LegMediaIn {
    fn into_native(self) -> PyResult<LegMedia> {
        let permitted = self.permitted.iter().map(|text| {
            Network::parse(text)
                .ok_or_else(|| PyValueError::new_err(format!("{text:?} is no network for media")))
        });
        let payloads = self.payloads.into_iter().map(|payload| Payload {
            payload_type: payload.payload_type,
            encoding: Encoding::named(&payload.encoding),
            clock_rate: payload.clock_rate.max(1),
            far_payload_type: payload.far_payload_type,
        });
        Ok(LegMedia {
            remote_rtcp: socket_address(self.remote_rtcp)?,
            rtcp_mux: self.rtcp_mux,
            may_send: self.may_send,
            may_receive: self.may_receive,
            payloads: payloads.collect(),
            // A frame must fit into one packet, and a grid of nothing would never end.
            ptime: self.ptime_ms.clamp(10, 150) * 1_000_000,
            fill_after: self.fill_after_ms.map(|after| after.saturating_mul(1_000_000)),
            fill_payload_type: self.fill_payload_type,
            silent_after: self.silent_after.map(nanoseconds),
            tone: self.tone.as_deref().map(tone_named).transpose()?,
            permission: Permission {
                signalled: socket_address(self.remote_rtp)?,
                permitted: permitted.collect::<PyResult<_>>()?,
                window: nanoseconds(self.latch_for),
            },
        })
    }
}

#[derive(IntoPyObject)]
struct FarReportOut {
    fraction_lost: f64,
    cumulative_lost: i64,
    jitter_ms: f64,
    round_trip_ms: Option<f64>,
}

impl From<FarReport> for FarReportOut {
    fn from(report: FarReport) -> Self {
        let FarReport { fraction_lost, cumulative_lost, jitter_ms, round_trip_ms } = report;
        FarReportOut { fraction_lost, cumulative_lost, jitter_ms, round_trip_ms }
    }
}

#[derive(IntoPyObject)]
struct LegReportOut {
    remote: Option<Address>,
    received: u64,
    received_bytes: u64,
    expected: u64,
    lost: u64,
    duplicate: u64,
    reordered: u64,
    jitter_ms_mean: f64,
    jitter_ms_max: f64,
    sent: u64,
    sent_bytes: u64,
    filled: u64,
    refused: HashMap<&'static str, u64>,
    rtcp_received: u64,
    rtcp_sent: u64,
    rtcp: Option<FarReportOut>,
    first_received_at: Option<f64>,
    last_received_at: Option<f64>,
    longest_gap_ms: f64,
    longest_sent_gap_ms: f64,
}

/// Seconds as nanoseconds; no span of ours is longer than a day.
fn nanoseconds(seconds: f64) -> u64 {
    (seconds.clamp(0.0, 86_400.0) * SECOND) as u64
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / SECOND
}

fn address(address: SocketAddr) -> Address {
    (address.ip().to_string(), address.port())
}

fn refused(counts: &Refused) -> HashMap<&'static str, u64> {
    let counts = Refusal::ALL.iter().zip(counts).filter(|(_, count)| **count > 0);
    counts.map(|(refusal, count)| (refusal.name(), *count)).collect()
}

impl From<&LegReport> for LegReportOut {
    fn from(report: &LegReport) -> Self {
        LegReportOut {
            remote: report.remote.map(address),
            received: report.received,
            received_bytes: report.received_bytes,
            expected: report.expected,
            lost: report.lost,
            duplicate: report.duplicate,
            reordered: report.reordered,
            jitter_ms_mean: report.jitter_ms_mean,
            jitter_ms_max: report.jitter_ms_max,
            sent: report.sent,
            sent_bytes: report.sent_bytes,
            filled: report.filled,
            refused: refused(&report.refused),
            rtcp_received: report.rtcp_received,
            rtcp_sent: report.rtcp_sent,
            rtcp: report.rtcp.map(FarReportOut::from),
            first_received_at: report.first_received_at.map(seconds),
            last_received_at: report.last_received_at.map(seconds),
            longest_gap_ms: report.longest_gap as f64 / 1e6,
            longest_sent_gap_ms: report.longest_sent_gap as f64 / 1e6,
        }
    }
}

#[derive(IntoPyObject)]
struct LegTotalsOut {
    received: u64,
    received_bytes: u64,
    expected: u64,
    lost: u64,
    sent: u64,
    sent_bytes: u64,
    filled: u64,
    refused: HashMap<&'static str, u64>,
}

impl From<&LegTotals> for LegTotalsOut {
    fn from(totals: &LegTotals) -> Self {
        LegTotalsOut {
            received: totals.received,
            received_bytes: totals.received_bytes,
            expected: totals.expected,
            lost: totals.lost,
            sent: totals.sent,
            sent_bytes: totals.sent_bytes,
            filled: totals.filled,
            refused: refused(&totals.refused),
        }
    }
}

type SessionReportOut = (LegReportOut, LegReportOut);

fn session_report(report: &SessionReport) -> SessionReportOut {
    let [carrier, platform] = &report.legs;
    (carrier.into(), platform.into())
}

fn side_name(side: Side) -> &'static str {
    match side {
        Side::Carrier => "carrier",
        Side::Platform => "platform",
    }
}

fn side_named(name: &str) -> PyResult<Side> {
    let side = Side::BOTH.into_iter().find(|side| side_name(*side) == name);
    side.ok_or_else(|| PyValueError::new_err(format!("{name:?} is no leg")))
}

#[derive(IntoPyObject)]
#[expect(clippy::large_enum_variant, reason = "it lives for the length of one conversion")]
enum EventOut {
    Started(&'static str, u64, &'static str, Address, f64),
    Silent(&'static str, u64, &'static str, f64),
    Closed(&'static str, u64, SessionReportOut),
}

impl From<&Event> for EventOut {
    fn from(event: &Event) -> Self {
        match event {
            Event::Started { session, side, from, at } => {
                EventOut::Started("started", *session, side_name(*side), address(*from), seconds(*at))
            }
            Event::Silent { session, side, at } => {
                EventOut::Silent("silent", *session, side_name(*side), seconds(*at))
            }
            Event::Closed { session, report } => EventOut::Closed("closed", *session, session_report(report)),
        }
    }
}

/// The relay's threads and sessions.
#[pyclass(frozen, module = "bridge._native")]
struct Relay(Mutex<NativeRelay>);

impl Relay {
    fn lock(&self) -> MutexGuard<'_, NativeRelay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Relay {
    #[new]
    fn new(
        address: &str,
        ports: (u16, u16),
        workers: usize,
        wake_fd: i32,
        quarantine: f64,
    ) -> PyResult<Self> {
        let address: IpAddr = address
            .parse()
            .map_err(|_| PyValueError::new_err(format!("{address:?} is no IP address to bind")))?;
        let quarantine = nanoseconds(quarantine);
        let settings = Settings { address, ports, workers, quarantine };
        let relay = NativeRelay::start(settings, Wake::adopt(wake_fd)?)?;
        Ok(Relay(Mutex::new(relay)))
    }

    /// Bind a port pair for each leg. Returns the RTP ports, or the reason for having none.
    fn open(&self, session: u64, carrier: String, platform: String) -> OpenedOut {
        match self.lock().open(session, Label { carrier, platform }) {
            Ok([carrier, platform]) => OpenedOut::Ports(carrier, platform),
            Err(reason) => OpenedOut::Refused(reason),
        }
    }

    fn update(&self, session: u64, leg: &str, media: LegMediaIn) -> PyResult<()> {
        self.lock().update(session, side_named(leg)?, media.into_native()?);
        Ok(())
    }

    /// Count the session for other labels from now on.
    fn relabel(&self, session: u64, carrier: String, platform: String) {
        self.lock().relabel(session, Label { carrier, platform });
    }

    fn close(&self, session: u64) {
        self.lock().close(session);
    }

    fn tap(&self, session: u64, path: Option<PathBuf>) -> PyResult<()> {
        self.lock().tap(session, path.as_deref()).map_err(PyOSError::new_err)
    }

    fn snapshot(&self, py: Python<'_>, session: u64) -> Option<SessionReportOut> {
        let wait = self.lock().snapshot(session);
        py.detach(wait).map(|report| session_report(&report))
    }

    fn events(&self) -> Vec<EventOut> {
        self.lock().events().iter().map(EventOut::from).collect()
    }

    fn totals(&self) -> Vec<(String, String, LegTotalsOut, LegTotalsOut)> {
        let totals = self.lock().totals();
        let rows = totals.into_iter();
        rows.map(|(label, [carrier, platform])| {
            (label.carrier, label.platform, (&carrier).into(), (&platform).into())
        })
        .collect()
    }

    fn ports(&self) -> (usize, usize) {
        self.lock().ports()
    }

    /// Return the panics that ended a session, and the packets that taps had to leave out.
    fn faults(&self) -> (u64, u64) {
        self.lock().faults()
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.lock().stop());
    }
}

#[derive(IntoPyObject)]
enum OpenedOut {
    Ports(u16, u16),
    #[pyo3(transparent)]
    Refused(String),
}

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::Relay;

    /// A digest of the sources that this extension was built from.
    #[pymodule_export]
    const SOURCE_DIGEST: &str = env!("SOURCE_DIGEST");
}
