//! The order of keys, for services that keep it: parked calls of a key have their turns one at a time, in the order of their places.
//!
//! A call that fails keeps its place: a copy at the tail would go behind those that followed it. Its attempts and when it is due again are kept in memory;
//! whoever has the partition next goes on from what the record says. Its turn ends when its record is finished, and not before: a call whose end
//! is not there yet may be made again after a crash.
//!
//! Guarantees: whatever ends, ends in its turn, be it delivered, given up, discarded or unreadable. So whoever knows that the last call of a key has ended knows
//! it of all ([`crate::machine::parked_keys`]). What Kafka has deleted ended when it was: its place is free at once.

use std::hash::BuildHasher;
use std::time::Duration;

use foldhash::quality::RandomState;

use super::{Drain, Queue, Route, Waiting};
use crate::event::dead_letter::Code;
use crate::event::envelope::{self, Parking, Reason};
use crate::event::{Incoming, Offset, Source, TopicPartition, UnixMillis};
use crate::machine::disposition::overdue;
use crate::machine::key_gate::KeyGate;
use crate::machine::orders::Act;
use crate::pipeline::finisher::Begun;
use crate::pipeline::ports::{Clock as _, World};

/// How many calls of a key are read again at once, where there is room for so many of each: a key that goes on needs no journey to the broker for each.
const NEAR: usize = 32;

/// What waits for others of its key.
pub(super) struct Keys(Option<Box<Held>>);

struct Held {
    gate: KeyGate<Follower>,
    hasher: RandomState,
}

/// A parked call that waits for others of its key.
pub(super) struct Follower {
    /// The index of its queue.
    pub queue: usize,
    pub begun: Begun,
    pub first_parked_at: UnixMillis,
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

    /// The turn of a record, and the queue whose order it keeps, if it keeps any.
    pub fn turn<W: World>(&self, record: &Incoming, queues: &[Queue<W>]) -> Option<(usize, Turn)> {
        let key = self.key(record)?;
        let index = queues.iter().position(|queue| queue.route.ordered && envelope::is_of(record, &queue.route.name))?;
        Some((index, Turn::of(&record.source, key)))
    }

    /// Something has come, or come back: it is given back if it has its turn.
    pub fn come(&mut self, Turn { partition, key, at }: Turn, follower: Follower) -> Option<Begun> {
        match &mut self.0 {
            Some(held) => held.gate.come(partition, key, at, follower).map(|follower| follower.begun),
            None => Some(follower.begun),
        }
    }

    /// Takes out what waits of a queue and came last: it is put aside, and its turn is kept.
    pub fn put_aside(&mut self, index: usize) -> Option<Follower> {
        self.0.as_mut()?.gate.put_aside(|follower| follower.queue == index)
    }

    /// Takes out what waits of partitions.
    pub fn let_go(&mut self, leaves: impl Fn(&TopicPartition) -> bool) -> Vec<Begun> {
        let gone = self.0.as_mut().map(|held| held.gate.let_go(leaves)).unwrap_or_default();
        gone.into_iter().map(|follower| follower.begun).collect()
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
        self.waiting_of(index).map(|follower| follower.first_parked_at).min()
    }

    fn waiting_of(&self, index: usize) -> impl Iterator<Item = &Follower> {
        let held = self.0.iter().flat_map(|held| held.gate.iter());
        held.filter(move |follower| follower.queue == index)
    }
}

impl<W: World> Drain<W> {
    /// A record has come that was parked: it waits for others of its key, or for its time.
    pub(super) fn come(&mut self, begun: Begun) {
        match self.keys.turn(&begun.record, &self.queues) {
            Some((queue, turn)) => self.come_in_turn(queue, turn, begun),
            None => {
                if let Some((index, waiting)) = self.open(begun) {
                    self.line_up_by_time(index, waiting);
                }
            }
        }
    }

    /// A record of a service that keeps order has come, or has come back.
    pub(super) fn come_in_turn(&mut self, queue: usize, turn: Turn, begun: Begun) {
        let first_parked_at = envelope::first_parked_at(&begun.record, self.clock.wall());
        if let Some(begun) = self.keys.come(turn, Follower { queue, begun, first_parked_at }) {
            self.have_its_turn(begun);
        }
    }

    /// A call's turn is over: the next of its key has its own.
    pub(super) fn next_of_key(&mut self, Turn { partition, key, at }: Turn) {
        let Some(held) = &mut self.keys.0 else { return };
        let next = held.gate.ended(partition.clone(), key, at);
        let near = (self.shelf.room_to_come_back() / held.gate.keys().max(1)).clamp(1, NEAR);
        self.shelf.call_back(held.gate.aside(&partition, key, near).map(|offset| partition.at(offset)));
        if let Some(Follower { begun, .. }) = next {
            self.have_its_turn(begun);
        }
    }

    /// A call has failed, and stays where it is until it is due again.
    pub(super) fn keep_place(&mut self, index: usize, mut waiting: Waiting, reason: Reason, attempt: u32, delay: Duration) {
        let not_before = self.clock.wall().plus(delay);
        waiting.parked.parking = Parking { reason, attempt, not_before, ..waiting.parked.parking };
        let due = self.clock.now().plus(delay);
        self.line_up(index, due, waiting);
    }

    /// A call's turn has come among those of its key: it waits for its time, unless that is over.
    fn have_its_turn(&mut self, begun: Begun) {
        let Some((index, waiting)) = self.open(begun) else { return };
        let parking = waiting.parked.parking;
        let late = overdue(parking.attempt, parking.first_parked_at, self.clock.wall(), &self.queues[index].route.bounds);
        let is_discarded = || self.orders.orders().about(&waiting.parked).is_some_and(|order| order.act == Act::Discard);
        match late {
            Some(Code::Expired) if !is_discarded() => self.give_up(index, waiting, Code::Expired, parking.attempt),
            _ => self.line_up_by_time(index, waiting),
        }
    }
}
