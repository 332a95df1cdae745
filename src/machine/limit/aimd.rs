//! Additive increase, multiplicative decrease: one place more after each good round, a share fewer at a sign of overload.
//!
//! The rule is TCP's congestion avoidance (Chiu and Jain 1989, Jacobson 1988), for calls as Netflix' concurrency-limits describes it under
//! the name `AIMDLimit`: over a bound on the time that a call takes, or when one is dropped, the limit is multiplied by a back-off ratio;
//! else, if at least half of it is in use, it grows by one. There each call is a step. Here a round is: with a step for each call the limit
//! doubles with every round trip and falls to its minimum in a single bad one, and settles nowhere.

use std::time::Duration;

use super::{Round, Step};

/// What it goes by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// A call that takes longer is a sign of overload.
    pub latency: Duration,
    /// What the limit is multiplied by then; between 0 and 1.
    pub backoff_ratio: f64,
}

/// The law.
#[derive(Debug)]
pub(super) struct Aimd(Settings);

impl Aimd {
    pub(super) fn new(settings: Settings) -> Self {
        Self(settings)
    }
}

impl Step for Aimd {
    fn is_overload(&self, took_micros: u64) -> bool {
        u128::from(took_micros) > self.0.latency.as_micros()
    }

    fn down(&mut self, limit: f64) -> f64 {
        // By a whole place at least: a tenth of three places is none.
        (limit * self.0.backoff_ratio).min(limit - 1.0).floor()
    }

    fn round(&mut self, limit: f64, round: &Round) -> f64 {
        if round.is_crowded(limit) { limit + 1.0 } else { limit }
    }
}
