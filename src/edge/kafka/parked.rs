//! Pages through what a group has not finished of topics: what Kafka holds between the group's commits and the ends, without what has finished above
//! them as the commits' metadata tells. It asks as nobody's member, so it sees all partitions, whoever drains them.
//!
//! Its clients are made at the first question and kept, so that a page costs a few questions and a fetch. Between pages they hold no records.
//! Each reading is bounded by records, bytes and time: what there was no time for is left to the next page. What finished within the last commit's
//! interval is still seen.

mod again;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset as Position, TopicPartitionList};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::error::is_unreachable;
use super::properties::{self, Quiet};
use super::{KafkaEdgeError, lag, record, topics};
use crate::config;
use crate::edge::clock::SystemClock;
use crate::event::{Incoming, Offset, Partition, Source, Topic, TopicPartition, UnixMillis};
use crate::machine::paging::{Came, Cursor, Merge, Page};
use crate::machine::progress::Progress;
use crate::pipeline::ports::Clock as _;

/// How long one question to a broker may take.
const WITHIN: Duration = Duration::from_secs(2);
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(20);
/// How long to wait for a client that is in use.
const TURN: Duration = Duration::from_secs(4);
/// How long a broker may wait for records that there are not: what is asked for is there, or ends at once. The next question on the connection waits
/// behind it.
const FETCH_WAIT_MS: &str = "1";
/// Of how many places in a backlog a sample is taken that is too long to be looked through.
const PLACES: i64 = 8;

/// How far one reading goes.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// Records that are fetched.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long.
    pub within: Duration,
}

/// A record that was asked for by its place.
#[derive(Debug)]
pub struct Found {
    /// It.
    pub record: Incoming,
    /// Whether it has finished: Kafka only keeps it.
    pub finished: bool,
}

/// What a sample says of a topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sampled {
    /// Unfinished records that were looked at.
    pub looked_at: u64,
    /// Whether those are all.
    pub exact: bool,
}

type Client = BaseConsumer<Quiet>;

/// Reads parked records; several questions at once, as many as it has clients.
#[derive(Clone)]
pub struct ParkedReader {
    settings: Arc<config::Kafka>,
    group: Arc<str>,
    clients: Arc<[Arc<Mutex<Option<Arc<Client>>>>]>,
    clock: SystemClock,
    fetch: u32,
}

/// One partition as it was a moment ago.
struct Extent {
    at: TopicPartition,
    from: Offset,
    end: Offset,
    finished: Progress,
}

/// All that could be found out of some topics.
#[derive(Default)]
struct Extents {
    all: Vec<Extent>,
    /// Those that have no leader just now.
    away: Vec<TopicPartition>,
}

impl ParkedReader {
    /// Nothing is connected to before the first question. `fetch` is what a fetch brings of a partition at most, bytes.
    pub fn new(settings: &config::Kafka, group: &str, clients: usize, fetch: u32, clock: SystemClock) -> Self {
        Self {
            settings: Arc::new(settings.clone()),
            group: group.into(),
            clients: (0..clients.max(1)).map(|_| Arc::default()).collect(),
            clock,
            fetch,
        }
    }

    /// A page of what is unfinished in these topics, oldest first: at most `limit` records of which `see` makes something. It begins at the oldest, or
    /// where the cursor says.
    ///
    /// # Errors
    /// No broker answers, one refuses, or all clients are in use for too long.
    pub async fn page<T: Send + 'static>(
        &self,
        topics: Vec<Topic>,
        from: Option<Cursor>,
        limit: usize,
        reach: Reach,
        see: impl FnMut(Incoming) -> Option<T> + Send + 'static,
    ) -> Result<Page<T>, KafkaEdgeError> {
        self.ask(move |reading| reading.page(&topics, from.as_ref(), limit, reach, see)).await
    }

    /// The record at a place, if there is one.
    ///
    /// # Errors
    /// As of [`Self::page`].
    pub async fn one(&self, place: Source) -> Result<Option<Found>, KafkaEdgeError> {
        self.ask(move |reading| reading.one(&place)).await
    }

    /// Shows `see` every unfinished record of a topic, or, if there are more than `most`, about so many from all over the backlog.
    ///
    /// # Errors
    /// As of [`Self::page`].
    pub async fn sample(
        &self,
        topic: Topic,
        most: u32,
        within: Duration,
        see: impl FnMut(Incoming) + Send + 'static,
    ) -> Result<Sampled, KafkaEdgeError> {
        self.ask(move |reading| reading.sample(&topic, most, within, see)).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Reading) -> Result<T, KafkaEdgeError> + Send + 'static,
    ) -> Result<T, KafkaEdgeError> {
        let mut turn = self.turn().await?;
        let (settings, group, clock, fetch) = (Arc::clone(&self.settings), Arc::clone(&self.group), self.clock, self.fetch);
        topics::blocking(move || {
            let client = match &*turn {
                Some(client) => Arc::clone(client),
                None => Arc::clone(turn.insert(Arc::new(connect(&settings, &group, fetch)?))),
            };
            let answer = question(&Reading { client, clock });
            if answer.is_err() {
                // Whatever state it is in: the next question has a new one.
                *turn = None;
            }
            answer
        })
        .await
    }

    async fn turn(&self) -> Result<OwnedMutexGuard<Option<Arc<Client>>>, KafkaEdgeError> {
        for client in self.clients.iter() {
            if let Ok(turn) = Arc::clone(client).try_lock_owned() {
                return Ok(turn);
            }
        }
        let turns = self.clients.iter().map(|client| Box::pin(Arc::clone(client).lock_owned()));
        match tokio::time::timeout(TURN, select_all(turns)).await {
            Ok((turn, ..)) => Ok(turn),
            Err(_) => Err(KafkaEdgeError::Client("others are looking through what is parked; try again in a moment".to_owned())),
        }
    }
}

fn connect(settings: &config::Kafka, group: &str, fetch: u32) -> Result<Client, KafkaEdgeError> {
    let mut properties = properties::onlooker(settings, Some(group));
    properties.set("fetch.wait.max.ms", FETCH_WAIT_MS).set("fetch.message.max.bytes", fetch.to_string());
    Ok(properties.create_with_context(Quiet)?)
}

struct Reading {
    client: Arc<Client>,
    clock: SystemClock,
}

#[derive(Default)]
struct Fetched {
    records: u64,
    bytes: u64,
    looked_at: u64,
    /// Not everything came that was waited for.
    hurried: bool,
}

impl Reading {
    /// Begin, end and progress of every partition, by one question to each broker for each of them, however many partitions there are.
    fn extents(&self, topics: &[Topic]) -> Result<Extents, KafkaEdgeError> {
        let mut all = TopicPartitionList::new();
        for topic in topics {
            for partition in topics::partitions(&self.client, topic, WITHIN)?.unwrap_or_default() {
                all.add_partition(topic.as_str(), partition.0);
            }
        }
        let mut extents = Extents::default();
        if all.count() == 0 {
            return Ok(extents);
        }
        let (lows, ends) = lag::edges(&self.client, &all, WITHIN)?;
        for element in &self.client.committed_offsets(all, WITHIN)?.elements() {
            let Some(topic) = topics.iter().find(|topic| topic.as_str() == element.topic()) else { continue };
            let edge = |list| lag::offset_of(list, topic, element.partition());
            let (Some(low), Some(end)) = (edge(&lows), edge(&ends)) else {
                // It has no leader just now.
                extents.away.push(TopicPartition { topic: topic.clone(), partition: Partition(element.partition()) });
                continue;
            };
            let (committed, finished) = lag::committed(element);
            extents.all.push(Extent {
                at: TopicPartition { topic: topic.clone(), partition: Partition(element.partition()) },
                from: lag::goes_on_at(committed, low),
                end,
                finished,
            });
        }
        Ok(extents)
    }

    fn page<T>(
        &self,
        topics: &[Topic],
        from: Option<&Cursor>,
        limit: usize,
        reach: Reach,
        mut see: impl FnMut(Incoming) -> Option<T>,
    ) -> Result<Page<T>, KafkaEdgeError> {
        let until = self.clock.now().plus(reach.within);
        let Extents { all, away } = self.extents(topics)?;
        let mut merge = Merge::new(limit);
        for Extent { at, from: begin, end, finished } in all {
            let place = from.map_or(Some((begin, end)), |cursor| cursor.place(&at));
            if let Some((next, last)) = place {
                merge.add(at, next.max(begin), last.min(end), finished);
            }
        }
        let mut fetched = Fetched::default();
        let asked = merge.topics();
        for (number, topic) in (1..).zip(&asked) {
            // Each topic has its part of what is left.
            let parts = asked.len() as u64 - number + 1;
            let left = until.since(self.clock.now()) / u32::try_from(parts).unwrap_or(u32::MAX);
            let part = Reach {
                records: fetched.records + reach.records.saturating_sub(fetched.records) / parts,
                bytes: fetched.bytes + reach.bytes.saturating_sub(fetched.bytes) / parts,
                within: left,
            };
            self.pump(topic, &mut merge, part, &mut fetched, &mut see)?;
        }
        let mut items = Vec::new();
        while items.len() < limit {
            let Some(item) = merge.take(fetched.hurried) else { break };
            items.push(item);
        }
        let mut next = merge.cursor();
        let missing = !away.is_empty();
        for at in away {
            // Its place is kept until it is back.
            next.keep(&at, from);
        }
        Ok(Page { items, next, scanned: fetched.looked_at, missing })
    }

    /// Fetches of a topic until each partition is read or has filled its room, or the reach is at its end. One topic at a time: the end of a
    /// partition is told without its topic.
    fn pump<T>(
        &self,
        topic: &Topic,
        merge: &mut Merge<T>,
        reach: Reach,
        fetched: &mut Fetched,
        see: &mut impl FnMut(Incoming) -> Option<T>,
    ) -> Result<(), KafkaEdgeError> {
        let mut open: Vec<Partition> = Vec::new();
        let mut assignment = TopicPartitionList::new();
        for (partition, from) in merge.unread(topic) {
            open.push(partition);
            assignment.add_partition_offset(topic.as_str(), partition.0, Position::Offset(from.0))?;
        }
        if open.is_empty() {
            return Ok(());
        }
        self.client.assign(&assignment)?;
        self.fill(topic, open, merge, reach, fetched, see)?;
        // A partition that is paused would be so when it is assigned again. What was fetched ahead goes with the assignment.
        self.client.resume(&assignment)?;
        Ok(self.client.unassign()?)
    }

    fn fill<T>(
        &self,
        topic: &Topic,
        mut open: Vec<Partition>,
        merge: &mut Merge<T>,
        reach: Reach,
        fetched: &mut Fetched,
        see: &mut impl FnMut(Incoming) -> Option<T>,
    ) -> Result<(), KafkaEdgeError> {
        let until = self.clock.now().plus(reach.within);
        let at = |number| TopicPartition { topic: topic.clone(), partition: Partition(number) };
        while !open.is_empty() {
            if fetched.records >= reach.records || fetched.bytes >= reach.bytes || self.clock.now() >= until {
                fetched.hurried = true;
                return Ok(());
            }
            let number = match self.client.poll(POLL) {
                Some(Ok(message)) if message.topic() == topic.as_str() => {
                    let number = message.partition();
                    fetched.records += 1;
                    fetched.bytes += message.payload_len() as u64;
                    let time = UnixMillis(message.timestamp().to_millis().unwrap_or(0));
                    let came = merge
                        .came(&at(number), Offset(message.offset()), time, || see(record::incoming(&message, std::slice::from_ref(topic))));
                    fetched.looked_at += u64::from(came == Came::Looked);
                    number
                }
                // What is left may be a hole (a transaction's mark), which no record reaches.
                Some(Err(KafkaError::PartitionEOF(number))) => {
                    merge.ended(&at(number));
                    number
                }
                Some(Err(error)) if error.rdkafka_error_code().is_some_and(is_unreachable) => continue,
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(_)) | None => continue,
            };
            if !merge.wants(&at(number)) {
                let mut full = TopicPartitionList::new();
                full.add_partition(topic.as_str(), number);
                self.client.pause(&full)?;
                open.retain(|partition| partition.0 != number);
            }
        }
        Ok(())
    }

    fn one(&self, place: &Source) -> Result<Option<Found>, KafkaEdgeError> {
        let extents = self.extents(std::slice::from_ref(&place.topic))?;
        let Some(extent) = extents.all.into_iter().find(|extent| extent.at == place.topic_partition()) else { return Ok(None) };
        if place.offset >= extent.end || place.offset.0 < 0 {
            return Ok(None);
        }
        let finished = place.offset < extent.from || extent.finished.has_finished(place.offset);
        let mut merge = Merge::new(1);
        merge.add(extent.at, place.offset, Offset(place.offset.0 + 1), Progress::default());
        let reach = Reach { records: 1_000, bytes: u64::MAX, within: WITHIN };
        self.pump(&place.topic, &mut merge, reach, &mut Fetched::default(), &mut Some)?;
        Ok(merge.take(true).map(|record| Found { record, finished }))
    }

    fn sample(&self, topic: &Topic, most: u32, within: Duration, mut see: impl FnMut(Incoming)) -> Result<Sampled, KafkaEdgeError> {
        let until = self.clock.now().plus(within);
        let Extents { all, away } = self.extents(std::slice::from_ref(topic))?;
        let depth: i64 = all.iter().map(|extent| (extent.end.0 - extent.from.0).max(0)).sum();
        let whole = depth <= i64::from(most);
        let places = if whole { 1 } else { PLACES };
        let mut fetched = Fetched::default();
        for place in 0..places {
            let mut merge = Merge::<()>::new(1);
            for Extent { at, from, end, finished } in &all {
                let length = (end.0 - from.0).max(0);
                // As many of each partition as it has of the backlog.
                let share = if whole { length } else { (i64::from(most) * length / depth.max(1) / places).max(1) };
                let begin = from.0 + length / places * place;
                merge.add(at.clone(), Offset(begin), Offset((begin + share).min(end.0)), finished.clone());
            }
            let left = until.since(self.clock.now()) / u32::try_from(places - place).unwrap_or(1);
            let reach = Reach { records: u64::MAX, bytes: u64::MAX, within: left };
            let mut show = |record| {
                see(record);
                None
            };
            self.pump(topic, &mut merge, reach, &mut fetched, &mut show)?;
        }
        Ok(Sampled { looked_at: fetched.looked_at, exact: whole && !fetched.hurried && away.is_empty() })
    }
}
