mod bad;
mod cloudevents;
mod good;
mod properties;

use super::*;
use crate::event::{Offset, Partition, Topic};

/// The record's own time: 2026-11-03T21:04:05.678Z.
const AT: UnixMillis = UnixMillis(1_793_739_845_678);
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const MAX_BYTES: usize = 1024 * 1024;

/// A record at `surveillance.events/3@7` without key and headers.
fn record(value: impl AsRef<[u8]>) -> Incoming {
    Incoming {
        source: Source { topic: Topic::from("surveillance.events"), partition: Partition(3), offset: Offset(7) },
        key: None,
        value: Some(Bytes::copy_from_slice(value.as_ref())),
        headers: Headers::new(),
        timestamp: Some(AT),
    }
}

/// The id of an event of that place that carries none.
fn id_of_place() -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, b"surveillance.events/3/7")
}

fn read(record: &Incoming) -> Result<Event, Unreadable> {
    decode(record, MAX_BYTES, NOW)
}

fn with_headers<'a>(mut record: Incoming, headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Incoming {
    for (name, value) in headers {
        record.headers.append(name.to_owned(), Some(Bytes::copy_from_slice(value.as_bytes())));
    }
    record
}

fn text(json: &Bytes) -> &str {
    std::str::from_utf8(json).expect("an event's JSON is text")
}

/// What is wrong with this value.
fn fault(value: impl AsRef<[u8]>) -> (Code, String) {
    let value = value.as_ref();
    match read(&record(value)) {
        Ok(event) => panic!("{:?} was read as {}", String::from_utf8_lossy(value), text(&event.json)),
        Err(Unreadable { code, message }) => (code, message),
    }
}
