//! CloudEvents in both modes.

use super::*;
use Code::{InvalidField, InvalidJson, MissingField, NotAnObject};

fn binary<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Incoming {
    with_headers(record(r#"{"camera_id":"c"}"#), headers)
}

fn structured(value: impl AsRef<[u8]>) -> Incoming {
    with_headers(record(value), [("content-type", "application/cloudevents+json")])
}

fn of_source(source: &str, id: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("{source}#{id}").as_bytes())
}

/// Whether the record was read with this id, or refused with this code and text.
fn check(record: &Incoming, expected: Result<Uuid, (Code, &str)>, name: &str) {
    match (read(record), expected) {
        (Ok(event), Ok(id)) => {
            assert_eq!(event.id, id, "{name}");
            assert!(text(&event.json).ends_with(r#","camera_id":"c"}"#), "{name}: {}", text(&event.json));
        }
        (Err(fault), Err((code, message))) => {
            assert_eq!(fault.code, code, "{name}: {fault}");
            assert!(fault.message.contains(message), "{name}: {fault}");
        }
        (found, expected) => panic!("{name}: {found:?} instead of {expected:?}"),
    }
}

#[test]
fn attributes_of_a_binary_event_fill_in_what_the_object_has_not() {
    let attributes = [
        ("ce_specversion", "1.0"),
        ("ce_id", "A-1"),
        ("ce_source", "/cams"),
        ("ce_type", "det\"x"),
        ("ce_time", "2026-01-02T03:04:05+01:00"),
    ];
    let event = read(&binary(attributes)).expect("readable");
    assert_eq!(event.id, of_source("/cams", "A-1"));
    let json: serde_json::Value = serde_json::from_slice(&event.json).expect("JSON");
    assert_eq!((&json["timestamp"], &json["event_type"]), (&"2026-01-02T02:04:05.000Z".into(), &"det\"x".into()));
    assert_eq!(json["id"], event.id.to_string());

    let own = concat!(
        r#"{"camera_id":"c","id":"67e55044-10b1-426f-9247-bb680e5fe0c8","timestamp":"2026-11-03T21:04:05Z","#,
        r#""event_type":"activity","recipients":[],"notification_channels":[]}"#
    );
    let event = read(&with_headers(record(own), attributes)).expect("readable");
    assert_eq!(text(&event.json), own);
}

#[test]
fn a_binary_event_is_read_or_refused() {
    let uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let known = Uuid::parse_str(uuid).expect("a UUID");
    for (headers, expected) in [
        (vec![("ce_specversion", "1.0"), ("ce_id", uuid)], Ok(known)),
        (vec![("ce_specversion", "1.0"), ("ce_id", "x")], Ok(of_source("", "x"))),
        (vec![("ce_specversion", "1.0"), ("ce_id", ""), ("ce_source", "/cams")], Ok(id_of_place())),
        (vec![("ce_specversion", "1.0")], Ok(id_of_place())),
        (vec![("ce_id", uuid)], Ok(id_of_place())),
        (vec![("ce_specversion", "0.3"), ("ce_specversion", "1.0"), ("ce_id", uuid)], Ok(known)),
        (vec![("ce_specversion", "1.0"), ("content-type", "application/json; charset=utf-8"), ("ce_id", uuid)], Ok(known)),
        (vec![("ce_specversion", "0.3")], Err((InvalidField, "field `specversion`: \"0.3\"; CloudEvents 1.0 is read"))),
        (vec![("ce_specversion", "9.9")], Err((InvalidField, "field `specversion`: \"9.9\""))),
        (vec![("ce_specversion", "")], Err((InvalidField, "field `specversion`: \"\""))),
        (vec![("ce_specversion", "1.0"), ("ce_time", "noon")], Err((InvalidField, "field `time`: \"noon\" is not RFC 3339"))),
        (vec![("ce_specversion", "1.0"), ("ce_time", "")], Err((InvalidField, "field `time`: \"\" is not RFC 3339"))),
    ] {
        check(&binary(headers.clone()), expected, &format!("{headers:?}"));
    }
    let mut not_text = record(r#"{"camera_id":"c"}"#);
    not_text.headers.append("ce_specversion", Some(Bytes::from_static(b"\xff")));
    check(&not_text, Err((InvalidField, "field `specversion`")), "a version that is not UTF-8");
    let tombstone = Incoming { value: None, ..binary([("ce_specversion", "1.0")]) };
    check(&tombstone, Err((InvalidJson, "a tombstone")), "no value");
}

#[test]
fn a_structured_event_is_read_or_refused() {
    let uuid = Uuid::from_u128(0x67e5_5044_10b1_426f_9247_bb68_0e5f_e0c8);
    for (value, expected) in [
        (r#"{"specversion":"1.0","id":"i","source":"s","data":{"camera_id":"c"}}"#, Ok(of_source("s", "i"))),
        (r#" {"specversion":"1.0","data": {"camera_id":"c"} , "extra":{"x":[1e3]}} "#, Ok(id_of_place())),
        (r#"{"specversion":"1.0","id":"","data":{"camera_id":"c"}}"#, Ok(id_of_place())),
        (r#"{"specversion":"1.\u0030","id":"67e55044-10b1-426f-9247-bb680e5fe0c8","data":{"camera_id":"c"}}"#, Ok(uuid)),
        (r#"{"specversion":"1.0","data_base64":"eyJjYW1lcmFfaWQiOiJjIn0="}"#, Ok(id_of_place())),
        (r#"{"specversion":"1.0","data":null,"data_base64":"eyJjYW1lcmFfaWQiOiJjIn0="}"#, Ok(id_of_place())),
        (r#"{"specversion":"0.3","data":{"camera_id":"c"}}"#, Err((InvalidField, "field `specversion`: \"0.3\""))),
        (r#"{"specversion":"9.9","data":{"camera_id":"c"}}"#, Err((InvalidField, "field `specversion`: \"9.9\""))),
        (r#"{"data":{"camera_id":"c"}}"#, Err((InvalidField, "field `specversion`: \"missing\""))),
        (r#"{"specversion":1.0,"data":{"camera_id":"c"}}"#, Err((InvalidField, "field `cloudevents`: invalid type: floating point"))),
        (r#"{"specversion":"1.0"}"#, Err((MissingField, "field `data` is missing from the structured CloudEvent"))),
        (r#"{"specversion":"1.0","data":null}"#, Err((MissingField, "field `data` is missing"))),
        (r#"{"specversion":"1.0","data":"{\"camera_id\":\"c\"}"}"#, Err((NotAnObject, "not an object"))),
        (r#"{"specversion":"1.0","data":[]}"#, Err((NotAnObject, "not an object"))),
        (r#"{"specversion":"1.0","data":{}}"#, Err((MissingField, "field `camera_id`"))),
        (r#"{"specversion":"1.0","data":{"camera_id":"c","x":1e999}}"#, Err((InvalidJson, "number out of range"))),
        (r#"{"specversion":"1.0","data_base64":"***"}"#, Err((InvalidField, "field `data_base64`: Invalid symbol"))),
        (r#"{"specversion":"1.0","data_base64":"/w=="}"#, Err((InvalidJson, "not UTF-8: byte 0 is wrong"))),
        (r#"{"specversion":"1.0","data_base64":""}"#, Err((InvalidJson, "the value is empty"))),
        (r#"{"specversion":"1.0","time":"noon","data":{"camera_id":"c"}}"#, Err((InvalidField, "field `time`: \"noon\""))),
        (r#"{"specversion":"1.0","id":7,"data":{"camera_id":"c"}}"#, Err((InvalidField, "field `cloudevents`: invalid type: integer `7`"))),
        (r#"["1.0","i","s","t",null,{"camera_id":"c"}]"#, Err((NotAnObject, "not an object"))),
        (r#""1.0""#, Err((NotAnObject, "not an object"))),
        ("", Err((InvalidJson, "the value is empty"))),
        ("{", Err((InvalidJson, "EOF"))),
        ("x", Err((InvalidJson, "expected value"))),
    ] {
        check(&structured(value), expected, value);
    }
}

#[test]
fn the_content_type_says_whether_an_event_is_structured() {
    let value = r#"{"specversion":"1.0","time":"2026-01-02T03:04:05Z","type":"t","data":{"camera_id":"inside"},"camera_id":"outside"}"#;
    for (kind, camera) in [
        ("application/cloudevents+json", "inside"),
        ("Application/CloudEvents+JSON", "inside"),
        ("application/cloudevents+json; charset=UTF-8", "inside"),
        (" application/cloudevents+json ;charset=utf-8", "inside"),
        ("application/cloudevents+jsonl", "outside"),
        ("application/json", "outside"),
        ("", "outside"),
    ] {
        let event = read(&with_headers(record(value), [("content-type", kind)])).unwrap_or_else(|fault| panic!("{kind}: {fault}"));
        assert_eq!(event.camera_id.as_ref(), camera, "{kind}");
        let filled = text(&event.json).contains(r#""timestamp":"2026-01-02T03:04:05.000Z","event_type":"t""#);
        assert_eq!(filled, camera == "inside", "{kind}: {}", text(&event.json));
    }
}
