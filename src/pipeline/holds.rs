//! Partitions that are held: what has finished of them could no longer all be said beside their commits if one more record began
//! ([`Watermark::after`](crate::machine::watermark::Watermark::after)). So their further records wait here, in order, without having begun,
//! and their consumer is asked to read no more of them.
//!
//! Guarantees: a hold that was asked for is taken back when it ends, however it ends; what waits is given back in the order in which it
//! came. When it ends is the [`Finisher`](super::finisher::Finisher)'s affair.

use std::collections::{BTreeMap, VecDeque};

use super::ports::Subscription;
use crate::event::{Incoming, TopicPartition};

/// The partitions that are held, with the records that wait.
#[derive(Debug, Default)]
pub struct Holds {
    waiting: BTreeMap<TopicPartition, VecDeque<Incoming>>,
    /// Partitions that are held, or no longer, since the consumer was told.
    untold: BTreeMap<TopicPartition, bool>,
}

impl Holds {
    /// Whether no partition is held.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a partition is held.
    pub fn has(&self, partition: &TopicPartition) -> bool {
        self.waiting.contains_key(partition)
    }

    /// The partitions that are held, in order.
    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.waiting.keys().cloned().collect()
    }

    /// A record waits, behind those of its partition that wait already. Its partition is held from now on.
    pub fn push(&mut self, record: Incoming) {
        let partition = record.source.topic_partition();
        if !self.has(&partition) {
            self.untold.insert(partition.clone(), true);
        }
        self.waiting.entry(partition).or_default().push_back(record);
    }

    /// The first record of a partition that waits.
    pub fn first(&self, partition: &TopicPartition) -> Option<&Incoming> {
        self.waiting.get(partition)?.front()
    }

    /// Takes the first record of a partition that waits.
    pub fn pop(&mut self, partition: &TopicPartition) -> Option<Incoming> {
        self.waiting.get_mut(partition)?.pop_front()
    }

    /// Ends a hold. Gives the records that still waited.
    pub fn end(&mut self, partition: &TopicPartition) -> VecDeque<Incoming> {
        let Some(waiting) = self.waiting.remove(partition) else { return VecDeque::new() };
        self.untold.insert(partition.clone(), false);
        waiting
    }

    /// Tells the consumer what has changed.
    pub fn tell(&mut self, subscription: &impl Subscription) {
        for (partition, held) in std::mem::take(&mut self.untold) {
            if held {
                subscription.hold(&partition);
            } else {
                subscription.let_go(&partition);
            }
        }
    }
}
