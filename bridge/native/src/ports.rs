//! Port pairs: RTP on an even port, RTCP on the next one up; a used pair rests before it serves again.

use crate::random::Random;
use std::collections::VecDeque;

/// The pairs of a range. A pair is named by its even port.
#[derive(Debug)]
pub struct Ports {
    free: Vec<u16>,
    /// Pairs at rest, and when each has rested enough: packets of the call before must not reach the next one.
    resting: VecDeque<(u64, u16)>,
    pairs: usize,
    quarantine: u64,
    random: Random,
}

impl Ports {
    /// Take the inclusive range `low`..=`high`; `quarantine` is in nanoseconds.
    pub fn new(low: u16, high: u16, quarantine: u64, random: Random) -> Self {
        let free: Vec<u16> =
            (low..=high).filter(|port| port.is_multiple_of(2) && *port > 0 && *port < high).collect();
        Ports { pairs: free.len(), free, resting: VecDeque::new(), quarantine, random }
    }

    /// Take a free pair at random, so that the port of the next call can't be foretold.
    pub fn take(&mut self, now: u64) -> Option<u16> {
        while self.resting.front().is_some_and(|(rested_at, _)| *rested_at <= now) {
            self.free.extend(self.resting.pop_front().map(|(_, port)| port));
        }
        if self.free.is_empty() {
            return None;
        }
        let at = self.random.below(self.free.len());
        Some(self.free.swap_remove(at))
    }

    /// Give a pair back: it rests first.
    pub fn give_back(&mut self, port: u16, now: u64) {
        self.resting.push_back((now.saturating_add(self.quarantine), port));
    }

    /// The ports that can't be had at `now` (in use or at rest), and all there are.
    pub fn usage(&self, now: u64) -> (usize, usize) {
        let rested = self.resting.iter().filter(|(rested_at, _)| *rested_at <= now).count();
        (2 * (self.pairs - self.free.len() - rested), 2 * self.pairs)
    }

    pub fn pairs(&self) -> usize {
        self.pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn ports(low: u16, high: u16) -> Ports {
        Ports::new(low, high, 5, Random::new(1))
    }

    #[test]
    fn pairs_are_even_and_whole() {
        let mut pool = ports(10_001, 10_008);
        let mut taken: Vec<u16> = std::iter::from_fn(|| pool.take(0)).collect();
        taken.sort_unstable();
        assert_eq!(taken, [10_002, 10_004, 10_006]); // 10008 has no 10009
        assert_eq!(pool.usage(0), (6, 6));
    }

    #[test]
    fn a_used_pair_rests_before_it_serves_again() {
        let mut pool = ports(10_000, 10_001);
        let port = pool.take(0).expect("a pair");
        assert_eq!(pool.take(0), None);
        pool.give_back(port, 100);
        assert_eq!(pool.take(104), None);
        assert_eq!(pool.usage(104), (2, 2));
        assert_eq!(pool.usage(105), (0, 2));
        assert_eq!(pool.take(105), Some(port));
    }

    #[test]
    fn the_top_of_the_port_space_does_not_overflow() {
        let mut pool = ports(65_530, 65_535);
        let mut taken: Vec<u16> = std::iter::from_fn(|| pool.take(0)).collect();
        taken.sort_unstable();
        assert_eq!(taken, [65_530, 65_532, 65_534]);
    }

    proptest! {
        #[test]
        fn no_pair_ever_has_two_users(steps in proptest::collection::vec((any::<bool>(), 0u64..4), 1..200)) {
            let mut pool = ports(10_000, 10_019);
            let mut held = Vec::new();
            let mut now = 0;
            for (take, wait) in steps {
                now += wait;
                if take {
                    held.extend(pool.take(now));
                } else if !held.is_empty() {
                    pool.give_back(held.remove(0), now);
                }
                prop_assert_eq!(held.iter().collect::<HashSet<_>>().len(), held.len());
                prop_assert!(pool.usage(now).0 >= 2 * held.len());
            }
        }
    }
}
