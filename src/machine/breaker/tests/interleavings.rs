//! The shared breaker under every interleaving of a few threads, and every old value that a relaxed load may find, by loom.

use ::loom::model;
use ::loom::sync::Arc;
use ::loom::sync::atomic::{AtomicBool, Ordering};
use ::loom::thread;

use super::with_loom::SharedBreaker as Shared;
use super::*;

fn breaker(fail_max: u32) -> Arc<Shared> {
    let fail_max = NonZeroU32::new(fail_max).expect("is not zero");
    Arc::new(Shared::new(Settings { policy: PolicySettings::Consecutive { fail_max }, ..settings() }, Tick(0)))
}

fn admit(breaker: &Shared, now: u64) -> Option<Permit> {
    breaker.admit(Tick(now), || 0.0).0.ok()
}

fn end(breaker: &Shared, permit: Permit, verdict: Verdict, now: u64) -> Settled {
    breaker.settle(permit, verdict, Duration::ZERO, Tick(now), || 0.0)
}

fn fail(breaker: &Shared) -> Settled {
    let permit = admit(breaker, 0).expect("closed");
    end(breaker, permit, FAILURE, 0)
}

fn streak(breaker: &Shared) -> u64 {
    breaker.with(|breaker| breaker.counts(Tick(0)).consecutive_failures)
}

/// What the gate says at last is what the breaker is.
fn agrees(breaker: &Shared) {
    assert_eq!(breaker.state_name(), breaker.with(|breaker| breaker.state_name()));
}

#[test]
fn no_failure_is_lost_and_one_trips() {
    model(|| {
        let breaker = breaker(2);
        let other = thread::spawn({
            let breaker = Arc::clone(&breaker);
            move || fail(&breaker).transition.is_some()
        });
        let here = fail(&breaker).transition.is_some();
        assert!(here != other.join().expect("does not panic"), "two failures of two are one trip");
        assert_eq!(breaker.state_name(), StateName::Open);
        assert!(admit(&breaker, 1).is_none());
        agrees(&breaker);
    });
}

/// Of a failure and a success at the same time either may be the later one; of two that come one after the other it is known.
#[test]
fn a_success_after_a_failure_that_it_knows_of_ends_the_streak() {
    model(|| {
        let breaker = breaker(5);
        let failed = Arc::new(AtomicBool::new(false));
        let other = thread::spawn({
            let (breaker, failed) = (Arc::clone(&breaker), Arc::clone(&failed));
            move || {
                fail(&breaker);
                failed.store(true, Ordering::Release);
            }
        });
        let permit = admit(&breaker, 0).expect("closed");
        let knew = failed.load(Ordering::Acquire);
        end(&breaker, permit, Verdict::Success, 0);
        other.join().expect("does not panic");
        assert!(streak(&breaker) <= 1);
        assert!(!knew || streak(&breaker) == 0, "the gate took a success that was owed a streak's end");
    });
}

#[test]
fn an_answer_of_an_older_life_neither_ends_nor_begins_a_streak() {
    for verdict in [Verdict::Success, FAILURE] {
        model(move || {
            let breaker = breaker(3);
            let old = admit(&breaker, 0).expect("closed");
            let other = thread::spawn({
                let breaker = Arc::clone(&breaker);
                move || {
                    breaker.with(|breaker| breaker.reset_to(Automatic::Closed, "ann", "drill", Tick(0), || 0.0));
                    fail(&breaker);
                }
            });
            let settled = end(&breaker, old, verdict, 0);
            other.join().expect("does not panic");
            assert_eq!(settled.transition, None);
            assert_eq!(streak(&breaker), 1, "the new life's failure, and nothing of the old life's {verdict:?}");
        });
    }
}

/// A call admitted by a gate that is out of date is of a life that is over: its failure opens nothing a second time.
#[test]
fn an_admission_of_an_older_life_does_not_decide() {
    model(|| {
        let breaker = breaker(1);
        let call = |breaker: &Shared| admit(breaker, 0).is_some_and(|permit| end(breaker, permit, FAILURE, 0).transition.is_some());
        let other = thread::spawn({
            let breaker = Arc::clone(&breaker);
            move || call(&breaker)
        });
        let here = call(&breaker);
        assert!(here != other.join().expect("does not panic"), "one trip, whoever's");
        assert_eq!(breaker.with(|breaker| breaker.generation()), Generation(1));
        agrees(&breaker);
    });
}

#[test]
fn one_permit_is_one_probe() {
    model(|| {
        let breaker = breaker(1);
        fail(&breaker);
        let other = thread::spawn({
            let breaker = Arc::clone(&breaker);
            move || admit(&breaker, 100)
        });
        let here = admit(&breaker, 100);
        let there = other.join().expect("does not panic");
        let probe = match (here, there) {
            (Some(probe), None) | (None, Some(probe)) => probe,
            both => panic!("one of two calls is the probe, not {both:?}"),
        };
        assert!(end(&breaker, probe, Verdict::Success, 101).transition.is_some());
        assert!(admit(&breaker, 101).is_some(), "closed, and the gate knows");
        agrees(&breaker);
    });
}

/// Who hears of an operator's word (here by the join) finds it at the gate.
#[test]
fn a_lock_holds_from_when_it_is_known() {
    model(|| {
        let breaker = breaker(3);
        let other = thread::spawn({
            let breaker = Arc::clone(&breaker);
            move || drop(breaker.with(|breaker| breaker.lock(lock(LockKind::ForcedOpen, None), Tick(0))))
        });
        if let Some(permit) = admit(&breaker, 0) {
            let settled = end(&breaker, permit, Verdict::Success, 0);
            assert_eq!(settled.transition, None);
        }
        other.join().expect("does not panic");
        assert!(admit(&breaker, 0).is_none());
        agrees(&breaker);
    });
}

#[test]
fn a_probe_given_back_makes_room() {
    model(|| {
        let breaker = breaker(1);
        fail(&breaker);
        let probe = admit(&breaker, 100).expect("the first probe");
        let other = thread::spawn({
            let breaker = Arc::clone(&breaker);
            move || breaker.abandon(probe, Tick(0))
        });
        let early = admit(&breaker, 101);
        other.join().expect("does not panic");
        assert!(early.is_some() || admit(&breaker, 101).is_some());
        assert_eq!(breaker.with(|breaker| breaker.probes_in_flight(Tick(101))), 1);
        agrees(&breaker);
    });
}
