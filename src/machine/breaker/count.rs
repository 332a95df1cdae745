//! `count`: opens when too many of the last `size` calls failed or were slow. Decides as resilience4j's count-based sliding window does.

use std::time::Duration;

use super::policy::{Counts, Policy, Slack};
use super::rates::{Mark, Rates};
use super::ring::Ring;
use super::{PolicySettings, Verdict};
use crate::machine::time::Tick;

#[derive(Debug)]
pub(super) struct Count {
    ring: Ring,
    rates: Rates,
}

impl Count {
    pub(super) fn new(size: u32, rates: Rates) -> Self {
        let ring = Ring::new(size);
        Self { rates: within(rates, &ring), ring }
    }
}

/// A minimum that the window has no room for is one that is reached when it is full.
fn within(rates: Rates, ring: &Ring) -> Rates {
    Rates { minimum_calls: rates.minimum_calls.min(ring.size()), ..rates }
}

impl Policy for Count {
    fn record(&mut self, verdict: Verdict, took: Duration, now: Tick) -> bool {
        let Some(mark) = Mark::of(verdict, took, self.rates.slow_call_duration) else { return false };
        self.ring.push(mark);
        self.weigh(now)
    }

    fn weigh(&mut self, _now: Tick) -> bool {
        self.rates.exceeded_by(&self.ring.counts())
    }

    fn slack(&self) -> Slack {
        Slack::Some { successes: self.rates.indifferent_to(&self.ring.counts()), second: None }
    }

    fn quick(&self) -> Duration {
        self.rates.slow_call_duration
    }

    fn absorb(&mut self, successes: u32) {
        self.ring.push_successes(successes);
    }

    fn reset(&mut self, _now: Tick) {
        self.ring.clear();
    }

    fn counts(&self, _now: Tick) -> Counts {
        self.ring.counts()
    }

    fn exceeded_by(&self, fleet: &[Counts]) -> bool {
        fleet.iter().any(|counts| self.rates.exceeded_by(counts))
    }

    fn retune(&mut self, settings: &PolicySettings, _now: Tick) -> bool {
        let PolicySettings::Count { size, rates } = settings else { return false };
        self.ring.resize(*size);
        self.rates = within(*rates, &self.ring);
        true
    }

    fn inherit(&mut self, counts: Counts, _now: Tick) {
        self.ring.fill(counts);
    }
}
