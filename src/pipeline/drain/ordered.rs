//! Carries out what operators have ordered for the parked calls that wait here.
//!
//! Calls that are released or discarded wait in their order's own lane; an order with a rate lets one go when its pace says so. A slot is taken by a
//! call that goes to its service, or becomes a dead letter: none is while the breaker refuses, or the service is paused.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use super::{Drain, Queue, Waiting};
use crate::event::TopicPartition;
use crate::event::dead_letter::Code;
use crate::machine::due_queue::DueQueue;
use crate::machine::orders::{Act, Order};
use crate::machine::pace::Pace;
use crate::machine::time::Tick;
use crate::pipeline::ports::{Clock as _, World};

/// The calls of one order that wait for their turn.
pub(super) struct Lane {
    calls: DueQueue<Waiting>,
    /// Why they are not to be made, if they are not.
    condemned: Option<String>,
}

/// How fast an order is carried out here.
pub(super) struct Paced {
    rate: u32,
    pace: Pace,
    /// Of the order's partitions those that are this instance's, and all.
    part: (usize, usize),
}

impl Lane {
    fn of(order: &Order) -> Self {
        Self { calls: DueQueue::new(), condemned: sentence(order) }
    }
}

/// Why calls are not to be made, if an order says so.
fn sentence(order: &Order) -> Option<String> {
    let why = || if order.reason.is_empty() { String::new() } else { format!(": {}", order.reason) };
    (order.act == Act::Discard).then(|| format!("discarded by {}{}", order.actor, why()))
}

impl<W: World> Queue<W> {
    /// Whatever waits to be made.
    pub fn to_be_made(&self) -> impl Iterator<Item = &DueQueue<Waiting>> {
        std::iter::once(&self.waiting).chain(self.lanes.values().filter(|lane| lane.condemned.is_none()).map(|lane| &lane.calls))
    }

    /// How many calls wait, also those that are not to be made.
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.lanes.values().map(|lane| lane.calls.len()).sum::<usize>()
    }

    /// Takes out what waits to be made and for which `leaves` holds.
    pub fn remove_to_be_made(&mut self, leaves: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let lanes = self.lanes.values_mut().filter(|lane| lane.condemned.is_none()).map(|lane| &mut lane.calls);
        std::iter::once(&mut self.waiting).chain(lanes).flat_map(|calls| calls.remove(&leaves)).collect()
    }

    /// Takes out everything that waits and for which `leaves` holds.
    pub fn remove(&mut self, leaves: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let lanes = self.lanes.values_mut().map(|lane| &mut lane.calls);
        std::iter::once(&mut self.waiting).chain(lanes).flat_map(|calls| calls.remove(&leaves)).collect()
    }

    /// Takes out the last call of a lane, or of those of no lane.
    pub fn pop_last(&mut self, lane: Option<Uuid>) -> Option<(Tick, Waiting)> {
        match lane {
            None => self.waiting.pop_last(),
            Some(order) => self.lanes.get_mut(&order)?.calls.pop_last(),
        }
    }

    /// Puts a call back where it was taken out.
    pub fn push_back(&mut self, lane: Option<Uuid>, due: Tick, waiting: Waiting) {
        match lane.and_then(|order| self.lanes.get_mut(&order)) {
            Some(lane) => lane.calls.push(due, waiting),
            None => self.waiting.push(due, waiting),
        }
    }

    /// Whether the calls of an order are not to be made.
    pub fn is_condemned(&self, order: Uuid) -> bool {
        self.lanes.get(&order).is_some_and(|lane| lane.condemned.is_some())
    }

    /// Takes out the next call of a lane, or of those of no lane.
    pub fn pop_due(&mut self, lane: Option<Uuid>, now: Tick) -> Option<(Tick, Waiting)> {
        match lane {
            None => self.waiting.pop_due(now),
            Some(order) => self.lanes.get_mut(&order)?.calls.pop_due(now),
        }
    }
}

impl<W: World> Drain<W> {
    /// Puts a call where it belongs: among those that wait for their time, or in the lane of its order.
    pub(super) fn line_up(&mut self, index: usize, due: Tick, mut waiting: Waiting) {
        let book = Arc::clone(&self.orders);
        let orders = book.orders();
        let order = orders.about(&waiting.parked);
        // A call that comes back has had its time.
        let again = order.is_some() && waiting.order == order.map(|order| order.id);
        waiting.order = order.map(|order| order.id);
        let now = self.clock.now();
        let queue = &mut self.queues[index];
        match order {
            None => queue.waiting.push(due, waiting),
            Some(Order { act: Act::Delay { until }, .. }) => queue.waiting.push(due.max(self.clock.tick_of(*until)), waiting),
            Some(order) => {
                let due = if again { due } else { due.min(now) };
                queue.lanes.entry(order.id).or_insert_with(|| Lane::of(order)).calls.push(due, waiting);
                if let Some(rate) = order.rate {
                    let part = || order.part(self.owned.partitions());
                    self.paces.entry(order.id).or_insert_with(|| Paced { rate, pace: Pace::default(), part: part() });
                }
            }
        }
    }

    /// Puts a call where it belongs, due when it says.
    pub(super) fn line_up_by_time(&mut self, index: usize, waiting: Waiting) {
        let due = self.due(index, &waiting.parked);
        self.line_up(index, due, waiting);
    }

    /// Looks anew at everything that waits: something was ordered.
    pub(super) fn reconsider(&mut self) {
        let book = Arc::clone(&self.orders);
        for index in 0..self.queues.len() {
            let concerned = {
                let orders = book.orders();
                self.paces.retain(|order, _| orders.stands(*order));
                self.queues[index].remove(|waiting| orders.about(&waiting.parked).map(|order| order.id) != waiting.order)
            };
            self.queues[index].lanes.retain(|_, lane| !lane.calls.is_empty());
            for mut waiting in concerned {
                waiting.order = None;
                self.line_up_by_time(index, waiting);
            }
        }
        self.reconsider_shelf();
    }

    /// What is this instance's of orders' rates, as partitions are now.
    pub(super) fn share_paces(&mut self) {
        let orders = self.orders.orders();
        let mut changed = BTreeSet::new();
        for (order, paced) in &mut self.paces {
            if let Some((order, _)) = orders.find(*order) {
                let part = order.part(self.owned.partitions());
                if std::mem::replace(&mut paced.part, part) != part {
                    changed.insert(order.id);
                }
            }
        }
        self.shelf.paces_changed(&changed);
    }

    /// The call that goes next, and when: the lane in which it waits, or none.
    pub(super) fn next_to_be_made(&self, index: usize) -> Option<(Tick, Option<Uuid>)> {
        let queue = &self.queues[index];
        let lanes = queue.lanes.iter().filter(|(_, lane)| lane.condemned.is_none());
        let lanes = lanes.filter_map(|(order, lane)| Some((self.turn_of(*order, lane)?, Some(*order))));
        queue.waiting.next_due().map(|due| (due, None)).into_iter().chain(lanes).min()
    }

    fn turn_of(&self, order: Uuid, lane: &Lane) -> Option<Tick> {
        let due = lane.calls.next_due()?;
        let paced = self.paces.get(&order);
        Some(paced.map_or(due, |paced| due.max(paced.pace.ready_at())))
    }

    /// The call that goes last, and when at the soonest: the lane in which it waits, or none.
    pub(super) fn last_to_go(&self, index: usize, now: Tick) -> Option<(Option<Uuid>, Tick)> {
        let queue = &self.queues[index];
        let lanes = queue.lanes.iter().filter_map(|(order, lane)| {
            let due = lane.calls.last_due()?;
            // Those of the order that were put aside go before it: each was the last when it was.
            let before = lane.calls.len() - 1 + self.shelf.len_of(*order);
            let turn = |paced: &Paced| paced.pace.turn(now, before, paced.rate, paced.part);
            Some((Some(*order), self.paces.get(order).map_or(due, |paced| due.max(turn(paced)))))
        });
        queue.waiting.last_due().map(|due| (None, due)).into_iter().chain(lanes).max_by_key(|(_, turn)| *turn)
    }

    /// A call of an order goes.
    pub(super) fn take_slot(&mut self, order: Uuid, now: Tick) {
        if let Some(paced) = self.paces.get_mut(&order) {
            paced.pace.take(now, paced.rate, paced.part);
        }
    }

    /// Gives up what is condemned and whose turn has come; when the next one's does.
    pub(super) fn give_up_condemned(&mut self, index: usize, now: Tick) -> Option<Tick> {
        loop {
            let lanes = self.queues[index].lanes.iter().filter_map(|(order, lane)| Some((*order, lane, lane.condemned.as_ref()?)));
            let (turn, order, error) = lanes.filter_map(|(order, lane, why)| Some((self.turn_of(order, lane)?, order, why))).min()?;
            if turn > now {
                return Some(turn);
            }
            let error = error.clone();
            let (_, waiting) = self.queues[index].pop_due(Some(order), now)?;
            if !self.finisher.is_current(&waiting.begun) {
                self.finisher.forget(&waiting.begun);
                continue;
            }
            self.take_slot(order, now);
            self.tell_done(&waiting);
            let attempts = waiting.parked.parking.attempt;
            self.end_as_dead_letter(waiting, Code::Discarded, error, attempts);
        }
    }

    /// Ends a call that has failed, if it was discarded while it was out: its copy would say something else than what the order is about. Gives
    /// it back if not.
    pub(super) fn discarded_meanwhile(&mut self, mut waiting: Waiting, attempts: u32) -> Option<Waiting> {
        let order = self.orders.orders().about(&waiting.parked).and_then(|order| Some((order.id, sentence(order)?)));
        let Some((order, error)) = order else { return Some(waiting) };
        waiting.order = Some(order);
        self.tell_done(&waiting);
        self.end_as_dead_letter(waiting, Code::Discarded, error, attempts);
        None
    }

    /// Whether nothing parked for a service goes now, by somebody's order; then when it may again, if that is known.
    pub(super) fn paused_until(&self, index: usize) -> Option<Option<Tick>> {
        let now = self.clock.wall();
        let orders = self.orders.orders();
        orders.pause(&self.queues[index].route.name, now).map(|pause| pause.until.map(|until| self.clock.tick_of(until)))
    }

    /// Notes that an order was carried out for a call: it has gone.
    pub(super) fn tell_done(&self, waiting: &Waiting) {
        if let Some(order) = waiting.order {
            self.orders.note_done(order, 1);
        }
    }

    /// Lets go what waits of partitions.
    pub(super) fn let_waiting_go(&mut self, leaves: impl Fn(&TopicPartition) -> bool) {
        self.finisher.let_held_go(&leaves);
        self.let_shelved_go(&leaves);
        for begun in self.keys.let_go(&leaves) {
            self.finisher.forget(&begun);
        }
        for queue in &mut self.queues {
            for waiting in queue.remove(|waiting| leaves(&waiting.begun.record.source.topic_partition())) {
                self.finisher.forget(&waiting.begun);
            }
        }
    }
}
