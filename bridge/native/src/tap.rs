//! A session's packets in a pcap file, written by a thread of its own.
//!
//! The relay hands packets over through a bounded queue and never waits: what the queue can't take is counted and left out. A disk that
//! fails ends the tap, not the call.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread;

/// LINKTYPE_RAW: packets begin with their IPv4 or IPv6 header.
const LINKTYPE_RAW: u32 = 101;
const SNAPLEN: u32 = 65_535;
const UDP: u8 = 17;

/// Packets that may wait for the disk: two seconds of a call in both directions on both legs.
const QUEUE: usize = 400;

/// One datagram as it was on the network.
#[derive(Debug)]
pub struct Record {
    /// Nanoseconds since 1970.
    pub at: u64,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub datagram: Box<[u8]>,
}

/// The header of a pcap file with microsecond times.
pub fn file_header() -> [u8; 24] {
    let mut header = [0; 24];
    header[..4].copy_from_slice(&0xA1B2_C3D4u32.to_le_bytes());
    header[4..6].copy_from_slice(&2u16.to_le_bytes());
    header[6..8].copy_from_slice(&4u16.to_le_bytes());
    header[16..20].copy_from_slice(&SNAPLEN.to_le_bytes());
    header[20..].copy_from_slice(&LINKTYPE_RAW.to_le_bytes());
    header
}

/// Append a record's pcap form: record header, IP header, UDP header, datagram.
pub fn write_record(record: &Record, out: &mut Vec<u8>) {
    let udp_length = 8 + record.datagram.len().min(65_000);
    let datagram = &record.datagram[..udp_length - 8];
    let ip_length = if record.source.is_ipv4() { 20 } else { 40 } + udp_length;
    out.extend_from_slice(&((record.at / 1_000_000_000) as u32).to_le_bytes());
    out.extend_from_slice(&((record.at % 1_000_000_000 / 1000) as u32).to_le_bytes());
    out.extend_from_slice(&(ip_length as u32).to_le_bytes());
    out.extend_from_slice(&(ip_length as u32).to_le_bytes());
    let start = out.len();
    let pseudo = match (record.source.ip(), record.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out.extend_from_slice(&[0x45, 0]);
            out.extend_from_slice(&(ip_length as u16).to_be_bytes());
            out.extend_from_slice(&[0, 0, 0x40, 0, 64, UDP, 0, 0]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&destination.octets());
            let checksum = !ones_sum(&out[start..], 0);
            out[start + 10..start + 12].copy_from_slice(&checksum.to_be_bytes());
            ones_sum(&out[start + 12..], 0)
        }
        (source, destination) => {
            out.extend_from_slice(&[0x60, 0, 0, 0]);
            out.extend_from_slice(&(udp_length as u16).to_be_bytes());
            out.extend_from_slice(&[UDP, 64]);
            out.extend_from_slice(&v6_octets(source));
            out.extend_from_slice(&v6_octets(destination));
            ones_sum(&out[start + 8..], 0)
        }
    };
    let udp = out.len();
    out.extend_from_slice(&record.source.port().to_be_bytes());
    out.extend_from_slice(&record.destination.port().to_be_bytes());
    out.extend_from_slice(&(udp_length as u16).to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(datagram);
    let mut checksum = !ones_sum(&out[udp..], u32::from(pseudo) + u32::from(UDP) + udp_length as u32);
    if checksum == 0 {
        checksum = 0xFFFF; // RFC 768: zero would mean that there is no checksum
    }
    out[udp + 6..udp + 8].copy_from_slice(&checksum.to_be_bytes());
}

fn v6_octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The one's complement sum of the Internet checksum (RFC 1071).
fn ones_sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = bytes.chunks(2).fold(start, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
    });
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

/// The relay's end of a tap.
#[derive(Debug)]
pub struct Tap {
    queue: SyncSender<Record>,
    dropped: Arc<AtomicU64>,
}

impl Tap {
    /// Create the file and start its thread; `dropped` counts the packets that the queue could not take.
    pub fn create(path: &Path, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let mut file = File::create(path)?;
        file.write_all(&file_header())?;
        let (queue, records) = sync_channel(QUEUE);
        thread::Builder::new().name("relay-tap".into()).spawn(move || {
            // The error has no one to go to: the queue closes, and the relay drops its end.
            let _ = write_all(BufWriter::new(file), &records);
        })?;
        Ok(Tap { queue, dropped })
    }

    /// Hand a packet over. False once the disk has failed.
    pub fn write(&self, record: Record) -> bool {
        match self.queue.try_send(record) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

fn write_all(mut file: impl Write, records: &Receiver<Record>) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let record = match records.try_recv() {
            Ok(record) => record,
            Err(TryRecvError::Disconnected) => return file.flush(),
            Err(TryRecvError::Empty) => {
                file.flush()?; // a reader sees whole packets whenever the call pauses
                match records.recv() {
                    Ok(record) => record,
                    Err(_) => return file.flush(),
                }
            }
        };
        bytes.clear();
        write_record(&record, &mut bytes);
        file.write_all(&bytes)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(source: &str, destination: &str, datagram: &[u8]) -> Record {
        Record {
            at: 1_700_000_000_123_456_789,
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
            datagram: datagram.into(),
        }
    }

    #[test]
    fn an_ipv4_packet_has_true_lengths_and_checksums() {
        let mut out = Vec::new();
        write_record(&record("192.0.2.1:4000", "198.51.100.2:5000", b"abc"), &mut out);
        assert_eq!(out[..4], 1_700_000_000u32.to_le_bytes());
        assert_eq!(out[4..8], 123_456u32.to_le_bytes());
        assert_eq!(out[8..12], 31u32.to_le_bytes());
        let ip = &out[16..];
        assert_eq!(ip.len(), 31);
        assert_eq!(ones_sum(&ip[..20], 0), 0xFFFF);
        assert_eq!(ones_sum(&ip[20..], u32::from(ones_sum(&ip[12..20], 0)) + 17 + 11), 0xFFFF);
        assert_eq!(ip[20..22], 4000u16.to_be_bytes());
        assert_eq!(&ip[28..], b"abc");
    }

    #[test]
    fn an_ipv6_packet_has_the_checksum_that_ipv6_demands() {
        let mut out = Vec::new();
        write_record(&record("[2001:db8::1]:4000", "[2001:db8::2]:5000", b"abcd"), &mut out);
        let ip = &out[16..];
        assert_eq!(ip.len(), 40 + 8 + 4);
        assert_eq!(ones_sum(&ip[40..], u32::from(ones_sum(&ip[8..40], 0)) + 17 + 12), 0xFFFF);
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_never_waits() {
        let (queue, records) = sync_channel(1);
        let tap = Tap { queue, dropped: Arc::default() };
        assert!(tap.write(record("192.0.2.1:1", "192.0.2.2:1", b"")));
        assert!(tap.write(record("192.0.2.1:1", "192.0.2.2:1", b"")));
        assert_eq!(tap.dropped.load(Ordering::Relaxed), 1);
        drop(records);
        assert!(!tap.write(record("192.0.2.1:1", "192.0.2.2:1", b"")));
    }

    #[test]
    fn a_disk_that_fails_ends_the_writer() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (queue, records) = sync_channel(1);
        queue.send(record("192.0.2.1:1", "192.0.2.2:1", b"x")).expect("room");
        assert!(write_all(Full, &records).is_err());
    }
}
