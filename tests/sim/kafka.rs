//! A Kafka made of vectors: topics, one group's commits, a publisher that fails as the seed says, a consumer that can be rebalanced and has
//! its records and commits taken as one ([`transactions`](crate::transactions)).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fusebox::event::{Headers, Incoming, Offset, Partition, Record, Source, Topic, TopicPartition, UnixMillis};
use fusebox::pipeline::acks;
use fusebox::pipeline::ports::{
    Ack, AckSender, Acks, Assignment, Batch, Budget, CommitPoint, Intake, PublishError, Publisher, QueueFull, Subscription, Token,
};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::bounds::Holdings;
use crate::index::Index;
use crate::oracle::Oracle;
use crate::transactions::{Broker, Open};
use crate::world::SimClock;

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
    /// The share of publishes that are acknowledged after seconds.
    pub slow: f64,
    /// The largest record that a topic takes.
    pub largest: usize,
}

impl Weather {
    pub const FAIR: Self = Self { lost: 0.0, unacknowledged: 0.0, full: 0.0, slow: 0.0, largest: usize::MAX };
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
    /// What transactions wrote that were undone: nobody reads it but who reads what is not committed.
    pub undone: BTreeMap<(Topic, Partition), Log>,
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
                undone: BTreeMap::new(),
                next_offset_gap: StdRng::seed_from_u64(seed ^ 0x0ff5e7),
                dice: StdRng::seed_from_u64(seed ^ 0xd1ce),
            }),
            changed: Notify::new(),
        })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no oracle failed")
    }

    /// Appends to a partition chosen by the key, unless it is named; offsets have holes, as transactions and compaction leave them.
    pub fn append(&self, record: Record, partitions: i32) -> Source {
        let mut state = self.state();
        let source = state.next_place(&record, partitions);
        let log = state.logs.entry((source.topic.clone(), source.partition)).or_default();
        log.push((source.offset, record.clone()));
        state.index.take(&record);
        drop(state);
        self.changed.notify_waiters();
        source
    }

    /// A record of a transaction that is undone takes up a place.
    pub fn append_undone(&self, record: Record, partitions: i32) {
        let mut state = self.state();
        let source = state.next_place(&record, partitions);
        state.undone.entry((source.topic, source.partition)).or_default().push((source.offset, record));
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

impl State {
    /// The offset behind the last record of a partition, whoever may read that.
    pub fn end(&self, partition: &(Topic, Partition)) -> Offset {
        let last = |logs: &BTreeMap<(Topic, Partition), Log>| logs.get(partition).and_then(|log| log.last()).map(|(offset, _)| *offset);
        last(&self.logs).max(last(&self.undone)).map_or(Offset(0), |last| Offset(last.0 + 1))
    }

    fn next_place(&mut self, record: &Record, partitions: i32) -> Source {
        let hash =
            record.key.as_ref().map_or(0, |key| key.iter().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(*byte))));
        let by_key = Partition(i32::try_from(hash % u32::try_from(partitions).expect("positive")).expect("small"));
        let partition = record.partition.unwrap_or(by_key);
        let gap = if self.next_offset_gap.random_bool(0.1) { self.next_offset_gap.random_range(1..4) } else { 0 };
        let offset = Offset(self.end(&(record.topic.clone(), partition)).0 + gap);
        Source { topic: record.topic.clone(), partition, offset }
    }
}

/// A publisher whose acknowledgements come after a while, and not always.
pub struct FakePublisher {
    pub kafka: Arc<Kafka>,
    pub partitions: i32,
    acks: AckSender,
    holdings: Arc<Holdings>,
    oracle: Arc<Oracle>,
    clock: SimClock,
}

impl FakePublisher {
    pub fn new(kafka: Arc<Kafka>, partitions: i32, holdings: Arc<Holdings>, oracle: Arc<Oracle>, clock: SimClock) -> (Self, Acks) {
        let (acks, receiver) = acks::channel();
        (Self { kafka, partitions, acks, holdings, oracle, clock }, receiver)
    }
}

impl Publisher for FakePublisher {
    fn publish(&self, record: &Record, token: Token) -> Result<(), QueueFull> {
        assert!(record.timestamp.0 > 0, "a record without a timestamp is deleted by retention at once");
        let too_large = record.size() > self.kafka.state().weather.largest;
        let (appended, acknowledged, delay) = {
            let mut state = self.kafka.state();
            let weather = state.weather;
            if state.dice.random_bool(weather.full) {
                return Err(QueueFull);
            }
            let slowness = if state.dice.random_bool(weather.slow) { 200 } else { 1 };
            let delay = Duration::from_micros(slowness * state.dice.random_range(200..20_000));
            let roll: f64 = state.dice.random();
            let appended = roll >= weather.lost && !too_large;
            let acknowledged = roll >= weather.lost + weather.unacknowledged && !too_large;
            state.failed_publishes += u64::from(!acknowledged && !too_large);
            (appended, acknowledged, delay)
        };
        let last_words = self.oracle.publishing(record);
        let at = appended.then(|| self.kafka.append(record.clone(), self.partitions).offset);
        if too_large {
            self.oracle.count("too large");
        }
        let size = self.holdings.publishing(record);
        let (acks, holdings, oracle, clock) = (self.acks.clone(), Arc::clone(&self.holdings), Arc::clone(&self.oracle), self.clock);
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            holdings.acknowledged(size);
            if let Some(last_words) = last_words.filter(|_| acknowledged) {
                oracle.acknowledged(clock.elapsed(), last_words);
            }
            let result = match (acknowledged, too_large) {
                (true, _) => Ok(at),
                (false, true) => Err(PublishError::TooLarge),
                (false, false) => Err(PublishError::Failed("the seed says so".to_owned())),
            };
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
    /// Where partitions are to be read again.
    again: Mutex<Vec<CommitPoint>>,
    stopped: AtomicBool,
    paused: bool,
    dice: StdRng,
    check: Check,
    holdings: Arc<Holdings>,
    oracle: Arc<Oracle>,
    /// Where its batches go; `None`: records finish each by itself.
    broker: Option<Broker>,
    /// How many partitions its topics have.
    partitions: Option<usize>,
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
        holdings: Arc<Holdings>,
        oracle: Arc<Oracle>,
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
            again: Mutex::default(),
            stopped: AtomicBool::new(false),
            paused: false,
            dice: StdRng::seed_from_u64(seed),
            check,
            holdings,
            oracle,
            broker: None,
            partitions: None,
            answers: mpsc::unbounded_channel(),
        };
        (subscription, sender)
    }

    /// What this broker takes, it takes together.
    pub fn through(self, broker: Option<Broker>) -> Self {
        Self { broker, ..self }
    }

    /// Of topics of so many partitions.
    pub fn of(self, partitions: i32) -> Self {
        Self { partitions: usize::try_from(partitions).ok(), ..self }
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
                self.go(&partitions);
                let (sender, receiver) = oneshot::channel();
                let patience = Duration::from_millis(self.dice.random_range(300..3_000));
                self.handed_over = Some((Instant::now() + patience, receiver));
                Intake::Revoked(partitions, Box::new(move |points| drop(sender.send(points))))
            }
            Shove::Lose(partitions) => {
                if let Some(broker) = &self.broker {
                    broker.fence(&partitions);
                }
                self.go(&partitions);
                Intake::Lost(partitions)
            }
        }
    }

    fn go(&mut self, partitions: &[TopicPartition]) {
        self.positions.retain(|partition, _| !partitions.contains(partition));
        self.holdings.let_go(partitions);
    }

    fn poll(&mut self) -> Option<Intake> {
        // As the real one: paused at the bound, until half of it is free.
        if self.budget.is_full() && !std::mem::replace(&mut self.paused, true) {
            self.oracle.count("pauses");
        }
        self.paused &= !self.budget.has_room();
        if self.stopped.load(Relaxed) || self.paused || self.positions.is_empty() {
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
                    source: partition.at(*offset),
                    key: record.key.clone(),
                    value: record.value.clone(),
                    headers: record.headers.clone(),
                    timestamp: Some(record.timestamp),
                };
                self.budget.take(incoming.size());
                records.push(incoming);
            }
        }
        drop((state, held));
        self.oracle.handed(&records);
        self.holdings.let_go(&self.oracle.halted());
        self.holdings.take(&mut records, |record| self.oracle.has_ended(self.group, &record.source, &record.headers));
        (!records.is_empty()).then_some(Intake::Records(records))
    }

    /// Whether there is more to take.
    fn is_behind(&self) -> bool {
        let state = self.kafka.state();
        let end = |partition: &TopicPartition| state.logs.get(&(partition.topic.clone(), partition.partition))?.last().map(|(end, _)| *end);
        self.positions.iter().any(|(partition, position)| end(partition).is_some_and(|end| *position <= end))
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
            if let Some(point) = self.again.get_mut().expect("unpoisoned").pop() {
                let partition = point.partition.clone();
                // Of a shove that was not handed on, the loop has not heard.
                if self.shoves.is_empty() && self.positions.contains_key(&partition) {
                    self.oracle.read_again(&partition);
                    self.holdings.let_go(std::slice::from_ref(&partition));
                    self.positions.insert(partition.clone(), point.next);
                    return Some(Intake::Assigned(vec![Assignment { partition, committed: Some(point) }]));
                }
                continue;
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
            // Room in the budget, or beside a commit, comes without a word. Where nothing is left to take, nobody asks for it.
            let again = Duration::from_millis(if self.is_behind() { 25 } else { 10_000 });
            tokio::select! {
                biased;
                shove = self.shoves.recv() => match shove {
                    Some(shove) => return Some(self.shoved(shove)),
                    None => std::future::pending::<()>().await,
                },
                answer = self.answers.1.recv() => return answer,
                () = kafka.changed.notified() => {}
                () = tokio::time::sleep(again) => {}
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

    fn stop_taking(&self) {
        self.stopped.store(true, Relaxed);
    }

    fn hold(&self, partition: &TopicPartition) {
        assert!(self.held.lock().expect("unpoisoned").insert(partition.clone()), "{partition} is held twice");
        self.oracle.held(partition, true);
    }

    fn let_go(&self, partition: &TopicPartition) {
        assert!(self.held.lock().expect("unpoisoned").remove(partition), "{partition} was not held");
        self.oracle.held(partition, false);
    }

    fn read_again(&self, point: CommitPoint) {
        assert!(self.held.lock().expect("unpoisoned").contains(&point.partition), "{} is read on meanwhile", point.partition);
        self.again.lock().expect("unpoisoned").push(point);
        self.kafka.changed.notify_waiters();
    }

    fn size(&self, _topic: &Topic) -> Option<usize> {
        self.partitions
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
        partition: None,
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
