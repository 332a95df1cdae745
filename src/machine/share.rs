//! An instance's share of a budget that is the fleet's.
//!
//! A budget of places is laid on the partitions of a topic, as evenly as it goes. Kafka gives each partition to one instance of the group, so
//! the shares follow from the assignment, without a word between instances:
//!
//! - With at least as many places as partitions the shares come to exactly the budget, over every assignment.
//! - An instance with partitions has a place at least, so that nothing parked lies still. With fewer places than partitions there may be
//!   instances whose partitions have none: each of them comes on top of the budget.
//!
//! It holds while all of them know the same number of partitions, and for partitions that change hands when their places do too: that is the
//! loop's affair.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{Partition, Topic, TopicPartition};

/// The places of one partition of so many: the budget's equal parts, and of what is left over one for each of the first.
pub fn of_partition(budget: usize, partitions: usize, partition: Partition) -> usize {
    let Ok(number) = usize::try_from(partition.0) else { return 0 };
    if number >= partitions {
        return 0;
    }
    budget / partitions + usize::from(number < budget % partitions)
}

/// The partitions that are an instance's, and what is known of their topics.
#[derive(Debug, Default)]
pub struct Owned {
    partitions: BTreeSet<TopicPartition>,
    sizes: BTreeMap<Topic, usize>,
}

impl Owned {
    /// A partition has come.
    pub fn came(&mut self, partition: TopicPartition) {
        self.partitions.insert(partition);
    }

    /// A partition goes, and its places with it.
    pub fn goes(&mut self, partition: &TopicPartition) {
        self.partitions.remove(partition);
    }

    /// These partitions.
    pub fn partitions(&self) -> impl Iterator<Item = &TopicPartition> {
        self.partitions.iter()
    }

    /// The topics of these partitions.
    pub fn topics(&self) -> BTreeSet<Topic> {
        self.partitions.iter().map(|owned| owned.topic.clone()).collect()
    }

    /// A topic has so many partitions.
    pub fn size(&mut self, topic: Topic, partitions: usize) {
        self.sizes.insert(topic, partitions);
    }

    /// The share of a budget: one place while it is not known of how many partitions these are, none without a partition.
    pub fn share(&self, budget: usize) -> usize {
        let of = |owned: &TopicPartition| {
            let partitions = self.sizes.get(&owned.topic).copied().unwrap_or(0);
            of_partition(budget, partitions, owned.partition)
        };
        let least = usize::from(!self.partitions.is_empty());
        self.partitions.iter().map(of).sum::<usize>().max(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owned(size: Option<usize>, partitions: impl IntoIterator<Item = i32>) -> Owned {
        let mut owned = Owned::default();
        for partition in partitions {
            owned.came(TopicPartition { topic: Topic::from("t"), partition: Partition(partition) });
        }
        if let Some(size) = size {
            owned.size(Topic::from("t"), size);
        }
        owned
    }

    #[test]
    fn a_budget_is_laid_on_partitions_and_the_first_have_what_is_left_over() {
        for (budget, size, partitions, expected) in [
            (16, Some(6), vec![0, 1, 2, 3, 4, 5], 16),
            (16, Some(6), vec![0, 1], 6),
            (16, Some(6), vec![2, 3], 6),
            (16, Some(6), vec![4, 5], 4),
            (4, Some(6), vec![0, 1], 2),
            (4, Some(6), vec![2, 3], 2),
            // A place at least, where the partitions have none.
            (4, Some(6), vec![4, 5], 1),
            (1, Some(6), vec![3], 1),
            // Nothing to drain.
            (16, Some(6), vec![], 0),
            // Not known, or known of a topic that has grown since.
            (16, None, vec![0, 1, 2], 1),
            (16, Some(3), vec![3], 1),
            (16, Some(1), vec![0], 16),
        ] {
            assert_eq!(owned(size, partitions.clone()).share(budget), expected, "{budget} over {size:?}: {partitions:?}");
        }
    }

    #[test]
    fn places_come_and_go_with_partitions() {
        let mut owned = owned(Some(4), [0, 1, 2, 3]);
        assert_eq!(owned.share(6), 6);
        owned.goes(&TopicPartition { topic: Topic::from("t"), partition: Partition(0) });
        assert_eq!(owned.share(6), 4);
        owned.size(Topic::from("t"), 6);
        assert_eq!(owned.share(6), 3, "the topic has grown");
    }

    proptest! {
        /// Whoever has which partitions: the shares come to the budget, and one for each instance whose partitions have no place, of which
        /// there are none with a place for each partition. A share is never nothing, and never grows when partitions go.
        #[test]
        fn shares_come_to_the_budget(budget in 1_usize..200, holders in prop::collection::vec(0_usize..12, 1..64)) {
            let size = holders.len();
            let of = |instance: usize| (0..).zip(&holders).filter(move |(_, holder)| **holder == instance).map(|(partition, _)| partition);
            let instances: BTreeSet<usize> = holders.iter().copied().collect();
            let share = |instance: usize| owned(Some(size), of(instance)).share(budget);
            let by_partitions =
                |instance: usize| of(instance).map(|partition| of_partition(budget, size, Partition(partition))).sum::<usize>();
            let sum: usize = instances.iter().map(|instance| share(*instance)).sum();
            let without = instances.iter().filter(|instance| by_partitions(**instance) == 0).count();
            prop_assert_eq!(sum, budget + without);
            prop_assert!(without == 0 || budget < size);
            for instance in instances {
                prop_assert!(share(instance) >= 1);
                let fewer = owned(Some(size), of(instance).skip(1)).share(budget);
                prop_assert!(fewer <= share(instance));
            }
        }
    }
}
