//! Successes that need not be told one by one, as one word that threads take them from.
//!
//! ```text
//!   bits 63..44      43..12                     11..0
//!   stamp            second; all ones: any      successes left
//! ```
//!
//! The stamp is another one each time that the word is written anew, so that a thread which read it before does not take from a later one.

use super::Slack;
use crate::machine::time::Tick;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlackWord(u64);

const LEFT_BITS: u32 = 12;
const SECOND_BITS: u32 = 32;
const STAMP_SHIFT: u32 = LEFT_BITS + SECOND_BITS;
const MOST: u32 = (1 << LEFT_BITS) - 1;
const ANY: u64 = (1 << SECOND_BITS) - 1;

impl SlackWord {
    /// Nothing to be taken.
    pub(super) const NONE: Self = Self(0);

    /// What `slack` leaves to be taken. More than a word has room for is cut: it only has to be asked for sooner.
    pub(super) fn of(slack: Slack, stamp: u64) -> Self {
        let Slack::Some { successes, second } = slack else { return Self::NONE };
        if successes == 0 || second.is_some_and(|second| second >= ANY) {
            return Self::NONE;
        }
        Self(stamp << STAMP_SHIFT | second.unwrap_or(ANY) << LEFT_BITS | u64::from(successes.min(MOST)))
    }

    pub(super) fn from_word(word: u64) -> Self {
        Self(word)
    }

    pub(super) fn word(self) -> u64 {
        self.0
    }

    /// Successes left.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the mask leaves 12 bits")]
    pub(super) fn left(self) -> u32 {
        self.0 as u32 & MOST
    }

    /// The word after a success that ended at `now` was taken; `None` if it cannot be.
    #[inline]
    pub(super) fn less_one(self, now: Tick) -> Option<Self> {
        let second = self.0 >> LEFT_BITS & ANY;
        (self.left() > 0 && (second == ANY || second == now.0 / 1_000)).then(|| Self(self.0 - 1))
    }
}
