//! One call's media: two legs, each a full RTP endpoint. Datagrams and deadlines go in, actions come out.
//!
//! A datagram's way: source (`latch`) → packet (`rtp`) → count (`stats`) → the other leg's stream (`egress`) → `Output`.

use crate::egress::Beginning;
use crate::latch::Permission;
use crate::leg::Leg;
use crate::random::Random;
use crate::rtp;
use crate::tone::Tone;
use std::net::SocketAddr;

/// The side of the bridge that a leg faces; also its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Carrier = 0,
    Platform = 1,
}

impl Side {
    pub const BOTH: [Side; 2] = [Side::Carrier, Side::Platform];

    pub fn other(self) -> Side {
        match self {
            Side::Carrier => Side::Platform,
            Side::Platform => Side::Carrier,
        }
    }
}

/// Which socket of a leg: the even port or the next one up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Rtp = 0,
    Rtcp = 1,
}

/// Why a packet was refused. Every reason has a name that metrics and reports show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Stranger,
    RtcpStranger,
    NotRtp,
    NotRtcp,
    PayloadType,
    NotNegotiated,
    Empty,
    Late,
    Held,
    NoDestination,
    SendError,
    AfterCall,
}

impl Refusal {
    pub const ALL: [Refusal; 12] = [
        Refusal::Stranger,
        Refusal::RtcpStranger,
        Refusal::NotRtp,
        Refusal::NotRtcp,
        Refusal::PayloadType,
        Refusal::NotNegotiated,
        Refusal::Empty,
        Refusal::Late,
        Refusal::Held,
        Refusal::NoDestination,
        Refusal::SendError,
        Refusal::AfterCall,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Refusal::Stranger => "stranger",
            Refusal::RtcpStranger => "rtcp-stranger",
            Refusal::NotRtp => "not-rtp",
            Refusal::NotRtcp => "not-rtcp",
            Refusal::PayloadType => "payload-type",
            Refusal::NotNegotiated => "not-negotiated",
            Refusal::Empty => "empty",
            Refusal::Late => "late",
            Refusal::Held => "held",
            Refusal::NoDestination => "no-destination",
            Refusal::SendError => "send-error",
            Refusal::AfterCall => "after-call",
        }
    }
}

/// A count for every reason.
pub type Refused = [u64; Refusal::ALL.len()];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Pcmu,
    Pcma,
    TelephoneEvent,
    Other,
}

impl Encoding {
    pub fn named(name: &str) -> Self {
        match name {
            "PCMU" => Encoding::Pcmu,
            "PCMA" => Encoding::Pcma,
            "TELEPHONE-EVENT" => Encoding::TelephoneEvent,
            _ => Encoding::Other,
        }
    }

    /// The octet that is silence in G.711: positive zero.
    pub fn silence(self) -> Option<u8> {
        match self {
            Encoding::Pcmu => Some(0xFF),
            Encoding::Pcma => Some(0xD5),
            Encoding::TelephoneEvent | Encoding::Other => None,
        }
    }
}

/// One negotiated payload format of a leg, and its number on the other leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    pub payload_type: u8,
    pub encoding: Encoding,
    pub clock_rate: u32,
    pub far_payload_type: Option<u8>,
}

/// What signalling says of a leg's media (bridge/media/relay.py: LegMedia). Times are in nanoseconds.
#[derive(Clone, Debug)]
pub struct LegMedia {
    pub remote_rtcp: Option<SocketAddr>,
    pub rtcp_mux: bool,
    pub may_send: bool,
    pub may_receive: bool,
    pub payloads: Vec<Payload>,
    pub ptime: u64,
    pub fill_after: Option<u64>,
    pub fill_payload_type: Option<u8>,
    /// Report a peer that sends nothing for so long.
    pub silent_after: Option<u64>,
    /// Goes to the peer in place of the other leg's audio.
    pub tone: Option<Tone>,
    pub permission: Permission,
}

impl LegMedia {
    pub fn payload(&self, payload_type: u8) -> Option<&Payload> {
        self.payloads.iter().find(|payload| payload.payload_type == payload_type)
    }
}

/// What a packet of ours carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The other peer's audio or event.
    Media,
    /// A silence frame of ours.
    Fill,
    /// RTCP.
    Report,
}

/// What the worker has to do, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send `Output::bytes[start..end]`.
    Send { side: Side, channel: Channel, to: SocketAddr, start: usize, end: usize, kind: Kind },
    /// Connect the RTP socket to the latched source and catch strangers beside it.
    Connect { side: Side, to: SocketAddr },
    /// Disconnect the RTP socket: the latch is open again.
    Release { side: Side },
    /// The first valid RTP packet of this leg's peer has come.
    Started { side: Side, from: SocketAddr },
    /// Nothing has come from this leg's peer for its `silent_after`.
    Silent { side: Side },
}

/// The actions of one input, and the bytes of the packets among them. Kept and cleared, so that nothing is allocated a packet.
#[derive(Debug, Default)]
pub struct Output {
    pub bytes: Vec<u8>,
    pub actions: Vec<Action>,
}

impl Output {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.actions.clear();
    }

    pub fn rtp(&mut self, side: Side, to: SocketAddr, header: rtp::Header, payload: &[u8], kind: Kind) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&header.encode());
        self.bytes.extend_from_slice(payload);
        let end = self.bytes.len();
        self.actions.push(Action::Send { side, channel: Channel::Rtp, to, start, end, kind });
    }
}

/// What the far end's RTCP says of our stream.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FarReport {
    pub fraction_lost: f64,
    pub cumulative_lost: i64,
    pub jitter_ms: f64,
    pub round_trip_ms: Option<f64>,
}

/// The counts of one leg (bridge/media/relay.py: LegReport). Times are in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct LegReport {
    pub remote: Option<SocketAddr>,
    pub received: u64,
    pub received_bytes: u64,
    pub expected: u64,
    pub lost: u64,
    pub duplicate: u64,
    pub reordered: u64,
    pub jitter_ms_mean: f64,
    pub jitter_ms_max: f64,
    pub sent: u64,
    pub sent_bytes: u64,
    pub filled: u64,
    pub refused: Refused,
    pub rtcp_received: u64,
    pub rtcp_sent: u64,
    pub rtcp: Option<FarReport>,
    pub first_received_at: Option<u64>,
    pub last_received_at: Option<u64>,
    pub longest_gap: u64,
    pub longest_sent_gap: u64,
}

/// What must be random in a session, drawn by whoever opens it.
#[derive(Clone, Debug)]
pub struct Identity {
    pub beginnings: [Beginning; 2],
    /// The canonical name (RFC 7022 §4.2: random, for this session only).
    pub cname: [u8; 16],
    pub seed: u64,
    /// Nanoseconds from 1900 to the zero of the monotonic clock.
    pub wall: u64,
}

/// One call's media.
#[derive(Debug)]
pub struct Session {
    legs: [Leg; 2],
    cname: [u8; 16],
    wall: u64,
    random: Random,
}

impl Session {
    pub fn new(identity: Identity) -> Self {
        let [carrier, platform] = identity.beginnings;
        Session {
            legs: [Leg::new(Side::Carrier, carrier), Leg::new(Side::Platform, platform)],
            cname: identity.cname,
            wall: identity.wall,
            random: Random::new(identity.seed),
        }
    }

    /// The leg on `side` and the one opposite.
    fn pair(&mut self, side: Side) -> (&mut Leg, &mut Leg) {
        let [carrier, platform] = &mut self.legs;
        match side {
            Side::Carrier => (carrier, platform),
            Side::Platform => (platform, carrier),
        }
    }

    /// Replace what is known of one leg's media.
    pub fn update(&mut self, side: Side, media: LegMedia, now: u64, out: &mut Output) {
        self.legs[side as usize].update(media, now, &mut self.random, out);
        self.handle_timeout(now, out);
    }

    /// Take a datagram from the peer's side of the network. True if it came from a source that the leg listens to.
    pub fn receive(
        &mut self,
        side: Side,
        channel: Channel,
        source: SocketAddr,
        datagram: &[u8],
        now: u64,
        out: &mut Output,
    ) -> bool {
        let wall = self.wall;
        let (near, far) = self.pair(side);
        if channel == Channel::Rtcp || (rtp::looks_like_rtcp(datagram) && !near.takes_as_rtp(datagram)) {
            return near.receive_rtcp(channel, source, datagram, wall, now);
        }
        match near.receive_rtp(far, source, datagram, now, out) {
            Ok(()) => true,
            Err(refusal) => {
                near.refuse(refusal);
                refusal != Refusal::Stranger
            }
        }
    }

    /// Count a datagram that reached the socket beside a connected one: by definition not the peer's.
    pub fn receive_stranger(&mut self, side: Side) {
        self.legs[side as usize].refuse(Refusal::Stranger);
    }

    /// Note that the network says that the peer's port is closed.
    pub fn unreachable(&mut self, side: Side) {
        self.legs[side as usize].unreachable();
    }

    /// Take back what the kernel did not send.
    pub fn not_sent(&mut self, side: Side, kind: Kind, octets: usize) {
        self.legs[side as usize].not_sent(kind, octets);
    }

    /// Do what is due: fill frames, RTCP reports, latches that come to rest.
    pub fn handle_timeout(&mut self, now: u64, out: &mut Output) {
        for leg in &mut self.legs {
            leg.handle_timeout(self.wall, &self.cname, now, &mut self.random, out);
        }
    }

    pub fn next_timeout(&self) -> Option<u64> {
        self.legs.iter().filter_map(Leg::next_timeout).min()
    }

    /// Say goodbye to both peers.
    pub fn close(&mut self, now: u64, out: &mut Output) {
        for leg in &mut self.legs {
            leg.close(self.wall, &self.cname, now, out);
        }
    }

    pub fn report(&self, side: Side) -> LegReport {
        self.legs[side as usize].report()
    }
}
