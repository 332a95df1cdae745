//! What a backlog is made of, from all of its parked calls or from some: how many are due, how long the oldest has been parked, why they are
//! parked and how often they have failed.
//!
//! From some of them it is an estimate: counts are scaled to the depth, and the oldest is the oldest that was seen.

use std::collections::BTreeMap;

use crate::event::UnixMillis;
use crate::event::envelope::{Parking, Reason};

/// Attempts are counted apart up to this many, and together from there: what a header says must not make a table without end.
const MANY_ATTEMPTS: u32 = 20;

/// Parked calls that were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    not_before: Vec<UnixMillis>,
    oldest: Option<UnixMillis>,
    written: Option<UnixMillis>,
    reasons: [u64; Reason::ALL.len()],
    attempts: BTreeMap<u32, u64>,
}

/// What is said of a backlog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Calls whose time has come.
    pub due: u64,
    /// When the one was first parked that has been for longest.
    pub oldest: Option<UnixMillis>,
    /// When the oldest record of them was written: its retention counts from then.
    pub written: Option<UnixMillis>,
    /// Calls by reason; only reasons that occur.
    pub by_reason: BTreeMap<&'static str, u64>,
    /// Calls by how often they have failed.
    pub by_attempts: BTreeMap<u32, u64>,
    /// How many were looked at.
    pub looked_at: u64,
    /// Whether that is all of them.
    pub exact: bool,
}

impl Tally {
    /// One more, whose record was written then.
    pub fn see(&mut self, parking: &Parking, written: Option<UnixMillis>) {
        self.not_before.push(parking.not_before);
        self.oldest = self.oldest.into_iter().chain([parking.first_parked_at]).min();
        self.written = self.written.into_iter().chain(written).min();
        self.reasons[parking.reason as usize] += 1;
        *self.attempts.entry(parking.attempt.min(MANY_ATTEMPTS)).or_default() += 1;
    }

    /// How many were looked at.
    pub fn looked_at(&self) -> u64 {
        self.not_before.len() as u64
    }

    /// What that says at this time of a backlog of `depth`. `exact`: every call was looked at.
    pub fn say(&self, depth: u64, exact: bool, now: UnixMillis) -> Said {
        let of = self.looked_at();
        let scaled = |count: u64| if exact { count } else { scale(count, of, depth) };
        let due = self.not_before.iter().filter(|time| **time <= now).count() as u64;
        let reasons = Reason::ALL.iter().map(|reason| (reason.as_str(), scaled(self.reasons[*reason as usize])));
        Said {
            due: scaled(due),
            oldest: self.oldest,
            written: self.written,
            by_reason: reasons.filter(|(_, count)| *count > 0).collect(),
            by_attempts: self.attempts.iter().map(|(attempts, count)| (*attempts, scaled(*count))).collect(),
            looked_at: of,
            exact,
        }
    }
}

/// So many of `of`, were there `depth`; rounded.
fn scale(count: u64, of: u64, depth: u64) -> u64 {
    if of == 0 {
        return 0;
    }
    let scaled = (u128::from(count) * u128::from(depth) + u128::from(of) / 2) / u128::from(of);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parking(reason: Reason, attempt: u32, not_before: i64, first_parked_at: i64) -> Parking {
        Parking { reason, attempt, parks: 1, not_before: UnixMillis(not_before), first_parked_at: UnixMillis(first_parked_at) }
    }

    #[test]
    fn all_of_them_are_counted_and_some_are_scaled() {
        let mut tally = Tally::default();
        assert_eq!(tally.say(0, true, UnixMillis(0)), Said { exact: true, ..Said::default() });
        assert_eq!(tally.say(7, false, UnixMillis(0)), Said::default());
        for (reason, attempt, not_before, first) in [
            (Reason::CircuitOpen, 0, 10, 10),
            (Reason::CircuitOpen, 0, 20, 20),
            (Reason::Timeout, 1, 90, 5),
            (Reason::Http5xx, 4_000_000_000, 90, 30),
        ] {
            tally.see(&parking(reason, attempt, not_before, first), Some(UnixMillis(first + 1)));
        }
        let all = tally.say(4, true, UnixMillis(20));
        assert_eq!((all.due, all.oldest, all.written, all.looked_at), (2, Some(UnixMillis(5)), Some(UnixMillis(6)), 4));
        assert_eq!(all.by_reason, BTreeMap::from([("circuit_open", 2), ("http_5xx", 1), ("timeout", 1)]));
        assert_eq!(all.by_attempts, BTreeMap::from([(0, 2), (1, 1), (20, 1)]));
        assert_eq!(tally.say(4, true, UnixMillis(90)).due, 4, "time goes on");
        let some = tally.say(1_000_000, false, UnixMillis(20));
        assert_eq!((some.due, some.exact), (500_000, false));
        assert_eq!(some.by_reason.values().sum::<u64>(), 1_000_000);
    }

    #[test]
    fn scaling_rounds_and_never_overflows() {
        for (count, of, depth, expected) in
            [(0, 0, 5, 0), (1, 3, 10, 3), (2, 3, 10, 7), (3, 3, u64::MAX, u64::MAX), (u64::MAX, 1, u64::MAX, u64::MAX)]
        {
            assert_eq!(scale(count, of, depth), expected, "{count} of {of}, {depth}");
        }
    }
}
