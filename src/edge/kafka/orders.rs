//! The log of orders for parked calls: a compacted topic, read as a whole by every instance.
//!
//! | key | value |
//! |---|---|
//! | `order/<id>` | an order, JSON; null once it is of no more use |
//! | `pause/<service>/<group>` | a pause of a fleet's service, or its end |
//! | `progress/<id>/<instance>` | how far an instance has come with an order; null once that is forgotten |
//!
//! Each is of one fleet, by its consumer group, which the value names; ids are never given twice, so that the keys of orders need no group.
//!
//! Guarantees:
//! - What is written is told to be so only when Kafka has acknowledged it, and is heard by this instance like by the others: from the topic.
//! - Reading goes on for ever, whatever happens to brokers; a topic that is missing, or may not be read, is looked for again every few seconds, is told
//!   of once and holds nobody up.
//! - No more writes wait than a bound; one more is refused.
//! - A record that this version cannot read is left out, with a line in the log.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset as Position, TopicPartitionList};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::error::is_for_want_of_a_right;
use super::properties::{self, Quiet};
use super::publisher::{KafkaPublisher, Producer};
use super::{KafkaEdgeError, record, topics};
use crate::config;
use crate::event::{Headers, Incoming, Record, Topic};
use crate::machine::orders::{Change, Order};
use crate::pipeline::acks::Acks;
use crate::pipeline::orders::OrderBook;
use crate::pipeline::ports::{Ack, Clock, OrderLog, PublishError, Publisher, Token};

/// How long one question to a broker may take.
const WITHIN: Duration = Duration::from_secs(5);
/// How long one poll waits: how soon the end of the process is noticed.
const POLL: Duration = Duration::from_millis(200);
/// How often a topic that is missing is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Writes that wait.
const WAITING: usize = 64;

type Write = (Record, oneshot::Sender<Result<(), PublishError>>);

/// Writes to the log.
#[derive(Debug, Clone)]
pub struct KafkaOrders<C> {
    topic: Topic,
    writes: mpsc::Sender<Write>,
    clock: C,
}

/// Ends the reading when it is dropped.
#[derive(Debug)]
pub struct Reading(Arc<AtomicBool>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Begins to write to the log.
pub fn write<C: Clock>(topic: Topic, producer: &Producer, clock: C) -> KafkaOrders<C> {
    let (writes, wanted) = mpsc::channel(WAITING);
    let (publisher, acks) = producer.handle();
    tokio::spawn(serve(publisher, acks, wanted));
    KafkaOrders { topic, writes, clock }
}

/// Begins to read the log into a book.
///
/// # Errors
/// A property that librdkafka does not take, or no thread to be had.
pub fn read(settings: &config::Kafka, topic: Topic, book: Arc<OrderBook>) -> Result<Reading, KafkaEdgeError> {
    // librdkafka assigns partitions only to consumers with a group; this one never joins it, and commits nothing.
    let client: BaseConsumer<Quiet> = properties::onlooker(settings, Some(&settings.group)).create_with_context(Quiet)?;
    let over = Arc::new(AtomicBool::new(false));
    let reading = Reading(Arc::clone(&over));
    std::thread::Builder::new()
        .name("kafka-orders".into())
        .spawn(move || Reader { client, topic, book, over }.run())
        .map_err(|error| KafkaEdgeError::Client(format!("no thread for it: {error}")))?;
    Ok(reading)
}

impl<C: Clock> OrderLog for KafkaOrders<C> {
    async fn write(&self, change: &Change) -> Result<(), PublishError> {
        let gone = || PublishError::Failed("the process ends".to_owned());
        let (told, answer) = oneshot::channel();
        self.writes.try_send((kept(&self.topic, change, self.clock.wall()), told)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PublishError::Failed("more is to be written than Kafka takes just now".to_owned()),
            mpsc::error::TrySendError::Closed(_) => gone(),
        })?;
        answer.await.map_err(|_| gone())?
    }
}

/// Hands records over one after the other, for as long as anybody may write.
async fn serve(publisher: KafkaPublisher, mut acks: Acks, mut wanted: mpsc::Receiver<Write>) {
    let mut number = 0;
    while let Some((record, told)) = wanted.recv().await {
        number += 1;
        let answer = match publisher.publish(&record, Token(number)) {
            Err(_full) => Err(PublishError::Failed("more is to be published than Kafka takes just now".to_owned())),
            Ok(()) => loop {
                match acks.recv().await {
                    Some(Ack { token: Token(of), result }) if of == number => break result.map(drop),
                    Some(_) => {}
                    None => break Err(PublishError::Failed("the producer has ended".to_owned())),
                }
            },
        };
        // Whoever asked may have gone.
        let _ = told.send(answer);
    }
}

struct Reader {
    client: BaseConsumer<Quiet>,
    topic: Topic,
    book: Arc<OrderBook>,
    over: Arc<AtomicBool>,
}

impl Reader {
    fn run(&self) {
        let Some(mut unread) = self.assign() else { return };
        let (topics, mut refused) = ([self.topic.clone()], false);
        loop {
            if unread.is_empty() {
                self.book.note_caught_up();
            }
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            match self.client.poll(POLL) {
                Some(Ok(message)) => {
                    let record = record::incoming(&message, &topics);
                    match change(&record) {
                        Some(change) => self.book.hear(change),
                        None => tracing::warn!(
                            target: "fusebox",
                            topic = %self.topic,
                            partition = record.source.partition.0,
                            offset = record.source.offset.0,
                            "an order for parked calls cannot be read by this version; it is left out"
                        ),
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(unread.remove(&partition)),
                // librdkafka goes on by itself, also with what was refused.
                Some(Err(error)) if error.rdkafka_error_code().is_some_and(is_for_want_of_a_right) => {
                    self.refused(&error.into(), &mut refused)
                }
                Some(Err(error)) => tracing::debug!(%error, "orders are not read just now"),
                None => {}
            }
        }
    }

    /// The topic may not be read. Nobody waits for that to change; it is told `once`.
    fn refused(&self, error: &KafkaEdgeError, once: &mut bool) {
        if !std::mem::replace(once, true) {
            tracing::warn!(
                target: "fusebox",
                topic = %self.topic,
                %error,
                "orders about parked calls are not read: give Fusebox's user Read, Write and Describe on this topic; until then parked calls are \
                 drained as if nothing was ordered"
            );
        }
        self.book.note_caught_up();
    }

    /// Assigns every partition from its beginning, once the topic is there; `None` if the process ends before.
    fn assign(&self) -> Option<BTreeSet<i32>> {
        let (mut missing, mut refused) = (false, false);
        loop {
            match topics::partitions(&self.client, &self.topic, WITHIN) {
                Ok(Some(partitions)) if !partitions.is_empty() => {
                    let mut assignment = TopicPartitionList::new();
                    for partition in &partitions {
                        // An offset by name cannot be refused.
                        let _ = assignment.add_partition_offset(self.topic.as_str(), partition.0, Position::Beginning);
                    }
                    if self.client.assign(&assignment).is_ok() {
                        return Some(partitions.into_iter().map(|partition| partition.0).collect());
                    }
                }
                Ok(_) => {
                    if !std::mem::replace(&mut missing, true) {
                        tracing::warn!(
                            target: "fusebox",
                            topic = %self.topic,
                            "there is no topic for orders about parked calls: none can be given until `fusebox migrate` has created it"
                        );
                    }
                    self.book.note_caught_up();
                }
                Err(error) if error.is_unreachable() => tracing::debug!(%error, "the topic of orders cannot be asked for"),
                Err(error) => self.refused(&error, &mut refused),
            }
            for _ in 0..LOOK_EVERY.as_millis() / POLL.as_millis() {
                if self.over.load(Ordering::Relaxed) {
                    return None;
                }
                std::thread::sleep(POLL);
            }
        }
    }
}

/// The record that keeps a change.
fn kept(topic: &Topic, change: &Change, now: crate::event::UnixMillis) -> Record {
    let (key, value) = match change {
        Change::Order(order) => (format!("order/{}", order.id), serde_json::to_vec(order.as_ref()).ok()),
        Change::Forgotten(id) => (format!("order/{id}"), None),
        Change::Pause(pause) => (format!("pause/{}/{}", pause.service, pause.group), serde_json::to_vec(pause).ok()),
        Change::Progress(progress) => (format!("progress/{}/{}", progress.order, progress.instance), serde_json::to_vec(progress).ok()),
        Change::ProgressForgotten { order, instance } => (format!("progress/{order}/{instance}"), None),
    };
    Record {
        topic: topic.clone(),
        partition: None,
        key: Some(key.into()),
        value: value.map(Bytes::from),
        headers: Headers::new(),
        timestamp: now,
    }
}

/// The change that a record keeps; `None` if it is none that this version reads.
fn change(record: &Incoming) -> Option<Change> {
    let key = std::str::from_utf8(record.key.as_deref()?).ok()?;
    let (kind, name) = key.split_once('/')?;
    let value = record.value.as_deref();
    match (kind, value) {
        ("order", Some(value)) => serde_json::from_slice::<Order>(value).ok().map(Change::from),
        ("order", None) => Uuid::parse_str(name).ok().map(Change::Forgotten),
        ("pause", Some(value)) => serde_json::from_slice(value).ok().map(Change::Pause),
        ("progress", Some(value)) => serde_json::from_slice(value).ok().map(Change::Progress),
        ("progress", None) => {
            let (order, instance) = name.split_once('/')?;
            Some(Change::ProgressForgotten { order: Uuid::parse_str(order).ok()?, instance: instance.to_owned() })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rdkafka::bindings::rd_kafka_resp_err_t as RDKafkaRespErr;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::RDKafkaApiKey;

    use super::*;
    use crate::config::LogFormat;
    use crate::event::{Offset, Partition, Source, UnixMillis};
    use crate::machine::orders::{Act, Pause, Progress};
    use crate::machine::selection::Selection;
    use crate::telemetry::capture::logged;

    fn back(change_kept: &Change) -> Option<Change> {
        let record = kept(&Topic::from("orders"), change_kept, UnixMillis(5));
        let source = Source { topic: record.topic, partition: Partition(0), offset: Offset(0) };
        change(&Incoming { source, key: record.key, value: record.value, headers: record.headers, timestamp: Some(record.timestamp) })
    }

    /// Reads a topic that `refuses`, for a while after it is caught up with; gives the warnings.
    fn warned(refuses: impl FnOnce(&MockCluster<'_, DefaultProducerContext>), a_while: Duration) -> Vec<String> {
        let cluster = MockCluster::new(1).expect("a cluster");
        cluster.create_topic("orders", 1, 1).expect("a topic");
        refuses(&cluster);
        let brokers = cluster.bootstrap_servers();
        let settings = config::Kafka { brokers, group: "g".to_owned(), properties: BTreeMap::new().into_iter().collect() };
        let client = properties::onlooker(&settings, Some("g")).create_with_context(Quiet).expect("a client");
        let (book, over) = (Arc::new(OrderBook::of("g")), Arc::new(AtomicBool::new(false)));
        let reader = Reader { client, topic: Topic::from("orders"), book: Arc::clone(&book), over: Arc::clone(&over) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let lines = logged(LogFormat::Json, "info", || {
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    let caught_up = runtime.block_on(async { tokio::time::timeout(WITHIN, book.caught_up()).await });
                    std::thread::sleep(a_while);
                    over.store(true, Ordering::Relaxed);
                    assert!(caught_up.is_ok(), "drains wait");
                });
                reader.run();
            });
        });
        lines.into_iter().filter(|line| line.contains("WARN")).collect()
    }

    #[test]
    fn a_topic_that_may_not_be_read_is_told_once_and_holds_nobody_up() {
        let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
        // It is asked for once more.
        let described = warned(|cluster| cluster.topic_error("orders", refused).expect("refused"), LOOK_EVERY + Duration::from_secs(1));
        let fetched = warned(|cluster| cluster.request_errors(RDKafkaApiKey::Fetch, &[refused; 10]), Duration::from_secs(1));
        for warnings in [described, fetched] {
            assert!(matches!(&warnings[..], [line] if line.contains("Read") && line.contains("Describe")), "{warnings:?}");
        }
    }

    #[test]
    fn a_change_comes_back_as_it_went() {
        let id = Uuid::from_u128(7);
        let order = |act| Order {
            id,
            group: "g".to_owned(),
            act,
            selection: Selection { reasons: ["timeout".to_owned()].into(), attempts_from: Some(3), ..Selection::default() },
            ends: BTreeMap::from([("retry".to_owned(), BTreeMap::from([(0, 12), (3, 99)]))]),
            at: UnixMillis(1_793_739_845_678),
            actor: "ann".to_owned(),
            reason: "drill".to_owned(),
            rate: Some(5),
            calls: 3,
            counted_all: false,
            cancelled_by: None,
        };
        let pause = Pause {
            group: "g/1".to_owned(),
            service: "notifier".to_owned(),
            at: UnixMillis(1),
            actor: "ann".into(),
            reason: String::new(),
            until: None,
        };
        for change in [
            order(Act::Release).into(),
            Order { cancelled_by: Some("bob".into()), rate: None, ..order(Act::Delay { until: UnixMillis(9) }) }.into(),
            order(Act::Discard).into(),
            Change::Forgotten(id),
            Change::Pause(Pause::end("g/1".to_owned(), "notifier".to_owned(), UnixMillis(2), "bob".to_owned())),
            Change::Pause(pause),
            Change::Progress(Progress { order: id, group: "g".to_owned(), instance: "i-1".to_owned(), done: 4 }),
            Change::ProgressForgotten { order: id, instance: "i/1".to_owned() },
        ] {
            assert_eq!(back(&change), Some(change));
        }
    }
}
