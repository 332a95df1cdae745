//! A dead letter as the API shows it.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use super::super::payload::{Header, Payload};
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

impl Letter {
    /// All that is shown of a letter.
    pub fn of(letter: &Incoming) -> Self {
        let (headers, headers_cut) = headers(&letter.headers);
        let inside = Inside {
            key: letter.key.as_ref().map(|key| Payload::of(key, MOST_SHOWN)),
            value: letter.value.as_ref().map(|value| Payload::of(value, MOST_SHOWN)),
            headers,
            headers_cut,
        };
        Self { inside: Some(inside), ..Self::without_inside(letter) }
    }

    fn without_inside(letter: &Incoming) -> Self {
        let text = |header| letter.headers.text(header).map(str::to_owned);
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
            inside: None,
        }
    }

    /// What whoever may only read is shown of it: nothing that somebody sent, only what Fusebox has written.
    pub fn covered(letter: &Incoming, services: &BTreeSet<String>) -> Self {
        let mut shown = Self::without_inside(letter);
        shown.cover(services);
        shown
    }

    fn cover(&mut self, services: &BTreeSet<String>) {
        let code = self.code.as_deref().and_then(Code::parse);
        // What no Fusebox has written says what it likes.
        if code.is_none_or(quotes_the_event) {
            self.error = None;
        }
        // A producer may send headers under our names, and nobody replaces that of the service on an event's letter.
        self.service = self.service.take().filter(|service| services.contains(service));
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
        shown.push(Header::of(header, value, MOST_SHOWN));
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
        headers.append(name::SERVICE, Some("hunter2".into()));
        headers.set(name::ERROR_CODE, code);
        headers.set(name::ERROR, "expected a number, not \"hunter2\"");
        let source = Source { topic: Topic::from("dead"), partition: Partition(1), offset: Offset(2) };
        Incoming { source, key: Some("hunter2".into()), value, headers, timestamp: Some(UnixMillis(1_000)) }
    }

    #[test]
    fn what_is_inside_is_not_even_read_for_who_may_only_read() {
        let services = BTreeSet::from(["notifier".to_owned()]);
        let mut known = letter("expired", Some("hunter2".into()));
        known.headers.set(name::SERVICE, "notifier");
        let covered = Letter::covered(&known, &services);
        assert!(covered.inside.is_none());
        assert_eq!(covered.service.as_deref(), Some("notifier"));
    }

    #[test]
    fn who_may_only_read_sees_nothing_that_somebody_sent() {
        for code in Code::ALL.map(Code::as_str).into_iter().chain(["made_up"]) {
            let mut shown = Letter::of(&letter(code, Some("hunter2".into())));
            assert!(serde_json::to_string(&shown).expect("JSON").contains("hunter2"));
            shown.inside = None;
            shown.cover(&BTreeSet::from(["notifier".to_owned()]));
            if code != "made_up" && !quotes_the_event(Code::parse(code).expect("a code")) {
                // Its sentence is of our making in truth; here it is not.
                shown.error = None;
            }
            let covered = serde_json::to_string(&shown).expect("JSON");
            assert!(!covered.contains("hunter2") && !covered.contains("made_up"), "{code}: {covered}");
        }
    }
}
