//! The least that a call can cost: something shared counted once, and breakers of a few lines, as one would write them by hand.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::{Start, Subject};

/// One count, by an atomic.
#[derive(Clone, Default)]
pub struct FetchAdd(Arc<AtomicU64>);

impl Subject for FetchAdd {
    fn call(&mut self, _: bool) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        true
    }
}

/// One count, under a mutex.
#[derive(Clone, Default)]
pub struct Locked(Arc<Mutex<u64>>);

impl Subject for Locked {
    fn call(&mut self, _: bool) -> bool {
        if let Ok(mut count) = self.0.lock() {
            *count += 1;
        }
        true
    }
}

/// A streak of failures in one atomic word; without times, without half-open.
#[derive(Clone)]
pub struct Streak(Arc<AtomicU64>);

impl Streak {
    const TRIPPED: u64 = 1 << 63;

    /// Closed, it takes more failures to trip than there will be.
    pub fn new(start: Start) -> Self {
        Self(Arc::new(AtomicU64::new(if start == Start::Open { Self::TRIPPED } else { 0 })))
    }
}

impl Subject for Streak {
    fn call(&mut self, succeeds: bool) -> bool {
        if self.0.load(Ordering::Relaxed) >= Self::TRIPPED {
            return false;
        }
        if !black_box(succeeds) {
            self.0.fetch_add(1, Ordering::Relaxed);
        } else if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
        true
    }
}

/// The last hundred calls in a ring under a mutex, their rate weighed at each; without times, without half-open.
#[derive(Clone)]
pub struct Ring(Arc<RingShared>);

struct RingShared {
    open: AtomicBool,
    calls: Mutex<Calls>,
}

struct Calls {
    failed: [bool; 100],
    next: usize,
    seen: usize,
    failures: usize,
}

impl Ring {
    pub fn new(start: Start) -> Self {
        let calls = Calls { failed: [false; 100], next: 0, seen: 0, failures: 0 };
        Self(Arc::new(RingShared { open: AtomicBool::new(start == Start::Open), calls: Mutex::new(calls) }))
    }
}

impl Subject for Ring {
    fn call(&mut self, succeeds: bool) -> bool {
        if self.0.open.load(Ordering::Relaxed) {
            return false;
        }
        let failed = !black_box(succeeds);
        if let Ok(mut calls) = self.0.calls.lock() {
            let next = calls.next;
            let gone = std::mem::replace(&mut calls.failed[next], failed);
            calls.next = (next + 1) % calls.failed.len();
            calls.seen = (calls.seen + 1).min(calls.failed.len());
            calls.failures = calls.failures + usize::from(failed) - usize::from(gone);
            // A rate that is never reached, so that failing costs what it costs while closed.
            if calls.failures as f64 / calls.seen as f64 > black_box(1.0) {
                self.0.open.store(true, Ordering::Relaxed);
            }
        }
        true
    }
}
