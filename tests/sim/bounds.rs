//! What a loop holds, seen from outside: what was handed to it and has no end, and what its client has of its records and Kafka has not
//! acknowledged. It is never more than the loop's own budget counts, so no record may be handed over while it fills the bounds: a record, or the
//! rest of what those in flight leave behind, is all that may come on top.
//!
//! A drain may put a record aside and read it again: whether it has done so shows in its value, which is held by nobody then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use fusebox::event::headers::name;
use fusebox::event::{Incoming, Record, Source, TopicPartition};

/// What one loop holds.
pub struct Holdings {
    max: (usize, usize),
    puts_aside: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    handed: BTreeMap<Source, Given>,
    unacknowledged: usize,
}

struct Given {
    /// Without its value, but with its size.
    record: Incoming,
    size: usize,
    /// Somebody holds its value, as far as that can be told.
    value: Option<Weak<()>>,
}

impl Given {
    fn is_held(&self) -> bool {
        self.value.as_ref().is_none_or(|value| value.strong_count() > 0)
    }
}

/// A value of which it is known whether anybody holds it.
struct Value {
    bytes: Bytes,
    _held: Arc<()>,
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Hands a record over in such a way that it is known whether it is held.
fn give(record: &mut Incoming) -> Given {
    let size = record.size();
    let held = Arc::new(());
    let weak = Arc::downgrade(&held);
    let value = record.value.take();
    let kept = Incoming { value: None, ..record.clone() };
    let value = value.map(|bytes| Bytes::from_owner(Value { bytes, _held: held }));
    let watched = value.is_some().then_some(weak);
    record.value = value;
    Given { record: kept, size, value: watched }
}

impl Holdings {
    /// Of a loop that may hold so many records and bytes.
    pub fn new(max: (usize, usize)) -> Arc<Self> {
        Arc::new(Self { max, puts_aside: false, state: Mutex::default() })
    }

    /// Of a loop that puts records aside.
    pub fn of_drain(max: (usize, usize)) -> Arc<Self> {
        Arc::new(Self { max, puts_aside: true, state: Mutex::default() })
    }

    /// Records are handed to the loop. `ended`: whether one has an end by now.
    pub fn take(&self, records: &mut [Incoming], ended: impl Fn(&Incoming) -> bool) {
        let mut state = self.state.lock().expect("unpoisoned");
        state.handed.retain(|_, given| given.is_held() && !ended(&given.record));
        for record in records {
            let handed = state.handed.values().map(|given| given.size).sum::<usize>();
            // Held twice: by the loop, to try again, and by the client.
            let (count, bytes) = (state.handed.len(), handed + 2 * state.unacknowledged);
            let held = count < self.max.0 && bytes < self.max.1;
            assert!(held, "G4: {count} records and {bytes} bytes are held of {:?}, and {} is read", self.max, record.source);
            if !ended(record) {
                let given = if self.puts_aside { give(record) } else { Given { size: record.size(), record: record.clone(), value: None } };
                state.handed.insert(record.source.clone(), given);
            }
        }
    }

    /// A record is handed to the loop again: it was put aside, and the bounds hold for it too, but that one may come when nothing else can make room.
    pub fn again(&self, record: &mut Incoming, ended: impl Fn(&Incoming) -> bool) {
        let mut state = self.state.lock().expect("unpoisoned");
        state.handed.retain(|_, given| given.is_held() && !ended(&given.record));
        let count = state.handed.len();
        assert!(count <= self.max.0, "G4: {count} records are held of {:?}, and {} is read again", self.max, record.source);
        if !ended(record) {
            let given = give(record);
            state.handed.insert(record.source.clone(), given);
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
