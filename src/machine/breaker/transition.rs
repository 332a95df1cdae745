//! A change of state, as a fact to be logged, counted, shared and kept.

use super::{Counts, FleetCounts, Generation};
use crate::machine::time::Tick;

/// The names of the states, as config, API, metrics and Redis spell them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    /// Calls go.
    Closed,
    /// Calls are refused.
    Open,
    /// Probes go.
    HalfOpen,
    /// Locked: calls are refused.
    ForcedOpen,
    /// Locked: calls go, nothing is recorded.
    ForcedClosed,
    /// Locked: calls go, verdicts are recorded.
    MetricsOnly,
}

impl StateName {
    /// Every state.
    pub const ALL: [Self; 6] = [Self::Closed, Self::Open, Self::HalfOpen, Self::ForcedOpen, Self::ForcedClosed, Self::MetricsOnly];

    /// The name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
            Self::MetricsOnly => "metrics_only",
        }
    }

    /// The state of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// Why a state changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The policy weighed the verdicts and opened it.
    Policy,
    /// The instances of the fleet have seen enough failures together.
    Fleet,
    /// The open time was over.
    Timer,
    /// A probe failed.
    ProbeFailed,
    /// Half-open for too long without a decision.
    ProbesTooLong,
    /// Enough probes succeeded.
    Recovered,
    /// Changed settings moved the end of its open time.
    Tuned,
    /// Somebody asked for it.
    Forced,
    /// Somebody took a lock off.
    Released,
    /// A lock's time was over.
    LockExpired,
    /// Another instance decided it.
    Adopted,
    /// Found in the store at start.
    Restored,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 12] = [
        Self::Policy,
        Self::Fleet,
        Self::Timer,
        Self::ProbeFailed,
        Self::ProbesTooLong,
        Self::Recovered,
        Self::Tuned,
        Self::Forced,
        Self::Released,
        Self::LockExpired,
        Self::Adopted,
        Self::Restored,
    ];

    /// The cause as metrics and history spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Fleet => "fleet",
            Self::Timer => "timer",
            Self::ProbeFailed => "probe_failed",
            Self::ProbesTooLong => "probes_too_long",
            Self::Recovered => "recovered",
            Self::Tuned => "tuned",
            Self::Forced => "forced",
            Self::Released => "released",
            Self::LockExpired => "lock_expired",
            Self::Adopted => "adopted",
            Self::Restored => "restored",
        }
    }

    /// The cause of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == name)
    }

    /// Whether the change came from elsewhere, so that it is not to be shared again.
    pub const fn is_foreign(self) -> bool {
        matches!(self, Self::Adopted | Self::Restored)
    }

    /// Whether the change was an operator's word, or the end that it had set: what no instance does by itself.
    pub(super) const fn is_order(self) -> bool {
        matches!(self, Self::Forced | Self::Released | Self::LockExpired)
    }

    /// Whether a breaker can go from one state to another for this cause: what makes up the series of the transitions' metric.
    pub const fn joins(self, from: StateName, to: StateName) -> bool {
        use StateName::{Closed, ForcedClosed, ForcedOpen, HalfOpen, MetricsOnly, Open};
        match self {
            Self::Policy => matches!((from, to), (Closed, Open)),
            // From open or half-open where it had opened alone.
            Self::Fleet => matches!((from, to), (Closed | Open | HalfOpen, Open)),
            Self::Timer => matches!((from, to), (Open, HalfOpen)),
            Self::ProbeFailed | Self::ProbesTooLong => matches!((from, to), (HalfOpen, Open)),
            Self::Recovered => matches!((from, to), (HalfOpen, Closed)),
            Self::Tuned => matches!((from, to), (Open, Open)),
            Self::Released | Self::LockExpired => {
                matches!((from, to), (ForcedOpen, HalfOpen) | (ForcedClosed | MetricsOnly, Closed))
            }
            Self::Forced | Self::Adopted => true,
            Self::Restored => matches!(from, Closed),
        }
    }
}

/// A change of state.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// The state it left.
    pub from: StateName,
    /// The state it came into.
    pub to: StateName,
    /// Why.
    pub cause: Cause,
    /// The generation that began with it.
    pub generation: Generation,
    /// When.
    pub at: Tick,
    /// The figures that were weighed, where figures were.
    pub counts: Counts,
    /// Who asked for it, where somebody did.
    pub actor: Option<String>,
    /// Why they did.
    pub reason: Option<String>,
    /// Whether it is this instance's alone: for the fleet the breaker stays closed.
    pub alone: bool,
    /// What the fleet had to say, where that was weighed.
    pub fleet: Option<Box<FleetCounts>>,
}

impl Transition {
    pub(super) fn new(from: StateName, to: StateName, cause: Cause, generation: Generation, at: Tick) -> Self {
        Self { from, to, cause, generation, at, counts: Counts::default(), actor: None, reason: None, alone: false, fleet: None }
    }

    /// Whether the others are to know of it. Of what is this instance's alone, that it has opened, and that it has closed: what probes say
    /// between these two would be told as often as the open time ends.
    pub fn is_for_others(&self) -> bool {
        let ends = self.from == StateName::Closed || self.to == StateName::Closed;
        !self.cause.is_foreign() && (!self.alone || ends)
    }

    pub(super) fn by(self, actor: String, reason: String) -> Self {
        Self { actor: Some(actor), reason: Some(reason), ..self }
    }

    pub(super) fn of_fleet(self, fleet: Option<FleetCounts>) -> Self {
        Self { fleet: fleet.map(Box::new), ..self }
    }

    pub(super) fn with(self, counts: Counts) -> Self {
        Self { counts, ..self }
    }
}
