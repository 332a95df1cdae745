//! What a stub saw: the last requests one by one, and all of them counted.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::event::UnixMillis;
use crate::event::headers::name::TRACEPARENT;

/// One request, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the order in which requests were read, counted over all stubs that were started together.
    pub seq: u64,
    /// The service that was asked.
    pub service: String,
    /// The connection it came on, counted from 1.
    pub connection: u64,
    /// HTTP's method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// All of its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// When it was read.
    pub started_at: UnixMillis,
    /// When it ended; `None` while it has not.
    pub ended_at: Option<UnixMillis>,
    /// How it ended; `None` while it has not (it hangs, stalls, waits).
    pub ended: Option<Ended>,
    /// The behaviour that was in force for it.
    pub behaviour: &'static str,
    /// Requests that were not answered when it came, itself included.
    pub in_flight_at_start: usize,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// With this status.
    Answered(u16),
    /// The stub reset the connection.
    Reset,
    /// The stub closed the connection in the middle of the body.
    CutOff,
    /// The client closed the connection before it had the whole answer, or the stub stopped.
    ClientGone,
}

impl Serialize for Entry {
    /// For people with `curl` and `jq`: the body as JSON where it is JSON, else as text; of the headers the trace only, since others can
    /// be secret.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = String::from_utf8_lossy(&self.body);
        let mut entry = serializer.serialize_struct("Entry", 13)?;
        entry.serialize_field("seq", &self.seq)?;
        entry.serialize_field("service", &self.service)?;
        entry.serialize_field("connection", &self.connection)?;
        entry.serialize_field("method", self.method.as_str())?;
        entry.serialize_field("path", &self.path)?;
        entry.serialize_field("idempotency_key", &self.idempotency_key)?;
        entry.serialize_field("traceparent", &self.headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()))?;
        match serde_json::from_str::<&RawValue>(&text) {
            Ok(json) => entry.serialize_field("body", json)?,
            Err(_) => entry.serialize_field("body", &text)?,
        }
        entry.serialize_field("started_at", &self.started_at)?;
        entry.serialize_field("ended_at", &self.ended_at)?;
        entry.serialize_field("ended", &self.ended)?;
        entry.serialize_field("behaviour", self.behaviour)?;
        entry.serialize_field("in_flight_at_start", &self.in_flight_at_start)?;
        entry.end()
    }
}

/// All requests, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Requests that were read.
    pub requests: u64,
    /// Those that were answered, by status.
    pub answered: BTreeMap<u16, u64>,
    /// Connections that were reset instead.
    pub reset: u64,
    /// Answers that were cut off.
    pub cut_off: u64,
    /// Clients that went before they had the whole answer.
    pub client_gone: u64,
    /// Requests without an answer as yet.
    pub in_flight: usize,
    /// The most there ever were at once.
    pub max_in_flight: usize,
    /// Connections that carried at least one request.
    pub connections: u64,
    /// Those of them that are open.
    pub connections_open: u64,
}

/// What a stub saw.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    /// The last requests, oldest first.
    pub entries: VecDeque<Entry>,
    /// All requests.
    pub counts: Counts,
}

impl Journal {
    /// Takes in a request, and lets the oldest go if there are more than `most`.
    pub(super) fn begin(&mut self, mut entry: Entry, most: usize) {
        let counts = &mut self.counts;
        counts.requests += 1;
        counts.in_flight += 1;
        counts.max_in_flight = counts.max_in_flight.max(counts.in_flight);
        entry.in_flight_at_start = counts.in_flight;
        self.entries.push_back(entry);
        while self.entries.len() > most {
            self.entries.pop_front();
        }
    }

    /// Notes how a request ended.
    pub(super) fn end(&mut self, seq: u64, ended: Ended, at: UnixMillis) {
        let counts = &mut self.counts;
        counts.in_flight -= 1;
        match ended {
            Ended::Answered(status) => *counts.answered.entry(status).or_default() += 1,
            Ended::Reset => counts.reset += 1,
            Ended::CutOff => counts.cut_off += 1,
            Ended::ClientGone => counts.client_gone += 1,
        }
        // It may be let go already.
        if let Ok(index) = self.entries.binary_search_by_key(&seq, |entry| entry.seq) {
            self.entries[index].ended = Some(ended);
            self.entries[index].ended_at = Some(at);
        }
    }
}
