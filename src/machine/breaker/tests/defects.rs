//! What went wrong in other people's breakers, each under its name.

use super::*;

fn half_open(permits: u32, success_threshold: u32) -> Breaker {
    let mut breaker = Breaker::new(Settings { permits, success_threshold, ..settings() }, Tick(0));
    trip(&mut breaker, 0);
    breaker.advance(Tick(100));
    assert_eq!(breaker.state_name(), StateName::HalfOpen);
    breaker
}

#[test]
fn a_lost_probe_does_not_stick_half_open() {
    let mut breaker = half_open(1, 1);
    let lost = admitted(&mut breaker, 100);
    assert_eq!(refused(&mut breaker, 109), Refusal { state: StateName::HalfOpen, until: Some(Tick(110)) });
    let second = admitted(&mut breaker, 110);
    assert_eq!(breaker.probes_in_flight(Tick(110)), 1);
    let late = settle(&mut breaker, lost, FAILURE, 111);
    assert_eq!(late, Settled { late: true, transition: None }, "what was given up does not decide");
    assert_eq!(settle(&mut breaker, second, Verdict::Success, 112).transition.map(|t| t.to), Some(StateName::Closed));
}

#[test]
fn a_probe_is_late_at_its_leases_end_though_nobody_asked_since() {
    let mut breaker = half_open(1, 1);
    let probe = admitted(&mut breaker, 100);
    assert!(settle(&mut breaker, probe, Verdict::Success, 110).late);
    assert_eq!(breaker.state_name(), StateName::HalfOpen);
}

#[test]
fn a_refused_probe_does_not_refresh_leases() {
    let mut breaker = half_open(1, 1);
    let _lost = admitted(&mut breaker, 100);
    for now in 100..110 {
        assert_eq!(refused(&mut breaker, now).until, Some(Tick(110)));
        assert_eq!(breaker.refuses_until(), Tick(110));
    }
    assert!(breaker.admit(Tick(110), || 0.0).0.is_ok());
}

#[test]
fn a_late_success_from_before_the_trip_does_not_close() {
    let mut breaker = Breaker::new(settings(), Tick(0));
    let (slow, slower) = (admitted(&mut breaker, 0), admitted(&mut breaker, 0));
    trip(&mut breaker, 0);
    assert!(settle(&mut breaker, slow, Verdict::Success, 50).late);
    assert_eq!(breaker.state_name(), StateName::Open);
    breaker.advance(Tick(100));
    assert!(settle(&mut breaker, slower, Verdict::Success, 101).late);
    assert_eq!(breaker.state_name(), StateName::HalfOpen);
}

#[test]
fn a_late_success_does_not_end_a_streak_nor_a_late_failure_begin_one() {
    let mut breaker = Breaker::new(settings(), Tick(0));
    let (success, failure) = (admitted(&mut breaker, 0), admitted(&mut breaker, 0));
    breaker.reset_to(Automatic::Closed, "ann", "drill", Tick(1), || 0.0);
    let permit = admitted(&mut breaker, 1);
    settle(&mut breaker, permit, FAILURE, 1);
    for (permit, verdict) in [(success, Verdict::Success), (failure, FAILURE)] {
        assert!(settle(&mut breaker, permit, verdict, 2).late);
        assert_eq!(breaker.counts(Tick(2)).consecutive_failures, 1);
    }
}

#[test]
fn a_cancelled_probe_neither_decides_nor_leaks_its_permit() {
    let mut breaker = half_open(1, 1);
    for round in 0..5 {
        let probe = admitted(&mut breaker, 100);
        if round % 2 == 0 {
            breaker.abandon(probe, Tick(0));
        } else {
            assert_eq!(settle(&mut breaker, probe, Verdict::Ignored, 100), Settled { late: false, transition: None });
        }
        assert_eq!((breaker.state_name(), breaker.probes_in_flight(Tick(100))), (StateName::HalfOpen, 0));
    }
}

#[test]
fn an_abandoned_probe_of_an_earlier_life_frees_no_place_in_this_one() {
    let mut breaker = half_open(1, 1);
    let old = admitted(&mut breaker, 100);
    breaker.reset_to(Automatic::HalfOpen, "ann", "again", Tick(101), || 0.0);
    let _probe = admitted(&mut breaker, 101);
    breaker.abandon(old, Tick(0));
    assert_eq!(breaker.probes_in_flight(Tick(101)), 1);
}

#[test]
fn reset_leaves_no_timer_armed() {
    let mut breaker = Breaker::new(settings(), Tick(0));
    trip(&mut breaker, 0);
    assert_eq!(breaker.next_deadline(), Some(Tick(100)));
    breaker.reset_to(Automatic::Closed, "ann", "it works", Tick(1), || 0.0);
    assert_eq!((breaker.next_deadline(), breaker.refuses_until()), (None, Tick(0)));
    assert_eq!(breaker.advance(Tick(u64::MAX - 1)), None);
    assert_eq!(breaker.state_name(), StateName::Closed);
}

#[test]
fn forced_open_is_not_undone_by_the_timer_it_was_put_over() {
    let mut breaker = Breaker::new(settings(), Tick(0));
    trip(&mut breaker, 0);
    breaker.lock(lock(LockKind::ForcedOpen, None), Tick(1));
    assert_eq!(breaker.next_deadline(), None);
    for now in [99, 100, 101, u64::MAX - 1] {
        assert_eq!(breaker.advance(Tick(now)), None);
        assert_eq!(refused(&mut breaker, now), Refusal { state: StateName::ForcedOpen, until: None });
    }
}

#[test]
fn forced_open_is_not_undone_by_the_answers_of_calls_under_way() {
    let mut breaker = half_open(1, 1);
    let probe = admitted(&mut breaker, 100);
    breaker.lock(lock(LockKind::ForcedOpen, None), Tick(101));
    assert!(settle(&mut breaker, probe, Verdict::Success, 102).late);
    assert_eq!(breaker.state_name(), StateName::ForcedOpen);
}

/// A breaker that trips and probes in vain for a while, with nobody's order.
fn flapping(breaker: &mut Breaker, rounds: u64) {
    for round in 0..rounds {
        trip(breaker, round * 100);
        let probe = admitted(breaker, (round + 1) * 100);
        settle(breaker, probe, Verdict::Success, (round + 1) * 100);
    }
    trip(breaker, rounds * 100);
}

#[test]
fn a_lock_is_not_undone_by_what_another_instance_did_by_itself_before_it_heard_of_it() {
    for kind in LOCKS {
        for rounds in [0, 1, 1_000] {
            let (mut here, mut there) = (Breaker::new(settings(), Tick(0)), Breaker::new(settings(), Tick(0)));
            here.lock(lock(kind, None), Tick(0));
            flapping(&mut there, rounds);
            let (ours, theirs) = (here.snapshot(), there.snapshot());
            assert_eq!(here.adopt(&theirs, Cause::Adopted, Tick(1)), None);
            assert_eq!(here.yield_to(&theirs, Tick(1)), None);
            assert!(there.adopt(&ours, Cause::Adopted, Tick(1)).is_some());
            assert_eq!(there.snapshot(), ours);
            // Its release is no less heard, whoever gives it.
            there.release("bob", "over", Tick(2));
            assert!(here.adopt(&there.snapshot(), Cause::Adopted, Tick(2)).is_some());
        }
    }
}

#[test]
fn of_a_lock_and_a_reset_at_once_the_lock_stands() {
    let (mut here, mut there) = (Breaker::new(settings(), Tick(0)), Breaker::new(settings(), Tick(0)));
    here.lock(lock(LockKind::ForcedOpen, None), Tick(0));
    there.reset_to(Automatic::Closed, "bob", "it works", Tick(0), || 0.0);
    flapping(&mut there, 9);
    assert_eq!(here.adopt(&there.snapshot(), Cause::Adopted, Tick(1)), None);
    assert!(there.adopt(&here.snapshot(), Cause::Adopted, Tick(1)).is_some());
}

#[test]
fn a_lock_that_nobody_heard_of_stands_above_orders_that_it_had_not_heard_of() {
    let mut breaker = Breaker::new(settings(), Tick(0));
    breaker.lock(lock(LockKind::ForcedOpen, Some(500)), Tick(1));
    let stored = snapshot(700_000_003, Held::Open { until: Tick(60) });
    let again = breaker.stand_by(&stored, Tick(2)).expect("the others must hear of the lock");
    assert_eq!((again.to, again.cause, again.generation), (StateName::ForcedOpen, Cause::Forced, Generation(899_999_999)));
    assert_eq!((again.actor.as_deref(), again.reason.as_deref()), (Some("ann"), Some("drill")));
    assert_eq!(breaker.snapshot().held, Held::Locked(lock(LockKind::ForcedOpen, Some(500))));
}

#[test]
fn a_lost_probes_lease_is_a_deadline() {
    let mut breaker = half_open(2, 2);
    assert_eq!((breaker.next_deadline(), breaker.give_up(Tick(u64::MAX - 1))), (None, false));
    let _lost = [admitted(&mut breaker, 100), admitted(&mut breaker, 105)];
    assert_eq!((breaker.next_deadline(), breaker.give_up(Tick(109))), (Some(Tick(110)), false));
    assert_eq!((breaker.give_up(Tick(110)), breaker.next_deadline()), (true, Some(Tick(115))));
    assert_eq!((breaker.give_up(Tick(115)), breaker.next_deadline()), (true, None));
}

#[test]
fn of_two_locks_of_one_moment_the_one_stored_first_stays() {
    let mut breaker = Breaker::new(settings(), Tick(0));
    breaker.lock(lock(LockKind::ForcedOpen, Some(60)), Tick(1));
    let generation = breaker.generation().0;
    let first = Lock { actor: "bob".to_owned(), ..lock(LockKind::ForcedOpen, None) };
    assert!(breaker.yield_to(&snapshot(generation, Held::Locked(first.clone())), Tick(2)).is_some());
    assert_eq!(breaker.snapshot().held, Held::Locked(first.clone()), "or this instance's expiry would undo the other's lock everywhere");
    assert_eq!(breaker.yield_to(&snapshot(generation, Held::Locked(first)), Tick(3)), None, "once is enough");
}

#[test]
fn a_probe_from_before_a_takeover_within_its_generation_is_late() {
    let mut breaker = half_open(1, 1);
    let generation = breaker.generation();
    let probe = admitted(&mut breaker, 100);
    breaker.yield_to(&snapshot(generation.0, Held::Closed), Tick(101));
    assert_eq!((breaker.state_name(), breaker.generation()), (StateName::Closed, generation));
    assert!(settle(&mut breaker, probe, FAILURE, 102).late);
    assert_eq!(breaker.counts(Tick(102)), Counts::default());
}

#[test]
fn without_permits_it_still_probes() {
    let mut breaker = half_open(0, 0);
    let probe = admitted(&mut breaker, 100);
    assert!(breaker.admit(Tick(100), || 0.0).0.is_err());
    assert_eq!(settle(&mut breaker, probe, Verdict::Success, 100).transition.map(|t| t.to), Some(StateName::Closed));
}

#[test]
fn without_a_lease_probes_are_still_counted_and_still_close() {
    let mut breaker = Breaker::new(Settings { lease: Duration::ZERO, ..settings() }, Tick(0));
    trip(&mut breaker, 0);
    let probe = admitted(&mut breaker, 100);
    assert!(breaker.admit(Tick(100), || 0.0).0.is_err(), "one permit is one probe");
    assert!(settle(&mut breaker, probe, Verdict::Success, 100).transition.is_some());
}

#[test]
fn at_the_end_of_generations_late_is_still_late() {
    let mut breaker = Breaker::new(settings(), Tick(0));
    breaker.adopt(&snapshot(u64::MAX, Held::Closed), Cause::Restored, Tick(0));
    let old = admitted(&mut breaker, 0);
    trip(&mut breaker, 0);
    breaker.reset_to(Automatic::Closed, "ann", "drill", Tick(1), || 0.0);
    assert_eq!(old.generation(), breaker.generation(), "the store's nonsense has used the numbers up");
    assert!(settle(&mut breaker, old, FAILURE, 2).late);
}

#[test]
fn a_panicking_roll_leaves_a_breaker_that_can_trip() {
    let mut breaker = Breaker::new(settings(), Tick(0));
    for _ in 0..2 {
        let permit = admitted(&mut breaker, 0);
        settle(&mut breaker, permit, FAILURE, 0);
    }
    let permit = admitted(&mut breaker, 0);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        breaker.settle(permit, FAILURE, Duration::ZERO, Tick(0), || std::panic::resume_unwind(Box::new("no dice")))
    }));
    assert!(panicked.is_err());
    assert_eq!(breaker.state_name(), StateName::Closed);
    trip(&mut breaker, 1);
    assert_eq!(breaker.state_name(), StateName::Open);
}

/// Ticks are the only time there is. One that is behind another's (read before it, used after) refuses or admits by the
/// state as it is, and undoes nothing.
#[test]
fn a_tick_that_is_behind_undoes_nothing() {
    let mut breaker = half_open(1, 1);
    let probe = admitted(&mut breaker, 100);
    assert!(breaker.admit(Tick(3), || 0.0).0.is_err());
    assert_eq!(breaker.advance(Tick(3)), None);
    assert!(settle(&mut breaker, probe, Verdict::Success, 3).transition.is_some());
}
