mod keys;
mod ordered;
mod shelf;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::*;
use crate::event::Record;
use crate::event::{Headers, Offset, Partition, Source, TopicPartition};
use crate::machine::breaker::{self, PolicySettings};
use crate::machine::schedule::Schedule;
use crate::machine::shelf::Run;
use crate::machine::verdict::Rules;
use crate::pipeline::fakes::{Always, Notes, PausedClock};
use crate::pipeline::guard::Manner;
use crate::pipeline::ports::{
    AckSender, Assignment, Batch, Body, Call, CallError, Caller, CommitPoint, Publisher, QueueFull, RefetchError, Refetched, Reply, Token,
};

/// A world with one service, whose calls end when the test says so.
struct Waiting;

impl World for Waiting {
    type Clock = PausedClock;
    type Chance = Always;
    type Caller = Held;
    type Publisher = Kept;
    type Witness = Notes;
}

/// Takes every record, and says so at once.
struct Kept {
    records: Arc<Mutex<Vec<Record>>>,
    acks: AckSender,
}

impl Publisher for Kept {
    fn publish(&self, record: &Record, token: Token) -> Result<(), QueueFull> {
        self.records.lock().expect("unpoisoned").push(record.clone());
        self.acks.send(Ack { token, result: Ok(None) });
        Ok(())
    }
}

/// Calls that are out; each is answered with the status that ends it.
#[derive(Default)]
struct Held {
    out: Mutex<VecDeque<oneshot::Sender<u16>>>,
    /// The offsets of all that ever came, in order.
    came: Mutex<Vec<i64>>,
}

impl Caller for Held {
    async fn call(&self, call: Call<'_>) -> Result<Reply, CallError> {
        let (end, ended) = oneshot::channel();
        self.came.lock().expect("unpoisoned").push(serde_json::from_slice(&call.body).expect("an offset"));
        self.out.lock().expect("unpoisoned").push_back(end);
        // Never dropped before it is sent.
        let status = ended.await.unwrap_or(200);
        let body = Body::Whole(Bytes::from_static(b"{}"));
        Ok(Reply { status, retry_after: None, headers: Headers::new(), body })
    }
}

/// Kafka's log: what was ever handed over, but for what is taken out of it; away while the test says so.
#[derive(Default)]
struct Logged {
    records: Mutex<BTreeMap<Source, Incoming>>,
    away: AtomicBool,
    /// How many were read again, and how many at once.
    again: AtomicUsize,
    most: AtomicUsize,
}

impl Refetch for Logged {
    fn refetch(&self, runs: Vec<Run>) -> BoxFuture<'static, Result<Refetched, RefetchError>> {
        if self.away.load(Relaxed) {
            return async { Err(RefetchError("away".to_owned())) }.boxed();
        }
        let records = self.records.lock().expect("unpoisoned");
        let mut answer = Refetched::default();
        for Run { partition, offsets } in runs {
            for offset in offsets {
                let source = partition.at(offset);
                match records.get(&source) {
                    Some(record) => answer.records.push(record.clone()),
                    None => answer.gone.push(source),
                }
            }
        }
        self.again.fetch_add(answer.records.len(), Relaxed);
        self.most.fetch_max(answer.records.len(), Relaxed);
        async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(answer)
        }
        .boxed()
    }
}

struct Given {
    intake: mpsc::UnboundedReceiver<Intake>,
    size: Arc<AtomicUsize>,
    held: Arc<Mutex<Vec<TopicPartition>>>,
}

impl Subscription for Given {
    async fn next(&mut self) -> Option<Intake> {
        self.intake.recv().await
    }
    fn commit(&self, _points: Vec<CommitPoint>) {}
    fn transact(&self, _batch: Batch) {}
    fn stop_taking(&self) {}
    fn hold(&self, partition: &TopicPartition) {
        self.held.lock().expect("unpoisoned").push(partition.clone());
    }
    fn let_go(&self, partition: &TopicPartition) {
        self.held.lock().expect("unpoisoned").retain(|held| held != partition);
    }
    fn read_again(&self, _point: CommitPoint) {}
    fn size(&self, _topic: &Topic) -> Option<usize> {
        Some(self.size.load(Relaxed)).filter(|size| *size > 0)
    }
    async fn close(self, _points: Vec<CommitPoint>) -> bool {
        true
    }
}

const TIMEOUT: Duration = Duration::from_secs(60);
const HAND_OVER: Duration = Duration::from_secs(8);

/// A drain that may have six calls at the service in the whole fleet.
struct Rig {
    intake: mpsc::UnboundedSender<Intake>,
    size: Arc<AtomicUsize>,
    service: Arc<Held>,
    orders: Arc<OrderBook>,
    log: Arc<Logged>,
    /// The partitions that the consumer is to read no more of.
    held: Arc<Mutex<Vec<TopicPartition>>>,
    budget: Arc<Budget>,
    stop: Stop,
    breakers: Arc<Breakers<Waiting>>,
    gauges: Arc<Gauges>,
    published: Arc<Mutex<Vec<Record>>>,
    clock: PausedClock,
    _running: JoinHandle<Ended>,
}

fn partition(number: i32) -> TopicPartition {
    TopicPartition { topic: Topic::from("retry"), partition: Partition(number) }
}

impl Rig {
    fn start(size: usize) -> Self {
        Self::start_with(size, Budget::new(1_000, 1 << 20), Duration::from_secs(1), false)
    }

    fn start_with(size: usize, budget: Arc<Budget>, max: Duration, ordered: bool) -> Self {
        Self::start_holding(size, budget, max, ordered, crate::machine::shelf::MOST)
    }

    fn start_holding(size: usize, budget: Arc<Budget>, max: Duration, ordered: bool, max_aside: usize) -> Self {
        let (clock, witness, stop, service) = (PausedClock::new(), Arc::new(Notes::default()), Stop::new(), Arc::new(Held::default()));
        let settings = breaker::Settings {
            recovery_timeout_max: TIMEOUT,
            ..breaker::Settings::new(PolicySettings::Consecutive { fail_max: 5.try_into().expect("not zero") }, TIMEOUT, TIMEOUT)
        };
        let services = [("notifier".to_owned(), settings)];
        let (breakers, _) = Breakers::<Waiting>::new(services, clock, Always(0.5), Arc::clone(&witness), "here".to_owned());
        let manner =
            Manner { timeout: TIMEOUT, slow: None, concurrency: 64, drain_concurrency: 6, adaptive: None, rules: Rules::default() };
        let guard = Guard::new(0, manner, Arc::clone(&breakers), Arc::clone(&service), clock, Arc::clone(&witness), stop.clone());
        let schedule = Schedule { initial: Duration::from_secs(1), max };
        let bounds = Bounds { max_attempts: 8, max_age: Duration::from_secs(3_600).max(max * 2), schedule };
        let (intake, given) = mpsc::unbounded_channel();
        let size = Arc::new(AtomicUsize::new(size));
        let (orders, published) = (OrderBook::closed("g"), Arc::<Mutex<Vec<Record>>>::default());
        let (log, gauges, held) = (Arc::new(Logged::default()), Gauges::new(), Arc::default());
        let (sender, acks) = crate::pipeline::acks::channel();
        let parts = Parts {
            settings: Settings {
                commit_interval: Duration::from_secs(3_600),
                stop_timeout: TIMEOUT,
                hand_over_timeout: HAND_OVER,
                max_ahead_bytes: crate::machine::progress::MAX_BYTES,
                together: None,
                dead_letters: Letterbox::plain(Topic::from("dead-letters")),
                deliveries: None,
                max_aside,
            },
            routes: vec![Route { service: 0, name: "notifier".to_owned(), guard: Arc::new(guard), bounds, concurrency: 6, ordered }],
            subscription: Given { intake: given, size: Arc::clone(&size), held: Arc::clone(&held) },
            refetch: Arc::<Logged>::clone(&log),
            publisher: Kept { records: Arc::clone(&published), acks: sender },
            acks,
            budget: Arc::clone(&budget),
            stop: stop.clone(),
            breakers: Arc::clone(&breakers),
            clock,
            chance: Always(0.5),
            witness,
            gauges: Arc::clone(&gauges),
            pulse: Pulse::new(clock.now()),
            orders: Arc::clone(&orders),
        };
        Self {
            intake,
            size,
            service,
            orders,
            log,
            held,
            budget,
            stop,
            breakers,
            gauges,
            published,
            clock,
            _running: tokio::spawn(run(parts)),
        }
    }

    async fn tell(&self, intake: Intake) {
        assert!(self.intake.send(intake).is_ok());
        self.pause().await;
    }

    async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    async fn assign(&self, partitions: impl IntoIterator<Item = i32>) {
        self.tell(Intake::Assigned(partitions.into_iter().map(|number| Assignment::fresh(partition(number))).collect())).await;
    }

    /// Parked calls of a partition, all of them due.
    async fn park(&self, number: i32, offsets: std::ops::Range<i64>) {
        let now = self.clock.wall();
        let parking = Parking { reason: Reason::CircuitOpen, attempt: 0, parks: 1, not_before: now, first_parked_at: now };
        self.park_as(number, offsets, "c", parking).await;
    }

    /// Parked calls of a camera.
    async fn park_as(&self, number: i32, offsets: std::ops::Range<i64>, camera: &str, parking: Parking) {
        self.hand(offsets.map(|offset| self.record(number, offset, camera, parking)).collect()).await;
    }

    /// Records are read: they are in the log, and in the budget.
    async fn hand(&self, records: Vec<Incoming>) {
        for record in &records {
            self.budget.take(record.size());
            self.log.records.lock().expect("unpoisoned").insert(record.source.clone(), record.clone());
        }
        self.tell(Intake::Records(records)).await;
    }

    fn record(&self, number: i32, offset: i64, camera: &str, parking: Parking) -> Incoming {
        let now = self.clock.wall();
        let source = Source { topic: Topic::from("retry"), partition: Partition(number), offset: Offset(offset) };
        let id = Uuid::from_u128(0x4000_8000_0000_0000_0001);
        let event = crate::event::Event {
            id,
            source: source.clone(),
            headers: Headers::new(),
            camera_id: camera.into(),
            key: Bytes::copy_from_slice(camera.as_bytes()),
            json: Bytes::from_static(b"{}"),
            known: crate::event::known::Known::default(),
        };
        let call = envelope::Call {
            service: "notifier",
            event: &event,
            method: "POST",
            path: "/",
            idempotency_key: &envelope::idempotency_key(id, "notifier"),
            body: &Bytes::from(offset.to_string()),
            results: &[],
        };
        let record = envelope::park(&source.topic, &call, parking, now);
        Incoming { source, key: record.key, value: record.value, headers: record.headers, timestamp: None }
    }

    /// How many calls are at the service.
    fn out(&self) -> usize {
        let mut calls = self.service.out.lock().expect("unpoisoned");
        calls.retain(|call| !call.is_closed());
        calls.len()
    }

    /// The offsets of the calls that came to the service, in order.
    fn came(&self) -> Vec<i64> {
        self.service.came.lock().expect("unpoisoned").clone()
    }

    /// Ends so many of the calls that are at the service.
    async fn answer(&self, calls: usize) {
        self.answer_with(200, calls).await;
    }

    async fn answer_with(&self, status: u16, calls: usize) {
        for _ in 0..calls {
            let call = self.service.out.lock().expect("unpoisoned").pop_front().expect("a call is out");
            assert!(call.send(status).is_ok());
        }
        self.pause().await;
    }

    /// Takes partitions away; told when they are given up.
    async fn revoke(&self, partitions: impl IntoIterator<Item = i32>) -> Arc<AtomicBool> {
        let gone = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&gone);
        self.tell(Intake::Revoked(partitions.into_iter().map(partition).collect(), Box::new(move |_| told.store(true, Relaxed)))).await;
        gone
    }
}

#[tokio::test(start_paused = true)]
async fn as_many_go_as_the_partitions_have_places() {
    let rig = Rig::start(6);
    rig.assign([0, 1]).await;
    rig.park(0, 0..20).await;
    assert_eq!(rig.out(), 2, "two of six partitions");
    rig.assign([4]).await;
    assert_eq!(rig.out(), 3, "a partition has come, and its place, whosever calls wait");
    rig.answer(2).await;
    assert_eq!(rig.out(), 3);
    // Four more partitions for the same places, heard of beside the loop.
    rig.size.store(12, Relaxed);
    tokio::time::sleep(ROUND * 2).await;
    rig.answer(3).await;
    assert_eq!(rig.out(), 3, "each of the first six has one of the six places");
    rig.size.store(2, Relaxed);
    tokio::time::sleep(ROUND * 2).await;
    assert_eq!(rig.out(), 6);
}

#[tokio::test(start_paused = true)]
async fn one_goes_while_the_topic_is_unknown() {
    let rig = Rig::start(0);
    rig.assign([0, 1, 2]).await;
    rig.park(1, 0..20).await;
    assert_eq!(rig.out(), 1);
    rig.size.store(3, Relaxed);
    tokio::time::sleep(ROUND * 2).await;
    assert_eq!(rig.out(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_partition_goes_when_its_places_are_free() {
    let rig = Rig::start(6);
    rig.assign(0..6).await;
    rig.park(0, 0..20).await;
    assert_eq!(rig.out(), 6);
    // Nothing of it runs, and yet it stays: its next owner would make calls in places that are still taken.
    let gone = rig.revoke(3..6).await;
    rig.answer(2).await;
    assert_eq!((rig.out(), gone.load(Relaxed)), (4, false));
    rig.answer(1).await;
    assert_eq!((rig.out(), gone.load(Relaxed)), (3, true));
    // What is left goes on.
    rig.answer(3).await;
    assert_eq!(rig.out(), 3);
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_longer_for_a_place_than_a_hand_over_may() {
    let rig = Rig::start(6);
    rig.assign(0..6).await;
    rig.park(0, 0..4).await;
    rig.park(5, 0..20).await;
    assert_eq!(rig.out(), 6);
    let gone = rig.revoke([4, 5]).await;
    tokio::time::sleep(HAND_OVER - Duration::from_millis(100)).await;
    assert_eq!((rig.out(), gone.load(Relaxed)), (6, false), "its calls may end");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((rig.out(), gone.load(Relaxed)), (4, true), "what is another's is cut off, and nothing else");
    tokio::time::sleep(TIMEOUT / 2).await;
    rig.park(1, 0..20).await;
    assert_eq!(rig.out(), 4);
}

#[tokio::test(start_paused = true)]
async fn lost_partitions_take_their_calls_and_places_with_them() {
    let rig = Rig::start(6);
    rig.assign(0..6).await;
    rig.park(0, 0..20).await;
    rig.park(1, 0..20).await;
    rig.tell(Intake::Lost((1..6).map(partition).collect())).await;
    rig.answer(rig.out() - 1).await;
    assert_eq!(rig.out(), 1);
    rig.tell(Intake::Lost(vec![partition(0)])).await;
    assert_eq!(rig.out(), 0);
}
