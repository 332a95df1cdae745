//! Where instances tell each other what they see of their services.

use std::future::Future;
use std::time::Duration;

use super::StoreError;
use crate::machine::breaker::{Testimony, Told};

/// What is told of one service's breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telling {
    /// The service.
    pub service: String,
    /// What; an empty one takes back what was told before.
    pub testimony: Testimony,
    /// For how long others are to weigh it.
    pub lasts: Duration,
}

/// Keeps what each instance says, for as long as it is of use.
pub trait EvidenceStore: Send + Sync + 'static {
    /// Puts what this instance says in place of what it said before, and answers what all others say of the same generations, in the order
    /// told. Whoever tells last hears of everybody. Each is answered, or fails, for itself.
    fn tell(&self, tellings: &[Telling]) -> impl Future<Output = Vec<Result<Vec<Told>, StoreError>>> + Send;
}
