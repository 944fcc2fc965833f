//! What a receiver sees, whatever the source does: one SSRC, no sequence gap, timestamps equal to time, no doubled rate.

mod common;

use _native::session::{Channel, Side};
use common::*;
use proptest::prelude::*;

/// What the source does next.
#[derive(Clone, Debug)]
enum Step {
    Speak {
        packets: u16,
    },
    /// No packets; the source's clock runs on, or stands still.
    Quiet {
        frames: u32,
        clock_stands: bool,
    },
    Lose {
        packets: u16,
    },
    ChangeSource {
        timestamp: u32,
        sequence: u16,
    },
    JumpTimestamp {
        by: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u16..60).prop_map(|packets| Step::Speak { packets }),
        2 => (1u32..120, any::<bool>()).prop_map(|(frames, clock_stands)| Step::Quiet { frames, clock_stands }),
        2 => (1u16..12).prop_map(|packets| Step::Lose { packets }),
        1 => (any::<u32>(), any::<u16>()).prop_map(|(timestamp, sequence)| Step::ChangeSource { timestamp, sequence }),
        1 => any::<u32>().prop_map(|by| Step::JumpTimestamp { by }),
    ]
}

/// The packets of a source: when each arrives, and its bytes.
fn arrivals(steps: &[Step], jitter_ms: &[u64], swaps: &[bool]) -> Vec<(u64, Vec<u8>)> {
    let mut packets: Vec<(u64, Vec<u8>)> = Vec::new();
    let (mut frame, mut sequence, mut timestamp, mut ssrc) = (0u64, 100u16, 5000u32, 9u32);
    let mut advance = |frame: &mut u64, sequence: &mut u16, timestamp: &mut u32, ssrc: u32, sent: bool| {
        if sent {
            let late = jitter_ms[*frame as usize % jitter_ms.len()] * MS;
            packets.push((
                2 * SECOND + *frame * 20 * MS + late,
                rtp(0, *sequence, *timestamp, ssrc, &[0x55; 160]),
            ));
        }
        *frame += 1;
        *sequence = sequence.wrapping_add(1);
        *timestamp = timestamp.wrapping_add(160);
    };
    for step in steps {
        match *step {
            Step::Speak { packets } => {
                (0..packets).for_each(|_| advance(&mut frame, &mut sequence, &mut timestamp, ssrc, true));
            }
            Step::Lose { packets } => {
                (0..packets).for_each(|_| advance(&mut frame, &mut sequence, &mut timestamp, ssrc, false));
            }
            Step::Quiet { frames, clock_stands } => {
                frame += u64::from(frames);
                if !clock_stands {
                    timestamp = timestamp.wrapping_add(160 * frames);
                }
            }
            Step::ChangeSource { timestamp: other, sequence: number } => {
                ssrc += 1;
                (timestamp, sequence) = (other, number);
            }
            Step::JumpTimestamp { by } => timestamp = timestamp.wrapping_add(by),
        }
    }
    packets.sort_by_key(|(at, _)| *at);
    for (index, swap) in swaps.iter().enumerate() {
        if *swap && index + 1 < packets.len() && packets[index + 1].0 - packets[index].0 <= 20 * MS {
            let bytes = std::mem::take(&mut packets[index].1);
            packets[index].1 = std::mem::replace(&mut packets[index + 1].1, bytes);
        }
    }
    packets
}

/// How many packets a window holds beyond one each 20 ms.
fn burst(times: &[u64]) -> usize {
    let mut most = 0;
    for (first, from) in times.iter().enumerate() {
        for (last, to) in times.iter().enumerate().skip(first) {
            most = most.max((last - first + 1).saturating_sub(((to - from) / (20 * MS)) as usize + 1));
        }
    }
    most
}

/// The times in 200 ms from `from`, less the 2 ms by which a wake-up may be late.
fn window(times: &[u64], from: u64) -> &[u64] {
    let start = times.partition_point(|at| *at < from);
    let end = times.partition_point(|at| *at < from + 198 * MS);
    &times[start..end]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_receiver_sees_one_unbroken_stream_in_time(
        steps in proptest::collection::vec(step(), 1..30),
        jitter_ms in proptest::collection::vec(0u64..30, 1..50),
        swaps in proptest::collection::vec(proptest::bool::weighted(0.05), 0..400),
        lateness in proptest::collection::vec(0u64..2000, 1..20),
        fill_after_ms in prop_oneof![Just(40u64), Just(60), Just(100), Just(200)],
    ) {
        let source = arrivals(&steps, &jitter_ms, &swaps);
        let mut call = Call::new();
        let media = |side| _native::session::LegMedia { fill_after: Some(fill_after_ms * MS), ..media(side) };
        call.update(Side::Carrier, media(Side::Carrier));
        call.update(Side::Platform, media(Side::Platform));
        let mut turn = 0;
        let mut late = || { turn += 1; lateness[turn % lateness.len()] * 1000 };
        for (arrives_at, bytes) in &source {
            call.pass_until(*arrives_at, &mut late);
            call.datagram(Side::Carrier, Channel::Rtp, CARRIER, bytes);
        }
        call.pass_until(call.now + SECOND, &mut late);

        let sent = call.rtp_to(Side::Platform);
        let first = &sent[0];
        let ticks = |departure: &Departure| {
            // No call here lasts long enough to wrap.
            u64::from(departure.packet().timestamp.wrapping_sub(first.packet().timestamp))
        };
        let most_late = jitter_ms.iter().max().copied().unwrap_or(0) + 20; // a swap is one frame more
        let mut end = 0;
        for (index, departure) in sent.iter().enumerate() {
            let packet = departure.packet();
            prop_assert_eq!(packet.ssrc, 0xF1);
            prop_assert_eq!(packet.sequence, first.packet().sequence.wrapping_add(index as u16));
            if index > 0 && (departure.filled || packet.marker) {
                prop_assert!(ticks(departure) >= end, "an anchor overlaps what was sent before");
                let elapsed = (departure.at - first.at) / 1000 * 8 / 1000;
                // Behind only by the lateness of the wake-up; ahead by one frame, and by the jitter of a spurt before.
                prop_assert!(ticks(departure) + 16 + 1 >= elapsed, "an anchor lies behind the time");
                prop_assert!(ticks(departure) <= elapsed + 160 + 8 * most_late, "an anchor lies ahead of the time");
            }
            end = end.max(ticks(departure) + 160);
        }
        let report = call.session.report(Side::Platform);
        prop_assert_eq!(report.sent, sent.len() as u64);
        let longest = fill_after_ms.max(40 + most_late) + 2;
        prop_assert!(report.longest_sent_gap <= longest * MS, "fill came late");
        // Nothing that arrived is unaccounted for.
        let heard = call.session.report(Side::Carrier);
        let late_at = _native::session::Refusal::Late as usize;
        prop_assert_eq!(report.sent - report.filled + heard.refused[late_at] + heard.duplicate, source.len() as u64);

        let sent_at: Vec<u64> = sent.iter().map(|departure| departure.at).collect();
        let source_at: Vec<u64> = source.iter().map(|(at, _)| *at).collect();
        for from in &sent_at {
            let most = 11 + burst(window(&source_at, *from));
            prop_assert!(window(&sent_at, *from).len() <= most, "the rate is above what the source sent");
        }
    }
}

#[test]
fn an_hour_of_silence_stays_on_time() {
    let mut call = Call::with(media);
    call.pass(3600 * SECOND);
    let sent = call.rtp_to(Side::Platform);
    assert_eq!(sent.len(), 180_001);
    let (first, last) = (sent[0].packet(), sent[180_000].packet());
    assert_eq!(last.timestamp.wrapping_sub(first.timestamp), 28_800_000);
}
