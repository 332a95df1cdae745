//! What a breaker shares: enough for another instance, or the next life of this one, to go on from.

use super::transition::StateName;
use super::{Generation, Lock};
use crate::machine::time::Tick;

/// A breaker's state without its window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The life it is in.
    pub generation: Generation,
    /// The state, with what belongs to it.
    pub held: Held,
    /// Trips since it was last closed.
    pub trips: u32,
    /// When it came into this state.
    pub since: Tick,
}

/// A state with what belongs to it. Probes are not in it: they are in flight somewhere, and their leases end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// Calls go.
    Closed,
    /// Calls are refused until `until`.
    Open {
        /// When probes may go.
        until: Tick,
    },
    /// Probes go.
    HalfOpen,
    /// A lock is on.
    Locked(Lock),
}

impl Held {
    /// The state's name.
    pub fn name(&self) -> StateName {
        match self {
            Self::Closed => StateName::Closed,
            Self::Open { .. } => StateName::Open,
            Self::HalfOpen => StateName::HalfOpen,
            Self::Locked(lock) => lock.kind.state_name(),
        }
    }
}
