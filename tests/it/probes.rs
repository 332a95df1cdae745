//! A fleet's probes: while half-open no more calls are at the service than `permits` says, however many instances there are, and whatever
//! becomes of them.

use fusebox::edge::embedded::stub::{Act, Ended, Entry};
use http::StatusCode;

use crate::harness::{Event, Instance, World, eventually, until};

/// What a call may take, and what its lease lasts from its start on, ms.
const TIMEOUT_MS: i64 = 1_000;
const LEASE_MS: i64 = TIMEOUT_MS + 1_000;

/// What two processes' clocks may differ by, rounding included, ms.
const SLACK_MS: i64 = 25;

pub const CONFIG: &str = r#"
[services.notifier]
timeout = "1s"
[services.notifier.breaker]
fail_max = 1
recovery_timeout = "300ms"
[services.notifier.retry]
max_attempts = 1000
"#;

/// Three instances, all of which know that the notifier is down, and have parked calls of it; and how many calls it had seen by then.
fn fleet(world: &World) -> ([Instance; 3], usize) {
    let notifier = world.stub("notifier");
    notifier.set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    let fleet = [(); 3].map(|()| world.run());
    // Each has a partition of the events and one of the parked calls.
    until("every instance has its share", || {
        fleet.iter().all(|one| one.part("events").0 == "ok" && one.part("retries").0 == "ok")
            && world.topics().iter().all(|topic| world.partitions_of(topic) > 0)
    });
    world.publish(&(0..60).map(|number| Event::of(&format!("cam-{number}")).notifying()).collect::<Vec<_>>());
    world.outcomes(60);
    until("all know that it is down", || fleet.iter().all(|one| one.breaker("notifier")["state"] != "closed"));
    notifier.set(Act::Hang);
    until("no call of before is under way", || {
        let calls = world.calls("notifier");
        calls.iter().filter(|call| call.ended.is_none()).all(|call| call.behaviour == "hang")
    });
    let before = world.calls("notifier").iter().filter(|call| call.behaviour != "hang").count();
    (fleet, before)
}

/// Calls that began while another one was not over, from `first` on.
pub fn together(calls: &[Entry], first: usize) -> Vec<&Entry> {
    let probes = &calls[first..];
    probes.windows(2).filter(|pair| pair[0].ended_at.is_none_or(|ended| ended.0 > pair[1].started_at.0)).map(|pair| &pair[1]).collect()
}

fn answered(calls: &[Entry]) -> usize {
    calls.iter().filter(|call| call.ended == Some(Ended::Answered(200))).count()
}

#[test]
fn one_probe_of_all_instances_is_at_a_service_that_hangs() {
    let world = World::new("probes").config(CONFIG).start();
    let (mut fleet, before) = fleet(&world);
    until("eight probes", || world.call_count("notifier") >= before + 8);
    let calls = world.calls("notifier");
    let overlapping = together(&calls, before);
    assert!(overlapping.is_empty(), "{} of {} probes: {overlapping:?}", overlapping.len(), calls.len() - before);

    world.stub("notifier").set(Act::Ok);
    until("everybody is notified", || answered(&world.calls("notifier")) == 60);
    for instance in &mut fleet {
        instance.wait_for_state("notifier", "closed");
        assert_eq!(instance.stop(), 0, "{}", instance.log());
    }
}

#[test]
fn a_probe_whose_process_is_killed_is_followed_at_its_leases_end() {
    let world = World::new("probes-killed").config(CONFIG).start();
    let (mut fleet, before) = fleet(&world);
    // One that is out, in the instance that says so; looked at again, for it may have ended in between.
    let (killed, holder) = eventually("a probe is out", || {
        let out = |calls: &[Entry]| calls.iter().find(|call| call.ended.is_none()).map(|call| call.seq);
        let seq = out(&world.calls("notifier"))?;
        let holder = fleet.iter().position(|one| one.breaker("notifier")["probes_in_flight"] == 1)?;
        (out(&world.calls("notifier")) == Some(seq)).then_some((seq, holder))
    });
    fleet[holder].kill();
    let killed = eventually("its connection is gone", || {
        world.calls("notifier").into_iter().find(|call| call.seq == killed && call.ended.is_some())
    });
    assert_eq!(killed.ended, Some(Ended::ClientGone));
    let killed_in_time = killed.ended_at.is_some_and(|ended| ended.0 - killed.started_at.0 < TIMEOUT_MS);
    let next = eventually("the next probe", || world.calls("notifier").into_iter().find(|call| call.seq > killed.seq));
    if killed_in_time {
        let apart = next.started_at.0 - killed.started_at.0;
        assert!(apart >= LEASE_MS - SLACK_MS, "{apart} ms after one that nobody had given back");
    }
    let overlapping = world.calls("notifier");
    let overlapping = together(&overlapping, before);
    assert!(overlapping.is_empty(), "{overlapping:?}");

    world.stub("notifier").set(Act::Ok);
    until("everybody is notified", || {
        let calls = world.calls("notifier");
        let notified: std::collections::HashSet<_> =
            calls.iter().filter(|call| call.ended == Some(Ended::Answered(200))).map(|call| call.idempotency_key.clone()).collect();
        notified.len() == 60
    });
}
