//! What went wrong in other people's breakers, each under its name, where windows, rounds and ramps are concerned.

use super::*;

fn half_open(settings: Settings) -> Breaker {
    let mut breaker = Breaker::new(settings, Tick(0));
    breaker.reset_to(Automatic::HalfOpen, "ann", "drill", Tick(100), || 0.0);
    breaker
}

fn round(permits: u32, failure_rate: f64) -> Settings {
    Settings { permits, half_open_failure_rate: Some(failure_rate), ..settings() }
}

/// Failures it takes to open after a long time of health.
fn failures_to_trip(policy: PolicySettings, health: u64, apart: u64) -> usize {
    let mut breaker = Breaker::new(by(policy), Tick(0));
    for number in 0..health {
        assert_eq!(call(&mut breaker, Verdict::Success, number * apart).transition, None);
    }
    (1..).find(|_| call(&mut breaker, FAILURE, health * apart).transition.is_some()).expect("it opens")
}

#[test]
fn a_count_window_slides() {
    assert_eq!(failures_to_trip(count(10, rates(10, 0.5)), 10_000, 1), 5);
    assert_eq!(failures_to_trip(count(1, rates(1, 1.0)), 10_000, 1), 1);
    assert_eq!(failures_to_trip(count(64, rates(1, 0.5)), 10_001, 1), 32);
}

#[test]
fn a_time_window_slides() {
    // The health of the last five seconds, five calls in each but the present one, which the failures share with none.
    assert_eq!(failures_to_trip(time(5, rates(1, 0.5)), 10_000, 200), 20);
    assert_eq!(failures_to_trip(time(1, rates(3, 0.5)), 10_000, 200), 3);
}

#[test]
fn failures_that_have_left_the_window_trip_nothing() {
    for (policy, apart) in [(time(2, rates(2, 0.5)), 2_000), (count(2, rates(2, 1.0)), 0)] {
        let mut breaker = Breaker::new(by(policy), Tick(0));
        for number in 0..50 {
            let now = number * apart;
            assert_eq!(call(&mut breaker, FAILURE, now).transition, None);
            if apart == 0 {
                assert_eq!(call(&mut breaker, Verdict::Success, now).transition, None);
            }
        }
    }
}

#[test]
fn a_lost_probe_does_not_stick_a_round() {
    let mut breaker = half_open(round(2, 1.0));
    let _lost = [admitted(&mut breaker, 100), admitted(&mut breaker, 100)];
    assert_eq!(refused(&mut breaker, 109).until, Some(Tick(110)));
    let probes = [admitted(&mut breaker, 110), admitted(&mut breaker, 110)];
    let ends = probes.map(|probe| settle(&mut breaker, probe, Verdict::Success, 111).transition.map(|transition| transition.to));
    assert_eq!(ends, [None, Some(StateName::Closed)]);
}

#[test]
fn a_probe_lost_between_two_of_a_round_is_sent_again() {
    let mut breaker = half_open(round(3, 1.0));
    settle_one(&mut breaker, FAILURE, 100);
    let _lost = admitted(&mut breaker, 100);
    settle_one(&mut breaker, Verdict::Success, 101);
    assert_eq!(refused(&mut breaker, 102).until, Some(Tick(110)), "its place is taken until its lease ends");
    assert_eq!(settle_one(&mut breaker, Verdict::Success, 110).map(|transition| transition.to), Some(StateName::Closed));
}

fn settle_one(breaker: &mut Breaker, verdict: Verdict, now: u64) -> Option<Transition> {
    call(breaker, verdict, now).transition.map(|transition| *transition)
}

#[test]
fn a_cancelled_probe_is_no_part_of_a_round() {
    let mut breaker = half_open(round(2, 0.5));
    for number in 0..6 {
        let probe = admitted(&mut breaker, 100);
        if number % 2 == 0 {
            breaker.abandon(probe, Tick(100))
        } else {
            drop(settle(&mut breaker, probe, Verdict::Ignored, 100))
        }
        assert_eq!((breaker.state_name(), breaker.probes_in_flight(Tick(100))), (StateName::HalfOpen, 0));
        assert_eq!(breaker.counts(Tick(100)), Counts::default());
    }
    assert_eq!(settle_one(&mut breaker, Verdict::Success, 100), None);
    assert_eq!(settle_one(&mut breaker, FAILURE, 100).map(|transition| transition.cause), Some(Cause::ProbeFailed));
}

#[test]
fn no_more_probes_go_than_a_round_has() {
    for answered in 0..4 {
        let mut breaker = half_open(round(4, 1.0));
        (0..answered).for_each(|_| assert_eq!(settle_one(&mut breaker, Verdict::Success, 100), None));
        let probes = std::iter::from_fn(|| breaker.admit(Tick(100), || 0.0).0.ok()).count();
        assert_eq!(probes, 4 - answered);
    }
}

/// A rate of nothing, or of less, is one that a service without a failure has not reached: it closes its breaker.
#[test]
fn no_rate_holds_a_working_service_half_open_or_opens_on_its_success() {
    for rate in [0.0, -1.0, f64::NEG_INFINITY, f64::MIN_POSITIVE, 1e-50, f64::NAN, 2.0, f64::INFINITY] {
        for policy in [consecutive(1), count(2, Rates { slow_call_rate: rate, ..rates(1, rate) }), time(2, rates(1, rate))] {
            let mut breaker = half_open(Settings { policy: policy.clone(), ..round(2, rate) });
            let closed = (0..2).find_map(|_| settle_one(&mut breaker, Verdict::Success, 100));
            assert_eq!(closed.map(|transition| transition.to), Some(StateName::Closed), "{rate}, {policy:?}");
            assert_eq!(settle_one(&mut breaker, Verdict::Success, 100), None, "{rate}, {policy:?}");
        }
    }
}

#[test]
fn late_answers_from_before_a_trip_count_in_no_window() {
    for policy in [count(4, rates(2, 0.5)), time(4, rates(2, 0.5))] {
        let mut breaker = Breaker::new(by(policy), Tick(0));
        let late = [(); 6].map(|()| admitted(&mut breaker, 0));
        trip(&mut breaker, 0);
        let opened_by = breaker.counts(Tick(0));
        let mut late = late.into_iter();
        let mut settle_two = |breaker: &mut Breaker, now| {
            for verdict in [Verdict::Success, FAILURE] {
                let permit = late.next().expect("there are six");
                assert_eq!(settle(breaker, permit, verdict, now), Settled { late: true, transition: None });
            }
        };
        settle_two(&mut breaker, 1);
        assert_eq!((breaker.state_name(), breaker.counts(Tick(1))), (StateName::Open, opened_by));
        breaker.advance(Tick(101));
        settle_two(&mut breaker, 101);
        assert_eq!((breaker.state_name(), breaker.counts(Tick(101))), (StateName::HalfOpen, Counts::default()));
        settle_one(&mut breaker, Verdict::Success, 101);
        settle_two(&mut breaker, 102);
        assert_eq!((breaker.state_name(), breaker.counts(Tick(102))), (StateName::Closed, Counts::default()));
    }
}

#[test]
fn reset_leaves_nothing_armed_of_a_stay_in_half_open() {
    let mut breaker = half_open(Settings { half_open_timeout: Some(Duration::from_millis(50)), ..settings() });
    let _probe = admitted(&mut breaker, 100);
    assert_eq!(breaker.next_deadline(), Some(Tick(110)));
    breaker.reset_to(Automatic::Closed, "ann", "it works", Tick(120), || 0.0);
    assert_eq!((breaker.next_deadline(), breaker.refuses_until()), (None, Tick(0)));
    for now in [149, 150, 151, u64::MAX] {
        assert_eq!(breaker.advance(Tick(now)), None);
    }
    // Nor does the next stay begin with what is left of this one.
    breaker.reset_to(Automatic::HalfOpen, "ann", "again", Tick(140), || 0.0);
    assert_eq!((breaker.next_deadline(), breaker.advance(Tick(189))), (Some(Tick(190)), None));
    assert_eq!(breaker.advance(Tick(190)).map(|transition| transition.cause), Some(Cause::ProbesTooLong));
}

#[test]
fn forced_open_is_not_undone_by_the_end_of_the_stay_it_was_put_over() {
    let mut breaker = half_open(Settings { half_open_timeout: Some(Duration::from_millis(50)), ..round(2, 0.5) });
    let probe = admitted(&mut breaker, 100);
    breaker.lock(lock(LockKind::ForcedOpen, None), Tick(120));
    for now in [149, 150, 151, u64::MAX] {
        assert_eq!((breaker.advance(Tick(now)), breaker.next_deadline(), breaker.give_up(Tick(now))), (None, None, false));
        assert_eq!(refused(&mut breaker, now), Refusal { state: StateName::ForcedOpen, until: None });
    }
    assert!(settle(&mut breaker, probe, FAILURE, 121).late);
}

#[test]
fn half_open_for_too_long_opens_again_though_every_probe_is_lost() {
    for settings in [settings(), round(3, 0.5)] {
        let mut breaker = half_open(Settings { half_open_timeout: Some(Duration::from_millis(25)), ..settings });
        for now in [100, 110, 120] {
            let _lost = admitted(&mut breaker, now);
        }
        assert_eq!(breaker.advance(Tick(124)), None);
        let opened = breaker.advance(Tick(125)).expect("the stay is over");
        assert_eq!((opened.to, opened.cause, breaker.next_deadline()), (StateName::Open, Cause::ProbesTooLong, Some(Tick(225))));
    }
}

/// Shares of calls admitted after a recovery, at one tick each.
fn admitted_shares(breaker: &mut Breaker, ticks: &[u64]) -> Vec<usize> {
    ticks.iter().map(|now| (0..100).filter(|roll| breaker.admit(Tick(*now), || f64::from(*roll) / 100.0).0.is_ok()).count()).collect()
}

#[test]
fn not_all_traffic_comes_at_once_after_closing() {
    for policy in [consecutive(1), count(4, rates(4, 1.0)), time(4, rates(4, 1.0)), adaptive(4, 100.0, 0)] {
        let mut breaker = half_open(Settings { ramp: Duration::from_millis(1_000), ..by(policy) });
        settle_one(&mut breaker, Verdict::Success, 100);
        assert_eq!(breaker.state_name(), StateName::Closed);
        let ticks = [100, 110, 350, 600, 1_090, 1_099, 1_100, 1_101];
        assert_eq!(admitted_shares(&mut breaker, &ticks), [0, 1, 25, 50, 99, 100, 100, 100]);
        // What is over does not begin again with a tick that is behind.
        assert_eq!(admitted_shares(&mut breaker, &[150]), [100]);
        // An operator who closes it means all of it.
        breaker.reset_to(Automatic::Closed, "ann", "it works", Tick(2_000), || 0.0);
        assert_eq!(admitted_shares(&mut breaker, &[2_000]), [100]);
    }
}

/// There is no wall clock here that could jump. A gap in ticks ages seconds and nothing else; a tick that is behind counts for now.
#[test]
fn no_jump_of_time_opens_or_forgets_what_it_should_not() {
    let mut breaker = Breaker::new(by(count(4, rates(4, 1.0))), Tick(0));
    for now in [5_000, 0, u64::MAX] {
        assert_eq!(call(&mut breaker, FAILURE, now).transition, None);
    }
    assert_eq!(breaker.counts(Tick(0)).failures, 3, "calls are not forgotten by time");
    let mut breaker = Breaker::new(by(time(4, rates(4, 1.0))), Tick(0));
    for now in [5_000, 5_000, 1_000] {
        assert_eq!(call(&mut breaker, FAILURE, now).transition, None);
    }
    assert_eq!(breaker.counts(Tick(0)).failures, 3);
    assert_eq!(breaker.counts(Tick(8_999)).failures, 3);
    assert_eq!(breaker.counts(Tick(9_000)).failures, 0);
    assert_eq!(call(&mut breaker, FAILURE, 50 * 24 * 3_600_000).transition, None, "the others are out of the window");
}

/// What says nothing of a service is not weighed, though good calls have left the window since.
#[test]
fn an_ignored_answer_opens_nothing() {
    let mut breaker = Breaker::new(by(time(2, rates(1, 1.0))), Tick(0));
    call(&mut breaker, Verdict::Success, 0);
    call(&mut breaker, FAILURE, 1_000);
    assert_eq!(call(&mut breaker, Verdict::Ignored, 2_000).transition, None);
    assert_eq!(call(&mut breaker, FAILURE, 2_000).transition.map(|transition| transition.to), Some(StateName::Open));
}
