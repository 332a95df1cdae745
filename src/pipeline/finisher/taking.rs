//! What is read: begun at once, kept waiting for want of room beside the commit, or let go because its partition is stopped.

use super::{Begun, Finisher};
use crate::event::{Incoming, Source, TopicPartition};
use crate::pipeline::ports::{CommitPoint, Subscription, World};

impl<W: World, T> Finisher<W, T> {
    /// Records were read. Gives those that are to be run now; some wait ([`Finisher::let_in`]), some are not to be run at all.
    pub fn take(&mut self, records: Vec<Incoming>) -> Vec<Begun> {
        let mut begun = Vec::with_capacity(records.len());
        for record in records {
            if (!self.holds.is_empty() && self.holds.first(&record.source.topic_partition()).is_some())
                || !self.ledger.has_room(&record.source)
            {
                self.holds.push(record);
            } else {
                self.hold_early(&record.source);
                begun.extend(self.begin(record));
            }
        }
        begun
    }

    /// Records were read that are left to whoever has their partition next.
    pub fn leave(&self, records: &[Incoming]) {
        for record in records {
            self.budget.give(record.size());
        }
    }

    /// Gives the records that have waited and are to be run now. A partition is let go when none of it waits and there is room for more
    /// than a few: pausing throws away what was fetched.
    pub fn let_in(&mut self) -> Vec<Begun> {
        let mut begun = Vec::new();
        for partition in self.holds.partitions() {
            while self.holds.first(&partition).is_some_and(|record| self.ledger.has_room(&record.source)) {
                let record = self.holds.pop(&partition);
                begun.extend(record.and_then(|record| self.begin(record)));
            }
            if self.holds.first(&partition).is_none() && self.ledger.is_roomy(&partition) {
                self.holds.end(&partition);
            }
        }
        begun
    }

    /// Lets go the records that wait, and the holds of their partitions.
    pub fn let_held_go(&mut self, leaves: impl Fn(&TopicPartition) -> bool) {
        for partition in self.holds.partitions().iter().filter(|partition| leaves(partition)) {
            for record in self.holds.end(partition) {
                self.budget.give(record.size());
            }
        }
        self.holds.go_on(leaves);
    }

    /// Lets go the records of a partition that wait, and holds it until its life ends.
    pub fn stop(&mut self, partition: &TopicPartition) {
        for record in self.holds.stop(partition) {
            self.budget.give(record.size());
        }
    }

    /// What a partition that is stopped is to begin its next life with; `None` while something of it is under way.
    pub fn standing(&self, partition: &TopicPartition) -> Option<CommitPoint> {
        let lives = self.ledger.lives(std::slice::from_ref(partition));
        if self.ledger.unfinished(&lives) > 0 { None } else { self.ledger.standing(partition) }
    }

    /// The records that were not run because they had finished in earlier lives, since this was last asked.
    pub fn skipped(&mut self) -> Vec<Source> {
        self.skipped.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Tells the consumer which partitions are held and which no longer are.
    pub fn tell_holds(&mut self, subscription: &impl Subscription) {
        self.holds.tell(subscription);
    }
}
