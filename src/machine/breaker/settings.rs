//! What a breaker is told to do: the checked form of a service's `breaker` table.

use std::num::NonZeroU32;
use std::time::Duration;

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
    /// Successful probes that close it; at least 1, and 0 is taken for 1.
    pub success_threshold: u32,
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
}

impl PolicySettings {
    /// The policy's name in the config.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Consecutive { .. } => "consecutive",
        }
    }
}

impl Settings {
    /// How long to stay open after the `trips`-th trip in a row (from 1):
    /// `max(min(recovery_timeout × backoff_multiplier^(trips-1), max), min(retry_after, max)) × (1 + jitter × roll)`.
    pub(super) fn open_time(&self, trips: u32, retry_after: Option<Duration>, roll: f64) -> Duration {
        let longest = self.recovery_timeout_max.max(self.recovery_timeout);
        let factor = self.backoff_multiplier.max(1.0).powf(f64::from(trips.saturating_sub(1)));
        let base = stretched(self.recovery_timeout, factor).min(longest).max(retry_after.unwrap_or_default().min(longest));
        stretched(base, 1.0 + share(self.jitter) * share(roll))
    }

    /// Probes that may be in flight at once after `successes` good ones: no more than can still be of use. Never none, for a breaker
    /// that may not probe would stay half-open for good.
    pub(super) fn places(&self, successes: u32) -> usize {
        let wanted = self.success_threshold.saturating_sub(successes);
        self.permits.min(wanted).max(1) as usize
    }

    /// When the lease of a probe admitted at `now` ends. Never at once, for every probe would then be late, and none could close
    /// the breaker or hold a place.
    pub(super) fn lease_from(&self, now: Tick) -> Tick {
        now.plus(self.lease.max(Duration::from_millis(1)))
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
