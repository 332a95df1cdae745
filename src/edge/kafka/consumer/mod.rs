//! One member of a consumer group, as the [`Subscription`] port.
//!
//! Guarantees:
//! - What it tells comes in order: a partition's records between its `Assigned` and its `Revoked` or `Lost`.
//! - What is read and not finished stays within the [`Budget`], and one record of each partition: at its bound every partition that sends
//!   is paused, polling goes on, and nothing is skipped or repeated when it goes on.
//! - A partition that the loop holds is paused by itself, soon; it reads on when the loop has let it go and there is room.
//! - A held partition that is to be read again is, from the point that was named, behind an `Assigned` that says so.
//! - A revoked partition's last commit is made before it is another's; a lost one's is not made.
//! - Where it makes transactions, records and commits are taken as one, and nothing is committed but by them.
//! - It ends only when it is closed or dropped, or with [`ConsumerHealth::fatal`] set and `next()` answering `None`.
//!
//! Which records are finished, and so what may be committed, is the loop's affair.

mod context;
mod gate;
mod health;
mod ledger;
mod poll;
mod statistics;
mod transactions;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tokio::sync::{mpsc, oneshot};

use self::context::{Context, Outbox, Shared, lock};
use super::{KafkaEdgeError, properties};
use crate::config;
use crate::event::{Topic, TopicPartition};
use crate::pipeline::ports::{Aborted, Batch, Budget, Clock, CommitPoint, Intake, Subscription};

use self::transactions::Transactions;

pub(super) use self::context::list_with_points;
pub use self::health::{ConsumerHealth, Reading, Readings};
pub(super) use self::transactions::{Fates, Outlook, outlook};

/// Hears what became of each commit. Called on the consumer's threads; must not block.
pub type OnCommit = Arc<dyn Fn(Settled) + Send + Sync>;

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// Kafka has taken it.
    Taken,
    /// There was nothing to commit.
    Nothing,
    /// Not taken; it is tried again while the partitions are assigned. Why, in words that name no address.
    Failed(String),
}

/// How much a client reads ahead of its loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// Records, and what one fetch brings on top.
    pub records: usize,
    /// Bytes, a fetch under way included.
    pub bytes: usize,
}

/// What a consumer is started with, beside the connection.
#[derive(Clone)]
pub struct ConsumerOptions {
    /// Its group.
    pub group: String,
    /// Which of the process's consumers in the group it is, where there may be several: appended to the user's `group.instance.id`, since two
    /// static members with one id put each other out of the group.
    pub seat: Option<String>,
    /// What it reads. At least one.
    pub topics: Vec<Topic>,
    /// Its `client.id`, unless the user's properties have one: how brokers' logs and quotas know it.
    pub client_id: String,
    /// What bounds its records. It takes them in; the loop lets them go, each with its `Incoming::size`.
    pub budget: Arc<Budget>,
    /// What bounds what the client has fetched and not handed on, beside the budget.
    pub ahead: Ahead,
    /// The largest record that should come in one fetch, bytes. Larger ones come too, with more round trips.
    pub max_record_bytes: usize,
    /// How long a revocation waits for the loop's commit points. `None`: half of the session's timeout, so that as much again is left to commit before the broker could take the member for dead.
    pub revoke_wait: Option<Duration>,
    /// Hears of commits.
    pub on_commit: OnCommit,
    /// What its transactions are known by ([`Subscription::transact`]); `None`: it makes none.
    pub transactional_id: Option<String>,
}

/// A running consumer. Dropping it leaves the group in the background, without a last commit beyond what was asked for.
pub struct KafkaSubscription {
    intake: mpsc::UnboundedReceiver<Intake>,
    shared: Arc<Shared>,
    /// How often the loop has heard that partitions came or go.
    heard: u64,
    ended: oneshot::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl KafkaSubscription {
    /// Makes the client and starts its thread. Whether Kafka can be reached does not matter here: it is tried for ever.
    ///
    /// # Errors
    /// A property that librdkafka does not take, or no thread to be had.
    pub fn start<C: Clock>(settings: &config::Kafka, options: ConsumerOptions, clock: C) -> Result<Self, KafkaEdgeError> {
        let ConsumerOptions { group, seat, topics, client_id, budget, ahead, max_record_bytes, revoke_wait, on_commit, transactional_id } =
            options;
        let mut properties = properties::member(settings, &group, &client_id, ahead, max_record_bytes);
        if transactional_id.is_some() {
            // Else what is committed would be told while an open transaction could still change it.
            properties.set("isolation.level", "read_committed");
        }
        let static_id = properties.get("group.instance.id").filter(|id| !id.is_empty()).map(str::to_owned);
        if let (Some(id), Some(seat)) = (&static_id, &seat) {
            properties.set("group.instance.id", format!("{id}.{seat}"));
        }
        let revoke_wait = revoke_wait.unwrap_or(properties::session_timeout(settings) / 2);
        let (sender, intake) = mpsc::unbounded_channel();
        let health = Arc::new(ConsumerHealth::new(clock.now(), revoke_wait));
        let on_commit: OnCommit = {
            let health = Arc::clone(&health);
            Arc::new(move |settled| {
                health.settled(&settled);
                on_commit(settled);
            })
        };
        let shared = Arc::new(Shared {
            topics,
            health,
            now: {
                let clock = clock.clone();
                Box::new(move || clock.now())
            },
            ledger: ledger::Ledger::default(),
            budget,
            revoke_wait,
            keeps_its_place: static_id.is_some(),
            stopped: AtomicBool::new(false),
            on_commit,
            closing: Mutex::new(None),
            last_commit_failed: AtomicBool::new(false),
            is_outside: AtomicBool::new(false),
            transactions: transactional_id.map(|id| Transactions::new(settings, &id)).transpose()?,
            outbox: Mutex::new(Outbox { batch: Vec::new(), sender: Some(sender) }),
            gate: Mutex::default(),
            sizes: Mutex::default(),
        });
        let consumer: BaseConsumer<Context> = properties.create_with_context(Context(Arc::clone(&shared)))?;
        let names: Vec<&str> = shared.topics.iter().map(Topic::as_str).collect();
        consumer.subscribe(&names)?;
        let (end, ended) = oneshot::channel::<()>();
        let thread = {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name("kafka-poll".into()).spawn(move || {
                poll::run(consumer, &shared, &clock);
                drop(end);
            })
        };
        let thread = thread.map_err(|error| KafkaEdgeError::Client(format!("no thread for it: {error}")))?;
        Ok(Self { intake, shared, heard: 0, ended, thread: Some(thread) })
    }

    /// Whether a consumer that makes transactions can be started with these settings.
    ///
    /// # Errors
    /// A property that librdkafka does not take.
    pub fn check_transactions(settings: &config::Kafka) -> Result<(), KafkaEdgeError> {
        Transactions::check(settings)
    }

    /// The state of its threads, also after it has ended.
    pub fn health(&self) -> Arc<ConsumerHealth> {
        Arc::clone(&self.shared.health)
    }

    fn begin_close(&mut self, points: Vec<CommitPoint>) {
        lock(&self.shared.closing).get_or_insert(points);
        // A revocation that waits for an answer goes on with the closing points when its question is gone.
        self.intake.close();
        while let Ok(intake) = self.intake.try_recv() {
            self.shared.give_back(&intake);
        }
    }
}

impl Subscription for KafkaSubscription {
    async fn next(&mut self) -> Option<Intake> {
        let intake = self.intake.recv().await;
        if matches!(intake, Some(Intake::Assigned(_) | Intake::Revoked(..) | Intake::Lost(_))) {
            self.heard += 1;
        }
        intake
    }

    fn commit(&self, points: Vec<CommitPoint>) {
        self.shared.ledger.want(points);
    }

    fn transact(&self, batch: Batch) {
        match &self.shared.transactions {
            Some(transactions) => transactions.hand(batch, self.heard),
            // Without a producer for it nothing is taken, and nobody waits for ever.
            None => self.shared.answer(Intake::Transacted(Err(Aborted { began: true, refused: Vec::new() }))),
        }
    }

    fn stop_taking(&self) {
        self.shared.stopped.store(true, Relaxed);
    }

    fn hold(&self, partition: &TopicPartition) {
        lock(&self.shared.gate).held.insert(partition.clone());
    }

    fn let_go(&self, partition: &TopicPartition) {
        lock(&self.shared.gate).held.remove(partition);
    }

    fn read_again(&self, point: CommitPoint) {
        lock(&self.shared.gate).again.push((point, self.heard));
    }

    fn size(&self, topic: &Topic) -> Option<usize> {
        lock(&self.shared.sizes).get(topic).copied()
    }

    async fn close(mut self, points: Vec<CommitPoint>) -> bool {
        self.begin_close(points);
        // Answered by the sender's going: the thread has left the group, or could not.
        let _ = (&mut self.ended).await;
        if let Some(thread) = self.thread.take() {
            // It has nothing left to do, and its panics are in the health.
            let _ = thread.join();
        }
        let taken = !self.shared.last_commit_failed.load(Relaxed);
        // Dropping a producer of its own waits for the client's threads, and this thread is the loops'.
        let last = Arc::clone(&self.shared);
        drop(self);
        // Its panic would be the client's, and nobody needs its answer.
        let _ = tokio::task::spawn_blocking(move || drop(last)).await;
        taken
    }
}

impl Drop for KafkaSubscription {
    fn drop(&mut self) {
        self.begin_close(Vec::new());
    }
}
