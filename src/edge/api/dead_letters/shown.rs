//! A dead letter as the API shows it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use crate::event::dead_letter::Code;
use crate::event::headers::name;
use crate::event::{Headers, Incoming, UnixMillis};
use crate::pipeline::redrive::dead_lettered_at;
use crate::telemetry::facts::quotes_the_event;

/// Bytes of a value, or of all headers, that are shown.
const MOST_SHOWN: usize = 16 << 10;

/// A letter. Whoever may only read sees none of what is in it.
#[derive(Debug, Clone, Serialize)]
pub struct Letter {
    partition: i32,
    offset: i64,
    dead_lettered_at: Option<String>,
    code: Option<String>,
    error: Option<String>,
    service: Option<String>,
    event_id: Option<String>,
    origin: Origin,
    redrives: u32,
    /// Bytes of the value; null if that is null.
    size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inside: Option<Inside>,
}

#[derive(Debug, Clone, Serialize)]
struct Origin {
    topic: Option<String>,
    partition: Option<i32>,
    offset: Option<i64>,
}

/// What is in it.
#[derive(Debug, Clone, Serialize)]
struct Inside {
    key: Option<Payload>,
    value: Option<Payload>,
    headers: Vec<Header>,
    /// Whether there are more headers than are shown.
    headers_cut: bool,
}

#[derive(Debug, Clone, Serialize)]
struct Header {
    name: String,
    value: Option<Payload>,
}

/// Text where it is that, else Base64.
#[derive(Debug, Clone, Serialize)]
struct Payload {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    /// Whether there is more of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

impl Payload {
    fn of(bytes: &Bytes) -> Self {
        let cut = bytes.len() > MOST_SHOWN;
        let mut shown = &bytes[..bytes.len().min(MOST_SHOWN)];
        let text = match std::str::from_utf8(shown) {
            Ok(text) => Some(text),
            // Cut through a character: what is before it is text all the same.
            Err(error) if cut && error.error_len().is_none() => {
                shown = &shown[..error.valid_up_to()];
                std::str::from_utf8(shown).ok()
            }
            Err(_) => None,
        };
        match text {
            Some(text) => Self { text: Some(text.to_owned()), base64: None, cut },
            None => Self { text: None, base64: Some(BASE64.encode(shown)), cut },
        }
    }
}

impl Letter {
    /// What is shown of a letter.
    pub fn of(letter: &Incoming) -> Self {
        let text = |header| letter.headers.text(header).map(str::to_owned);
        let (headers, headers_cut) = headers(&letter.headers);
        Self {
            partition: letter.source.partition.0,
            offset: letter.source.offset.0,
            dead_lettered_at: dead_lettered_at(letter).map(UnixMillis::to_rfc3339),
            code: text(name::ERROR_CODE),
            error: text(name::ERROR),
            service: text(name::SERVICE),
            event_id: text(name::EVENT_ID),
            origin: Origin {
                topic: text(name::ORIGIN_TOPIC),
                partition: letter.headers.number(name::ORIGIN_PARTITION),
                offset: letter.headers.number(name::ORIGIN_OFFSET),
            },
            redrives: letter.headers.number(name::REDRIVES).unwrap_or(0),
            size: letter.value.as_ref().map(Bytes::len),
            inside: Some(Inside {
                key: letter.key.as_ref().map(Payload::of),
                value: letter.value.as_ref().map(Payload::of),
                headers,
                headers_cut,
            }),
        }
    }

    /// Takes out what somebody sent: what is left was written by Fusebox.
    pub(super) fn cover(&mut self) {
        self.inside = None;
        let code = self.code.as_deref().and_then(Code::parse);
        // What no Fusebox has written says what it likes.
        if code.is_none_or(quotes_the_event) {
            // A producer may send headers under our names, and on these letters nobody has replaced that of the service.
            (self.error, self.service) = (None, None);
        }
        self.event_id = self.event_id.take().filter(|id| Uuid::parse_str(id).is_ok());
        if code.is_none() {
            (self.code, self.service, self.event_id, self.origin.topic) = (None, None, None, None);
        }
    }
}

fn headers(all: &Headers) -> (Vec<Header>, bool) {
    let mut left = MOST_SHOWN;
    let mut shown = Vec::new();
    for (header, value) in all.iter() {
        let size = header.len() + value.map_or(0, Bytes::len);
        if size > left {
            return (shown, true);
        }
        left -= size;
        shown.push(Header { name: header.to_owned(), value: value.map(Payload::of) });
    }
    (shown, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Offset, Partition, Source, Topic};

    fn letter(code: &'static str, value: Option<Bytes>) -> Incoming {
        let mut headers = Headers::new();
        headers.append("x-secret", Some("hunter2".into()));
        headers.append(name::EVENT_ID, Some("hunter2".into()));
        headers.set(name::ERROR_CODE, code);
        headers.set(name::ERROR, "expected a number, not \"hunter2\"");
        let source = Source { topic: Topic::from("dead"), partition: Partition(1), offset: Offset(2) };
        Incoming { source, key: Some("hunter2".into()), value, headers, timestamp: Some(UnixMillis(1_000)) }
    }

    #[test]
    fn who_may_only_read_sees_nothing_that_somebody_sent() {
        for code in Code::ALL.map(Code::as_str).into_iter().chain(["made_up"]) {
            let mut shown = Letter::of(&letter(code, Some("hunter2".into())));
            assert!(serde_json::to_string(&shown).expect("JSON").contains("hunter2"));
            shown.cover();
            if code != "made_up" && !quotes_the_event(Code::parse(code).expect("a code")) {
                // Its sentence is of our making in truth; here it is not.
                shown.error = None;
            }
            let covered = serde_json::to_string(&shown).expect("JSON");
            assert!(!covered.contains("hunter2") && !covered.contains("made_up"), "{code}: {covered}");
        }
    }

    #[test]
    fn a_value_is_text_where_it_is_and_never_too_long() {
        let of = |value: Vec<u8>| {
            let shown = Letter::of(&letter("expired", Some(value.into())));
            let value = shown.inside.expect("shown").value.expect("a value");
            (value.text.map(|text| text.len()), value.base64.map(|text| text.len()), value.cut)
        };
        assert_eq!(of("grün".into()), (Some(5), None, false));
        assert_eq!(of(vec![0xff, 0]), (None, Some(4), false));
        assert_eq!(of(vec![b'x'; MOST_SHOWN]), (Some(MOST_SHOWN), None, false));
        assert_eq!(of(vec![b'x'; MOST_SHOWN + 1]), (Some(MOST_SHOWN), None, true));
        // Cut in the middle of a character.
        assert_eq!(of(["x".repeat(MOST_SHOWN - 1), "ü".to_owned()].concat().into()), (Some(MOST_SHOWN - 1), None, true));
    }
}
