//! What share of calls may fail or be slow: the rule that `count` and `time` weigh their windows by, and a half-open breaker its round.
//!
//! The rule, its defaults and its arithmetic are those of resilience4j 2.4: nothing is said of fewer calls than a minimum; a rate that
//! reaches its threshold is too high; a call is slow if it took longer than the threshold; one that failed slowly is both.

use std::time::Duration;

use super::{Counts, Verdict};

/// Thresholds of a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Calls that must have been recorded before a rate means anything; from 1.
    pub minimum_calls: u32,
    /// The share of failed calls that is too high, above 0 up to 1.
    pub failure_rate: f64,
    /// The share of slow calls that is too high, above 0 up to 1.
    pub slow_call_rate: f64,
    /// What took longer than this was slow.
    pub slow_call_duration: Duration,
}

/// What a verdict is to a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub failed: bool,
    pub slow: bool,
}

impl Mark {
    /// What `verdict` on a call that took `took` is; `None` if it is not recorded.
    pub fn of(verdict: Verdict, took: Duration, slow_call_duration: Duration) -> Option<Self> {
        let long = took > slow_call_duration;
        match verdict {
            Verdict::Success => Some(Self { failed: false, slow: long }),
            Verdict::Slow => Some(Self { failed: false, slow: true }),
            Verdict::Failure { .. } => Some(Self { failed: true, slow: long }),
            Verdict::Ignored => None,
        }
    }
}

impl Rates {
    /// Whether these figures are too high.
    pub(super) fn exceeded_by(&self, counts: &Counts) -> bool {
        counts.calls >= u64::from(self.minimum_calls.max(1))
            && (reaches(counts.failures, counts.calls, self.failure_rate) || reaches(counts.slow, counts.calls, self.slow_call_rate))
    }

    /// How many quick successes may follow on these figures, which are not too high, before they must be weighed again. A success only
    /// lowers a rate, so none need be, but for the one with which the rates begin to mean something.
    pub(super) fn indifferent_to(&self, counts: &Counts) -> u32 {
        let clean = counts.failures == 0 && counts.slow == 0;
        let short = u64::from(self.minimum_calls).saturating_sub(counts.calls);
        if clean || short == 0 { u32::MAX } else { u32::try_from(short - 1).unwrap_or(u32::MAX) }
    }
}

/// Whether `part` of `whole`, which is not 0, is at least the share `threshold`, in per cent of single precision, as resilience4j reckons it:
/// with more digits 7 of 100 would be less than 0.07. Nothing is too much of no share: a service that works reaches not even one of 0.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "the arithmetic that is to be matched")]
pub(super) fn reaches(part: u64, whole: u64, threshold: f64) -> bool {
    part > 0 && part as f32 * 100.0 / whole as f32 >= (threshold * 100.0) as f32
}
