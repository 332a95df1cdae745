//! Events to publish.

use serde_json::{Value, json};
use uuid::Uuid;

/// A record for the input topic. [`Event::of`] makes a plausible one; every part of it can be set to something else.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its id, as text.
    pub id: String,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value.
    pub value: Option<Vec<u8>>,
    /// The record's headers.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The partition; `None`: its key decides.
    pub partition: Option<i32>,
    body: Value,
}

impl Event {
    /// A detection of a person by this camera, keyed by the camera. Nobody is notified.
    pub fn of(camera: &str) -> Self {
        let id = Uuid::new_v4().to_string();
        let body = json!({
            "id": id,
            "timestamp": "2026-11-03T16:24:05.678Z",
            "camera_id": camera,
            "event_type": "detection",
            "label": "person",
            "detections": [{ "label": "person", "confidence": 0.9, "bounding_box": { "x_min": 1.5, "y_min": 2.0, "x_max": 30.0, "y_max": 40.0 } }],
        });
        Self { id, key: Some(camera.into()), value: None, headers: Vec::new(), partition: None, body }
            .with("x_unknown", json!({ "kept": true }))
    }

    /// A record of these bytes, whatever they are.
    pub fn raw(value: Option<&[u8]>) -> Self {
        Self { id: String::new(), key: None, value: value.map(<[u8]>::to_vec), headers: Vec::new(), partition: None, body: Value::Null }
    }

    /// Somebody is to be notified.
    pub fn notifying(self) -> Self {
        self.with("recipients", json!(["guard@site.example"]))
    }

    /// A field of the event.
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.body[field] = value;
        self.value = Some(self.body.to_string().into());
        self
    }

    /// A header of the record.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// A field as it was set.
    pub fn field(&self, name: &str) -> &Value {
        &self.body[name]
    }
}
