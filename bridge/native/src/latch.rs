//! Which source address a leg believes: the SDP address first, then the real one, proven by RTP from a permitted source.
//!
//! RTP (`Latch`): SDP address → latched by the first valid packet from a permitted source → fixed when the window has
//! passed, or at once when the source is the SDP address itself. Within the window only the exact SDP address replaces
//! what is latched. Fixed means that the socket is connected, and any other source is a stranger (T01, T02).
//! RTCP (`RtcpLatch`): the same rule, learned apart and never used for RTP (T03).

use std::net::{IpAddr, SocketAddr};

/// A network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Read `192.0.2.0/24`, `2001:db8::/32` or a single address. None if it is no network.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(longest);
        (prefix <= longest).then_some(Network { address, prefix })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix);
                (network.to_bits() ^ address.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.prefix);
                (network.to_bits() ^ address.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// What the SDP and the profile say of a leg's source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permission {
    pub signalled: Option<SocketAddr>,
    pub permitted: Vec<Network>,
    /// Nanoseconds from the first packet of a permitted source in which the source may be replaced.
    pub window: u64,
}

impl Permission {
    /// The SDP address with any port, or a permitted network.
    fn allows(&self, source: SocketAddr) -> bool {
        self.signalled.is_some_and(|signalled| same_host(signalled, source))
            || self.permitted.iter().any(|network| network.contains(source.ip()))
    }

    fn is_exact(&self, source: SocketAddr) -> bool {
        self.signalled.is_some_and(|signalled| same(signalled, source))
    }
}

fn same_host(one: SocketAddr, other: SocketAddr) -> bool {
    one.ip() == other.ip()
}

/// Equal address and port; the scope and flow label of an IPv6 source tell nothing more.
pub fn same(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && same_host(one, other)
}

/// What a source is to a leg, before its packet is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The peer, as latched.
    Peer,
    /// A permitted source that becomes the peer if its packet proves to be RTP.
    Candidate,
    Stranger,
}

/// The RTP latch of one leg.
#[derive(Clone, Debug, Default)]
pub struct Latch {
    permission: Permission,
    /// The last SDP address: one that a hold withdraws (0.0.0.0, RFC 3264 §8.4) and the resumption repeats has not moved.
    named: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    /// The peer before the SDP address changed: heard until the new one speaks (RFC 3264 §8.3.1, R33).
    former: Option<SocketAddr>,
    /// When the window ends; None: no packet from a permitted source yet.
    closes_at: Option<u64>,
    fixed: bool,
    changed_at: u64,
}

impl Latch {
    /// Take what signalling now says. True if a fixed latch was opened again.
    pub fn permit(&mut self, permission: Permission, now: u64) -> bool {
        let moved = permission.signalled.is_some() && permission.signalled != self.named;
        self.named = permission.signalled.or(self.named);
        self.permission = permission;
        if !moved || self.peer.is_none() {
            self.changed_at = if moved { now } else { self.changed_at };
            return false;
        }
        self.changed_at = now;
        if self.peer.is_some_and(|peer| self.permission.is_exact(peer)) {
            return false; // the new SDP names the source that is already latched
        }
        self.former = self.peer.take();
        self.closes_at = None;
        std::mem::take(&mut self.fixed)
    }

    pub fn judge(&self, source: SocketAddr, now: u64) -> Source {
        if self.peer.is_some_and(|peer| same(peer, source)) {
            return Source::Peer;
        }
        if self.fixed {
            return Source::Stranger;
        }
        if self.former.is_some_and(|former| same(former, source)) {
            // After the window the new address has had its chance: a source that never moved is the peer itself.
            let waited = now >= self.changed_at.saturating_add(self.permission.window);
            return if waited && self.permission.allows(source) { Source::Candidate } else { Source::Peer };
        }
        match self.peer {
            None if self.permission.allows(source) => Source::Candidate,
            Some(_) if self.permission.is_exact(source) => Source::Candidate,
            _ => Source::Stranger,
        }
    }

    /// Take a candidate as the peer: its packet was valid RTP with a negotiated payload type and a plausible length.
    pub fn prove(&mut self, source: SocketAddr, now: u64) {
        self.peer = Some(source);
        self.former = None;
        self.closes_at.get_or_insert(now.saturating_add(self.permission.window));
    }

    /// Fix the latch if its time has come; returns the address to connect the socket to.
    pub fn fix(&mut self, now: u64) -> Option<SocketAddr> {
        let peer = self.peer?;
        let over = self.closes_at.is_some_and(|at| at <= now) || self.permission.is_exact(peer);
        if self.fixed || !over {
            return None;
        }
        self.fixed = true;
        Some(peer)
    }

    /// When `fix` has something to do.
    pub fn fixes_at(&self) -> Option<u64> {
        if self.fixed { None } else { self.closes_at }
    }

    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Where media goes: the real source once it is known, the SDP address before.
    pub fn destination(&self) -> Option<SocketAddr> {
        self.peer.or(self.permission.signalled)
    }

    /// Tell whether the real source stands on another host than the SDP says (the peer is behind NAT).
    pub fn differs_from_sdp(&self) -> bool {
        self.peer.is_some_and(|peer| self.permission.signalled.is_some_and(|sdp| !same_host(peer, sdp)))
    }
}

/// The RTCP latch of one leg whose RTCP has a port of its own.
#[derive(Clone, Debug, Default)]
pub struct RtcpLatch {
    signalled: Option<SocketAddr>,
    named: Option<SocketAddr>,
    peer: Option<SocketAddr>,
}

impl RtcpLatch {
    /// Take the signalled RTCP address; a changed one opens the latch.
    pub fn permit(&mut self, signalled: Option<SocketAddr>) {
        if signalled.is_some() && signalled != self.named {
            self.named = signalled;
            self.peer = None;
        }
        self.signalled = signalled;
    }

    /// Believe or refuse the source of a valid RTCP packet.
    ///
    /// Exact are the signalled address and the port above the latched RTP source; these two replace anything. The rest of the
    /// signalled host, the RTP source's host and the permitted networks may only come first.
    pub fn hear(&mut self, source: SocketAddr, rtp: &Latch) -> bool {
        if self.peer.is_some_and(|peer| same(peer, source)) {
            return true;
        }
        let exact = self.signalled.is_some_and(|signalled| same(signalled, source))
            || rtp.peer().and_then(port_above).is_some_and(|address| same(address, source));
        let host = self.signalled.is_some_and(|signalled| same_host(signalled, source))
            || rtp.peer().is_some_and(|peer| same_host(peer, source))
            || (rtp.peer().is_none() && rtp.permission.allows(source));
        let believed = exact || (self.peer.is_none() && host);
        if believed {
            self.peer = Some(source);
        }
        believed
    }

    /// Where RTCP goes: its latched source; else the port above an RTP source behind NAT; else the signalled address.
    pub fn destination(&self, rtp: &Latch) -> Option<SocketAddr> {
        let behind_nat = rtp.peer().filter(|_| rtp.differs_from_sdp()).and_then(port_above);
        self.peer.or(behind_nat).or(self.signalled)
    }
}

/// The RTCP address that goes with an RTP address (RFC 3550 §11).
pub fn port_above(address: SocketAddr) -> Option<SocketAddr> {
    Some(SocketAddr::new(address.ip(), address.port().checked_add(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn permission(signalled: &str, permitted: &[&str]) -> Permission {
        Permission {
            signalled: Some(at(signalled)),
            permitted: permitted.iter().map(|text| Network::parse(text).expect("a network")).collect(),
            window: SECOND,
        }
    }

    fn latch(signalled: &str, permitted: &[&str]) -> Latch {
        let mut latch = Latch::default();
        latch.permit(permission(signalled, permitted), 0);
        latch
    }

    #[test]
    fn networks_contain_what_their_prefix_says() {
        let network = Network::parse("192.0.2.0/24").expect("a network");
        assert!(network.contains(at("192.0.2.255:1").ip()));
        assert!(!network.contains(at("192.0.3.0:1").ip()));
        assert!(Network::parse("0.0.0.0/0").expect("all").contains(at("203.0.113.9:1").ip()));
        assert!(!Network::parse("0.0.0.0/0").expect("all").contains(at("[::1]:1").ip()));
        assert!(Network::parse("::/0").expect("all").contains(at("[2001:db8::1]:1").ip()));
        assert!(Network::parse("192.0.2.1").expect("one").contains(at("192.0.2.1:1").ip()));
        for wrong in ["192.0.2.0/33", "2001:db8::/129", "example.com", "", "192.0.2.0/x"] {
            assert_eq!(Network::parse(wrong), None);
        }
    }

    #[test]
    fn media_goes_to_the_sdp_address_until_another_source_has_proven_itself() {
        let mut latch = latch("192.0.2.1:4000", &[]);
        assert_eq!(latch.destination(), Some(at("192.0.2.1:4000")));
        assert_eq!(latch.judge(at("192.0.2.1:5000"), 0), Source::Candidate);
        assert_eq!(latch.destination(), Some(at("192.0.2.1:4000")));
        latch.prove(at("192.0.2.1:5000"), 0);
        assert_eq!(latch.destination(), Some(at("192.0.2.1:5000")));
    }

    #[test]
    fn a_source_outside_the_permitted_is_a_stranger_before_and_after() {
        let mut latch = latch("192.0.2.1:4000", &["198.51.100.0/24"]);
        assert_eq!(latch.judge(at("203.0.113.5:4000"), 0), Source::Stranger);
        latch.prove(at("192.0.2.1:4000"), 0);
        assert_eq!(latch.fix(0), Some(at("192.0.2.1:4000")));
        assert_eq!(latch.judge(at("203.0.113.5:4000"), 0), Source::Stranger);
        assert_eq!(latch.judge(at("192.0.2.1:4002"), 0), Source::Stranger);
        assert_eq!(latch.judge(at("198.51.100.9:4000"), 0), Source::Stranger);
    }

    #[test]
    fn the_exact_sdp_address_wins_within_the_window_and_nothing_else_does() {
        let mut latch = latch("192.0.2.1:4000", &["198.51.100.0/24"]);
        latch.prove(at("198.51.100.9:7000"), 0);
        assert_eq!(latch.fix(SECOND / 2), None);
        assert_eq!(latch.judge(at("198.51.100.10:7000"), SECOND / 2), Source::Stranger);
        assert_eq!(latch.judge(at("192.0.2.1:4002"), SECOND / 2), Source::Stranger);
        assert_eq!(latch.judge(at("192.0.2.1:4000"), SECOND / 2), Source::Candidate);
        latch.prove(at("192.0.2.1:4000"), SECOND / 2);
        assert_eq!(latch.fix(SECOND / 2), Some(at("192.0.2.1:4000")));
        assert_eq!(latch.judge(at("198.51.100.9:7000"), SECOND / 2), Source::Stranger);
    }

    #[test]
    fn the_window_counts_from_the_first_packet_and_then_fixes_the_source() {
        let mut latch = latch("10.0.0.1:4000", &["198.51.100.9/32"]);
        assert_eq!(latch.fixes_at(), None);
        latch.prove(at("198.51.100.9:7000"), 5 * SECOND);
        assert_eq!(latch.fixes_at(), Some(6 * SECOND));
        assert_eq!(latch.fix(6 * SECOND - 1), None);
        assert_eq!(latch.fix(6 * SECOND), Some(at("198.51.100.9:7000")));
        assert_eq!(latch.fix(6 * SECOND), None);
        assert_eq!(latch.judge(at("10.0.0.1:4000"), 6 * SECOND), Source::Stranger);
    }

    #[test]
    fn a_new_sdp_address_opens_the_latch_and_the_old_source_is_heard_until_the_new_one_speaks() {
        // R33
        let mut latch = latch("192.0.2.1:4000", &[]);
        latch.prove(at("192.0.2.1:4000"), 0);
        latch.fix(0);
        assert!(latch.permit(permission("192.0.2.1:6000", &[]), 10 * SECOND));
        assert_eq!(latch.destination(), Some(at("192.0.2.1:6000")));
        assert_eq!(latch.judge(at("192.0.2.1:4000"), 10 * SECOND), Source::Peer);
        assert_eq!(latch.judge(at("192.0.2.1:6000"), 10 * SECOND), Source::Candidate);
        latch.prove(at("192.0.2.1:6000"), 10 * SECOND);
        assert_eq!(latch.fix(10 * SECOND), Some(at("192.0.2.1:6000")));
        assert_eq!(latch.judge(at("192.0.2.1:4000"), 10 * SECOND), Source::Stranger);
    }

    #[test]
    fn a_source_that_never_moved_is_latched_again_after_the_window() {
        let mut latch = latch("10.0.0.1:4000", &["198.51.100.9/32"]);
        latch.prove(at("198.51.100.9:7000"), 0);
        latch.fix(SECOND);
        assert!(latch.permit(permission("10.0.0.1:4002", &["198.51.100.9/32"]), 10 * SECOND));
        assert_eq!(latch.judge(at("198.51.100.9:7000"), 10 * SECOND), Source::Peer);
        assert_eq!(latch.judge(at("198.51.100.9:7000"), 11 * SECOND), Source::Candidate);
    }

    #[test]
    fn the_same_sdp_address_again_changes_nothing() {
        let mut latch = latch("192.0.2.1:4000", &[]);
        latch.prove(at("192.0.2.1:4000"), 0);
        latch.fix(0);
        assert!(!latch.permit(permission("192.0.2.1:4000", &["198.51.100.0/24"]), SECOND));
        assert_eq!(latch.judge(at("192.0.2.1:4000"), SECOND), Source::Peer);
        assert_eq!(latch.judge(at("198.51.100.1:4000"), SECOND), Source::Stranger);
    }

    #[test]
    fn rtcp_is_believed_from_its_own_host_and_the_exact_address_wins() {
        // T03
        let rtp = latch("192.0.2.1:4000", &[]);
        let mut rtcp = RtcpLatch::default();
        rtcp.permit(Some(at("192.0.2.1:4001")));
        assert_eq!(rtcp.destination(&rtp), Some(at("192.0.2.1:4001")));
        assert!(!rtcp.hear(at("203.0.113.5:4001"), &rtp));
        assert!(rtcp.hear(at("192.0.2.1:9001"), &rtp));
        assert!(!rtcp.hear(at("192.0.2.1:9003"), &rtp));
        assert_eq!(rtcp.destination(&rtp), Some(at("192.0.2.1:9001")));
        assert!(rtcp.hear(at("192.0.2.1:4001"), &rtp));
        assert!(!rtcp.hear(at("192.0.2.1:9001"), &rtp));
    }

    #[test]
    fn rtcp_follows_an_rtp_source_behind_nat_to_the_port_above() {
        let mut rtp = latch("10.0.0.1:4000", &["198.51.100.9/32"]);
        rtp.prove(at("198.51.100.9:7000"), 0);
        let mut rtcp = RtcpLatch::default();
        rtcp.permit(Some(at("10.0.0.1:4001")));
        assert_eq!(rtcp.destination(&rtp), Some(at("198.51.100.9:7001")));
        assert!(rtcp.hear(at("198.51.100.9:7001"), &rtp));
        assert!(!rtcp.hear(at("198.51.100.10:7001"), &rtp));
    }

    #[test]
    fn rtcp_never_proves_an_rtp_source() {
        let rtp = latch("192.0.2.1:4000", &[]);
        let mut rtcp = RtcpLatch::default();
        rtcp.permit(Some(at("192.0.2.1:4001")));
        rtcp.hear(at("192.0.2.1:9001"), &rtp);
        assert_eq!(rtp.peer(), None);
    }

    proptest! {
        #[test]
        fn whatever_speaks_no_source_outside_the_permitted_is_ever_latched(
            hosts in proptest::collection::vec((0u8..6, 0u16..4, 0u64..300), 1..60),
        ) {
            let mut latch = latch("10.0.0.0:4000", &["10.0.0.2/31"]);
            let mut now = 0;
            for (host, port, wait) in hosts {
                now += wait * 1_000_000;
                let source = SocketAddr::from(([10, 0, 0, host], 4000 + port));
                if latch.judge(source, now) == Source::Candidate {
                    latch.prove(source, now);
                }
                if let Some(fixed) = latch.fix(now) {
                    prop_assert_eq!(Some(fixed), latch.peer());
                }
                if let Some(peer) = latch.peer() {
                    prop_assert!([[10, 0, 0, 0], [10, 0, 0, 2], [10, 0, 0, 3]].map(IpAddr::from).contains(&peer.ip()));
                }
            }
        }
    }
}
