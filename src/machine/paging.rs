//! Paging through the partitions of topics as through one list, oldest first, with a place that goes on where a page ended.
//!
//! A page joins the partitions by their records' times, each partition in its own order. Its [`Cursor`] has a place in each partition that is
//! not read to the end which it had at the first page: so pages neither repeat nor leave out what stays where it is, whatever finishes or is
//! written meanwhile, and they come to an end. Fetching is left to others, and so is what a record is shown as.

use std::collections::{BTreeMap, VecDeque};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};

use super::progress::Progress;
use crate::event::{Offset, Partition, Topic, TopicPartition, UnixMillis};

/// The longest cursor that is read: places in about a thousand partitions.
const LONGEST: usize = 48 << 10;

/// Where the next page begins, and where the last one ends, in each partition that has more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(BTreeMap<Topic, BTreeMap<Partition, (Offset, Offset)>>);

impl Cursor {
    /// Whether there is nothing more.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The place in a partition, and its end; `None` if there is nothing more of it.
    pub fn place(&self, at: &TopicPartition) -> Option<(Offset, Offset)> {
        self.0.get(&at.topic)?.get(&at.partition).copied()
    }

    /// Keeps the place that an earlier cursor has in a partition, if it has one.
    pub fn keep(&mut self, at: &TopicPartition, from: Option<&Self>) {
        if let Some(place) = from.and_then(|from| from.place(at)) {
            self.0.entry(at.topic.clone()).or_default().insert(at.partition, place);
        }
    }

    /// The topics that have more.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.0.keys()
    }

    /// As a word that can stand in a URL.
    pub fn to_text(&self) -> String {
        BASE64.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads such a word; `None` if it is none.
    pub fn from_text(text: &str) -> Option<Self> {
        let bytes = (text.len() <= LONGEST).then(|| BASE64.decode(text).ok()).flatten()?;
        let cursor: Self = serde_json::from_slice(&bytes).ok()?;
        let sound = |(next, end): &(Offset, Offset)| 0 <= next.0 && next < end;
        cursor.0.values().flat_map(BTreeMap::values).all(sound).then_some(cursor)
    }
}

/// A page that was read.
#[derive(Debug)]
pub struct Page<T> {
    /// What is on it, in order.
    pub items: Vec<T>,
    /// Where the next one begins; empty if there is none.
    pub next: Cursor,
    /// Unfinished records that were looked at for it.
    pub scanned: u64,
    /// Whether partitions could not be read: they are on no page.
    pub missing: bool,
}

/// What came of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// It was not asked for, or its partition has no room.
    Unwanted,
    /// It has finished.
    Finished,
    /// It was looked at.
    Looked,
}

/// The partitions of one page while it is made.
#[derive(Debug)]
pub struct Merge<T> {
    lanes: BTreeMap<TopicPartition, Lane<T>>,
    room: usize,
}

#[derive(Debug)]
struct Lane<T> {
    /// What is read next.
    read: Offset,
    end: Offset,
    finished: Progress,
    waiting: VecDeque<Waiting<T>>,
}

#[derive(Debug)]
struct Waiting<T> {
    at: UnixMillis,
    offset: Offset,
    item: T,
}

impl<T> Lane<T> {
    fn is_read(&self) -> bool {
        self.read >= self.end
    }

    fn place(&self) -> Offset {
        self.waiting.front().map_or(self.read, |first| first.offset)
    }
}

impl<T> Merge<T> {
    /// Each partition keeps at most `room` records, which is as many as a page takes.
    pub fn new(room: usize) -> Self {
        Self { lanes: BTreeMap::new(), room }
    }

    /// A partition is to be read from here to there, but for what has finished.
    pub fn add(&mut self, at: TopicPartition, from: Offset, end: Offset, finished: Progress) {
        if from < end {
            self.lanes.insert(at, Lane { read: from, end, finished, waiting: VecDeque::new() });
        }
    }

    /// The topics of which there is something to read, in order.
    pub fn topics(&self) -> Vec<Topic> {
        let mut topics: Vec<Topic> = self.lanes.keys().map(|at| at.topic.clone()).collect();
        topics.dedup();
        topics
    }

    /// What is to be read of a topic: partitions that are not at their end and have room, and where each goes on.
    pub fn unread<'a>(&'a self, topic: &'a Topic) -> impl Iterator<Item = (Partition, Offset)> + 'a {
        let lanes = self.lanes.iter().filter(move |(at, lane)| at.topic == *topic && !lane.is_read() && lane.waiting.len() < self.room);
        lanes.map(|(at, lane)| (at.partition, lane.read))
    }

    /// Whether there is something to read of a partition: it is not at its end and has room.
    pub fn wants(&self, at: &TopicPartition) -> bool {
        self.lanes.get(at).is_some_and(|lane| !lane.is_read() && lane.waiting.len() < self.room)
    }

    /// A record came; `look` makes of it what is shown, or nothing if it is not meant. Records of a partition come in its order.
    pub fn came(&mut self, at: &TopicPartition, offset: Offset, time: UnixMillis, look: impl FnOnce() -> Option<T>) -> Came {
        let room = self.room;
        let Some(lane) = self.lanes.get_mut(at) else { return Came::Unwanted };
        if offset >= lane.end {
            lane.read = lane.read.max(lane.end);
            return Came::Unwanted;
        }
        if offset < lane.read || lane.waiting.len() >= room {
            return Came::Unwanted;
        }
        lane.read = Offset(offset.0 + 1);
        if lane.finished.has_finished(offset) {
            return Came::Finished;
        }
        if let Some(item) = look() {
            lane.waiting.push_back(Waiting { at: time, offset, item });
        }
        Came::Looked
    }

    /// Nothing more comes of a partition: what is left of it are holes.
    pub fn ended(&mut self, at: &TopicPartition) {
        if let Some(lane) = self.lanes.get_mut(at) {
            lane.read = lane.read.max(lane.end);
        }
    }

    /// The next record in order; `None` if there is none, or a partition may have an older one that has not come. With `hurry` such partitions
    /// are not waited for.
    pub fn take(&mut self, hurry: bool) -> Option<T> {
        let mut first: Option<(&TopicPartition, UnixMillis)> = None;
        for (at, lane) in &self.lanes {
            match lane.waiting.front() {
                Some(waiting) if first.is_none_or(|(_, time)| waiting.at < time) => first = Some((at, waiting.at)),
                None if !lane.is_read() && !hurry => return None,
                Some(_) | None => {}
            }
        }
        let at = first?.0.clone();
        self.lanes.get_mut(&at)?.waiting.pop_front().map(|waiting| waiting.item)
    }

    /// Where the next page begins.
    pub fn cursor(&self) -> Cursor {
        let mut cursor = Cursor::default();
        for (at, lane) in self.lanes.iter().filter(|(_, lane)| lane.place() < lane.end) {
            cursor.0.entry(at.topic.clone()).or_default().insert(at.partition, (lane.place(), lane.end));
        }
        cursor
    }
}

#[cfg(test)]
mod tests;
