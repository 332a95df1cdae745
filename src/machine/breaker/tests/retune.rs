//! Other settings at run time: what stays, what is weighed anew, and what another algorithm begins with.

use super::*;

fn retune(breaker: &mut Breaker, settings: Settings, now: u64) -> Option<Transition> {
    breaker.retune(settings, Tick(now), || 0.0)
}

/// A closed breaker after these verdicts at tick 0: `s`uccess, `f`ailure, `l`ong success, long `F`ailure.
fn told(settings: Settings, verdicts: &str) -> Breaker {
    let mut breaker = Breaker::new(settings, Tick(0));
    for letter in verdicts.chars() {
        let permit = admitted(&mut breaker, 0);
        let verdict = if matches!(letter, 'f' | 'F') { FAILURE } else { Verdict::Success };
        let took = Duration::from_millis(if matches!(letter, 'l' | 'F') { 11 } else { 0 });
        breaker.settle(permit, verdict, took, Tick(0), || 0.0);
    }
    breaker
}

fn never() -> Rates {
    rates(1, f64::INFINITY)
}

fn expression(trip: &str, over: Over) -> PolicySettings {
    PolicySettings::Expression { trip: Trip::compile(trip).expect("is CEL"), over, slow: Duration::from_millis(10) }
}

/// What another policy makes of a closed breaker's figures: calls, failures, slow, streak; or that it opens.
#[test]
fn a_closed_breaker_is_weighed_by_the_other_settings_at_once() {
    const OPENS: Option<[u64; 4]> = None;
    let any = |policies: &[PolicySettings]| PolicySettings::Any(policies.to_vec());
    let sixty = format!("{}{}", "s".repeat(42), "f".repeat(18));
    for (before, verdicts, after, expected) in [
        // The streak's length.
        (consecutive(5), "ff", consecutive(3), Some([2, 2, 0, 2])),
        (consecutive(5), "ff", consecutive(2), OPENS),
        (consecutive(5), "ff", consecutive(1), OPENS),
        (consecutive(5), "ffff", consecutive(50), Some([4, 4, 0, 4])),
        (consecutive(5), "ffffs", consecutive(1), Some([0, 0, 0, 0])),
        // A window's size: the last calls stay.
        (count(5, never()), "fffss", count(3, never()), Some([3, 1, 0, 0])),
        (count(5, never()), "fffss", count(2, rates(1, 0.1)), Some([2, 0, 0, 0])),
        (count(5, never()), "sslff", count(3, never()), Some([3, 2, 1, 2])),
        (count(3, never()), "fffss", count(9, never()), Some([3, 1, 0, 0])),
        (count(3, never()), "fff", count(9, rates(4, 0.1)), Some([3, 3, 0, 3])),
        (count(3, never()), "fff", count(9, rates(3, 0.1)), OPENS),
        (count(3, never()), "ffffff", count(2, never()), Some([2, 2, 0, 6])),
        (count(9, never()), "fffff", count(2, rates(9, 1.0)), OPENS),
        (count(0, never()), "ff", count(0, rates(0, 1.0)), OPENS),
        // Its thresholds.
        (count(4, never()), "ssff", count(4, rates(4, 0.51)), Some([4, 2, 0, 2])),
        (count(4, never()), "ssff", count(4, rates(4, 0.5)), OPENS),
        (time(4, never()), "ssff", time(4, rates(4, 0.51)), Some([4, 2, 0, 2])),
        (time(4, never()), "ssff", time(9, rates(4, 0.5)), OPENS),
        (count(4, never()), "slsl", count(4, Rates { slow_call_rate: 0.5, ..never() }), OPENS),
        // Another algorithm begins with the figures, the streak last.
        (consecutive(9), "ff", count(4, rates(3, 0.1)), Some([2, 2, 0, 2])),
        (consecutive(9), "ff", count(4, rates(2, 0.1)), OPENS),
        (count(9, never()), "sfsff", consecutive(3), Some([2, 2, 0, 2])),
        (count(9, never()), "sfsff", consecutive(2), OPENS),
        (count(9, never()), "slfF", time(5, never()), Some([4, 2, 2, 2])),
        (time(9, never()), "slfF", count(5, never()), Some([4, 2, 2, 2])),
        (time(9, never()), "FFF", count(5, never()), Some([3, 3, 3, 3])),
        (time(9, never()), "ssssFFF", count(2, never()), Some([2, 2, 0, 3])),
        (count(9, never()), "ssff", expression("failure_rate >= 0.6", Over::Calls(9)), Some([4, 2, 0, 2])),
        (count(9, never()), "ssff", expression("failure_rate >= 0.5", Over::Time(Duration::from_secs(3))), OPENS),
        (expression("false", Over::Calls(9)), "ssff", expression("consecutive > 1", Over::Time(Duration::from_secs(3))), OPENS),
        (expression("false", Over::Time(Duration::from_secs(3))), "ssff", expression("false", Over::Calls(3)), Some([3, 2, 0, 2])),
        (count(9, never()), "ssff", adaptive(5, 2.0, 0), Some([4, 2, 0, 2])),
        // Of more than there is room for the shares stay: a service that is as good as before opens nothing.
        (time(9, never()), &sixty, count(30, rates(30, 0.61)), Some([30, 18, 0, 18])),
        (time(9, never()), "ffffffsssssssssssssss", count(7, rates(7, 0.3)), Some([7, 2, 0, 0])),
        (time(9, never()), "ffffffsssssssssssssss", count(7, rates(7, 0.28)), OPENS),
        (time(9, never()), "lllsssssssss", count(4, never()), Some([4, 0, 1, 0])),
        // One and several.
        (consecutive(9), "ff", any(&[consecutive(3)]), Some([2, 2, 0, 2])),
        (consecutive(9), "ff", any(&[count(9, never()), consecutive(2)]), OPENS),
        (any(&[count(9, never()), consecutive(9)]), "sff", consecutive(2), OPENS),
        (any(&[count(9, never()), consecutive(9)]), "sff", count(5, never()), Some([3, 2, 0, 2])),
        (any(&[count(9, never()), consecutive(9)]), "ffs", any(&[count(2, never()), consecutive(1)]), Some([2, 1, 0, 0])),
        (any(&[count(9, never())]), "sff", any(&[consecutive(9), count(2, never()), time(1, never())]), Some([3, 2, 0, 2])),
        (any(&[count(9, never()), consecutive(9)]), "sff", any(&[]), Some([0, 0, 0, 0])),
    ] {
        let case = format!("{verdicts} of {before:?}, then {after:?}");
        let mut breaker = told(by(before), verdicts);
        let permit = admitted(&mut breaker, 0);
        let transition = retune(&mut breaker, by(after), 0);
        let counts = breaker.counts(Tick(0));
        match expected {
            None => {
                let transition = transition.unwrap_or_else(|| panic!("{case}: stays closed with {counts:?}"));
                assert_eq!((transition.to, transition.cause), (StateName::Open, Cause::Policy), "{case}");
                assert!(breaker.next_deadline().is_some_and(|end| (100..=101).contains(&end.0)), "{case}");
            }
            Some(figures) => {
                assert_eq!(transition, None, "{case}");
                assert_eq!([counts.calls, counts.failures, counts.slow, counts.consecutive_failures], figures, "{case}");
            }
        }
        assert_eq!(settle(&mut breaker, permit, Verdict::Ignored, 0).late, expected.is_none(), "{case}");
    }
}

/// `adaptive` counts calls that it refused; to another algorithm they are none, for nobody knows how they would have ended.
#[test]
fn refused_calls_are_no_successes_to_another_algorithm() {
    for policy in [adaptive(10, 2.0, u64::MAX), PolicySettings::Any(vec![adaptive(10, 2.0, u64::MAX)])] {
        let mut breaker = Breaker::new(by(policy), Tick(0));
        call(&mut breaker, FAILURE, 0);
        for _ in 0..99 {
            assert!(breaker.admit(Tick(0), || 0.0).0.is_err());
        }
        let opened = retune(&mut breaker, by(count(10, rates(1, 0.5))), 0);
        assert_eq!(opened.map(|transition| transition.counts), Some(Counts { calls: 1, failures: 1, slow: 0, consecutive_failures: 1 }));
    }
}

/// A streak whose failures have left the window ends with the next success, whichever way that one comes.
#[test]
fn an_inherited_streak_ends_with_a_success() {
    let shared = SharedBreaker::new(by(time(1, never())), Tick(0));
    for _ in 0..3 {
        let permit = shared.admit(Tick(0), || 0.0).0.expect("closed");
        shared.settle(permit, FAILURE, Duration::ZERO, Tick(0), || 0.0);
    }
    shared.with(|breaker| retune(breaker, by(count(9, never())), 5_000));
    assert_eq!(shared.with(|breaker| breaker.counts(Tick(5_000)).consecutive_failures), 3);
    let permit = shared.admit(Tick(5_000), || 0.0).0.expect("closed");
    shared.settle(permit, Verdict::Success, Duration::ZERO, Tick(5_000), || 0.0);
    assert_eq!(shared.with(|breaker| breaker.counts(Tick(5_000)).consecutive_failures), 0);
    assert_eq!(shared.with(|breaker| retune(breaker, by(consecutive(1)), 5_000)), None);
}

#[test]
fn a_time_window_keeps_the_last_seconds() {
    let mut breaker = Breaker::new(by(time(5, never())), Tick(0));
    for now in [0, 1_000, 2_000, 2_500, 3_000] {
        call(&mut breaker, FAILURE, now);
    }
    for (seconds, now, calls) in [(3, 3_999, 4), (9, 3_999, 4), (4, 5_500, 3), (1, 5_500, 0), (60, 5_500, 0)] {
        retune(&mut breaker, by(time(seconds, never())), now);
        assert_eq!(breaker.counts(Tick(now)).calls, calls, "of {seconds} s at {now}");
        assert_eq!(breaker.counts(Tick(now)).consecutive_failures, 5);
    }
}

/// While open: the end that the other settings would have given it, counted from the trip, but not before its service's `Retry-After`.
#[test]
fn an_open_ones_time_is_reckoned_anew_from_its_trip() {
    let open = |ms, max, multiplier| Settings {
        recovery_timeout: Duration::from_millis(ms),
        recovery_timeout_max: Duration::from_millis(max),
        backoff_multiplier: multiplier,
        ..settings()
    };
    for (retry_after, other, until) in [
        (None, open(100, 10_000, 1.0), 1_100),
        (None, open(300, 10_000, 1.0), 1_300),
        (None, open(5, 10_000, 1.0), 1_005),
        (None, open(0, 0, 1.0), 1_000),
        (Some(2_000), open(5, 10_000, 1.0), 3_000),
        (Some(2_000), open(5, 7, 1.0), 3_000),
        (Some(2_000), open(2_500, 10_000, 1.0), 3_500),
        (Some(50), open(5, 10_000, 1.0), 1_050),
        // The first trip's is not multiplied.
        (None, open(30, 10_000, 7.0), 1_030),
    ] {
        let mut breaker = Breaker::new(settings(), Tick(0));
        let verdict = Verdict::Failure { retry_after: retry_after.map(Duration::from_millis) };
        while call(&mut breaker, verdict, 1_000).transition.is_none() {}
        let generation = breaker.generation();
        assert_eq!(retune(&mut breaker, other.clone(), 1_010), None);
        assert_eq!((breaker.state_name(), breaker.generation()), (StateName::Open, generation));
        assert_eq!(breaker.next_deadline(), Some(Tick(until)), "{retry_after:?}, {other:?}");
        assert_eq!(breaker.snapshot().since, Tick(1_000));
    }
    // The third trip in a row, by a multiplier that comes later.
    let mut breaker = Breaker::new(settings(), Tick(0));
    trip(&mut breaker, 0);
    for now in [100, 200] {
        call(&mut breaker, FAILURE, now);
    }
    retune(&mut breaker, open(100, 10_000, 3.0), 210);
    assert_eq!(breaker.next_deadline(), Some(Tick(200 + 900)));
}

#[test]
fn an_end_that_moves_by_more_than_a_second_is_a_change_for_the_fleet() {
    let open = |ms| Settings { recovery_timeout: Duration::from_millis(ms), jitter: 0.5, ..settings() };
    let asked = Some(Duration::from_secs(4));
    for (before, after, retry_after, now, until, told) in [
        (2_000, 3_000, None, 10, 3_000, false),
        (2_000, 3_001, None, 10, 3_001, true),
        (9_000, 8_000, None, 10, 8_000, false),
        (9_000, 7_999, None, 10, 7_999, true),
        (9_000, 2_000, asked, 10, 4_000, true),
        (9_000, 3_000, None, 3_000, 3_000, false),
    ] {
        let case = format!("{before} to {after}, {retry_after:?}, at {now}");
        let mut breaker = Breaker::new(open(before), Tick(0));
        while call(&mut breaker, Verdict::Failure { retry_after }, 0).transition.is_none() {}
        let (counts, transition) = (breaker.counts(Tick(now)), breaker.retune(open(after), Tick(now), || 0.9));
        let snapshot = breaker.snapshot();
        assert_eq!(snapshot.held, Held::Open { until: Tick(until) }, "{case}");
        assert_eq!((snapshot.since, snapshot.trips, breaker.counts(Tick(now))), (Tick(0), 1, counts), "{case}");
        assert_eq!(snapshot.generation, Generation(1 + u64::from(told)), "{case}");
        let shown = transition.map(|transition| (transition.from, transition.to, transition.cause));
        assert_eq!(shown, told.then_some((StateName::Open, StateName::Open, Cause::Tuned)), "{case}");
        // Whoever hears of it, and takes the settings up then, has nothing to add; it opened a moment later there.
        let mut other = Breaker::new(open(before), Tick(0));
        other.adopt(&Snapshot { since: Tick(30), ..snapshot }, Cause::Adopted, Tick(now));
        assert_eq!(other.retune(open(after), Tick(now), || 0.9), None, "{case}");
    }
    // Alone it is nobody else's.
    let mut breaker = Breaker::new(Settings { quorum: 2, ..open(2_000) }, Tick(0));
    breaker.join_fleet("here".into());
    trip(&mut breaker, 0);
    assert_eq!(breaker.retune(Settings { quorum: 2, ..open(9_000) }, Tick(1), || 0.9), None);
    assert_eq!((breaker.is_alone(), breaker.next_deadline()), (true, Some(Tick(9_000))));
}

/// Settings that say the same of the open time leave it as it is: chance is not asked again, nor is a `Retry-After` forgotten.
#[test]
fn an_open_ones_time_stays_where_nothing_is_said_of_it() {
    for policy in [consecutive(1), count(5, rates(1, 0.5))] {
        let settings = Settings { jitter: 1.0, ..by(policy) };
        for retry_after in [None, Some(Duration::from_millis(150))] {
            let mut breaker = Breaker::new(settings.clone(), Tick(0));
            let permit = admitted(&mut breaker, 0);
            breaker.settle(permit, Verdict::Failure { retry_after }, Duration::ZERO, Tick(0), || 0.5);
            let until = breaker.next_deadline();
            let never = || -> f64 { unreachable!("nothing is to be reckoned") };
            breaker.retune(Settings { permits: 9, ramp: Duration::from_secs(1), ..settings.clone() }, Tick(1), never);
            assert_eq!(breaker.next_deadline(), until);
        }
    }
}

#[test]
fn a_half_open_one_decides_at_once() {
    let round = |permits, rate, success_threshold| Settings {
        permits,
        half_open_failure_rate: rate,
        success_threshold,
        ..by(count(100, Rates { minimum_calls: 100, slow_call_rate: 1.0, ..rates(100, 0.5) }))
    };
    let (wait, closes, opens) = (None, Some((StateName::Closed, Cause::Recovered)), Some((StateName::Open, Cause::ProbeFailed)));
    for (before, verdicts, after, expected) in [
        (round(5, None, 5), "ss", round(5, None, 5), wait),
        (round(5, None, 5), "ss", round(5, None, 3), wait),
        (round(5, None, 5), "ss", round(1, None, 2), closes),
        (round(5, None, 5), "ss", round(1, None, 0), closes),
        (round(5, None, 5), "", round(1, None, 0), wait),
        (round(5, Some(1.0), 1), "ffs", round(4, Some(0.1), 1), wait),
        (round(5, Some(1.0), 1), "ffs", round(3, Some(0.67), 1), closes),
        (round(5, Some(1.0), 1), "ffs", round(3, Some(0.5), 1), opens),
        (round(5, Some(1.0), 1), "ffs", round(2, Some(0.5), 1), opens),
        (round(5, Some(1.0), 1), "sss", round(0, Some(0.5), 1), closes),
        (round(5, Some(1.0), 1), "lls", round(3, Some(1.0), 1), closes),
        (round(5, Some(1.0), 1), "lll", round(3, Some(1.0), 1), opens),
        // Each decides: of what the round had waited for, one failure is enough.
        (round(5, Some(1.0), 1), "ffs", round(5, None, 9), opens),
        (round(5, Some(1.0), 1), "ss", round(5, None, 9), wait),
        (round(5, None, 5), "ss", round(2, Some(0.5), 9), closes),
    ] {
        let case = format!("{verdicts} of {before:?}, then {after:?}");
        let mut breaker = Breaker::new(before, Tick(0));
        breaker.reset_to(Automatic::HalfOpen, "ann", "drill", Tick(0), || 0.0);
        for letter in verdicts.chars() {
            let permit = admitted(&mut breaker, 0);
            let took = Duration::from_millis(if letter == 'l' { 11 } else { 0 });
            breaker.settle(permit, if letter == 'f' { FAILURE } else { Verdict::Success }, took, Tick(0), || 0.0);
        }
        let probe = admitted(&mut breaker, 0);
        assert_eq!(retune(&mut breaker, after, 0).map(|transition| (transition.to, transition.cause)), expected, "{case}");
        assert_eq!(breaker.probes_in_flight(Tick(0)), usize::from(expected.is_none()), "{case}");
        assert_eq!(settle(&mut breaker, probe, Verdict::Ignored, 0).late, expected.is_some(), "{case}");
    }
}

#[test]
fn under_a_lock_nothing_moves() {
    for kind in LOCKS {
        let mut breaker = told(by(consecutive(9)), "");
        breaker.lock(lock(kind, Some(50)), Tick(0));
        if kind == LockKind::MetricsOnly {
            (0..5).for_each(|_| drop(call(&mut breaker, FAILURE, 0)));
        }
        let before = breaker.snapshot();
        assert_eq!(retune(&mut breaker, Settings { half_open_timeout: Some(Duration::ZERO), ..by(consecutive(1)) }, 1), None);
        assert_eq!((breaker.snapshot(), breaker.next_deadline()), (before, Some(Tick(50))));
    }
}

/// Once ignored verdicts are used up they stay so; of those still to come no more are ignored than the other settings say.
#[test]
fn what_a_new_breaker_ignores_is_not_begun_again() {
    for (before, verdicts, after, counted) in [(3, 3, 3, 2), (3, 1, 3, 0), (3, 1, 1, 1), (3, 0, 0, 2), (0, 1, 5, 2)] {
        let settings = |ignore_first| Settings { ignore_first, ..by(count(2, never())) };
        let mut breaker = told(settings(before), &"s".repeat(verdicts));
        retune(&mut breaker, settings(after), 0);
        (0..2).for_each(|_| drop(call(&mut breaker, FAILURE, 0)));
        assert_eq!(breaker.counts(Tick(0)).failures, counted, "{before} to ignore, {verdicts} told, then {after}");
    }
}

/// Who tripped goes on knowing what its service has asked for, whoever has changed the end meanwhile, and how long that was on its way.
#[test]
fn who_tripped_takes_back_what_another_has_lengthened() {
    let asked = Some(Duration::from_secs(4));
    let open = |ms| Settings { recovery_timeout: Duration::from_millis(ms), recovery_timeout_max: Duration::from_secs(600), ..settings() };
    for (retry_after, on_the_way, trips, shortened, until) in [
        (None, 30, 1, 2_000, 2_030),
        (asked, 30, 1, 2_000, 4_000),
        (asked, 30, 1, 5_000, 5_030),
        (None, 1_000, 1, 2_000, 3_000),
        // It is another one's.
        (None, 1_001, 1, 2_000, 60_030),
        (None, 30, 2, 2_000, 60_030),
    ] {
        let case = format!("{retry_after:?}, {on_the_way} ms, {trips} trips, {shortened}");
        let mut breaker = Breaker::new(open(9_000), Tick(0));
        while call(&mut breaker, Verdict::Failure { retry_after }, 0).transition.is_none() {}
        // Another one's word comes first, then the settings.
        let lengthened = Snapshot { since: Tick(on_the_way), trips, ..snapshot(2, Held::Open { until: Tick(60_030) }) };
        breaker.adopt(&lengthened, Cause::Adopted, Tick(1_500)).expect("is newer");
        assert_eq!(breaker.retune(open(60_000), Tick(1_500), || 0.9), None, "{case}");
        breaker.retune(open(shortened), Tick(1_600), || 0.9);
        assert_eq!(breaker.next_deadline(), Some(Tick(until)), "{case}");
    }
}

/// Another instance tripped it, and knows of a `Retry-After`: only that one may go on earlier.
#[test]
fn an_adopted_open_time_is_not_cut_short() {
    let mut breaker = Breaker::new(settings(), Tick(0));
    breaker.adopt(&snapshot(1, Held::Open { until: Tick(5_000) }), Cause::Adopted, Tick(10)).expect("is newer");
    retune(&mut breaker, Settings { recovery_timeout: Duration::from_millis(20), ..settings() }, 20);
    assert_eq!(breaker.next_deadline(), Some(Tick(5_000)));
    retune(&mut breaker, Settings { recovery_timeout: Duration::from_secs(9), ..settings() }, 20);
    assert_eq!(breaker.next_deadline(), Some(Tick(9_000)));
}
