//! Which keys have calls parked that are not known to have ended: of one service, and of one partition of its retry topic.
//!
//! Parked calls of a key end in the order of their places, so the last one tells of all: memory goes with keys, not with calls. What is parked here counts
//! from before it is published; where it lies is told with its acknowledgement, and what its attempts left there that count for nothing is not
//! taken for it. (Where an acknowledgement does not say it, a copy that was read is.) Keys are known by their hashes: two that share one wait for each other, and nothing else.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::event::Offset;

/// The keys that are not free.
#[derive(Debug, Default)]
pub struct ParkedKeys {
    keys: HashMap<u64, Key, RandomState>,
    /// Events whose calls are on their way to the topic.
    under_way: HashMap<Offset, UnderWay, RandomState>,
}

#[derive(Debug, Default)]
struct Key {
    /// Calls that are on their way to the topic.
    under_way: usize,
    /// The last of those that are known to be there, and not known to have ended.
    last: Option<Offset>,
}

#[derive(Debug)]
struct UnderWay {
    key: u64,
    /// A copy was read.
    read: bool,
    /// It is there, and nobody has said where.
    there: bool,
}

impl ParkedKeys {
    /// Whether no call of the key may still be parked.
    pub fn is_free(&self, key: u64) -> bool {
        !self.keys.contains_key(&key)
    }

    /// An event's call is about to be parked here.
    pub fn parks(&mut self, key: u64, event: Offset) {
        if self.under_way.insert(event, UnderWay { key, read: false, there: false }).is_none() {
            self.keys.entry(key).or_default().under_way += 1;
        }
    }

    /// An event's call is parked, at a place that may be unknown: then a copy that is read tells of it.
    pub fn parked(&mut self, event: Offset, at: Option<Offset>) {
        let Some(call) = self.under_way.get_mut(&event) else { return };
        match at {
            Some(at) => {
                let key = call.key;
                self.stands(key, at);
                self.arrived(event);
            }
            None if call.read => self.arrived(event),
            None => call.there = true,
        }
    }

    /// An event's call was not parked after all: something else was published in its place.
    pub fn was_not_parked(&mut self, event: Offset) {
        self.arrived(event);
    }

    /// A parked call was read; `event` is the offset of its event, if that was read of the partition whose events are processed here.
    pub fn read(&mut self, key: u64, event: Option<Offset>, at: Offset) {
        self.stands(key, at);
        if let Some(event) = event
            && let Some(call) = self.under_way.get_mut(&event)
        {
            call.read = true;
            if call.there {
                self.arrived(event);
            }
        }
    }

    /// Some parked calls have ended.
    pub fn ended(&mut self, has_ended: impl Fn(Offset) -> bool) {
        self.keys.retain(|_, key| {
            key.last = key.last.filter(|last| !has_ended(*last));
            key.last.is_some() || key.under_way > 0
        });
    }

    /// Whether calls are known to be there that are not known to have ended.
    pub fn awaits_ends(&self) -> bool {
        self.keys.values().any(|key| key.last.is_some())
    }

    fn stands(&mut self, key: u64, at: Offset) {
        let last = &mut self.keys.entry(key).or_default().last;
        *last = Some(last.map_or(at, |last| last.max(at)));
    }

    /// An event's call is on its way no longer.
    fn arrived(&mut self, event: Offset) {
        let Some(UnderWay { key, .. }) = self.under_way.remove(&event) else { return };
        if let Some(of) = self.keys.get_mut(&key) {
            of.under_way -= 1;
            if of.under_way == 0 && of.last.is_none() {
                self.keys.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Park(u64),
        /// A copy is written; the one that counts, or one that was undone.
        Write(usize, bool),
        Tell(usize, bool),
        Replace(usize),
        Read,
        End,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0u64..4).prop_map(Step::Park),
            4 => (0usize..20, any::<bool>()).prop_map(|(call, counts)| Step::Write(call, counts)),
            3 => (0usize..20, prop::bool::weighted(0.8)).prop_map(|(call, known)| Step::Tell(call, known)),
            1 => (0usize..20).prop_map(Step::Replace),
            4 => Just(Step::Read),
            3 => Just(Step::End),
        ];
        prop::collection::vec(step, 0..120)
    }

    #[derive(Debug, Clone, Default)]
    struct Call {
        key: u64,
        /// Where its copy lies that counts.
        at: Option<i64>,
        /// Its acknowledgement has come, or what was published in its place has.
        told: bool,
        replaced: bool,
        ended: bool,
    }

    proptest! {
        /// Against the whole list of calls and copies: no key is free of which a call may be parked, and once all is known, each is of which none is.
        #[test]
        fn a_key_is_free_when_none_of_its_calls_is_left(steps in steps()) {
            let mut keys = ParkedKeys::default();
            let mut calls: Vec<Call> = Vec::new();
            // Of each copy: the call, and whether it counts.
            let mut log: Vec<(usize, bool)> = Vec::new();
            let mut read = 0;
            let offset = |number: usize| Offset(i64::try_from(number).unwrap());
            let end = |calls: &mut Vec<Call>, log: &[(usize, bool)], keys: &mut ParkedKeys, upto: usize| {
                for (call, counts) in &log[..upto] {
                    calls[*call].ended |= counts;
                }
                keys.ended(|at| at < offset(upto));
            };
            for step in steps {
                match step {
                    Step::Park(key) => {
                        keys.parks(key, offset(calls.len()));
                        calls.push(Call { key, ..Call::default() });
                    }
                    Step::Write(number, counts) => {
                        if let Some(call) = calls.get_mut(number).filter(|call| call.at.is_none() && !call.replaced) {
                            call.at = counts.then_some(i64::try_from(log.len()).unwrap());
                            log.push((number, counts));
                        }
                    }
                    Step::Tell(number, known) => {
                        if let Some(call) = calls.get_mut(number).filter(|call| call.at.is_some() && !call.told) {
                            // Where nobody says which of several copies it is, any may be taken for it.
                            let alone = log.iter().filter(|(of, _)| *of == number).count() == 1;
                            call.told = true;
                            keys.parked(offset(number), call.at.filter(|_| known || !alone).map(Offset));
                        }
                    }
                    Step::Replace(number) => {
                        if let Some(call) = calls.get_mut(number).filter(|call| call.at.is_none() && !call.replaced) {
                            call.replaced = true;
                            keys.was_not_parked(offset(number));
                        }
                    }
                    Step::Read => {
                        if let Some((call, _)) = log.get(read) {
                            keys.read(calls[*call].key, Some(offset(*call)), offset(read));
                            read += 1;
                        }
                    }
                    // Whoever drains them may be faster than the reader.
                    Step::End => end(&mut calls, &log, &mut keys, log.len()),
                }
                for key in 0..4 {
                    let busy = calls.iter().any(|call| call.key == key && !call.replaced && !call.ended);
                    prop_assert!(!busy || !keys.is_free(key), "{} {:?}", key, &calls);
                }
            }
            for (number, call) in calls.iter_mut().enumerate() {
                if call.at.is_none() && !call.replaced {
                    call.at = Some(i64::try_from(log.len()).unwrap());
                    log.push((number, true));
                }
                if !std::mem::replace(&mut call.told, true) && !call.replaced {
                    keys.parked(offset(number), call.at.map(Offset));
                }
            }
            for (place, (call, _)) in log.iter().enumerate().skip(read) {
                keys.read(calls[*call].key, Some(offset(*call)), offset(place));
            }
            let whole = log.len();
            end(&mut calls, &log, &mut keys, whole);
            prop_assert!(keys.keys.is_empty() && keys.under_way.is_empty(), "{:?}", keys);
        }
    }

    #[test]
    fn what_is_parked_here_counts_until_its_place_is_known_and_has_ended() {
        let mut keys = ParkedKeys::default();
        keys.parks(1, Offset(7));
        assert!(!keys.is_free(1) && keys.is_free(0) && keys.is_free(2));
        // A copy that was undone says nothing of the one that counts.
        keys.read(1, Some(Offset(7)), Offset(40));
        keys.ended(|at| at <= Offset(40));
        assert!(!keys.is_free(1) && !keys.awaits_ends());
        keys.parked(Offset(7), Some(Offset(41)));
        keys.ended(|at| at <= Offset(40));
        assert!(!keys.is_free(1) && keys.awaits_ends());
        keys.ended(|at| at <= Offset(41));
        assert!(keys.is_free(1) && !keys.awaits_ends());
    }

    #[test]
    fn what_nobody_reads_is_free_when_it_has_ended() {
        let mut keys = ParkedKeys::default();
        keys.parks(1, Offset(7));
        keys.parked(Offset(7), Some(Offset(41)));
        keys.ended(|at| at <= Offset(41));
        assert!(keys.is_free(1));
    }

    #[test]
    fn a_call_of_an_unknown_place_is_there_when_it_was_read() {
        for read_first in [true, false] {
            let mut keys = ParkedKeys::default();
            keys.parks(1, Offset(7));
            if read_first {
                keys.read(1, Some(Offset(7)), Offset(40));
                keys.parked(Offset(7), None);
            } else {
                keys.parked(Offset(7), None);
                keys.ended(|_| true);
                assert!(!keys.is_free(1));
                keys.read(1, Some(Offset(7)), Offset(40));
            }
            keys.ended(|at| at <= Offset(40));
            assert!(keys.is_free(1), "{read_first}");
        }
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
