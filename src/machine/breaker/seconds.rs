//! The calls of the last so many seconds, the present one included: three figures for each second.
//!
//! A second is one of the machine's time, a tick divided by 1,000, so the window moves at whole seconds and covers from `n - 1` to `n` of
//! them, as that of resilience4j does.

use std::time::Duration;

use super::Counts;
use super::rates::Mark;
use crate::machine::time::Tick;

/// A window over the last seconds.
#[derive(Debug)]
pub(super) struct Seconds {
    buckets: Box<[Bucket]>,
    /// The second that calls are recorded in.
    latest: u64,
    total: Counts,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    calls: u32,
    failures: u32,
    slow: u32,
}

/// The second that a tick is in.
pub(super) fn second_of(now: Tick) -> u64 {
    now.0 / 1_000
}

/// A window's length in seconds, at least 1; of a part of a second nothing is kept.
pub(super) fn whole_seconds(window: Duration) -> u32 {
    u32::try_from(window.as_secs()).unwrap_or(u32::MAX).clamp(1, LONGEST)
}

/// The longest window, seconds: a day, many times what the config allows. A longer one is taken for it, so that no setting makes a breaker
/// larger than a few megabytes.
const LONGEST: u32 = 24 * 3_600;

impl Seconds {
    /// A window over so many seconds without a call; `seconds` is taken for 1 where it is 0.
    pub fn new(seconds: u32, now: Tick) -> Self {
        let buckets = vec![Bucket::default(); seconds.max(1) as usize].into_boxed_slice();
        Self { buckets, latest: second_of(now), total: Counts::default() }
    }

    /// The second that calls are recorded in at present.
    pub fn latest(&self) -> u64 {
        self.latest
    }

    #[inline]
    pub fn push(&mut self, mark: Mark, now: Tick) {
        self.move_to(second_of(now));
        self.add(1, u32::from(mark.failed), u32::from(mark.slow));
        self.total.consecutive_failures = if mark.failed { self.total.consecutive_failures.saturating_add(1) } else { 0 };
    }

    /// Takes in so many calls of the latest second that neither failed nor were slow.
    pub fn push_successes(&mut self, successes: u32) {
        if successes > 0 {
            self.add(successes, 0, 0);
            self.total.consecutive_failures = 0;
        }
    }

    /// The figures at `now`.
    pub fn counts(&self, now: Tick) -> Counts {
        let gone = second_of(now).saturating_sub(self.latest);
        let mut counts = self.total;
        for step in 1..=gone.min(self.len()) {
            let bucket = &self.buckets[self.place(self.latest.saturating_add(step))];
            counts.calls -= u64::from(bucket.calls);
            counts.failures -= u64::from(bucket.failures);
            counts.slow -= u64::from(bucket.slow);
        }
        counts
    }

    /// The figures at the latest second.
    pub fn total(&self) -> &Counts {
        &self.total
    }

    /// Leaves behind what is out of the window at `second`; a gap of any length is no more steps than the window has seconds.
    pub fn move_to(&mut self, second: u64) {
        let gone = second.saturating_sub(self.latest);
        if gone == 0 {
            return;
        }
        for step in 1..=gone.min(self.len()) {
            let place = self.place(self.latest.saturating_add(step));
            let bucket = std::mem::take(&mut self.buckets[place]);
            self.total.calls -= u64::from(bucket.calls);
            self.total.failures -= u64::from(bucket.failures);
            self.total.slow -= u64::from(bucket.slow);
        }
        // A gap longer than the window has emptied every bucket, so that it does not matter which of them is the new second's.
        self.latest = second;
    }

    pub fn clear(&mut self, now: Tick) {
        self.buckets.fill(Bucket::default());
        self.latest = second_of(now).max(self.latest);
        self.total = Counts::default();
    }

    /// Makes it another length; the latest seconds stay.
    pub fn resize(&mut self, seconds: u32, now: Tick) {
        self.move_to(second_of(now));
        let mut other = Self::new(seconds, now);
        other.latest = self.latest;
        if other.len() == self.len() {
            return;
        }
        for back in 0..self.len().min(other.len()).min(self.latest.saturating_add(1)) {
            let second = self.latest - back;
            let bucket = self.buckets[self.place(second)];
            let place = other.place(second);
            other.buckets[place] = bucket;
            other.total.calls += u64::from(bucket.calls);
            other.total.failures += u64::from(bucket.failures);
            other.total.slow += u64::from(bucket.slow);
        }
        other.total.consecutive_failures = self.total.consecutive_failures;
        *self = other;
    }

    /// Takes in figures from elsewhere, as if all of it had happened in the present second. Of more than it has room for, the shares stay.
    pub fn fill(&mut self, counts: Counts, now: Tick) {
        self.clear(now);
        let Counts { calls, failures, slow, .. } = counts.cut_to(u32::MAX.into());
        let [calls, failures, slow] = [calls, failures, slow].map(|figure| u32::try_from(figure).unwrap_or(u32::MAX));
        self.add(calls, failures, slow);
        self.total.consecutive_failures = counts.consecutive_failures;
    }

    /// Adds to the latest second. A second's figures stay what they are once they are as large as they can be.
    fn add(&mut self, calls: u32, failures: u32, slow: u32) {
        let place = self.place(self.latest);
        let bucket = &mut self.buckets[place];
        if bucket.calls.checked_add(calls).is_none() {
            return;
        }
        bucket.calls += calls;
        bucket.failures += failures;
        bucket.slow += slow;
        self.total.calls += u64::from(calls);
        self.total.failures += u64::from(failures);
        self.total.slow += u64::from(slow);
    }

    fn len(&self) -> u64 {
        self.buckets.len() as u64
    }

    #[expect(clippy::cast_possible_truncation, reason = "less than the number of buckets, which is a usize")]
    fn place(&self, second: u64) -> usize {
        (second % self.len()) as usize
    }
}
