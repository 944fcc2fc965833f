//! The kernel's door: clock, randomness, eventfd, epoll and UDP sockets. The only file with `unsafe`.

#![allow(unsafe_code)]

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SECOND: u64 = 1_000_000_000;

/// Seconds from 1900, where NTP time begins, to 1970.
const NTP_EPOCH: u64 = 2_208_988_800;

fn read_clock(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}

/// CLOCK_MONOTONIC in nanoseconds: what Python's `time.monotonic()` reads.
pub fn now() -> u64 {
    read_clock(ClockId::Monotonic)
}

/// Nanoseconds since 1970.
pub fn wall_clock() -> u64 {
    read_clock(ClockId::Realtime)
}

/// Nanoseconds from 1900 to the zero of the monotonic clock.
pub fn ntp_offset() -> u64 {
    wall_clock() + NTP_EPOCH * SECOND - now()
}

/// Random octets from the kernel.
pub fn random_octets<const N: usize>() -> io::Result<[u8; N]> {
    let mut octets = [0; N];
    let mut filled = 0;
    while filled < N {
        filled += rustix::rand::getrandom(&mut octets[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(octets)
}

/// An eventfd: woken by one thread, waited on by another.
#[derive(Debug)]
pub struct Wake(OwnedFd);

impl Wake {
    pub fn new() -> io::Result<Self> {
        Ok(Wake(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Share an eventfd of the caller's: the duplicate stays valid whatever becomes of `fd`.
    pub fn adopt(fd: RawFd) -> io::Result<Self> {
        if fd < 0 {
            return Err(io::Error::from(Errno::BADF));
        }
        // SAFETY: the descriptor is only borrowed for the length of the system call, which fails if it is not open.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        Ok(Wake(rustix::io::fcntl_dupfd_cloexec(borrowed, 3)?))
    }

    pub fn wake(&self) {
        // It fails only when the counter is full, and then the other side is awake.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub fn drain(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

/// Descriptors that one wait may return.
const EVENTS_AT_ONCE: usize = 256;

/// An epoll set, level-triggered.
#[derive(Debug)]
pub struct Poll {
    epoll: OwnedFd,
    ready: Vec<u64>,
}

impl Poll {
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Poll { epoll, ready: Vec::with_capacity(EVENTS_AT_ONCE) })
    }

    pub fn add_wake(&self, wake: &Wake, token: u64) -> io::Result<()> {
        self.add(wake.0.as_fd(), token)
    }

    pub fn add_socket(&self, socket: &Socket, token: u64) -> io::Result<()> {
        self.add(socket.0.as_fd(), token)
    }

    /// Give a watched socket another token.
    pub fn rename_socket(&self, socket: &Socket, token: u64) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, &socket.0, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?)
    }

    fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?)
    }

    /// Wait until a descriptor is readable or `timeout` nanoseconds have passed, rounded up to a millisecond.
    pub fn wait(&mut self, timeout: Option<u64>) -> usize {
        let timeout = timeout.map(|timeout| {
            let milliseconds = timeout.div_ceil(1_000_000);
            Timespec { tv_sec: (milliseconds / 1000) as i64, tv_nsec: (milliseconds % 1000 * 1_000_000) as _ }
        });
        self.ready.clear();
        let mut events = [MaybeUninit::uninit(); EVENTS_AT_ONCE];
        // An interrupted wait is an early one.
        if let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            self.ready.extend(events.iter().map(|event| event.data.u64()));
        }
        self.ready.len()
    }

    /// The token of the `index`th descriptor that the last wait found readable.
    pub fn token(&self, index: usize) -> u64 {
        self.ready[index]
    }
}

/// What became of a packet that was handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub sent: bool,
    /// An ICMP message said before that the peer's port is closed.
    pub refused: bool,
}

/// What a socket had for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A datagram's length and source. The length is above the buffer's if the datagram was cut.
    Datagram(usize, SocketAddr),
    /// An ICMP message: the peer's port is closed.
    Refused,
    Nothing,
}

/// A non-blocking UDP socket.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Bind alone: an address that anybody else uses is refused.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Self::new(address)?;
        rustix::net::bind(&socket.0, &address)?;
        Ok(socket)
    }

    fn new(address: SocketAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
        if address.is_ipv6() {
            // A socket of one family: an IPv4 peer has an IPv4 address, never a mapped one.
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        Ok(Socket(socket))
    }

    /// Connect to the latched peer, and open a second socket on the same port for everybody else's packets.
    ///
    /// The kernel prefers the connected socket for the peer's packets. SO_REUSEADDR is set on both for the moment of the second
    /// bind only: left on, any process of this user could bind the port too.
    pub fn connect(&self, peer: SocketAddr, bound: SocketAddr) -> io::Result<Socket> {
        rustix::net::connect(&self.0, &peer)?;
        let beside = Self::new(bound)?;
        sockopt::set_socket_reuseaddr(&self.0, true)?;
        sockopt::set_socket_reuseaddr(&beside.0, true)?;
        let result = rustix::net::bind(&beside.0, &bound);
        sockopt::set_socket_reuseaddr(&self.0, false)?;
        sockopt::set_socket_reuseaddr(&beside.0, false)?;
        result?;
        Ok(beside)
    }

    /// Undo `connect`; the port stays bound.
    pub fn disconnect(&self) {
        let _ = rustix::net::connect_unspec(&self.0);
    }

    /// The address that the socket is bound to.
    pub fn local_address(&self) -> Option<SocketAddr> {
        rustix::net::getsockname(&self.0).ok()?.try_into().ok()
    }

    /// Receive one datagram.
    pub fn receive(&self, buffer: &mut [u8]) -> Received {
        match rustix::net::recvfrom(&self.0, &mut *buffer, RecvFlags::TRUNC) {
            Ok((_, length, Some(source))) => {
                source.try_into().map_or(Received::Nothing, |source| Received::Datagram(length, source))
            }
            Err(Errno::CONNREFUSED) => Received::Refused,
            Ok(_) | Err(_) => Received::Nothing,
        }
    }

    /// Send to the connected peer (`to` None) or to an address.
    pub fn send(&self, packet: &[u8], to: Option<SocketAddr>) -> Sent {
        let mut refused = false;
        // The kernel reports an ICMP error on the next send and does not send that packet: try once more.
        for _ in 0..2 {
            let result = match to {
                None => rustix::net::send(&self.0, packet, SendFlags::empty()),
                Some(to) => rustix::net::sendto(&self.0, packet, SendFlags::empty(), &to),
            };
            match result {
                Ok(_) => return Sent { sent: true, refused },
                Err(Errno::CONNREFUSED) => refused = true,
                Err(Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::INTR) => {}
                Err(_) => break,
            }
        }
        Sent { sent: false, refused }
    }
}

/// The address that packets of ours to `peer` leave from. Connecting a UDP socket sends nothing.
pub fn source_address(peer: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let probe = Socket::bind(SocketAddr::new(any, 0)).ok()?;
    rustix::net::connect(&probe.0, &peer).ok()?;
    Some(probe.local_address()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_for(socket: &Socket) -> Received {
        let mut poll = Poll::new().expect("epoll");
        poll.add_socket(socket, 0).expect("added");
        poll.wait(Some(SECOND));
        socket.receive(&mut [0; 64])
    }

    fn free_address() -> SocketAddr {
        let socket = Socket::bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
        socket.local_address().expect("bound")
    }

    #[test]
    fn a_bound_port_belongs_to_one() {
        let address = free_address();
        let _one = Socket::bind(address).expect("bound");
        assert!(Socket::bind(address).is_err());
    }

    #[test]
    fn strangers_reach_the_socket_beside_the_connected_one() {
        let address = free_address();
        let main = Socket::bind(address).expect("bound");
        let peer = Socket::bind("127.0.0.2:0".parse().expect("an address")).expect("bound");
        let stranger = Socket::bind("127.0.0.3:0".parse().expect("an address")).expect("bound");
        let peer_address = peer.local_address().expect("bound");
        let beside = main.connect(peer_address, address).expect("connected");
        stranger.send(b"stranger", Some(address));
        peer.send(b"peer", Some(address));
        assert_eq!(wait_for(&main), Received::Datagram(4, peer_address));
        assert!(matches!(wait_for(&beside), Received::Datagram(8, _)));
        assert!(Socket::bind(address).is_err());
        drop(beside);
        main.disconnect();
        stranger.send(b"again", Some(address));
        assert!(matches!(wait_for(&main), Received::Datagram(5, _)));
        assert_eq!(main.local_address(), Some(address));
    }

    #[test]
    fn the_source_address_is_that_of_the_route() {
        let peer = "127.0.0.7:9".parse().expect("an address");
        assert_eq!(source_address(peer), Some("127.0.0.1".parse().expect("an address")));
    }

    #[test]
    fn an_eventfd_wakes_a_waiting_set_once() {
        let wake = Wake::new().expect("eventfd");
        let mut poll = Poll::new().expect("epoll");
        poll.add_wake(&wake, 9).expect("added");
        wake.wake();
        assert_eq!(poll.wait(Some(SECOND)), 1);
        assert_eq!(poll.token(0), 9);
        wake.drain();
        assert_eq!(poll.wait(Some(0)), 0);
    }
}
