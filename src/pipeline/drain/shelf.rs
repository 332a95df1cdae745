//! Puts calls aside that hold up others, and reads them again when they are to go.
//!
//! A budget that is full of calls that wait for reasons of their own (their time, their order's pace) holds up whatever lies behind them, though its
//! service would take it. So those that go last make way: of each a place stays ([`crate::machine::shelf`]), and it is read again a little ahead of its
//! time. Where the service takes nothing (its breaker refuses, somebody has paused it, its places are taken) nothing is put aside: reading on would be of
//! no use.
//!
//! Guarantees: a call that is put aside is begun and unfinished, so no commit passes it and nobody else has it; it goes once, after it was read again; one
//! whose record is gone is said to be, and finished. When something is ordered that may be about calls on the shelf, they are read again in turn, and
//! considered as if they had just come.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::keys::{Follower, Turn};
use super::{Drain, Finished, Waiting};
use crate::event::envelope::{Parked, Parking};
use crate::event::{Headers, Incoming, Offset, Source, TopicPartition, UnixMillis};
use crate::machine::shelf::{AHEAD, Card, LEAST, Levels, Room, Shelf};
use crate::machine::time::Tick;
use crate::pipeline::finisher::Aside;
use crate::pipeline::ports::{Budget, Chance as _, Clock as _, Refetch, RefetchError, Refetched, World};

/// The shelf of a drain, and the question that is out.
pub(super) struct Shelved {
    calls: Shelf<Kept>,
    reader: Arc<dyn Refetch>,
    budget: Arc<Budget>,
    question: Option<Question>,
    /// The orders that have been considered for the calls on the shelf.
    considered: BTreeSet<Uuid>,
    /// Questions in a row that had no answer.
    unanswered: u32,
    max: usize,
    /// How many there are of each order.
    of_orders: BTreeMap<Uuid, usize>,
}

struct Question {
    answer: BoxFuture<'static, Result<Refetched, RefetchError>>,
    /// What there must be room for until the answer comes, whatever becomes of the calls meanwhile: places, and bytes.
    reserved: BTreeMap<Source, usize>,
}

/// What is kept of a call that is put aside: little, for there may be many.
struct Kept {
    aside: Aside,
    queue: usize,
    first_parked_at: UnixMillis,
    waits: Waits,
}

/// What a call waited for.
enum Waits {
    /// Others of its key.
    ForKey(u64),
    ForTime {
        /// The order that counts for it.
        order: Option<Uuid>,
        /// When it was due where it waited.
        due: Tick,
        /// Where keys keep their order.
        turn: Option<Box<HasTurn>>,
    },
}

/// What is kept of a call that has its turn.
struct HasTurn {
    key: u64,
    /// As it is here: what the record says may be of before.
    parking: Parking,
}

impl Kept {
    fn order(&self) -> Option<Uuid> {
        match self.waits {
            Waits::ForKey(_) => None,
            Waits::ForTime { order, .. } => order,
        }
    }

    fn key(&self) -> Option<u64> {
        match &self.waits {
            Waits::ForKey(key) => Some(*key),
            Waits::ForTime { turn, .. } => turn.as_ref().map(|turn| turn.key),
        }
    }
}

/// What of a queue is on the shelf.
#[derive(Debug, Default)]
pub(super) struct OnShelf {
    pub calls: usize,
    pub due: usize,
    pub oldest: Option<UnixMillis>,
}

impl Shelved {
    /// At most `max` calls are put aside for others to be read.
    pub fn new(reader: Arc<dyn Refetch>, budget: Arc<Budget>, max: usize) -> Self {
        Self {
            calls: Shelf::default(),
            reader,
            budget,
            question: None,
            considered: BTreeSet::new(),
            unanswered: 0,
            max,
            of_orders: BTreeMap::new(),
        }
    }

    /// Waits for the answer to the question that is out.
    pub async fn answer(&mut self) -> Result<Refetched, RefetchError> {
        match &mut self.question {
            Some(question) => (&mut question.answer).await,
            None => std::future::pending().await,
        }
    }

    fn held(&self) -> Room {
        let (records, bytes) = self.budget.held();
        Room { records, bytes }
    }

    fn levels(&self) -> Levels {
        let (records, bytes) = self.budget.bounds();
        Levels(Room { records, bytes })
    }

    /// How many records lie between the levels up to which calls are read again, and down to which others make way for them.
    fn spare(&self) -> usize {
        self.levels().ceiling().records - self.levels().floor().records
    }

    /// What of a queue is there.
    pub fn of(&self, queue: usize, now: Tick) -> OnShelf {
        let mut all = OnShelf::default();
        for (goes, kept) in self.calls.iter().filter(|(_, kept)| kept.queue == queue) {
            all.calls += 1;
            all.due += usize::from(goes <= now);
            let first = kept.first_parked_at;
            all.oldest = Some(all.oldest.map_or(first, |oldest| oldest.min(first)));
        }
        all
    }

    fn put(&mut self, source: Source, card: Card<Kept>) {
        if let Some(order) = card.kept.order() {
            *self.of_orders.entry(order).or_default() += 1;
        }
        self.calls.put(source, card);
    }

    fn take(&mut self, source: &Source) -> Option<Kept> {
        let Card { kept, .. } = self.calls.take(source)?;
        self.left(&kept);
        Some(kept)
    }

    fn left(&mut self, kept: &Kept) {
        if let Some(order) = kept.order()
            && let Some(of_order) = self.of_orders.get_mut(&order)
        {
            *of_order -= 1;
            if *of_order == 0 {
                self.of_orders.remove(&order);
            }
        }
    }

    /// How many calls of an order are there.
    pub fn len_of(&self, order: Uuid) -> usize {
        self.of_orders.get(&order).copied().unwrap_or_default()
    }

    /// How many calls there is room for that come back.
    pub fn room_to_come_back(&self) -> usize {
        self.levels().room(self.held()).records
    }

    /// Calls back what waits for others of its key: its turn is near.
    pub fn call_back(&mut self, places: impl Iterator<Item = Source>) {
        for place in places {
            self.calls.call_back(Tick::NEVER, place);
        }
    }

    /// Calls back what goes by the pace of these orders: it is another now.
    pub fn paces_changed(&mut self, orders: &BTreeSet<Uuid>) {
        if !orders.is_empty() && !self.calls.is_empty() {
            self.calls.call(|_, kept| kept.order().is_some_and(|order| orders.contains(&order)));
        }
    }
}

impl<W: World> Drain<W> {
    /// Puts calls aside and asks for others, as far as either is called for. When there will be something to do that nothing else tells of.
    pub(super) fn tend_shelf(&mut self, now: Tick) -> Option<Tick> {
        if self.shelf.budget.is_pressed() && !self.finisher.holds_all() {
            for index in (0..self.queues.len()).filter(|index| self.would_go(*index, now)).collect::<Vec<_>>() {
                self.make_way(index, now, self.shelf.max, |shelf, _| (!shelf.budget.has_room()).then(|| now.plus(LEAST)));
            }
        }
        if self.shelf.calls.is_empty() || self.shelf.question.is_some() {
            return None;
        }
        let called = self.shelf.calls.wants_called(now);
        if called || self.shelf.calls.wanted(now).next().is_some() {
            self.ask_for(called, now);
        }
        self.shelf.calls.next(now)
    }

    fn ask_for(&mut self, called: bool, now: Tick) {
        let mut goes = false;
        let size = self.shelf.calls.first_size(now);
        for index in 0..self.queues.len() {
            let would_go = self.would_go(index, now);
            goes |= would_go;
            if !self.shelf.levels().is_short(self.shelf.held(), size) {
                continue;
            }
            // As many as could come in their place: each of these goes sooner than the one that makes way for it.
            let soonest: Vec<Tick> = self.shelf.calls.wanted(now).take(self.shelf.spare()).collect();
            let after = |put: usize| match soonest.get(put) {
                _ if !would_go => called.then_some(Tick(0)),
                Some(sooner) => Some((*sooner).max(now.plus(LEAST))),
                // Nothing that would be wanted again at once.
                None => called.then(|| now.plus(AHEAD)),
            };
            // For those that come back there is room for as many more as memory may be full of.
            let max = self.shelf.max + self.shelf.levels().0.records;
            self.make_way(index, now, max, |shelf, put| (!shelf.levels().is_free(shelf.held(), size)).then(|| after(put)).flatten());
        }
        // Nothing here can make room by going, by being finished, or by making way: what the budget is full of waits for what is on the shelf. What comes alone
        // is one over the bound, and what fails and keeps its place stays here: so no second one comes before that has gone.
        let is_late = goes && self.shelf.calls.wanted(now).next().is_some_and(|goes| goes <= now);
        let (held, most) = (self.shelf.held(), self.shelf.levels().0);
        let is_within = held.records <= most.records && held.bytes <= most.bytes;
        let idle = |index: usize| !self.would_go(index, now) || self.next_to_be_made(index).is_none_or(|(due, _)| due > now);
        let stuck = self.running.is_empty() && self.finisher.is_empty() && (0..self.queues.len()).all(idle);
        let alone = (is_late || called) && is_within && stuck;
        let room = self.shelf.levels().room(self.shelf.held());
        let runs = self.shelf.calls.ask(now, room, goes, alone);
        if runs.is_empty() {
            return;
        }
        let reserved: BTreeMap<Source, usize> = self.shelf.calls.asked().map(|(source, card)| (source.clone(), card.size)).collect();
        reserved.values().for_each(|size| self.shelf.budget.take(*size));
        self.shelf.question = Some(Question { answer: self.shelf.reader.refetch(runs), reserved });
    }

    /// Whether a service would take more calls than wait for it.
    fn would_go(&self, index: usize, now: Tick) -> bool {
        let queue = &self.queues[index];
        queue.running < self.places(index)
            && queue.refused_until.is_none_or(|until| until <= now)
            && !self.breakers.refuses(queue.route.service)
            && self.paused_until(index).is_none()
    }

    /// Puts calls of a queue aside, at most `max` with those that are, the last to go first, while there is a time `after` which they go; it is asked with
    /// how many were put aside.
    fn make_way(&mut self, index: usize, now: Tick, max: usize, after: impl Fn(&Shelved, usize) -> Option<Tick>) {
        let (mut stay, mut put) = (Vec::new(), 0);
        // Those whose turn has not even come, first.
        while after(&self.shelf, put).is_some_and(|_| self.shelf.calls.len() < max)
            && let Some(Follower { begun, first_parked_at, .. }) = self.keys.put_aside(index)
        {
            let waits = Waits::ForKey(self.keys.key(&begun.record).unwrap_or_default());
            let (source, size, aside) = self.finisher.put_aside(begun);
            self.shelf.put(source, Card { goes: Tick::NEVER, size, kept: Kept { aside, queue: index, first_parked_at, waits } });
            put += 1;
        }
        while let Some(after) = after(&self.shelf, put).filter(|_| self.shelf.calls.len() < max) {
            let Some((lane, turn)) = self.last_to_go(index, now).filter(|(_, turn)| *turn > after) else { break };
            let Some((due, waiting)) = self.queues[index].pop_last(lane) else { break };
            if !self.finisher.is_current(&waiting.begun) {
                self.finisher.forget(&waiting.begun);
                continue;
            }
            let goes = turn.min(self.too_old_at(index, lane, &waiting));
            if goes <= after {
                stay.push((lane, due, waiting));
                continue;
            }
            let Waiting { begun, parked, order } = waiting;
            let Parked { parking, .. } = parked;
            let key = self.keys.key(&begun.record).filter(|_| self.queues[index].route.ordered);
            let turn = key.map(|key| Box::new(HasTurn { key, parking }));
            let (source, size, aside) = self.finisher.put_aside(begun);
            let kept = Kept { aside, queue: index, first_parked_at: parking.first_parked_at, waits: Waits::ForTime { order, due, turn } };
            self.shelf.put(source, Card { goes, size, kept });
            put += 1;
        }
        for (lane, due, waiting) in stay {
            self.queues[index].push_back(lane, due, waiting);
        }
    }

    /// When a call is given up for its age.
    fn too_old_at(&self, index: usize, lane: Option<Uuid>, waiting: &Waiting) -> Tick {
        let queue = &self.queues[index];
        if lane.is_some_and(|lane| queue.is_condemned(lane)) {
            return Tick::NEVER;
        }
        self.clock.tick_of(waiting.parked.parking.first_parked_at.plus(queue.route.bounds.max_age))
    }

    /// The answer to what was asked for has come.
    pub(super) fn refetched(&mut self, answer: Result<Refetched, RefetchError>) {
        let Some(Question { mut reserved, .. }) = self.shelf.question.take() else { return };
        let asked: BTreeSet<TopicPartition> = reserved.keys().map(Source::topic_partition).collect();
        let mut heard = BTreeSet::new();
        match answer {
            Ok(Refetched { records, gone }) => {
                heard.extend(records.iter().map(|record| &record.source).chain(&gone).map(Source::topic_partition));
                records.into_iter().for_each(|record| self.came_again(record, &mut reserved));
                self.gone(gone, &mut reserved);
                self.shelf.unanswered = 0;
            }
            Err(error) => {
                // Once an outage; it is asked again for as long as it takes.
                if self.shelf.unanswered == 0 {
                    tracing::warn!(target: "fusebox", %error, calls = self.shelf.calls.len(), "parked calls that are to go cannot be read again; it is tried on");
                }
                self.shelf.unanswered = self.shelf.unanswered.saturating_add(1);
            }
        }
        reserved.values().for_each(|size| self.shelf.budget.give(*size));
        let roll = self.chance.roll();
        self.shelf.calls.end(self.clock.now(), |partition| asked.contains(partition) && !heard.contains(partition), roll);
    }

    fn came_again(&mut self, record: Incoming, reserved: &mut BTreeMap<Source, usize>) {
        // Its life may be over: then it is nobody's.
        let Some(kept) = self.shelf.take(&record.source) else { return };
        let Some(size) = reserved.remove(&record.source) else { return };
        let begun = self.finisher.take_up(record, size, kept.aside);
        // What stands at its place now may be of another key: the topic may have been made anew.
        if let Some(key) = kept.key().filter(|key| self.keys.key(&begun.record) != Some(*key)) {
            self.next_of_key(Turn::of(&begun.record.source, key));
        }
        let Waits::ForTime { order: was, due, turn } = kept.waits else { return self.come(begun) };
        let Some((index, mut waiting)) = self.open(begun) else { return };
        if let Some(turn) = turn {
            waiting.parked.parking = turn.parking;
        }
        // It has had its turn among those of its key since before it was put aside, and waits on as it did, unless something else was ordered.
        let order = self.orders.orders().about(&waiting.parked).map(|order| order.id);
        let due = if order == was { due } else { self.due(index, &waiting.parked) };
        waiting.order = was.filter(|was| order == Some(*was));
        self.line_up(index, due, waiting);
    }

    /// Nothing can be delivered of what Kafka keeps no longer.
    fn gone(&mut self, places: Vec<Source>, reserved: &mut BTreeMap<Source, usize>) {
        let mut told: BTreeMap<TopicPartition, (Offset, Offset, usize)> = BTreeMap::new();
        for source in places {
            let Some(kept) = self.shelf.take(&source) else { continue };
            let Some(size) = reserved.remove(&source) else { continue };
            let (_, last, calls) = told.entry(source.topic_partition()).or_insert((source.offset, source.offset, 0));
            (*last, *calls) = (source.offset, *calls + 1);
            let turn = kept.key().map(|key| Turn::of(&source, key));
            let empty = Incoming { source, key: None, value: None, headers: Headers::new(), timestamp: None };
            let begun = self.finisher.take_up(empty, size, kept.aside);
            self.finish_turn(begun, Vec::new(), Finished { done: None, turn });
        }
        for (partition, (first, last, calls)) in told {
            tracing::error!(
                target: "fusebox",
                %partition, %first, %last, calls,
                "parked calls are gone from their topic before they fell due, and were not delivered: it keeps records for too short a time, or was made anew"
            );
        }
    }

    /// Something was ordered, or is no longer: calls on the shelf that it may be about are considered again.
    pub(super) fn reconsider_shelf(&mut self) {
        let book = Arc::clone(&self.orders);
        let orders = book.orders();
        let standing: BTreeSet<Uuid> = orders.standing().map(|order| order.id).collect();
        if !self.shelf.calls.is_empty() && standing != self.shelf.considered {
            let new: Vec<_> = orders.standing().filter(|order| !self.shelf.considered.contains(&order.id)).collect();
            let queues = &self.queues;
            self.shelf.calls.call(|source, kept| {
                let is_of = |order: &crate::machine::orders::Order| order.selection.is_of(&queues[kept.queue].route.name);
                // One that waits for others of its key is considered when its turn comes.
                matches!(kept.waits, Waits::ForTime { .. })
                    && (kept.order().is_some_and(|order| !standing.contains(&order))
                        || new.iter().any(|order| is_of(order) && order.may_have(source)))
            });
        }
        drop(orders);
        self.shelf.considered = standing;
    }

    /// Lets go what is on the shelf of partitions.
    pub(super) fn let_shelved_go(&mut self, leaves: impl Fn(&TopicPartition) -> bool) {
        for (source, card) in self.shelf.calls.remove(leaves) {
            self.shelf.left(&card.kept);
            self.finisher.forget_aside(&source, card.kept.aside);
        }
    }
}
