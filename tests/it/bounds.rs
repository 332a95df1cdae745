//! The smallest bounds that the config takes: one record, and 1 KiB.

use std::collections::HashSet;

use fusebox::edge::embedded::stub::Act;
use http::StatusCode;

use crate::harness::{Event, Message, World, until};

#[test]
fn with_room_for_one_record_everything_is_processed_and_drained() {
    const EVENTS: usize = 40;
    let config = r#"
[processing]
max_in_flight = 1
concurrency = 1
max_in_flight_bytes = "1KiB"
max_event_bytes = "1KiB"
[services.notifier.retry]
max_attempts = 1000
"#;
    let world = World::new("bounds").config(config).start();
    world.stub("notifier").set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    let mut instance = world.run();
    world.publish(&(0..EVENTS).map(|number| Event::of(&format!("cam-{number}")).notifying()).collect::<Vec<_>>());
    let outcomes = world.outcomes(EVENTS);
    let ids: HashSet<String> = outcomes.iter().map(|outcome| outcome.json()["event_id"].to_string()).collect();
    assert_eq!((ids.len(), outcomes.len()), (EVENTS, EVENTS));
    assert!(outcomes.iter().map(Message::json).all(|outcome| outcome["stages"]["notifier"]["parked"] == true));
    world.stub("notifier").set(Act::Ok);
    until("all are delivered", || world.stub("notifier").counts().answered.get(&200) == Some(&(EVENTS as u64)));
    world.wait_for_commits();
    assert_eq!(instance.stop(), 0, "{}", instance.log());
}
