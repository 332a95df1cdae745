//! A service that comes back under a fleet: every instance lets calls back from the same moment, whenever it has heard of it or was started, so
//! that the fleet's share of calls is the ramp's.

use std::thread::sleep;
use std::time::{Duration, Instant};

use fusebox::edge::embedded::stub::Act;
use http::StatusCode;

use crate::harness::{Event, Instance, World, eventually, until};

const RAMP_MS: i64 = 20_000;

const CONFIG: &str = r#"
[services.rag.fallback]
kind = "default"
body = {}
[services.rag.breaker]
fail_max = 1
recovery_timeout = "300ms"
ramp = "20s"
[[pipeline]]
service = "rag"
body = "{ 'camera': event.camera_id }"
"#;

/// What clocks of processes, and a round trip to Redis, may make of one moment, ms.
const SLACK_MS: i64 = 100;

fn milliseconds(time: &str) -> i64 {
    time.parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{time}: {error}")).as_millisecond()
}

/// Since when a breaker has been closed, unix ms.
fn closed_since(instance: &Instance) -> Option<i64> {
    let breaker = instance.breaker("rag");
    (breaker["state"] == "closed").then(|| milliseconds(breaker["since"].as_str().expect("a time")))
}

#[test]
fn all_instances_let_calls_back_from_the_same_moment() {
    let world = World::new("ramp").partitions(6).config(CONFIG).start();
    let rag = world.stub("rag");
    rag.set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    let mut fleet = vec![world.run(), world.run(), world.run()];
    let mut number = 0;
    let mut publish = |events: usize| {
        let events: Vec<_> = (number..number + events).map(|number| Event::of(&format!("cam-{number}"))).collect();
        number += events.len();
        world.publish(&events);
    };
    publish(30);
    until("all know that it is down", || fleet.iter().all(|one| one.breaker("rag")["state"] != "closed"));
    rag.set(Act::Ok);
    let since = eventually("it is closed everywhere", || {
        publish(1);
        fleet.iter().map(closed_since).collect::<Option<Vec<_>>>()
    });
    // One that was not there when it happened, and whose own time begins later.
    sleep(Duration::from_secs(1));
    fleet.push(world.run());
    let late = eventually("the late one is closed", || closed_since(fleet.last().expect("four")));
    let apart = since.iter().map(|one| (late - one).abs()).max().expect("three");
    assert!(apart <= SLACK_MS, "the late one counts from {apart} ms away: {since:?}, {late}");

    // The middle of the ramp: half of the calls are let through, whoever makes them.
    let now = || fusebox::edge::clock::wall_of(std::time::SystemTime::now()).0;
    let at = |share: i64| {
        let wait = since[0] + RAMP_MS * share / 100 - now();
        assert!(wait > 0, "the machine is too slow for this ramp: {wait} ms");
        sleep(Duration::from_millis(wait.unsigned_abs()));
    };
    at(45);
    let (before, from) = (world.call_count("rag"), Instant::now());
    let mut events = 0;
    while from.elapsed() < Duration::from_millis(1_200) {
        publish(10);
        events += 10;
        sleep(Duration::from_millis(20));
    }
    until("all have ended", || world.is_committed());
    let calls = world.call_count("rag") - before;
    let share = calls * 100 / events;
    assert!((35..=65).contains(&share), "{calls} of {events} events were called for in the middle of the ramp");
    for instance in &mut fleet {
        assert_eq!(instance.stop(), 0, "{}", instance.log());
    }
}
