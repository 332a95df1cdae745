//! `retry.order = "key"`: whatever fails, dies or comes back, a service hears of the events of a key in their order.

use std::collections::{BTreeMap, BTreeSet};

use fusebox::edge::embedded::stub::{Act, Behaviour, Entry, RetryAfter};
use http::StatusCode;
use serde_json::Value;

use crate::harness::calls::{self, event_id, is_delivery};
use crate::harness::{Event, World, eventually, until};

/// Calls fail without tripping the breaker, and are never given up; deaths are noticed soon.
const CONFIG: &str = "[services.notifier.retry]\norder = \"key\"\nmax_attempts = 1000\n[services.notifier.breaker]\nfail_max = 1000\n\
                      [kafka.properties]\n\"session.timeout.ms\" = \"6000\"";

const KEYS: usize = 8;

fn delivered(world: &World) -> usize {
    world.calls("notifier").iter().filter(|call| is_delivery(call)).map(|call| event_id(call).to_owned()).collect::<BTreeSet<_>>().len()
}

/// So many events of each key, one key after the other.
fn round(events: usize) -> Vec<Event> {
    (0..events * KEYS).map(|number| Event::of(&format!("cam-{}", number % KEYS)).notifying()).collect()
}

fn keeps_order(events: &[Event], calls: &[Entry]) {
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in events {
        keys.entry(event.field("camera_id").as_str().expect("text").to_owned()).or_default().push(event.id.clone());
    }
    calls::keep_order(&keys, calls);
}

#[test]
fn a_key_keeps_its_order_through_an_outage_a_death_and_a_newcomer() {
    let world = World::new("order").config(CONFIG).start();
    let notifier = world.stub("notifier");
    notifier.set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    let first = world.run();
    let mut second = world.run();
    let mut events = round(12);
    world.publish(&events);
    world.outcomes(events.len());

    // It comes back, more or less.
    let turns = (0..400).map(|_| if rand::random_bool(0.4) { Act::fail(StatusCode::SERVICE_UNAVAILABLE) } else { Act::Ok });
    notifier.set(Behaviour::script(turns, Act::Ok));
    let live = round(4);
    world.publish(&live);
    events.extend(live);
    until("some are delivered", || delivered(&world) >= 2 * KEYS);
    second.kill();
    let live = round(4);
    world.publish(&live);
    events.extend(live);
    let third = world.run();
    let live = round(4);
    world.publish(&live);
    events.extend(live);
    until("everybody is notified", || delivered(&world) == events.len());
    world.wait_for_commits();
    keeps_order(&events, &world.calls("notifier"));
    assert_eq!(world.count(&world.dead_letters), 0);
    for record in world.read(&world.retries) {
        assert_eq!(
            i64::from(record.partition),
            record.number("fusebox-origin-partition"),
            "a call lies on the partition of its event's number"
        );
    }
    drop((first, third));
}

#[test]
fn a_key_goes_behind_what_is_parked_of_it_and_goes_live_after() {
    let world = World::new("behind").partitions(1).config(&CONFIG.replace("order =", "max = \"1m\"\norder =")).start();
    let busy = Act::Fail { status: StatusCode::SERVICE_UNAVAILABLE, retry_after: Some(RetryAfter::seconds(4)) };
    world.stub("notifier").set(Behaviour::script([busy], Act::Ok));
    let mut instance = world.run();
    let stage = |event: &Event| -> Value { world.outcome_of(event)["stages"]["notifier"].clone() };
    let mut events = vec![Event::of("cam-1").notifying()];
    assert_eq!(stage(&events[0])["error_type"], "http_5xx");

    // The service is well, and only this key waits.
    let behind = Event::of("cam-1").notifying();
    let told = stage(&behind);
    assert_eq!(
        (&told["parked"], &told["error_type"], &told["circuit_breaker_state"]),
        (&true.into(), &"behind".into(), &"closed".into()),
        "{told}"
    );
    events.push(behind);
    assert_eq!(stage(&Event::of("cam-2").notifying())["success"], true, "another key of its partition");
    let parked = world.read(&world.retries);
    assert_eq!((parked[1].header("fusebox-reason"), parked[1].number("fusebox-attempt")), ("behind", 0));

    // The next instance finds out, though it has parked nothing.
    assert_eq!(instance.stop(), 0);
    let _next = world.run();
    let behind = Event::of("cam-1").notifying();
    assert_eq!(stage(&behind)["error_type"], "behind");
    events.push(behind);

    until("all of the key is delivered", || {
        events.iter().all(|event| world.calls("notifier").iter().any(|call| event_id(call) == event.id && is_delivery(call)))
    });
    world.wait_for_commits();
    eventually("the key is free", || {
        let event = Event::of("cam-1").notifying();
        let told = stage(&event);
        events.push(event);
        (told["success"] == true).then_some(())
    });
    until("all of the key is delivered", || delivered(&world) == events.len() + 1);
    keeps_order(&events, &world.calls("notifier"));
}
