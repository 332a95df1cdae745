//! Which letters of a partition were redriven, in the room that Kafka has beside a group's offset.
//!
//! Everything below the commit was redriven, or is no longer there; above it the text of [`Progress`] tells those that were. A letter is only
//! taken for redriven if it was: what does not fit is not begun ([`Memory::commit`]). The room is used up by letters that stay between others
//! that went; they leave it when they go as well, or when the topic's retention deletes them.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::progress::{MAX_BYTES, Progress, Unknown};
use crate::event::Offset;

/// What was redriven of one partition.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// All below were redriven, or are gone.
    next: Offset,
    /// Letters that stay, as far as they are known.
    staying: BTreeSet<Offset>,
    /// The last that was redriven.
    last: Option<Offset>,
    /// How far the partition has been looked through.
    looked: Option<Offset>,
}

impl Memory {
    /// Of what a group has committed: an offset with a text. The partition has records from `low` on, up to before `end`.
    ///
    /// # Errors
    /// The text is of no version that is read here.
    pub fn read(committed: Option<(Offset, &str)>, low: Offset, end: Offset) -> Result<Self, Unknown> {
        match committed {
            Some((next, text)) if next <= end => {
                let progress = Progress::decode(next, text)?;
                let staying = progress.unfinished_above(None).collect();
                Ok(Self { next, staying, last: progress.last(), looked: None })
            }
            // Nothing yet, or of a log that has begun anew since.
            Some(_) | None => Ok(Self { next: low, ..Self::default() }),
        }
    }

    /// Whether a letter was redriven.
    pub fn has(&self, offset: Offset) -> bool {
        offset < self.next || self.last.is_some_and(|last| offset <= last) && !self.staying.contains(&offset)
    }

    /// The next letter of the partition was come upon. Those between it and the one before are gone.
    pub fn look(&mut self, offset: Offset) {
        let from = self.looked.map_or(Bound::Unbounded, Bound::Excluded);
        let gone: Vec<Offset> = self.staying.range((from, Bound::Excluded(offset))).copied().collect();
        for gone in gone {
            self.staying.remove(&gone);
        }
        self.looked = Some(offset);
    }

    /// A letter that was looked at stays.
    pub fn stay(&mut self, offset: Offset) {
        if !self.has(offset) {
            self.staying.insert(offset);
        }
    }

    /// A letter that was looked at is redriven.
    pub fn redrive(&mut self, offset: Offset) {
        self.staying.remove(&offset);
        self.last = self.last.max(Some(offset)).filter(|last| *last >= self.next);
    }

    /// Whether a letter lies behind all that were redriven: one before adds nothing that must be told.
    pub fn is_ahead(&self, offset: Offset) -> bool {
        self.last.is_none_or(|last| offset > last)
    }

    /// The offset to commit, and its text; `None` if it cannot all be told.
    pub fn commit(&self) -> Option<(Offset, String)> {
        let Some(last) = self.last else { return Some((self.next, String::new())) };
        let staying: Vec<Offset> = self.staying.range(..=last).copied().collect();
        let next = staying.first().copied().unwrap_or(Offset(last.0.saturating_add(1))).max(self.next);
        let text = Progress::new(next, staying, Some(last)).encode_whole(next, MAX_BYTES)?;
        Some((next, text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const END: Offset = Offset(1_000_000);

    fn read(memory: &Memory) -> Memory {
        let (next, text) = memory.commit().expect("it fits");
        assert!(text.len() <= MAX_BYTES);
        Memory::read(Some((next, &text)), Offset(0), END).expect("its own")
    }

    /// Goes through letters, redriving those that are chosen and were not yet; gives those that it redrove.
    fn run(memory: &mut Memory, letters: &[i64], chosen: impl Fn(i64) -> bool) -> Vec<i64> {
        let mut redriven = Vec::new();
        for &letter in letters {
            let offset = Offset(letter);
            memory.look(offset);
            if memory.has(offset) {
                continue;
            }
            if chosen(letter) {
                memory.redrive(offset);
                redriven.push(letter);
            } else {
                memory.stay(offset);
            }
        }
        redriven
    }

    #[test]
    fn a_second_run_finds_what_the_first_left() {
        let letters: Vec<i64> = (0..100).collect();
        let mut memory = Memory::read(None, Offset(0), END).expect("nothing");
        assert_eq!(run(&mut memory, &letters, |letter| letter % 3 == 0).len(), 34);
        let mut memory = read(&memory);
        assert_eq!(run(&mut memory, &letters, |letter| letter % 3 == 0), [] as [i64; 0]);
        assert_eq!(run(&mut read(&memory), &letters, |letter| letter % 2 == 0).len(), 33, "2, 4, 8, 10, …");
        assert_eq!(memory.commit().map(|(next, _)| next), Some(Offset(1)));
    }

    #[test]
    fn letters_that_are_gone_take_no_room() {
        let mut memory = Memory::read(None, Offset(0), END).expect("nothing");
        run(&mut memory, &(0..20_000).collect::<Vec<_>>(), |letter| letter == 19_999);
        let mut memory = read(&memory);
        run(&mut memory, &(19_998..20_010).collect::<Vec<_>>(), |letter| letter == 20_005);
        let (next, text) = memory.commit().expect("it fits");
        assert!(next == Offset(19_998) && text.len() < 30, "{next} {text}");
    }

    #[test]
    fn what_does_not_fit_is_said_before_it_is_done() {
        let mut memory = Memory::default();
        let mut dice = 88_172_645_463_325_252_u64;
        for letter in 0..200_000 {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            memory.look(Offset(letter));
            if dice.is_multiple_of(2) { memory.redrive(Offset(letter)) } else { memory.stay(Offset(letter)) }
        }
        assert_eq!(memory.commit(), None);
    }

    #[test]
    fn another_log_is_another_memory() {
        let memory = Memory::read(Some((Offset(50), "")), Offset(0), Offset(10)).expect("read");
        assert!(!memory.has(Offset(3)));
        assert!(Memory::read(Some((Offset(5), "somebody else's")), Offset(0), Offset(10)).is_err());
    }

    proptest! {
        #[test]
        fn nothing_goes_twice_and_nothing_is_forgotten(
            gaps in proptest::collection::vec(1_i64..4, 1..300),
            runs in proptest::collection::vec((any::<u64>(), 1_u64..5, 0_usize..40), 1..6),
        ) {
            let letters: Vec<i64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let mut memory = Memory::read(None, Offset(0), END).expect("nothing");
            let mut all = BTreeSet::new();
            let mut from = 0;
            for (salt, share, deleted) in runs {
                let chosen = |letter: i64| (u64::try_from(letter).unwrap_or(0) ^ salt).wrapping_mul(0x9E37_79B9) % share == 0;
                // Retention deletes from the front, and each run may be another process.
                from = (from + deleted).min(letters.len());
                memory = read(&memory);
                for redriven in run(&mut memory, &letters[from..], chosen) {
                    prop_assert!(all.insert(redriven), "{redriven} went twice");
                }
                let again = read(&memory);
                for &letter in &letters[from..] {
                    prop_assert_eq!(again.has(Offset(letter)), all.contains(&letter), "{}", letter);
                }
            }
        }
    }
}
