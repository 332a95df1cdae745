use proptest::prelude::*;

use super::*;
use crate::event::dead_letter::{DeadLetter, Letterbox};
use crate::event::foreign::Style;
use crate::event::{Event, Offset, Partition};

const THEN: UnixMillis = UnixMillis(1_700_000_000_000);
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn routes() -> Routes {
    Routes {
        events: Topic::from("events"),
        parking: vec![("notifier".into(), Topic::from("retry"))],
        ordered: BTreeSet::new(),
        services: BTreeSet::new(),
        max_redrives: 3,
    }
}

fn source(topic: &str, offset: i64) -> Source {
    Source { topic: Topic::from(topic), partition: Partition(2), offset: Offset(offset) }
}

fn letterbox(styles: &[Style]) -> Letterbox {
    Letterbox { topic: Topic::from("dead"), styles: styles.to_vec(), group: "fusebox".into() }
}

fn event(value: &str, headers: Headers) -> Incoming {
    Incoming { source: source("events", 7), key: Some("cam".into()), value: Some(value.to_owned().into()), headers, timestamp: Some(THEN) }
}

/// The record as a consumer reads it.
fn arrived(record: Record, offset: i64) -> Incoming {
    let Record { topic, key, value, headers, timestamp, .. } = record;
    Incoming { source: source(topic.as_str(), offset), key, value, headers, timestamp: Some(timestamp) }
}

fn letter(record: &Incoming, code: Code, styles: &[Style]) -> Incoming {
    let made = DeadLetter { code, error: "why".into(), origin: &record.source }.of(record, &letterbox(styles), NOW);
    arrived(made, 11)
}

fn decoded(record: &Incoming) -> Event {
    decode::decode(record, 1 << 20, NOW).expect("an event")
}

/// A call of the event as it is parked.
fn call(event: &Event) -> Incoming {
    let body = Bytes::from_static(br#"{"n":1}"#);
    let call = envelope::Call {
        service: "notifier",
        event,
        method: "POST",
        path: "/notify",
        idempotency_key: "1/notifier",
        body: &body,
        results: &[],
    };
    let parking = envelope::Parking { reason: Reason::Http5xx, attempt: 8, parks: 4, not_before: THEN, first_parked_at: THEN };
    arrived(envelope::park(&Topic::from("retry"), &call, parking, THEN), 40)
}

fn given_up(parked: &Incoming, code: Code) -> Incoming {
    let origin = envelope::origin(&parked.headers).expect("an origin");
    arrived(DeadLetter { code, error: "why".into(), origin: &origin }.of(parked, &letterbox(&[]), NOW), 12)
}

#[test]
fn an_event_goes_back_as_it_came() {
    let mut headers = Headers::new();
    headers.append("x-theirs", Some("1".into()));
    headers.append("x-theirs", None);
    headers.append("traceparent", Some("00-trace".into()));
    let first = event(r#"{"camera_id":"cam"}"#, headers);
    let mut letter = letter(&first, Code::StageFailed, &[Style::Connect, Style::Spring]);
    letter.headers.set(name::SERVICE, "rag");
    let back = redrive(&letter, &routes(), NOW).expect("it goes");
    assert_eq!((back.topic.as_str(), &back.key, &back.value, back.timestamp), ("events", &first.key, &first.value, NOW));
    let names: Vec<&str> = back.headers.iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        ["x-theirs", "x-theirs", "traceparent", "fusebox-event-id", "fusebox-origin-timestamp", "fusebox-redrives"],
        "theirs in order, then ours"
    );
    assert_eq!(back.headers.text(name::REDRIVES), Some("1"));
    // Without an id and a time of its own it keeps those of its first record.
    let (before, after) = (decoded(&first), decoded(&arrived(back, 900)));
    assert_eq!((before.id, &before.json, &before.key), (after.id, &after.json, &after.key));
}

#[test]
fn a_call_goes_back_as_if_parked_now() {
    let first = decoded(&event(r#"{"camera_id":"cam"}"#, Headers::new()));
    let parked = call(&first);
    for code in [Code::AttemptsExhausted, Code::Expired, Code::RejectedByService, Code::Discarded, Code::TooLarge, Code::NotTaken] {
        let back = redrive(&given_up(&parked, code), &routes(), NOW).expect("it goes");
        assert_eq!((back.topic.as_str(), &back.key, &back.value, back.timestamp), ("retry", &parked.key, &parked.value, NOW));
        for error in [name::ERROR, name::ERROR_CODE, name::DEAD_LETTERED_AT] {
            assert_eq!(back.headers.get(error), None);
        }
        let back = envelope::read(arrived(back, 41), NOW).expect("a call");
        assert_eq!(
            back.parking,
            envelope::Parking { reason: Reason::Http5xx, attempt: 0, parks: 5, not_before: NOW, first_parked_at: NOW }
        );
        assert_eq!((&back.origin, back.event_id), (&source("events", 7), first.id));
        assert_eq!(back.record.headers.text(name::REDRIVES), Some("1"));
    }
}

#[test]
fn what_cannot_go_says_why() {
    let good = r#"{"camera_id":"cam"}"#;
    let of = |code| letter(&event(good, Headers::new()), code, &[]);
    let with = |mut letter: Incoming, header: &'static str, value: Option<&str>| {
        match value {
            Some(value) => letter.headers.set(header, value.to_owned()),
            None => letter.headers.remove(header),
        }
        letter
    };
    let stranger = envelope::read(call(&decoded(&event(good, Headers::new()))), NOW).expect("a call").record;
    let cases = [
        (with(of(Code::InvalidJson), name::ERROR_CODE, None), "no_letter"),
        (with(of(Code::InvalidJson), name::ERROR_CODE, Some("no_such_code")), "no_letter"),
        (Incoming { value: Some(Bytes::new()), ..of(Code::TooLarge) }, "not_whole"),
        (Incoming { value: None, ..of(Code::InvalidJson) }, "not_whole"),
        (with(of(Code::StageFailed), name::ORIGIN_OFFSET, None), "no_origin"),
        (with(of(Code::StageFailed), name::ORIGIN_TOPIC, Some("outcomes")), "unknown_origin"),
        (of(Code::Expired), "no_call"),
        (with(of(Code::InvalidJson), name::ORIGIN_TOPIC, Some("retry")), "no_call"),
        (with(of(Code::InvalidJson), name::REDRIVES, Some("3")), "max_redrives"),
    ];
    for (letter, why) in cases {
        assert_eq!(redrive(&letter, &routes(), NOW).expect_err(why).as_str(), why, "{letter:?}");
    }
    let elsewhere = Routes { parking: vec![("pager".into(), Topic::from("pager.retry"))], ..routes() };
    assert_eq!(redrive(&given_up(&stranger, Code::Expired), &elsewhere, NOW), Err(Stays::NoService("notifier".into())));
}

#[test]
fn an_event_that_looks_like_a_call_is_an_event() {
    // What a stage failed over, or nobody could read, is never taken for a call because of what a producer wrote.
    let parked = call(&decoded(&event(r#"{"camera_id":"cam"}"#, Headers::new())));
    let envelope = String::from_utf8(parked.value.clone().expect("a value").to_vec()).expect("text");
    for code in [Code::StageFailed, Code::InvalidField, Code::MissingField] {
        let back = redrive(&letter(&event(&envelope, parked.headers.clone()), code, &[]), &routes(), NOW).expect("it goes");
        assert_eq!(back.topic.as_str(), "events");
    }
}

#[test]
fn the_count_goes_with_the_event_into_its_calls() {
    let first = event(r#"{"camera_id":"cam"}"#, Headers::new());
    let mut record = first;
    for redrives in 1..=3 {
        let back = redrive(&letter(&record, Code::StageFailed, &[]), &routes(), NOW).expect("it goes");
        record = arrived(back, 100 + redrives);
        assert_eq!(record.headers.number(name::REDRIVES), Some(redrives));
        let parked = call(&decoded(&record));
        assert_eq!(parked.headers.number(name::REDRIVES), Some(redrives), "its call says so too");
        let call_back = redrive(&given_up(&parked, Code::Expired), &routes(), NOW);
        assert_eq!(call_back.is_ok(), redrives < 3, "{call_back:?}");
    }
    assert_eq!(redrive(&letter(&record, Code::StageFailed, &[]), &routes(), NOW), Err(Stays::Often { redrives: 3 }));
}

fn any_headers() -> impl Strategy<Value = Vec<(String, Option<Vec<u8>>)>> {
    let ours = proptest::sample::select(
        name::WRITTEN_HERE
            .iter()
            .copied()
            .chain(["__connect.errors.topic", "kafka_dlt-original-offset", "traceparent"])
            .collect::<Vec<_>>(),
    );
    let header = prop_oneof![3 => "[a-zA-Z0-9_-]{0,12}", 1 => ours.prop_map(str::to_owned)];
    proptest::collection::vec((header, proptest::option::of(proptest::collection::vec(any::<u8>(), 0..12))), 0..12)
}

proptest! {
    /// Whatever headers a record has: those that are not Fusebox's come back in order and untouched, none piles up, and a second round
    /// changes nothing but the count.
    #[test]
    fn headers_come_back(given in any_headers(), key in proptest::option::of("[a-z]{0,4}"), code in proptest::sample::select(Code::ALL.to_vec())) {
        let mut headers = Headers::new();
        for (name, value) in &given {
            headers.append(name.clone(), value.clone().map(Into::into));
        }
        headers.remove(name::REDRIVES);
        let first = Incoming { key: key.map(Into::into), ..event(r#"{"camera_id":"cam"}"#, headers) };
        let styles = [Style::Connect, Style::Spring];
        let Ok(back) = redrive(&letter(&first, code, &[]), &routes(), NOW) else { return Ok(()) };
        let theirs = |headers: &Headers| -> Vec<(String, Option<Vec<u8>>)> {
            let all = headers.iter().filter(|(name, _)| !name::WRITTEN_HERE.contains(name));
            all.map(|(name, value)| (name.to_owned(), value.map(|value| value.to_vec()))).collect()
        };
        prop_assert_eq!(theirs(&back.headers), theirs(&first.headers));
        prop_assert_eq!((&back.key, &back.value), (&first.key, &first.value));
        let again = arrived(back.clone(), 8);
        let twice = redrive(&letter(&again, code, &[]), &routes(), NOW).expect("twice");
        prop_assert_eq!(twice.headers.iter().len(), back.headers.iter().len());
        prop_assert_eq!(theirs(&twice.headers), theirs(&back.headers));
        prop_assert_eq!(twice.headers.number(name::REDRIVES), Some(2));
        // In other tools' words too: all of those are off again.
        let styled = redrive(&letter(&again, code, &styles), &routes(), NOW).expect("styled");
        let is_foreign = |name: &String| name.starts_with("__connect.errors.") || name.starts_with("kafka_dlt-");
        let mut rest = theirs(&back.headers);
        rest.retain(|(name, _)| !is_foreign(name));
        prop_assert_eq!(theirs(&styled.headers), rest);
    }
}

#[test]
fn a_call_that_keeps_order_goes_to_the_partition_of_its_events_number() {
    let first = decoded(&event(r#"{"camera_id":"cam"}"#, Headers::new()));
    let letter = given_up(&envelope::read(call(&first), NOW).expect("a call").record, Code::Expired);
    let ordered = Routes { ordered: ["notifier".to_owned()].into(), ..routes() };
    assert_eq!(redrive(&letter, &ordered, NOW).expect("it goes").partition, Some(first.source.partition));
    assert_eq!(redrive(&letter, &routes(), NOW).expect("it goes").partition, None, "its key chooses");
}
