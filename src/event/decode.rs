//! From a record's bytes to an [`Event`], or to a reason why not: every byte sequence has an answer.
//!
//! The value is read once, without building a tree: what the pipeline routes by is lifted out, everything else is
//! checked and handed on as it was written. JSON is checked to the last byte (UTF-8, numbers, at most 127 levels of nesting), so
//! that no service is sent what it cannot parse: a record that fails every service would trip every breaker.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::dead_letter::Code;
use super::detection::Detection;
use super::headers::name;
use super::json::{Checked, CheckedObject, Members, Text};
use super::known::Known;
use super::{Headers, Incoming, Source, UnixMillis, cloudevents};

/// A readable event: what the pipeline routes by, and the whole object as JSON.
#[derive(Debug, Clone)]
pub struct Event {
    /// Where it was read.
    pub source: Source,
    /// Its identity, the same on every redelivery.
    pub id: Uuid,
    /// The camera that saw it; not empty.
    pub camera_id: Box<str>,
    /// Events of one key are processed in order: the record's key, else (also when it is empty) the camera's id.
    pub key: Bytes,
    /// The event as a JSON object: as written, with `id`, `timestamp`, `notification_channels` and `recipients` filled in
    /// where they were absent or null.
    pub json: Bytes,
    /// Where members of that object lie.
    pub known: Known,
    /// The record's headers.
    pub headers: Headers,
}

impl Event {
    /// The W3C trace headers to hand on, those that are there.
    pub fn trace(&self) -> impl Iterator<Item = (&'static str, &Bytes)> {
        [name::TRACEPARENT, name::TRACESTATE].into_iter().filter_map(|header| {
            let extension = cloudevents::extension_header(header);
            self.headers.get(header).or_else(|| self.headers.get(extension)).map(|value| (header, value))
        })
    }
}

/// Why a record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unreadable {
    /// The stable word.
    pub code: Code,
    /// One sentence: what, where, what was expected.
    pub message: String,
}

impl Unreadable {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        // A parser's error quotes the value that it did not expect, however long: the message travels in a header.
        const LONGEST: usize = 300;
        let mut message = message.into();
        if let Some((end, _)) = message.char_indices().nth(LONGEST) {
            message.truncate(end);
            message.push('…');
        }
        Self { code, message }
    }

    pub(super) fn field(name: &str, what: impl fmt::Display) -> Self {
        Self::new(Code::InvalidField, format!("field `{name}`: {what}"))
    }

    /// What a parser says of one field: a wrong type is the field's fault, anything else that of the JSON.
    pub(super) fn parsed(name: &str, error: &serde_json::Error) -> Self {
        match error.classify() {
            Category::Data | Category::Io => Self::field(name, error),
            Category::Syntax | Category::Eof => Self::new(Code::InvalidJson, format!("field `{name}`: {error}")),
        }
    }

    pub(super) fn json(error: &serde_json::Error) -> Self {
        Self::new(Code::InvalidJson, format!("the value is not JSON: {error}"))
    }
}

/// Reads one record.
///
/// `max_bytes` bounds the value; `now` stands in for the event's time when neither the value nor the record has one.
///
/// # Errors
/// What is wrong with the first part that cannot be read.
pub fn decode(record: &Incoming, max_bytes: usize, now: UnixMillis) -> Result<Event, Unreadable> {
    let Some(value) = record.value.as_ref() else {
        return Err(Unreadable::new(Code::InvalidJson, "the value is null (a tombstone); a JSON object is expected"));
    };
    if value.len() > max_bytes {
        return Err(Unreadable::new(
            Code::TooLarge,
            format!("the value has {} bytes; at most {max_bytes} are read (processing.max_event_bytes)", value.len()),
        ));
    }
    let wrapped = cloudevents::unwrap(value, &record.headers)?;
    let text = utf8(&wrapped.data)?;
    let fields = Fields::read(text)?;

    let camera_id = fields.camera_id()?;
    let id = match fields.id()? {
        Some(id) => id,
        None => wrapped.event_id().or_else(|| redriven(record, name::EVENT_ID)).unwrap_or_else(|| id_of(&record.source)),
    };
    let timestamp = match fields.timestamp()? {
        Some(_) => None,
        None => {
            let first = || redriven(record, name::ORIGIN_TIMESTAMP).map(UnixMillis);
            Some(wrapped.time.or_else(first).or(record.timestamp).filter(|at| at.0 > 0).unwrap_or(now))
        }
    };
    fields.check()?;
    let json = fields.filled_in(&wrapped.data, text, id, timestamp, wrapped.event_type.as_deref());
    // An object that was written anew has its members elsewhere.
    let known = if json.as_ptr() == text.trim_ascii().as_ptr() { fields.known(text.trim_ascii()) } else { Known::default() };
    // An empty key is some producers' way to send none: taken as a key it would put every camera into one lane.
    let key = match &record.key {
        Some(key) if !key.is_empty() => key.clone(),
        Some(_) | None => Bytes::copy_from_slice(camera_id.as_bytes()),
    };
    Ok(Event { source: record.source.clone(), id, camera_id: camera_id.into(), key, json, known, headers: record.headers.clone() })
}

/// What a redriven record says of the one that was read first: it keeps its identity, and its time.
fn redriven<T: std::str::FromStr>(record: &Incoming, header: &str) -> Option<T> {
    record.headers.number::<u32>(name::REDRIVES)?;
    record.headers.number(header)
}

/// The id of an event that carries none: UUIDv5 in the OID namespace of `topic/partition/offset`.
pub(super) fn id_of(source: &Source) -> Uuid {
    let name = format!("{}/{}/{}", source.topic, source.partition, source.offset);
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
}

fn utf8(bytes: &Bytes) -> Result<&str, Unreadable> {
    std::str::from_utf8(bytes)
        .map_err(|error| Unreadable::new(Code::InvalidJson, format!("the value is not UTF-8: byte {} is wrong", error.valid_up_to())))
}

/// How deep objects and arrays are nested at most, the event itself included: `serde_json`'s own bound.
const MAX_DEPTH: usize = 127;

/// The known fields of an event as they are written, the last one of each name; null counts as absent.
#[derive(Default)]
struct Fields<'a> {
    id: Member<'a>,
    timestamp: Member<'a>,
    camera_id: Member<'a>,
    event_type: Member<'a>,
    label: Member<'a>,
    detections: Member<'a>,
    activity: Member<'a>,
    metadata: Member<'a>,
    query: Member<'a>,
    notification_channels: Member<'a>,
    recipients: Member<'a>,
}

/// A member of the object: absent, written as null, or with a value.
#[derive(Default, Clone, Copy)]
enum Member<'a> {
    #[default]
    Absent,
    Null,
    Value(&'a str),
}

impl<'a> Member<'a> {
    fn value(self) -> Option<&'a str> {
        match self {
            Self::Value(raw) => Some(raw),
            Self::Absent | Self::Null => None,
        }
    }

    /// The member read as `T`, if it has a value.
    fn read<T: Deserialize<'a>>(self, name: &str) -> Result<Option<T>, Unreadable> {
        self.value().map(|raw| serde_json::from_str(raw).map_err(|error| Unreadable::parsed(name, &error))).transpose()
    }
}

impl Member<'_> {
    /// Whether the member is nested too deep as a part of the event: on its own it has one level more to go.
    fn check_depth(self, name: &str) -> Result<(), Unreadable> {
        let Some(raw) = self.value() else { return Ok(()) };
        if memchr::memchr2_iter(b'[', b'{', raw.as_bytes()).take(MAX_DEPTH).count() < MAX_DEPTH {
            return Ok(());
        }
        serde_json::from_str::<Checked>(&format!("[{raw}]")).map(|_| ()).map_err(|error| Unreadable::parsed(name, &error))
    }
}

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Result<Self, Unreadable> {
        let Some(first) = text.trim_ascii_start().bytes().next() else {
            return Err(Unreadable::new(Code::InvalidJson, "the value is empty; a JSON object is expected"));
        };
        if first == b'{' {
            return serde_json::from_str(text).map_err(|error| Unreadable::json(&error));
        }
        match serde_json::from_str::<Checked>(text) {
            Ok(_) => Err(Unreadable::new(Code::NotAnObject, "the value is JSON, but not an object")),
            Err(error) => Err(Unreadable::json(&error)),
        }
    }

    fn camera_id(&self) -> Result<Cow<'a, str>, Unreadable> {
        let Text(camera_id) = self.camera_id.read("camera_id")?.ok_or_else(|| {
            Unreadable::new(Code::MissingField, "field `camera_id` is missing; it names the camera and must not be empty")
        })?;
        if camera_id.is_empty() {
            return Err(Unreadable::field("camera_id", "it is empty"));
        }
        Ok(camera_id)
    }

    fn id(&self) -> Result<Option<Uuid>, Unreadable> {
        self.id.read("id")
    }

    fn timestamp(&self) -> Result<Option<UnixMillis>, Unreadable> {
        let Some(Text(text)) = self.timestamp.read("timestamp")? else { return Ok(None) };
        UnixMillis::from_rfc3339(&text)
            .map(Some)
            .ok_or_else(|| Unreadable::field("timestamp", format_args!("{:?} is not RFC 3339 (2026-11-03T21:04:05Z)", shortened(&text))))
    }

    /// The fields that nothing is lifted from, but that services rely on.
    fn check(&self) -> Result<(), Unreadable> {
        self.event_type.read::<Text<'_>>("event_type")?;
        self.label.read::<Text<'_>>("label")?;
        self.notification_channels.read::<Vec<Text<'_>>>("notification_channels")?;
        self.recipients.read::<Vec<Text<'_>>>("recipients")?;
        for (name, member) in [("activity", self.activity), ("query", self.query)] {
            member.read::<Checked>(name)?;
            member.check_depth(name)?;
        }
        self.metadata.read::<CheckedObject>("metadata")?;
        self.metadata.check_depth("metadata")?;
        self.detections.check_depth("detections")?;
        let detections = self.detections.read::<Vec<Detection>>("detections")?.unwrap_or_default();
        for (index, detection) in detections.iter().enumerate() {
            if let Some(confidence) = detection.confidence.filter(|share| !(0.0..=1.0).contains(share)) {
                return Err(Unreadable::field(
                    "detections",
                    format_args!("the confidence of number {index} is {confidence}; it must lie between 0 and 1"),
                ));
            }
        }
        Ok(())
    }

    /// The members whose null counts as an absence.
    fn named(&self) -> [(&'static str, Member<'a>); 10] {
        [
            ("id", self.id),
            ("timestamp", self.timestamp),
            ("event_type", self.event_type),
            ("label", self.label),
            ("detections", self.detections),
            ("activity", self.activity),
            ("metadata", self.metadata),
            ("query", self.query),
            ("notification_channels", self.notification_channels),
            ("recipients", self.recipients),
        ]
    }

    /// Where they lie in the text that they were read from.
    fn known(&self, text: &str) -> Known {
        Known::of(
            text,
            [
                self.id,
                self.timestamp,
                self.camera_id,
                self.event_type,
                self.label,
                self.detections,
                self.activity,
                self.metadata,
                self.query,
                self.notification_channels,
                self.recipients,
            ]
            .map(Member::value),
        )
    }

    /// The object with the fields that have defaults filled in. Where nothing is to be filled in, no byte is copied.
    fn filled_in(&self, data: &Bytes, text: &'a str, id: Uuid, timestamp: Option<UnixMillis>, event_type: Option<&str>) -> Bytes {
        let timestamp = timestamp.map(UnixMillis::to_rfc3339);
        let mut defaults: Vec<(&str, Member<'_>, String)> = Vec::new();
        if self.id.value().is_none() {
            defaults.push(("id", self.id, format!("\"{id}\"")));
        }
        if let Some(timestamp) = timestamp {
            defaults.push(("timestamp", self.timestamp, format!("\"{timestamp}\"")));
        }
        if let (None, Some(event_type)) = (self.event_type.value(), event_type) {
            defaults.push(("event_type", self.event_type, serde_json::Value::from(event_type).to_string()));
        }
        if self.notification_channels.value().is_none() {
            defaults.push(("notification_channels", self.notification_channels, r#"["email"]"#.to_owned()));
        }
        if self.recipients.value().is_none() {
            defaults.push(("recipients", self.recipients, "[]".to_owned()));
        }
        // A null says what an absence says, to expressions and to services too, so it is not handed on.
        let nulls: Vec<&str> =
            self.named().into_iter().filter(|(_, member)| matches!(member, Member::Null)).map(|(name, _)| name).collect();
        if defaults.is_empty() && nulls.is_empty() {
            return data.slice_ref(text.trim_ascii().as_bytes());
        }
        let mut json = String::with_capacity(text.len() + 192);
        json.push('{');
        for (name, _, value) in &defaults {
            push_member(&mut json, name, value);
        }
        if nulls.is_empty() {
            // There is a member behind it: the camera's id.
            json.push(',');
            json.push_str(text.trim_ascii()[1..].trim_ascii_start());
        } else {
            let members: Members<'_> = serde_json::from_str(text).unwrap_or_default();
            for (name, value) in members.0.iter().filter(|(name, _)| !nulls.contains(&name.as_ref())) {
                push_member(&mut json, name, value.get());
            }
            json.push('}');
        }
        Bytes::from(json)
    }
}

fn push_member(json: &mut String, name: &str, value: &str) {
    if json.len() > 1 {
        json.push(',');
    }
    json.push_str(&serde_json::Value::from(name).to_string());
    json.push(':');
    json.push_str(value);
}

/// The first 64 characters: what a person needs to see of a wrong value.
fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(64) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(Text(name)) = map.next_key()? {
                    let member = match name.as_ref() {
                        "id" => &mut fields.id,
                        "timestamp" => &mut fields.timestamp,
                        "camera_id" => &mut fields.camera_id,
                        "event_type" => &mut fields.event_type,
                        "label" => &mut fields.label,
                        "detections" => &mut fields.detections,
                        "activity" => &mut fields.activity,
                        "metadata" => &mut fields.metadata,
                        "query" => &mut fields.query,
                        "notification_channels" => &mut fields.notification_channels,
                        "recipients" => &mut fields.recipients,
                        _ => {
                            map.next_value::<Checked>()?;
                            continue;
                        }
                    };
                    // The value that does not count is handed on as well, so it is checked like every other.
                    if let Member::Value(earlier) = *member {
                        serde_json::from_str::<Checked>(earlier).map_err(A::Error::custom)?;
                    }
                    let raw = map.next_value::<&'de RawValue>()?.get();
                    *member = if raw == "null" { Member::Null } else { Member::Value(raw) };
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[cfg(test)]
mod tests;
