//! Fusebox's breakers.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox::machine::breaker::{AdaptiveSettings, Automatic, Over, PolicySettings, Rates, Settings, SharedBreaker, Trip, Verdict};
use fusebox::machine::time::Tick;

use super::{Start, Subject};

const NOW: Tick = Tick(1_000);

/// A streak of failures that is never long enough.
pub fn consecutive() -> PolicySettings {
    PolicySettings::Consecutive { fail_max: NonZeroU32::MAX }
}

/// Rates that are never reached, so that a window full of failures can be measured.
const RATES: Rates = Rates { minimum_calls: 100, failure_rate: 2.0, slow_call_rate: 2.0, slow_call_duration: Duration::from_secs(60) };

/// The last 100 calls.
pub fn count() -> PolicySettings {
    PolicySettings::Count { size: 100, rates: RATES }
}

/// The calls of the last ten seconds.
pub fn time() -> PolicySettings {
    PolicySettings::Time { window: Duration::from_secs(10), rates: RATES }
}

/// An expression over the last 100 calls.
pub fn expression() -> PolicySettings {
    let trip = Trip::compile("failure_rate > 2.0 && calls >= 20 || slow >= 1000").expect("is CEL");
    PolicySettings::Expression { trip, over: Over::Calls(100), slow: Duration::from_secs(60) }
}

/// Throttling over ten seconds that lets every call trickle through.
pub fn adaptive() -> PolicySettings {
    let (window, patience, slow_call_duration) = (Duration::from_secs(10), Duration::from_secs(2), Duration::from_secs(60));
    PolicySettings::Adaptive(AdaptiveSettings { window, multiplier: 2.0, trickle: Duration::ZERO, patience, slow_call_duration })
}

/// These, with a policy.
pub fn settings(policy: PolicySettings) -> Arc<Settings> {
    Arc::new(Settings::new(policy, Duration::from_secs(3_600), Duration::from_secs(3_600)))
}

/// A breaker, and where the time that it is handed comes from.
#[derive(Clone)]
pub struct Ours {
    breaker: Arc<SharedBreaker>,
    /// The clock that is read at admission and at settling; `None`: the caller has the time already, and it stands still.
    clock: Option<Instant>,
}

impl Ours {
    /// Of those settings, which must not trip by failing and are shared, as services share them that have them alike; handed the time.
    pub fn new(settings: &Arc<Settings>, start: Start) -> Self {
        let settings = Arc::clone(settings);
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
    pub fn reading_the_clock(settings: &Arc<Settings>, start: Start) -> Self {
        Self { clock: Some(Instant::now()), ..Self::new(settings, start) }
    }

    /// One probe that says nothing of the service.
    pub fn probe(&mut self) -> bool {
        self.call_with(Verdict::Ignored)
    }

    /// Takes a probe's place and never gives it back.
    pub fn occupy(self) -> Self {
        drop(self.breaker.admit(NOW, || 0.0));
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
        let (Ok(permit), _) = self.breaker.admit(admitted, || 0.0) else { return false };
        let settled = self.now();
        let took = Duration::from_millis(settled.0 - admitted.0);
        std::hint::black_box(self.breaker.settle(permit, verdict, took, settled, || 0.0).late);
        true
    }
}

impl Subject for Ours {
    #[inline]
    fn call(&mut self, succeeds: bool) -> bool {
        self.call_with(if succeeds { Verdict::Success } else { Verdict::Failure { retry_after: None } })
    }
}
