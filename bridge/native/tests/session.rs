//! A session's behaviour, on a virtual clock.

mod common;

use _native::latch::Permission;
use _native::rtcp::{self, Compound, Item, ReportBlock, SenderInfo};
use _native::session::{Action, Channel, Encoding, Kind, LegMedia, Refusal, Side};
use common::*;
use proptest::prelude::*;

fn block_of(call: &Call, side: Side) -> Option<(Option<SenderInfo>, Option<ReportBlock>)> {
    let departure = call
        .departures
        .iter()
        .rfind(|departure| departure.side == side && rtcp::is_well_formed(&departure.bytes))?;
    let (mut sender, mut report) = (None, None);
    rtcp::read(&departure.bytes, |item| match item {
        Item::Sender { info, .. } => sender = Some(info),
        Item::Report(block) => report = Some(block),
        Item::Bye { .. } => {}
    });
    Some((sender, report))
}

fn peers_report(report: Option<ReportBlock>) -> Vec<u8> {
    let mut bytes = Vec::new();
    Compound { ssrc: 9, sender: None, report, cname: b"peer", bye: false }.write(&mut bytes);
    bytes
}

#[test]
fn payloads_pass_bit_exact_and_in_our_own_stream() {
    // R62
    let mut call = Call::with(without_fill);
    for sequence in [5, 6, 8] {
        call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(sequence));
        call.pass(20 * MS);
    }
    let sent = call.rtp_to(Side::Platform);
    assert_eq!(sent.len(), 3);
    for (departure, sequence) in sent.iter().zip([5u16, 6, 8]) {
        assert_eq!(departure.to, at(PLATFORM));
        assert_eq!(departure.packet().payload, [sequence as u8; 160]);
        assert_eq!(departure.packet().ssrc, 0xF1);
    }
    assert_eq!([0, 1, 2].map(|index: usize| sent[index].packet().sequence), [65_500, 65_501, 65_502]);
    assert_eq!(call.rtp_to(Side::Carrier).len(), 0);
}

#[test]
fn payload_types_are_mapped_to_the_other_legs_numbers() {
    // R63
    let mut call = Call::with(without_fill);
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &rtp(101, 1, 0, 9, &[5, 10, 0, 160]));
    call.datagram(Side::Platform, Channel::Rtp, PLATFORM, &rtp(96, 1, 0, 8, &[6, 10, 0, 160]));
    assert_eq!(call.rtp_to(Side::Platform)[0].packet().payload_type, 96);
    assert_eq!(call.rtp_to(Side::Carrier)[0].packet().payload_type, 101);
}

#[test]
fn a_payload_type_that_was_not_negotiated_is_refused_and_never_latches() {
    let mut call = Call::with(without_fill);
    call.datagram(Side::Carrier, Channel::Rtp, "192.0.2.1:9999", &rtp(18, 1, 0, 9, &[0; 20]));
    assert_eq!(call.refused(Side::Carrier, Refusal::PayloadType), 1);
    assert_eq!(call.session.report(Side::Carrier).remote, Some(at(CARRIER)));
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(1));
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &rtp(18, 2, 320, 9, &[0; 20]));
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(3));
    // It had a sequence number, so it is not lost.
    let report = call.session.report(Side::Carrier);
    assert_eq!((report.received, report.lost), (3, 0));
    assert_eq!(call.rtp_to(Side::Platform).len(), 2);
}

#[test]
fn a_format_that_the_other_leg_has_not_taken_is_refused() {
    let mut call = Call::with(|side| {
        let mut media = without_fill(side);
        media.payloads[0].far_payload_type = None;
        media
    });
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(1));
    assert_eq!(call.refused(Side::Carrier, Refusal::PayloadType), 1);
    assert!(call.departures.is_empty());
}

#[test]
fn before_signalling_has_spoken_nothing_is_forwarded_or_sent() {
    let mut call = Call::new();
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(1));
    call.datagram(Side::Carrier, Channel::Rtcp, CARRIER, &peers_report(None));
    call.pass(60 * SECOND);
    assert_eq!(call.refused(Side::Carrier, Refusal::NotNegotiated), 2);
    call.update(Side::Carrier, without_fill(Side::Carrier));
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(2));
    assert_eq!(call.refused(Side::Carrier, Refusal::NoDestination), 1);
    assert!(call.departures.is_empty());
}

#[test]
fn the_first_frame_goes_out_with_the_answer_and_fifty_a_second_follow() {
    // D27
    let mut call = Call::with(media);
    assert_eq!(call.rtp_to(Side::Platform).len(), 1);
    assert_eq!(call.rtp_to(Side::Platform)[0].packet().payload, [0xFF; 160]);
    assert!(call.rtp_to(Side::Platform)[0].packet().marker);
    call.pass(4 * SECOND);
    for side in Side::BOTH {
        let sent = call.rtp_to(side);
        assert_eq!(sent.len(), 201);
        for pair in sent.windows(2) {
            assert_eq!(pair[1].at - pair[0].at, 20 * MS);
            assert_eq!(pair[1].packet().sequence, pair[0].packet().sequence.wrapping_add(1));
            assert_eq!(pair[1].packet().timestamp, pair[0].packet().timestamp.wrapping_add(160));
        }
        assert_eq!(call.session.report(side).filled, 201);
    }
}

#[test]
fn alaw_silence_is_its_own_octet_and_frames_have_the_negotiated_time() {
    let mut call = Call::with(|side| LegMedia {
        payloads: vec![payload(8, Encoding::Pcma, 8)],
        fill_payload_type: Some(8),
        ptime: 30 * MS,
        ..media(side)
    });
    call.pass(300 * MS);
    let sent = call.rtp_to(Side::Carrier);
    assert_eq!(sent.len(), 11);
    assert_eq!((sent[1].packet().payload_type, sent[1].packet().payload), (8, &[0xD5; 240][..]));
}

#[test]
fn fill_waits_for_a_gap_and_ends_with_the_first_real_packet() {
    let mut call = Call::with(media);
    let mut sequence = 0;
    for _ in 0..10 {
        call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(sequence));
        call.pass(20 * MS);
        sequence += 1;
    }
    let filled = call.session.report(Side::Platform).filled;
    assert_eq!(filled, 1); // the one at the answer
    call.pass(285 * MS);
    assert_eq!(call.session.report(Side::Platform).filled, 1 + 11); // 100, 120, … 300 ms after the last
    for _ in 0..10 {
        call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(sequence));
        call.pass(20 * MS);
        sequence += 1;
    }
    assert_eq!(call.session.report(Side::Platform).filled, 12);
    let sent = call.rtp_to(Side::Platform);
    for pair in sent.windows(2) {
        let step = pair[1].packet().timestamp.wrapping_sub(pair[0].packet().timestamp);
        assert!((160..0x8000_0000).contains(&step));
    }
}

#[test]
fn nothing_but_rtcp_goes_toward_a_held_peer() {
    let mut call = Call::with(media);
    call.update(Side::Platform, LegMedia { may_send: false, ..media(Side::Platform) });
    let before = call.rtp_to(Side::Platform).len();
    for sequence in 0..500 {
        call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(sequence));
        call.pass(20 * MS);
    }
    assert_eq!(call.rtp_to(Side::Platform).len(), before);
    assert_eq!(call.refused(Side::Carrier, Refusal::Held), 500);
    assert!(call.session.report(Side::Platform).rtcp_sent >= 1);
    // And resumed, the stream goes on at the time that it is.
    call.update(Side::Platform, media(Side::Platform));
    let sent = call.rtp_to(Side::Platform);
    assert_eq!(sent.len(), before + 1);
    let (last, first) = (sent[before - 1].packet(), sent[before].packet());
    assert_eq!(first.timestamp.wrapping_sub(last.timestamp), 80_000);
    assert_eq!(first.sequence, last.sequence.wrapping_add(1));
    assert!(call.session.report(Side::Platform).longest_sent_gap < SECOND);
}

#[test]
fn a_peer_that_may_not_send_is_refused() {
    let mut call = Call::with(|side| LegMedia { may_receive: false, ..without_fill(side) });
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(1));
    assert_eq!(call.refused(Side::Carrier, Refusal::NotNegotiated), 1);
    assert!(call.departures.is_empty());
}

#[test]
fn fill_waits_until_the_destination_is_known() {
    let unknown = Permission { signalled: None, ..media(Side::Platform).permission };
    let mut call = Call::with(|side| LegMedia { permission: unknown.clone(), ..media(side) });
    call.pass(SECOND);
    assert!(call.departures.is_empty());
    call.update(Side::Platform, media(Side::Platform));
    assert_eq!(call.rtp_to(Side::Platform).len(), 1);
}

#[test]
fn strangers_are_refused_and_counted_before_and_after_the_latch() {
    // T01, T02
    let mut call = Call::with(without_fill);
    let stranger = "203.0.113.66:4000";
    assert!(!call.datagram(Side::Carrier, Channel::Rtp, stranger, &speech(1)));
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(2));
    assert!(!call.datagram(Side::Carrier, Channel::Rtp, stranger, &speech(3)));
    assert!(!call.datagram(Side::Carrier, Channel::Rtp, "192.0.2.1:4444", &speech(4)));
    call.session.receive_stranger(Side::Carrier);
    assert_eq!(call.refused(Side::Carrier, Refusal::Stranger), 4);
    assert_eq!(call.rtp_to(Side::Platform).len(), 1);
    assert_eq!(call.session.report(Side::Carrier).remote, Some(at(CARRIER)));
}

#[test]
fn stun_dtls_rtcp_runts_and_keepalives_prove_no_source() {
    // T01, R61
    let mut call = Call::with(|side| permitting("203.0.113.0/24", side));
    let nat = "203.0.113.9:7777";
    let stun = [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[0; 12]].concat();
    let dtls = [&[22, 254, 253][..], &[0; 40]].concat();
    for junk in
        [stun, dtls, vec![], vec![0x80], peers_report(None), rtp(0, 1, 0, 9, &[]), rtp(0, 1, 0, 9, &[0; 7])]
    {
        call.datagram(Side::Carrier, Channel::Rtp, nat, &junk);
    }
    assert_eq!(call.session.report(Side::Carrier).remote, Some(at(CARRIER)));
    assert_eq!(call.session.report(Side::Carrier).received, 0);
    assert!(call.departures.is_empty());
    call.datagram(Side::Carrier, Channel::Rtp, nat, &speech(1));
    assert_eq!(call.session.report(Side::Carrier).remote, Some(at(nat)));
}

#[test]
fn a_private_sdp_address_gives_way_to_a_permitted_source_and_the_socket_is_connected_after_the_window() {
    let mut call = Call::with(|side| permitting("203.0.113.9/32", side));
    let nat = "203.0.113.9:7777";
    call.datagram(Side::Carrier, Channel::Rtp, nat, &speech(1));
    assert_eq!(call.others, [Action::Started { side: Side::Carrier, from: at(nat) }]);
    call.pass(SECOND);
    assert_eq!(call.others[1..], [Action::Connect { side: Side::Carrier, to: at(nat) }]);
    call.datagram(Side::Platform, Channel::Rtp, PLATFORM, &speech(1));
    assert_eq!(call.rtp_to(Side::Carrier)[0].to, at(nat));
}

#[test]
fn a_moved_port_loses_nothing_and_is_latched_anew() {
    // R33
    let mut call = Call::with(without_fill);
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(1));
    let mut moved = without_fill(Side::Carrier);
    moved.permission.signalled = Some(at("192.0.2.1:8000"));
    call.update(Side::Carrier, moved);
    assert!(call.others.contains(&Action::Release { side: Side::Carrier }));
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(2));
    call.datagram(Side::Carrier, Channel::Rtp, "192.0.2.1:8000", &speech(3));
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(4));
    assert_eq!(call.rtp_to(Side::Platform).len(), 3);
    assert_eq!(call.refused(Side::Carrier, Refusal::Stranger), 1);
    call.datagram(Side::Platform, Channel::Rtp, PLATFORM, &speech(1));
    assert_eq!(call.rtp_to(Side::Carrier)[0].to, at("192.0.2.1:8000"));
}

#[test]
fn duplicates_are_counted_and_go_no_further() {
    let mut call = Call::with(without_fill);
    for sequence in [1, 2, 2, 1, 3] {
        call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(sequence));
    }
    let report = call.session.report(Side::Carrier);
    assert_eq!((report.received, report.duplicate, report.lost), (3, 2, 0));
    assert_eq!(call.rtp_to(Side::Platform).len(), 3);
}

#[test]
fn no_fill_goes_into_an_event_and_what_comes_after_does_not_double_it() {
    // R66
    let mut call = Call::with(|side| LegMedia { fill_after: Some(40 * MS), ..media(side) });
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(0));
    let filled = call.session.report(Side::Platform).filled;
    for index in 0..5u16 {
        call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &rtp(101, 1 + index, 160, 9, &[5, 10, 0, 160]));
        call.pass(50 * MS);
    }
    assert_eq!(call.session.report(Side::Platform).filled, filled);
    for index in 0..3u16 {
        call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &rtp(101, 6 + index, 160, 9, &[5, 0x8A, 1, 64]));
    }
    let events: Vec<u32> = call
        .rtp_to(Side::Platform)
        .iter()
        .filter(|departure| departure.packet().payload_type == 96)
        .map(|departure| departure.packet().timestamp)
        .collect();
    assert_eq!(events.len(), 8);
    assert!(events.iter().all(|timestamp| *timestamp == events[0]));
    call.pass(60 * MS);
    assert!(call.session.report(Side::Platform).filled > filled);
}

#[test]
fn reports_carry_loss_and_come_back_with_the_round_trip() {
    // R64
    let mut call = Call::with(without_fill);
    for sequence in (0..500).filter(|sequence| sequence % 10 != 5) {
        call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(sequence));
        call.datagram(Side::Platform, Channel::Rtp, PLATFORM, &speech(sequence));
        call.pass(20 * MS);
    }
    let (sender, report) = block_of(&call, Side::Carrier).expect("a report within ten seconds");
    let (sender, report) = (sender.expect("we sent"), report.expect("they sent"));
    assert_eq!((report.ssrc, report.fraction_lost), (9, 25)); // a tenth
    assert_eq!(sender.octets, sender.packets * 160);
    // The carrier echoes it after 5 s, over a path of 30 ms.
    let sent = |departure: &&Departure| departure.side == Side::Carrier && departure.channel == Channel::Rtcp;
    let sent_at = call.departures.iter().rfind(sent).expect("a report").at;
    call.pass_until(sent_at + 5030 * MS, || 0);
    let echo = ReportBlock {
        ssrc: 0xCA,
        fraction_lost: 64,
        cumulative_lost: 12,
        jitter_ticks: 80,
        lsr: rtcp::middle(sender.ntp),
        dlsr: 5 * 65_536,
        ..ReportBlock::default()
    };
    assert!(call.datagram(Side::Carrier, Channel::Rtcp, "192.0.2.1:4001", &peers_report(Some(echo))));
    let far = call.session.report(Side::Carrier).rtcp.expect("a report");
    assert_eq!((far.fraction_lost, far.cumulative_lost, far.jitter_ms), (0.25, 12, 10.0));
    assert!((far.round_trip_ms.expect("an echo") - 30.0).abs() < 0.1);
    assert!(call.session.report(Side::Platform).rtcp.is_none());
}

#[test]
fn a_senders_report_is_echoed_in_ours() {
    let mut call = Call::with(without_fill);
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(1));
    let mut bytes = Vec::new();
    let info = SenderInfo { ntp: 0x0001_0002_0003_0004, ..SenderInfo::default() };
    Compound { ssrc: 9, sender: Some(info), report: None, cname: b"peer", bye: false }.write(&mut bytes);
    let heard_at = call.now;
    call.datagram(Side::Carrier, Channel::Rtcp, "192.0.2.1:4001", &bytes);
    call.pass(7 * SECOND);
    let rtcp = call.departures.iter().find(|departure| departure.side == Side::Carrier).expect("a report");
    let mut echoed = None;
    rtcp::read(&rtcp.bytes, |item| {
        if let Item::Report(block) = item {
            echoed = Some((block.lsr, block.dlsr));
        }
    });
    let dlsr = ((rtcp.at - heard_at) * 65_536 / SECOND) as u32;
    assert_eq!(echoed, Some((0x0002_0003, dlsr)));
}

#[test]
fn rtcp_goes_where_it_was_negotiated_in_all_four_combinations() {
    // R65: with and without rtcp-mux, with and without a=rtcp
    for (mux, signalled) in
        [(false, None), (false, Some("192.0.2.7:9000")), (true, None), (true, Some("192.0.2.7:9000"))]
    {
        let mut call = Call::with(|side| LegMedia {
            rtcp_mux: mux,
            remote_rtcp: signalled.map(at),
            ..without_fill(side)
        });
        call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(1));
        call.pass(10 * SECOND);
        let sent = call
            .departures
            .iter()
            .find(|departure| rtcp::is_well_formed(&departure.bytes) && departure.side == Side::Carrier);
        let sent = sent.expect("a report");
        let expected = match (mux, signalled) {
            (true, _) => CARRIER,
            (false, None) => "192.0.2.1:4001",
            (false, Some(address)) => address,
        };
        assert_eq!(sent.to, at(expected));
        assert_eq!(sent.channel, if mux { Channel::Rtp } else { Channel::Rtcp });
        let (right, wrong) = if mux { (Channel::Rtp, Channel::Rtcp) } else { (Channel::Rtcp, Channel::Rtp) };
        call.datagram(Side::Carrier, right, expected, &peers_report(None));
        call.datagram(Side::Carrier, wrong, expected, &peers_report(None));
        assert_eq!(call.session.report(Side::Carrier).rtcp_received, 1);
        assert_eq!(call.refused(Side::Carrier, Refusal::NotNegotiated), 1);
    }
}

#[test]
fn rtcp_of_strangers_and_junk_is_refused_and_moves_nothing() {
    // T03
    let mut call = Call::with(without_fill);
    call.datagram(Side::Carrier, Channel::Rtcp, "203.0.113.66:4001", &peers_report(None));
    call.datagram(Side::Carrier, Channel::Rtcp, "192.0.2.1:4001", b"junk");
    assert_eq!(call.refused(Side::Carrier, Refusal::RtcpStranger), 1);
    assert_eq!(call.refused(Side::Carrier, Refusal::NotRtcp), 1);
    call.pass(10 * SECOND);
    assert!(call.departures.iter().all(|departure| departure.to != at("203.0.113.66:4001")));
}

#[test]
fn closing_says_goodbye_to_whoever_was_spoken_to() {
    let mut call = Call::with(media);
    call.close();
    let byes: Vec<Side> = call
        .departures
        .iter()
        .filter(|departure| departure.channel == Channel::Rtcp)
        .filter(|departure| {
            let mut bye = false;
            rtcp::read(&departure.bytes, |item| bye |= matches!(item, Item::Bye { ssrc: 0xCA | 0xF1 }));
            bye
        })
        .map(|departure| departure.side)
        .collect();
    assert_eq!(byes, Side::BOTH);
    let mut mute = Call::with(without_fill);
    mute.close();
    assert!(mute.departures.is_empty());
}

#[test]
fn a_packet_that_the_kernel_refused_is_not_counted_as_sent() {
    let mut call = Call::with(media);
    call.session.not_sent(Side::Platform, Kind::Fill, 172);
    let report = call.session.report(Side::Platform);
    assert_eq!((report.sent, report.sent_bytes, report.filled), (0, 0, 0));
    assert_eq!(call.refused(Side::Platform, Refusal::SendError), 1);
}

#[test]
fn a_multiplexed_report_that_the_kernel_refused_takes_no_audio_back() {
    let mut call = Call::with(|side| LegMedia { rtcp_mux: true, ..media(side) });
    call.pass(10 * SECOND);
    let before = call.session.report(Side::Platform);
    assert!(before.rtcp_sent > 0);
    call.session.not_sent(Side::Platform, Kind::Report, 64);
    let after = call.session.report(Side::Platform);
    assert_eq!((after.sent, after.sent_bytes, after.filled), (before.sent, before.sent_bytes, before.filled));
    assert_eq!(after.rtcp_sent, before.rtcp_sent - 1);
}

#[test]
fn a_hold_without_an_address_keeps_the_latched_source() {
    // RFC 3264 §8.4: c=0.0.0.0 is hold as RFC 2543 had it; the peer behind NAT is where it was when it resumes.
    let mut call = Call::with(|side| permitting("203.0.113.9/32", side));
    let nat = "203.0.113.9:7777";
    call.datagram(Side::Carrier, Channel::Rtp, nat, &speech(1));
    call.pass(2 * SECOND);
    let mut held = LegMedia { may_send: false, ..permitting("203.0.113.9/32", Side::Carrier) };
    held.permission.signalled = None;
    call.update(Side::Carrier, held);
    call.pass(10 * SECOND);
    call.update(Side::Carrier, permitting("203.0.113.9/32", Side::Carrier));
    assert_eq!(call.session.report(Side::Carrier).remote, Some(at(nat)));
    call.datagram(Side::Platform, Channel::Rtp, PLATFORM, &speech(1));
    assert_eq!(call.rtp_to(Side::Carrier)[0].to, at(nat));
}

#[test]
fn what_a_held_peer_still_sends_is_refused_and_not_lost() {
    let mut call = Call::with(without_fill);
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(1));
    call.update(Side::Carrier, LegMedia { may_receive: false, ..without_fill(Side::Carrier) });
    for sequence in 2..7 {
        call.pass(20 * MS);
        call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(sequence));
    }
    call.pass(60 * SECOND);
    call.update(Side::Carrier, without_fill(Side::Carrier));
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(7));
    let report = call.session.report(Side::Carrier);
    assert_eq!((report.lost, call.refused(Side::Carrier, Refusal::NotNegotiated)), (0, 5));
    assert_eq!(call.rtp_to(Side::Platform).len(), 2);
    assert!(report.longest_gap < SECOND);
}

#[test]
fn a_peer_that_falls_silent_is_reported_once() {
    let mut call = Call::with(|side| LegMedia { silent_after: Some(10 * SECOND), ..without_fill(side) });
    call.pass(5 * SECOND);
    call.datagram(Side::Carrier, Channel::Rtp, CARRIER, &speech(1));
    call.others.clear();
    call.pass(9 * SECOND);
    assert_eq!(call.others, [Action::Silent { side: Side::Platform }]);
    call.pass(60 * SECOND);
    assert_eq!(call.others[1..], [Action::Silent { side: Side::Carrier }]);
}

proptest! {
    #[test]
    fn whatever_arrives_is_forwarded_only_if_it_is_a_negotiated_packet(
        datagrams in proptest::collection::vec(
            (any::<bool>(), any::<bool>(), 0u8..3, proptest::collection::vec(any::<u8>(), 0..60), any::<bool>()), 0..60,
        ),
    ) {
        let mut call = Call::with(without_fill);
        for (carrier, rtcp, source, mut bytes, framed) in datagrams {
            if framed && bytes.len() >= 2 {
                bytes[0] = 0x80 | bytes[0] & 0x3F;
                bytes[1] &= 0x80;
            }
            let side = if carrier { Side::Carrier } else { Side::Platform };
            let channel = if rtcp { Channel::Rtcp } else { Channel::Rtp };
            let from = [CARRIER, PLATFORM, "203.0.113.66:4000"][usize::from(source)];
            let before = call.departures.len();
            call.datagram(side, channel, from, &bytes);
            for departure in &call.departures[before..] {
                let parsed = _native::rtp::Packet::parse(&bytes).expect("only RTP is forwarded");
                prop_assert!(source < 2 && !rtcp);
                prop_assert_eq!(departure.packet().payload, parsed.payload);
            }
            call.pass(MS);
        }
    }
}
