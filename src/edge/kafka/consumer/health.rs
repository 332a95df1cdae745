//! What a consumer's poll thread says of itself: for readiness, for the metrics, and for a watchdog that notices when it says nothing.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use super::Settled;
use super::context::COMMITTED_WITHIN;
use crate::edge::kafka::error::{is_unknown_topic, is_unreachable};
use crate::event::{Offset, Topic, TopicPartition};
use crate::machine::time::Tick;

/// The state of one consumer, written by its poll thread, read by anyone.
#[derive(Debug)]
pub struct ConsumerHealth {
    polled: AtomicU64,
    revoking: AtomicBool,
    revoke_wait: Duration,
    connected: AtomicBool,
    assigned: AtomicUsize,
    paused: AtomicUsize,
    refused_commits: AtomicU32,
    readings: Mutex<Readings>,
    trouble: Mutex<Trouble>,
}

/// How far each partition was read, a moment ago.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    /// When.
    pub at: Tick,
    /// Those that are this instance's.
    pub partitions: Vec<Reading>,
}

/// How far one partition is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Which.
    pub partition: TopicPartition,
    /// The offset that is asked of the broker next, past whatever was found to be no record; `None` before it is known where to begin.
    pub fetch: Option<Offset>,
    /// The offset behind the last record that was handed on; `None` before the first.
    pub position: Option<Offset>,
    /// Records fetched and not handed on.
    pub queued: u64,
    /// Whether it is held back: paused, or nothing more is taken.
    pub held: bool,
}

#[derive(Debug, Default)]
struct Trouble {
    last: Option<RDKafkaErrorCode>,
    fatal: Option<String>,
    missing: BTreeSet<Topic>,
}

impl ConsumerHealth {
    pub(super) fn new(now: Tick, revoke_wait: Duration) -> Self {
        Self {
            polled: AtomicU64::new(now.0),
            revoking: AtomicBool::new(false),
            revoke_wait,
            connected: AtomicBool::new(false),
            assigned: AtomicUsize::new(0),
            paused: AtomicUsize::new(0),
            refused_commits: AtomicU32::new(0),
            readings: Mutex::default(),
            trouble: Mutex::default(),
        }
    }

    /// When the thread last came round its loop, on the clock that the consumer was started with. At most 100 ms ago in a healthy
    /// process, except while it gives partitions up: see [`Self::longest_silence`].
    pub fn last_poll(&self) -> Tick {
        Tick(self.polled.load(Relaxed))
    }

    /// The longest a healthy thread may not come round. In one poll there may be a revocation, which waits for the loop's commit points, for a
    /// transaction (half as long), and for the last commit, which the client puts off for a session (twice as long) while the group has no
    /// coordinator; and an assignment, which asks what is committed. A watchdog that barks earlier barks at rebalances.
    pub fn longest_silence(&self) -> Duration {
        self.revoke_wait * 7 / 2 + COMMITTED_WITHIN
    }

    /// A commit was answered, or was not. Failures in a row are counted.
    pub(super) fn settled(&self, settled: &Settled) {
        match settled {
            Settled::Taken | Settled::Nothing => self.refused_commits.store(0, Relaxed),
            Settled::Failed(_) => {
                self.refused_commits.fetch_add(1, Relaxed);
            }
        }
    }

    /// Commits in a row that Kafka has not taken, up to now. They are made again.
    pub fn refused_commits(&self) -> u32 {
        self.refused_commits.load(Relaxed)
    }

    /// Whether the thread waits for the loop to say how far revoked partitions may be committed.
    pub fn is_revoking(&self) -> bool {
        self.revoking.load(Relaxed)
    }

    /// Whether a broker is connected. False from the start until one is; up to two seconds late.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    /// Partitions that are this instance's.
    pub fn assigned(&self) -> usize {
        self.assigned.load(Relaxed)
    }

    /// Partitions that are paused, for want of room or because the consumer takes no more.
    pub fn paused(&self) -> usize {
        self.paused.load(Relaxed)
    }

    /// How far each of its partitions was read, as of a few seconds ago.
    pub fn readings(&self) -> Readings {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the client last complained of and has not got over, in words that name no address.
    pub fn last_error(&self) -> Option<String> {
        self.trouble().last.map(|code| code.to_string())
    }

    /// Subscribed topics that were reported missing and of which no partition has come since. A topic whose partitions are all
    /// another instance's stays in it: whether a topic is there, [`TopicAdmin::inspect`](crate::edge::kafka::TopicAdmin::inspect) says.
    pub fn missing_topics(&self) -> Vec<Topic> {
        self.trouble().missing.iter().cloned().collect()
    }

    /// Why the consumer has ended by itself; it gives no more records. `None` while it lives and after it was closed.
    pub fn fatal(&self) -> Option<String> {
        self.trouble().fatal.clone()
    }

    pub(super) fn poll(&self, now: Tick) {
        self.polled.store(now.0, Relaxed);
    }

    pub(super) fn set_readings(&self, partitions: Vec<Reading>) {
        let at = self.last_poll();
        *self.readings.lock().unwrap_or_else(PoisonError::into_inner) = Readings { at, partitions };
    }

    pub(super) fn set_revoking(&self, revoking: bool) {
        self.revoking.store(revoking, Relaxed);
    }

    pub(super) fn set_partitions(&self, assigned: usize, paused: usize) {
        self.assigned.store(assigned, Relaxed);
        self.paused.store(paused, Relaxed);
    }

    /// Brokers are, or are not, connected. Says so once per change.
    pub(super) fn set_connected(&self, connected: bool) {
        if connected {
            let mut trouble = self.trouble();
            if trouble.last.is_some_and(is_unreachable) {
                trouble.last = None;
            }
        }
        if self.connected.swap(connected, Relaxed) != connected {
            if connected {
                tracing::info!("Kafka is connected");
            } else {
                tracing::warn!("Kafka is not connected; trying again for as long as it takes");
            }
        }
    }

    /// The client complained. Said once per change: librdkafka repeats itself with every attempt.
    pub(super) fn complain(&self, code: RDKafkaErrorCode) {
        if self.trouble().last.replace(code) != Some(code) {
            tracing::warn!(error = %code, "the consumer has trouble with Kafka");
        }
        if code == RDKafkaErrorCode::AllBrokersDown {
            self.set_connected(false);
        }
    }

    pub(super) fn miss(&self, topic: &Topic) {
        if self.trouble().missing.insert(topic.clone()) {
            tracing::warn!(%topic, "the topic does not exist; `fusebox migrate` creates it, and it is taken up when it appears");
        }
    }

    pub(super) fn came(&self, partitions: &[TopicPartition]) {
        let mut trouble = self.trouble();
        trouble.missing.retain(|topic| partitions.iter().all(|partition| partition.topic != *topic));
        if trouble.missing.is_empty() && trouble.last.is_some_and(is_unknown_topic) {
            trouble.last = None;
        }
    }

    /// The first reason stays: what follows it is its consequence.
    pub(super) fn fail(&self, why: String) {
        let mut trouble = self.trouble();
        if trouble.fatal.is_none() {
            tracing::error!(error = %why, "the consumer has ended");
            trouble.fatal = Some(why);
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.trouble().fatal.is_some()
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Partition;

    #[test]
    fn trouble_passes_with_its_cause() {
        let health = ConsumerHealth::new(Tick(0), Duration::from_secs(1));
        assert!(!health.is_connected());
        health.complain(RDKafkaErrorCode::AllBrokersDown);
        assert!(health.last_error().is_some());
        health.set_connected(true);
        assert_eq!(health.last_error(), None);

        let (here, gone) = (Topic::from("here"), Topic::from("gone"));
        health.complain(RDKafkaErrorCode::UnknownTopicOrPartition);
        health.miss(&gone);
        health.set_connected(true);
        health.came(&[TopicPartition { topic: here, partition: Partition(0) }]);
        assert_eq!(health.missing_topics(), std::slice::from_ref(&gone));
        assert!(health.last_error().is_some(), "a connection does not bring a topic");
        health.came(&[TopicPartition { topic: gone, partition: Partition(3) }]);
        assert_eq!((health.missing_topics(), health.last_error()), (vec![], None));
    }

    #[test]
    fn refused_commits_count_until_one_is_taken() {
        let health = ConsumerHealth::new(Tick(0), Duration::from_secs(1));
        for (settled, refused) in [
            (Settled::Failed("no".into()), 1),
            (Settled::Failed("no".into()), 2),
            (Settled::Taken, 0),
            (Settled::Failed("no".into()), 1),
            (Settled::Nothing, 0),
        ] {
            health.settled(&settled);
            assert_eq!(health.refused_commits(), refused, "{settled:?}");
        }
    }

    #[test]
    fn the_first_fatal_reason_stays() {
        let health = ConsumerHealth::new(Tick(0), Duration::from_secs(1));
        health.fail("a".into());
        health.fail("b".into());
        assert_eq!(health.fatal().as_deref(), Some("a"));
    }
}
