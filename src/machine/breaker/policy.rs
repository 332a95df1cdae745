//! When a closed breaker opens. An algorithm is one file with one [`Policy`], one variant of [`PolicySettings`], and one line in [`build`].

use std::fmt;
use std::time::Duration;

use super::consecutive::Consecutive;
use super::{PolicySettings, Verdict};
use crate::machine::time::Tick;

/// An algorithm that weighs verdicts.
pub trait Policy: fmt::Debug + Send + Sync {
    /// Takes a verdict on a call that took `took` and ended at `now`; true if the breaker is to open.
    fn record(&mut self, verdict: Verdict, took: Duration, now: Tick) -> bool;

    /// Whether [`Verdict::Success`] and [`Verdict::Ignored`] would change nothing, whenever they came and however long they took. Then
    /// [`super::SharedBreaker`] does not ask for them. A window that counts successes is never at rest.
    fn at_rest(&self) -> bool {
        false
    }

    /// Forgets every verdict.
    fn reset(&mut self);

    /// The figures it weighs, for people and for the record of a trip.
    fn counts(&self, now: Tick) -> Counts;
}

/// The figures of a policy's window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Calls in the window; for `consecutive` the failures of the present streak.
    pub calls: u64,
    /// Of these, failures.
    pub failures: u64,
    /// Of these, slow calls.
    pub slow: u64,
    /// Failures in a row up to now.
    pub consecutive_failures: u64,
}

/// The policy that the settings name.
pub(super) fn build(settings: &PolicySettings) -> Box<dyn Policy> {
    match settings {
        PolicySettings::Consecutive { fail_max } => Box::new(Consecutive::new(*fail_max)),
    }
}
