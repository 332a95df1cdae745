//! The Kafka edge against a real broker: `KAFKA_BROKERS=127.0.0.1:9092 cargo test --test edge_kafka`.
//!
//! Each test makes topics and groups of its own. The loops here are written by hand over the ports, as the pipeline's are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fusebox::config;
use fusebox::edge::embedded::EmbeddedKafka;
use fusebox::edge::kafka::{
    Ahead, ConsumerOptions, Created, KafkaSubscription, LagSampler, Needed, NewTopic, Producer, Retention, Settled, Start, TopicAdmin, read,
};
use fusebox::event::{Headers, Incoming, Offset, Partition, Record, Topic, TopicPartition, UnixMillis};
use fusebox::machine::time::Tick;
use fusebox::pipeline::ports::{
    Ack, Acks, Assignment, Budget, Clock, CommitPoint, Intake, PublishError, Publisher, QueueFull, Subscription, Token,
};
use tokio::sync::{Semaphore, mpsc};

/// Longer than anything here takes; only a failure waits for it.
const LIMIT: Duration = Duration::from_secs(60);

fn brokers() -> String {
    std::env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS is not set: these tests need a Kafka broker, as in KAFKA_BROKERS=127.0.0.1:9092")
}

fn settings_at(brokers: &str, properties: &[(&str, &str)]) -> config::Kafka {
    config::Kafka {
        brokers: brokers.to_owned(),
        group: format!("tail-{}", uuid::Uuid::new_v4()),
        properties: properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect(),
    }
}

fn settings(properties: &[(&str, &str)]) -> config::Kafka {
    settings_at(&brokers(), properties)
}

fn fresh(name: &str) -> String {
    format!("{name}-{}", uuid::Uuid::new_v4())
}

async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} did not happen within {LIMIT:?}"),
    }
}

/// Waits for a state that nothing tells of.
async fn until(what: &str, state: impl Fn() -> bool) {
    within(what, async {
        while !state() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[derive(Clone)]
struct Monotonic(Instant);

impl Monotonic {
    fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Monotonic {
    fn now(&self) -> Tick {
        Tick(self.0.elapsed().as_millis().try_into().unwrap())
    }
    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }
    fn instant(&self, _at: Tick) -> Option<tokio::time::Instant> {
        None
    }
}

fn options(group: &str, topics: &[&Topic], budget: &Arc<Budget>) -> ConsumerOptions {
    ConsumerOptions {
        group: group.to_owned(),
        seat: None,
        topics: topics.iter().map(|topic| (*topic).clone()).collect(),
        client_id: "test".into(),
        budget: Arc::clone(budget),
        ahead: Ahead { records: 10_000, bytes: 4 << 20 },
        max_record_bytes: 1 << 20,
        revoke_wait: None,
        transactional_id: None,
        on_commit: Arc::new(|settled| {
            if settled != Settled::Taken {
                eprintln!("commit: {settled:?}");
            }
        }),
    }
}

fn roomy() -> Arc<Budget> {
    Budget::new(100_000, 1 << 30)
}

async fn create(name: &str, partitions: u32, max_message_bytes: Option<u64>) -> Topic {
    let topic = Topic::from(fresh(name).as_str());
    create_named(&topic, partitions, max_message_bytes).await;
    topic
}

async fn create_named(topic: &Topic, partitions: u32, max_message_bytes: Option<u64>) {
    // The records' fixed time is older than a broker's default retention, which would delete them within minutes.
    let retention = Some(Duration::from_secs(100 * 365 * 24 * 3600));
    let new = NewTopic { name: topic.clone(), partitions, replication: Some(1), retention, max_message_bytes };
    let created = TopicAdmin::connect(&settings(&[])).unwrap().create(&[new], false, LIMIT).await.unwrap();
    assert_eq!(created, [Created::Created]);
}

fn record(topic: &Topic, key: Option<&str>, value: impl Into<Bytes>) -> Record {
    Record {
        topic: topic.clone(),
        partition: None,
        key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
        value: Some(value.into()),
        headers: Headers::new(),
        timestamp: UnixMillis(1_793_739_845_678),
    }
}

async fn acknowledged(acks: &mut Acks, count: usize) -> Vec<Ack> {
    let mut all = Vec::new();
    while all.len() < count {
        all.push(within("an acknowledgement", acks.recv()).await.unwrap());
    }
    all
}

/// Publishes so many records with values `0`, `1`, … and waits for Kafka to have them.
async fn fill(settings: &config::Kafka, topic: &Topic, count: usize) {
    let producer = Producer::connect(settings).unwrap();
    let (publisher, mut acks) = producer.handle();
    for number in 0..count {
        let record = record(topic, Some(&format!("key-{number}")), number.to_string());
        publisher.publish(&record, Token(number as u64)).unwrap();
    }
    let acks = acknowledged(&mut acks, count).await;
    assert!(acks.iter().all(|ack| ack.result.is_ok()), "{acks:?}");
    assert_eq!(acks.iter().map(|ack| ack.token).collect::<BTreeSet<_>>().len(), count);
}

async fn assigned(subscription: &mut KafkaSubscription, count: usize) -> Vec<TopicPartition> {
    let mut all = Vec::new();
    while all.len() < count {
        match within("an assignment", subscription.next()).await {
            Some(Intake::Assigned(assignments)) => all.extend(assignments.into_iter().map(|assignment| assignment.partition)),
            other => panic!("{other:?} instead of an assignment"),
        }
    }
    all
}

async fn next_records(subscription: &mut KafkaSubscription, count: usize) -> Vec<Incoming> {
    let mut all = Vec::new();
    while all.len() < count {
        match within("records", subscription.next()).await {
            Some(Intake::Records(records)) => all.extend(records),
            Some(Intake::Assigned(_)) => {}
            other => panic!("{other:?} instead of records"),
        }
    }
    assert_eq!(all.len(), count);
    all
}

fn after(record: &Incoming) -> CommitPoint {
    CommitPoint { partition: record.source.topic_partition(), next: Offset(record.source.offset.0 + 1), ahead: String::new() }
}

async fn committed(group: &str, topic: &Topic) -> BTreeMap<i32, Option<i64>> {
    let sampler = LagSampler::connect(&settings(&[]), group, std::slice::from_ref(topic)).unwrap();
    let lags = sampler.sample(LIMIT).await.unwrap();
    lags.into_iter().map(|lag| (lag.partition.partition.0, lag.committed.map(|offset| offset.0))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_budget_skips_and_repeats_nothing() {
    const COUNT: usize = 10_000;
    let (topic, settings) = (create("budget", 3, None).await, settings(&[]));
    fill(&settings, &topic, COUNT).await;
    let budget = Budget::new(50, 1 << 30);
    let mut subscription = KafkaSubscription::start(&settings, options(&fresh("g"), &[&topic], &budget), Monotonic::new()).unwrap();
    let health = subscription.health();
    let (mut seen, mut pauses) = (BTreeMap::<Partition, Vec<i64>>::new(), 0);
    let mut total = 0;
    while total < COUNT {
        match within("records", subscription.next()).await {
            Some(Intake::Records(records)) => {
                // One more of each partition that had sent nothing before the bound was reached.
                assert!(budget.held().0 <= 50 + 3, "{:?}", budget.held());
                pauses += usize::from(budget.is_full());
                total += records.len();
                for record in records {
                    seen.entry(record.source.partition).or_default().push(record.source.offset.0);
                    budget.give(record.size());
                }
            }
            Some(Intake::Assigned(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(pauses > 10, "the budget was full only {pauses} times");
    for (partition, offsets) in seen {
        assert!(offsets.iter().copied().eq(0..offsets.len() as i64), "partition {partition} is not in order or not whole");
    }
    assert_eq!((total, budget.held()), (COUNT, (0, 0)));
    until("resuming", || health.paused() == 0).await;
    assert_eq!(health.assigned(), 3);
    within("closing", subscription.close(vec![])).await;
}

/// Records come in batches; what follows a full one must not be lost between two.
#[tokio::test(flavor = "multi_thread")]
async fn full_batches_skip_and_repeat_nothing() {
    const COUNT: usize = 5_000;
    let (topic, settings) = (create("batches", 1, None).await, settings(&[]));
    fill(&settings, &topic, COUNT).await;
    let budget = roomy();
    let mut subscription = KafkaSubscription::start(&settings, options(&fresh("g"), &[&topic], &budget), Monotonic::new()).unwrap();
    let offsets: Vec<i64> = next_records(&mut subscription, COUNT).await.iter().map(|record| record.source.offset.0).collect();
    assert!(offsets.iter().copied().eq(0..COUNT as i64), "not in order or not whole: {} records", offsets.len());
    within("closing", subscription.close(vec![])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_partition_is_paused_by_itself_and_reads_on_when_it_is_let_go() {
    let (topic, settings) = (create("held", 2, None).await, settings(&[]));
    fill(&settings, &topic, 200).await;
    let budget = Budget::new(1_000, 1 << 30);
    let mut subscription = KafkaSubscription::start(&settings, options(&fresh("g"), &[&topic], &budget), Monotonic::new()).unwrap();
    let health = subscription.health();
    let first = next_records(&mut subscription, 200).await;
    let held = first[0].source.topic_partition();
    let of_held = first.iter().filter(|record| record.source.topic_partition() == held).count();
    subscription.hold(&held);
    until("pausing", || health.paused() == 1).await;
    // The same keys again, so as many of each partition.
    fill(&settings, &topic, 200).await;
    let others = next_records(&mut subscription, 200 - of_held).await;
    assert!(others.iter().all(|record| record.source.topic_partition() != held));
    // A full budget pauses both; with room again, the held one stays paused.
    (0..1_000).for_each(|_| budget.take(0));
    until("pausing", || health.paused() == 2).await;
    (0..1_000).for_each(|_| budget.give(0));
    until("resuming", || health.paused() == 1).await;
    // Let go while the budget is full, it waits for room.
    (0..1_000).for_each(|_| budget.take(0));
    until("pausing", || health.paused() == 2).await;
    subscription.let_go(&held);
    let before = health.last_poll();
    until("polling", || health.last_poll() > before.plus(Duration::from_millis(100))).await;
    assert_eq!(health.paused(), 2);
    (0..1_000).for_each(|_| budget.give(0));
    let rest = next_records(&mut subscription, of_held).await;
    let offsets = rest.iter().map(|record| record.source.offset.0);
    assert!(rest.iter().all(|record| record.source.topic_partition() == held) && offsets.eq(of_held as i64..2 * of_held as i64));
    assert_eq!(health.paused(), 0);
    within("closing", subscription.close(vec![])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_goes_while_it_is_held_reads_on_when_it_is_back_and_let_go() {
    let (topic, settings, group) = (create("held-back", 2, None).await, settings(&[]), fresh("g"));
    fill(&settings, &topic, 120).await;
    let mut first = KafkaSubscription::start(&settings, options(&group, &[&topic], &roomy()), Monotonic::new()).unwrap();
    let records = next_records(&mut first, 120).await;
    let all: BTreeSet<_> = records.iter().map(|record| record.source.topic_partition()).collect();
    all.iter().for_each(|partition| first.hold(partition));
    let health = first.health();
    until("pausing", || health.paused() == 2).await;
    let mut second = KafkaSubscription::start(&settings, options(&group, &[&topic], &roomy()), Monotonic::new()).unwrap();
    let Some(Intake::Revoked(gone, give_up)) = within("the revocation", first.next()).await else { panic!("no revocation") };
    gone.iter().for_each(|partition| first.let_go(partition));
    give_up(vec![]);
    assert_eq!(assigned(&mut second, 1).await, gone);
    within("leaving", second.close(vec![])).await;
    // Nothing was committed of it: it comes again, whole, while the other is still held.
    let whole = records.iter().filter(|record| record.source.topic_partition() == gone[0]).count();
    let again = next_records(&mut first, whole).await;
    assert!(again.iter().all(|record| record.source.topic_partition() == gone[0]));
    assert_eq!(health.paused(), 1);
    within("closing", first.close(vec![])).await;
}

/// What comes of one partition, in order, from the word that it is read again on.
async fn read_again_from(subscription: &mut KafkaSubscription, point: &CommitPoint, end: i64, budget: &Budget) -> Vec<i64> {
    let mut again = None::<Vec<i64>>;
    while again.as_ref().and_then(|offsets| offsets.last()).is_none_or(|last| *last < end - 1) {
        match within("what is read again", subscription.next()).await {
            Some(Intake::Assigned(assignments)) => {
                let expected = Assignment { partition: point.partition.clone(), committed: Some(point.clone()) };
                assert_eq!((assignments, again.replace(Vec::new())), (vec![expected], None));
            }
            Some(Intake::Records(records)) => {
                records.iter().for_each(|record| budget.give(record.size()));
                let of_it = records.iter().filter(|record| record.source.topic_partition() == point.partition);
                again.iter_mut().for_each(|again| again.extend(of_it.clone().map(|record| record.source.offset.0)));
            }
            other => panic!("{other:?}"),
        }
    }
    again.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_partition_is_read_again_from_where_it_is_said() {
    let (topic, settings) = (create("again", 2, None).await, settings(&[]));
    fill(&settings, &topic, 200).await;
    let budget = Budget::new(1_000, 1 << 30);
    let mut subscription = KafkaSubscription::start(&settings, options(&fresh("g"), &[&topic], &budget), Monotonic::new()).unwrap();
    let health = subscription.health();
    let first = next_records(&mut subscription, 200).await;
    first.iter().for_each(|record| budget.give(record.size()));
    let held = first[0].source.topic_partition();
    let end = 2 * first.iter().filter(|record| record.source.topic_partition() == held).count() as i64;
    let other_end = 400 - end;
    subscription.hold(&held);
    until("pausing", || health.paused() == 1).await;
    fill(&settings, &topic, 200).await;
    let others = next_records(&mut subscription, usize::try_from(other_end / 2).unwrap()).await;
    others.iter().for_each(|record| budget.give(record.size()));
    let point = |next| CommitPoint { partition: held.clone(), next: Offset(next), ahead: "as it was".to_owned() };
    // Again and again: from further on, from further back, from its end, and from its beginning.
    for next in [7, 3, end - 1, 0, 50] {
        subscription.hold(&held);
        until("pausing", || health.paused() == 1).await;
        subscription.read_again(point(next));
        assert!(read_again_from(&mut subscription, &point(next), end, &budget).await.into_iter().eq(next..end), "from {next}");
        assert_eq!(health.paused(), 0);
    }
    // While nothing may be taken: it is not paused before it has sent a record, and begins where it was said once there is room.
    subscription.hold(&held);
    until("pausing", || health.paused() == 1).await;
    (0..1_000).for_each(|_| budget.take(0));
    until("pausing", || health.paused() == 2).await;
    subscription.read_again(point(5));
    let before = health.last_poll();
    until("polling", || health.last_poll() > before.plus(Duration::from_millis(300))).await;
    (0..1_000).for_each(|_| budget.give(0));
    assert!(read_again_from(&mut subscription, &point(5), end, &budget).await.into_iter().eq(5..end), "with a full budget");
    within("closing", subscription.close(vec![])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_a_partition_that_has_gone_meanwhile_is_not_done() {
    let (topic, settings, group) = (create("again-gone", 2, None).await, settings(&[]), fresh("g"));
    fill(&settings, &topic, 100).await;
    let first_budget = roomy();
    let mut first = KafkaSubscription::start(&settings, options(&group, &[&topic], &first_budget), Monotonic::new()).unwrap();
    let records = next_records(&mut first, 100).await;
    let all: BTreeSet<_> = records.iter().map(|record| record.source.topic_partition()).collect();
    all.iter().for_each(|partition| first.hold(partition));
    until("pausing", || first.health().paused() == 2).await;
    let mut second = KafkaSubscription::start(&settings, options(&group, &[&topic], &roomy()), Monotonic::new()).unwrap();
    until("the revocation is under way", || first.health().is_revoking()).await;
    // The loop has not heard of it yet.
    for partition in &all {
        first.read_again(CommitPoint { partition: partition.clone(), next: Offset(0), ahead: String::new() });
    }
    let Some(Intake::Revoked(gone, give_up)) = within("the revocation", first.next()).await else { panic!("no revocation") };
    give_up(vec![]);
    assert_eq!(assigned(&mut second, 1).await, gone);
    let nothing = tokio::time::timeout(Duration::from_millis(500), first.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    // Asked again, the one that stays is read again.
    let stays = all.iter().find(|partition| **partition != gone[0]).unwrap();
    let point = CommitPoint { partition: stays.clone(), next: Offset(2), ahead: String::new() };
    first.read_again(point.clone());
    let end = records.iter().filter(|record| record.source.topic_partition() == *stays).count() as i64;
    let again = read_again_from(&mut first, &point, end, &first_budget).await;
    assert!(again.into_iter().eq(2..end));
    within("leaving", second.close(vec![])).await;
    within("closing", first.close(vec![])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_smallest_bounds_everything_comes() {
    let (topic, settings) = (create("smallest", 3, None).await, settings(&[]));
    fill(&settings, &topic, 60).await;
    let budget = Budget::new(1, 205);
    let smallest = ConsumerOptions { ahead: Ahead { records: 1, bytes: 1 }, ..options(&fresh("g"), &[&topic], &budget) };
    let mut subscription = KafkaSubscription::start(&settings, smallest, Monotonic::new()).unwrap();
    let mut seen = BTreeSet::new();
    while seen.len() < 60 {
        if let Some(Intake::Records(records)) = within("records", subscription.next()).await {
            for record in records {
                assert!(seen.insert(record.source.clone()));
                budget.give(record.size());
            }
        }
    }
    within("closing", subscription.close(vec![])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_paused_it_polls_stays_a_member_and_lag_is_right() {
    let (topic, settings, group) = (create("paused", 2, None).await, settings(&[]), fresh("g"));
    fill(&settings, &topic, 100).await;
    let budget = Budget::new(10, 1 << 30);
    let clock = Monotonic::new();
    let mut subscription = KafkaSubscription::start(&settings, options(&group, &[&topic], &budget), clock.clone()).unwrap();
    let health = subscription.health();
    let records = next_records(&mut subscription, 10).await;
    until("pausing", || health.paused() == 2).await;
    let before = health.last_poll();
    until("polling", || health.last_poll() > before).await;
    fill(&settings, &topic, 50).await;
    let sampler = LagSampler::connect(&settings, &group, std::slice::from_ref(&topic)).unwrap();
    let lag = async || sampler.sample(LIMIT).await.unwrap().iter().map(fusebox::edge::kafka::PartitionLag::lag).sum::<u64>();
    assert_eq!(lag().await, 150);
    let mut points = BTreeMap::new();
    for record in &records {
        points.insert(record.source.topic_partition(), after(record));
    }
    subscription.commit(points.into_values().collect());
    within("the commit", async { while lag().await != 140 {} }).await;
    within("closing", subscription.close(vec![])).await;
}

/// A member of the group that finishes one record for each permit, and gives up what it has not finished when a partition goes. With
/// `commits` it commits each record as well; without, only when a partition goes and at its end.
fn member(
    settings: &config::Kafka,
    group: &str,
    topic: &Topic,
    permits: &Arc<Semaphore>,
    finished: &mpsc::UnboundedSender<(Partition, i64)>,
    assigned: &mpsc::UnboundedSender<usize>,
    commits: bool,
) -> (tokio::task::JoinHandle<()>, Arc<tokio::sync::Notify>) {
    let budget = Budget::new(50, 1 << 30);
    let mut subscription = KafkaSubscription::start(settings, options(group, &[topic], &budget), Monotonic::new()).unwrap();
    let (permits, finished, assigned) = (Arc::clone(permits), finished.clone(), assigned.clone());
    let stop = Arc::new(tokio::sync::Notify::new());
    let stopped = Arc::clone(&stop);
    let task = tokio::spawn(async move {
        let mut waiting: VecDeque<Incoming> = VecDeque::new();
        let mut points: BTreeMap<TopicPartition, CommitPoint> = BTreeMap::new();
        loop {
            tokio::select! {
                biased;
                intake = subscription.next() => match intake.unwrap() {
                    Intake::Records(records) => waiting.extend(records),
                    Intake::Assigned(partitions) => assigned.send(partitions.len()).unwrap(),
                    Intake::Revoked(partitions, give_up) => {
                        waiting.retain(|record| {
                            let stays = !partitions.contains(&record.source.topic_partition());
                            if !stays { budget.give(record.size()); }
                            stays
                        });
                        give_up(partitions.iter().filter_map(|partition| points.remove(partition)).collect());
                    }
                    Intake::Lost(partitions) => panic!("lost {partitions:?}"),
                    Intake::Transacted(answer) => panic!("no transaction was begun: {answer:?}"),
                },
                permit = permits.acquire(), if !waiting.is_empty() => {
                    permit.unwrap().forget();
                    let record = waiting.pop_front().unwrap();
                    budget.give(record.size());
                    points.insert(record.source.topic_partition(), after(&record));
                    finished.send((record.source.partition, record.source.offset.0)).unwrap();
                    if commits {
                        subscription.commit(vec![after(&record)]);
                    }
                }
                () = stopped.notified() => break,
            }
        }
        subscription.close(points.into_values().collect()).await;
    });
    (task, stop)
}

async fn hand_over(properties: &[(&str, &str)], commits: bool) {
    const COUNT: usize = 3_000;
    let (topic, settings, group) = (create("handover", 6, None).await, settings(properties), fresh("g"));
    fill(&settings, &topic, COUNT).await;
    let permits = Arc::new(Semaphore::new(500));
    let (finish, mut finished) = mpsc::unbounded_channel();
    let (assign, mut assigned) = mpsc::unbounded_channel();
    let mut all = Vec::new();
    let mut collect = async |count: usize| {
        while all.len() < count {
            all.push(within("a finished record", finished.recv()).await.unwrap());
        }
        all.clone()
    };
    let (first, stop_first) = member(&settings, &group, &topic, &permits, &finish, &assign, commits);
    assert_eq!(within("the first assignment", assigned.recv()).await, Some(6));
    collect(500).await;
    let (second, stop_second) = member(&settings, &group, &topic, &permits, &finish, &assign, commits);
    // The second has its share when the first has given it up; the first goes on meanwhile.
    permits.add_permits(200);
    within("the second's assignment", assigned.recv()).await.unwrap();
    permits.add_permits(800);
    collect(1_500).await;
    stop_first.notify_one();
    within("the first's leaving", first).await.unwrap();
    permits.add_permits(2 * COUNT);
    let all = collect(COUNT).await;
    stop_second.notify_one();
    within("the second's leaving", second).await.unwrap();
    assert!(finished.try_recv().is_err(), "a record was finished again");
    let mut seen = BTreeSet::new();
    let again: Vec<_> = all.iter().enumerate().filter(|(_, record)| !seen.insert(*record)).collect();
    assert!(again.is_empty(), "finished twice: {again:?}");
    let sampler = LagSampler::connect(&settings, &group, std::slice::from_ref(&topic)).unwrap();
    assert!(sampler.sample(LIMIT).await.unwrap().iter().all(|lag| lag.lag() == 0 && lag.committed.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cooperative_handover_loses_and_repeats_nothing() {
    hand_over(&[], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_when_a_partition_goes_is_enough() {
    hand_over(&[], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eager_handover_loses_and_repeats_nothing() {
    hand_over(&[("partition.assignment.strategy", "range")], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handover_of_the_consumer_protocol_loses_and_repeats_nothing() {
    hand_over(&[("group.protocol", "consumer")], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_paused_when_it_went_reads_on_when_it_is_back() {
    go_and_come_back(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_comes_back_to_a_full_budget_waits_for_room() {
    go_and_come_back(true).await;
}

async fn go_and_come_back(to_a_full_budget: bool) {
    let (topic, settings, group) = (create("back", 2, None).await, settings(&[]), fresh("g"));
    // What is left of 120 is few enough that the budget is not full again, and does not pause and resume what may have stalled.
    fill(&settings, &topic, 120).await;
    let budget = Budget::new(100, 1 << 30);
    let mut first = KafkaSubscription::start(&settings, options(&group, &[&topic], &budget), Monotonic::new()).unwrap();
    let held = next_records(&mut first, 100).await;
    let health = first.health();
    until("pausing", || health.paused() == 2).await;
    let mut second = KafkaSubscription::start(&settings, options(&group, &[&topic], &roomy()), Monotonic::new()).unwrap();
    let Some(Intake::Revoked(gone, give_up)) = within("the revocation", first.next()).await else { panic!("no revocation") };
    give_up(vec![]);
    assert_eq!(assigned(&mut second, 1).await, gone);
    // Nothing was committed of the partition that went: it is read from its beginning, whole, and the other one goes on.
    let mut seen = BTreeMap::<Partition, BTreeSet<i64>>::new();
    let room = || held.iter().for_each(|record| budget.give(record.size()));
    if !to_a_full_budget {
        room();
        until("resuming", || health.paused() == 0).await;
    }
    within("leaving", second.close(vec![])).await;
    if to_a_full_budget {
        assert_eq!(assigned(&mut first, 1).await, gone);
        until("pausing", || health.paused() == 2).await;
        assert_eq!(budget.held().0, 101, "the first of those that come again");
        room();
    }
    let sampler = LagSampler::connect(&settings, &group, std::slice::from_ref(&topic)).unwrap();
    let whole = sampler.sample(LIMIT).await.unwrap().iter().find(|lag| lag.partition == gone[0]).unwrap().end.0;
    while seen.get(&gone[0].partition).is_none_or(|seen| (seen.len() as i64) < whole) {
        if let Some(Intake::Records(records)) = within("records", first.next()).await {
            for record in records {
                budget.give(record.size());
                assert!(seen.entry(record.source.partition).or_default().insert(record.source.offset.0), "{}", record.source);
            }
        }
    }
    assert!(seen[&gone[0].partition].iter().copied().eq(0..whole));
    within("closing", first.close(vec![])).await;
}

/// A clock that can be held: the poll thread reads it once a round, and stands still.
#[derive(Clone)]
struct Held {
    clock: Monotonic,
    held: Arc<(Mutex<bool>, Condvar)>,
}

impl Held {
    fn new() -> Self {
        Self { clock: Monotonic::new(), held: Arc::default() }
    }
    fn set(&self, held: bool) {
        *self.held.0.lock().unwrap() = held;
        self.held.1.notify_all();
    }
}

impl Clock for Held {
    fn now(&self) -> Tick {
        drop(self.held.1.wait_while(self.held.0.lock().unwrap(), |held| *held).unwrap());
        self.clock.now()
    }
    fn wall(&self) -> UnixMillis {
        self.clock.wall()
    }
    fn instant(&self, _at: Tick) -> Option<tokio::time::Instant> {
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_partition_is_told_and_nothing_of_it_is_committed() {
    let properties = [("session.timeout.ms", "6000"), ("max.poll.interval.ms", "6000")];
    let (topic, settings, group) = (create("lost", 1, None).await, settings(&properties), fresh("g"));
    fill(&settings, &topic, 20).await;
    let clock = Held::new();
    let mut first = KafkaSubscription::start(&settings, options(&group, &[&topic], &roomy()), clock.clone()).unwrap();
    let records = next_records(&mut first, 20).await;
    clock.set(true);
    // Silent for longer than `max.poll.interval.ms`, the first is out, and the second gets the partition.
    let mut second = KafkaSubscription::start(&settings, options(&group, &[&topic], &roomy()), Monotonic::new()).unwrap();
    let again = next_records(&mut second, 20).await;
    assert_eq!(again[0].source, records[0].source);
    second.commit(vec![after(&again[4])]);
    within("the second's commit", async { while committed(&group, &topic).await[&0] != Some(5) {} }).await;
    // Too late: wanted by the first, not its partition any more.
    clock.set(false);
    match within("the loss", first.next()).await {
        Some(Intake::Lost(partitions)) => assert_eq!(partitions, [records[0].source.topic_partition()]),
        other => panic!("{other:?}"),
    }
    first.commit(vec![after(&records[19])]);
    within("closing", first.close(vec![after(&records[19])])).await;
    assert_eq!(committed(&group, &topic).await[&0], Some(5));
    within("closing", second.close(vec![])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unanswered_revocation_ends_at_its_bound() {
    let (topic, settings, group) = (create("unanswered", 2, None).await, settings(&[]), fresh("g"));
    let mut bound = options(&group, &[&topic], &roomy());
    bound.revoke_wait = Some(Duration::from_millis(200));
    let mut first = KafkaSubscription::start(&settings, bound, Monotonic::new()).unwrap();
    assigned(&mut first, 2).await;
    let mut second = KafkaSubscription::start(&settings, options(&group, &[&topic], &roomy()), Monotonic::new()).unwrap();
    let Some(Intake::Revoked(_, give_up)) = within("the revocation", first.next()).await else { panic!("no revocation") };
    assert_eq!(assigned(&mut second, 1).await.len(), 1);
    give_up(vec![]);
    within("closing", first.close(vec![])).await;
    within("closing", second.close(vec![])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_commits_and_takes_nothing_more() {
    let (topic, settings, group) = (create("close", 1, None).await, settings(&[]), fresh("g"));
    fill(&settings, &topic, 10).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let budget = roomy();
    let mut options = options(&group, &[&topic], &budget);
    options.on_commit = Arc::new(move |settled| {
        let _ = tell.send(settled);
    });
    let mut subscription = KafkaSubscription::start(&settings, options, Monotonic::new()).unwrap();
    let records = next_records(&mut subscription, 10).await;
    subscription.commit(vec![after(&records[2])]);
    assert_eq!(within("the commit's result", told.recv()).await, Some(Settled::Taken));
    assert_eq!(committed(&group, &topic).await[&0], Some(3));
    subscription.stop_taking();
    let health = subscription.health();
    until("pausing", || health.paused() == 1).await;
    fill(&settings, &topic, 10).await;
    let before = health.last_poll();
    until("polling on", || health.last_poll() > before.plus(Duration::from_millis(300))).await;
    assert_eq!(budget.held().0, 10);
    within("closing", subscription.close(vec![after(&records[6])])).await;
    assert_eq!(within("the commit's result", told.recv()).await, Some(Settled::Taken));
    assert_eq!(committed(&group, &topic).await[&0], Some(7));
    assert_eq!(health.fatal(), None);
    // It has left: the next one has the partition at once, and goes on behind the commit.
    let mut next = KafkaSubscription::start(&settings, self::options(&group, &[&topic], &roomy()), Monotonic::new()).unwrap();
    assert_eq!(next_records(&mut next, 13).await[0].source.offset, Offset(7));
    within("closing", next.close(vec![])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_answers_a_revocation_that_nobody_read() {
    let (topic, settings, group) = (create("unread", 2, None).await, settings(&[]), fresh("g"));
    fill(&settings, &topic, 40).await;
    let mut first = KafkaSubscription::start(&settings, options(&group, &[&topic], &roomy()), Monotonic::new()).unwrap();
    let records = next_records(&mut first, 40).await;
    let second = KafkaSubscription::start(&settings, options(&group, &[&topic], &roomy()), Monotonic::new()).unwrap();
    let health = first.health();
    until("the revocation", || health.is_revoking()).await;
    let points: BTreeMap<_, _> = records.iter().map(|record| (record.source.partition.0, after(record))).collect();
    let expected: BTreeMap<_, _> = points.iter().map(|(partition, point)| (*partition, Some(point.next.0))).collect();
    within("closing", first.close(points.into_values().collect())).await;
    assert_eq!(committed(&group, &topic).await, expected);
    within("closing", second.close(vec![])).await;
}

/// A group's state, and how many are in it.
async fn members(group: &str) -> (String, usize) {
    let group = group.to_owned();
    let asking = tokio::task::spawn_blocking(move || {
        let consumer: rdkafka::consumer::BaseConsumer = rdkafka::ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
        let list = rdkafka::consumer::Consumer::fetch_group_list(&consumer, Some(&group), LIMIT).unwrap();
        let group = &list.groups()[0];
        (group.state().to_owned(), group.members().len())
    });
    asking.await.unwrap()
}

/// Otherwise the group's next rebalance, and every commit meanwhile, would wait for it until its session has timed out.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_partitions_leaves_when_it_closes() {
    let (topic, settings, group) = (create("idle", 1, None).await, settings(&[]), fresh("g"));
    let mut first = KafkaSubscription::start(&settings, options(&group, &[&topic], &roomy()), Monotonic::new()).unwrap();
    assigned(&mut first, 1).await;
    let second = KafkaSubscription::start(&settings, options(&group, &[&topic], &roomy()), Monotonic::new()).unwrap();
    // It has not only asked to join: it has been told that nothing is for it.
    within("joining", async { while members(&group).await != ("Stable".to_owned(), 2) {} }).await;
    within("closing", second.close(vec![])).await;
    assert_eq!(members(&group).await.1, 1);
    within("closing", first.close(vec![])).await;
    assert_eq!(members(&group).await.1, 0);
}

/// Members that close at whatever moment: also while they join, and while it is settled who gets what, which is soon after the one that stays
/// has heard of them with its heartbeat, a second at most after they came.
#[tokio::test(flavor = "multi_thread")]
async fn members_leave_at_whatever_moment_they_close() {
    let (topic, settings, group) = (create("leaving", 12, None).await, settings(&[]), fresh("g"));
    let (finished, _finished) = mpsc::unbounded_channel();
    let (assigned, mut partitions) = mpsc::unbounded_channel();
    let permits = Arc::new(Semaphore::new(0));
    let join = || member(&settings, &group, &topic, &permits, &finished, &assigned, true);
    let (staying, stop) = join();
    assert_eq!(within("joining", partitions.recv()).await, Some(12));
    for round in 0..12 {
        let leaving = [join(), join()];
        tokio::time::sleep(Duration::from_millis(if round % 3 == 0 { 40 + round } else { 960 + 8 * round })).await;
        for (_, stop) in &leaving {
            stop.notify_one();
        }
        for (task, _) in leaving {
            within("closing", task).await.unwrap();
        }
        assert_eq!(members(&group).await.1, 1, "in round {round}");
    }
    stop.notify_one();
    within("closing", staying).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_commit_that_is_not_taken_is_told() {
    let (topic, settings, group) = (create("refused", 1, None).await, settings(&[]), fresh("g"));
    fill(&settings, &topic, 3).await;
    let mut subscription = KafkaSubscription::start(&settings, options(&group, &[&topic], &roomy()), Monotonic::new()).unwrap();
    let records = next_records(&mut subscription, 3).await;
    let admin: rdkafka::admin::AdminClient<_> = rdkafka::ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
    let deleted = admin.delete_topics(&[topic.as_str()], &rdkafka::admin::AdminOptions::new()).await.unwrap();
    assert!(deleted[0].is_ok(), "{deleted:?}");
    assert!(!within("closing", subscription.close(vec![after(&records[2])])).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_poll_thread_is_told() {
    #[derive(Clone)]
    struct Explodes(Arc<AtomicBool>);
    impl Clock for Explodes {
        fn now(&self) -> Tick {
            assert!(!self.0.load(Ordering::Relaxed), "the clock stopped");
            Tick(0)
        }
        fn wall(&self) -> UnixMillis {
            UnixMillis(0)
        }
        fn instant(&self, _at: Tick) -> Option<tokio::time::Instant> {
            None
        }
    }
    let (topic, settings, group) = (create("panic", 1, None).await, settings(&[]), fresh("g"));
    let explodes = Arc::new(AtomicBool::new(false));
    let mut subscription =
        KafkaSubscription::start(&settings, options(&group, &[&topic], &roomy()), Explodes(Arc::clone(&explodes))).unwrap();
    assigned(&mut subscription, 1).await;
    explodes.store(true, Ordering::Relaxed);
    assert!(within("the end", subscription.next()).await.is_none());
    let why = subscription.health().fatal().unwrap();
    assert!(why.contains("the poll thread panicked: the clock stopped"), "{why}");
    // It has left the group: another gets the partition without waiting for a session to end.
    let mut next = KafkaSubscription::start(&settings, options(&group, &[&topic], &roomy()), Monotonic::new()).unwrap();
    assigned(&mut next, 1).await;
    within("closing", subscription.close(vec![])).await;
    within("closing", next.close(vec![])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_larger_than_every_bound_comes_through() {
    let (topic, settings) = (create("large", 1, Some(16 << 20)).await, settings(&[("compression.type", "none")]));
    let producer = Producer::connect(&settings).unwrap();
    let (publisher, mut acks) = producer.handle();
    let sizes = [1, 2 << 20, 3, 9 << 20, 5];
    for (token, size) in sizes.iter().enumerate() {
        publisher.publish(&record(&topic, None, vec![7; *size]), Token(token as u64)).unwrap();
    }
    assert!(acknowledged(&mut acks, sizes.len()).await.iter().all(|ack| ack.result.is_ok()));
    let budget = Budget::new(10, 100 << 10);
    let mut options = options(&fresh("g"), &[&topic], &budget);
    options.max_record_bytes = 64 << 10;
    let mut subscription = KafkaSubscription::start(&settings, options, Monotonic::new()).unwrap();
    let mut came = Vec::new();
    while came.len() < sizes.len() {
        if let Some(Intake::Records(records)) = within("records", subscription.next()).await {
            for record in records {
                came.push(record.value.as_ref().unwrap().len());
                budget.give(record.size());
            }
        }
    }
    assert_eq!(came, sizes);
    within("closing", subscription.close(vec![])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_bytes_come_through_as_they_are() {
    let (topic, settings) = (create("bytes", 1, None).await, settings(&[]));
    let producer = Producer::connect(&settings).unwrap();
    let (publisher, mut acks) = producer.handle();
    let mut headers = Headers::new();
    headers.append("null", None);
    headers.append("empty", Some(Bytes::new()));
    headers.append("twice", Some(Bytes::from_static(b"1")));
    headers.append("", Some(Bytes::from_static(b"no name")));
    headers.append("twice", Some(Bytes::from_static(&[0, 255, 0])));
    headers.append("ünïcode", Some(Bytes::from_static(b"x")));
    let cases = [
        (None, None),
        (Some(Bytes::new()), Some(Bytes::new())),
        (Some(Bytes::from_static(&[0, 255])), Some(Bytes::from_static(&[255, 0, 254]))),
    ];
    for (key, value) in &cases {
        let record = Record {
            topic: topic.clone(),
            partition: None,
            key: key.clone(),
            value: value.clone(),
            headers: headers.clone(),
            timestamp: UnixMillis(5),
        };
        publisher.publish(&record, Token(0)).unwrap();
    }
    assert!(acknowledged(&mut acks, cases.len()).await.iter().all(|ack| ack.result.is_ok()));
    let mut subscription = KafkaSubscription::start(&settings, options(&fresh("g"), &[&topic], &roomy()), Monotonic::new()).unwrap();
    for (incoming, (key, value)) in next_records(&mut subscription, cases.len()).await.iter().zip(cases) {
        assert_eq!((&incoming.key, &incoming.value), (&key, &value));
        assert_eq!(incoming.headers, headers);
        assert_eq!(incoming.timestamp, Some(UnixMillis(5)));
    }
    within("closing", subscription.close(vec![])).await;
}

/// Sends what no Rust client can be made to send: header names of any bytes.
#[expect(unsafe_code, reason = "rust-rdkafka's header names are UTF-8")]
fn send_with_headers(producer: &rdkafka::producer::BaseProducer, topic: &Topic, headers: &[(&[u8], Option<&[u8]>)]) {
    use rdkafka::bindings::rd_kafka_vtype_t::{RD_KAFKA_VTYPE_END, RD_KAFKA_VTYPE_HEADERS, RD_KAFKA_VTYPE_TOPIC};
    use rdkafka::bindings::{rd_kafka_header_add, rd_kafka_headers_new, rd_kafka_producev, rd_kafka_resp_err_t};
    use rdkafka::producer::Producer as _;
    let name = std::ffi::CString::new(topic.as_str()).unwrap();
    // SAFETY: every pointer is to its length of bytes, which librdkafka copies; the headers are its own once it has taken the record.
    let sent = unsafe {
        let native = rd_kafka_headers_new(headers.len());
        for (key, value) in headers {
            let (bytes, length) = value.map_or((std::ptr::null(), 0), |value| (value.as_ptr().cast(), value.len() as isize));
            rd_kafka_header_add(native, key.as_ptr().cast(), key.len() as isize, bytes, length);
        }
        let client = producer.client().native_ptr();
        rd_kafka_producev(client, RD_KAFKA_VTYPE_TOPIC, name.as_ptr(), RD_KAFKA_VTYPE_HEADERS, native, RD_KAFKA_VTYPE_END)
    };
    assert_eq!(sent, rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_whose_name_is_not_utf8_costs_that_header_only() {
    use rdkafka::producer::{BaseProducer, Producer as _};
    let topic = create("odd", 1, None).await;
    let producer: BaseProducer = rdkafka::ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
    for _ in 0..100 {
        send_with_headers(&producer, &topic, &[(b"before", Some(b"1")), (&[0xff, 0xfe, b'x'], Some(b"2")), (b"after", None)]);
    }
    producer.flush(LIMIT).unwrap();
    let mut subscription = KafkaSubscription::start(&settings(&[]), options(&fresh("g"), &[&topic], &roomy()), Monotonic::new()).unwrap();
    for incoming in next_records(&mut subscription, 100).await {
        let headers: Vec<_> = incoming.headers.iter().map(|(name, value)| (name.to_owned(), value.cloned())).collect();
        assert_eq!(headers, [("before".to_owned(), Some(Bytes::from_static(b"1"))), ("after".to_owned(), None)]);
    }
    assert_eq!(subscription.health().fatal(), None);
    within("closing", subscription.close(vec![])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_is_told_whoever_says_so_and_costs_no_other_record() {
    let topic = create("small", 1, Some(200_000)).await;
    for (properties, too_large) in [(&[][..], 300_000), (&[("message.max.bytes", "100000")][..], 150_000)] {
        let properties = [&[("compression.type", "none")], properties].concat();
        let producer = Producer::connect(&settings(&properties)).unwrap();
        let (publisher, mut acks) = producer.handle();
        let (other, mut others) = producer.handle();
        // Together more than the topic takes in one batch: each alone is taken.
        for token in 0..100 {
            let size = if token == 50 { too_large } else { 5_000 };
            publisher.publish(&record(&topic, None, vec![0; size]), Token(token)).unwrap();
        }
        other.publish(&record(&topic, None, "x"), Token(7)).unwrap();
        for ack in acknowledged(&mut acks, 100).await {
            let expected = if ack.token == Token(50) { Err(PublishError::TooLarge) } else { Ok(true) };
            assert_eq!(ack.result.map(|at| at.is_some()), expected, "{:?}", ack.token);
        }
        let other = acknowledged(&mut others, 1).await;
        assert!(matches!(other[..], [Ack { token: Token(7), result: Ok(Some(_)) }]), "{other:?}");
        assert!(acks.try_recv().is_none() && others.try_recv().is_none(), "each is told once, on its own channel");
        assert_eq!(producer.close(LIMIT).await, Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_an_answer_and_what_never_arrived_is_told() {
    let properties = [("queue.buffering.max.messages", "2"), ("message.timeout.ms", "1000")];
    let producer = Producer::connect(&settings_at("127.0.0.1:1", &properties)).unwrap();
    let (publisher, mut acks) = producer.handle();
    let record = record(&Topic::from("t"), None, "x");
    assert_eq!(publisher.publish(&record, Token(1)), Ok(()));
    assert_eq!(publisher.publish(&record, Token(2)), Ok(()));
    assert_eq!(publisher.publish(&record, Token(3)), Err(QueueFull));
    assert_eq!(producer.in_flight(), 2);
    assert_eq!(producer.flush(Duration::ZERO).await, Err(2));
    let acks = acknowledged(&mut acks, 2).await;
    assert!(acks.iter().all(|ack| matches!(&ack.result, Err(PublishError::Failed(why)) if !why.contains("127.0.0.1"))), "{acks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_named_and_taken_up_when_it_appears() {
    let (there, missing) = (create("there", 1, None).await, Topic::from(fresh("missing").as_str()));
    let settings = settings(&[]);
    let mut subscription =
        KafkaSubscription::start(&settings, options(&fresh("g"), &[&there, &missing], &roomy()), Monotonic::new()).unwrap();
    let health = subscription.health();
    assert_eq!(assigned(&mut subscription, 1).await[0].topic, there);
    until("the complaint", || health.missing_topics() == [missing.clone()]).await;
    create_named(&missing, 2, None).await;
    let created = Instant::now();
    let mut came = BTreeSet::new();
    while came.len() < 2 {
        match within("the topic's partitions", subscription.next()).await {
            Some(Intake::Assigned(assignments)) => {
                let partitions = assignments.into_iter().map(|assignment| assignment.partition);
                came.extend(partitions.filter(|partition| partition.topic == missing));
            }
            Some(Intake::Revoked(_, give_up)) => give_up(vec![]),
            other => panic!("{other:?}"),
        }
    }
    assert!(created.elapsed() < Duration::from_secs(15), "{:?}", created.elapsed());
    assert_eq!((health.missing_topics(), health.last_error()), (vec![], None));
    fill(&settings, &missing, 5).await;
    next_records(&mut subscription, 5).await;
    within("closing", subscription.close(vec![])).await;
}

#[tokio::test]
async fn a_topics_size_is_known_and_follows_it_for_every_member() {
    let topic = create("grows", 2, None).await;
    let (settings, group) = (settings(&[]), fresh("g"));
    let start = || KafkaSubscription::start(&settings, options(&group, &[&topic], &roomy()), Monotonic::new()).unwrap();
    let (mut one, mut other) = (start(), start());
    let knows = async |subscription: &mut KafkaSubscription, size| {
        within("the size is known", async {
            while subscription.size(&topic) != Some(size) {
                // What comes and goes meanwhile is let go.
                if let Ok(Some(Intake::Revoked(_, give_up))) = tokio::time::timeout(Duration::from_millis(20), subscription.next()).await {
                    give_up(vec![]);
                }
            }
        })
        .await;
    };
    tokio::join!(knows(&mut one, 2), knows(&mut other, 2));
    let admin: rdkafka::admin::AdminClient<_> = rdkafka::ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
    let more = rdkafka::admin::NewPartitions::new(topic.as_str(), 7);
    admin.create_partitions([&more], &rdkafka::admin::AdminOptions::new()).await.unwrap();
    let grown = Instant::now();
    tokio::join!(knows(&mut one, 7), knows(&mut other, 7));
    assert!(grown.elapsed() < Duration::from_secs(15), "{:?}", grown.elapsed());
    assert_eq!(one.size(&Topic::from("another")), None);
    within("closing", async { tokio::join!(one.close(vec![]), other.close(vec![])) }).await;
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_may_come_later_and_be_away_for_a_while() {
    let (port, topic) = (free_port(), Topic::from("events"));
    let settings = settings_at(&format!("127.0.0.1:{port}"), &[]);
    let mut subscription = KafkaSubscription::start(&settings, options("g", &[&topic], &roomy()), Monotonic::new()).unwrap();
    let health = subscription.health();
    until("the complaint", || health.last_error().is_some()).await;
    assert!(!health.is_connected());
    assert!(!health.last_error().unwrap().contains("127.0.0.1"));
    let lag = LagSampler::connect(&settings, "g", std::slice::from_ref(&topic)).unwrap().sample(Duration::from_millis(200)).await;
    assert!(lag.as_ref().is_err_and(|error| error.is_unreachable()), "{lag:?}");
    let kafka = EmbeddedKafka::start(port, &[("events", 3)]).await.unwrap();
    assert_eq!(assigned(&mut subscription, 3).await.len(), 3);
    until("the connection", || health.is_connected() && health.last_error().is_none()).await;
    fill(&settings, &topic, 10).await;
    next_records(&mut subscription, 10).await;
    drop(kafka);
    until("the outage", || !health.is_connected()).await;
    assert_eq!(health.fatal(), None);
    within("closing without Kafka", subscription.close(vec![])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_kafka_serves_a_group_that_commits() {
    let kafka = EmbeddedKafka::start(0, &[("events", 3)]).await.unwrap();
    // The mock does not understand that a member leaves: the next one waits for the session's end.
    let session = [("session.timeout.ms", "2000"), ("heartbeat.interval.ms", "500")];
    let (settings, topic) = (settings_at(kafka.brokers(), &session), Topic::from("events"));
    fill(&settings, &topic, 300).await;
    let mut first = KafkaSubscription::start(&settings, options("g", &[&topic], &roomy()), Monotonic::new()).unwrap();
    let records = next_records(&mut first, 300).await;
    until("the topic's size", || first.size(&topic) == Some(3)).await;
    let points: BTreeMap<_, _> = records.iter().map(|record| (record.source.topic_partition(), after(record))).collect();
    within("closing", first.close(points.into_values().collect())).await;
    let mut second = KafkaSubscription::start(&settings, options("g", &[&topic], &roomy()), Monotonic::new()).unwrap();
    assigned(&mut second, 3).await;
    fill(&settings, &topic, 1).await;
    assert_eq!(next_records(&mut second, 1).await.len(), 1);
    within("closing", second.close(vec![])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_created_described_and_inspected() {
    let admin = TopicAdmin::connect(&settings(&[])).unwrap();
    let (one, two) = (Topic::from(fresh("one").as_str()), Topic::from(fresh("two").as_str()));
    let hour = Duration::from_secs(3600);
    let new = NewTopic { name: one.clone(), partitions: 4, replication: None, retention: Some(hour), max_message_bytes: Some(2 << 20) };
    assert_eq!(admin.create(std::slice::from_ref(&new), true, LIMIT).await, Ok(vec![Created::Created]));
    assert_eq!(admin.describe(std::slice::from_ref(&one), LIMIT).await, Ok(vec![None]), "a dry run creates nothing");
    let impossible = NewTopic { name: two.clone(), replication: Some(3), ..new.clone() };
    let created = admin.create(&[new.clone(), impossible], false, LIMIT).await.unwrap();
    assert!(matches!(&created[..], [Created::Created, Created::Refused(_)]), "{created:?}");
    assert_eq!(admin.create(&[new], false, LIMIT).await, Ok(vec![Created::Existed]));
    let described = admin.describe(&[two.clone(), one.clone()], LIMIT).await.unwrap();
    assert_eq!(described[0], None);
    let described = described[1].clone().unwrap();
    assert_eq!((described.partitions, described.retention, described.max_message_bytes), (4, Some(Retention::For(hour)), Some(2 << 20)));
    assert_eq!(described.cleanup_policy.as_deref(), Some("delete"));
    let needed = [
        Needed { topic: one.clone(), retention: Some(hour * 2), beside: None },
        Needed { topic: two.clone(), retention: None, beside: Some(one.clone()) },
    ];
    let inspection = admin.inspect(&needed, LIMIT).await.unwrap();
    assert_eq!((inspection.missing, inspection.too_short), (vec![two], vec![(one.clone(), hour, hour * 2)]));
    let few = create("few", 2, None).await;
    let beside = |topic: &Topic, other: &Topic| [Needed { topic: topic.clone(), retention: None, beside: Some(other.clone()) }];
    let inspection = admin.inspect(&[beside(&few, &one), beside(&one, &few)].concat(), LIMIT).await.unwrap();
    assert_eq!((inspection.is_fine(), inspection.too_few), (false, vec![(few, 2, 4)]));
    assert!(admin.inspect(&[Needed { topic: one, retention: Some(hour), beside: None }], LIMIT).await.unwrap().is_fine());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_reads_to_the_end_it_found() {
    let (topic, settings) = (create("tail", 3, None).await, settings(&[]));
    let collect = async |start, keep: fn(&Incoming) -> bool| {
        let mut tail = read(&settings, &topic, start, LIMIT, keep).unwrap();
        let mut values = BTreeSet::new();
        while let Some(record) = within("records", tail.recv()).await {
            assert!(values.insert(record.unwrap().value.unwrap()));
        }
        values
    };
    assert!(collect(Start::Beginning, |_| true).await.is_empty());
    fill(&settings, &topic, 1_000).await;
    assert_eq!(collect(Start::Beginning, |_| true).await.len(), 1_000);
    assert_eq!(collect(Start::Last(10), |_| true).await.len(), 30);
    assert_eq!(collect(Start::Beginning, |record| record.value.as_deref() == Some(b"77")).await.len(), 1);
    let mut missing = read(&settings, &Topic::from("no-such-topic"), Start::Beginning, LIMIT, |_| true).unwrap();
    let error = within("the refusal", missing.recv()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("no-such-topic"), "{error}");
    let mut nowhere = read(&settings_at("127.0.0.1:1", &[]), &topic, Start::Beginning, Duration::from_millis(200), |_| true).unwrap();
    assert!(within("the refusal", nowhere.recv()).await.unwrap().unwrap_err().is_unreachable());
}

/// What a watchdog goes by: a stalled partition is told from one whose end no record reaches.
#[tokio::test(flavor = "multi_thread")]
async fn readings_pass_the_marks_of_transactions_and_say_what_is_held() {
    use rdkafka::producer::Producer as _;

    let topic = create("transactions", 1, None).await;
    let mut properties = rdkafka::ClientConfig::new();
    properties.set("bootstrap.servers", brokers()).set("transactional.id", fresh("writer"));
    let writer: rdkafka::producer::BaseProducer = properties.create().unwrap();
    writer.init_transactions(LIMIT).unwrap();
    let write = |value: &str, keep: bool| {
        writer.begin_transaction().unwrap();
        writer.send(rdkafka::producer::BaseRecord::<(), str>::to(topic.as_str()).payload(value)).unwrap();
        writer.flush(LIMIT).unwrap();
        if keep { writer.commit_transaction(LIMIT) } else { writer.abort_transaction(LIMIT) }.unwrap();
    };
    write("kept", true);
    write("taken back", false);

    let (group, budget) = (fresh("readers"), Budget::new(2, 1 << 20));
    let options = options(&group, &[&topic], &budget);
    let mut subscription = KafkaSubscription::start(&settings(&[]), options, Monotonic::new()).unwrap();
    let health = subscription.health();
    assert_eq!(next_records(&mut subscription, 1).await[0].source.offset, Offset(0));
    let sampler = LagSampler::connect(&settings(&[]), &group, std::slice::from_ref(&topic)).unwrap();
    let end = sampler.sample(LIMIT).await.unwrap()[0].end;
    assert_eq!(end, Offset(4), "two records, and a mark behind each");
    let reading = || health.readings().partitions.first().cloned();
    until("the reading past the last mark", || reading().is_some_and(|reading| reading.fetch == Some(end))).await;
    let found = reading().unwrap();
    assert!((found.queued, found.held) == (0, false) && found.position.is_some(), "{found:?}");

    // While a transaction is open nothing behind its first record can be had, and the end that is told is there.
    writer.begin_transaction().unwrap();
    writer.send(rdkafka::producer::BaseRecord::<(), str>::to(topic.as_str()).payload("kept too")).unwrap();
    writer.flush(LIMIT).unwrap();
    assert_eq!(sampler.sample(LIMIT).await.unwrap()[0].end, end);

    // The budget is full with the second record.
    writer.commit_transaction(LIMIT).unwrap();
    next_records(&mut subscription, 1).await;
    until("the partition held", || reading().is_some_and(|reading| reading.held)).await;
    within("the close", subscription.close(Vec::new())).await;
}
