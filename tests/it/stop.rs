//! How instances end: what is in flight is finished or parked, what is not begun is left to the next one.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use fusebox::edge::embedded::stub::{Act, Ended};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::json;

use crate::harness::{Event, Message, World, server, until};

const SERVICES: [&str; 4] = ["rag", "rulegen", "notifier", "vms"];

fn notifying(count: usize, cameras: usize) -> Vec<Event> {
    (0..count).map(|number| Event::of(&format!("cam-{}", number % cameras)).notifying()).collect()
}

#[test]
fn a_stop_under_load_loses_nothing_and_repeats_nothing() {
    const EVENTS: usize = 3_000;
    let world = World::new("stop-load").partitions(6).start();
    for service in SERVICES {
        world.stub(service).set(Act::Slow { ms: 20 });
    }
    world.publish(&notifying(EVENTS, 60));
    let mut first = world.run();
    until("it is in the middle of it", || world.call_count("vms") >= 300);
    assert_eq!(first.stop(), 0, "{}", first.log());
    let finished = world.count(&world.outcomes);
    assert!((300..EVENTS).contains(&finished), "the stop must come in between: {finished} of {EVENTS}");
    for service in SERVICES {
        assert_eq!(world.call_count(service), finished, "{service}: what was begun is finished");
    }

    let mut second = world.run();
    let outcomes = world.outcomes(EVENTS);
    world.wait_for_commits();
    assert_eq!(second.stop(), 0);
    let ids: HashSet<String> = outcomes.iter().map(|outcome| outcome.json()["event_id"].to_string()).collect();
    assert_eq!((ids.len(), outcomes.len()), (EVENTS, EVENTS), "one outcome each");
    for service in SERVICES {
        let calls = world.calls(service);
        let keys: HashSet<_> = calls.iter().map(|call| &call.idempotency_key).collect();
        assert_eq!((keys.len(), calls.len()), (EVENTS, EVENTS), "{service} is asked once for each event, by one process or the other");
    }
    assert_eq!((world.count(&world.retries), world.count(&world.dead_letters)), (0, 0));
}

/// A group that waits for a dead member answers no commit until the member's session is over, and then none of the old generation.
#[test]
fn a_stop_while_the_group_waits_for_a_dead_member_repeats_nothing() {
    let world = World::new("stop-wait").config("[kafka.properties]\n\"session.timeout.ms\" = \"6000\"").start();
    let onlooker: BaseConsumer = ClientConfig::new().set("bootstrap.servers", server("KAFKA_BROKERS")).create().expect("a consumer");
    let group_is = |state: &str, members: usize| {
        let list = onlooker.fetch_group_list(Some(&world.group), Duration::from_secs(10)).expect("Kafka answers");
        list.groups().iter().any(|group| group.state() == state && (state != "Stable" || group.members().len() == members))
    };
    let mut stopped = world.run();
    let mut dead = world.run();
    until("both are members", || group_is("Stable", 2));
    dead.kill();
    let mut next = world.spawn(&[]);
    until("the group waits for the dead one", || group_is("PreparingRebalance", 0));
    let mut events = 0;
    let finished = || world.count(&world.outcomes);
    let committed = || world.committed().values().filter_map(|committed| committed.offset).sum::<i64>();
    // A commit is made every 100 ms while it is answered.
    until("a commit waits", || {
        world.publish(&[Event::of(&format!("cam-{events}"))]);
        events += 1;
        let from = Instant::now();
        while from.elapsed() < Duration::from_millis(700) {
            if usize::try_from(committed()).expect("few") == events {
                return false;
            }
        }
        finished() > 0
    });
    assert_eq!(stopped.stop(), 0, "{}", stopped.log());

    world.outcomes(events);
    world.wait_for_commits();
    assert_eq!(next.stop(), 0);
    assert_eq!(finished(), events, "one outcome each");
}

#[test]
fn a_second_signal_ends_at_once() {
    let world = World::new("stop-twice").config("[services.rag]\ntimeout = \"60s\"\n[shutdown]\ntimeout = \"60s\"").start();
    world.stub("rag").set(Act::Hang);
    let mut instance = world.run();
    world.publish(&notifying(1, 1));
    until("it is in the middle of it", || world.call_count("rag") == 1);
    instance.signal("TERM");
    until("it has understood", || instance.log().contains("told to stop"));
    assert_eq!(instance.exited(), None, "it waits for the call");
    instance.signal("INT");
    assert_eq!(instance.wait_exit(Duration::from_secs(5)), 1);
    assert_eq!(world.count(&world.outcomes), 0);
    assert!(world.committed().values().all(|committed| committed.offset.is_none()), "what was not finished is not committed");

    // It is redelivered.
    world.stub("rag").set(Act::Ok);
    let mut second = world.run();
    world.outcomes(1);
    assert_eq!(second.stop(), 0);
}

#[test]
fn a_call_that_hangs_is_parked_by_a_stop() {
    let world = World::new("stop-hang").config("[services.notifier]\ntimeout = \"60s\"\n[shutdown]\ntimeout = \"3s\"").start();
    world.stub("notifier").set(Act::Hang);
    let mut first = world.run();
    let events = notifying(5, 5);
    world.publish(&events);
    until("all hang", || world.call_count("notifier") == 5);
    assert_eq!(first.stop(), 0, "{}", first.log());

    let outcomes = world.outcomes(5);
    for outcome in outcomes.iter().map(Message::json) {
        let stage = &outcome["stages"]["notifier"];
        assert_eq!((&stage["parked"], &stage["error_type"]), (&json!(true), &json!("shutdown")), "{outcome}");
    }
    for parked in world.wait_for(&world.retries, 5) {
        assert_eq!((parked.header("fusebox-reason"), parked.number("fusebox-attempt")), ("shutdown", 0), "being cut short is not failing");
    }
    until("the connections are gone", || world.calls("notifier").iter().all(|call| call.ended == Some(Ended::ClientGone)));

    // The next one delivers them, and runs no event again.
    world.stub("notifier").set(Act::Ok);
    let mut second = world.run();
    until("all are delivered", || world.stub("notifier").counts().answered.get(&200) == Some(&5));
    world.wait_for_commits();
    assert_eq!(second.stop(), 0);
    assert_eq!((world.count(&world.outcomes), world.call_count("rag")), (5, 5));
}
