//! Where a fleet's probes are counted.

use std::time::Duration;

use super::StoreError;
use crate::machine::breaker::Generation;

/// Where the probes of a fleet are counted: leases on them, each until a deadline of the store's own clock.
pub trait LeaseStore: Send + Sync + 'static {
    /// Asks for a lease, or for a later deadline of one that is held.
    fn lease(&self, service: &str, wish: LeaseWish) -> impl Future<Output = Result<Leasing, StoreError>> + Send;

    /// Gives leases back. Those that are not held any more are none's loss.
    fn give_back(&self, service: &str, leases: &[u64]) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// What an instance asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseWish {
    /// Of all that this process asks for, this one.
    pub lease: u64,
    /// The half-open life that it is for.
    pub generation: Generation,
    /// Leases in the whole fleet, at most.
    pub permits: u32,
    /// From when it is granted to its deadline.
    pub duration: Duration,
    /// Whether somebody waits for it here: others who hold one without a use then let it go.
    pub urgent: bool,
}

/// What came of asking for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leasing {
    /// It is held.
    Granted,
    /// All are held, or somebody else is waiting. The first deadline is so far away, if there is one.
    Full {
        /// How far.
        free_in: Option<Duration>,
    },
    /// The stored breaker is not half-open, or in another life.
    Stale,
}
