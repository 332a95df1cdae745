//! Partitions that are held: what has finished of them could no longer all be said beside their commits if one more record began
//! ([`Watermark::after`](crate::machine::watermark::Watermark::after)). So their further records wait here, in order, without having begun,
//! and their consumer is asked to read no more of them. One that is [stopped](super::brakes) is held too, and nothing of it waits.
//!
//! Guarantees: a hold that was asked for is taken back when it ends, however it ends; what waits is given back in the order in which it
//! came. When it ends is the [`Finisher`](super::finisher::Finisher)'s affair.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::ports::Subscription;
use crate::event::{Incoming, TopicPartition};

/// The partitions that are held, with the records that wait.
#[derive(Debug, Default)]
pub struct Holds {
    waiting: BTreeMap<TopicPartition, VecDeque<Incoming>>,
    stopped: BTreeSet<TopicPartition>,
    /// What the consumer was told to hold.
    told: BTreeSet<TopicPartition>,
    /// Whether that may have changed.
    changed: bool,
}

impl Holds {
    /// Whether nothing waits of any partition.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The partitions that are held for want of room, in order.
    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.waiting.keys().cloned().collect()
    }

    /// A partition is held from now on, and nothing of it waits yet.
    pub fn begin(&mut self, partition: TopicPartition) {
        self.changed |= !self.waiting.contains_key(&partition);
        self.waiting.entry(partition).or_default();
    }

    /// How many partitions are held for want of room.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// A record waits, behind those of its partition that wait already. Its partition is held from now on.
    pub fn push(&mut self, record: Incoming) {
        let partition = record.source.topic_partition();
        self.changed = true;
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
        self.changed = true;
        self.waiting.remove(partition).unwrap_or_default()
    }

    /// A partition is stopped: it is held until it goes on. Gives the records that still waited.
    pub fn stop(&mut self, partition: &TopicPartition) -> VecDeque<Incoming> {
        self.stopped.insert(partition.clone());
        self.end(partition)
    }

    /// Partitions are stopped no longer.
    pub fn go_on(&mut self, goes: impl Fn(&TopicPartition) -> bool) {
        let before = self.stopped.len();
        self.stopped.retain(|partition| !goes(partition));
        self.changed |= self.stopped.len() < before;
    }

    /// Tells the consumer what has changed.
    pub fn tell(&mut self, subscription: &impl Subscription) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let held: BTreeSet<_> = self.waiting.keys().chain(&self.stopped).cloned().collect();
        for partition in held.difference(&self.told) {
            subscription.hold(partition);
        }
        for partition in self.told.difference(&held) {
            subscription.let_go(partition);
        }
        self.told = held;
    }
}
