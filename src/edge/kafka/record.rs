//! Records, from librdkafka's form into ours and back.
//!
//! Whatever bytes a producer sent come through: key and value as they are, null and empty told apart, headers in their order with
//! null and empty values told apart. Two things librdkafka's interface does not give:
//! - A header whose name is not UTF-8 is left out (rust-rdkafka panics on it; the panic is caught and kept quiet). Kafka's protocol
//!   says that header names are UTF-8.
//! - A header's name ends at its first NUL byte, and a record with more than 100,000 headers comes without any.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use bytes::{Bytes, BytesMut};
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message, OwnedHeaders, Timestamp};
use rdkafka::producer::BaseRecord;
use rdkafka::util::IntoOpaque;

use crate::event::{Headers, Incoming, Offset, Partition, Record, Source, Topic, UnixMillis};

/// Copies a message out of librdkafka's memory. `topics` are the names that are likely, so that theirs is shared instead of copied.
pub(super) fn incoming(message: &BorrowedMessage<'_>, topics: &[Topic]) -> Incoming {
    let name = message.topic();
    let topic = topics.iter().find(|topic| topic.as_str() == name).cloned().unwrap_or_else(|| Topic::from(name));
    let (key, value) = copied(message.key(), message.payload());
    Incoming {
        source: Source { topic, partition: Partition(message.partition()), offset: Offset(message.offset()) },
        key,
        value,
        headers: headers(message),
        timestamp: timestamp(message.timestamp()),
    }
}

/// Key and value in one piece of memory: they come and go together.
fn copied(key: Option<&[u8]>, value: Option<&[u8]>) -> (Option<Bytes>, Option<Bytes>) {
    let mut memory = BytesMut::with_capacity(key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len));
    let mut copy = |bytes: &[u8]| {
        memory.extend_from_slice(bytes);
        memory.split().freeze()
    };
    (key.map(&mut copy), value.map(&mut copy))
}

/// A record's timestamp; zero and less are what clients write that set none.
fn timestamp(timestamp: Timestamp) -> Option<UnixMillis> {
    match timestamp {
        Timestamp::NotAvailable => None,
        Timestamp::CreateTime(millis) | Timestamp::LogAppendTime(millis) => (millis > 0).then_some(UnixMillis(millis)),
    }
}

fn headers(message: &BorrowedMessage<'_>) -> Headers {
    let mut headers = Headers::new();
    let Some(native) = message.headers() else { return headers };
    for index in 0..native.count() {
        let header = quietly(|| native.try_get(index).map(|header| (header.key.to_owned(), header.value.map(Bytes::copy_from_slice))));
        match header {
            Some(Some((name, value))) => headers.append(name, value),
            Some(None) => break,
            None => tracing::debug!(
                topic = message.topic(),
                partition = message.partition(),
                offset = message.offset(),
                index,
                "left out a header whose name is not UTF-8"
            ),
        }
    }
    headers
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic; `None` if it did. The panic hook stays silent about it: it would write to standard error for every such header,
/// and a producer could fill a log, or a pipe that nobody reads, with it.
fn quietly<T>(read: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                before(panic);
            }
        }));
    });
    QUIET.set(true);
    let read = catch_unwind(AssertUnwindSafe(read)).ok();
    QUIET.set(false);
    read
}

/// A record in librdkafka's form, borrowing key and value.
pub(super) fn outgoing<D: IntoOpaque>(record: &Record, opaque: D) -> BaseRecord<'_, [u8], [u8], D> {
    let mut outgoing = BaseRecord::with_opaque_to(record.topic.as_str(), opaque);
    // librdkafka takes 0 for "now", and brokers refuse what is below it.
    outgoing.timestamp = Some(record.timestamp.0.max(0));
    outgoing.partition = record.partition.map(|partition| partition.0);
    outgoing.key = record.key.as_deref();
    outgoing.payload = record.value.as_deref();
    if !record.headers.is_empty() {
        let all = OwnedHeaders::new_with_capacity(record.headers.iter().len());
        outgoing.headers =
            Some(record.headers.iter().fold(all, |all, (key, value)| all.insert(Header { key, value: value.map(AsRef::<[u8]>::as_ref) })));
    }
    outgoing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_that_say_nothing_are_none() {
        for (given, expected) in [
            (Timestamp::NotAvailable, None),
            (Timestamp::CreateTime(-1), None),
            (Timestamp::CreateTime(0), None),
            (Timestamp::CreateTime(5), Some(UnixMillis(5))),
            (Timestamp::LogAppendTime(7), Some(UnixMillis(7))),
            (Timestamp::LogAppendTime(i64::MIN), None),
        ] {
            assert_eq!(timestamp(given), expected, "{given:?}");
        }
    }

    #[test]
    fn null_and_empty_stay_apart_on_the_way_in() {
        let pieces: [Option<&'static [u8]>; 4] = [None, Some(b""), Some(b"a"), Some(b"longer")];
        for key in pieces {
            for value in pieces {
                assert_eq!(copied(key, value), (key.map(Bytes::from_static), value.map(Bytes::from_static)), "{key:?} {value:?}");
            }
        }
    }

    #[test]
    fn a_caught_panic_leaves_the_next_one_loud() {
        assert_eq!(quietly(|| 1), Some(1));
        assert_eq!(quietly(|| -> u8 { panic!("not UTF-8") }), None);
        assert!(!QUIET.get());
    }

    #[test]
    fn null_and_empty_stay_apart_on_the_way_out() {
        let mut headers = Headers::new();
        headers.append("null", None);
        headers.append("empty", Some(Bytes::new()));
        headers.append("", Some(Bytes::from_static(b"nameless")));
        let record =
            Record { topic: Topic::from("t"), partition: None, key: Some(Bytes::new()), value: None, headers, timestamp: UnixMillis(-5) };
        let out = outgoing(&record, ());
        assert_eq!((out.key, out.payload, out.timestamp), (Some(&[][..]), None, Some(0)));
        let native = out.headers.unwrap();
        let all: Vec<_> = native.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect();
        assert_eq!(all, [("null".into(), None), ("empty".into(), Some(vec![])), (String::new(), Some(b"nameless".to_vec()))]);
    }
}
