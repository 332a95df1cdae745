//! A parked call: the rendered request with all that is needed to make it later, on its own.
//!
//! What never changes is in the value, a JSON envelope with a version; what changes with each hop is in the headers, where a
//! consumer can read it without parsing.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::dead_letter::{Code, set_origin};
use super::decode::Unreadable;
use super::headers::{Values, name};
use super::json::{Object, write, write_members};
use super::{Event, Headers, Incoming, Offset, Partition, Record, Source, Topic, UnixMillis};

/// The envelope's version: raised when a reader of the old one could not read the new one.
pub const VERSION: u32 = 1;

/// Why a call is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The breaker refused it: no call was made.
    CircuitOpen,
    /// No reply in time.
    Timeout,
    /// No connection, or a broken one.
    Connect,
    /// 5xx.
    Http5xx,
    /// 429.
    Http429,
    /// A reply after which the call may be tried again by the service's `retry_if`, and not by its status.
    Retryable,
    /// No turn within the timeout: no call was made.
    Overload,
    /// The process stops.
    Shutdown,
    /// Calls of its key are parked in front of it: no call was made.
    Behind,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::CircuitOpen,
        Self::Timeout,
        Self::Connect,
        Self::Http5xx,
        Self::Http429,
        Self::Retryable,
        Self::Overload,
        Self::Shutdown,
        Self::Behind,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CircuitOpen => "circuit_open",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Http5xx => "http_5xx",
            Self::Http429 => "http_429",
            Self::Retryable => "retryable",
            Self::Overload => "overload",
            Self::Shutdown => "shutdown",
            Self::Behind => "behind",
        }
    }

    /// The reason of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How often a call was made and parked, and when it may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parking {
    /// Why, this time.
    pub reason: Reason,
    /// Calls made and failed.
    pub attempt: u32,
    /// How often it has been put on the retry topic, this time included.
    pub parks: u32,
    /// Not to be made before.
    pub not_before: UnixMillis,
    /// When it was put there first.
    pub first_parked_at: UnixMillis,
}

/// A call that is to be parked.
#[derive(Debug)]
pub struct Call<'a> {
    /// The service.
    pub service: &'a str,
    /// The event it belongs to.
    pub event: &'a Event,
    /// HTTP's method.
    pub method: &'a str,
    /// The path on the service.
    pub path: &'a str,
    /// What the service knows a repeated call by ([`idempotency_key`]).
    pub idempotency_key: &'a str,
    /// The request's body: JSON without white space around it, written as it is.
    pub body: &'a Bytes,
    /// The finished stages' data, by service: JSON without white space around it, written as it is.
    pub results: &'a [(&'a str, Bytes)],
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[cfg_attr(not(test), expect(dead_code, reason = "of some fields it only matters that they are there"))]
struct Envelope<'a> {
    version: u32,
    #[serde(borrow)]
    service: Cow<'a, str>,
    event_id: Uuid,
    #[serde(borrow)]
    camera_id: Cow<'a, str>,
    #[serde(borrow)]
    request: Object<Request<'a>>,
    #[serde(borrow, with = "results", default)]
    results: Vec<(Cow<'a, str>, &'a RawValue)>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[cfg_attr(not(test), expect(dead_code, reason = "of some fields it only matters that they are there"))]
struct Request<'a> {
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow)]
    idempotency_key: Cow<'a, str>,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// What a service knows a repeated call by.
pub fn idempotency_key(event_id: Uuid, service: &str) -> String {
    let id = event_id.as_hyphenated();
    let mut key = String::with_capacity(uuid::fmt::Hyphenated::LENGTH + 1 + service.len());
    key.push_str(id.encode_lower(&mut Uuid::encode_buffer()));
    key.push('/');
    key.push_str(service);
    key
}

/// Headers of a parked call at most: ours, and two of a trace.
const MOST_HEADERS: usize = 13;

/// Builds the record that parks a call.
pub fn park(topic: &Topic, call: &Call<'_>, parking: Parking, now: UnixMillis) -> Record {
    let mut headers = Headers::with_capacity(MOST_HEADERS);
    for (name, value) in call.event.trace() {
        headers.append(name, Some(value.clone()));
    }
    let mut values = Values::default();
    headers.set(name::SERVICE, values.of(call.service));
    headers.set(name::EVENT_ID, values.of(call.event.id));
    set_origin(&mut headers, &mut values, &call.event.source);
    // How often it was redriven is a fact of the event: its calls' letters are bounded by it too.
    if let Some(redrives) = call.event.headers.number::<u32>(name::REDRIVES) {
        headers.set(name::REDRIVES, values.of(redrives));
    }
    set_parking(&mut headers, &mut values, parking);
    Record {
        topic: topic.clone(),
        partition: None,
        key: Some(call.event.key.clone()),
        value: Some(envelope(call).into()),
        headers,
        timestamp: now,
    }
}

/// The record's value, written by hand: its body and its results were checked when they came, and reading them once more would cost as much as
/// all the rest.
fn envelope(call: &Call<'_>) -> Vec<u8> {
    let Call { service, event, method, path, idempotency_key, body, results } = call;
    debug_assert!(is_json(body) && results.iter().all(|(_, data)| is_json(data)), "the parts of a parked call are JSON");
    let answers: usize = results.iter().map(|(service, data)| service.len() + data.len() + 4).sum();
    let texts = event.camera_id.len() + service.len() + path.len() + idempotency_key.len();
    let mut json = Vec::with_capacity(320 + texts + body.len() + answers);
    json.extend_from_slice(b"{\"version\":");
    write(&mut json, &VERSION);
    json.extend_from_slice(b",\"service\":");
    write(&mut json, service);
    json.extend_from_slice(b",\"event_id\":");
    write(&mut json, &*event.id.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()));
    json.extend_from_slice(b",\"camera_id\":");
    write(&mut json, &*event.camera_id);
    json.extend_from_slice(b",\"request\":{\"method\":");
    write(&mut json, method);
    json.extend_from_slice(b",\"path\":");
    write(&mut json, path);
    json.extend_from_slice(b",\"idempotency_key\":");
    write(&mut json, idempotency_key);
    json.extend_from_slice(b",\"body\":");
    json.extend_from_slice(body);
    json.extend_from_slice(b"},\"results\":");
    write_members(&mut json, results);
    json.push(b'}');
    json
}

fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(bytes).is_ok()
}

fn set_parking(headers: &mut Headers, values: &mut Values, parking: Parking) {
    headers.set(name::REASON, parking.reason.as_str());
    headers.set(name::ATTEMPT, values.of(parking.attempt));
    headers.set(name::PARKS, values.of(parking.parks));
    headers.set(name::NOT_BEFORE, values.of(parking.not_before.0));
    headers.set(name::FIRST_PARKED_AT, values.of(parking.first_parked_at.0));
}

/// A call that was read from a retry topic.
#[derive(Debug, Clone)]
pub struct Parked {
    /// The record as it was read.
    pub record: Incoming,
    /// The service.
    pub service: Box<str>,
    /// The event's id.
    pub event_id: Uuid,
    /// The event's camera.
    pub camera_id: Box<str>,
    /// Where the event was read; the parked record's own place if its headers do not say.
    pub origin: Source,
    /// The request's body.
    pub body: Bytes,
    /// Its `Idempotency-Key`.
    pub idempotency_key: Box<str>,
    /// What its headers say.
    pub parking: Parking,
    /// Where on its topic it was parked first: its own place, unless it is a copy.
    pub first: (Partition, Offset),
}

impl Parked {
    /// The record that parks the call once more, behind everything else on its topic.
    pub fn again(&self, parking: Parking, now: UnixMillis) -> Record {
        let (mut headers, mut values) = (self.record.headers.clone(), Values::default());
        set_parking(&mut headers, &mut values, parking);
        let (partition, offset) = self.first;
        headers.set(name::FIRST_PARKED_PARTITION, values.of(partition));
        headers.set(name::FIRST_PARKED_OFFSET, values.of(offset));
        Record {
            topic: self.record.source.topic.clone(),
            partition: None,
            key: self.record.key.clone(),
            value: self.record.value.clone(),
            headers,
            timestamp: now,
        }
    }

    /// The W3C trace headers to hand on.
    pub fn trace(&self) -> impl Iterator<Item = (&'static str, &Bytes)> {
        [name::TRACEPARENT, name::TRACESTATE].into_iter().filter_map(|header| self.record.headers.get(header).map(|value| (header, value)))
    }
}

/// Reads a parked call. `now` stands in for times that its headers do not give.
///
/// # Errors
/// The record is no envelope that this version reads: somebody else wrote to the topic, or a newer Fusebox did.
#[expect(clippy::result_large_err, reason = "the record goes back to be dead-lettered; a box would cost every read to spare a rare move")]
pub fn read(record: Incoming, now: UnixMillis) -> Result<Parked, (Incoming, Unreadable)> {
    match read_value(&record) {
        Err(unreadable) => Err((record, unreadable)),
        Ok((service, event_id, camera_id, body, idempotency_key)) => {
            let headers = &record.headers;
            let at = |name| headers.number(name).map(UnixMillis);
            let first_parked_at = first_parked_at(&record, now);
            let parking = Parking {
                reason: headers.text(name::REASON).and_then(Reason::parse).unwrap_or(Reason::CircuitOpen),
                attempt: headers.number(name::ATTEMPT).unwrap_or(0),
                parks: headers.number(name::PARKS).unwrap_or(1),
                not_before: at(name::NOT_BEFORE).unwrap_or(first_parked_at),
                first_parked_at,
            };
            let origin = origin(headers).unwrap_or_else(|| record.source.clone());
            let first = headers.number(name::FIRST_PARKED_PARTITION).zip(headers.number(name::FIRST_PARKED_OFFSET));
            let first =
                first.map_or((record.source.partition, record.source.offset), |(partition, offset)| (Partition(partition), Offset(offset)));
            Ok(Parked { service, event_id, camera_id, origin, body, idempotency_key, parking, first, record })
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(value: &'a Bytes) -> Result<T, Unreadable> {
    serde_json::from_slice(value).map_err(|error| match error.classify() {
        serde_json::error::Category::Data if !value.trim_ascii_start().starts_with(b"{") => {
            Unreadable::new(Code::NotAnObject, "the value is JSON, but not an object; a parked call's envelope is expected")
        }
        serde_json::error::Category::Data => Unreadable::field("envelope", error),
        _ => Unreadable::json(&error),
    })
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

type Value = (Box<str>, Uuid, Box<str>, Bytes, Box<str>);

fn read_value(record: &Incoming) -> Result<Value, Unreadable> {
    let Some(value) = record.value.as_ref() else {
        return Err(Unreadable::new(Code::InvalidJson, "the value is null; a parked call's envelope is expected"));
    };
    // The version first: an envelope of another one may have other fields.
    let Object(Versioned { version }) = parse(value)?;
    if version != VERSION {
        return Err(Unreadable::field("version", format_args!("{version}; version {VERSION} is read here")));
    }
    let Object(envelope) = parse::<Object<Envelope<'_>>>(value)?;
    Ok((
        envelope.service.as_ref().into(),
        envelope.event_id,
        envelope.camera_id.as_ref().into(),
        value.slice_ref(envelope.request.0.body.get().as_bytes()),
        envelope.request.0.idempotency_key.as_ref().into(),
    ))
}

/// Whether a record is a call of a service: its header says so, or, without one, the envelope does.
pub fn is_of(record: &Incoming, service: &str) -> bool {
    match record.headers.text(name::SERVICE) {
        Some(named) => named == service,
        None => read_value(record).is_ok_and(|(named, ..)| *named == *service),
    }
}

/// When the call of a record was first parked: as its header says, or else when it was written, and not later than `now`.
pub fn first_parked_at(record: &Incoming, now: UnixMillis) -> UnixMillis {
    let said = record.headers.number(name::FIRST_PARKED_AT).map(UnixMillis);
    said.or(record.timestamp.filter(|at| at.0 > 0)).unwrap_or(now).min(now)
}

/// The event's coordinates, where headers give all three.
pub fn origin(headers: &Headers) -> Option<Source> {
    Some(Source {
        topic: Topic::from(headers.text(name::ORIGIN_TOPIC)?),
        partition: Partition(headers.number(name::ORIGIN_PARTITION)?),
        offset: Offset(headers.number(name::ORIGIN_OFFSET)?),
    })
}

/// An object's members in the order in which they are written.
mod results {
    use std::borrow::Cow;
    use std::fmt;

    use serde::de::{Deserializer, MapAccess, Visitor};
    #[cfg(test)]
    use serde::ser::{SerializeMap, Serializer};
    use serde_json::value::RawValue;

    type Results<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

    #[cfg(test)]
    pub(super) fn serialize<S: Serializer>(results: &Results<'_>, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(results.len()))?;
        for (service, data) in results {
            map.serialize_entry(service, data)?;
        }
        map.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Results<'de>, D::Error> {
        struct ResultsVisitor;
        impl<'de> Visitor<'de> for ResultsVisitor {
            type Value = Results<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut results = Vec::new();
                while let Some((service, data)) = map.next_entry::<String, &'de RawValue>()? {
                    results.push((Cow::Owned(service), data));
                }
                Ok(results)
            }
        }
        deserializer.deserialize_map(ResultsVisitor)
    }
}

#[cfg(test)]
mod tests;
