//! The main job: every event runs through every stage once, in the order of its key, and leaves one outcome.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};

use crate::harness::{Event, World};

const EVENTS: usize = 5_000;
const CAMERAS: usize = 40;

fn traceparent(number: usize) -> String {
    format!("00-{:032x}-{:016x}-01", number + 1, number + 1)
}

/// Every third asks for a notification.
fn event(number: usize) -> Event {
    let event = Event::of(&format!("cam-{}", number % CAMERAS)).header("traceparent", &traceparent(number));
    if number.is_multiple_of(3) { event.notifying() } else { event }
}

#[test]
fn five_thousand_events_leave_one_outcome_each() {
    let world = World::new("main").partitions(6).start();
    let events: Vec<Event> = (0..EVENTS).map(event).collect();
    // Half of them wait when the instance starts: a group without a commit begins at the earliest record.
    let mut places = world.publish(&events[..EVENTS / 2]);
    let mut instance = world.run();
    places.extend(world.publish(&events[EVENTS / 2..]));

    let outcomes = world.outcomes(EVENTS);
    world.wait_for_commits();
    assert_eq!(instance.stop(), 0);

    // One outcome each, which says what it must.
    let numbers: HashMap<&str, usize> = events.iter().enumerate().map(|(number, event)| (event.id.as_str(), number)).collect();
    let mut seen = HashSet::new();
    let mut instances = HashSet::new();
    for message in &outcomes {
        let outcome = message.json();
        let number = numbers[outcome["event_id"].as_str().expect("an id")];
        let (event, (partition, offset)) = (&events[number], places[number]);
        assert!(seen.insert(number), "two outcomes of one event: {outcome}");
        let camera = event.field("camera_id");
        assert_eq!((&outcome["camera_id"], &outcome["status"]), (camera, &json!("ok")), "{outcome}");
        assert_eq!(message.key(), camera.as_str().expect("text"));
        assert_eq!(message.header("traceparent"), traceparent(number));
        assert_eq!(outcome["source"], json!({ "topic": world.events, "partition": partition, "offset": offset }));
        let processed_at: jiff::Timestamp = outcome["processed_at"].as_str().expect("a time").parse().expect("RFC 3339");
        assert!((processed_at.as_millisecond() - message.timestamp).abs() < 60_000, "{processed_at} at {}", message.timestamp);
        instances.insert(outcome["instance"].as_str().expect("a name").to_owned());

        let stages = outcome["stages"].as_object().expect("an object");
        let expected: &[&str] = if number.is_multiple_of(3) { &["rag", "rulegen", "notifier", "vms"] } else { &["rag", "rulegen", "vms"] };
        assert_eq!(stages.keys().collect::<Vec<_>>(), expected, "{outcome}");
        for (service, stage) in stages {
            let flags = ["success", "fallback_used", "parked"].map(|flag| stage[flag].as_bool().expect("a flag"));
            assert_eq!(flags, [true, false, false], "{service}: {outcome}");
            assert_eq!((&stage["error_type"], &stage["circuit_breaker_state"]), (&Value::Null, &json!("closed")), "{service}: {outcome}");
            assert!(stage["response_time_ms"].as_f64().expect("a number") > 0.0, "{service}: {outcome}");
        }
        assert_eq!(stages["rag"]["data"]["similar_events"][0]["camera_id"], *camera);
        assert_eq!(stages["rulegen"]["data"]["severity"], "high");
        assert_eq!(stages["vms"]["data"]["clip_url"], format!("https://vms.example/clips/{}.mp4", event.id));
        if number.is_multiple_of(3) {
            assert_eq!(stages["notifier"]["data"]["notification_id"], format!("ntf-{}", event.id));
        }
    }
    assert_eq!(seen.len(), EVENTS);
    assert_eq!(instances.len(), 1, "one process has one name");

    // Every service was asked once for each event that is its own, with the event's key, trace and body.
    for (service, path, asked) in [
        ("rag", "/rag/query", EVENTS),
        ("rulegen", "/evaluate", EVENTS),
        ("notifier", "/notify", EVENTS.div_ceil(3)),
        ("vms", "/clips/generate", EVENTS),
    ] {
        let calls = world.calls(service);
        let mut keys = HashSet::new();
        for call in &calls {
            let key = call.idempotency_key.as_deref().expect("a key");
            let (id, of) = key.split_once('/').expect("two parts");
            assert_eq!((of, call.path.as_str()), (service, path));
            assert!(keys.insert(id.to_owned()), "{service} was asked twice for {id}");
            assert_eq!(call.headers["traceparent"].to_str().expect("text"), traceparent(numbers[id]));
        }
        assert_eq!(keys.len(), asked, "{service}");
    }
    let asked = |service: &str| serde_json::from_slice::<Value>(&world.calls(service)[0].body).expect("JSON");
    let (rag, rulegen, notifier) = (asked("rag"), asked("rulegen"), asked("notifier"));
    assert_eq!(
        (&rag["k"], &rag["query_event"]["label"], &rag["query_event"]["bbox"]["y_max"]),
        (&json!(10), &json!("person"), &json!(40.0))
    );
    assert_eq!(rulegen["event"]["x_unknown"], json!({ "kept": true }), "what is not known is handed on");
    assert_eq!(rulegen["context"]["analysis"]["confidence"], 0.87, "a stage sees the results of those before it");
    assert_eq!((&notifier["recipients"], &notifier["channels"]), (&json!(["guard@site.example"]), &json!(["email"])));
    assert_eq!(notifier["rule_evaluation"]["severity"], "high");

    // Each camera's events were begun in their order, one at a time.
    let mut by_camera: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for call in world.calls("rag") {
        let id = call.idempotency_key.as_deref().and_then(|key| key.split('/').next()).expect("a key");
        let number = numbers[id];
        by_camera.entry(events[number].field("camera_id").as_str().expect("text")).or_default().push(number);
    }
    assert_eq!(by_camera.len(), CAMERAS);
    for (camera, begun) in by_camera {
        assert!(begun.is_sorted(), "{camera}: {begun:?}");
    }

    assert_eq!((world.count(&world.dead_letters), world.count(&world.retries)), (0, 0));
}
