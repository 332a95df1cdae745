//! Records that Kafka has not taken, and those behind them: of one topic and key the first goes first, and the next when it is there.
//!
//! Each record that failed waits for a time of its own, so without this a later outcome of a key could be written before an earlier one. What
//! was already handed to the client when an earlier record failed is not held back: it cannot be.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::ports::Token;
use crate::event::{Record, Topic};

/// The queues of keys that have a record which failed. Empty while all goes well, and then it costs nothing to ask.
#[derive(Debug, Default)]
pub(super) struct Stragglers {
    queues: HashMap<(Topic, Bytes), BTreeSet<Token>, RandomState>,
}

/// What a record is in order with; `None` if with nothing.
fn place(record: &Record) -> Option<(Topic, Bytes)> {
    Some((record.topic.clone(), record.key.clone()?))
}

impl Stragglers {
    /// A record failed. Whether it is the first of its key, and may be tried again.
    pub fn failed(&mut self, record: &Record, token: Token) -> bool {
        let Some((topic, key)) = place(record) else { return true };
        // It may outlive the record, whose whole memory a key would keep that is a part of it.
        let queue = self.queues.entry((topic, Bytes::copy_from_slice(&key))).or_default();
        queue.insert(token);
        queue.first() == Some(&token)
    }

    /// A record is new. Whether it waits behind one that failed.
    pub fn holds(&mut self, record: &Record, token: Token) -> bool {
        if self.queues.is_empty() {
            return false;
        }
        place(record).and_then(|place| self.queues.get_mut(&place)).is_some_and(|queue| queue.insert(token))
    }

    /// Whether a record may be tried again: nothing of its key that failed comes before it.
    pub fn may_go(&self, record: &Record, token: Token) -> bool {
        place(record).and_then(|place| self.queues.get(&place)).is_none_or(|queue| !queue.contains(&token) || queue.first() == Some(&token))
    }

    /// A record is there, or given up. The one that waited for it, if one did.
    pub fn passed(&mut self, record: &Record, token: Token) -> Option<Token> {
        if self.queues.is_empty() {
            return None;
        }
        let place = place(record)?;
        let queue = self.queues.get_mut(&place)?;
        let was_first = queue.first() == Some(&token);
        queue.remove(&token);
        let next = queue.first().copied();
        if next.is_none() {
            self.queues.remove(&place);
        }
        next.filter(|_| was_first)
    }
}
