//! Kafka record headers: an ordered list in which a name may stand more than once, and the names that Fusebox writes.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use bytes::{Bytes, BytesMut};

/// The headers that Fusebox writes. Each is replaced, never piled up, when a record is published again.
pub mod name {
    /// The service whose call is parked.
    pub const SERVICE: &str = "fusebox-service";
    /// Why the call was parked.
    pub const REASON: &str = "fusebox-reason";
    /// Calls made and failed so far.
    pub const ATTEMPT: &str = "fusebox-attempt";
    /// How often the call has been put on the retry topic.
    pub const PARKS: &str = "fusebox-parks";
    /// Not to be delivered before this time (unix ms).
    pub const NOT_BEFORE: &str = "fusebox-not-before";
    /// When the call was first parked (unix ms).
    pub const FIRST_PARKED_AT: &str = "fusebox-first-parked-at";
    /// The partition of the retry topic on which the call was first parked; the first record itself does not say.
    pub const FIRST_PARKED_PARTITION: &str = "fusebox-first-parked-partition";
    /// The offset that it had there.
    pub const FIRST_PARKED_OFFSET: &str = "fusebox-first-parked-offset";
    /// The topic of the event the call belongs to.
    pub const ORIGIN_TOPIC: &str = "fusebox-origin-topic";
    /// The partition of that event.
    pub const ORIGIN_PARTITION: &str = "fusebox-origin-partition";
    /// The offset of that event.
    pub const ORIGIN_OFFSET: &str = "fusebox-origin-offset";
    /// The timestamp that a redriven event's record had when it was first read (unix ms).
    pub const ORIGIN_TIMESTAMP: &str = "fusebox-origin-timestamp";
    /// The event's id.
    pub const EVENT_ID: &str = "fusebox-event-id";
    /// Why a record is a dead letter, as a stable word.
    pub const ERROR_CODE: &str = "fusebox-error-code";
    /// Why a record is a dead letter, as a sentence.
    pub const ERROR: &str = "fusebox-error";
    /// When the record became a dead letter (unix ms).
    pub const DEAD_LETTERED_AT: &str = "fusebox-dead-lettered-at";
    /// How often the record has been redriven from the dead letters.
    pub const REDRIVES: &str = "fusebox-redrives";
    /// All of the above.
    pub const WRITTEN_HERE: [&str; 17] = [
        SERVICE,
        REASON,
        ATTEMPT,
        PARKS,
        NOT_BEFORE,
        FIRST_PARKED_AT,
        FIRST_PARKED_PARTITION,
        FIRST_PARKED_OFFSET,
        ORIGIN_TOPIC,
        ORIGIN_PARTITION,
        ORIGIN_OFFSET,
        ORIGIN_TIMESTAMP,
        EVENT_ID,
        ERROR_CODE,
        ERROR,
        DEAD_LETTERED_AT,
        REDRIVES,
    ];
    /// W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";
    /// W3C trace state.
    pub const TRACESTATE: &str = "tracestate";
}

/// The headers of one record, in order. A null value is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Cow<'static, str>, Option<Bytes>)>);

impl Headers {
    /// No headers.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// No headers, with room for so many.
    pub fn with_capacity(headers: usize) -> Self {
        Self(Vec::with_capacity(headers))
    }

    /// Adds a header behind the others, also when the name is there already.
    pub fn append(&mut self, name: impl Into<Cow<'static, str>>, value: Option<Bytes>) {
        self.0.push((name.into(), value));
    }

    /// Removes every header of this name and adds one.
    pub fn set(&mut self, name: &'static str, value: impl Into<Bytes>) {
        self.remove(name);
        self.0.push((Cow::Borrowed(name), Some(value.into())));
    }

    /// Removes every header of this name.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(there, _)| there != name);
    }

    /// The last value of this name: Kafka's own rule for a name that stands more than once.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().rev().find(|(there, _)| there == name).and_then(|(_, value)| value.as_ref())
    }

    /// The last value of this name as text; `None` if it is absent, null or not UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The last value of this name as a number; `None` if it is absent or not one.
    pub fn number<N: std::str::FromStr>(&self, name: &str) -> Option<N> {
        self.text(name).and_then(|text| text.parse().ok())
    }

    /// Every header in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, Option<&Bytes>)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of all names and values.
    pub fn size(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len)).sum()
    }
}

/// Values of a record's headers as text, in one piece of memory that they share.
#[derive(Debug)]
pub(super) struct Values(BytesMut);

impl Default for Values {
    fn default() -> Self {
        // As much as a parked call's take.
        Self(BytesMut::with_capacity(192))
    }
}

impl Values {
    /// What is displayed of a value.
    pub(super) fn of(&mut self, value: impl fmt::Display) -> Bytes {
        // The memory grows as it must: writing into it does not fail.
        let _ = write!(self.0, "{value}");
        self.0.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_replaces_every_earlier_one() {
        let mut headers = Headers::new();
        headers.append("fusebox-attempt", Some("1".into()));
        headers.append("other", None);
        headers.append("fusebox-attempt", Some("2".into()));
        assert_eq!(headers.number::<u32>(name::ATTEMPT), Some(2));
        headers.set(name::ATTEMPT, "3");
        assert_eq!(headers.iter().filter(|(n, _)| *n == name::ATTEMPT).count(), 1);
        assert_eq!(headers.number::<u32>(name::ATTEMPT), Some(3));
        assert_eq!(headers.get("other"), None);
        assert_eq!(headers.iter().count(), 2);
    }

    #[test]
    fn values_stay_what_they_were_when_more_are_written_than_there_was_room_for() {
        let mut values = Values::default();
        let long = "x".repeat(300);
        let all = [values.of(7), values.of(""), values.of(&long), values.of(-1)];
        assert_eq!(all, ["7", "", long.as_str(), "-1"].map(|text| Bytes::copy_from_slice(text.as_bytes())));
    }
}
