//! Transactions of the Kafka edge against a real broker: `KAFKA_BROKERS=127.0.0.1:9092 cargo test --test edge_transactions`.
//!
//! Each test makes topics, groups and transactional ids of its own.

use std::future::Future;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fusebox::config;
use fusebox::edge::kafka::{Ahead, ConsumerOptions, Created, KafkaSubscription, LagSampler, NewTopic, Producer, Start, TopicAdmin, read};
use fusebox::event::{Headers, Incoming, Offset, Record, Topic, UnixMillis};
use fusebox::machine::time::Tick;
use fusebox::pipeline::ports::{Aborted, Batch, Budget, Clock, CommitPoint, Intake, PublishError, Publisher as _, Subscription, Token};
use rdkafka::mocking::{MockCluster, MockCoordinator};

/// Longer than anything here takes; only a failure waits for it.
const LIMIT: Duration = Duration::from_secs(60);

/// Transactions that a broker may take back for the sake of one before them.
const MOST_ABORTS: u32 = 5;

fn settings_at(brokers: &str, properties: &[(&str, &str)]) -> config::Kafka {
    config::Kafka {
        brokers: brokers.to_owned(),
        group: fresh("tail"),
        properties: properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect(),
    }
}

fn settings(properties: &[(&str, &str)]) -> config::Kafka {
    let brokers = std::env::var("KAFKA_BROKERS");
    settings_at(
        &brokers.expect("KAFKA_BROKERS is not set: these tests need a Kafka broker, as in KAFKA_BROKERS=127.0.0.1:9092"),
        properties,
    )
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

/// A clock that can be held: the poll thread reads it once a round, and stands still.
#[derive(Clone)]
struct Held(Instant, Arc<(Mutex<bool>, Condvar)>);

impl Held {
    fn new() -> Self {
        Self(Instant::now(), Arc::default())
    }
    fn set(&self, held: bool) {
        *self.1.0.lock().unwrap() = held;
        self.1.1.notify_all();
    }
}

impl Clock for Held {
    fn now(&self) -> Tick {
        drop(self.1.1.wait_while(self.1.0.lock().unwrap(), |held| *held).unwrap());
        Tick(self.0.elapsed().as_millis().try_into().unwrap())
    }
    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }
    fn instant(&self, _at: Tick) -> Option<tokio::time::Instant> {
        None
    }
}

fn options(group: &str, topic: &Topic, id: &str) -> ConsumerOptions {
    ConsumerOptions {
        seat: None,
        group: group.to_owned(),
        topics: vec![topic.clone()],
        client_id: "test".into(),
        budget: Budget::new(100_000, 1 << 30),
        ahead: Ahead { records: 10_000, bytes: 4 << 20 },
        max_record_bytes: 1 << 20,
        revoke_wait: None,
        on_commit: Arc::new(|settled| eprintln!("commit: {settled:?}")),
        transactional_id: Some(id.to_owned()),
    }
}

async fn create(name: &str, max_message_bytes: Option<u64>) -> Topic {
    let topic = Topic::from(fresh(name).as_str());
    // The records' fixed time is older than a broker's default retention, which would delete them within minutes.
    let retention = Some(Duration::from_secs(100 * 365 * 24 * 3600));
    let new = NewTopic { name: topic.clone(), partitions: 1, replication: Some(1), retention, max_message_bytes };
    let created = TopicAdmin::connect(&settings(&[])).unwrap().create(&[new], false, LIMIT).await.unwrap();
    assert_eq!(created, [Created::Created]);
    topic
}

fn record(topic: &Topic, value: impl Into<Bytes>) -> Record {
    Record {
        topic: topic.clone(),
        partition: None,
        key: None,
        value: Some(value.into()),
        headers: Headers::new(),
        timestamp: UnixMillis(1_793_739_845_678),
    }
}

/// Publishes so many records and waits for Kafka to have them.
async fn fill(settings: &config::Kafka, topic: &Topic, count: u64) {
    let producer = Producer::connect(settings).unwrap();
    let (publisher, mut acks) = producer.handle();
    for number in 0..count {
        publisher.publish(&record(topic, number.to_string()), Token(number)).unwrap();
    }
    for _ in 0..count {
        assert_eq!(within("an acknowledgement", acks.recv()).await.unwrap().result.map(drop), Ok(()));
    }
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
    all
}

/// A batch that commits up to and with this record, and publishes these values.
fn batch(to: &Topic, values: impl IntoIterator<Item = Vec<u8>>, last: &Incoming) -> Batch {
    let records = values.into_iter().enumerate().map(|(number, value)| (Token(number as u64), record(to, value)));
    let next = Offset(last.source.offset.0 + 1);
    Batch { records: records.collect(), points: vec![CommitPoint { partition: last.source.topic_partition(), next, ahead: "kept".into() }] }
}

async fn transacted(subscription: &mut KafkaSubscription, batch: Batch) -> Result<(), Aborted> {
    subscription.transact(batch);
    loop {
        match within("an answer", subscription.next()).await {
            Some(Intake::Transacted(answer)) => return answer.map(drop),
            Some(Intake::Revoked(_, give_up)) => give_up(Vec::new()),
            Some(Intake::Records(_) | Intake::Assigned(_) | Intake::Lost(_)) => {}
            None => panic!("the consumer has ended: {:?}", subscription.health().fatal()),
        }
    }
}

/// What a reader of what is committed sees.
async fn seen(settings: &config::Kafka, topic: &Topic) -> Vec<Vec<u8>> {
    let mut tail = read(settings, topic, Start::Beginning, LIMIT, |_| true).unwrap();
    let mut values = Vec::new();
    while let Some(record) = within("a record, or the end", tail.recv()).await {
        values.push(record.unwrap().value.unwrap().to_vec());
    }
    values
}

async fn committed(settings: &config::Kafka, group: &str, topic: &Topic) -> Option<i64> {
    let sampler = LagSampler::connect(settings, group, std::slice::from_ref(topic)).unwrap();
    sampler.sample(LIMIT).await.unwrap()[0].committed.map(|offset| offset.0)
}

/// Waits until this is what is seen and committed: a transaction's marks reach the partitions a moment after it is known to be committed.
async fn is_there(settings: &config::Kafka, to: &Topic, values: &[&[u8]], group: &str, from: &Topic, next: i64) {
    within("all of what was committed is there", async {
        while seen(settings, to).await != values || committed(settings, group, from).await != Some(next) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_batch_is_there_or_nothing() {
    all_or_nothing("classic").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_batch_is_there_or_nothing_with_the_consumer_protocol() {
    all_or_nothing("consumer").await;
}

async fn all_or_nothing(protocol: &str) {
    let (from, to, group) = (create("from", None).await, create("to", Some(200_000)).await, fresh("g"));
    let settings = settings(&[("compression.type", "none"), ("group.protocol", protocol)]);
    fill(&settings, &from, 10).await;
    let mut subscription = KafkaSubscription::start(&settings, options(&group, &from, &fresh("id")), Held::new()).unwrap();
    let records = next_records(&mut subscription, 10).await;
    assert_eq!(transacted(&mut subscription, batch(&to, [vec![1], vec![2]], &records[3])).await, Ok(()));
    is_there(&settings, &to, &[&[1], &[2]], &group, &from, 4).await;

    // One that the topic does not take, and one that no topic takes, are named; the rest is not there either.
    for size in [300_000, 101 << 20] {
        let refused = vec![(Token(1), PublishError::TooLarge)];
        let too_large = batch(&to, [vec![3], vec![0; size], vec![4]], &records[6]);
        assert_eq!(transacted(&mut subscription, too_large).await, Err(Aborted { began: true, refused }));
        assert_eq!((seen(&settings, &to).await.len(), committed(&settings, &group, &from).await), (2, Some(4)), "nothing of it is seen");
    }
    // The next is not held up by it, also one that only commits. The client may have lost count of its records with the one that the broker
    // refused: then a broker refuses the next, and that is taken back too, as a loop would have it.
    let mut tries = 0;
    while transacted(&mut subscription, batch(&to, [vec![5]], &records[6])).await.is_err() {
        assert_eq!((seen(&settings, &to).await.len(), committed(&settings, &group, &from).await), (2, Some(4)), "nothing of it is seen");
        tries += 1;
        assert!(tries < MOST_ABORTS, "the next is held up");
    }
    assert_eq!(transacted(&mut subscription, batch(&to, [], &records[9])).await, Ok(()));
    is_there(&settings, &to, &[&[1], &[2], &[5]], &group, &from, 10).await;

    // What stands beside the offset comes back with it.
    within("closing", subscription.close(Vec::new())).await;
    let mut next = KafkaSubscription::start(&settings, options(&group, &from, &fresh("id")), Held::new()).unwrap();
    let Some(Intake::Assigned(assignments)) = within("an assignment", next.next()).await else { panic!("no assignment") };
    assert_eq!(assignments[0].committed, batch(&to, [], &records[9]).points.pop());
    within("closing", next.close(Vec::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_out_of_its_group_commits_nothing() {
    out_of_its_group(&[("session.timeout.ms", "6000"), ("max.poll.interval.ms", "6000")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_out_of_its_group_commits_nothing_with_the_consumer_protocol() {
    out_of_its_group(&[("group.protocol", "consumer"), ("max.poll.interval.ms", "6000")]).await;
}

async fn out_of_its_group(properties: &[(&str, &str)]) {
    let (from, to, group) = (create("from", None).await, create("to", None).await, fresh("g"));
    let settings = settings(properties);
    fill(&settings, &from, 20).await;
    let clock = Held::new();
    let mut first = KafkaSubscription::start(&settings, options(&group, &from, &fresh("id")), clock.clone()).unwrap();
    let records = next_records(&mut first, 20).await;
    assert_eq!(transacted(&mut first, batch(&to, [vec![1]], &records[4])).await, Ok(()));
    // Silent for longer than `max.poll.interval.ms`, the first is out, and the second gets the partition.
    clock.set(true);
    let mut second = KafkaSubscription::start(&settings, options(&group, &from, &fresh("id")), Held::new()).unwrap();
    let again = next_records(&mut second, 15).await;
    assert_eq!(again[0].source, records[5].source);
    // The first has heard of nothing, and its thread for transactions runs.
    let refused = |answer: Result<(), Aborted>| answer.map_err(|aborted| aborted.refused);
    let nothing = Err(Vec::new());
    assert_eq!(refused(transacted(&mut first, batch(&to, [vec![2]], &records[19])).await), nothing);
    assert_eq!(transacted(&mut second, batch(&to, [vec![3]], &again[4])).await, Ok(()));
    assert_eq!(refused(transacted(&mut first, batch(&to, [vec![4]], &records[19])).await), nothing);
    // Neither when it has heard of it, as long as the partition has not come back.
    clock.set(false);
    while !matches!(within("the loss", first.next()).await, Some(Intake::Lost(_))) {}
    assert_eq!(refused(transacted(&mut first, batch(&to, [vec![5]], &records[19])).await), nothing);
    is_there(&settings, &to, &[&[1], &[3]], &group, &from, 10).await;
    within("closing", first.close(Vec::new())).await;
    within("closing", second.close(Vec::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_of_the_same_id_takes_its_place() {
    let (one, other, to, id) = (create("one", None).await, create("other", None).await, create("to", None).await, fresh("id"));
    let settings = settings(&[]);
    fill(&settings, &one, 2).await;
    fill(&settings, &other, 1).await;
    let mut first = KafkaSubscription::start(&settings, options(&fresh("g"), &one, &id), Held::new()).unwrap();
    let records = next_records(&mut first, 2).await;
    assert_eq!(transacted(&mut first, batch(&to, [vec![1]], &records[0])).await, Ok(()));
    let mut second = KafkaSubscription::start(&settings, options(&fresh("g"), &other, &id), Held::new()).unwrap();
    let others = next_records(&mut second, 1).await;
    assert_eq!(transacted(&mut second, batch(&to, [vec![2]], &others[0])).await, Ok(()));
    // The first can commit nothing any more; what helps is a new process.
    first.transact(batch(&to, [vec![3]], &records[1]));
    while within("the end", first.next()).await.is_some() {}
    assert!(first.health().fatal().is_some_and(|why| why.contains("transactions")), "{:?}", first.health().fatal());
    within("both are there", async { while seen(&settings, &to).await != [[1], [2]] {} }).await;
    within("closing", second.close(Vec::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_acknowledgements_are_waited_for() {
    let cluster = MockCluster::new(2).unwrap();
    for (topic, leader) in [("from", 1), ("to", 2)] {
        cluster.create_topic(topic, 1, 1).unwrap();
        cluster.partition_leader(topic, 0, Some(leader)).unwrap();
    }
    for coordinator in [MockCoordinator::Transaction("id".to_owned()), MockCoordinator::Group("g".to_owned())] {
        cluster.coordinator(coordinator, 1).unwrap();
    }
    let settings = settings_at(&cluster.bootstrap_servers(), &[]);
    let (from, to) = (Topic::from("from"), Topic::from("to"));
    fill(&settings, &from, 1).await;
    let mut subscription = KafkaSubscription::start(&settings, options("g", &from, "id"), Held::new()).unwrap();
    let records = next_records(&mut subscription, 1).await;
    assert_eq!(transacted(&mut subscription, batch(&to, [vec![1]], &records[0])).await, Ok(()));
    // Longer than one call of the client may block.
    cluster.broker_round_trip_time(2, Duration::from_secs(3)).unwrap();
    assert_eq!(transacted(&mut subscription, batch(&to, [vec![2]], &records[0])).await, Ok(()));
    cluster.broker_round_trip_time(2, Duration::ZERO).unwrap();
    within("closing", subscription.close(Vec::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_and_comes_back_is_waited_for() {
    let cluster = MockCluster::new(1).unwrap();
    for topic in ["from", "to"] {
        cluster.create_topic(topic, 1, 1).unwrap();
    }
    let settings = settings_at(&cluster.bootstrap_servers(), &[("reconnect.backoff.max.ms", "100")]);
    let (from, to) = (Topic::from("from"), Topic::from("to"));
    fill(&settings, &from, 5).await;
    let mut subscription = KafkaSubscription::start(&settings, options("g", &from, "id"), Held::new()).unwrap();
    let records = next_records(&mut subscription, 5).await;
    assert_eq!(transacted(&mut subscription, batch(&to, [vec![1]], &records[0])).await, Ok(()));
    cluster.broker_down(1).unwrap();
    subscription.transact(batch(&to, [vec![2]], &records[4]));
    let early = tokio::time::timeout(Duration::from_secs(3), async {
        loop {
            match subscription.next().await {
                Some(Intake::Transacted(answer)) => return answer,
                Some(_) => {}
                None => panic!("the consumer has ended: {:?}", subscription.health().fatal()),
            }
        }
    });
    // It may have been given up meanwhile, and is then sent again; what it may not be is both.
    let answer = match early.await {
        Ok(answer) => {
            cluster.broker_up(1).unwrap();
            answer
        }
        Err(_) => {
            cluster.broker_up(1).unwrap();
            loop {
                if let Some(Intake::Transacted(answer)) = within("an answer", subscription.next()).await {
                    break answer;
                }
            }
        }
    };
    if answer.is_err() {
        assert_eq!(transacted(&mut subscription, batch(&to, [vec![2]], &records[4])).await, Ok(()));
    }
    assert_eq!(subscription.health().fatal(), None);
    within("closing", subscription.close(Vec::new())).await;
}
