//! How many lines a second one kind of trouble may write. A producer that sends a million unreadable records is a few lines and a
//! count, not a million lines: the log must stay readable, and its disk must not fill, when things are worst.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::machine::time::Tick;

/// Lines a second of one kind. Five show that it goes on and what it looks like; with ten codes of dead letters and a handful of topics and
/// services all at once that is about a hundred lines a second at most.
pub const LINES_PER_SECOND: u32 = 5;

/// One kind of trouble. The second that it counts in and what it has counted are one word, so that no lock is taken.
#[derive(Debug, Default)]
pub struct Flood(AtomicU64);

/// What a flood says of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Write it. It is the first after `left_out` that were not written.
    Write {
        /// Lines left out and not spoken of so far; 0 is none.
        left_out: u32,
    },
    /// Leave it out.
    LeaveOut,
}

impl Flood {
    /// Asks for one line. A tick of an earlier second than the last one's (another thread was quicker) counts in that one.
    pub fn admit(&self, now: Tick) -> Admission {
        let mut admission = Admission::LeaveOut;
        // The closure answers always, so the update is always made.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let (second, count) = unpack(word);
            if second_of(now) > second {
                admission = Admission::Write { left_out: left_out(count) };
                return Some(pack(second_of(now), 1));
            }
            admission = if count < LINES_PER_SECOND { Admission::Write { left_out: 0 } } else { Admission::LeaveOut };
            Some(pack(second, count.saturating_add(1)))
        });
        admission
    }

    /// What was left out in a second that is over and was not spoken of; each is told once.
    pub fn settle(&self, now: Tick) -> Option<u32> {
        let word = self.0.load(Ordering::Relaxed);
        let (second, count) = unpack(word);
        if second_of(now) <= second || left_out(count) == 0 {
            return None;
        }
        // A line that came in between has told it.
        self.0.compare_exchange(word, pack(second, 0), Ordering::Relaxed, Ordering::Relaxed).ok().map(|_| left_out(count))
    }
}

fn left_out(count: u32) -> u32 {
    count.saturating_sub(LINES_PER_SECOND)
}

/// Seconds from 1, so that the word's zero is before every second.
fn second_of(now: Tick) -> u32 {
    u32::try_from(now.0 / 1_000).unwrap_or(u32::MAX).saturating_add(1)
}

fn pack(second: u32, count: u32) -> u64 {
    u64::from(second) << 32 | u64::from(count)
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves of a word, 32 bits each")]
fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Admission = Admission::Write { left_out: 0 };

    #[test]
    fn a_few_lines_a_second_and_the_rest_are_counted() {
        let flood = Flood::default();
        let asked: Vec<_> = (0..9).map(|at| flood.admit(Tick(at))).collect();
        assert_eq!(asked[..5], [WRITE; 5]);
        assert_eq!(asked[5..], [Admission::LeaveOut; 4]);
        assert_eq!(flood.settle(Tick(999)), None, "the second is not over");
        assert_eq!(flood.admit(Tick(1_000)), Admission::Write { left_out: 4 });
        assert_eq!(flood.admit(Tick(1_001)), WRITE, "each is told once");
        assert_eq!(flood.settle(Tick(5_000)), None);
    }

    #[test]
    fn what_no_line_tells_is_told_at_the_second_s_end() {
        let flood = Flood::default();
        for _ in 0..8 {
            flood.admit(Tick(500));
        }
        assert_eq!(flood.settle(Tick(1_000)), Some(3));
        assert_eq!(flood.settle(Tick(1_000)), None);
        assert_eq!(flood.admit(Tick(1_000)), WRITE);
    }

    #[test]
    fn a_tick_of_the_second_before_opens_nothing() {
        let flood = Flood::default();
        for _ in 0..5 {
            assert_eq!(flood.admit(Tick(2_000)), WRITE);
        }
        assert_eq!(flood.admit(Tick(1_999)), Admission::LeaveOut);
        assert_eq!(flood.admit(Tick(2_000)), Admission::LeaveOut);
        assert_eq!(flood.admit(Tick(u64::MAX)), Admission::Write { left_out: 2 });
    }

    #[test]
    fn no_line_is_lost_between_threads() {
        let flood = Flood::default();
        let written = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        written.fetch_add(u64::from(flood.admit(Tick(0)) == WRITE), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(written.into_inner(), 5);
        assert_eq!(flood.settle(Tick(1_000)), Some(3_995));
    }
}
