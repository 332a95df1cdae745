//! How fast an order is carried out, and an instance's part of that.
//!
//! An order's rate is the fleet's. It is laid on the partitions that the order is about: an instance goes at the rate times its partitions over all of
//! them, which needs no word between instances. What goes takes its slot as it goes, so nothing is saved up while nothing may go.
//!
//! Bound: in any span of t seconds the fleet lets rate × (t + [`SLACK`]) go, and one more for each instance and each time a partition changes
//! hands. An instance that has none of the order's partitions but calls of it (a topic has grown since) goes as if it had one.

use std::time::Duration;

use super::time::Tick;

/// How late a turn may be taken without the next one being later for it: a timer's grain.
pub const SLACK: Duration = Duration::from_millis(10);

const NANOS_PER_MILLI: u64 = 1_000_000;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// When the next one may go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// Nanoseconds on the clock of ticks.
    next: Option<u64>,
}

impl Pace {
    /// When the next one may go: from the beginning, if none has gone.
    pub fn ready_at(&self) -> Tick {
        Tick(self.next.unwrap_or(0).div_ceil(NANOS_PER_MILLI))
    }

    /// When one may go that has `before` others in front of it, should all of them go as soon as they may from `now` on.
    pub fn turn(&self, now: Tick, before: usize, rate: u32, part: (usize, usize)) -> Tick {
        let before = u64::try_from(before).unwrap_or(u64::MAX);
        self.ready_at().max(now).plus(Duration::from_nanos(interval(rate, part).saturating_mul(before)))
    }

    /// One goes now, at `rate` a second, of which `part` of `whole` is ours.
    pub fn take(&mut self, now: Tick, rate: u32, part: (usize, usize)) {
        let now = now.0.saturating_mul(NANOS_PER_MILLI);
        let slack = u64::try_from(SLACK.as_nanos()).unwrap_or(0);
        let next = self.next.map_or(now, |next| next.max(now.saturating_sub(slack)));
        self.next = Some(next.saturating_add(interval(rate, part)));
    }
}

/// Nanoseconds between two that go.
fn interval(rate: u32, (part, whole): (usize, usize)) -> u64 {
    let whole = u64::try_from(whole.max(1)).unwrap_or(u64::MAX);
    let part = u64::try_from(part.max(1)).unwrap_or(u64::MAX).min(whole);
    (NANOS_PER_SECOND.saturating_mul(whole) / u64::from(rate.max(1)).saturating_mul(part)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many go from `from` until before `until`, if they are looked after every `every` milliseconds.
    fn gone(pace: &mut Pace, (from, until, every): (u64, u64, usize), rate: u32, share: (usize, usize)) -> u64 {
        let mut gone = 0;
        for now in (from..until).step_by(every).map(Tick) {
            while pace.ready_at() <= now {
                pace.take(now, rate, share);
                gone += 1;
            }
        }
        gone
    }

    #[test]
    fn as_many_go_as_the_rate_says_however_high_it_is_and_however_late_one_looks() {
        for (rate, share, every, expected) in [
            (1, (1, 1), 1, 10),
            (3, (1, 1), 1, 30),
            (700, (1, 1), 1, 7_000),
            (5_000, (1, 1), 1, 50_000),
            (5_000, (1, 1), 7, 50_000),
            (100, (1, 1), 9, 1_000),
            (12, (1, 3), 1, 40),
            (1, (1, 6), 1, 2),
            (12, (0, 3), 1, 40),
            (12, (9, 3), 1, 120),
        ] {
            let went = gone(&mut Pace::default(), (5_000, 15_000, every), rate, share);
            assert!(went.abs_diff(expected) <= u64::from(rate) / 100 + 1, "{rate} {share:?} every {every} ms: {went}");
        }
    }

    #[test]
    fn nothing_is_saved_up() {
        let mut pace = Pace::default();
        assert_eq!(gone(&mut pace, (0, 1_000, 1), 2, (1, 1)), 2);
        assert_eq!(gone(&mut pace, (1_000_000, 1_001_000, 1), 2, (1, 1)), 3, "and one at once");
    }

    proptest! {
        /// However seldom and unevenly one looks, and however the share changes: no span has more than its bound.
        #[test]
        fn no_span_has_more_than_its_bound(rate in 1u32..3_000, looks in prop::collection::vec((0u64..400, 1usize..=4), 1..60)) {
            let (mut pace, mut now, mut times) = (Pace::default(), 0, Vec::new());
            for (later, part) in looks {
                now += later;
                while pace.ready_at() <= Tick(now) {
                    pace.take(Tick(now), rate, (part, 4));
                    times.push(now);
                }
            }
            for (first, from) in times.iter().enumerate().step_by(7) {
                for (last, until) in times.iter().enumerate().skip(first).step_by(3) {
                    let span = (until - from) as f64 / 1_000.0 + SLACK.as_secs_f64();
                    let went = (last - first + 1) as f64;
                    prop_assert!(went <= f64::from(rate) * span + 1.01, "{} in {}", went, span);
                }
            }
        }
    }
}
