//! The record that says how a parked call ended, for those who want to know (`topics.deliveries`).

use serde::Serialize;
use uuid::Uuid;

use super::envelope::Parked;
use super::{Headers, Record, Topic, UnixMillis};
use crate::event::dead_letter::Code;

/// How a parked call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The service took it.
    Delivered,
    /// It was given up.
    DeadLettered(Code),
}

#[derive(Serialize)]
struct Value<'a> {
    event_id: Uuid,
    service: &'a str,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'static str>,
    attempts: u32,
    parked_ms: u64,
    ended_at: String,
}

/// Builds the record. `attempts` counts every call made, the last one included.
pub fn record(topic: &Topic, parked: &Parked, how: Delivery, attempts: u32, now: UnixMillis) -> Record {
    let (result, error_code) = match how {
        Delivery::Delivered => ("delivered", None),
        Delivery::DeadLettered(code) => ("dead_lettered", Some(code.as_str())),
    };
    let value = Value {
        event_id: parked.event_id,
        service: &parked.service,
        result,
        error_code,
        attempts,
        parked_ms: u64::try_from(now.since(parked.parking.first_parked_at).as_millis()).unwrap_or(u64::MAX),
        ended_at: now.to_rfc3339(),
    };
    Record {
        topic: topic.clone(),
        partition: None,
        key: parked.record.key.clone(),
        value: Some(serde_json::to_vec(&value).unwrap_or_default().into()),
        headers: Headers::new(),
        timestamp: now,
    }
}
