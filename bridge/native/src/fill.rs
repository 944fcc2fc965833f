//! When silence frames go to a peer: after a gap, on an exact grid of the packet time, until real audio returns.

/// A source that sends faster than time may hold fill back no longer than this.
const LEAD: u64 = 1_000_000_000;

/// The clock of one leg's fill. All times are nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    next_at: Option<u64>,
}

impl Fill {
    /// Let fill begin at `at` if nothing real is sent before.
    pub fn arm(&mut self, at: u64) {
        self.next_at = Some(at);
    }

    /// Real audio went out: the grid ends, and the gap counts anew.
    ///
    /// `ends_at` is when the audio that was sent has been played. Fill waits for that too, up to a second: silence for
    /// packets that are only late, sent on top of them, would drive the stream ever further ahead of the time.
    pub fn audio_sent(&mut self, now: u64, after: u64, ends_at: u64) {
        let gap = now.saturating_add(after);
        self.next_at = Some(gap.max(ends_at.min(now.saturating_add(LEAD))));
    }

    pub fn stop(&mut self) {
        self.next_at = None;
    }

    pub fn next_at(&self) -> Option<u64> {
        self.next_at
    }

    /// Take the slot that is due, if one is. Slots that a stall has missed are skipped, never sent in a burst.
    pub fn take_due(&mut self, now: u64, ptime: u64) -> Option<u64> {
        let at = self.next_at.filter(|at| *at <= now)?;
        let slot = at + (now - at) / ptime * ptime;
        self.next_at = Some(slot + ptime);
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn frames_keep_an_exact_grid_however_late_the_wake_ups_are() {
        let mut fill = Fill::default();
        fill.arm(100 * MS);
        assert_eq!(fill.take_due(99 * MS, 20 * MS), None);
        for (wake_up, slot) in [(101, 100), (121, 120), (140, 140), (163, 160)] {
            assert_eq!(fill.take_due(wake_up * MS, 20 * MS), Some(slot * MS));
            assert_eq!(fill.take_due(wake_up * MS, 20 * MS), None);
        }
    }

    #[test]
    fn a_stall_skips_its_slots_and_keeps_the_grid() {
        let mut fill = Fill::default();
        fill.arm(0);
        fill.take_due(0, 20 * MS);
        assert_eq!(fill.take_due(1015 * MS, 20 * MS), Some(1000 * MS));
        assert_eq!(fill.take_due(1015 * MS, 20 * MS), None);
        assert_eq!(fill.next_at(), Some(1020 * MS));
    }

    #[test]
    fn audio_that_is_still_to_be_played_holds_fill_back_for_a_second_at_most() {
        let mut fill = Fill::default();
        fill.audio_sent(0, 40 * MS, 70 * MS);
        assert_eq!(fill.next_at(), Some(70 * MS));
        fill.audio_sent(0, 40 * MS, 9000 * MS);
        assert_eq!(fill.next_at(), Some(1000 * MS));
    }

    #[test]
    fn real_audio_ends_the_grid_and_counts_the_gap_anew() {
        let mut fill = Fill::default();
        fill.arm(0);
        fill.take_due(0, 20 * MS);
        fill.audio_sent(7 * MS, 100 * MS, 30 * MS);
        assert_eq!(fill.take_due(106 * MS, 20 * MS), None);
        assert_eq!(fill.take_due(107 * MS, 20 * MS), Some(107 * MS));
        fill.stop();
        assert_eq!(fill.take_due(10_000 * MS, 20 * MS), None);
    }
}
