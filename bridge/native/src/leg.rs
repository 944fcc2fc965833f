//! One side of a call's media: a full RTP endpoint with its latch, its counts and its own stream.

use crate::egress::{Beginning, Egress, Format};
use crate::fill::Fill;
use crate::latch::{Latch, RtcpLatch, Source, port_above};
use crate::random::Random;
use crate::rtcp::{self, Compound, Item, ReportBlock, Schedule, SenderInfo};
use crate::rtp::{self, MAX_PAYLOAD, Packet, TelephoneEvent};
use crate::session::{
    Action, Channel, Encoding, FarReport, Kind, LegMedia, LegReport, Output, Payload, Refusal, Refused, Side,
};
use crate::silence::Silence;
use crate::stats::{Arrival, Reception};
use crate::tone::Ringing;
use std::net::SocketAddr;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

/// One leg.
#[derive(Debug)]
pub struct Leg {
    side: Side,
    media: Option<LegMedia>,
    latch: Latch,
    rtcp_latch: RtcpLatch,
    reception: Reception,
    egress: Egress,
    fill: Fill,
    filling_allowed: bool,
    schedule: Schedule,
    /// The packets sent at the last two reports: RFC 3550 §6.4 makes a sender of who sent since the one before the last.
    sent_at_reports: [u64; 2],
    far_report: Option<FarReport>,
    silence: Silence,
    ringing: Option<Ringing>,
    started: bool,
    sent_bytes: u64,
    filled: u64,
    refused: Refused,
    rtcp_received: u64,
    rtcp_sent: u64,
}

impl Leg {
    pub fn new(side: Side, beginning: Beginning) -> Self {
        Leg {
            side,
            media: None,
            latch: Latch::default(),
            rtcp_latch: RtcpLatch::default(),
            reception: Reception::default(),
            egress: Egress::new(beginning),
            fill: Fill::default(),
            filling_allowed: false,
            schedule: Schedule::default(),
            sent_at_reports: [0; 2],
            far_report: None,
            silence: Silence::default(),
            ringing: None,
            started: false,
            sent_bytes: 0,
            filled: 0,
            refused: [0; Refusal::ALL.len()],
            rtcp_received: 0,
            rtcp_sent: 0,
        }
    }

    pub fn refuse(&mut self, refusal: Refusal) {
        self.refused[refusal as usize] += 1;
    }

    pub fn update(&mut self, media: LegMedia, now: u64, random: &mut Random, out: &mut Output) {
        let was = self.media.as_ref().map(|media| (media.may_send, media.may_receive));
        if self.latch.permit(media.permission.clone(), now) {
            out.actions.push(Action::Release { side: self.side });
        }
        let above = media.permission.signalled.and_then(port_above);
        self.rtcp_latch.permit(media.remote_rtcp.or(above));
        if was.is_some_and(|(may_send, _)| may_send != media.may_send) {
            self.egress.pause();
        }
        if was.is_some_and(|(_, may_receive)| may_receive && !media.may_receive) {
            self.reception.pause();
        }
        self.silence.watch(media.silent_after, now);
        let tone = media.tone;
        let rings = tone != self.media.as_ref().and_then(|media| media.tone);
        self.media = Some(media);
        self.fix(now, out);
        if self.rtcp_destination().is_some() {
            self.schedule.begin(now, random);
        }
        self.allow_fill(now);
        if rings {
            self.ringing = tone.map(Ringing::new);
            if self.ringing.is_some() && self.filling_allowed {
                self.fill.arm(self.egress.ends_at().clamp(now, now + SECOND));
            }
        }
    }

    /// Connect the socket if the latch has come to rest.
    fn fix(&mut self, now: u64, out: &mut Output) {
        if let Some(to) = self.latch.fix(now) {
            out.actions.push(Action::Connect { side: self.side, to });
        }
    }

    fn fill_format(&self) -> Option<(&LegMedia, &Payload, u8, u64)> {
        let media = self.media.as_ref().filter(|media| media.may_send)?;
        let payload = media.payload(media.fill_payload_type?)?;
        let after = if media.tone.is_some() { 0 } else { media.fill_after? };
        Some((media, payload, payload.encoding.silence()?, after))
    }

    /// Start or stop the fill's clock when signalling or a latch has changed what may go to the peer.
    fn allow_fill(&mut self, now: u64) {
        let after =
            self.fill_format().map(|(.., after)| after).filter(|_| self.latch.destination().is_some());
        let allowed = after.is_some();
        if let Some(after) = after
            && !self.filling_allowed
        {
            // D27: the first frame at once if nothing was ever sent; else when the gap is long enough.
            let since = self.egress.last_sent_at().map_or(now, |at| at.saturating_add(after));
            self.fill.arm(since.max(now));
        }
        if !allowed {
            self.fill.stop();
        }
        self.filling_allowed = allowed;
    }

    fn send_fill(&mut self, now: u64, out: &mut Output) {
        if let Some(until) = self.egress.event_until().filter(|until| *until > now)
            && self.fill.next_at().is_some_and(|at| at <= now)
        {
            self.fill.arm(until);
            return;
        }
        let Some(to) = self.latch.destination() else {
            return;
        };
        let Some((media, payload, silence, _)) = self.fill_format() else {
            return;
        };
        let Payload { payload_type, clock_rate, encoding, .. } = *payload;
        let ptime = media.ptime;
        let Some(slot) = self.fill.take_due(now, ptime) else {
            return;
        };
        let samples = (ptime / MS * u64::from(clock_rate) / 1000) as usize;
        let format = Format { payload_type, clock_rate, duration: samples as u32, event: None };
        let header = self.egress.fill(slot, &format, samples, now);
        let mut frame = [silence; MAX_PAYLOAD];
        let frame = &mut frame[..samples.min(MAX_PAYLOAD)];
        if let Some(ringing) = &mut self.ringing {
            ringing.write(slot, encoding, frame);
        }
        self.filled += 1;
        self.sent_bytes += (rtp::HEADER + frame.len()) as u64;
        out.rtp(self.side, to, header, frame, Kind::Fill);
    }

    /// Send a packet of the other leg's peer in this leg's stream.
    fn forward(
        &mut self,
        packet: &Packet<'_>,
        arrival: Arrival,
        payload: &Payload,
        now: u64,
        out: &mut Output,
    ) -> Result<(), Refusal> {
        let media = self.media.as_ref().ok_or(Refusal::NoDestination)?;
        if !media.may_send {
            return Err(Refusal::Held);
        }
        if self.ringing.is_some() {
            return Ok(());
        }
        let to = self.latch.destination().ok_or(Refusal::NoDestination)?;
        let payload_type = payload.far_payload_type.ok_or(Refusal::PayloadType)?;
        let duration = match payload.encoding {
            Encoding::Pcmu | Encoding::Pcma => packet.payload.len() as u32,
            _ => (media.ptime / MS * u64::from(payload.clock_rate) / 1000) as u32,
        };
        let event = match payload.encoding {
            Encoding::TelephoneEvent => TelephoneEvent::parse(packet.payload),
            _ => None,
        };
        let fill_after = media.fill_after;
        let format = Format { payload_type, clock_rate: payload.clock_rate, duration, event };
        let header = self.egress.forward(packet, arrival, &format, now).ok_or(Refusal::Late)?;
        if let Some(after) = fill_after
            && self.filling_allowed
        {
            self.fill.audio_sent(now, after, self.egress.ends_at());
        }
        self.sent_bytes += (rtp::HEADER + packet.payload.len()) as u64;
        out.rtp(self.side, to, header, packet.payload, Kind::Media);
        Ok(())
    }

    fn rtcp_destination(&self) -> Option<SocketAddr> {
        let media = self.media.as_ref()?;
        if media.rtcp_mux { self.latch.destination() } else { self.rtcp_latch.destination(&self.latch) }
    }

    fn send_rtcp(&mut self, wall: u64, cname: &[u8], bye: bool, now: u64, out: &mut Output) {
        let Some(to) = self.rtcp_destination() else {
            return;
        };
        let sent = self.egress.packets > self.sent_at_reports[0];
        self.sent_at_reports = [self.sent_at_reports[1], self.egress.packets];
        let sender = sent.then(|| SenderInfo {
            ntp: rtcp::ntp(wall + now),
            timestamp: self.egress.timestamp_at(now),
            packets: self.egress.packets as u32,
            octets: self.egress.octets as u32,
        });
        let report = self.reception.report_block(now);
        let start = out.bytes.len();
        Compound { ssrc: self.egress.ssrc(), sender, report, cname, bye }.write(&mut out.bytes);
        let end = out.bytes.len();
        let mux = self.media.as_ref().is_some_and(|media| media.rtcp_mux);
        let channel = if mux { Channel::Rtp } else { Channel::Rtcp };
        self.rtcp_sent += 1;
        out.actions.push(Action::Send { side: self.side, channel, to, start, end, kind: Kind::Report });
    }

    pub fn receive_rtcp(
        &mut self,
        channel: Channel,
        source: SocketAddr,
        datagram: &[u8],
        wall: u64,
        now: u64,
    ) -> bool {
        let Some(media) = &self.media else {
            self.refuse(Refusal::NotNegotiated);
            return false;
        };
        let multiplexed = channel == Channel::Rtp;
        if multiplexed != media.rtcp_mux {
            self.refuse(Refusal::NotNegotiated); // RFC 5761 §5.1.1: multiplexed only if both sides said so (R65)
            return false;
        }
        if !rtcp::is_well_formed(datagram) {
            self.refuse(Refusal::NotRtcp);
            return false;
        }
        let believed = if multiplexed {
            self.latch.judge(source, now) != Source::Stranger
        } else {
            self.rtcp_latch.hear(source, &self.latch)
        };
        if !believed {
            self.refuse(Refusal::RtcpStranger);
            return false;
        }
        self.rtcp_received += 1;
        self.silence.heard(now);
        let ntp = rtcp::ntp(wall + now);
        rtcp::read(datagram, |item| match item {
            Item::Sender { ssrc, info } => self.reception.sender_report(ssrc, rtcp::middle(info.ntp), now),
            Item::Report(block) if block.ssrc == self.egress.ssrc() => {
                self.note_far_report(&block, rtcp::middle(ntp))
            }
            Item::Report(_) | Item::Bye { .. } => {}
        });
        true
    }

    fn note_far_report(&mut self, block: &ReportBlock, arrival: u32) {
        let before = self.far_report.and_then(|report| report.round_trip_ms);
        self.far_report = Some(FarReport {
            fraction_lost: f64::from(block.fraction_lost) / 256.0,
            cumulative_lost: i64::from(block.cumulative_lost),
            jitter_ms: f64::from(block.jitter_ticks) * 1000.0 / f64::from(self.egress.clock_rate()),
            round_trip_ms: rtcp::round_trip_ms(arrival, block).or(before),
        });
    }

    /// Note that the network says that the peer's port is closed.
    pub fn unreachable(&mut self) {
        self.silence.unreachable();
    }

    /// Take back what the kernel did not send.
    pub fn not_sent(&mut self, kind: Kind, octets: usize) {
        self.refuse(Refusal::SendError);
        match kind {
            Kind::Media | Kind::Fill => {
                self.egress.not_sent(octets.saturating_sub(rtp::HEADER));
                self.sent_bytes = self.sent_bytes.saturating_sub(octets as u64);
                self.filled -= u64::from(kind == Kind::Fill && self.filled > 0);
            }
            Kind::Report => self.rtcp_sent = self.rtcp_sent.saturating_sub(1),
        }
    }

    /// Do what is due: the latch that comes to rest, fill, RTCP, and the report of a silence.
    pub fn handle_timeout(
        &mut self,
        wall: u64,
        cname: &[u8],
        now: u64,
        random: &mut Random,
        out: &mut Output,
    ) {
        self.fix(now, out);
        self.send_fill(now, out);
        if self.schedule.take_due(now, random) {
            self.send_rtcp(wall, cname, false, now, out);
        }
        if self.silence.take_due(now) {
            out.actions.push(Action::Silent { side: self.side });
        }
    }

    /// Say goodbye to the peer.
    pub fn close(&mut self, wall: u64, cname: &[u8], now: u64, out: &mut Output) {
        self.schedule.end();
        self.fill.stop();
        // RFC 3550 §6.3.7: who never sent anything must not send BYE.
        if self.egress.packets > 0 || self.rtcp_sent > 0 {
            self.send_rtcp(wall, cname, true, now, out);
        }
    }

    pub fn next_timeout(&self) -> Option<u64> {
        [self.fill.next_at(), self.schedule.next_at(), self.latch.fixes_at(), self.silence.ends_at()]
            .into_iter()
            .flatten()
            .min()
    }

    pub fn report(&self) -> LegReport {
        LegReport {
            remote: self.latch.destination(),
            received: self.reception.received,
            received_bytes: self.reception.received_bytes,
            expected: self.reception.expected(),
            lost: self.reception.lost(),
            duplicate: self.reception.duplicate,
            reordered: self.reception.reordered,
            jitter_ms_mean: self.reception.jitter_ms_mean(),
            jitter_ms_max: self.reception.jitter_ms_max,
            sent: self.egress.packets,
            sent_bytes: self.sent_bytes,
            filled: self.filled,
            refused: self.refused,
            rtcp_received: self.rtcp_received,
            rtcp_sent: self.rtcp_sent,
            rtcp: self.far_report,
            first_received_at: self.reception.first_at,
            last_received_at: self.reception.last_at,
            longest_gap: self.reception.longest_gap,
            longest_sent_gap: self.egress.longest_gap,
        }
    }

    /// A payload type from 64 to 95 that was negotiated all the same, its marker set, looks like RTCP but is not.
    pub fn takes_as_rtp(&self, datagram: &[u8]) -> bool {
        self.media
            .as_ref()
            .is_some_and(|media| !media.rtcp_mux && media.payload(datagram[1] & 0x7F).is_some())
    }

    pub fn receive_rtp(
        &mut self,
        far: &mut Leg,
        source: SocketAddr,
        datagram: &[u8],
        now: u64,
        out: &mut Output,
    ) -> Result<(), Refusal> {
        let media = self.media.as_ref().ok_or(Refusal::NotNegotiated)?;
        let judged = self.latch.judge(source, now);
        if judged == Source::Stranger {
            return Err(Refusal::Stranger);
        }
        let packet = Packet::parse(datagram).map_err(|_| Refusal::NotRtp)?;
        if judged == Source::Peer {
            self.silence.heard(now);
        }
        let may_receive = media.may_receive;
        let payload = media.payload(packet.payload_type).copied();
        if judged == Source::Candidate {
            if !may_receive {
                return Err(Refusal::NotNegotiated);
            }
            // T01: the proof is RTP of a negotiated type with a plausible length, nothing less.
            let payload = payload.ok_or(Refusal::PayloadType)?;
            if !is_plausible(&payload, packet.payload.len()) {
                return Err(Refusal::NotRtp);
            }
            self.latch.prove(source, now);
            self.silence.heard(now);
            self.fix(now, out);
            self.allow_fill(now);
            if !self.started {
                self.started = true;
                out.actions.push(Action::Started { side: self.side, from: source });
            }
        }
        let (clock_rate, audio) = payload.map_or((self.egress.clock_rate(), false), |payload| {
            (payload.clock_rate, payload.encoding != Encoding::TelephoneEvent)
        });
        // What can't be forwarded is heard all the same: it has a sequence number, and would else look lost.
        let arrival = self.reception.hear(&packet, datagram.len(), clock_rate, audio, now);
        if !may_receive {
            self.reception.pause();
            return Err(Refusal::NotNegotiated);
        }
        match arrival {
            Arrival::Duplicate => return Ok(()),
            Arrival::Stale => return Err(Refusal::Late),
            _ => {}
        }
        let payload = payload.ok_or(Refusal::PayloadType)?;
        if packet.payload.is_empty() {
            return Err(Refusal::Empty); // a keepalive (RFC 6263 §4.1)
        }
        if packet.payload.len() > MAX_PAYLOAD {
            return Err(Refusal::NotRtp);
        }
        far.forward(&packet, arrival, &payload, now, out)
    }
}

/// Tell whether a payload of this length may prove a source.
fn is_plausible(payload: &Payload, octets: usize) -> bool {
    match payload.encoding {
        // G.711: 5 ms to 150 ms of sound.
        Encoding::Pcmu | Encoding::Pcma => (40..=1200).contains(&octets),
        Encoding::TelephoneEvent => octets >= 4 && octets.is_multiple_of(4) && octets <= 64,
        Encoding::Other => (1..=MAX_PAYLOAD).contains(&octets),
    }
}
