//! When a closed breaker opens, and whom it turns away meanwhile. An algorithm is one file with one [`Policy`], one variant of
//! [`PolicySettings`], and one line in [`build`].

use std::fmt;
use std::time::Duration;

use super::adaptive::Adaptive;
use super::any::Any;
use super::consecutive::Consecutive;
use super::count::Count;
use super::expression::Expression;
use super::timed::Timed;
use super::{PolicySettings, Verdict};
use crate::machine::time::Tick;

/// An algorithm that weighs verdicts.
///
/// It is asked for one breaker, in one life after the other: what it was told of the one before it has forgotten by [`Policy::reset`].
pub trait Policy: fmt::Debug + Send + Sync {
    /// Takes a verdict on a call that took `took` and ended at `now`; true if the breaker is to open.
    fn record(&mut self, verdict: Verdict, took: Duration, now: Tick) -> bool;

    /// Whether its figures, as they stand at `now`, are those of a breaker that is to open.
    fn weigh(&mut self, now: Tick) -> bool;

    /// Which successes it need not hear of at once.
    fn slack(&self) -> Slack;

    /// The longest that a success may take to be one of its [`Policy::slack`].
    fn quick(&self) -> Duration {
        Duration::MAX
    }

    /// Hears of so many quick successes at once, which came one after the other within its [`Policy::slack`].
    fn absorb(&mut self, successes: u32);

    /// Forgets every verdict; its windows begin at `now`.
    fn reset(&mut self, now: Tick);

    /// The figures it weighs, for people and for the record of a trip.
    fn counts(&self, now: Tick) -> Counts;

    /// The figures of its verdicts, for another algorithm to begin with.
    fn verdicts(&self, now: Tick) -> Counts {
        self.counts(now)
    }

    /// What it tells a fleet's other instances, to be added to theirs.
    fn figures(&self, now: Tick) -> Vec<Counts> {
        vec![self.verdicts(now)]
    }

    /// Whether sums of all instances' [`Policy::figures`] are those of a fleet whose breaker is to open.
    fn exceeded_by(&self, fleet: &[Counts]) -> bool {
        let _ = fleet;
        false
    }

    /// Takes other settings, and keeps its figures as far as they fit; false if these are another algorithm's.
    fn retune(&mut self, settings: &PolicySettings, now: Tick) -> bool;

    /// Begins with figures that another algorithm has gathered: as many verdicts as it has room for, the streak last.
    fn inherit(&mut self, counts: Counts, now: Tick);

    /// Whether it weighs admissions. Then a closed breaker asks it about every call.
    fn weighs_admissions(&self) -> bool {
        false
    }

    /// Takes note of a call that wants to go while the breaker is closed; false if it is to be refused. `roll` gives a number in `[0, 1)`.
    fn admit(&mut self, now: Tick, roll: &mut dyn FnMut() -> f64) -> bool {
        let _ = (now, roll);
        true
    }

    /// Takes note that a call goes, which it admitted just now and nobody else has refused.
    fn send(&mut self, now: Tick) {
        let _ = now;
    }

    /// Forgets a call that it admitted at `began`, and that ended without a verdict.
    fn forget(&mut self, began: Tick, now: Tick) {
        let _ = (began, now);
    }
}

/// Successes that a policy need not hear of one by one: told of them later, all at once, it decides the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slack {
    /// None: it must hear of each.
    None,
    /// So many, if they end in that second of the machine's time; `None` is any.
    Some {
        /// How many.
        successes: u32,
        /// The second that they must end in: a tick divided by 1,000.
        second: Option<u64>,
    },
    /// All of them, and it need never hear of any.
    Endless,
}

impl Slack {
    /// What two policies both need not hear of.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, _) | (_, Self::None) => Self::None,
            (Self::Endless, slack) | (slack, Self::Endless) => slack,
            (Self::Some { successes: ours, second: here }, Self::Some { successes: theirs, second: there }) => {
                if here.is_some() && there.is_some() && here != there {
                    return Self::None;
                }
                Self::Some { successes: ours.min(theirs), second: here.or(there) }
            }
        }
    }
}

/// The figures of a policy's window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Calls in the window; for `consecutive` the failures of the present streak.
    pub calls: u64,
    /// Of these, failures.
    pub failures: u64,
    /// Of these, slow calls, whether they failed or not.
    pub slow: u64,
    /// Failures in a row up to now.
    pub consecutive_failures: u64,
}

impl Counts {
    /// The sums of both; a streak is the sum of streaks.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            calls: self.calls.saturating_add(other.calls),
            failures: self.failures.saturating_add(other.failures),
            slow: self.slow.saturating_add(other.slow),
            consecutive_failures: self.consecutive_failures.saturating_add(other.consecutive_failures),
        }
    }

    /// These, or so many calls of which the same shares failed and were slow.
    pub(super) fn cut_to(self, most: u64) -> Self {
        let calls = self.calls.min(most);
        let [failures, slow] = [self.failures, self.slow].map(|part| proportion(part.min(self.calls), self.calls, calls));
        Self { calls, failures, slow, ..self }
    }
}

/// What `part` of `whole` is of `other`: rounded down; of nothing nothing. `part` is not more than `whole`.
pub(super) fn proportion(part: u64, whole: u64, other: u64) -> u64 {
    (u128::from(part) * u128::from(other)).checked_div(whole.into()).map_or(0, |share| u64::try_from(share).unwrap_or(other))
}

/// The policy that the settings name, without a verdict.
pub(super) fn build(settings: &PolicySettings, now: Tick) -> Box<dyn Policy> {
    match settings {
        PolicySettings::Consecutive { fail_max } => Box::new(Consecutive::new(*fail_max)),
        PolicySettings::Count { size, rates } => Box::new(Count::new(*size, *rates)),
        PolicySettings::Time { window, rates } => Box::new(Timed::new(*window, *rates, now)),
        PolicySettings::Expression { trip, over, slow } => Box::new(Expression::new(trip.clone(), *over, *slow, now)),
        PolicySettings::Adaptive(settings) => Box::new(Adaptive::new(*settings, now)),
        PolicySettings::Any(policies) => Box::new(Any::new(policies, now)),
    }
}
