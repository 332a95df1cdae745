//! Which partitions are to be paused, and which are: a partition is paused while the gate is shut (the budget is full, or nothing more is
//! taken) *or* the loop holds it, and resumed only when neither is so.
//!
//! librdkafka pauses and resumes badly in three ways that this module works around:
//! - A partition that is paused and resumed before it has found where to begin asks twice, and a timer of the first question sets it back
//!   to its beginning later, even in its next assignment: only partitions that have sent a record are paused.
//! - Resuming a partition that is *not* paused throws away what was fetched of it and never fetches it again: only partitions that were
//!   paused here are resumed.
//! - A partition that is revoked while paused is still paused when it comes back, and stalls: it is resumed before it goes.

use std::collections::BTreeSet;

use crate::event::TopicPartition;
use crate::pipeline::ports::CommitPoint;

/// Whether all reading is to stop, which partitions the loop holds, which have sent a record since they were assigned, and which of them
/// are paused.
#[derive(Debug, Default)]
pub(super) struct Gate {
    pub shut: bool,
    /// The loop takes back every hold itself, also that of a partition that goes: one that came late, from before the partition went,
    /// is followed by its end.
    pub held: BTreeSet<TopicPartition>,
    pub started: BTreeSet<TopicPartition>,
    pub paused: BTreeSet<TopicPartition>,
    /// Where held partitions are to be read again, and how often the loop had heard that partitions come or go when it asked.
    pub again: Vec<(CommitPoint, u64)>,
}

impl Gate {
    /// What is to be paused, and what is to be resumed.
    pub fn changes(&self) -> (Vec<TopicPartition>, Vec<TopicPartition>) {
        let wanted = |partition: &&TopicPartition| self.shut || self.held.contains(*partition);
        let pause = self.started.difference(&self.paused).filter(wanted).cloned().collect();
        let resume = self.paused.iter().filter(|partition| !wanted(partition)).cloned().collect();
        (pause, resume)
    }

    /// A partition is read again from elsewhere. It is held no longer, and is as one that has just come: not paused before it has sent a record.
    pub fn begin_again(&mut self, partition: &TopicPartition) {
        self.held.remove(partition);
        self.started.remove(partition);
    }

    /// Partitions go. Gives those that are to be resumed before.
    pub fn leave(&mut self, partitions: &[TopicPartition]) -> Vec<TopicPartition> {
        self.started.retain(|started| !partitions.contains(started));
        partitions.iter().filter(|partition| self.paused.remove(*partition)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Partition, Topic};
    use proptest::prelude::*;

    fn partition(number: i32) -> TopicPartition {
        TopicPartition { topic: Topic::from("t"), partition: Partition(number) }
    }

    fn turn(gate: &mut Gate) -> (Vec<i32>, Vec<i32>) {
        let (pause, resume) = gate.changes();
        gate.paused.extend(pause.iter().cloned());
        gate.paused.retain(|paused| !resume.contains(paused));
        let numbers = |partitions: Vec<TopicPartition>| partitions.iter().map(|partition| partition.partition.0).collect();
        (numbers(pause), numbers(resume))
    }

    #[test]
    fn paused_for_either_reason_resumed_for_neither() {
        let mut gate = Gate { started: [partition(0), partition(1)].into(), ..Gate::default() };
        assert_eq!(turn(&mut gate), (vec![], vec![]));
        gate.held.insert(partition(1));
        assert_eq!(turn(&mut gate), (vec![1], vec![]));
        gate.shut = true;
        assert_eq!(turn(&mut gate), (vec![0], vec![]));
        gate.shut = false;
        assert_eq!(turn(&mut gate), (vec![], vec![0]), "the other is still held");
        gate.shut = true;
        turn(&mut gate);
        gate.held.clear();
        assert_eq!(turn(&mut gate), (vec![], vec![]), "let go, but there is no room");
        gate.shut = false;
        assert_eq!(turn(&mut gate), (vec![], vec![0, 1]));
    }

    #[test]
    fn a_partition_that_goes_while_it_is_held_is_resumed_and_begins_anew() {
        let mut gate = Gate { started: [partition(0)].into(), held: [partition(0)].into(), ..Gate::default() };
        assert_eq!(turn(&mut gate), (vec![0], vec![]));
        assert_eq!(gate.leave(&[partition(0), partition(1)]), [partition(0)]);
        assert_eq!(turn(&mut gate), (vec![], vec![]), "back, it is not paused before it has sent a record");
        gate.held.clear();
        gate.started.insert(partition(0));
        assert_eq!(turn(&mut gate), (vec![], vec![]));
    }

    #[test]
    fn a_partition_that_is_read_again_is_not_paused_before_it_has_sent_a_record() {
        let mut gate = Gate { started: [partition(0)].into(), held: [partition(0)].into(), ..Gate::default() };
        assert_eq!(turn(&mut gate), (vec![0], vec![]));
        gate.paused.remove(&partition(0));
        gate.begin_again(&partition(0));
        gate.shut = true;
        assert_eq!(turn(&mut gate), (vec![], vec![]));
        gate.started.insert(partition(0));
        assert_eq!(turn(&mut gate), (vec![0], vec![]));
    }

    proptest! {
        /// Whatever happens: only what has sent is paused, only what is paused is resumed, and after each turn what is paused is what should be.
        #[test]
        fn what_is_paused_is_what_should_be(steps in prop::collection::vec((0u8..6, 0i32..4), 0..100)) {
            let mut gate = Gate::default();
            for (step, number) in steps {
                match step {
                    0 => gate.shut = !gate.shut,
                    1 => { gate.held.insert(partition(number)); }
                    2 => { gate.held.remove(&partition(number)); }
                    3 => { gate.leave(&[partition(number)]); }
                    _ => { gate.started.insert(partition(number)); }
                }
                let before = gate.paused.clone();
                let (pause, resume) = gate.changes();
                prop_assert!(pause.iter().all(|one| gate.started.contains(one) && !before.contains(one)));
                prop_assert!(resume.iter().all(|one| before.contains(one)));
                turn(&mut gate);
                let wanted: BTreeSet<_> = gate.started.iter().filter(|one| gate.shut || gate.held.contains(*one)).cloned().collect();
                prop_assert_eq!(&gate.paused, &wanted);
            }
        }
    }
}
