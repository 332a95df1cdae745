//! When a parked call is tried again.

use std::time::Duration;

/// Exponential back-off with full jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// The first delay's bound.
    pub initial: Duration,
    /// The longest delay.
    pub max: Duration,
}

impl Schedule {
    /// The delay after `attempt` calls made and failed (from 1): chance's share of `min(initial × 2^(attempt-1), max)`, and no less than
    /// the service's `Retry-After`, which counts up to `max`.
    ///
    /// Full jitter, because calls parked together in an outage would otherwise come back together (Brooker, "Exponential Backoff
    /// And Jitter", AWS Architecture Blog, 2015).
    pub fn delay(&self, attempt: u32, retry_after: Option<Duration>, roll: f64) -> Duration {
        // Doubled more often than this every time but zero is the longest already.
        let doublings = attempt.saturating_sub(1).min(128);
        let bound = (0..doublings).fold(self.initial, |bound, _| bound.saturating_mul(2)).min(self.max);
        let roll = if roll.is_nan() { 0.0 } else { roll.clamp(0.0, 1.0) };
        // Through floating point a very long time may come out longer than it went in, or than a duration can be.
        let chance = Duration::try_from_secs_f64(bound.as_secs_f64() * roll).unwrap_or(bound).min(bound);
        chance.max(retry_after.unwrap_or_default().min(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_bound_doubles_up_to_the_longest() {
        let schedule = Schedule { initial: SECOND, max: 60 * SECOND };
        for (attempt, seconds) in [(0, 1), (1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (u32::MAX, 60)] {
            assert_eq!(schedule.delay(attempt, None, 1.0), seconds * SECOND, "attempt {attempt}");
        }
        assert_eq!(schedule.delay(3, None, 0.5), 2 * SECOND);
    }

    #[test]
    fn retry_after_is_honoured_up_to_the_longest() {
        let schedule = Schedule { initial: SECOND, max: 60 * SECOND };
        assert_eq!(schedule.delay(1, Some(10 * SECOND), 0.3), 10 * SECOND);
        assert_eq!(schedule.delay(1, Some(1000 * SECOND), 0.3), 60 * SECOND);
    }

    #[test]
    fn less_than_a_millisecond_doubles_too() {
        let schedule = Schedule { initial: Duration::from_micros(500), max: SECOND };
        assert_eq!(schedule.delay(2, None, 1.0), Duration::from_millis(1));
        assert_eq!(schedule.delay(u32::MAX, None, 1.0), SECOND);
        assert_eq!(Schedule { initial: Duration::ZERO, ..schedule }.delay(u32::MAX, None, 1.0), Duration::ZERO);
    }

    fn any_duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            Just(Duration::ZERO),
            Just(Duration::MAX),
            any::<u64>().prop_map(Duration::from_nanos),
            any::<u64>().prop_map(Duration::from_secs)
        ]
    }

    proptest! {
        #[test]
        fn never_longer_than_the_longest_nor_shorter_than_asked(
            initial in any_duration(), max in any_duration(), attempt: u32,
            roll in prop_oneof![0.0..1.0f64, Just(1.0), any::<f64>()], after in proptest::option::of(any_duration()),
        ) {
            let schedule = Schedule { initial, max };
            let delay = schedule.delay(attempt, after, roll);
            prop_assert!(delay <= max);
            prop_assert!(delay >= after.unwrap_or_default().min(max));
            let further = schedule.delay(attempt.saturating_add(1), after, roll);
            prop_assert!(further >= delay, "a further attempt never waits less on the same roll");
        }
    }
}
