//! The worked examples of `docs/guide/breakers.md`: every figure that stands there of a run of calls.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn with(policy: PolicySettings) -> Settings {
    Settings { policy, ..Settings::new(consecutive(1), 60 * SECOND, 31 * SECOND) }
}

fn rates(minimum_calls: u32, failure_rate: f64) -> Rates {
    Rates { minimum_calls, failure_rate, slow_call_rate: 1.0, slow_call_duration: 60 * SECOND }
}

/// Calls of a closed breaker, all at one time: `F` fails, `S` succeeds at once, `L` succeeds after three seconds. Where it opened, from 1.
fn opened_at(policy: PolicySettings, calls: &str) -> Option<usize> {
    let mut breaker = Breaker::new(with(policy), Tick(0));
    (1..).zip(calls.chars()).find_map(|(number, sign)| {
        let permit = admitted(&mut breaker, 0);
        let (verdict, took) = match sign {
            'F' => (FAILURE, Duration::ZERO),
            'L' => (Verdict::Success, 3 * SECOND),
            _ => (Verdict::Success, Duration::ZERO),
        };
        breaker.settle(permit, verdict, took, Tick(0), || 0.0).transition.map(|_| number)
    })
}

/// Calls, so many a second at even distances, that succeed up to the minute and fail from then on: how many failed until it opened, and
/// in which second of the outage, from 1.
fn outage(policy: PolicySettings, a_second: u64, healthy_s: u64, failing_s: u64) -> Option<(u64, u64)> {
    let mut breaker = Breaker::new(with(policy), Tick(0));
    (0..a_second * (healthy_s + failing_s)).find_map(|number| {
        let now = number * 1_000 / a_second;
        let failed = (number + 1).saturating_sub(a_second * healthy_s);
        let permit = admitted(&mut breaker, now);
        let verdict = if failed > 0 { FAILURE } else { Verdict::Success };
        settle(&mut breaker, permit, verdict, now).transition.map(|_| (failed, now / 1_000 + 1 - healthy_s))
    })
}

#[test]
fn consecutive_by_example() {
    assert_eq!(opened_at(consecutive(3), "FFSFFF"), Some(6));
    assert_eq!(opened_at(consecutive(3), &"FS".repeat(1_000)), None);
}

#[test]
fn count_by_example() {
    let count = |rates| PolicySettings::Count { size: 10, rates };
    assert_eq!(opened_at(count(rates(5, 0.5)), "SSFSFF"), Some(6));
    assert_eq!(opened_at(count(rates(5, 0.4)), "FFSSS"), Some(5));
    let slow = Rates { slow_call_rate: 0.6, slow_call_duration: 2 * SECOND, ..rates(5, 0.5) };
    assert_eq!(opened_at(count(slow), "LLSSL"), Some(5));
    assert_eq!(outage(PolicySettings::Count { size: 100, rates: rates(100, 0.5) }, 10, 60, 60), Some((50, 5)));
}

#[test]
fn time_by_example() {
    let time = |rates| PolicySettings::Time { window: 10 * SECOND, rates };
    assert_eq!(outage(time(rates(20, 0.5)), 10, 60, 60), Some((50, 5)));
    assert_eq!(outage(time(rates(20, 0.3)), 10, 60, 60), Some((30, 3)));
    assert_eq!(outage(time(rates(20, 0.5)), 10, 0, 60), Some((20, 2)));
    // Fewer calls in the window than the minimum: never.
    let minute = |minimum| PolicySettings::Time { window: 60 * SECOND, rates: rates(minimum, 0.5) };
    assert_eq!(outage(minute(100), 1, 60, 3_600), None);
    assert_eq!(outage(minute(20), 1, 60, 3_600), Some((30, 30)));
}

#[test]
fn expression_by_example() {
    let expression = || {
        let trip = Trip::compile("failure_rate > 0.3 && calls >= 20 || consecutive >= 5").expect("is CEL");
        PolicySettings::Expression { trip, over: Over::Calls(100), slow: 60 * SECOND }
    };
    assert_eq!(opened_at(expression(), "FFFFF"), Some(5));
    assert_eq!(opened_at(expression(), "SSFSSFSSFSSFSSFSSFSS"), None);
    assert_eq!(opened_at(expression(), "SSFSSFSSFSSFSSFSSFFS"), Some(20));
}

#[test]
fn any_by_example() {
    let any = || PolicySettings::Any(vec![consecutive(5), PolicySettings::Count { size: 100, rates: rates(20, 0.3) }]);
    assert_eq!(opened_at(any(), "FFFFF"), Some(5));
    assert_eq!(opened_at(any(), &"FSS".repeat(9)), Some(20));
}

#[test]
fn adaptive_by_example() {
    let settings = AdaptiveSettings {
        window: 120 * SECOND,
        multiplier: 2.0,
        trickle: SECOND,
        patience: Duration::ZERO,
        slow_call_duration: 60 * SECOND,
    };
    // Of 100 calls so many are answered: the 101st is refused by rolls below the share.
    for (answered, share) in [(100, 0.0), (50, 0.0), (20, 60.0 / 101.0), (0, 100.0 / 101.0)] {
        let mut breaker = Breaker::new(with(PolicySettings::Adaptive(settings)), Tick(0));
        for number in 0..100 {
            let permit = breaker.admit(Tick(0), || 0.999).0.expect("rolled high");
            settle(&mut breaker, permit, if number < answered { Verdict::Success } else { FAILURE }, 0);
        }
        assert_eq!(breaker.admit(Tick(0), || (share - 0.001_f64).max(0.0)).0.is_err(), share > 0.0, "{answered}");
        assert!(breaker.admit(Tick(0), || share + 0.011).0.is_ok(), "{answered}");
        assert!(breaker.admit(Tick(1_000), || 0.0).0.is_ok(), "a call a second goes");
    }
}

/// Ten calls a second, all answered for as long as the window, and none from then on: the first call that could be refused.
#[test]
fn adaptive_begins_after_half_of_its_window() {
    for (multiplier, window, seconds) in [(2.0, 10, 5), (2.0, 120, 60), (1.25, 10, 2)] {
        let settings = AdaptiveSettings {
            window: window * SECOND,
            multiplier,
            trickle: 3_600 * SECOND,
            patience: Duration::ZERO,
            slow_call_duration: 60 * SECOND,
        };
        let mut breaker = Breaker::new(with(PolicySettings::Adaptive(settings)), Tick(0));
        let outage = 1_000 * u64::from(window);
        let refused = (0..2 * outage / 100).map(|number| number * 100).find(|now| {
            let Ok(permit) = breaker.admit(Tick(*now), || 0.0).0 else { return true };
            settle(&mut breaker, permit, if *now < outage { Verdict::Success } else { FAILURE }, *now);
            false
        });
        assert_eq!(refused, Some(outage + 1_000 * seconds), "{multiplier} over {window} s");
    }
}

/// Of 100 calls a second a service answers the first ten of each second that reach it.
#[test]
fn adaptive_sends_twice_what_is_answered() {
    let settings = AdaptiveSettings {
        window: 10 * SECOND,
        multiplier: 2.0,
        trickle: SECOND,
        patience: Duration::ZERO,
        slow_call_duration: 60 * SECOND,
    };
    let mut breaker = Breaker::new(with(PolicySettings::Adaptive(settings)), Tick(0));
    let mut chance: u64 = 1;
    let mut sent = 0;
    for second in 0..120 {
        let mut reached = 0;
        for call in 0..100 {
            let now = second * 1_000 + call * 10;
            let roll = || {
                chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (chance >> 32) as f64 / f64::from(u32::MAX)
            };
            let Ok(permit) = breaker.admit(Tick(now), roll).0 else { continue };
            reached += 1;
            settle(&mut breaker, permit, if reached <= 10 { Verdict::Success } else { FAILURE }, now);
        }
        sent += if second >= 60 { reached } else { 0 };
    }
    assert!((18 * 60..=22 * 60).contains(&sent), "{} a second", f64::from(sent) / 60.0);
}

#[test]
fn open_times_by_example() {
    let settings =
        Settings { backoff_multiplier: 2.0, recovery_timeout_max: 600 * SECOND, ..Settings::new(consecutive(5), 60 * SECOND, 31 * SECOND) };
    let seconds = |trips| settings.open_time(trips, None, 0.0).as_secs();
    assert_eq!([1, 2, 3, 4, 5, 6].map(seconds), [60, 120, 240, 480, 600, 600]);
    let jittered = Settings { jitter: 0.2, ..settings.clone() };
    assert_eq!(jittered.open_time(1, None, 1.0), 72 * SECOND);
    assert_eq!(settings.open_time(1, Some(90 * SECOND), 0.0), 90 * SECOND);
    assert_eq!(settings.open_time(1, Some(3_600 * SECOND), 0.0), 600 * SECOND);
}

/// Probes of one stay in half-open, one after the other: the state after each.
fn probed(settings: Settings, probes: &str) -> Vec<StateName> {
    let mut breaker = Breaker::new(settings, Tick(0));
    breaker.reset_to(Automatic::HalfOpen, "ann", "drill", Tick(0), || 0.0);
    let states = probes.chars().map(|sign| {
        let permit = admitted(&mut breaker, 0);
        settle(&mut breaker, permit, if sign == 'F' { FAILURE } else { Verdict::Success }, 0);
        breaker.state_name()
    });
    states.collect()
}

#[test]
fn rounds_by_example() {
    let count = |minimum| with(PolicySettings::Count { size: 100, rates: rates(minimum, 0.5) });
    let round = |minimum| Settings { permits: 10, half_open_failure_rate: Some(0.5), ..count(minimum) };
    let decided = |settings, probes| {
        let states = probed(settings, probes);
        assert!(states[..states.len() - 1].iter().all(|state| *state == StateName::HalfOpen), "{probes}: {states:?}");
        states[states.len() - 1]
    };
    assert_eq!(decided(round(100), "FFFFFSSSSS"), StateName::Open);
    assert_eq!(decided(round(100), "FFFFSSSSSS"), StateName::Closed);
    assert_eq!(decided(round(5), "SSFSF"), StateName::Closed);
    // Without a round each decides.
    assert_eq!(decided(Settings { success_threshold: 3, ..count(5) }, "SSS"), StateName::Closed);
    assert_eq!(decided(Settings { success_threshold: 3, ..count(5) }, "SF"), StateName::Open);
}

#[test]
fn a_ramp_by_example() {
    let settings = Settings { ramp: 60 * SECOND, ..with(consecutive(5)) };
    assert_eq!([6, 30, 60].map(|since| settings.ramp_share(since * SECOND)), [Some(0.1), Some(0.5), None]);
}
