//! The RTP sockets of calls that are over: they stay bound while their ports rest, so that what still comes is counted.

use crate::sys::Socket;
use std::collections::VecDeque;

/// One ended session at rest.
#[derive(Debug)]
pub struct Rest {
    closes_at: u64,
    pub label: usize,
    pub sockets: [Socket; 2],
    /// Packets that came after the call, by side, and not yet handed over.
    pub came: [u64; 2],
}

/// The sessions at rest, oldest first. Each has a number that stays its own until it leaves.
#[derive(Debug)]
pub struct Resting {
    queue: VecDeque<Rest>,
    first: u32,
    rests_for: u64,
}

impl Resting {
    /// At most so many rest at once: beyond that the oldest leave early, for descriptors are worth more than their counts.
    const MOST: usize = 1024;

    /// `rests_for` is in nanoseconds; sessions must be gone before their ports serve again.
    pub fn new(rests_for: u64) -> Self {
        Resting { queue: VecDeque::new(), first: 0, rests_for }
    }

    /// The number that the next session will have.
    pub fn next(&self) -> u32 {
        self.first.wrapping_add(self.queue.len() as u32)
    }

    /// Let an ended session's sockets rest; returns the one that has to leave for it.
    pub fn push(&mut self, label: usize, sockets: [Socket; 2], now: u64) -> Option<Rest> {
        let leaves = if self.queue.len() >= Self::MOST { self.pop() } else { None };
        self.queue.push_back(Rest { closes_at: now + self.rests_for, label, sockets, came: [0; 2] });
        leaves
    }

    pub fn get(&mut self, number: u32) -> Option<&mut Rest> {
        self.queue.get_mut(number.wrapping_sub(self.first) as usize)
    }

    /// The oldest, if it has rested enough at `now`.
    pub fn rested(&mut self, now: u64) -> Option<Rest> {
        if self.next_timeout()? > now { None } else { self.pop() }
    }

    pub fn next_timeout(&self) -> Option<u64> {
        self.queue.front().map(|rest| rest.closes_at)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Rest> {
        self.queue.iter_mut()
    }

    fn pop(&mut self) -> Option<Rest> {
        let rest = self.queue.pop_front()?;
        self.first = self.first.wrapping_add(1);
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets() -> [Socket; 2] {
        [(); 2].map(|()| Socket::bind("127.0.0.1:0".parse().expect("an address")).expect("bound"))
    }

    #[test]
    fn sessions_leave_in_order_when_they_have_rested() {
        let mut resting = Resting::new(10);
        for (label, now) in [(1, 100), (2, 105)] {
            assert!(resting.push(label, sockets(), now).is_none());
        }
        assert_eq!(resting.next_timeout(), Some(110));
        assert!(resting.rested(109).is_none());
        assert_eq!(resting.rested(114).map(|rest| rest.label), Some(1));
        assert!(resting.rested(114).is_none());
        assert_eq!(resting.rested(115).map(|rest| rest.label), Some(2));
        assert_eq!(resting.next_timeout(), None);
    }

    #[test]
    fn a_number_names_one_session_only() {
        let mut resting = Resting { first: u32::MAX, ..Resting::new(10) };
        let first = resting.next();
        resting.push(1, sockets(), 0);
        let second = resting.next();
        resting.push(2, sockets(), 5);
        assert_eq!(resting.get(second).map(|rest| rest.label), Some(2));
        assert!(resting.rested(10).is_some());
        assert!(resting.get(first).is_none());
        assert_eq!(resting.get(second).map(|rest| rest.label), Some(2));
    }
}
