//! The bodies and the condition that the shipped config has.

use super::{Bytes, Condition, Document, Headers, Scope, Template, text};

const RAG: &str = r#"{"query_event": {"camera_id": event.camera_id, "timestamp": event.timestamp, "label": has(event.label) ? event.label : null,
    "bbox": has(event.detections) && size(event.detections) > 0 && has(event.detections[0].bounding_box) ? event.detections[0].bounding_box : null},
    "k": 10}"#;
const NOTIFIER: &str = r#"{"event_id": event.id, "event": event, "rag_analysis": results.rag, "rule_evaluation": results.rulegen,
    "channels": event.notification_channels, "recipients": event.recipients, "timestamp": event.timestamp}"#;

fn render(source: &str, event: &str) -> String {
    let results = [("rag", Bytes::from_static(br#"{"a":1}"#)), ("rulegen", Bytes::from_static(br#"{"b":2}"#))];
    let event = Bytes::copy_from_slice(event.as_bytes());
    text(
        Template::compile(source)
            .expect("CEL")
            .render(&Scope { event: &Document::of(&event), results: &results, headers: &Headers::new() })
            .expect("JSON"),
    )
}

#[test]
fn the_question_to_rag() {
    let question =
        |label: &str, bbox: &str| format!(r#"{{"query_event":{{"camera_id":"c","timestamp":"t","label":{label},"bbox":{bbox}}},"k":10}}"#);
    for (more, label, bbox) in [
        ("", "null", "null"),
        (r#","label":"car","detections":[]"#, r#""car""#, "null"),
        (r#","label":null,"detections":[{"label":"car"}]"#, "null", "null"),
        (r#","detections":[{"bounding_box":{"x_min":1.50}},{"bounding_box":2}]"#, "null", r#"{"x_min":1.50}"#),
        (r#","detections":[{"bounding_box":null}]"#, "null", "null"),
    ] {
        assert_eq!(render(RAG, &format!(r#"{{"camera_id":"c","timestamp":"t"{more}}}"#)), question(label, bbox), "{more}");
    }
}

#[test]
fn the_notification() {
    let event = r#"{"id":"i","timestamp":"t","notification_channels":["email"],"recipients":["r"],"x":1e2}"#;
    let notification = format!(
        r#"{{"event_id":"i","event":{event},"rag_analysis":{{"a":1}},"rule_evaluation":{{"b":2}},"channels":["email"],"recipients":["r"],"timestamp":"t"}}"#
    );
    assert_eq!(render(NOTIFIER, event), notification);
}

#[test]
fn only_when_there_are_recipients() {
    let when = Condition::compile("size(event.recipients) > 0").expect("CEL");
    for (event, holds) in [(r#"{"recipients":[]}"#, Ok(false)), (r#"{"recipients":["r"]}"#, Ok(true))] {
        let event = Bytes::copy_from_slice(event.as_bytes());
        assert_eq!(when.holds(&Scope { event: &Document::of(&event), results: &[], headers: &Headers::new() }), holds);
    }
}
