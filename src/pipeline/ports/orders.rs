//! Where orders for parked calls are kept.

use std::future::Future;

use super::PublishError;
use crate::machine::orders::Change;

/// The log of orders, which every instance reads.
pub trait OrderLog: Send + Sync + 'static {
    /// Writes a change; every instance hears of it, this one included.
    fn write(&self, change: &Change) -> impl Future<Output = Result<(), PublishError>> + Send;
}
