//! The shared breaker where threads, panics and the gate's edges matter; that it lives as an unshared one does is a property beside.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

use super::super::gate::Gate;
use super::super::slack::SlackWord;
use super::*;

fn shared(settings: Settings) -> SharedBreaker {
    SharedBreaker::new(settings, Tick(0))
}

fn fail(breaker: &SharedBreaker, now: u64) -> Settled {
    let permit = breaker.admit(Tick(now), || 0.0).0.expect("closed");
    breaker.settle(permit, FAILURE, Duration::ZERO, Tick(now), || 0.0)
}

#[test]
fn refusals_name_their_time_by_whichever_way_they_come() {
    let breaker = shared(settings());
    while fail(&breaker, 0).transition.is_none() {}
    for now in [0, 50, 99] {
        assert_eq!(breaker.admit(Tick(now), || 0.0).0, Err(Refusal { state: StateName::Open, until: Some(Tick(100)) }));
    }
    assert!(breaker.admit(Tick(100), || 0.0).0.is_ok(), "the timer needs nobody to fire it");
    assert_eq!(breaker.admit(Tick(101), || 0.0).0, Err(Refusal { state: StateName::HalfOpen, until: Some(Tick(110)) }));
    assert_eq!(breaker.state_name(), StateName::HalfOpen);
}

#[test]
fn no_failure_of_many_threads_is_lost() {
    let fail_max = NonZeroU32::new(u32::MAX).expect("is not zero");
    let breaker = shared(Settings { policy: PolicySettings::Consecutive { fail_max }, ..settings() });
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1_000).for_each(|_| drop(fail(&breaker, 1))));
        }
    });
    assert_eq!(breaker.with(|breaker| breaker.counts(Tick(1)).failures), 4_000);
}

#[test]
fn a_panic_while_it_is_held_is_not_passed_on() {
    let breaker = shared(settings());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        breaker.with(|breaker| {
            breaker.lock(lock(LockKind::ForcedOpen, None), Tick(1));
            resume_unwind(Box::new("half-way"));
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(
        breaker.admit(Tick(2), || 0.0).0,
        Err(Refusal { state: StateName::ForcedOpen, until: None }),
        "the gate shows what was done"
    );
    assert_eq!(breaker.with(|breaker| breaker.state_name()), StateName::ForcedOpen);
    assert!(breaker.with(|breaker| breaker.release("ann", "drill", Tick(3))).is_some());
}

#[test]
fn a_panicking_roll_is_not_passed_on() {
    let breaker = shared(settings());
    fail(&breaker, 0);
    fail(&breaker, 0);
    let permit = breaker.admit(Tick(0), || 0.0).0.expect("closed");
    let settle = || breaker.settle(permit, FAILURE, Duration::ZERO, Tick(0), || resume_unwind(Box::new("no dice")));
    assert!(catch_unwind(AssertUnwindSafe(settle)).is_err());
    assert_eq!(fail(&breaker, 1).transition.map(|transition| transition.to), Some(StateName::Open));
    assert_eq!(breaker.state_name(), StateName::Open);
}

#[test]
fn an_abandoned_probe_frees_its_place_at_the_gate() {
    let breaker = shared(settings());
    breaker.with(|breaker| breaker.reset_to(Automatic::HalfOpen, "ann", "drill", Tick(0), || 0.0));
    let probe = breaker.admit(Tick(0), || 0.0).0.expect("the first probe");
    assert!(breaker.admit(Tick(1), || 0.0).0.is_err());
    breaker.abandon(probe, Tick(0));
    assert!(breaker.admit(Tick(1), || 0.0).0.is_ok());
}

/// What the word has no room for it does not abridge: it says "ask", and the answers stay exact.
#[test]
fn beyond_the_words_room_the_breaker_is_asked() {
    const ROOM: u64 = u64::MAX >> 3;
    for (until, fits) in [(1, true), (ROOM - 1, true), (ROOM, false), (u64::MAX, false)] {
        for (held, state) in [
            (Held::Open { until: Tick(until) }, StateName::Open),
            (Held::Locked(lock(LockKind::ForcedOpen, Some(until))), StateName::ForcedOpen),
        ] {
            let breaker = shared(settings());
            breaker.with(|breaker| breaker.adopt(&snapshot(1, held), Cause::Adopted, Tick(0)));
            assert_eq!(breaker.with(|breaker| Gate::of(breaker)) != Gate::ASK, fits, "{until}");
            assert_eq!(breaker.admit(Tick(0), || 0.0).0, Err(Refusal { state, until: Some(Tick(until)) }));
        }
    }
    for (generation, fits) in [(1, true), ((1 << 48) - 1, true), (1 << 48, false), (u64::MAX, false)] {
        let breaker = shared(settings());
        breaker.with(|breaker| breaker.adopt(&snapshot(generation, Held::Closed), Cause::Restored, Tick(0)));
        assert_eq!(breaker.with(|breaker| Gate::of(breaker)) != Gate::ASK, fits, "{generation}");
        let permit = breaker.admit(Tick(0), || 0.0).0.expect("closed");
        assert_eq!(permit.generation(), Generation(generation));
        assert_eq!(breaker.settle(permit, Verdict::Success, Duration::ZERO, Tick(0), || 0.0), Settled { late: false, transition: None });
    }
}

#[test]
fn lives_of_one_generation_differ_at_the_gate_too() {
    let breaker = shared(settings());
    let mut permits = vec![breaker.admit(Tick(0), || 0.0).0.expect("closed")];
    // Twice as many takeovers as the word can number.
    for round in 0..8_192u32 {
        let held = if round % 2 == 0 { Held::HalfOpen } else { Held::Closed };
        assert!(breaker.with(|breaker| breaker.yield_to(&snapshot(0, held), Tick(0))).is_some());
        if round % 2_048 == 2_047 {
            permits.push(breaker.admit(Tick(0), || 0.0).0.expect("closed"));
        }
    }
    let current = permits.pop().expect("the last one");
    for permit in permits {
        assert!(breaker.settle(permit, Verdict::Success, Duration::ZERO, Tick(0), || 0.0).late);
    }
    assert!(!breaker.settle(current, Verdict::Success, Duration::ZERO, Tick(0), || 0.0).late);
}

/// However many successes come before anybody asks: all of them are counted, the last of an offer too.
#[test]
fn no_success_of_a_whole_offer_is_lost() {
    for policy in [time(1, rates(1, 0.5)), count(1_000_000, rates(1, 0.5))] {
        for successes in [4_094, 4_095, 4_096, 10_000] {
            let breaker = shared(by(policy.clone()));
            for _ in 0..successes {
                let permit = breaker.admit(Tick(0), || 0.0).0.expect("closed");
                breaker.settle(permit, Verdict::Success, Duration::ZERO, Tick(0), || 0.0);
            }
            assert_eq!(breaker.with(|breaker| breaker.counts(Tick(0)).calls), successes, "{policy:?}");
        }
    }
}

/// The second that a word would read as "any" is offered to nobody.
#[test]
fn a_second_beyond_the_words_room_is_not_any_second() {
    const ROOM: u64 = u32::MAX as u64;
    for (second, offered) in [(0, true), (ROOM - 1, true), (ROOM, false), (ROOM + 1, false), (u64::MAX / 1_000, false)] {
        let word = SlackWord::of(Slack::Some { successes: 9, second: Some(second) }, 1);
        assert_eq!(word != SlackWord::NONE, offered, "{second}");
        assert_eq!(word.less_one(Tick(second * 1_000)).is_some(), offered);
        assert_eq!(word.less_one(Tick(5_000)), None, "another second");
        let any = SlackWord::of(Slack::Some { successes: 9, second: None }, 1);
        assert!(any.less_one(Tick(second * 1_000)).is_some(), "a window of calls asks for no second");
    }
}

/// As among loom's few threads, so among real ones with many calls each.
#[test]
fn no_call_of_many_threads_is_lost_by_a_window() {
    const CALLS: u64 = 20_000;
    let breaker = shared(by(count(1_000_000, rates(1, f64::INFINITY))));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for number in 1..=CALLS {
                    let permit = breaker.admit(Tick(1), || 0.0).0.expect("closed");
                    let verdict = if number % 50 == 0 { FAILURE } else { Verdict::Success };
                    breaker.settle(permit, verdict, Duration::ZERO, Tick(1), || 0.0);
                    if number % 7 == 0 {
                        breaker.with(|_| ());
                    }
                }
            });
        }
    });
    let Counts { calls, failures, .. } = breaker.with(|breaker| breaker.counts(Tick(1)));
    assert_eq!((calls, failures), (3 * CALLS, 3 * CALLS / 50));
}

#[test]
fn no_success_of_many_threads_is_counted_in_another_life() {
    for _ in 0..400 {
        let breaker = shared(by(count(1_000, rates(1, f64::INFINITY))));
        let of_last = thread::scope(|scope| {
            let callers = [(); 2].map(|()| {
                scope.spawn(|| {
                    let mut ends = Vec::new();
                    for _ in 0..60 {
                        let permit = breaker.admit(Tick(1), || 0.0).0.expect("closed");
                        ends.push(permit.generation());
                        breaker.settle(permit, Verdict::Success, Duration::ZERO, Tick(1), || 0.0);
                    }
                    ends
                })
            });
            for _ in 0..20 {
                breaker.with(|breaker| breaker.reset_to(Automatic::Closed, "ann", "drill", Tick(1), || 0.0));
            }
            let last = breaker.with(|breaker| breaker.generation());
            callers.into_iter().flat_map(|caller| caller.join().expect("does not panic")).filter(|life| *life == last).count()
        });
        assert_eq!(breaker.with(|breaker| breaker.counts(Tick(1)).calls), of_last as u64);
    }
}
