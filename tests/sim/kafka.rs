//! A Kafka made of vectors: topics, one group's commits, a publisher that fails as the seed says, a consumer that can be rebalanced and has
//! its records and commits taken as one ([`transactions`](crate::transactions)).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fusebox::event::headers::name;
use fusebox::event::{Headers, Incoming, Offset, Partition, Record, Source, Topic, TopicPartition, UnixMillis, envelope};
use fusebox::pipeline::acks;
use fusebox::pipeline::ports::{
    Ack, AckSender, Acks, Assignment, Batch, Budget, CommitPoint, Intake, PublishError, Publisher, QueueFull, Subscription, Token,
};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::oracle::Oracle;
use crate::transactions::{Broker, Open};
use crate::world::{DEAD_LETTERS, OUTCOMES, RETRY, SimClock};

/// What stands in one partition.
pub type Log = Vec<(Offset, Record)>;

/// How publishing goes wrong.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// The share of publishes that fail without a trace.
    pub lost: f64,
    /// The share of publishes that fail although the record is there.
    pub unacknowledged: f64,
    /// The share of publishes for which the client's queue is full.
    pub full: f64,
}

/// What stands on the topics, read once, for the checks that are made with every commit.
#[derive(Default)]
pub struct Index {
    /// Outcomes, in order, with the event's coordinates.
    pub outcomes: Vec<(Source, serde_json::Value)>,
    /// Dead letters of events.
    pub dead_events: Vec<Source>,
    /// Events with an outcome or a dead letter.
    pub ends: BTreeSet<Source>,
    /// How often each event's call has been parked.
    pub parks: BTreeMap<String, u32>,
    /// Events whose call is a dead letter.
    pub dead_calls: BTreeSet<String>,
}

impl Index {
    fn take(&mut self, record: &Record) {
        let id = record.headers.text(name::EVENT_ID).map(str::to_owned);
        match (record.topic.as_str(), id) {
            (OUTCOMES, _) => {
                let outcome: serde_json::Value =
                    serde_json::from_slice(record.value.as_ref().expect("a value")).expect("an outcome is JSON");
                let source: Source = serde_json::from_value(outcome["source"].clone()).expect("an outcome has coordinates");
                self.ends.insert(source.clone());
                self.outcomes.push((source, outcome));
            }
            (DEAD_LETTERS, Some(id)) => {
                self.dead_calls.insert(id);
            }
            (DEAD_LETTERS, None) => {
                let origin = envelope::origin(&record.headers).expect("a dead letter has coordinates");
                self.ends.insert(origin.clone());
                self.dead_events.push(origin);
            }
            (RETRY, Some(id)) => {
                let parks: u32 = record.headers.number(name::PARKS).expect("a count");
                let most = self.parks.entry(id).or_default();
                *most = parks.max(*most);
            }
            _ => {}
        }
    }
}

pub struct Kafka {
    state: Mutex<State>,
    pub changed: Notify,
}

pub struct State {
    pub logs: BTreeMap<(Topic, Partition), Log>,
    pub commits: BTreeMap<(&'static str, TopicPartition), CommitPoint>,
    pub weather: Weather,
    pub failed_publishes: u64,
    pub index: Index,
    /// The transaction of each group that is under way.
    pub open: BTreeMap<&'static str, Open>,
    next_offset_gap: StdRng,
    pub dice: StdRng,
}

impl Kafka {
    pub fn new(seed: u64, weather: Weather) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                logs: BTreeMap::new(),
                commits: BTreeMap::new(),
                weather,
                failed_publishes: 0,
                index: Index::default(),
                open: BTreeMap::new(),
                next_offset_gap: StdRng::seed_from_u64(seed ^ 0x0ff5e7),
                dice: StdRng::seed_from_u64(seed ^ 0xd1ce),
            }),
            changed: Notify::new(),
        })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no oracle failed")
    }

    /// Appends to a partition chosen by the key; offsets have holes, as transactions and compaction leave them.
    pub fn append(&self, record: Record, partitions: i32) -> Source {
        let mut state = self.state();
        let hash =
            record.key.as_ref().map_or(0, |key| key.iter().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(*byte))));
        let partition = Partition(i32::try_from(hash % u32::try_from(partitions).expect("positive")).expect("small"));
        let gap = if state.next_offset_gap.random_bool(0.1) { state.next_offset_gap.random_range(1..4) } else { 0 };
        let log = state.logs.entry((record.topic.clone(), partition)).or_default();
        let offset = Offset(log.last().map_or(0, |(offset, _)| offset.0 + 1) + gap);
        let source = Source { topic: record.topic.clone(), partition, offset };
        log.push((offset, record.clone()));
        state.index.take(&record);
        drop(state);
        self.changed.notify_waiters();
        source
    }

    pub fn all(&self, topic: &str) -> Vec<(Source, Record)> {
        let state = self.state();
        let of_topic = state.logs.iter().filter(|((name, _), _)| name.as_str() == topic);
        of_topic
            .flat_map(|((topic, partition), log)| {
                log.iter().map(|(offset, record)| (Source { topic: topic.clone(), partition: *partition, offset: *offset }, record.clone()))
            })
            .collect()
    }

    pub fn last_commit(&self, group: &'static str, partition: &TopicPartition) -> Option<CommitPoint> {
        self.state().commits.get(&(group, partition.clone())).cloned()
    }

    pub fn committed(&self, group: &'static str, partition: &TopicPartition) -> Offset {
        self.last_commit(group, partition).map_or(Offset(0), |point| point.next)
    }
}

/// A publisher whose acknowledgements come after a while, and not always.
pub struct FakePublisher {
    pub kafka: Arc<Kafka>,
    pub partitions: i32,
    acks: AckSender,
    oracle: Arc<Oracle>,
    clock: SimClock,
}

impl FakePublisher {
    pub fn new(kafka: Arc<Kafka>, partitions: i32, oracle: Arc<Oracle>, clock: SimClock) -> (Self, Acks) {
        let (acks, receiver) = acks::channel();
        (Self { kafka, partitions, acks, oracle, clock }, receiver)
    }
}

impl Publisher for FakePublisher {
    fn publish(&self, record: &Record, token: Token) -> Result<(), QueueFull> {
        assert!(record.timestamp.0 > 0, "a record without a timestamp is deleted by retention at once");
        let (appended, acknowledged, delay) = {
            let mut state = self.kafka.state();
            let weather = state.weather;
            if state.dice.random_bool(weather.full) {
                return Err(QueueFull);
            }
            let delay = Duration::from_micros(state.dice.random_range(200..20_000));
            let roll: f64 = state.dice.random();
            let appended = roll >= weather.lost;
            let acknowledged = roll >= weather.lost + weather.unacknowledged;
            state.failed_publishes += u64::from(!acknowledged);
            (appended, acknowledged, delay)
        };
        let last_words = self.oracle.publishing(record);
        if appended {
            self.kafka.append(record.clone(), self.partitions);
        }
        let (acks, oracle, clock) = (self.acks.clone(), Arc::clone(&self.oracle), self.clock);
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            if let Some(last_words) = last_words.filter(|_| acknowledged) {
                oracle.acknowledged(clock.elapsed(), last_words);
            }
            let result = if acknowledged { Ok(()) } else { Err(PublishError::Failed("the seed says so".to_owned())) };
            acks.send(Ack { token, result });
        });
        Ok(())
    }
}

/// What a world does to a consumer.
pub enum Shove {
    Assign(Vec<TopicPartition>),
    Revoke(Vec<TopicPartition>),
    Lose(Vec<TopicPartition>),
}

/// A consumer of one group: alone in it, but its partitions come and go as the world says.
pub struct FakeSubscription {
    kafka: Arc<Kafka>,
    group: &'static str,
    budget: Arc<Budget>,
    shoves: mpsc::UnboundedReceiver<Shove>,
    positions: BTreeMap<TopicPartition, Offset>,
    pending: VecDeque<Intake>,
    handed_over: Option<(Instant, oneshot::Receiver<Vec<CommitPoint>>)>,
    /// Partitions that the loop holds.
    held: Mutex<BTreeSet<TopicPartition>>,
    stopped: bool,
    dice: StdRng,
    check: Check,
    oracle: Arc<Oracle>,
    /// Where its batches go; `None`: records finish each by itself.
    broker: Option<Broker>,
    answers: (mpsc::UnboundedSender<Intake>, mpsc::UnboundedReceiver<Intake>),
}

/// Looks at a commit that is about to be made.
pub type Check = Arc<dyn Fn(&'static str, &CommitPoint) + Send + Sync>;

impl FakeSubscription {
    pub fn new(
        kafka: Arc<Kafka>,
        group: &'static str,
        budget: Arc<Budget>,
        seed: u64,
        check: Check,
        oracle: Arc<Oracle>,
        broker: Option<Broker>,
    ) -> (Self, mpsc::UnboundedSender<Shove>) {
        let (sender, shoves) = mpsc::unbounded_channel();
        let subscription = Self {
            kafka,
            group,
            budget,
            shoves,
            positions: BTreeMap::new(),
            pending: VecDeque::new(),
            handed_over: None,
            held: Mutex::default(),
            stopped: false,
            dice: StdRng::seed_from_u64(seed),
            check,
            oracle,
            broker,
            answers: mpsc::unbounded_channel(),
        };
        (subscription, sender)
    }

    fn commit_now(&self, points: Vec<CommitPoint>) {
        assert!(points.is_empty() || self.broker.is_none(), "what is committed by itself is not one with its records: {points:?}");
        for point in points {
            (self.check)(self.group, &point);
            self.kafka.state().commits.insert((self.group, point.partition.clone()), point);
        }
    }

    fn shoved(&mut self, shove: Shove) -> Intake {
        match shove {
            Shove::Assign(partitions) => {
                // Whoever asks what is committed is answered when it is known.
                if let Some(broker) = &self.broker {
                    broker.end_before(&partitions);
                }
                for partition in &partitions {
                    self.positions.insert(partition.clone(), self.kafka.committed(self.group, partition));
                }
                let assignment =
                    |partition: TopicPartition| Assignment { committed: self.kafka.last_commit(self.group, &partition), partition };
                Intake::Assigned(partitions.into_iter().map(assignment).collect())
            }
            Shove::Revoke(partitions) => {
                self.positions.retain(|partition, _| !partitions.contains(partition));
                let (sender, receiver) = oneshot::channel();
                let patience = Duration::from_millis(self.dice.random_range(300..3_000));
                self.handed_over = Some((Instant::now() + patience, receiver));
                Intake::Revoked(partitions, Box::new(move |points| drop(sender.send(points))))
            }
            Shove::Lose(partitions) => {
                if let Some(broker) = &self.broker {
                    broker.fence(&partitions);
                }
                self.positions.retain(|partition, _| !partitions.contains(partition));
                Intake::Lost(partitions)
            }
        }
    }

    fn poll(&mut self) -> Option<Intake> {
        if self.stopped || self.budget.is_full() || self.positions.is_empty() {
            return None;
        }
        let most = self.dice.random_range(1..12);
        let state = self.kafka.state();
        let mut records = Vec::new();
        let held = self.held.lock().expect("unpoisoned");
        for (partition, position) in &mut self.positions {
            // What was on its way when the partition was held comes all the same.
            if held.contains(partition) && self.dice.random_bool(0.8) {
                continue;
            }
            let Some(log) = state.logs.get(&(partition.topic.clone(), partition.partition)) else { continue };
            let from = *position;
            let first = log.partition_point(|(offset, _)| *offset < from);
            for (offset, record) in log[first..].iter().take(most) {
                if self.budget.is_full() {
                    break;
                }
                *position = Offset(offset.0 + 1);
                let incoming = Incoming {
                    source: Source { topic: partition.topic.clone(), partition: partition.partition, offset: *offset },
                    key: record.key.clone(),
                    value: record.value.clone(),
                    headers: record.headers.clone(),
                    timestamp: Some(record.timestamp),
                };
                self.budget.take(incoming.size());
                records.push(incoming);
            }
        }
        (!records.is_empty()).then_some(Intake::Records(records))
    }
}

impl Subscription for FakeSubscription {
    async fn next(&mut self) -> Option<Intake> {
        loop {
            // As the real one, it hands nothing on between a revocation and its answer, and waits no longer than its bound, which a busy
            // loop's own may come behind.
            if let Some((until, receiver)) = &mut self.handed_over {
                let answer = tokio::time::timeout_at(*until, receiver).await;
                self.handed_over = None;
                if let Ok(Ok(points)) = answer {
                    self.commit_now(points);
                }
            }
            if let Some(intake) = self.pending.pop_front() {
                return Some(intake);
            }
            if let Ok(shove) = self.shoves.try_recv() {
                return Some(self.shoved(shove));
            }
            if let Ok(answer) = self.answers.1.try_recv() {
                return Some(answer);
            }
            if let Some(intake) = self.poll() {
                return Some(intake);
            }
            let kafka = Arc::clone(&self.kafka);
            tokio::select! {
                biased;
                shove = self.shoves.recv() => match shove {
                    Some(shove) => return Some(self.shoved(shove)),
                    None => std::future::pending::<()>().await,
                },
                answer = self.answers.1.recv() => return answer,
                () = kafka.changed.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(25)) => {}
            }
        }
    }

    fn commit(&self, points: Vec<CommitPoint>) {
        self.commit_now(points);
    }

    fn transact(&self, batch: Batch) {
        let broker = self.broker.as_ref().expect("records finish each by itself");
        // Of a shove that was not handed on, the loop has not heard.
        let is_ours = |point: &CommitPoint| self.positions.contains_key(&point.partition);
        let taken = self.shoves.is_empty() && batch.points.iter().all(is_ours);
        broker.take(batch, taken, self.answers.0.clone());
    }

    fn stop_taking(&self) {}

    fn hold(&self, partition: &TopicPartition) {
        assert!(self.held.lock().expect("unpoisoned").insert(partition.clone()), "{partition} is held twice");
        self.oracle.count("holds");
    }

    fn let_go(&self, partition: &TopicPartition) {
        assert!(self.held.lock().expect("unpoisoned").remove(partition), "{partition} was not held");
    }

    async fn close(self, points: Vec<CommitPoint>) -> bool {
        self.commit_now(points);
        true
    }
}

/// A record for the input topic.
pub fn record(topic: &str, key: Option<&str>, value: Option<Vec<u8>>, at: i64) -> Record {
    Record {
        topic: Topic::from(topic),
        key: key.map(|key| key.to_owned().into()),
        value: value.map(Into::into),
        headers: Headers::new(),
        timestamp: UnixMillis(at),
    }
}

/// A seeded number below `end`.
pub fn below(dice: &mut impl Rng, end: u64) -> u64 {
    dice.random_range(0..end)
}
