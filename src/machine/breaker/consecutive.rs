//! `consecutive`: opens after `fail_max` failures in a row; any success starts over. What says nothing of the service leaves the streak as it is.

use std::num::NonZeroU32;
use std::time::Duration;

use super::policy::{Counts, Policy, Slack};
use super::{PolicySettings, Verdict};
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
    fn record(&mut self, verdict: Verdict, _took: Duration, now: Tick) -> bool {
        match verdict {
            Verdict::Success | Verdict::Slow => self.streak = 0,
            Verdict::Failure { .. } => self.streak = self.streak.saturating_add(1),
            Verdict::Ignored => {}
        }
        self.weigh(now)
    }

    fn weigh(&mut self, _now: Tick) -> bool {
        self.streak >= self.fail_max.get()
    }

    /// A success after a success changes nothing.
    fn slack(&self) -> Slack {
        if self.streak == 0 { Slack::Endless } else { Slack::None }
    }

    fn absorb(&mut self, successes: u32) {
        if successes > 0 {
            self.streak = 0;
        }
    }

    fn reset(&mut self, _now: Tick) {
        self.streak = 0;
    }

    fn counts(&self, _now: Tick) -> Counts {
        let streak = u64::from(self.streak);
        Counts { calls: streak, failures: streak, slow: 0, consecutive_failures: streak }
    }

    /// The streaks that instances are in, added up: a success on one of them ends its own.
    fn exceeded_by(&self, fleet: &[Counts]) -> bool {
        fleet.iter().any(|counts| counts.consecutive_failures >= u64::from(self.fail_max.get()))
    }

    fn retune(&mut self, settings: &PolicySettings, _now: Tick) -> bool {
        let PolicySettings::Consecutive { fail_max } = settings else { return false };
        self.fail_max = *fail_max;
        true
    }

    fn inherit(&mut self, counts: Counts, _now: Tick) {
        self.streak = u32::try_from(counts.consecutive_failures).unwrap_or(u32::MAX);
    }
}
