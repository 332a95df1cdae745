//! Which life of a breaker a decision and a permit belong to.

use crate::machine::time::Tick;

/// The life a breaker is in, and what decides between two instances' states: the higher one stands.
///
/// A decision is an operator's order (a lock, its release, a reset), a lock's end, or else the breaker's own. Each order begins a new
/// hundred million of generations, and the breaker's own decisions count up within it. So a state that knows of more orders is above one that
/// knows of fewer, however much the other one has done since. A lock takes the last generation of its hundred million: above all that
/// the others do, or one order leads them to, before they hear of it, and below its own release.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// Room for a change a second in three years without an order, and, in the 15 digits that a store may keep, for ten million orders.
    pub(super) const PER_ORDER: u64 = 100_000_000;

    /// The breaker's own next decision.
    pub(super) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The next order.
    pub(super) fn next_order(self) -> Self {
        Self((self.0 / Self::PER_ORDER + 1).saturating_mul(Self::PER_ORDER))
    }

    /// The next order, if it is a lock.
    pub(super) fn next_lock(self) -> Self {
        Self(self.next_order().0.saturating_add(Self::PER_ORDER - 1))
    }
}

/// The right to make one call. It must come back, by [`super::Breaker::settle`] or [`super::Breaker::abandon`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit that does not come back holds a probe's place until its lease ends"]
pub struct Permit {
    pub(super) life: Life,
    pub(super) probe: Option<u64>,
    /// When it was given.
    pub(super) began: Tick,
}

/// One stay in one state. A generation alone does not tell two of them apart: [`super::Breaker::yield_to`] leaves a state for another one of
/// the same generation, and a probe that fails after it would otherwise be counted by a breaker that never sent it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Life {
    pub generation: Generation,
    /// Rises when a life begins in the generation of the one before.
    pub branch: u32,
}

impl Life {
    pub fn followed_by(self, generation: Generation) -> Self {
        Self { generation, branch: if generation == self.generation { self.branch.wrapping_add(1) } else { self.branch } }
    }
}

impl Permit {
    /// The generation that admitted the call.
    pub fn generation(&self) -> Generation {
        self.life.generation
    }

    /// Whether the call is a probe.
    pub fn is_probe(&self) -> bool {
        self.probe.is_some()
    }
}
