//! When a backlog will be gone, from what is measured and what its breaker says.
//!
//! It is a forecast, and says what it rests on. Where nothing can be said it names the reason instead of a number: a number that comes from an
//! open circuit or from two samples a second apart would be believed.

use std::time::Duration;

/// The least time over which rates are taken for measured: two samples lie five seconds apart.
const MEASURED_OVER: Duration = Duration::from_secs(9);

/// What is known of a backlog.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    /// Calls that are parked.
    pub depth: u64,
    /// Whether all of them wait for their time; `None`: it is not known.
    pub all_wait: Option<bool>,
    /// Calls parked a second.
    pub parked: f64,
    /// Calls finished a second.
    pub drained: f64,
    /// For how long both have been measured since its breaker changed last.
    pub measured_over: Duration,
    /// What it drained a second when it last did.
    pub capacity: Option<f64>,
    /// What holds it.
    pub road: Road,
}

/// What its breaker, or somebody, says to draining.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    /// Calls go.
    Clear,
    /// Open: probes go after this time.
    Open(Duration),
    /// Probes are out.
    HalfOpen,
    /// Somebody has it refuse everything.
    ForcedOpen,
    /// Somebody holds the backlog.
    Paused,
}

/// What the forecast rests on, or why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// Nothing is parked.
    Empty,
    /// The rates of late.
    Measured,
    /// The circuit is open: the earliest, if the first probe succeeds and it drains as it last did. Without having drained, nothing.
    CircuitOpen,
    /// Probes decide.
    HalfOpen,
    /// Somebody has forced the circuit open.
    ForcedOpen,
    /// Somebody holds the backlog.
    Paused,
    /// The circuit changed a moment ago, or the process began.
    Measuring,
    /// More is parked than drained: at this pace never.
    Growing,
    /// Every call waits for its time.
    NotDue,
    /// Calls could go, and none does.
    NotDraining,
}

impl Basis {
    /// Every basis.
    pub const ALL: [Self; 10] = [
        Self::Empty,
        Self::Measured,
        Self::CircuitOpen,
        Self::HalfOpen,
        Self::ForcedOpen,
        Self::Paused,
        Self::Measuring,
        Self::Growing,
        Self::NotDue,
        Self::NotDraining,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Measured => "measured",
            Self::CircuitOpen => "circuit_open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::Paused => "paused",
            Self::Measuring => "measuring",
            Self::Growing => "growing",
            Self::NotDue => "not_due",
            Self::NotDraining => "not_draining",
        }
    }
}

/// When the backlog will be gone, seconds from now, if that can be said; and what that rests on.
pub fn outlook(known: &Known) -> (Option<f64>, Basis) {
    let Known { depth, all_wait, parked, drained, measured_over, capacity, road } = *known;
    if depth == 0 {
        return (Some(0.0), Basis::Empty);
    }
    match road {
        Road::Paused => (None, Basis::Paused),
        Road::ForcedOpen => (None, Basis::ForcedOpen),
        Road::HalfOpen => (None, Basis::HalfOpen),
        Road::Open(until) => {
            let until = until.as_secs_f64();
            // Until then calls go on being parked; then they are made instead.
            let depth = depth as f64 + parked.max(0.0) * until;
            let earliest = capacity.filter(|capacity| *capacity > 0.0).map(|capacity| until + depth / capacity);
            (earliest.filter(|seconds| seconds.is_finite()), Basis::CircuitOpen)
        }
        Road::Clear if measured_over < MEASURED_OVER => (None, Basis::Measuring),
        Road::Clear if drained <= 0.0 => (None, if all_wait == Some(true) { Basis::NotDue } else { Basis::NotDraining }),
        Road::Clear if drained <= parked => (None, Basis::Growing),
        Road::Clear => {
            let seconds = depth as f64 / (drained - parked);
            if seconds.is_finite() { (Some(seconds), Basis::Measured) } else { (None, Basis::Growing) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LONG: Duration = Duration::from_secs(30);
    const CLEAR: Known =
        Known { depth: 100, all_wait: Some(false), parked: 0.0, drained: 0.0, measured_over: LONG, capacity: None, road: Road::Clear };

    #[test]
    fn the_forecast_says_what_it_rests_on() {
        let open = Road::Open(Duration::from_secs(20));
        for (known, seconds, basis) in [
            (Known { depth: 0, road: Road::Paused, ..CLEAR }, Some(0.0), Basis::Empty),
            (Known { depth: 0, measured_over: Duration::ZERO, ..CLEAR }, Some(0.0), Basis::Empty),
            // Nothing has drained yet.
            (CLEAR, None, Basis::NotDraining),
            (Known { all_wait: None, ..CLEAR }, None, Basis::NotDraining),
            (Known { all_wait: Some(true), ..CLEAR }, None, Basis::NotDue),
            // It drains.
            (Known { parked: 1.0, drained: 11.0, ..CLEAR }, Some(10.0), Basis::Measured),
            (Known { drained: 0.5, ..CLEAR }, Some(200.0), Basis::Measured),
            // Measured for a moment only: the ramp has just begun, or the process.
            (Known { drained: 11.0, measured_over: Duration::from_secs(5), ..CLEAR }, None, Basis::Measuring),
            (Known { drained: 11.0, measured_over: Duration::from_secs(10), ..CLEAR }, Some(100.0 / 11.0), Basis::Measured),
            // It grows, or stands: calls that fail are parked again, and count in both.
            (Known { parked: 11.0, drained: 11.0, ..CLEAR }, None, Basis::Growing),
            (Known { parked: 12.0, drained: 11.0, ..CLEAR }, None, Basis::Growing),
            // Something holds it.
            (Known { drained: 11.0, road: Road::Paused, ..CLEAR }, None, Basis::Paused),
            (Known { drained: 11.0, road: Road::ForcedOpen, ..CLEAR }, None, Basis::ForcedOpen),
            (Known { capacity: Some(5.0), road: Road::HalfOpen, ..CLEAR }, None, Basis::HalfOpen),
            // Open: when it probes is known, how it drains only if it has.
            (Known { drained: 3.0, road: open, ..CLEAR }, None, Basis::CircuitOpen),
            (Known { capacity: Some(10.0), road: open, ..CLEAR }, Some(30.0), Basis::CircuitOpen),
            (Known { capacity: Some(10.0), parked: 5.0, road: open, ..CLEAR }, Some(40.0), Basis::CircuitOpen),
            (Known { capacity: Some(0.0), road: open, ..CLEAR }, None, Basis::CircuitOpen),
            (Known { capacity: Some(10.0), road: Road::Open(Duration::ZERO), ..CLEAR }, Some(10.0), Basis::CircuitOpen),
        ] {
            let (found, why) = outlook(&known);
            assert_eq!(why, basis, "{known:?}");
            match (found, seconds) {
                (Some(found), Some(seconds)) => assert!((found - seconds).abs() < 1e-9, "{known:?}: {found}"),
                (found, seconds) => assert_eq!(found, seconds, "{known:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn a_number_is_never_negative_nor_endless(
            depth in any::<u64>(),
            rates in (0.0..1e9f64, 0.0..1e9f64),
            capacity in prop::option::of(0.0..1e9f64),
            until in prop::option::of(0..100_000u64),
        ) {
            let road = until.map_or(Road::Clear, |until| Road::Open(Duration::from_secs(until)));
            let (seconds, basis) = outlook(&Known { depth, parked: rates.0, drained: rates.1, capacity, road, ..CLEAR });
            if let Some(seconds) = seconds {
                prop_assert!(seconds >= 0.0 && seconds.is_finite());
                prop_assert!(matches!(basis, Basis::Empty | Basis::Measured | Basis::CircuitOpen));
            }
        }
    }
}
