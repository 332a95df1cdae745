//! What has gone wrong in other programs of this kind, where no other test shows that it does not here; docs/testing.md has the whole list.

use std::collections::BTreeMap;

use fusebox::edge::embedded::stub::Ended;
use fusebox::event::Offset;
use fusebox::machine::progress::Progress;
use serde_json::json;
use uuid::Uuid;

use crate::harness::{Event, World, until};

fn wall_clock() -> i64 {
    fusebox::edge::clock::wall_of(std::time::SystemTime::now()).0
}

/// A parked call of the notifier that may go then, on the first partition, with its `Idempotency-Key`.
fn parked(not_before: i64) -> (Event, String) {
    let id = Uuid::new_v4();
    let key = format!("{id}/notifier");
    let request = json!({ "method": "POST", "path": "/notify", "idempotency_key": key, "body": {} });
    let envelope = json!({ "version": 1, "service": "notifier", "event_id": id, "camera_id": "cam-1", "request": request, "results": {} });
    let mut event = Event::raw(Some(envelope.to_string().as_bytes()));
    (event.key, event.partition) = (Some(b"cam-1".to_vec()), Some(0));
    let event = event.header("fusebox-service", "notifier").header("fusebox-event-id", &id.to_string());
    (event.header("fusebox-not-before", &not_before.to_string()), key)
}

/// How often each call was delivered, by its key.
fn delivered(world: &World) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for call in world.calls("notifier").into_iter().filter(|call| call.ended == Some(Ended::Answered(200))) {
        *times.entry(call.idempotency_key.expect("a key")).or_default() += 1;
    }
    times
}

#[test]
fn what_is_due_goes_before_what_was_parked_earlier_and_is_not() {
    let world = World::new("not-in-line").config("[services.notifier.retry]\nmax = \"1h\"").start();
    let hour = 3_600_000;
    let later: Vec<_> = (0..50).map(|_| parked(wall_clock() + hour).0).collect();
    world.publish_to(&world.retries, &later);
    let (due, key) = parked(wall_clock() - 1);
    let (_, offset) = world.publish_to(&world.retries, &[due])[0];
    assert_eq!(offset, 50, "it stands behind all that are not due");
    let mut instance = world.run();
    until("it is delivered", || delivered(&world) == BTreeMap::from([(key.clone(), 1)]));
    assert_eq!(instance.stop(), 0, "{}", instance.log());
    assert_eq!(world.call_count("notifier"), 1, "the others wait");
}

/// Two fleets that share a retry topic by mistake: each makes every call, so that nothing is lost, and the service can tell that it is the same one.
#[test]
fn two_groups_on_one_retry_topic_lose_nothing_and_their_calls_have_one_key() {
    let world = World::new("two-groups").start();
    let other = format!("kafka.group={}.other", world.group);
    let mut fleet = [world.run(), world.spawn(&["--set", &other])];
    fleet[1].wait_ready();
    let (calls, keys): (Vec<_>, Vec<_>) = (0..20).map(|_| parked(wall_clock() - 1)).unzip();
    world.publish_to(&world.retries, &calls);
    until("each group has made every call", || delivered(&world) == keys.iter().map(|key| (key.clone(), 2)).collect());
    world.wait_for_commits();
    for instance in &mut fleet {
        assert_eq!(instance.stop(), 0, "{}", instance.log());
    }
    assert_eq!((world.call_count("notifier"), world.count(&world.dead_letters)), (2 * keys.len(), 0));
}

#[test]
fn a_dead_letter_that_is_not_taken_leaves_its_record_unfinished() {
    let world = World::new("no-letter").partitions(1).start();
    // Every record is older than that when it arrives.
    world.set(&world.dead_letters, &[("message.timestamp.before.max.ms", "0")]);
    let mut instance = world.run();
    world.publish(&[Event::raw(Some(b"{"))]);
    world.publish(&[Event::of("cam-1")]);
    let finished = |offset: i64| {
        let committed = &world.committed()[&0];
        let next = committed.offset.unwrap_or(0);
        offset < next || Progress::decode(Offset(next), &committed.metadata).is_ok_and(|beside| beside.has_finished(Offset(offset)))
    };
    until("what comes behind it has finished", || finished(1));
    assert!(!finished(0), "its letter is nowhere");
    assert_eq!(world.count(&world.dead_letters), 0);
    world.set(&world.dead_letters, &[]);
    assert_eq!(world.wait_for(&world.dead_letters, 1)[0].header("fusebox-error-code"), "invalid_json");
    world.wait_for_commits();
    assert_eq!(instance.stop(), 0, "{}", instance.log());
    assert_eq!(world.count(&world.dead_letters), 1);
}
