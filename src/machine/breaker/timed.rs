//! `time`: opens when too many of the calls of the last seconds failed or were slow. Decides as resilience4j's time-based sliding window
//! does.

use std::time::Duration;

use super::policy::{Counts, Policy, Slack};
use super::rates::{Mark, Rates};
use super::seconds::Seconds;
use super::sliding::{second_of, whole_seconds};
use super::{PolicySettings, Verdict};
use crate::machine::time::Tick;

#[derive(Debug)]
pub(super) struct Timed {
    seconds: Seconds,
    rates: Rates,
}

impl Timed {
    pub(super) fn new(window: Duration, rates: Rates, now: Tick) -> Self {
        Self { seconds: Seconds::new(whole_seconds(window), now), rates }
    }
}

impl Policy for Timed {
    fn record(&mut self, verdict: Verdict, took: Duration, now: Tick) -> bool {
        let Some(mark) = Mark::of(verdict, took, self.rates.slow_call_duration) else { return false };
        self.seconds.push(mark, now);
        self.rates.exceeded_by(&self.seconds.total())
    }

    fn weigh(&mut self, now: Tick) -> bool {
        self.seconds.move_to(second_of(now));
        self.rates.exceeded_by(&self.seconds.total())
    }

    /// In a second that has been weighed, successes only lower the rates; in the next one older calls are out of the window, and rates may
    /// be higher.
    fn slack(&self) -> Slack {
        Slack::Some { successes: self.rates.indifferent_to(&self.seconds.total()), second: Some(self.seconds.latest()) }
    }

    fn quick(&self) -> Duration {
        self.rates.slow_call_duration
    }

    fn absorb(&mut self, successes: u32) {
        self.seconds.push_successes(successes);
    }

    fn reset(&mut self, now: Tick) {
        self.seconds.clear(now);
    }

    fn counts(&self, now: Tick) -> Counts {
        self.seconds.counts(now)
    }

    fn exceeded_by(&self, fleet: &[Counts]) -> bool {
        fleet.iter().any(|counts| self.rates.exceeded_by(counts))
    }

    fn retune(&mut self, settings: &PolicySettings, now: Tick) -> bool {
        let PolicySettings::Time { window, rates } = settings else { return false };
        self.seconds.resize(whole_seconds(*window), now);
        self.rates = *rates;
        true
    }

    fn inherit(&mut self, counts: Counts, now: Tick) {
        self.seconds.fill(counts, now);
    }
}
