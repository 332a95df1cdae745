//! What a readable value becomes.

use super::*;

#[test]
fn what_is_absent_or_null_is_filled_in_before_what_is_written() {
    let id = format!(r#""id":"{}""#, id_of_place());
    let at = r#""timestamp":"2026-11-03T21:04:05.678Z""#;
    let (channels, recipients) = (r#""notification_channels":["email"]"#, r#""recipients":[]"#);
    let all = format!("{id},{at},{channels},{recipients}");
    for (value, json) in [
        (r#"{"camera_id":"c"}"#, format!(r#"{{{all},"camera_id":"c"}}"#)),
        (" \n{ \t\"camera_id\" : \"c\" } \r\n", format!("{{{all},\"camera_id\" : \"c\" }}")),
        (r#"{"camera_id":"c","recipients":null,"x":[ 1 ]}"#, format!(r#"{{{all},"camera_id":"c","x":[ 1 ]}}"#)),
        (
            r#"{"id":null,"timestamp":null,"camera_id":"c","recipients":["r"],"notification_channels":null}"#,
            format!(r#"{{{id},{at},{channels},"camera_id":"c","recipients":["r"]}}"#),
        ),
        // Of a name that stands twice the last value counts.
        (r#"{"recipients":["r"],"camera_id":"c","recipients":null}"#, format!(r#"{{{all},"camera_id":"c"}}"#)),
        (
            r#"{"recipients":null,"camera_id":"c","recipients":["r"]}"#,
            format!(r#"{{{id},{at},{channels},"recipients":null,"camera_id":"c","recipients":["r"]}}"#),
        ),
        (
            r#"{"camera_id":"a","camera_id":"c","label":null,"detections":null,"metadata":null,"event_type":null}"#,
            // A null says what an absence says; handed on, it would be neither to an expression.
            format!(r#"{{{all},"camera_id":"a","camera_id":"c"}}"#),
        ),
        (r#"{"\u0063amera_id":"c","k\"\u00e9":null,"recipients":null}"#, format!(r#"{{{all},"camera_id":"c","k\"é":null}}"#)),
    ] {
        let event = read(&record(value)).unwrap_or_else(|fault| panic!("{value}: {fault}"));
        assert_eq!(text(&event.json), json, "{value}");
        assert_eq!((event.id, event.camera_id.as_ref(), &*event.key), (id_of_place(), "c", &b"c"[..]), "{value}");
    }
}

#[test]
fn what_is_written_is_kept_as_it_is_written() {
    let digits = format!(r#""n":{}"#, "1234567890".repeat(10));
    for member in [
        digits.as_str(),
        r#""n":-0.0,"m":1.50,"l":1E2,"k":1e-999"#,
        r#""x":"\u0000 \ud83d\ude00 \/ é""#,
        r#""x":{"x":{"x":[{},[],""]}}"#,
        r#""event_type":"a thing of its own","label":"","activity":{"y":1},"query":"who?""#,
        r#""detections":[],"metadata":{}"#,
        r#""detections":[{"label":"car","confidence":0,"bounding_box":{"x_min":1,"more":"x"},"more":null},{"confidence":1.0}]"#,
        r#""detections":[{"confidence":null,"label":null,"bounding_box":null}]"#,
        r#""timestamp":"2026-11-03T22:04:05+01:00""#,
        r#""timestamp":"2026-12-31T23:59:60Z""#,
        r#""timestamp":"0001-01-01T00:00:00.123456789Z""#,
        r#""":"","a b":1"#,
    ] {
        let value = format!(r#"{{"camera_id":"c",{member}}}"#);
        let event = read(&record(&value)).unwrap_or_else(|fault| panic!("{value}: {fault}"));
        assert!(text(&event.json).ends_with(&format!(r#","camera_id":"c",{member}}}"#)), "{value} became {}", text(&event.json));
    }
}

#[test]
fn no_byte_is_copied_where_nothing_is_filled_in() {
    let value = concat!(
        r#" {"id":"67e55044-10b1-426f-9247-bb680e5fe0c8","timestamp":"2026-11-03T21:04:05Z","camera_id":"c","#,
        r#""notification_channels":[],"recipients":[]} "#
    );
    let record = record(value);
    let event = read(&record).expect("readable");
    assert_eq!(text(&event.json), value.trim());
    let read = record.value.expect("a value");
    assert_eq!(event.json.as_ptr(), read[1..].as_ptr());
}

#[test]
fn an_id_is_any_spelling_of_a_uuid() {
    let id = Uuid::from_u128(0x67e5_5044_10b1_426f_9247_bb68_0e5f_e0c8);
    for spelling in [
        "67e55044-10b1-426f-9247-bb680e5fe0c8",
        "67E55044-10B1-426F-9247-BB680E5FE0C8",
        "67e5504410b1426f9247bb680e5fe0c8",
        "urn:uuid:67e55044-10b1-426f-9247-bb680e5fe0c8",
        "{67e55044-10b1-426f-9247-bb680e5fe0c8}",
        r"67e55044-10b1-426f-9247-bb680e5fe0c\u0038",
    ] {
        let event = read(&record(format!(r#"{{"camera_id":"c","id":"{spelling}"}}"#)));
        assert_eq!(event.map(|event| event.id), Ok(id), "{spelling}");
    }
}

#[test]
fn the_id_of_an_event_without_one_is_that_of_its_place() {
    let first = read(&record(r#"{"camera_id":"c"}"#)).expect("readable").id;
    let again = read(&record(r#"{"camera_id":"c","more":1}"#)).expect("readable").id;
    assert_eq!((first, again), (id_of_place(), id_of_place()));
    let mut next = record(r#"{"camera_id":"c"}"#);
    next.source.offset = Offset(8);
    assert_ne!(read(&next).expect("readable").id, first);
}

#[test]
fn the_ordering_key_is_the_records_or_the_cameras() {
    for (key, expected) in [(None, &b"c\xc3\xa9"[..]), (Some(&b""[..]), b"c\xc3\xa9"), (Some(b"k"), b"k"), (Some(b"\xff\0"), b"\xff\0")] {
        let record = Incoming { key: key.map(Bytes::from_static), ..record(r#"{"camera_id":"c\u00e9"}"#) };
        assert_eq!(&*read(&record).expect("readable").key, expected, "{key:?}");
    }
}

#[test]
fn an_event_without_a_time_has_the_records() {
    for (timestamp, expected) in [
        (Some(AT), "2026-11-03T21:04:05.678Z"),
        (None, "2027-01-15T08:00:00.000Z"),
        // Brokers and clients write these for "none".
        (Some(UnixMillis(0)), "2027-01-15T08:00:00.000Z"),
        (Some(UnixMillis(-1)), "2027-01-15T08:00:00.000Z"),
        (Some(UnixMillis(i64::MAX)), "9999-12-30T22:00:00.999Z"),
    ] {
        let record = Incoming { timestamp, ..record(r#"{"camera_id":"c"}"#) };
        let event = read(&record).expect("readable");
        assert!(text(&event.json).contains(&format!(r#""timestamp":"{expected}""#)), "{timestamp:?}: {}", text(&event.json));
    }
}

#[test]
fn odd_headers_are_carried_and_change_nothing() {
    let mut odd = record(r#"{"camera_id":"c"}"#);
    odd.headers.append("", Some("nameless".into()));
    odd.headers.append("content-type", None);
    odd.headers.append("ce_specversion", None);
    odd.headers.append("content-type", Some(Bytes::from_static(b"\xff\xfe")));
    odd.headers.append("traceparent", Some("00-first".into()));
    odd.headers.append("traceparent", Some(Bytes::from_static(b"\xff")));
    odd.headers.append("tracestate", None);
    odd.headers.append("ce_tracestate", Some("s=1".into()));
    let event = read(&odd).expect("readable");
    assert_eq!(event.headers, odd.headers);
    let trace: Vec<_> = event.trace().map(|(name, value)| (name, value.clone())).collect();
    assert_eq!(trace, [("traceparent", Bytes::from_static(b"\xff")), ("tracestate", Bytes::from_static(b"s=1"))]);
}
