use proptest::prelude::*;

use super::*;
use crate::event::decode::decode;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const FIRST: Parking =
    Parking { reason: Reason::CircuitOpen, attempt: 0, parks: 1, not_before: UnixMillis(1_800_000_001_000), first_parked_at: NOW };

fn topic() -> Topic {
    Topic::from("surveillance.notifications.retry")
}

fn event() -> Event {
    let mut headers = Headers::new();
    headers.append("traceparent", Some("00-trace".into()));
    headers.append("somebody-elses", Some("x".into()));
    let record = Incoming {
        source: source("surveillance.events", 3, 7),
        key: Some("key".into()),
        value: Some(r#"{"camera_id":"cam \"1\"","id":"67e55044-10b1-426f-9247-bb680e5fe0c8"}"#.into()),
        headers,
        timestamp: Some(NOW),
    };
    decode(&record, 1024, NOW).expect("readable")
}

fn source(topic: &str, partition: i32, offset: i64) -> Source {
    Source { topic: Topic::from(topic), partition: Partition(partition), offset: Offset(offset) }
}

fn parked(parking: Parking) -> Record {
    let event = event();
    let body = Bytes::from_static(br#"{"n":1.50,"big":123456789012345678901234567890}"#);
    let results = [("rag", Bytes::from_static(b"{\"z\":1,\"a\":2}")), ("rule \"gen\"", Bytes::from_static(b"[null]"))];
    let key = idempotency_key(event.id, "notifier");
    let call = Call {
        service: "notifier",
        event: &event,
        method: "POST",
        path: "/notify?a=b",
        idempotency_key: &key,
        body: &body,
        results: &results,
    };
    park(&topic(), &call, parking, NOW)
}

/// The record as a consumer of the retry topic reads it.
fn arrived(record: Record, offset: i64) -> Incoming {
    Incoming {
        source: source(record.topic.as_str(), 0, offset),
        key: record.key,
        value: record.value,
        headers: record.headers,
        timestamp: Some(record.timestamp),
    }
}

fn headers(headers: &Headers) -> Vec<(String, String)> {
    let text = |value: Option<&Bytes>| value.map_or_else(|| "null".to_owned(), |value| String::from_utf8_lossy(value).into_owned());
    headers.iter().map(|(name, value)| (name.to_owned(), text(value))).collect()
}

#[test]
fn a_parked_call_is_read_as_it_was_parked() {
    let record = parked(FIRST);
    assert_eq!((&record.topic, record.timestamp, record.key.as_deref()), (&topic(), NOW, Some(&b"key"[..])));
    assert_eq!(
        record.value.as_deref().map(String::from_utf8_lossy).as_deref(),
        Some(concat!(
            r#"{"version":1,"service":"notifier","event_id":"67e55044-10b1-426f-9247-bb680e5fe0c8","camera_id":"cam \"1\"","#,
            r#""request":{"method":"POST","path":"/notify?a=b","idempotency_key":"67e55044-10b1-426f-9247-bb680e5fe0c8/notifier","#,
            r#""body":{"n":1.50,"big":123456789012345678901234567890}},"results":{"rag":{"z":1,"a":2},"rule \"gen\"":[null]}}"#
        ))
    );
    let incoming = arrived(record, 40);
    let value = incoming.value.clone().expect("a value");
    let call = read(incoming, NOW).expect("an envelope");
    assert_eq!((call.service.as_ref(), call.camera_id.as_ref()), ("notifier", "cam \"1\""));
    assert_eq!((call.event_id, call.idempotency_key.as_ref()), (event().id, idempotency_key(event().id, "notifier").as_str()));
    assert_eq!((call.origin.clone(), call.parking), (source("surveillance.events", 3, 7), FIRST));
    assert_eq!(&*call.body, br#"{"n":1.50,"big":123456789012345678901234567890}"#);
    assert_eq!(call.trace().collect::<Vec<_>>(), [("traceparent", &Bytes::from_static(b"00-trace"))]);
    // The body is a part of the value that was read, not a copy.
    assert!(value.as_ptr_range().contains(&call.body.as_ptr()));
}

#[test]
fn headers_are_replaced_and_not_piled_up_over_ten_hops() {
    let mut record = parked(FIRST);
    let mut first = record.headers.clone();
    // A copy says where the call was parked first, and copies of it say the same.
    let place = arrived(record.clone(), 1).source;
    first.set(name::FIRST_PARKED_PARTITION, place.partition.0.to_string());
    first.set(name::FIRST_PARKED_OFFSET, place.offset.0.to_string());
    let first = headers(&first);
    let names = |headers: &[(String, String)]| {
        let mut names: Vec<_> = headers.iter().map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    };
    for hop in 1..=10 {
        let call = read(arrived(record, i64::from(hop)), UnixMillis(1)).expect("an envelope");
        let reason = Reason::ALL[hop as usize % Reason::ALL.len()];
        let at = UnixMillis(NOW.0 + i64::from(hop));
        let parking = Parking { reason, attempt: hop, parks: hop + 1, not_before: at, ..call.parking };
        record = call.again(parking, at);
        assert_eq!(names(&headers(&record.headers)), names(&first), "hop {hop}");
        let read = read(arrived(record.clone(), 99), UnixMillis(1)).expect("an envelope");
        assert_eq!(read.first, (place.partition, place.offset), "hop {hop}");
        assert_eq!((read.parking, read.origin, record.timestamp), (parking, source("surveillance.events", 3, 7), at), "hop {hop}");
    }
    assert_eq!((record.value, record.key), (parked(FIRST).value, parked(FIRST).key));
    assert_eq!(record.topic, topic());
}

#[test]
fn headers_that_a_broken_writer_piled_up_are_cleared() {
    let mut incoming = arrived(parked(FIRST), 1);
    incoming.headers.append(name::ATTEMPT, Some("5".into()));
    incoming.headers.append(name::PARKS, Some("6".into()));
    let call = read(incoming, UnixMillis(1)).expect("an envelope");
    assert_eq!((call.parking.attempt, call.parking.parks), (5, 6));
    let again = call.again(Parking { attempt: 6, ..call.parking }, NOW);
    let attempts: Vec<_> = headers(&again.headers).into_iter().filter(|(there, _)| there == name::ATTEMPT).collect();
    assert_eq!(attempts, [(name::ATTEMPT.to_owned(), "6".to_owned())]);
}

#[test]
fn headers_that_are_missing_or_wrong_have_defaults() {
    const LATER: UnixMillis = UnixMillis(NOW.0 + 9);
    let bare = |timestamp| Incoming { headers: Headers::new(), timestamp, ..arrived(parked(FIRST), 40) };
    for (timestamp, at) in [(Some(NOW), NOW), (None, LATER), (Some(UnixMillis(0)), LATER), (Some(UnixMillis(-1)), LATER)] {
        let call = read(bare(timestamp), LATER).expect("an envelope");
        let parking = Parking { reason: Reason::CircuitOpen, attempt: 0, parks: 1, not_before: at, first_parked_at: at };
        assert_eq!(call.parking, parking, "{timestamp:?}");
        assert_eq!(call.origin, source("surveillance.notifications.retry", 0, 40), "{timestamp:?}");
        assert_eq!(call.trace().count(), 0);
    }
    for (header, value) in [
        (name::REASON, "because"),
        (name::ATTEMPT, "-1"),
        (name::ATTEMPT, "4294967296"),
        (name::PARKS, ""),
        (name::NOT_BEFORE, "soon"),
        (name::ORIGIN_PARTITION, "three"),
        (name::ORIGIN_OFFSET, "\u{7f}"),
    ] {
        let mut incoming = arrived(parked(FIRST), 40);
        incoming.headers.set(header, value);
        let call = read(incoming, LATER).expect("an envelope");
        let expected = if header == name::NOT_BEFORE { Parking { not_before: FIRST.first_parked_at, ..FIRST } } else { FIRST };
        assert_eq!(call.parking, expected, "{header}: {value}");
        let origin = if header.starts_with("fusebox-origin") {
            source("surveillance.notifications.retry", 0, 40)
        } else {
            source("surveillance.events", 3, 7)
        };
        assert_eq!(call.origin, origin, "{header}: {value}");
    }
}

#[test]
fn what_is_no_envelope_is_handed_back_with_the_reason() {
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let request = r#"{"method":"POST","path":"/","idempotency_key":"k","body":{}}"#;
    let with = |more: &str| format!(r#"{{"version":1,"service":"notifier","event_id":"{id}","camera_id":"c"{more}}}"#);
    for (value, code, message) in [
        (None, Code::InvalidJson, "the value is null; a parked call's envelope is expected"),
        (Some(String::new()), Code::InvalidJson, "EOF while parsing"),
        (Some("hello".to_owned()), Code::InvalidJson, "the value is not JSON: expected value"),
        (Some("{".to_owned()), Code::InvalidJson, "EOF while parsing"),
        (Some("[]".to_owned()), Code::NotAnObject, "not an object; a parked call's envelope is expected"),
        (Some("null".to_owned()), Code::NotAnObject, "not an object"),
        (Some(format!(r#"[1,"notifier","{id}","c",["POST","/","k",{{}}],{{}}]"#)), Code::NotAnObject, "not an object"),
        (Some("{}".to_owned()), Code::InvalidField, "field `envelope`: missing field `version`"),
        (Some(r#"{"camera_id":"c"}"#.to_owned()), Code::InvalidField, "missing field `version`"),
        (Some(r#"{"version":"1"}"#.to_owned()), Code::InvalidField, "invalid type: string"),
        (Some(r#"{"version":-1}"#.to_owned()), Code::InvalidField, "invalid value: integer `-1`"),
        (Some(r#"{"version":0}"#.to_owned()), Code::InvalidField, "field `version`: 0; version 1 is read here"),
        (Some(r#"{"version":2,"call":{"to":"notifier"}}"#.to_owned()), Code::InvalidField, "field `version`: 2; version 1 is read here"),
        (Some(with("").replace(":1,", ":2,")), Code::InvalidField, "field `version`: 2"),
        (Some(with("")), Code::InvalidField, "missing field `request`"),
        (Some(with(r#","request":null"#)), Code::InvalidField, "invalid type: null, expected an object"),
        (Some(with(r#","request":["POST","/","k",{}]"#)), Code::InvalidField, "invalid type: sequence, expected an object"),
        (Some(with(r#","request":{"method":"POST","path":"/","idempotency_key":"k"}"#)), Code::InvalidField, "missing field `body`"),
        (Some(with(&format!(r#","request":{request},"results":[]"#))), Code::InvalidField, "invalid type: sequence, expected an object"),
        (Some(with(&format!(r#","request":{request}"#)).replace(id, "x")), Code::InvalidField, "UUID parsing failed"),
        (Some(format!("{} ]", with(&format!(r#","request":{request}"#)))), Code::InvalidJson, "trailing characters"),
    ] {
        let incoming = Incoming { value: value.clone().map(Bytes::from), ..arrived(parked(FIRST), 40) };
        let (back, fault) = read(incoming, NOW).expect_err("no envelope");
        assert_eq!(back.value, value.clone().map(Bytes::from));
        assert_eq!(fault.code, code, "{value:?}: {fault}");
        assert!(fault.message.contains(message), "{value:?}: {fault}");
    }
    let fewest = with(&format!(r#","request":{request},"and":"more""#));
    assert!(read(Incoming { value: Some(fewest.into()), ..arrived(parked(FIRST), 40) }, NOW).is_ok());
}

#[test]
fn an_envelope_damaged_anywhere_has_an_answer() {
    let whole = parked(FIRST).value.expect("a value");
    for end in 0..whole.len() {
        let incoming = Incoming { value: Some(whole.slice(..end)), ..arrived(parked(FIRST), 40) };
        assert_eq!(read(incoming, NOW).map(|_| ()).map_err(|(_, fault)| fault.code), Err(Code::InvalidJson), "cut off at {end}");
    }
    for at in 0..whole.len() {
        let mut damaged = whole.to_vec();
        damaged[at] = 0xff;
        let incoming = Incoming { value: Some(damaged.into()), ..arrived(parked(FIRST), 40) };
        assert!(read(incoming, NOW).is_err(), "damaged at {at}");
    }
}

/// The value as serde writes it.
fn by_serde(call: &Call<'_>) -> Vec<u8> {
    let envelope = Envelope {
        version: VERSION,
        service: call.service.into(),
        event_id: call.event.id,
        camera_id: Cow::Borrowed(&call.event.camera_id),
        request: Object(Request {
            method: call.method.into(),
            path: call.path.into(),
            idempotency_key: call.idempotency_key.into(),
            body: serde_json::from_slice(call.body).expect("JSON"),
        }),
        results: call
            .results
            .iter()
            .map(|(service, data)| (Cow::Borrowed(*service), serde_json::from_slice(data).expect("JSON")))
            .collect(),
    };
    serde_json::to_vec(&envelope).expect("JSON")
}

proptest! {
    #[test]
    fn an_envelope_is_written_as_serde_writes_it(
        (service, camera, method, path, key) in (any::<String>(), any::<String>(), "[A-Z]{3,5}", any::<String>(), any::<String>()),
        id in any::<u128>(),
        body in json(),
        results in proptest::collection::vec((any::<String>(), json()), 0..4),
    ) {
        let event = Event { id: Uuid::from_u128(id), camera_id: camera.into(), ..event() };
        let results: Vec<_> = results.iter().map(|(service, data)| (service.as_str(), data.clone())).collect();
        let call = Call { service: &service, event: &event, method: &method, path: &path, idempotency_key: &key, body: &body, results: &results };
        let record = park(&topic(), &call, FIRST, NOW);
        let expected = by_serde(&call);
        prop_assert_eq!(record.value.as_deref().map(String::from_utf8_lossy), Some(String::from_utf8_lossy(&expected)));
        prop_assert_eq!(record.headers.text(name::SERVICE), Some(service.as_str()));
    }
}

/// A piece of JSON, with white space inside that nobody may take out.
fn json() -> impl Strategy<Value = Bytes> {
    let text = any::<String>().prop_map(|text| serde_json::Value::from(text).to_string());
    let members = proptest::collection::vec((text.clone(), any::<i32>()), 0..4);
    let object = members.prop_map(|members| {
        let members: Vec<String> = members.iter().map(|(name, value)| format!("{name} :\t{value}.50")).collect();
        format!("{{{}}}", members.join(" , "))
    });
    prop_oneof![Just("null".to_owned()), text, object].prop_map(Bytes::from)
}

#[test]
fn every_reason_is_read_by_its_name() {
    for reason in Reason::ALL {
        assert_eq!(Reason::parse(reason.as_str()), Some(reason));
    }
    assert_eq!(Reason::parse("Timeout"), None);
}
