//! What a stub does with its requests, as JSON and as a type.
//!
//! ```json
//! "hang"
//! {"kind": "fail", "status": 503, "retry_after": 30}
//! {"kind": "slow", "ms": 800}
//! {"kind": "ok", "delay_ms": 20}
//! {"steps": [{"kind": "fail"}, "reset"], "then": "ok"}
//! ```

use std::time::Duration;

use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a stub does: a step for each request while there are steps, then the same for every other.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "Value")]
pub struct Behaviour {
    /// What is done with the first requests after this was set, one each.
    pub steps: Vec<Turn>,
    /// What is done with every later one.
    pub then: Turn,
}

/// What is done with one request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "Value")]
pub struct Turn {
    /// What.
    #[serde(flatten)]
    pub act: Act,
    /// How long to wait before it, milliseconds.
    pub delay_ms: u64,
}

/// The ways to treat a request. Every request is read to its end first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Act {
    /// 200 and what the service would say.
    #[default]
    Ok,
    /// A failure and a problem in JSON.
    Fail {
        /// The status, 200 to 599; 503 unless said.
        #[serde(with = "status", default = "default_status")]
        status: StatusCode,
        /// `Retry-After`: seconds, or text as it is (a date).
        #[serde(default)]
        retry_after: Option<RetryAfter>,
    },
    /// No answer, while the client waits.
    Hang,
    /// [`Act::Ok`] after a while.
    Slow {
        /// The while, milliseconds.
        ms: u64,
    },
    /// [`Act::Ok`] after a while, each time another.
    Jitter {
        /// The shortest, milliseconds.
        min_ms: u64,
        /// The longest, milliseconds.
        max_ms: u64,
    },
    /// The connection is reset (RST) without an answer.
    Reset,
    /// 200 and half of the announced body, then the connection is closed (FIN).
    CutOff,
    /// 200 and half of the announced body, then nothing, while the client waits.
    Stall,
    /// 200 and a chunked body that never ends.
    Endless {
        /// Bytes in a chunk.
        #[serde(default = "default_chunk")]
        chunk_bytes: usize,
        /// Milliseconds from one chunk to the next.
        #[serde(default = "default_interval")]
        every_ms: u64,
    },
    /// 200 and a page of HTML, as a gateway's login would be.
    NotJson,
    /// 204.
    NoContent,
    /// A redirect.
    Redirect {
        /// The status; 307 unless said.
        #[serde(with = "status", default = "default_redirect")]
        status: StatusCode,
        /// Where to; `/elsewhere` unless said.
        #[serde(default)]
        location: Option<String>,
    },
    /// 200 with a body of no bytes.
    Empty,
    /// 200 and a JSON string so long that the body has this many bytes (at least 14).
    TooLarge {
        /// The body's size.
        bytes: u64,
    },
    /// [`Act::Ok`] after a while, for so many at once; 503 at once for all above.
    Capacity {
        /// How many.
        max: usize,
        /// The while, milliseconds.
        #[serde(default)]
        ms: u64,
    },
    /// 503 for a share of the requests, picked by chance, [`Act::Ok`] for the rest.
    Flaky {
        /// The share, 0 to 1.
        share: f64,
    },
    /// 400: the request is refused for good.
    Reject,
}

impl Act {
    /// A failure with this status and no `Retry-After`.
    pub fn fail(status: StatusCode) -> Self {
        Self::Fail { status, retry_after: None }
    }

    /// The word.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fail { .. } => "fail",
            Self::Hang => "hang",
            Self::Slow { .. } => "slow",
            Self::Jitter { .. } => "jitter",
            Self::Reset => "reset",
            Self::CutOff => "cut_off",
            Self::Stall => "stall",
            Self::Endless { .. } => "endless",
            Self::NotJson => "not_json",
            Self::NoContent => "no_content",
            Self::Redirect { .. } => "redirect",
            Self::Empty => "empty",
            Self::TooLarge { .. } => "too_large",
            Self::Capacity { .. } => "capacity",
            Self::Flaky { .. } => "flaky",
            Self::Reject => "reject",
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Flaky { share } if !(0.0..=1.0).contains(share) => Err(format!("`share` is {share}; it is a share, 0 to 1")),
            Self::Jitter { min_ms, max_ms } if min_ms > max_ms => Err(format!("`min_ms` ({min_ms}) is more than `max_ms` ({max_ms})")),
            Self::Endless { chunk_bytes: 0, .. } => Err("`chunk_bytes` is 0; an empty chunk would end the body".to_owned()),
            Self::Redirect { location: Some(location), .. } if HeaderValue::from_str(location).is_err() => {
                Err("`location` has a character that no header may carry".to_owned())
            }
            _ => Ok(()),
        }
    }
}

impl Turn {
    /// The same, so much later.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self { delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), ..self }
    }
}

impl Behaviour {
    /// These, one for each request, then that.
    pub fn script<T: Into<Turn>>(steps: impl IntoIterator<Item = T>, then: impl Into<Turn>) -> Self {
        Self { steps: steps.into_iter().map(Into::into).collect(), then: then.into() }
    }
}

impl From<Act> for Turn {
    fn from(act: Act) -> Self {
        Self { act, delay_ms: 0 }
    }
}

impl From<Turn> for Behaviour {
    fn from(then: Turn) -> Self {
        Self { steps: Vec::new(), then }
    }
}

impl From<Act> for Behaviour {
    fn from(then: Act) -> Self {
        Turn::from(then).into()
    }
}

/// What is not read as a part of the type would be a typing error that goes unnoticed: every field must be known.
fn only(map: &Map<String, Value>, known: &[&str]) -> Result<(), String> {
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(format!("unknown field `{key}`; known here: {}", known.join(", "))),
    }
}

impl TryFrom<Value> for Turn {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let mut map = match value {
            Value::String(kind) => Map::from_iter([("kind".to_owned(), Value::String(kind))]),
            Value::Object(map) => map,
            _ => return Err("a behaviour is a word (\"hang\") or an object with `kind`".to_owned()),
        };
        let delay_ms = match map.remove("delay_ms") {
            None => 0,
            Some(delay) => delay.as_u64().ok_or("`delay_ms` is a whole number of milliseconds")?,
        };
        let act: Act = serde_json::from_value(Value::Object(map.clone())).map_err(|error| error.to_string())?;
        act.check()?;
        let known = serde_json::to_value(&act).map_err(|error| error.to_string())?;
        let mut known: Vec<&str> = known.as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect();
        known.push("delay_ms");
        only(&map, &known)?;
        Ok(Self { act, delay_ms })
    }
}

impl TryFrom<Value> for Behaviour {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value {
            Value::Object(mut map) if map.contains_key("steps") || map.contains_key("then") => {
                only(&map, &["steps", "then"])?;
                let steps = match map.remove("steps") {
                    None => Vec::new(),
                    Some(Value::Array(steps)) => steps
                        .into_iter()
                        .enumerate()
                        .map(|(index, step)| Turn::try_from(step).map_err(|error| format!("steps[{index}]: {error}")))
                        .collect::<Result<_, _>>()?,
                    Some(_) => return Err("`steps` is a list of behaviours".to_owned()),
                };
                let then = map.remove("then").map(Turn::try_from).transpose().map_err(|error| format!("then: {error}"))?;
                Ok(Self { steps, then: then.unwrap_or_default() })
            }
            other => Turn::try_from(other).map(Self::from),
        }
    }
}

/// The value of a `Retry-After`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "String")]
pub struct RetryAfter(HeaderValue);

impl RetryAfter {
    /// So many seconds.
    pub fn seconds(seconds: u64) -> Self {
        Self(seconds.into())
    }

    /// The header's value as it is: a date, or something that is neither.
    ///
    /// # Errors
    /// No header may carry it.
    pub fn text(text: &str) -> Result<Self, String> {
        HeaderValue::from_str(text).map(Self).map_err(|_| "`retry_after` has a character that no header may carry".to_owned())
    }

    pub(super) fn value(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl TryFrom<Value> for RetryAfter {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Self::text(&text),
            other => other.as_u64().map(Self::seconds).ok_or_else(|| "`retry_after` is a number of seconds or a text (a date)".to_owned()),
        }
    }
}

impl From<RetryAfter> for String {
    fn from(value: RetryAfter) -> Self {
        String::from_utf8_lossy(value.0.as_bytes()).into_owned()
    }
}

fn default_status() -> StatusCode {
    StatusCode::SERVICE_UNAVAILABLE
}

fn default_redirect() -> StatusCode {
    StatusCode::TEMPORARY_REDIRECT
}

fn default_chunk() -> usize {
    1_024
}

fn default_interval() -> u64 {
    10
}

/// A status as a number.
mod status {
    use http::StatusCode;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
    pub(super) fn serialize<S: Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(status.as_u16())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StatusCode, D::Error> {
        let number = u64::deserialize(deserializer)?;
        let status = u16::try_from(number).ok().filter(|number| (200..600).contains(number));
        status
            .and_then(|number| StatusCode::from_u16(number).ok())
            .ok_or_else(|| D::Error::custom(format!("`status` is {number}; 200 to 599 can be sent")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_what_is_meant() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (written, expect) in [
            (json!("ok"), Act::Ok.into()),
            (json!({"kind": "hang"}), Act::Hang.into()),
            (json!({"kind": "fail"}), Act::fail(StatusCode::SERVICE_UNAVAILABLE).into()),
            (
                json!({"kind": "fail", "status": 429, "retry_after": 5}),
                Act::Fail { status: StatusCode::TOO_MANY_REQUESTS, retry_after: Some(RetryAfter::seconds(5)) }.into(),
            ),
            (
                json!({"kind": "fail", "status": 500, "retry_after": date}),
                Act::Fail { status: StatusCode::INTERNAL_SERVER_ERROR, retry_after: Some(RetryAfter::text(date).unwrap()) }.into(),
            ),
            (json!({"kind": "slow", "ms": 7, "delay_ms": 3}), Turn { act: Act::Slow { ms: 7 }, delay_ms: 3 }.into()),
            (json!({"kind": "endless"}), Act::Endless { chunk_bytes: 1_024, every_ms: 10 }.into()),
            (json!({"kind": "redirect"}), Act::Redirect { status: StatusCode::TEMPORARY_REDIRECT, location: None }.into()),
            (json!({"kind": "capacity", "max": 2}), Act::Capacity { max: 2, ms: 0 }.into()),
            (
                json!({"steps": ["reset", {"kind": "flaky", "share": 0.5}]}),
                Behaviour::script([Act::Reset, Act::Flaky { share: 0.5 }], Act::Ok),
            ),
            (json!({"then": "reject"}), Act::Reject.into()),
        ] {
            let read: Behaviour = serde_json::from_value(written.clone()).unwrap_or_else(|error| panic!("{written}: {error}"));
            assert_eq!(read, expect, "{written}");
            let again: Behaviour = serde_json::from_value(serde_json::to_value(&read).unwrap()).unwrap();
            assert_eq!(again, read, "{written}: written out and read again");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (written, expect) in [
            (json!("explode"), "unknown variant `explode`"),
            (json!(7), "a behaviour is a word"),
            (json!({}), "missing field `kind`"),
            (json!({"kind": "hang", "ms": 5}), "unknown field `ms`; known here: kind, delay_ms"),
            (json!({"kind": "fail", "stauts": 500}), "unknown field `stauts`; known here: kind, status, retry_after, delay_ms"),
            (json!({"kind": "fail", "status": 99}), "`status` is 99; 200 to 599 can be sent"),
            (json!({"kind": "fail", "retry_after": -1}), "`retry_after` is a number of seconds or a text"),
            (json!({"kind": "fail", "retry_after": "a\nb"}), "no header may carry"),
            (json!({"kind": "slow"}), "missing field `ms`"),
            (json!({"kind": "slow", "ms": 1, "delay_ms": "1s"}), "`delay_ms` is a whole number of milliseconds"),
            (json!({"kind": "jitter", "min_ms": 2, "max_ms": 1}), "`min_ms` (2) is more than `max_ms` (1)"),
            (json!({"kind": "flaky", "share": 1.5}), "`share` is 1.5; it is a share, 0 to 1"),
            (json!({"kind": "endless", "chunk_bytes": 0}), "an empty chunk would end the body"),
            (json!({"kind": "redirect", "location": "a\r\nb"}), "`location` has a character"),
            (json!({"steps": "ok"}), "`steps` is a list"),
            (json!({"steps": ["ok", "nope"]}), "steps[1]: unknown variant `nope`"),
            (json!({"steps": [], "kind": "ok"}), "unknown field `kind`; known here: steps, then"),
        ] {
            let error = serde_json::from_value::<Behaviour>(written.clone()).unwrap_err().to_string();
            assert!(error.contains(expect), "{written}: {error}");
        }
    }
}
