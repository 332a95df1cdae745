//! Looks through what a group has not finished of topics: from its commits to the ends that they have at the start, without what has finished above
//! them as the commits' metadata tells. It asks as nobody's member, so it sees all partitions, whoever has them.
//!
//! Looking is bounded by time: of a backlog that is too long for it, what was looked at is told, and that there is more.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset as Position, TopicPartitionList};

use super::error::is_unreachable;
use super::properties::{self, Quiet};
use super::{KafkaEdgeError, lag, record, topics};
use crate::config;
use crate::event::{Incoming, Offset, Topic};
use crate::machine::progress::Progress;

/// How long one question to a broker may take.
const WITHIN: Duration = Duration::from_secs(4);
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(50);

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    /// By topic and partition, the offset that the next record would have had when looking began.
    pub ends: BTreeMap<String, BTreeMap<i32, i64>>,
    /// Unfinished records that were looked at.
    pub looked_at: u64,
    /// Whether those were all.
    pub all: bool,
}

/// Shows every unfinished record of the topics to `see`, for at most `longest`.
///
/// # Errors
/// No broker answers, or one refuses.
pub async fn look(
    settings: &config::Kafka,
    group: &str,
    topics: Vec<Topic>,
    longest: Duration,
    see: impl FnMut(Incoming) + Send + 'static,
) -> Result<Looked, KafkaEdgeError> {
    let client: BaseConsumer<Quiet> = properties::onlooker(settings, Some(group)).create_with_context(Quiet)?;
    let over = Arc::new(AtomicBool::new(false));
    let looking = Looking { client, over: Arc::clone(&over) };
    let mut looking = pin!(topics::blocking(move || looking.run(&topics, see)));
    tokio::select! {
        looked = &mut looking => return looked,
        () = tokio::time::sleep(longest) => over.store(true, Ordering::Relaxed),
    }
    looking.await
}

struct Looking {
    client: BaseConsumer<Quiet>,
    /// Time is.
    over: Arc<AtomicBool>,
}

/// A partition that is not read to its end.
struct Unread {
    end: i64,
    finished: Progress,
}

impl Looking {
    fn run(&self, topics: &[Topic], mut see: impl FnMut(Incoming)) -> Result<Looked, KafkaEdgeError> {
        let mut looked = Looked { all: true, ..Looked::default() };
        // One topic at a time: the end of a partition is told without its topic.
        for topic in topics {
            looked.all &= self.look_through(topic, &mut looked, &mut see)?;
        }
        Ok(looked)
    }

    /// False if there was no time for all of it.
    fn look_through(&self, topic: &Topic, looked: &mut Looked, see: &mut impl FnMut(Incoming)) -> Result<bool, KafkaEdgeError> {
        let mut unread = self.assign(topic, looked)?;
        while !unread.is_empty() && !self.over.load(Ordering::Relaxed) {
            match self.client.poll(POLL) {
                Some(Ok(message)) if message.topic() == topic.as_str() => {
                    let (number, offset) = (message.partition(), message.offset());
                    let Some(partition) = unread.get(&number) else { continue };
                    if offset < partition.end && !partition.finished.has_finished(Offset(offset)) {
                        looked.looked_at += 1;
                        see(record::incoming(&message, std::slice::from_ref(topic)));
                    }
                    if offset + 1 >= partition.end {
                        unread.remove(&number);
                    }
                }
                // The end may be a hole (a transaction's mark), which no record reaches.
                Some(Err(KafkaError::PartitionEOF(number))) => drop(unread.remove(&number)),
                Some(Err(error)) if error.rdkafka_error_code().is_some_and(is_unreachable) => {}
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(_)) | None => {}
            }
        }
        Ok(unread.is_empty())
    }

    /// Assigns every partition of a topic of which something may be unfinished.
    fn assign(&self, topic: &Topic, looked: &mut Looked) -> Result<BTreeMap<i32, Unread>, KafkaEdgeError> {
        let (mut unread, mut assignment) = (BTreeMap::new(), TopicPartitionList::new());
        let mut all = TopicPartitionList::new();
        for partition in topics::partitions(&self.client, topic, WITHIN)?.unwrap_or_default() {
            all.add_partition(topic.as_str(), partition.0);
        }
        if all.count() == 0 {
            return Ok(unread);
        }
        let ends = looked.ends.entry(topic.to_string()).or_default();
        for element in &self.client.committed_offsets(all, WITHIN)?.elements() {
            let number = element.partition();
            let (low, end) = self.client.fetch_watermarks(topic.as_str(), number, WITHIN)?;
            ends.insert(number, end);
            let committed = lag::committed(element);
            let from = lag::goes_on_at(committed, Offset(low));
            if from.0 < end {
                let finished = committed.and_then(|next| Progress::decode(next, element.metadata()).ok()).unwrap_or_default();
                assignment.add_partition_offset(topic.as_str(), number, Position::Offset(from.0))?;
                unread.insert(number, Unread { end, finished });
            }
        }
        self.client.assign(&assignment)?;
        Ok(unread)
    }
}
