//! What a loop shows of itself to whoever watches it: when it last came round, and how many of its records run for too long.
//!
//! A loop that waits for ever, or spins, looks like one that has nothing to do. So each comes round at least every [`ROUND`], idle, busy or
//! stopping, and says so; one that has not for [`LONGEST_SILENCE`] hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::machine::time::Tick;

/// How often a loop comes round at least, by a timer of its own.
pub const ROUND: Duration = Duration::from_secs(1);

/// The longest that a loop may not come round. Between two rounds a loop waits for nothing but what wakes it; what it does itself is a batch of
/// at most 256 records and as many ended events, milliseconds each at the worst that the bounds on sizes and expressions let through. Thirty
/// rounds leave room for a machine that is out of CPU, and are soon enough for a probe.
pub const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// One loop's.
#[derive(Debug)]
pub struct Pulse {
    came_round: AtomicU64,
    stuck: AtomicUsize,
}

impl Pulse {
    /// Of a loop that begins now.
    pub fn new(now: Tick) -> Arc<Self> {
        Arc::new(Self { came_round: AtomicU64::new(now.0), stuck: AtomicUsize::new(0) })
    }

    /// The loop comes round.
    pub fn beat(&self, now: Tick) {
        self.came_round.store(now.0, Relaxed);
    }

    /// The loop has come to its end: it leaves its group within a bound of its own, and its task ends.
    pub fn end(&self) {
        self.came_round.store(Tick::NEVER.0, Relaxed);
        self.stuck.store(0, Relaxed);
    }

    /// For how long it has not come round, if that is too long.
    pub fn silence(&self, now: Tick) -> Option<Duration> {
        Some(now.since(Tick(self.came_round.load(Relaxed)))).filter(|silence| *silence > LONGEST_SILENCE)
    }

    /// So many of its records run for too long.
    pub fn show_stuck(&self, records: usize) {
        self.stuck.store(records, Relaxed);
    }

    /// How many of its records run for too long.
    pub fn stuck(&self) -> usize {
        self.stuck.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stands_still_is_found_and_one_that_has_ended_is_not() {
        let pulse = Pulse::new(Tick(1_000));
        assert_eq!(pulse.silence(Tick(500)), None, "another thread's clock may be read earlier");
        assert_eq!(pulse.silence(Tick(31_000)), None);
        assert_eq!(pulse.silence(Tick(31_001)), Some(Duration::from_millis(30_001)));
        pulse.beat(Tick(31_001));
        assert_eq!(pulse.silence(Tick(31_002)), None);
        pulse.end();
        assert_eq!(pulse.silence(Tick(u64::MAX - 1)), None);
    }
}
