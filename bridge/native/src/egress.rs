//! The stream that a leg sends: one SSRC for the session's life, sequence + 1 a packet, timestamps equal to time.
//!
//! Packets go out in the order in which they arrive. Within a talk spurt their timestamps keep the distances of the
//! source; where the source breaks off (fill, hold, another SSRC, a jump) the stream is anchored anew to the time elapsed
//! since its first packet: max(elapsed time, end of what was sent). So no error accumulates, and nothing runs backwards.
//! What the source's numbering looks like is `stats::Arrival`'s business.

use crate::rtp::{Header, Packet, TelephoneEvent, timestamp_distance};
use crate::stats::Arrival;

const SECOND: u64 = 1_000_000_000;

/// An event whose end was lost is over when nothing was heard of it for so long (its updates come every 20 to 50 ms).
const EVENT_SILENCE: u64 = 200_000_000;

/// The longest that one segment of an event lasts, in ticks.
const SEGMENT: u32 = 0xFFFF;

/// How the source's timestamps became ours; all in ticks since the stream's first packet.
#[derive(Clone, Debug)]
struct Mapping {
    run: u32,
    /// The packet at which the stream was anchored: what is older is late.
    first: u32,
    source: u32,
    ticks: u64,
    /// Something else has been sent since (fill, or nothing during a hold): the next fresh packet anchors anew.
    broken: bool,
}

/// A telephone event in the stream (RFC 4733 §2.2.2: every packet of it has the timestamp of its beginning).
#[derive(Clone, Debug)]
struct Event {
    run: u32,
    source: u32,
    event_code: u8,
    ticks: u64,
    ended: bool,
    heard_at: u64,
    broken: bool,
}

impl Event {
    /// Tell whether a packet belongs to this event. A long event steps into its next segment here, which adjoins the one
    /// before (RFC 4733 §2.5.1.3).
    fn includes(&mut self, run: u32, timestamp: u32, event_code: u8) -> bool {
        if (self.run, self.event_code) != (run, event_code) {
            return false;
        }
        if !self.ended && timestamp == self.source.wrapping_add(SEGMENT) {
            self.source = timestamp;
            self.ticks += u64::from(SEGMENT);
        }
        self.source == timestamp
    }
}

/// How to send one packet of the source.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    pub payload_type: u8,
    pub clock_rate: u32,
    /// Ticks that the packet's audio lasts.
    pub duration: u32,
    pub event: Option<TelephoneEvent>,
}

/// The random beginnings of a stream (RFC 3550 §5.1).
#[derive(Clone, Copy, Debug)]
pub struct Beginning {
    pub ssrc: u32,
    pub sequence: u16,
    pub timestamp: u32,
}

/// The egress stream of one leg.
#[derive(Clone, Debug)]
pub struct Egress {
    beginning: Beginning,
    sequence: u16,
    clock_rate: u32,
    /// The instant and the tick from which elapsed time counts: the first packet sent, or a change of clock rate.
    epoch: Option<(u64, u64)>,
    /// The tick of `last_sent_at`: within an event it moves on, though the timestamp stands still.
    last_ticks: u64,
    end_ticks: u64,
    mapping: Option<Mapping>,
    event: Option<Event>,
    filling: bool,
    mark_next: bool,
    last_sent_at: Option<u64>,
    gap_since: Option<u64>,
    pub longest_gap: u64,
    pub packets: u64,
    pub octets: u64,
}

impl Egress {
    pub fn new(beginning: Beginning) -> Self {
        Egress {
            beginning,
            sequence: beginning.sequence,
            clock_rate: 8000,
            epoch: None,
            last_ticks: 0,
            end_ticks: 0,
            mapping: None,
            event: None,
            filling: false,
            mark_next: true,
            last_sent_at: None,
            gap_since: None,
            longest_gap: 0,
            packets: 0,
            octets: 0,
        }
    }

    pub fn ssrc(&self) -> u32 {
        self.beginning.ssrc
    }

    pub fn clock_rate(&self) -> u32 {
        self.clock_rate
    }

    pub fn last_sent_at(&self) -> Option<u64> {
        self.last_sent_at
    }

    /// Give a packet of the source its place in this stream; None if it is too late for one.
    pub fn forward(
        &mut self,
        packet: &Packet<'_>,
        arrival: Arrival,
        format: &Format,
        now: u64,
    ) -> Option<Header> {
        self.set_clock_rate(format.clock_rate, now);
        let (run, extended, reordered) = match arrival {
            Arrival::Fresh { run, extended } => (run, extended, false),
            Arrival::Reordered { run, extended } => (run, extended, true),
            Arrival::Duplicate | Arrival::Stale => return None,
        };
        if let Some(event) = format.event
            && let Some(known) = &mut self.event
            && known.includes(run, packet.timestamp, event.event_code)
        {
            if known.broken {
                return None; // fill has gone out since: a packet of this event now would double the digit
            }
            known.ended |= event.end;
            known.heard_at = now;
            let ticks = known.ticks;
            return Some(self.send(ticks, format, packet.marker, packet.payload.len(), now));
        }
        let ticks = self.place(packet, run, extended, reordered, format.event.is_some(), now)?;
        let marker = if let Some(event) = format.event {
            self.event = Some(Event {
                run,
                source: packet.timestamp,
                event_code: event.event_code,
                ticks,
                ended: event.end,
                heard_at: now,
                broken: false,
            });
            packet.marker
        } else {
            std::mem::take(&mut self.mark_next) || packet.marker
        };
        self.filling = false;
        Some(self.send(ticks, format, marker, packet.payload.len(), now))
    }

    /// Find the ticks of a packet: by the source's distances within a spurt, by elapsed time at its beginning.
    fn place(
        &mut self,
        packet: &Packet<'_>,
        run: u32,
        extended: u32,
        reordered: bool,
        event: bool,
        now: u64,
    ) -> Option<u64> {
        let second = i64::from(self.clock_rate);
        let elapsed = self.elapsed(now);
        if let Some(mapping) = &mut self.mapping {
            let distance = timestamp_distance(mapping.source, packet.timestamp);
            if reordered {
                let late =
                    mapping.broken || mapping.run != run || extended < mapping.first || -distance > second;
                return if late { None } else { mapping.ticks.checked_add_signed(distance) };
            }
            let continues = mapping.run == run && !mapping.broken && (0..=second).contains(&distance);
            let ticks = mapping.ticks.saturating_add_signed(distance);
            // A source whose clock stood still through a silence that nobody filled has fallen behind the time.
            if continues && ticks + u64::from(self.clock_rate) > elapsed {
                mapping.source = packet.timestamp;
                mapping.ticks = ticks;
                return Some(ticks);
            }
            // An event's timestamp lies before the audio that was sent beside it: that is no jump.
            if event && mapping.run == run && !mapping.broken && (-second..0).contains(&distance) {
                return Some(ticks);
            }
        } else if reordered {
            return None;
        }
        let ticks = elapsed.max(self.end_ticks);
        self.mapping = Some(Mapping { run, first: extended, source: packet.timestamp, ticks, broken: false });
        self.mark_next = true;
        Some(ticks)
    }

    /// Give a silence frame its place: on the time of its slot, or right behind what was sent.
    pub fn fill(&mut self, slot: u64, format: &Format, payload: usize, now: u64) -> Header {
        self.set_clock_rate(format.clock_rate, now);
        let ticks = self.elapsed(slot).max(self.end_ticks);
        let marker = !std::mem::replace(&mut self.filling, true);
        self.interrupt();
        self.send(ticks, format, marker, payload, now)
    }

    /// Break the talk spurt: the next packet of the source is anchored to the time and marked.
    pub fn interrupt(&mut self) {
        self.mark_next = true;
        if let Some(mapping) = &mut self.mapping {
            mapping.broken = true;
        }
        if let Some(event) = &mut self.event {
            event.broken = true;
        }
    }

    /// Break the spurt for a hold: a silence that was agreed on is no gap.
    pub fn pause(&mut self) {
        self.interrupt();
        self.filling = false;
        self.gap_since = None;
    }

    /// Until when an event in progress forbids fill; None if there is none.
    pub fn event_until(&self) -> Option<u64> {
        let event = self.event.as_ref().filter(|event| !event.ended && !event.broken)?;
        Some(event.heard_at + EVENT_SILENCE)
    }

    /// When the audio that was sent has been played, if it is played at its timestamps.
    pub fn ends_at(&self) -> u64 {
        self.epoch.map_or(0, |(epoch, epoch_ticks)| {
            let rate = u64::from(self.clock_rate);
            let ticks = self.end_ticks - epoch_ticks;
            epoch + ticks / rate * SECOND + ticks % rate * SECOND / rate
        })
    }

    /// The RTP timestamp that belongs to `now` (RFC 3550 §6.4.1: the sampling instant of the report's NTP time).
    pub fn timestamp_at(&self, now: u64) -> u32 {
        let since = self.last_sent_at.map_or(0, |at| now.saturating_sub(at));
        self.wire(self.last_ticks + ticks(since, self.clock_rate))
    }

    /// Take back the count of a packet that the kernel refused to send.
    pub fn not_sent(&mut self, payload: usize) {
        self.packets = self.packets.saturating_sub(1);
        self.octets = self.octets.saturating_sub(payload as u64);
    }

    fn send(&mut self, at_ticks: u64, format: &Format, marker: bool, payload: usize, now: u64) -> Header {
        self.epoch.get_or_insert((now, at_ticks));
        let header = Header {
            marker,
            payload_type: format.payload_type,
            sequence: self.sequence,
            timestamp: self.wire(at_ticks),
            ssrc: self.beginning.ssrc,
        };
        self.sequence = self.sequence.wrapping_add(1);
        let duration = format.event.map_or(format.duration, |event| u32::from(event.duration));
        self.last_ticks = at_ticks + format.event.map_or(0, |event| u64::from(event.duration));
        self.end_ticks = self.end_ticks.max(at_ticks + u64::from(duration));
        self.packets += 1;
        self.octets += payload as u64;
        self.last_sent_at = Some(now);
        if let Some(since) = self.gap_since.replace(now) {
            self.longest_gap = self.longest_gap.max(now.saturating_sub(since));
        }
        header
    }

    fn wire(&self, at_ticks: u64) -> u32 {
        self.beginning.timestamp.wrapping_add(at_ticks as u32)
    }

    fn elapsed(&self, at: u64) -> u64 {
        self.epoch
            .map_or(0, |(epoch, epoch_ticks)| epoch_ticks + ticks(at.saturating_sub(epoch), self.clock_rate))
    }

    fn set_clock_rate(&mut self, clock_rate: u32, now: u64) {
        if clock_rate == self.clock_rate {
            return;
        }
        if self.epoch.is_some() {
            // RFC 7160 §4.1: with one SSRC the timestamp goes on from where it is, at the new rate.
            let ticks_now = self.elapsed(now).max(self.end_ticks);
            self.epoch = Some((now, ticks_now));
            self.end_ticks = ticks_now;
            self.interrupt();
        }
        self.clock_rate = clock_rate;
    }
}

fn ticks(nanoseconds: u64, clock_rate: u32) -> u64 {
    let rate = u64::from(clock_rate);
    nanoseconds / SECOND * rate + nanoseconds % SECOND * rate / SECOND
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Reception;

    const MS: u64 = 1_000_000;

    /// A source and the stream it becomes.
    struct Line {
        reception: Reception,
        egress: Egress,
    }

    const AUDIO: Format = Format { payload_type: 0, clock_rate: 8000, duration: 160, event: None };

    impl Line {
        fn new() -> Self {
            let beginning = Beginning { ssrc: 77, sequence: 65_530, timestamp: u32::MAX - 100 };
            Line { reception: Reception::default(), egress: Egress::new(beginning) }
        }

        fn audio(&mut self, ssrc: u32, sequence: u16, timestamp: u32, now: u64) -> Option<Header> {
            self.packet(ssrc, sequence, timestamp, false, AUDIO, now)
        }

        fn event(
            &mut self,
            sequence: u16,
            timestamp: u32,
            duration: u16,
            end: bool,
            now: u64,
        ) -> Option<Header> {
            let event = Some(TelephoneEvent { event_code: 5, end, duration });
            self.packet(
                1,
                sequence,
                timestamp,
                duration == 160,
                Format { payload_type: 101, event, ..AUDIO },
                now,
            )
        }

        fn packet(
            &mut self,
            ssrc: u32,
            sequence: u16,
            timestamp: u32,
            marker: bool,
            format: Format,
            now: u64,
        ) -> Option<Header> {
            let packet = Packet { marker, payload_type: 0, sequence, timestamp, ssrc, payload: &[0; 160] };
            let arrival = self.reception.hear(&packet, 172, 8000, format.event.is_none(), now);
            self.egress.forward(&packet, arrival, &format, now)
        }

        fn fill(&mut self, slot: u64) -> Header {
            self.egress.fill(slot, &AUDIO, 160, slot)
        }
    }

    fn step(from: Header, to: Header) -> (u16, i64) {
        (to.sequence.wrapping_sub(from.sequence), timestamp_distance(from.timestamp, to.timestamp))
    }

    #[test]
    fn loss_leaves_a_step_in_time_but_none_in_sequence() {
        let mut line = Line::new();
        let first = line.audio(1, 10, 1000, 0).expect("sent");
        let second = line.audio(1, 13, 1480, 60 * MS).expect("sent");
        assert!(first.marker && !second.marker);
        assert_eq!(step(first, second), (1, 480));
    }

    #[test]
    fn jitter_of_arrival_does_not_touch_the_timestamps_of_a_spurt() {
        let mut line = Line::new();
        let mut last = line.audio(1, 0, 0, 0).expect("sent");
        for (index, at) in [35, 36, 61, 99].into_iter().enumerate() {
            let index = index as u16 + 1;
            let sent = line.audio(1, index, u32::from(index) * 160, at * MS).expect("sent");
            assert_eq!(step(last, sent), (1, 160));
            last = sent;
        }
    }

    #[test]
    fn what_was_overtaken_keeps_its_own_time() {
        let mut line = Line::new();
        let first = line.audio(1, 0, 0, 0).expect("sent");
        let third = line.audio(1, 2, 320, 40 * MS).expect("sent");
        let second = line.audio(1, 1, 160, 41 * MS).expect("sent");
        let fourth = line.audio(1, 3, 480, 60 * MS).expect("sent");
        assert_eq!((step(first, third), step(first, second)), ((1, 320), (2, 160)));
        assert_eq!(step(first, fourth), (3, 480));
    }

    #[test]
    fn fill_follows_audio_on_time_and_audio_follows_fill_without_overlap() {
        let mut line = Line::new();
        let audio = line.audio(1, 0, 0, 0).expect("sent");
        let fill = line.fill(100 * MS);
        assert!(fill.marker);
        assert_eq!(step(audio, fill), (1, 800));
        let more = line.fill(120 * MS);
        assert!(!more.marker);
        assert_eq!(step(fill, more), (1, 160));
        let back = line.audio(1, 1, 160, 123 * MS).expect("sent");
        assert!(back.marker);
        assert_eq!(step(more, back), (1, 160)); // not 24: the frame of silence lasts until then
        assert_eq!(step(back, line.audio(1, 2, 320, 143 * MS).expect("sent")), (1, 160));
    }

    #[test]
    fn another_ssrc_continues_the_same_stream_with_a_mark() {
        let mut line = Line::new();
        let first = line.audio(1, 10, 1000, 0).expect("sent");
        let other = line.audio(2, 60_000, 9_000_000, 20 * MS).expect("sent");
        assert!(other.marker);
        assert_eq!((first.ssrc, step(first, other)), (77, (1, 160)));
        assert_eq!(other.ssrc, 77);
    }

    #[test]
    fn a_timestamp_that_jumps_or_runs_backwards_is_anchored_to_the_time() {
        for strange in [5_000_000u32, 0u32.wrapping_sub(160)] {
            let mut line = Line::new();
            let first = line.audio(1, 0, 0, 0).expect("sent");
            let second = line.audio(1, 1, strange, 20 * MS).expect("sent");
            assert!(second.marker);
            assert_eq!(step(first, second), (1, 160));
            let third = line.audio(1, 2, strange.wrapping_add(160), 40 * MS).expect("sent");
            assert_eq!(step(second, third), (1, 160));
        }
    }

    #[test]
    fn a_hold_of_a_minute_shows_as_a_minute() {
        let mut line = Line::new();
        let before = line.audio(1, 0, 0, 0).expect("sent");
        line.egress.pause();
        let after = line.audio(1, 1, 160, 60_000 * MS).expect("sent");
        assert!(after.marker);
        assert_eq!(step(before, after), (1, 480_000));
        assert_eq!(line.egress.longest_gap, 0);
    }

    #[test]
    fn a_packet_from_before_the_anchor_is_late() {
        let mut line = Line::new();
        line.audio(1, 0, 0, 0);
        line.fill(100 * MS);
        line.audio(1, 5, 800, 110 * MS).expect("sent");
        assert_eq!(line.audio(1, 4, 640, 111 * MS), None);
    }

    #[test]
    fn an_event_keeps_one_timestamp_and_its_marks_and_audio_goes_on_behind_it() {
        // R66
        let mut line = Line::new();
        let audio = line.audio(1, 0, 0, 0).expect("sent");
        let begin = line.event(1, 160, 160, false, 20 * MS).expect("sent");
        assert!(begin.marker);
        for (sequence, duration, end) in [(2, 320, false), (3, 480, true), (4, 480, true), (5, 480, true)] {
            let more =
                line.event(sequence, 160, duration, end, (20 + u64::from(sequence) * 20) * MS).expect("sent");
            assert!(!more.marker);
            assert_eq!(step(audio, more), (sequence, 160));
        }
        let after = line.audio(1, 6, 640, 140 * MS).expect("sent");
        assert_eq!(step(audio, after), (6, 640));
    }

    #[test]
    fn a_long_event_goes_on_in_a_segment_that_adjoins_the_one_before() {
        // R66, RFC 4733 §2.5.1.3: the next segment's timestamp is that of the last one and its full duration.
        let mut line = Line::new();
        line.audio(1, 0, 0, 0);
        let first = line.event(1, 160, 160, false, 40 * MS).expect("sent");
        line.event(2, 160, 0xFFFF, false, 8230 * MS).expect("sent");
        let second = line.event(3, 160 + 0xFFFF, 400, false, 8280 * MS).expect("sent");
        assert_eq!(step(first, second), (2, 0xFFFF));
        assert!(!second.marker);
        let more = line.event(4, 160 + 0xFFFF, 800, true, 8330 * MS).expect("sent");
        assert_eq!(step(second, more), (1, 0));
    }

    #[test]
    fn an_event_forbids_fill_until_it_ends_or_falls_silent() {
        let mut line = Line::new();
        line.event(1, 160, 160, false, 0);
        assert_eq!(line.egress.event_until(), Some(200 * MS));
        line.event(2, 160, 320, true, 20 * MS);
        assert_eq!(line.egress.event_until(), None);
        // Behind it, fill begins where the event ends.
        let fill = line.fill(25 * MS);
        assert_eq!(fill.timestamp.wrapping_sub(u32::MAX - 100), 320);
        assert_eq!(line.event(3, 160, 320, true, 30 * MS), None);
    }

    #[test]
    fn a_source_whose_clock_stood_still_is_brought_back_to_the_time() {
        let mut line = Line::new();
        let first = line.audio(1, 0, 0, 0).expect("sent");
        let second = line.audio(1, 1, 160, 4000 * MS).expect("sent");
        assert!(second.marker);
        assert_eq!(step(first, second), (1, 32_000));
    }

    #[test]
    fn another_clock_rate_goes_on_from_where_the_stream_is() {
        let mut line = Line::new();
        let first = line.audio(1, 0, 0, 0).expect("sent");
        let wide = Format { payload_type: 96, clock_rate: 48_000, duration: 960, event: None };
        let second = line.packet(1, 1, 160, false, wide, 20 * MS).expect("sent");
        let third = line.packet(1, 2, 1120, false, wide, 40 * MS).expect("sent");
        assert_eq!((step(first, second), step(second, third)), ((1, 160), (1, 960)));
    }

    #[test]
    fn the_reports_timestamp_belongs_to_its_time() {
        let mut line = Line::new();
        let first = line.audio(1, 0, 0, 0).expect("sent");
        assert_eq!(timestamp_distance(first.timestamp, line.egress.timestamp_at(50 * MS)), 400);
    }

    #[test]
    fn the_reports_timestamp_goes_on_through_an_event() {
        let mut line = Line::new();
        let first = line.audio(1, 0, 0, 0).expect("sent");
        for update in 1..100u16 {
            line.event(update, 160, 160 * update, false, (20 + 20 * u64::from(update)) * MS);
        }
        assert_eq!(timestamp_distance(first.timestamp, line.egress.timestamp_at(2000 * MS)), 16_000);
    }

    #[test]
    fn what_was_overtaken_behind_a_jump_to_the_last_sequence_number_is_not_late() {
        let mut line = Line::new();
        line.audio(1, 30_000, 0, 0);
        for (index, sequence) in [65_535u16, 0, 2, 1].into_iter().enumerate() {
            let timestamp = 160 * (u32::from(sequence.wrapping_add(1)) + 1);
            assert!(line.audio(1, sequence, timestamp, (20 + 20 * index as u64) * MS).is_some());
        }
    }
}
