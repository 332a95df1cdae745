//! Any bytes have an answer, and any readable object is handed on whole.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::event::known::{Lies, NAMES};

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(any::<String>(), inner, 0..5).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// Members that are known only to somebody else.
fn others() -> impl Strategy<Value = Map<String, Value>> {
    const KNOWN: [&str; 9] =
        ["id", "timestamp", "camera_id", "event_type", "label", "detections", "metadata", "notification_channels", "recipients"];
    let name = any::<String>().prop_filter("a field of ours", |name| !KNOWN.contains(&name.as_str()));
    proptest::collection::btree_map(name, value(), 0..6).prop_map(|map| map.into_iter().collect())
}

const TOKENS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u",
    "d800",
    "null",
    "true",
    "1",
    "-",
    "1e999",
    ".5",
    " ",
    "\n",
    "\"camera_id\":",
    "\"c\"",
    "\"id\":",
    "\"detections\":",
    "\"metadata\":",
    "\"recipients\":",
    "\"x\":",
    "\u{feff}",
    "é",
    "\0",
    "\"specversion\":\"1.0\"",
    "\"data\":",
];

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..64),
        proptest::collection::vec(proptest::sample::select(TOKENS), 0..24).prop_map(|tokens| tokens.concat().into_bytes()),
        // Mostly well-formed, so that some are readable.
        proptest::collection::vec(proptest::sample::select(TOKENS), 0..3).prop_map(|tokens| format!(
            r#"{{"camera_id":"c","x":{}}}"#,
            tokens.concat()
        )
        .into_bytes()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_have_an_answer(
        bytes in bytes(),
        kind in proptest::option::of(proptest::sample::select(&["application/cloudevents+json", "application/json"][..])),
        version in proptest::option::of(proptest::sample::select(&["1.0", "0.3"][..])),
    ) {
        let mut record = record(&bytes);
        for (name, value) in [("content-type", kind), ("ce_specversion", version)] {
            if let Some(value) = value {
                record.headers.append(name, Some(value.into()));
            }
        }
        match read(&record) {
            Ok(event) => {
                let json: Value = serde_json::from_slice(&event.json).expect("what is handed on is JSON");
                prop_assert_eq!(json["camera_id"].as_str(), Some(&*event.camera_id));
            }
            Err(fault) => prop_assert!(!fault.message.is_empty()),
        }
    }

    #[test]
    fn an_object_with_a_camera_is_handed_on_whole(
        mut object in others(),
        camera in "\\PC{1,8}",
        label in proptest::option::of("\\PC{0,8}"),
        recipients in proptest::option::of(proptest::collection::vec("\\PC{0,8}", 0..3)),
        metadata in proptest::option::of(others()),
        confidence in proptest::option::of(0.0..=1.0_f64),
        pretty in any::<bool>(),
    ) {
        object.insert("camera_id".to_owned(), json!(camera));
        object.insert("label".to_owned(), json!(label));
        object.insert("recipients".to_owned(), json!(recipients));
        object.insert("metadata".to_owned(), json!(metadata));
        object.insert("detections".to_owned(), json!([{ "confidence": confidence }]));
        let value = Value::Object(object);
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.expect("JSON");
        // Through text once: a number is what its text says.
        let mut expected: Value = serde_json::from_str(&text).expect("JSON");
        expected["id"] = json!(id_of_place());
        expected["timestamp"] = json!("2026-11-03T21:04:05.678Z");
        expected["notification_channels"] = json!(["email"]);
        expected["recipients"] = json!(recipients.unwrap_or_default());

        for null in ["label", "metadata"] {
            if expected[null].is_null() {
                expected.as_object_mut().expect("an object").remove(null);
            }
        }

        let event = read(&record(&text)).expect("readable");
        let found: Value = serde_json::from_slice(&event.json).expect("JSON");
        prop_assert_eq!(found, expected);
        prop_assert_eq!(&*event.key, camera.as_bytes());
    }

    /// In any order, some of them twice, some absent, with white space and with names that are written with escapes.
    #[test]
    fn known_members_lie_where_a_parser_finds_them(
        members in proptest::collection::vec((0..COMPLETE.len(), any::<bool>()), 0..8),
        whole in any::<bool>(),
    ) {
        let all = if whole { COMPLETE } else { &COMPLETE[..5] };
        let members: Vec<String> = (0..all.len()).map(|number| (number, false)).chain(members)
            .filter_map(|(number, escaped)| all.get(number).map(|(name, value)| (name, value, escaped)))
            .map(|(name, value, escaped)| {
                let first = format!("\\u{:04x}", name.as_bytes()[0]);
                format!("\t\"{}{}\" : {value}", if escaped { &first } else { &name[..1] }, &name[1..])
            })
            .collect();
        let event = read(&record(format!(" {{{}\n}} ", members.join(",")).as_bytes())).expect("readable");
        let text = std::str::from_utf8(&event.json).expect("text");
        let parsed: Map<String, Value> = serde_json::from_str(text).expect("an object");
        for name in NAMES {
            match event.known.lies(name) {
                Lies::Unknown => prop_assert!(!whole, "{}: nothing was filled in", name),
                Lies::Nowhere => prop_assert_eq!(parsed.get(name), None),
                Lies::At(range) => prop_assert_eq!(parsed.get(name), Some(&serde_json::from_str(&text[range]).expect("JSON"))),
            }
        }
    }
}

/// Members of an event. With the first five alone something is filled in.
const COMPLETE: &[(&str, &str)] = &[
    ("camera_id", "\"c\""),
    ("site", "{\"id\": [1]}"),
    ("label", "\"\\u00fc\""),
    ("metadata", "{ \"id\" : \"not this\" }"),
    ("detections", "[{\"confidence\":0.50}]"),
    ("id", "\"67e55044-10b1-426f-9247-bb680e5fe0c8\""),
    ("timestamp", "\"2026-11-03T21:04:05.678Z\""),
    ("notification_channels", "[\"sms\"]"),
    ("recipients", "[ ]"),
    ("event_type", "\"motion\""),
    ("activity", "{\"walking\":true}"),
    ("query", "\"who?\""),
];
