//! Parked calls that are begun and not held: of each only its place is kept, and it is read again when it is to go.
//!
//! What is held are the calls that go first, as many as half of a budget has room for; the last to go make way for what is read, and for what goes before
//! them. Those on the shelf are wanted [`AHEAD`] of their time, or when they are called back because something was ordered that may be about them.
//!
//! Bounds:
//! - At most [`MOST`] are on a shelf so that others can be read, and as many more as the budget holds so that some of them can come back; each is some
//!   two hundred bytes with what its owner keeps of it.
//! - Nothing is put there that goes within [`LEAST`].
//! - What is wanted fills no more than half of the budget ([`Levels::ceiling`]), and a budget that reading has filled is emptied to half of it. So
//!   whenever calls are put aside to read on, at least half a budget was read, or published, since they last were: reading a backlog once puts no more
//!   calls aside than it has, and reads no more of them again than that. An order costs one more reading of those that it may be about.
//! - Calls are put aside for others on the shelf only where those go sooner.

use std::collections::BTreeMap;
use std::time::Duration;

use super::time::Tick;
use crate::event::{Offset, Source, TopicPartition};

/// The most that are put on one shelf so that others can be read.
pub const MOST: usize = 100_000;

/// What goes within this time is not put aside: it makes way by going.
pub const LEAST: Duration = Duration::from_millis(250);

/// How long before its time a call is wanted: many times as long as reading it again takes.
pub const AHEAD: Duration = Duration::from_secs(2);

/// The most that are asked for at once: so that an answer comes well within [`AHEAD`].
const AT_ONCE: usize = 512;

/// Between records that lie no farther apart, reading on is cheaper than going to the next: a journey to a broker that is busy takes as long as some
/// hundreds of records do.
const NEIGHBOURS: i64 = 512;

/// How long a partition that gave no answer is left alone, at first and at most.
const AWAY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What is read in one go: these records of a partition, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Whose.
    pub partition: TopicPartition,
    /// Which.
    pub offsets: Vec<Offset>,
}

/// Records and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Records.
    pub records: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// How much of a budget is for what.
#[derive(Debug, Clone, Copy)]
pub struct Levels(
    /// The most that the budget holds.
    pub Room,
);

impl Levels {
    /// Up to where calls are read again: half of the budget, so that reading on is what fills it.
    pub fn ceiling(self) -> Room {
        Room { records: (self.0.records / 2).max(1), bytes: (self.0.bytes / 2).max(1) }
    }

    /// Down to where others make way for what is wanted: an eighth of the budget below that.
    pub fn floor(self) -> Room {
        let Room { records, bytes } = self.ceiling();
        Room { records: records - (self.0.records / 8).clamp(1, records), bytes: bytes - (self.0.bytes / 8).clamp(1, bytes) }
    }

    /// What may be read again where so much is held.
    pub fn room(self, held: Room) -> Room {
        let Room { records, bytes } = self.ceiling();
        Room { records: records.saturating_sub(held.records), bytes: bytes.saturating_sub(held.bytes) }
    }

    /// Whether others should make way for what is wanted, of which one has this `size`.
    pub fn is_short(self, held: Room, size: usize) -> bool {
        let room = self.room(held);
        room.records == 0 || room.bytes < self.within(size).max(1)
    }

    /// Whether enough has made way for it.
    pub fn is_free(self, held: Room, size: usize) -> bool {
        let floor = self.floor();
        held.records <= floor.records && held.bytes <= floor.bytes.min(self.ceiling().bytes - self.within(size))
    }

    /// What is larger than all that is read again may take comes alone, and nothing makes way for it.
    fn within(self, size: usize) -> usize {
        if size > self.ceiling().bytes { 0 } else { size }
    }
}

/// A call on the shelf.
#[derive(Debug)]
pub struct Card<T> {
    /// When it goes.
    pub goes: Tick,
    /// The bytes of its record.
    pub size: usize,
    /// What its owner keeps of it.
    pub kept: T,
}

/// A partition that gave no answer.
#[derive(Debug)]
struct Away {
    until: Tick,
    wait: Duration,
}

/// Calls that are not held.
#[derive(Debug)]
pub struct Shelf<T> {
    /// Of each partition, by when they go: so that one that gives no answer costs nothing.
    waiting: BTreeMap<TopicPartition, BTreeMap<(Tick, Offset), (usize, T)>>,
    /// How many those are.
    waiting_len: usize,
    /// Called back, by place.
    called: BTreeMap<Source, Card<T>>,
    /// Asked for; with whether they were called back.
    asked: BTreeMap<Source, (Card<T>, bool)>,
    away: BTreeMap<TopicPartition, Away>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), waiting_len: 0, called: BTreeMap::new(), asked: BTreeMap::new(), away: BTreeMap::new() }
    }
}

impl<T> Shelf<T> {
    /// Puts a call there.
    pub fn put(&mut self, source: Source, Card { goes, size, kept }: Card<T>) {
        let before = self.waiting.entry(source.topic_partition()).or_default().insert((goes, source.offset), (size, kept));
        self.waiting_len += usize::from(before.is_none());
    }

    /// How many there are, those included that are asked for.
    pub fn len(&self) -> usize {
        self.waiting_len + self.called.len() + self.asked.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every one of them, with when it goes.
    pub fn iter(&self) -> impl Iterator<Item = (Tick, &T)> {
        let waiting = self.waiting.values().flatten().map(|((goes, _), (_, kept))| (*goes, kept));
        let called = self.called.values().map(|card| (card.goes, &card.kept));
        waiting.chain(called).chain(self.asked.values().map(|(card, _)| (card.goes, &card.kept)))
    }

    /// Calls back those for which `concerns` holds: they are wanted soon, whenever they go.
    pub fn call(&mut self, concerns: impl Fn(&Source, &T) -> bool) {
        for (partition, waiting) in &mut self.waiting {
            for ((goes, offset), (size, kept)) in extract(waiting, |(_, offset), (_, kept)| concerns(&partition.at(*offset), kept)) {
                self.called.insert(partition.at(offset), Card { goes, size, kept });
                self.waiting_len -= 1;
            }
        }
        for (source, (card, called)) in &mut self.asked {
            *called |= concerns(source, &card.kept);
        }
    }

    /// Calls back one that goes at that time, if it is there: it is wanted soon.
    pub fn call_back(&mut self, goes: Tick, source: Source) {
        if let Some(card) = self.take_waiting(&source.topic_partition(), (goes, source.offset)) {
            self.called.insert(source, card);
        }
    }

    fn take_waiting(&mut self, partition: &TopicPartition, (goes, offset): (Tick, Offset)) -> Option<Card<T>> {
        let (size, kept) = self.waiting.get_mut(partition)?.remove(&(goes, offset))?;
        self.waiting_len -= 1;
        Some(Card { goes, size, kept })
    }

    /// When those go that are wanted now, the soonest first; none while something is asked for.
    pub fn wanted(&self, now: Tick) -> impl Iterator<Item = Tick> {
        let idle = self.asked.is_empty();
        self.due(now).take_while(move |_| idle).map(|(_, goes, ..)| goes)
    }

    /// Whether any is wanted that was called back; not while something is asked for.
    pub fn wants_called(&self, now: Tick) -> bool {
        self.asked.is_empty() && self.called.keys().any(|source| self.is_near(&source.topic_partition(), now))
    }

    /// The size of the larger one of those that are asked for first: of what goes soon, and of what was called back.
    pub fn first_size(&self, now: Tick) -> usize {
        let called = self.called.iter().find(|(source, _)| self.is_near(&source.topic_partition(), now)).map(|(_, card)| card.size);
        self.due(now).next().map(|(.., size)| size).max(called).unwrap_or_default()
    }

    /// When something will be wanted that is not now, unless an answer comes before.
    pub fn next(&self, now: Tick) -> Option<Tick> {
        if !self.asked.is_empty() {
            return None;
        }
        let later = (soon(now).plus(Duration::from_millis(1)), Offset(i64::MIN));
        let next = self.waiting.values().filter_map(|waiting| waiting.range(later..).next());
        let next = next.map(|((goes, _), _)| Tick(goes.0 - millis(AHEAD)));
        let back = self.away.values().map(|away| away.until).filter(|until| *until > now);
        next.chain(back).min()
    }

    /// Those that go soon and can be asked for, the soonest first: their partitions, when they go, their offsets and sizes.
    fn due(&self, now: Tick) -> impl Iterator<Item = (&TopicPartition, Tick, Offset, usize)> {
        let soon = soon(now);
        let near = self.waiting.iter().filter(move |(partition, _)| self.is_near(partition, now));
        let mut lists: Vec<_> = near.map(|(partition, waiting)| (partition, waiting.iter().peekable())).collect();
        std::iter::from_fn(move || {
            let firsts = lists.iter_mut().filter_map(|(partition, list)| Some((list.peek()?.0, *partition, list)));
            let (_, partition, list) = firsts.min_by_key(|(key, partition, _)| (**key, *partition))?;
            let ((goes, offset), (size, _)) = list.next_if(|((goes, _), _)| *goes <= soon)?;
            Some((partition, *goes, *offset, *size))
        })
    }

    fn is_near(&self, partition: &TopicPartition, now: Tick) -> bool {
        self.away.get(partition).is_none_or(|away| away.until <= now)
    }

    /// Asks for what is wanted and has room: what goes soon, the soonest first, and with at least a quarter of the room those that were called back,
    /// by their places. Where nothing goes (`goes` is false), those come first. At least one, whatever its size, if nothing else can be done
    /// (`alone`).
    pub fn ask(&mut self, now: Tick, room: Room, goes: bool, alone: bool) -> Vec<Run> {
        if !self.asked.is_empty() {
            return Vec::new();
        }
        let mut left = Room { records: room.records.min(AT_ONCE), ..room };
        let mut alone = alone;
        let quarter = |left: Room| Room { records: left.records / 4, bytes: left.bytes / 4 };
        if !goes {
            self.ask_called(now, &mut left, &mut alone);
        } else if self.called.is_empty() {
            self.ask_due(now, &mut left, &mut alone);
        } else {
            let kept = quarter(left);
            let mut most = Room { records: left.records - kept.records, bytes: left.bytes - kept.bytes };
            self.ask_due(now, &mut most, &mut false);
            if self.asked.is_empty() {
                // The first of them may need all the room there is.
                self.ask_due(now, &mut Room { records: left.records.min(1), bytes: left.bytes }, &mut alone);
            }
            left.records = left.records.saturating_sub(self.asked.len());
            left.bytes = left.bytes.saturating_sub(self.asked.values().map(|(card, _)| card.size).sum());
            self.ask_called(now, &mut left, &mut alone);
        }
        if !goes && self.called.is_empty() {
            self.ask_due(now, &mut left, &mut alone);
        }
        runs(self.asked.keys())
    }

    fn ask_due(&mut self, now: Tick, left: &mut Room, alone: &mut bool) {
        let mut chosen = Vec::new();
        for (partition, goes, offset, size) in self.due(now) {
            if !fits(left, size, alone) {
                break;
            }
            chosen.push((partition.clone(), (goes, offset)));
        }
        for (partition, key) in chosen {
            if let Some(card) = self.take_waiting(&partition, key) {
                self.asked.insert(partition.at(key.1), (card, false));
            }
        }
    }

    fn ask_called(&mut self, now: Tick, left: &mut Room, alone: &mut bool) {
        let mut chosen = Vec::new();
        for (source, card) in self.called.iter().filter(|(source, _)| self.is_near(&source.topic_partition(), now)) {
            if !fits(left, card.size, alone) {
                break;
            }
            chosen.push(source.clone());
        }
        for source in chosen {
            if let Some(card) = self.called.remove(&source) {
                self.asked.insert(source, (card, true));
            }
        }
    }

    /// The calls that are asked for.
    pub fn asked(&self) -> impl Iterator<Item = (&Source, &Card<T>)> {
        self.asked.iter().map(|(source, (card, _))| (source, card))
    }

    /// Takes a call that was asked for: there is an answer.
    pub fn take(&mut self, source: &Source) -> Option<Card<T>> {
        self.away.remove(&source.topic_partition());
        self.asked.remove(source).map(|(card, _)| card)
    }

    /// No more answers come: what was asked for and not taken is wanted still. Partitions without any (`silent`) are left alone for a while, longer
    /// each time; `roll` is from 0 to 1.
    pub fn end(&mut self, now: Tick, silent: impl Fn(&TopicPartition) -> bool, roll: f64) {
        for (source, (card, called)) in std::mem::take(&mut self.asked) {
            let partition = source.topic_partition();
            if self.is_near(&partition, now) && silent(&partition) {
                let wait = self.away.get(&partition).map_or(AWAY.0, |away| away.wait.saturating_mul(2).min(AWAY.1));
                let until = now.plus(wait.mul_f64(0.5 + roll.clamp(0.0, 1.0) / 2.0).max(Duration::from_millis(1)));
                self.away.insert(partition, Away { until, wait });
            }
            if called {
                self.called.insert(source, card);
            } else {
                self.put(source, card);
            }
        }
    }

    /// Takes out those of partitions for which `leaves` holds. An answer about one of them is nobody's any more.
    pub fn remove(&mut self, leaves: impl Fn(&TopicPartition) -> bool) -> Vec<(Source, Card<T>)> {
        let mut gone = Vec::new();
        for (partition, waiting) in extract(&mut self.waiting, |partition, _| leaves(partition)) {
            self.waiting_len -= waiting.len();
            gone.extend(waiting.into_iter().map(|((goes, offset), (size, kept))| (partition.at(offset), Card { goes, size, kept })));
        }
        let leaves = |source: &Source| leaves(&source.topic_partition());
        gone.extend(extract(&mut self.called, |source, _| leaves(source)));
        gone.extend(extract(&mut self.asked, |source, _| leaves(source)).into_iter().map(|(source, (card, _))| (source, card)));
        gone
    }
}

/// Takes out what is chosen.
fn extract<K: Ord, V>(map: &mut BTreeMap<K, V>, is_chosen: impl Fn(&K, &V) -> bool) -> BTreeMap<K, V> {
    let (chosen, others) = std::mem::take(map).into_iter().partition(|(key, value)| is_chosen(key, value));
    *map = others;
    chosen
}

/// Whether one more fits; what may be alone fits in any case, and fills the room.
fn fits(left: &mut Room, size: usize, alone: &mut bool) -> bool {
    if left.records > 0 && left.bytes >= size {
        *left = Room { records: left.records - 1, bytes: left.bytes - size };
        *alone = false;
        return true;
    }
    let fits = std::mem::take(alone);
    if fits {
        *left = Room { records: 0, bytes: 0 };
    }
    fits
}

/// What goes until then is wanted.
fn soon(now: Tick) -> Tick {
    now.plus(AHEAD)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Places in order, as they are read.
fn runs<'a>(places: impl Iterator<Item = &'a Source>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for place in places {
        let partition = place.topic_partition();
        match runs.last_mut() {
            Some(run) if run.partition == partition && run.offsets.last().is_some_and(|last| place.offset.0 - last.0 <= NEIGHBOURS) => {
                run.offsets.push(place.offset);
            }
            _ => runs.push(Run { partition, offsets: vec![place.offset] }),
        }
    }
    runs
}

#[cfg(test)]
mod tests;
