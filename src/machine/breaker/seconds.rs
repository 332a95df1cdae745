//! The calls of the last so many seconds: three figures for each second. Its seconds lie as those of resilience4j's window do.

use super::Counts;
use super::rates::Mark;
use super::sliding::{Sliding, Total, second_of};
use crate::machine::time::Tick;

/// A window over the last seconds.
#[derive(Debug)]
pub(super) struct Seconds {
    window: Sliding<Sum>,
    streak: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    calls: u32,
    failures: u32,
    slow: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    calls: u64,
    failures: u64,
    slow: u64,
}

impl Total for Sum {
    type Bucket = Bucket;

    fn add(&mut self, bucket: Bucket) {
        self.calls += u64::from(bucket.calls);
        self.failures += u64::from(bucket.failures);
        self.slow += u64::from(bucket.slow);
    }

    fn take(&mut self, bucket: Bucket) {
        self.calls -= u64::from(bucket.calls);
        self.failures -= u64::from(bucket.failures);
        self.slow -= u64::from(bucket.slow);
    }
}

impl Seconds {
    /// A window over so many seconds without a call; `seconds` is taken for 1 where it is 0.
    pub fn new(seconds: u32, now: Tick) -> Self {
        Self { window: Sliding::new(seconds, now), streak: 0 }
    }

    /// The second that calls are recorded in at present.
    pub fn latest(&self) -> u64 {
        self.window.latest()
    }

    #[inline]
    pub fn push(&mut self, mark: Mark, now: Tick) {
        self.move_to(second_of(now));
        self.add(Bucket { calls: 1, failures: u32::from(mark.failed), slow: u32::from(mark.slow) });
        self.streak = if mark.failed { self.streak.saturating_add(1) } else { 0 };
    }

    /// Takes in so many calls of the latest second that neither failed nor were slow.
    pub fn push_successes(&mut self, successes: u32) {
        if successes > 0 {
            self.add(Bucket { calls: successes, failures: 0, slow: 0 });
            self.streak = 0;
        }
    }

    /// The figures at `now`.
    pub fn counts(&self, now: Tick) -> Counts {
        self.shown(self.window.total_at(now))
    }

    /// The figures at the latest second.
    pub fn total(&self) -> Counts {
        self.shown(*self.window.total())
    }

    /// Leaves behind what is out of the window at `second`.
    pub fn move_to(&mut self, second: u64) {
        self.window.move_to(second);
    }

    pub fn clear(&mut self, now: Tick) {
        self.window.clear(now);
        self.streak = 0;
    }

    /// Makes it another length; the latest seconds stay.
    pub fn resize(&mut self, seconds: u32, now: Tick) {
        self.window.resize(seconds, now);
    }

    /// Takes in figures from elsewhere, as if all of it had happened in the present second. Of more than it has room for, the shares stay.
    pub fn fill(&mut self, counts: Counts, now: Tick) {
        self.clear(now);
        let Counts { calls, failures, slow, .. } = counts.cut_to(u32::MAX.into());
        let [calls, failures, slow] = [calls, failures, slow].map(|figure| u32::try_from(figure).unwrap_or(u32::MAX));
        self.add(Bucket { calls, failures, slow });
        self.streak = counts.consecutive_failures;
    }

    /// Adds to the latest second. A second's figures stay what they are once they are as large as they can be.
    fn add(&mut self, more: Bucket) {
        let bucket = self.window.present();
        if bucket.calls.checked_add(more.calls).is_none() {
            return;
        }
        bucket.calls += more.calls;
        bucket.failures += more.failures;
        bucket.slow += more.slow;
        self.window.total_mut().add(more);
    }

    fn shown(&self, Sum { calls, failures, slow }: Sum) -> Counts {
        Counts { calls, failures, slow, consecutive_failures: self.streak }
    }
}
