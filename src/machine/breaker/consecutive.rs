//! `consecutive`: opens after `fail_max` failures in a row; any success starts over. What says nothing of the service leaves the streak as it is.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Verdict;
use super::policy::{Counts, Policy};
use crate::machine::time::Tick;

#[derive(Debug)]
pub(super) struct Consecutive {
    fail_max: NonZeroU32,
    streak: u32,
}

impl Consecutive {
    pub(super) fn new(fail_max: NonZeroU32) -> Self {
        Self { fail_max, streak: 0 }
    }
}

impl Policy for Consecutive {
    fn record(&mut self, verdict: Verdict, _took: Duration, _now: Tick) -> bool {
        match verdict {
            Verdict::Success | Verdict::Slow => self.streak = 0,
            Verdict::Failure { .. } => self.streak = self.streak.saturating_add(1),
            Verdict::Ignored => {}
        }
        self.streak >= self.fail_max.get()
    }

    fn at_rest(&self) -> bool {
        self.streak == 0
    }

    fn reset(&mut self) {
        self.streak = 0;
    }

    fn counts(&self, _now: Tick) -> Counts {
        let streak = u64::from(self.streak);
        Counts { calls: streak, failures: streak, slow: 0, consecutive_failures: streak }
    }
}
