//! Dead letters: what was given up, whole, with the reason.

use std::borrow::Cow;

use bytes::Bytes;

use super::foreign::{self, About, Style};
use super::headers::{Values, name};
use super::{Headers, Incoming, Offset, Partition, Record, Source, Topic, UnixMillis};

/// Why a record is a dead letter: a stable word for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// The value is not JSON: empty, null, cut off, not UTF-8, nested too deeply.
    InvalidJson,
    /// JSON, but not an object.
    NotAnObject,
    /// A required field is absent.
    MissingField,
    /// A known field has a value that it cannot have.
    InvalidField,
    /// The record is larger than is read, or than a topic takes.
    TooLarge,
    /// A topic takes no record like it, as one without a key where it is compacted.
    NotTaken,
    /// A parked call failed as often as it may.
    AttemptsExhausted,
    /// A parked call was not delivered within its longest age.
    Expired,
    /// The service refused the call for good.
    RejectedByService,
    /// A stage whose fallback is `fail` failed.
    StageFailed,
    /// Somebody discarded it.
    Discarded,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 11] = [
        Self::InvalidJson,
        Self::NotAnObject,
        Self::MissingField,
        Self::InvalidField,
        Self::TooLarge,
        Self::NotTaken,
        Self::AttemptsExhausted,
        Self::Expired,
        Self::RejectedByService,
        Self::StageFailed,
        Self::Discarded,
    ];

    /// The code of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == word)
    }

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::NotAnObject => "not_an_object",
            Self::MissingField => "missing_field",
            Self::InvalidField => "invalid_field",
            Self::TooLarge => "too_large",
            Self::NotTaken => "not_taken",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::Expired => "expired",
            Self::RejectedByService => "rejected_by_service",
            Self::StageFailed => "stage_failed",
            Self::Discarded => "discarded",
        }
    }
}

/// Where dead letters go, and in whose words they are written beside our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letterbox {
    /// The topic.
    pub topic: Topic,
    /// Whose headers are added.
    pub styles: Vec<Style>,
    /// The group that reads what becomes a dead letter: what others call its consumer, or its connector.
    pub group: String,
}

impl Letterbox {
    /// With our own headers alone.
    pub fn plain(topic: Topic) -> Self {
        Self { topic, styles: Vec::new(), group: String::new() }
    }
}

/// A dead letter in the making: the record it is made of, and what is said of it.
#[derive(Debug, Clone)]
pub struct DeadLetter<'a> {
    /// Why.
    pub code: Code,
    /// Why, in one sentence that names no host, credential or stack.
    pub error: Cow<'a, str>,
    /// The event's coordinates.
    pub origin: &'a Source,
}

impl DeadLetter<'_> {
    /// The dead letter of a record that was read: its key, value, headers and timestamp untouched, ours added.
    pub fn of(&self, record: &Incoming, letterbox: &Letterbox, now: UnixMillis) -> Record {
        let timestamp = record.timestamp.filter(|at| at.0 > 0);
        let mut headers = self.headers(record.headers.clone(), now);
        self.foreign(&mut headers, letterbox, &record.source.topic, Some((record.source.partition, record.source.offset)), timestamp);
        Record {
            topic: letterbox.topic.clone(),
            partition: None,
            key: record.key.clone(),
            value: record.value.clone(),
            headers,
            timestamp: timestamp.unwrap_or(now),
        }
    }

    /// The dead letter of a record that is too large to be carried along: like [`DeadLetter::of`], with an empty value.
    pub fn of_too_large(&self, record: &Incoming, letterbox: &Letterbox, now: UnixMillis) -> Record {
        Record { value: Some(Bytes::new()), ..self.of(record, letterbox, now) }
    }

    /// The dead letter of a record that was never read: an envelope that would have been parked.
    pub fn of_unsent(&self, record: Record, letterbox: &Letterbox, now: UnixMillis) -> Record {
        let mut headers = self.headers(record.headers, now);
        // A letter that is made anew was of a record that was read; anything else would have gone to its own topic.
        let (topic, place) = if record.topic == letterbox.topic {
            (&self.origin.topic, Some((self.origin.partition, self.origin.offset)))
        } else {
            (&record.topic, None)
        };
        self.foreign(&mut headers, letterbox, topic, place, Some(record.timestamp));
        Record { topic: letterbox.topic.clone(), partition: None, headers, ..record }
    }

    fn headers(&self, mut headers: Headers, now: UnixMillis) -> Headers {
        // Redriven it is parked anew, at another place.
        headers.remove(name::FIRST_PARKED_PARTITION);
        headers.remove(name::FIRST_PARKED_OFFSET);
        headers.set(name::ERROR_CODE, self.code.as_str());
        headers.set(name::ERROR, self.error.as_ref().to_owned());
        headers.set(name::DEAD_LETTERED_AT, now.0.to_string());
        set_origin(&mut headers, &mut Values::default(), self.origin);
        if headers.number::<u32>(name::REDRIVES).is_none() {
            headers.set(name::REDRIVES, "0");
        }
        headers
    }

    fn foreign(
        &self,
        headers: &mut Headers,
        letterbox: &Letterbox,
        topic: &Topic,
        place: Option<(Partition, Offset)>,
        timestamp: Option<UnixMillis>,
    ) {
        let about = About { code: self.code, error: &self.error, topic, place, timestamp, group: &letterbox.group };
        for style in &letterbox.styles {
            foreign::write(*style, &about, headers);
        }
    }
}

/// The longest value of a header that stays on a dead letter that was too large.
const LONGEST_KEPT: usize = 512;

/// The next smaller form of a dead letter that its topic does not take: without its value, then without the headers that are not
/// ours or are longer than ours ever are, then without its key. `None` if nothing is left to leave out.
pub fn smaller(record: Record) -> Option<Record> {
    if record.value.as_ref().is_some_and(|value| !value.is_empty()) {
        return Some(Record { value: Some(Bytes::new()), ..record });
    }
    // A producer may send headers under our names too, of any length.
    let stays =
        |header: &str, value: Option<&Bytes>| name::WRITTEN_HERE.contains(&header) && value.is_none_or(|value| value.len() <= LONGEST_KEPT);
    if record.headers.iter().any(|(header, value)| !stays(header, value)) {
        let mut headers = Headers::new();
        for (header, value) in record.headers.iter().filter(|(header, value)| stays(header, *value)) {
            headers.append(header.to_owned(), value.cloned());
        }
        return Some(Record { headers, ..record });
    }
    record.key.is_some().then(|| Record { key: None, ..record })
}

/// Writes an event's coordinates.
pub(super) fn set_origin(headers: &mut Headers, values: &mut Values, origin: &Source) {
    headers.set(name::ORIGIN_TOPIC, values.of(&origin.topic));
    headers.set(name::ORIGIN_PARTITION, values.of(origin.partition));
    headers.set(name::ORIGIN_OFFSET, values.of(origin.offset));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_that_is_too_large_ends_small_whatever_its_producer_sent() {
        let mut headers = Headers::new();
        for header in ["x-theirs", "fusebox-x", name::REDRIVES, name::EVENT_ID] {
            headers.append(header, Some(Bytes::from(vec![b'x'; 1 << 20])));
        }
        let source = Source { topic: Topic::from("t"), partition: Partition(0), offset: Offset(1) };
        let key = Some(Bytes::from(vec![b'k'; 1 << 20]));
        let value = Some(Bytes::from(vec![b'v'; 1 << 20]));
        let record = Incoming { source: source.clone(), key, value, headers, timestamp: Some(UnixMillis(7)) };
        let letter = DeadLetter { code: Code::InvalidJson, error: "why".into(), origin: &source };
        let mut smallest = letter.of(&record, &Letterbox::plain(Topic::from("d")), UnixMillis(9));
        let mut steps = 0;
        while let Some(next) = smaller(smallest.clone()) {
            smallest = next;
            steps += 1;
        }
        assert_eq!(steps, 3);
        assert!(smallest.headers.size() < 1_000 && smallest.key.is_none() && smallest.value.as_ref().is_some_and(Bytes::is_empty));
        assert_eq!(smallest.headers.text(name::ERROR_CODE), Some("invalid_json"));
        assert_eq!(smallest.headers.number(name::ORIGIN_OFFSET), Some(1));
    }
}
