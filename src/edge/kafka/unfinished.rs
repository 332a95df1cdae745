//! Looks through what a group has not finished of topics: from its commits to the ends that they have at the start, without what has finished above
//! them as the commits' metadata tells. It asks as nobody's member, so it sees all partitions, whoever has them.
//!
//! Looking is bounded by time: of a backlog that is too long for it, what was looked at is told, and that there is more. The ends are asked for first,
//! all of them; if there is no time even for that, it is an error. Whoever drops the question ends it.

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

/// How long one question to a broker may take; the one that is under way when the time is over is waited for.
const WITHIN: Duration = Duration::from_secs(2);
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
/// No broker answers in time, or one refuses.
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
    let _over = Over(Arc::clone(&over));
    let mut looking = pin!(topics::blocking(move || looking.run(&topics, see)));
    tokio::select! {
        looked = &mut looking => return looked,
        () = tokio::time::sleep(longest) => over.store(true, Ordering::Relaxed),
    }
    looking.await
}

/// Nobody waits any more: the thread that looks would else go on to the end.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Looking {
    client: BaseConsumer<Quiet>,
    /// Time is.
    over: Arc<AtomicBool>,
}

/// A partition that is not read to its end.
struct Unread {
    from: i64,
    end: i64,
    finished: Progress,
}

impl Looking {
    fn run(&self, topics: &[Topic], mut see: impl FnMut(Incoming)) -> Result<Looked, KafkaEdgeError> {
        let mut looked = Looked { all: true, ..Looked::default() };
        let mut asked = Vec::new();
        for topic in topics {
            asked.push((topic, self.ask(topic, &mut looked)?));
        }
        // One topic at a time: the end of a partition is told without its topic.
        for (topic, unread) in asked {
            looked.all &= self.look_through(topic, unread, &mut looked, &mut see)?;
        }
        Ok(looked)
    }

    /// False if there was no time for all of it.
    fn look_through(
        &self,
        topic: &Topic,
        mut unread: BTreeMap<i32, Unread>,
        looked: &mut Looked,
        see: &mut impl FnMut(Incoming),
    ) -> Result<bool, KafkaEdgeError> {
        let mut assignment = TopicPartitionList::new();
        for (number, partition) in &unread {
            assignment.add_partition_offset(topic.as_str(), *number, Position::Offset(partition.from))?;
        }
        self.client.assign(&assignment)?;
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

    /// Asks for every partition of a topic; gives those of which something may be unfinished.
    fn ask(&self, topic: &Topic, looked: &mut Looked) -> Result<BTreeMap<i32, Unread>, KafkaEdgeError> {
        let (mut unread, mut all) = (BTreeMap::new(), TopicPartitionList::new());
        for partition in topics::partitions(&self.client, topic, WITHIN)?.unwrap_or_default() {
            all.add_partition(topic.as_str(), partition.0);
        }
        if all.count() == 0 {
            return Ok(unread);
        }
        let ends = looked.ends.entry(topic.to_string()).or_default();
        for element in &self.client.committed_offsets(all, WITHIN)?.elements() {
            if self.over.load(Ordering::Relaxed) {
                return Err(KafkaEdgeError::Unreachable(format!("there was no time to ask for the ends of {topic}")));
            }
            let number = element.partition();
            let (low, end) = self.client.fetch_watermarks(topic.as_str(), number, WITHIN)?;
            ends.insert(number, end);
            let (committed, finished) = lag::committed(element);
            let from = lag::goes_on_at(committed, Offset(low));
            if from.0 < end {
                unread.insert(number, Unread { from: from.0, end, finished });
            }
        }
        Ok(unread)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};

    use super::*;

    const PARTITIONS: i32 = 12;

    /// A broker with records in each partition of a topic.
    fn cluster() -> (MockCluster<'static, DefaultProducerContext>, config::Kafka, Topic) {
        let cluster = MockCluster::new(1).expect("a cluster");
        let topic = Topic::from("retry");
        cluster.create_topic(topic.as_str(), PARTITIONS, 1).expect("a topic");
        let brokers = cluster.bootstrap_servers();
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().expect("a producer");
        for number in 0..240 {
            let record = BaseRecord::<(), [u8]>::to(topic.as_str()).partition(number % PARTITIONS).payload(b"{}");
            assert!(producer.send(record).is_ok());
        }
        producer.flush(Duration::from_secs(10)).expect("flushed");
        (cluster, config::Kafka { brokers, group: "g".to_owned(), properties: BTreeMap::new().into_iter().collect() }, topic)
    }

    fn see(seen: &Arc<AtomicU64>) -> impl FnMut(Incoming) + Send + 'static {
        let seen = Arc::clone(seen);
        move |_| {
            seen.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[tokio::test]
    async fn looking_ends_with_whoever_wanted_it() {
        let (_cluster, settings, topic) = cluster();
        let seen = Arc::default();
        let looking = look(&settings, "g", vec![topic], Duration::from_secs(60), see(&seen));
        assert!(tokio::time::timeout(Duration::from_millis(5_000), looking).await.is_err());
        tokio::time::sleep(Duration::from_millis(200)).await;
        let then = seen.load(Ordering::Relaxed);
        assert!(then > 0 && then < 240, "{then}");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(seen.load(Ordering::Relaxed), then);
    }

    #[tokio::test]
    async fn asking_for_the_ends_takes_no_longer_than_looking_may() {
        let (cluster, settings, topic) = cluster();
        cluster.broker_round_trip_time(1, Duration::from_millis(400)).expect("slow");
        let begun = tokio::time::Instant::now();
        let looked = look(&settings, "g", vec![topic], Duration::from_millis(1_500), |_| {}).await;
        // Twelve partitions' answers alone would take 4.8 s.
        assert!(begun.elapsed() < Duration::from_millis(4_500), "{:?}", begun.elapsed());
        assert!(looked.is_err_and(|error| error.is_unreachable()), "an order about half the ends would be about half the calls");
    }
}
