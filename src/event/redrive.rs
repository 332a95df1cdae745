//! What becomes of a dead letter that is redriven: the record that goes back to where it came from, or why it stays.
//!
//! - An event goes to the events' topic: key, value and headers as they were, ours taken off. It says how often it was redriven, and, for what
//!   carries neither, which id and time it had when it was first read. Its record is stamped anew: retention must not take it before it is read.
//! - A call goes to its service's retry topic, as if it were parked now for the first time: no attempts spent, no age. Its event's coordinates
//!   and its key for the service stay.
//!
//! Nothing piles up: what is written is replaced, so a letter that comes back from a redrive looks like the first but for its count.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;

use super::dead_letter::Code;
use super::envelope::{self, Parked, Reason};
use super::headers::name;
use super::{Headers, Incoming, Record, Source, Topic, UnixMillis, decode, foreign};

/// Where letters may go.
#[derive(Debug, Clone)]
pub struct Routes {
    /// The events' topic.
    pub events: Topic,
    /// The services that park, each with its retry topic.
    pub parking: Vec<(String, Topic)>,
    /// Of these, the services whose calls keep the order of their keys: each lies on the partition of its event's number.
    pub ordered: BTreeSet<String>,
    /// All services.
    pub services: BTreeSet<String>,
    /// How often a letter may have been redriven before it stays.
    pub max_redrives: u32,
}

/// Why a letter stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stays {
    /// It says no code: whoever wrote it, it was not Fusebox.
    NoLetter,
    /// Its value is not there.
    NotWhole,
    /// It does not say where it came from.
    NoOrigin,
    /// It came from a topic that nobody reads any more.
    UnknownOrigin(Topic),
    /// It is no call that this version reads.
    NoCall(String),
    /// Its service parks nothing here.
    NoService(String),
    /// It was redriven as often as it may.
    Often {
        /// How often.
        redrives: u32,
    },
    /// Its topic does not take it.
    Refused(String),
    /// What has been redriven of its partition cannot be told in the room that Kafka has for it.
    NoRoom,
}

impl Stays {
    /// The word.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NoLetter => "no_letter",
            Self::NotWhole => "not_whole",
            Self::NoOrigin => "no_origin",
            Self::UnknownOrigin(_) => "unknown_origin",
            Self::NoCall(_) => "no_call",
            Self::NoService(_) => "no_service",
            Self::Often { .. } => "max_redrives",
            Self::Refused(_) => "refused",
            Self::NoRoom => "no_room",
        }
    }
}

impl fmt::Display for Stays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLetter => f.write_str("it has no error code: Fusebox has not written it"),
            Self::NotWhole => f.write_str("it has no value: the record was null, or too large to be kept"),
            Self::NoOrigin => f.write_str("it does not say where it came from"),
            Self::UnknownOrigin(topic) => write!(f, "it came from `{topic}`, which is neither `topics.events` nor a retry topic"),
            Self::NoCall(why) => write!(f, "it is no parked call that can be read: {why}"),
            Self::NoService(service) => write!(f, "no service named `{service}` parks its calls here"),
            Self::Often { redrives } => write!(f, "it was redriven {redrives} times already (dead_letters.max_redrives)"),
            Self::Refused(why) => f.write_str(why),
            Self::NoRoom => f.write_str(
                "Kafka has no room to remember it: too many letters before it in its partition stay, between others that went; redrive \
                 those, or wait until they are deleted",
            ),
        }
    }
}

/// Where a letter goes, as what.
///
/// 1. What Fusebox has not written, and what is not whole, stays.
/// 2. What was redriven often enough stays.
/// 3. A code that only calls have, or an origin that is a retry topic: a call.
/// 4. A record that a topic did not take is a call if it reads as one and names its service.
/// 5. All else is an event, and must have come from the events' topic.
///
/// # Errors
/// Why it stays.
pub fn redrive(letter: &Incoming, routes: &Routes, now: UnixMillis) -> Result<Record, Stays> {
    let Some(code) = letter.headers.text(name::ERROR_CODE).and_then(Code::parse) else { return Err(Stays::NoLetter) };
    if letter.value.as_ref().is_none_or(Bytes::is_empty) {
        return Err(Stays::NotWhole);
    }
    let redrives = letter.headers.number(name::REDRIVES).unwrap_or(0);
    if redrives >= routes.max_redrives {
        return Err(Stays::Often { redrives });
    }
    let origin = envelope::origin(&letter.headers);
    let from_retries = origin.as_ref().is_some_and(|origin| routes.parking.iter().any(|(_, topic)| *topic == origin.topic));
    let read = || envelope::read(letter.clone(), now).map_err(|(_, error)| Stays::NoCall(error.message));
    let is_call = match code {
        Code::AttemptsExhausted | Code::Expired | Code::RejectedByService | Code::Discarded => true,
        Code::TooLarge | Code::NotTaken => {
            from_retries || read().is_ok_and(|parked| letter.headers.text(name::SERVICE) == Some(&*parked.service))
        }
        Code::InvalidJson | Code::NotAnObject | Code::MissingField | Code::InvalidField | Code::StageFailed => from_retries,
    };
    let redrives = redrives.saturating_add(1);
    if is_call {
        return call(read()?, routes, redrives, now);
    }
    let origin = origin.ok_or(Stays::NoOrigin)?;
    if origin.topic != routes.events {
        return Err(Stays::UnknownOrigin(origin.topic));
    }
    Ok(event(letter, &origin, redrives, now))
}

fn event(letter: &Incoming, origin: &Source, redrives: u32, now: UnixMillis) -> Record {
    let mut headers = without_error(&letter.headers);
    let id = letter.headers.number(name::EVENT_ID).unwrap_or_else(|| decode::id_of(origin));
    let first = letter.headers.number(name::ORIGIN_TIMESTAMP).map(UnixMillis).or(letter.timestamp).filter(|at| at.0 > 0);
    for header in [name::SERVICE, name::ORIGIN_TOPIC, name::ORIGIN_PARTITION, name::ORIGIN_OFFSET] {
        headers.remove(header);
    }
    headers.set(name::EVENT_ID, id.to_string());
    if let Some(first) = first {
        headers.set(name::ORIGIN_TIMESTAMP, first.0.to_string());
    }
    headers.set(name::REDRIVES, redrives.to_string());
    Record { topic: origin.topic.clone(), partition: None, key: letter.key.clone(), value: letter.value.clone(), headers, timestamp: now }
}

fn call(parked: Parked, routes: &Routes, redrives: u32, now: UnixMillis) -> Result<Record, Stays> {
    let Some((service, topic)) = routes.parking.iter().find(|(service, _)| *service == *parked.service) else {
        return Err(Stays::NoService(parked.service.into()));
    };
    let letter = parked.record;
    let mut headers = without_error(&letter.headers);
    let reason = headers.text(name::REASON).and_then(Reason::parse);
    let parks = headers.number::<u32>(name::PARKS).unwrap_or(0).saturating_add(1);
    headers.remove(name::REASON);
    headers.set(name::SERVICE, service.clone());
    headers.set(name::EVENT_ID, parked.event_id.to_string());
    if let Some(reason) = reason {
        headers.set(name::REASON, reason.as_str());
    }
    headers.set(name::ATTEMPT, "0");
    headers.set(name::PARKS, parks.to_string());
    headers.set(name::NOT_BEFORE, now.0.to_string());
    headers.set(name::FIRST_PARKED_AT, now.0.to_string());
    headers.set(name::REDRIVES, redrives.to_string());
    let partition = envelope::origin(&headers).filter(|_| routes.ordered.contains(service)).map(|origin| origin.partition);
    Ok(Record { topic: topic.clone(), partition, key: letter.key, value: letter.value, headers, timestamp: now })
}

/// What is true of the letter alone taken off.
fn without_error(headers: &Headers) -> Headers {
    let mut headers = headers.clone();
    for header in [name::ERROR_CODE, name::ERROR, name::DEAD_LETTERED_AT] {
        headers.remove(header);
    }
    foreign::take_off(&mut headers);
    headers
}

#[cfg(test)]
mod tests;
