//! Leases of the fleet: one is needed, used once, before its time is over; and what is done without them.

use super::*;

/// Half-open at 100 by the timer, with two places.
fn half_open(shared: bool) -> Breaker {
    let mut breaker = Breaker::new(Settings { permits: 2, success_threshold: 2, ..settings() }, Tick(0));
    breaker.share_probes(shared, Tick(0));
    trip(&mut breaker, 0);
    assert!(breaker.advance(Tick(100)).is_some());
    breaker
}

fn grant(breaker: &mut Breaker, id: u64, use_by: u64, now: u64) -> bool {
    let generation = breaker.generation();
    breaker.grant(generation, Lease { id, use_by: Tick(use_by) }, Tick(now))
}

const PATIENCE_MS: u64 = 2_000;

#[test]
fn who_goes_when() {
    enum Do {
        Grant(u64, u64),
        Revoke(u64),
        Keep,
        Forgo,
        Unshare,
        Share,
    }
    use Do::*;
    for (name, shared, done, at, probes) in [
        ("not shared: by its places", false, &[][..], 100, 2),
        ("shared: by leases alone", true, &[], 100, 0),
        ("one lease, one probe", true, &[Grant(1, 1_100)], 100, 1),
        ("two leases", true, &[Grant(1, 1_100), Grant(2, 1_100)], 100, 2),
        ("more leases than places", true, &[Grant(1, 1_100), Grant(2, 1_100), Grant(3, 1_100)], 100, 2),
        ("to the last tick", true, &[Grant(1, 1_100)], 1_099, 1),
        ("and not after", true, &[Grant(1, 1_100)], 1_100, 0),
        ("renewed", true, &[Grant(1, 1_100), Grant(1, 1_500)], 1_499, 1),
        ("never to an earlier end", true, &[Grant(1, 1_500), Grant(1, 1_100)], 1_499, 1),
        ("revoked", true, &[Grant(1, 1_100), Revoke(1)], 100, 0),
        ("another one revoked", true, &[Grant(1, 1_100), Revoke(2)], 100, 1),
        ("patient", true, &[], 100 + PATIENCE_MS - 1, 0),
        ("out of patience", true, &[], 100 + PATIENCE_MS, 2),
        ("told at 100 that there is none", true, &[Keep], 100 + PATIENCE_MS - 1, 0),
        ("the store failed", true, &[Forgo], 100, 2),
        ("the store failed, and answers again", true, &[Forgo, Keep], 100, 0),
        ("the store is away", true, &[Unshare], 100, 2),
        ("the store came", false, &[Share], 100, 0),
    ] {
        let mut breaker = half_open(shared);
        let generation = breaker.generation();
        for step in done {
            match step {
                Grant(id, use_by) => assert!(grant(&mut breaker, *id, *use_by, 100)),
                Revoke(id) => drop(breaker.revoke(*id)),
                Keep => breaker.keep_to_leases(generation, Tick(100)),
                Forgo => assert!(breaker.do_without_leases()),
                Unshare => breaker.share_probes(false, Tick(100)),
                Share => breaker.share_probes(true, Tick(100)),
            }
        }
        let refuses_until = breaker.refuses_until();
        let mut went = 0;
        while let (Ok(permit), _) = breaker.admit(Tick(at), || 0.0) {
            assert!(permit.is_probe() && Tick(at) >= refuses_until, "{name}: a gate stood before an open door");
            went += 1;
        }
        assert_eq!(went, probes, "{name}");
    }
}

#[test]
fn a_lease_is_used_once_and_known_until_its_probe_is_back() {
    let mut breaker = half_open(true);
    grant(&mut breaker, 7, 1_100, 100);
    let permit = admitted(&mut breaker, 100);
    assert_eq!(refused(&mut breaker, 100).until, Some(Tick(100 + PATIENCE_MS)));
    assert_eq!(breaker.tenure(Tick(100)).used, [7]);
    grant(&mut breaker, 7, 1_200, 100);
    assert!(breaker.tenure(Tick(100)).unused.is_empty(), "granted again while it is in use it is no second one");
    settle(&mut breaker, permit, Verdict::Success, 105);
    assert!(!breaker.tenure(Tick(105)).has(7));
    refused(&mut breaker, 105);
}

#[test]
fn the_one_that_ends_first_goes_first() {
    let mut breaker = half_open(true);
    for (id, use_by) in [(1, 1_300), (2, 1_100), (3, 1_200)] {
        grant(&mut breaker, id, use_by, 100);
    }
    let _permit = admitted(&mut breaker, 100);
    assert_eq!(breaker.tenure(Tick(100)).used, [2]);
}

#[test]
fn another_life_has_no_use_for_it_but_its_call_is_still_out() {
    let mut breaker = half_open(true);
    let before = breaker.generation();
    grant(&mut breaker, 1, 1_100, 100);
    grant(&mut breaker, 2, 1_100, 100);
    let permit = admitted(&mut breaker, 100);
    breaker.reset_to(Automatic::HalfOpen, "ann", "drill", Tick(101), || 0.0);
    assert!(!breaker.grant(before, Lease { id: 3, use_by: Tick(1_100) }, Tick(101)));
    let tenure = breaker.tenure(Tick(101));
    assert_eq!((tenure.unused.len(), &tenure.used[..]), (0, &[1][..]));
    assert!(settle(&mut breaker, permit, FAILURE, 102).late);
    assert!(breaker.tenure(Tick(102)).used.is_empty());
}

#[test]
fn one_that_is_lost_is_forgotten_once_the_store_has_ended_it() {
    let mut breaker = half_open(true);
    grant(&mut breaker, 1, 1_100, 100);
    let _lost = admitted(&mut breaker, 100);
    assert!(breaker.give_up(Tick(110)), "its place is free");
    assert!(breaker.tenure(Tick(1_109)).has(1));
    assert!(!breaker.tenure(Tick(1_110)).has(1));
}

#[test]
fn falling_back_is_a_change_once() {
    let mut breaker = half_open(true);
    assert_eq!(breaker.next_deadline(), Some(Tick(100 + PATIENCE_MS)));
    assert!(!breaker.give_up(Tick(100 + PATIENCE_MS - 1)));
    assert!(breaker.give_up(Tick(100 + PATIENCE_MS)));
    assert!(!breaker.give_up(Tick(100 + PATIENCE_MS)));
    assert_eq!(breaker.next_deadline(), None);
    assert_eq!(breaker.refuses_until(), Tick(0));
}

#[test]
fn a_closed_breaker_needs_none() {
    let mut breaker = Breaker::new(settings(), Tick(0));
    breaker.share_probes(true, Tick(0));
    assert_eq!(breaker.tenure(Tick(0)), Tenure::default());
    assert!(!admitted(&mut breaker, 0).is_probe());
}
