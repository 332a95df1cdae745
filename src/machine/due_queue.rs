//! Parked records in the order in which they fall due; those due at the same time in the order in which they came.

use std::collections::BTreeMap;

use super::time::Tick;

/// Items by due time.
#[derive(Debug)]
pub struct DueQueue<T> {
    /// By due time, then by arrival.
    items: BTreeMap<(Tick, u64), T>,
    arrivals: u64,
}

impl<T> Default for DueQueue<T> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), arrivals: 0 }
    }
}

impl<T> DueQueue<T> {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// An item that falls due at `due`.
    pub fn push(&mut self, due: Tick, item: T) {
        self.items.insert((due, self.arrivals), item);
        self.arrivals += 1;
    }

    /// The first item that is due at `now`, with its due time.
    pub fn pop_due(&mut self, now: Tick) -> Option<(Tick, T)> {
        let first = self.items.first_entry()?;
        if first.key().0 > now {
            return None;
        }
        let ((due, _), item) = first.remove_entry();
        Some((due, item))
    }

    /// When the last item falls due.
    pub fn last_due(&self) -> Option<Tick> {
        self.items.last_key_value().map(|((due, _), _)| *due)
    }

    /// The last item, with its due time.
    pub fn pop_last(&mut self) -> Option<(Tick, T)> {
        self.items.pop_last().map(|((due, _), item)| (due, item))
    }

    /// The item that [`DueQueue::pop_due`] would take, left in its place: one that is taken and pushed back goes behind those that
    /// fell due with it.
    pub fn peek_due(&self, now: Tick) -> Option<(Tick, &T)> {
        self.items.first_key_value().filter(|((due, _), _)| *due <= now).map(|((due, _), item)| (*due, item))
    }

    /// When the first item falls due.
    pub fn next_due(&self) -> Option<Tick> {
        self.items.first_key_value().map(|((due, _), _)| *due)
    }

    /// Items that are due at `now`. Takes time by their number, not by the queue's.
    pub fn due(&self, now: Tick) -> usize {
        self.items.range(..=(now, u64::MAX)).count()
    }

    /// Every item, in the order in which they go.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.values()
    }

    /// Takes out every item for which `leaves` holds, in the order in which they would have gone. The others keep their order.
    pub fn remove(&mut self, mut leaves: impl FnMut(&T) -> bool) -> Vec<T> {
        let (leaving, staying): (Vec<_>, Vec<_>) = std::mem::take(&mut self.items).into_iter().partition(|(_, item)| leaves(item));
        self.items = staying.into_iter().collect();
        leaving.into_iter().map(|(_, item)| item).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a sorted list: nothing comes before it is due, and in order of due time, then of arrival.
        #[test]
        fn comes_out_as_a_sorted_list_would(dues in prop::collection::vec(0u64..50, 0..60), asks in prop::collection::vec(0u64..60, 0..60)) {
            let mut queue = DueQueue::new();
            let mut model: Vec<(u64, usize)> = Vec::new();
            for (arrival, due) in dues.iter().enumerate() {
                queue.push(Tick(*due), arrival);
                model.push((*due, arrival));
            }
            model.sort_unstable();
            for now in asks {
                prop_assert_eq!(queue.due(Tick(now)), model.iter().filter(|(due, _)| *due <= now).count());
                prop_assert_eq!(queue.peek_due(Tick(now)).map(|(due, item)| (due.0, *item)), model.first().copied().filter(|(due, _)| *due <= now));
                let expected = model.first().copied().filter(|(due, _)| *due <= now);
                if expected.is_some() { model.remove(0); }
                prop_assert_eq!(queue.pop_due(Tick(now)).map(|(due, item)| (due.0, item)), expected);
                prop_assert_eq!(queue.next_due().map(|tick| tick.0), model.first().map(|(due, _)| *due));
            }
            let (odd, even): (Vec<_>, Vec<_>) = model.iter().map(|(_, item)| *item).partition(|item| item % 2 == 1);
            prop_assert_eq!(queue.remove(|item| item % 2 == 1), odd);
            prop_assert_eq!(queue.iter().copied().collect::<Vec<_>>(), &even[..]);
            prop_assert_eq!(queue.last_due().is_none(), even.is_empty());
            if let Some((due, last)) = queue.pop_last() {
                prop_assert_eq!(Some(&last), even.last());
                queue.push(due, last);
            }
            queue.push(Tick(u64::MAX), usize::MAX);
            prop_assert_eq!(queue.last_due(), Some(Tick(u64::MAX)));
            let rest: Vec<_> = std::iter::from_fn(|| queue.pop_due(Tick::NEVER)).map(|(_, item)| item).collect();
            prop_assert_eq!(rest, [even, vec![usize::MAX]].concat());
        }
    }
}
