//! CloudEvents 1.0 over Kafka, in both modes: binary (attributes in `ce_*` headers) and structured (one JSON object).

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use uuid::Uuid;

use super::dead_letter::Code;
use super::decode::Unreadable;
use super::headers::name;
use super::json::Object;
use super::{Headers, UnixMillis};

const STRUCTURED: &str = "application/cloudevents+json";

/// An event's object, taken out of its CloudEvents wrapping if it has one.
#[derive(Debug)]
pub struct Unwrapped {
    /// The event's JSON object.
    pub data: Bytes,
    /// The attribute `time`.
    pub time: Option<UnixMillis>,
    /// The attribute `type`.
    pub event_type: Option<String>,
    identity: Option<Identity>,
}

#[derive(Debug)]
struct Identity {
    id: String,
    source: String,
}

impl Unwrapped {
    /// The event's id by its CloudEvents attributes: `id` itself where that is a UUID, else UUIDv5 of `source` and `id`, which
    /// together are unique by the specification (1.0.2, "id").
    pub fn event_id(&self) -> Option<Uuid> {
        let identity = self.identity.as_ref()?;
        Some(
            Uuid::parse_str(&identity.id)
                .unwrap_or_else(|_| Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("{}#{}", identity.source, identity.id).as_bytes())),
        )
    }
}

/// The header of a CloudEvents extension attribute in binary mode.
pub(super) fn extension_header(header: &'static str) -> &'static str {
    match header {
        name::TRACEPARENT => "ce_traceparent",
        name::TRACESTATE => "ce_tracestate",
        other => other,
    }
}

/// Takes the event out of its wrapping; a value without one is handed back as it is.
///
/// # Errors
/// An unknown version, a wrong attribute, a structured event without readable data.
pub fn unwrap(value: &Bytes, headers: &Headers) -> Result<Unwrapped, Unreadable> {
    if headers.text("content-type").is_some_and(is_structured) {
        return structured(value);
    }
    if headers.get("ce_specversion").is_some() {
        return binary(value, headers);
    }
    Ok(plain(value))
}

fn plain(value: &Bytes) -> Unwrapped {
    Unwrapped { data: value.clone(), time: None, event_type: None, identity: None }
}

/// Whether a content type, without its parameters, is that of a structured event.
fn is_structured(content_type: &str) -> bool {
    let kind = content_type.split_once(';').map_or(content_type, |(kind, _)| kind);
    kind.trim().eq_ignore_ascii_case(STRUCTURED)
}

/// An empty `id` is none (1.0.2, "id": "MUST be a non-empty string"): taken as one it would make all of a source's events the same.
fn identity(id: Option<String>, source: Option<String>) -> Option<Identity> {
    id.filter(|id| !id.is_empty()).map(|id| Identity { id, source: source.unwrap_or_default() })
}

fn binary(value: &Bytes, headers: &Headers) -> Result<Unwrapped, Unreadable> {
    check_version(headers.text("ce_specversion").unwrap_or("not UTF-8"))?;
    Ok(Unwrapped {
        data: value.clone(),
        time: time(headers.text("ce_time"))?,
        event_type: headers.text("ce_type").map(str::to_owned),
        identity: identity(headers.text("ce_id").map(str::to_owned), headers.text("ce_source").map(str::to_owned)),
    })
}

fn structured(value: &Bytes) -> Result<Unwrapped, Unreadable> {
    #[derive(Deserialize)]
    struct Wrapping<'a> {
        #[serde(borrow, default)]
        specversion: Option<Cow<'a, str>>,
        #[serde(default)]
        id: Option<String>,
        #[serde(default)]
        source: Option<String>,
        #[serde(default, rename = "type")]
        event_type: Option<String>,
        #[serde(borrow, default)]
        time: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        data: Option<&'a RawValue>,
        #[serde(default)]
        data_base64: Option<String>,
    }
    let text = std::str::from_utf8(value)
        .map_err(|error| Unreadable::new(Code::InvalidJson, format!("the value is not UTF-8: byte {} is wrong", error.valid_up_to())))?;
    if !text.trim_ascii_start().starts_with('{') {
        // No event at all, wrapped or not: what it is instead is said where plain values are read.
        return Ok(plain(value));
    }
    let Object(wrapping) = serde_json::from_str::<Object<Wrapping<'_>>>(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Unreadable::field("cloudevents", error),
        _ => Unreadable::json(&error),
    })?;
    check_version(wrapping.specversion.as_deref().unwrap_or("missing"))?;
    let data = match (wrapping.data, wrapping.data_base64) {
        (Some(raw), _) => value.slice_ref(raw.get().as_bytes()),
        (None, Some(encoded)) => {
            use base64::Engine as _;
            let bytes =
                base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|error| Unreadable::field("data_base64", error))?;
            Bytes::from(bytes)
        }
        (None, None) => {
            return Err(Unreadable::new(Code::MissingField, "field `data` is missing from the structured CloudEvent"));
        }
    };
    Ok(Unwrapped {
        data,
        time: time(wrapping.time.as_deref())?,
        event_type: wrapping.event_type,
        identity: identity(wrapping.id, wrapping.source),
    })
}

fn check_version(version: &str) -> Result<(), Unreadable> {
    if version == "1.0" { Ok(()) } else { Err(Unreadable::field("specversion", format_args!("{version:?}; CloudEvents 1.0 is read"))) }
}

fn time(text: Option<&str>) -> Result<Option<UnixMillis>, Unreadable> {
    text.map(|text| UnixMillis::from_rfc3339(text).ok_or_else(|| Unreadable::field("time", format_args!("{text:?} is not RFC 3339"))))
        .transpose()
}
