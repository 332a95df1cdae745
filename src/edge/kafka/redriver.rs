//! Dead letters that go back, and the memory that they went: the offsets of a group that nobody joins.
//!
//! Guarantees:
//! - The memory is written when Kafka has acknowledged what it tells of. So whatever ends a run, the next one goes on, and what was in hand goes
//!   twice at most.
//! - [`Redriver::together`]: a record and its memory are there together or not at all, for readers that read what is committed. Nothing goes
//!   twice. But transactions leave marks on the topics, and the lag of a group that has read everything counts them until the next record
//!   comes: where events are not processed so, an empty backlog would look as if there were one.
//! - There is one at a time: a second takes over, and the first hears of it with its next batch, which it may have sent by then.
//!
//! The group is `<kafka.group>.redrives`, and so is the `transactional.id` that fences. Kafka forgets a group's offsets when it has committed
//! nothing for `offsets.retention.minutes` (7 days by default); a run commits them anew, whatever it redrove.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rdkafka::Offset as Position;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{Producer as _, ThreadedProducer};
use tokio::sync::Mutex;

use super::consumer::{Fates, Outlook, list_with_points, outlook};
use super::error::{is_for_want_of_a_right, is_unreachable};
use super::properties::{self, Quiet};
use super::publisher::{KafkaPublisher, Producer, reason};
use super::{KafkaEdgeError, lag, record, topics};
use crate::config;
use crate::event::{Offset, Partition, Record, Topic};
use crate::machine::redriven::Memory;
use crate::pipeline::ports::{Ack, Acks, CommitPoint, PublishError, Publisher as _, Token};
use crate::pipeline::redrive::{NotRedriven, Redrives};

/// How long one call of the client may block.
const SLICE: Duration = Duration::from_secs(1);

/// How long to wait before what may be tried again is.
const AGAIN: Duration = Duration::from_millis(50);

/// How often a step is tried: with [`SLICE`], for as long as it takes a broker to restart.
const TRIES: u32 = 45;

/// How often at the beginning, when somebody waits to hear whether Kafka is there.
const FIRST_TRIES: u32 = 12;

/// How long sending the offsets may take.
const OFFSETS_WITHIN: Duration = Duration::from_secs(5);

/// The group that remembers.
fn group(settings: &config::Kafka) -> String {
    format!("{}.redrives", settings.group)
}

/// What was redriven of each partition of a topic. Takes over from nobody.
///
/// # Errors
/// No broker answers, one refuses, the topic does not exist, or the memory is another version's.
pub async fn memories(settings: &config::Kafka, topic: &Topic, within: Duration) -> Result<BTreeMap<Partition, Memory>, KafkaEdgeError> {
    let client = onlooker(settings)?;
    let topic = topic.clone();
    topics::blocking(move || ask(&client, &topic, within)).await
}

fn onlooker(settings: &config::Kafka) -> Result<BaseConsumer<Quiet>, KafkaEdgeError> {
    let mut properties = properties::onlooker(settings, Some(&group(settings)));
    // It never joins. A memory that is just being written is waited for.
    properties.remove("group.protocol");
    properties.set("isolation.level", "read_committed");
    Ok(properties.create_with_context(Quiet)?)
}

fn ask(client: &BaseConsumer<Quiet>, topic: &Topic, within: Duration) -> Result<BTreeMap<Partition, Memory>, KafkaEdgeError> {
    let Some(partitions) = topics::partitions(client, topic, within)? else {
        return Err(KafkaEdgeError::Refused(format!("the topic {topic} does not exist")));
    };
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(topic.as_str(), partition.0);
    }
    let mut memories = BTreeMap::new();
    for element in client.committed_offsets(list, within)?.elements() {
        let (low, end) = client.fetch_watermarks(topic.as_str(), element.partition(), within)?;
        // What is not known must not count as never redriven.
        element.error()?;
        let beside = lag::beside(&element);
        let committed = match element.offset() {
            Position::Offset(next) => Some((Offset(next), beside.as_str())),
            Position::Beginning | Position::End | Position::Stored | Position::Invalid | Position::OffsetTail(_) => None,
        };
        let memory = Memory::read(committed, Offset(low), Offset(end)).map_err(|error| {
            let partition = element.partition();
            KafkaEdgeError::Refused(format!("what was redriven of {topic}/{partition} cannot be read beside its group's offset: {error}"))
        })?;
        memories.insert(Partition(element.partition()), memory);
    }
    Ok(memories)
}

/// See the module's words. Cloning shares it.
#[derive(Clone)]
pub struct Redriver(Arc<Inner>);

struct Inner {
    producer: ThreadedProducer<Fates>,
    /// Says in whose name offsets are committed.
    group: BaseConsumer<Quiet>,
    /// Publishes records by themselves; `None`: they go in the transaction with their memory.
    plain: Option<Mutex<Plain>>,
}

struct Plain {
    publisher: KafkaPublisher,
    acks: Acks,
    /// What the next record is known by.
    next: u64,
    _producer: Producer,
}

enum Trouble {
    Abort(RDKafkaErrorCode),
    Fatal(RDKafkaErrorCode),
}

impl Redriver {
    /// Takes over from whoever redrives just now; what that one had not committed is undone. Ask for [`memories`] after this.
    ///
    /// # Errors
    /// A property that librdkafka does not take, no answer, or no right to it.
    pub async fn begin(settings: &config::Kafka) -> Result<Self, KafkaEdgeError> {
        let producer = Producer::connect(settings)?;
        let (publisher, acks) = producer.handle();
        Self::begin_with(settings, Some(Mutex::new(Plain { publisher, acks, next: 0, _producer: producer }))).await
    }

    /// The same, for records that are to be there with their memory or not at all.
    ///
    /// # Errors
    /// As [`Redriver::begin`].
    pub async fn together(settings: &config::Kafka) -> Result<Self, KafkaEdgeError> {
        Self::begin_with(settings, None).await
    }

    async fn begin_with(settings: &config::Kafka, plain: Option<Mutex<Plain>>) -> Result<Self, KafkaEdgeError> {
        let producer = properties::transactions(settings, &group(settings)).create_with_context(Fates::default())?;
        let redriver = Self(Arc::new(Inner { producer, group: onlooker(settings)?, plain }));
        let inner = Arc::clone(&redriver.0);
        topics::blocking(move || {
            tried(FIRST_TRIES, || inner.producer.init_transactions(SLICE)).map_err(|trouble| match trouble {
                Trouble::Abort(code) | Trouble::Fatal(code) if is_for_want_of_a_right(code) || is_not_allowed(code) => {
                    KafkaEdgeError::Refused(format!(
                        "{code}; redriving takes Write and Describe on a transactional id (docs/operations.md)"
                    ))
                }
                Trouble::Abort(code) | Trouble::Fatal(code) => code.into(),
            })
        })
        .await?;
        Ok(redriver)
    }
}

fn is_not_allowed(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::TransactionalIdAuthorizationFailed)
}

impl Redrives for Redriver {
    async fn redrive(&self, records: Vec<Record>, points: Vec<CommitPoint>) -> Result<(), NotRedriven> {
        let (inner, mut records) = (Arc::clone(&self.0), records);
        if let Some(plain) = &self.0.plain {
            let (refused, gone) = plain.lock().await.publish(&records).await;
            if !refused.is_empty() {
                return Err(NotRedriven::Refused { refused, gone });
            }
            if gone.len() < records.len() {
                return Err(NotRedriven::Failed { why: "the client no longer says what has arrived".to_owned(), unreachable: false });
            }
            records.clear();
        }
        match tokio::task::spawn_blocking(move || inner.transact(&records, &points)).await {
            Ok(answer) => answer,
            Err(error) => Err(NotRedriven::Failed { why: format!("the batch met a defect: {error}"), unreachable: false }),
        }
    }
}

impl Plain {
    /// Publishes records, and says which Kafka has not and which it has.
    async fn publish(&mut self, records: &[Record]) -> (Vec<(usize, PublishError)>, Vec<usize>) {
        let first = self.next;
        let (mut refused, mut gone) = (Vec::new(), Vec::new());
        for record in records {
            // It is this run's own queue, and a batch is far from filling it.
            if self.publisher.publish(record, Token(self.next)).is_err() {
                let place = usize::try_from(self.next - first).unwrap_or(usize::MAX);
                refused.push((place, PublishError::Failed("the client's queue is full".to_owned())));
            }
            self.next += 1;
        }
        while refused.len() + gone.len() < records.len() {
            let Some(Ack { token, result }) = self.acks.recv().await else { break };
            let Some(place) = token.0.checked_sub(first).and_then(|place| usize::try_from(place).ok()) else { continue };
            match result {
                Ok(_) => gone.push(place),
                Err(error) => refused.push((place, error)),
            }
        }
        (refused, gone)
    }
}

impl Inner {
    fn transact(&self, records: &[Record], points: &[CommitPoint]) -> Result<(), NotRedriven> {
        self.producer.context().begin();
        let made = self.prepare(records, points).and_then(|()| until_known(|| self.producer.commit_transaction(SLICE)));
        let code = match made {
            Ok(()) => return Ok(()),
            Err(Trouble::Fatal(code)) => return Err(failed(code)),
            Err(Trouble::Abort(code)) => code,
        };
        // What cannot be taken back is given up by the broker, or by the next run.
        if let Err(Trouble::Abort(code) | Trouble::Fatal(code)) = until_known(|| self.producer.abort_transaction(SLICE)) {
            return Err(failed(code));
        }
        let refused: Vec<_> = self.producer.context().refused().drain(..).map(|(token, error)| (place(token), reason(&error))).collect();
        let for_their_own_sake: Vec<_> = refused.iter().filter(|(_, error)| !matches!(error, PublishError::Failed(_))).cloned().collect();
        if !for_their_own_sake.is_empty() {
            return Err(NotRedriven::Refused { refused: for_their_own_sake, gone: Vec::new() });
        }
        match refused.into_iter().next() {
            Some((_, PublishError::Failed(why))) => Err(NotRedriven::Failed { why, unreachable: is_unreachable(code) }),
            Some(_) | None => Err(failed(code)),
        }
    }

    /// Does all but commit.
    fn prepare(&self, records: &[Record], points: &[CommitPoint]) -> Result<(), Trouble> {
        until_known(|| self.producer.begin_transaction())?;
        for (token, published) in records.iter().enumerate() {
            self.publish(token, published)?;
        }
        until_known(|| self.producer.flush(SLICE))?;
        if let Some((_, error)) = self.producer.context().refused().first() {
            return Err(Trouble::Abort(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)));
        }
        let group = self.group.group_metadata().ok_or(Trouble::Abort(RDKafkaErrorCode::UnknownGroup))?;
        until_known(|| self.producer.send_offsets_to_transaction(&list_with_points(points), &group, OFFSETS_WITHIN))
    }

    fn publish(&self, token: usize, published: &Record) -> Result<(), Trouble> {
        loop {
            let Err((error, _)) = self.producer.send(record::outgoing(published, token)) else { return Ok(()) };
            match error.rdkafka_error_code() {
                // The records in it are sent or fail, so there will be room.
                Some(RDKafkaErrorCode::QueueFull) => thread::sleep(AGAIN),
                code => {
                    self.producer.context().note(Token(token as u64), &error);
                    return Err(Trouble::Abort(code.unwrap_or(RDKafkaErrorCode::Fail)));
                }
            }
        }
    }
}

fn place(token: Token) -> usize {
    usize::try_from(token.0).unwrap_or(usize::MAX)
}

/// Calls until there is an answer that stands, or none for long.
fn until_known(call: impl Fn() -> KafkaResult<()>) -> Result<(), Trouble> {
    tried(TRIES, call)
}

fn tried(most: u32, call: impl Fn() -> KafkaResult<()>) -> Result<(), Trouble> {
    let mut tries = 0;
    loop {
        let Err(error) = call() else { return Ok(()) };
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        tries += 1;
        match outlook(&error) {
            Outlook::Fatal => return Err(Trouble::Fatal(code)),
            Outlook::Again if tries < most => tracing::debug!(%error, "a redrive's step is tried again"),
            // Nobody knows what became of it; the next run will.
            Outlook::Again => return Err(Trouble::Fatal(unanswered(&error, code))),
            Outlook::Abort => return Err(Trouble::Abort(code)),
        }
        thread::sleep(AGAIN);
    }
}

fn unanswered(error: &KafkaError, code: RDKafkaErrorCode) -> RDKafkaErrorCode {
    tracing::debug!(%error, "a redrive's step has no answer");
    if is_unreachable(code) { code } else { RDKafkaErrorCode::OperationTimedOut }
}

fn failed(code: RDKafkaErrorCode) -> NotRedriven {
    let why = match code {
        RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch => {
            "another redrive has taken over, or Kafka gave this one up for its silence".to_owned()
        }
        RDKafkaErrorCode::OffsetMetadataTooLarge => {
            "Kafka keeps less beside an offset than redriving needs: raise the brokers' `offset.metadata.max.bytes` to 4096".to_owned()
        }
        RDKafkaErrorCode::GroupAuthorizationFailed => format!("{code}; redriving takes Read on the group (docs/operations.md)"),
        code => code.to_string(),
    };
    NotRedriven::Failed { why, unreachable: is_unreachable(code) }
}
