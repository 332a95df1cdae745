//! How a loop is told to stop, in two steps: first it takes nothing new; then, when the time left is needed for publishing and committing,
//! calls that are still out are cut short and parked or replaced by their fallbacks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The two steps. Clones are told together.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    taking: CancellationToken,
    calls: CancellationToken,
    /// That of `calls`, for who asks with every call.
    are_calls_cut: Arc<AtomicBool>,
}

impl Stop {
    /// Nobody has asked to stop.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first step: take nothing new.
    pub fn request(&self) {
        self.taking.cancel();
    }

    /// The second step: cut calls short.
    pub fn cut_calls(&self) {
        self.are_calls_cut.store(true, Ordering::Release);
        self.calls.cancel();
    }

    /// Waits for the first step.
    pub async fn requested(&self) {
        self.taking.cancelled().await;
    }

    /// Whether the first step was taken.
    pub fn is_requested(&self) -> bool {
        self.taking.is_cancelled()
    }

    /// Whether the second step was taken.
    pub fn are_calls_cut(&self) -> bool {
        self.are_calls_cut.load(Ordering::Acquire)
    }

    /// Waits for the second step.
    pub async fn calls_cut(&self) {
        self.calls.cancelled().await;
    }
}

/// When calls are cut within a stop's whole time: at three quarters, so that a quarter is left to publish, commit and leave the group.
pub fn calls_may_take(timeout: Duration) -> Duration {
    timeout.mul_f64(0.75)
}

/// How a loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was begun was finished and committed.
    Clean,
    /// Time ran out with this many records unfinished; they will be redelivered.
    Unfinished(usize),
    /// Everything was finished, but Kafka has not taken the last commit: some of it will run again.
    Uncommitted,
    /// The consumer ended by itself: a defect, or a fatal error of the client.
    ConsumerGone,
}
