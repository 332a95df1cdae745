//! What is published in place of a piece that its topic does not take for its size.

use crate::event::dead_letter::{self, Code, DeadLetter, Letterbox};
use crate::event::{Incoming, Record, Source, UnixMillis, envelope};
use crate::pipeline::stages::Left;

/// What is published in place of a piece of what `read` leaves behind, which its topic does not take for its size. `None`: nothing is left to
/// leave out, and only the topic's settings can help, so it is to be tried again, slowly.
pub(super) fn in_place_of(
    record: &Record,
    what: &Left,
    read: &Incoming,
    dead_letters: &Letterbox,
    now: UnixMillis,
) -> Option<(Record, Left)> {
    let size = record.value.as_ref().map_or(0, bytes::Bytes::len);
    let (topic, source) = (&record.topic, &read.source);
    let too_large = |what: &str| format!("the {what} has {size} bytes, which is more than `{topic}` takes (max.message.bytes)");
    Some(match what {
        Left::DeadLetter { code, error } => {
            let smaller = dead_letter::smaller(record.clone())?;
            let said = format!("{error} [its letter was larger than `{topic}` takes, and is not whole]");
            let letter = DeadLetter { code: *code, error: (&said).into(), origin: &event_of(record, read) };
            (letter.of_unsent(smaller, dead_letters, now), what.clone())
        }
        Left::Outcome => {
            let error = too_large("outcome");
            let letter = DeadLetter { code: Code::TooLarge, error: (&error).into(), origin: source };
            (letter.of(read, dead_letters, now), Left::DeadLetter { code: Code::TooLarge, error })
        }
        Left::Parked { .. } | Left::Delivery => {
            let error = too_large("parked call");
            let letter = DeadLetter { code: Code::TooLarge, error: (&error).into(), origin: &event_of(record, read) };
            (letter.of_unsent(record.clone(), dead_letters, now), Left::DeadLetter { code: Code::TooLarge, error })
        }
    })
}

/// The event that a piece belongs to: what a parked call leaves behind says it, and was read somewhere else.
pub(super) fn event_of(record: &Record, read: &Incoming) -> Source {
    envelope::origin(&record.headers).unwrap_or_else(|| read.source.clone())
}
