//! When a peer that sends nothing at all is reported: once for each silence.

/// Where the network says that the peer's port is closed, the silence need last only so long.
const UNREACHABLE: u64 = 3_000_000_000;

/// The watch over one peer. All times are nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silence {
    after: Option<u64>,
    since: u64,
    told: bool,
    unreachable: bool,
}

impl Silence {
    /// Set what counts as silence. A changed value begins a new watch.
    pub fn watch(&mut self, after: Option<u64>, now: u64) {
        if after != self.after {
            *self = Silence { after, since: now, ..Silence::default() };
        }
    }

    /// RTP or RTCP came from the peer.
    pub fn heard(&mut self, now: u64) {
        self.since = now;
        self.told = false;
        self.unreachable = false;
    }

    /// ICMP said that the peer's port is closed.
    pub fn unreachable(&mut self) {
        self.unreachable = true;
    }

    /// When the silence has lasted long enough to be told.
    pub fn ends_at(&self) -> Option<u64> {
        let after = self.after.filter(|_| !self.told)?;
        Some(self.since.saturating_add(if self.unreachable { after.min(UNREACHABLE) } else { after }))
    }

    /// Tell whether the silence is to be reported now.
    pub fn take_due(&mut self, now: u64) -> bool {
        let due = self.ends_at().is_some_and(|at| at <= now);
        self.told |= due;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_silence_is_told_once_and_the_next_one_again() {
        let mut silence = Silence::default();
        silence.watch(Some(10 * SECOND), 0);
        silence.heard(SECOND);
        assert!(!silence.take_due(11 * SECOND - 1));
        assert!(silence.take_due(11 * SECOND));
        assert!(!silence.take_due(90 * SECOND));
        assert_eq!(silence.ends_at(), None);
        silence.heard(91 * SECOND);
        assert!(silence.take_due(101 * SECOND));
    }

    #[test]
    fn the_watch_counts_from_the_update_that_sets_it_and_repeating_it_changes_nothing() {
        let mut silence = Silence::default();
        silence.heard(0);
        silence.watch(None, 0);
        assert!(!silence.take_due(1000 * SECOND));
        silence.watch(Some(10 * SECOND), 1000 * SECOND);
        silence.watch(Some(10 * SECOND), 1005 * SECOND);
        assert_eq!(silence.ends_at(), Some(1010 * SECOND));
    }

    #[test]
    fn a_closed_port_shortens_the_wait_until_something_is_heard() {
        let mut silence = Silence::default();
        silence.watch(Some(10 * SECOND), 0);
        silence.unreachable();
        assert_eq!(silence.ends_at(), Some(3 * SECOND));
        silence.heard(SECOND);
        assert_eq!(silence.ends_at(), Some(11 * SECOND));
        silence.watch(Some(2 * SECOND), 2 * SECOND);
        silence.unreachable();
        assert_eq!(silence.ends_at(), Some(4 * SECOND));
    }
}
