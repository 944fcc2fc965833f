//! The relay as a whole: its workers, the ports they share, and the doors that the other side uses.

use crate::egress::Beginning;
use crate::ports::Ports;
use crate::random::Random;
use crate::session::{Identity, LegMedia, LegReport, Refusal, Session, Side};
use crate::sys::{self, Socket, Wake};
use crate::tap::Tap;
use crate::worker::{Command, Inbox, LegSockets, LegTotals, Opening, SNAPSHOT_WAIT, Worker};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Pairs that are tried for one leg before the session is refused: others may use ports of our range.
const TRIES: usize = 64;

/// Both legs' counts.
#[derive(Clone, Debug)]
pub struct SessionReport {
    pub legs: [LegReport; 2],
}

impl SessionReport {
    pub fn of(session: &Session) -> Self {
        SessionReport { legs: Side::BOTH.map(|side| session.report(side)) }
    }
}

/// What the relay has to tell.
#[derive(Debug)]
pub enum Event {
    Started { session: u64, side: Side, from: SocketAddr, at: u64 },
    Silent { session: u64, side: Side, at: u64 },
    Closed { session: u64, report: Box<SessionReport> },
}

/// The metric labels of a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Label {
    pub carrier: String,
    pub platform: String,
}

/// What workers and callers share. No lock here is taken for a packet.
#[derive(Debug)]
pub struct Shared {
    ports: Mutex<Ports>,
    events: Mutex<Vec<Event>>,
    /// Woken when events begin to wait.
    wake: Wake,
    totals: Mutex<Vec<(Label, [LegTotals; 2])>>,
    pub panics: AtomicU64,
    pub tap_dropped: Arc<AtomicU64>,
}

/// A worker that panicked outside a session must not take the others' locks with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(ports: Ports, wake: Wake) -> Self {
        Shared {
            ports: Mutex::new(ports),
            events: Mutex::default(),
            wake,
            totals: Mutex::default(),
            panics: AtomicU64::new(0),
            tap_dropped: Arc::default(),
        }
    }

    /// Find a label's place among the totals, or make one.
    pub fn intern(&self, label: Label) -> usize {
        let mut totals = lock(&self.totals);
        totals.iter().position(|(known, _)| *known == label).unwrap_or_else(|| {
            totals.push((label, Default::default()));
            totals.len() - 1
        })
    }

    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut *lock(&self.events))
    }

    /// Hand the events of one wake-up over, and wake the reader if it has nothing waiting already.
    pub fn publish(&self, events: &mut Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let mut waiting = lock(&self.events);
        let wake = waiting.is_empty();
        waiting.append(events);
        drop(waiting);
        if wake {
            self.wake.wake();
        }
    }

    /// Bring the totals of a label up to `report`; `flushed` is what had been added before.
    pub fn add_totals(&self, label: usize, flushed: &mut [LegTotals; 2], report: &SessionReport) {
        let mut totals = lock(&self.totals);
        let (_, legs) = &mut totals[label];
        for ((total, flushed), report) in legs.iter_mut().zip(flushed).zip(&report.legs) {
            let current = LegTotals::of(report);
            total.add(flushed, &current);
            *flushed = current;
        }
    }

    /// Count packets that came after their call, by side.
    pub fn add_after_call(&self, label: usize, came: [u64; 2]) {
        let mut totals = lock(&self.totals);
        for (total, came) in totals[label].1.iter_mut().zip(came) {
            total.refused[Refusal::AfterCall as usize] += came;
        }
    }

    pub fn give_back(&self, pairs: [u16; 2], now: u64) {
        let mut ports = lock(&self.ports);
        for pair in pairs {
            ports.give_back(pair, now);
        }
    }
}

#[derive(Debug)]
struct WorkerHandle {
    commands: Sender<Command>,
    wake: Arc<Wake>,
    asleep: Arc<AtomicBool>,
    load: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl WorkerHandle {
    fn start(number: usize, shared: Arc<Shared>, quarantine: u64) -> io::Result<Self> {
        let (commands, inbox) = channel();
        let wake = Arc::new(Wake::new()?);
        let asleep = Arc::new(AtomicBool::new(false));
        let load = Arc::new(AtomicUsize::new(0));
        let inbox = Inbox { commands: inbox, wake: wake.clone(), asleep: asleep.clone() };
        let worker = Worker::new(shared, load.clone(), inbox, quarantine)?;
        let thread = thread::Builder::new().name(format!("relay-{number}")).spawn(move || worker.run())?;
        Ok(WorkerHandle { commands, wake, asleep, load, thread: Some(thread) })
    }

    /// Leave a command for when the worker next looks.
    fn leave(&self, command: Command) {
        // It fails only when the worker has ended, and with it all its sessions.
        let _ = self.commands.send(command);
    }

    /// Give a command; to wake a thread is the dear part of it, so one that is awake, or about to be, is not woken.
    fn tell(&self, command: Command) {
        self.leave(command);
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.wake.wake();
        }
    }
}

/// What a relay is made of.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub address: IpAddr,
    /// The inclusive port range.
    pub ports: (u16, u16),
    pub workers: usize,
    /// Nanoseconds that a used pair rests.
    pub quarantine: u64,
}

/// The relay.
#[derive(Debug)]
pub struct Relay {
    address: IpAddr,
    shared: Arc<Shared>,
    workers: Vec<WorkerHandle>,
    /// The worker of each session.
    sessions: HashMap<u64, usize>,
}

impl Relay {
    /// Start the workers. `wake` is signalled when events wait.
    pub fn start(settings: Settings, wake: Wake) -> io::Result<Self> {
        let seed = u64::from_ne_bytes(sys::random_octets()?);
        let (low, high) = settings.ports;
        let ports = Ports::new(low, high, settings.quarantine, Random::new(seed));
        let shared = Arc::new(Shared::new(ports, wake));
        let start = |number| WorkerHandle::start(number, shared.clone(), settings.quarantine);
        let workers = (0..settings.workers.max(1)).map(start);
        let workers = workers.collect::<io::Result<Vec<_>>>()?;
        Ok(Relay { address: settings.address, shared, workers, sessions: HashMap::new() })
    }

    /// Bind a pair for each leg and give the session to the least loaded worker; the even ports, or why not.
    pub fn open(&mut self, id: u64, label: Label) -> Result<[u16; 2], String> {
        if self.workers.is_empty() {
            return Err("the media relay has been stopped".into());
        }
        if self.sessions.contains_key(&id) {
            return Err(format!("media session {id} is already open"));
        }
        let carrier = self.bind_pair()?;
        let platform = match self.bind_pair() {
            Ok(platform) => platform,
            Err(reason) => {
                let port = carrier.port;
                drop(carrier);
                lock(&self.shared.ports).give_back(port, sys::now());
                return Err(reason);
            }
        };
        let ports = [carrier.port, platform.port];
        let identity = identity().map_err(|error| format!("the system gives no random numbers: {error}"))?;
        let session = Session::new(identity);
        let label = self.shared.intern(label);
        let least = |(_, worker): &(usize, &WorkerHandle)| worker.load.load(Ordering::Relaxed);
        let Some((number, worker)) = self.workers.iter().enumerate().min_by_key(least) else {
            return Err("the media relay has no worker".into());
        };
        worker.load.fetch_add(1, Ordering::Relaxed);
        // Nobody knows the ports yet: there is nothing to do for the session until its first update.
        worker.leave(Command::Open(Box::new(Opening { id, session, legs: [carrier, platform], label })));
        self.sessions.insert(id, number);
        Ok(ports)
    }

    fn bind_pair(&self) -> Result<LegSockets, String> {
        let mut ports = lock(&self.shared.ports);
        let now = sys::now();
        let mut problem = None;
        for _ in 0..TRIES {
            let Some(port) = ports.take(now) else { break };
            let bound = SocketAddr::new(self.address, port);
            let above = SocketAddr::new(self.address, port + 1);
            match Socket::bind(bound).and_then(|rtp| Ok((rtp, Socket::bind(above)?))) {
                Ok((rtp, rtcp)) => return Ok(LegSockets::new(port, bound, rtp, rtcp)),
                Err(error) => {
                    // Somebody else's port: it rests like a used one, and another pair is tried.
                    ports.give_back(port, now);
                    let in_use = error.kind() == io::ErrorKind::AddrInUse;
                    problem = Some(error);
                    if !in_use {
                        break;
                    }
                }
            }
        }
        let (used, all) = ports.usage(now);
        Err(match problem {
            Some(error) => format!("no media port can be bound on {}: {error}", self.address),
            None => format!("no media ports left: {used} of {all} are in use or at rest"),
        })
    }

    fn worker(&self, session: u64) -> Option<&WorkerHandle> {
        self.workers.get(*self.sessions.get(&session)?)
    }

    pub fn update(&self, session: u64, side: Side, media: LegMedia) {
        if let Some(worker) = self.worker(session) {
            worker.tell(Command::Update { session, side, media: Box::new(media) });
        }
    }

    /// Let the totals of another label count the session from now on.
    pub fn relabel(&self, session: u64, label: Label) {
        if let Some(worker) = self.worker(session) {
            worker.tell(Command::Relabel { session, label: self.shared.intern(label) });
        }
    }

    pub fn close(&self, session: u64) {
        if let Some(worker) = self.worker(session) {
            worker.tell(Command::Close { session });
        }
    }

    /// Write the session's packets to `path` from now on; None ends it.
    pub fn tap(&self, session: u64, path: Option<&Path>) -> io::Result<()> {
        let Some(worker) = self.worker(session) else {
            return Ok(());
        };
        let tap = path.map(|path| Tap::create(path, self.shared.tap_dropped.clone())).transpose()?;
        worker.tell(Command::Tap { session, tap });
        Ok(())
    }

    /// Ask for a live session's report; the wait for it is short and bounded.
    pub fn snapshot(&self, session: u64) -> impl FnOnce() -> Option<Box<SessionReport>> + Send + use<> {
        let (reply, answer) = sync_channel(1);
        if let Some(worker) = self.worker(session) {
            worker.tell(Command::Snapshot { session, reply });
        }
        move || answer.recv_timeout(Duration::from_nanos(SNAPSHOT_WAIT)).ok().flatten()
    }

    /// Take the events that wait. A closed session is forgotten here: its id may be used again.
    pub fn events(&mut self) -> Vec<Event> {
        let events = self.shared.take_events();
        for event in &events {
            if let Event::Closed { session, .. } = event {
                self.sessions.remove(session);
            }
        }
        events
    }

    pub fn totals(&self) -> Vec<(Label, [LegTotals; 2])> {
        lock(&self.shared.totals).clone()
    }

    /// The ports in use or at rest, and all of the range.
    pub fn ports(&self) -> (usize, usize) {
        lock(&self.shared.ports).usage(sys::now())
    }

    /// Panics that ended a session, and packets that a tap's queue could not take.
    pub fn faults(&self) -> (u64, u64) {
        (self.shared.panics.load(Ordering::Relaxed), self.shared.tap_dropped.load(Ordering::Relaxed))
    }

    /// End every session and thread. The last events can still be taken.
    pub fn stop(&mut self) {
        for worker in &self.workers {
            worker.tell(Command::Stop);
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                let _ = thread.join();
            }
        }
        self.workers.clear();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn identity() -> io::Result<Identity> {
    let octets: [u8; 40] = sys::random_octets()?;
    let word = |at: usize| u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
    let beginning =
        |at: usize| Beginning { ssrc: word(at), sequence: word(at + 4) as u16, timestamp: word(at + 8) };
    let mut cname = [0; 16];
    for (name, octet) in cname.iter_mut().zip(&octets[24..]) {
        *name = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[usize::from(octet & 63)];
    }
    Ok(Identity {
        beginnings: [beginning(0), beginning(12)],
        cname,
        seed: u64::from(word(24)) << 32 | u64::from(word(28)),
        wall: sys::ntp_offset(),
    })
}
