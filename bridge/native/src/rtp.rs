//! RTP packets on the wire (RFC 3550 §5.1): reading any bytes safely, writing our own twelve-byte header.

/// The length of a header without contributing sources or extension.
pub const HEADER: usize = 12;

/// The most payload that a plausible speech packet carries: an Ethernet frame without IPv4, UDP and RTP headers.
pub const MAX_PAYLOAD: usize = 1460;

/// One parsed RTP packet; the payload is borrowed from the datagram, without its padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    pub marker: bool,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    pub payload: &'a [u8],
}

/// Why a datagram is no RTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    Short,
    Version,
    Sources,
    Extension,
    Padding,
}

impl<'a> Packet<'a> {
    /// Read a datagram as RTP. Contributing sources and the header extension are skipped: they end on this leg.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Malformed> {
        if datagram.len() < HEADER {
            return Err(Malformed::Short);
        }
        let flags = datagram[0];
        if flags >> 6 != 2 {
            return Err(Malformed::Version);
        }
        let mut start = HEADER + 4 * usize::from(flags & 0x0F);
        if start > datagram.len() {
            return Err(Malformed::Sources);
        }
        if flags & 0x10 != 0 {
            // RFC 3550 §5.3.1: the length counts 32-bit words after the four-octet extension header.
            let words = datagram.get(start + 2..start + 4).ok_or(Malformed::Extension)?;
            start += 4 + 4 * usize::from(u16::from_be_bytes([words[0], words[1]]));
            if start > datagram.len() {
                return Err(Malformed::Extension);
            }
        }
        let mut end = datagram.len();
        if flags & 0x20 != 0 {
            // RFC 3550 §5.1: the last octet counts the padding, itself included, so 0 is impossible.
            let padding = usize::from(datagram[end - 1]);
            if padding == 0 || padding > end - start {
                return Err(Malformed::Padding);
            }
            end -= padding;
        }
        Ok(Packet {
            marker: datagram[1] & 0x80 != 0,
            payload_type: datagram[1] & 0x7F,
            sequence: u16::from_be_bytes([datagram[2], datagram[3]]),
            timestamp: u32::from_be_bytes([datagram[4], datagram[5], datagram[6], datagram[7]]),
            ssrc: u32::from_be_bytes([datagram[8], datagram[9], datagram[10], datagram[11]]),
            payload: &datagram[start..end],
        })
    }
}

/// The header fields of a packet that we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub marker: bool,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = 0x80;
        bytes[1] = u8::from(self.marker) << 7 | self.payload_type & 0x7F;
        bytes[2..4].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.ssrc.to_be_bytes());
        bytes
    }
}

/// Tell whether a datagram on an RTP port is RTCP by its packet type, 192 to 223 (RFC 5761 §4).
pub fn looks_like_rtcp(datagram: &[u8]) -> bool {
    datagram.len() >= 2 && datagram[0] >> 6 == 2 && (192..=223).contains(&datagram[1])
}

/// The signed distance from `from` to `to` on the circle of 16-bit sequence numbers.
pub fn sequence_distance(from: u16, to: u16) -> i32 {
    i32::from(to.wrapping_sub(from) as i16)
}

/// The signed distance from `from` to `to` on the circle of 32-bit timestamps.
pub fn timestamp_distance(from: u32, to: u32) -> i64 {
    i64::from(to.wrapping_sub(from) as i32)
}

/// What a telephone-event payload says of its event (RFC 4733 §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TelephoneEvent {
    pub event_code: u8,
    pub end: bool,
    pub duration: u16,
}

impl TelephoneEvent {
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let bytes = payload.get(..4)?;
        Some(TelephoneEvent {
            event_code: bytes[0],
            end: bytes[1] & 0x80 != 0,
            duration: u16::from_be_bytes([bytes[2], bytes[3]]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(flags: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![flags, 0x80, 0x12, 0x34, 0, 0, 0, 160, 0xDE, 0xAD, 0xBE, 0xEF];
        bytes.extend_from_slice(rest);
        bytes
    }

    #[test]
    fn a_plain_packet_is_read_field_by_field() {
        let bytes = packet(0x80, &[1, 2, 3]);
        let parsed = Packet::parse(&bytes).expect("valid");
        assert!(parsed.marker);
        assert_eq!(parsed.payload_type, 0);
        assert_eq!(parsed.sequence, 0x1234);
        assert_eq!(parsed.timestamp, 160);
        assert_eq!(parsed.ssrc, 0xDEAD_BEEF);
        assert_eq!(parsed.payload, [1, 2, 3]);
    }

    #[test]
    fn sources_extension_and_padding_are_no_payload() {
        let mut rest = vec![0; 8]; // two contributing sources
        rest.extend_from_slice(&[0xBE, 0xDE, 0, 1, 9, 9, 9, 9]); // one word of extension
        rest.extend_from_slice(&[7, 7, 7, 0, 0, 3]); // payload, three octets of padding
        let bytes = packet(0x80 | 0x20 | 0x10 | 2, &rest);
        assert_eq!(Packet::parse(&bytes).expect("valid").payload, [7, 7, 7]);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        assert_eq!(Packet::parse(&packet(0x80, &[])[..11]), Err(Malformed::Short));
        assert_eq!(Packet::parse(&packet(0x40, &[])), Err(Malformed::Version));
        assert_eq!(Packet::parse(&packet(0x8F, &[0; 59])), Err(Malformed::Sources));
        assert_eq!(Packet::parse(&packet(0x90, &[0, 0, 0])), Err(Malformed::Extension));
        assert_eq!(Packet::parse(&packet(0x90, &[0, 0, 0xFF, 0xFF])), Err(Malformed::Extension));
        assert_eq!(Packet::parse(&packet(0xA0, &[0])), Err(Malformed::Padding));
        assert_eq!(Packet::parse(&packet(0xA0, &[1, 3])), Err(Malformed::Padding));
    }

    #[test]
    fn rtcp_is_told_from_rtp_by_its_type() {
        assert!(looks_like_rtcp(&[0x80, 200]));
        assert!(looks_like_rtcp(&[0x81, 207]));
        assert!(!looks_like_rtcp(&[0x80, 0x80]));
        assert!(!looks_like_rtcp(&[0x80, 101]));
        assert!(!looks_like_rtcp(&[0x80]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_packet_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(parsed) = Packet::parse(&bytes) {
                prop_assert!(parsed.payload.len() + HEADER <= bytes.len());
            }
            let _ = TelephoneEvent::parse(&bytes);
            let _ = looks_like_rtcp(&bytes);
        }

        #[test]
        fn a_written_header_reads_back(
            marker: bool, payload_type in 0u8..128, sequence: u16, timestamp: u32, ssrc: u32,
        ) {
            let header = Header { marker, payload_type, sequence, timestamp, ssrc };
            let bytes = header.encode();
            let parsed = Packet::parse(&bytes).expect("valid");
            prop_assert_eq!(
                (parsed.marker, parsed.payload_type, parsed.sequence, parsed.timestamp, parsed.ssrc),
                (marker, payload_type, sequence, timestamp, ssrc)
            );
        }
    }
}
