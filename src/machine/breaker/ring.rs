//! The last so many calls: two bits each, in two rows of words.

use super::Counts;
use super::policy::proportion;
use super::rates::Mark;

/// The most calls that a window is over. More are taken for it, so that no setting makes a breaker larger than a quarter of a megabyte.
const MOST: u32 = 1_000_000;

/// A window over the last `size` calls.
#[derive(Debug)]
pub(super) struct Ring {
    failed: Box<[u64]>,
    slow: Box<[u64]>,
    size: u32,
    /// Where the next call goes.
    next: u32,
    counts: Counts,
}

impl Ring {
    /// A window without a call; `size` is taken for 1 where it is 0, and for [`MOST`] where it is more.
    pub fn new(size: u32) -> Self {
        let size = size.clamp(1, MOST);
        let row = || vec![0; size.div_ceil(u64::BITS) as usize].into_boxed_slice();
        Self { failed: row(), slow: row(), size, next: 0, counts: Counts::default() }
    }

    /// Takes a call in; the oldest goes out where there is no more room.
    #[inline]
    pub fn push(&mut self, mark: Mark) {
        let (word, bit) = ((self.next / u64::BITS) as usize, 1 << (self.next % u64::BITS));
        let counts = &mut self.counts;
        let full = counts.calls == u64::from(self.size);
        counts.calls += u64::from(!full);
        // A place that was never used holds a call that neither failed nor was slow.
        counts.failures += u64::from(mark.failed);
        counts.failures -= u64::from(self.failed[word] & bit != 0);
        counts.slow += u64::from(mark.slow);
        counts.slow -= u64::from(self.slow[word] & bit != 0);
        counts.consecutive_failures = if mark.failed { counts.consecutive_failures.saturating_add(1) } else { 0 };
        self.failed[word] = self.failed[word] & !bit | if mark.failed { bit } else { 0 };
        self.slow[word] = self.slow[word] & !bit | if mark.slow { bit } else { 0 };
        self.next = if self.next + 1 == self.size { 0 } else { self.next + 1 };
    }

    /// Takes in so many calls that neither failed nor were slow.
    pub fn push_successes(&mut self, successes: u32) {
        if successes >= self.size {
            self.clear();
            self.counts.calls = u64::from(self.size);
            return;
        }
        if self.counts.failures == 0 && self.counts.slow == 0 {
            // Nothing goes out that would be missed: every bit is 0, and stays so. A streak there may be, of failures that are out already.
            if successes > 0 {
                self.counts.consecutive_failures = 0;
            }
            self.counts.calls = (self.counts.calls + u64::from(successes)).min(u64::from(self.size));
            self.next = (self.next + successes) % self.size;
            return;
        }
        for _ in 0..successes {
            self.push(Mark { failed: false, slow: false });
        }
    }

    /// The most calls that it holds.
    pub fn size(&self) -> u32 {
        self.size
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub fn clear(&mut self) {
        self.failed.fill(0);
        self.slow.fill(0);
        self.next = 0;
        self.counts = Counts::default();
    }

    /// Makes it another size; the latest calls stay.
    pub fn resize(&mut self, size: u32) {
        if size.clamp(1, MOST) == self.size {
            return;
        }
        let mut other = Self::new(size);
        let streak = self.counts.consecutive_failures;
        for mark in self.marks() {
            other.push(mark);
        }
        other.counts.consecutive_failures = streak;
        *self = other;
    }

    /// Takes in as many calls as figures from elsewhere tell of, the streak last. Of more than there is room for, the shares stay.
    pub fn fill(&mut self, counts: Counts) {
        self.clear();
        let Counts { calls, .. } = counts;
        let failures = counts.failures.min(calls);
        let streak = counts.consecutive_failures.min(failures);
        let last = streak.min(self.size.into());
        let before = (calls - streak).min(u64::from(self.size) - last);
        let failed = proportion(failures - streak, calls - streak, before);
        let slow = proportion(counts.slow.min(calls), calls, before + last);
        for number in 0..before + last {
            // Their order is not known: what was bad comes first, so that it is the first to be forgotten.
            self.push(Mark { failed: number < failed || number >= before, slow: number < slow });
        }
        self.counts.consecutive_failures = counts.consecutive_failures;
    }

    /// The calls, oldest first.
    fn marks(&self) -> impl Iterator<Item = Mark> {
        let calls = u32::try_from(self.counts.calls).unwrap_or(self.size);
        let first = (u64::from(self.next) + u64::from(self.size) - u64::from(calls)) % u64::from(self.size);
        (0..u64::from(calls)).map(move |number| {
            let place = (first + number) % u64::from(self.size);
            let (word, bit) = (usize::try_from(place / 64).unwrap_or(0), 1_u64 << (place % 64));
            Mark { failed: self.failed[word] & bit != 0, slow: self.slow[word] & bit != 0 }
        })
    }
}
