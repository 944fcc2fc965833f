//! A session on a virtual clock, with everything it sends on the record.

#![allow(dead_code, reason = "each test file uses its part")]

use _native::egress::Beginning;
use _native::latch::{Network, Permission};
use _native::rtp::{Header, Packet};
use _native::session::{Action, Channel, Encoding, Identity, Kind, LegMedia, Output, Payload, Session, Side};
use std::net::SocketAddr;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1000 * MS;

pub const CARRIER: &str = "192.0.2.1:4000";
pub const PLATFORM: &str = "198.51.100.1:6000";

pub fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub fn payload(payload_type: u8, encoding: Encoding, far_payload_type: u8) -> Payload {
    Payload { payload_type, encoding, clock_rate: 8000, far_payload_type: Some(far_payload_type) }
}

/// PCMU both ways, events on 101 toward the carrier and 96 toward the platform.
pub fn media(side: Side) -> LegMedia {
    let (remote, event, far_event) = match side {
        Side::Carrier => (CARRIER, 101, 96),
        Side::Platform => (PLATFORM, 96, 101),
    };
    LegMedia {
        remote_rtcp: None,
        rtcp_mux: false,
        may_send: true,
        may_receive: true,
        payloads: vec![payload(0, Encoding::Pcmu, 0), payload(event, Encoding::TelephoneEvent, far_event)],
        ptime: 20 * MS,
        fill_after: Some(100 * MS),
        fill_payload_type: Some(0),
        silent_after: None,
        tone: None,
        permission: Permission { signalled: Some(at(remote)), permitted: Vec::new(), window: SECOND },
    }
}

pub fn without_fill(side: Side) -> LegMedia {
    LegMedia { fill_after: None, ..media(side) }
}

pub fn permitting(network: &str, side: Side) -> LegMedia {
    let mut media = without_fill(side);
    media.permission.permitted = vec![Network::parse(network).expect("a network")];
    media
}

/// One packet that left.
#[derive(Clone, Debug)]
pub struct Departure {
    pub at: u64,
    pub side: Side,
    pub channel: Channel,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
    pub filled: bool,
}

impl Departure {
    pub fn packet(&self) -> Packet<'_> {
        Packet::parse(&self.bytes).expect("what we send is RTP")
    }
}

pub struct Call {
    pub session: Session,
    pub now: u64,
    pub departures: Vec<Departure>,
    pub others: Vec<Action>,
    out: Output,
}

impl Call {
    pub fn new() -> Self {
        let beginning = |ssrc| Beginning { ssrc, sequence: 65_500, timestamp: u32::MAX - 1000 };
        let identity = Identity {
            beginnings: [beginning(0xCA), beginning(0xF1)],
            cname: *b"abcdefghijklmnop",
            seed: 7,
            wall: 4_000_000_000 * SECOND,
        };
        Call {
            session: Session::new(identity),
            now: SECOND,
            departures: Vec::new(),
            others: Vec::new(),
            out: Output::default(),
        }
    }

    /// A call with both legs negotiated by `media`.
    pub fn with(media: impl Fn(Side) -> LegMedia) -> Self {
        let mut call = Call::new();
        for side in Side::BOTH {
            call.update(side, media(side));
        }
        call
    }

    fn note(&mut self) {
        for action in std::mem::take(&mut self.out.actions) {
            match action {
                Action::Send { side, channel, to, start, end, kind } => {
                    let bytes = self.out.bytes[start..end].to_vec();
                    self.departures.push(Departure {
                        at: self.now,
                        side,
                        channel,
                        to,
                        bytes,
                        filled: kind == Kind::Fill,
                    });
                }
                other => self.others.push(other),
            }
        }
        self.out.clear();
    }

    pub fn update(&mut self, side: Side, media: LegMedia) {
        self.session.update(side, media, self.now, &mut self.out);
        self.note();
    }

    pub fn datagram(&mut self, side: Side, channel: Channel, from: &str, bytes: &[u8]) -> bool {
        let listened = self.session.receive(side, channel, at(from), bytes, self.now, &mut self.out);
        self.note();
        listened
    }

    pub fn close(&mut self) {
        self.session.close(self.now, &mut self.out);
        self.note();
    }

    /// Let time pass, stopping at every deadline; each is served `late` after it falls due.
    pub fn pass_until(&mut self, until: u64, mut late: impl FnMut() -> u64) {
        while let Some(deadline) = self.session.next_timeout() {
            let at = deadline.max(self.now) + late();
            if at > until {
                break;
            }
            self.now = at;
            self.session.handle_timeout(at, &mut self.out);
            self.note();
            let next = self.session.next_timeout();
            assert!(next.is_none_or(|next| next > at), "a deadline that was served is still due");
        }
        self.now = until;
    }

    pub fn pass(&mut self, span: u64) {
        self.pass_until(self.now + span, || 0);
    }

    pub fn rtp_to(&self, side: Side) -> Vec<&Departure> {
        let mine = |departure: &&Departure| departure.side == side && departure.channel == Channel::Rtp;
        self.departures.iter().filter(mine).collect()
    }

    pub fn refused(&self, side: Side, refusal: _native::session::Refusal) -> u64 {
        self.session.report(side).refused[refusal as usize]
    }
}

/// An RTP packet of a source.
pub fn rtp(payload_type: u8, sequence: u16, timestamp: u32, ssrc: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header { marker: false, payload_type, sequence, timestamp, ssrc };
    [&header.encode(), payload].concat()
}

pub fn speech(sequence: u16) -> Vec<u8> {
    rtp(0, sequence, u32::from(sequence) * 160, 9, &[sequence as u8; 160])
}
