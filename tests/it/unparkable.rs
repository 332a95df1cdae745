//! The retry topic takes nothing, or is not there, while calls are to be parked: their events stay unfinished until it is back, and nothing is lost
//! or done again.

use std::collections::BTreeMap;
use std::time::Duration;

use fusebox::edge::embedded::stub::{Act, Ended};
use fusebox::event::Offset;
use fusebox::machine::progress::Progress;
use http::StatusCode;

use crate::harness::{Event, Instance, World, until, within};

const EVENTS: usize = 30;

const CONFIG: &str =
    "[services.notifier.breaker]\nfail_max = 1\nrecovery_timeout = \"500ms\"\n[services.notifier.retry]\nmax_attempts = 10000";

/// What the group says has finished.
fn finished(world: &World, (partition, offset): (i32, i64)) -> bool {
    let committed = &world.committed()[&partition];
    let next = committed.offset.unwrap_or(0);
    let beside = Progress::decode(Offset(next), &committed.metadata).unwrap_or_default();
    offset < next || beside.has_finished(Offset(offset))
}

/// Publishes events whose notification cannot be parked, and one of each partition that notifies nobody: when these have finished, whatever could
/// finish has. None of the others may.
fn publish(world: &World, instance: &Instance) -> Vec<Event> {
    let events: Vec<Event> = (0..EVENTS).map(|number| Event::of(&format!("cam-{number}")).notifying()).collect();
    let places = world.publish(&events);
    until("all but the parking is done", || world.call_count("vms") == EVENTS);
    let others: Vec<Event> = (0..3)
        .map(|partition| {
            let mut other = Event::of(&format!("quiet-{partition}"));
            other.partition = Some(partition);
            other
        })
        .collect();
    let quiet = world.publish(&others);
    until("what need not be parked has finished", || quiet.iter().all(|place| finished(world, *place)));
    for place in places {
        assert!(!finished(world, place), "{place:?} has finished, and its call is not parked: {}", instance.log());
    }
    events
}

/// Everything goes on: the calls are parked, then delivered, once each, and no other service was asked again.
fn goes_on(world: &World, instance: &mut Instance, events: &[Event]) {
    world.wait_for(&world.outcomes, EVENTS + 3);
    until("their calls are parked", || world.count(&world.retries) >= EVENTS);
    world.stub("notifier").set(Act::Ok);
    until("they are delivered", || world.stub("notifier").counts().answered.get(&200) == Some(&(EVENTS as u64)));
    world.wait_for_commits();
    assert_eq!(instance.stop(), 0, "{}", instance.log());
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for call in world.calls("notifier").iter().filter(|call| call.ended == Some(Ended::Answered(200))) {
        *times.entry(call.idempotency_key.clone().expect("a key")).or_default() += 1;
    }
    assert_eq!(times, events.iter().map(|event| (format!("{}/notifier", event.id), 1)).collect());
    for service in ["rag", "rulegen", "vms"] {
        assert_eq!(world.call_count(service), EVENTS + 3, "{service}: work is not repeated");
    }
    assert_eq!((world.count(&world.outcomes), world.count(&world.dead_letters)), (EVENTS + 3, 0));
}

#[test]
fn a_retry_topic_that_takes_nothing_leaves_events_unfinished() {
    let world = World::new("unparkable").config(CONFIG).start();
    world.stub("notifier").set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    // Every record is older than that when it arrives.
    world.set(&world.retries, &[("message.timestamp.before.max.ms", "0")]);
    let mut instance = world.run();
    let events = publish(&world, &instance);
    assert_eq!(world.count(&world.retries), 0);
    let log = instance.log();
    let says_so = |line: &str| line.contains("a record was not acknowledged and is published again") && line.contains(&world.retries);
    assert!(log.lines().any(says_so), "{log}");
    world.set(&world.retries, &[]);
    goes_on(&world, &mut instance, &events);
}

#[test]
fn a_retry_topic_that_is_gone_leaves_events_unfinished() {
    let world = World::new("no-retry-topic").config(CONFIG).start();
    world.stub("notifier").set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    let mut instance = world.run();
    assert_eq!(instance.part("topics").0, "ok");
    world.delete(&world.retries);
    let events = publish(&world, &instance);
    // Topics that were all there are looked at once a minute.
    within(Duration::from_secs(100), "it is named", || {
        let (state, detail) = instance.part("topics");
        (state == "down" && detail.contains(&world.retries) && detail.contains("fusebox migrate")).then_some(())
    });
    assert_eq!(instance.get("/readyz").status, 503);
    assert!(instance.log().contains("a topic is missing"), "{}", instance.log());
    world.cli(&["migrate"]).exits(0);
    goes_on(&world, &mut instance, &events);
}
