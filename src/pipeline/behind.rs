//! Which calls of a service that keeps its keys' order may be made at once, and which go behind those that are parked.
//!
//! Calls of partition 3 of the events are parked on partition 3 of the service's retry topic. Whoever has the one reads along on the other, as a member
//! of nothing ([`crate::edge`]): it tells here what it reads, and what the group that drains has finished. What is parked here counts from before it is
//! published; its acknowledgement says where it lies.
//!
//! Guarantees: a call is said to be free only when every call of its key that was parked before is known to have ended. While that cannot be known, its
//! event waits, at most [`PATIENCE`] from when its partition came; then it goes behind, which is right whatever is parked.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::quality::RandomState;
use tokio::sync::Notify;

use super::finisher::ParkEnd;
use super::ports::Clock;
use super::stop::Stop;
use crate::event::{Incoming, Offset, Partition, Source, Topic, TopicPartition, envelope};
use crate::machine::parked_keys::ParkedKeys;
use crate::machine::time::Tick;

/// How long events wait for what is parked to be known, from when their partition came: a reading of some hundred thousand calls, or an election of a
/// partition's leader. What comes later goes behind.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Where a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nothing of its key is parked: to the service.
    Free,
    /// Behind those of its key.
    Behind,
}

/// A partition in one of its lives: what is told of another one changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    /// The partition, of the events and of the retry topic.
    pub partition: Partition,
    number: u64,
}

/// What is known of parked calls, by service.
#[derive(Debug)]
pub struct Behind {
    events: Topic,
    /// By the service's index.
    services: BTreeMap<usize, Service>,
    hasher: RandomState,
    stop: Stop,
}

#[derive(Debug, Default)]
struct Service {
    name: String,
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Known {
    partitions: BTreeMap<Partition, Parked>,
    lives: u64,
}

#[derive(Debug)]
struct Parked {
    life: u64,
    /// It was read to the end that it had when its life began.
    caught_up: bool,
    /// Until then events wait for that.
    patience: Tick,
    keys: ParkedKeys,
}

impl Behind {
    /// For services, by their indices into the config's and their names, whose calls keep the order of their keys.
    pub fn new(events: Topic, services: impl IntoIterator<Item = (usize, String)>, stop: Stop) -> Self {
        let services = services.into_iter().map(|(index, name)| (index, Service { name, ..Service::default() })).collect();
        Self { events, services, hasher: RandomState::default(), stop }
    }

    /// Partitions of the events came.
    pub fn came<'a>(&self, partitions: impl Iterator<Item = &'a TopicPartition> + Clone, now: Tick) {
        for service in self.services.values() {
            let mut known = service.known();
            for partition in partitions.clone() {
                known.lives += 1;
                let parked = Parked { life: known.lives, caught_up: false, patience: now.plus(PATIENCE), keys: ParkedKeys::default() };
                known.partitions.insert(partition.partition, parked);
            }
            service.changed.notify_waiters();
        }
    }

    /// Partitions of the events have gone, or are about to: what still runs of them goes behind.
    pub fn gone(&self, partitions: &[TopicPartition]) {
        for service in self.services.values() {
            let mut known = service.known();
            for partition in partitions {
                known.partitions.remove(&partition.partition);
            }
            service.changed.notify_waiters();
        }
    }

    /// Where the call of an event goes; waits until that can be known.
    pub async fn place(&self, service: usize, event: &Source, key: &[u8], clock: &impl Clock) -> Place {
        let Some(service) = self.services.get(&service) else { return Place::Free };
        let key = self.hasher.hash_one(key);
        loop {
            let mut changed = pin!(service.changed.notified());
            // What changes between the look and the wait is heard.
            changed.as_mut().enable();
            let patience = {
                let known = service.known();
                match known.partitions.get(&event.partition) {
                    None => return Place::Behind,
                    Some(parked) if parked.caught_up => return if parked.keys.is_free(key) { Place::Free } else { Place::Behind },
                    Some(parked) => parked.patience,
                }
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = self.stop.requested() => return Place::Behind,
                () = clock.sleep_until(patience) => return Place::Behind,
            }
        }
    }

    /// An event's call is about to be parked.
    pub fn parks(&self, service: usize, event: &Source, key: &[u8]) {
        self.of(service, event.partition, None, |parked| parked.keys.parks(self.hasher.hash_one(key), event.offset));
    }

    /// An event's call is parked, or was not after all.
    pub fn park_ended(&self, service: usize, event: &Source, end: ParkEnd) {
        self.of(service, event.partition, None, |parked| match end {
            ParkEnd::Parked(at) => parked.keys.parked(event.offset, at),
            ParkEnd::Replaced => parked.keys.was_not_parked(event.offset),
        });
    }

    /// Whether there are services that keep order.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// The partitions on whose parked calls a reader is to read along.
    pub fn wanted(&self, service: usize) -> Vec<Life> {
        let Some(service) = self.services.get(&service) else { return Vec::new() };
        service.known().partitions.iter().map(|(partition, parked)| Life { partition: *partition, number: parked.life }).collect()
    }

    /// A parked call was read. One of another service on the same topic keeps no order, and ends whenever it does.
    pub fn read(&self, service: usize, life: Life, record: &Incoming) {
        if !self.services.get(&service).is_some_and(|of| envelope::is_of(record, &of.name)) {
            return;
        }
        let key = self.hasher.hash_one(record.key.as_deref().unwrap_or_default());
        let origin = envelope::origin(&record.headers);
        let event = origin.filter(|origin| origin.topic == self.events && origin.partition == life.partition).map(|origin| origin.offset);
        self.of(service, life.partition, Some(life), |parked| parked.keys.read(key, event, record.source.offset));
    }

    /// A partition was read to the end that it had when its life began, or beyond.
    pub fn caught_up(&self, service: usize, life: Life) {
        self.of(service, life.partition, Some(life), |parked| parked.caught_up = true);
        if let Some(service) = self.services.get(&service) {
            service.changed.notify_waiters();
        }
    }

    /// Some calls that were parked on a partition have ended.
    pub fn ended(&self, service: usize, life: Life, has_ended: impl Fn(Offset) -> bool) {
        self.of(service, life.partition, Some(life), |parked| parked.keys.ended(has_ended));
    }

    /// Whether calls are known to be on a partition that are not known to have ended: then it is worth asking.
    pub fn awaits_ends(&self, service: usize, life: Life) -> bool {
        let mut awaits = false;
        self.of(service, life.partition, Some(life), |parked| awaits = parked.keys.awaits_ends());
        awaits
    }

    fn of(&self, service: usize, partition: Partition, life: Option<Life>, change: impl FnOnce(&mut Parked)) {
        let Some(service) = self.services.get(&service) else { return };
        let mut known = service.known();
        let parked = known.partitions.get_mut(&partition);
        if let Some(parked) = parked.filter(|parked| life.is_none_or(|life| life.number == parked.life)) {
            change(parked);
        }
    }
}

impl Service {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
