//! Reads a topic from its beginning, or its last records, to the end that it has at the start, outside any group: for the tools that list.
//!
//! Memory is bounded by the channel and librdkafka's small read-ahead: the reader waits for whoever takes the records. Records written
//! meanwhile are not read, so that reading ends.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset as Position, TopicPartitionList};
use tokio::sync::mpsc;

use super::error::is_unreachable;
use super::properties::{self, Quiet};
use super::{KafkaEdgeError, record, topics};
use crate::config;
use crate::event::{Incoming, Offset, Partition, Topic};

/// Records read ahead of whoever takes them.
const AHEAD: usize = 64;
/// How long one poll waits: how soon a reader that nobody listens to is noticed.
const POLL: Duration = Duration::from_millis(100);

/// Where reading begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record that is still there.
    Beginning,
    /// So many offsets before the end, in each partition.
    Last(u64),
    /// From one offset to before another, in these partitions.
    Spans(BTreeMap<Partition, (Offset, Offset)>),
}

/// The records of a topic as they are read: in order within a partition, partitions interleaved. The last one is an error if reading
/// ended before the end. Dropping it ends the reading.
pub type Tail = mpsc::Receiver<Result<Incoming, KafkaEdgeError>>;

/// Begins to read a topic. Only records that `keep` says yes to are handed on. `patience` bounds each question to a broker and the
/// longest time without any record before the topic's end.
///
/// # Errors
/// A property that librdkafka does not take, or no thread to be had. Everything else arrives in the [`Tail`].
pub fn read(
    settings: &config::Kafka,
    topic: &Topic,
    start: Start,
    patience: Duration,
    keep: impl Fn(&Incoming) -> bool + Send + 'static,
) -> Result<Tail, KafkaEdgeError> {
    // librdkafka assigns partitions only to consumers with a group. This one never joins it and commits nothing, and the
    // configured name is the one that access rights are given to.
    let client: BaseConsumer<Quiet> = properties::onlooker(settings, Some(&settings.group)).create_with_context(Quiet)?;
    let (records, tail) = mpsc::channel(AHEAD);
    let topic = topic.clone();
    let thread = std::thread::Builder::new().name("kafka-tail".into()).spawn(move || {
        let reader = Reader { client, topic, patience, records };
        if let Err(error) = reader.run(start, keep) {
            // Nobody may be listening any more.
            let _ = reader.records.blocking_send(Err(error));
        }
    });
    match thread {
        Ok(_) => Ok(tail),
        Err(error) => Err(KafkaEdgeError::Client(format!("no thread for it: {error}"))),
    }
}

struct Reader {
    client: BaseConsumer<Quiet>,
    topic: Topic,
    patience: Duration,
    records: mpsc::Sender<Result<Incoming, KafkaEdgeError>>,
}

impl Reader {
    fn run(&self, start: Start, keep: impl Fn(&Incoming) -> bool) -> Result<(), KafkaEdgeError> {
        let mut ends = self.assign(&start)?;
        let topics = [self.topic.clone()];
        let mut waited = Duration::ZERO;
        while !ends.is_empty() && !self.records.is_closed() {
            match self.client.poll(POLL) {
                Some(Ok(message)) => {
                    waited = Duration::ZERO;
                    let (partition, offset) = (message.partition(), message.offset());
                    let Some(end) = ends.get(&partition).copied() else { continue };
                    if offset < end {
                        let record = record::incoming(&message, &topics);
                        if keep(&record) && self.records.blocking_send(Ok(record)).is_err() {
                            return Ok(());
                        }
                    }
                    if offset + 1 >= end {
                        ends.remove(&partition);
                    }
                }
                // The end may be a hole (a transaction's marker, a compacted record), which no record reaches.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    ends.remove(&partition);
                }
                // A broker that is away for a moment; patience ends it otherwise.
                Some(Err(error)) if error.rdkafka_error_code().is_some_and(is_unreachable) => waited += POLL,
                Some(Err(error)) => return Err(error.into()),
                None => waited += POLL,
            }
            if waited >= self.patience {
                return Err(KafkaEdgeError::Unreachable(format!("no record of {} came for {:?}", self.topic, self.patience)));
            }
        }
        Ok(())
    }

    /// Assigns every partition that has records; gives their ends.
    fn assign(&self, start: &Start) -> Result<BTreeMap<i32, i64>, KafkaEdgeError> {
        let Some(partitions) = topics::partitions(&self.client, &self.topic, self.patience)? else {
            return Err(KafkaEdgeError::Refused(format!("the topic {} does not exist", self.topic)));
        };
        let mut ends = BTreeMap::new();
        let mut assignment = TopicPartitionList::new();
        for partition in partitions {
            let (low, end) = self.client.fetch_watermarks(self.topic.as_str(), partition.0, self.patience)?;
            let (from, end) = match start {
                Start::Beginning => (low, end),
                Start::Last(count) => (end.saturating_sub_unsigned(*count).max(low), end),
                Start::Spans(spans) => spans.get(&partition).map_or((end, end), |(from, to)| (from.0.max(low), to.0.min(end))),
            };
            if from < end {
                assignment.add_partition_offset(self.topic.as_str(), partition.0, Position::Offset(from))?;
                ends.insert(partition.0, end);
            }
        }
        self.client.assign(&assignment)?;
        Ok(ends)
    }
}
