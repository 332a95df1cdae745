//! Kafka as an onlooker sees it: topics read from their beginning to their end, offsets that groups have committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fusebox::event::UnixMillis;
use futures_util::future::join_all;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use super::event::Event;
use super::{DEADLINE, RUNTIME, eventually, server};

/// How long one question to the broker may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A record as it lies on a topic.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Its timestamp, unix ms.
    pub timestamp: i64,
}

impl Message {
    /// The value as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let value = self.value.as_deref().unwrap_or_else(|| panic!("no value: {self:?}"));
        serde_json::from_slice(value).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The key as text.
    #[track_caller]
    pub fn key(&self) -> &str {
        self.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_else(|| panic!("no key: {self:?}"))
    }

    /// The value of a header that must be there, once.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let all: Vec<_> = self.headers.iter().filter(|(there, _)| there == name).collect();
        let [(_, Some(value))] = all.as_slice() else { panic!("not one header `{name}` with a value: {:?}", self.headers) };
        std::str::from_utf8(value).unwrap_or_else(|_| panic!("`{name}` is no text: {:?}", self.headers))
    }

    /// The value of such a header as a number.
    #[track_caller]
    pub fn number(&self, name: &str) -> i64 {
        self.header(name).parse().unwrap_or_else(|_| panic!("`{name}` is no number: {:?}", self.headers))
    }
}

/// What a group has committed of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The next offset that it wants; `None` if it has committed nothing.
    pub offset: Option<i64>,
    /// What stands beside it.
    pub metadata: String,
}

fn client() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", server("KAFKA_BROKERS")).set("allow.auto.create.topics", "false");
    config
}

/// Asks for metadata and ends of partitions.
static ONLOOKER: LazyLock<BaseConsumer> = LazyLock::new(|| client().create().expect("a consumer"));

static ADMIN: LazyLock<AdminClient<DefaultClientContext>> = LazyLock::new(|| client().create().expect("an admin client"));

static PRODUCER: LazyLock<FutureProducer> = LazyLock::new(|| {
    // How large a record may be is for the broker to say.
    client().set("enable.idempotence", "true").set("linger.ms", "5").set("message.max.bytes", "100000000").create().expect("a producer")
});

/// Reads topics, one at a time: a consumer made anew would spend half a second on getting to know the broker.
static READER: LazyLock<Mutex<BaseConsumer>> = LazyLock::new(|| {
    let mut config = client();
    config.set("group.id", "it-reads").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    // The broker answers at once where there is nothing more.
    Mutex::new(config.set("fetch.wait.max.ms", "5").create().expect("a consumer"))
});

/// How many partitions a topic has; 0: there is no such topic.
pub fn partitions(topic: &str) -> i32 {
    let metadata = ONLOOKER.fetch_metadata(Some(topic), PATIENCE).expect("Kafka answers");
    let found = metadata.topics().iter().find(|found| found.name() == topic).map_or(0, |found| found.partitions().len());
    i32::try_from(found).expect("few partitions")
}

/// The offset behind the last record, by partition.
pub fn ends(topic: &str) -> BTreeMap<i32, i64> {
    let end = |partition| ONLOOKER.fetch_watermarks(topic, partition, PATIENCE).expect("Kafka answers").1;
    (0..partitions(topic)).map(|partition| (partition, end(partition))).collect()
}

/// How many partitions each member of a group has that has settled; nothing while it rebalances.
pub fn shares(group: &str) -> Vec<usize> {
    let groups = ONLOOKER.fetch_group_list(Some(group), PATIENCE).expect("Kafka answers");
    let found = groups.groups().iter().find(|found| found.name() == group && found.state() == "Stable");
    found.map(|found| found.members().iter().map(|member| assigned(member.assignment().unwrap_or_default())).collect()).unwrap_or_default()
}

/// The partitions in a member's assignment, as the classic protocols write it: version, topics, each with its name and its partitions.
fn assigned(assignment: &[u8]) -> usize {
    fn number<const N: usize>(bytes: &mut &[u8]) -> Option<usize> {
        let (number, rest) = bytes.split_at_checked(N)?;
        *bytes = rest;
        Some(number.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }
    let bytes = &mut &assignment[..];
    let mut read = || {
        number::<2>(bytes)?;
        let mut all = 0;
        for _ in 0..number::<4>(bytes)? {
            let name = number::<2>(bytes)?;
            *bytes = bytes.get(name..)?;
            let partitions = number::<4>(bytes)?;
            *bytes = bytes.get(4 * partitions..)?;
            all += partitions;
        }
        Some(all)
    };
    read().unwrap_or(0)
}

/// How many records a topic holds.
pub fn count(topic: &str) -> usize {
    usize::try_from(ends(topic).values().sum::<i64>()).expect("no negative offsets")
}

/// Every record of a topic, by partition and offset.
pub fn read(topic: &str) -> Vec<Message> {
    let consumer = READER.lock().unwrap_or_else(PoisonError::into_inner);
    let partitions = partitions(topic);
    assert!(partitions > 0, "there is no topic {topic}");
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&list).expect("assigned");
    // By number: one that is written to meanwhile ends more than once.
    let (from, mut messages, mut ended) = (Instant::now(), Vec::new(), BTreeSet::new());
    while i32::try_from(ended.len()).expect("few partitions") < partitions {
        match eventually("Kafka says something", || consumer.poll(Duration::from_millis(500))) {
            Err(KafkaError::PartitionEOF(partition)) => {
                ended.insert(partition);
            }
            // A broker has gone; the client reads on from another.
            Err(error) if is_away(&error) && from.elapsed() < 2 * DEADLINE => {}
            Err(error) => panic!("{topic} cannot be read: {error}"),
            Ok(message) => messages.push(Message {
                partition: message.partition(),
                offset: message.offset(),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
                headers: message
                    .headers()
                    .into_iter()
                    .flat_map(Headers::iter)
                    .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
                    .collect(),
                timestamp: message.timestamp().to_millis().unwrap_or(-1),
            }),
        }
    }
    consumer.unassign().expect("unassigned");
    messages.sort_by_key(|message| (message.partition, message.offset));
    messages
}

fn is_away(error: &KafkaError) -> bool {
    let away = [RDKafkaErrorCode::BrokerTransportFailure, RDKafkaErrorCode::AllBrokersDown];
    error.rdkafka_error_code().is_some_and(|code| away.contains(&code))
}

/// What a group has committed, by partition.
pub fn committed(group: &str, topic: &str) -> BTreeMap<i32, Committed> {
    let consumer: BaseConsumer = client().set("group.id", group).create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, partitions(topic) - 1);
    let list = consumer.committed_offsets(list, PATIENCE).expect("Kafka answers");
    let committed = |offset| match offset {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    };
    let elements = list.elements();
    elements.iter().map(|e| (e.partition(), Committed { offset: committed(e.offset()), metadata: e.metadata().to_owned() })).collect()
}

/// Publishes events in their order and waits for Kafka to have them. Gives each one's partition and offset.
pub fn publish(topic: &str, events: &[Event]) -> Vec<(i32, i64)> {
    let now = UnixMillis(fusebox::edge::clock::wall_of(std::time::SystemTime::now()).0).0;
    RUNTIME.block_on(async {
        let deliveries = events.iter().map(|event| {
            let mut headers = OwnedHeaders::new();
            for (name, value) in &event.headers {
                headers = headers.insert(Header { key: name, value: Some(value) });
            }
            let mut record = FutureRecord::<[u8], [u8]>::to(topic).timestamp(now);
            (record.key, record.payload, record.partition) = (event.key.as_deref(), event.value.as_deref(), event.partition);
            record.headers = (!event.headers.is_empty()).then_some(headers);
            PRODUCER.send_result(record).map_err(|(error, _)| error).expect("room in the producer's queue")
        });
        let deliveries: Vec<_> = deliveries.collect();
        let delivered = join_all(deliveries).await;
        delivered
            .into_iter()
            .map(|delivery| {
                let delivery = delivery.expect("the producer lives").map_err(|(error, _)| error).expect("Kafka takes it");
                (delivery.partition, delivery.offset)
            })
            .collect()
    })
}

/// Gives a topic these settings, and of all others the brokers' own.
pub fn set(topic: &str, settings: &[(&str, &str)]) {
    eventually("the settings are taken", || {
        let config = AlterConfig::new(ResourceSpecifier::Topic(topic));
        let config = settings.iter().fold(config, |config, (name, value)| config.set(name, value));
        let altered = RUNTIME.block_on(ADMIN.alter_configs(&[config], &AdminOptions::new()));
        altered.ok()?.into_iter().all(|result| result.is_ok()).then_some(())
    });
}

/// Deletes topics, as far as they are there.
pub fn delete(topics: &[&str]) {
    // What is left behind disturbs no other test: every name is used once.
    drop(RUNTIME.block_on(ADMIN.delete_topics(topics, &AdminOptions::new())));
}
