//! The record that says what became of an event.

use bytes::Bytes;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Event, Headers, Record, Source, Topic, UnixMillis};

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
#[derive(Debug, Clone, Serialize)]
pub struct StageOutcome {
    /// The service answered.
    pub success: bool,
    /// A fallback stands in for its answer.
    pub fallback_used: bool,
    /// The call is on the retry topic.
    pub parked: bool,
    /// The answer, or what stands in for it; null if there is neither.
    #[serde(serialize_with = "raw")]
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

fn raw<S: Serializer>(json: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    let raw: &RawValue = serde_json::from_slice(json).map_err(serde::ser::Error::custom)?;
    raw.serialize(serializer)
}

/// The stages that ran, by service, in order.
pub type Stages<'a> = [(&'a str, StageOutcome)];

/// The record's value.
#[derive(Debug, Serialize)]
pub struct Outcome<'a> {
    /// The event's id.
    pub event_id: Uuid,
    /// Its camera.
    pub camera_id: &'a str,
    /// What became of it.
    pub status: Status,
    /// What became of each stage that ran.
    #[serde(serialize_with = "in_order")]
    pub stages: &'a Stages<'a>,
    /// Where the event was read.
    pub source: &'a Source,
    /// When it was finished, RFC 3339.
    pub processed_at: String,
    /// The process that finished it.
    pub instance: &'a str,
}

fn in_order<S: Serializer>(stages: &Stages<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(stages.len()))?;
    for (service, outcome) in stages {
        map.serialize_entry(service, outcome)?;
    }
    map.end()
}

/// Builds the outcome's record, keyed as its event is ordered.
pub fn record(topic: &Topic, event: &Event, status: Status, stages: &Stages<'_>, instance: &str, now: UnixMillis) -> Record {
    let outcome = Outcome {
        event_id: event.id,
        camera_id: &event.camera_id,
        status,
        stages,
        source: &event.source,
        processed_at: now.to_rfc3339(),
        instance,
    };
    let mut headers = Headers::new();
    headers.append("content-type", Some(Bytes::from_static(b"application/json")));
    for (name, value) in event.trace() {
        headers.append(name, Some(value.clone()));
    }
    Record {
        topic: topic.clone(),
        key: Some(event.key.clone()),
        value: Some(serde_json::to_vec(&outcome).unwrap_or_default().into()),
        headers,
        timestamp: now,
    }
}
