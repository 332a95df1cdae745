//! Which keys have calls parked that are not known to have ended: of one service, and of one partition of its retry topic.
//!
//! Parked calls of a key end in the order in which they were parked, so the last one tells of all: memory goes with keys, not with calls. What is
//! parked here counts before anybody has read it. Keys are known by their hashes: two that share one wait for each other, and nothing else.

use std::collections::{BTreeSet, HashMap};

use foldhash::fast::RandomState;

use crate::event::Offset;

/// The keys that are not free.
#[derive(Debug, Default)]
pub struct ParkedKeys {
    /// The last call of each key that was read and is not known to have ended.
    last: HashMap<u64, Offset, RandomState>,
    /// Calls that were parked here and have not been read yet: the key, and the event's offset.
    unread: BTreeSet<(u64, Offset)>,
}

impl ParkedKeys {
    /// Whether no call of the key may still be parked.
    pub fn is_free(&self, key: u64) -> bool {
        !self.last.contains_key(&key) && self.unread.range((key, Offset(i64::MIN))..=(key, Offset(i64::MAX))).next().is_none()
    }

    /// An event's call is about to be parked here.
    pub fn parks(&mut self, key: u64, event: Offset) {
        self.unread.insert((key, event));
    }

    /// An event's call was not parked after all: something else was published in its place.
    pub fn was_not_parked(&mut self, event: Offset) {
        self.unread.retain(|(_, other)| *other != event);
    }

    /// A parked call was read; `event` is the offset of its event, if that was read of the partition whose events are processed here.
    pub fn read(&mut self, key: u64, event: Option<Offset>, at: Offset) {
        let last = self.last.entry(key).or_insert(at);
        *last = at.max(*last);
        if let Some(event) = event {
            self.unread.remove(&(key, event));
        }
    }

    /// Some parked calls have ended.
    pub fn ended(&mut self, has_ended: impl Fn(Offset) -> bool) {
        self.last.retain(|_, last| !has_ended(*last));
    }

    /// Whether calls were read that are not known to have ended.
    pub fn any_read(&self) -> bool {
        !self.last.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Park(u64),
        Replace(usize),
        Read,
        End,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0u64..4).prop_map(Step::Park),
            1 => (0usize..20).prop_map(Step::Replace),
            3 => Just(Step::Read),
            2 => Just(Step::End),
        ];
        prop::collection::vec(step, 0..80)
    }

    proptest! {
        /// Against the whole list of calls: a key is free exactly when each of its calls has ended, or was not parked.
        #[test]
        fn a_key_is_free_when_none_of_its_calls_is_left(steps in steps()) {
            let mut keys = ParkedKeys::default();
            // Of each call: its key, whether it is on the topic, was read, has ended.
            let mut calls: Vec<(u64, bool, bool, bool)> = Vec::new();
            let offset = |number: usize| Offset(i64::try_from(number).unwrap());
            for step in steps {
                match step {
                    Step::Park(key) => {
                        keys.parks(key, offset(calls.len()));
                        calls.push((key, true, false, false));
                    }
                    Step::Replace(number) => {
                        if let Some(call) = calls.get_mut(number).filter(|call| !call.2) {
                            call.1 = false;
                            keys.was_not_parked(offset(number));
                        }
                    }
                    Step::Read => {
                        if let Some(number) = calls.iter().position(|call| call.1 && !call.2) {
                            calls[number].2 = true;
                            keys.read(calls[number].0, Some(offset(number)), offset(1_000 + number));
                        }
                    }
                    Step::End => {
                        // Read or not: whoever drains them may be faster.
                        if let Some(number) = calls.iter().position(|call| call.1 && !call.3) {
                            calls[number].3 = true;
                        }
                        keys.ended(|at| calls[usize::try_from(at.0 - 1_000).unwrap()].3);
                    }
                }
                for key in 0..4 {
                    let busy = calls.iter().any(|(of, on_topic, read, ended)| *of == key && *on_topic && !(*read && *ended));
                    // What ended before it was read is known to have when commits are asked for the next time.
                    let known = !calls.iter().any(|(of, _, read, ended)| *of == key && *read && *ended);
                    if busy || known {
                        prop_assert_eq!(keys.is_free(key), !busy, "{} {:?}", key, &calls);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_parked_here_counts_until_it_was_read_and_has_ended() {
        let mut keys = ParkedKeys::default();
        keys.parks(1, Offset(7));
        assert!(!keys.is_free(1) && keys.is_free(0) && keys.is_free(2));
        // A copy of another event of the key tells nothing of this one.
        keys.read(1, Some(Offset(6)), Offset(40));
        keys.ended(|at| at <= Offset(40));
        assert!(!keys.is_free(1) && !keys.any_read());
        keys.read(1, Some(Offset(7)), Offset(41));
        assert!(!keys.is_free(1) && keys.any_read());
        keys.ended(|at| at <= Offset(40));
        assert!(!keys.is_free(1));
        keys.ended(|at| at <= Offset(41));
        assert!(keys.is_free(1) && !keys.any_read());
    }

    #[test]
    fn what_was_replaced_leaves_the_others_of_its_key() {
        let mut keys = ParkedKeys::default();
        keys.parks(1, Offset(7));
        keys.parks(1, Offset(8));
        keys.was_not_parked(Offset(8));
        assert!(!keys.is_free(1));
        keys.was_not_parked(Offset(7));
        assert!(keys.is_free(1));
    }
}
