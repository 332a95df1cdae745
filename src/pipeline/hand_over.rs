//! Partitions that are to be given up: what runs may finish, within a bound; then what is finished is committed and the partitions go.

use super::finisher::Finisher;
use super::ledger::Life;
use super::ports::{Assignment, GiveUp, World};
use crate::event::TopicPartition;
use crate::machine::time::Tick;

/// Partitions that are to be given up.
#[derive(Default)]
pub struct HandOvers(Vec<HandOver>);

struct HandOver {
    lives: Vec<(TopicPartition, Life)>,
    give_up: GiveUp,
    deadline: Tick,
}

impl HandOvers {
    /// Begins to give up the lives that partitions have now; `give_up` is called when nothing of them is unfinished, or at the deadline.
    pub fn begin(&mut self, lives: Vec<(TopicPartition, Life)>, give_up: GiveUp, deadline: Tick) {
        self.0.push(HandOver { lives, give_up, deadline });
    }

    /// Partitions have come: those that have come back are not to be given up any more. Whoever waited for that has stopped waiting.
    pub fn came(&mut self, assignments: &[Assignment]) {
        for hand_over in &mut self.0 {
            hand_over.lives.retain(|(partition, _)| assignments.iter().all(|came| came.partition != *partition));
        }
    }

    /// Gives up what can be given up now: nothing before its deadline while something else is in the way (`free` is false). Says which partitions
    /// have gone.
    pub fn advance<W: World, T>(&mut self, finisher: &mut Finisher<W, T>, free: bool, now: Tick) -> Vec<TopicPartition> {
        let (ready, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|hand_over| hand_over.deadline <= now || (free && finisher.unfinished(&hand_over.lives) == 0));
        self.0 = waiting;
        let mut gone = Vec::new();
        for HandOver { lives, give_up, .. } in ready {
            give_up(finisher.release(&lives));
            gone.extend(lives.into_iter().map(|(partition, _)| partition));
        }
        gone
    }

    /// Gives up everything at once, whatever is unfinished.
    pub fn end<W: World, T>(&mut self, finisher: &mut Finisher<W, T>) {
        self.advance(finisher, true, Tick::NEVER);
    }

    /// Whether a partition is to be given up: nothing of it may begin.
    pub fn has(&self, partition: &TopicPartition) -> bool {
        self.0.iter().any(|hand_over| hand_over.lives.iter().any(|(going, _)| going == partition))
    }

    /// When the first of them must go.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.0.iter().map(|hand_over| hand_over.deadline).min()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
