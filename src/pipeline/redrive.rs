//! Dead letters back to where they came from: one pass over their topic, in order, from its beginning to its end.
//!
//! Guarantees: a letter counts as redriven when Kafka has both its record and the memory of it ([`Redrives::redrive`]), so that a run that ends
//! early, however it ends, is gone on with by the next. Whether the two are written as one is the port's affair; where they are not, what was in
//! hand when a process died may go twice. What cannot go is named and left. Memory is bounded by the batch.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;

use super::ports::{Clock, CommitPoint, PublishError};
use super::stop::Stop;
use crate::event::headers::name;
use crate::event::redrive::{Routes, Stays, redrive};
use crate::event::{Incoming, Partition, Record, Topic, TopicPartition, UnixMillis};
use crate::machine::redriven::Memory;

/// Letters that go together, at most: enough that round trips are shared, few enough to be what goes twice if the process dies.
const BATCH: usize = 64;

/// Their bytes, about.
const BATCH_BYTES: usize = 4 << 20;

/// Where records go together with the memory that they went.
pub trait Redrives: Sync {
    /// Publishes the records, and commits the points when Kafka has all of them.
    fn redrive(&self, records: Vec<Record>, points: Vec<CommitPoint>) -> impl Future<Output = Result<(), NotRedriven>> + Send;
}

/// Why a batch is not remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotRedriven {
    /// For the sake of some of its records.
    Refused {
        /// Those, by their places.
        refused: Vec<(usize, PublishError)>,
        /// Those that are there all the same, and are only to be remembered.
        gone: Vec<usize>,
    },
    /// Nothing goes any more.
    Failed {
        /// Why.
        why: String,
        /// Whether for want of an answer.
        unreachable: bool,
    },
}

/// Which letters are meant. What is empty leaves nothing out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Of these events.
    pub ids: Vec<String>,
    /// With these codes.
    pub codes: Vec<String>,
    /// Of these services.
    pub services: Vec<String>,
    /// Dead-lettered at this time or later.
    pub since: Option<UnixMillis>,
}

impl Selection {
    /// Whether a letter is meant.
    pub fn takes(&self, letter: &Incoming) -> bool {
        let among = |wanted: &[String], header: &str| {
            wanted.is_empty() || letter.headers.text(header).is_some_and(|value| wanted.iter().any(|wanted| wanted == value))
        };
        among(&self.codes, name::ERROR_CODE)
            && among(&self.services, name::SERVICE)
            && among(&self.ids, name::EVENT_ID)
            && self.since.is_none_or(|since| dead_lettered_at(letter).is_some_and(|at| at >= since))
    }
}

/// When a letter became one.
pub fn dead_lettered_at(letter: &Incoming) -> Option<UnixMillis> {
    letter.headers.number(name::DEAD_LETTERED_AT).map(UnixMillis).or(letter.timestamp)
}

/// What is to be done.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// Which letters.
    pub selection: Selection,
    /// Those that were redriven before as well.
    pub again: bool,
    /// At most so many a second.
    pub rate: Option<NonZeroU32>,
}

/// What is done it with.
pub struct Desk<'a, P, C> {
    /// The letters' topic.
    pub topic: Topic,
    /// Where they may go.
    pub routes: &'a Routes,
    /// What was redriven before.
    pub memories: BTreeMap<Partition, Memory>,
    /// Where they go; `None`: nothing goes, it is only counted.
    pub publisher: Option<&'a P>,
    /// Time.
    pub clock: C,
    /// To be asked to stop: what is in hand then still goes.
    pub stop: Stop,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Letters looked at.
    pub looked_at: u64,
    /// Letters that went, or would go.
    pub redriven: u64,
    /// Letters that are meant, but went before.
    pub redriven_before: u64,
    /// Letters that are meant, but cannot go.
    pub left: u64,
    /// Those that went, or would, by code and service; the service is empty where the letter names none that there is.
    pub by: Vec<Share>,
    /// Those that cannot, by the reason's word.
    pub left_for: BTreeMap<&'static str, u64>,
    /// Whether the end of the topic was reached.
    pub complete: bool,
}

/// Letters of one code and service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The code.
    pub code: String,
    /// The service.
    pub service: String,
    /// How many.
    pub letters: u64,
}

impl Tally {
    fn went(&mut self, letter: &Incoming, routes: &Routes) {
        self.redriven += 1;
        let text = |header| letter.headers.text(header).unwrap_or_default();
        // A producer may send headers under our names.
        let service = Some(text(name::SERVICE)).filter(|service| routes.services.contains(*service)).unwrap_or_default();
        let code = text(name::ERROR_CODE);
        match self.by.binary_search_by(|share| (share.code.as_str(), share.service.as_str()).cmp(&(code, service))) {
            Ok(place) => self.by[place].letters += 1,
            Err(place) => self.by.insert(place, Share { code: code.to_owned(), service: service.to_owned(), letters: 1 }),
        }
    }
}

/// What is told as it happens.
#[derive(Debug)]
pub enum Told<'a> {
    /// A letter cannot go.
    Left(&'a Incoming, &'a Stays),
    /// How far it is.
    Progress(&'a Tally),
}

/// A letter that stays, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftLetter {
    /// Its partition on the dead letters' topic.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Its code, if it has one.
    pub code: Option<String>,
    /// Its service, if it names one.
    pub service: Option<String>,
    /// Its event's id, if it says it.
    pub event_id: Option<String>,
    /// Why it stays, as a word.
    pub reason: &'static str,
    /// Why it stays, in a sentence.
    pub detail: String,
}

impl LeftLetter {
    /// What is shown of a letter that stays.
    pub fn of(letter: &Incoming, why: &Stays) -> Self {
        let text = |header| letter.headers.text(header).map(str::to_owned);
        Self {
            partition: letter.source.partition.0,
            offset: letter.source.offset.0,
            code: text(name::ERROR_CODE),
            service: text(name::SERVICE),
            event_id: text(name::EVENT_ID),
            reason: why.as_str(),
            detail: why.to_string(),
        }
    }
}

/// Why it ended before its end.
#[derive(Debug)]
pub enum Trouble<E> {
    /// The letters cannot be read.
    Read(E),
    /// They cannot go.
    Publish {
        /// Why.
        why: String,
        /// Whether for want of an answer.
        unreachable: bool,
    },
}

/// Goes through the letters. What was done is in the tally, whatever ended it.
pub async fn run<P: Redrives, C: Clock, E>(
    letters: &mut mpsc::Receiver<Result<Incoming, E>>,
    order: &Order,
    desk: Desk<'_, P, C>,
    tell: &mut (dyn FnMut(Told<'_>) + Send),
) -> (Tally, Result<(), Trouble<E>>)
where
    E: Send,
{
    let largest = order.rate.map_or(BATCH, |rate| BATCH.min((rate.get() as usize / BATCHES_A_SECOND).max(1)));
    let mut run = Run {
        began: desk.clock.now(),
        order,
        desk,
        tell,
        tally: Tally::default(),
        batch: Vec::new(),
        bytes: 0,
        full: BTreeSet::new(),
        ending: None,
    };
    let result = run.all(letters, largest).await;
    run.tally.complete = result.is_ok() && !run.desk.stop.is_requested();
    (run.tally, result)
}

/// With a rate, what goes at once is so small that the rate holds within such a part of a second.
const BATCHES_A_SECOND: usize = 4;

struct Run<'a, P, C> {
    began: crate::machine::time::Tick,
    order: &'a Order,
    desk: Desk<'a, P, C>,
    tell: &'a mut (dyn FnMut(Told<'_>) + Send),
    tally: Tally,
    /// Letters with what goes; `None`: it is there already.
    batch: Vec<(Incoming, Option<Record>)>,
    bytes: usize,
    /// Partitions of which no more can be told.
    full: BTreeSet<Partition>,
    /// Why nothing goes after the batch in hand.
    ending: Option<String>,
}

impl<P: Redrives, C: Clock> Run<'_, P, C> {
    async fn all<E: Send>(&mut self, letters: &mut mpsc::Receiver<Result<Incoming, E>>, largest: usize) -> Result<(), Trouble<E>> {
        let stop = self.desk.stop.clone();
        loop {
            let letter = tokio::select! {
                biased;
                () = stop.requested() => None,
                letter = letters.recv() => letter,
            };
            match letter {
                None => break,
                Some(Err(error)) => {
                    // What was read goes: the next run has less to do.
                    self.go().await?;
                    return Err(Trouble::Read(error));
                }
                Some(Ok(letter)) => self.take(letter),
            }
            if self.batch.len() >= largest || self.bytes >= BATCH_BYTES {
                self.go().await?;
                if self.desk.publisher.is_some() {
                    self.keep_rate(&stop).await;
                }
            }
        }
        self.go().await?;
        self.refresh().await
    }

    fn take(&mut self, letter: Incoming) {
        self.tally.looked_at += 1;
        let offset = letter.source.offset;
        let memory = self.desk.memories.entry(letter.source.partition).or_default();
        memory.look(offset);
        let before = memory.has(offset);
        if !self.order.selection.takes(&letter) {
            memory.stay(offset);
            return;
        }
        if before && !self.order.again {
            self.tally.redriven_before += 1;
            return;
        }
        let is_full = memory.is_ahead(offset) && self.full.contains(&letter.source.partition);
        match redrive(&letter, self.desk.routes, self.desk.clock.wall()) {
            Ok(_) if is_full => self.leave(&letter, &Stays::NoRoom),
            Ok(record) => {
                self.bytes += record.size();
                self.batch.push((letter, Some(record)));
            }
            Err(why) => self.leave(&letter, &why),
        }
    }

    fn leave(&mut self, letter: &Incoming, why: &Stays) {
        self.desk.memories.entry(letter.source.partition).or_default().stay(letter.source.offset);
        self.tally.left += 1;
        *self.tally.left_for.entry(why.as_str()).or_default() += 1;
        (self.tell)(Told::Left(letter, why));
    }

    /// Lets the batch go.
    async fn go<E>(&mut self) -> Result<(), Trouble<E>> {
        self.bytes = 0;
        while !self.batch.is_empty() {
            let Some(publisher) = self.desk.publisher else {
                for (letter, _) in self.batch.drain(..) {
                    self.tally.went(&letter, self.desk.routes);
                }
                break;
            };
            let mut after = self.after();
            let told: Option<Vec<CommitPoint>> = after.iter().map(|(partition, memory)| self.point(*partition, memory)).collect();
            let Some(points) = told else {
                if !self.make_room(&after) {
                    let why = "what has gone cannot all be remembered: there is no room beside the group's offset".to_owned();
                    return Err(Trouble::Publish { why, unreachable: false });
                }
                continue;
            };
            let records = self.batch.iter().filter_map(|(_, record)| record.clone()).collect();
            match publisher.redrive(records, points).await {
                Ok(()) => {
                    self.desk.memories.append(&mut after);
                    for (letter, _) in self.batch.drain(..) {
                        self.tally.went(&letter, self.desk.routes);
                    }
                }
                Err(NotRedriven::Refused { refused, gone }) if !refused.is_empty() => self.part(refused, &gone),
                Err(NotRedriven::Refused { .. }) => {
                    return Err(Trouble::Publish { why: "Kafka refused a batch and named no record".to_owned(), unreachable: false });
                }
                Err(NotRedriven::Failed { why, unreachable }) => return Err(Trouble::Publish { why, unreachable }),
            }
        }
        (self.tell)(Told::Progress(&self.tally));
        match self.ending.take() {
            Some(why) => Err(Trouble::Publish { why, unreachable: false }),
            None => Ok(()),
        }
    }

    /// Takes out of the batch what was refused; what is there already is only to be remembered.
    fn part(&mut self, refused: Vec<(usize, PublishError)>, gone: &[usize]) {
        // The places are among those that were sent.
        let mut sent = 0;
        let mut left = BTreeMap::from_iter(refused);
        for (letter, record) in std::mem::take(&mut self.batch) {
            let Some(went) = record else {
                self.batch.push((letter, None));
                continue;
            };
            let place = sent;
            sent += 1;
            match left.remove(&place) {
                None if gone.contains(&place) => self.batch.push((letter, None)),
                None => self.batch.push((letter, Some(went))),
                Some(PublishError::Failed(why)) => {
                    // Nobody knows whether it is there. It counts as not, and nothing more is tried.
                    self.desk.memories.entry(letter.source.partition).or_default().stay(letter.source.offset);
                    self.ending = Some(why);
                }
                Some(error) => self.leave(&letter, &Stays::Refused(refusal(&went.topic, &error))),
            }
        }
    }

    /// What will have been redriven when the batch has gone, of the partitions that it touches.
    fn after(&self) -> BTreeMap<Partition, Memory> {
        let mut after = BTreeMap::new();
        for (letter, _) in &self.batch {
            let partition = letter.source.partition;
            let memory = after.entry(partition).or_insert_with(|| self.desk.memories.get(&partition).cloned().unwrap_or_default());
            memory.redrive(letter.source.offset);
        }
        after
    }

    fn point(&self, partition: Partition, memory: &Memory) -> Option<CommitPoint> {
        let (next, ahead) = memory.commit()?;
        Some(CommitPoint { partition: TopicPartition { topic: self.desk.topic.clone(), partition }, next, ahead })
    }

    /// Leaves the last letter of each partition that could not be told of. False if there is none that has not gone yet.
    fn make_room(&mut self, after: &BTreeMap<Partition, Memory>) -> bool {
        let mut made = true;
        for (partition, _) in after.iter().filter(|(_, memory)| memory.commit().is_none()) {
            self.full.insert(*partition);
            let is_last = |(letter, record): &(Incoming, Option<Record>)| letter.source.partition == *partition && record.is_some();
            match self.batch.iter().rposition(is_last) {
                Some(place) => {
                    let (letter, _) = self.batch.remove(place);
                    self.leave(&letter, &Stays::NoRoom);
                }
                None => made = false,
            }
        }
        made
    }

    /// Commits everything once more: Kafka forgets a group that has committed nothing for long.
    async fn refresh<E>(&mut self) -> Result<(), Trouble<E>> {
        let Some(publisher) = self.desk.publisher else { return Ok(()) };
        let points: Vec<_> = self.desk.memories.iter().filter_map(|(partition, memory)| self.point(*partition, memory)).collect();
        if points.is_empty() {
            return Ok(());
        }
        match publisher.redrive(Vec::new(), points).await {
            Ok(()) | Err(NotRedriven::Refused { .. }) => Ok(()),
            Err(NotRedriven::Failed { why, unreachable }) => Err(Trouble::Publish { why, unreachable }),
        }
    }

    async fn keep_rate(&mut self, stop: &Stop) {
        let Some(rate) = self.order.rate else { return };
        let due = Duration::from_millis(self.tally.redriven.saturating_mul(1_000) / u64::from(rate.get()));
        tokio::select! {
            () = stop.requested() => {}
            () = self.desk.clock.sleep_until(self.began.plus(due)) => {}
        }
    }
}

fn refusal(topic: &Topic, error: &PublishError) -> String {
    match error {
        PublishError::TooLarge => format!("it is larger than `{topic}` takes (max.message.bytes)"),
        PublishError::Invalid => format!("`{topic}` takes no record like it, as one without a key where the topic is compacted"),
        PublishError::BadTime => format!("`{topic}` does not take its timestamp"),
        PublishError::Failed(why) => format!("`{topic}` does not take it: {why}"),
    }
}

#[cfg(test)]
mod tests;
