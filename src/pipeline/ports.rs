//! The few things a loop may ask of the world, each as narrow as its caller's need. [`crate::edge`] answers them with Kafka, Redis,
//! HTTP and a clock; a simulation answers them from a seed.

mod budget;
mod evidence;
mod history;
mod leases;
mod orders;
mod refetch;

pub use budget::Budget;
pub use evidence::{EvidenceStore, Telling};
pub use history::{HistoryEntry, HistoryPage};
pub use leases::{LeaseStore, LeaseWish, Leasing};
pub use orders::OrderLog;
pub use refetch::{Refetch, RefetchError, Refetched};

use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::event::{Headers, Incoming, Offset, Record, Topic, TopicPartition, UnixMillis};
use crate::machine::breaker::{Snapshot, Transition};
use crate::machine::time::Tick;

use super::facts::Fact;
use super::tuning::Tuning;

/// The ports of one program.
pub trait World: Send + Sync + Sized + 'static {
    /// Time.
    type Clock: Clock;
    /// Chance.
    type Chance: Chance;
    /// Services over HTTP.
    type Caller: Caller;
    /// Kafka, to write.
    type Publisher: Publisher;
    /// Those who want to know.
    type Witness: Witness;
}

/// Time.
pub trait Clock: Clone + Send + Sync + 'static {
    /// The process's monotonic time.
    fn now(&self) -> Tick;
    /// The same clock in microseconds, for durations; as coarse as its ticks unless the clock knows better.
    fn micros(&self) -> u64 {
        self.now().0.saturating_mul(1_000)
    }
    /// The tick in which a time of [`Clock::micros`] lies: one reading of the clock serves both.
    fn tick_at(&self, micros: u64) -> Tick {
        Tick(micros / 1_000)
    }
    /// The wall clock.
    fn wall(&self) -> UnixMillis;
    /// The runtime's instant of a tick; `None` if it never comes.
    fn instant(&self, at: Tick) -> Option<Instant>;

    /// Waits until a tick. [`Tick::NEVER`] never comes.
    fn sleep_until(&self, at: Tick) -> impl Future<Output = ()> + Send {
        let instant = self.instant(at);
        async move {
            match instant {
                Some(instant) => tokio::time::sleep_until(instant).await,
                None => std::future::pending().await,
            }
        }
    }

    /// A tick as wall-clock time.
    fn wall_of(&self, tick: Tick) -> UnixMillis {
        let (now, wall) = (self.now(), self.wall());
        if tick >= now {
            wall.plus(tick.since(now))
        } else {
            UnixMillis(wall.0.saturating_sub(i64::try_from(now.since(tick).as_millis()).unwrap_or(i64::MAX)))
        }
    }

    /// The tick of a wall-clock time; what is past is now.
    fn tick_of(&self, wall: UnixMillis) -> Tick {
        self.now().plus(wall.since(self.wall()))
    }
}

/// Chance.
pub trait Chance: Clone + Send + Sync + 'static {
    /// A number in `[0, 1)`, each as likely as another.
    fn roll(&self) -> f64;
}

/// Services over HTTP.
pub trait Caller: Send + Sync + 'static {
    /// Makes one call and reads the reply to its end, at most the service's `max_reply_bytes` of it. It sets no time limit (its caller drops it),
    /// follows no redirect and tries nothing twice.
    fn call(&self, call: Call<'_>) -> impl Future<Output = Result<Reply, CallError>> + Send;
}

/// Services' health over HTTP.
pub trait HealthCheck: Send + Sync + 'static {
    /// Asks a service, an index into the config's services, for its health, and reads the reply to its end. It sets no time limit (its caller
    /// drops it), follows no redirect and tries nothing twice.
    fn check(&self, service: usize) -> impl Future<Output = Result<Reply, CallError>> + Send;
}

/// One call of a service.
#[derive(Debug)]
pub struct Call<'a> {
    /// The service: an index into the config's services.
    pub service: usize,
    /// The request's body, JSON.
    pub body: Bytes,
    /// `Idempotency-Key`: event id and service.
    pub idempotency_key: &'a str,
    /// W3C trace headers to hand on.
    pub trace: &'a [(&'static str, Bytes)],
}

/// A service's reply, body included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// `Retry-After`, seconds or date, as the time from now.
    pub retry_after: Option<Duration>,
    /// The headers that are asked for, by lower-case name; the values of a name that comes more than once are joined by `, `.
    pub headers: Headers,
    /// The body.
    pub body: Body,
}

/// A reply's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Read to its end.
    Whole(Bytes),
    /// The connection ended before it did.
    CutOff,
    /// Larger than is read.
    TooLarge,
}

/// Why there is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallError {
    /// No connection, or it ended before a status line came.
    Connect,
}

/// Kafka, to write. Acknowledgements come back on the channel that the publisher was made with.
pub trait Publisher: Send + Sync + 'static {
    /// Hands a record to the client. What becomes of it is told later, once, with the same token.
    ///
    /// # Errors
    /// The client's queue is full: nothing was handed over, and nothing will be told.
    fn publish(&self, record: &Record, token: Token) -> Result<(), QueueFull>;
}

/// What a publisher's caller knows a record by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// The client's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull;

/// What became of a published record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The record's token.
    pub token: Token,
    /// Acknowledged by all in-sync replicas, with where it lies on its partition if the broker has said so; or not.
    pub result: Result<Option<Offset>, PublishError>,
}

pub use super::acks::{AckSender, Acks};

/// Why a record was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The broker, or the client on its behalf, takes no record of this size: trying again is useless.
    #[error("the record is larger than the topic takes")]
    TooLarge,
    /// The topic does not take a record of this time: trying again with the present one may help.
    #[error("the topic does not take a record of this time")]
    BadTime,
    /// The topic takes no record like it: trying again is useless.
    #[error("the topic takes no record like it, as one without a key where the topic is compacted")]
    Invalid,
    /// Anything else: worth trying again.
    #[error("{0}")]
    Failed(String),
}

/// Kafka, to read: what a consumer tells its loop, in order.
pub enum Intake {
    /// Records, in order within each partition.
    Records(Vec<Incoming>),
    /// Partitions that are this instance's from now on.
    Assigned(Vec<Assignment>),
    /// Partitions that are to be given up. The consumer waits (within its own bound) for the commit points of what has finished, commits
    /// them and gives the partitions up.
    Revoked(Vec<TopicPartition>, GiveUp),
    /// Partitions that are another's already: nothing of them may be committed.
    Lost(Vec<TopicPartition>),
    /// What became of the batch that is out ([`Subscription::transact`]).
    Transacted(Result<Placed, Aborted>),
}

/// What Kafka is to take as one: all of it, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// What to publish, in order.
    pub records: Vec<(Token, Record)>,
    /// How far to commit with it.
    pub points: Vec<CommitPoint>,
}

/// Where the records of a batch lie on their partitions, those of which the broker has said so.
pub type Placed = Vec<(Token, Offset)>;

/// Nothing of a batch was taken, and nothing of it will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aborted {
    /// Whether Kafka was asked to take it. Not before the loop has heard of all the partitions that came and went.
    pub began: bool,
    /// The records that Kafka did not take, if it was for their sake, and why.
    pub refused: Vec<(Token, PublishError)>,
}

/// How a loop answers [`Intake::Revoked`].
pub type GiveUp = Box<dyn FnOnce(Vec<CommitPoint>) + Send>;

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Records(records) => write!(f, "Records({})", records.len()),
            Self::Assigned(partitions) => f.debug_tuple("Assigned").field(partitions).finish(),
            Self::Revoked(partitions, _) => f.debug_tuple("Revoked").field(partitions).finish(),
            Self::Lost(partitions) => f.debug_tuple("Lost").field(partitions).finish(),
            Self::Transacted(answer) => f.debug_tuple("Transacted").field(answer).finish(),
        }
    }
}

/// How far a partition may be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitPoint {
    /// The partition.
    pub partition: TopicPartition,
    /// The offset to go on from.
    pub next: Offset,
    /// What has finished above it: the text that Kafka keeps beside the offset ([`crate::machine::progress`]).
    pub ahead: String,
}

/// A partition that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The partition.
    pub partition: TopicPartition,
    /// What was last committed of it, by whoever had it; `None` if nothing was, or if it could not be asked.
    pub committed: Option<CommitPoint>,
}

impl Assignment {
    /// A partition of which nothing is known to be committed.
    pub fn fresh(partition: TopicPartition) -> Self {
        Self { partition, committed: None }
    }
}

/// One consumer.
pub trait Subscription: Send + 'static {
    /// What happened next; `None` after the consumer was closed.
    fn next(&mut self) -> impl Future<Output = Option<Intake>> + Send;
    /// Commits, without waiting for the broker's answer.
    fn commit(&self, points: Vec<CommitPoint>);
    /// Hands over a batch that Kafka takes as one, without waiting. At most one is out: until its answer, [`Intake::Transacted`], no other may
    /// be handed over. One for partitions of which the loop has not heard yet that they have gone is not taken.
    fn transact(&self, batch: Batch);
    /// Takes no further records: everything assigned is paused. Polling goes on.
    fn stop_taking(&self);
    /// Takes no further records of a partition, which is paused, until it is let go. What was on its way may still come.
    fn hold(&self, partition: &TopicPartition);
    /// Takes records of a held partition again, unless there is another reason not to.
    fn let_go(&self, partition: &TopicPartition);
    /// Reads a held partition again, from this point on, and lets it go: nothing of it that was read before is wanted. The answer is
    /// [`Intake::Assigned`] with the point: what comes behind that was read again. There is none if partitions have come or gone of which the loop
    /// has not heard yet; it may ask again then.
    fn read_again(&self, point: CommitPoint);
    /// How many partitions a topic that it reads has, as far as it knows by now. Partitions that are added show soon.
    fn size(&self, topic: &Topic) -> Option<usize>;
    /// Commits, waits for the broker's answer, leaves the group. False if the last commit was not taken.
    fn close(self, points: Vec<CommitPoint>) -> impl Future<Output = bool> + Send;
}

/// Where breakers are shared and survive a restart.
pub trait Store: Send + Sync + 'static {
    /// What is stored of each service's breaker, in the order asked. One question, answered or given up for each node as a whole, so a few hundred
    /// at most.
    fn load(&self, services: &[String]) -> impl Future<Output = Vec<Result<Kept, StoreError>>> + Send;

    /// Which node of the store is thought to have a service, of those that fail each for itself. A store that fails as a whole has one.
    fn node(&self, _service: &str) -> usize {
        0
    }

    /// Stores a breaker's state, with the transition that led to it (kept in the history and published to the others; `None` when the
    /// state is only put back after the store was away), unless what is stored is of the same generation or a newer one.
    fn save(
        &self,
        service: &str,
        snapshot: &Snapshot,
        transition: Option<&Transition>,
    ) -> impl Future<Output = Result<Saved, StoreError>> + Send;

    /// Keeps a transition in a breaker's history that is this instance's alone, and changes nothing else. Asked twice it is kept once; no number of
    /// them makes a change be forgotten that was saved.
    fn note(&self, service: &str, transition: &Transition) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Stores a change of a service's settings and publishes it to the others, if the stored one is still the revision `over` (0: there
    /// is none).
    fn save_tuning(&self, service: &str, tuning: &Tuning, over: u64) -> impl Future<Output = Result<SavedTuning, StoreError>> + Send;

    /// Transitions, newest first, from before `cursor` (the newest if `None`), at most `limit`.
    fn history(&self, service: &str, cursor: Option<&str>, limit: usize) -> impl Future<Output = Result<HistoryPage, StoreError>> + Send;

    /// What the others publish, from now on, for as long as the receiver lives. A lost connection is renewed with back-off by the store itself.
    fn watch(&self) -> mpsc::Receiver<Heard>;
}

/// What is stored of a service's breaker.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    /// Its state; `None`: nothing is stored, or it is gone.
    pub state: Option<Snapshot>,
    /// The last change of its settings; `None`: nobody has changed them, or it is gone.
    pub tuning: Option<Tuning>,
}

/// What came of a save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saved {
    /// It is stored, and the others are told.
    Stored,
    /// Something at least as new was there: this.
    Superseded(Snapshot),
}

/// What came of saving a change of settings.
#[derive(Debug, Clone, PartialEq)]
pub enum SavedTuning {
    /// It is stored, and the others are told.
    Stored,
    /// The stored one is of another revision than it was to be laid over: this; `None`: there is none.
    Superseded(Option<Tuning>),
}

/// What a store's watch brings.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// A service's breaker changed state elsewhere, or here.
    Changed {
        /// The service.
        service: String,
        /// Its state.
        snapshot: Snapshot,
    },
    /// A service's settings were changed elsewhere, or here.
    Tuned {
        /// The service.
        service: String,
        /// How.
        tuning: Tuning,
    },
    /// The subscription stands (again): what was said in between was missed.
    Connected,
}

/// The store cannot be asked just now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(
    /// What went wrong, without address or credentials.
    pub String,
);

/// Those who want to know: log, metrics, the terminal of `fusebox dev`.
pub trait Witness: Send + Sync + 'static {
    /// Takes note of a fact. Must not block.
    fn tell(&self, fact: Fact<'_>);
}
