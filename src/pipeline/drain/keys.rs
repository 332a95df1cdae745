//! The order of keys, for services that keep it: parked calls of a key go one at a time, in the order of their places.
//!
//! A call that fails keeps its place: a copy at the tail would go behind those that followed it. Its attempts and when it is due again are kept in memory;
//! whoever has the partition next goes on from what the record says. Its turn ends when its record is finished, and not before: a call whose end
//! is not there yet may be made again after a crash. What is discarded is given up out of turn: that overtakes nothing.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;

use super::{Drain, Route, Waiting};
use crate::event::envelope::{Parking, Reason};
use crate::event::{Incoming, Offset, Source, TopicPartition, UnixMillis};
use crate::machine::key_gate::KeyGate;
use crate::machine::orders::Act;
use crate::pipeline::ports::{Clock as _, World};

/// What waits for others of its key.
pub(super) struct Keys(Option<Box<Held>>);

struct Held {
    /// With the index of its queue.
    gate: KeyGate<(usize, Waiting)>,
    hasher: RandomState,
}

/// A call's turn among those of its key.
pub(super) struct Turn {
    partition: TopicPartition,
    key: u64,
    at: Offset,
}

impl Turn {
    /// That of the call at a place.
    pub fn of(source: &Source, key: u64) -> Self {
        Self { partition: source.topic_partition(), key, at: source.offset }
    }
}

impl Keys {
    /// Holds nothing, and costs nothing, unless a service keeps order.
    pub fn of<W: World>(routes: &[Route<W>]) -> Self {
        let held = || Box::new(Held { gate: KeyGate::default(), hasher: RandomState::default() });
        Self(routes.iter().any(|route| route.ordered).then(held))
    }

    /// The key of a parked call, as turns know it.
    pub fn key(&self, record: &Incoming) -> Option<u64> {
        Some(self.0.as_ref()?.hasher.hash_one(record.key.as_deref().unwrap_or_default()))
    }

    /// The turn of a parked call.
    pub fn turn(&self, record: &Incoming) -> Option<Turn> {
        Some(Turn::of(&record.source, self.key(record)?))
    }

    /// Takes out what waits of partitions.
    pub fn let_go(&mut self, leaves: impl Fn(&TopicPartition) -> bool) -> impl Iterator<Item = Waiting> {
        let gone = self.0.as_mut().map(|held| held.gate.let_go(leaves)).unwrap_or_default();
        gone.into_iter().map(|(_, waiting)| waiting)
    }

    /// Forgets the turns of partitions whose lives are over, or begin.
    pub fn forget(&mut self, leaves: impl Fn(&TopicPartition) -> bool) {
        if let Some(held) = &mut self.0 {
            held.gate.forget(leaves);
        }
    }

    /// How many wait of a queue.
    pub fn len_of(&self, index: usize) -> usize {
        self.waiting_of(index).count()
    }

    /// When the oldest of those was first parked.
    pub fn oldest_of(&self, index: usize) -> Option<UnixMillis> {
        self.waiting_of(index).map(|waiting| waiting.parked.parking.first_parked_at).min()
    }

    fn waiting_of(&self, index: usize) -> impl Iterator<Item = &Waiting> {
        let held = self.0.iter().flat_map(|held| held.gate.iter());
        held.filter(move |(_, (of, _))| *of == index).map(|(_, (_, waiting))| waiting)
    }
}

impl<W: World> Drain<W> {
    /// A parked call has come: it waits for its time, or for others of its key.
    pub(super) fn come(&mut self, index: usize, waiting: Waiting) {
        let Some(Turn { partition, key, at }) = self.keys.turn(&waiting.begun.record).filter(|_| self.queues[index].route.ordered) else {
            return self.have_its_turn(index, waiting);
        };
        let discarded = self.orders.orders().about(&waiting.parked).is_some_and(|order| order.act == Act::Discard);
        let Some(held) = &mut self.keys.0 else { return };
        let ready = held.gate.come(partition.clone(), key, at, (index, waiting));
        let ready = if discarded { ready.or_else(|| held.gate.take(&partition, key, at)) } else { ready };
        if let Some((index, waiting)) = ready {
            self.have_its_turn(index, waiting);
        }
    }

    /// A call's turn is over: the next of its key has its own.
    pub(super) fn next_of_key(&mut self, Turn { partition, key, at }: &Turn) {
        let Some(held) = &mut self.keys.0 else { return };
        if let Some((index, waiting)) = held.gate.ended(partition.clone(), *key, *at) {
            self.have_its_turn(index, waiting);
        }
    }

    /// A call has failed, and stays where it is until it is due again.
    pub(super) fn keep_place(&mut self, index: usize, mut waiting: Waiting, reason: Reason, attempt: u32, delay: Duration) {
        let not_before = self.clock.wall().plus(delay);
        waiting.parked.parking = Parking { reason, attempt, not_before, ..waiting.parked.parking };
        let due = self.clock.now().plus(delay);
        self.line_up(index, due, waiting);
    }

    /// Something was ordered: what is discarded waits for nobody.
    pub(super) fn reconsider_held(&mut self) {
        let book = Arc::clone(&self.orders);
        let discarded = {
            let orders = book.orders();
            let Some(held) = &mut self.keys.0 else { return };
            held.gate.let_out(|(_, waiting)| orders.about(&waiting.parked).is_some_and(|order| order.act == Act::Discard))
        };
        for (index, waiting) in discarded {
            self.have_its_turn(index, waiting);
        }
    }

    /// A call's turn has come among those of its key: it waits for its time.
    fn have_its_turn(&mut self, index: usize, waiting: Waiting) {
        let due = self.due(index, &waiting.parked);
        self.line_up(index, due, waiting);
    }
}
