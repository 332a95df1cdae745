//! The record that says what became of an event.

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use super::json::write;
use super::{Event, Headers, Record, Topic, UnixMillis};

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Every stage that ran succeeded.
    Ok,
    /// Some stages fell back or were parked.
    PartialSuccess,
    /// Every stage that ran fell back or was parked.
    Fallback,
    /// A stage whose fallback is `fail` failed; the event is a dead letter as well.
    Error,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Ok, Self::PartialSuccess, Self::Fallback, Self::Error];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::PartialSuccess => "partial_success",
            Self::Fallback => "fallback",
            Self::Error => "error",
        }
    }

    /// The status of an event whose stages ended like this.
    pub fn of<'a>(stages: impl IntoIterator<Item = &'a StageOutcome>, failed: bool) -> Self {
        if failed {
            return Self::Error;
        }
        let (mut succeeded, mut others) = (0, 0);
        for stage in stages {
            if stage.success { succeeded += 1 } else { others += 1 }
        }
        match (succeeded, others) {
            (_, 0) => Self::Ok,
            (0, _) => Self::Fallback,
            _ => Self::PartialSuccess,
        }
    }
}

/// What became of one stage.
#[derive(Debug, Clone)]
pub struct StageOutcome {
    /// The service answered.
    pub success: bool,
    /// A fallback stands in for its answer.
    pub fallback_used: bool,
    /// The call is on the retry topic.
    pub parked: bool,
    /// The answer, or what stands in for it; null if there is neither.
    pub data: Bytes,
    /// What went wrong: a call's outcome, `circuit_open`, `overload` or `shutdown`; null if nothing did.
    pub error_type: Option<&'static str>,
    /// From the first try to the last answer, waiting for a turn included, milliseconds.
    pub response_time_ms: f64,
    /// The breaker's state when the stage ended.
    pub circuit_breaker_state: &'static str,
}

/// JSON's null.
pub const NULL: Bytes = Bytes::from_static(b"null");

/// The stages that ran, by service, in order.
pub type Stages<'a> = [(&'a str, StageOutcome)];

/// The record's value, written by hand: the services' answers are JSON already, each checked when it came, and reading them through a
/// serialiser once more would cost as much as all the rest.
fn value(event: &Event, status: Status, stages: &Stages<'_>, instance: &str, now: UnixMillis) -> Vec<u8> {
    let answers: usize = stages.iter().map(|(service, outcome)| service.len() + outcome.data.len()).sum();
    let mut json = Vec::with_capacity(320 + event.camera_id.len() + instance.len() + answers + 192 * stages.len());
    json.extend_from_slice(b"{\"event_id\":\"");
    json.extend_from_slice(event.id.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
    json.extend_from_slice(b"\",\"camera_id\":");
    write(&mut json, &*event.camera_id);
    json.extend_from_slice(b",\"status\":\"");
    json.extend_from_slice(status.as_str().as_bytes());
    json.extend_from_slice(b"\",\"stages\":{");
    for (index, (service, outcome)) in stages.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        write(&mut json, service);
        json.push(b':');
        stage(&mut json, outcome);
    }
    json.extend_from_slice(b"},\"source\":");
    write(&mut json, &event.source);
    json.extend_from_slice(b",\"processed_at\":\"");
    json.extend_from_slice(now.to_rfc3339().as_bytes());
    json.extend_from_slice(b"\",\"instance\":");
    write(&mut json, instance);
    json.push(b'}');
    json
}

fn stage(json: &mut Vec<u8>, outcome: &StageOutcome) {
    let StageOutcome { success, fallback_used, parked, data, error_type, response_time_ms, circuit_breaker_state } = outcome;
    for (name, holds) in [("{\"success\":", success), (",\"fallback_used\":", fallback_used), (",\"parked\":", parked)] {
        json.extend_from_slice(name.as_bytes());
        json.extend_from_slice(if *holds { b"true" } else { b"false" });
    }
    json.extend_from_slice(b",\"data\":");
    json.extend_from_slice(data);
    json.extend_from_slice(b",\"error_type\":");
    write(json, error_type);
    json.extend_from_slice(b",\"response_time_ms\":");
    write(json, response_time_ms);
    json.extend_from_slice(b",\"circuit_breaker_state\":");
    write(json, circuit_breaker_state);
    json.push(b'}');
}

/// Builds the outcome's record, keyed as its event is ordered.
pub fn record(topic: &Topic, event: &Event, status: Status, stages: &Stages<'_>, instance: &str, now: UnixMillis) -> Record {
    let mut headers = Headers::new();
    for (name, value) in event.trace() {
        headers.append(name, Some(value.clone()));
    }
    Record {
        topic: topic.clone(),
        partition: None,
        key: Some(event.key.clone()),
        value: Some(value(event, status, stages, instance, now).into()),
        headers,
        timestamp: now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Offset, Partition, Source};

    #[test]
    fn is_json_whatever_the_camera_is_called() {
        let camera = "cam \"7\" \\ \u{1}ü";
        let event = Event {
            source: Source { topic: Topic::from("events"), partition: Partition(3), offset: Offset(41) },
            id: Uuid::from_u128(7),
            camera_id: camera.into(),
            key: Bytes::from_static(b"k"),
            json: Bytes::from_static(b"{}"),
            known: crate::event::known::Known::default(),
            headers: Headers::new(),
        };
        let outcome = |success, data: &'static [u8], error_type| StageOutcome {
            success,
            fallback_used: !success,
            parked: false,
            data: Bytes::from_static(data),
            error_type,
            response_time_ms: 1.5,
            circuit_breaker_state: "closed",
        };
        let stages = [("rag", outcome(true, b"{\"a\": [1, 2]}", None)), ("vms", outcome(false, b"null", Some("timeout")))];
        let record = record(&Topic::from("outcomes"), &event, Status::PartialSuccess, &stages, "fusebox-1", UnixMillis(1_793_739_845_678));
        let read: serde_json::Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
        let expected = serde_json::json!({
            "event_id": "00000000-0000-0000-0000-000000000007",
            "camera_id": camera,
            "status": "partial_success",
            "stages": {
                "rag": {
                    "success": true, "fallback_used": false, "parked": false, "data": { "a": [1, 2] }, "error_type": null,
                    "response_time_ms": 1.5, "circuit_breaker_state": "closed",
                },
                "vms": {
                    "success": false, "fallback_used": true, "parked": false, "data": null, "error_type": "timeout",
                    "response_time_ms": 1.5, "circuit_breaker_state": "closed",
                },
            },
            "source": { "topic": "events", "partition": 3, "offset": 41 },
            "processed_at": "2026-11-03T21:04:05.678Z",
            "instance": "fusebox-1",
        });
        assert_eq!(read, expected);
        let order: Vec<_> = read["stages"].as_object().unwrap().keys().collect();
        assert_eq!(order, ["rag", "vms"]);
    }
}
