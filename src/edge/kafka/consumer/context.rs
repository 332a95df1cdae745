//! librdkafka's callbacks, as what the loop is told. All of them run on the poll thread, within its poll.
//!
//! A rebalance first hands on the records in hand, so that the loop sees them before their partition goes. A revocation then holds the
//! thread until the loop has said how far it has come, or until the bound, and commits that while the partitions are still ours.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc::UnboundedSender;

use super::gate::Gate;
use super::health::{ConsumerHealth, Reading};
use super::ledger::Ledger;
use super::statistics::{Statistics, offset};
use super::transactions::Transactions;
use super::{OnCommit, Settled};
use crate::edge::kafka::error::{is_for_want_of_a_right, is_unknown_topic};
use crate::edge::kafka::lag;
use crate::edge::kafka::properties::log_line;
use crate::event::{Incoming, Partition, Topic, TopicPartition};
use crate::machine::time::Tick;
use crate::pipeline::ports::{Assignment, Budget, CommitPoint, Intake};

/// What the poll thread, its callbacks and the subscription have in common.
pub(super) struct Shared {
    pub topics: Vec<Topic>,
    pub health: Arc<ConsumerHealth>,
    /// The clock that the consumer was started with.
    pub now: Box<dyn Fn() -> Tick + Send + Sync>,
    pub ledger: Ledger,
    pub budget: Arc<Budget>,
    pub revoke_wait: std::time::Duration,
    /// It is a static member: what it leaves is kept for its return.
    pub keeps_its_place: bool,
    /// Nothing more is taken.
    pub stopped: AtomicBool,
    pub on_commit: OnCommit,
    /// Set once the consumer is to close: what to commit.
    pub closing: Mutex<Option<Vec<CommitPoint>>>,
    /// Whether Kafka has refused, or not answered, a commit that was made while closing.
    pub last_commit_failed: AtomicBool,
    /// Whether the client was outside its group when its statistics last came.
    pub is_outside: AtomicBool,
    /// Where records and commits are one; `None`: they are not.
    pub transactions: Option<Transactions>,
    pub outbox: Mutex<Outbox>,
    pub gate: Mutex<Gate>,
    /// How many partitions the topics have, where that is known.
    pub sizes: Mutex<BTreeMap<Topic, usize>>,
}

/// Records in hand, and where they go. Without a sender, the loop is told no more.
pub(super) struct Outbox {
    pub batch: Vec<Incoming>,
    pub sender: Option<UnboundedSender<Intake>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Hands the batch on. Never blocks: the channel is bounded by the budget.
    pub fn flush(&self) {
        let mut outbox = lock(&self.outbox);
        if !outbox.batch.is_empty() {
            let batch = std::mem::take(&mut outbox.batch);
            let refused = match &outbox.sender {
                Some(sender) => sender.send(Intake::Records(batch)).err().map(|refused| refused.0),
                None => Some(Intake::Records(batch)),
            };
            if let Some(intake) = refused {
                self.give_back(&intake);
            }
        }
    }

    /// Lets go of what nobody will finish.
    pub fn give_back(&self, intake: &Intake) {
        if let Intake::Records(records) = intake {
            for record in records {
                self.budget.give(record.size());
            }
        }
    }

    pub fn is_closing(&self) -> bool {
        lock(&self.closing).is_some()
    }

    /// Commits and waits for the answer. True if Kafka has taken it.
    pub fn commit<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>, points: &[CommitPoint]) -> bool {
        if points.is_empty() {
            return true;
        }
        let (settled, taken) = match consumer.commit(&list_with_points(points), CommitMode::Sync) {
            Ok(()) => (Settled::Taken, true),
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => (Settled::Nothing, true),
            // A broker that keeps less beside an offset than Kafka does by default: the offset itself is what must not be lost.
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::OffsetMetadataTooLarge))
                if points.iter().any(|point| !point.ahead.is_empty()) =>
            {
                let bare: Vec<_> = points.iter().map(|point| CommitPoint { ahead: String::new(), ..point.clone() }).collect();
                return self.commit(consumer, &bare);
            }
            Err(error) => {
                let why = error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string());
                (Settled::Failed(why), false)
            }
        };
        (self.on_commit)(settled);
        taken
    }

    /// Commits what is the last word about its partitions. The group may be in the middle of a rebalance, whose end makes a commit that
    /// waited for it one of an older generation; the partitions are still ours until we give them up, so it is made again in the new one.
    pub fn commit_last<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>, points: &[CommitPoint]) {
        let mut taken = self.commit(consumer, points);
        for _ in 1..LAST_TRIES {
            if taken || !self.is_closing() {
                break;
            }
            std::thread::sleep(BETWEEN_TRIES);
            taken = self.commit(consumer, points);
        }
        if !taken && self.is_closing() {
            self.last_commit_failed.store(true, Relaxed);
        }
    }

    /// A partition has sent a record: from now on it can be paused.
    pub fn started(&self, partition: TopicPartition) {
        lock(&self.gate).started.insert(partition);
    }

    /// Pauses and resumes until what is paused is what should be: everything if the gate is shut, else what the loop holds. True if
    /// anything is paused.
    pub fn set_shut<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>, shut: bool) -> bool {
        let mut gate = lock(&self.gate);
        gate.shut = shut;
        let (pause, resume) = gate.changes();
        if !pause.is_empty() && self.note(consumer.pause(&list_of(&pause))) {
            gate.paused.extend(pause);
        }
        if !resume.is_empty() && self.note(consumer.resume(&list_of(&resume))) {
            gate.paused.retain(|partition| !resume.contains(partition));
        }
        self.health.set_partitions(self.ledger.assigned(), gate.paused.len());
        !gate.paused.is_empty()
    }

    /// Sets partitions back that the loop wants to read again. A question from before the last that came and went is nobody's any more.
    pub fn read_again<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>) {
        let asked = std::mem::take(&mut lock(&self.gate).again);
        for (point, heard) in asked {
            if !self.ledger.is_known(heard, &point.partition) || self.stopped.load(Relaxed) {
                continue;
            }
            // What was read of it so far comes before the word that it is read again.
            self.flush();
            let TopicPartition { topic, partition } = &point.partition;
            // Resumed first, so that where it was read to is not the last word.
            let paused = lock(&self.gate).paused.remove(&point.partition);
            if paused && !self.note(consumer.resume(&list_of(std::slice::from_ref(&point.partition)))) {
                return;
            }
            match consumer.seek(topic.as_str(), partition.0, Offset::Offset(point.next.0), SEEK_WITHIN) {
                Ok(()) => {
                    lock(&self.gate).begin_again(&point.partition);
                    self.send(Intake::Assigned(vec![Assignment { partition: point.partition.clone(), committed: Some(point) }]));
                }
                Err(error) => {
                    tracing::debug!(%error, partition = %point.partition, "a partition could not be set back; it is tried again");
                    lock(&self.gate).again.push((point, heard));
                }
            }
        }
    }

    /// Notes how many partitions there are, and how far each of ours is read.
    fn read(&self, statistics: &Statistics<'_>) {
        let known = self.topics.iter().filter_map(|topic| Some((topic.clone(), statistics.size(topic.as_str())?)));
        lock(&self.sizes).extend(known);
        let (gate, stopped) = (lock(&self.gate), self.stopped.load(Relaxed));
        let reading = |partition: TopicPartition| {
            let found = statistics.partition(&partition);
            Reading {
                fetch: found.and_then(|found| offset(found.next_offset)),
                position: found.and_then(|found| offset(found.app_offset)),
                queued: found.map_or(0, |found| u64::try_from(found.fetchq_cnt).unwrap_or(0)),
                held: stopped || gate.shut || gate.held.contains(&partition) || gate.paused.contains(&partition),
                partition,
            }
        };
        self.health.set_readings(self.ledger.partitions().into_iter().map(reading).collect());
    }

    /// What became of a batch.
    pub fn answer(&self, intake: Intake) {
        // Without a loop nobody needs it.
        let _ = lock(&self.outbox).sender.as_ref().map(|sender| sender.send(intake));
    }

    /// Partitions come or go.
    fn send(&self, intake: Intake) -> bool {
        self.ledger.tell();
        lock(&self.outbox).sender.as_ref().is_some_and(|sender| sender.send(intake).is_ok())
    }

    /// How far the loop has come with partitions that are to go.
    fn ask(&self, partitions: &[TopicPartition]) -> Vec<CommitPoint> {
        let closing = || lock(&self.closing).clone().unwrap_or_default();
        if self.is_closing() {
            return closing();
        }
        let (give_up, given_up) = mpsc::sync_channel(1);
        let answer = Box::new(move |points| {
            // Nobody listens any more if the bound has passed.
            let _ = give_up.send(points);
        });
        if !self.send(Intake::Revoked(partitions.to_vec(), answer)) {
            return closing();
        }
        self.health.set_revoking(true);
        let points = match given_up.recv_timeout(self.revoke_wait) {
            Ok(points) => points,
            Err(mpsc::RecvTimeoutError::Disconnected) => closing(),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                tracing::warn!(
                    partitions = partitions.len(),
                    waited = ?self.revoke_wait,
                    "revoked partitions go without the loop's last commit points; what it finished of them may run again elsewhere"
                );
                Vec::new()
            }
        };
        self.health.set_revoking(false);
        points
    }

    /// Asks Kafka something without which partitions that have come cannot be begun. `for_certain`: until there is an answer, or nobody wants
    /// it any more, or Kafka refuses it for good.
    fn ask_kafka<T>(&self, for_certain: bool, ask: impl Fn() -> Result<T, RDKafkaErrorCode>) -> Option<T> {
        let mut is_first = true;
        loop {
            let code = match ask() {
                Ok(answer) => return Some(answer),
                Err(code) => code,
            };
            if !for_certain || self.is_closing() || self.health.has_failed() {
                return None;
            }
            if is_for_want_of_a_right(code) {
                self.health.fail(format!("Kafka does not say what is committed ({code}), and without it events would leave things twice"));
                return None;
            }
            if std::mem::take(&mut is_first) {
                tracing::warn!(error = %code, "Kafka does not say what is committed of partitions that have come; it is asked for as long as it takes");
            }
            // The thread does not come round, and is well: a watchdog is to hear of it.
            self.health.poll((self.now)());
            std::thread::sleep(BETWEEN_TRIES);
        }
    }

    /// Everything that must be done with partitions before they are unassigned.
    fn revoke<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>, partitions: &[TopicPartition], lost: bool) {
        self.flush();
        if partitions.is_empty() {
            return;
        }
        if lost {
            self.ledger.release(partitions, Vec::new());
            self.send(Intake::Lost(partitions.to_vec()));
        } else {
            let points = self.ask(partitions);
            let last = self.ledger.release(partitions, points);
            // The loop has waited for the transactions of what goes; this one is of something else, or did not end in time.
            self.ledger.wait_for_transaction(self.revoke_wait / 2);
            self.commit_last(consumer, &last);
        }
        let mut gate = lock(&self.gate);
        let paused = gate.leave(partitions);
        if !paused.is_empty() {
            self.note(consumer.resume(&list_of(&paused)));
        }
        self.health.set_partitions(self.ledger.assigned(), gate.paused.len());
    }

    /// True if it went well; otherwise the consumer's state is unknown, and it ends.
    fn note(&self, result: KafkaResult<()>) -> bool {
        if let Err(error) = &result
            && !self.is_closing()
        {
            self.health.fail(format!("the assignment could not be changed: {error}"));
        }
        result.is_ok()
    }
}

/// How far apart tries are; and how often a last commit is tried: three seconds in all, within which a group that has just rebalanced is stable again
/// also where its leader is busy, and no more, since a stop that cannot commit must say so in time.
const LAST_TRIES: usize = 16;
const BETWEEN_TRIES: Duration = Duration::from_millis(200);

/// How long the client may take to set a partition back: a word to its own thread, which asks nobody.
const SEEK_WITHIN: Duration = Duration::from_secs(1);

/// How long Kafka may take to say what was committed. The group waits meanwhile, so it is well below a session's timeout.
pub(super) const COMMITTED_WITHIN: Duration = Duration::from_secs(5);

/// What was last committed of partitions that have come. Where another's transaction is still open it is known late.
fn committed(
    shared: &Shared,
    consumer: &BaseConsumer<Context>,
    list: &TopicPartitionList,
    partitions: &[TopicPartition],
) -> Vec<Assignment> {
    let ask = || whole(consumer.committed_offsets(list.clone(), COMMITTED_WITHIN));
    // Where events leave things once, one that has finished above a commit must not run again for want of an answer.
    let for_certain = shared.transactions.is_some();
    let known = if partitions.is_empty() || shared.is_closing() { None } else { shared.ask_kafka(for_certain, ask) };
    if known.is_none() && !partitions.is_empty() && !shared.is_closing() {
        tracing::warn!(
            partitions = partitions.len(),
            "Kafka has not said what finished above the commits of partitions that have come; it may run again"
        );
    }
    let of = |partition: &TopicPartition| {
        let known = known.as_ref()?.find_partition(partition.topic.as_str(), partition.partition.0)?;
        let Offset::Offset(next) = known.offset() else { return None };
        // From a callback a panic would abort the process.
        let ahead = lag::beside(&known);
        Some(CommitPoint { partition: partition.clone(), next: crate::event::Offset(next), ahead })
    };
    partitions.iter().map(|partition| Assignment { partition: partition.clone(), committed: of(partition) }).collect()
}

/// What Kafka has answered, if it has for every partition.
fn whole(answer: KafkaResult<TopicPartitionList>) -> Result<TopicPartitionList, RDKafkaErrorCode> {
    let code = |error: KafkaError| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
    let committed = answer.map_err(code)?;
    committed.elements().iter().try_for_each(rdkafka::topic_partition_list::TopicPartitionListElem::error).map_err(code)?;
    Ok(committed)
}

/// librdkafka's view of [`Shared`].
pub(super) struct Context(pub Arc<Shared>);

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(facility, line);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Some(statistics) = Statistics::read(statistics) else { return };
        self.0.health.set_connected(statistics.any_broker_up());
        self.0.is_outside.store(statistics.is_outside(), Relaxed);
        self.0.read(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
        let Some(code) = error.rdkafka_error_code() else { return };
        self.0.health.complain(code);
        if is_unknown_topic(code) {
            // "Subscribed topic not available: NAME: Broker: …": the only place where librdkafka names it.
            let named = |topic: &&Topic| reason.split([' ', ':']).any(|word| word == topic.as_str());
            for topic in self.0.topics.iter().filter(named) {
                self.0.health.miss(topic);
            }
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let shared = &self.0;
        let partitions = partitions_of(list, &shared.topics);
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            // Asked before reading begins: what has finished above a commit must be known when its record comes.
            let assignments = committed(shared, consumer, list, &partitions);
            shared.note(if cooperative { consumer.incremental_assign(list) } else { consumer.assign(list) });
            // Nor may a loop begin them that would not know what has finished.
            if shared.is_closing() || shared.health.has_failed() {
                return;
            }
            shared.flush();
            shared.ledger.assign(&partitions);
            shared.health.came(&partitions);
            shared.health.set_partitions(shared.ledger.assigned(), lock(&shared.gate).paused.len());
            if !partitions.is_empty() {
                shared.health.set_connected(true);
                shared.send(Intake::Assigned(assignments));
            }
            return;
        }
        shared.revoke(consumer, &partitions, consumer.assignment_lost());
        shared.note(if cooperative { consumer.incremental_unassign(list) } else { consumer.unassign() });
    }
}

fn partitions_of(list: &TopicPartitionList, topics: &[Topic]) -> Vec<TopicPartition> {
    let shared = |name: &str| topics.iter().find(|topic| topic.as_str() == name).cloned().unwrap_or_else(|| Topic::from(name));
    list.elements()
        .iter()
        .map(|element| TopicPartition { topic: shared(element.topic()), partition: Partition(element.partition()) })
        .collect()
}

/// Commit points as librdkafka takes them.
pub(in crate::edge::kafka) fn list_with_points(points: &[CommitPoint]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(points.len());
    for CommitPoint { partition, next, ahead } in points {
        let mut element = list.add_partition(partition.topic.as_str(), partition.partition.0);
        element.set_metadata(ahead);
        // Refused for offsets below zero, which no record has; an element without an offset is left out of the commit.
        let _ = element.set_offset(Offset::Offset(next.0));
    }
    list
}

fn list_of(partitions: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for TopicPartition { topic, partition } in partitions {
        list.add_partition(topic.as_str(), partition.0);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::kafka::properties;
    use crate::event::{Headers, Offset};
    use rdkafka::ClientConfig;
    use std::cell::Cell;

    /// Of a consumer that has nothing yet.
    fn idle(topic: &Topic) -> Shared {
        Shared {
            topics: vec![topic.clone()],
            health: Arc::new(ConsumerHealth::new(Tick(0), Duration::ZERO)),
            now: Box::new(|| Tick(7)),
            ledger: Ledger::default(),
            budget: Budget::new(10, 10),
            revoke_wait: Duration::ZERO,
            keeps_its_place: false,
            stopped: AtomicBool::new(false),
            on_commit: Arc::new(|_| {}),
            closing: Mutex::new(None),
            last_commit_failed: AtomicBool::new(false),
            is_outside: AtomicBool::new(false),
            transactions: None,
            outbox: Mutex::new(Outbox { batch: Vec::new(), sender: None }),
            gate: Mutex::default(),
            sizes: Mutex::default(),
        }
    }

    #[test]
    fn what_must_be_known_is_asked_for_until_it_is_and_the_thread_counts_as_well_meanwhile() {
        let (late, asked) = (RDKafkaErrorCode::OperationTimedOut, Cell::new(0));
        let ask = |code| {
            asked.set(asked.get() + 1);
            if asked.get() < 3 { Err(code) } else { Ok(asked.get()) }
        };
        let shared = idle(&Topic::from("t"));
        assert_eq!(shared.ask_kafka(true, || ask(late)), Some(3));
        assert_eq!((shared.health.last_poll(), shared.health.fatal()), (Tick(7), None));
        // Not where it is not needed, nor once the consumer closes.
        asked.set(0);
        assert_eq!((shared.ask_kafka(false, || ask(late)), asked.get()), (None, 1));
        *lock(&shared.closing) = Some(Vec::new());
        assert_eq!((shared.ask_kafka(true, || ask(late)), asked.get()), (None, 2));
        // What no later try changes ends the consumer.
        let shared = idle(&Topic::from("t"));
        asked.set(0);
        assert_eq!((shared.ask_kafka(true, || ask(RDKafkaErrorCode::GroupAuthorizationFailed)), asked.get()), (None, 1));
        assert!(shared.health.fatal().is_some_and(|why| why.contains("committed")));
    }

    #[test]
    fn records_in_hand_come_before_the_revocation_of_their_partition() {
        let partition = TopicPartition { topic: Topic::from("t"), partition: Partition(3) };
        let source = partition.at(Offset(1));
        let record = Incoming { source, key: None, value: None, headers: Headers::new(), timestamp: None };
        let (sender, mut intake) = tokio::sync::mpsc::unbounded_channel();
        let shared = Shared { outbox: Mutex::new(Outbox { batch: vec![record], sender: Some(sender) }), ..idle(&partition.topic) };
        shared.ledger.assign(std::slice::from_ref(&partition));
        let consumer: BaseConsumer<properties::Quiet> =
            ClientConfig::new().set("group.id", "g").create_with_context(properties::Quiet).unwrap();
        shared.revoke(&consumer, std::slice::from_ref(&partition), false);
        assert!(matches!(intake.try_recv(), Ok(Intake::Records(records)) if records.len() == 1));
        assert!(matches!(intake.try_recv(), Ok(Intake::Revoked(partitions, _)) if partitions == [partition]));
        assert_eq!(shared.ledger.assigned(), 0);
    }

    #[test]
    fn a_broker_that_is_up_shows_in_the_statistics() {
        for (statistics, expected) in [
            (r#"{"ts":1,"brokers":{"a":{"name":"a","state":"DOWN"},"b":{"state":"UP","tx":1}}}"#, Some(true)),
            (r#"{"brokers":{"a":{"state":"CONNECT"}}}"#, Some(false)),
            (r#"{"brokers":{}}"#, Some(false)),
            ("{", None),
        ] {
            let up = Statistics::read(statistics.as_bytes()).map(|statistics| statistics.any_broker_up());
            assert_eq!(up, expected, "{statistics}");
        }
    }
}
