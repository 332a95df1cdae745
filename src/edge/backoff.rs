//! How long to wait between attempts to connect: a schedule without end, and nothing that waits.
//!
//! The only file that names the crate `backoff`, and it takes the crate's arithmetic alone: its runtimes and its `retry` are not used. The
//! crate is no longer maintained; whoever replaces it changes this file.

use std::time::Duration;

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

/// The waits between attempts: each is chance's share of a bound that doubles from `initial` to `max`. Full jitter, because a fleet
/// loses its connections in one moment and would otherwise come back in one.
#[derive(Debug)]
pub struct Attempts {
    schedule: ExponentialBackoff,
    max: Duration,
}

impl Attempts {
    /// A schedule from its beginning: the first wait is at most `initial`, none is longer than `max`.
    pub fn new(initial: Duration, max: Duration) -> Self {
        let schedule = ExponentialBackoffBuilder::new()
            // The crate draws from around its interval: with a factor of 1 from nothing to twice the interval, hence the halves.
            .with_randomization_factor(1.0)
            .with_initial_interval(initial / 2)
            .with_max_interval(max / 2)
            .with_multiplier(2.0)
            // Its default is 15 minutes, after which it has no answer: a server that is away for longer would never be found again.
            .with_max_elapsed_time(None)
            .build();
        Self { schedule, max }
    }

    /// How long to wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        // Without an end it has always an answer; its range ends a nanosecond above the bound.
        self.schedule.next_backoff().unwrap_or(self.max).min(self.max)
    }

    /// An attempt succeeded: the schedule begins anew.
    pub fn succeeded(&mut self) {
        self.schedule.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(2);

    #[test]
    fn waits_stay_within_bounds_that_double_up_to_the_longest() {
        for _ in 0..200 {
            let mut attempts = Attempts::new(INITIAL, MAX);
            for bound_ms in [100, 200, 400, 800, 1_600, 2_000, 2_000, 2_000] {
                // A nanosecond above, by the crate's rounding.
                let bound = Duration::from_millis(bound_ms) + Duration::from_nanos(1);
                let wait = attempts.next_wait();
                assert!(wait <= bound && wait <= MAX, "{wait:?} is longer than {bound:?}");
            }
        }
    }

    #[test]
    fn chance_has_all_of_the_bound() {
        let mut attempts = Attempts::new(MAX, MAX);
        let waits: Vec<_> = (0..1_000).map(|_| attempts.next_wait()).collect();
        assert!(waits.iter().any(|wait| *wait < MAX / 4), "some are short");
        assert!(waits.iter().any(|wait| *wait > MAX * 3 / 4), "some are long");
    }

    #[test]
    fn it_never_ends_and_begins_anew_after_a_success() {
        let mut attempts = Attempts::new(INITIAL, MAX);
        let longest = (0..10_000).map(|_| attempts.next_wait()).max();
        assert!(longest > Some(MAX / 2), "{longest:?}: the bound has grown, and stays");
        attempts.succeeded();
        assert!(attempts.next_wait() <= INITIAL + Duration::from_nanos(1));
    }
}
