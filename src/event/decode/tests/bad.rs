//! Every unreadable value has a code and a sentence that says what and where.

use super::*;
use Code::{InvalidField, InvalidJson, MissingField, NotAnObject, TooLarge};

#[test]
fn what_cannot_be_read_says_why() {
    for (value, code, message) in [
        ("", InvalidJson, "the value is empty; a JSON object is expected"),
        (" \n\t\r ", InvalidJson, "the value is empty"),
        ("camera", InvalidJson, "expected value at line 1 column 1"),
        ("{", InvalidJson, "EOF while parsing"),
        ("{camera_id:1}", InvalidJson, "key must be a string at line 1 column 2"),
        ("{'camera_id':'c'}", InvalidJson, "key must be a string"),
        (r#"{"camera_id":"c",}"#, InvalidJson, "trailing comma"),
        (r#"{"camera_id":"c"} x"#, InvalidJson, "trailing characters at line 1 column 19"),
        (r#"{"camera_id":"c"}{"camera_id":"d"}"#, InvalidJson, "trailing characters"),
        ("{\"camera_id\":\"c\"}\0", InvalidJson, "trailing characters"),
        ("\0", InvalidJson, "expected value"),
        ("\u{feff}{\"camera_id\":\"c\"}", InvalidJson, "expected value at line 1 column 1"),
        ("{\"camera_id\":\"a\0b\"}", InvalidJson, "control character"),
        ("{\"camera_id\":\"a\nb\"}", InvalidJson, "control character"),
        ("\x0c{\"camera_id\":\"c\"}", InvalidJson, "expected value"),
        ("[]", NotAnObject, "the value is JSON, but not an object"),
        (r#"[{"camera_id":"c"}]"#, NotAnObject, "not an object"),
        (r#""camera_id""#, NotAnObject, "not an object"),
        ("17", NotAnObject, "not an object"),
        ("null", NotAnObject, "not an object"),
        ("true", NotAnObject, "not an object"),
        ("[1,", InvalidJson, "EOF while parsing"),
        ("NaN", InvalidJson, "expected value"),
        ("1e999", InvalidJson, "number out of range"),
        ("{}", MissingField, "field `camera_id` is missing; it names the camera and must not be empty"),
        (r#"{"camera":"c"}"#, MissingField, "field `camera_id` is missing"),
        (r#"{"camera_id":null}"#, MissingField, "field `camera_id` is missing"),
        (r#"{"camera_id":""}"#, InvalidField, "field `camera_id`: it is empty"),
        (r#"{"camera_id":7}"#, InvalidField, "field `camera_id`: invalid type: integer `7`, expected a string"),
        (r#"{"camera_id":["c"]}"#, InvalidField, "field `camera_id`: invalid type: sequence, expected a string"),
        (r#"{"camera_id":{}}"#, InvalidField, "field `camera_id`: invalid type: map, expected a string"),
        (r#"{"camera_id":"\ud800"}"#, InvalidJson, "field `camera_id`"),
        (r#"{"camera_id":"c","x":"\udfff"}"#, InvalidJson, "lone leading surrogate in hex escape"),
        (r#"{"camera_id":"c","\ud800":1}"#, InvalidJson, "hex escape"),
        (r#"{"camera_id":"c","metadata":{"x":"\ud800"}}"#, InvalidJson, "field `metadata`"),
        (r#"{"camera_id":"c","x":"\q"}"#, InvalidJson, "invalid escape"),
        (r#"{"camera_id":"c","x":01}"#, InvalidJson, "invalid number"),
        (r#"{"camera_id":"c","x":1e999}"#, InvalidJson, "number out of range"),
        (r#"{"camera_id":"c","x":[{"y":-1e999}]}"#, InvalidJson, "number out of range"),
        (r#"{"camera_id":"c","metadata":{"x":1e999}}"#, InvalidJson, "field `metadata`: number out of range"),
        (r#"{"camera_id":"c","metadata":1e999,"metadata":{}}"#, InvalidJson, "number out of range"),
        (r#"{"camera_id":"c","recipients":["\ud800"],"recipients":[]}"#, InvalidJson, "hex escape"),
        (r#"{"camera_id":"c","id":"nonsense"}"#, InvalidField, "field `id`: UUID parsing failed"),
        (r#"{"camera_id":"c","id":""}"#, InvalidField, "field `id`: UUID parsing failed"),
        (r#"{"camera_id":"c","id":17}"#, InvalidField, "field `id`: invalid type: integer `17`"),
        (r#"{"camera_id":"c","timestamp":"yesterday"}"#, InvalidField, r#"field `timestamp`: "yesterday" is not RFC 3339"#),
        (r#"{"camera_id":"c","timestamp":""}"#, InvalidField, "is not RFC 3339"),
        (r#"{"camera_id":"c","timestamp":"2026-11-03"}"#, InvalidField, "is not RFC 3339"),
        (r#"{"camera_id":"c","timestamp":"2026-11-03T21:04:05"}"#, InvalidField, "is not RFC 3339"),
        (r#"{"camera_id":"c","timestamp":"2026-02-30T00:00:00Z"}"#, InvalidField, "is not RFC 3339"),
        (r#"{"camera_id":"c","timestamp":"2026-11-03T25:00:00Z"}"#, InvalidField, "is not RFC 3339"),
        (r#"{"camera_id":"c","timestamp":"20261103T210405Z"}"#, InvalidField, "is not RFC 3339"),
        (r#"{"camera_id":"c","timestamp":"2026-11-03T21:04:05+0100"}"#, InvalidField, "is not RFC 3339"),
        (r#"{"camera_id":"c","timestamp":"2026-11-03T21:04Z"}"#, InvalidField, "is not RFC 3339"),
        (r#"{"camera_id":"c","timestamp":"2026-11-03T21:04:05+01:00[Europe/Paris]"}"#, InvalidField, "is not RFC 3339"),
        (r#"{"camera_id":"c","timestamp":1793739845}"#, InvalidField, "field `timestamp`: invalid type: integer"),
        (r#"{"camera_id":"c","event_type":["detection"]}"#, InvalidField, "field `event_type`: invalid type: sequence"),
        (r#"{"camera_id":"c","label":1}"#, InvalidField, "field `label`: invalid type: integer `1`, expected a string"),
        (r#"{"camera_id":"c","recipients":"a@b.c"}"#, InvalidField, "field `recipients`: invalid type: string"),
        (r#"{"camera_id":"c","recipients":[null]}"#, InvalidField, "field `recipients`: invalid type: null, expected a string"),
        (r#"{"camera_id":"c","recipients":{"0":"a"}}"#, InvalidField, "field `recipients`: invalid type: map"),
        (r#"{"camera_id":"c","notification_channels":[1]}"#, InvalidField, "field `notification_channels`: invalid type: integer"),
        (r#"{"camera_id":"c","metadata":[]}"#, InvalidField, "field `metadata`"),
        (r#"{"camera_id":"c","metadata":"x"}"#, InvalidField, "field `metadata`"),
        (r#"{"camera_id":"c","detections":{}}"#, InvalidField, "field `detections`: invalid type: map, expected a sequence"),
        (r#"{"camera_id":"c","detections":[1]}"#, InvalidField, "field `detections`: invalid type: integer `1`, expected an object"),
        (r#"{"camera_id":"c","detections":[null]}"#, InvalidField, "field `detections`"),
        (
            r#"{"camera_id":"c","detections":[["car",0.5,null]]}"#,
            InvalidField,
            "field `detections`: invalid type: sequence, expected an object",
        ),
        (r#"{"camera_id":"c","detections":[{"label":1}]}"#, InvalidField, "field `detections`: invalid type: integer `1`"),
        (
            r#"{"camera_id":"c","detections":[{},{"confidence":1.5}]}"#,
            InvalidField,
            "the confidence of number 1 is 1.5; it must lie between 0 and 1",
        ),
        (r#"{"camera_id":"c","detections":[{"confidence":-0.1}]}"#, InvalidField, "the confidence of number 0 is -0.1"),
        (r#"{"camera_id":"c","detections":[{"confidence":"0.5"}]}"#, InvalidField, "field `detections`: invalid type: string"),
        (r#"{"camera_id":"c","detections":[{"confidence":1e999}]}"#, InvalidJson, "field `detections`: number out of range"),
        (r#"{"camera_id":"c","detections":[{"bounding_box":[1,2,3,4]}]}"#, InvalidField, "invalid type: sequence, expected an object"),
        (r#"{"camera_id":"c","detections":[{"bounding_box":{"x_min":"1"}}]}"#, InvalidField, "field `detections`: invalid type: string"),
        (r#"{"camera_id":"c","detections":[{"label":"a","label":"b"}]}"#, InvalidField, "field `detections`: duplicate field `label`"),
    ] {
        let (found, said) = fault(value);
        assert_eq!(found, code, "{value:?}: {said}");
        assert!(said.contains(message), "{value:?}: {said}");
    }
}

#[test]
fn a_tombstone_is_unreadable() {
    let tombstone = Incoming { value: None, ..record("") };
    let fault = read(&tombstone).expect_err("nothing to read");
    assert_eq!((fault.code, fault.message.as_str()), (InvalidJson, "the value is null (a tombstone); a JSON object is expected"));
}

#[test]
fn a_value_cut_off_anywhere_is_unreadable() {
    let whole =
        r#"{"camera_id":"c","id":"67e55044-10b1-426f-9247-bb680e5fe0c8","detections":[{"label":"é\u00e9","confidence":0.5}],"x":null}"#;
    assert!(read(&record(whole)).is_ok());
    for end in 0..whole.len() {
        assert_eq!(fault(&whole.as_bytes()[..end]).0, InvalidJson, "cut off at byte {end}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_unreadable_wherever_they_are() {
    let whole = br#"{"camera_id":"cam","k":"value","metadata":{"m":"v"},"recipients":["r"]}"#;
    for at in 0..whole.len() {
        for wrong in [0x80, 0xff, 0xc0] {
            let mut value = whole.to_vec();
            value[at] = wrong;
            assert_eq!(fault(&value), (InvalidJson, format!("the value is not UTF-8: byte {at} is wrong")));
        }
    }
    // An encoded surrogate, and a character that is cut off.
    for wrong in [&b"\xed\xa0\x80"[..], b"\xf0\x9f\x98"] {
        assert_eq!(fault([&br#"{"camera_id":"#[..], wrong, b"}"].concat()).0, InvalidJson);
    }
}

#[test]
fn a_nesting_that_is_too_deep_is_unreadable_wherever_it_is() {
    for (before, after) in [
        (r#"{"camera_id":"c","x":"#, "}"),
        (r#"{"camera_id":"c","metadata":{"x":"#, "}}"),
        (r#"{"camera_id":"c","detections":[{"x":"#, "}]}"),
        ("", ""),
    ] {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let outer = before.matches(['{', '[']).count();
            for (depth, too_deep) in [(MAX_DEPTH - outer, false), (MAX_DEPTH + 1 - outer, true), (10_000, true)] {
                let answer = read(&record(format!("{before}{}1{}{after}", open.repeat(depth), close.repeat(depth))));
                let fault = answer.as_ref().err().filter(|fault| fault.message.contains("recursion limit exceeded"));
                assert_eq!(fault.map(|fault| fault.code), too_deep.then_some(InvalidJson), "{before}, {depth} times {open}: {answer:?}");
            }
        }
    }
    // Of two values of one name the first is handed on as well.
    let earlier = format!(r#"{{"camera_id":"c","metadata":{}{},"metadata":{{}}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(fault(earlier).0, InvalidJson);
    // A field that holds text is not read into any depth.
    assert_eq!(fault(format!(r#"{{"camera_id":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000))).0, InvalidField);
}

#[test]
fn a_value_over_the_bound_is_not_looked_at() {
    let large = format!(r#"{{"camera_id":"c","x":"{}"}}"#, "x".repeat(2 * 1024 * 1024));
    let expected = format!("the value has {} bytes; at most 1048576 are read (processing.max_event_bytes)", large.len());
    assert_eq!(fault(&large), (TooLarge, expected));
    assert!(decode(&record(&large), large.len(), NOW).is_ok());
    assert_eq!(decode(&record(&large), large.len() - 1, NOW).map(|_| ()).map_err(|fault| fault.code), Err(TooLarge));
}

#[test]
fn a_long_wrong_value_is_not_repeated_at_length() {
    let long = "é".repeat(100_000);
    for value in [
        format!(r#"{{"camera_id":"c","recipients":"{long}"}}"#),
        format!(r#"{{"camera_id":"c","timestamp":"{long}"}}"#),
        format!(r#"{{"camera_id":"c","detections":[{{"confidence":"{long}"}}]}}"#),
    ] {
        let (code, message) = fault(value);
        assert_eq!(code, InvalidField);
        assert!(message.chars().count() <= 301 && message.contains('…'), "{message}");
    }
}
