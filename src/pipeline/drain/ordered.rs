//! Carries out what operators have ordered for the parked calls that wait here.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{Drain, Waiting};
use crate::event::dead_letter::Code;
use crate::machine::orders::{Act, Order};
use crate::machine::time::Tick;
use crate::pipeline::ports::{Clock as _, World};

/// An order for one call.
#[derive(Debug, Clone)]
pub(super) struct Ordered {
    pub id: Uuid,
    /// Carrying it out for this call is still to be told.
    pub untold: bool,
}

/// A call that is to become a dead letter, and why.
pub(super) struct Condemned {
    /// With the order that wants it.
    pub waiting: Waiting,
    pub error: String,
}

impl Waiting {
    /// The order that was last heeded for it.
    fn order(&self) -> Option<Uuid> {
        self.ordered.as_ref().map(|ordered| ordered.id)
    }
}

impl<W: World> Drain<W> {
    /// Puts a call where it belongs: among those that wait for their time, or those that are not to be made.
    pub(super) fn shelve(&mut self, index: usize, due: Tick, mut waiting: Waiting) {
        let book = Arc::clone(&self.orders);
        let orders = book.orders();
        let Some(order) = orders.about(&waiting.parked).filter(|order| waiting.order() != Some(order.id)) else {
            self.queues[index].waiting.push(due, waiting);
            return;
        };
        waiting.ordered = Some(Ordered { id: order.id, untold: true });
        let now = self.clock.now();
        match order.act {
            Act::Release => {
                let due = self.paced(index, order, now);
                self.queues[index].waiting.push(due, waiting);
            }
            Act::Delay { until } => {
                self.told(&mut waiting);
                self.queues[index].waiting.push(self.clock.tick_of(until).max(now), waiting);
            }
            Act::Discard => {
                let due = self.paced(index, order, now);
                let why = if order.reason.is_empty() { String::new() } else { format!(": {}", order.reason) };
                let error = format!("discarded by {}{why}", order.actor);
                self.queues[index].condemned.push(due, Condemned { waiting, error });
            }
        }
    }

    /// Looks anew at everything that waits: something was ordered.
    pub(super) fn reconsider(&mut self) {
        let book = Arc::clone(&self.orders);
        for index in 0..self.queues.len() {
            let queue = &mut self.queues[index];
            let (spared, concerned) = {
                let orders = book.orders();
                queue.paces.retain(|(order, _)| orders.stands(*order));
                // What was condemned by an order that is taken back waits again.
                let spared = queue.condemned.remove(|condemned| !condemned.waiting.order().is_some_and(|order| orders.stands(order)));
                (spared, queue.waiting.remove(|waiting| orders.about(&waiting.parked).map(|order| order.id) != waiting.order()))
            };
            for mut waiting in spared.into_iter().map(|condemned| condemned.waiting).chain(concerned) {
                waiting.ordered = None;
                let due = self.due(index, &waiting.parked);
                self.shelve(index, due, waiting);
            }
        }
    }

    /// Gives up what is condemned and whose turn has come; when the next one's does.
    pub(super) fn give_up_condemned(&mut self, index: usize, now: Tick) -> Option<Tick> {
        while let Some((_, Condemned { mut waiting, error, .. })) = self.queues[index].condemned.pop_due(now) {
            if !self.finisher.is_current(&waiting.begun) {
                self.finisher.forget(&waiting.begun);
                continue;
            }
            self.told(&mut waiting);
            let attempts = waiting.parked.parking.attempt;
            self.end_as_dead_letter(waiting, Code::Discarded, error, attempts);
        }
        self.queues[index].condemned.next_due()
    }

    /// Whether nothing parked for a service goes now, by somebody's order; then when it may again, if that is known.
    pub(super) fn paused_until(&self, index: usize) -> Option<Option<Tick>> {
        let now = self.clock.wall();
        let orders = self.orders.orders();
        orders.pause(&self.queues[index].route.name, now).map(|pause| pause.until.map(|until| self.clock.tick_of(until)))
    }

    /// Notes that an order was carried out for a call.
    pub(super) fn told(&self, waiting: &mut Waiting) {
        if let Some(ordered) = &mut waiting.ordered
            && std::mem::take(&mut ordered.untold)
        {
            self.orders.note_done(ordered.id, 1);
        }
    }

    /// When an order's next call has its turn.
    fn paced(&mut self, index: usize, order: &Order, now: Tick) -> Tick {
        let Some(rate) = order.rate else { return now };
        let paces = &mut self.queues[index].paces;
        let place = paces.iter().position(|(id, _)| *id == order.id).unwrap_or_else(|| {
            paces.push((order.id, now));
            paces.len() - 1
        });
        let due = paces[place].1.max(now);
        paces[place].1 = due.plus(Duration::from_secs(1) / rate.max(1));
        due
    }
}
