//! From what was read to what may run: it is begun and decoded; what is good goes to its lane, what is bad is weighed, and given up, held, or
//! its partition stopped.

use std::hash::BuildHasher;

use super::{Done, LaneId, Ordering, Processor, Waiting};
use crate::event::dead_letter::Code;
use crate::event::headers::name;
use crate::event::{Event, UnixMillis, decode};
use crate::machine::time::Tick;
use crate::pipeline::brakes::Weighed;
use crate::pipeline::facts::Fact;
use crate::pipeline::finisher::Begun;
use crate::pipeline::ports::{Clock, Subscription, Witness, World};
use crate::pipeline::stages::{Leaving, unreadable};

/// A bad record that may be one of too many.
pub(super) struct Suspect {
    pub(super) begun: Begun,
    since: u64,
    letter: Leaving,
}

impl<W: World> Processor<W> {
    /// Begins what has arrived, as far as it may soon run: what is read long before it runs is out of the processor's caches by then.
    pub(super) fn take(&mut self) {
        while self.lanes.ready() < self.settings.concurrency
            && let Some(mut records) = self.arrived.pop_front()
        {
            if self.brakes.have_stopped() {
                let left: Vec<_> = records.extract_if(.., |record| self.brakes.has_stopped(&record.source.topic_partition())).collect();
                self.finisher.leave(&left);
            }
            let begun = self.finisher.take(records);
            self.queue(begun);
        }
    }

    /// Takes what has waited for room beside its partition's commit, and has it now.
    pub(super) fn let_in(&mut self) {
        let begun = self.finisher.let_in();
        if !begun.is_empty() {
            self.queue(begun);
        }
    }

    fn queue(&mut self, records: Vec<Begun>) {
        let (since, now) = (self.clock.micros(), self.clock.wall());
        for source in self.finisher.skipped() {
            self.brakes.skipped(&source);
        }
        for begun in records {
            if self.brakes.have_stopped() && self.brakes.has_stopped(&begun.record.source.topic_partition()) {
                self.finisher.forget(&begun);
                continue;
            }
            match decode::decode(&begun.record, self.settings.max_event_bytes, now) {
                Ok(event) => {
                    if !self.brakes.are_at_rest() {
                        let bad = self.brakes.good(&begun.record.source);
                        self.give_up(bad);
                    }
                    let lane = self.lane(&event);
                    self.lanes.push(lane, Box::new(Waiting { begun, event, since }));
                }
                Err(error) => {
                    let letter = unreadable(&begun.record, error.code, &error.message, &self.stages.dead_letters, now);
                    let suspect = Suspect { begun, since, letter };
                    // It was weighed when it came first: letters that somebody sends back must not stop what is live.
                    if suspect.begun.record.headers.number::<u32>(name::REDRIVES).is_some() {
                        self.give_up(vec![suspect]);
                    } else {
                        self.weigh(error.code, suspect, now);
                    }
                }
            }
        }
    }

    /// Gives a bad record up, or holds it, or stops its partition.
    fn weigh(&mut self, code: Code, suspect: Suspect, wall: UnixMillis) {
        let source = suspect.begun.record.source.clone();
        let first = |suspect: &Suspect| suspect.begun.record.source.offset;
        match self.brakes.bad(&source, code, suspect, self.clock.now(), wall, first) {
            Weighed::GivenUp(bad) => self.give_up(bad),
            Weighed::Stops(bad, stopped, held) => {
                self.give_up(bad);
                for suspect in held {
                    self.finisher.forget(&suspect.begun);
                }
                let partition = source.topic_partition();
                self.finisher.stop(&partition);
                self.stages.witness.tell(Fact::Stopped { partition: &partition, stopped: &stopped });
            }
        }
    }

    fn give_up(&mut self, bad: Vec<Suspect>) {
        for Suspect { begun, since, letter } in bad {
            self.finish(None, begun, vec![letter], Done { status: None, since });
        }
    }

    pub(super) fn give_up_due(&mut self, now: Tick) {
        if !self.brakes.are_at_rest() {
            let due = self.brakes.due(now);
            self.give_up(due);
        }
    }

    pub(super) fn take_orders(&mut self) {
        for release in self.brakes.take_orders() {
            self.stages.witness.tell(Fact::Released(&release));
        }
    }

    /// Has stopped partitions read again that may go on, once nothing of them is under way.
    pub(super) fn read_again(&mut self, subscription: &impl Subscription) {
        for partition in self.brakes.ready() {
            if let Some(point) = self.finisher.standing(&partition) {
                subscription.read_again(point);
                self.brakes.asked(&partition);
            }
        }
    }

    fn lane(&self, event: &Event) -> Option<LaneId> {
        let partition = event.source.partition;
        match self.settings.ordering {
            // Two keys with one hash share a lane: they wait for each other, and nothing else.
            Ordering::Key => Some((partition, self.hasher.hash_one(&event.key))),
            Ordering::Partition => Some((partition, 0)),
            Ordering::Unordered => None,
        }
    }
}
