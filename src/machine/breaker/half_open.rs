//! A half-open breaker: the probes that are out, what those that came back have said, and what follows from it.
//!
//! Two ways to decide. By default each probe decides: a failure reopens, and `success_threshold` successes close. With a
//! [`Round`] the first so many probes are weighed together, as resilience4j does.

use std::time::Duration;

use super::rates::{Mark, reaches};
use super::{Counts, Settings, Verdict};
use crate::machine::time::Tick;

/// How the probes of one stay in half-open are weighed together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Round {
    /// Results that decide.
    pub size: u32,
    /// The share of failures that reopens.
    pub failure_rate: f64,
    /// The share of slow calls that does.
    pub slow_call_rate: f64,
    /// What took longer than this was slow.
    pub slow_call_duration: Duration,
}

#[derive(Debug, Default)]
pub(super) struct HalfOpen {
    pub probes: Vec<Probe>,
    results: Counts,
    /// Those of the other instances' probes, as far as they have told.
    others: Counts,
    /// The longest `Retry-After` of the round's failures here, and of the others'.
    retry_after: Option<Duration>,
    others_retry_after: Option<Duration>,
}

/// A probe that is out.
#[derive(Debug)]
pub(super) struct Probe {
    pub id: u64,
    pub lease_ends: Tick,
}

/// What a probe's answer brings about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// More must be known.
    Wait,
    /// The service works.
    Recover,
    /// It does not; it may have said when it will.
    Reopen(Option<Duration>),
}

impl HalfOpen {
    /// Sends a probe out, which has a place: [`HalfOpen::full_until`] says so.
    pub fn send(&mut self, id: u64, lease_ends: Tick) {
        self.probes.push(Probe { id, lease_ends });
    }

    /// Takes a probe that came back off the list; false if it is not on it, or its lease has ended.
    pub fn take_back(&mut self, id: Option<u64>, now: Tick) -> bool {
        let Some(place) = self.probes.iter().position(|probe| Some(probe.id) == id && probe.lease_ends > now) else { return false };
        self.probes.swap_remove(place);
        true
    }

    /// Takes a probe off the list that will say nothing.
    pub fn drop_probe(&mut self, id: Option<u64>) {
        self.probes.retain(|probe| Some(probe.id) != id);
    }

    /// Gives up the probes whose leases have ended; whether there were any.
    pub fn give_up(&mut self, now: Tick) -> bool {
        let before = self.probes.len();
        self.probes.retain(|probe| probe.lease_ends > now);
        self.probes.len() < before
    }

    /// Takes a probe's verdict.
    pub fn note(&mut self, verdict: Verdict, took: Duration, settings: &Settings) -> Decision {
        let round = settings.round();
        let slow_from = round.map_or(Duration::MAX, |round| round.slow_call_duration);
        let Some(mark) = Mark::of(verdict, took, slow_from) else { return Decision::Wait };
        let results = &mut self.results;
        results.calls += 1;
        results.failures += u64::from(mark.failed);
        results.slow += u64::from(mark.slow);
        results.consecutive_failures = if mark.failed { results.consecutive_failures + 1 } else { 0 };
        if let Verdict::Failure { retry_after } = verdict {
            self.retry_after = self.retry_after.max(retry_after);
        }
        self.decide(settings)
    }

    /// What follows from what is known.
    pub fn decide(&self, settings: &Settings) -> Decision {
        let Counts { calls, failures, slow, .. } = self.results.plus(self.others);
        let retry_after = self.retry_after.max(self.others_retry_after);
        match settings.round() {
            None if failures > 0 => Decision::Reopen(retry_after),
            None if calls > 0 && calls >= u64::from(settings.success_threshold) => Decision::Recover,
            Some(round) if calls > 0 && calls >= u64::from(round.size) => {
                let bad = reaches(failures, calls, round.failure_rate) || reaches(slow, calls, round.slow_call_rate);
                if bad { Decision::Reopen(retry_after) } else { Decision::Recover }
            }
            None | Some(_) => Decision::Wait,
        }
    }

    /// Whether no further probe may go now; then the first lease's end, when one may.
    pub fn full_until(&self, settings: &Settings) -> Option<Tick> {
        if self.probes.len() < self.places(settings) { None } else { self.first_lease_end() }
    }

    /// When the first lease ends.
    pub fn first_lease_end(&self) -> Option<Tick> {
        self.probes.iter().map(|probe| probe.lease_ends).min()
    }

    /// Probes whose leases have not ended.
    pub fn in_flight(&self, now: Tick) -> usize {
        self.probes.iter().filter(|probe| probe.lease_ends > now).count()
    }

    /// Hears what the other instances' probes have said in this life, in place of what it heard before.
    pub fn hear(&mut self, others: Counts, retry_after: Option<Duration>) {
        (self.others, self.others_retry_after) = (others, retry_after);
    }

    /// The longest `Retry-After` among the failures here.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// What the probes that came back have said.
    pub fn results(&self) -> Counts {
        self.results
    }

    /// Probes that may be in flight at once: no more than can still be of use. Never none, for a breaker that may not probe would
    /// stay half-open for good.
    pub fn places(&self, settings: &Settings) -> usize {
        let decided = u32::try_from(self.results.plus(self.others).calls).unwrap_or(u32::MAX);
        let useful = match settings.round() {
            None => settings.permits.min(settings.success_threshold.saturating_sub(decided)),
            Some(_) => settings.permits.saturating_sub(decided),
        };
        useful.max(1) as usize
    }
}
