//! The notifier is down: its calls are parked, probes find out when it is back, the backlog is drained, and everybody is notified.

use std::collections::{BTreeMap, HashMap, HashSet};

use fusebox::edge::embedded::stub::{Act, Behaviour, Ended, Entry, RetryAfter};
use http::StatusCode;
use serde_json::json;

use crate::harness::{Event, Message, World, until};

const EVENTS: usize = 300;

/// How long the breaker stays open, ms.
const OPEN_MS: i64 = 1_000;

/// What two processes' clocks may differ by, rounding included, ms.
const SLACK_MS: i64 = 25;

fn event_id(call: &Entry) -> String {
    call.idempotency_key.as_deref().and_then(|key| key.strip_suffix("/notifier")).expect("a key of the notifier").to_owned()
}

#[test]
fn an_outage_parks_probes_and_drains() {
    let world = World::new("outage").start();
    let notifier = world.stub("notifier");
    notifier.set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    let mut instance = world.run();
    let began = std::time::SystemTime::now();

    // Failures trip the breaker, live ones and those of parked calls that are tried again.
    let first: Vec<Event> = (0..4).map(|number| Event::of(&format!("cam-{number}")).notifying()).collect();
    let mut places = world.publish(&first);
    until("the breaker is open", || world.redis().state("notifier") == "open");
    until("no call is under way", || notifier.counts().in_flight == 0);
    let at_trip = world.call_count("notifier");
    let retry_at: i64 = world.redis().breaker("notifier")["retry_at"].parse().expect("a time");

    let rest: Vec<Event> = (4..EVENTS).map(|number| Event::of(&format!("cam-{}", number % 25)).notifying()).collect();
    places.extend(world.publish(&rest));
    let events: Vec<Event> = first.into_iter().chain(rest).collect();
    let outcomes = world.outcomes(EVENTS);
    until("three probes", || world.call_count("notifier") >= at_trip + 3);

    // What reaches the service meanwhile are probes: one at a time, and as far apart as the breaker stays open.
    let calls = world.calls("notifier");
    assert!(calls[at_trip].started_at.0 >= retry_at - SLACK_MS, "the first probe came {} ms early", retry_at - calls[at_trip].started_at.0);
    for pair in calls[at_trip..].windows(2) {
        let ended = pair[0].ended_at.expect("answered").0;
        let apart = pair[1].started_at.0 - ended;
        assert!(apart >= OPEN_MS - SLACK_MS, "two probes {apart} ms apart");
    }

    // Outcomes do not wait: they say that the notification is parked, and everything else is done.
    let outcomes: HashMap<String, _> =
        outcomes.iter().map(Message::json).map(|outcome| (outcome["event_id"].as_str().expect("an id").to_owned(), outcome)).collect();
    assert_eq!(outcomes.len(), EVENTS, "one each");
    for event in &events {
        let outcome = &outcomes[&event.id];
        assert_eq!(outcome["status"], "partial_success", "{outcome}");
        for service in ["rag", "rulegen", "vms"] {
            assert_eq!(outcome["stages"][service]["success"], true, "{outcome}");
        }
        let stage = &outcome["stages"]["notifier"];
        assert_eq!(
            (&stage["success"], &stage["fallback_used"], &stage["parked"]),
            (&json!(false), &json!(false), &json!(true)),
            "{outcome}"
        );
        assert!(["circuit_open", "http_5xx"].contains(&stage["error_type"].as_str().expect("a word")), "{outcome}");
    }

    // The service is back.
    notifier.set(Act::Ok);
    until("everybody is notified", || delivered(&world.calls("notifier")).len() == EVENTS);
    until("the breaker is closed", || world.redis().state("notifier") == "closed");
    world.wait_for_commits();
    assert_eq!(instance.stop(), 0);

    // Nothing crashed: each notification was delivered once, and no other service was asked again.
    let calls = world.calls("notifier");
    let answered: Vec<String> = calls.iter().filter(|call| call.ended == Some(Ended::Answered(200))).map(event_id).collect();
    assert_eq!(answered.len(), EVENTS, "nothing was delivered twice");
    for service in ["rag", "rulegen", "vms"] {
        assert_eq!(world.call_count(service), EVENTS, "{service}: work is not repeated");
    }
    assert_eq!(world.count(&world.dead_letters), 0);
    assert_eq!(world.count(&world.outcomes), EVENTS, "draining leaves no second outcome");

    let failed = |id: &str| {
        i64::try_from(calls.iter().filter(|call| call.ended == Some(Ended::Answered(503)) && event_id(call) == id).count()).expect("few")
    };
    let requests: HashMap<String, serde_json::Value> =
        calls.iter().map(|call| (event_id(call), serde_json::from_slice(&call.body).expect("JSON"))).collect();
    let mut parked: BTreeMap<String, Vec<Message>> = BTreeMap::new();
    for message in world.read(&world.retries) {
        parked.entry(message.header("fusebox-event-id").to_owned()).or_default().push(message);
    }
    assert_eq!(parked.len(), EVENTS);
    let began = i64::try_from(began.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis()).expect("a time");
    for (event, (partition, offset)) in events.iter().zip(places) {
        let hops = &parked[&event.id];
        for (index, hop) in hops.iter().enumerate() {
            assert_eq!(hop.header("fusebox-service"), "notifier");
            assert_eq!(hop.header("fusebox-origin-topic"), world.events);
            assert_eq!((hop.number("fusebox-origin-partition"), hop.number("fusebox-origin-offset")), (i64::from(partition), offset));
            assert_eq!(hop.number("fusebox-parks"), i64::try_from(index).expect("few") + 1, "parks count up");
            assert_eq!(hop.number("fusebox-first-parked-at"), hops[0].number("fusebox-first-parked-at"), "that never changes");
            assert!(hop.timestamp >= began, "a record without a time is deleted by retention at once: {}", hop.timestamp);
            assert!((0..=1_000).contains(&(hop.number("fusebox-not-before") - hop.timestamp)), "{:?}", hop.headers);
            let of_a_copy = if index == 0 { 0 } else { 2 };
            assert_eq!(hop.headers.len(), 10 + of_a_copy, "headers are replaced and not piled up: {:?}", hop.headers);
            if index > 0 {
                let first = (hop.number("fusebox-first-parked-partition"), hop.number("fusebox-first-parked-offset"));
                assert_eq!(first, (i64::from(hops[0].partition), hops[0].offset), "that never changes");
            }
            assert_eq!(hop.key(), event.field("camera_id").as_str().expect("text"));
            // A call that the open circuit refused has spent no attempt; one that failed has spent one.
            let before = index.checked_sub(1).map_or(0, |index| hops[index].number("fusebox-attempt"));
            match hop.header("fusebox-reason") {
                "circuit_open" => assert_eq!((hop.number("fusebox-attempt"), index), (0, 0), "{:?}", hop.headers),
                "http_5xx" => assert_eq!(hop.number("fusebox-attempt"), before + 1, "{:?}", hop.headers),
                reason => panic!("parked because of {reason}"),
            }
        }
        let last = hops.last().expect("at least one");
        assert_eq!(last.number("fusebox-attempt"), failed(&event.id), "attempts are the calls that failed");
        // The envelope carries what the call needs, so that draining makes that one call.
        let envelope = last.json();
        assert_eq!((&envelope["version"], &envelope["service"], &envelope["event_id"]), (&json!(1), &json!("notifier"), &json!(event.id)));
        assert_eq!(envelope["request"]["body"], requests[&event.id]);
        assert_eq!(envelope["request"]["idempotency_key"], format!("{}/notifier", event.id));
        assert_eq!(envelope["results"]["rulegen"]["severity"], "high");
    }
    let open = parked.values().flatten().filter(|hop| hop.header("fusebox-reason") == "circuit_open").count();
    assert!(open > EVENTS / 2, "an open circuit refuses nearly all: {open} of {EVENTS}");
}

fn delivered(calls: &[Entry]) -> HashSet<String> {
    calls.iter().filter(|call| call.ended == Some(Ended::Answered(200))).map(event_id).collect()
}

#[test]
fn calls_that_fail_too_often_are_dead_letters() {
    // Opened by nothing, so that attempts are spent one after the other.
    let config = "[services.notifier.breaker]\nfail_max = 1000\n[services.notifier.retry]\nmax_attempts = 3\nmax = \"200ms\"";
    let world = World::new("exhausted").config(config).start();
    world.stub("notifier").set(Act::fail(StatusCode::BAD_GATEWAY));
    let mut instance = world.run();
    let event = Event::of("cam-1").notifying().header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert_eq!(world.outcome_of(&event)["stages"]["notifier"]["error_type"], "http_5xx");
    let letters = world.wait_for(&world.dead_letters, 1);
    world.wait_for_commits();
    assert_eq!(instance.stop(), 0);

    let letter = &letters[0];
    assert_eq!(letter.header("fusebox-error-code"), "attempts_exhausted");
    assert_eq!((letter.header("fusebox-service"), letter.number("fusebox-attempt")), ("notifier", 3));
    assert_eq!((letter.header("fusebox-event-id"), letter.header("fusebox-origin-topic")), (event.id.as_str(), world.events.as_str()));
    assert!(letter.header("fusebox-error").contains("notifier"), "{:?}", letter.headers);
    assert!(letter.number("fusebox-dead-lettered-at") > 0);
    assert_eq!(letter.json()["event_id"], event.id, "a call leaves its envelope");
    let calls = world.calls("notifier");
    assert_eq!(calls.len(), 3, "the live call included");
    for call in &calls {
        assert_eq!(call.headers["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "parked calls keep the trace");
    }
}

#[test]
fn a_service_that_asks_for_time_is_given_it() {
    let config = "[services.notifier.breaker]\nfail_max = 1000\n[services.notifier.retry]\nmax = \"1m\"";
    let world = World::new("retry-after").config(config).start();
    let busy = Act::Fail { status: StatusCode::TOO_MANY_REQUESTS, retry_after: Some(RetryAfter::seconds(2)) };
    world.stub("notifier").set(Behaviour::script([busy], Act::Ok));
    let mut instance = world.run();
    let event = Event::of("cam-1").notifying();
    assert_eq!(world.outcome_of(&event)["stages"]["notifier"]["error_type"], "http_429");
    until("it is delivered", || !delivered(&world.calls("notifier")).is_empty());
    world.wait_for_commits();
    assert_eq!(instance.stop(), 0);
    let calls = world.calls("notifier");
    let [busy, good] = calls.as_slice() else { panic!("two calls, not {}", calls.len()) };
    let waited = good.started_at.0 - busy.ended_at.expect("answered").0;
    assert!(waited >= 2_000 - SLACK_MS, "it was asked again after {waited} ms");
    assert_eq!(world.read(&world.retries)[0].header("fusebox-reason"), "http_429");
}
