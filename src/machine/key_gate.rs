//! One at a time of each key, in the order of their places: what comes behind another of its key is held until that one has ended.
//!
//! A key costs memory only while something of it is out or held.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use crate::event::{Offset, TopicPartition};

/// A key within a partition.
type Key = (TopicPartition, u64);

/// What is out and what is held, by key.
#[derive(Debug)]
pub struct KeyGate<T> {
    /// In the order of their places; `None`: it is out.
    keys: HashMap<Key, VecDeque<(Offset, Option<T>)>, RandomState>,
    held: usize,
}

impl<T> Default for KeyGate<T> {
    fn default() -> Self {
        Self { keys: HashMap::default(), held: 0 }
    }
}

impl<T> KeyGate<T> {
    /// Something comes: it is given back if nothing of its key is in front of it, and held if something is.
    pub fn come(&mut self, partition: TopicPartition, key: u64, at: Offset, item: T) -> Option<T> {
        let queue = self.keys.entry((partition, key)).or_default();
        let place = queue.partition_point(|(other, _)| *other < at);
        let (held, out) = if place == 0 { (None, Some(item)) } else { (Some(item), None) };
        self.held += usize::from(held.is_some());
        queue.insert(place, (at, held));
        out
    }

    /// Something that is out has ended: gives the next of its key that may go, if that was held.
    pub fn ended(&mut self, partition: TopicPartition, key: u64, at: Offset) -> Option<T> {
        let Entry::Occupied(mut queue) = self.keys.entry((partition, key)) else { return None };
        queue.get_mut().retain(|(other, item)| *other != at || item.is_some());
        let Some((_, first)) = queue.get_mut().front_mut() else {
            queue.remove();
            return None;
        };
        let next = first.take();
        self.held -= usize::from(next.is_some());
        next
    }

    /// Lets go what is held at a place, before its turn: it is out from now on.
    pub fn take(&mut self, partition: &TopicPartition, key: u64, at: Offset) -> Option<T> {
        let queue = self.keys.get_mut(&(partition.clone(), key))?;
        let (_, item) = queue.iter_mut().find(|(other, _)| *other == at)?;
        let taken = item.take();
        self.held -= usize::from(taken.is_some());
        taken
    }

    /// Lets go what is held and for which `leaves` holds, before its turn, in the order of places: it is out from now on.
    pub fn let_out(&mut self, leaves: impl Fn(&T) -> bool) -> Vec<T> {
        self.take_out(|_, item| leaves(item))
    }

    /// Takes out all that is held of the partitions for which `leaves` holds.
    pub fn let_go(&mut self, leaves: impl Fn(&TopicPartition) -> bool) -> Vec<T> {
        self.take_out(|partition, _| leaves(partition))
    }

    /// Forgets the partitions for which `leaves` holds: what was out of them is another's.
    pub fn forget(&mut self, leaves: impl Fn(&TopicPartition) -> bool) {
        debug_assert!(!self.iter().any(|(partition, _)| leaves(partition)), "what is held is let go first");
        self.keys.retain(|(partition, _), _| !leaves(partition));
    }

    /// All that is held, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &T)> {
        self.keys.iter().flat_map(|((partition, _), queue)| queue.iter().filter_map(move |(_, item)| Some((partition, item.as_ref()?))))
    }

    /// How much is held.
    pub fn len(&self) -> usize {
        self.held
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    #[expect(clippy::iter_over_hash_type, reason = "what is taken is put in order at the end")]
    fn take_out(&mut self, leaves: impl Fn(&TopicPartition, &T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for ((partition, _), queue) in &mut self.keys {
            for (at, item) in queue {
                if let Some(item) = item.take_if(|item| leaves(partition, item)) {
                    taken.push((partition.clone(), *at, item));
                }
            }
        }
        self.held -= taken.len();
        taken.sort_unstable_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
        taken.into_iter().map(|(_, _, item)| item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Partition, Topic};
    use proptest::prelude::*;

    fn partition(number: i32) -> TopicPartition {
        TopicPartition { topic: Topic::from("retry"), partition: Partition(number) }
    }

    proptest! {
        /// Whatever ends when, a key's go one at a time and in order, and each goes as soon as it may.
        #[test]
        fn of_a_key_one_goes_at_a_time_and_in_order(keys in prop::collection::vec((0i32..2, 0u64..3), 0..60), ends in prop::collection::vec(0usize..60, 0..200)) {
            let mut gate = KeyGate::default();
            let mut out: Vec<usize> = Vec::new();
            let mut gone = vec![false; keys.len()];
            let mut coming = 0..keys.len();
            let offset = |number: usize| Offset(i64::try_from(number).unwrap());
            for end in ends.into_iter().chain(std::iter::repeat_n(0, 2 * keys.len())) {
                if end % 2 == 0 && let Some(number) = coming.next() {
                    out.extend(gate.come(partition(keys[number].0), keys[number].1, offset(number), number));
                } else if !out.is_empty() {
                    let number = out.remove(end % out.len());
                    gone[number] = true;
                    out.extend(gate.ended(partition(keys[number].0), keys[number].1, offset(number)));
                }
                let came = coming.start;
                let first = |number: &usize| (0..*number).all(|other| keys[other] != keys[*number] || gone[other]);
                let may: Vec<usize> = (0..came).filter(|number| !gone[*number]).filter(first).collect();
                let mut goes = out.clone();
                goes.sort_unstable();
                prop_assert_eq!(&goes, &may);
                prop_assert_eq!(gate.len(), (0..came).filter(|number| !gone[*number]).count() - may.len());
            }
            prop_assert!(gone.iter().all(|gone| *gone));
            prop_assert!(gate.keys.is_empty());
        }
    }

    #[test]
    fn what_goes_before_its_turn_leaves_the_turn_of_the_others() {
        let mut gate = KeyGate::default();
        assert_eq!(gate.come(partition(0), 1, Offset(0), 'a'), Some('a'));
        for (at, item) in [(1, 'b'), (2, 'c')] {
            assert_eq!(gate.come(partition(0), 1, Offset(at), item), None);
        }
        assert_eq!(gate.let_out(|item| *item == 'b'), ['b']);
        assert_eq!(gate.take(&partition(0), 1, Offset(1)), None);
        assert_eq!(gate.ended(partition(0), 1, Offset(1)), None);
        assert_eq!(gate.ended(partition(0), 1, Offset(0)), Some('c'));
        assert_eq!(gate.ended(partition(0), 1, Offset(2)), None);
        assert!(gate.is_empty());
    }

    #[test]
    fn a_partition_that_goes_leaves_nothing() {
        let mut gate = KeyGate::default();
        for number in [1, 0] {
            for at in [2, 3, 4] {
                let item = (number, at);
                assert_eq!(gate.come(partition(number), 7, Offset(at), item).is_some(), at == 2);
            }
        }
        assert_eq!(gate.let_go(|partition| partition.partition == Partition(1)), [(1, 3), (1, 4)]);
        gate.forget(|partition| partition.partition == Partition(1));
        // In its next life it comes anew.
        assert_eq!(gate.come(partition(1), 7, Offset(2), (1, 2)), Some((1, 2)));
        assert_eq!(gate.ended(partition(0), 7, Offset(2)), Some((0, 3)));
    }
}
