//! Ring tone in a caller's stream: in place of the other leg's audio, without a seam on either side of it.

mod common;

use _native::session::{Channel, LegMedia, Side};
use _native::tone::Tone;
use common::*;

fn ringing(media: LegMedia) -> LegMedia {
    LegMedia { tone: Some(Tone::RingbackUs), ..media }
}

fn talk(call: &mut Call, sequences: std::ops::Range<u16>) {
    for sequence in sequences {
        call.datagram(Side::Platform, Channel::Rtp, PLATFORM, &speech(sequence));
        call.pass(20 * MS);
    }
}

fn is_tone(departure: &Departure) -> bool {
    departure.filled && departure.packet().payload.iter().any(|octet| *octet != 0xFF)
}

#[test]
fn a_tone_replaces_the_other_legs_audio_in_one_continuous_stream() {
    for media in [media as fn(Side) -> LegMedia, without_fill] {
        let mut call = Call::with(media);
        talk(&mut call, 0..50);
        call.update(Side::Carrier, ringing(media(Side::Carrier)));
        let before = call.rtp_to(Side::Carrier).len();
        talk(&mut call, 50..100);
        let rang = call.rtp_to(Side::Carrier).len();
        assert!((49..=51).contains(&(rang - before)), "{}", rang - before);
        assert!(call.rtp_to(Side::Carrier)[before..].iter().all(|departure| is_tone(departure)));
        call.update(Side::Carrier, media(Side::Carrier));
        talk(&mut call, 100..150);
        let sent = call.rtp_to(Side::Carrier);
        assert!(sent[rang..].iter().filter(|departure| departure.filled).count() <= 1);
        for pair in sent.windows(2) {
            let (first, second) = (pair[0].packet(), pair[1].packet());
            assert_eq!(first.ssrc, second.ssrc);
            assert_eq!(first.sequence.wrapping_add(1), second.sequence);
            let distance = second.timestamp.wrapping_sub(first.timestamp);
            assert!((160..=320).contains(&distance), "{distance}");
        }
    }
}

#[test]
fn a_tone_leaves_the_other_way_alone() {
    let mut call = Call::with(without_fill);
    call.update(Side::Carrier, ringing(without_fill(Side::Carrier)));
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(1));
    assert_eq!(call.rtp_to(Side::Platform).len(), 1);
}

#[test]
fn a_held_leg_hears_no_tone() {
    let mut call = Call::with(without_fill);
    call.update(Side::Carrier, LegMedia { may_send: false, ..ringing(without_fill(Side::Carrier)) });
    call.pass(500 * MS);
    assert!(call.rtp_to(Side::Carrier).is_empty());
}
