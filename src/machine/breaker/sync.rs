//! What [`super::SharedBreaker`] synchronises with. Kept apart so that the tests can put another kind in its place, which runs through
//! every interleaving that the memory model allows.

pub(super) use std::sync::atomic::{AtomicU64, Ordering};
pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};
