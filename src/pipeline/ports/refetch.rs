//! Kafka, to read parked calls again that were put aside.

use futures_util::future::BoxFuture;

use crate::event::{Incoming, Source};
use crate::machine::shelf::Run;

/// Reads records again by their places, beside the consumer that read them first.
pub trait Refetch: Send + Sync + 'static {
    /// Reads these records, for so long as it takes a broker that is well. Of those that are neither there nor gone in the answer it is not known what
    /// they are: they are to be asked for again.
    fn refetch(&self, runs: Vec<Run>) -> BoxFuture<'static, Result<Refetched, RefetchError>>;
}

/// What was found at the places that were asked for.
#[derive(Debug, Default)]
pub struct Refetched {
    /// What is there.
    pub records: Vec<Incoming>,
    /// Places without a record: Kafka keeps it no longer.
    pub gone: Vec<Source>,
}

/// Kafka cannot be asked just now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RefetchError(
    /// What went wrong, without address or credentials.
    pub String,
);
