//! What a loop holds, seen from outside: what was handed to it and has no end, and what its client has of its records and Kafka has not
//! acknowledged. It is never more than the loop's own budget counts, so no record may be handed over while it fills the bounds: a record, or the
//! rest of what those in flight leave behind, is all that may come on top.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fusebox::event::headers::name;
use fusebox::event::{Incoming, Record, Source, TopicPartition};

/// What one loop holds.
pub struct Holdings {
    max: (usize, usize),
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    handed: BTreeMap<Source, Incoming>,
    unacknowledged: usize,
}

impl Holdings {
    /// Of a loop that may hold so many records and bytes.
    pub fn new(max: (usize, usize)) -> Arc<Self> {
        Arc::new(Self { max, state: Mutex::default() })
    }

    /// Records are handed to the loop. `ended`: whether one has an end by now.
    pub fn take(&self, records: &[Incoming], ended: impl Fn(&Incoming) -> bool) {
        let mut state = self.state.lock().expect("unpoisoned");
        state.handed.retain(|_, record| !ended(record));
        for record in records {
            let handed = state.handed.values().map(Incoming::size).sum::<usize>();
            // Held twice: by the loop, to try again, and by the client.
            let (count, bytes) = (state.handed.len(), handed + 2 * state.unacknowledged);
            let held = count < self.max.0 && bytes < self.max.1;
            assert!(held, "G4: {count} records and {bytes} bytes are held of {:?}, and {} is read", self.max, record.source);
            if !ended(record) {
                state.handed.insert(record.source.clone(), record.clone());
            }
        }
    }

    /// Partitions go, and what was handed over of them.
    pub fn let_go(&self, partitions: &[TopicPartition]) {
        self.state.lock().expect("unpoisoned").handed.retain(|source, _| !partitions.contains(&source.topic_partition()));
    }

    /// A record is in the client's hands. Gives its size, for [`Holdings::acknowledged`].
    pub fn publishing(&self, record: &Record) -> usize {
        // A letter in place of what was too large is larger by its own words, which the budget leaves out.
        let size = if record.headers.get(name::ERROR_CODE).is_some() { 0 } else { record.size() };
        self.state.lock().expect("unpoisoned").unacknowledged += size;
        size
    }

    /// What became of it is told.
    pub fn acknowledged(&self, size: usize) {
        self.state.lock().expect("unpoisoned").unacknowledged -= size;
    }
}
