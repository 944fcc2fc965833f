//! What arrives from a peer, measured by RFC 3550 A.1 (sequence), A.3 (loss) and A.8 (jitter).
//!
//! One departure from A.1: a new source passes no probation. Its first packet is counted and forwarded at once, because the
//! latch has already tied it to an address, and dropping MIN_SEQUENTIAL packets would lose the first audio of a talk
//! spurt. A jump beyond MAX_DROPOUT is likewise forwarded at once; the second packet in sequence confirms it (bad_seq).

use crate::rtcp::ReportBlock;
use crate::rtp::{Packet, timestamp_distance};

const MAX_DROPOUT: u16 = 3000;
const MAX_MISORDER: u16 = 100;
const SECOND: f64 = 1e9;

/// The place of a packet in its source's sequence.
///
/// `run` changes whenever the source's numbering starts anew (another SSRC, a jump); `extended` counts within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    Fresh {
        run: u32,
        extended: u32,
    },
    Reordered {
        run: u32,
        extended: u32,
    },
    Duplicate,
    /// A packet that an abandoned SSRC sent before the present one took over.
    Stale,
}

/// One SSRC as heard.
#[derive(Clone, Debug)]
struct Stream {
    ssrc: u32,
    run: u32,
    base: u32,
    highest: u32,
    /// Bit n: the packet `highest - n` has arrived.
    seen: u128,
    received: u64,
    expected_prior: u64,
    received_prior: u64,
    /// A jump that one packet claimed: the sequence that would confirm it, and the run it was given.
    jump: Option<(u16, u32)>,
    jitter_ticks: f64,
    last: Option<(u32, u64)>,
    clock_rate: u32,
    sender_report: Option<(u32, u64)>,
}

impl Stream {
    fn new(packet: &Packet<'_>, run: u32, clock_rate: u32) -> Self {
        let sequence = u32::from(packet.sequence) + 0x1_0000; // room for what was overtaken by the first packet
        Stream {
            ssrc: packet.ssrc,
            run,
            base: sequence,
            highest: sequence,
            seen: 1,
            received: 1,
            expected_prior: 0,
            received_prior: 0,
            jump: None,
            jitter_ticks: 0.0,
            last: None,
            clock_rate,
            sender_report: None,
        }
    }

    fn expected(&self) -> u64 {
        u64::from(self.highest.wrapping_sub(self.base)) + 1
    }

    /// RFC 3550 A.1. `fresh_run` is the number that a new run would get.
    fn place(&mut self, sequence: u16, fresh_run: u32) -> Arrival {
        let ahead = sequence.wrapping_sub(self.highest as u16);
        if ahead == 0 {
            return Arrival::Duplicate;
        }
        if ahead < MAX_DROPOUT {
            self.jump = None;
            self.highest = self.highest.wrapping_add(u32::from(ahead));
            self.seen = if ahead < 128 { self.seen << ahead } else { 0 } | 1;
            self.received += 1;
            return Arrival::Fresh { run: self.run, extended: self.highest };
        }
        let behind = ahead.wrapping_neg();
        if behind <= MAX_MISORDER {
            let bit = 1u128 << behind;
            if self.seen & bit != 0 {
                return Arrival::Duplicate;
            }
            self.seen |= bit;
            self.received += 1;
            return Arrival::Reordered { run: self.run, extended: self.highest - u32::from(behind) };
        }
        self.received += 1;
        let run = match self.jump {
            Some((confirming, run)) if confirming == sequence => run,
            _ => fresh_run,
        };
        self.jump = Some((sequence.wrapping_add(1), run));
        Arrival::Fresh { run, extended: u32::from(sequence) + 0x1_0000 }
    }

    /// RFC 3550 A.8. Returns the estimate in milliseconds after this packet.
    fn measure_jitter(&mut self, packet: &Packet<'_>, clock_rate: u32, now: u64) -> Option<f64> {
        let rate = f64::from(clock_rate);
        let last = self.last.replace((packet.timestamp, now)).filter(|_| self.clock_rate == clock_rate);
        self.clock_rate = clock_rate;
        let (timestamp, at) = last?;
        let elapsed = now.saturating_sub(at) as f64 * rate / SECOND;
        let difference = (elapsed - timestamp_distance(timestamp, packet.timestamp) as f64).abs();
        if difference > rate {
            return None; // the source's clock was set anew: no measure of the network
        }
        self.jitter_ticks += (difference - self.jitter_ticks) / 16.0;
        Some(self.jitter_ticks * 1000.0 / rate)
    }
}

/// All that one leg hears.
#[derive(Clone, Debug, Default)]
pub struct Reception {
    current: Option<Stream>,
    previous: Option<Stream>,
    runs: u32,
    past_expected: u64,
    past_received: u64,
    pub received: u64,
    pub received_bytes: u64,
    pub duplicate: u64,
    pub reordered: u64,
    jitter_sum: f64,
    jitter_samples: u64,
    pub jitter_ms_max: f64,
    pub first_at: Option<u64>,
    pub last_at: Option<u64>,
    last_in_gap: Option<u64>,
    pub longest_gap: u64,
}

impl Reception {
    /// Count a packet of the peer's. `audio` is false for telephone events, whose timestamps stand still (RFC 4733 §2.2).
    pub fn hear(
        &mut self,
        packet: &Packet<'_>,
        octets: usize,
        clock_rate: u32,
        audio: bool,
        now: u64,
    ) -> Arrival {
        let arrival = self.place(packet, clock_rate);
        match arrival {
            Arrival::Duplicate => {
                self.duplicate += 1;
                return arrival;
            }
            Arrival::Stale => return arrival,
            Arrival::Reordered { .. } => self.reordered += 1,
            Arrival::Fresh { .. } => {}
        }
        self.received += 1;
        self.received_bytes += octets as u64;
        self.first_at.get_or_insert(now);
        self.last_at = Some(now);
        if let Some(last) = self.last_in_gap.replace(now) {
            self.longest_gap = self.longest_gap.max(now.saturating_sub(last));
        }
        if audio
            && let Some(stream) = &mut self.current
            && let Some(jitter_ms) = stream.measure_jitter(packet, clock_rate, now)
            && !packet.marker
        {
            // A marker begins a talk spurt: its packet steers the estimate but is no sample (as tshark counts).
            self.jitter_sum += jitter_ms;
            self.jitter_samples += 1;
            self.jitter_ms_max = self.jitter_ms_max.max(jitter_ms);
        }
        arrival
    }

    fn place(&mut self, packet: &Packet<'_>, clock_rate: u32) -> Arrival {
        let fresh_run = self.runs + 1;
        if self.current.as_ref().is_none_or(|stream| stream.ssrc != packet.ssrc) {
            return self.change_source(packet, clock_rate);
        }
        let Some(stream) = &mut self.current else {
            return Arrival::Stale;
        };
        let arrival = stream.place(packet.sequence, fresh_run);
        if let Arrival::Fresh { run, .. } = arrival
            && run != stream.run
        {
            if run == fresh_run {
                self.runs = run; // a first claim of a jump; the next packet in sequence confirms it
            } else {
                self.restart(packet, run, clock_rate);
            }
        }
        arrival
    }

    /// Begin the numbering of the present source anew, from the packet before this one (bad_seq has matched).
    fn restart(&mut self, packet: &Packet<'_>, run: u32, clock_rate: u32) {
        let Some(mut old) = self.current.take() else {
            return;
        };
        old.received -= 2;
        let mut new = Stream::new(packet, run, clock_rate);
        // The packet before keeps the number that it was forwarded under, also where the wrap lies between the two.
        new.base = u32::from(packet.sequence.wrapping_sub(1)) + 0x1_0000;
        new.highest = new.base + 1;
        new.seen = 3;
        new.received = 2;
        new.last = old.last;
        new.jitter_ticks = old.jitter_ticks;
        new.sender_report = old.sender_report;
        self.fold(&old);
        self.current = Some(new);
    }

    fn change_source(&mut self, packet: &Packet<'_>, clock_rate: u32) -> Arrival {
        let run = self.runs + 1;
        if let Some(stream) = &mut self.previous
            && stream.ssrc == packet.ssrc
        {
            let ahead = packet.sequence.wrapping_sub(stream.highest as u16);
            if ahead == 0 || ahead.wrapping_neg() <= MAX_MISORDER {
                return Arrival::Stale;
            }
            self.runs = run;
            stream.run = run;
            std::mem::swap(&mut self.current, &mut self.previous);
            // A jump while away takes one more number.
            return self.place(packet, clock_rate);
        }
        self.runs = run;
        if let Some(old) = self.previous.take() {
            self.fold(&old);
        }
        let stream = Stream::new(packet, run, clock_rate);
        let extended = stream.highest;
        self.previous = self.current.replace(stream);
        Arrival::Fresh { run, extended }
    }

    fn fold(&mut self, old: &Stream) {
        self.past_expected += old.expected();
        self.past_received += old.received;
    }

    fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.current.iter().chain(self.previous.iter())
    }

    pub fn expected(&self) -> u64 {
        self.past_expected + self.streams().map(Stream::expected).sum::<u64>()
    }

    /// RFC 3550 A.3: expected - received, over all SSRCs, never below 0.
    pub fn lost(&self) -> u64 {
        let received = self.past_received + self.streams().map(|stream| stream.received).sum::<u64>();
        self.expected().saturating_sub(received)
    }

    pub fn jitter_ms_mean(&self) -> f64 {
        if self.jitter_samples == 0 { 0.0 } else { self.jitter_sum / self.jitter_samples as f64 }
    }

    /// Forget when the last packet came: a pause that was agreed on (hold) is no gap.
    pub fn pause(&mut self) {
        self.last_in_gap = None;
    }

    /// Note a sender report of the source that we hear, for LSR and DLSR.
    pub fn sender_report(&mut self, ssrc: u32, ntp_middle: u32, now: u64) {
        if let Some(stream) = &mut self.current
            && stream.ssrc == ssrc
        {
            stream.sender_report = Some((ntp_middle, now));
        }
    }

    /// Write the reception report block of the present source and begin the next reporting interval (A.3).
    pub fn report_block(&mut self, now: u64) -> Option<ReportBlock> {
        let stream = self.current.as_mut()?;
        let expected = stream.expected();
        let expected_interval = expected - stream.expected_prior;
        let received_interval = stream.received - stream.received_prior;
        let lost_interval = expected_interval.saturating_sub(received_interval);
        let fraction_lost =
            (lost_interval * 256).checked_div(expected_interval).map_or(0, |lost| lost.min(255));
        stream.expected_prior = expected;
        stream.received_prior = stream.received;
        let (lsr, dlsr) = stream.sender_report.map_or((0, 0), |(lsr, at)| {
            (lsr, (u128::from(now.saturating_sub(at)) * 65536 / 1_000_000_000) as u32)
        });
        let cumulative_lost = expected as i64 - stream.received as i64;
        Some(ReportBlock {
            ssrc: stream.ssrc,
            fraction_lost: fraction_lost as u8,
            cumulative_lost: cumulative_lost.clamp(-0x80_0000, 0x7F_FFFF) as i32,
            extended_highest_sequence: stream.highest - 0x1_0000,
            jitter_ticks: stream.jitter_ticks as u32,
            lsr,
            dlsr,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn packet(ssrc: u32, sequence: u16, timestamp: u32) -> Packet<'static> {
        Packet { marker: false, payload_type: 0, sequence, timestamp, ssrc, payload: &[0; 160] }
    }

    fn hear(reception: &mut Reception, sequence: u16) -> Arrival {
        reception.hear(&packet(1, sequence, 0), 172, 8000, false, 0)
    }

    #[test]
    fn the_first_packet_is_heard_without_probation() {
        let mut reception = Reception::default();
        assert!(matches!(hear(&mut reception, 65_535), Arrival::Fresh { .. }));
        assert_eq!((reception.received, reception.expected(), reception.lost()), (1, 1, 0));
    }

    #[test]
    fn loss_is_expected_less_received_across_the_wrap() {
        let mut reception = Reception::default();
        for sequence in [65_533, 65_534, 1, 2, 5] {
            hear(&mut reception, sequence);
        }
        assert_eq!((reception.received, reception.expected(), reception.lost()), (5, 9, 4));
        let block = reception.report_block(0).expect("a source");
        assert_eq!(block.extended_highest_sequence, 0x1_0005);
        assert_eq!((block.cumulative_lost, block.fraction_lost), (4, (4 * 256 / 9) as u8));
    }

    #[test]
    fn the_fraction_lost_concerns_the_last_interval_only() {
        let mut reception = Reception::default();
        for sequence in [0, 2] {
            hear(&mut reception, sequence);
        }
        assert_eq!(reception.report_block(0).expect("a source").fraction_lost, 85);
        for sequence in 3..10 {
            hear(&mut reception, sequence);
        }
        let block = reception.report_block(0).expect("a source");
        assert_eq!((block.fraction_lost, block.cumulative_lost), (0, 1));
    }

    #[test]
    fn what_was_overtaken_is_reordered_and_what_comes_twice_is_a_duplicate() {
        let mut reception = Reception::default();
        hear(&mut reception, 10);
        hear(&mut reception, 12);
        assert!(matches!(hear(&mut reception, 11), Arrival::Reordered { .. }));
        assert_eq!(hear(&mut reception, 11), Arrival::Duplicate);
        assert_eq!(hear(&mut reception, 12), Arrival::Duplicate);
        assert_eq!((reception.received, reception.lost()), (3, 0));
        assert_eq!((reception.duplicate, reception.reordered), (2, 1));
    }

    #[test]
    fn another_ssrc_adds_to_what_the_first_one_lost() {
        let mut reception = Reception::default();
        for sequence in [1, 2, 4] {
            hear(&mut reception, sequence);
        }
        for sequence in [5000, 5002] {
            reception.hear(&packet(2, sequence, 0), 172, 8000, false, 0);
        }
        reception.hear(&packet(3, 9, 0), 172, 8000, false, 0);
        assert_eq!((reception.received, reception.expected(), reception.lost()), (6, 8, 2));
    }

    #[test]
    fn a_straggler_of_the_abandoned_ssrc_is_stale_and_its_return_is_heard() {
        let mut reception = Reception::default();
        for sequence in [1, 2, 4] {
            hear(&mut reception, sequence);
        }
        reception.hear(&packet(2, 50, 0), 172, 8000, false, 0);
        assert_eq!(hear(&mut reception, 3), Arrival::Stale);
        assert!(matches!(hear(&mut reception, 5), Arrival::Fresh { .. }));
        assert_eq!((reception.received, reception.expected(), reception.lost()), (5, 6, 1));
    }

    #[test]
    fn a_jump_is_heard_at_once_and_confirmed_by_the_next_in_sequence() {
        let mut reception = Reception::default();
        hear(&mut reception, 1);
        let Arrival::Fresh { run: first, .. } = hear(&mut reception, 2) else { panic!() };
        let Arrival::Fresh { run: second, .. } = hear(&mut reception, 30_000) else { panic!() };
        assert_ne!(first, second);
        assert!(matches!(hear(&mut reception, 30_001), Arrival::Fresh { run, .. } if run == second));
        assert!(matches!(hear(&mut reception, 30_002), Arrival::Fresh { run, .. } if run == second));
        assert_eq!((reception.received, reception.expected(), reception.lost()), (5, 5, 0));
    }

    #[test]
    fn a_single_wild_sequence_number_does_not_count_as_loss() {
        let mut reception = Reception::default();
        for sequence in [1, 2, 30_000, 3, 4] {
            assert!(matches!(hear(&mut reception, sequence), Arrival::Fresh { .. }));
        }
        assert_eq!((reception.received, reception.expected(), reception.lost()), (5, 4, 0));
    }

    #[test]
    fn jitter_follows_a_hand_worked_sequence() {
        // 20 ms frames; the third packet is 16 ms late, the fourth on time: D = 128 ticks, then -128.
        let mut reception = Reception::default();
        for (index, late) in [0, 0, 16, 0].into_iter().enumerate() {
            let now = (index as u64 * 20 + late) * MS;
            reception.hear(&packet(1, index as u16, index as u32 * 160), 172, 8000, true, now);
        }
        // 0, 0, 128/16 = 8, 8 + (128 - 8)/16 = 15.5 ticks
        assert_eq!(reception.report_block(0).expect("a source").jitter_ticks, 15);
        assert!((reception.jitter_ms_max - 15.5 / 8.0).abs() < 1e-9);
        assert!((reception.jitter_ms_mean() - (0.0 + 1.0 + 15.5 / 8.0) / 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_source_that_stops_its_clock_in_silence_does_not_spoil_the_jitter() {
        let mut reception = Reception::default();
        for (index, at) in [0, 20, 40, 4060, 4080].into_iter().enumerate() {
            reception.hear(&packet(1, index as u16, index as u32 * 160), 172, 8000, true, at * MS);
        }
        assert_eq!(reception.jitter_ms_max, 0.0);
        assert_eq!(reception.longest_gap, 4020 * MS);
    }

    #[test]
    fn a_pause_that_was_agreed_on_is_no_gap() {
        let mut reception = Reception::default();
        reception.hear(&packet(1, 1, 0), 172, 8000, true, 0);
        reception.pause();
        reception.hear(&packet(1, 2, 160), 172, 8000, true, 60_000 * MS);
        assert_eq!(reception.longest_gap, 0);
    }

    #[test]
    fn the_report_echoes_the_senders_report() {
        let mut reception = Reception::default();
        hear(&mut reception, 1);
        reception.sender_report(1, 0xABCD_EF01, 1000 * MS);
        reception.sender_report(2, 0, 1000 * MS);
        let block = reception.report_block(1500 * MS).expect("a source");
        assert_eq!((block.lsr, block.dlsr), (0xABCD_EF01, 32_768));
    }

    proptest! {
        #[test]
        fn counts_agree_with_a_plain_recount(dropped in proptest::collection::vec(any::<bool>(), 2..400), start: u16) {
            let mut reception = Reception::default();
            let kept: Vec<u16> = (0..dropped.len()).filter(|at| !dropped[*at]).map(|at| start.wrapping_add(at as u16)).collect();
            for sequence in &kept {
                hear(&mut reception, *sequence);
            }
            if let (Some(first), Some(last)) = (kept.first(), kept.last()) {
                let expected = u64::from(last.wrapping_sub(*first)) + 1;
                prop_assert_eq!(reception.expected(), expected);
                prop_assert_eq!(reception.lost(), expected - kept.len() as u64);
            }
        }

        #[test]
        fn any_numbers_leave_the_counts_sane(
            packets in proptest::collection::vec((0u32..3, any::<u16>(), any::<u32>(), 0u64..100), 0..300),
        ) {
            let mut reception = Reception::default();
            let mut now = 0;
            for (ssrc, sequence, timestamp, wait) in packets.iter().copied() {
                now += wait * MS;
                reception.hear(&packet(ssrc, sequence, timestamp), 172, 8000, true, now);
                let _ = reception.report_block(now);
                prop_assert!(reception.lost() <= reception.expected());
                prop_assert!(reception.jitter_ms_max <= 1000.0);
            }
        }
    }
}
