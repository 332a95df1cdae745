//! A breaker's history, as it is kept and paged.

use crate::event::UnixMillis;
use crate::machine::breaker::{Cause, Counts, FleetCounts, Generation, StateName};

/// A page of a breaker's history.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct HistoryPage {
    /// Transitions, newest first.
    pub entries: Vec<HistoryEntry>,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<String>,
}

/// One transition, as it is kept.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct HistoryEntry {
    /// When.
    pub at: UnixMillis,
    /// The state it left.
    pub from: StateName,
    /// The state it came into.
    pub to: StateName,
    /// Why.
    pub cause: Cause,
    /// The generation that began with it.
    pub generation: Generation,
    /// The instance that decided it.
    pub instance: String,
    /// Who asked for it.
    pub actor: Option<String>,
    /// Why they did.
    pub reason: Option<String>,
    /// The figures that were weighed.
    pub counts: Counts,
    /// Whether it was that instance's alone: for the fleet the breaker stayed closed.
    pub alone: bool,
    /// What the fleet had to say, where that was weighed.
    pub fleet: Option<FleetCounts>,
}
