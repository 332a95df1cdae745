//! One at a time of each key, in the order of their places: what comes behind another of its key is held until that one has ended.
//!
//! What is held may be put aside, and come back: its place is kept. A key costs memory only while something of it is out, held, or aside.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};

use foldhash::fast::RandomState;

use crate::event::{Offset, TopicPartition};

/// A key within a partition.
type Key = (TopicPartition, u64);

/// What is out and what is held, by key.
#[derive(Debug)]
pub struct KeyGate<T> {
    /// In the order of their places. What is first is out, or aside.
    keys: HashMap<Key, VecDeque<(Offset, Place<T>)>, RandomState>,
    /// Where something is held, the last to come last.
    held: BTreeSet<(Offset, Key)>,
}

/// What is at a place.
#[derive(Debug)]
enum Place<T> {
    /// It has its turn, or is another's.
    Out,
    /// In a box of its own: a key may have many places, and hold little.
    Held(Box<T>),
    /// It is not here.
    Aside,
}

impl<T> Place<T> {
    fn take(&mut self, leaves: Self) -> Option<T> {
        match std::mem::replace(self, leaves) {
            Self::Held(item) => Some(*item),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl<T> Default for KeyGate<T> {
    fn default() -> Self {
        Self { keys: HashMap::default(), held: BTreeSet::new() }
    }
}

impl<T> KeyGate<T> {
    /// Something comes, or comes back: it is given back if nothing of its key is in front of it, and held if something is.
    pub fn come(&mut self, partition: TopicPartition, key: u64, at: Offset, item: T) -> Option<T> {
        let key = (partition, key);
        let queue = self.keys.entry(key.clone()).or_default();
        let place = queue.partition_point(|(other, _)| *other < at);
        if queue.get(place).is_none_or(|(other, _)| *other != at) {
            queue.insert(place, (at, Place::Aside));
        }
        let (here, out) = if place == 0 { (Place::Out, Some(item)) } else { (Place::Held(Box::new(item)), None) };
        if out.is_none() {
            self.held.insert((at, key));
        }
        if let Some((_, slot)) = queue.get_mut(place) {
            *slot = here;
        }
        out
    }

    /// Something has ended that is out, or was aside: gives the next of its key that may go, if that was held.
    pub fn ended(&mut self, partition: TopicPartition, key: u64, at: Offset) -> Option<T> {
        let Entry::Occupied(mut queue) = self.keys.entry((partition, key)) else { return None };
        if let Ok(place) = queue.get().binary_search_by_key(&at, |(at, _)| *at)
            && !matches!(queue.get()[place], (_, Place::Held(_)))
        {
            queue.get_mut().remove(place);
        }
        let Some((first, place)) = queue.get_mut().front_mut() else {
            queue.remove();
            return None;
        };
        let first = *first;
        let next = place.take(Place::Out);
        if next.is_some() {
            self.held.remove(&(first, queue.key().clone()));
        }
        next
    }

    /// Puts aside what came last of what is held and for which `may` holds.
    pub fn put_aside(&mut self, may: impl Fn(&T) -> bool) -> Option<T> {
        let keys = &mut self.keys;
        let mut slot = |(at, key): &(Offset, Key)| -> Option<T> {
            let queue = keys.get_mut(key)?;
            let number = queue.binary_search_by_key(at, |(at, _)| *at).ok()?;
            let (_, place) = queue.get_mut(number)?;
            matches!(place, Place::Held(item) if may(item)).then(|| place.take(Place::Aside)).flatten()
        };
        let (place, item) = self.held.iter().rev().find_map(|place| Some((place.clone(), slot(place)?)))?;
        self.held.remove(&place);
        Some(item)
    }

    /// The places of a key that are aside, among its first `most`.
    pub fn aside(&self, partition: &TopicPartition, key: u64, most: usize) -> impl Iterator<Item = Offset> {
        let queue = self.keys.get(&(partition.clone(), key));
        queue.into_iter().flatten().take(most).filter(|(_, place)| matches!(place, Place::Aside)).map(|(at, _)| *at)
    }

    /// Takes out all that is held of the partitions for which `leaves` holds: it is another's.
    pub fn let_go(&mut self, leaves: impl Fn(&TopicPartition) -> bool) -> Vec<T> {
        self.held.retain(|(_, (partition, _))| !leaves(partition));
        let mut taken = Vec::new();
        for (_, queue) in self.keys.iter_mut().filter(|((partition, _), _)| leaves(partition)) {
            taken.extend(queue.iter_mut().filter_map(|(at, place)| Some((*at, place.take(Place::Out)?))));
        }
        taken.sort_unstable_by_key(|(at, _)| *at);
        taken.into_iter().map(|(_, item)| item).collect()
    }

    /// Forgets the partitions for which `leaves` holds: what was out of them is another's.
    pub fn forget(&mut self, leaves: impl Fn(&TopicPartition) -> bool) {
        debug_assert!(!self.held.iter().any(|(_, (partition, _))| leaves(partition)), "what is held is let go first");
        self.keys.retain(|(partition, _), _| !leaves(partition));
    }

    /// All that is held, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.keys.values().flatten().filter_map(|(_, place)| match place {
            Place::Held(item) => Some(&**item),
            Place::Out | Place::Aside => None,
        })
    }

    /// How many keys something is known of.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// How much is held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
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

    #[derive(Debug, Clone)]
    enum Step {
        Come,
        End(usize),
        PutAside,
        /// One that is aside comes back, or is found to be gone.
        Back(usize, bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Come),
            3 => (0usize..60).prop_map(Step::End),
            1 => Just(Step::PutAside),
            2 => (0usize..60, prop::bool::weighted(0.8)).prop_map(|(which, back)| Step::Back(which, back)),
        ];
        prop::collection::vec(step, 0..250)
    }

    proptest! {
        /// Whatever ends when, and whatever is put aside, a key's go one at a time and in order, and each goes as soon as it is here and may.
        #[test]
        fn of_a_key_one_goes_at_a_time_and_in_order(keys in prop::collection::vec((0i32..2, 0u64..3), 0..60), steps in steps()) {
            let mut gate = KeyGate::default();
            let (mut out, mut aside): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
            let mut gone = vec![false; keys.len()];
            let mut coming = 0..keys.len();
            let offset = |number: usize| Offset(i64::try_from(number).unwrap());
            let to_the_end = [Step::Come, Step::Back(0, true), Step::End(0)].into_iter().cycle().take(9 * keys.len());
            for step in steps.into_iter().chain(to_the_end) {
                match step {
                    Step::Come => {
                        if let Some(number) = coming.next() {
                            out.extend(gate.come(partition(keys[number].0), keys[number].1, offset(number), number));
                        }
                    }
                    Step::End(which) if !out.is_empty() => {
                        let number = out.remove(which % out.len());
                        gone[number] = true;
                        out.extend(gate.ended(partition(keys[number].0), keys[number].1, offset(number)));
                    }
                    Step::PutAside => aside.extend(gate.put_aside(|number| number % 5 > 0)),
                    Step::Back(which, back) if !aside.is_empty() => {
                        let number = aside.remove(which % aside.len());
                        if back {
                            out.extend(gate.come(partition(keys[number].0), keys[number].1, offset(number), number));
                        } else {
                            gone[number] = true;
                            out.extend(gate.ended(partition(keys[number].0), keys[number].1, offset(number)));
                        }
                    }
                    Step::End(_) | Step::Back(..) => {}
                }
                let first = |number: &usize| (0..*number).all(|other| keys[other] != keys[*number] || gone[other]);
                let left = || (0..coming.start).filter(|number| !gone[*number]);
                let may: Vec<usize> = left().filter(first).filter(|number| !aside.contains(number)).collect();
                let mut goes = out.clone();
                goes.sort_unstable();
                prop_assert_eq!(&goes, &may);
                prop_assert_eq!(gate.len(), left().count() - out.len() - aside.len());
                for key in 0..3 {
                    let mut known: Vec<usize> = aside.iter().copied().filter(|number| keys[*number] == (0, key)).collect();
                    known.sort_unstable();
                    let all: Vec<Offset> = gate.aside(&partition(0), key, usize::MAX).collect();
                    prop_assert_eq!(all, known.into_iter().map(offset).collect::<Vec<_>>());
                }
            }
            prop_assert!(gone.iter().all(|gone| *gone));
            prop_assert!(gate.keys.is_empty());
        }
    }

    #[test]
    fn what_came_last_is_put_aside_first_and_keeps_its_place() {
        let mut gate = KeyGate::default();
        for (at, key, item) in [(0, 1, 'a'), (1, 1, 'b'), (2, 2, 'c'), (3, 1, 'd'), (4, 2, 'e')] {
            gate.come(partition(0), key, Offset(at), item);
        }
        assert_eq!((gate.put_aside(|item| *item != 'e'), gate.put_aside(|_| true), gate.len()), (Some('d'), Some('e'), 1));
        assert_eq!((gate.aside(&partition(0), 1, 2).count(), gate.aside(&partition(0), 1, 3).collect::<Vec<_>>()), (0, vec![Offset(3)]));
        assert_eq!(gate.ended(partition(0), 2, Offset(2)), None, "the next is aside");
        assert_eq!(gate.come(partition(0), 2, Offset(4), 'e'), Some('e'));
        assert_eq!(gate.come(partition(0), 1, Offset(3), 'd'), None);
        assert_eq!((gate.ended(partition(0), 1, Offset(0)), gate.ended(partition(0), 1, Offset(1))), (Some('b'), Some('d')));
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
