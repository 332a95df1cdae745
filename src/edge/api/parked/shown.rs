//! A parked call as the API shows it.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::super::payload::{Header, Payload};
use crate::event::dead_letter::Code;
use crate::event::envelope::{self, Parked};
use crate::event::{Incoming, UnixMillis};
use crate::machine::orders::Order;

/// What is known of a parked call without what is in it.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    topic: String,
    partition: i32,
    offset: i64,
    service: Option<String>,
    event_id: Option<Uuid>,
    camera_id: Option<String>,
    reason: Option<&'static str>,
    /// Calls made and failed.
    attempts: Option<u32>,
    /// How often it has been put on the topic.
    parks: Option<u32>,
    first_parked_at: Option<String>,
    /// When it may go, by its header or by an order.
    not_before: Option<String>,
    /// Whether that time has come. It goes when its breaker lets it.
    due: Option<bool>,
    order: Option<Ordered>,
    origin: Option<Origin>,
    /// Bytes of key, value and headers.
    size: usize,
    /// Why it is no parked call and is to be a dead letter; null if it is one.
    unreadable: Option<&'static str>,
}

/// What somebody has ordered for it.
#[derive(Debug, Clone, Serialize)]
struct Ordered {
    id: Uuid,
    act: &'static str,
}

/// The event that it belongs to.
#[derive(Debug, Clone, Serialize)]
struct Origin {
    topic: String,
    partition: i32,
    offset: i64,
}

impl Listed {
    /// A parked call, and what was ordered for it.
    pub fn of(parked: &Parked, order: Option<&Order>, now: UnixMillis) -> Self {
        let parking = &parked.parking;
        let not_before = order.map_or(parking.not_before, |order| order.act.due(parking.not_before, now));
        Self {
            service: Some(parked.service.to_string()),
            event_id: Some(parked.event_id),
            camera_id: Some(parked.camera_id.to_string()),
            reason: Some(parking.reason.as_str()),
            attempts: Some(parking.attempt),
            parks: Some(parking.parks),
            first_parked_at: Some(parking.first_parked_at.to_rfc3339()),
            not_before: Some(not_before.to_rfc3339()),
            due: Some(not_before <= now),
            order: order.map(|order| Ordered { id: order.id, act: order.act.as_str() }),
            origin: Some(Origin {
                topic: parked.origin.topic.to_string(),
                partition: parked.origin.partition.0,
                offset: parked.origin.offset.0,
            }),
            unreadable: None,
            ..Self::at(&parked.record)
        }
    }

    /// A record that is no parked call.
    pub fn unreadable(record: &Incoming, code: Code) -> Self {
        Self { unreadable: Some(code.as_str()), ..Self::at(record) }
    }

    fn at(record: &Incoming) -> Self {
        let bytes = |bytes: Option<&Bytes>| bytes.map_or(0, Bytes::len);
        Self {
            topic: record.source.topic.to_string(),
            partition: record.source.partition.0,
            offset: record.source.offset.0,
            service: None,
            event_id: None,
            camera_id: None,
            reason: None,
            attempts: None,
            parks: None,
            first_parked_at: None,
            not_before: None,
            due: None,
            order: None,
            origin: None,
            size: bytes(record.key.as_ref()) + bytes(record.value.as_ref()) + record.headers.size(),
            unreadable: None,
        }
    }
}

/// A parked call with all that is in it.
#[derive(Debug, Serialize)]
pub struct Whole {
    #[serde(flatten)]
    listed: Listed,
    /// Whether it has finished: Kafka only keeps it until its retention is over.
    finished: bool,
    key: Option<Payload>,
    headers: Vec<Header>,
    /// The value where it is JSON: for a parked call its envelope, with the request and the finished stages' results.
    envelope: Option<Box<RawValue>>,
    /// The value where it is not.
    value: Option<Payload>,
}

impl Whole {
    /// All of a record; `order` finds what was ordered for it.
    pub fn of(record: Incoming, finished: bool, order: impl FnOnce(&Parked) -> Option<Order>, now: UnixMillis) -> Self {
        let (listed, record) = match envelope::read(record, now) {
            Ok(parked) => {
                let order = order(&parked);
                (Listed::of(&parked, order.as_ref(), now), parked.record)
            }
            Err((record, unreadable)) => (Listed::unreadable(&record, unreadable.code), record),
        };
        let json = record.value.as_ref().and_then(|value| serde_json::from_slice::<Box<RawValue>>(value).ok());
        let payload = |bytes: &Bytes| Payload::of(bytes, usize::MAX);
        Self {
            finished,
            key: record.key.as_ref().map(payload),
            headers: record.headers.iter().map(|(name, value)| Header::of(name, value, usize::MAX)).collect(),
            value: record.value.as_ref().filter(|_| json.is_none()).map(payload),
            envelope: json,
            listed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::headers::name;
    use crate::event::{Headers, Offset, Partition, Source, Topic};
    use crate::machine::orders::Act;
    use serde_json::{Value, json};

    fn record(value: Option<&str>, headers: Headers) -> Incoming {
        Incoming {
            source: Source { topic: Topic::from("r"), partition: Partition(2), offset: Offset(7) },
            key: Some(Bytes::from_static(&[0xff])),
            value: value.map(|value| Bytes::from(value.to_owned())),
            headers,
            timestamp: Some(UnixMillis(5)),
        }
    }

    fn shown(record: Incoming) -> Value {
        serde_json::to_value(Whole::of(record, false, |_| None, UnixMillis(10_000))).expect("JSON")
    }

    #[test]
    fn headers_are_shown_in_their_order() {
        let mut headers = Headers::new();
        headers.append("Authorization", Some("Bearer abc".into()));
        headers.append("plain", Some("abc".into()));
        headers.append("null", None);
        let all = shown(record(Some("{}"), headers))["headers"].clone();
        assert_eq!(
            all,
            json!([
                { "name": "Authorization", "value": { "text": "[redacted]" } },
                { "name": "plain", "value": { "text": "abc" } },
                { "name": "null", "value": null },
            ])
        );
    }

    #[test]
    fn what_is_no_parked_call_is_shown_as_what_it_is() {
        let whole = shown(record(Some("no json"), Headers::new()));
        assert_eq!(
            (&whole["unreadable"], &whole["value"], &whole["envelope"]),
            (&json!("invalid_json"), &json!({ "text": "no json" }), &Value::Null)
        );
        assert_eq!((&whole["offset"], &whole["service"], &whole["key"]), (&json!(7), &Value::Null, &json!({ "base64": "/w==" })));
        let null = shown(record(None, Headers::new()));
        assert_eq!((&null["value"], &null["envelope"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn a_call_is_due_by_its_header_or_by_an_order() {
        let order = |act| Order {
            id: Uuid::nil(),
            group: "g".to_owned(),
            act,
            selection: Default::default(),
            ends: Default::default(),
            at: UnixMillis(0),
            actor: String::new(),
            reason: String::new(),
            rate: None,
            calls: 1,
            counted_all: true,
            cancelled_by: None,
        };
        let envelope = json!({
            "version": 1, "service": "notifier", "event_id": Uuid::nil(), "camera_id": "cam-1",
            "request": { "method": "POST", "path": "/notify", "idempotency_key": "k", "body": {} },
        });
        let late = UnixMillis(99_000);
        for (not_before, order, due, shown) in [
            (1_000, None, true, "1970-01-01T00:00:01.000Z"),
            (20_000, None, false, "1970-01-01T00:00:20.000Z"),
            (20_000, Some(order(Act::Release)), true, "1970-01-01T00:00:10.000Z"),
            (1_000, Some(order(Act::Delay { until: late })), false, "1970-01-01T00:01:39.000Z"),
            (20_000, Some(order(Act::Delay { until: UnixMillis(15_000) })), false, "1970-01-01T00:00:20.000Z"),
            (1_000, Some(order(Act::Discard)), true, "1970-01-01T00:00:01.000Z"),
        ] {
            let mut headers = Headers::new();
            headers.set(name::NOT_BEFORE, not_before.to_string());
            let parked = envelope::read(record(Some(&envelope.to_string()), headers), UnixMillis(10_000)).expect("a parked call");
            let listed = serde_json::to_value(Listed::of(&parked, order.as_ref(), UnixMillis(10_000))).expect("JSON");
            assert_eq!((&listed["due"], &listed["not_before"]), (&json!(due), &json!(shown)), "{not_before} {order:?}");
        }
    }
}
