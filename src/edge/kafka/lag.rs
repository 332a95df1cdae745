//! How far a group is behind, partition by partition: for all partitions, whoever has them, and while they are paused.
//!
//! Asked of the brokers each time: what a consumer knows by itself goes stale for paused partitions, and it knows only its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset as Position, TopicPartitionList};

use super::properties::{self, Quiet};
use super::{KafkaEdgeError, topics};
use crate::config;
use crate::event::{Offset, Partition, Topic, TopicPartition};
use crate::machine::progress::Progress;

/// One partition and its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionLag {
    /// Which.
    pub partition: TopicPartition,
    /// The oldest offset that is still there.
    pub low: Offset,
    /// The offset that the next record will have.
    pub end: Offset,
    /// Where the group goes on; `None` if it never committed.
    pub committed: Option<Offset>,
    /// Above that, how many have finished: Kafka keeps it beside the commit.
    pub finished: u64,
}

impl PartitionLag {
    /// Where the group goes on. One without a commit, or whose place has been deleted, begins at the oldest record.
    pub fn next(&self) -> Offset {
        goes_on_at(self.committed, self.low)
    }

    /// Records between the group and the end, counted by offsets: holes count too.
    pub fn lag(&self) -> u64 {
        u64::try_from(self.end.0 - self.next().0).unwrap_or(0)
    }

    /// Records that are not finished: the lag without what has finished above the commit.
    pub fn unfinished(&self) -> u64 {
        self.lag().saturating_sub(self.finished)
    }

    /// How far the group has come, records that have finished out of turn counted too: it only rises.
    pub fn done(&self) -> i64 {
        self.next().0.saturating_add_unsigned(self.finished)
    }
}

/// Where a group goes on that has committed this, or nothing, in a partition that begins at `low`.
pub(super) fn goes_on_at(committed: Option<Offset>, low: Offset) -> Offset {
    committed.map_or(low, |committed| committed.max(low))
}

/// The first offsets of partitions, and those behind their last, by one question to each broker for each of the two, which takes at most `within`;
/// [`offset_of`] finds them in the lists.
pub(super) fn edges(
    client: &BaseConsumer<Quiet>,
    all: &TopicPartitionList,
    within: Duration,
) -> Result<(TopicPartitionList, TopicPartitionList), KafkaEdgeError> {
    let edge = |position| {
        let mut asked = all.clone();
        asked.set_all_offsets(position)?;
        client.offsets_for_times(asked, within)
    };
    Ok((edge(Position::Beginning)?, edge(Position::End)?))
}

/// What a list says of a partition; `None`: nothing, for it has no leader just now.
pub(super) fn offset_of(list: &TopicPartitionList, topic: &Topic, partition: i32) -> Option<Offset> {
    let found = list.find_partition(topic.as_str(), partition)?;
    match (found.error(), found.offset()) {
        (Ok(()), Position::Offset(offset)) => Some(Offset(offset)),
        _ => None,
    }
}

/// The text beside a commit. The client panics over bytes that are none, which another tool may have committed: they stand for a text that nobody
/// reads.
pub(super) fn beside(element: &TopicPartitionListElem<'_>) -> String {
    catch_unwind(AssertUnwindSafe(|| element.metadata().to_owned())).unwrap_or_else(|_| "no text".to_owned())
}

/// What a group has committed of a partition, `None` if it never did, and what has finished above it as far as that can be read.
pub(super) fn committed(element: &TopicPartitionListElem<'_>) -> (Option<Offset>, Progress) {
    match element.offset() {
        Position::Offset(offset) => (Some(Offset(offset)), Progress::decode(Offset(offset), &beside(element)).unwrap_or_default()),
        Position::Beginning | Position::End | Position::Stored | Position::Invalid | Position::OffsetTail(_) => (None, Progress::default()),
    }
}

/// Asks for a group's lag without being a member of it.
#[derive(Clone)]
pub struct LagSampler {
    client: Arc<BaseConsumer<Quiet>>,
    topics: Arc<[Topic]>,
}

impl LagSampler {
    /// Makes the client.
    ///
    /// # Errors
    /// A property that librdkafka does not take.
    pub fn connect(settings: &config::Kafka, group: &str, topics: &[Topic]) -> Result<Self, KafkaEdgeError> {
        let client = properties::onlooker(settings, Some(group)).create_with_context(Quiet)?;
        Ok(Self { client: Arc::new(client), topics: topics.into() })
    }

    /// One sample, each request taking at most `within`. Topics that do not exist, and partitions that have no leader just now, are
    /// left out.
    ///
    /// # Errors
    /// No broker answers, or one refuses to tell the group's offsets.
    pub async fn sample(&self, within: Duration) -> Result<Vec<PartitionLag>, KafkaEdgeError> {
        let this = self.clone();
        topics::blocking(move || this.ask(within)).await
    }

    /// The same, of a thread that may wait.
    pub(super) fn ask(&self, within: Duration) -> Result<Vec<PartitionLag>, KafkaEdgeError> {
        let mut all = TopicPartitionList::new();
        for topic in self.topics.iter() {
            for partition in topics::partitions(&self.client, topic, within)?.unwrap_or_default() {
                all.add_partition(topic.as_str(), partition.0);
            }
        }
        if all.count() == 0 {
            return Ok(Vec::new());
        }
        let commits = self.client.committed_offsets(all, within)?;
        let mut lags = Vec::with_capacity(commits.count());
        for element in &commits.elements() {
            let Some(topic) = self.topics.iter().find(|topic| topic.as_str() == element.topic()) else { continue };
            match self.client.fetch_watermarks(element.topic(), element.partition(), within) {
                Ok((low, end)) => {
                    let (committed, progress) = committed(element);
                    lags.push(PartitionLag {
                        partition: TopicPartition { topic: topic.clone(), partition: Partition(element.partition()) },
                        low: Offset(low),
                        end: Offset(end),
                        committed,
                        finished: progress.finished_from(Offset(low)),
                    });
                }
                Err(error) => match KafkaEdgeError::from(error) {
                    // With no broker at all, every partition would take its whole time.
                    unreachable if unreachable.is_unreachable() && lags.is_empty() => return Err(unreachable),
                    other => tracing::debug!(%topic, partition = element.partition(), error = %other, "no watermarks"),
                },
            }
        }
        Ok(lags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_counts_from_where_the_group_would_go_on() {
        for (low, end, committed, expected) in
            [(0, 10, Some(4), 6), (0, 10, None, 10), (5, 10, None, 5), (5, 10, Some(2), 5), (10, 10, Some(10), 0), (0, 3, Some(9), 0)]
        {
            let lag = PartitionLag {
                partition: TopicPartition { topic: Topic::from("t"), partition: Partition(0) },
                low: Offset(low),
                end: Offset(end),
                committed: committed.map(Offset),
                finished: 2,
            };
            assert_eq!(lag.lag(), expected, "{lag:?}");
            assert_eq!(lag.unfinished(), expected.saturating_sub(2), "{lag:?}");
            assert_eq!(lag.done(), committed.map_or(low, |committed| low.max(committed)) + 2, "{lag:?}");
        }
    }
}
