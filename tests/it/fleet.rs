//! A fleet as it is run, several processes and one Redis: how soon the others know, and how few probes many of them send.

use std::thread;
use std::time::{Duration, Instant};

use fusebox::edge::embedded::stub::Act;
use http::StatusCode;
use serde_json::json;

use crate::harness::{DEADLINE, Event, Instance, World, until};
use crate::probes::{CONFIG, together};

/// Changes of state that are watched.
const TRANSITIONS: usize = 100;

/// Within this the others know, at the median of a busy machine; on a quiet one 99 of a hundred do (docs/performance.md).
const SOON: Duration = Duration::from_millis(100);

/// How long after `began` an instance shows this state to who asks all the time.
fn shown_after(instance: &Instance, state: &str, began: Instant) -> Duration {
    while instance.breaker("rag")["state"] != state {
        assert!(began.elapsed() < DEADLINE, "it never knew");
    }
    began.elapsed()
}

/// From before one instance is asked for a change until another one's answer shows it; polls are too rare to tell of it.
#[test]
fn a_change_on_one_instance_is_known_to_the_others_at_once() {
    let world = World::new("fleet").config("[redis]\npoll_interval = \"1m\"").start();
    let fleet = [(); 3].map(|()| world.run());
    let mut all = Vec::new();
    for number in 0..TRANSITIONS {
        let (ask, expect) = if number % 2 == 0 { ("forced_open", "forced_open") } else { ("auto", "half_open") };
        let began = Instant::now();
        thread::scope(|scope| {
            let others = [&fleet[1], &fleet[2]].map(|other| scope.spawn(move || shown_after(other, expect, began)));
            assert_eq!(fleet[0].force("rag", &json!({ "state": ask })).status, 200);
            all.extend(others.map(|other| other.join().expect("known")));
        });
    }
    all.sort_unstable();
    let (median, late) = (all[all.len() / 2], all[all.len() * 99 / 100]);
    println!("known to the others after {median:?} at p50, {late:?} at p99, {:?} at most, of {}", all[all.len() - 1], all.len());
    assert!(median <= SOON, "half of all later than {median:?}");
}

/// Trips that are watched.
const TRIPS: usize = 40;

/// From a failed answer's leaving the service until each of three instances shows that the breaker is open: the one that asked, and the others.
#[test]
fn a_trip_by_a_failed_call_is_known_to_all_at_once() {
    let config = "[redis]\npoll_interval = \"1m\"\n[services.rag.breaker]\nfail_max = 1\nrecovery_timeout = \"1h\"";
    let world = World::new("fleet-trips").config(config).start();
    let fleet = [(); 3].map(|()| world.run());
    let rag = world.stub("rag");
    rag.set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    let mut all = Vec::new();
    for number in 0..TRIPS {
        let known: Vec<i64> = thread::scope(|scope| {
            let watching = fleet.each_ref().map(|one| {
                scope.spawn(move || {
                    shown_after(one, "open", Instant::now());
                    wall_ms()
                })
            });
            // Over all partitions, so that each instance trips it now and then.
            world.publish(&[Event::of(&format!("cam-{number}"))]);
            watching.map(|one| one.join().expect("known")).to_vec()
        });
        let calls = world.calls("rag");
        let [.., failed] = calls.as_slice() else { panic!("nobody was asked") };
        assert_eq!(calls.len(), number + 1, "one call for each trip");
        let failed = failed.ended_at.expect("answered").0;
        all.extend(known.iter().map(|known| known - failed));
        assert_eq!(fleet[number % 3].force("rag", &json!({ "state": "closed" })).status, 200);
        until("all know that it is closed", || fleet.iter().all(|one| one.breaker("rag")["state"] == "closed"));
    }
    all.sort_unstable();
    let (median, late) = (all[all.len() / 2], all[all.len() * 99 / 100]);
    println!("known to all after {median} ms at p50, {late} ms at p99, {} ms at most, of {}", all[all.len() - 1], all.len());
    assert!(u128::try_from(median).is_ok_and(|median| median <= SOON.as_millis()), "half of all later than {median} ms");
}

fn wall_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("a time")
}

const INSTANCES: usize = 20;

/// As little as an instance can be.
const SMALL: &str = r#"
[processing]
max_in_flight = 100
max_in_flight_bytes = "4MiB"
concurrency = 8
"#;

#[test]
fn of_twenty_instances_one_probe_is_at_a_service_that_hangs() {
    let world = World::new("fleet-probes").partitions(20).config(CONFIG).config(SMALL).start();
    let notifier = world.stub("notifier");
    notifier.set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    let fleet: Vec<Instance> = thread::scope(|scope| {
        let starting: Vec<_> = (0..INSTANCES).map(|_| scope.spawn(|| world.spawn(&[]))).collect();
        starting.into_iter().map(|instance| instance.join().expect("started")).collect()
    });
    until("every instance has its share", || fleet.iter().all(|one| one.part("events").0 == "ok" && one.part("retries").0 == "ok"));
    world.publish(&(0..200).map(|number| Event::of(&format!("cam-{number}")).notifying()).collect::<Vec<_>>());
    world.outcomes(200);
    until("all know that it is down", || fleet.iter().all(|one| one.breaker("notifier")["state"] != "closed"));
    notifier.set(Act::Hang);
    until("no call of before is under way", || {
        world.calls("notifier").iter().filter(|call| call.ended.is_none()).all(|call| call.behaviour == "hang")
    });
    let before = world.calls("notifier").iter().filter(|call| call.behaviour != "hang").count();
    until("six probes", || world.call_count("notifier") >= before + 6);
    let calls = world.calls("notifier");
    let overlapping = together(&calls, before);
    assert!(overlapping.is_empty(), "{} of {} probes: {overlapping:?}", overlapping.len(), calls.len() - before);
}
