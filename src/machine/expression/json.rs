//! From JSON text to CEL values and back.
//!
//! CEL's numbers are not JSON's: an integer is an `int` where it fits, else a `uint`, else a `double`, as is every
//! number with a point or an exponent. On the way back `bytes` are Base64, timestamps are RFC 3339, durations are seconds (`"1.5s"`),
//! and a map's keys are sorted, because CEL keeps them in no order.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use cel::common::types::{CelBool, CelBytes, CelDouble, CelDuration, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString};
use cel::common::types::{CelTimestamp, CelUInt};
use cel::common::value::Val;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::EvaluationError;
use super::path::Place;

/// What a JSON value is, by its first byte: the text is known to be JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    Text,
    Number,
    Bool,
    Null,
}

impl Kind {
    pub(super) fn of(raw: &str) -> Self {
        match raw.as_bytes().first() {
            Some(b'{') => Self::Object,
            Some(b'[') => Self::Array,
            Some(b'"') => Self::Text,
            Some(b't' | b'f') => Self::Bool,
            Some(b'n') => Self::Null,
            _ => Self::Number,
        }
    }

    /// CEL's name of the type; a number's is that of most.
    pub(super) fn type_name(self) -> &'static str {
        match self {
            Self::Object => "map",
            Self::Array => "list",
            Self::Text => "string",
            Self::Number => "number",
            Self::Bool => "bool",
            Self::Null => "null_type",
        }
    }
}

/// CEL's durations are nanoseconds in 64 bits with a sign.
pub(super) fn cel_duration(duration: Duration) -> CelDuration {
    CelDuration::from(chrono::Duration::nanoseconds(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
}

/// The CEL value of what lies at a path, borrowing its strings.
pub(super) fn value<'e>(place: Place<'e>) -> Result<Box<dyn Val + 'e>, EvaluationError> {
    Ok(match place {
        Place::Json(raw) => read(raw, Tree)?,
        Place::Text(text) => Box::new(CelString::from(text)),
        Place::Int(int) => Box::new(CelInt::from(int)),
        Place::Double(double) => Box::new(CelDouble::from(double)),
        Place::Duration(duration) => Box::new(cel_duration(duration)),
        Place::Members(members) => {
            let mut map: HashMap<CelMapKey<'e>, Box<dyn Val + 'e>> = HashMap::with_capacity(members.len());
            for (name, data) in members {
                let text = std::str::from_utf8(data).map_err(|_| not_json())?;
                map.insert(CelMapKey::String(CelString::from(*name)), read(text, Tree)?);
            }
            Box::new(CelMap::from(map))
        }
        Place::Headers(headers) => {
            let mut map: HashMap<CelMapKey<'e>, Box<dyn Val + 'e>> = HashMap::new();
            for (name, _) in headers.iter() {
                if let Some(text) = headers.text(name) {
                    map.insert(CelMapKey::String(CelString::from(name)), Box::new(CelString::from(text)));
                }
            }
            Box::new(CelMap::from(map))
        }
    })
}

/// How many elements, or members of different names, a JSON array or object has.
pub(super) fn size(raw: &str) -> Result<usize, EvaluationError> {
    read(raw, Count)
}

/// A JSON number, string, bool or null through `seed`.
pub(super) fn read<'e, S: DeserializeSeed<'e>>(raw: &'e str, seed: S) -> Result<S::Value, EvaluationError> {
    seed.deserialize(&mut serde_json::Deserializer::from_str(raw)).map_err(|_| not_json())
}

fn not_json() -> EvaluationError {
    EvaluationError::new("a value is not JSON")
}

/// Writes a CEL value as JSON.
pub(super) fn write(value: &dyn Val, out: &mut Vec<u8>) -> Result<(), EvaluationError> {
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        write_text(text.inner(), out);
    } else if let Some(int) = value.downcast_ref::<CelInt>() {
        write_displayed(int.inner(), out);
    } else if let Some(bool) = value.downcast_ref::<CelBool>() {
        write_displayed(bool.inner(), out);
    } else if value.downcast_ref::<CelNull>().is_some() {
        out.extend_from_slice(b"null");
    } else if let Some(double) = value.downcast_ref::<CelDouble>() {
        let number = serde_json::Number::from_f64(*double.inner())
            .ok_or_else(|| EvaluationError::new("the result is a double that JSON does not have (NaN or infinite)"))?;
        write_displayed(&number, out);
    } else if let Some(uint) = value.downcast_ref::<CelUInt>() {
        write_displayed(uint.inner(), out);
    } else if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        out.push(b'[');
        for (index, element) in list.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write(element.as_ref(), out)?;
        }
        out.push(b']');
    } else if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        write_map(map, out)?;
    } else if let Some(bytes) = value.downcast_ref::<CelBytes<'_>>() {
        write_text(&base64::engine::general_purpose::STANDARD.encode(bytes.inner()), out);
    } else if let Some(at) = value.downcast_ref::<CelTimestamp>() {
        write_text(&at.inner().to_rfc3339(), out);
    } else if let Some(duration) = value.downcast_ref::<CelDuration>() {
        write_text(&seconds(duration.inner().num_seconds(), duration.inner().subsec_nanos()), out);
    } else {
        return Err(EvaluationError(format!("the result is a {}; JSON has no such value", value.get_type().name())));
    }
    Ok(())
}

#[expect(clippy::iter_over_hash_type, reason = "the members are put in order before they are written")]
fn write_map(map: &CelMap<'_>, out: &mut Vec<u8>) -> Result<(), EvaluationError> {
    let mut members = BTreeMap::new();
    for (key, value) in map.iter() {
        let name = match key {
            CelMapKey::String(text) => text.inner().to_owned(),
            CelMapKey::Int(int) => int.inner().to_string(),
            CelMapKey::UInt(uint) => uint.inner().to_string(),
            CelMapKey::Bool(bool) => bool.inner().to_string(),
        };
        if members.insert(name, value).is_some() {
            return Err(EvaluationError::new("two keys of the resulting map are the same in JSON"));
        }
    }
    out.push(b'{');
    for (index, (name, value)) in members.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_text(name, out);
        out.push(b':');
        write(value.as_ref(), out)?;
    }
    out.push(b'}');
    Ok(())
}

/// Writes a JSON string.
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a string always has JSON, and a vector takes it");
}

fn write_displayed(value: &impl fmt::Display, out: &mut Vec<u8>) {
    use std::io::Write as _;
    write!(out, "{value}").expect("a vector takes every byte");
}

/// A duration as JSON has it in CEL's mapping.
fn seconds(whole: i64, nanos: i32) -> String {
    let sign = if whole < 0 || nanos < 0 { "-" } else { "" };
    let text = format!("{sign}{}.{:09}", whole.unsigned_abs(), nanos.unsigned_abs());
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A number as CEL has it.
pub(super) fn unsigned<'e>(number: u64) -> Box<dyn Val + 'e> {
    match i64::try_from(number) {
        Ok(int) => Box::new(CelInt::from(int)),
        Err(_) => Box::new(CelUInt::from(number)),
    }
}

/// Builds a CEL value.
struct Tree;

impl<'e> DeserializeSeed<'e> for Tree {
    type Value = Box<dyn Val + 'e>;

    fn deserialize<D: Deserializer<'e>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'e> Visitor<'e> for Tree {
    type Value = Box<dyn Val + 'e>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, bool: bool) -> Result<Self::Value, E> {
        Ok(Box::new(CelBool::from(bool)))
    }

    fn visit_i64<E>(self, int: i64) -> Result<Self::Value, E> {
        Ok(Box::new(CelInt::from(int)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(unsigned(number))
    }

    fn visit_f64<E>(self, double: f64) -> Result<Self::Value, E> {
        Ok(Box::new(CelDouble::from(double)))
    }

    fn visit_borrowed_str<E>(self, text: &'e str) -> Result<Self::Value, E> {
        Ok(Box::new(CelString::from(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Box::new(CelString::from(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Box::new(CelNull))
    }

    fn visit_seq<A: SeqAccess<'e>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = seq.next_element_seed(Tree)? {
            list.push(element);
        }
        Ok(Box::new(CelList::from(list)))
    }

    fn visit_map<A: MapAccess<'e>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: HashMap<CelMapKey<'e>, Box<dyn Val + 'e>> = HashMap::new();
        while let Some(key) = map.next_key_seed(Name)? {
            members.insert(CelMapKey::String(key), map.next_value_seed(Tree)?);
        }
        Ok(Box::new(CelMap::from(members)))
    }
}

/// A string, borrowed where it has no escapes.
pub(super) struct Name;

impl<'e> DeserializeSeed<'e> for Name {
    type Value = CelString<'e>;

    fn deserialize<D: Deserializer<'e>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'e> Visitor<'e> for Name {
    type Value = CelString<'e>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'e str) -> Result<Self::Value, E> {
        Ok(CelString::from(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(CelString::from(text.to_owned()))
    }
}

struct Count;

impl<'e> DeserializeSeed<'e> for Count {
    type Value = usize;

    fn deserialize<D: Deserializer<'e>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'e> Visitor<'e> for Count {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_seq<A: SeqAccess<'e>>(self, mut seq: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    fn visit_map<A: MapAccess<'e>>(self, mut map: A) -> Result<usize, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = map.next_key_seed(Name)? {
            map.next_value::<IgnoredAny>()?;
            names.push(name);
        }
        names.sort_unstable();
        names.dedup();
        Ok(names.len())
    }
}
