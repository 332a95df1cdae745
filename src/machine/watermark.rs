//! How far a partition may be committed when its records finish in any order.
//!
//! Records begin in the order in which they are received, so their offsets rise, but with holes: what is behind a record is the record
//! received after it, not its offset plus one. The commit point is one past the record in front of the first that has begun and not
//! finished; if there is none, one past the last that began.
//!
//! Only unfinished records are remembered, each with the one it was received behind. Finished ones cost nothing, however many lie
//! behind one that is stuck: they have left the budget of what is in flight, so nothing else would bound them.
//!
//! What bounds how far they may lie behind it is the text beside the commit, which must tell of all of them: [`Watermark::after`] says how
//! long it could become if one more record began.

use std::collections::BTreeMap;

use super::progress::{Progress, bits_size, distance_size};
use crate::event::Offset;

/// One partition's records from the commit point on.
#[derive(Debug, Default)]
pub struct Watermark {
    unfinished: BTreeMap<Offset, Begun>,
    newest: Option<Offset>,
    /// Records received so far.
    received: u64,
    /// Bytes of the distances between unfinished neighbours.
    apart: usize,
    /// What had finished before this began.
    before: Progress,
}

/// What a received record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// To be run.
    New,
    /// Finished in an earlier life: it must not be run again.
    Finished,
    /// Received before, or behind one that was: it must not be run again.
    Again,
}

#[derive(Debug)]
struct Begun {
    /// The record received in front of this one.
    behind: Option<Offset>,
    /// Its number among the received, from 0.
    number: u64,
}

impl Watermark {
    /// Nothing begun, nothing to commit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing begun, with what is known to have finished in earlier lives.
    pub fn resume(before: Progress) -> Self {
        Self { before, ..Self::default() }
    }

    /// A record was received.
    pub fn begin(&mut self, offset: Offset) -> Received {
        if self.newest.is_some_and(|newest| offset <= newest) {
            return Received::Again;
        }
        if self.before.begins_above(offset) {
            // The log has begun anew below what was committed of it: what was known was of another one.
            self.before = Progress::default();
        }
        let finished = self.before.has_finished(offset);
        if !finished {
            self.apart += self.unfinished.last_key_value().map_or(0, |(last, _)| distance_size(*last, offset));
            self.unfinished.insert(offset, Begun { behind: self.newest, number: self.received });
        }
        self.newest = Some(offset);
        self.received += 1;
        if finished { Received::Finished } else { Received::New }
    }

    /// A record has finished. False if it had not begun, or had finished before.
    pub fn finish(&mut self, offset: Offset) -> bool {
        if self.unfinished.remove(&offset).is_none() {
            return false;
        }
        let below = self.unfinished.range(..offset).next_back().map(|(below, _)| *below);
        let above = self.unfinished.range(offset..).next().map(|(above, _)| *above);
        let size = |from: Option<Offset>, to: Option<Offset>| from.zip(to).map_or(0, |(from, to)| distance_size(from, to));
        self.apart = self.apart + size(below, above) - size(below, Some(offset)) - size(Some(offset), above);
        true
    }

    /// The most bytes that [`Progress`] could need, not deflated, from the record of this offset's beginning until the next one's, whichever
    /// records finish in between: both forms only shrink then, so the smaller of what they would need at once.
    ///
    /// Nothing, for a record that is known to have finished or not to have: the text that says so did fit.
    pub fn after(&self, offset: Offset) -> usize {
        let known = !self.before.begins_above(offset) && self.before.last().is_some_and(|last| offset <= last);
        if known || self.newest.is_some_and(|newest| offset <= newest) {
            return 0;
        }
        // With it, it is the last of the unfinished ones, and nothing behind it has finished: one byte says so.
        self.size_with(Some(offset), offset)
    }

    /// The most bytes that [`Progress`] could need, not deflated, until another record begins.
    pub fn size(&self) -> usize {
        self.newest.map_or(0, |newest| self.size_with(None, newest))
    }

    /// With a further record, if there is one, of what lies up to `last`.
    fn size_with(&self, further: Option<Offset>, last: Offset) -> usize {
        let (first, behind) = match (self.unfinished.first_key_value(), further) {
            (Some((first, begun)), _) => (*first, begun.behind),
            (None, Some(further)) => (further, self.newest),
            (None, None) => return 0,
        };
        let next = behind.map_or(first, |behind| Offset(behind.0.saturating_add(1)));
        let newest = self.unfinished.last_key_value().map(|(newest, _)| *newest);
        let to_further = newest.zip(further).map_or(0, |(newest, further)| distance_size(newest, further));
        let to_last = distance_size(further.or(newest).unwrap_or(first), last);
        (distance_size(next, first) + self.apart + to_further + to_last).min(bits_size(next, last))
    }

    /// The offset to go on from after a restart; `None` if nothing has finished.
    pub fn commit_point(&self) -> Option<Offset> {
        match self.unfinished.first_key_value() {
            None => self.newest.map(|newest| Offset(newest.0.saturating_add(1))),
            Some((_, Begun { behind: Some(behind), .. })) => Some(Offset(behind.0.saturating_add(1))),
            // Nothing was received in front of it. It is a place to commit only if there is something to say of what lies behind it.
            Some((first, Begun { behind: None, .. })) => (self.finished_ahead() > 0).then_some(*first),
        }
    }

    /// What is known to have finished: what finished here, and of what lies beyond that, what had finished before.
    pub fn progress(&self) -> Progress {
        let mut unfinished: Vec<Offset> = self.unfinished().collect();
        unfinished.extend(self.before.unfinished_above(self.newest));
        let first = self.commit_point().unwrap_or_default();
        Progress::new(first, unfinished, self.newest.max(self.before.last()))
    }

    /// Records from the commit point on that have begun: unfinished ones, and finished ones behind them.
    pub fn len(&self) -> usize {
        let ahead = self.unfinished.first_key_value().map_or(0, |(_, begun)| self.received - begun.number);
        usize::try_from(ahead).unwrap_or(usize::MAX)
    }

    /// Whether every record that began has finished.
    pub fn is_empty(&self) -> bool {
        self.unfinished.is_empty()
    }

    /// Finished records that the commit point has not reached.
    pub fn finished_ahead(&self) -> usize {
        self.len() - self.unfinished.len()
    }

    /// Records that have begun and not finished, in order. Every other offset up to the newest has finished or is a hole.
    pub fn unfinished(&self) -> impl ExactSizeIterator<Item = Offset> + '_ {
        self.unfinished.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn commits_in_received_order_over_holes() {
        let mut watermark = Watermark::new();
        for offset in [3, 4, 9, 12] {
            assert_eq!(watermark.begin(Offset(offset)), Received::New);
        }
        assert!(watermark.finish(Offset(9)));
        assert_eq!(watermark.commit_point(), Some(Offset(3)), "where it began, for what lies beside it");
        assert!(watermark.finish(Offset(3)));
        assert_eq!(watermark.commit_point(), Some(Offset(4)));
        assert!(watermark.finish(Offset(4)));
        assert_eq!(watermark.commit_point(), Some(Offset(10)));
        assert!(watermark.finish(Offset(12)));
        assert_eq!(watermark.commit_point(), Some(Offset(13)));
        assert!(watermark.is_empty());
    }

    #[test]
    fn what_came_before_does_not_begin_again() {
        let mut watermark = Watermark::new();
        assert_eq!(watermark.begin(Offset(5)), Received::New);
        assert_eq!(watermark.begin(Offset(5)), Received::Again);
        assert!(watermark.finish(Offset(5)));
        assert_eq!(watermark.begin(Offset(5)), Received::Again);
        assert_eq!(watermark.begin(Offset(2)), Received::Again);
        assert_eq!(watermark.begin(Offset(6)), Received::New);
    }

    #[test]
    fn a_finish_of_what_never_began_changes_nothing() {
        let mut watermark = Watermark::new();
        assert!(!watermark.finish(Offset(1)));
        watermark.begin(Offset(2));
        assert!(!watermark.finish(Offset(1)));
        assert_eq!(watermark.commit_point(), None);
    }

    #[test]
    fn what_finished_behind_a_stuck_record_is_not_remembered() {
        let mut watermark = Watermark::new();
        for offset in 0..100_000 {
            watermark.begin(Offset(offset));
            assert!(offset == 0 || watermark.finish(Offset(offset)));
        }
        assert_eq!(watermark.unfinished().collect::<Vec<_>>(), [Offset(0)]);
        assert_eq!((watermark.len(), watermark.finished_ahead(), watermark.commit_point()), (100_000, 99_999, Some(Offset(0))));
        assert!(watermark.finish(Offset(0)));
        assert_eq!((watermark.len(), watermark.finished_ahead(), watermark.commit_point()), (0, 0, Some(Offset(100_000))));
    }

    #[test]
    fn a_log_that_began_anew_is_run_from_its_beginning() {
        let mut watermark = Watermark::resume(Progress::new(Offset(1_000), Vec::new(), Some(Offset(1_500))));
        assert_eq!(watermark.begin(Offset(0)), Received::New);
        assert_eq!(watermark.begin(Offset(1_200)), Received::New);
    }

    #[test]
    fn a_record_finishes_once() {
        let mut watermark = Watermark::new();
        for offset in [1, 2] {
            watermark.begin(Offset(offset));
        }
        assert!(watermark.finish(Offset(1)));
        assert!(!watermark.finish(Offset(1)));
        assert_eq!(watermark.commit_point(), Some(Offset(2)));
    }

    #[test]
    fn the_last_offset_of_all_can_be_committed() {
        let mut watermark = Watermark::new();
        watermark.begin(Offset(i64::MAX));
        watermark.finish(Offset(i64::MAX));
        assert_eq!(watermark.commit_point(), Some(Offset(i64::MAX)));
        assert_eq!(watermark.begin(Offset(i64::MIN)), Received::Again);
    }

    #[test]
    fn a_stuck_record_leaves_room_for_as_many_as_can_be_told_apart() {
        let mut watermark = Watermark::new();
        assert_eq!((watermark.size(), watermark.after(Offset(9))), (0, 1));
        // One is stuck, and ever so many finish behind it: nothing to say but where it is.
        for offset in 0..1_000_000 {
            watermark.begin(Offset(offset));
            assert!(offset == 0 || watermark.finish(Offset(offset)));
        }
        assert_eq!((watermark.size(), watermark.after(Offset(1_000_000))), (4, 5));
        // Those that begin and do not finish cost a byte each, where a bit for each would be more.
        for offset in 1_000_000..1_001_000 {
            watermark.begin(Offset(offset));
        }
        assert_eq!(watermark.after(Offset(1_001_000)), 1_005);
        assert!(watermark.finish(Offset(0)));
        assert_eq!(watermark.after(Offset(1_001_000)), 126, "close together, a bit for each is less");
    }

    #[test]
    fn what_was_known_needs_no_room() {
        let before = Progress::new(Offset(10), vec![Offset(10), Offset(500)], Some(Offset(900)));
        let mut watermark = Watermark::resume(before);
        assert_eq!(watermark.begin(Offset(10)), Received::New);
        assert_eq!((watermark.after(Offset(11)), watermark.after(Offset(500)), watermark.after(Offset(900))), (0, 0, 0));
        assert!(watermark.after(Offset(901)) > 0);
        assert!(watermark.after(Offset(9)) == 0 && Watermark::new().after(Offset(9)) > 0, "an earlier one is not begun");
    }

    proptest! {
        /// The text is never longer than was said when the last record began, whatever finished since.
        #[test]
        fn the_text_fits_into_what_was_said(
            steps in prop::collection::vec((1i64..400, prop::collection::vec(any::<prop::sample::Index>(), 0..4)), 1..200),
        ) {
            let mut watermark = Watermark::new();
            let (mut open, mut offset) = (Vec::new(), 0);
            for (gap, finishing) in steps {
                offset += gap;
                let said = watermark.after(Offset(offset));
                watermark.begin(Offset(offset));
                open.push(offset);
                prop_assert_eq!(watermark.size(), said);
                for index in finishing {
                    if !open.is_empty() {
                        watermark.finish(Offset(open.swap_remove(index.index(open.len()))));
                    }
                    let next = watermark.commit_point().unwrap_or_default();
                    let text = watermark.progress().encode(next, 1 << 20);
                    let bytes = text.len().saturating_sub(9) * 3 / 4;
                    prop_assert!(bytes <= watermark.size() && watermark.size() <= said, "{} ≤ {} ≤ {}", bytes, watermark.size(), said);
                }
            }
        }

        /// Against the definition: the commit point is the first unfinished record, or one past the last.
        #[test]
        fn is_what_the_definition_says(gaps in prop::collection::vec(1i64..5, 1..60), order in prop::collection::vec(any::<prop::sample::Index>(), 0..80)) {
            let mut watermark = Watermark::new();
            let mut offsets = Vec::new();
            let mut offset = 0;
            for gap in gaps {
                offset += gap;
                offsets.push(offset);
                prop_assert_eq!(watermark.begin(Offset(offset)), Received::New);
            }
            let mut finished = BTreeSet::new();
            for index in order {
                let offset = offsets[index.index(offsets.len())];
                prop_assert_eq!(watermark.finish(Offset(offset)), finished.insert(offset));
                let expected = match offsets.iter().position(|offset| !finished.contains(offset)) {
                    Some(0) => Some(Offset(offsets[0])).filter(|_| !finished.is_empty()),
                    // One past the record in front of the first unfinished one, which no record between them can be.
                    Some(first) => Some(Offset(offsets[first - 1] + 1)),
                    None => Some(Offset(offsets[offsets.len() - 1] + 1)),
                };
                prop_assert_eq!(watermark.commit_point(), expected);
                let open: Vec<_> = offsets.iter().filter(|offset| !finished.contains(offset)).map(|offset| Offset(*offset)).collect();
                let from_the_first = open.first().map_or(0, |first| offsets.iter().filter(|offset| **offset >= first.0).count());
                prop_assert_eq!((watermark.len(), watermark.finished_ahead()), (from_the_first, from_the_first - open.len()));
                prop_assert_eq!(watermark.is_empty(), open.is_empty());
                prop_assert_eq!(watermark.unfinished().collect::<Vec<_>>(), open);
                // Whoever goes on from here runs what is open and nothing else.
                let mut next = Watermark::resume(watermark.progress());
                let commit = watermark.commit_point().map_or(0, |commit| commit.0);
                for offset in offsets.iter().filter(|offset| **offset >= commit) {
                    let known = if finished.contains(offset) { Received::Finished } else { Received::New };
                    prop_assert_eq!(next.begin(Offset(*offset)), known);
                }
            }
        }
    }
}
