//! Which letters of a partition were redriven, in the room that Kafka has beside a group's offset.
//!
//! Everything below the commit was redriven, or is no longer there; above it the text of [`Progress`] tells those that were. A letter is only
//! taken for redriven if it was: what does not fit is not begun ([`Memory::commit`]). The room is used up by letters that stay between others
//! that went; they leave it when they go as well, or when the topic's retention deletes them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::progress::{MAX_BYTES, MAX_TOLD, Progress, Unknown};
use crate::event::Offset;

/// What was redriven of one partition.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// All below were redriven, or are gone.
    next: Offset,
    /// Letters that stay, as far as they are known.
    staying: Runs,
    /// The last that was redriven.
    last: Option<Offset>,
    /// How far the partition has been looked through.
    looked: Option<Offset>,
    /// The letter in front of that.
    before: Option<Offset>,
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
                let mut staying = Runs::default();
                for offset in progress.unfinished_above(None) {
                    staying.add(offset, Some(Offset(offset.0.saturating_sub(1))));
                }
                Ok(Self { next, staying, last: progress.last(), ..Self::default() })
            }
            // Nothing yet, or of a log that has begun anew since.
            Some(_) | None => Ok(Self { next: low, ..Self::default() }),
        }
    }

    /// Whether a letter was redriven.
    pub fn has(&self, offset: Offset) -> bool {
        offset < self.next || self.last.is_some_and(|last| offset <= last) && !self.staying.has(offset)
    }

    /// The next letter of the partition was come upon. Those between it and the one before are gone.
    pub fn look(&mut self, offset: Offset) {
        self.staying.nothing_between(self.looked, offset);
        self.before = self.looked.replace(offset);
    }

    /// A letter that was come upon stays.
    pub fn stay(&mut self, offset: Offset) {
        if !self.has(offset) {
            let before = self.before.filter(|_| self.looked == Some(offset));
            self.staying.add(offset, before);
        }
    }

    /// A letter that was come upon is redriven.
    pub fn redrive(&mut self, offset: Offset) {
        self.staying.remove(offset);
        self.last = self.last.max(Some(offset)).filter(|last| *last >= self.next);
    }

    /// Whether a letter lies behind all that were redriven: one before adds nothing that must be told.
    pub fn is_ahead(&self, offset: Offset) -> bool {
        self.last.is_none_or(|last| offset > last)
    }

    /// The offset to commit, and its text; `None` if it cannot all be told.
    pub fn commit(&self) -> Option<(Offset, String)> {
        let Some(last) = self.last else { return Some((self.next, String::new())) };
        if self.staying.offsets_to(last) > MAX_TOLD {
            return None;
        }
        let staying: Vec<Offset> = self.staying.to(last).flat_map(|run| (run.start().0..=run.end().0).map(Offset)).collect();
        let next = staying.first().copied().unwrap_or(Offset(last.0.saturating_add(1))).max(self.next);
        let text = Progress::new(next, staying, Some(last)).encode_whole(next, MAX_BYTES)?;
        Some((next, text))
    }
}

/// Offsets in runs, each of letters that follow one another, whatever offsets without a letter lie between them: of a topic full of letters of which none
/// goes, one run is kept. First and last offset of each.
#[derive(Debug, Clone, Default)]
struct Runs(BTreeMap<Offset, Offset>);

impl Runs {
    fn has(&self, offset: Offset) -> bool {
        self.around(offset).is_some()
    }

    fn around(&self, offset: Offset) -> Option<RangeInclusive<Offset>> {
        let (first, last) = self.0.range(..=offset).next_back()?;
        (*last >= offset).then_some(*first..=*last)
    }

    /// Adds a letter that follows `before`: to the run that ends there, if one does.
    fn add(&mut self, offset: Offset, before: Option<Offset>) {
        if self.has(offset) {
            return;
        }
        let run = before.and_then(|before| self.around(before)).filter(|run| Some(*run.end()) == before);
        self.0.insert(run.map_or(offset, |run| *run.start()), offset);
    }

    fn remove(&mut self, offset: Offset) {
        let Some(run) = self.around(offset) else { return };
        self.0.remove(run.start());
        if *run.start() < offset {
            self.0.insert(*run.start(), Offset(offset.0 - 1));
        }
        if offset < *run.end() {
            self.0.insert(Offset(offset.0 + 1), *run.end());
        }
    }

    /// No letter lies between these two, of which none in front is `None`. A run that goes on over both keeps what lies between: nothing asks for that.
    fn nothing_between(&mut self, front: Option<Offset>, behind: Offset) {
        if let Some(front) = front
            && let Some(run) = self.around(front)
            && *run.end() < behind
        {
            self.0.insert(*run.start(), front);
        }
        let between = self.0.range(..behind).rev().map(|(first, last)| (*first, *last));
        let gone: Vec<_> = between.take_while(|(first, _)| front.is_none_or(|front| *first > front)).collect();
        for (first, last) in gone {
            self.0.remove(&first);
            if last >= behind {
                self.0.insert(behind, last);
            }
        }
    }

    /// The runs up to an offset, cut off there.
    fn to(&self, last: Offset) -> impl Iterator<Item = RangeInclusive<Offset>> {
        self.0.range(..=last).map(move |(first, end)| *first..=*end.min(&last))
    }

    fn offsets_to(&self, last: Offset) -> u64 {
        self.to(last).map(|run| run.end().0.abs_diff(run.start().0) + 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
        run_in_batches(memory, letters, 1, chosen, |_| false)
    }

    /// The same, where letters go in batches, of which some are refused.
    fn run_in_batches(
        memory: &mut Memory,
        letters: &[i64],
        size: usize,
        chosen: impl Fn(i64) -> bool,
        refused: impl Fn(i64) -> bool,
    ) -> Vec<i64> {
        let (mut batch, mut redriven) = (Vec::new(), Vec::new());
        for (place, &letter) in letters.iter().enumerate() {
            let offset = Offset(letter);
            memory.look(offset);
            if chosen(letter) && !memory.has(offset) {
                batch.push(letter);
            } else {
                memory.stay(offset);
            }
            if batch.len() >= size || place + 1 == letters.len() {
                for letter in batch.drain(..) {
                    if refused(letter) {
                        memory.stay(Offset(letter));
                    } else {
                        memory.redrive(Offset(letter));
                        redriven.push(letter);
                    }
                }
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
    fn letters_that_all_stay_are_one_run() {
        let mut memory = Memory::default();
        // With holes, as transactions leave them.
        run(&mut memory, &(0..100_000).map(|at| at * 2).collect::<Vec<_>>(), |letter| letter == 100_000);
        assert_eq!(memory.staying.0.len(), 2);
        assert!(memory.has(Offset(100_000)) && !memory.has(Offset(99_998)));
        let (next, text) = memory.commit().expect("it fits");
        assert!(next == Offset(0) && text.len() < 500, "{next} {text}");
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
            runs in proptest::collection::vec((any::<u64>(), 1_u64..5, 0_usize..40, 1_usize..9), 1..6),
        ) {
            let letters: Vec<i64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let mut memory = Memory::read(None, Offset(0), END).expect("nothing");
            let mut all = BTreeSet::new();
            let mut from = 0;
            for (salt, share, deleted, size) in runs {
                let dice = |letter: i64| (u64::try_from(letter).unwrap_or(0) ^ salt).wrapping_mul(0x9E37_79B9);
                let (chosen, refused) = (|letter| dice(letter).is_multiple_of(share), |letter| (dice(letter) >> 7).is_multiple_of(3));
                // Retention deletes from the front, and each run may be another process.
                from = (from + deleted).min(letters.len());
                memory = read(&memory);
                for redriven in run_in_batches(&mut memory, &letters[from..], size, chosen, refused) {
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
