//! Keys to lanes, order within each: of a lane's items one is out at a time, and the next goes when it comes back. Items of
//! different lanes go in the order in which they could.
//!
//! A lane costs memory only while something of it is out or waiting.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use foldhash::fast::RandomState;

/// Items waiting in lanes.
#[derive(Debug)]
pub struct Lanes<L, T> {
    /// The lanes that have an item out or ready, with those waiting behind it.
    busy: HashMap<L, VecDeque<Arrived<T>>, RandomState>,
    /// Items that may go now.
    ready: VecDeque<(Option<L>, Arrived<T>)>,
    waiting: usize,
    arrivals: u64,
}

/// An item with its number among all that came, for an order that owes nothing to the map's.
#[derive(Debug)]
struct Arrived<T> {
    number: u64,
    item: T,
}

impl<L: Hash + Eq + Clone, T> Default for Lanes<L, T> {
    fn default() -> Self {
        Self { busy: HashMap::default(), ready: VecDeque::new(), waiting: 0, arrivals: 0 }
    }
}

impl<L: Hash + Eq + Clone, T> Lanes<L, T> {
    /// No lanes.
    pub fn new() -> Self {
        Self::default()
    }

    /// An item arrives, in a lane or (`None`) in none: then it waits for nobody.
    pub fn push(&mut self, lane: Option<L>, item: T) {
        let item = Arrived { number: self.arrivals, item };
        self.arrivals += 1;
        let Some(lane) = lane else {
            self.ready.push_back((None, item));
            return;
        };
        match self.busy.entry(lane) {
            Entry::Occupied(mut waiting) => {
                waiting.get_mut().push_back(item);
                self.waiting += 1;
            }
            Entry::Vacant(vacant) => {
                self.ready.push_back((Some(vacant.key().clone()), item));
                vacant.insert(VecDeque::new());
            }
        }
    }

    /// The next item that may go. Its lane is held until [`Lanes::done`] is called with it.
    #[expect(clippy::should_implement_trait, reason = "no iterator: what it gives depends on what is pushed and done in between")]
    pub fn next(&mut self) -> Option<(Option<L>, T)> {
        self.ready.pop_front().map(|(lane, arrived)| (lane, arrived.item))
    }

    /// The item that was out of this lane is back.
    pub fn done(&mut self, lane: Option<L>) {
        let Some(lane) = lane else { return };
        let Entry::Occupied(mut busy) = self.busy.entry(lane) else { return };
        if let Some(item) = busy.get_mut().pop_front() {
            self.waiting -= 1;
            self.ready.push_back((Some(busy.key().clone()), item));
        } else {
            busy.remove();
        }
    }

    /// Takes out every item that has not gone and for which `leaves` holds, in the order in which they came. Looks at every item.
    #[expect(clippy::iter_over_hash_type, reason = "each lane is gone through by itself; what is removed is put in order at the end")]
    pub fn remove(&mut self, mut leaves: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        let mut freed = Vec::new();
        let mut kept = VecDeque::with_capacity(self.ready.len());
        for (lane, arrived) in self.ready.drain(..) {
            if leaves(&arrived.item) {
                removed.push(arrived);
                freed.push(lane);
            } else {
                kept.push_back((lane, arrived));
            }
        }
        self.ready = kept;
        for waiting in self.busy.values_mut() {
            let mut kept = VecDeque::with_capacity(waiting.len());
            for arrived in waiting.drain(..) {
                if leaves(&arrived.item) { removed.push(arrived) } else { kept.push_back(arrived) }
            }
            *waiting = kept;
        }
        self.waiting = self.busy.values().map(VecDeque::len).sum();
        for lane in freed {
            self.done(lane);
        }
        removed.sort_unstable_by_key(|arrived| arrived.number);
        removed.into_iter().map(|arrived| arrived.item).collect()
    }

    /// Items that may go now.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Items that have not gone.
    pub fn len(&self) -> usize {
        self.ready.len() + self.waiting
    }

    /// Whether every item has gone.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lanes that hold memory.
    pub fn lanes(&self) -> usize {
        self.busy.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_of_a_lane_at_a_time_in_order() {
        let mut lanes = Lanes::new();
        for item in ["a1", "b1", "a2", "a3"] {
            lanes.push(Some(item.as_bytes()[0]), item);
        }
        assert_eq!(lanes.next(), Some((Some(b'a'), "a1")));
        assert_eq!(lanes.next(), Some((Some(b'b'), "b1")));
        assert_eq!(lanes.next(), None);
        lanes.done(Some(b'a'));
        assert_eq!(lanes.next(), Some((Some(b'a'), "a2")));
        assert_eq!(lanes.next(), None);
        lanes.done(Some(b'b'));
        assert_eq!(lanes.lanes(), 1);
        lanes.done(Some(b'a'));
        assert_eq!(lanes.next(), Some((Some(b'a'), "a3")));
        lanes.done(Some(b'a'));
        assert_eq!((lanes.lanes(), lanes.len()), (0, 0));
    }

    #[test]
    fn without_a_lane_nothing_waits() {
        let mut lanes = Lanes::<u8, _>::new();
        lanes.push(None, 1);
        lanes.push(None, 2);
        assert_eq!((lanes.next(), lanes.next()), (Some((None, 1)), Some((None, 2))));
        assert_eq!(lanes.lanes(), 0);
    }

    /// A map's order differs from run to run; what comes out must not, or a seeded world would not be the same twice.
    #[test]
    fn what_leaves_comes_out_in_the_order_in_which_it_came() {
        let mut lanes = Lanes::new();
        for item in 0..1_000u32 {
            lanes.push((item % 7 != 0).then_some(item % 100), item);
        }
        let out: Vec<_> = (0..10).filter_map(|_| lanes.next()).collect();
        let removed = lanes.remove(|item| item % 3 == 0);
        assert!(removed.is_sorted() && removed.len() > 300, "{removed:?}");
        let mut rest = Vec::new();
        for (lane, _) in out {
            lanes.done(lane);
        }
        while let Some((lane, item)) = lanes.next() {
            rest.push(item);
            lanes.done(lane);
        }
        assert!(rest.iter().all(|item| item % 3 != 0));
        assert_eq!((rest.len() + removed.len(), lanes.lanes()), (990, 0));
    }

    #[test]
    fn a_lane_whose_item_is_out_stays_held_when_all_behind_it_leaves() {
        let mut lanes = Lanes::new();
        lanes.push(Some(1), "out");
        lanes.push(Some(1), "behind");
        lanes.next();
        assert_eq!(lanes.remove(|_| true), ["behind"]);
        lanes.push(Some(1), "after");
        assert_eq!(lanes.next(), None, "the first is still out");
        lanes.done(Some(1));
        assert_eq!(lanes.next(), Some((Some(1), "after")));
    }

    proptest! {
        /// Every item goes once, in its lane's order, one at a time, whatever the interleaving; and lanes end without memory.
        #[test]
        fn order_and_exclusion(
            arrivals in prop::collection::vec(0u8..6, 1..120),
            steps in prop::collection::vec((0u8..3, any::<prop::sample::Index>()), 0..400),
            leaving in 0u8..6,
        ) {
            let mut lanes = Lanes::new();
            let mut arriving = arrivals.iter().copied().enumerate();
            let mut out: Vec<(u8, usize)> = Vec::new();
            let mut gone: Vec<(u8, usize)> = Vec::new();
            let mut removed = Vec::new();
            let mut pushed = 0;
            for (step, index) in steps {
                match step {
                    0 => if let Some((number, lane)) = arriving.next() {
                        lanes.push(Some(lane), (lane, number));
                        pushed += 1;
                        if number == 60 {
                            removed = lanes.remove(|(lane, _)| *lane == leaving);
                        }
                    },
                    1 => if let Some((Some(lane), item)) = lanes.next() {
                        prop_assert_eq!(lane, item.0);
                        prop_assert!(out.iter().all(|(other, _)| *other != lane), "two of one lane are out");
                        out.push(item);
                        gone.push(item);
                    },
                    _ => if !out.is_empty() {
                        let (lane, _) = out.remove(index.index(out.len()));
                        lanes.done(Some(lane));
                    },
                }
                prop_assert_eq!(gone.len() + removed.len() + lanes.len(), pushed);
            }
            while !out.is_empty() || !lanes.is_empty() {
                if let Some((lane, _)) = out.pop() { lanes.done(Some(lane)); }
                while let Some((_, item)) = lanes.next() { out.push(item); gone.push(item); }
            }
            prop_assert_eq!(lanes.lanes(), 0);
            prop_assert_eq!(gone.len() + removed.len(), pushed);
            for lane in 0u8..6 {
                let order: Vec<_> = gone.iter().filter(|(l, _)| *l == lane).map(|(_, number)| *number).collect();
                prop_assert!(order.is_sorted());
            }
        }
    }
}
