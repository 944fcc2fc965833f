//! RTCP on the wire and in time (RFC 3550 §6): reading any bytes safely, our compound packets, and when they go.

use crate::random::Random;

pub const SENDER_REPORT: u8 = 200;
pub const RECEIVER_REPORT: u8 = 201;
pub const SOURCE_DESCRIPTION: u8 = 202;
pub const BYE: u8 = 203;

const SECOND: u64 = 1_000_000_000;

/// One reception report block (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportBlock {
    pub ssrc: u32,
    pub fraction_lost: u8,
    pub cumulative_lost: i32,
    pub extended_highest_sequence: u32,
    pub jitter_ticks: u32,
    pub lsr: u32,
    pub dlsr: u32,
}

/// The sender's part of a sender report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderInfo {
    pub ntp: u64,
    pub timestamp: u32,
    pub packets: u32,
    pub octets: u32,
}

/// What one packet of a compound says that concerns us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    Sender { ssrc: u32, info: SenderInfo },
    Report(ReportBlock),
    Bye { ssrc: u32 },
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn report_block(bytes: &[u8]) -> Option<ReportBlock> {
    let loss = word(bytes, 4)?;
    Some(ReportBlock {
        ssrc: word(bytes, 0)?,
        fraction_lost: (loss >> 24) as u8,
        // A 24-bit two's complement number: shifted up and back down to carry its sign.
        cumulative_lost: ((loss << 8) as i32) >> 8,
        extended_highest_sequence: word(bytes, 8)?,
        jitter_ticks: word(bytes, 12)?,
        lsr: word(bytes, 16)?,
        dlsr: word(bytes, 20)?,
    })
}

/// Visit what a compound packet says; false if it is no RTCP, and then nothing was visited.
///
/// RFC 3550 A.2 is followed but for two points: the first packet may be of any type (RFC 5506), and types that we don't
/// know, such as XR (RFC 3611), are stepped over. Block counts that overrun their packet stop at its end.
pub fn read(datagram: &[u8], mut visit: impl FnMut(Item)) -> bool {
    if !is_well_formed(datagram) {
        return false;
    }
    let mut rest = datagram;
    while rest.len() >= 4 {
        let length = 4 + 4 * usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let (packet, after) = rest.split_at(length.min(rest.len()));
        read_packet(packet, &mut visit);
        rest = after;
    }
    true
}

/// Tell whether a datagram is a whole compound packet, by its headers and lengths.
pub fn is_well_formed(datagram: &[u8]) -> bool {
    let mut at = 0;
    while let Some(header) = datagram.get(at..at + 4) {
        if header[0] >> 6 != 2 || !(192..=223).contains(&header[1]) {
            return false;
        }
        at += 4 + 4 * usize::from(u16::from_be_bytes([header[2], header[3]]));
    }
    // RFC 3550 A.2: the lengths of the packets add up to the length of the datagram.
    at == datagram.len() && at >= 8
}

fn read_packet(packet: &[u8], visit: &mut impl FnMut(Item)) {
    let count = usize::from(packet[0] & 0x1F);
    let blocks_at = match packet[1] {
        SENDER_REPORT => {
            let Some(sender) = sender_item(packet) else {
                return;
            };
            visit(sender);
            28
        }
        RECEIVER_REPORT => 8,
        BYE => {
            for source in 0..count {
                let Some(ssrc) = word(packet, 4 + 4 * source) else {
                    return;
                };
                visit(Item::Bye { ssrc });
            }
            return;
        }
        _ => return,
    };
    for block in 0..count {
        let Some(block) = packet.get(blocks_at + 24 * block..).and_then(report_block) else {
            return;
        };
        visit(Item::Report(block));
    }
}

fn sender_item(packet: &[u8]) -> Option<Item> {
    Some(Item::Sender {
        ssrc: word(packet, 4)?,
        info: SenderInfo {
            ntp: u64::from(word(packet, 8)?) << 32 | u64::from(word(packet, 12)?),
            timestamp: word(packet, 16)?,
            packets: word(packet, 20)?,
            octets: word(packet, 24)?,
        },
    })
}

/// Our compound packet: SR or RR, SDES with the CNAME, and BYE at the end.
#[derive(Clone, Copy, Debug)]
pub struct Compound<'a> {
    pub ssrc: u32,
    pub sender: Option<SenderInfo>,
    pub report: Option<ReportBlock>,
    pub cname: &'a [u8],
    pub bye: bool,
}

impl Compound<'_> {
    /// Append the compound packet to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let blocks = u8::from(self.report.is_some());
        let words = 1 + if self.sender.is_some() { 5 } else { 0 } + 6 * u16::from(blocks);
        let kind = if self.sender.is_some() { SENDER_REPORT } else { RECEIVER_REPORT };
        header(out, blocks, kind, words);
        put(out, self.ssrc);
        if let Some(sender) = &self.sender {
            put(out, (sender.ntp >> 32) as u32);
            put(out, sender.ntp as u32);
            put(out, sender.timestamp);
            put(out, sender.packets);
            put(out, sender.octets);
        }
        if let Some(report) = &self.report {
            put(out, report.ssrc);
            let lost = report.cumulative_lost.clamp(-0x80_0000, 0x7F_FFFF) as u32 & 0xFF_FFFF;
            put(out, u32::from(report.fraction_lost) << 24 | lost);
            put(out, report.extended_highest_sequence);
            put(out, report.jitter_ticks);
            put(out, report.lsr);
            put(out, report.dlsr);
        }
        self.write_description(out);
        if self.bye {
            header(out, 1, BYE, 1);
            put(out, self.ssrc);
        }
    }

    fn write_description(&self, out: &mut Vec<u8>) {
        // RFC 3550 §6.5: the items end with at least one null octet, up to the next 32-bit boundary.
        let length = (4 + 2 + self.cname.len()) / 4 * 4 + 4;
        header(out, 1, SOURCE_DESCRIPTION, (length / 4) as u16);
        let start = out.len();
        put(out, self.ssrc);
        out.push(1);
        out.push(self.cname.len() as u8);
        out.extend_from_slice(self.cname);
        out.resize(start + length, 0);
    }
}

fn header(out: &mut Vec<u8>, count: u8, kind: u8, words: u16) {
    out.extend_from_slice(&[0x80 | count, kind]);
    out.extend_from_slice(&words.to_be_bytes());
}

fn put(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// The middle 32 bits of an NTP timestamp: LSR's form (RFC 3550 §4).
pub fn middle(ntp: u64) -> u32 {
    (ntp >> 16) as u32
}

/// An NTP timestamp from nanoseconds since 1900.
pub fn ntp(nanoseconds: u64) -> u64 {
    let fraction = (u128::from(nanoseconds % SECOND) << 32) / u128::from(SECOND);
    (nanoseconds / SECOND) << 32 | fraction as u64
}

/// The round trip in milliseconds by RFC 3550 §6.4.1: arrival - LSR - DLSR. None if the block echoes no report of ours.
pub fn round_trip_ms(arrival: u32, block: &ReportBlock) -> Option<f64> {
    if block.lsr == 0 {
        return None;
    }
    let units = arrival.wrapping_sub(block.lsr).wrapping_sub(block.dlsr) as i32;
    // A peer that rounds DLSR up may end slightly below zero; anything longer than a minute is a lie or an old echo.
    if !(-65536 / 50..60 * 65536).contains(&units) {
        return None;
    }
    Some(f64::from(units.max(0)) * 1000.0 / 65536.0)
}

/// When the next compound packet is due.
///
/// RFC 3550 §6.2, §6.3 and A.7 for a session of two members: 5 % of a G.711 stream's bandwidth never makes the interval longer than
/// the minimum of 5 s, halved before the first packet, so timer reconsideration (§6.3.6) has nothing to recompute.
#[derive(Clone, Copy, Debug, Default)]
pub struct Schedule {
    next_at: Option<u64>,
}

impl Schedule {
    /// Begin with the halved first interval, if not begun yet.
    pub fn begin(&mut self, now: u64, random: &mut Random) {
        if self.next_at.is_none() {
            self.next_at = Some(now + interval(5 * SECOND / 2, random));
        }
    }

    pub fn next_at(&self) -> Option<u64> {
        self.next_at
    }

    /// Tell whether a packet is due, and if so schedule the one after it.
    pub fn take_due(&mut self, now: u64, random: &mut Random) -> bool {
        let due = self.next_at.is_some_and(|at| at <= now);
        if due {
            self.next_at = Some(now + interval(5 * SECOND, random));
        }
        due
    }

    pub fn end(&mut self) {
        self.next_at = None;
    }
}

/// RFC 3550 §6.3.1: uniformly 0.5 to 1.5 times the interval, divided by e - 3/2.
fn interval(deterministic: u64, random: &mut Random) -> u64 {
    (deterministic as f64 * (0.5 + random.unit()) / 1.218_281_828_459_045) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn items(datagram: &[u8]) -> Option<Vec<Item>> {
        let mut items = Vec::new();
        read(datagram, |item| items.push(item)).then_some(items)
    }

    fn block() -> ReportBlock {
        ReportBlock {
            ssrc: 7,
            fraction_lost: 64,
            cumulative_lost: -3,
            extended_highest_sequence: 0x1_0005,
            jitter_ticks: 40,
            lsr: 0x1234_5678,
            dlsr: 65536,
        }
    }

    #[test]
    fn our_compound_packet_reads_back() {
        let sender = SenderInfo { ntp: 0xAABB_CCDD_0011_2233, timestamp: 160, packets: 3, octets: 480 };
        let mut bytes = Vec::new();
        Compound { ssrc: 9, sender: Some(sender), report: Some(block()), cname: b"abc", bye: true }
            .write(&mut bytes);
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(
            items(&bytes),
            Some(vec![Item::Sender { ssrc: 9, info: sender }, Item::Report(block()), Item::Bye { ssrc: 9 }])
        );
    }

    #[test]
    fn a_name_that_fills_its_word_is_still_ended_by_a_null() {
        for length in 0..9 {
            let name = vec![b'x'; length];
            let mut bytes = Vec::new();
            Compound { ssrc: 9, sender: None, report: None, cname: &name, bye: false }.write(&mut bytes);
            assert_eq!(bytes.len() % 4, 0);
            assert_eq!(bytes.last(), Some(&0));
            assert!(items(&bytes).is_some());
        }
    }

    #[test]
    fn lengths_that_lie_are_no_rtcp() {
        let mut bytes = Vec::new();
        Compound { ssrc: 9, sender: None, report: Some(block()), cname: b"abc", bye: false }
            .write(&mut bytes);
        let mut longer = bytes.clone();
        longer[3] = 200;
        assert_eq!(items(&longer), None);
        assert_eq!(items(&bytes[..bytes.len() - 1]), None);
        assert_eq!(items(&bytes[..4]), None);
        assert_eq!(items(&[]), None);
    }

    #[test]
    fn a_block_count_beyond_the_packet_stops_at_its_end() {
        let mut bytes = Vec::new();
        Compound { ssrc: 9, sender: None, report: Some(block()), cname: b"abc", bye: false }
            .write(&mut bytes);
        bytes[0] = 0x80 | 31;
        assert_eq!(items(&bytes), Some(vec![Item::Report(block())]));
    }

    #[test]
    fn types_that_we_do_not_know_are_stepped_over() {
        let mut bytes = Vec::new();
        header(&mut bytes, 0, 207, 1); // XR (RFC 3611)
        put(&mut bytes, 1);
        Compound { ssrc: 9, sender: None, report: Some(block()), cname: b"abc", bye: false }
            .write(&mut bytes);
        assert_eq!(items(&bytes), Some(vec![Item::Report(block())]));
    }

    #[test]
    fn the_round_trip_of_the_rfc_figure() {
        // RFC 3550 figure 2: A 0xb710:8000, LSR 0xb705:2000, DLSR 0x0005:4000 give 6.125 s.
        let block = ReportBlock { lsr: 0xB705_2000, dlsr: 0x0005_4000, ..block() };
        assert_eq!(round_trip_ms(0xB710_8000, &block), Some(6125.0));
        assert_eq!(round_trip_ms(0xB710_8000, &ReportBlock { lsr: 0, ..block }), None);
        assert_eq!(round_trip_ms(0xB70A_6000 - 10, &block), Some(0.0));
        assert_eq!(round_trip_ms(0xB700_0000, &block), None);
    }

    #[test]
    fn ntp_time_has_seconds_above_and_a_binary_fraction_below() {
        assert_eq!(ntp(3 * SECOND + SECOND / 2), 3 << 32 | 0x8000_0000);
        assert_eq!(middle(0x0001_0002_0003_0004), 0x0002_0003);
    }

    #[test]
    fn intervals_are_random_within_the_bounds_of_the_rfc() {
        let mut random = Random::new(1);
        let mut schedule = Schedule::default();
        schedule.begin(0, &mut random);
        let first = schedule.next_at().expect("begun");
        assert!((SECOND..3_100_000_000).contains(&first));
        assert!(!schedule.take_due(first - 1, &mut random));
        let mut last = first;
        for _ in 0..1000 {
            assert!(schedule.take_due(last, &mut random));
            let next = schedule.next_at().expect("begun");
            assert!((2_050_000_000..6_160_000_000).contains(&(next - last)));
            last = next;
        }
        assert!((3_900_000_000..4_300_000_000).contains(&((last - first) / 1000)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_rtcp_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = items(&bytes);
        }

        #[test]
        fn any_bytes_behind_a_true_header_do_no_harm(
            count in 0u8..32, kind in 192u8..224, words in 1usize..20, fill: u8,
        ) {
            let mut bytes = vec![0x80 | count, kind, 0, words as u8];
            bytes.resize(4 + 4 * words, fill);
            prop_assert!(items(&bytes).is_some());
        }
    }
}
