//! Whatever bytes a producer sends: forty kinds of records between good ones. What cannot be read is a dead letter with its bytes, a code and
//! coordinates; what can be read all the same is processed; each has one end, and the good ones have theirs.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Event, Message, World};

/// What becomes of a record.
enum End {
    /// An outcome.
    Processed,
    /// A dead letter with this code.
    Dead(&'static str),
}
use End::{Dead, Processed};

fn json_event(fields: &str) -> Vec<u8> {
    format!(r#"{{"camera_id":"cam-odd"{}{fields}}}"#, if fields.is_empty() { "" } else { "," }).into_bytes()
}

fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

/// The kinds, each with its name, its record and its end.
fn kinds() -> Vec<(&'static str, Event, End)> {
    let raw = |value: &[u8]| Event::raw(Some(value));
    let fields = |fields: &str| Event::raw(Some(&json_event(fields)));
    let cloud = |event: Event, version: &str| {
        event.header("ce_specversion", version).header("ce_id", "A-1").header("ce_source", "/cams").header("ce_type", "detection")
    };
    let structured = |value: &Value| {
        Event::raw(Some(value.to_string().as_bytes())).header("content-type", "application/cloudevents+json; charset=utf-8")
    };
    let mut not_utf8_header = fields("");
    not_utf8_header.headers.push(("x-bytes".to_owned(), vec![0xff, 0x00, 0xfe]));
    let mut many_headers = fields("");
    many_headers.headers = (0..200).map(|number| ("x-repeated".to_owned(), vec![b'0' + (number % 10) as u8])).collect();
    let mut empty_key = fields("");
    empty_key.key = Some(Vec::new());
    let mut odd_key = fields("");
    odd_key.key = Some(vec![0, 0xff, b'\n']);
    let cut = json_event(r#""label":"person""#);
    vec![
        ("a tombstone", Event::raw(None), Dead("invalid_json")),
        ("nothing", raw(b""), Dead("invalid_json")),
        ("white space", raw(b" \n\t "), Dead("invalid_json")),
        ("words", raw(b"hello there"), Dead("invalid_json")),
        ("a page", raw(b"<html></html>"), Dead("invalid_json")),
        ("cut off", raw(&cut[..cut.len() - 3]), Dead("invalid_json")),
        ("two objects", raw(b"{\"camera_id\":\"a\"}{\"camera_id\":\"b\"}"), Dead("invalid_json")),
        ("a trailing comma", raw(b"{\"camera_id\":\"a\",}"), Dead("invalid_json")),
        ("single quotes", raw(b"{'camera_id':'a'}"), Dead("invalid_json")),
        ("a byte order mark", raw(b"\xef\xbb\xbf{\"camera_id\":\"a\"}"), Dead("invalid_json")),
        ("bytes of zero", raw(&[0; 32]), Dead("invalid_json")),
        ("not UTF-8", raw(b"{\"camera_id\":\"\xff\xfe\"}"), Dead("invalid_json")),
        ("half a surrogate pair", fields(r#""label":"\ud800""#), Dead("invalid_json")),
        ("10,000 levels of arrays", fields(&format!(r#""x":{}"#, nested(10_000))), Dead("invalid_json")),
        ("10,000 levels in detections", fields(&format!(r#""detections":{}"#, nested(10_000))), Dead("invalid_json")),
        ("a number beyond all", fields(r#""x":1e999999"#), Dead("invalid_json")),
        ("an array", raw(b"[{\"camera_id\":\"a\"}]"), Dead("not_an_object")),
        ("a string", raw(b"\"camera\""), Dead("not_an_object")),
        ("a number", raw(b"42"), Dead("not_an_object")),
        ("null", raw(b"null"), Dead("not_an_object")),
        ("no fields", raw(b"{}"), Dead("missing_field")),
        ("no camera_id", raw(b"{\"label\":\"person\"}"), Dead("missing_field")),
        ("a camera_id of null", raw(b"{\"camera_id\":null}"), Dead("missing_field")),
        ("an empty camera_id", raw(b"{\"camera_id\":\"\"}"), Dead("invalid_field")),
        ("a camera_id that is a number", raw(b"{\"camera_id\":7}"), Dead("invalid_field")),
        ("an id that is no UUID", fields(r#""id":"seven""#), Dead("invalid_field")),
        ("a timestamp of words", fields(r#""timestamp":"yesterday""#), Dead("invalid_field")),
        ("a timestamp that is a number", fields(r#""timestamp":1793739845"#), Dead("invalid_field")),
        ("detections that are no list", fields(r#""detections":"two""#), Dead("invalid_field")),
        ("a confidence above 1", fields(r#""detections":[{"label":"x","confidence":1.5}]"#), Dead("invalid_field")),
        ("a box of words", fields(r#""detections":[{"bounding_box":{"x_min":"left"}}]"#), Dead("invalid_field")),
        ("recipients that are no list", fields(r#""recipients":"me""#), Dead("invalid_field")),
        ("2 MB", raw(&json_event(&format!(r#""x":"{}""#, "y".repeat(2_000_000)))), Dead("too_large")),
        ("an unknown CloudEvents version", cloud(fields(""), "9.9"), Dead("invalid_field")),
        ("a structured CloudEvent without data", structured(&json!({ "specversion": "1.0", "id": "1" })), Dead("missing_field")),
        ("a structured CloudEvent of an unknown version", structured(&json!({ "specversion": "0.1", "data": {} })), Dead("invalid_field")),
        ("camera_id alone", fields(""), Processed),
        ("keys twice", fields(r#""label":"a","label":"b","camera_id":"cam-last""#), Processed),
        ("a number of a hundred digits", fields(&format!(r#""x":{}"#, "9".repeat(100))), Processed),
        ("nulls for what has a default", fields(r#""id":null,"timestamp":null,"recipients":null,"notification_channels":null"#), Processed),
        ("unknown fields", fields(r#""x":{"y":[1,2,{"z":null}]},"ключ":"значение","":0"#), Processed),
        ("a header that is no text", not_utf8_header, Processed),
        ("one header two hundred times", many_headers, Processed),
        ("an empty key", empty_key, Processed),
        ("a key that is no text", odd_key, Processed),
        ("a binary CloudEvent", cloud(fields(""), "1.0"), Processed),
        (
            "a structured CloudEvent",
            structured(
                &json!({ "specversion": "1.0", "id": "1", "source": "/c", "type": "detection", "data": { "camera_id": "cam-cloud" } }),
            ),
            Processed,
        ),
    ]
}

#[test]
fn every_record_has_one_end_and_the_partition_goes_on() {
    // One partition: a record that stopped it would stop every good one behind it.
    let world = World::new("bad-input").partitions(1).without_topics().config("[processing]\nmax_event_bytes = \"3MiB\"").start();
    world.cli(&["migrate"]).exits(0);
    let mut instance = world.spawn(&["--set", "processing.max_event_bytes=1MiB"]);
    instance.wait_ready();

    let kinds = kinds();
    assert!(kinds.len() >= 40);
    let mut events = Vec::new();
    let mut good = Vec::new();
    for (_, event, _) in &kinds {
        let before = Event::of("cam-good");
        good.push(before.clone());
        events.push(before);
        events.push(event.clone());
    }
    let last = Event::of("cam-good").notifying();
    good.push(last.clone());
    events.push(last);
    let places = world.publish(&events);

    let dead = kinds.iter().filter(|(_, _, end)| matches!(end, Dead(_))).count();
    let processed = events.len() - dead;
    let outcomes = world.outcomes(processed);
    let letters = world.wait_for(&world.dead_letters, dead);
    world.wait_for_commits();
    assert_eq!((outcomes.len(), letters.len()), (processed, dead), "one end each");

    let place = |outcome: &Value| outcome["source"]["offset"].as_i64().expect("an offset");
    let outcomes: BTreeMap<i64, Value> = outcomes.iter().map(Message::json).map(|outcome| (place(&outcome), outcome)).collect();
    let letters: BTreeMap<i64, &Message> = letters.iter().map(|letter| (letter.number("fusebox-origin-offset"), letter)).collect();
    for (number, (name, event, end)) in kinds.iter().enumerate() {
        let offset = places[2 * number + 1].1;
        match end {
            Processed => {
                let outcome = outcomes.get(&offset).unwrap_or_else(|| panic!("{name}: no outcome"));
                assert_eq!(outcome["status"], "ok", "{name}: {outcome}");
                let id: Uuid = outcome["event_id"].as_str().expect("an id").parse().expect("a UUID");
                assert_eq!(id.get_version_num(), 5, "{name}: it carried no UUID of its own");
            }
            Dead(code) => {
                let letter = letters.get(&offset).unwrap_or_else(|| panic!("{name}: no dead letter"));
                assert_eq!(letter.header("fusebox-error-code"), *code, "{name}: {}", letter.header("fusebox-error"));
                assert_eq!(
                    (letter.header("fusebox-origin-topic"), letter.number("fusebox-origin-partition")),
                    (world.events.as_str(), 0),
                    "{name}"
                );
                assert!(letter.number("fusebox-dead-lettered-at") > 0 && letter.timestamp > 0, "{name}");
                if *code == "too_large" {
                    let size = event.value.as_ref().map_or(0, Vec::len).to_string();
                    assert_eq!(letter.value.as_deref(), Some(&[][..]), "{name}");
                    assert!(letter.header("fusebox-error").contains(&size), "{name}: {}", letter.header("fusebox-error"));
                } else {
                    assert_eq!(letter.value, event.value, "{name}: the original bytes");
                }
                assert_eq!(letter.key, event.key, "{name}: the original key");
                for (header, value) in &event.headers {
                    assert!(letter.headers.contains(&(header.clone(), Some(value.clone()))), "{name}: {header} is lost");
                }
            }
        }
    }
    for (number, event) in good.iter().enumerate() {
        let outcome = outcomes.get(&places[2 * number].1).unwrap_or_else(|| panic!("good event {number}: no outcome"));
        assert_eq!((&outcome["event_id"], &outcome["status"]), (&json!(event.id), &json!("ok")));
    }

    // Bad input of many kinds is no reason to log a body, nor to fall over.
    let log = instance.log();
    assert!(!log.contains("hello there") && !log.contains("panicked"), "{log}");
    assert_eq!(instance.stop(), 0);
}

#[test]
fn what_lies_damaged_on_the_retry_topic_is_a_dead_letter_too() {
    let world = World::new("bad-parked").partitions(1).start();
    let mut instance = world.run();
    let records = [
        Event::raw(None),
        Event::raw(Some(b"not an envelope")),
        Event::raw(Some(br#"{"version":2,"service":"notifier"}"#)),
        Event::raw(Some(br#"{"version":1,"service":"nobody","event_id":"0191d2a4-0000-7000-8000-000000000000","camera_id":"c","request":{"method":"POST","path":"/","idempotency_key":"k","body":{}},"results":{}}"#)),
        // Somebody wrote this one by hand, without headers: it is complete, and is delivered.
        Event::raw(Some(br#"{"version":1,"service":"notifier","event_id":"0191d2a4-0000-7000-8000-000000000001","camera_id":"c","request":{"method":"POST","path":"/notify","idempotency_key":"by-hand","body":{"to":"me"}},"results":{}}"#)),
    ];
    world.publish_to(&world.retries, &records);
    let letters = world.wait_for(&world.dead_letters, 4);
    world.wait_for_commits();
    assert_eq!(letters.len(), 4);
    let codes: Vec<_> = letters.iter().map(|letter| letter.header("fusebox-error-code")).collect();
    assert_eq!(codes, ["invalid_json", "invalid_json", "invalid_field", "invalid_field"]);
    for (letter, record) in letters.iter().zip(&records) {
        assert_eq!(letter.value, record.value);
    }
    let calls = world.calls("notifier");
    assert_eq!(calls.iter().map(|call| call.idempotency_key.as_deref()).collect::<Vec<_>>(), [Some("by-hand")]);
    assert_eq!(instance.stop(), 0);
}
