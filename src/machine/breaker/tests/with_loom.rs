//! The shared breaker's source, compiled once more with loom's atomics and mutex in place of the standard library's.

use super::super::*;

/// Stands in for the module of this name that the source asks for: a declared name goes before a glob's.
mod sync {
    pub(super) use ::loom::sync::atomic::{AtomicU64, Ordering};
    pub(super) use ::loom::sync::{Mutex, MutexGuard};
    pub(super) use ::std::sync::PoisonError;
}

#[expect(clippy::duplicate_mod, dead_code, reason = "the same source over other primitives is the point; not all of it is asked here")]
#[path = "../shared.rs"]
mod shared;

pub(super) use shared::SharedBreaker;
