//! Figures of the last so many seconds, the present one included: one bucket a second, and what they come to.
//!
//! A second is one of the machine's time, a tick divided by 1,000, so a window moves at whole seconds and covers from `n - 1` to `n` of them.
//! What is counted is its owner's affair.

use std::time::Duration;

use crate::machine::time::Tick;

/// What the buckets of a window come to.
pub(super) trait Total: Copy + Default {
    /// The figures of one second.
    type Bucket: Copy + Default;
    /// A second's figures come in.
    fn add(&mut self, bucket: Self::Bucket);
    /// They go out.
    fn take(&mut self, bucket: Self::Bucket);
}

/// A window over the last seconds.
#[derive(Debug)]
pub(super) struct Sliding<T: Total> {
    buckets: Box<[T::Bucket]>,
    /// The second that is counted in.
    latest: u64,
    total: T,
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

impl<T: Total> Sliding<T> {
    /// A window over so many seconds without a figure; `seconds` is taken for 1 where it is 0.
    pub fn new(seconds: u32, now: Tick) -> Self {
        let buckets = vec![T::Bucket::default(); seconds.max(1) as usize].into_boxed_slice();
        Self { buckets, latest: second_of(now), total: T::default() }
    }

    /// The second that is counted in at present.
    pub fn latest(&self) -> u64 {
        self.latest
    }

    /// What the buckets come to at the latest second.
    pub fn total(&self) -> &T {
        &self.total
    }

    /// What the buckets come to at the latest second.
    pub fn total_mut(&mut self) -> &mut T {
        &mut self.total
    }

    /// What the buckets come to at `now`.
    pub fn total_at(&self, now: Tick) -> T {
        let mut total = self.total;
        for second in self.seconds_until(second_of(now)) {
            total.take(self.buckets[self.place(second)]);
        }
        total
    }

    /// Leaves behind what is out of the window at `second`; a gap of any length is no more steps than the window has seconds. The window
    /// never goes back.
    pub fn move_to(&mut self, second: u64) {
        for second in self.seconds_until(second) {
            let place = self.place(second);
            self.total.take(std::mem::take(&mut self.buckets[place]));
        }
        // A gap longer than the window has emptied every bucket, so that it does not matter which of them is the new second's.
        self.latest = self.latest.max(second);
    }

    /// A second's bucket; `None` if it is out of the window.
    pub fn bucket(&mut self, second: u64) -> Option<&mut T::Bucket> {
        (self.latest.saturating_sub(second) < self.len()).then(|| &mut self.buckets[self.place(second)])
    }

    /// The latest second's bucket.
    pub fn present(&mut self) -> &mut T::Bucket {
        &mut self.buckets[self.place(self.latest)]
    }

    /// The buckets of the last so many seconds, as far as there are such, the latest first.
    pub fn back(&self, seconds: u64) -> impl Iterator<Item = &T::Bucket> {
        let seconds = seconds.min(self.len()).min(self.latest.saturating_add(1));
        (0..seconds).map(|back| &self.buckets[self.place(self.latest - back)])
    }

    /// Forgets every figure; the window goes on from `now`.
    pub fn clear(&mut self, now: Tick) {
        self.buckets.fill(T::Bucket::default());
        self.latest = second_of(now).max(self.latest);
        self.total = T::default();
    }

    /// Makes it another length at `now`; the latest seconds stay.
    pub fn resize(&mut self, seconds: u32, now: Tick) {
        self.move_to(second_of(now));
        let mut other = Self::new(seconds, now);
        if other.len() == self.len() {
            return;
        }
        other.latest = self.latest;
        let kept = other.len().min(self.latest.saturating_add(1));
        for (second, bucket) in (0..kept).map(|back| self.latest - back).zip(self.back(kept)) {
            let place = other.place(second);
            other.buckets[place] = *bucket;
            other.total.add(*bucket);
        }
        *self = other;
    }

    /// The seconds after the latest one, up to `second`, whose places hold what is out of the window then.
    fn seconds_until(&self, second: u64) -> impl Iterator<Item = u64> + use<T> {
        let latest = self.latest;
        (1..=second.saturating_sub(latest).min(self.len())).map(move |step| latest.saturating_add(step))
    }

    fn len(&self) -> u64 {
        self.buckets.len() as u64
    }

    #[expect(clippy::cast_possible_truncation, reason = "less than the number of buckets, which is a usize")]
    fn place(&self, second: u64) -> usize {
        (second % self.len()) as usize
    }
}
