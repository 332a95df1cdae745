//! Locks: what an operator puts on a breaker at three in the morning.

use super::transition::StateName;
use crate::machine::time::Tick;

/// A state that no timer, verdict or other instance undoes, only its release or its expiry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// What it does.
    pub kind: LockKind,
    /// Who put it on.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When it ends by itself; `None` is never.
    pub expires_at: Option<Tick>,
}

impl Lock {
    /// Whether it is the same person's same word. Expiries are compared by whether there is one: on its way through the store an
    /// instant is turned into wall-clock time and back, and comes out a little off.
    pub(super) fn is_same_decision(&self, other: &Self) -> bool {
        let word = |lock: &Self| (lock.kind, lock.expires_at.is_some());
        word(self) == word(other) && self.actor == other.actor && self.reason == other.reason
    }
}

/// What a lock does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// Every call is refused.
    ForcedOpen,
    /// Every call is admitted, and nothing is recorded.
    ForcedClosed,
    /// Every call is admitted; verdicts are recorded, and nothing trips.
    MetricsOnly,
}

impl LockKind {
    /// The name of the state it holds a breaker in.
    pub fn state_name(self) -> StateName {
        match self {
            Self::ForcedOpen => StateName::ForcedOpen,
            Self::ForcedClosed => StateName::ForcedClosed,
            Self::MetricsOnly => StateName::MetricsOnly,
        }
    }
}
