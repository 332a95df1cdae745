//! The answers that stand in: the cache of good ones, and the words that say that an answer stands in.
//!
//! A stand-in is never passed off as a service's own answer: it carries a member `fallback` that says what stands in, why, and
//! until when, in words that name no host, credential or stack. Which kind stands in is the config's choice, and asking
//! for it is the pipeline's.

use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::time::Tick;
use crate::event::UnixMillis;
use crate::event::json::Members;

/// A service's last good answers by key: at most so many, the least recently used dropped first, none older than its time to live.
#[derive(Debug)]
pub struct Cache {
    answers: LruCache<Box<str>, Answer>,
    ttl: Duration,
}

#[derive(Debug)]
struct Answer {
    data: Bytes,
    at: Tick,
}

impl Cache {
    /// An empty cache. An answer as old as `ttl` is still good, an older one is not.
    pub fn new(max_entries: NonZeroUsize, ttl: Duration) -> Self {
        // Room for all of them is not set aside before they are there: the bound may be far above the need.
        let mut answers = LruCache::unbounded();
        answers.resize(max_entries);
        Self { answers, ttl }
    }

    /// Keeps a good answer, JSON, in place of the one that the key had.
    pub fn put(&mut self, key: &str, data: Bytes, now: Tick) {
        self.answers.put(key.into(), Answer { data, at: now });
    }

    /// The last good answer for this key and its age. One that has outlived its time is dropped.
    pub fn get(&mut self, key: &str, now: Tick) -> Option<(&Bytes, Duration)> {
        if now.since(self.answers.peek(key)?.at) > self.ttl {
            self.answers.pop(key);
            return None;
        }
        self.answers.get(key).map(|answer| (&answer.data, now.since(answer.at)))
    }

    /// How many answers are kept, those that have outlived their time but were not asked for since included.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }
}

/// What stands in.
#[derive(Debug, Clone, Copy)]
pub enum StandIn<'a> {
    /// An answer of before, JSON.
    Cached {
        /// The answer.
        data: &'a Bytes,
        /// How old it is.
        age: Duration,
    },
    /// The config's body.
    Default(&'a Map<String, Value>),
}

impl StandIn<'_> {
    /// The kind as the config spells it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Cached { .. } => "cached",
            Self::Default(_) => "default",
        }
    }
}

#[derive(Serialize)]
struct Fallback<'a> {
    kind: &'static str,
    reason: &'a str,
    explanation: String,
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
}

/// The JSON of a stand-in for `service`'s answer: what stands in, with the member `fallback` at its end. What is not an object stands
/// in as the member `value`; a member `fallback` that was there is replaced.
///
/// `reason` is the stage's `error_type` (`circuit_open`, `timeout`, …); `until` is when the service is asked again, where that is known.
pub fn explain(service: &str, stand_in: StandIn<'_>, reason: &str, until: Option<UnixMillis>) -> Bytes {
    let until = until.map(UnixMillis::to_rfc3339);
    let age = match stand_in {
        StandIn::Cached { age, .. } => Some(age.as_secs()),
        StandIn::Default(_) => None,
    };
    let fallback =
        Fallback { kind: stand_in.kind(), reason, explanation: sentence(service, age, reason, until.as_deref()), until, age_seconds: age };
    let mut members = match stand_in {
        StandIn::Cached { data, .. } => members(data),
        StandIn::Default(body) => body.iter().filter(|(name, _)| *name != MEMBER).map(|(name, value)| member(name, value)).collect(),
    };
    members.push(member(MEMBER, &fallback));
    format!("{{{}}}", members.join(",")).into()
}

const MEMBER: &str = "fallback";

/// A member as it is written in an object.
fn member<T: Serialize + ?Sized>(name: &str, value: &T) -> String {
    let json = |written: Result<String, serde_json::Error>| written.unwrap_or_else(|_| "null".to_owned());
    format!("{}:{}", json(serde_json::to_string(name)), json(serde_json::to_string(value)))
}

/// The members of a cached answer, their values as they were written.
fn members(data: &Bytes) -> Vec<String> {
    match serde_json::from_slice::<Members<'_>>(data) {
        Ok(there) => there.0.into_iter().filter(|(name, _)| name != MEMBER).map(|(name, value)| member(&name, value)).collect(),
        Err(_) => match serde_json::from_slice::<&RawValue>(data) {
            Ok(value) => vec![member("value", value)],
            Err(_) => vec![member("value", &Value::Null)],
        },
    }
}

/// What a person reads.
fn sentence(service: &str, age_seconds: Option<u64>, reason: &str, until: Option<&str>) -> String {
    let what = match age_seconds {
        Some(age) => format!("An answer that {service} gave {} earlier stands in for its answer", lasted(age)),
        None => format!("A default stands in for the answer of {service}"),
    };
    let why = match reason {
        "circuit_open" => "calls to it are held back for now",
        "timeout" => "it did not answer in time",
        "connect" => "it could not be reached",
        "http_5xx" => "it answered with an error of its own",
        "http_429" => "it asked for fewer calls",
        "retryable" => "it could not take the call yet",
        "overload" => "too many calls to it were waiting",
        "bad_body" => "its answer could not be read",
        "rejected" => "it refused the request",
        "shutdown" => "processing was stopping",
        _ => "it gave no usable answer",
    };
    match until {
        Some(until) => format!("{what}: {why}. It is not asked again before {until}."),
        None => format!("{what}: {why}."),
    }
}

/// A time span in the largest unit that it fills.
fn lasted(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
