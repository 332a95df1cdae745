//! Reads along on a retry topic, for the loop that processes events: on the partitions of its own, from what the group that drains has committed, to the
//! end and on. It is nobody's member, commits nothing, and keeps nothing of what it reads but what [`Behind`] does.
//!
//! Guarantees:
//! - A partition is said to be caught up when all of it was read that was there when its life began.
//! - Nothing is said to have ended but by the group's commits, by what stands beside them, or by Kafka having deleted it.
//! - What cannot be read or asked is tried again for as long as the process lives. Nothing is guessed meanwhile: a topic, or a partition, that is
//!   missing is not caught up.
//!
//! It reads what is not committed too, where records are written in transactions: a call whose transaction is under way may be parked. One that was
//! undone counts until the group has come past it. What this instance parks counts without being read ([`Behind::park_ended`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset as Position, TopicPartitionList};

use super::properties::{self, Quiet};
use super::{KafkaEdgeError, lag, record, topics};
use crate::config;
use crate::edge::clock::SystemClock;
use crate::event::{Offset, Partition, Topic};
use crate::machine::progress::Progress;
use crate::pipeline::behind::{Behind, Life};
use crate::pipeline::ports::Clock as _;

/// How long one question to a broker may take.
const WITHIN: Duration = Duration::from_secs(2);
/// How long one poll waits: how soon a partition that has come is noticed, and the end of the process.
const POLL: Duration = Duration::from_millis(50);
/// Records between two looks at what else there is to do.
const AT_ONCE: usize = 1_000;
/// How often the group's commits are asked for while something is unfinished, and what failed is tried again.
const EVERY: Duration = Duration::from_secs(1);
/// How long a broker may wait for records that there are not: how late the end of a partition is told.
const FETCH_WAIT_MS: &str = "100";

/// Begins to read along on a service's topic, which `group` drains, for as long as anybody holds `behind`.
///
/// # Errors
/// A property that librdkafka does not take, or no thread to be had.
pub fn read(
    settings: &config::Kafka,
    group: &str,
    topic: Topic,
    service: usize,
    behind: &Arc<Behind>,
    clock: SystemClock,
) -> Result<(), KafkaEdgeError> {
    let mut properties = properties::onlooker(settings, Some(group));
    properties.set("fetch.wait.max.ms", FETCH_WAIT_MS).set("isolation.level", "read_uncommitted");
    let client: BaseConsumer<Quiet> = properties.create_with_context(Quiet)?;
    let (reader, behind) = (Reader { client, topic, service, clock }, Arc::downgrade(behind));
    std::thread::Builder::new()
        .name("kafka-along".into())
        .spawn(move || reader.run(&behind))
        .map_err(|error| KafkaEdgeError::Client(format!("no thread for it: {error}")))?;
    Ok(())
}

struct Reader {
    client: BaseConsumer<Quiet>,
    topic: Topic,
    service: usize,
    clock: SystemClock,
}

/// A partition that is read along on.
struct Followed {
    life: Life,
    /// The end that it had when its life began; `None` once it was reached.
    end: Option<Offset>,
}

/// Where a partition stands.
struct Extent {
    from: Offset,
    end: Offset,
    ended: Progress,
}

impl Extent {
    fn has_ended(&self, offset: Offset) -> bool {
        offset < self.from || self.ended.has_finished(offset)
    }
}

impl Reader {
    fn run(&self, behind: &Weak<Behind>) {
        let mut followed: BTreeMap<Partition, Followed> = BTreeMap::new();
        let (mut next_try, mut next_look) = (self.clock.now(), self.clock.now());
        while let Some(behind) = behind.upgrade() {
            let wanted = behind.wanted(self.service);
            self.let_go(&mut followed, &wanted);
            let now = self.clock.now();
            if next_try <= now && wanted.iter().any(|life| !followed.contains_key(&life.partition)) {
                if let Err(error) = self.begin(&behind, &mut followed, &wanted) {
                    tracing::debug!(topic = %self.topic, %error, "parked calls are not read along just now");
                }
                next_try = self.clock.now().plus(if wanted.len() == followed.len() { Duration::ZERO } else { EVERY });
            }
            for _ in 0..AT_ONCE {
                if !self.poll(&behind, &mut followed) {
                    break;
                }
            }
            if next_look <= self.clock.now() {
                if let Err(error) = self.look(&behind, &followed) {
                    tracing::debug!(topic = %self.topic, %error, "which parked calls have ended is not known just now");
                }
                next_look = self.clock.now().plus(EVERY);
            }
        }
    }

    /// Lets partitions go that are no longer wanted, or whose lives have ended.
    fn let_go(&self, followed: &mut BTreeMap<Partition, Followed>, wanted: &[Life]) {
        let mut gone = TopicPartitionList::new();
        followed.retain(|partition, followed| {
            let stays = wanted.contains(&followed.life);
            if !stays {
                gone.add_partition(self.topic.as_str(), partition.0);
            }
            stays
        });
        if gone.count() > 0
            && let Err(error) = self.client.incremental_unassign(&gone)
        {
            tracing::debug!(topic = %self.topic, %error, "partitions are read along on that are not wanted");
        }
    }

    /// Begins with the partitions that are wanted, those at least that can be asked for.
    fn begin(&self, behind: &Behind, followed: &mut BTreeMap<Partition, Followed>, wanted: &[Life]) -> Result<(), KafkaEdgeError> {
        let new: Vec<Life> = wanted.iter().filter(|life| !followed.contains_key(&life.partition)).copied().collect();
        let there = topics::partitions(&self.client, &self.topic, WITHIN)?.unwrap_or_default();
        let new: Vec<Life> = new.into_iter().filter(|life| there.contains(&life.partition)).collect();
        let extents = self.extents(new.iter().map(|life| life.partition))?;
        let mut assignment = TopicPartitionList::new();
        let mut begun = Vec::new();
        for life in new {
            let Some(extent) = extents.get(&life.partition) else { continue };
            assignment.add_partition_offset(self.topic.as_str(), life.partition.0, Position::Offset(extent.from.0))?;
            begun.push((life, extent));
        }
        if begun.is_empty() {
            return Ok(());
        }
        self.client.incremental_assign(&assignment)?;
        for (life, extent) in begun {
            let caught_up = extent.from >= extent.end;
            if caught_up {
                behind.caught_up(self.service, life);
            }
            followed.insert(life.partition, Followed { life, end: (!caught_up).then_some(extent.end) });
        }
        Ok(())
    }

    /// Takes one record in, or the news of an end. False if there was nothing.
    fn poll(&self, behind: &Behind, followed: &mut BTreeMap<Partition, Followed>) -> bool {
        let (partition, next) = match self.client.poll(POLL) {
            None => return false,
            Some(Ok(message)) => {
                let record = record::incoming(&message, std::slice::from_ref(&self.topic));
                let Some(Followed { life, .. }) = followed.get(&record.source.partition) else { return true };
                behind.read(self.service, *life, &record);
                (record.source.partition, Offset(message.offset() + 1))
            }
            // Whatever is left before the end is a hole (a transaction's mark), which no record reaches.
            Some(Err(KafkaError::PartitionEOF(number))) => (Partition(number), Offset(i64::MAX)),
            Some(Err(error)) => {
                tracing::debug!(topic = %self.topic, %error, "parked calls are not read along just now");
                return false;
            }
        };
        let Some(follows) = followed.get_mut(&partition) else { return true };
        if follows.end.is_some_and(|end| end <= next) {
            follows.end = None;
            // What has ended since the reading began holds nobody up.
            if behind.awaits_ends(self.service, follows.life)
                && let Err(error) = self.look_at(behind, &[follows.life])
            {
                tracing::debug!(topic = %self.topic, %error, "which parked calls have ended is not known just now");
            }
            behind.caught_up(self.service, follows.life);
        }
        true
    }

    /// Asks which calls have ended, where some may have.
    fn look(&self, behind: &Behind, followed: &BTreeMap<Partition, Followed>) -> Result<(), KafkaEdgeError> {
        let lives = followed.values().map(|followed| followed.life);
        let asked: Vec<Life> = lives.filter(|life| behind.awaits_ends(self.service, *life)).collect();
        if asked.is_empty() { Ok(()) } else { self.look_at(behind, &asked) }
    }

    fn look_at(&self, behind: &Behind, lives: &[Life]) -> Result<(), KafkaEdgeError> {
        let extents = self.extents(lives.iter().map(|life| life.partition))?;
        for life in lives {
            if let Some(extent) = extents.get(&life.partition) {
                behind.ended(self.service, *life, |offset| extent.has_ended(offset));
            }
        }
        Ok(())
    }

    /// Where partitions stand, by one question to each broker for each of three things. Those without a leader are left out.
    fn extents(&self, partitions: impl Iterator<Item = Partition>) -> Result<BTreeMap<Partition, Extent>, KafkaEdgeError> {
        let mut all = TopicPartitionList::new();
        for partition in partitions {
            all.add_partition(self.topic.as_str(), partition.0);
        }
        let mut extents = BTreeMap::new();
        if all.count() == 0 {
            return Ok(extents);
        }
        let (lows, ends) = lag::edges(&self.client, &all, WITHIN)?;
        for element in &self.client.committed_offsets(all, WITHIN)?.elements() {
            let partition = element.partition();
            let edge = |list| lag::offset_of(list, &self.topic, partition);
            let (Some(low), Some(end), Ok(())) = (edge(&lows), edge(&ends), element.error()) else { continue };
            let (committed, ended) = lag::committed(element);
            extents.insert(Partition(partition), Extent { from: lag::goes_on_at(committed, low), end, ended });
        }
        Ok(extents)
    }
}
