//! Records that are begun and not held: put aside, so that others can be read, and read again by their places when they are to go.
//!
//! The books know such a record as they know any other that has begun: its partition's commit does not pass it, and its partition is not given up
//! while it is there. What it does not have is a place in the budget; who asks for it takes one, for it to come to.

use super::{Begun, Finisher};
use crate::event::{Incoming, Source};
use crate::pipeline::ledger::Life;
use crate::pipeline::ports::World;

/// What must be kept of a record that is put aside, beside its place and its size.
#[derive(Debug, Clone, Copy)]
pub struct Aside(Life);

impl<W: World, T> Finisher<W, T> {
    /// Holds partitions a little before there is no room beside their commits, so that what is on its way then has room still, and does not wait in the
    /// budget for what was put aside.
    pub fn holding_early(self) -> Self {
        Self { early: true, ..self }
    }

    /// Puts a record aside. Gives its place, and its size.
    pub fn put_aside(&mut self, begun: Begun) -> (Source, usize, Aside) {
        self.budget.give(begun.size);
        (begun.record.source, begun.size, Aside(begun.life))
    }

    /// A record that was put aside has come again, with a place in the budget since it was asked for.
    pub fn take_up(&mut self, record: Incoming, size: usize, aside: Aside) -> Begun {
        // What stands at its place now may be another record: the topic may have been made anew.
        let now = record.size();
        if now != size {
            self.budget.give(size);
            self.budget.take(now);
        }
        Begun { record, life: aside.0, size: now }
    }

    /// Lets a record go that was put aside, and is not asked for: whoever has its partition next reads it again.
    pub fn forget_aside(&mut self, source: &Source, aside: Aside) {
        self.ledger.forget(source, aside.0);
    }

    /// Whether nothing is read now, whatever room there is: all partitions are held for want of room beside their commits.
    pub fn holds_all(&self) -> bool {
        self.holds.len() >= self.ledger.how_many()
    }

    /// Holds a record's partition if there is little room left beside its commit, where that is not left until there is none.
    pub(super) fn hold_early(&mut self, source: &Source) {
        if !self.early {
            return;
        }
        let partition = source.topic_partition();
        if self.ledger.is_nearly_full(&partition) {
            self.holds.begin(partition);
        }
    }
}
