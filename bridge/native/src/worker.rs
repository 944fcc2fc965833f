//! One relay thread: epoll over the sockets of its sessions, their deadlines, and commands from the other side.
//!
//! Every ready socket is served once a wake-up; what is left in a socket makes it ready again (level-triggered). Nothing is
//! allocated for a packet, and no lock is taken for one: totals are handed over once a second, events once a wake-up.

use crate::relay::{Event, SessionReport, Shared};
use crate::rest::Resting;
use crate::session::{Action, Channel, LegMedia, LegReport, Output, Refused, Session, Side};
use crate::sys::{self, Poll, Received, Socket, Wake};
use crate::tap::{Record, Tap};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
const WAKE: u64 = u64::MAX;

/// Longer than any datagram that can be speech; one that is cut is no RTP.
const BUFFER: usize = 2048;

/// Under load a wake-up waits until so long after the one before, so that more packets share it. Measured at 10,000 packets
/// a second: 15.0 µs of CPU a packet without, 11.3 µs with 0.3 ms, 9.7 µs with 1 ms; a speech frame lasts 20 ms.
const PACE: u64 = 300_000;

/// What the other side asks of a worker.
#[derive(Debug)]
pub enum Command {
    Open(Box<Opening>),
    Update { session: u64, side: Side, media: Box<LegMedia> },
    Relabel { session: u64, label: usize },
    Close { session: u64 },
    Tap { session: u64, tap: Option<Tap> },
    Snapshot { session: u64, reply: SyncSender<Option<Box<SessionReport>>> },
    Stop,
}

/// Where a worker's commands come in. Who gives one wakes the worker if it is asleep, and only then.
#[derive(Debug)]
pub struct Inbox {
    pub commands: Receiver<Command>,
    pub wake: Arc<Wake>,
    pub asleep: Arc<AtomicBool>,
}

/// A session with its sockets bound.
#[derive(Debug)]
pub struct Opening {
    pub id: u64,
    pub session: Session,
    pub legs: [LegSockets; 2],
    pub label: usize,
}

/// The sockets of one leg.
#[derive(Debug)]
pub struct LegSockets {
    pub port: u16,
    pub bound: SocketAddr,
    pub rtp: Socket,
    pub rtcp: Socket,
    /// The peer that the RTP socket is connected to, and the socket for everybody else's packets.
    connected: Option<SocketAddr>,
    beside: Option<Socket>,
    local: IpAddr,
}

impl LegSockets {
    pub fn new(port: u16, bound: SocketAddr, rtp: Socket, rtcp: Socket) -> Self {
        LegSockets { port, bound, rtp, rtcp, connected: None, beside: None, local: bound.ip() }
    }

    /// Our address on a channel, as `peer` sees it.
    fn local(&mut self, channel: Channel, peer: SocketAddr) -> SocketAddr {
        if self.local.is_unspecified() {
            self.local = sys::source_address(peer).unwrap_or(self.local);
        }
        SocketAddr::new(self.local, self.port + channel as u16)
    }
}

/// What of a leg's report has gone into the totals.
#[derive(Clone, Copy, Debug, Default)]
pub struct LegTotals {
    pub received: u64,
    pub received_bytes: u64,
    pub expected: u64,
    pub lost: u64,
    pub sent: u64,
    pub sent_bytes: u64,
    pub filled: u64,
    pub refused: Refused,
}

impl LegTotals {
    pub fn of(report: &LegReport) -> Self {
        LegTotals {
            received: report.received,
            received_bytes: report.received_bytes,
            expected: report.expected,
            lost: report.lost,
            sent: report.sent,
            sent_bytes: report.sent_bytes,
            filled: report.filled,
            refused: report.refused,
        }
    }

    /// Add what `to` has over `from`. Counts that went down (a late packet was no loss after all) are taken back.
    pub fn add(&mut self, from: &LegTotals, to: &LegTotals) {
        let pairs = [
            (&mut self.received, from.received, to.received),
            (&mut self.received_bytes, from.received_bytes, to.received_bytes),
            (&mut self.expected, from.expected, to.expected),
            (&mut self.lost, from.lost, to.lost),
            (&mut self.sent, from.sent, to.sent),
            (&mut self.sent_bytes, from.sent_bytes, to.sent_bytes),
            (&mut self.filled, from.filled, to.filled),
        ];
        for (total, from, to) in pairs {
            *total = total.wrapping_add(to).wrapping_sub(from);
        }
        for (total, (from, to)) in self.refused.iter_mut().zip(from.refused.iter().zip(&to.refused)) {
            *total = total.wrapping_add(*to).wrapping_sub(*from);
        }
    }
}

#[derive(Debug)]
struct Slot {
    id: u64,
    session: Session,
    legs: [LegSockets; 2],
    label: usize,
    /// The heap entry that counts; older ones are void.
    armed_at: Option<u64>,
    tap: Option<Tap>,
    flushed: [LegTotals; 2],
}

/// Which way a captured packet went.
#[derive(Clone, Copy)]
enum Direction {
    In,
    Out,
}

/// Which socket of which slot is readable.
#[derive(Clone, Copy)]
enum Door {
    Rtp,
    Rtcp,
    Beside,
    /// An RTP socket at rest; the index is then the number among the resting.
    AfterCall,
}

#[derive(Clone, Copy)]
struct Token {
    index: u32,
    generation: u32,
    side: Side,
    door: Door,
}

impl Token {
    /// 32 bits of slot index, 29 of generation, 1 of side, 2 of door.
    fn pack(self) -> u64 {
        let generation = u64::from(self.generation & 0x1FFF_FFFF);
        u64::from(self.index) << 32 | generation << 3 | (self.side as u64) << 2 | self.door as u64
    }

    fn unpack(token: u64) -> Self {
        Token {
            index: (token >> 32) as u32,
            generation: (token >> 3) as u32 & 0x1FFF_FFFF,
            side: Side::BOTH[(token >> 2 & 1) as usize],
            door: match token & 3 {
                0 => Door::Rtp,
                1 => Door::Rtcp,
                2 => Door::Beside,
                _ => Door::AfterCall,
            },
        }
    }
}

/// How fast wake-ups follow one another.
#[derive(Debug, Default)]
struct Rhythm {
    woke_at: u64,
    /// The interval between wake-ups, smoothed over about sixteen.
    interval: u64,
}

impl Rhythm {
    fn wake(&mut self, now: u64) {
        let interval = now.saturating_sub(self.woke_at).min(10 * PACE);
        self.interval = (15 * self.interval + interval) / 16;
        self.woke_at = now;
    }

    /// Sleep a little if wake-ups are dense; returns the time after it.
    fn pace(&self, now: u64) -> u64 {
        let next = self.woke_at + PACE;
        // Twice the pace, so that the sleep itself does not end the state that it came from.
        if self.interval > 2 * PACE || next <= now {
            return now;
        }
        std::thread::sleep(Duration::from_nanos(next - now));
        sys::now()
    }
}

/// A thread's state.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    load: Arc<AtomicUsize>,
    inbox: Inbox,
    poll: Poll,
    slots: Vec<(u32, Option<Box<Slot>>)>,
    free: Vec<u32>,
    ids: HashMap<u64, u32>,
    deadlines: BinaryHeap<Reverse<(u64, u32, u32)>>,
    flush_at: u64,
    resting: Resting,
    out: Output,
    buffer: Box<[u8; BUFFER]>,
    events: Vec<Event>,
    rhythm: Rhythm,
    stopping: bool,
}

impl Worker {
    pub fn new(
        shared: Arc<Shared>,
        load: Arc<AtomicUsize>,
        inbox: Inbox,
        quarantine: u64,
    ) -> std::io::Result<Self> {
        let poll = Poll::new()?;
        poll.add_wake(&inbox.wake, WAKE)?;
        Ok(Worker {
            shared,
            load,
            inbox,
            poll,
            slots: Vec::new(),
            free: Vec::new(),
            ids: HashMap::new(),
            deadlines: BinaryHeap::new(),
            flush_at: 0,
            // A little less than the ports rest, so that the sockets are closed when the ports serve again.
            resting: Resting::new(quarantine / 10 * 9),
            out: Output::default(),
            buffer: Box::new([0; BUFFER]),
            events: Vec::new(),
            rhythm: Rhythm::default(),
            stopping: false,
        })
    }

    /// Serve until told to stop.
    pub fn run(mut self) {
        while !self.stopping {
            let now = self.rhythm.pace(sys::now());
            self.inbox.asleep.store(true, Ordering::SeqCst);
            self.obey(); // what was said before that woke nobody
            self.shared.publish(&mut self.events); // what came of it must not wait for the next waking
            let ready = self.poll.wait(self.timeout(now));
            self.inbox.asleep.store(false, Ordering::SeqCst);
            self.rhythm.wake(sys::now());
            if (0..ready).any(|index| self.poll.token(index) == WAKE) {
                self.inbox.wake.drain();
            }
            // Commands come first: a packet that was sent after them must find them obeyed.
            self.obey();
            for index in 0..ready {
                let token = self.poll.token(index);
                if token != WAKE {
                    self.serve(Token::unpack(token));
                }
            }
            let now = sys::now();
            self.serve_deadlines(now);
            while let Some(rest) = self.resting.rested(now) {
                self.shared.add_after_call(rest.label, rest.came);
            }
            if self.has_counts() && now >= self.flush_at {
                self.flush();
                self.flush_at = now + SECOND;
            }
            self.shared.publish(&mut self.events);
        }
        let open: Vec<u64> = self.ids.keys().copied().collect();
        for session in open {
            self.close(session);
        }
        self.flush(); // what came after calls until now
        self.shared.publish(&mut self.events);
    }

    /// Nanoseconds until something is due; None: sleep until a descriptor wakes us.
    fn timeout(&self, now: u64) -> Option<u64> {
        if self.stopping {
            return Some(0); // told while we were awake, so nobody will wake us
        }
        let deadline = self.deadlines.peek().map(|Reverse((at, ..))| *at);
        let flush = self.has_counts().then_some(self.flush_at);
        deadline
            .into_iter()
            .chain(flush)
            .chain(self.resting.next_timeout())
            .min()
            .map(|at| at.saturating_sub(now))
    }

    fn has_counts(&self) -> bool {
        !self.ids.is_empty() || self.resting.next_timeout().is_some()
    }

    fn slot(&mut self, index: u32, generation: u32) -> Option<&mut Slot> {
        let (present, slot) = self.slots.get_mut(index as usize)?;
        if *present != generation { None } else { slot.as_deref_mut() }
    }

    fn find(&self, session: u64) -> Option<(u32, u32)> {
        let index = *self.ids.get(&session)?;
        Some((index, self.slots[index as usize].0))
    }

    fn obey(&mut self) {
        while let Ok(command) = self.inbox.commands.try_recv() {
            match command {
                Command::Open(opening) => self.open(*opening),
                Command::Update { session, side, media } => {
                    if let Some((index, generation)) = self.find(session) {
                        self.drive(index, generation, |slot, now, _, out| {
                            slot.session.update(side, *media, now, out)
                        });
                    }
                }
                Command::Relabel { session, label } => {
                    if let Some(slot) =
                        self.ids.get(&session).and_then(|index| self.slots[*index as usize].1.as_mut())
                    {
                        // What was counted so far stays with the label that it was counted for.
                        let report = SessionReport::of(&slot.session);
                        self.shared.add_totals(slot.label, &mut slot.flushed, &report);
                        slot.label = label;
                    }
                }
                Command::Close { session } => self.close(session),
                Command::Tap { session, tap } => {
                    if let Some(slot) =
                        self.find(session).and_then(|(index, generation)| self.slot(index, generation))
                    {
                        slot.tap = tap;
                    }
                }
                Command::Snapshot { session, reply } => {
                    let slot =
                        self.find(session).and_then(|(index, generation)| self.slot(index, generation));
                    let report = slot.map(|slot| Box::new(SessionReport::of(&slot.session)));
                    let _ = reply.try_send(report);
                }
                Command::Stop => self.stopping = true,
            }
        }
    }

    fn open(&mut self, opening: Opening) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        let entry = &mut self.slots[index as usize];
        let generation = entry.0;
        let mut ready = true;
        for (side, leg) in Side::BOTH.into_iter().zip(&opening.legs) {
            let token = |door| Token { index, generation, side, door }.pack();
            ready &= self.poll.add_socket(&leg.rtp, token(Door::Rtp)).is_ok();
            ready &= self.poll.add_socket(&leg.rtcp, token(Door::Rtcp)).is_ok();
        }
        entry.1 = Some(Box::new(Slot {
            id: opening.id,
            session: opening.session,
            legs: opening.legs,
            label: opening.label,
            armed_at: None,
            tap: None,
            flushed: [LegTotals::default(); 2],
        }));
        self.ids.insert(opening.id, index);
        if !ready {
            self.close(opening.id); // no watches left: the call learns that its media has ended
        }
    }

    /// Receive one datagram and let its session act on it.
    fn serve(&mut self, token: Token) {
        let Token { index, generation, side, door } = token;
        if matches!(door, Door::AfterCall) {
            self.serve_resting(index, side);
            return;
        }
        self.drive(index, generation, |slot, _, buffer, out| {
            let leg = &slot.legs[side as usize];
            let (socket, channel) = match door {
                Door::Rtp => (Some(&leg.rtp), Channel::Rtp),
                Door::Rtcp => (Some(&leg.rtcp), Channel::Rtcp),
                Door::Beside | Door::AfterCall => (leg.beside.as_ref(), Channel::Rtp),
            };
            let Some(socket) = socket else { return };
            let (length, source) = match socket.receive(buffer) {
                Received::Datagram(length, source) => (length, source),
                Received::Refused => return slot.session.unreachable(side),
                Received::Nothing => return,
            };
            if matches!(door, Door::Beside) {
                slot.session.receive_stranger(side);
                return;
            }
            let now = sys::now();
            // A datagram that was cut is passed on empty: it is no RTP and counts as such.
            let datagram = buffer.get(..length).unwrap_or(&[]);
            let listened = slot.session.receive(side, channel, source, datagram, now, out);
            if listened {
                slot.capture(side, channel, Direction::In, source, datagram);
            }
        });
    }

    /// Run one input of a session and carry out its actions. A panic ends that session, nothing else.
    fn drive(
        &mut self,
        index: u32,
        generation: u32,
        input: impl FnOnce(&mut Slot, u64, &mut [u8], &mut Output),
    ) {
        let Some((present, Some(slot))) = self.slots.get_mut(index as usize) else {
            return;
        };
        if *present != generation & 0x1FFF_FFFF {
            return;
        }
        self.out.clear();
        let (out, events, poll) = (&mut self.out, &mut self.events, &self.poll);
        let (buffer, deadlines) = (&mut *self.buffer, &mut self.deadlines);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            input(slot, sys::now(), buffer, out);
            for at in 0..out.actions.len() {
                slot.perform(
                    out.actions[at],
                    &out.bytes,
                    poll,
                    Token { index, generation, side: Side::Carrier, door: Door::Beside },
                    events,
                );
            }
            if let Some(next) = slot.session.next_timeout()
                && slot.armed_at.is_none_or(|armed_at| next < armed_at)
            {
                slot.armed_at = Some(next);
                deadlines.push(Reverse((next, index, generation)));
            }
        }));
        if outcome.is_err() {
            self.shared.panics.fetch_add(1, Ordering::Relaxed);
            let id = slot.id;
            self.end(id, false);
        }
    }

    fn serve_deadlines(&mut self, now: u64) {
        while let Some(Reverse((at, index, generation))) = self.deadlines.peek().copied() {
            if at > now {
                return;
            }
            self.deadlines.pop();
            let Some(slot) = self.slot(index, generation).filter(|slot| slot.armed_at == Some(at)) else {
                continue;
            };
            slot.armed_at = None;
            self.drive(index, generation, |slot, now, _, out| slot.session.handle_timeout(now, out));
        }
    }

    fn close(&mut self, session: u64) {
        self.end(session, true);
    }

    /// End a session: `goodbye` unless its state can't be trusted any more.
    fn end(&mut self, session: u64, goodbye: bool) {
        let Some((index, generation)) = self.find(session) else {
            return;
        };
        if goodbye {
            // A panic in here ends the session by the other way, and then nothing is left to do.
            self.drive(index, generation, |slot, now, _, out| slot.session.close(now, out));
        }
        let (present, slot) = &mut self.slots[index as usize];
        let Some(slot) = slot.take() else { return };
        *present = (*present + 1) & 0x1FFF_FFFF;
        self.free.push(index);
        self.ids.remove(&session);
        let report = Box::new(SessionReport::of(&slot.session));
        let mut flushed = slot.flushed;
        self.shared.add_totals(slot.label, &mut flushed, &report);
        let ports = slot.legs.each_ref().map(|leg| leg.port);
        let now = sys::now();
        self.rest(slot.label, slot.legs.map(|leg| leg.rtp), now);
        self.shared.give_back(ports, now);
        self.load.fetch_sub(1, Ordering::Relaxed);
        self.events.push(Event::Closed { session, report });
    }

    /// Keep the RTP sockets of an ended session open, for everybody, while their ports rest.
    fn rest(&mut self, label: usize, sockets: [Socket; 2], now: u64) {
        let index = self.resting.next();
        for (side, socket) in Side::BOTH.into_iter().zip(&sockets) {
            socket.disconnect();
            let token = Token { index, generation: 0, side, door: Door::AfterCall };
            let _ = self.poll.rename_socket(socket, token.pack()); // unwatched, it counts nothing
        }
        if let Some(rest) = self.resting.push(label, sockets, now) {
            self.shared.add_after_call(rest.label, rest.came);
        }
    }

    fn serve_resting(&mut self, number: u32, side: Side) {
        if let Some(rest) = self.resting.get(number)
            && let Received::Datagram(..) = rest.sockets[side as usize].receive(&mut *self.buffer)
        {
            rest.came[side as usize] += 1;
        }
    }

    fn flush(&mut self) {
        for rest in self.resting.iter_mut() {
            self.shared.add_after_call(rest.label, std::mem::take(&mut rest.came));
        }
        for (_, slot) in &mut self.slots {
            if let Some(slot) = slot {
                let report = SessionReport::of(&slot.session);
                self.shared.add_totals(slot.label, &mut slot.flushed, &report);
            }
        }
    }
}

impl Slot {
    fn perform(&mut self, action: Action, bytes: &[u8], poll: &Poll, beside: Token, events: &mut Vec<Event>) {
        match action {
            Action::Send { side, channel, to, start, end, kind } => {
                let packet = &bytes[start..end];
                let leg = &self.legs[side as usize];
                let sent = match channel {
                    Channel::Rtp if leg.connected == Some(to) => leg.rtp.send(packet, None),
                    Channel::Rtp => leg.rtp.send(packet, Some(to)),
                    Channel::Rtcp => leg.rtcp.send(packet, Some(to)),
                };
                if sent.refused && channel == Channel::Rtp {
                    self.session.unreachable(side);
                }
                if sent.sent {
                    self.capture(side, channel, Direction::Out, to, packet);
                } else {
                    self.session.not_sent(side, kind, packet.len());
                }
            }
            Action::Connect { side, to } => self.connect(side, to, poll, Token { side, ..beside }),
            Action::Release { side } => {
                let leg = &mut self.legs[side as usize];
                leg.beside = None;
                leg.rtp.disconnect();
                leg.connected = None;
            }
            Action::Silent { side } => events.push(Event::Silent { session: self.id, side, at: sys::now() }),
            Action::Started { side, from } => {
                events.push(Event::Started { session: self.id, side, from, at: sys::now() });
            }
        }
    }

    /// Without a connection the session still compares every source, so a failure costs only speed.
    fn connect(&mut self, side: Side, to: SocketAddr, poll: &Poll, token: Token) {
        let leg = &mut self.legs[side as usize];
        match leg.rtp.connect(to, leg.bound) {
            Ok(beside) => {
                if poll.add_socket(&beside, token.pack()).is_ok() {
                    leg.beside = Some(beside);
                }
                leg.connected = Some(to);
            }
            Err(_) => leg.rtp.disconnect(),
        }
    }

    /// Hand a packet from or to `peer` to the tap, if there is one.
    fn capture(&mut self, side: Side, channel: Channel, way: Direction, peer: SocketAddr, datagram: &[u8]) {
        let Some(tap) = &self.tap else { return };
        let local = self.legs[side as usize].local(channel, peer);
        let (source, destination) = match way {
            Direction::In => (peer, local),
            Direction::Out => (local, peer),
        };
        let record = Record { at: sys::wall_clock(), source, destination, datagram: datagram.into() };
        if !tap.write(record) {
            self.tap = None;
        }
    }
}

/// The longest that a snapshot waits for the worker, in nanoseconds.
pub const SNAPSHOT_WAIT: u64 = 250 * MS;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Ports;
    use crate::random::Random;
    use crate::relay::{Label, identity};
    use std::sync::mpsc::channel;

    fn worker() -> Worker {
        let ports = Ports::new(30_000, 30_007, 0, Random::new(1));
        let shared = Arc::new(Shared::new(ports, Wake::new().expect("eventfd")));
        let wake = Arc::new(Wake::new().expect("eventfd"));
        let inbox = Inbox { commands: channel().1, wake, asleep: Arc::default() };
        Worker::new(shared, Arc::new(AtomicUsize::new(2)), inbox, 0).expect("epoll")
    }

    fn opening(worker: &Worker, id: u64) -> Opening {
        let leg = || {
            let bound = "127.0.0.1:0".parse().expect("an address");
            let sockets = [(); 2].map(|()| Socket::bind(bound).expect("bound"));
            let [rtp, rtcp] = sockets;
            LegSockets::new(30_000, bound, rtp, rtcp)
        };
        let label = worker.shared.intern(Label { carrier: "main".into(), platform: "support".into() });
        Opening { id, session: Session::new(identity().expect("random")), legs: [leg(), leg()], label }
    }

    #[test]
    fn a_stop_before_the_first_sleep_is_obeyed_without_a_wake() {
        let mut worker = worker();
        let (say, commands) = channel();
        worker.inbox.commands = commands;
        say.send(Command::Stop).expect("taken");
        let (done, ended) = channel();
        std::thread::spawn(move || {
            worker.run();
            let _ = done.send(());
        });
        let patience = std::time::Duration::from_secs(5);
        assert!(ended.recv_timeout(patience).is_ok(), "it sleeps, and whoever joins it waits for ever");
    }

    #[test]
    fn what_comes_of_a_command_before_a_sleep_is_told_before_it() {
        let mut worker = worker();
        let (say, commands) = channel();
        worker.inbox.commands = commands;
        // Nothing else is due for longer than our patience.
        (worker.resting, worker.flush_at) = (Resting::new(20 * SECOND), sys::now() + 20 * SECOND);
        let shared = worker.shared.clone();
        say.send(Command::Open(Box::new(opening(&worker, 7)))).expect("taken");
        say.send(Command::Close { session: 7 }).expect("taken");
        std::thread::spawn(move || worker.run());
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while shared.take_events().is_empty() {
            assert!(
                std::time::Instant::now() < patience,
                "the end of a session waits for a packet that never comes"
            );
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    #[test]
    fn a_panic_ends_its_session_and_no_other() {
        let mut worker = worker();
        for id in [1, 2] {
            let opening = opening(&worker, id);
            worker.open(opening);
        }
        let (index, generation) = worker.find(1).expect("open");
        worker.drive(index, generation, |_, _, _, _| panic!("planted"));
        assert_eq!(worker.shared.panics.load(Ordering::Relaxed), 1);
        assert!(matches!(worker.events[..], [Event::Closed { session: 1, .. }]));
        assert!(worker.find(1).is_none());
        assert!(worker.find(2).is_some());
    }

    #[test]
    fn a_slot_that_serves_again_ignores_what_was_meant_for_its_last_session() {
        let mut worker = worker();
        let first = opening(&worker, 1);
        worker.open(first);
        let (index, generation) = worker.find(1).expect("open");
        worker.close(1);
        let second = opening(&worker, 2);
        worker.open(second);
        assert_eq!(worker.find(2).map(|(index, _)| index), Some(index));
        let mut driven = false;
        worker.drive(index, generation, |_, _, _, _| driven = true);
        assert!(!driven);
    }

    #[test]
    fn a_token_unpacks_to_what_was_packed() {
        let token =
            Token { index: u32::MAX, generation: 0x1FFF_FFFE, side: Side::Platform, door: Door::Beside };
        let unpacked = Token::unpack(token.pack());
        assert_eq!((unpacked.index, unpacked.generation), (token.index, token.generation));
        assert!(matches!((unpacked.side, unpacked.door), (Side::Platform, Door::Beside)));
        assert_ne!(token.pack(), WAKE);
    }

    #[test]
    fn dense_wake_ups_are_paced_and_sparse_ones_are_not() {
        let mut dense = Rhythm::default();
        let mut sparse = Rhythm::default();
        for step in 1..100 {
            dense.wake(step * PACE / 3);
            sparse.wake(step * 3 * PACE);
        }
        let now = dense.woke_at;
        assert!(dense.pace(now) >= now);
        assert!(dense.interval <= 2 * PACE);
        assert_eq!(sparse.pace(sparse.woke_at + 1), sparse.woke_at + 1);
    }
}
