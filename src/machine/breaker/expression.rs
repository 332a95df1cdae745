//! `expression`: opens when a CEL expression over the window's figures holds, such as
//! `failure_rate > 0.3 && calls >= 20 || consecutive >= 5`.

use std::fmt;
use std::time::Duration;

use super::policy::{Counts, Policy, Slack};
use super::rates::Mark;
use super::ring::Ring;
use super::seconds::Seconds;
use super::sliding::{second_of, whole_seconds};
use super::{PolicySettings, Verdict};
use crate::machine::expression::{CompileError, Condition, EvaluationError, Root};
use crate::machine::time::Tick;

/// The figures that an expression may name, in the order of [`Trip::holds`]'s roots: the first five are `int`, the others `double`.
const FIGURES: &[&str] = &["calls", "failures", "slow", "successes", "consecutive", "failure_rate", "slow_call_rate"];

/// A condition over a window's figures. Cloning shares it.
#[derive(Clone)]
pub struct Trip(Condition);

impl Trip {
    /// Compiles it, and tries it over an empty window and over a full one, so that one that cannot be evaluated is known at once.
    ///
    /// # Errors
    /// The source is not CEL, names something unknown, or does not say yes or no.
    pub fn compile(source: &str) -> Result<Self, CompileError> {
        let trip = Self(Condition::compile_over(source, FIGURES)?);
        for counts in [Counts::default(), Counts { calls: 7, failures: 3, slow: 2, consecutive_failures: 1 }] {
            if let Err(EvaluationError(message)) = trip.holds(&counts) {
                return Err(CompileError { line: 1, column: 1, message });
            }
        }
        Ok(trip)
    }

    /// The text it was compiled from.
    pub fn source(&self) -> &str {
        self.0.source()
    }

    fn holds(&self, counts: &Counts) -> Result<bool, EvaluationError> {
        let int = |figure: u64| Root::Int(i64::try_from(figure).unwrap_or(i64::MAX));
        self.0.holds_over(&[
            int(counts.calls),
            int(counts.failures),
            int(counts.slow),
            int(counts.calls.saturating_sub(counts.failures)),
            int(counts.consecutive_failures),
            Root::Double(share(counts.failures, counts.calls)),
            Root::Double(share(counts.slow, counts.calls)),
        ])
    }
}

impl PartialEq for Trip {
    fn eq(&self, other: &Self) -> bool {
        self.source() == other.source()
    }
}

impl fmt::Debug for Trip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trip").field(&self.source()).finish()
    }
}

/// A share, 0 to 1; of nothing it is 0.
#[expect(clippy::cast_precision_loss, reason = "of figures beyond 2^53 the share is as good")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// What a window is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// The last so many calls, from 1.
    Calls(u32),
    /// The calls of the last so long: whole seconds, from 1.
    Time(Duration),
}

#[derive(Debug)]
pub(super) struct Expression {
    trip: Trip,
    window: Window,
    slow_call_duration: Duration,
}

#[derive(Debug)]
enum Window {
    Ring(Ring),
    Seconds(Seconds),
}

impl Window {
    fn new(over: Over, now: Tick) -> Self {
        match over {
            Over::Calls(size) => Self::Ring(Ring::new(size)),
            Over::Time(window) => Self::Seconds(Seconds::new(whole_seconds(window), now)),
        }
    }

    fn counts(&self, now: Tick) -> Counts {
        match self {
            Self::Ring(ring) => ring.counts(),
            Self::Seconds(seconds) => seconds.counts(now),
        }
    }

    fn fill(&mut self, counts: Counts, now: Tick) {
        match self {
            Self::Ring(ring) => ring.fill(counts),
            Self::Seconds(seconds) => seconds.fill(counts, now),
        }
    }
}

impl Expression {
    pub(super) fn new(trip: Trip, over: Over, slow_call_duration: Duration, now: Tick) -> Self {
        Self { trip, window: Window::new(over, now), slow_call_duration }
    }
}

impl Policy for Expression {
    fn record(&mut self, verdict: Verdict, took: Duration, now: Tick) -> bool {
        let Some(mark) = Mark::of(verdict, took, self.slow_call_duration) else { return false };
        match &mut self.window {
            Window::Ring(ring) => ring.push(mark),
            Window::Seconds(seconds) => seconds.push(mark, now),
        }
        self.weigh(now)
    }

    /// Of figures that it cannot be evaluated over (a division by zero) it says no: a breaker opens for what its service does.
    fn weigh(&mut self, now: Tick) -> bool {
        if let Window::Seconds(seconds) = &mut self.window {
            seconds.move_to(second_of(now));
        }
        self.trip.holds(&self.window.counts(now)).unwrap_or(false)
    }

    /// What an expression makes of a success only the expression knows.
    fn slack(&self) -> Slack {
        Slack::None
    }

    fn absorb(&mut self, successes: u32) {
        match &mut self.window {
            Window::Ring(ring) => ring.push_successes(successes),
            Window::Seconds(seconds) => seconds.push_successes(successes),
        }
    }

    fn reset(&mut self, now: Tick) {
        match &mut self.window {
            Window::Ring(ring) => ring.clear(),
            Window::Seconds(seconds) => seconds.clear(now),
        }
    }

    fn counts(&self, now: Tick) -> Counts {
        self.window.counts(now)
    }

    fn exceeded_by(&self, fleet: &[Counts]) -> bool {
        fleet.iter().any(|counts| self.trip.holds(counts).unwrap_or(false))
    }

    fn retune(&mut self, settings: &PolicySettings, now: Tick) -> bool {
        let PolicySettings::Expression { trip, over, slow } = settings else { return false };
        match (&mut self.window, *over) {
            (Window::Ring(ring), Over::Calls(size)) => ring.resize(size),
            (Window::Seconds(seconds), Over::Time(window)) => seconds.resize(whole_seconds(window), now),
            (window, over) => {
                let counts = window.counts(now);
                *window = Window::new(over, now);
                window.fill(counts, now);
            }
        }
        self.trip = trip.clone();
        self.slow_call_duration = *slow;
        true
    }

    fn inherit(&mut self, counts: Counts, now: Tick) {
        self.window.fill(counts, now);
    }
}
