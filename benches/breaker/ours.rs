//! Fusebox's breakers.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox::machine::breaker::{Automatic, PolicySettings, Settings, SharedBreaker, Verdict};
use fusebox::machine::time::Tick;

use super::{Start, Subject};

const NOW: Tick = Tick(1_000);

/// A streak of failures that is never long enough.
pub fn consecutive() -> PolicySettings {
    PolicySettings::Consecutive { fail_max: NonZeroU32::MAX }
}

/// A breaker, and where the time that it is handed comes from.
#[derive(Clone)]
pub struct Ours {
    breaker: Arc<SharedBreaker>,
    /// The clock that is read at admission and at settling; `None`: the caller has the time already, and it stands still.
    clock: Option<Instant>,
}

impl Ours {
    /// Of that policy, which must not trip by failing; handed the time.
    pub fn new(policy: PolicySettings, start: Start) -> Self {
        let settings = Settings {
            policy,
            recovery_timeout: Duration::from_secs(3_600),
            backoff_multiplier: 1.0,
            recovery_timeout_max: Duration::from_secs(3_600),
            jitter: 0.0,
            permits: 1,
            success_threshold: 1,
            lease: Duration::from_secs(3_600),
        };
        let breaker = SharedBreaker::new(settings, NOW);
        let state = match start {
            Start::Closed => Automatic::Closed,
            Start::Open => Automatic::Open,
            Start::HalfOpen => Automatic::HalfOpen,
        };
        breaker.with(|breaker| breaker.reset_to(state, "bench", "to measure it", NOW, || 0.0));
        Self { breaker: Arc::new(breaker), clock: None }
    }

    /// The same, with a clock read at either end of a call, as most other breakers do of themselves.
    pub fn reading_the_clock(policy: PolicySettings, start: Start) -> Self {
        Self { clock: Some(Instant::now()), ..Self::new(policy, start) }
    }

    /// One probe that says nothing of the service.
    pub fn probe(&mut self) -> bool {
        self.call_with(Verdict::Ignored)
    }

    /// Takes a probe's place and never gives it back.
    pub fn occupy(self) -> Self {
        drop(self.breaker.admit(NOW));
        self
    }

    #[inline]
    fn now(&self) -> Tick {
        match self.clock {
            None => NOW,
            Some(origin) => NOW.plus(origin.elapsed()),
        }
    }

    #[inline]
    fn call_with(&mut self, verdict: Verdict) -> bool {
        let admitted = self.now();
        let (Ok(permit), _) = self.breaker.admit(admitted) else { return false };
        let settled = self.now();
        let took = Duration::from_millis(settled.0 - admitted.0);
        std::hint::black_box(self.breaker.settle(permit, verdict, took, settled, || 0.0));
        true
    }
}

impl Subject for Ours {
    #[inline]
    fn call(&mut self, succeeds: bool) -> bool {
        self.call_with(if succeeds { Verdict::Success } else { Verdict::Failure { retry_after: None } })
    }
}
