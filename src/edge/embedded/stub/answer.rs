//! What each service says when it is well: plausible, the same for the same request, with the request's camera and event in it.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

/// What of a request finds its way into the answer.
#[derive(Default, Deserialize)]
struct Asked<'a> {
    #[serde(borrow, default)]
    event_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    camera_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    query_event: Option<Event<'a>>,
    #[serde(borrow, default)]
    event: Option<Event<'a>>,
    #[serde(borrow, default)]
    channels: Option<Vec<Cow<'a, str>>>,
    #[serde(default)]
    recipients: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Default, Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    camera_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    label: Option<Cow<'a, str>>,
}

/// The answer of a service to a request.
pub(super) fn answer(service: &str, body: &[u8]) -> Bytes {
    // A request that is not as expected is answered all the same: what it lacks is left open in the answer.
    let asked: Asked<'_> = serde_json::from_slice(body).unwrap_or_default();
    let event = asked.query_event.as_ref().or(asked.event.as_ref());
    let event_id = asked.event_id.as_deref().or(event.and_then(|event| event.id.as_deref())).unwrap_or("unknown");
    let camera_id = asked.camera_id.as_deref().or(event.and_then(|event| event.camera_id.as_deref())).unwrap_or("unknown");
    let label = event.and_then(|event| event.label.as_deref()).unwrap_or("person");
    let value: Value = match service {
        "rag" => json!({
            "analysis": {
                "summary": format!("{label} at {camera_id}: seen twice this week at about this hour"),
                "anomaly_score": 0.18,
                "confidence": 0.87,
            },
            "similar_events": [
                { "camera_id": camera_id, "label": label, "similarity": 0.94, "days_ago": 1 },
                { "camera_id": camera_id, "label": label, "similarity": 0.81, "days_ago": 4 },
            ],
        }),
        "rulegen" => json!({
            "severity": if label == "person" { "high" } else { "low" },
            "rules_triggered": if label == "person" { json!(["after_hours_presence"]) } else { json!([]) },
            "confidence": 0.91,
        }),
        "notifier" => json!({
            "delivered": true,
            "notification_id": format!("ntf-{event_id}"),
            "channels": asked.channels.unwrap_or_default(),
            "recipients": asked.recipients.map_or(0, |recipients| recipients.len()),
        }),
        "vms" => json!({
            "clip_url": format!("https://vms.example/clips/{event_id}.mp4"),
            "camera_id": camera_id,
            "status": "queued",
        }),
        _ => json!({ "ok": true }),
    };
    value.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_in_its_own_words() {
        for (service, asked, pointer, expect) in [
            ("rag", r#"{"query_event":{"camera_id":"cam-1","label":"car"}}"#, "/similar_events/0/camera_id", json!("cam-1")),
            ("rag", r#"{"query_event":{"camera_id":"cam-1","label":"car"}}"#, "/similar_events/1/label", json!("car")),
            ("rulegen", r#"{"event":{"label":"person"}}"#, "/severity", json!("high")),
            ("rulegen", r#"{"event":{"label":"dog"}}"#, "/rules_triggered", json!([])),
            ("notifier", r#"{"event_id":"e1","channels":["sms"],"recipients":["a","b"]}"#, "/delivered", json!(true)),
            ("notifier", r#"{"event_id":"e1","channels":["sms"],"recipients":["a","b"]}"#, "/recipients", json!(2)),
            ("vms", r#"{"event_id":"e1"}"#, "/clip_url", json!("https://vms.example/clips/e1.mp4")),
            ("vms", "", "/status", json!("queued")),
            ("vms", "not json", "/camera_id", json!("unknown")),
            ("other", "[]", "/ok", json!(true)),
        ] {
            let answer: Value = serde_json::from_slice(&answer(service, asked.as_bytes())).unwrap();
            assert_eq!(answer.pointer(pointer), Some(&expect), "{service} {asked}: {answer}");
        }
    }
}
