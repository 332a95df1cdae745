//! What a breaker is told to do: the checked form of a service's `breaker` table.

use std::num::NonZeroU32;
use std::time::Duration;

use super::half_open::Round;
use super::{AdaptiveSettings, Over, Rates, Scope, Trip};
use crate::machine::time::Tick;

/// A breaker's settings. The config's reader has checked the ranges given here; the machine stays sound outside them.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// When it opens.
    pub policy: PolicySettings,
    /// How long it stays open after the first trip.
    pub recovery_timeout: Duration,
    /// What the open time is multiplied by with each further trip before it closes again; at least 1.
    pub backoff_multiplier: f64,
    /// The longest open time, before jitter, by back-off or by a service's `Retry-After`; at least `recovery_timeout`, and less is taken for it.
    pub recovery_timeout_max: Duration,
    /// The share by which chance may lengthen the open time, 0 to 1, so that a fleet does not probe in step.
    pub jitter: f64,
    /// Probes in flight at once while half-open; at least 1, and 0 is taken for 1.
    pub permits: u32,
    /// Successful probes that close it, where each probe decides; at least 1, and 0 is taken for 1.
    pub success_threshold: u32,
    /// The share of failed probes, above 0 up to 1, that reopens it, where `permits` probes are weighed together; `None`: each decides.
    pub half_open_failure_rate: Option<f64>,
    /// The longest it stays half-open before it opens again; `None` is as long as it takes.
    pub half_open_timeout: Option<Duration>,
    /// How long after recovery the admitted share of calls takes to rise to all of them; zero: all at once.
    pub ramp: Duration,
    /// Verdicts that a new breaker does not weigh.
    pub ignore_first: u32,
    /// Whose verdicts it weighs, where it is one of a fleet.
    pub evidence: Scope,
    /// How many instances of a fleet must see failures before its breaker opens; at least 1, and 0 is taken for 1. With fewer the breakers of
    /// those that see them open alone.
    pub quorum: u32,
    /// How long a probe may be out before it is given up: the call's timeout and a second. Below a millisecond it is taken for one.
    pub lease: Duration,
}

/// When a closed breaker opens.
#[derive(Debug, Clone, PartialEq)]
pub enum PolicySettings {
    /// After this many failures in a row.
    Consecutive {
        /// The length of the streak that trips.
        fail_max: NonZeroU32,
    },
    /// When too many of the last calls failed or were slow.
    Count {
        /// Calls in the window, from 1.
        size: u32,
        /// What is too many.
        rates: Rates,
    },
    /// When too many of the calls of the last seconds failed or were slow.
    Time {
        /// The window's length: whole seconds, from 1.
        window: Duration,
        /// What is too many.
        rates: Rates,
    },
    /// When an expression over the window's figures holds.
    Expression {
        /// The expression.
        trip: Trip,
        /// The window.
        over: Over,
        /// What took longer than this was slow.
        slow: Duration,
    },
    /// Never: it refuses a share of the calls instead.
    Adaptive(AdaptiveSettings),
    /// When one of these says so.
    Any(Vec<PolicySettings>),
}

impl PolicySettings {
    /// The policy's name in the config.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Consecutive { .. } => "consecutive",
            Self::Count { .. } => "count",
            Self::Time { .. } => "time",
            Self::Expression { .. } => "expression",
            Self::Adaptive(_) => "adaptive",
            Self::Any(_) => "any",
        }
    }

    /// The rates that its window is weighed by, where it has such.
    fn rates(&self) -> Option<&Rates> {
        match self {
            Self::Count { rates, .. } | Self::Time { rates, .. } => Some(rates),
            Self::Consecutive { .. } | Self::Expression { .. } | Self::Adaptive(_) | Self::Any(_) => None,
        }
    }
}

impl Settings {
    /// These, and of the rest the defaults: no back-off, up to 10 minutes open, no jitter; one probe at a time, each decides, one
    /// success closes; no ramp, no limit to half-open, nothing ignored; each instance weighs its own verdicts, and one is quorum enough.
    pub fn new(policy: PolicySettings, recovery_timeout: Duration, lease: Duration) -> Self {
        Self {
            policy,
            recovery_timeout,
            backoff_multiplier: 1.0,
            recovery_timeout_max: Duration::from_secs(600),
            jitter: 0.0,
            permits: 1,
            success_threshold: 1,
            half_open_failure_rate: None,
            half_open_timeout: None,
            ramp: Duration::ZERO,
            ignore_first: 0,
            evidence: Scope::Instance,
            quorum: 1,
            lease,
        }
    }

    /// How long to stay open after the `trips`-th trip in a row (from 1):
    /// `max(min(recovery_timeout × backoff_multiplier^(trips-1), max), min(retry_after, max)) × (1 + jitter × roll)`.
    ///
    /// With `count` and `time` it is a millisecond longer: resilience4j lets the first probe through once the time is *past*.
    pub(super) fn open_time(&self, trips: u32, retry_after: Option<Duration>, roll: f64) -> Duration {
        let longest = self.recovery_timeout_max.max(self.recovery_timeout);
        let factor = self.backoff_multiplier.max(1.0).powf(f64::from(trips.saturating_sub(1)));
        let base = stretched(self.recovery_timeout, factor).min(longest).max(self.bounded(retry_after));
        let past = if self.policy.rates().is_some() { Duration::from_millis(1) } else { Duration::ZERO };
        stretched(base, 1.0 + share(self.jitter) * share(roll)).saturating_add(past)
    }

    /// Whether these say the same of open times as others do.
    pub(super) fn opens_as_long_as(&self, other: &Self) -> bool {
        let past = |settings: &Self| settings.policy.rates().is_some();
        self.recovery_timeout == other.recovery_timeout
            && self.backoff_multiplier.to_bits() == other.backoff_multiplier.to_bits()
            && self.recovery_timeout_max == other.recovery_timeout_max
            && self.jitter.to_bits() == other.jitter.to_bits()
            && past(self) == past(other)
    }

    /// What of a service's `Retry-After` is heeded; nothing is none.
    pub(super) fn bounded(&self, retry_after: Option<Duration>) -> Duration {
        retry_after.unwrap_or_default().min(self.recovery_timeout_max.max(self.recovery_timeout))
    }

    /// When the lease of a probe admitted at `now` ends. Never at once, for every probe would then be late, and none could close
    /// the breaker or hold a place.
    pub(super) fn lease_from(&self, now: Tick) -> Tick {
        now.plus(self.lease.max(Duration::from_millis(1)))
    }

    /// Good probes that close a half-open breaker; at least 1.
    pub fn probes_that_decide(&self) -> u32 {
        self.round().map_or(self.success_threshold, |round| round.size).max(1)
    }

    /// How probes are weighed together; `None`: each decides.
    ///
    /// Slow ones count by the policy's own threshold, and as few as its `minimum_calls` decide, as in resilience4j.
    pub(super) fn round(&self) -> Option<Round> {
        let failure_rate = self.half_open_failure_rate?;
        let permits = self.permits.max(1);
        Some(match self.policy.rates() {
            Some(rates) => Round {
                size: permits.min(rates.minimum_calls.max(1)),
                failure_rate,
                slow_call_rate: rates.slow_call_rate,
                slow_call_duration: rates.slow_call_duration,
            },
            None => Round { size: permits, failure_rate, slow_call_rate: f64::INFINITY, slow_call_duration: Duration::MAX },
        })
    }

    /// The share of calls, 0 to 1, that is admitted `since` recovery; `None`: all of them.
    pub(super) fn ramp_share(&self, since: Duration) -> Option<f64> {
        (since < self.ramp).then(|| since.as_secs_f64() / self.ramp.as_secs_f64())
    }
}

/// `duration` times `factor`, which is at least 1. What is too long for a duration becomes the longest; nothing stays nothing, though
/// the factor be infinite. A factor of 1 is exact: through floating point a long time would come back a little shorter.
fn stretched(duration: Duration, factor: f64) -> Duration {
    if duration.is_zero() || factor <= 1.0 {
        return duration;
    }
    Duration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

/// A share, 0 to 1; what is no number is none of it.
fn share(number: f64) -> f64 {
    if number.is_nan() { 0.0 } else { number.clamp(0.0, 1.0) }
}
