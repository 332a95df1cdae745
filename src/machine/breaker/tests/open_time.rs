//! How long a breaker stays open: back-off, its bound, `Retry-After`, jitter.

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// Trips `times` in a row, each probe failing, and gives the open time after each.
fn open_times(settings: &Settings, times: usize, retry_after: Option<Duration>, roll: f64) -> Vec<u128> {
    let mut breaker = Breaker::new(settings.clone(), Tick(0));
    let mut now = Tick(0);
    let mut open_times = Vec::new();
    while open_times.len() < times {
        let permit = breaker.admit(now, || 0.0).0.expect("closed, or its time is over");
        if let Some(transition) = breaker.settle(permit, Verdict::Failure { retry_after }, Duration::ZERO, now, || roll).transition {
            assert_eq!(transition.to, StateName::Open);
            let until = breaker.next_deadline().expect("an open breaker knows when it ends");
            open_times.push(until.since(now).as_millis());
            now = until;
        }
    }
    open_times
}

#[test]
fn back_off_sequences() {
    let longest = |ms| Settings { recovery_timeout_max: ms * MS, ..settings() };
    for (multiplier, max, expected) in [
        (1.0, 10_000, [100, 100, 100, 100, 100, 100]),
        (2.0, 10_000, [100, 200, 400, 800, 1_600, 3_200]),
        (2.0, 500, [100, 200, 400, 500, 500, 500]),
        (1.5, 10_000, [100, 150, 225, 337, 506, 759]),
        (10.0, 100, [100, 100, 100, 100, 100, 100]),
        (10.0, 7, [100, 100, 100, 100, 100, 100]),
        (0.5, 10_000, [100, 100, 100, 100, 100, 100]),
        (f64::NAN, 10_000, [100, 100, 100, 100, 100, 100]),
        (f64::INFINITY, 10_000, [100, 10_000, 10_000, 10_000, 10_000, 10_000]),
    ] {
        let settings = Settings { backoff_multiplier: multiplier, ..longest(max) };
        assert_eq!(open_times(&settings, 6, None, 0.0), expected, "× {multiplier} up to {max}");
    }
}

#[test]
fn back_off_starts_over_after_a_recovery() {
    let mut breaker = Breaker::new(Settings { backoff_multiplier: 2.0, ..settings() }, Tick(0));
    trip(&mut breaker, 0);
    let probe = admitted(&mut breaker, 100);
    settle(&mut breaker, probe, FAILURE, 100);
    assert_eq!((breaker.next_deadline(), breaker.snapshot().trips), (Some(Tick(300)), 2));
    let probe = admitted(&mut breaker, 300);
    settle(&mut breaker, probe, Verdict::Success, 300);
    assert_eq!(breaker.snapshot().trips, 0);
    trip(&mut breaker, 300);
    assert_eq!(breaker.next_deadline(), Some(Tick(400)));
}

#[test]
fn nothing_backs_off_to_nothing() {
    let settings = Settings { recovery_timeout: Duration::ZERO, backoff_multiplier: 2.0, ..settings() };
    assert_eq!(settings.open_time(u32::MAX, None, 0.9), Duration::ZERO);
}

#[test]
fn retry_after_lengthens_and_never_shortens() {
    for (retry_after, expected) in [(0, 100), (99, 100), (101, 101), (9_999, 9_999), (10_000, 10_000), (10_001, 10_000), (u64::MAX, 10_000)]
    {
        assert_eq!(open_times(&settings(), 1, Some(Duration::from_millis(retry_after)), 0.0), [expected], "{retry_after}");
    }
}

#[test]
fn retry_after_of_a_failed_probe_counts_and_of_failures_before_the_last_does_not() {
    let mut breaker = Breaker::new(settings(), Tick(0));
    let first = admitted(&mut breaker, 0);
    settle(&mut breaker, first, Verdict::Failure { retry_after: Some(Duration::from_secs(5)) }, 0);
    trip(&mut breaker, 0);
    assert_eq!(breaker.next_deadline(), Some(Tick(100)));
    let probe = admitted(&mut breaker, 100);
    settle(&mut breaker, probe, Verdict::Failure { retry_after: Some(Duration::from_secs(5)) }, 100);
    assert_eq!(breaker.next_deadline(), Some(Tick(5_100)));
}

#[test]
fn chance_is_asked_for_trips_alone() {
    let never = || -> f64 { unreachable!("no trip, no dice") };
    let mut breaker = Breaker::new(settings(), Tick(0));
    for verdict in [FAILURE, FAILURE, Verdict::Success, Verdict::Slow, Verdict::Ignored, FAILURE] {
        let permit = admitted(&mut breaker, 0);
        breaker.settle(permit, verdict, Duration::ZERO, Tick(0), never);
    }
    breaker.reset_to(Automatic::Closed, "ann", "drill", Tick(0), never);
    breaker.reset_to(Automatic::HalfOpen, "ann", "drill", Tick(0), never);
    let probe = admitted(&mut breaker, 0);
    breaker.settle(probe, Verdict::Success, Duration::ZERO, Tick(0), never);
}

fn any_duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        Just(Duration::MAX),
        (0u64..100_000).prop_map(Duration::from_millis),
        any::<u64>().prop_map(Duration::from_nanos)
    ]
}

fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![0.0..1.0f64, 1.0..4.0f64, any::<f64>()]
}

proptest! {
    /// Whatever the numbers, NaN and infinities included: not shorter than `recovery_timeout`, not longer than the bound and its jitter.
    #[test]
    fn between_the_shortest_and_the_longest(
        recovery_timeout in any_duration(), recovery_timeout_max in any_duration(), retry_after in proptest::option::of(any_duration()),
        backoff_multiplier in any_number(), jitter in any_number(), roll in any_number(), trips: u32,
    ) {
        let settings = Settings { recovery_timeout, recovery_timeout_max, backoff_multiplier, jitter, ..settings() };
        let open = settings.open_time(trips, retry_after, roll);
        let longest = recovery_timeout.max(recovery_timeout_max);
        let bound = Duration::try_from_secs_f64(longest.as_secs_f64() * 2.0).unwrap_or(Duration::MAX);
        prop_assert!(open >= recovery_timeout, "{open:?}");
        prop_assert!(open <= bound, "{open:?}");
    }

    /// Jitter spreads over `[base, base × (1 + jitter))`, and in proportion to the roll.
    #[test]
    fn jitter_lengthens_by_its_share(base in 1u64..1_000_000, jitter in 0.0..=1.0f64, roll in 0.0..1.0f64) {
        let recovery_timeout = Duration::from_millis(base);
        let settings = Settings { recovery_timeout, recovery_timeout_max: recovery_timeout, jitter, ..settings() };
        let expected = base as f64 * (1.0 + jitter * roll);
        let open = settings.open_time(1, None, roll).as_secs_f64() * 1_000.0;
        prop_assert!((open - expected).abs() < 0.001, "{open} {expected}");
    }

    /// A further trip never makes the open time shorter.
    #[test]
    fn back_off_never_shrinks(base in any_duration(), max in any_duration(), multiplier in any_number(), trips in 1u32..100) {
        let settings = Settings { recovery_timeout: base, recovery_timeout_max: max, backoff_multiplier: multiplier, ..settings() };
        prop_assert!(settings.open_time(trips, None, 0.0) <= settings.open_time(trips + 1, None, 0.0));
    }
}
