//! The slack under every interleaving of a few threads, by loom: successes that a window counts are neither lost, nor counted twice, nor
//! counted in another life or second.

use ::loom::model;
use ::loom::sync::Arc;
use ::loom::thread;

use super::with_loom::SharedBreaker as Shared;
use super::*;

fn shared(policy: PolicySettings) -> Arc<Shared> {
    Arc::new(Shared::new(by(policy), Tick(0)))
}

fn end(breaker: &Shared, permit: Permit, verdict: Verdict, now: u64) -> Settled {
    breaker.settle(permit, verdict, Duration::ZERO, Tick(now), || 0.0)
}

/// A call from its beginning to its end; `None` if it was refused.
fn one(breaker: &Shared, verdict: Verdict, now: u64) -> Option<Settled> {
    let permit = breaker.admit(Tick(now), || 0.0).0.ok()?;
    Some(end(breaker, permit, verdict, now))
}

fn beside(breaker: &Arc<Shared>, f: impl FnOnce(&Shared) + 'static) -> thread::JoinHandle<()> {
    let breaker = Arc::clone(breaker);
    thread::spawn(move || f(&breaker))
}

fn counts(breaker: &Shared, now: u64) -> Counts {
    breaker.with(|breaker| breaker.counts(Tick(now)))
}

#[test]
fn no_success_is_lost_or_counted_twice_beside_a_failure() {
    model(|| {
        let breaker = shared(count(10, rates(10, 0.5)));
        let other = beside(&breaker, |breaker| drop(one(breaker, FAILURE, 0)));
        for _ in 0..2 {
            one(&breaker, Verdict::Success, 0);
        }
        other.join().expect("does not panic");
        let Counts { calls, failures, .. } = counts(&breaker, 0);
        assert_eq!((calls, failures), (3, 1));
    });
}

#[test]
fn no_success_is_lost_or_counted_twice_beside_one_who_holds_it() {
    model(|| {
        let breaker = shared(count(10, rates(10, 0.5)));
        let other = beside(&breaker, |breaker| {
            one(breaker, Verdict::Success, 0);
            assert!(counts(breaker, 0).calls >= 1);
        });
        one(&breaker, Verdict::Success, 0);
        other.join().expect("does not panic");
        assert_eq!(counts(&breaker, 0).calls, 2);
        assert_eq!(counts(&breaker, 0).calls, 2, "asking takes nothing away");
    });
}

/// The last of the slack, that two want: one gets it, the other one's success is told.
#[test]
fn no_more_is_taken_than_was_offered() {
    model(|| {
        let breaker = shared(count(10, rates(3, 0.5)));
        one(&breaker, FAILURE, 0);
        let offered = breaker.with(|breaker| breaker.slack());
        assert_eq!(offered, Slack::Some { successes: 1, second: None }, "with the second it is known whether the failure is too many");
        let other = beside(&breaker, |breaker| drop(one(breaker, Verdict::Success, 0)));
        one(&breaker, Verdict::Success, 0);
        other.join().expect("does not panic");
        assert_eq!(counts(&breaker, 0), Counts { calls: 3, failures: 1, slow: 0, consecutive_failures: 0 });
    });
}

#[test]
fn a_success_of_an_old_life_is_never_counted_in_a_new_one() {
    model(|| {
        let breaker = shared(count(10, rates(10, 0.5)));
        let old = breaker.admit(Tick(0), || 0.0).0.expect("closed");
        let other = beside(&breaker, |breaker| {
            breaker.with(|breaker| breaker.reset_to(Automatic::Closed, "ann", "drill", Tick(0), || 0.0));
            one(breaker, Verdict::Success, 0).expect("closed");
        });
        end(&breaker, old, Verdict::Success, 0);
        other.join().expect("does not panic");
        assert_eq!(counts(&breaker, 0).calls, 1, "the new life's success, and none of the old one");
    });
}

/// The same where the life ends twice while a thread looks at one word and another.
#[test]
fn nor_in_the_one_after_it() {
    model(|| {
        let breaker = shared(count(10, rates(10, 0.5)));
        let old = breaker.admit(Tick(0), || 0.0).0.expect("closed");
        let other = beside(&breaker, |breaker| {
            for state in [Automatic::Open, Automatic::Closed] {
                breaker.with(|breaker| breaker.reset_to(state, "ann", "drill", Tick(0), || 0.0));
            }
        });
        end(&breaker, old, Verdict::Success, 0);
        other.join().expect("does not panic");
        assert_eq!(counts(&breaker, 0), Counts::default());
    });
}

#[test]
fn a_success_of_another_second_is_not_taken() {
    model(|| {
        let breaker = shared(time(2, rates(10, 0.5)));
        let other = beside(&breaker, |breaker| drop(one(breaker, Verdict::Success, 0)));
        one(&breaker, Verdict::Success, 1_000);
        other.join().expect("does not panic");
        assert_eq!(counts(&breaker, 1_000).calls, 2);
        assert!(counts(&breaker, 2_000).calls >= 1, "what ended in second 1 is in the window of 1 and 2");
    });
}

#[test]
fn of_two_failures_and_a_success_one_trips_in_whatever_order() {
    model(|| {
        let breaker = shared(count(4, rates(2, 0.5)));
        let trips = |settled: Option<Settled>| usize::from(settled.is_some_and(|settled| settled.transition.is_some()));
        let other = {
            let breaker = Arc::clone(&breaker);
            thread::spawn(move || trips(one(&breaker, FAILURE, 0)) + trips(one(&breaker, Verdict::Success, 0)))
        };
        let here = trips(one(&breaker, FAILURE, 0));
        assert_eq!(here + other.join().expect("does not panic"), 1);
        assert_eq!(breaker.with(|breaker| (breaker.state_name(), breaker.generation())), (StateName::Open, Generation(1)));
        assert_eq!(breaker.state_name(), StateName::Open);
    });
}

/// What is slow changes at run time: a success that was quick by the old settings is either counted before, or weighed by the new ones.
#[test]
fn what_is_quick_goes_with_the_slack() {
    model(|| {
        let breaker = shared(count(10, rates(10, 0.5)));
        let stricter = by(count(10, Rates { slow_call_duration: Duration::ZERO, ..rates(10, 0.5) }));
        let other = beside(&breaker, move |breaker| drop(breaker.with(|breaker| breaker.retune(stricter, Tick(0), || 0.0))));
        let permit = breaker.admit(Tick(0), || 0.0).0.expect("closed");
        breaker.settle(permit, Verdict::Success, Duration::from_millis(1), Tick(0), || 0.0);
        other.join().expect("does not panic");
        let permit = breaker.admit(Tick(0), || 0.0).0.expect("closed");
        breaker.settle(permit, Verdict::Success, Duration::from_millis(1), Tick(0), || 0.0);
        let Counts { calls, slow, .. } = counts(&breaker, 0);
        assert_eq!(calls, 2);
        assert!((1..=2).contains(&slow), "the one after the change is slow");
    });
}
