//! The breaker's tests: every state under every operation as a table, properties against a naive model, the defects of other breakers
//! by name, and the shared breaker under every interleaving.

mod adaptive;
mod defects;
mod example;
mod extremes;
mod fleet;
mod interleavings;
mod leases;
mod model;
mod open_time;
mod properties;
mod recovery;
mod retune;
mod retuned_lives;
mod shared;
mod slack;
mod table;
mod windows;
mod with_loom;
mod worked;

use std::num::NonZeroU32;
use std::time::Duration;

use super::*;

/// `fail_max` 3, open for 100 ms, one permit, one success, leases of 10 ms; no back-off, no jitter.
fn settings() -> Settings {
    Settings {
        recovery_timeout_max: Duration::from_secs(10),
        ..Settings::new(
            PolicySettings::Consecutive { fail_max: NonZeroU32::new(3).expect("is not zero") },
            Duration::from_millis(100),
            Duration::from_millis(10),
        )
    }
}

fn consecutive(fail_max: u32) -> PolicySettings {
    PolicySettings::Consecutive { fail_max: NonZeroU32::new(fail_max).expect("is not zero") }
}

/// A window's thresholds, with which a call is slow beyond 10 ms and no rate of slow ones is too high.
fn rates(minimum_calls: u32, failure_rate: f64) -> Rates {
    Rates { minimum_calls, failure_rate, slow_call_rate: f64::INFINITY, slow_call_duration: Duration::from_millis(10) }
}

fn count(size: u32, rates: Rates) -> PolicySettings {
    PolicySettings::Count { size, rates }
}

fn time(seconds: u64, rates: Rates) -> PolicySettings {
    PolicySettings::Time { window: Duration::from_secs(seconds), rates }
}

fn adaptive(seconds: u64, multiplier: f64, trickle: u64) -> PolicySettings {
    PolicySettings::Adaptive(AdaptiveSettings {
        window: Duration::from_secs(seconds),
        multiplier,
        trickle: Duration::from_millis(trickle),
        patience: Duration::ZERO,
        slow_call_duration: Duration::from_millis(10),
    })
}

/// Ordinary otherwise: see [`settings`].
fn by(policy: PolicySettings) -> Settings {
    Settings { policy, ..settings() }
}

/// One call from its beginning to its end.
fn call(breaker: &mut Breaker, verdict: Verdict, now: u64) -> Settled {
    let permit = admitted(breaker, now);
    settle(breaker, permit, verdict, now)
}

const FAILURE: Verdict = Verdict::Failure { retry_after: None };

fn settle(breaker: &mut Breaker, permit: Permit, verdict: Verdict, now: u64) -> Settled {
    breaker.settle(permit, verdict, Duration::ZERO, Tick(now), || 0.0)
}

fn admitted(breaker: &mut Breaker, now: u64) -> Permit {
    breaker.admit(Tick(now), || 0.0).0.expect("the test's breaker admits here")
}

fn refused(breaker: &mut Breaker, now: u64) -> Refusal {
    breaker.admit(Tick(now), || 0.0).0.expect_err("the test's breaker refuses here")
}

/// Trips a closed breaker by failures at `now`.
fn trip(breaker: &mut Breaker, now: u64) {
    while breaker.state_name() == StateName::Closed {
        let permit = admitted(breaker, now);
        settle(breaker, permit, FAILURE, now);
    }
}

fn lock(kind: LockKind, expires_at: Option<u64>) -> Lock {
    Lock { kind, actor: "ann".to_owned(), reason: "drill".to_owned(), expires_at: expires_at.map(Tick) }
}

fn snapshot(generation: u64, held: Held) -> Snapshot {
    Snapshot { generation: Generation(generation), held, trips: 0, since: Tick(0) }
}

const LOCKS: [LockKind; 3] = [LockKind::ForcedOpen, LockKind::ForcedClosed, LockKind::MetricsOnly];
