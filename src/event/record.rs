//! A record as it came from Kafka, and a record as it goes there.

use bytes::Bytes;

use super::{Headers, Partition, Source, Topic, UnixMillis};

/// A record that was read, its bytes untouched.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// Where it was read.
    pub source: Source,
    /// Its key; `None` is Kafka's null.
    pub key: Option<Bytes>,
    /// Its value; `None` is Kafka's null (a tombstone).
    pub value: Option<Bytes>,
    /// Its headers.
    pub headers: Headers,
    /// The record's own timestamp; `None` when it carries none.
    pub timestamp: Option<UnixMillis>,
}

impl Incoming {
    /// The bytes this record holds in memory: key, value, headers and a fixed share for its bookkeeping.
    pub fn size(&self) -> usize {
        const BOOKKEEPING: usize = 256;
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + self.headers.size() + BOOKKEEPING
    }
}

impl Record {
    /// The bytes this record holds in memory: key, value and headers.
    pub fn size(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + self.headers.size()
    }
}

/// A record to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The topic it goes to.
    pub topic: Topic,
    /// The partition it goes to; `None`: its key chooses.
    pub partition: Option<Partition>,
    /// Its key; `None` is Kafka's null.
    pub key: Option<Bytes>,
    /// Its value; `None` is Kafka's null.
    pub value: Option<Bytes>,
    /// Its headers.
    pub headers: Headers,
    /// Its timestamp. Always set: a record with timestamp 0 is deleted by retention at once.
    pub timestamp: UnixMillis,
}
