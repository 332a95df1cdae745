//! When to stop a partition whose records turn bad, instead of emptying it into the dead letters.
//!
//! Records are weighed in the order in which they are read, by their bytes alone, so whoever reads the same records stops at the same one,
//! whatever finishes when. A bad record is held until it is certain that it does not belong to too many of them: until, by each rule, more good ones have
//! been read behind it than may lie among as many bad ones as trip. The one that trips finds all the others still held; so nothing of them was given
//! up, no commit has passed them, and the next life of the partition stops at the same record again.
//!
//! What is held for longer than may be is let go, and counts all the same.

use std::collections::VecDeque;
use std::time::Duration;

use super::time::Tick;
use crate::event::Offset;

/// So many bad records, with no more than so many good ones among them, are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    bad: usize,
    good: u64,
}

impl Rule {
    /// So many in a row; one is the least.
    pub fn run(records: usize) -> Self {
        Self { bad: records.max(1), good: 0 }
    }

    /// This share of any so many records in a row. Where fewer were read, the rest count as good.
    pub fn share(share: f64, window: usize) -> Self {
        let window = window.max(1);
        // A hundredth of 700 is 7, whatever a float makes of it.
        let is_share = |bad: &usize| *bad as f64 >= share * window as f64 - 1e-9;
        let bad = (1..window).find(is_share).unwrap_or(window);
        Self { bad, good: (window - bad) as u64 }
    }

    /// How many bad records trip.
    pub fn bad(self) -> usize {
        self.bad
    }

    /// How many good ones may lie among them.
    pub fn good(self) -> u64 {
        self.good
    }
}

/// When a partition is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Any of these. At least one.
    pub rules: Vec<Rule>,
    /// How long a bad record may be held.
    pub hold: Duration,
}

impl Settings {
    /// The most good records that may lie among bad ones by any rule.
    fn reach(&self) -> u64 {
        self.rules.iter().map(|rule| rule.good).max().unwrap_or(0)
    }
}

/// What becomes of a bad record.
#[derive(Debug, PartialEq, Eq)]
pub enum Bad<T> {
    /// It is given up: somebody has said that it may be.
    Passes(T),
    /// It is held.
    Held,
    /// It is one too many. This, and what was held before it.
    Trips(Rule, Vec<T>),
}

/// One partition's, from the first bad record that is not behind it yet.
#[derive(Debug)]
pub struct Brake<T> {
    /// Good records read so far.
    good: u64,
    /// How many good ones had been read before each bad one that counts, in order. Fewer than trip.
    counted: VecDeque<u64>,
    held: VecDeque<Held<T>>,
    /// Records that had finished in an earlier life, and were not read in their turn: they were no bad ones.
    skipped: VecDeque<Offset>,
    /// Up to here bad records may be given up.
    through: Option<Offset>,
}

#[derive(Debug)]
struct Held<T> {
    good: u64,
    since: Tick,
    record: T,
}

impl<T> Default for Brake<T> {
    fn default() -> Self {
        Self { good: 0, counted: VecDeque::new(), held: VecDeque::new(), skipped: VecDeque::new(), through: None }
    }
}

impl<T> Brake<T> {
    /// Nothing weighed. Bad records up to this offset may be given up, and weigh nothing.
    pub fn released(through: Offset) -> Self {
        Self { through: Some(through), ..Self::default() }
    }

    /// A record has finished in an earlier life. It is passed when what lies behind it is read.
    pub fn skip(&mut self, offset: Offset) {
        self.skipped.push_back(offset);
    }

    /// A good record was read. Gives the bad ones that are given up now, in order.
    pub fn good(&mut self, offset: Offset, settings: &Settings) -> Vec<T> {
        self.pass(offset);
        if !self.frees(offset) {
            self.good += 1;
        }
        self.let_go(settings)
    }

    /// A bad record was read. Gives what becomes of it, and the bad ones before it that are given up now, in order.
    pub fn bad(&mut self, offset: Offset, record: T, now: Tick, settings: &Settings) -> (Vec<T>, Bad<T>) {
        self.pass(offset);
        let free = self.let_go(settings);
        if self.frees(offset) {
            return (free, Bad::Passes(record));
        }
        self.counted.push_back(self.good);
        self.held.push_back(Held { good: self.good, since: now, record });
        let (good, counted) = (self.good, &self.counted);
        let trips = |rule: &&Rule| {
            let oldest = counted.len().checked_sub(rule.bad).and_then(|oldest| counted.get(oldest));
            oldest.is_some_and(|oldest| good - oldest <= rule.good)
        };
        match settings.rules.iter().find(trips) {
            Some(rule) => (free, Bad::Trips(*rule, self.take_held())),
            None => (free, Bad::Held),
        }
    }

    /// Gives the bad records that have been held for as long as may be, in order.
    pub fn due(&mut self, now: Tick, settings: &Settings) -> Vec<T> {
        let due = self.held.iter().take_while(|held| held.since.plus(settings.hold) <= now).count();
        self.held.drain(..due).map(|held| held.record).collect()
    }

    /// When [`Brake::due`] will have something to give.
    pub fn next_due(&self, settings: &Settings) -> Option<Tick> {
        Some(self.held.front()?.since.plus(settings.hold))
    }

    /// Gives what is held.
    pub fn take_held(&mut self) -> Vec<T> {
        self.held.drain(..).map(|held| held.record).collect()
    }

    /// Bad records that are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether a new one would do as well.
    pub fn is_at_rest(&self) -> bool {
        self.counted.is_empty() && self.held.is_empty() && self.skipped.is_empty() && self.through.is_none()
    }

    /// Counts what was skipped in front of a record.
    fn pass(&mut self, offset: Offset) {
        while self.skipped.front().is_some_and(|skipped| *skipped < offset) {
            let skipped = self.skipped.pop_front();
            if skipped.is_some_and(|skipped| !self.frees(skipped)) {
                self.good += 1;
            }
        }
    }

    /// Whether somebody has said that bad records may be given up as far as this one.
    fn frees(&mut self, offset: Offset) -> bool {
        let frees = self.through.is_some_and(|through| offset <= through);
        if !frees {
            self.through = None;
        }
        frees
    }

    /// Lets go what no rule can reach any more.
    fn let_go(&mut self, settings: &Settings) -> Vec<T> {
        let (good, reach) = (self.good, settings.reach());
        let is_out = |before: &u64| good - before > reach;
        while self.counted.front().is_some_and(is_out) {
            self.counted.pop_front();
        }
        let out = self.held.iter().take_while(|held| is_out(&held.good)).count();
        self.held.drain(..out).map(|held| held.record).collect()
    }
}

#[cfg(test)]
mod tests;
